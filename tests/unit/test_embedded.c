/*
 * test_embedded.c - the store in this process, as pipes use it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <time.h>

#include "store/store.h"

enum { N_THREADS = 4, N_ADDITIONS = 2000 };

static const struct store_table tables[] = {
	{ "test.one", 16, 64, 1 },
	{ "test.two", 16, 64, 1 },
};

static struct store *
open_store(const char *url, const struct store_table *t, unsigned int n)
{
	struct store_options options = { .url = url };
	struct store *s = NULL;
	char why[128] = "";
	int err = store_embedded_ops.open(&options, t, n, &s, why, sizeof(why));

	if (err != 0)
		fail_msg("%s", why);
	return s;
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
	assert_int_equal(b->error, 0);
}

static void
put(struct store *s, uint8_t table, const char *key, const char *value, uint32_t idle_ms)
{
	struct store_batch *b = new_batch(s);
	uint8_t *group = frame_group(&b->request, 1);

	frame_put(&b->request, table, key, (uint8_t)strlen(key), 1, value,
		  (uint16_t)strlen(value), idle_ms);
	frame_group_end(group, 1);
	finish(s, b);
	s->ops->free(s, b);
}

static void
expect_read(struct store *s, uint8_t table, const char *key, const char *want)
{
	struct store_batch *b = new_batch(s);
	struct frame_value v = { 0 };

	frame_read(&b->request, table, key, (uint8_t)strlen(key), false);
	finish(s, b);
	assert_int_equal(frame_reply_next(&b->reply, &v), 1);
	assert_int_equal(v.answer, want == NULL ? FRAME_MISS : FRAME_HIT);
	if (want != NULL) {
		assert_int_equal(v.value_bytes, strlen(want));
		assert_memory_equal(v.value, want, v.value_bytes);
		assert_int_equal((uintptr_t)v.value % 8, 0);
	}
	assert_int_equal(frame_reply_next(&b->reply, &v), 0);
	s->ops->free(s, b);
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
	const struct store_table bigger = { "test.one", 16, 65, 1 };
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
	assert_int_equal(s->ops->wait_fd(s, &timeout_ms), -1);
	assert_true(timeout_ms > 0);
	for (unsigned int i = 0; i < STORE_BATCHES; i++)
		b[i] = new_batch(s);
	assert_null(s->ops->batch(s));
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		assert_int_equal(s->ops->submit(s, b[i]), 0);
	assert_int_equal(s->ops->submit(s, b[STORE_INFLIGHT]), -EAGAIN);
	s->ops->wait_fd(s, &timeout_ms);
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
	frame_read(&b->request, 2, "key", 3, true);
	assert_int_equal(s->ops->submit(s, b), 0);
	assert_int_equal(s->ops->poll(s, &done, 1), 1);
	assert_int_equal(b->error, -EBADMSG);
	assert_int_equal(frame_reply_next(&b->reply, &v), 0);
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

	frame_read(&b->request, 0, key, (uint8_t)strlen(key), false);
	finish(s, b);
	assert_int_equal(frame_reply_next(&b->reply, &v), 1);
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

/* One addition: read, add, write if nobody did meanwhile; again until it is done. */
static void
add_one(struct store *s, uint64_t *version)
{
	struct frame_value v = { 0 };
	uint64_t sum = 0;

	do {
		struct store_batch *b = new_batch(s);

		frame_read(&b->request, 0, "sum", 3, true);
		finish(s, b);
		assert_int_equal(frame_reply_next(&b->reply, &v), 1);
		if (v.answer == FRAME_HIT)
			memcpy(&sum, v.value, sizeof(sum));
		uint64_t seen = v.version;
		s->ops->free(s, b);

		b = new_batch(s);
		uint8_t *group = frame_group(&b->request, *version += N_THREADS);
		sum++;
		frame_check(&b->request, 0, "sum", 3, seen);
		frame_put(&b->request, 0, "sum", 3, 1, &sum, sizeof(sum), 0);
		frame_group_end(group, 2);
		finish(s, b);
		assert_int_equal(frame_reply_next(&b->reply, &v), 1);
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
	frame_read(&b->request, 0, "sum", 3, true);
	finish(s, b);
	assert_int_equal(frame_reply_next(&b->reply, &v), 1);
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
		cmocka_unit_test(no_update_of_any_thread_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
