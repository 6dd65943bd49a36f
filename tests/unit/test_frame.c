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

enum { N_TABLES = 2, KEY_MAX = 16, VALUE_MAX = 40, MEMBERS_MAX = 256 };

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

	frame_finish(f, 6, 7, 8, 9);
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

static const int64_t delta_min_max[3] = { -3, INT64_MIN, INT64_MAX };

static void
write_all_kinds(struct frame *f, unsigned int n, unsigned int value_bytes)
{
	uint8_t key_bytes = (uint8_t)n, *group;

	frame_read(f, 0, text, key_bytes, true);
	frame_read(f, 0, text + 1, key_bytes, false);
	frame_key_op(f, FRAME_TOUCH, 0, text + 2, key_bytes);
	frame_pick(f, 0, text + 3, key_bytes, MEMBERS_MAX);
	group = frame_group(f, 77);
	frame_check(f, FRAME_CHECK, 0, text + 4, key_bytes, 5);
	frame_put(f, 0, text + 5, key_bytes, 3, text + 6, (uint16_t)value_bytes, 1, 1234);
	frame_delete(f, 1, text + 7, 4);
	frame_check(f, FRAME_SETTLE, 0, text + 8, key_bytes, 6);
	frame_add(f, 0, text + 9, key_bytes, 4, VALUE_MAX, VALUE_MAX - 8, 5678,
		  delta_min_max);
	frame_take(f, 0, text + 10, key_bytes, 5, MEMBERS_MAX, MEMBERS_MAX - 1);
	frame_give(f, 0, text + 11, key_bytes, UINT32_MAX, FRAME_MAX_MEMBERS - 1);
	frame_group_end(group, 7);
}

/* The next operation, which is of this kind and table, with the key from there on. */
static struct frame_op
next(struct frame_cursor *c, enum frame_op_kind kind, uint8_t table, unsigned int from,
     unsigned int key_bytes)
{
	struct frame_op op;

	assert_int_equal(frame_next(c, &op), 1);
	assert_int_equal(op.kind, kind);
	if (kind == FRAME_GROUP)
		return op;
	assert_int_equal(op.table, table);
	assert_int_equal(op.key_bytes, key_bytes);
	assert_memory_equal(op.key, text + from, key_bytes);
	return op;
}

static void
check_all_kinds(struct frame_cursor c, unsigned int key_bytes, unsigned int value_bytes)
{
	struct frame_op op;

	next(&c, FRAME_READ, 0, 0, key_bytes);
	next(&c, FRAME_PEEK, 0, 1, key_bytes);
	next(&c, FRAME_TOUCH, 0, 2, key_bytes);
	op = next(&c, FRAME_PICK, 0, 3, key_bytes);
	assert_int_equal(op.n_members, MEMBERS_MAX);
	op = next(&c, FRAME_GROUP, 0, 0, 0);
	assert_int_equal(op.n_ops, 7);
	assert_int_equal(op.version, 77);
	op = next(&c, FRAME_CHECK, 0, 4, key_bytes);
	assert_int_equal(op.version, 5);
	op = next(&c, FRAME_PUT, 0, 5, key_bytes);
	assert_int_equal(op.format, 3);
	assert_int_equal(op.rank, 1);
	assert_int_equal(op.idle_ms, 1234);
	assert_int_equal(op.value_bytes, value_bytes);
	assert_memory_equal(op.value, text + 6, value_bytes);
	next(&c, FRAME_DELETE, 1, 7, 4);
	op = next(&c, FRAME_SETTLE, 0, 8, key_bytes);
	assert_int_equal(op.version, 6);
	op = next(&c, FRAME_ADD, 0, 9, key_bytes);
	assert_int_equal(op.format, 4);
	assert_int_equal(op.value_bytes, VALUE_MAX);
	assert_int_equal(op.offset, VALUE_MAX - 8);
	assert_int_equal(op.idle_ms, 5678);
	assert_memory_equal(&op.delta, delta_min_max, sizeof(delta_min_max));
	op = next(&c, FRAME_TAKE, 0, 10, key_bytes);
	assert_int_equal(op.format, 5);
	assert_int_equal(op.n_members, MEMBERS_MAX);
	assert_int_equal(op.member, MEMBERS_MAX - 1);
	op = next(&c, FRAME_GIVE, 0, 11, key_bytes);
	assert_int_equal(op.idle_ms, UINT32_MAX);
	assert_int_equal(op.member, FRAME_MAX_MEMBERS - 1);
	assert_int_equal(frame_next(&c, &op), 0);
}

static void
what_is_written_is_read_back(void **state)
{
	(void)state;
	for (unsigned int key_bytes = 1; key_bytes <= KEY_MAX; key_bytes++) {
		for (unsigned int n = 0; n <= VALUE_MAX; n++) {
			uint64_t buffer[256];
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
			assert_int_equal(head.generation, 6);
			assert_int_equal(head.term, 7);
			assert_int_equal(head.client, 8);
			assert_int_equal(head.id, 9);
			check_all_kinds(c, key_bytes, n);
			assert_int_equal(frame_validate(c, limits, N_TABLES, &shape), 0);
			assert_int_equal(shape.n_answers, 4);
			assert_int_equal(shape.n_groups, 1);
			assert_int_equal(shape.max_reply_bytes,
					 FRAME_REPLY_HEAD_BYTES + 2 * (16 + VALUE_MAX) +
						 24 + 8);
			free(frame);
		}
	}
}

/* Tries a writer with less and more room than it needs. */
#define EXPECT_NEEDS(bytes, written)                                                     \
	for (size_t room = 0; room < 2 * (bytes); room++) {                              \
		struct frame f;                                                          \
                                                                                         \
		frame_init(&f, buffer, FRAME_HEAD_BYTES + room);                         \
		assert_true((written) == (room >= (bytes)));                             \
		assert_true(f.at == f.start + FRAME_HEAD_BYTES +                         \
				    (room >= (bytes) ? (bytes) : 0));                    \
	}

static void
writers_write_nothing_without_room(void **state)
{
	uint64_t buffer[128];

	(void)state;
	EXPECT_NEEDS(24u, frame_read(&f, 0, text, 13, true) != NULL);
	EXPECT_NEEDS(24u, frame_pick(&f, 0, text, 13, 10) != NULL);
	EXPECT_NEEDS(16u, frame_group(&f, 1) != NULL);
	EXPECT_NEEDS(56u, frame_put(&f, 0, text, 13, 1, text, 20, 0, 0) != NULL);
	EXPECT_NEEDS(32u, frame_check(&f, FRAME_CHECK, 0, text, 13, 1));
	EXPECT_NEEDS(56u, frame_add(&f, 0, text, 13, 1, 8, 0, 0, delta_min_max));
	EXPECT_NEEDS(32u, frame_take(&f, 0, text, 13, 1, 10, 1));
	EXPECT_NEEDS(32u, frame_give(&f, 0, text, 13, 0, 1));
}

static void
a_cut_frame_is_refused_or_shorter(void **state)
{
	uint64_t buffer[256];
	struct frame_shape shape;
	struct frame f;

	(void)state;
	frame_init(&f, buffer, sizeof(buffer));
	write_all_kinds(&f, 13, 7);
	/* Whole operations are left at these lengths: nothing, and each read. */
	for (size_t cut = 0; cut < (size_t)(f.at - f.start); cut++) {
		bool whole = cut == 40 || cut == 64 || cut == 88 || cut == 112 ||
			     cut == 136;
		uint32_t n_bytes = (uint32_t)cut;
		uint8_t *frame = malloc(cut + 1);

		frame_finish(&f, 6, 7, 8, 9);
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
	frame_finish(&f, 1, 5, 2, 3);
	assert_int_equal(frame_open(buffer, 40, &head, &c), 0);
	assert_int_equal(frame_open(buffer, 48, &head, &c), -EBADMSG);
	assert_int_equal(frame_open(buffer, 39, &head, &c), -EBADMSG);
	assert_int_equal(frame_reply_open(buffer, 40, &reply, &c), -EBADMSG);
	f.start[3] = FRAME_PROTOCOL + 1;
	assert_int_equal(frame_open(buffer, 40, &head, &c), -EBADMSG);
}

/* --- Tables, replies ------------------------------------------------------------ */

static void
tables_are_mapped(void **state)
{
	static const uint8_t ids[] = { 9, 4 };
	static const uint8_t want[] = { 9, 9, 9, 9, 0, 9, 9, 4, 9, 9, 9, 9 };
	uint64_t buffer[256];
	struct frame_head head;
	struct frame_cursor c;
	struct frame_op op;
	struct frame f;

	(void)state;
	frame_init(&f, buffer, sizeof(buffer));
	write_all_kinds(&f, 13, 7);
	frame_map_tables(&f, ids, sizeof(ids));
	frame_finish(&f, 1, 5, 2, 3);
	assert_int_equal(frame_open(f.start, (size_t)(f.at - f.start), &head, &c), 0);
	for (unsigned int i = 0; frame_next(&c, &op) == 1; i++) {
		if (op.kind != FRAME_GROUP)
			assert_int_equal(op.table, want[i]);
		else
			assert_int_equal(op.n_ops, 7);
	}
}

static void
answers_are_read_back(void **state)
{
	static const uint8_t bytes[] = {
		0x53, 0x4e, 0x52, FRAME_PROTOCOL, 64, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		FRAME_MISS, 0, 0, 0, 0, 0, 0, 0,
		FRAME_HIT, 6, 3, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
		'a', 'b', 'c', 0, 0, 0, 0, 0,
		FRAME_APPLIED, 0, 0, 0, 0, 0, 0, 0, FRAME_FULL, 0, 0, 0, 0, 0, 0, 0,
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
	assert_int_equal(v.answer, FRAME_FULL);
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
		{ "an unknown answer", 8, { FRAME_N_ANSWERS } },
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

/* --- Leases --------------------------------------------------------------------- */

enum { LEASES_BYTES = 16 + 16 + 8 + 16 };

/* One record: a value of 3, a key of 9. */
static const uint8_t leases[LEASES_BYTES] = {
	0x53, 0x4e, 0x44, FRAME_PROTOCOL, LEASES_BYTES, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	FRAME_HIT, 2, 9, 6, 3, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
	'a', 'b', 'c', 0, 0, 0, 0, 0,
	'1', '2', '3', '4', '5', '6', '7', '8', '9', 0, 0, 0, 0, 0, 0, 0,
};

static void
leases_are_read_back(void **state)
{
	struct frame_lease lease;
	struct frame_cursor c;

	(void)state;
	assert_int_equal(frame_leases_open(leases, sizeof(leases), &c), 0);
	assert_int_equal(frame_lease_next(&c, &lease), 1);
	assert_int_equal(lease.table, 2);
	assert_int_equal(lease.format, 6);
	assert_int_equal(lease.version, 5);
	assert_int_equal(lease.value_bytes, 3);
	assert_memory_equal(lease.value, "abc", 3);
	assert_int_equal(lease.key_bytes, 9);
	assert_memory_equal(lease.key, "123456789", 9);
	assert_int_equal(frame_lease_next(&c, &lease), 0);
}

static void
wrong_leases_are_refused(void **state)
{
	static const struct {
		const char *name;
		unsigned int at;
		uint8_t byte;
		size_t bytes;
	} wrong[] = {
		{ "a reply's magic", 2, 0x52, LEASES_BYTES },
		{ "a frame's id", 8, 1, LEASES_BYTES },
		{ "another length", 4, LEASES_BYTES + 8, LEASES_BYTES },
		{ "half a head", 4, 8, 8 },
		{ "half a record", 4, 24, 24 },
		{ "no key", 4, LEASES_BYTES - 16, LEASES_BYTES - 16 },
		{ "a miss", 16, FRAME_MISS, LEASES_BYTES },
		{ "a key without bytes", 18, 0, LEASES_BYTES },
		{ "a key behind the end", 18, 17, LEASES_BYTES },
		{ "a value behind the end", 21, 1, LEASES_BYTES },
		{ "a flag", 23, 1, LEASES_BYTES },
		{ "no version", 24, 0, LEASES_BYTES },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		uint8_t *copy = malloc(wrong[i].bytes);
		struct frame_lease lease;
		struct frame_cursor c;

		memcpy(copy, leases, wrong[i].bytes);
		copy[wrong[i].at] = wrong[i].byte;
		if (frame_leases_open(copy, wrong[i].bytes, &c) != -EBADMSG &&
		    frame_lease_next(&c, &lease) != -EBADMSG)
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
		cmocka_unit_test(a_cut_frame_is_refused_or_shorter),
		cmocka_unit_test(a_wrong_head_is_refused),
		cmocka_unit_test(tables_are_mapped),
		cmocka_unit_test(answers_are_read_back),
		cmocka_unit_test(a_wrong_answer_is_refused),
		cmocka_unit_test(leases_are_read_back),
		cmocka_unit_test(wrong_leases_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
