/*
 * cases.c - what bench-store measures besides the comparison: lookups of what is not
 * there, a SYN flood, writes that wait for a replica, what an operation costs as the
 * store grows by servers, and what a scan does to those who read meanwhile.
 */
#define _GNU_SOURCE
#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	N_RECORDS = 300000,
	N_CONNECTIONS = 1000000,
	FRAME_KEYS = 100,
	BATCH_KEYS = 400,			/* Of batches that servers share. */
	ROUNDS = 5,
	/* The flood: a table that has room for so many half-open connections beside those
	 * that are established, and a frame of new ones every 100 us: a million SYNs a
	 * second. */
	FLOOD_ROOM = 100000,
	FLOOD_PERIOD_NS = 100 * 1000,
	/* Writes beside which reads are timed: 10,000 frames a second. */
	BESIDE_KEYS = 10,
	BESIDE_PERIOD_NS = 100 * 1000,
	/* Below the 8 frames a millisecond from which on a server stays awake; in bursts,
	 * as they come from a pipe. */
	BURST = 7,
	BURST_NS = 2 * 1000 * 1000,
	MAX_SHARDS = 32,
};

#define ABSENT (1ull << 32)			/* Records from here on are never made. */
#define SYNS (1ull << 33)			/* Those that come in a flood. */

static struct samples samples[2];

static void
lane_set(struct lane *l, unsigned int which, enum work_kind kind, enum lane_table table,
	 uint64_t first, uint64_t n, unsigned int in_flight)
{
	l->work = (struct work){ kind, table, FRAME_KEYS, first, n,
				 .in_order = kind == WORK_SYN };
	l->in_flight = in_flight;
	l->period_ns = 0;
	l->next_in_order = 0;
	l->samples = &samples[which];
}

/* --- Misses ---------------------------------------------------------------------- */

void
case_misses(double seconds, char **words)
{
	struct lane *l = lane_open(words[0], 1, 0);

	fill(l, LANE_CONNECTION, N_CONNECTIONS);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct result hit, miss;

		lane_set(l, 0, WORK_READ, LANE_CONNECTION, 0, N_CONNECTIONS, 4);
		measure(&l, 1, seconds, false, &hit);
		lane_set(l, 0, WORK_MISS, LANE_CONNECTION, ABSENT, ABSENT, 4);
		measure(&l, 1, seconds, false, &miss);
		row_open();
		row_number("round", i + 1);
		row_result("hit_", &hit);
		row_result("miss_", &miss);
		row_close();
	}
	l->ops->close(l);
}

/* What is established is read, before and while new connections come and evict each
 * other; all of it has to be there to the end. */
void
case_flood(double seconds, char **words)
{
	struct lane *lanes[2];
	struct result before[2], during[2];

	for (unsigned int i = 0; i < 2; i++)
		lanes[i] = lane_open(words[0], 1, N_RECORDS + FLOOD_ROOM);
	fill(lanes[0], LANE_LIMITED, N_RECORDS);
	lane_set(lanes[1], 1, WORK_SYN, LANE_LIMITED, SYNS, SYNS, 4);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		lane_set(lanes[0], 0, WORK_READ, LANE_LIMITED, 0, N_RECORDS, 4);
		measure(lanes, 1, seconds, false, before);
		/* The first time this fills the table. */
		lanes[1]->period_ns = FLOOD_PERIOD_NS;
		measure(lanes, 2, seconds, false, during);
		row_open();
		row_number("round", i + 1);
		row_result("before_", &before[0]);
		row_result("during_", &during[0]);
		row_number("syn_mops", during[1].mops);
		row_number("syn_p50_us", during[1].p50_us);
		row_close();
	}
	lane_set(lanes[0], 0, WORK_READ, LANE_LIMITED, 0, N_RECORDS, 4);
	lanes[0]->work.in_order = true;
	lanes_run(lanes, 1, 0, false);
	for (unsigned int i = 0; i < 2; i++)
		lanes[i]->ops->close(lanes[i]);
}

/* --- Output commit --------------------------------------------------------------- */

static void
commit_point(struct lane *writer, unsigned int n_keys, unsigned int in_flight,
	     double seconds)
{
	struct result r;

	lane_set(writer, 0, WORK_WRITE, LANE_COMMITTED, 0, N_RECORDS, in_flight);
	writer->work.n_keys = n_keys;
	measure(&writer, 1, seconds, true, &r);
	row_open();
	row_text("what", "write");
	row_text("beside", "");
	row_number("keys", n_keys);
	row_number("in_flight", in_flight);
	row_result("", &r);
	row_close();
}

/* Reads, beside writes to 'table'. */
static void
commit_beside(struct lane **lanes, unsigned int n, enum lane_table table,
	      const char *beside, double seconds)
{
	struct result r[2];

	lane_set(lanes[0], 0, WORK_READ, LANE_COMMITTED, 0, N_RECORDS, 1);
	lane_set(lanes[1], 1, WORK_WRITE, table, 0, N_RECORDS,
		 table == LANE_COMMITTED ? 32 : 8);
	lanes[1]->work.n_keys = BESIDE_KEYS;
	lanes[1]->period_ns = BESIDE_PERIOD_NS;
	measure(lanes, n, seconds, true, r);
	row_open();
	row_text("what", "read");
	row_text("beside", beside);
	row_number("keys", FRAME_KEYS);
	row_number("in_flight", 1);
	row_result("", &r[0]);
	row_number("beside_mops", n > 1 ? r[1].mops : 0);
	row_close();
}

/* Three processes share two cores, so this one sleeps while it waits. */
void
case_commit(double seconds, char **words)
{
	static const unsigned int keys[] = { 1, 10, 100 }, in_flight[] = { 1, 4, 16, 32 };
	struct lane *lanes[2] = { lane_open(words[0], 1, 0), lane_open(words[0], 1, 0) };

	fill(lanes[1], LANE_COMMITTED, N_RECORDS);
	fill(lanes[1], LANE_RECORD, N_RECORDS);
	for (unsigned int i = 0; i < 12; i++)
		commit_point(lanes[1], keys[i / 4], in_flight[i % 4], seconds);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		commit_beside(lanes, 1, LANE_RECORD, "nothing", seconds);
		commit_beside(lanes, 2, LANE_RECORD, "commit 0", seconds);
		commit_beside(lanes, 2, LANE_COMMITTED, "commit 1", seconds);
	}
	for (unsigned int i = 0; i < 2; i++)
		lanes[i]->ops->close(lanes[i]);
}

/* --- Shards ---------------------------------------------------------------------- */

static double
process_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* CPU time of the servers' first threads, which do all the work. */
static double
servers_us(const int *pids, unsigned int n)
{
	double us = 0;

	for (unsigned int i = 0; i < n; i++) {
		unsigned long long ns = 0;
		char path[40];

		snprintf(path, sizeof(path), "/proc/%d/schedstat", pids[i]);

		FILE *f = fopen(path, "r");

		if (f == NULL || fscanf(f, "%llu", &ns) != 1)
			die("%s: cannot be read", path);
		fclose(f);
		us += (double)ns / 1000;
	}
	return us;
}

/* Bursts at a fixed rate; everyone sleeps in between.  Returns operations. */
static uint64_t
bursts(struct lane *l, unsigned int n_parts, double seconds)
{
	uint64_t n = (uint64_t)(seconds * 1e9 / BURST_NS), next = now_ns();

	for (uint64_t i = 0; i < n; i++) {
		for (unsigned int k = 0; k < BURST; k++)
			if (l->ops->submit(l, now_ns()))
				l->n_out++;
		next += BURST_NS;

		struct timespec until = { (time_t)(next / 1000000000),
					  (long)(next % 1000000000) };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		while (l->n_out > 0)
			l->n_out -= l->ops->poll(l);
		/* Whoever was held up for long starts anew, instead of catching up. */
		if (now_ns() > next + BURST_NS)
			next = now_ns();
	}
	return n * BURST * n_parts * l->work.n_keys;
}

static void
shards_row(struct lane *l, const int *pids, unsigned int n, enum work_kind kind,
	   unsigned int n_keys, double seconds)
{
	lane_set(l, 0, kind, LANE_RECORD, 0, N_RECORDS / n, BURST);
	l->work.n_keys = n_keys;
	bursts(l, n, seconds / 10);

	uint64_t start = now_ns();
	double client = process_us(), servers = servers_us(pids, n);
	uint64_t n_ops = bursts(l, n, seconds);

	client = process_us() - client;
	servers = servers_us(pids, n) - servers;
	row_open();
	row_number("shards", n);
	row_text("what", kind == WORK_READ ? "read" : "write");
	row_number("keys", n_keys);
	row_number("mops", (double)n_ops * 1e3 / (double)(now_ns() - start));
	/* Microseconds for one are seconds for a million. */
	row_number("client_s", client / (double)n_ops);
	row_number("servers_s", servers / (double)n_ops);
	row_number("cpu_s", (client + servers) / (double)n_ops);
	row_close();
}

/* A partition on each server.  Frames of as many keys whatever the number of servers,
 * as a store of N servers carries N times the load; and batches of as many, which N
 * servers share. */
void
case_shards(double seconds, char **words)
{
	int pids[MAX_SHARDS];
	unsigned int n = 0;

	for (char *at = words[1]; *at != 0 && n < MAX_SHARDS; at += *at == ',')
		pids[n++] = (int)strtol(at, &at, 10);

	struct lane *l = lane_open(words[0], n, 0);

	fill(l, LANE_RECORD, N_RECORDS / n);
	for (unsigned int i = 0; i < 4; i++)
		shards_row(l, pids, n, i % 2 == 0 ? WORK_READ : WORK_WRITE,
			   i < 2 ? FRAME_KEYS : BATCH_KEYS / n, seconds);
	l->ops->close(l);
}

/* --- Many connections ------------------------------------------------------------ */

/* As many as it says, however long that takes. */
void
case_fill(double seconds, char **words)
{
	struct lane *l = lane_open(words[0], 1, 0);
	uint64_t n = strtoull(words[1], NULL, 10), start = now_ns();

	(void)seconds;
	fill(l, LANE_CONNECTION, n);
	row_open();
	row_number("connections", (double)n);
	row_number("fill_s", (double)(now_ns() - start) / 1e9);
	row_close();
	l->ops->close(l);
}

void
case_scan(double seconds, char **words)
{
	uint64_t n = strtoull(words[2], NULL, 10);
	struct lane *lanes[2] = { lane_open(words[0], 1, 0), peer_open(PEER_SCAN, words[1]) };
	struct result alone, beside[2];

	fill(lanes[0], LANE_CONNECTION, n);
	lane_set(lanes[0], 0, WORK_READ, LANE_CONNECTION, 0, n, 1);
	lane_set(lanes[1], 1, WORK_READ, LANE_CONNECTION, 0, n, 1);
	lanes[1]->work.n_keys = 1000;
	measure(lanes, 1, seconds, false, &alone);
	measure(lanes, 2, seconds, false, beside);
	row_open();
	row_number("connections", (double)n);
	row_result("alone_", &alone);
	row_result("beside_", &beside[0]);
	row_result("scan_", &beside[1]);
	row_close();
	for (unsigned int i = 0; i < 2; i++)
		lanes[i]->ops->close(lanes[i]);
}
