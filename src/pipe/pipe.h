/*
 * pipe.h - one pipe: packets through a function to completion, on one thread.
 *
 * A pipe receives, runs, submits, settles and transmits, and never blocks in
 * between.  Nothing of it is shared with another pipe; what pipes share is in the
 * store.
 */
#ifndef PIPE_PIPE_H
#define PIPE_PIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "nf/nf.h"
#include "pipe/port.h"
#include "store/store.h"

enum {
	PIPE_BURST = 64,			/* Packets of one receive. */
	PIPE_BATCH = 128,			/* New runs in one batch: bench/pipe. */
	PIPE_RESIDENCE_BUCKETS = 512,
	PIPE_MAX_REFUSALS = 16,			/* Tables' formats told apart. */
};

/* Where the cycles go. */
#define PIPE_STAGES(X)                                                           \
	X(RECEIVE, "receive", "taking packets from the ports")                   \
	X(RUN, "run", "parsing, and the handler up to its first read")           \
	X(STORE, "store", "sending frames and receiving replies")                \
	X(SETTLE, "settle", "the handler with its values, effects and order")    \
	X(TRANSMIT, "transmit", "giving packets to the ports")

enum pipe_stage {
#define X(id, name, help) PIPE_STAGE_##id,
	PIPE_STAGES(X)
#undef X
	PIPE_N_STAGES
};

/* Written by the pipe alone; read by anyone, as it is at that moment. */
struct pipe_stats {
	uint64_t received, received_bytes, sent, kept, emitted;
	uint64_t dropped[NF_N_DROPS];
	uint64_t batches, runs, conflicts, bounds, parked, alerts;
	uint64_t passed_unseen;			/* As the store was lost; sent, too. */
	uint64_t leases_settled, leases_left;	/* Left: leased again, if still due. */
	uint64_t uncommitted;			/* Batches that wait for replicas, now. */
	uint64_t cycles[PIPE_N_STAGES];
	/* Packets by the time from arrival to release, in TSC cycles: see
	 * pipe_residence_bucket(). */
	uint64_t residence[PIPE_RESIDENCE_BUCKETS];
};

/* Eight buckets for each power of two: a bucket is within 12 % of its bound. */
static inline unsigned int
pipe_residence_bucket(uint64_t cycles)
{
	if (cycles < 8)
		return cycles;

	unsigned int shift = 60 - __builtin_clzll(cycles);

	return (shift + 1) * 8 + ((cycles >> shift) & 7);
}

/* The lower bound of a bucket. */
static inline uint64_t
pipe_residence_cycles(unsigned int bucket)
{
	if (bucket < 8)
		return bucket;
	return (uint64_t)(8 + bucket % 8) << (bucket / 8 - 1);
}

/* What nf_alert() reported, of a run that has ended. */
struct pipe_alert {
	struct flow flow;
	uint32_t id;
	bool dropped;
};

/* Records of a format that this release does not read: how many were met. */
struct pipe_refusal {
	_Atomic uint64_t n;
	uint8_t table, format;			/* The table by its index. */
};

struct pipe;

struct pipe_config {
	const struct nf *nf;
	const void *nf_static;
	struct store *store;			/* The pipe's alone, not closed by it. */
	struct port *port[2];			/* By nf_side; likewise. */
	bool pass_unseen;			/* Packets that the store does not answer
						 * for, instead of dropping them. */
	uint8_t format[STORE_MAX_TABLES];	/* As for pipe_set_formats(). */
};

/* Bytes that mbufs need as private area. */
unsigned int pipe_private_bytes(void);

/* What an operator wants of a table. */
struct pipe_table {
	uint64_t limit;				/* Records; 0: none. */
	bool evict;				/* When it is full. */
	uint8_t commit;				/* Replicas, or STORE_COMMIT_AUTO. */
};

/* A function's tables as its store has to be opened with: "FUNCTION.TABLE".  'wanted' is
 * by table, and both have STORE_MAX_TABLES elements.  Returns how many there are. */
unsigned int pipe_tables(const struct nf *nf, const struct pipe_table *wanted,
			 struct store_table *declared);

int pipe_open(const struct pipe_config *config, struct pipe **out);
/* What is in flight is dropped, uncounted: drain first. */
void pipe_close(struct pipe *p);

/* One turn.  Returns whether it found anything to do. */
bool pipe_turn(struct pipe *p);
/* From now on nothing is received; what is in flight goes on. */
void pipe_stop_receiving(struct pipe *p);
/* Nothing is in flight. */
bool pipe_drained(const struct pipe *p);
/* The ports have ended and nothing is in flight. */
bool pipe_ended(const struct pipe *p);
/* From the next execution on, handlers see this state. */
void pipe_set_static(struct pipe *p, const void *nf_static);
/* From now on records are written in these formats, by table; 0: in the newest.  By any
 * thread. */
void pipe_set_formats(struct pipe *p, const uint8_t *format);
const struct pipe_stats *pipe_stats(const struct pipe *p);
/* How its store was lately; by any thread. */
enum store_health pipe_health(const struct pipe *p);
/* What was refused since the start; by any thread. */
const struct pipe_refusal *pipe_refusals(const struct pipe *p, unsigned int *n);
/* Takes up to 'max' alerts; any one thread. */
unsigned int pipe_alerts(struct pipe *p, struct pipe_alert *out, unsigned int max);

#endif
