/*
 * test_model.c - random frames against a plain model of what should be there; a replica
 * that replays the effects, and a partition that is saved and loaded, are the same as the
 * original.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_model.h"

static int
setup(void **state)
{
	(void)state;
	test_memory_init();
	memset(&m, 0, sizeof(m));
	m.now_ms = 1000;
	m.p = partition_with_tables();
	m.replica = partition_with_tables();
	partition_tick(m.p, m.now_ms);		/* Ticks count from here. */
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	partition_free(m.p);
	partition_free(m.replica);
	buffer_fini(&m.reply);
	buffer_fini(&m.effects);
	return test_memory.n_bytes == 0 ? 0 : -1;
}

/* --- Answers -------------------------------------------------------------------- */

static void
expect_answer(const struct frame_value *v, const struct model_answer *want)
{
	const struct model_record *r = &want->record;
	uint32_t member;

	assert_true(v->answer == want->answer || v->answer == want->or_else);
	if (v->answer != FRAME_HIT)
		return;
	if (want->pick) {
		assert_int_equal(v->value_bytes, sizeof(member));
		memcpy(&member, v->value, sizeof(member));
		assert_in_range(member, 0, N_MEMBERS - 1);
		assert_true(want->may[member]);
		return;
	}
	assert_int_equal(v->version, r->version);
	assert_int_equal(v->format, r->format);
	assert_int_equal(v->value_bytes, r->value_bytes);
	assert_memory_equal(v->value, r->value, r->value_bytes);
}

static void
expect_answers(bool repeated)
{
	struct frame_value v = { 0 };
	struct frame_reply_head head;
	struct frame_cursor c;

	assert_int_equal(frame_reply_open(m.reply.data, m.reply.bytes, &head, &c), 0);
	for (unsigned int i = 0; i < m.n_want; i++) {
		assert_int_equal(frame_reply_next(&c, &v), 1);
		if (!repeated || m.want[i].answer > FRAME_HIT)
			expect_answer(&v, &m.want[i]);
	}
	assert_int_equal(frame_reply_next(&c, &v), 0);
}

static void
expire_all(void)
{
	while (partition_expire(m.p, m.now_ms, 16, &m.effects) == 16)
		;
	for (unsigned int i = 0; i < N_RANGES * N_MEMBERS; i++) {
		struct model_member *member =
			&m.range[i / N_MEMBERS].member[i % N_MEMBERS];

		if (!unsure(member))
			continue;
		member->taken = false;
		member->quarantine_ms = 0;
	}
}

/* What is leased is due, and leased to nobody else. */
static void
lease_some(void)
{
	struct buffer out = { 0 };
	struct frame_lease lease;
	struct frame_cursor c;
	unsigned int max = 1 + below(20);
	int n = partition_lease(m.p, m.now_ms, UINT64_MAX, max, &out), n_read = 0;

	assert_in_range(n, 0, max);
	assert_int_equal(frame_leases_open(out.data, out.bytes, &c), 0);
	for (; frame_lease_next(&c, &lease) == 1; n_read++) {
		struct model_record *r = &m.record[LEASED][lease.key[0]];

		assert_int_equal(lease.table, LEASED);
		assert_int_equal(lease.version, r->version);
		assert_int_equal(lease.value_bytes, r->value_bytes);
		assert_memory_equal(lease.value, r->value, r->value_bytes);
		assert_true(due(r));
		assert_true(r->leased_ms <= r->touched_ms ||
			    m.now_ms - r->leased_ms >= CORE_LEASE_MS);
		r->leased_ms = m.now_ms;
	}
	assert_int_equal(n_read, n);
	buffer_fini(&out);
}

/* One frame, and sometimes the same frame again. */
static void
random_frame(unsigned int n_items)
{
	unsigned int client = below(N_CLIENTS);
	size_t effects_bytes;

	test_frame_init(&m.frame);
	m.n_want = 0;
	m.frame_id[client] += 1 + below(3);
	while (m.n_want < n_items && frame_room(&m.frame.f) > TEST_FRAME_BYTES / 2) {
		switch (below(10)) {
		case 0:
			model_pick();
			break;
		case 1:
			model_limited();
			break;
		case 2:
		case 3:
		case 4:
		case 5:
			model_read();
			break;
		default:
			model_group();
		}
	}
	assert_int_equal(test_apply(m.p, &m.frame, client, m.frame_id[client], m.now_ms,
				    &m.reply, &m.effects),
			 0);
	expect_answers(false);
	if (below(4) != 0)
		return;
	effects_bytes = m.effects.bytes;
	assert_int_equal(test_apply(m.p, &m.frame, client, m.frame_id[client], m.now_ms,
				    &m.reply, &m.effects),
			 0);
	assert_int_equal(m.effects.bytes, effects_bytes);
	expect_answers(true);
}

/* --- The whole ------------------------------------------------------------------ */

static void
expect_count(void)
{
	struct core_counters count;
	unsigned int n_tables;
	const struct core_table *tables = partition_tables(m.p, &n_tables);
	uint64_t n = tables[LIMITED].n_records, n_due = 0;

	assert_in_range(n, 0, LIMIT);
	for (unsigned int i = 0; i < N_TABLES * N_KEYS; i++) {
		n += current(i / N_KEYS, i % N_KEYS)->version != 0;
		n_due += i / N_KEYS == LEASED && due(&m.record[LEASED][i % N_KEYS]);
	}
	for (unsigned int i = 0; i < N_RANGES; i++) {
		n += m.range[i].n_members != 0;
		for (unsigned int at = 0; at < N_MEMBERS; at++)
			n += m.range[i].member[at].quarantine_ms != 0;
	}
	partition_count(m.p, &count);
	assert_int_equal(count.records, n);
	assert_int_equal(count.due, n_due);
	n = count.memory_bytes;
	partition_count(m.replica, &count);
	assert_int_equal(n + count.memory_bytes,
			 test_memory.n_bytes - m.reply.room - m.effects.room);
}

static void
random_frames_match_the_model_and_the_replica(void **state)
{
	(void)state;
	m.random = test_random_init(__func__);
	for (unsigned int round = 0; round < 300; round++) {
		for (unsigned int i = 0; i < 10; i++) {
			m.now_ms += below(4) == 0 ? below(400) : 0;
			random_frame(below(below(10) == 0 ? MAX_ANSWERS : 20));
			if (below(10) == 0)
				partition_expire(m.p, m.now_ms, below(20), &m.effects);
			if (below(4) == 0)
				lease_some();
		}
		expire_all();
		/* A replica does not know of the reads: its clock stands still. */
		assert_int_equal(partition_replay(m.replica, m.effects.data,
						  m.effects.bytes, 500),
				 0);
		m.effects.bytes = 0;
		expect_count();
		assert_true(test_same(m.p, m.replica));
	}
}

static void
a_saved_partition_is_loaded_the_same(void **state)
{
	struct partition *loaded;
	unsigned int n_left, n_right;
	const struct core_table *left, *right;

	(void)state;
	m.random = test_random_init(__func__);
	for (unsigned int i = 0; i < 400; i++) {
		m.now_ms += below(50);
		random_frame(30);
	}
	loaded = test_reload(m.p, 500);
	assert_true(test_same(m.p, loaded));
	assert_int_equal(partition_generation(loaded), TEST_GENERATION);
	assert_int_equal(partition_siblings(loaded), TEST_PARTITIONS);
	left = partition_tables(m.p, &n_left);
	right = partition_tables(loaded, &n_right);
	assert_int_equal(n_left, n_right);
	for (unsigned int i = 0; i < n_left; i++)
		assert_memory_equal(&left[i], &right[i],
				    offsetof(struct core_table, n_records));
	partition_free(loaded);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(random_frames_match_the_model_and_the_replica),
		CASE(a_saved_partition_is_loaded_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
