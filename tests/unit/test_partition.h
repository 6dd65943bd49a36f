/*
 * test_partition.h - frames for a partition, and what is in one: for tests that use
 * it as its clients do, through partition_apply() alone.
 */
#ifndef TEST_PARTITION_H
#define TEST_PARTITION_H

#include <stdlib.h>

#include "store/core.h"

enum { TEST_GENERATION = 77, TEST_FRAME_BYTES = 1 << 16 };

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
	frame_check(&t->f, table, key, (uint8_t)strlen(key), version);
	t->n_ops++;
}

static inline void
test_put(struct test_frame *t, uint8_t table, const char *key, const char *value,
	 uint32_t idle_ms)
{
	frame_put(&t->f, table, key, (uint8_t)strlen(key), 1, value,
		  (uint16_t)strlen(value), idle_ms);
	t->n_ops++;
}

static inline void
test_delete(struct test_frame *t, uint8_t table, const char *key)
{
	frame_delete(&t->f, table, key, (uint8_t)strlen(key));
	t->n_ops++;
}

static inline void
test_read(struct test_frame *t, uint8_t table, const char *key)
{
	frame_read(&t->f, table, key, (uint8_t)strlen(key), true);
}

static inline int
test_apply(struct partition *p, struct test_frame *t, uint64_t client, uint64_t id,
	   uint64_t now_ms, struct buffer *reply, struct buffer *effects)
{
	frame_finish(&t->f, TEST_GENERATION, client, id);
	reply->bytes = 0;
	return partition_apply(p, t->buffer, (size_t)(t->f.at - t->f.start), now_ms,
			       false, reply, effects);
}

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
	default:
		return (size_t)EFFECT_DECLARE_BYTES + at[2];
	}
}

static inline int
test_dump_emit(void *context, const void *piece, size_t bytes)
{
	struct test_dump *d = context;
	size_t skip = d->in_head ? 16 : 0;

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

#endif
