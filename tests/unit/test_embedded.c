/*
 * test_embedded.c - the store in this process, as pipes use it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "store/store.h"

enum { N_THREADS = 4, N_ADDITIONS = 2000 };

static const struct store_table tables[] = {
	{ .name = "test.one", .key_max = 16, .value_max = 64, .format = 1 },
	{ .name = "test.two", .key_max = 16, .value_max = 64, .format = 1 },
};
static const struct store_table leased = {
	.name = "test.leased", .key_max = 16, .value_max = 64, .format = 1,
	.leased = true,
};

static struct store *
open_parts(const char *url, unsigned int n_partitions, const struct store_table *t,
	   unsigned int n)
{
	struct store_options options = { .url = url, .n_partitions = n_partitions };
	struct store *s = NULL;
	char why[128] = "";
	int err = store_embedded_ops.open(&options, t, n, &s, why, sizeof(why));

	if (err != 0)
		fail_msg("%s", why);
	return s;
}

static struct store *
open_store(const char *url, const struct store_table *t, unsigned int n)
{
	return open_parts(url, 0, t, n);
}

static struct store_batch *
new_batch(struct store *s)
{
	struct store_batch *b = s->ops->batch(s);

	assert_non_null(b);
	return b;
}

/* Submits a batch and waits for it: this store does not make anyone wait. */
static void
finish(struct store *s, struct store_batch *b)
{
	struct store_batch *done = NULL;

	assert_int_equal(s->ops->submit(s, b), 0);
	assert_int_equal(s->ops->poll(s, &done, 1), 1);
	assert_ptr_equal(done, b);
	assert_true(b->final);
	for (unsigned int i = 0; i < s->n_partitions; i++)
		assert_int_equal(b->part[i].error, 0);
}

static void
put_at(struct store *s, unsigned int at, uint8_t table, const char *key,
       const char *value, uint32_t idle_ms)
{
	struct store_batch *b = new_batch(s);
	struct frame *f = &b->part[at].request;
	uint8_t *group = frame_group(f, 1);

	frame_put(f, table, key, (uint8_t)strlen(key), 1, value,
		  (uint16_t)strlen(value), 0, idle_ms);
	frame_group_end(group, 1);
	finish(s, b);
	s->ops->free(s, b);
}

static void
put(struct store *s, uint8_t table, const char *key, const char *value, uint32_t idle_ms)
{
	put_at(s, 0, table, key, value, idle_ms);
}

static void
expect_read_at(struct store *s, unsigned int at, uint8_t table, const char *key,
	       const char *want)
{
	struct store_batch *b = new_batch(s);
	struct store_part *part = &b->part[at];
	struct frame_value v = { 0 };

	frame_read(&part->request, table, key, (uint8_t)strlen(key), false);
	finish(s, b);
	assert_int_equal(frame_reply_next(&part->reply, &v), 1);
	assert_int_equal(v.answer, want == NULL ? FRAME_MISS : FRAME_HIT);
	if (want != NULL) {
		assert_int_equal(v.value_bytes, strlen(want));
		assert_memory_equal(v.value, want, v.value_bytes);
		assert_int_equal((uintptr_t)v.value % 8, 0);
	}
	assert_int_equal(frame_reply_next(&part->reply, &v), 0);
	s->ops->free(s, b);
}

static void
expect_read(struct store *s, uint8_t table, const char *key, const char *want)
{
	expect_read_at(s, 0, table, key, want);
}

static void
stores_of_one_url_share_their_records(void **state)
{
	struct store *a = open_store("embedded:x", tables, 2);
	struct store *b = open_store("embedded:x", tables, 2);
	struct store *other = open_store("embedded:", tables, 2);

	(void)state;
	put(a, 0, "key", "value", 0);
	expect_read(b, 0, "key", "value");
	expect_read(b, 1, "key", NULL);
	expect_read(other, 0, "key", NULL);
	a->ops->close(a);
	expect_read(b, 0, "key", "value");
	b->ops->close(b);
	a = open_store("embedded:x", tables, 2);
	expect_read(a, 0, "key", NULL);
	a->ops->close(a);
	other->ops->close(other);
	store_embedded_ops.close(NULL);
}

static void
tables_are_named_by_each_stores_own_index(void **state)
{
	const struct store_table turned[] = { tables[1], tables[0] };
	struct store *a = open_store("embedded:", tables, 2);
	struct store *b = open_store("embedded:", turned, 2);

	(void)state;
	put(a, 0, "key", "one", 0);
	put(b, 0, "key", "two", 0);
	expect_read(a, 1, "key", "two");
	expect_read(b, 1, "key", "one");
	a->ops->close(a);
	b->ops->close(b);
}

static void
a_table_of_another_size_is_refused(void **state)
{
	const struct store_table bigger = {
		.name = "test.one", .key_max = 16, .value_max = 65, .format = 1
	};
	struct store_options options = { .url = "embedded:" };
	struct store *a = open_store("embedded:", tables, 2), *b;
	char why[128] = "";

	(void)state;
	assert_int_equal(
		store_embedded_ops.open(&options, &bigger, 1, &b, why, sizeof(why)),
		-EEXIST);
	assert_string_equal(why, "table test.one: declared before with other sizes");
	a->ops->close(a);
}

static void
batches_come_back_in_order(void **state)
{
	struct store *s = open_store("embedded:", tables, 2);
	struct store_batch *b[STORE_BATCHES], *done[STORE_BATCHES];
	int timeout_ms = 0;

	(void)state;
	assert_int_equal(s->ops->wait_fds(s, NULL, 0, &timeout_ms), 0);
	assert_true(timeout_ms > 0);
	for (unsigned int i = 0; i < STORE_BATCHES; i++)
		b[i] = new_batch(s);
	assert_null(s->ops->batch(s));
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		assert_int_equal(s->ops->submit(s, b[i]), 0);
	assert_int_equal(s->ops->submit(s, b[STORE_INFLIGHT]), -EAGAIN);
	s->ops->wait_fds(s, NULL, 0, &timeout_ms);
	assert_int_equal(timeout_ms, 0);
	assert_int_equal(s->ops->poll(s, done, 3), 3);
	assert_int_equal(s->ops->submit(s, b[STORE_INFLIGHT]), 0);
	assert_int_equal(s->ops->poll(s, done + 3, STORE_BATCHES), STORE_INFLIGHT - 2);
	assert_int_equal(s->ops->poll(s, done, STORE_BATCHES), 0);
	for (unsigned int i = 0; i <= STORE_INFLIGHT; i++)
		assert_ptr_equal(done[i], b[i]);
	for (unsigned int i = 0; i < STORE_BATCHES; i++)
		s->ops->free(s, b[i]);
	assert_int_equal(s->ops->health(s), STORE_CONNECTED);
	s->ops->close(s);
}

static void
a_wrong_frame_fails_alone(void **state)
{
	struct store *s = open_store("embedded:", tables, 2);
	struct store_batch *b = new_batch(s), *done;
	struct frame_value v = { 0 };

	(void)state;
	frame_read(&b->part[0].request, 2, "key", 3, true);
	assert_int_equal(s->ops->submit(s, b), 0);
	assert_int_equal(s->ops->poll(s, &done, 1), 1);
	assert_int_equal(b->part[0].error, -EBADMSG);
	assert_int_equal(frame_reply_next(&b->part[0].reply, &v), 0);
	s->ops->free(s, b);
	put(s, 0, "key", "value", 0);
	expect_read(s, 0, "key", "value");
	s->ops->close(s);
}

static bool
is_absent(struct store *s, const char *key)
{
	struct store_batch *b = new_batch(s);
	struct frame_value v = { 0 };

	frame_read(&b->part[0].request, 0, key, (uint8_t)strlen(key), false);
	finish(s, b);
	assert_int_equal(frame_reply_next(&b->part[0].reply, &v), 1);
	s->ops->free(s, b);
	return v.answer == FRAME_MISS;
}

static void
an_idle_record_goes(void **state)
{
	struct store *s = open_store("embedded:", tables, 2);
	time_t deadline = time(NULL) + 10;

	(void)state;
	put(s, 0, "for ever", "1", 0);
	put(s, 0, "idle", "1", 1);
	while (!is_absent(s, "idle") && time(NULL) < deadline)
		;
	assert_true(is_absent(s, "idle"));
	expect_read(s, 0, "for ever", "1");
	s->ops->close(s);
}

/* --- Partitions and leases ---------------------------------------------------- */

static void
partitions_hold_their_own_and_answer_together(void **state)
{
	struct store *a = open_parts("embedded:p", 4, tables, 2);
	struct store *other = open_parts("embedded:p", 4, tables, 2);
	struct store_options options = { .url = "embedded:p", .n_partitions = 2 };
	struct store *none;
	struct store_batch *b;
	struct frame_value v = { 0 };
	char why[128] = "";

	(void)state;
	assert_int_equal(a->n_partitions, 4);
	for (unsigned int at = 0; at < 4; at += 3)
		put_at(a, at, 0, "key", at == 0 ? "zero" : "three", 0);
	expect_read_at(other, 0, 0, "key", "zero");
	expect_read_at(other, 1, 0, "key", NULL);
	expect_read_at(other, 3, 0, "key", "three");
	b = new_batch(a);
	for (unsigned int at = 0; at < 4; at++)
		if (at != 2)
			frame_read(&b->part[at].request, 0, "key", 3, true);
	finish(a, b);
	for (unsigned int at = 0; at < 4; at++) {
		if (at != 2) {
			assert_int_equal(frame_reply_next(&b->part[at].reply, &v), 1);
			assert_int_equal(v.answer, at == 1 ? FRAME_MISS : FRAME_HIT);
		}
		assert_int_equal(frame_reply_next(&b->part[at].reply, &v), 0);
	}
	a->ops->free(a, b);
	assert_int_equal(store_embedded_ops.open(&options, tables, 2, &none, why,
						 sizeof(why)),
			 -EINVAL);
	assert_string_equal(why, "the store has 4 partitions, not 2");
	a->ops->close(a);
	other->ops->close(other);
}

static struct store_lease
wait_lease(struct store *s)
{
	time_t deadline = time(NULL) + 10;
	struct store_batch *none;
	struct store_lease l[2];
	unsigned int n;

	while ((n = s->ops->due(s, l, 2)) == 0) {
		assert_true(time(NULL) < deadline);
		s->ops->poll(s, &none, 1);
	}
	assert_int_equal(n, 1);
	return l[0];
}

/* Settles a lease as what is due at that version.  Returns the answer. */
static int
settle(struct store *s, const struct store_lease *l, uint64_t version)
{
	struct store_batch *b = new_batch(s);
	struct store_part *part = &b->part[l->partition];
	uint8_t *group = frame_group(&part->request, 2);
	struct frame_value v = { 0 };

	frame_check(&part->request, FRAME_SETTLE, l->record.table, l->record.key,
		    l->record.key_bytes, version);
	frame_group_end(group, 1);
	finish(s, b);
	assert_int_equal(frame_reply_next(&part->reply, &v), 1);
	s->ops->free(s, b);
	return v.answer;
}

static void
a_lease_is_given_to_one_store_and_settled_once(void **state)
{
	const struct store_table both[] = { tables[0], leased };
	struct store *a = open_parts("embedded:l", 3, both, 2);
	struct store *b = open_parts("embedded:l", 3, &leased, 1);
	struct store *c = open_parts("embedded:l", 3, tables, 1);
	struct store_lease l, more[2];

	(void)state;
	put_at(a, 2, 1, "key", "value", 1);
	/* One that has no leased table is not asked to end leases. */
	assert_int_equal(c->ops->due(c, more, 2), 0);
	l = wait_lease(b);
	assert_int_equal(l.partition, 2);
	assert_int_equal(l.record.table, 0);
	assert_int_equal(l.record.key_bytes, 3);
	assert_memory_equal(l.record.key, "key", 3);
	assert_int_equal(l.record.value_bytes, 5);
	assert_memory_equal(l.record.value, "value", 5);
	assert_int_equal(l.record.version, 1);
	assert_int_equal(a->ops->due(a, more, 2), 0);
	assert_int_equal(settle(b, &l, 7), FRAME_CONFLICT);
	assert_int_equal(settle(b, &l, 1), FRAME_APPLIED);
	assert_int_equal(settle(b, &l, 1), FRAME_CONFLICT);
	expect_read_at(a, 2, 1, "key", NULL);
	a->ops->close(a);
	b->ops->close(b);
	c->ops->close(c);
}

static void
a_lease_that_is_not_settled_is_given_again(void **state)
{
	struct store *s = open_store("embedded:", &leased, 1);
	struct store_batch *b;
	struct store_lease l;

	(void)state;
	put(s, 0, "key", "value", 1);
	l = wait_lease(s);
	l = wait_lease(s);
	b = new_batch(s);
	frame_read(&b->part[0].request, 0, "key", 3, true);
	finish(s, b);
	s->ops->free(s, b);
	/* That was a touch: it lives on. */
	assert_int_equal(settle(s, &l, 1), FRAME_CONFLICT);
	l = wait_lease(s);
	assert_int_equal(settle(s, &l, 1), FRAME_APPLIED);
	s->ops->close(s);
}

/* --- Threads ------------------------------------------------------------------ */

/* One addition: read, add, write if nobody did meanwhile; again until it is done. */
static void
add_one(struct store *s, uint64_t *version)
{
	struct frame_value v = { 0 };
	uint64_t sum = 0;

	do {
		struct store_batch *b = new_batch(s);

		frame_read(&b->part[0].request, 0, "sum", 3, true);
		finish(s, b);
		assert_int_equal(frame_reply_next(&b->part[0].reply, &v), 1);
		if (v.answer == FRAME_HIT)
			memcpy(&sum, v.value, sizeof(sum));
		uint64_t seen = v.version;
		s->ops->free(s, b);

		b = new_batch(s);
		uint8_t *group = frame_group(&b->part[0].request, *version += N_THREADS);
		sum++;
		frame_check(&b->part[0].request, FRAME_CHECK, 0, "sum", 3, seen);
		frame_put(&b->part[0].request, 0, "sum", 3, 1, &sum, sizeof(sum), 0,
			  0);
		frame_group_end(group, 2);
		finish(s, b);
		assert_int_equal(frame_reply_next(&b->part[0].reply, &v), 1);
		s->ops->free(s, b);
	} while (v.answer != FRAME_APPLIED);
}

static void *
add_many(void *context)
{
	struct store *s = open_store("embedded:", tables, 2);
	uint64_t version = *(uint64_t *)context;

	for (unsigned int i = 0; i < N_ADDITIONS; i++)
		add_one(s, &version);
	s->ops->close(s);
	return NULL;
}

static void
no_update_of_any_thread_is_lost(void **state)
{
	struct store *s = open_store("embedded:", tables, 2);
	uint64_t first[N_THREADS], sum = 0;
	pthread_t thread[N_THREADS];
	struct frame_value v = { 0 };

	(void)state;
	for (unsigned int i = 0; i < N_THREADS; i++) {
		first[i] = i + 1;
		assert_int_equal(pthread_create(&thread[i], NULL, add_many, &first[i]),
				 0);
	}
	for (unsigned int i = 0; i < N_THREADS; i++)
		pthread_join(thread[i], NULL);
	struct store_batch *b = new_batch(s);
	frame_read(&b->part[0].request, 0, "sum", 3, true);
	finish(s, b);
	assert_int_equal(frame_reply_next(&b->part[0].reply, &v), 1);
	memcpy(&sum, v.value, sizeof(sum));
	assert_int_equal(sum, N_THREADS * N_ADDITIONS);
	s->ops->free(s, b);
	s->ops->close(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stores_of_one_url_share_their_records),
		cmocka_unit_test(tables_are_named_by_each_stores_own_index),
		cmocka_unit_test(a_table_of_another_size_is_refused),
		cmocka_unit_test(batches_come_back_in_order),
		cmocka_unit_test(a_wrong_frame_fails_alone),
		cmocka_unit_test(an_idle_record_goes),
		cmocka_unit_test(partitions_hold_their_own_and_answer_together),
		cmocka_unit_test(a_lease_is_given_to_one_store_and_settled_once),
		cmocka_unit_test(a_lease_that_is_not_settled_is_given_again),
		cmocka_unit_test(no_update_of_any_thread_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
