/*
 * lane.c - the loop that drives lanes, and the lane of our own store, through the
 * client that the instances use.
 *
 * A batch of a table with replicas comes back twice; its time ends with the second,
 * when a packet could leave.
 */
#define _GNU_SOURCE
#include "lane.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/store.h"

enum {
	START_MS = 20000,
	LATE_PERIODS = 16,
};

struct frames_lane {
	struct lane lane;			/* First. */
	struct store *store;
	uint64_t version;
	unsigned int n_unanswered;
};

uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void
die(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "bench-store: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

/* --- Samples --------------------------------------------------------------------- */

void
lane_answered(struct lane *l, uint64_t asked_ns, uint64_t answered_ns)
{
	uint64_t ns = answered_ns - asked_ns;
	struct samples *s = l->samples;

	if (ns > s->max_ns)
		s->max_ns = ns;
	s->ns[s->n++ % LANE_MAX_SAMPLES] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
	l->n_done++;
}

static int
compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

double
samples_us(struct samples *s, double share)
{
	size_t n = s->n < LANE_MAX_SAMPLES ? s->n : LANE_MAX_SAMPLES;

	if (n == 0)
		die("not one answer while it was measured");
	qsort(s->ns, n, sizeof(s->ns[0]), compare);
	return s->ns[(size_t)((double)n * share)] / 1000.0;
}

void
samples_clear(struct samples *s)
{
	s->n = s->max_ns = 0;
}

/* --- The loop -------------------------------------------------------------------- */

static bool
may_ask(const struct lane *l, uint64_t now, uint64_t end_ns)
{
	if (l->n_out >= l->in_flight || l->next_ns > now)
		return false;
	return end_ns != 0 ? now < end_ns : l->next_in_order < l->work.n;
}

/* Until the next request.  One that is very late does not try to catch up. */
static void
lane_wait(struct lane *l, uint64_t now)
{
	if (l->period_ns == 0)
		return;
	if (l->next_ns + LATE_PERIODS * l->period_ns < now)
		l->next_ns = now;
	l->next_ns += l->period_ns;
}

static void
wait_for_answers(struct lane *const *lanes, unsigned int n)
{
	struct pollfd fds[2 * LANE_FDS];
	unsigned int n_fds = 0;
	int timeout_ms = 1;

	for (unsigned int i = 0; i < n && n_fds <= LANE_FDS; i++) {
		int ms = -1;

		n_fds += lanes[i]->ops->fds(lanes[i], fds + n_fds, &ms);
		if (ms >= 0 && ms < timeout_ms)
			timeout_ms = ms;
	}
	poll(fds, n_fds, timeout_ms);
}

void
lanes_run(struct lane *const *lanes, unsigned int n, uint64_t end_ns, bool sleeping)
{
	unsigned int n_moved, n_out;
	uint64_t now;

	for (unsigned int i = 0; i < n; i++)
		lanes[i]->next_ns = 0;
	do {
		now = now_ns();
		n_moved = n_out = 0;
		for (unsigned int i = 0; i < n; i++) {
			struct lane *l = lanes[i];

			while (may_ask(l, now, end_ns) && l->ops->submit(l, now)) {
				l->n_out++;
				n_moved++;
				lane_wait(l, now);
				now = now_ns();
			}
			unsigned int n_answers = l->ops->poll(l);

			l->n_out -= n_answers;
			n_moved += n_answers;
			n_out += l->n_out;
		}
		if (sleeping && n_moved == 0)
			wait_for_answers(lanes, n);
	} while (n_out > 0 || n_moved > 0 || now < end_ns);
}

/* --- Frames ---------------------------------------------------------------------- */

static void
put(struct frame *f, const struct work *w, const uint64_t key[2], uint64_t version)
{
	uint8_t *group = frame_group(f, version);
	bool record = w->table == LANE_RECORD || w->table == LANE_COMMITTED;
	bool syn = w->kind == WORK_SYN;

	if (syn)
		frame_check(f, FRAME_CHECK, (uint8_t)w->table, key, KEY_BYTES, 0);
	frame_put(f, (uint8_t)w->table, key, KEY_BYTES, 1, key,
		  record ? RECORD_BYTES : CONNECTION_BYTES, !syn,
		  record ? 0 : syn ? SYN_MS : ESTABLISHED_MS);
	frame_group_end(group, syn ? 2 : 1);
}

static void
part_ask(struct frames_lane *fl, struct frame *f, unsigned int part)
{
	const struct work *w = &fl->lane.work;
	uint64_t keys[LANE_MAX_KEYS][2];

	/* A record's number says where it lies. */
	for (unsigned int i = 0; i < w->n_keys; i++)
		key_write(lane_next(&fl->lane) * fl->store->n_partitions + part, keys[i]);
	if (w->kind != WORK_WRITE)
		for (unsigned int i = 0; i < w->n_keys; i++)
			frame_read(f, (uint8_t)w->table, keys[i], KEY_BYTES, true);
	if (w->kind == WORK_WRITE || w->kind == WORK_SYN)
		for (unsigned int i = 0; i < w->n_keys; i++)
			put(f, w, keys[i], ++fl->version);
}

static bool
frames_submit(struct lane *l, uint64_t now)
{
	struct frames_lane *fl = (struct frames_lane *)l;
	const struct store_ops *ops = fl->store->ops;

	if (fl->n_unanswered == STORE_INFLIGHT)
		return false;

	struct store_batch *batch = ops->batch(fl->store);

	if (batch == NULL)
		return false;

	uint64_t next_in_order = l->next_in_order;

	for (unsigned int i = 0; i < fl->store->n_partitions; i++) {
		l->next_in_order = next_in_order;
		part_ask(fl, &batch->part[i].request, i);
	}
	batch->owner = (void *)(uintptr_t)now;
	if (ops->submit(fl->store, batch) != 0)
		die("the store does not take a batch");
	fl->n_unanswered++;
	return true;
}

static void
part_look(struct store_part *part, const struct work *w)
{
	unsigned int n[FRAME_N_ANSWERS] = { 0 }, want[FRAME_N_ANSWERS] = { 0 };
	struct frame_value v;

	if (part->error != 0)
		die("a batch failed: %s", strerror(-part->error));
	while (frame_reply_next(&part->reply, &v) == 1)
		n[v.answer]++;
	if (w->kind != WORK_WRITE)
		want[w->kind == WORK_READ ? FRAME_HIT : FRAME_MISS] = w->n_keys;
	if (w->kind == WORK_WRITE || w->kind == WORK_SYN)
		want[FRAME_APPLIED] = w->n_keys;
	if (memcmp(n, want, sizeof(n)) != 0)
		die("wrong answers: %u misses, %u hits, %u applied, %u conflicts, "
		    "%u refused, %u full instead of %u, %u, %u",
		    n[FRAME_MISS], n[FRAME_HIT], n[FRAME_APPLIED], n[FRAME_CONFLICT],
		    n[FRAME_REFUSED], n[FRAME_FULL], want[FRAME_MISS], want[FRAME_HIT],
		    want[FRAME_APPLIED]);
}

/* One at a time: then the next request leaves before the next answer is looked at, and
 * the server has work meanwhile. */
static unsigned int
frames_poll(struct lane *l)
{
	struct frames_lane *fl = (struct frames_lane *)l;
	const struct store_ops *ops = fl->store->ops;
	struct store_batch *batch;

	if (l->n_out == 0 || ops->poll(fl->store, &batch, 1) == 0)
		return 0;
	if (!batch->final || l->work.table != LANE_COMMITTED ||
	    l->work.kind != WORK_WRITE)
		fl->n_unanswered--;
	if (!batch->final)
		return 0;
	lane_answered(l, (uint64_t)(uintptr_t)batch->owner, now_ns());
	for (unsigned int i = 0; i < fl->store->n_partitions; i++)
		part_look(&batch->part[i], &l->work);
	ops->free(fl->store, batch);
	return 1;
}

static unsigned int
frames_fds(struct lane *l, struct pollfd *fds, int *timeout_ms)
{
	struct frames_lane *fl = (struct frames_lane *)l;
	int fd[LANE_FDS];
	unsigned int n = fl->store->ops->wait_fds(fl->store, fd, LANE_FDS, timeout_ms);

	for (unsigned int i = 0; i < n; i++)
		fds[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	return n;
}

static void
frames_close(struct lane *l)
{
	struct frames_lane *fl = (struct frames_lane *)l;

	fl->store->ops->close(fl->store);
	free(fl);
}

struct lane *
lane_open(const char *url, unsigned int n_partitions, uint64_t limit)
{
	static const struct lane_ops ops = { frames_submit, frames_poll, frames_fds,
					     frames_close };
	const struct store_table tables[LANE_N_TABLES] = {
		[LANE_RECORD] = { "bench.record", KEY_BYTES, RECORD_BYTES, 1 },
		[LANE_CONNECTION] = { "firewall.connection", 40, CONNECTION_BYTES, 1 },
		[LANE_LIMITED] = { "bench.limited", 40, CONNECTION_BYTES, 1,
				   .evict = true, .limit = limit },
		[LANE_COMMITTED] = { "bench.committed", KEY_BYTES, RECORD_BYTES, 1,
				     .commit = 1 },
	};
	const struct store_options options = { .url = url, .timeout_ms = START_MS,
					       .n_partitions = n_partitions };
	struct frames_lane *fl = calloc(1, sizeof(*fl));
	char why[200];

	if (fl == NULL)
		die("out of memory");
	if (store_open(&options, tables, LANE_N_TABLES, &fl->store, why, sizeof(why)) != 0)
		die("%s", why);
	fl->lane.ops = &ops;
	fl->lane.random = now_ns() | 1;
	fl->version = mixed(now_ns());
	return &fl->lane;
}
