/*
 * embedded.c - the store in this process: the traditional function, and the baseline
 * that the remote one is measured against.
 *
 * All stores of a process that are opened with the same URL share its partitions; a
 * lock is held for each batch.  submit() applies the frames there and then, so there is
 * nothing to wait for, nothing is lost, every batch is final at once, and a restart
 * forgets everything.  The process is its own primary: its term never ends.
 */
#include "store/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"
#include "store/core.h"
#include "store/pool.h"

enum {
	EMBEDDED_EXPIRE = 256,			/* Records that one poll() looks at. */
};

/* Partitions and who uses them.  Lives until its last store is closed. */
struct shared {
	struct shared *next;
	unsigned int n_users;			/* Under 'all_lock', as 'next'. */
	pthread_mutex_t lock;			/* Of the rest. */
	unsigned int n_partitions;		/* Constant, as 'term'. */
	uint64_t term;
	struct partition *partition[STORE_MAX_PARTITIONS];
	unsigned int next_expired, next_leased;	/* They take turns. */
	_Atomic uint64_t expired_ms;		/* When expiry was last looked after. */
	_Atomic bool more;			/* It was not all done. */
	_Atomic bool due;			/* There may be a lease to give. */
	char url[];
};

struct embedded {
	struct store store;			/* First: the caller's pointer. */
	struct shared *shared;
	uint64_t client, next_id;
	uint8_t table_id[STORE_MAX_TABLES];
	uint8_t index[UINT8_MAX + 1];		/* The reverse; UINT8_MAX: not ours. */
	unsigned int n_tables;
	bool same_ids;				/* All are the caller's own indexes. */
	bool leases;				/* One of them is leased. */
	struct pool pool;
	struct store_batch batch[STORE_BATCHES];
	struct buffer *reply;			/* One for each part, as in the pool. */
	struct buffer lease;			/* The last due()'s. */
	unsigned int first, n_done;
	struct store_batch *done[STORE_INFLIGHT];
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct shared *all;

/* --- The partitions ----------------------------------------------------------- */

static void
shared_free(struct shared *s)
{
	for (unsigned int i = 0; i < s->n_partitions; i++)
		partition_free(s->partition[i]);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int
shared_new(const char *url, unsigned int n_partitions, struct shared **out)
{
	struct shared *s = calloc(1, sizeof(*s) + strlen(url) + 1);
	uint64_t random[3];
	pthread_mutexattr_t attr;
	int err = 0;

	if (s == NULL)
		return -ENOMEM;
	/* Batches take microseconds: a short spin saves most sleeps. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&s->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	strcpy(s->url, url);
	for (; err == 0 && s->n_partitions < n_partitions; s->n_partitions++) {
		err = getrandom(random, sizeof(random), 0) == sizeof(random) ? 0 : -EIO;
		s->term = random[0] >> 2 | 1;
		if (err == 0)
			err = partition_new(random[2] >> 1 | 1, n_partitions, random,
					    &s->partition[s->n_partitions]);
	}
	if (err != 0) {
		shared_free(s);
		return err;
	}
	*out = s;
	return 0;
}

static int
shared_open(const char *url, unsigned int n_partitions, struct shared **out)
{
	struct shared *s;
	int err = 0;

	pthread_mutex_lock(&all_lock);
	for (s = all; s != NULL && strcmp(s->url, url) != 0;)
		s = s->next;
	if (s == NULL) {
		err = shared_new(url, n_partitions, &s);
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
	if (last)
		shared_free(s);
}

static bool
expire_wanted(struct shared *s, uint64_t now_ms)
{
	return atomic_load_explicit(&s->more, memory_order_relaxed) ||
	       now_ms - atomic_load_explicit(&s->expired_ms, memory_order_relaxed) >=
		       WHEEL_TICK_MS;
}

static void
expire_some(struct shared *s, uint64_t now_ms)
{
	unsigned int n = EMBEDDED_EXPIRE;

	for (unsigned int i = 0; i < s->n_partitions && n > 0; i++) {
		struct partition *p = s->partition[s->next_expired];

		n -= partition_expire(p, now_ms, n, NULL);
		if (partition_due_tables(p) != 0)
			s->due = true;
		/* One that was not done is the first of the next turn. */
		if (n > 0)
			s->next_expired = (s->next_expired + 1) % s->n_partitions;
	}
	s->more = n == 0;
	s->expired_ms = now_ms;
}

/* Deletes some of what has expired, unless someone else is at it. */
static void
shared_expire(struct shared *s, uint64_t now_ms)
{
	if (!expire_wanted(s, now_ms) || pthread_mutex_trylock(&s->lock) != 0)
		return;
	if (expire_wanted(s, now_ms))
		expire_some(s, now_ms);
	pthread_mutex_unlock(&s->lock);
}

/* --- Batches ------------------------------------------------------------------ */

static struct store_batch *
embedded_batch(struct store *store)
{
	struct embedded *e = (struct embedded *)store;
	struct store_batch empty;
	int number = pool_take(&e->pool, &empty);

	if (number < 0)
		return NULL;
	e->batch[number] = empty;
	e->batch[number].final = true;
	return &e->batch[number];
}

static void
embedded_free(struct store *store, struct store_batch *batch)
{
	struct embedded *e = (struct embedded *)store;

	pool_give(&e->pool, (unsigned int)(batch - e->batch));
}

static int
part_apply(struct embedded *e, struct partition *p, struct store_part *part,
	   uint64_t now_ms)
{
	struct buffer *reply = &e->reply[part - e->pool.part];
	struct frame *f = &part->request;
	struct frame_reply_head head;
	int err;

	if (!e->same_ids)
		frame_map_tables(f, e->table_id, e->n_tables);
	frame_finish(f, partition_generation(p), e->shared->term, e->client,
		     ++e->next_id);
	reply->bytes = 0;
	err = partition_apply(p, f->start, (size_t)(f->at - f->start), e->shared->term,
			      now_ms, false, reply, NULL);
	if (err != 0)
		return err;
	return frame_reply_open(reply->data, reply->bytes, &head, &part->reply);
}

static int
embedded_submit(struct store *store, struct store_batch *batch)
{
	struct embedded *e = (struct embedded *)store;
	struct shared *s = e->shared;

	if (e->n_done == STORE_INFLIGHT)
		return -EAGAIN;
	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < s->n_partitions; i++) {
		struct store_part *part = &batch->part[i];

		if (!frame_is_empty(&part->request))
			part->error = part_apply(e, s->partition[i], part, clock_coarse_ms());
	}
	pthread_mutex_unlock(&s->lock);
	e->done[(e->first + e->n_done++) % STORE_INFLIGHT] = batch;
	return 0;
}

static unsigned int
embedded_poll(struct store *store, struct store_batch **done, unsigned int max)
{
	struct embedded *e = (struct embedded *)store;
	unsigned int n = 0;

	shared_expire(e->shared, clock_coarse_ms());
	for (; n < max && e->n_done > 0; n++) {
		done[n] = e->done[e->first];
		e->first = (e->first + 1) % STORE_INFLIGHT;
		e->n_done--;
	}
	return n;
}

/* --- Leases ------------------------------------------------------------------- */

/* Leases records of the next partition that has some.  Returns its number, or -1. */
static int
shared_lease(struct shared *s, unsigned int max, struct buffer *out)
{
	int found = -1;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < s->n_partitions && found < 0; i++) {
		unsigned int at = s->next_leased;

		s->next_leased = (at + 1) % s->n_partitions;
		out->bytes = 0;
		if (partition_lease(s->partition[at], clock_coarse_ms(), UINT64_MAX, max,
				    out) > 0)
			found = (int)at;
	}
	if (found < 0)
		s->due = false;
	pthread_mutex_unlock(&s->lock);
	return found;
}

static unsigned int
embedded_due(struct store *store, struct store_lease *lease, unsigned int max)
{
	struct embedded *e = (struct embedded *)store;
	struct frame_cursor c;
	unsigned int n = 0;

	if (!e->leases || max == 0 ||
	    !atomic_load_explicit(&e->shared->due, memory_order_relaxed))
		return 0;

	int at = shared_lease(e->shared, max < STORE_MAX_LEASES ? max : STORE_MAX_LEASES,
			      &e->lease);

	if (at < 0 || frame_leases_open(e->lease.data, e->lease.bytes, &c) != 0)
		return 0;
	while (frame_lease_next(&c, &lease[n].record) == 1) {
		/* Another store's table: its instances get it when this lease ends. */
		if (e->index[lease[n].record.table] == UINT8_MAX)
			continue;
		lease[n].record.table = e->index[lease[n].record.table];
		lease[n++].partition = (unsigned int)at;
	}
	return n;
}

static unsigned int
embedded_wait_fds(struct store *store, int *fd, unsigned int max, int *timeout_ms)
{
	const struct embedded *e = (struct embedded *)store;

	(void)fd, (void)max;
	*timeout_ms = e->n_done > 0 || (e->leases && e->shared->due) ? 0 : WHEEL_TICK_MS;
	return 0;
}

static enum store_health
embedded_health(const struct store *store)
{
	(void)store;
	return STORE_CONNECTED;
}

/* --- Start and end ------------------------------------------------------------ */

static void
embedded_close(struct store *store)
{
	struct embedded *e = (struct embedded *)store;

	if (e == NULL)
		return;
	for (unsigned int i = 0; e->reply != NULL && i < STORE_BATCHES; i++)
		for (unsigned int k = 0; k < e->pool.n_partitions; k++)
			buffer_fini(&e->reply[i * e->pool.n_partitions + k]);
	free(e->reply);
	buffer_fini(&e->lease);
	pool_fini(&e->pool);
	if (e->shared != NULL)
		shared_close(e->shared);
	free(e);
}

/* All partitions are declared the same under one lock, so they have the same ids. */
static int
declare_table(struct embedded *e, const struct store_table *t)
{
	unsigned int n = e->shared->n_partitions;
	const struct core_declaration d = {
		.name = t->name,
		.key_max = t->key_max,
		.value_max = t->value_max,
		.format = t->format,
		.flags = (uint8_t)((t->leased ? CORE_LEASED : 0) |
				   (t->evict ? CORE_EVICT : 0)),
		.limit = t->limit / n + (t->limit % n != 0),
	};
	int id = 0;

	for (unsigned int i = 0; i < n && id >= 0; i++)
		id = partition_declare(e->shared->partition[i], &d);
	return id;
}

static int
declare_tables(struct embedded *e, const struct store_table *tables,
	       unsigned int n_tables, char *why, size_t why_bytes)
{
	int id = 0;

	e->n_tables = n_tables;
	e->same_ids = true;
	memset(e->index, UINT8_MAX, sizeof(e->index));
	pthread_mutex_lock(&e->shared->lock);
	for (unsigned int i = 0; i < n_tables && id >= 0; i++) {
		id = declare_table(e, &tables[i]);
		if (id < 0) {
			snprintf(why, why_bytes, "table %s: %s", tables[i].name,
				 id == -EEXIST ? "declared before with other sizes"
				 : id == -ENOSPC
					 ? "too many tables"
					 : "its name, sizes or flags are out of range");
			continue;
		}
		e->table_id[i] = (uint8_t)id;
		e->index[id] = (uint8_t)i;
		e->same_ids &= id == (int)i;
		e->leases |= tables[i].leased;
	}
	pthread_mutex_unlock(&e->shared->lock);
	return id < 0 ? id : 0;
}

static int
embedded_init(struct embedded *e, const char *url, unsigned int n_partitions)
{
	int err = pool_init(&e->pool, n_partitions, 0, 0);

	if (err != 0)
		return err;
	e->reply = calloc((size_t)STORE_BATCHES * n_partitions, sizeof(*e->reply));
	if (e->reply == NULL)
		return -ENOMEM;
	if (getrandom(&e->client, sizeof(e->client), 0) != sizeof(e->client))
		return -EIO;
	return shared_open(url, n_partitions, &e->shared);
}

static int
embedded_open(const struct store_options *options, const struct store_table *tables,
	      unsigned int n_tables, struct store **out, char *why, size_t why_bytes)
{
	unsigned int n = options->n_partitions != 0 ? options->n_partitions : 1;
	struct embedded *e = calloc(1, sizeof(*e));
	int err;

	if (e == NULL || n > STORE_MAX_PARTITIONS) {
		snprintf(why, why_bytes, e == NULL ? "no memory" : "too many partitions");
		free(e);
		return -EINVAL;
	}
	e->store.ops = &store_embedded_ops;
	e->store.n_partitions = n;
	err = embedded_init(e, options->url, n);
	if (err != 0) {
		snprintf(why, why_bytes, "embedded store: %s", strerror(-err));
		goto close;
	}
	if (e->shared->n_partitions != n) {
		snprintf(why, why_bytes, "the store has %u partitions, not %u",
			 e->shared->n_partitions, n);
		err = -EINVAL;
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

static uint64_t
embedded_term(const struct store *store, unsigned int partition)
{
	(void)partition;
	return ((const struct embedded *)store)->shared->term;
}

const struct store_ops store_embedded_ops = {
	.scheme = "embedded",
	.open = embedded_open,
	.batch = embedded_batch,
	.submit = embedded_submit,
	.poll = embedded_poll,
	.free = embedded_free,
	.due = embedded_due,
	.wait_fds = embedded_wait_fds,
	.health = embedded_health,
	.term = embedded_term,
	.close = embedded_close,
};
