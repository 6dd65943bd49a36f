/*
 * order.h - which runs have to wait for which: see order.c; and guesses (guess.c).
 */
#ifndef PIPE_ORDER_H
#define PIPE_ORDER_H

#include "pipe/pipe.h"

struct nf_run;
struct run_write;

struct lane {
	uint64_t hash;				/* Of the connection; 0: free. */
	struct nf_run *late, *late_tail;	/* By arrival; only the first may decide. */
	unsigned int n_committing, n_light;	/* In a commit queue, and light ones. */
};

struct commit_queue {
	struct nf_run *head, *tail;
};

enum {
	ORDER_LANES = 2 * PIPE_MAX_LIVE,
	ORDER_OVERLAY = 8 * PIPE_MAX_LIVE,
	ORDER_RESTARTS = 32,			/* Parked runs that go on at once. */
	ORDER_GUESSES = 8,
};

/* guess.c: adds to one record that the store has not answered yet. */
struct guess {
	unsigned int n_adds;			/* 0: free. */
	uint8_t table, key_bytes;
	uint8_t key[NF_MAX_KEY_BYTES];
	int64_t sum[NF_MAX_VALUE_BYTES / 8];	/* By where they add. */
};

struct order {
	unsigned int n_lanes, n_overlay;
	unsigned int n_guesses;
	unsigned int n_groupless;		/* In a commit queue, without a group. */
	uint64_t seed, n_committed;		/* That ever came to one. */
	struct commit_queue commit[2];		/* Of light runs the second. */
	struct nf_run *restart_head, *restart_tail;
	/* Which slots are taken: nearly none, and who looks in vain need not miss the
	 * cache for it. */
	uint64_t lane_taken[ORDER_LANES / 64], overlay_taken[ORDER_OVERLAY / 64];
	struct lane lane[ORDER_LANES];
	struct run_write *overlay[ORDER_OVERLAY];
	struct guess guess[ORDER_GUESSES];
	uint64_t guessed[NF_MAX_VALUE_BYTES / 8];
};

/* Nothing is undecided or unacknowledged: nobody has to wait. */
static inline bool
order_quiet(const struct order *o)
{
	return o->n_lanes == 0;
}

void order_init(struct order *o, uint64_t seed);
/* Whether 'r' has to wait for an earlier run of its connection. */
bool order_waits(struct order *o, struct nf_run *r);
/* It does: it comes back on the restart list. */
void order_park(struct order *o, struct nf_run *r);
/* 'r' is not decided yet and later runs of its connection have to wait for it. */
void order_late(struct order *o, struct nf_run *r);
/* The same for one that has to start again from the top: it goes to the restart list
 * as soon as no earlier run of its connection is undecided, or may have to as well. */
void order_retry(struct order *o, struct nf_run *r);
/* 'r' has decided: the next late run of its connection may go. */
void order_decided(struct order *o, struct nf_run *r);
/* Whether a run of the same connection waits for its commit. */
bool order_committing(struct order *o, struct nf_run *r);
/* Puts 'r' and its writes in a commit queue. */
void order_commit(struct order *o, struct nf_run *r);
/* Takes the next of the commit queues whose fate is known, or NULL.  Its writes are
 * out of the overlay; runs that saw writes which failed are doomed. */
struct nf_run *order_next_committed(struct order *o);
/* Replaces values by what earlier runs wrote and nobody has acknowledged; if there
 * are any, the run is speculative. */
void order_overlay(struct order *o, struct nf_run *r);
/* Runs to be started from the top, in order; NULL: none. */
struct nf_run *order_next_restart(struct order *o);

void guess_add(struct order *o, struct run_write *w);
/* The store has answered the group of 'r': what it added is in what is read behind it. */
void guess_answered(struct order *o, struct nf_run *r);
/* Adds to what 'r' glanced at what is under way. */
void guess_apply(struct order *o, struct nf_run *r);

#endif
