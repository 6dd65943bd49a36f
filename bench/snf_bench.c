/*
 * snf_bench.c - the program `snf-bench`: one pipe of an instance, measured.
 *
 * Reads an instance's file whose ports are the synthetic source, runs the pipe on this
 * thread, pinned to a core, until all flows are open, and then counts for a while.
 * Prints one JSON object: packets per second, cycles per packet by stage, and how long
 * packets stayed.  bench/run makes the files and starts the store.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_lcore.h>

#include "pipe/instance.h"

enum {
	WARM_UP_MAX_MS = 60 * 1000,		/* For all flows to open... */
	WARM_UP_STALL_MS = 1000,		/* ...unless no more do. */
};

struct bench {
	struct settings *settings;
	struct ports ports;
	struct store *store;
	struct pipe *pipe;
	bool outside;				/* Where the clients are. */
};

static int
fail(const char *what, const char *why)
{
	fprintf(stderr, "snf-bench: %s: %s\n", what, why);
	return -1;
}

static int
open_store(struct bench *b)
{
	struct store_table declared[STORE_MAX_TABLES];
	struct pipe_table wanted[STORE_MAX_TABLES];
	struct store_options options = { .url = b->settings->store, .timeout_ms = 5000,
					 .n_partitions = b->settings->partitions };
	unsigned int n;
	char why[256];

	settings_tables(b->settings, wanted);
	n = pipe_tables(&b->settings->chain, wanted, declared);

	if (store_open(&options, declared, n, &b->store, why, sizeof(why)) != 0)
		return fail("store", why);
	return 0;
}

static int
open_bench(struct bench *b, const char *path)
{
	struct eal_options eal = { .huge = EAL_HUGE_AUTO };
	char why[256];

	if (settings_load(path, &b->settings) != 0)
		return -1;

	const char *spec[2] = { b->settings->port[0], b->settings->port[1] };

	if (eal_start(&eal, why, sizeof(why)) != 0 || rte_thread_register() != 0)
		return fail("DPDK", why);
	if (ports_open(spec, 1, pipe_private_bytes(), false, &b->ports, why, sizeof(why)) != 0)
		return fail("ports", why);
	if (open_store(b) != 0)
		return -1;

	struct pipe_config config = {
		.chain = b->settings->chain,
		.store = b->store,
		.port = { b->ports.queue[b->outside][0], b->ports.queue[!b->outside][0] },
	};

	return pipe_open(&config, &b->pipe);
}

static void
pin(const char *core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(atoi(core), &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fprintf(stderr, "snf-bench: cannot run on core %s alone\n", core);
}

static void
turn_for(struct bench *b, double seconds)
{
	uint64_t end = rte_get_tsc_cycles() + seconds * rte_get_tsc_hz();

	while (rte_get_tsc_cycles() < end) {
		for (int i = 0; i < 64; i++)
			pipe_turn(b->pipe);
	}
}

/* Until every flow is open, or no more flows open than before (they are shorter than
 * it takes to open all). */
static void
warm_up(struct bench *b)
{
	struct gen_stats g;
	uint32_t established = 0;
	int grown_ms = 0;

	for (int ms = 0; ms < WARM_UP_MAX_MS; ms += 100) {
		turn_for(b, 0.1);
		if (!ports_gen_stats(&b->ports, &g) || g.established >= g.flows)
			break;
		if (g.established > established) {
			established = g.established;
			grown_ms = ms;
		}
		if (ms - grown_ms > WARM_UP_STALL_MS)
			break;
	}
	turn_for(b, 0.5);
}

static double
percentile_us(const uint64_t *before, const uint64_t *after, double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned int i = 0; i < PIPE_RESIDENCE_BUCKETS; i++)
		total += after[i] - before[i];
	for (unsigned int i = 0; i < PIPE_RESIDENCE_BUCKETS; i++) {
		seen += after[i] - before[i];
		if (seen > 0 && (double)seen >= share * (double)total)
			return pipe_residence_cycles(i + 1) * 1e6 / rte_get_tsc_hz();
	}
	return 0;
}

/* Of this thread. */
static double
cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
report(const struct pipe_stats *s, const struct pipe_stats *e,
       const struct gen_stats *g0, const struct gen_stats *g1, double seconds, double cpu)
{
	static const char *const stage[] = {
#define X(id, name, help) name,
		PIPE_STAGES(X)
#undef X
	};
	static const char *const drop[] = {
#define X(id, name, help) name,
		NF_DROPS(X)
#undef X
	};
	double sent = e->sent - s->sent;

	printf("{\"mpps\":%.3f,\"seconds\":%.3f,\"sent\":%.0f,\"received\":%" PRIu64,
	       sent / seconds / 1e6, seconds, sent, e->received - s->received);
	printf(",\"batch\":%.1f,\"conflicts\":%" PRIu64 ",\"connections_kps\":%.1f",
	       (double)(e->received - s->received) / (double)(e->batches - s->batches + 1),
	       e->conflicts - s->conflicts, (g1->opened - g0->opened) / seconds / 1e3);
	printf(",\"p50_us\":%.2f,\"p95_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f",
	       percentile_us(s->residence, e->residence, 0.5),
	       percentile_us(s->residence, e->residence, 0.95),
	       percentile_us(s->residence, e->residence, 0.99),
	       percentile_us(s->residence, e->residence, 0.999));
	printf(",\"cpu\":%.3f", cpu / seconds);
	printf(",\"retried\":%" PRIu64 ",\"reset\":%" PRIu64 ",\"corrupt\":%" PRIu64
	       ",\"foreign\":%" PRIu64,
	       g1->retried - g0->retried, g1->reset - g0->reset, g1->corrupt - g0->corrupt,
	       g1->foreign - g0->foreign);
	printf(",\"flows\":%u,\"established\":%u,\"tsc_ghz\":%.3f,\"cycles_per_packet\":{",
	       g1->flows, g1->established, rte_get_tsc_hz() / 1e9);
	for (unsigned int i = 0; i < PIPE_N_STAGES; i++)
		printf("%s\"%s\":%.1f", i > 0 ? "," : "", stage[i],
		       (e->cycles[i] - s->cycles[i]) / sent);
	printf("},\"dropped\":{");
	for (unsigned int i = 0, n = 0; i < NF_N_DROPS; i++) {
		if (e->dropped[i] > s->dropped[i])
			printf("%s\"%s\":%" PRIu64, n++ > 0 ? "," : "", drop[i],
			       e->dropped[i] - s->dropped[i]);
	}
	printf("}}\n");
}

int
main(int argc, char **argv)
{
	struct bench b = { 0 };
	struct pipe_stats start;
	struct gen_stats g0 = { 0 }, g1 = { 0 };

	b.outside = argc == 5 && strcmp(argv[4], "outside") == 0;
	if (argc != 4 && !b.outside) {
		fprintf(stderr, "usage: snf-bench FILE.yaml SECONDS CORE [outside]\n");
		return INSTANCE_USAGE;
	}
	if (open_bench(&b, argv[1]) != 0)
		return INSTANCE_FAILED;
	pin(argv[3]);
	warm_up(&b);
	ports_gen_stats(&b.ports, &g0);
	start = *pipe_stats(b.pipe);

	uint64_t from = rte_get_tsc_cycles();
	double cpu = cpu_seconds();

	turn_for(&b, atof(argv[2]));

	double seconds = (double)(rte_get_tsc_cycles() - from) / rte_get_tsc_hz();

	ports_gen_stats(&b.ports, &g1);
	report(&start, pipe_stats(b.pipe), &g0, &g1, seconds, cpu_seconds() - cpu);
	return INSTANCE_OK;
}
