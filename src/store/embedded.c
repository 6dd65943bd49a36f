/*
 * embedded.c - the store in this process: the traditional function, and the baseline
 * that the remote one is measured against.
 *
 * All stores of a process that are opened with the same URL share one partition; a
 * lock is held for each frame.  submit() applies the frame there and then, so there is
 * nothing to wait for, nothing is lost, and a restart forgets everything.
 */
#include "store/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "store/core.h"

enum {
	EMBEDDED_EXPIRE = 256,			/* Records that one poll() looks at. */
	EMBEDDED_ALIGN = 64,
};

/* A partition and who uses it.  Lives until its last store is closed. */
struct shared {
	struct shared *next;
	unsigned int n_users;			/* Under 'all_lock', as 'next'. */
	pthread_mutex_t lock;			/* Of the rest. */
	struct partition *partition;
	_Atomic uint64_t expired_ms;		/* When expiry was last looked after. */
	_Atomic bool more;			/* It was not all done. */
	char url[];
};

struct embedded_batch {
	struct store_batch batch;		/* First: the caller's pointer. */
	uint8_t *request;
	struct buffer reply;
};

struct embedded {
	struct store store;			/* First: the caller's pointer. */
	struct shared *shared;
	uint64_t client, next_id;
	uint8_t table_ids[STORE_MAX_TABLES];
	unsigned int n_tables;
	bool same_ids;				/* All are the caller's own indexes. */
	/* The last one freed is the next one used: it is still in the cache. */
	unsigned int n_free;
	struct embedded_batch *free[STORE_BATCHES];
	unsigned int first, n_done;
	struct store_batch *done[STORE_INFLIGHT];
	struct embedded_batch batch[STORE_BATCHES];
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct shared *all;

static uint64_t
coarse_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- The partition ------------------------------------------------------------- */

static int
shared_new(const char *url, struct shared **out)
{
	struct shared *s = calloc(1, sizeof(*s) + strlen(url) + 1);
	uint64_t random[3];
	pthread_mutexattr_t attr;
	int err;

	if (s == NULL)
		return -ENOMEM;
	err = getrandom(random, sizeof(random), 0) == sizeof(random) ? 0 : -EIO;
	if (err == 0)
		err = partition_new(random[2] | 1, random, &s->partition);
	if (err != 0) {
		free(s);
		return err;
	}
	/* Frames take microseconds: a short spin saves most sleeps. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&s->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	strcpy(s->url, url);
	*out = s;
	return 0;
}

static int
shared_open(const char *url, struct shared **out)
{
	struct shared *s;
	int err = 0;

	pthread_mutex_lock(&all_lock);
	for (s = all; s != NULL && strcmp(s->url, url) != 0;)
		s = s->next;
	if (s == NULL) {
		err = shared_new(url, &s);
		if (err == 0) {
			s->next = all;
			all = s;
		}
	}
	if (err == 0) {
		s->n_users++;
		*out = s;
	}
	pthread_mutex_unlock(&all_lock);
	return err;
}

static void
shared_close(struct shared *s)
{
	struct shared **at = &all;
	bool last;

	pthread_mutex_lock(&all_lock);
	last = --s->n_users == 0;
	if (last) {
		while (*at != s)
			at = &(*at)->next;
		*at = s->next;
	}
	pthread_mutex_unlock(&all_lock);
	if (!last)
		return;
	partition_free(s->partition);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static bool
expire_wanted(struct shared *s, uint64_t now_ms)
{
	return atomic_load_explicit(&s->more, memory_order_relaxed) ||
	       now_ms - atomic_load_explicit(&s->expired_ms, memory_order_relaxed) >=
		       WHEEL_TICK_MS;
}

/* Deletes some of what has expired, unless someone else is at it. */
static void
shared_expire(struct shared *s, uint64_t now_ms)
{
	if (!expire_wanted(s, now_ms) || pthread_mutex_trylock(&s->lock) != 0)
		return;
	if (expire_wanted(s, now_ms)) {
		s->more = partition_expire(s->partition, now_ms, EMBEDDED_EXPIRE, NULL) ==
			  EMBEDDED_EXPIRE;
		s->expired_ms = now_ms;
	}
	pthread_mutex_unlock(&s->lock);
}

/* --- Batches ------------------------------------------------------------------- */

static struct store_batch *
embedded_batch(struct store *store)
{
	struct embedded *e = (struct embedded *)store;
	struct embedded_batch *b;

	if (e->n_free == 0)
		return NULL;
	b = e->free[--e->n_free];
	frame_init(&b->batch.request, b->request, FRAME_MAX_BYTES);
	b->batch.reply = (struct frame_cursor){ NULL, NULL };
	b->batch.error = 0;
	b->batch.owner = NULL;
	return &b->batch;
}

static void
embedded_free(struct store *store, struct store_batch *batch)
{
	struct embedded *e = (struct embedded *)store;

	e->free[e->n_free++] = (struct embedded_batch *)batch;
}

static int
batch_apply(struct embedded *e, struct embedded_batch *b)
{
	const struct frame *request = &b->batch.request;
	size_t bytes = (size_t)(request->at - request->start);
	struct shared *s = e->shared;
	struct frame_reply_head head;
	int err;

	b->reply.bytes = 0;
	pthread_mutex_lock(&s->lock);
	err = partition_apply(s->partition, request->start, bytes, coarse_ms(), false,
			      &b->reply, NULL);
	pthread_mutex_unlock(&s->lock);
	if (err != 0)
		return err;
	return frame_reply_open(b->reply.data, b->reply.bytes, &head, &b->batch.reply);
}

static int
embedded_submit(struct store *store, struct store_batch *batch)
{
	struct embedded *e = (struct embedded *)store;

	if (e->n_done == STORE_INFLIGHT)
		return -EAGAIN;
	if (!e->same_ids)
		frame_map_tables(&batch->request, e->table_ids, e->n_tables);
	frame_finish(&batch->request, partition_generation(e->shared->partition),
		     e->client, ++e->next_id);
	batch->error = batch_apply(e, (struct embedded_batch *)batch);
	e->done[(e->first + e->n_done++) % STORE_INFLIGHT] = batch;
	return 0;
}

static unsigned int
embedded_poll(struct store *store, struct store_batch **done, unsigned int max)
{
	struct embedded *e = (struct embedded *)store;
	uint64_t now_ms = coarse_ms();
	unsigned int n = 0;

	shared_expire(e->shared, now_ms);
	for (; n < max && e->n_done > 0; n++) {
		done[n] = e->done[e->first];
		e->first = (e->first + 1) % STORE_INFLIGHT;
		e->n_done--;
	}
	return n;
}

static int
embedded_wait_fd(struct store *store, int *timeout_ms)
{
	const struct embedded *e = (struct embedded *)store;

	*timeout_ms = e->n_done > 0 ? 0 : WHEEL_TICK_MS;
	return -1;
}

static enum store_health
embedded_health(const struct store *store)
{
	(void)store;
	return STORE_CONNECTED;
}

/* --- Start and end ------------------------------------------------------------- */

static void
embedded_close(struct store *store)
{
	struct embedded *e = (struct embedded *)store;

	if (e == NULL)
		return;
	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		free(e->batch[i].request);
		buffer_fini(&e->batch[i].reply);
	}
	if (e->shared != NULL)
		shared_close(e->shared);
	free(e);
}

static int
declare_tables(struct embedded *e, const struct store_table *tables,
	       unsigned int n_tables, char *why, size_t why_bytes)
{
	int id = 0;

	e->n_tables = n_tables;
	e->same_ids = true;
	pthread_mutex_lock(&e->shared->lock);
	for (unsigned int i = 0; i < n_tables && id >= 0; i++) {
		id = partition_declare(e->shared->partition, tables[i].name,
				       tables[i].key_max, tables[i].value_max,
				       tables[i].format);
		e->table_ids[i] = (uint8_t)id;
		e->same_ids &= id == (int)i;
		if (id < 0)
			snprintf(why, why_bytes, "table %s: %s", tables[i].name,
				 id == -EEXIST ? "declared before with other sizes"
				 : id == -ENOSPC ? "too many tables"
						 : "its name or sizes are out of range");
	}
	pthread_mutex_unlock(&e->shared->lock);
	return id < 0 ? id : 0;
}

static int
embedded_open(const struct store_options *options, const struct store_table *tables,
	      unsigned int n_tables, struct store **out, char *why, size_t why_bytes)
{
	struct embedded *e = calloc(1, sizeof(*e));
	int err = -ENOMEM;

	snprintf(why, why_bytes, "no memory");
	if (e == NULL)
		return err;
	e->store.ops = &store_embedded_ops;
	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		/* Touched, and so paid for, only as far as frames reach. */
		e->batch[i].request = aligned_alloc(EMBEDDED_ALIGN, FRAME_MAX_BYTES);
		if (e->batch[i].request == NULL)
			goto close;
		e->free[e->n_free++] = &e->batch[i];
	}
	err = getrandom(&e->client, sizeof(e->client), 0) == sizeof(e->client) ? 0 : -EIO;
	if (err == 0)
		err = shared_open(options->url, &e->shared);
	if (err != 0) {
		snprintf(why, why_bytes, "embedded store: %s", strerror(-err));
		goto close;
	}
	err = declare_tables(e, tables, n_tables, why, why_bytes);
	if (err != 0)
		goto close;
	*out = &e->store;
	return 0;
close:
	embedded_close(&e->store);
	return err;
}

const struct store_ops store_embedded_ops = {
	.scheme = "embedded",
	.open = embedded_open,
	.batch = embedded_batch,
	.submit = embedded_submit,
	.poll = embedded_poll,
	.free = embedded_free,
	.wait_fd = embedded_wait_fd,
	.health = embedded_health,
	.close = embedded_close,
};
