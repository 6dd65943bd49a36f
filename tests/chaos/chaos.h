/*
 * chaos.h - what the files of the chaos client share.  chaos_client.c turns the loop
 * and knows the store, chaos_txn.c decides what is asked, chaos_history.c writes down
 * what was asked and answered; checker.py judges that, and describes its lines.
 */
#ifndef CHAOS_CHAOS_H
#define CHAOS_CHAOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

/* checker.py knows these, and the letters that name them in a history. */
enum chaos_table {
	TABLE_KEYS,		/* Values that groups check and replace. */
	TABLE_COUNTERS,		/* Two numbers each; the last one counts timers. */
	TABLE_RANGES,		/* One in each partition. */
	TABLE_HOLDS,		/* Who has a member of a range. */
	TABLE_JOURNAL,		/* A record for each group that took effect. */
	TABLE_TIMERS,
	N_TABLES
};

enum {
	N_KEYS = 5,		/* In each partition: few, so that they collide. */
	N_COUNTERS = 3,
	N_MEMBERS = 12,
	COUNTER_MAX = 40,	/* Of all but the last. */
	MAX_READS = 4,
	MAX_GROUPS = 2,		/* That one step asks for. */
	MAX_TXNS = 32,
	WORK_TXNS = 16,		/* The rest is for leases. */
	RECENT_TIMERS = 8,
	HISTORY_BYTES = 1 << 16,
};

/* Lines on their way to a file.  What is asked has to be in the file before it is
 * sent: the client may be killed at any moment. */
struct history {
	int fd;
	size_t n;
	char text[HISTORY_BYTES];
};

void history_open(struct history *h, const char *path);
void history_add(struct history *h, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void history_bytes(struct history *h, const void *bytes, unsigned int n);
/* "/" and the bytes. */
void history_value(struct history *h, const void *value, unsigned int bytes);
void history_flush(struct history *h);
uint64_t chaos_now(void);	/* ns, CLOCK_MONOTONIC */

enum txn_step {
	TXN_FREE,
	TXN_READ_KEYS,
	TXN_WRITE_KEYS,
	TXN_READ_COUNTERS,
	TXN_ADD,
	TXN_PICK,
	TXN_TAKE,
	TXN_GIVE,
	TXN_READ_HOLD,
	TXN_ARM,
	TXN_SETTLE,
	TXN_LOOK,
};

/* One transaction: a step is asked for, answered, and decides about the next. */
struct txn {
	enum txn_step step;
	bool asked;				/* In flight. */
	unsigned int partition;
	uint64_t after;				/* Time before which nothing is asked. */
	uint64_t version[MAX_GROUPS];		/* Of the groups asked for; or the id
						 * of the reads. */
	unsigned int n_groups, n_answers;	/* Of this step. */
	unsigned int n_keys, tries;
	uint32_t key[MAX_READS], member;
	uint64_t seen[MAX_READS];		/* The keys' versions. */
	uint64_t held, timer;			/* Versions: of the TAKE, of the timer. */
};

struct chaos {
	struct store *store;
	struct history history;
	uint64_t random, next_version;
	uint32_t who;				/* Slot and incarnation. */
	unsigned int n_partitions;
	bool drain, stopping;
	uint64_t recent_timer[RECENT_TIMERS];
	unsigned int recent_partition[RECENT_TIMERS], n_timers;
	struct txn txn[MAX_TXNS];
};

/* A group, or reads, being written. */
struct asking {
	struct chaos *chaos;
	struct txn *txn;
	struct frame *frame;
	uint8_t *group;
	uint8_t n_ops;
};

/* What came of one answer: a frame_answer, or a negative errno. */
struct txn_answer {
	int result;
	struct frame_value value;		/* Of a hit. */
};

/* --- chaos_ask.c: each writes an operation into the frame and the history --------- */

uint64_t chaos_random(struct chaos *c, uint64_t below);
bool one_in(struct chaos *c, unsigned int n);
uint64_t next_version(struct chaos *c);
void ask_read(struct asking *a, enum chaos_table table, const void *key,
	      uint8_t key_bytes);
void ask_touch(struct asking *a, enum chaos_table table, const void *key,
	       uint8_t key_bytes);
void ask_pick(struct asking *a, uint32_t range);
void group_begin(struct asking *a);
uint64_t group_version(const struct asking *a);
void ask_check(struct asking *a, enum frame_op_kind kind, enum chaos_table table,
	       const void *key, uint8_t key_bytes, uint64_t version);
void ask_put(struct asking *a, enum chaos_table table, const void *key,
	     uint8_t key_bytes, uint32_t idle_ms);
void ask_delete(struct asking *a, enum chaos_table table, const void *key,
		uint8_t key_bytes);
void ask_add(struct asking *a, uint32_t key, uint16_t offset, int64_t delta,
	     int64_t max);
void ask_take(struct asking *a, uint32_t range, uint32_t member);
void ask_give(struct asking *a, uint32_t range, uint32_t member, uint32_t quarantine_ms);
/* The record that shows that this group took effect; 'about' is the first half of its
 * key. */
void ask_journal(struct asking *a, uint64_t about);
void group_end(struct asking *a);

/* --- chaos_txn.c ------------------------------------------------------------------- */

static inline unsigned int
txn_who(uint64_t version)
{
	return (unsigned int)(version >> 40);
}

/* Makes up a transaction in a free slot. */
void txn_start(struct chaos *c, struct txn *t);
/* One that settles a timer whose lease came, or lets it run out. */
void txn_settle(struct chaos *c, struct txn *t, const struct store_lease *lease);
/* Writes what the step asks for, into the frame and the history. */
void txn_ask(struct chaos *c, struct txn *t, struct frame *f);
/* Takes the answers to all that txn_ask() wrote.  Groups go on when they are final. */
void txn_answered(struct chaos *c, struct txn *t, bool final,
		  const struct txn_answer *answers);

#endif
