/*
 * bench_store.h - the store of a bench: the core's partitions with the test's clock.
 *
 * A frame is applied when it is submitted, and its reply is there with the next poll.
 * So a run that reads and then writes takes two turns of its pipe, and what another pipe
 * does in between is a race.
 */
#ifndef NF_BENCH_STORE_H
#define NF_BENCH_STORE_H

#include "store/core.h"
#include "store/pool.h"

/* What the stores of a bench's pipes share. */
struct bench_partitions {
	unsigned int n;
	struct partition *partition[STORE_MAX_PARTITIONS];
	int error[STORE_MAX_PARTITIONS];	/* Frames come back so, not applied. */
	bool hold;				/* Groups wait for replicas. */
	uint64_t now_ms, term;
};

struct bench_store {
	struct store store;			/* First: the pipe's pointer. */
	struct bench_partitions *partitions;
	uint64_t client, next_id;
	unsigned int n_done, n_held;
	struct store_batch *done[STORE_INFLIGHT], *held[STORE_UNCOMMITTED];
	bool commits[STORE_BATCHES];		/* Replicas have to have it; by batch. */
	struct store_batch batch[STORE_BATCHES];
	struct pool pool;
	struct buffer *reply;			/* By batch and part. */
	struct buffer leases;
};

void bench_partitions_init(struct bench_partitions *p, unsigned int n);
/* As a client does that opens them: tables have the ids of their places. */
void bench_partitions_declare(struct bench_partitions *p,
			      const struct store_table *tables, unsigned int n_tables);
void bench_partitions_fini(struct bench_partitions *p);
bool bench_partitions_due(const struct bench_partitions *p);

void bench_store_init(struct bench_store *s, struct bench_partitions *p, uint64_t client);
void bench_store_fini(struct bench_store *s);

#endif
