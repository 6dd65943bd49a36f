/*
 * store.c - what servers answer: measures one that bench/run has started, from one
 * core, and prints rows.  'points' is the comparison: packed frames, MGET and MSET, and
 * memcached in turn, in requests of so many keys with so many of them in flight.
 *
 *   bench-store CASE SECONDS ...     (--help lists them)
 */
#define _GNU_SOURCE
#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	N_RECORDS = 300000,
	LANE_INFLIGHT = 8,			/* More are spread over more connections. */
	MAX_LANES = 4,
	MAX_POINTS = 16,			/* Of keys, of requests in flight. */
	FILL_KEYS = 100,
};

/* --- Rows ------------------------------------------------------------------------ */

static const char *row_comma = "[", *word_comma;

void
row_open(void)
{
	printf("%s\n{", row_comma);
	row_comma = ",";
	word_comma = "";
}

void
row_text(const char *name, const char *text)
{
	printf("%s\"%s\":\"%s\"", word_comma, name, text);
	word_comma = ",";
}

void
row_number(const char *name, double value)
{
	printf("%s\"%s\":%.6g", word_comma, name, value);
	word_comma = ",";
}

void
row_result(const char *before, const struct result *r)
{
	const double values[] = { r->mops, r->p50_us, r->p99_us, r->max_us };
	static const char *const names[] = { "mops", "p50_us", "p99_us", "max_us" };

	for (unsigned int i = 0; i < 4; i++) {
		char name[40];

		snprintf(name, sizeof(name), "%s%s", before, names[i]);
		row_number(name, values[i]);
	}
}

void
row_close(void)
{
	printf("}");
}

/* --- Measuring ------------------------------------------------------------------- */

void
measure(struct lane *const *lanes, unsigned int n, double seconds, bool sleeping,
	struct result *results)
{
	lanes_run(lanes, n, now_ns() + (uint64_t)(seconds * 1e8), sleeping);
	for (unsigned int i = 0; i < n; i++) {
		lanes[i]->n_done = 0;
		samples_clear(lanes[i]->samples);
	}

	uint64_t start = now_ns();

	lanes_run(lanes, n, start + (uint64_t)(seconds * 1e9), sleeping);

	double us = (double)(now_ns() - start) / 1000;

	for (unsigned int i = 0; i < n; i++) {
		const struct lane *l = lanes[i];

		results[i] = (struct result){
			.mops = (double)(l->n_done * l->work.n_keys) / us,
			.p50_us = samples_us(l->samples, 0.5),
			.p99_us = samples_us(l->samples, 0.99),
			.max_us = (double)l->samples->max_ns / 1000,
		};
	}
}

void
fill(struct lane *l, enum lane_table table, uint64_t n)
{
	static struct samples samples;

	l->work = (struct work){ WORK_WRITE, table, FILL_KEYS, 0, n, .in_order = true };
	l->in_flight = 4;
	l->period_ns = 0;
	l->next_in_order = 0;
	l->samples = &samples;
	/* The replica may need this core. */
	lanes_run(&l, 1, 0, table == LANE_COMMITTED);
}

/* --- The comparison -------------------------------------------------------------- */

struct contender {
	const char *name, *address;
	struct lane *lanes[MAX_LANES];
};

static void
contender_open(struct contender *c, unsigned int which, unsigned int max_in_flight)
{
	for (unsigned int i = 0; i * LANE_INFLIGHT < max_in_flight; i++)
		c->lanes[i] = which == 0 ? lane_open(c->address, 1, 0)
					 : peer_open(which == 1 ? PEER_REDIS
								: PEER_MEMCACHED,
						     c->address);
	fill(c->lanes[0], LANE_RECORD, N_RECORDS);
}

static void
point(const struct contender *c, bool write, unsigned int n_keys, unsigned int in_flight,
      double seconds)
{
	static struct samples samples;
	unsigned int n = (in_flight + LANE_INFLIGHT - 1) / LANE_INFLIGHT;
	struct result results[MAX_LANES];

	for (unsigned int i = 0; i < n; i++) {
		struct lane *l = c->lanes[i];

		l->work = (struct work){ write ? WORK_WRITE : WORK_READ, LANE_RECORD,
					 n_keys, 0, N_RECORDS, .in_order = false };
		l->in_flight = in_flight / n;
		l->samples = &samples;
	}
	measure(c->lanes, n, seconds, false, results);
	for (unsigned int i = 1; i < n; i++)
		results[0].mops += results[i].mops;
	row_open();
	row_text("server", c->name);
	row_text("what", write ? "write" : "read");
	row_number("keys", n_keys);
	row_number("in_flight", in_flight);
	row_result("", &results[0]);
	row_close();
}

/* "1,10,100" */
static unsigned int
numbers(const char *list, unsigned int max, unsigned int values[MAX_POINTS])
{
	unsigned int n = 0;

	for (char *at = (char *)list; n < MAX_POINTS && *at != 0; n++) {
		values[n] = (unsigned int)strtoul(at, &at, 10);
		if (values[n] == 0 || values[n] > max)
			die("%s: want numbers from 1 to %u", list, max);
		at += *at == ',';
	}
	return n;
}

static void
case_points(double seconds, char **words)
{
	struct contender contenders[] = {
		{ "store", words[2] }, { "redis", words[3] }, { "memcached", words[4] }
	};
	unsigned int keys[MAX_POINTS], in_flight[MAX_POINTS], most = 0;
	unsigned int n_keys = numbers(words[0], LANE_MAX_KEYS, keys);
	unsigned int n_in_flight = numbers(words[1], MAX_LANES * LANE_INFLIGHT, in_flight);

	for (unsigned int i = 0; i < n_in_flight; i++)
		most = in_flight[i] > most ? in_flight[i] : most;
	for (unsigned int c = 0; c < 3; c++)
		contender_open(&contenders[c], c, most);
	for (unsigned int i = 0; i < 2 * n_keys * n_in_flight; i++)
		for (unsigned int c = 0; c < 3; c++)
			point(&contenders[c], i >= n_keys * n_in_flight,
			      keys[i / n_in_flight % n_keys], in_flight[i % n_in_flight],
			      seconds);
	for (unsigned int c = 0; c < 3; c++)
		for (unsigned int i = 0; i * LANE_INFLIGHT < most; i++)
			contenders[c].lanes[i]->ops->close(contenders[c].lanes[i]);
}

/* --- The program ----------------------------------------------------------------- */

static const struct command {
	const char *name, *words;
	int n_words;
	void (*run)(double seconds, char **words);
} commands[] = {
	{ "points", "KEYS,... IN_FLIGHT,... STORE_URL REDIS MEMCACHED", 5, case_points },
	{ "misses", "STORE_URL", 1, case_misses },
	{ "flood", "STORE_URL", 1, case_flood },
	{ "commit", "STORE_URL", 1, case_commit },
	{ "shards", "STORE_URL PID,...", 2, case_shards },
	{ "fill", "STORE_URL N", 2, case_fill },
	{ "scan", "STORE_URL SERVER N", 3, case_scan },
};

static void
usage(FILE *to)
{
	fprintf(to, "usage: bench-store CASE SECONDS ...\n");
	for (unsigned int i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  %-8s SECONDS %s\n", commands[i].name, commands[i].words);
	fprintf(to, "REDIS, MEMCACHED, SERVER: a path or HOST:PORT\n");
}

int
main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		usage(stdout);
		return 0;
	}
	for (unsigned int i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *c = &commands[i];
		double seconds = argc > 2 ? atof(argv[2]) : 0;

		if (argc != 3 + c->n_words || strcmp(argv[1], c->name) != 0 || seconds <= 0)
			continue;
		c->run(seconds, argv + 3);
		printf("\n]\n");
		return 0;
	}
	usage(stderr);
	return 2;
}
