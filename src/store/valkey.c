/*
 * valkey.c - the store over the network: its partitions are keys of the module in one
 * Redis or Valkey server, or in several.
 *
 * A batch is split by its caller: each part goes its own way over the channel of its
 * partition, and the batch comes back when all of them are answered, and once more when
 * all of them are final.  Batches come back in order, so one whose partition is lost
 * holds up those behind it, but for no longer than the timeout: then its part has failed,
 * and until the partition is there again, such parts fail at once.
 *
 * Which parts need replicas is found out here, from the tables that their groups write.
 * A frame without groups is never looked at, nor any while no table asks for replicas.
 * Where STORE_COMMIT_AUTO still stands at 0, the channels look out for a replica.
 */
#define _GNU_SOURCE
#include "store/store.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/channel.h"
#include "store/pool.h"

enum {
	VALKEY_TIMEOUT_MS = 1000,
	VALKEY_CLUSTER_PARTITIONS = 16,
	VALKEY_RING = 64,
};

struct valkey_batch {
	struct store_batch batch;		/* First. */
	struct channel_part *part;		/* Constant. */
	struct channel_counts left;
	bool commits;				/* Some part needs replicas. */
};

struct valkey_ring {
	struct valkey_batch *slot[VALKEY_RING];
	unsigned int first, n;
};

static_assert(VALKEY_RING + 0 >= STORE_INFLIGHT + STORE_UNCOMMITTED,
	      "room for all batches");

struct valkey {
	struct store store;			/* First. */
	struct store_url url;
	struct channel *channel;		/* One for each partition. */
	struct pool pool;
	struct channel_part *part;		/* As in the pool. */
	struct valkey_batch batch[STORE_BATCHES];
	struct valkey_ring asked;		/* Not given back yet. */
	struct valkey_ring given;		/* Once, and not final then. */
	unsigned int n_committing;		/* In either. */
	unsigned int timeout_ms, n_tables;
	/* By table: as declared, and as it is now that STORE_COMMIT_AUTO is known. */
	uint8_t declared[STORE_MAX_TABLES], commit[STORE_MAX_TABLES];
	uint8_t most_commit;			/* The highest of them. */
	bool watching;				/* AUTO is 0: no replica was seen yet. */
	uint64_t leased;			/* Tables that are, a bit each. */
	unsigned int next_lease;		/* Partitions take turns. */
};

static inline struct valkey_batch *
front(const struct valkey_ring *r)
{
	return r->slot[r->first % VALKEY_RING];
}

static inline void
push(struct valkey_ring *r, struct valkey_batch *b)
{
	r->slot[(r->first + r->n++) % VALKEY_RING] = b;
}

static inline void
pop(struct valkey_ring *r)
{
	r->first++;
	r->n--;
}

/* --- Replicas ----------------------------------------------------------------- */

static void
commit_set(struct valkey *v)
{
	v->most_commit = 0;
	for (unsigned int i = 0; i < v->n_tables; i++) {
		v->commit[i] = v->declared[i] != STORE_COMMIT_AUTO ? v->declared[i]
								   : !v->watching;
		if (v->commit[i] > v->most_commit)
			v->most_commit = v->commit[i];
	}
}

/* A store that had a replica once is never again taken for one that needs none. */
static void
note_replicas(struct valkey *v)
{
	bool any = false;

	for (unsigned int i = 0; i < v->store.n_partitions; i++)
		any |= v->channel[i].replicated;
	if (!any)
		return;
	v->watching = false;
	for (unsigned int i = 0; i < v->store.n_partitions; i++)
		v->channel[i].watch = false;
	commit_set(v);
	log_info("store", "%s: it has a replica: a write counts when that has it",
		 v->url.shown);
}

/* How many replicas have to have what the groups of a frame, which has some, write. */
static uint8_t
commit_of(const struct valkey *v, const struct frame *f)
{
	static const unsigned int writes = 1u << FRAME_PUT | 1u << FRAME_DELETE |
					   1u << FRAME_SETTLE | 1u << FRAME_ADD |
					   1u << FRAME_TAKE | 1u << FRAME_GIVE;
	struct frame_cursor c = { f->groups, f->at };
	struct frame_op op;
	uint8_t most = 0;

	while (most < v->most_commit && frame_next(&c, &op) == 1)
		if ((writes >> op.kind & 1) != 0 && op.table < v->n_tables &&
		    v->commit[op.table] > most)
			most = v->commit[op.table];
	return most;
}

/* Finds out what the batch asks for.  Returns whether there is room for it. */
static bool
batch_look(const struct valkey *v, struct valkey_batch *b)
{
	bool room = true;

	b->commits = false;
	for (unsigned int i = 0; i < v->store.n_partitions; i++) {
		const struct frame *f = &b->batch.part[i].request;
		struct channel_part *p = &b->part[i];

		p->has_groups = f->groups != NULL && f->groups < f->at;
		p->commit = p->has_groups && !b->batch.part[i].may_lose &&
					    v->most_commit > 0
				    ? commit_of(v, f) : 0;
		b->commits |= p->commit > 0;
		room &= !p->has_groups || !channel_is_full(&v->channel[i]);
	}
	return room && (!b->commits || v->n_committing < STORE_UNCOMMITTED);
}

/* --- Batches ------------------------------------------------------------------ */

static struct store_batch *
valkey_batch(struct store *store)
{
	struct valkey *v = (struct valkey *)store;
	struct store_batch empty;
	int number = pool_take(&v->pool, &empty);

	if (number < 0)
		return NULL;
	v->batch[number].batch = empty;
	return &v->batch[number].batch;
}

static void
valkey_free(struct store *store, struct store_batch *batch)
{
	struct valkey *v = (struct valkey *)store;

	pool_give(&v->pool, (unsigned int)((struct valkey_batch *)batch - v->batch));
}

static int
valkey_submit(struct store *store, struct store_batch *batch)
{
	struct valkey *v = (struct valkey *)store;
	struct valkey_batch *b = (struct valkey_batch *)batch;
	uint64_t now_ms = clock_coarse_ms();
	unsigned int n_lost = 0, n_there = 0;

	if (v->asked.n == STORE_INFLIGHT || !batch_look(v, b))
		return -EAGAIN;
	for (unsigned int i = 0; i < store->n_partitions; i++) {
		if (frame_is_empty(&batch->part[i].request))
			continue;
		if (channel_is_lost(&v->channel[i], now_ms)) {
			batch->part[i].error = -ENOTCONN;
			n_lost++;
			continue;
		}
		batch->part[i].error = 0;
		channel_submit(&v->channel[i], &b->part[i], now_ms);
		n_there++;
	}
	if (n_lost > 0 && n_there == 0)
		return -ENOTCONN;
	v->n_committing += b->commits;
	push(&v->asked, b);
	return 0;
}

/* The second time, or the only one: answers are what they are in the end. */
static void
batch_final(struct valkey *v, struct valkey_batch *b)
{
	b->batch.final = true;
	if (!b->commits)
		return;
	v->n_committing--;
	for (unsigned int i = 0; i < v->store.n_partitions; i++)
		if (b->batch.part[i].error == 0 &&
		    !frame_is_empty(&b->batch.part[i].request))
			channel_rewind(&b->part[i]);
}

static inline bool
has_done(const struct valkey *v)
{
	return (v->asked.n > 0 && front(&v->asked)->left.n_unanswered == 0) ||
	       (v->given.n > 0 && front(&v->given)->left.n_uncommitted == 0);
}

/* Those that were given back before come first: no batch is in 'done' twice. */
static unsigned int
give_back(struct valkey *v, struct store_batch **done, unsigned int max)
{
	unsigned int n = 0;

	for (; n < max && v->given.n > 0; pop(&v->given)) {
		struct valkey_batch *b = front(&v->given);

		if (b->left.n_uncommitted > 0)
			break;
		batch_final(v, b);
		done[n++] = &b->batch;
	}
	for (; n < max && v->asked.n > 0; pop(&v->asked)) {
		struct valkey_batch *b = front(&v->asked);

		if (b->left.n_unanswered > 0)
			break;
		if (b->left.n_uncommitted > 0)
			push(&v->given, b);
		else
			batch_final(v, b);
		done[n++] = &b->batch;
	}
	return n;
}

static unsigned int
valkey_poll(struct store *store, struct store_batch **done, unsigned int max)
{
	struct valkey *v = (struct valkey *)store;
	uint64_t now_ms;

	/* What is there is given first: the next look at the sockets finds more. */
	if (has_done(v) && max > 0)
		return give_back(v, done, max);
	now_ms = clock_coarse_ms();
	for (unsigned int i = 0; i < store->n_partitions; i++)
		channel_turn(&v->channel[i], now_ms);
	if (v->watching)
		note_replicas(v);
	return has_done(v) ? give_back(v, done, max) : 0;
}

/* --- Leases, and waiting ------------------------------------------------------ */

static unsigned int
valkey_due(struct store *store, struct store_lease *lease, unsigned int max)
{
	struct valkey *v = (struct valkey *)store;
	uint64_t now_ms;
	unsigned int n = 0;

	if (v->leased == 0)
		return 0;
	now_ms = clock_coarse_ms();
	max = max < STORE_MAX_LEASES ? max : STORE_MAX_LEASES;
	v->next_lease++;
	for (unsigned int i = 0; i < store->n_partitions; i++) {
		unsigned int at = (v->next_lease + i) % store->n_partitions;
		struct channel *c = &v->channel[at];

		channel_release(c, now_ms);
		for (; n < max && channel_lease(c, &lease[n].record); n++)
			lease[n].partition = at;
	}
	return n;
}

static unsigned int
valkey_wait_fds(struct store *store, int *fd, unsigned int max, int *timeout_ms)
{
	struct valkey *v = (struct valkey *)store;
	uint64_t now_ms = clock_coarse_ms(), until_ms = UINT64_MAX;
	unsigned int n = 0;

	for (unsigned int i = 0; i < store->n_partitions; i++)
		n += channel_wait_fds(&v->channel[i], fd + n, max - n, now_ms, &until_ms);
	if (has_done(v))
		until_ms = now_ms;
	*timeout_ms = until_ms == UINT64_MAX ? -1
		      : until_ms <= now_ms   ? 0
					     : (int)(until_ms - now_ms);
	return n;
}

static enum store_health
valkey_health(const struct store *store)
{
	const struct valkey *v = (const struct valkey *)store;
	enum store_health worst = STORE_CONNECTED;
	uint64_t now_ms = clock_coarse_ms();

	for (unsigned int i = 0; i < store->n_partitions; i++) {
		const struct channel *c = &v->channel[i];

		if (channel_is_lost(c, now_ms))
			return STORE_LOST;
		if (c->frames.state != LINK_UP)
			worst = STORE_CONNECTING;
	}
	return worst;
}

static uint64_t
valkey_term(const struct store *store, unsigned int partition)
{
	return ((const struct valkey *)store)->channel[partition].term;
}

/* --- Start and end ------------------------------------------------------------ */

static void
valkey_close(struct store *store)
{
	struct valkey *v = (struct valkey *)store;

	if (v == NULL)
		return;
	for (unsigned int i = 0; v->channel != NULL && i < store->n_partitions; i++)
		channel_fini(&v->channel[i]);
	for (unsigned int i = 0;
	     v->part != NULL && i < STORE_BATCHES * store->n_partitions; i++)
		channel_part_fini(&v->part[i]);
	free(v->channel);
	free(v->part);
	pool_fini(&v->pool);
	free(v);
}

static int
batches_init(struct valkey *v)
{
	unsigned int n = v->store.n_partitions;
	int err = pool_init(&v->pool, n, CHANNEL_RESERVE, CHANNEL_TAIL);

	if (err != 0)
		return err;
	v->part = calloc((size_t)STORE_BATCHES * n, sizeof(*v->part));
	if (v->part == NULL)
		return -ENOMEM;
	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		struct valkey_batch *b = &v->batch[i];

		b->part = v->part + i * n;
		for (unsigned int k = 0; k < n; k++) {
			b->part[k].part = v->pool.part + i * n + k;
			b->part[k].batch = &b->left;
		}
	}
	return 0;
}

/* 'why' is set to a link's reason if it is one. */
static int
channels_init(struct valkey *v, const struct store_table *tables, const char **why)
{
	unsigned int n = v->store.n_partitions;
	struct store_table table[STORE_MAX_TABLES];
	struct link_config config = { .url = &v->url,
				      .tables = table,
				      .n_tables = v->n_tables,
				      .n_partitions = n,
				      .timeout_ms = v->timeout_ms };
	uint64_t client;
	int err = 0;

	v->channel = calloc(n, sizeof(*v->channel));
	if (v->channel == NULL)
		return -ENOMEM;
	if (getrandom(&client, sizeof(client), 0) != sizeof(client))
		return -EIO;
	for (unsigned int i = 0; i < v->n_tables; i++) {
		table[i] = tables[i];
		table[i].limit = tables[i].limit / n + (tables[i].limit % n != 0);
		v->declared[i] = tables[i].commit;
		v->leased |= (uint64_t)tables[i].leased << i;
		v->watching |= tables[i].commit == STORE_COMMIT_AUTO;
	}
	commit_set(v);
	for (; err == 0 && config.partition < n; config.partition++) {
		struct channel *c = &v->channel[config.partition];

		c->watch = v->watching;
		err = channel_init(c, &config, client, v->leased);
		if (err != 0)
			*why = c->frames.reason;
	}
	return err;
}

/* Whether all are up: 0, -EINPROGRESS, or -EPROTO: one cannot come up.  'why' is set to
 * why one is not. */
static int
channels_up(const struct valkey *v, const char **why)
{
	int err = 0;

	for (unsigned int i = 0; i < v->store.n_partitions; i++) {
		const struct link *l = &v->channel[i].frames;

		if (l->state == LINK_UP)
			continue;
		*why = l->reason;
		if (l->hopeless)
			return -EPROTO;
		err = -EINPROGRESS;
	}
	return err;
}

/* Waits until all partitions are open, or one cannot be, or the timeout has passed. */
static int
wait_up(struct valkey *v, const char **why)
{
	uint64_t end_ms = clock_coarse_ms() + v->timeout_ms;

	for (;;) {
		int fd[STORE_MAX_PARTITIONS * LINK_MAX_FDS], wait_ms, err;
		struct pollfd p[STORE_MAX_PARTITIONS * LINK_MAX_FDS];
		struct store_batch *none;
		unsigned int n;

		valkey_poll(&v->store, &none, 0);
		n = valkey_wait_fds(&v->store, fd, sizeof(fd) / sizeof(fd[0]), &wait_ms);
		err = channels_up(v, why);
		if (err != -EINPROGRESS)
			return err;

		uint64_t now_ms = clock_coarse_ms();

		if (now_ms >= end_ms)
			return -ETIMEDOUT;
		for (unsigned int i = 0; i < n; i++)
			p[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
		if (wait_ms < 0 || (uint64_t)wait_ms > end_ms - now_ms)
			wait_ms = (int)(end_ms - now_ms);
		poll(p, n, wait_ms);
	}
}

static int
valkey_open(const struct store_options *options, const struct store_table *tables,
	    unsigned int n_tables, struct store **out, char *why, size_t why_bytes)
{
	struct valkey *v = calloc(1, sizeof(*v));
	const char *reason = "";
	int err;

	if (v == NULL)
		return -ENOMEM;
	err = url_parse(options->url, &v->url, why, why_bytes);
	if (err != 0) {
		free(v);
		return err;
	}
	v->store.ops = &store_valkey_ops;
	v->store.n_partitions = options->n_partitions != 0 ? options->n_partitions
				: v->url.kind == URL_CLUSTER
					? VALKEY_CLUSTER_PARTITIONS
					: 1;
	v->timeout_ms = options->timeout_ms != 0 ? options->timeout_ms
						 : VALKEY_TIMEOUT_MS;
	v->n_tables = n_tables;
	err = v->store.n_partitions > STORE_MAX_PARTITIONS ? -EINVAL : batches_init(v);
	if (err == 0)
		err = channels_init(v, tables, &reason);
	if (err == 0)
		err = wait_up(v, &reason);
	if (err == 0) {
		*out = &v->store;
		return 0;
	}
	snprintf(why, why_bytes, "store %s: %s", v->url.shown,
		 *reason != 0 ? reason : strerror(-err));
	valkey_close(&v->store);
	return err;
}

const struct store_ops store_valkey_ops = {
	.scheme = "valkey",
	.open = valkey_open,
	.batch = valkey_batch,
	.submit = valkey_submit,
	.poll = valkey_poll,
	.free = valkey_free,
	.due = valkey_due,
	.wait_fds = valkey_wait_fds,
	.health = valkey_health,
	.term = valkey_term,
	.close = valkey_close,
};
