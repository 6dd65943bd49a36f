/*
 * run.h - runs, and the batches they travel in: what the files of a pipe share.
 *
 * A run is one execution of a handler for one packet, from arrival to release.  It
 * lives in the packet's private area, so a packet in flight costs no allocation.
 * Those without a packet are errands, and live in the pipe (timer.c).
 *
 *   arrive -> READING -> decided -> released                    the common way
 *                 |         +-> COMMITTING -> released          it wrote, or saw what
 *                 |                 |                           is not yet acknowledged
 *                 +-> PARKED <------+ (conflict)                an earlier run of its
 *                        +-> READING again                      flow is undecided
 */
#ifndef PIPE_RUN_H
#define PIPE_RUN_H

#include <stdatomic.h>
#include <rte_cycles.h>
#include <rte_prefetch.h>

#include "pipe/events.h"
#include "pipe/order.h"
#include "pipe/pipe.h"
#include "pipe/task.h"

enum {
	RUN_MAX_TRIPS = 8,			/* Then the packet is dropped. */
	RUN_MAX_ALERTS = 4,
	RUN_MAX_EVENTS = 8,			/* Of all functions of a chain. */
	/* All that a run writes: one packet's worth and its bookkeeping. */
	RUN_WRITE_BYTES = 8 * 1024,
	RUN_WRITE_HEAD_BYTES = 48 + NF_MAX_KEY_BYTES, /* At most, of one. */
	RUN_TOUCH_BYTES = NF_MAX_TOUCHES * (8 + NF_MAX_KEY_BYTES),
	/* The most that one run adds to a frame: its group and touches, or its reads. */
	RUN_FRAME_BYTES = 10 * 1024,
	JOB_MAX_ENTRIES = FRAME_MAX_BYTES / RUN_FRAME_BYTES,
	PIPE_TIMERS = 64,			/* Of these, for records. */
};

#define RUN_TOO_MUCH UINT8_MAX		/* Asked for or written: 'unreadable' */

static_assert(RUN_FRAME_BYTES >= RUN_WRITE_BYTES + 16 + RUN_TOUCH_BYTES +
		      NF_MAX_READS * (16 + NF_MAX_KEY_BYTES),
	      "a group with all its checks fits");
static_assert(JOB_MAX_ENTRIES >= 2 * PIPE_BATCH, "a batch and its writes fit");
static_assert(JOB_MAX_ENTRIES * NF_MAX_READS * (16 + NF_MAX_VALUE_BYTES) <=
		      FRAME_MAX_REPLY_BYTES,
	      "whatever is read fits");
static_assert(NF_MAX_READS + NF_MAX_WRITES <= FRAME_MAX_GROUP_OPS, "a group");
static_assert(NF_MAX_READS <= 16, "bits of 'unacknowledged'");
static_assert((int)NF_MAX_KEY_BYTES <= FRAME_MAX_KEY &&
		      NF_RANGE_BYTES <= FRAME_MAX_VALUE &&
		      (int)NF_MAX_MEMBERS <= FRAME_MAX_MEMBERS,
	      "what functions may have is what a store takes");

enum run_state {
	RUN_READING,				/* In a job, or about to be. */
	RUN_DECIDED,				/* At once, without reads; in a job. */
	RUN_PARKED,				/* Waits for an earlier run of its flow. */
	RUN_COMMITTING,				/* In the commit queue. */
};

enum run_fate {
	RUN_UNKNOWN,
	RUN_APPLIED,
	RUN_CONFLICT,
	RUN_REFUSED,				/* Out of memory. */
	RUN_BOUND,				/* An add would have left its bounds. */
	RUN_FULL,				/* The table is. */
	RUN_LOST,				/* The store did not answer. */
	RUN_UNSENT,				/* It never had it. */
};

/* How a value was asked for.  Those up to the first unchecked one are named in the
 * group, with their versions. */
enum run_ask {
	RUN_READ = NF_READ,
	RUN_PEEK = NF_PEEK,
	RUN_GLANCE = NF_GLANCE,
	RUN_PICK,
	RUN_FIRST_UNCHECKED = RUN_GLANCE,
};

/* One value that a run asked for. */
struct run_value {
	const uint8_t *key;			/* In the request that asks for it. */
	const uint8_t *value;			/* NULL: absent. */
	uint64_t version;			/* Of who wrote or deleted it last. */
	uint16_t value_bytes;
	uint8_t table, key_bytes, format;
	uint8_t part;				/* The partition it was asked of. */
	uint8_t how;				/* enum run_ask */
};

static_assert(sizeof(struct run_value) == 32, "two in a cache line");

/* One operation of a run's group. */
struct run_write {
	const uint8_t *key, *value;		/* In the frame; value NULL: deleted. */
	uint64_t hash, version;
	uint16_t value_bytes;
	uint8_t table, key_bytes, format;
	uint8_t op;				/* enum frame_op_kind */
	uint8_t pending;			/* Which guess has it; 0: none. */
	bool light;				/* nf_may_lose(); in the overlay: of a
						 * light run. */
};

/* What the value of the record is after a write, is in the operation. */
static inline bool
write_is_whole(const struct run_write *w)
{
	return w->op == FRAME_PUT || w->op == FRAME_DELETE || w->op == FRAME_SETTLE;
}

/* What a run has seen that no server has acknowledged. */
enum run_sight {
	RUN_SAW_LIGHT = 1 << 0,			/* Of light runs... */
	RUN_SAW_HEAVY = 1 << 1,			/* ...and of others. */
};

/* What becomes of the packet when it leaves. */
enum run_edit {
	RUN_SET_SRC = 1 << 0,
	RUN_SET_DST = 1 << 1,
	RUN_EDIT_COMMON = RUN_SET_SRC | RUN_SET_DST,
	RUN_SET_QUOTED_SRC = 1 << 2,
	RUN_SET_QUOTED_DST = 1 << 3,
	RUN_SHIFT = 1 << 4,
	RUN_SET_ETHERNET_SRC = 1 << 5,
	RUN_SET_ETHERNET_DST = 1 << 6,
	RUN_ENCAPSULATE = 1 << 7,
};

/* What else a run wants at its end. */
enum run_extra {
	RUN_ESTABLISHED = 1 << 0,		/* nf_established() */
	RUN_REFUSES = 1 << 1,			/* nf_refuse() */
	RUN_HAS_PORTS = 1 << 2,			/* nf_set_ports() */
	RUN_LOGS = 1 << 3,			/* nf_log() */
	RUN_HAS_TASK = 1 << 4,			/* nf_task() */
};

/* What a run is: known at arrival. */
enum run_mark {
	RUN_IS_ERRAND = 1 << 0,			/* It has no packet. */
	RUN_IS_FRAGMENT = 1 << 1,		/* Whose ports are still looked for. */
	RUN_HAS_FOUND = 1 << 2,			/* A fragment's, whose were. */
	RUN_HAS_TURNED = 1 << 3,
	RUN_IS_INJECTED = 1 << 4,
	RUN_LEADS = 1 << 5,			/* Others arrive after it: 'behind'. */
	RUN_IS_NOT_IP = 1 << 6,
};

/* What every packet touches comes first: four cache lines. */
struct nf_run {
	/* Reset before each execution: a run that waits leaves no trace. */
	uint8_t n_asked;			/* Reads of this execution. */
	uint8_t n_pending;			/* Those not here. */
	uint8_t n_writes;
	uint8_t n_alerts;
	uint8_t drop;				/* enum nf_drop */
	uint8_t edits;				/* enum run_edit */
	uint8_t extras;				/* enum run_extra */
	uint8_t unreadable;			/* Which value is of a format that nobody
						 * here reads, from 1; 0: none; or
						 * RUN_TOO_MUCH. */

	/* Of its way through the pipe. */
	uint8_t side;				/* enum nf_side: where it came in. */
	uint8_t state;				/* enum run_state */
	uint8_t verdict;			/* enum nf_verdict */
	uint8_t n_fetched;			/* Values that the next execution finds. */
	uint8_t first;				/* Index of the value asked for first. */
	uint8_t trips;
	uint8_t attempt;			/* Rises with every conflict. */
	uint8_t fate;				/* enum run_fate, of its group. */
	bool has_group;
	bool late;				/* Listed in its flow's lane. */
	uint8_t speculative;			/* enum run_sight */
	bool doomed;				/* What it saw was in vain: it has to
						 * start again. */
	bool has_connection;
	uint8_t part;				/* The partition that it writes. */
	uint8_t marks;				/* enum run_mark */
	uint16_t unacknowledged;		/* Values from the overlay, a bit each. */
	uint16_t picked;			/* Picks that the handler has seen. */

	/* Set at arrival, constant after. */
	struct pipe *pipe;
	struct rte_mbuf *mbuf;			/* NULL: of an errand. */
	uint64_t arrived;			/* TSC. */
	uint64_t sequence;			/* Of arrival at the pipe. */
	struct rte_mbuf *emitted;		/* Own packets, linked by emitted_next. */
	struct packet packet;
	struct flow connection;
	uint64_t lane_hash;			/* Of the connection, or of a fragment's
						 * datagram; 0: not made yet.  That of an
						 * errand is its own. */
	uint64_t group_version;
	struct run_value value[NF_MAX_READS];

	/* Of some. */
	struct nf_run *next;			/* In a commit queue, in the list of those
						 * to restart, or to arrive anew. */
	struct job *job;			/* Of its group. */
	uint64_t committed;			/* When it came to its commit queue. */
	bool light;				/* In that of light runs. */
	struct nf_run *late_next;
	struct rte_mbuf *emitted_next;		/* Of a packet that is itself emitted. */
	struct rte_mbuf *behind;		/* Linked by emitted_next. */
	uint64_t slot;				/* Ordered ports: its place. */
	uint32_t pick[NF_MAX_READS];		/* By value, of those in 'picked'. */
	struct run_write write[NF_MAX_WRITES];
	struct endpoint src, dst;
	uint32_t alert[RUN_MAX_ALERTS];
	/* By 'edits' and 'extras'. */
	struct endpoint quoted_src, quoted_dst, tunnel_src, tunnel_dst;
	uint32_t shift_seq, shift_ack;
	uint16_t shift_id;
	uint8_t ethernet_src[6], ethernet_dst[6];
	uint8_t tunnel;				/* enum tunnel */
	uint8_t refusal;			/* enum refusal */
	uint8_t leaves;				/* Of an emitted one: enum run_leaves */
	uint8_t protocol;			/* Of a fragment; 0: its own. */
	rte_be16_t src_port, dst_port;		/* The same. */
	uint8_t n_events, task_stage;
	uint16_t task_bytes;
	struct run_event event[RUN_MAX_EVENTS];
	uint8_t task[NF_MAX_TASK_BYTES];
};

/* Where what a run made goes. */
enum run_leaves {
	RUN_LEAVES_ON,				/* By the other side. */
	RUN_LEAVES_BACK,			/* By the side of its packet. */
	RUN_ARRIVES,				/* Nowhere: it arrives anew. */
};

static_assert(offsetof(struct nf_run, value) == 192, "the fourth cache line");

static inline struct nf_run *
run_of(struct rte_mbuf *m)
{
	return (struct nf_run *)rte_mbuf_to_priv(m);
}

/* A batch and whose operations it carries: in each of its parts, entry i's answers come
 * before those of entry i + 1. */
struct job {
	struct store_batch *batch;
	unsigned int n_entries;
	unsigned int n_used;			/* Entries, and runs that only touched. */
	unsigned int n_new;			/* Of packets that just arrived. */
	unsigned int n_ops;			/* 0: nothing to ask. */
	unsigned int n_groups;			/* Of its runs in commit queues: what
						 * they wrote is seen in its frame. */
	bool answered;				/* Only groups that wait for replicas are
						 * left... */
	bool settled;				/* ...and not even these. */
	struct nf_run *entry[JOB_MAX_ENTRIES];
	/* By entry, of a light run that has left before the others: its partition. */
	uint8_t left_part[JOB_MAX_ENTRIES];
};

/* run.c: one execution. */
struct run_context {
	struct store_part *part;		/* The open job's: reads go here... */
	unsigned int n_parts;
	uint8_t n_touches, touch_part[NF_MAX_TOUCHES];
	struct frame writes, touches;		/* ...these only if it decides. */
	uint64_t next_version;
	const void *nf_static;			/* Of the function that runs... */
	unsigned int at;			/* ...and its place in the chain. */
	enum nf_verdict (*packet)(struct nf_run *r); /* The handler, or chain_packet(). */
	uint64_t secret;			/* For nf_random(). */
	struct chain chain;
	const void *note[NF_MAX_STAGES + 1];	/* Of each function. */
	bool has_quoted;			/* What the packet quotes, as the... */
	struct flow quoted;			/* ...functions before have rewritten it. */
	struct ahead *ahead;			/* NULL: there is one function. */
};

static inline struct run_context *context_of(const struct nf_run *r);

/* Calls the handler.  Reads that are not here are in the frame afterwards; writes
 * are in c->writes. */
enum nf_verdict run_execute(struct run_context *c, struct nf_run *r);
/* Forgets what an execution left but for its reads. */
void run_reset(struct nf_run *r);

/* effects.c: what comes of a run beside what it writes. */
/* Rewrites the packet as the run said. */
void run_rewrite(struct nf_run *r);
/* A packet of the run's own, behind those it has; NULL: there is no buffer. */
struct nf_run *run_emit(struct nf_run *r, const void *frame, unsigned int bytes,
			enum run_leaves leaves);
/* A packet like that of the run, as far as ports are concerned, but empty; or NULL. */
struct rte_mbuf *run_mbuf(const struct nf_run *r);
void run_free_emitted(struct nf_run *r);

/* chain.c: several functions, one after the other. */
/* Sees to it that nf_static() is that of a function, by its place. */
static inline void
chain_enter(struct run_context *c, unsigned int at)
{
	c->at = at;
	c->nf_static = c->chain.stage[at].nf_static;
}

enum nf_verdict chain_packet(struct nf_run *r);
/* For a packet that is not IP. */
enum nf_verdict chain_non_ip(struct nf_run *r);
/* The flow as the run has it leave. */
void chain_rewrite_flow(const struct nf_run *r, struct flow *f);

/* ahead.c: what the packets of a flow read, in a chain. */
/* When the chain is known; to be freed by rte_free(). */
int ahead_open(struct run_context *c);
/* Asks for what the run, which waits for the first time, will probably want next. */
void ahead_ask(struct run_context *c, struct nf_run *r);
/* Remembers what the run read, which took several trips. */
void ahead_learn(struct run_context *c, const struct nf_run *r);

/* note.c: what the pipe remembers. */
struct notes;
int note_open(struct pipe *p);
void note_close(struct pipe *p);
/* The static state is another: what was made for the old one counts no more. */
void note_forget(struct pipe *p);
/* Starts the runs that are wanted, if 'notes' is there.  Returns whether any was. */
bool note_gather(struct pipe *p);

/* events.c: what functions report. */
struct events;
/* 'on': all of it, and not only what is for the log as well. */
int events_open(struct pipe *p, bool on);
void events_close(struct pipe *p);
/* What a run that has ended said; 'unconfirmed': maybe its group was not applied. */
void events_put(struct pipe *p, const struct nf_run *r, bool unconfirmed);

/* task.c: what blocks, and runs for what came of it. */
struct task_errands;
int task_open(struct pipe *p, struct task_lane *lane);
void task_close(struct pipe *p);
/* The task of a run that has ended is to be done. */
void task_hand_over(struct pipe *p, const struct nf_run *r);
/* Starts runs for what has been done, if 'lane' is there.  Returns whether any was. */
bool task_gather(struct pipe *p);

/* access.c: what a handler does with tables. */
/* Asks for a value that the run will probably want next. */
void run_read_ahead(struct nf_run *r, uint8_t table, const void *key,
		    unsigned int key_bytes, uint8_t how);
/* After NF_WAIT: asks again for what was here, as it all has to be of one moment. */
void run_ask_again(struct run_context *c, struct nf_run *r);
/* After any other verdict, or instead: takes back what the execution asked for. */
void run_take_back(struct run_context *c, struct nf_run *r);
/* After a verdict with writes: puts the group in the frame. */
void run_put_group(struct run_context *c, struct nf_run *r);
/* The same for touches. */
void run_put_touches(struct run_context *c);
/* Makes a value of the table's format of an older one.  Returns its length; 0: it cannot
 * be done. */
unsigned int run_upgrade(const struct nf_table *t, uint8_t from, const void *old,
			 unsigned int old_bytes, void *value);
/* Counts a record that could not be read. */
void run_refused(struct pipe *p, uint8_t table, uint8_t format);
/* The group of a timer's run begins with this. */
void run_settle(struct nf_run *r, const struct nf_table *t, const void *key,
		unsigned int key_bytes, uint64_t version);

/*
 * timer.c: runs without a packet.  An errand is started with all but 'run' set, goes the
 * way of a packet's, and ends: with the verdict NF_KEEP if it did what it was for, and
 * with another if it did nothing.
 */
struct errand {
	struct nf_run run;			/* First: the run is the errand. */
	uint8_t stage;				/* Whose it is: the place in the chain. */
	enum nf_verdict (*execute)(struct nf_run *r);
	void (*end)(struct pipe *p, struct nf_run *r);
};

/* How many errands may start. */
unsigned int errand_room(const struct pipe *p);
void errand_start(struct pipe *p, struct errand *e);

/* Those for records whose time has passed. */
struct timer {
	struct errand errand;			/* First. */
	const struct nf_table *table;
	uint64_t version;
	uint8_t key_bytes;
	uint64_t key[NF_MAX_KEY_BYTES / 8];
	uint64_t value[NF_MAX_VALUE_BYTES / 8];
};

/* Takes what is due, as far as there is room.  Returns whether there was any. */
bool timer_gather(struct pipe *p);
/* pipe.c: a pipe. */
enum {
	TX_ROOM = 1024,				/* Packets that wait for a port. */
	ALERT_ROOM = 1024,
};

struct outbox {
	unsigned int n;
	struct rte_mbuf *packet[TX_ROOM];
};

/* What may be sent of something that is limited by the second. */
struct bucket {
	uint64_t credit, most, cost;		/* In TSC cycles. */
	uint64_t at;				/* TSC, of 'credit'. */
};

/* A connection that was established lately: connections whose hashes end alike share a
 * place. */
struct seen {
	uint32_t tag;				/* Of the hash. */
	uint32_t at;				/* TSC >> SEEN_SHIFT */
};

enum {
	SEEN_SHIFT = 20,			/* Less than a millisecond. */
	SEEN_PLACES = 1 << 16,
};

struct pipe {
	struct run_context context;
	struct store *store;
	struct port *port[2];
	struct job *open;
	unsigned int n_jobs;			/* That have a batch. */
	unsigned int n_jobs_in_flight;
	unsigned int n_live;			/* Runs between arrival and release. */
	uint64_t n_arrived;
	uint32_t zone;				/* As in the configuration. */
	uint32_t frame_max[2];			/* Longer ones may not fit... */
	uint32_t mtu[2];			/* ...a port with this MTU; 0: any does. */
	uint64_t n_slots, n_left;		/* Ordered ports: released up to here. */
	bool receiving, ordered;
	uint8_t loss;				/* enum pipe_loss */
	uint8_t heeded;				/* Of enum run_extra: what is done. */
	bool leases;				/* Some table is leased. */
	unsigned int n_anew;			/* To arrive anew. */
	struct nf_run *anew_head, *anew_tail;
	struct bucket refusals;
	uint64_t secret;
	uint32_t grace;				/* As in struct seen. */
	uint32_t unseen;			/* When a packet passed without the store. */
	struct seen *seen;			/* Of PIPE_LOSS_ESTABLISHED. */
	struct notes *notes;			/* NULL, here and below: there are none. */
	struct events *events;
	struct task_lane *lane;
	struct task_errands *errands;
	unsigned int n_turns;
	_Atomic uint8_t health;			/* enum store_health, lately. */
	_Atomic uint8_t format[STORE_MAX_TABLES]; /* Written; 0: the table's own. */
	uint64_t timers_free;			/* A bit each. */
	struct nf_table *table[STORE_MAX_TABLES];
	uint8_t table_stage[STORE_MAX_TABLES];	/* Whose they are: places in the chain. */
	uint8_t first_side;			/* To receive from in this turn. */
	uint64_t now;				/* TSC at the start of the stage. */
	unsigned int n_departed;		/* In this turn: when they had arrived. */
	uint64_t departed[PIPE_MAX_LIVE];
	struct pipe_stats stats;
	struct outbox out[2];			/* By the side they leave on. */
	struct job job[STORE_BATCHES];
	struct order order;
	struct nf_run *finished[PIPE_MAX_LIVE];	/* Ordered ports: by sequence. */
	_Atomic uint32_t alert_head, alert_tail;
	struct pipe_alert alert[ALERT_ROOM];
	_Atomic unsigned int n_refusals;
	struct pipe_refusal refusal[PIPE_MAX_REFUSALS];
	uint8_t write_buffer[RUN_WRITE_BYTES];
	uint8_t touch_buffer[RUN_TOUCH_BYTES];
	struct timer timer[PIPE_TIMERS];
	/* Of other formats: what an execution has read, and what it is about to write. */
	uint64_t upgraded[NF_MAX_READS][NF_MAX_VALUE_BYTES / 8];
	uint64_t downgraded[NF_MAX_VALUE_BYTES / 8];
};

static_assert(PIPE_TIMERS == 64, "bits of timers_free");

static inline struct run_context *
context_of(const struct nf_run *r)
{
	return &r->pipe->context;
}

/* Ends a stage: the cycles since the last one ended are its. */
static inline void
pipe_stage_end(struct pipe *p, enum pipe_stage stage)
{
	uint64_t now = rte_rdtsc();

	p->stats.cycles[stage] += now - p->now;
	p->now = now;
}

static inline void
job_add(struct job *job, struct nf_run *r, unsigned int n_ops)
{
	job->entry[job->n_entries++] = r;
	job->n_used++;
	job->n_ops += n_ops;
}

static inline void
job_free(struct pipe *p, struct job *job)
{
	p->store->ops->free(p->store, job->batch);
	job->batch = NULL;
	p->n_jobs--;
}

/* All of it was answered, or a run of its groups has left its commit queue. */
static inline void
job_done(struct pipe *p, struct job *job)
{
	if (job->settled && job->n_groups == 0)
		job_free(p, job);
}

static inline void
run_prefetch(const struct nf_run *r)
{
	rte_prefetch0(r);
	rte_prefetch0((const char *)r + 64);
	rte_prefetch0((const char *)r + 128);
	rte_prefetch0(&r->value[0]);
}

/* Makes sure that a job is open. */
void job_open(struct pipe *p);
/* The first execution: its reads go into the open job.  A run that decides without
 * reading goes there too, so that it does not overtake its flow; it is run again at
 * its turn. */
void pipe_start(struct pipe *p, struct nf_run *r);

/* settle.c: a batch that came back. */
void pipe_settle(struct pipe *p, struct job *job);

/* release.c: the end of a run; it is gone afterwards, or arrives anew. */
void release_run(struct pipe *p, struct nf_run *r);
void release_dropped(struct pipe *p, struct nf_run *r, enum nf_drop reason);
/* Gives what waits for a side's port to it; returns whether it took any. */
bool release_flush(struct pipe *p, unsigned int side);
/* At the end of a turn: those that left in it have left now. */
void release_count(struct pipe *p);
/* Whether a run of the same connection has lately said nf_established(). */
bool release_seen(struct pipe *p, struct nf_run *r);

#endif
