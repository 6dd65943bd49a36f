/*
 * test_frame_errors.c - what is wrong with frames, and what may look so but is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "store/frame.h"

enum { N_TABLES = 2, KEY_MAX = 16, VALUE_MAX = 40, MEMBERS_MAX = 256 };

static const struct frame_limits limits[N_TABLES] = {
	{ KEY_MAX, VALUE_MAX },
	{ 4, 0 },
};

static const uint8_t text[64] = "the keys and values of these tests are cut out of this";
static const int64_t delta_min_max[3] = { -3, INT64_MIN, INT64_MAX };

/* Validates a frame in memory of just its size, for the address sanitizer. */
static int
validate(struct frame *f)
{
	size_t bytes = (size_t)(f->at - f->start);
	struct frame_shape shape;
	struct frame_head head;
	struct frame_cursor c;
	uint8_t *copy = malloc(bytes);
	int err;

	frame_finish(f, 6, 7, 8, 9);
	memcpy(copy, f->start, bytes);
	err = frame_open(copy, bytes, &head, &c);
	if (err == 0)
		err = frame_validate(c, limits, N_TABLES, &shape);
	free(copy);
	return err;
}

static void
empty(struct frame *f)
{
	(void)f;
}

static void
no_such_table(struct frame *f)
{
	frame_read(f, N_TABLES, text, 4, true);
}

static void
no_key(struct frame *f)
{
	frame_read(f, 0, text, 0, true);
}

static void
key_of_another_table(struct frame *f)
{
	frame_read(f, 1, text, 5, true);
}

static void
value_too_long(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, VALUE_MAX + 1, 0, 0);
	frame_group_end(group, 1);
}

static void
put_outside_a_group(struct frame *f)
{
	frame_put(f, 0, text, 4, 1, text, 4, 0, 0);
}

static void
check_outside_a_group(struct frame *f)
{
	frame_check(f, FRAME_CHECK, 0, text, 4, 1);
}

static void
delete_outside_a_group(struct frame *f)
{
	frame_delete(f, 0, text, 4);
}

static void
empty_group(struct frame *f)
{
	frame_group(f, 1);
}

static void
group_with_a_read(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_read(f, 0, text, 4, true);
	frame_group_end(group, 1);
}

static void
group_in_a_group(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_group_end(frame_group(f, 2), 1);
	frame_delete(f, 0, text, 4);
	frame_group_end(group, 2);
}

static void
group_cut_short(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_delete(f, 0, text, 4);
	frame_group_end(group, 2);
}

static void
group_without_version(struct frame *f)
{
	uint8_t *group = frame_group(f, 0);

	frame_delete(f, 0, text, 4);
	frame_group_end(group, 1);
}

static void
group_too_long(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	for (unsigned int i = 0; i <= FRAME_MAX_GROUP_OPS; i++)
		frame_delete(f, 0, text, 4);
	frame_group_end(group, FRAME_MAX_GROUP_OPS + 1);
}

static void
longest_group(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	for (unsigned int i = 0; i < FRAME_MAX_GROUP_OPS; i++)
		frame_delete(f, 0, text, 4);
	frame_group_end(group, FRAME_MAX_GROUP_OPS);
}

static void
unknown_kind(struct frame *f)
{
	frame_read(f, 0, text, 4, true);
	f->at[-8] = FRAME_GIVE + 1;
}

static void
kind_zero(struct frame *f)
{
	frame_read(f, 0, text, 4, true);
	f->at[-8] = 0;
}

static void
read_with_a_flag(struct frame *f)
{
	frame_read(f, 0, text, 4, true);
	f->at[-5] = 1;
}

static void
check_with_a_flag(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_check(f, FRAME_CHECK, 0, text, 4, 1);
	group[16 + 7] = 1;
	frame_group_end(group, 1);
}

static void
put_with_a_long_idle_time(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, 4, 0, UINT32_MAX);
	group[16 + 12] = 1;
	frame_group_end(group, 1);
}

static void
put_with_a_flag(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, 4, 0, UINT32_MAX);
	group[16 + 7] = 1;
	frame_group_end(group, 1);
}

static void
put_with_a_high_rank(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, 4, FRAME_RANKS, 0);
	frame_group_end(group, 1);
}

static void
touch_in_a_group(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_key_op(f, FRAME_TOUCH, 0, text, 4);
	frame_group_end(group, 1);
}

static void
pick_in_a_group(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_pick(f, 0, text, 4, 10);
	frame_group_end(group, 1);
}

static void
add_outside_a_group(struct frame *f)
{
	frame_add(f, 0, text, 4, 1, 8, 0, 0, delta_min_max);
}

static void
take_outside_a_group(struct frame *f)
{
	frame_take(f, 0, text, 4, 1, 10, 1);
}

static void
give_outside_a_group(struct frame *f)
{
	frame_give(f, 0, text, 4, 0, 1);
}

static void
settle_outside_a_group(struct frame *f)
{
	frame_check(f, FRAME_SETTLE, 0, text, 4, 1);
}

static void
pick_of_none(struct frame *f)
{
	frame_pick(f, 0, text, 4, 0);
}

static void
pick_of_too_many(struct frame *f)
{
	frame_pick(f, 0, text, 4, MEMBERS_MAX + 1);
}

static void
pick_with_a_flag(struct frame *f)
{
	frame_pick(f, 0, text, 4, 10);
	f->at[-13] = 1;
}

static void
key_behind_the_end(struct frame *f)
{
	frame_read(f, 0, text, 4, true);
	f->at[-6] = 5;
}

static void
value_behind_the_end(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, 8, 0, 0);
	group[16 + 4] = 9;
	frame_group_end(group, 1);
}

/* --- Operations that go together, and such that do not -------------------------------
 * Each case is a group of up to three of them. */
struct op {
	enum frame_op_kind kind;
	uint8_t key;				/* Where it starts in 'text'. */
	uint32_t a, b;				/* ADD: bytes, offset; TAKE: n, member */
	int64_t min, max;
};

static void
write_op(struct frame *f, const struct op *op)
{
	const int64_t numbers[3] = { 1, op->min, op->max };
	const uint8_t *key = text + op->key;

	switch (op->kind) {
	case FRAME_CHECK:
	case FRAME_SETTLE:
		frame_check(f, op->kind, 0, key, 4, 1);
		break;
	case FRAME_PUT:
		frame_put(f, 0, key, 4, 1, text, 8, 0, 0);
		break;
	case FRAME_DELETE:
		frame_delete(f, 0, key, 4);
		break;
	case FRAME_ADD:
		frame_add(f, 0, key, 4, 1, (uint16_t)op->a, (uint16_t)op->b, 0, numbers);
		break;
	case FRAME_TAKE:
		frame_take(f, 0, key, 4, 1, op->a, op->b);
		break;
	default:
		frame_give(f, 0, key, 4, 0, op->b);
	}
}

#define CHECK(key) { FRAME_CHECK, key, 0, 0, 0, 0 }
#define SETTLE(key) { FRAME_SETTLE, key, 0, 0, 0, 0 }
#define PUT(key) { FRAME_PUT, key, 0, 0, 0, 0 }
#define DELETE(key) { FRAME_DELETE, key, 0, 0, 0, 0 }
#define ADD(key, bytes, offset) { FRAME_ADD, key, bytes, offset, 0, 9 }
#define TAKE(key, n_members, member) { FRAME_TAKE, key, n_members, member, 0, 0 }
#define GIVE(key, member) { FRAME_GIVE, key, 0, member, 0, 0 }

static const struct {
	const char *name;
	unsigned int n;
	struct op op[3];
	int want;
} groups[] = {
	{ "an add is alone", 1, { ADD(0, 16, 8) }, 0 },
	{ "a field lies inside the value", 1, { ADD(0, 16, 9) }, -EBADMSG },
	{ "a field far outside does not", 1, { ADD(0, 16, 65535) }, -EBADMSG },
	{ "a value has room for a field", 1, { ADD(0, 7, 0) }, -EBADMSG },
	{ "a counter's value keeps to the limit", 1, { ADD(0, 41, 0) }, -EBADMSG },
	{ "bounds may be one number", 1, { { FRAME_ADD, 0, 8, 0, 5, 5 } }, 0 },
	{ "bounds enclose something", 1, { { FRAME_ADD, 0, 8, 0, 5, 4 } }, -EBADMSG },
	{ "two fields of a value", 2, { ADD(0, 16, 0), ADD(0, 16, 8) }, 0 },
	{ "not the same twice", 2, { ADD(0, 16, 0), ADD(0, 16, 0) }, -EBADMSG },
	{ "nor two that overlap", 2, { ADD(0, 16, 0), ADD(0, 16, 7) }, -EBADMSG },
	{ "in any order", 2, { ADD(0, 16, 7), ADD(0, 16, 0) }, -EBADMSG },
	{ "nor of two lengths", 2, { ADD(0, 16, 0), ADD(0, 24, 8) }, -EBADMSG },
	{ "the same field of two keys", 2, { ADD(0, 16, 0), ADD(1, 24, 0) }, 0 },
	{ "a check goes with all", 3, { CHECK(0), ADD(0, 16, 0), CHECK(0) }, 0 },
	{ "no put of a counter", 2, { PUT(0), ADD(0, 16, 0) }, -EBADMSG },
	{ "nor after it", 3, { ADD(0, 16, 0), CHECK(0), PUT(0) }, -EBADMSG },
	{ "but of another key", 2, { PUT(1), ADD(0, 16, 0) }, 0 },
	{ "no delete of a counter", 2, { DELETE(0), ADD(0, 16, 0) }, -EBADMSG },
	{ "no settle of a counter", 2, { SETTLE(0), ADD(0, 16, 0) }, -EBADMSG },
	{ "a put may follow a settle", 2, { SETTLE(0), PUT(0) }, 0 },
	{ "a member is below the size", 1, { TAKE(0, 10, 9) }, 0 },
	{ "not at it", 1, { TAKE(0, 10, 10) }, -EBADMSG },
	{ "a range has members", 1, { TAKE(0, 0, 0) }, -EBADMSG },
	{ "a range fits the table", 1, { TAKE(0, MEMBERS_MAX + 1, 0) }, -EBADMSG },
	{ "not by overflow", 1, { TAKE(0, UINT32_MAX, 0) }, -EBADMSG },
	{ "members of any range", 1, { GIVE(0, FRAME_MAX_MEMBERS - 1) }, 0 },
	{ "but no more", 1, { GIVE(0, FRAME_MAX_MEMBERS) }, -EBADMSG },
	{ "take one, give another", 2, { TAKE(0, 10, 1), GIVE(0, 2) }, 0 },
	{ "not the same member", 2, { TAKE(0, 10, 1), GIVE(0, 1) }, -EBADMSG },
	{ "nor twice", 3, { TAKE(0, 10, 1), TAKE(1, 9, 1), TAKE(0, 9, 1) }, -EBADMSG },
	{ "no range is a counter", 2, { TAKE(0, 10, 1), ADD(0, 16, 8) }, -EBADMSG },
	{ "no put of a range", 2, { PUT(0), TAKE(0, 10, 1) }, -EBADMSG },
	{ "no delete of a range", 2, { GIVE(0, 1), DELETE(0) }, -EBADMSG },
	{ "no settle of a range", 2, { GIVE(0, 1), SETTLE(0) }, -EBADMSG },
};

static void
operations_of_groups(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		uint64_t buffer[256];
		struct frame f;
		uint8_t *group;

		frame_init(&f, buffer, sizeof(buffer));
		group = frame_group(&f, 1);
		for (unsigned int n = 0; n < groups[i].n; n++)
			write_op(&f, &groups[i].op[n]);
		frame_group_end(group, (uint8_t)groups[i].n);
		if (validate(&f) != groups[i].want)
			fail_msg("not so: %s", groups[i].name);
	}
}

static const struct {
	const char *name;
	void (*write)(struct frame *f);
	int want;
} cases[] = {
	{ "an empty frame is well formed", empty, 0 },
	{ "a group of 32 is well formed", longest_group, 0 },
	{ "there is no such table", no_such_table, -EBADMSG },
	{ "a key has bytes", no_key, -EBADMSG },
	{ "a key keeps to the limit of its table", key_of_another_table, -EBADMSG },
	{ "a value keeps to the limit of its table", value_too_long, -EBADMSG },
	{ "a put is in a group", put_outside_a_group, -EBADMSG },
	{ "a check is in a group", check_outside_a_group, -EBADMSG },
	{ "a delete is in a group", delete_outside_a_group, -EBADMSG },
	{ "a group has members", empty_group, -EBADMSG },
	{ "a read is in no group", group_with_a_read, -EBADMSG },
	{ "a group is in no group", group_in_a_group, -EBADMSG },
	{ "a group has all its members", group_cut_short, -EBADMSG },
	{ "a group has a version", group_without_version, -EBADMSG },
	{ "a group has up to 32 members", group_too_long, -EBADMSG },
	{ "an unknown kind is refused", unknown_kind, -EBADMSG },
	{ "kind 0 is refused", kind_zero, -EBADMSG },
	{ "a read has no flags", read_with_a_flag, -EBADMSG },
	{ "a check has no flags", check_with_a_flag, -EBADMSG },
	{ "a put has no flags", put_with_a_flag, -EBADMSG },
	{ "a put has one of two ranks", put_with_a_high_rank, -EBADMSG },
	{ "a touch is in no group", touch_in_a_group, -EBADMSG },
	{ "a pick is in no group", pick_in_a_group, -EBADMSG },
	{ "a pick has no flags", pick_with_a_flag, -EBADMSG },
	{ "a pick is of some", pick_of_none, -EBADMSG },
	{ "a pick is of a range that fits", pick_of_too_many, -EBADMSG },
	{ "an add is in a group", add_outside_a_group, -EBADMSG },
	{ "a take is in a group", take_outside_a_group, -EBADMSG },
	{ "a give is in a group", give_outside_a_group, -EBADMSG },
	{ "a settle is in a group", settle_outside_a_group, -EBADMSG },
	{ "an idle time has 32 bits", put_with_a_long_idle_time, -EBADMSG },
	{ "a key ends before the frame does", key_behind_the_end, -EBADMSG },
	{ "a value ends before the frame does", value_behind_the_end, -EBADMSG },
};

static void
validation(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t buffer[256];
		struct frame f;

		frame_init(&f, buffer, sizeof(buffer));
		cases[i].write(&f);
		if (validate(&f) != cases[i].want)
			fail_msg("not so: %s", cases[i].name);
	}
}

static void
picks_are_bounded(void **state)
{
	static uint64_t buffer[FRAME_MAX_PICKS * 2 + 16];
	struct frame f;

	(void)state;
	frame_init(&f, buffer, sizeof(buffer));
	for (unsigned int i = 0; i < FRAME_MAX_PICKS; i++)
		assert_non_null(frame_pick(&f, 0, text, 4, 10));
	assert_int_equal(validate(&f), 0);
	assert_non_null(frame_pick(&f, 0, text, 4, 10));
	assert_int_equal(validate(&f), -EBADMSG);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(validation),
		cmocka_unit_test(picks_are_bounded),
		cmocka_unit_test(operations_of_groups),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
