/*
 * test_partition.h - one partition, frames for it, and what is in it: for tests that use
 * it as its clients do, through partition_apply() alone.
 */
#ifndef TEST_PARTITION_H
#define TEST_PARTITION_H

#include <stdlib.h>

#include "store/partition.h"
#include "test_memory.h"

enum {
	TEST_GENERATION = 77,
	TEST_TERM = 78,
	TEST_PARTITIONS = 4,
	TEST_FRAME_BYTES = 1 << 16,
};

static const uint64_t test_seed[2] = { 3, 4 };

/* A frame being written, by one client. */
struct test_frame {
	struct frame f;
	uint8_t *group;
	uint8_t n_ops;
	uint64_t buffer[TEST_FRAME_BYTES / 8];
};

static inline void
test_frame_init(struct test_frame *t)
{
	frame_init(&t->f, t->buffer, sizeof(t->buffer));
}

static inline void
test_group(struct test_frame *t, uint64_t version)
{
	t->group = frame_group(&t->f, version);
	t->n_ops = 0;
}

static inline void
test_group_end(struct test_frame *t)
{
	frame_group_end(t->group, t->n_ops);
}

static inline void
test_check(struct test_frame *t, uint8_t table, const char *key, uint64_t version)
{
	frame_check(&t->f, FRAME_CHECK, table, key, (uint8_t)strlen(key), version);
	t->n_ops++;
}

static inline void
test_settle(struct test_frame *t, uint8_t table, const char *key, uint64_t version)
{
	frame_check(&t->f, FRAME_SETTLE, table, key, (uint8_t)strlen(key), version);
	t->n_ops++;
}

static inline void
test_put_ranked(struct test_frame *t, uint8_t table, const char *key, const char *value,
		uint8_t rank, uint32_t idle_ms)
{
	frame_put(&t->f, table, key, (uint8_t)strlen(key), 1, value,
		  (uint16_t)strlen(value), rank, idle_ms);
	t->n_ops++;
}

static inline void
test_put(struct test_frame *t, uint8_t table, const char *key, const char *value,
	 uint32_t idle_ms)
{
	test_put_ranked(t, table, key, value, 0, idle_ms);
}

static inline void
test_delete(struct test_frame *t, uint8_t table, const char *key)
{
	frame_delete(&t->f, table, key, (uint8_t)strlen(key));
	t->n_ops++;
}

/* To the field at 'offset' of a value of 16 bytes. */
static inline void
test_add(struct test_frame *t, uint8_t table, const char *key, uint16_t offset,
	 int64_t delta, int64_t min, int64_t max)
{
	const int64_t numbers[3] = { delta, min, max };

	frame_add(&t->f, table, key, (uint8_t)strlen(key), 1, 16, offset, 0, numbers);
	t->n_ops++;
}

static inline void
test_take(struct test_frame *t, uint8_t table, const char *key, uint32_t n_members,
	  uint32_t member)
{
	frame_take(&t->f, table, key, (uint8_t)strlen(key), 1, n_members, member);
	t->n_ops++;
}

static inline void
test_give(struct test_frame *t, uint8_t table, const char *key, uint32_t quarantine_ms,
	  uint32_t member)
{
	frame_give(&t->f, table, key, (uint8_t)strlen(key), quarantine_ms, member);
	t->n_ops++;
}

static inline void
test_read(struct test_frame *t, uint8_t table, const char *key)
{
	frame_read(&t->f, table, key, (uint8_t)strlen(key), true);
}

static inline void
test_peek(struct test_frame *t, uint8_t table, const char *key)
{
	frame_read(&t->f, table, key, (uint8_t)strlen(key), false);
}

static inline void
test_touch(struct test_frame *t, uint8_t table, const char *key)
{
	frame_key_op(&t->f, FRAME_TOUCH, table, key, (uint8_t)strlen(key));
}

static inline void
test_pick(struct test_frame *t, uint8_t table, const char *key, uint32_t n_members)
{
	frame_pick(&t->f, table, key, (uint8_t)strlen(key), n_members);
}

static inline int
test_apply_refusing(struct partition *p, struct test_frame *t, uint64_t client,
		    uint64_t id, uint64_t now_ms, bool refuse, struct buffer *reply,
		    struct buffer *effects)
{
	frame_finish(&t->f, TEST_GENERATION, TEST_TERM, client, id);
	reply->bytes = 0;
	return partition_apply(p, t->buffer, (size_t)(t->f.at - t->f.start), TEST_TERM,
			       now_ms, refuse, reply, effects);
}

static inline int
test_apply(struct partition *p, struct test_frame *t, uint64_t client, uint64_t id,
	   uint64_t now_ms, struct buffer *reply, struct buffer *effects)
{
	return test_apply_refusing(p, t, client, id, now_ms, false, reply, effects);
}

static inline struct partition *
test_partition_new(const uint64_t seed[2])
{
	struct partition *p;

	if (partition_new(TEST_GENERATION, TEST_PARTITIONS, seed, &p) != 0)
		abort();
	return p;
}

static inline int
test_declare(struct partition *p, const char *name, uint8_t flags, uint64_t limit)
{
	const struct core_declaration d = {
		.name = name,
		.key_max = FRAME_MAX_KEY,
		.value_max = FRAME_MAX_VALUE,
		.format = 1,
		.flags = flags,
		.limit = limit,
	};

	return partition_declare(p, &d);
}

/* --- One partition with table 0, a frame for it, and what came of the last ---------- */

static struct {
	struct partition *partition;
	struct test_frame frame;
	struct buffer reply, effects;
	struct frame_cursor answers;
	uint64_t now_ms, frame_id;
} t;

static inline int
test_setup(void **state)
{
	(void)state;
	test_memory_init();
	memset(&t, 0, offsetof(typeof(t), frame));
	t.reply = t.effects = (struct buffer){ 0 };
	t.now_ms = 1000;
	t.frame_id = 0;
	t.partition = test_partition_new(test_seed);
	test_frame_init(&t.frame);
	return test_declare(t.partition, "a", 0, 0);
}

static inline int
test_teardown(void **state)
{
	(void)state;
	partition_free(t.partition);
	buffer_fini(&t.reply);
	buffer_fini(&t.effects);
	return test_memory.n_bytes == 0 ? 0 : -1;
}

/* Applies the frame as client 1, looks at the reply's head, and begins a new frame. */
static inline void
apply(void)
{
	struct frame_reply_head head;

	assert_int_equal(test_apply(t.partition, &t.frame, 1, ++t.frame_id, t.now_ms,
				    &t.reply, &t.effects),
			 0);
	assert_int_equal(frame_reply_open(t.reply.data, t.reply.bytes, &head, &t.answers),
			 0);
	assert_int_equal(head.id, t.frame_id);
	test_frame_init(&t.frame);
}

static inline struct frame_value
expect(enum frame_answer want)
{
	struct frame_value v = { 0 };

	assert_int_equal(frame_reply_next(&t.answers, &v), 1);
	assert_int_equal(v.answer, want);
	return v;
}

static inline void
expect_hit(const char *value, uint64_t version)
{
	struct frame_value v = expect(FRAME_HIT);

	assert_int_equal(v.version, version);
	assert_int_equal(v.value_bytes, strlen(value));
	assert_memory_equal(v.value, value, v.value_bytes);
}

static inline void
expect_end(void)
{
	struct frame_value v;

	assert_int_equal(frame_reply_next(&t.answers, &v), 0);
}

/* Ends a group that is the whole frame, and how it is answered. */
static inline void
expect_group(enum frame_answer want)
{
	test_group_end(&t.frame);
	apply();
	expect(want);
	expect_end();
}

/* What a record is, without a touch; NULL: absent. */
static inline void
expect_record(uint8_t table, const char *key, const char *value, uint64_t version)
{
	test_frame_init(&t.frame);
	test_peek(&t.frame, table, key);
	apply();
	if (value == NULL)
		expect(FRAME_MISS);
	else
		expect_hit(value, version);
	expect_end();
}

static inline struct core_counters
counters(void)
{
	struct core_counters count;

	partition_count(t.partition, &count);
	return count;
}

static inline const struct core_table *
table(unsigned int id)
{
	unsigned int n;
	const struct core_table *tables = partition_tables(t.partition, &n);

	assert_in_range(id, 0, n - 1);
	return &tables[id];
}

/* Time goes on, and what has to happen in it does. */
static inline void
pass(uint64_t ms)
{
	t.now_ms += ms;
	while (partition_expire(t.partition, t.now_ms, 3, &t.effects) == 3)
		;
}

/* --- Whole partitions ------------------------------------------------------------- */

/* The effects that a partition is saved as, sorted: equal for equal partitions. */
struct test_dump {
	struct buffer bytes;
	size_t *at;
	size_t n;
	bool in_head;
};

static inline size_t
test_effect_bytes(const uint8_t *at)
{
	uint16_t value_bytes;
	uint32_t n_groups;

	memcpy(&value_bytes, at + 4, 2);
	memcpy(&n_groups, at + 4, 4);
	switch (at[0]) {
	case EFFECT_PUT:
		return (size_t)EFFECT_PUT_BYTES + at[2] + value_bytes;
	case EFFECT_DELETE:
		return (size_t)EFFECT_DELETE_BYTES + at[2];
	case EFFECT_CLIENT:
		return EFFECT_CLIENT_BYTES + client_answers_bytes(n_groups);
	case EFFECT_PATCH:
		return (size_t)EFFECT_PATCH_BYTES + at[2];
	case EFFECT_MEMBER:
		return (size_t)EFFECT_MEMBER_BYTES + at[2];
	default:
		return (size_t)EFFECT_DECLARE_BYTES + at[2];
	}
}

static inline int
test_dump_emit(void *context, const void *piece, size_t bytes)
{
	struct test_dump *d = context;
	size_t skip = d->in_head ? 24 : 0;

	d->in_head = false;
	if (buffer_reserve(&d->bytes, bytes) != 0)
		return -ENOMEM;
	for (const uint8_t *at = (const uint8_t *)piece + skip, *end = at + bytes - skip;
	     at < end; at += test_effect_bytes(at)) {
		d->at = realloc(d->at, (d->n + 1) * sizeof(*d->at));
		d->at[d->n++] = d->bytes.bytes;
		memcpy(d->bytes.data + d->bytes.bytes, at, test_effect_bytes(at));
		d->bytes.bytes += test_effect_bytes(at);
	}
	return 0;
}

static inline int
test_dump_compare(const void *a, const void *b, void *context)
{
	const struct test_dump *d = context;
	const uint8_t *x = d->bytes.data + *(const size_t *)a;
	const uint8_t *y = d->bytes.data + *(const size_t *)b;
	size_t x_bytes = test_effect_bytes(x), y_bytes = test_effect_bytes(y);

	return x_bytes != y_bytes ? (x_bytes > y_bytes) - (x_bytes < y_bytes) :
				    memcmp(x, y, x_bytes);
}

static inline struct buffer
test_dump(const struct partition *p)
{
	struct test_dump d = { .in_head = true };
	struct buffer sorted = { 0 };

	if (partition_save(p, test_dump_emit, &d) != 0)
		abort();
	qsort_r(d.at, d.n, sizeof(*d.at), test_dump_compare, &d);
	if (buffer_reserve(&sorted, d.bytes.bytes) != 0)
		abort();
	for (size_t i = 0; i < d.n; i++) {
		const uint8_t *from = d.bytes.data + d.at[i];

		memcpy(sorted.data + sorted.bytes, from, test_effect_bytes(from));
		sorted.bytes += test_effect_bytes(from);
	}
	free(d.at);
	buffer_fini(&d.bytes);
	return sorted;
}

static inline bool
test_same(const struct partition *a, const struct partition *b)
{
	struct buffer x = test_dump(a), y = test_dump(b);
	bool same = x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0;

	buffer_fini(&x);
	buffer_fini(&y);
	return same;
}

struct test_loading {
	struct partition *p;
	const uint64_t *seed;
	uint64_t now_ms;
};

static inline int
test_load(void *context, const void *piece, size_t bytes)
{
	struct test_loading *l = context;

	if (l->p == NULL)
		return partition_load(piece, bytes, l->seed, &l->p);
	return partition_replay(l->p, piece, bytes, l->now_ms);
}

/* A partition that is saved, and loaded as what is returned. */
static inline struct partition *
test_reload(const struct partition *p, uint64_t now_ms)
{
	static const uint64_t other_seed[2] = { 8, 9 };
	struct test_loading l = { .seed = other_seed, .now_ms = now_ms };

	if (partition_save(p, test_load, &l) != 0)
		abort();
	return l.p;
}

#endif
