/*
 * test_frame.c - frames and replies: what is written is read back, what is wrong is
 * refused, and no byte behind the end is looked at (buffers here are exactly as long
 * as what they hold, for the address sanitizer).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "store/frame.h"

enum { N_TABLES = 2, KEY_MAX = 16, VALUE_MAX = 40 };

static const struct frame_limits limits[N_TABLES] = {
	{ KEY_MAX, VALUE_MAX },
	{ 4, 0 },
};

static const uint8_t text[64] = "the keys and values of these tests are cut out of this";

/* Finishes 'f' and copies it to memory of just its size. */
static uint8_t *
exact(struct frame *f, size_t *bytes)
{
	uint8_t *copy;

	frame_finish(f, 7, 8, 9);
	*bytes = (size_t)(f->at - f->start);
	copy = malloc(*bytes);
	memcpy(copy, f->start, *bytes);
	return copy;
}

static int
open_and_validate(const uint8_t *frame, size_t bytes, struct frame_shape *shape)
{
	struct frame_head head;
	struct frame_cursor c;
	int err = frame_open(frame, bytes, &head, &c);

	return err != 0 ? err : frame_validate(c, limits, N_TABLES, shape);
}

static void
write_all_kinds(struct frame *f, unsigned int key_bytes, unsigned int value_bytes)
{
	uint8_t *group;

	frame_read(f, 0, text, (uint8_t)key_bytes, true);
	frame_read(f, 0, text + 1, (uint8_t)key_bytes, false);
	group = frame_group(f, 77);
	frame_check(f, 0, text + 2, (uint8_t)key_bytes, 5);
	frame_put(f, 0, text + 3, (uint8_t)key_bytes, 3, text + 4, (uint16_t)value_bytes,
		  1234);
	frame_delete(f, 1, text + 5, 4);
	frame_group_end(group, 3);
}

static void
expect_key(const struct frame_op *op, enum frame_op_kind kind, uint8_t table,
	   const uint8_t *key, unsigned int key_bytes)
{
	assert_int_equal(op->kind, kind);
	assert_int_equal(op->table, table);
	assert_int_equal(op->key_bytes, key_bytes);
	assert_memory_equal(op->key, key, key_bytes);
}

static void
check_all_kinds(struct frame_cursor c, unsigned int key_bytes, unsigned int value_bytes)
{
	struct frame_op op;

	assert_int_equal(frame_next(&c, &op), 1);
	expect_key(&op, FRAME_READ, 0, text, key_bytes);
	assert_int_equal(frame_next(&c, &op), 1);
	expect_key(&op, FRAME_PEEK, 0, text + 1, key_bytes);
	assert_int_equal(frame_next(&c, &op), 1);
	assert_int_equal(op.kind, FRAME_GROUP);
	assert_int_equal(op.n_ops, 3);
	assert_int_equal(op.version, 77);
	assert_int_equal(frame_next(&c, &op), 1);
	expect_key(&op, FRAME_CHECK, 0, text + 2, key_bytes);
	assert_int_equal(op.version, 5);
	assert_int_equal(frame_next(&c, &op), 1);
	expect_key(&op, FRAME_PUT, 0, text + 3, key_bytes);
	assert_int_equal(op.format, 3);
	assert_int_equal(op.idle_ms, 1234);
	assert_int_equal(op.value_bytes, value_bytes);
	assert_memory_equal(op.value, text + 4, value_bytes);
	assert_int_equal(frame_next(&c, &op), 1);
	expect_key(&op, FRAME_DELETE, 1, text + 5, 4);
	assert_int_equal(frame_next(&c, &op), 0);
}

static void
what_is_written_is_read_back(void **state)
{
	(void)state;
	for (unsigned int key_bytes = 1; key_bytes <= KEY_MAX; key_bytes++) {
		for (unsigned int n = 0; n <= VALUE_MAX; n++) {
			uint64_t buffer[128];
			struct frame_shape shape;
			struct frame_head head;
			struct frame_cursor c;
			struct frame f;
			size_t bytes;
			uint8_t *frame;

			frame_init(&f, buffer, sizeof(buffer));
			write_all_kinds(&f, key_bytes, n);
			frame = exact(&f, &bytes);
			assert_int_equal(frame_open(frame, bytes, &head, &c), 0);
			assert_int_equal(head.generation, 7);
			assert_int_equal(head.client, 8);
			assert_int_equal(head.id, 9);
			check_all_kinds(c, key_bytes, n);
			assert_int_equal(frame_validate(c, limits, N_TABLES, &shape), 0);
			assert_int_equal(shape.n_answers, 3);
			assert_int_equal(shape.n_groups, 1);
			assert_int_equal(shape.max_reply_bytes,
					 FRAME_REPLY_HEAD_BYTES + 2 * (16 + VALUE_MAX) +
						 8);
			free(frame);
		}
	}
}

static void
writers_write_nothing_without_room(void **state)
{
	uint64_t buffer[128];
	struct frame f;

	(void)state;
	for (size_t room = 0; room < 56; room++) {
		frame_init(&f, buffer, FRAME_HEAD_BYTES + room);
		assert_true((frame_put(&f, 0, text, 13, 1, text, 20, 0) == NULL) ==
			    (room < 16 + 16 + 24));
		assert_true(f.at <= f.end);
		frame_init(&f, buffer, FRAME_HEAD_BYTES + room);
		assert_true(frame_check(&f, 0, text, 13, 1) == (room >= 32));
		frame_init(&f, buffer, FRAME_HEAD_BYTES + room);
		assert_true((frame_read(&f, 0, text, 13, true) == NULL) == (room < 24));
		frame_init(&f, buffer, FRAME_HEAD_BYTES + room);
		assert_true((frame_group(&f, 1) == NULL) == (room < 16));
	}
}

/* --- What is wrong -------------------------------------------------------------- */

static void
empty(struct frame *f)
{
	(void)f;
}

static void
well_formed(struct frame *f)
{
	write_all_kinds(f, 13, 7);
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

	frame_put(f, 0, text, 4, 1, text, VALUE_MAX + 1, 0);
	frame_group_end(group, 1);
}

static void
put_outside_a_group(struct frame *f)
{
	frame_put(f, 0, text, 4, 1, text, 4, 0);
}

static void
check_outside_a_group(struct frame *f)
{
	frame_check(f, 0, text, 4, 1);
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
	f->at[-8] = FRAME_DELETE + 1;
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

	frame_check(f, 0, text, 4, 1);
	group[16 + 7] = 1;
	frame_group_end(group, 1);
}

static void
put_with_a_long_idle_time(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, 4, UINT32_MAX);
	group[16 + 12] = 1;
	frame_group_end(group, 1);
}

static void
put_with_a_flag(struct frame *f)
{
	uint8_t *group = frame_group(f, 1);

	frame_put(f, 0, text, 4, 1, text, 4, UINT32_MAX);
	group[16 + 6] = 1;
	frame_group_end(group, 1);
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

	frame_put(f, 0, text, 4, 1, text, 8, 0);
	group[16 + 4] = 9;
	frame_group_end(group, 1);
}

static const struct {
	const char *name;
	void (*write)(struct frame *f);
	int want;
} cases[] = {
	{ "an empty frame is well formed", empty, 0 },
	{ "one with all kinds is well formed", well_formed, 0 },
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
		struct frame_shape shape;
		struct frame f;
		size_t bytes;
		uint8_t *frame;

		frame_init(&f, buffer, sizeof(buffer));
		cases[i].write(&f);
		frame = exact(&f, &bytes);
		if (open_and_validate(frame, bytes, &shape) != cases[i].want)
			fail_msg("not so: %s", cases[i].name);
		free(frame);
	}
}

static void
a_cut_frame_is_refused_or_shorter(void **state)
{
	uint64_t buffer[128];
	struct frame_shape shape;
	struct frame f;

	(void)state;
	frame_init(&f, buffer, sizeof(buffer));
	write_all_kinds(&f, 13, 7);
	/* Whole operations are left at these lengths: nothing, READ, both reads. */
	for (size_t cut = 0; cut < (size_t)(f.at - f.start); cut++) {
		bool whole = cut == 32 || cut == 32 + 24 || cut == 32 + 48;
		uint32_t n_bytes = (uint32_t)cut;
		uint8_t *frame = malloc(cut + 1);

		frame_finish(&f, 7, 8, 9);
		memcpy(f.start + 4, &n_bytes, 4);
		frame = realloc(frame, cut == 0 ? 1 : cut);
		memcpy(frame, f.start, cut);
		assert_int_equal(open_and_validate(frame, cut, &shape),
				 whole ? 0 : -EBADMSG);
		free(frame);
	}
}

static void
a_wrong_head_is_refused(void **state)
{
	uint64_t buffer[8];
	struct frame_head head;
	struct frame_reply_head reply;
	struct frame_cursor c;
	struct frame f;

	(void)state;
	frame_init(&f, buffer, sizeof(buffer));
	frame_finish(&f, 1, 2, 3);
	assert_int_equal(frame_open(buffer, 32, &head, &c), 0);
	assert_int_equal(frame_open(buffer, 40, &head, &c), -EBADMSG);
	assert_int_equal(frame_open(buffer, 31, &head, &c), -EBADMSG);
	assert_int_equal(frame_reply_open(buffer, 32, &reply, &c), -EBADMSG);
	f.start[3] = FRAME_PROTOCOL + 1;
	assert_int_equal(frame_open(buffer, 32, &head, &c), -EBADMSG);
}

/* --- Tables, replies ------------------------------------------------------------ */

static void
tables_are_mapped(void **state)
{
	static const uint8_t ids[] = { 9, 4 };
	static const uint8_t want[] = { 9, 9, 0, 9, 9, 4 };
	uint64_t buffer[128];
	struct frame_head head;
	struct frame_cursor c;
	struct frame_op op;
	struct frame f;

	(void)state;
	frame_init(&f, buffer, sizeof(buffer));
	write_all_kinds(&f, 13, 7);
	frame_map_tables(&f, ids, sizeof(ids));
	frame_finish(&f, 1, 2, 3);
	assert_int_equal(frame_open(f.start, (size_t)(f.at - f.start), &head, &c), 0);
	for (unsigned int i = 0; frame_next(&c, &op) == 1; i++) {
		if (op.kind != FRAME_GROUP)
			assert_int_equal(op.table, want[i]);
		else
			assert_int_equal(op.n_ops, 3);
	}
}

static void
answers_are_read_back(void **state)
{
	static const uint8_t bytes[] = {
		0x53, 0x4e, 0x52, 1, 64, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		FRAME_MISS, 0, 0, 0, 0, 0, 0, 0,
		FRAME_HIT, 6, 3, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
		'a', 'b', 'c', 0, 0, 0, 0, 0,
		FRAME_APPLIED, 0, 0, 0, 0, 0, 0, 0, FRAME_REFUSED, 0, 0, 0, 0, 0, 0, 0,
	};
	struct frame_reply_head head;
	struct frame_cursor c;
	struct frame_value v;

	(void)state;
	assert_int_equal(frame_reply_open(bytes, sizeof(bytes), &head, &c), 0);
	assert_int_equal(head.id, 3);
	assert_int_equal(frame_reply_next(&c, &v), 1);
	assert_int_equal(v.answer, FRAME_MISS);
	assert_int_equal(v.version, 0);
	assert_int_equal(frame_reply_next(&c, &v), 1);
	assert_int_equal(v.answer, FRAME_HIT);
	assert_int_equal(v.format, 6);
	assert_int_equal(v.version, 5);
	assert_int_equal(v.value_bytes, 3);
	assert_memory_equal(v.value, "abc", 3);
	assert_int_equal(frame_reply_next(&c, &v), 1);
	assert_int_equal(v.answer, FRAME_APPLIED);
	assert_int_equal(frame_reply_next(&c, &v), 1);
	assert_int_equal(v.answer, FRAME_REFUSED);
	assert_int_equal(frame_reply_next(&c, &v), 0);
}

static void
a_wrong_answer_is_refused(void **state)
{
	static const struct {
		const char *name;
		size_t bytes;
		uint8_t answer[24];
	} wrong[] = {
		{ "cut short", 4, { FRAME_MISS } },
		{ "an unknown answer", 8, { FRAME_REFUSED + 1 } },
		{ "a hit without version", 8, { FRAME_HIT } },
		{ "a value behind the end", 24, { FRAME_HIT, 1, 9 } },
		{ "a long value", 24, { FRAME_HIT, 1, 0xff, 0xff } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		uint8_t *copy = malloc(wrong[i].bytes);
		struct frame_cursor c = { copy, copy + wrong[i].bytes };
		struct frame_value v;

		memcpy(copy, wrong[i].answer, wrong[i].bytes);
		if (frame_reply_next(&c, &v) != -EBADMSG)
			fail_msg("taken: %s", wrong[i].name);
		free(copy);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(writers_write_nothing_without_room),
		cmocka_unit_test(validation),
		cmocka_unit_test(a_cut_frame_is_refused_or_shorter),
		cmocka_unit_test(a_wrong_head_is_refused),
		cmocka_unit_test(tables_are_mapped),
		cmocka_unit_test(answers_are_read_back),
		cmocka_unit_test(a_wrong_answer_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
