/*
 * bench_store.c - see bench_store.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "bench_store.h"

enum {
	TERM = 5,
};

void
bench_partitions_init(struct bench_partitions *p, unsigned int n)
{
	*p = (struct bench_partitions){ .n = n, .now_ms = 1000000 };
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(partition_new(1, n, (uint64_t[2]){ 1 + i, 2 },
					       &p->partition[i]), 0);
}

void
bench_partitions_declare(struct bench_partitions *p,
			 const struct store_table *tables, unsigned int n_tables)
{
	for (unsigned int k = 0; k < n_tables; k++) {
		const struct store_table *t = &tables[k];
		struct core_declaration d = {
			.name = t->name, .key_max = t->key_max, .value_max = t->value_max,
			.format = t->format,
			.flags = (uint8_t)((t->leased ? CORE_LEASED : 0) |
					   (t->evict ? CORE_EVICT : 0)),
			.limit = t->limit,
		};

		for (unsigned int i = 0; i < p->n; i++)
			assert_int_equal(partition_declare(p->partition[i], &d), k);
	}
}

void
bench_partitions_fini(struct bench_partitions *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		partition_free(p->partition[i]);
}

bool
bench_partitions_due(const struct bench_partitions *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		if (partition_due_tables(p->partition[i]) != 0)
			return true;
	return false;
}

static struct store_batch *
batch_take(struct store *store)
{
	struct bench_store *s = (struct bench_store *)store;
	struct store_batch empty;
	int number = pool_take(&s->pool, &empty);

	assert_true(number >= 0);
	s->batch[number] = empty;
	s->commits[number] = false;
	return &s->batch[number];
}

static void
batch_free(struct store *store, struct store_batch *batch)
{
	struct bench_store *s = (struct bench_store *)store;

	assert_true(batch->final);
	pool_give(&s->pool, (unsigned int)(batch - s->batch));
}

static struct buffer *
reply_of(struct bench_store *s, const struct store_batch *batch, unsigned int part)
{
	return &s->reply[(size_t)(batch - s->batch) * s->partitions->n + part];
}

static void
open_replies(struct bench_store *s, struct store_batch *batch)
{
	struct frame_reply_head head;

	for (unsigned int i = 0; i < s->partitions->n; i++) {
		struct buffer *reply = reply_of(s, batch, i);

		if (reply->bytes > 0 && batch->part[i].error == 0)
			assert_int_equal(frame_reply_open(reply->data, reply->bytes,
							  &head, &batch->part[i].reply),
					 0);
	}
}

static bool
has_group(const struct frame *f)
{
	struct frame_cursor c = { f->start + FRAME_HEAD_BYTES, f->at };
	struct frame_op op;

	while (frame_next(&c, &op) == 1)
		if (op.kind == FRAME_GROUP)
			return true;
	return false;
}

static int
batch_submit(struct store *store, struct store_batch *batch)
{
	struct bench_store *s = (struct bench_store *)store;
	struct bench_partitions *p = s->partitions;

	if (s->n_done == STORE_INFLIGHT || s->n_held == STORE_UNCOMMITTED)
		return -EAGAIN;
	for (unsigned int i = 0; i < p->n; i++) {
		struct store_part *part = &batch->part[i];
		struct frame *f = &part->request;
		struct buffer *reply = reply_of(s, batch, i);

		reply->bytes = 0;
		part->error = p->error[i];
		if (part->error != 0 || f->at == f->start + FRAME_HEAD_BYTES)
			continue;
		s->commits[batch - s->batch] |= has_group(f) && !part->may_lose;
		frame_finish(f, partition_generation(p->partition[i]), TERM, s->client,
			     ++s->next_id);
		assert_int_equal(partition_apply(p->partition[i], f->start,
						 (size_t)(f->at - f->start), TERM,
						 p->now_ms, false, reply, NULL), 0);
	}
	open_replies(s, batch);
	batch->final = true;
	s->done[s->n_done++] = batch;
	return 0;
}

static struct store_batch *
take_first(struct store_batch **list, unsigned int *n)
{
	struct store_batch *first = list[0];

	memmove(list, list + 1, --*n * sizeof(*list));
	return first;
}

/* Those that nobody holds any more come back for the second time. */
static unsigned int
batch_poll(struct store *store, struct store_batch **done, unsigned int max)
{
	struct bench_store *s = (struct bench_store *)store;

	if (max == 0)
		return 0;
	if (s->n_held > 0 && !s->partitions->hold) {
		done[0] = take_first(s->held, &s->n_held);
		open_replies(s, done[0]);
		done[0]->final = true;
		return 1;
	}
	if (s->n_done == 0 || s->n_held == STORE_UNCOMMITTED)
		return 0;
	done[0] = take_first(s->done, &s->n_done);
	if (s->partitions->hold && s->commits[done[0] - s->batch]) {
		done[0]->final = false;
		s->held[s->n_held++] = done[0];
	}
	return 1;
}

static unsigned int
leases_due(struct store *store, struct store_lease *lease, unsigned int max)
{
	struct bench_store *s = (struct bench_store *)store;
	struct bench_partitions *p = s->partitions;
	struct frame_cursor c;
	unsigned int n = 0;

	for (unsigned int i = 0; i < p->n && n == 0; i++) {
		s->leases.bytes = 0;
		if (partition_lease(p->partition[i], p->now_ms, UINT64_MAX, max, &s->leases) <= 0)
			continue;
		assert_int_equal(frame_leases_open(s->leases.data, s->leases.bytes, &c),
				 0);
		for (; n < max && frame_lease_next(&c, &lease[n].record) == 1; n++)
			lease[n].partition = i;
	}
	return n;
}

static enum store_health
health(const struct store *store)
{
	const struct bench_store *s = (const struct bench_store *)store;

	return s->partitions->error[0] == 0 ? STORE_CONNECTED : STORE_LOST;
}

static uint64_t
term(const struct store *store, unsigned int partition)
{
	return ((const struct bench_store *)store)->partitions->term;
}

static const struct store_ops bench_store_ops = {
	.scheme = "memory", .batch = batch_take, .submit = batch_submit,
	.poll = batch_poll, .free = batch_free, .due = leases_due, .health = health,
	.term = term,
};

void
bench_store_init(struct bench_store *s, struct bench_partitions *p, uint64_t client)
{
	s->store.ops = &bench_store_ops;
	s->store.n_partitions = p->n;
	s->partitions = p;
	s->client = client;
	s->reply = calloc((size_t)STORE_BATCHES * p->n, sizeof(*s->reply));
	assert_non_null(s->reply);
	assert_int_equal(pool_init(&s->pool, p->n, 0, 0), 0);
}

void
bench_store_fini(struct bench_store *s)
{
	for (unsigned int i = 0; i < STORE_BATCHES * s->partitions->n; i++)
		buffer_fini(&s->reply[i]);
	free(s->reply);
	buffer_fini(&s->leases);
	pool_fini(&s->pool);
}
