/*
 * pipe.h - the instance's parts: ports, pipes and their counters.
 *
 * A pipe is one thread that runs packets through a function to completion: it
 * receives, runs, submits, settles and transmits, and never blocks in between.
 * Nothing of it is shared with another pipe; what pipes share is in the store.
 */
#ifndef PIPE_PIPE_H
#define PIPE_PIPE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "nf/nf.h"
#include "pipe/port.h"
#include "store/store.h"

enum {
	PIPE_BURST = 64,			/* Packets of one receive. */
	PIPE_BATCH = 256,			/* New runs in one batch: bench/pipe. */
	PIPE_MAX_TABLES = STORE_MAX_TABLES,
};

/* Written by the pipe alone, read by anyone. */
struct pipe_stats {
	uint64_t received, sent, kept, emitted;
	uint64_t dropped[NF_N_DROPS];
	uint64_t batches, runs, reruns, conflicts, alerts;
	uint64_t busy_cycles;			/* In turns that found something to do. */
	uint64_t residence[64];			/* Packets by log2 steps: stats.c */
};

struct pipe;

struct pipe_config {
	unsigned int id;
	const struct nf *nf;
	const void *nf_static;
	struct store *store;			/* The pipe's alone, not closed by it. */
	struct port *port[2];			/* By nf_side; likewise. */
};

/* Bytes that the mbufs of every port's pool need as private area: a packet in
 * flight costs no other memory. */
unsigned int pipe_private_bytes(void);

int pipe_open(const struct pipe_config *config, struct pipe **out);
/* Everything in flight is dropped: drain first if that matters. */
void pipe_close(struct pipe *p);

/* One turn.  Returns whether it found anything to do. */
bool pipe_turn(struct pipe *p);
/* From now on nothing is received; what is in flight goes on. */
void pipe_stop_receiving(struct pipe *p);
/* Nothing in flight. */
bool pipe_drained(const struct pipe *p);
/* From the next turn on runs see this state.  The old one is no longer used once
 * pipe_static_in_use() is another. */
void pipe_set_static(struct pipe *p, const void *nf_static);
const void *pipe_static_in_use(const struct pipe *p);
const struct pipe_stats *pipe_stats(const struct pipe *p);

#endif
