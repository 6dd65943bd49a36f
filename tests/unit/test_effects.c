/*
 * test_effects.c - random frames against a plain array of records; a replica that
 * replays the effects, and a partition that is saved and loaded, are the same as the
 * original.  Effects that are wrong are refused.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_memory.h"
#include "test_partition.h"
#include "test_random.h"

enum {
	N_TABLES = 3,
	N_KEYS = 300,
	N_CLIENTS = 4,
	MAX_IDLE_MS = 3000,
	MAX_ANSWERS = 400,
};

/* What a record should be. */
struct model_record {
	uint64_t version;			/* 0: absent. */
	uint32_t idle_ms;
	uint64_t touched_ms;
	uint16_t value_bytes;
	uint8_t first;				/* Of the value's bytes. */
};

struct model_answer {
	enum frame_answer answer;
	struct model_record record;
};

static struct model {
	struct test_random random;
	struct partition *p, *replica;
	uint64_t now_ms, last_version;
	uint64_t frame_id[N_CLIENTS];
	struct model_record record[N_TABLES][N_KEYS];
	struct model_answer want[MAX_ANSWERS];
	unsigned int n_want;
	struct test_frame frame;
	struct buffer reply, effects;
} m;

static uint32_t
below(uint32_t n)
{
	return test_random_below(&m.random, n);
}

static struct partition *
partition_with_tables(void)
{
	struct partition *p;

	assert_int_equal(partition_new(TEST_GENERATION, test_seed, &p), 0);
	for (int i = 0; i < N_TABLES; i++) {
		char name[2] = { (char)('a' + i), 0 };

		assert_int_equal(partition_declare(p, name, 64, 2048, 1), i);
	}
	return p;
}

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

/* Lengths of keys from 2 to 64. */
static uint8_t
key_of(unsigned int i, uint8_t *key)
{
	uint8_t bytes = (uint8_t)(2 + i % 63);

	memset(key, (int)(i >> 3), bytes);
	key[0] = (uint8_t)i;
	key[1] = (uint8_t)(i >> 8);
	return bytes;
}

/* Ticks are what expiry counts in: the time of the last touch is known to one. */
static bool
expired(const struct model_record *r)
{
	uint64_t ticks = (m.now_ms - 1000) / 100 - (r->touched_ms - 1000) / 100;

	return r->idle_ms != 0 && ticks > (r->idle_ms + 99) / 100;
}

static struct model_record *
current(unsigned int table, unsigned int key)
{
	struct model_record *r = &m.record[table][key];

	if (r->version != 0 && expired(r))
		r->version = 0;
	return r;
}

static void
model_read(void)
{
	uint8_t table = (uint8_t)below(N_TABLES), key[64];
	unsigned int i = below(N_KEYS);
	struct model_record *r = current(table, i);
	bool touch = below(2) == 0;

	frame_read(&m.frame.f, table, key, key_of(i, key), touch);
	m.want[m.n_want++] = (struct model_answer){
		.answer = r->version == 0 ? FRAME_MISS : FRAME_HIT,
		.record = *r,
	};
	if (touch)
		r->touched_ms = m.now_ms;
}

static void
model_put(struct model_record *r, uint8_t table, unsigned int i, uint64_t version)
{
	uint8_t value[2048], key[64];

	r->version = version;
	r->idle_ms = below(3) == 0 ? 0 : below(MAX_IDLE_MS);
	r->touched_ms = m.now_ms;
	r->value_bytes = (uint16_t)below(below(20) == 0 ? 2049 : 50);
	r->first = (uint8_t)below(256);
	for (unsigned int at = 0; at < r->value_bytes; at++)
		value[at] = (uint8_t)(r->first + at);
	frame_put(&m.frame.f, table, key, key_of(i, key), r->first, value, r->value_bytes,
		  r->idle_ms);
}

/* Checks first, as the store does, then writes; keys may repeat in a group. */
static void
model_group(void)
{
	unsigned int n_checks = below(4), n_writes = 1 + below(below(10) == 0 ? 28 : 4);
	uint64_t version = ++m.last_version;
	struct model_record before[N_TABLES][N_KEYS];
	uint8_t *group = frame_group(&m.frame.f, version);
	bool conflict = false;
	uint8_t key[64];

	for (unsigned int n = 0; n < n_checks; n++) {
		uint8_t table = (uint8_t)below(N_TABLES);
		unsigned int i = below(N_KEYS);
		uint64_t is = current(table, i)->version;
		bool wrong = below(6) == 0;

		frame_check(&m.frame.f, table, key, key_of(i, key), wrong ? is + 1 : is);
		conflict |= wrong;
	}
	memcpy(before, m.record, sizeof(before));
	for (unsigned int n = 0; n < n_writes; n++) {
		uint8_t table = (uint8_t)below(N_TABLES);
		unsigned int i = below(N_KEYS);

		if (below(3) != 0) {
			model_put(&m.record[table][i], table, i, version);
			continue;
		}
		m.record[table][i].version = 0;
		frame_delete(&m.frame.f, table, key, key_of(i, key));
	}
	frame_group_end(group, (uint8_t)(n_checks + n_writes));
	if (conflict)
		memcpy(m.record, before, sizeof(before));
	m.want[m.n_want++] = (struct model_answer){
		.answer = conflict ? FRAME_CONFLICT : FRAME_APPLIED,
	};
}

static void
expect_answers(bool repeated)
{
	struct frame_reply_head head;
	struct frame_cursor c;
	struct frame_value v = { 0 };

	assert_int_equal(frame_reply_open(m.reply.data, m.reply.bytes, &head, &c), 0);
	for (unsigned int i = 0; i < m.n_want; i++) {
		const struct model_record *r = &m.want[i].record;

		assert_int_equal(frame_reply_next(&c, &v), 1);
		if (repeated && m.want[i].answer <= FRAME_HIT)
			continue;
		assert_int_equal(v.answer, m.want[i].answer);
		if (v.answer != FRAME_HIT)
			continue;
		assert_int_equal(v.version, r->version);
		assert_int_equal(v.format, r->first);
		assert_int_equal(v.value_bytes, r->value_bytes);
		for (unsigned int at = 0; at < v.value_bytes; at++)
			assert_int_equal(v.value[at], (uint8_t)(r->first + at));
	}
	assert_int_equal(frame_reply_next(&c, &v), 0);
}

static void
expire_all(void)
{
	while (partition_expire(m.p, m.now_ms, 16, &m.effects) == 16)
		;
}

/* One frame, its effects on the replica, and sometimes the same frame again. */
static void
random_frame(unsigned int n_items)
{
	unsigned int client = below(N_CLIENTS);
	size_t effects_bytes;

	test_frame_init(&m.frame);
	m.n_want = 0;
	m.frame_id[client] += 1 + below(3);
	while (m.n_want < n_items && frame_room(&m.frame.f) > 62000 / 2) {
		if (below(2) == 0)
			model_read();
		else
			model_group();
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
	/* A repeat reads again, and touches: now all idle times start anew. */
	expire_all();
	for (unsigned int t = 0; t < N_TABLES; t++) {
		for (unsigned int i = 0; i < N_KEYS; i++)
			current(t, i)->touched_ms = m.now_ms;
	}
	partition_refresh(m.p, m.now_ms);
}

static void
replay(void)
{
	assert_int_equal(partition_replay(m.replica, m.effects.data, m.effects.bytes,
					  m.now_ms),
			 0);
	m.effects.bytes = 0;
	/* It does not know of the reads, so it must not judge by its own clock. */
	partition_refresh(m.replica, m.now_ms);
}

static void
expect_count(void)
{
	struct core_counters count;
	uint64_t n = 0;

	for (unsigned int t = 0; t < N_TABLES; t++) {
		for (unsigned int i = 0; i < N_KEYS; i++)
			n += current(t, i)->version != 0;
	}
	partition_count(m.p, &count);
	assert_int_equal(count.records, n);
	assert_int_equal(count.memory_bytes + m.replica->counters.memory_bytes +
				 m.replica->table.memory_bytes +
				 m.replica->table.slots.memory_bytes +
				 m.replica->clients.memory_bytes,
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
		}
		expire_all();
		replay();
		expect_count();
		assert_true(test_same(m.p, m.replica));
	}
}

/* --- Save and load -------------------------------------------------------------- */

/* Loads what is being saved. */
struct loading {
	struct partition *p;
	unsigned int n_pieces;
	int fail_at;				/* -1: never. */
};

static int
load_piece(void *context, const void *piece, size_t bytes)
{
	static const uint64_t other_seed[2] = { 8, 9 };
	struct loading *l = context;

	assert_in_range(bytes, 1, 72 << 10);
	if (l->fail_at == (int)l->n_pieces++)
		return -EIO;
	if (l->n_pieces == 1)
		return partition_load(piece, bytes, other_seed, &l->p);
	return partition_replay(l->p, piece, bytes, 500);
}

static int
count_piece(void *context, const void *piece, size_t bytes)
{
	unsigned int *n = context;

	(void)piece, (void)bytes;
	++*n;
	return 0;
}

static unsigned int
pieces_of(const struct partition *p)
{
	unsigned int n = 0;

	assert_int_equal(partition_save(p, count_piece, &n), 0);
	return n;
}

static void
a_saved_partition_is_loaded_the_same(void **state)
{
	struct loading l = { .fail_at = -1 };
	unsigned int n, n_loaded;

	(void)state;
	m.random = test_random_init(__func__);
	for (unsigned int i = 0; i < 400; i++) {
		m.now_ms += below(50);
		random_frame(30);
	}
	expire_all();
	while (pieces_of(m.p) <= 2)
		random_frame(30);
	assert_int_equal(partition_save(m.p, load_piece, &l), 0);
	assert_true(test_same(m.p, l.p));
	assert_int_equal(partition_generation(l.p), TEST_GENERATION);
	assert_memory_equal(partition_tables(l.p, &n_loaded), partition_tables(m.p, &n),
			    N_TABLES * sizeof(struct core_table));
	assert_int_equal(n_loaded, n);
	partition_free(l.p);
	/* Idle times start when they are loaded: 3 seconds later they have passed. */
	l = (struct loading){ .fail_at = 2 };
	assert_int_equal(partition_save(m.p, load_piece, &l), -EIO);
	assert_int_equal(l.n_pieces, 3);
	partition_free(l.p);
}

/* --- What is wrong -------------------------------------------------------------- */

static void
wrong_effects_are_refused(void **state)
{
	static const struct {
		const char *name;
		size_t bytes;
		uint8_t effect[40];
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
		{ "a put to no table",
		  22,
		  { 1, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 },
		  -EBADMSG },
		{ "a delete", 5, { 2, 0, 1, 0, 'a' }, 0 },
		{ "a delete of a long key", 5, { 2, 0, 2, 0, 'a' }, -EBADMSG },
		{ "a client's frame", 25, { 3, 0, 0, 0, 4, 0, 0, 0, 5 }, 0 },
		{ "an answer that is none",
		  25,
		  { 3, 0, 0, 0, 4, 0, 0, 0, 6, [24] = 0xc0 },
		  -EBADMSG },
		{ "answers cut short", 25, { 3, 0, 0, 0, 5, 0, 0, 0, 7 }, -EBADMSG },
		{ "too many answers",
		  25,
		  { 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff },
		  -EBADMSG },
		{ "a client is forgotten", 24, { 3, 0, 0, 0, 0, 0, 0, 0, 5 }, 0 },
		{ "a table", 9, { 4, 1, 1, 0, 8, 0, 8, 0, 'x' }, 0 },
		{ "a table of another size",
		  9,
		  { 4, 1, 1, 0, 8, 0, 9, 0, 'x' },
		  -EBADMSG },
		{ "a table with half a name",
		  10,
		  { 4, 1, 2, 0, 8, 0, 8, 0, 'y', 0 },
		  -EBADMSG },
		{ "a table with a long name",
		  40,
		  { 4, 1, 32, 0, 8, 0, 8, 0, 'y' },
		  -EBADMSG },
		{ "nothing known", 4, { 5 }, -EBADMSG },
		{ "nothing", 1, { 0 }, -EBADMSG },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *copy = malloc(cases[i].bytes);

		memcpy(copy, cases[i].effect, cases[i].bytes);
		if (partition_replay(m.p, copy, cases[i].bytes, m.now_ms) !=
		    cases[i].want)
			fail_msg("not so: %s", cases[i].name);
		free(copy);
	}
}

static void
wrong_heads_are_not_loaded(void **state)
{
	uint8_t head[16] = { 'S', 'N', 'F', 'P', 1 };
	struct partition *p = NULL;

	(void)state;
	assert_int_equal(partition_load(head, 15, test_seed, &p), -EBADMSG);
	head[4] = 2;
	assert_int_equal(partition_load(head, 16, test_seed, &p), -EBADMSG);
	head[4] = 1;
	head[0] = 'R';
	assert_int_equal(partition_load(head, 16, test_seed, &p), -EBADMSG);
	assert_null(p);
	head[0] = 'S';
	assert_int_equal(partition_load(head, 16, test_seed, &p), 0);
	partition_free(p);
}

static void
replay_may_lack_memory(void **state)
{
	static uint8_t put[22] = { 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1 };
	static uint8_t client[25] = { 3, 0, 0, 0, 4, 0, 0, 0, 5 };

	(void)state;
	test_memory_fail_after(0);
	assert_int_equal(partition_replay(m.p, put, sizeof(put), m.now_ms), -ENOMEM);
	test_memory_fail_after(0);
	assert_int_equal(partition_replay(m.p, client, sizeof(client), m.now_ms),
			 -ENOMEM);
	test_memory_fail_after(1);
	assert_int_equal(partition_replay(m.p, client, sizeof(client), m.now_ms),
			 -ENOMEM);
	test_memory_recover();
	assert_true(test_same(m.p, m.replica));
	assert_int_equal(partition_replay(m.p, put, sizeof(put), m.now_ms), 0);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(random_frames_match_the_model_and_the_replica),
		CASE(a_saved_partition_is_loaded_the_same),
		CASE(wrong_effects_are_refused),
		CASE(wrong_heads_are_not_loaded),
		CASE(replay_may_lack_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
