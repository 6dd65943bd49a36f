/*
 * test_effects.c - effects and snapshots that are wrong are refused; test_model.c shows
 * that right ones do what they should.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_partition.h"

static int
setup(void **state)
{
	const struct core_declaration b = { "b", 16, 16, 1, 0, 0 };

	if (test_setup(state) != 0)
		return -1;
	return partition_declare(t.partition, &b) == 1 ? 0 : -1;
}

static const struct {
	const char *name;
	size_t bytes;
	uint8_t effect[48];
	int want;
} cases[] = {
	{ "a put", 22, { 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 }, 0 },
	{ "a put cut short",
	  21,
	  { 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 },
	  -EBADMSG },
	{ "a put without version", 22, { 1, 0, 1, 1, 1 }, -EBADMSG },
	{ "a put without key",
	  21,
	  { 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 },
	  -EBADMSG },
	{ "a put of a high rank",
	  22,
	  { 1, 0, 1, 1, 1, 0, 2, 0, 0, 0, 0, 0, 1 },
	  -EBADMSG },
	{ "a put with a flag",
	  22,
	  { 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1 },
	  -EBADMSG },
	{ "a put to no table",
	  22,
	  { 1, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 },
	  -EBADMSG },
	{ "a delete", 5, { 2, 0, 1, 0, 'a' }, 0 },
	{ "a delete of a long key", 5, { 2, 0, 2, 0, 'a' }, -EBADMSG },
	{ "a client's frame", 25, { 3, 0, 0, 0, 2, 0, 0, 0, 5, [24] = 0x14 }, 0 },
	{ "an answer that is none",
	  25,
	  { 3, 0, 0, 0, 2, 0, 0, 0, 6, [24] = 0x50 },
	  -EBADMSG },
	{ "answers cut short", 25, { 3, 0, 0, 0, 3, 0, 0, 0, 7 }, -EBADMSG },
	{ "too many answers",
	  25,
	  { 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff },
	  -EBADMSG },
	{ "a client is forgotten", 24, { 3, 0, 0, 0, 0, 0, 0, 0, 5 }, 0 },
	{ "a table", 17, { 4, 1, 1, 0, 8, 0, 8, 0, [16] = 'x' }, 0 },
	{ "a table of another size",
	  17,
	  { 4, 1, 1, 0, 8, 0, 9, 0, [16] = 'x' },
	  -EBADMSG },
	{ "a table with half a name",
	  18,
	  { 4, 1, 2, 0, 8, 0, 8, 0, [16] = 'y', 0 },
	  -EBADMSG },
	{ "a table with a long name",
	  48,
	  { 4, 1, 32, 0, 8, 0, 8, 0, [16] = 'y' },
	  -EBADMSG },
	{ "a table with flags that exclude each other",
	  17,
	  { 4, 1, 1, 3, 8, 0, 8, 0, [16] = 'y' },
	  -EBADMSG },
	{ "another table of the core's",
	  21,
	  { 4, 1, 5, 0, 8, 0, 8, 0, [16] = 's', 'n', 'f', '.', 'x' },
	  -EBADMSG },
	{ "a field of a record that is made",
	  29,
	  { 5, 0, 1, 1, 16, 0, 8, 0, [12] = 1, [28] = 'p' },
	  0 },
	{ "of one that is there",
	  29,
	  { 5, 0, 1, 1, 99, 0, 8, 0, [12] = 1, [28] = 'p' },
	  0 },
	{ "a field outside of it",
	  29,
	  { 5, 0, 1, 1, 99, 0, 9, 0, [12] = 1, [28] = 'p' },
	  -EBADMSG },
	{ "outside of what is made",
	  29,
	  { 5, 0, 1, 1, 16, 0, 9, 0, [12] = 1, [28] = 'q' },
	  -EBADMSG },
	{ "a field without version",
	  29,
	  { 5, 0, 1, 1, 16, 0, 8, 0, [28] = 'q' },
	  -EBADMSG },
	{ "a field cut short", 28, { 5, 0, 1, 1, 16, 0, 8, 0, 1 }, -EBADMSG },
	{ "a member",
	  21,
	  { 6, 0, 1, 1, 9, 0, 1, 0, 10, [12] = 1, [20] = 'r' },
	  0 },
	{ "a member of a bigger range",
	  21,
	  { 6, 0, 1, 1, 9, 0, 0, 0, 200, [12] = 1, [20] = 'r' },
	  0 },
	{ "a member of no range",
	  21,
	  { 6, 0, 1, 1, 9, 0, 1, 0, 10, [12] = 1, [20] = 'p' },
	  -EBADMSG },
	{ "a member behind the last",
	  21,
	  { 6, 0, 1, 1, 10, 0, 1, 0, 10, [12] = 1, [20] = 'r' },
	  -EBADMSG },
	{ "a range that is too big",
	  21,
	  { 6, 0, 1, 1, 9, 0, 1, 0, 1, 0, 1, 0, 1, [20] = 'r' },
	  -EBADMSG },
	{ "a range too big for its table",
	  21,
	  { 6, 1, 1, 1, 9, 0, 1, 0, 65, [12] = 1, [20] = 'r' },
	  -EBADMSG },
	{ "a member neither taken nor not",
	  21,
	  { 6, 0, 1, 1, 9, 0, 2, 0, 10, [12] = 1, [20] = 'r' },
	  -EBADMSG },
	{ "nothing known", 4, { 7 }, -EBADMSG },
	{ "nothing", 1, { 0 }, -EBADMSG },
};

static void
wrong_effects_are_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *copy = malloc(cases[i].bytes);

		memcpy(copy, cases[i].effect, cases[i].bytes);
		if (partition_replay(t.partition, copy, cases[i].bytes, t.now_ms) !=
		    cases[i].want)
			fail_msg("not so: %s", cases[i].name);
		free(copy);
	}
}

static void
wrong_heads_are_not_loaded(void **state)
{
	uint8_t head[24] = { 'S', 'N', 'F', 'P', 2, [16] = 64 };
	static const struct {
		const char *name;
		size_t at;
	} wrong[] = {
		{ "another magic", 0 },
		{ "another format", 4 },
		{ "too many partitions", 16 },
		{ "a flag", 20 },
	};
	struct partition *p = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		head[wrong[i].at]++;
		assert_int_equal(partition_load(head, 24, test_seed, &p), -EBADMSG);
		head[wrong[i].at]--;
	}
	assert_int_equal(partition_load(head, 23, test_seed, &p), -EBADMSG);
	assert_null(p);
	assert_int_equal(partition_load(head, 24, test_seed, &p), 0);
	assert_int_equal(partition_siblings(p), 64);
	partition_free(p);
}

static void
replay_may_lack_memory(void **state)
{
	static uint8_t put[22] = { 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 };
	static uint8_t client[25] = { 3, 0, 0, 0, 2, 0, 0, 0, 5 };
	static uint8_t timed[22] = { 1, 0, 1, 1, 1, 0, 0, 0, 9, 0, 0, 0, 1 };
	static uint8_t member[21] = { 6, 0, 1, 1, 9, 0, 1, 0, 10, [12] = 1 };
	struct partition *empty = test_partition_new(test_seed);

	(void)state;
	test_memory_fail_after(0);
	assert_int_equal(partition_replay(t.partition, put, sizeof(put), t.now_ms),
			 -ENOMEM);
	test_memory_fail_after(0);
	assert_int_equal(partition_replay(t.partition, client, sizeof(client), t.now_ms),
			 -ENOMEM);
	test_memory_fail_after(1);
	assert_int_equal(partition_replay(t.partition, client, sizeof(client), t.now_ms),
			 -ENOMEM);
	for (unsigned int n = 0; n < 2; n++) {
		test_memory_fail_after(n);
		assert_int_equal(partition_replay(t.partition, timed, sizeof(timed),
						  t.now_ms),
				 -ENOMEM);
	}
	test_memory_fail_after(0);
	assert_int_equal(partition_replay(t.partition, member, sizeof(member), t.now_ms),
			 -ENOMEM);
	test_memory_recover();
	test_declare(empty, "a", 0, 0);
	partition_declare(empty, &(struct core_declaration){ "b", 16, 16, 1, 0, 0 });
	assert_true(test_same(t.partition, empty));
	assert_int_equal(partition_replay(t.partition, put, sizeof(put), t.now_ms), 0);
	assert_false(test_same(t.partition, empty));
	partition_free(empty);
}

/* Expired records are deleted bit by bit.  A group must not be told of an absence that a
 * copy, which knows its effects and those before, does not have. */
static void
a_copy_has_every_absence_that_a_group_was_told_of(void **state)
{
	struct partition *copy = test_partition_new(test_seed);
	struct frame_value v;

	(void)state;
	test_declare(copy, "a", 0, 0);
	partition_declare(copy, &(struct core_declaration){ "b", 16, 16, 1, 0, 0 });
	for (char key[2] = "a"; key[0] <= 'd'; key[0]++) {
		test_group(&t.frame, (uint64_t)key[0]);
		test_put(&t.frame, 0, key, "v", 100);
		test_group_end(&t.frame);
	}
	apply();
	t.now_ms += 1000;
	test_group(&t.frame, 10);
	test_check(&t.frame, 0, "a", 0);
	test_put(&t.frame, 0, "x", "v", 0);
	expect_group(FRAME_APPLIED);
	test_group(&t.frame, 11);
	test_check(&t.frame, 0, "b", 'b');
	test_put(&t.frame, 0, "x", "w", 0);
	expect_group(FRAME_CONFLICT);
	test_group(&t.frame, 12);
	test_take(&t.frame, 0, "c", 64, 1);
	expect_group(FRAME_APPLIED);
	test_group(&t.frame, 13);
	test_give(&t.frame, 0, "d", 0, 1);
	expect_group(FRAME_CONFLICT);
	/* The copy's clock is at the start: nothing expires there by itself. */
	assert_int_equal(partition_replay(copy, t.effects.data, t.effects.bytes, 1000), 0);
	for (char key[2] = "a"; key[0] <= 'd'; key[0]++)
		test_peek(&t.frame, 0, key);
	assert_int_equal(test_apply(copy, &t.frame, 2, 1, 1000, &t.reply, NULL), 0);
	frame_reply_open(t.reply.data, t.reply.bytes, &(struct frame_reply_head){ 0 },
			 &t.answers);
	expect(FRAME_MISS);
	expect(FRAME_MISS);
	v = expect(FRAME_HIT);
	assert_int_equal(v.version, 12);
	expect(FRAME_MISS);
	partition_free(copy);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(wrong_effects_are_refused),
		CASE(wrong_heads_are_not_loaded),
		CASE(replay_may_lack_memory),
		CASE(a_copy_has_every_absence_that_a_group_was_told_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
