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
	PIPE_MAX_LIVE = 4096,			/* Runs between arrival and release. */
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
	uint64_t answered, suppressed;		/* nf_refuse(); suppressed: too many. */
	uint64_t turned, injected;		/* Arrived anew; not in 'received'. */
	uint64_t alerts_lost;			/* Of 'alerts': the reader is behind. */
	uint64_t events, events_lost;		/* nf_log(); lost: the same. */
	uint64_t tasks, tasks_lost;		/* nf_task(); lost: too many at a time. */
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

/* A function, and what its init() made. */
struct stage {
	const struct nf *nf;
	const void *nf_static;
};

/* The functions of an instance, in the order in which a packet from inside goes through
 * them, and behind them, if one of them needs the ports of fragments, the one that finds
 * these. */
struct chain {
	unsigned int n;				/* Functions... */
	unsigned int n_all;			/* ...and all together. */
	struct stage stage[NF_MAX_STAGES + 1];
};

/* All but what their init() makes. */
void chain_make(struct chain *c, const struct nf *const *nf, unsigned int n);
/* Their tables, in a fixed order; 'stage' is by table: whose it is.  Returns how many. */
unsigned int chain_tables(const struct chain *c, struct nf_table **table, uint8_t *stage);
/* Names of the functions, separated by ", ". */
void chain_names(const struct chain *c, char *text, size_t bytes);

/* What becomes of packets that the store does not answer for. */
enum pipe_loss {
	PIPE_LOSS_DROP,
	PIPE_LOSS_ESTABLISHED,			/* Those of known connections pass. */
	PIPE_LOSS_PASS,
};

/* The zone of a packet is the number of its outer VLAN. */
#define PIPE_ZONE_VLAN 65536

struct pipe;
struct task_lane;

struct pipe_config {
	struct chain chain;
	struct store *store;			/* The pipe's alone, not closed by it. */
	struct port *port[2];			/* By nf_side; likewise. */
	enum pipe_loss loss;
	uint64_t grace_ms;			/* Of PIPE_LOSS_ESTABLISHED. */
	uint32_t zone;				/* Of all packets, or PIPE_ZONE_VLAN. */
	uint32_t refusals;			/* A second, at the most, and at once. */
	uint32_t mtu[2];			/* Of the ports; 0: not looked at. */
	bool events;				/* pipe_events() will be called... */
	struct task_lane *lane;			/* NULL: no function has tasks. */
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

/* All tables as the store has to be opened with: "FUNCTION.TABLE".  'wanted' is by table,
 * and both have STORE_MAX_TABLES elements.  Returns how many there are; from then on they
 * go by these numbers. */
unsigned int pipe_tables(const struct chain *chain, const struct pipe_table *wanted,
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
/* From the next execution on, handlers see what this chain of the same functions has. */
void pipe_set_static(struct pipe *p, const struct chain *chain);
/* From now on records are written in these formats, by table; 0: in the newest.  By any
 * thread. */
void pipe_set_formats(struct pipe *p, const uint8_t *format);
const struct pipe_stats *pipe_stats(const struct pipe *p);
/* How its store was lately; by any thread. */
enum store_health pipe_health(const struct pipe *p);
/* What was refused since the start; by any thread. */
const struct pipe_refusal *pipe_refusals(const struct pipe *p, unsigned int *n);
/* How often pipe_note() is to be called; 0: never. */
uint32_t pipe_note_ms(const struct pipe *p);
/* Functions are to make their notes anew; by the pipe's thread. */
void pipe_note(struct pipe *p);
/* Takes up to 'max' events; any one thread. */
struct pipe_event;
unsigned int pipe_events(struct pipe *p, struct pipe_event *out, unsigned int max);
/* Takes up to 'max' alerts; any one thread. */
unsigned int pipe_alerts(struct pipe *p, struct pipe_alert *out, unsigned int max);

#endif
