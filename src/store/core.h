/*
 * core.h - what the embedded store and the server's module share: a partition.
 *
 * A partition holds the records of all tables of one store, in memory, and
 * applies frames to them.  It belongs to one thread at a time and does no I/O;
 * time is the caller's, in milliseconds of any clock that does not go backwards.
 *
 * A record has a key, a value, the version that its last writer gave it (versions
 * are unique, chosen by clients, never 0), and an idle time.  Reads and writes
 * start the idle time anew.  When it has passed, what happens depends on the table:
 *
 *   plain    the record is deleted.  It is not answered any more, even if its
 *            deletion is still to come.
 *   leased   the record is due: partition_lease() gives it to one client, whose group
 *            settles it.  Until then it is answered as ever, and a touch makes it
 *            live on.  A lease that is not settled in CORE_LEASE_MS is given to
 *            someone else.
 *
 * A member of a range that was given back with a quarantine stays taken until that has
 * passed: so long there is a record of it in the core's own table "snf.quarantine", made
 * when it is first needed (u8 table, the range's key, u32 member; no value).  Its end
 * gives the range no new version.
 */
#ifndef STORE_CORE_H
#define STORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/frame.h"

enum {
	CORE_MAX_TABLES = 64,			/* Of all functions that share a store. */
	CORE_TABLE_NAME = 32,			/* Bytes, with the final 0. */
	CORE_CLIENT_FRAMES = FRAME_REMEMBERED,	/* Of each client. */
	CORE_LEASE_MS = 1000,
	CORE_MAX_PARTITIONS = 64,		/* Of one store. */
	WHEEL_TICK_MS = 100,			/* What partition_expire() counts in. */
};

/* What becomes of a record of the table when its time has passed, and of a new one when
 * the table is full. */
enum core_table_flags {
	CORE_LEASED = 1,
	CORE_EVICT = 2,				/* Instead of refusing: the record of
						 * lowest rank, among those the one that
						 * expires first, or about: of those that
						 * were touched since they were written,
						 * a group passes over 32. */
	CORE_TABLE_FLAGS = 3,
};

struct core_declaration {
	const char *name;			/* Not "snf.": those are the core's. */
	uint16_t key_max, value_max;
	uint8_t format;
	uint8_t flags;
	uint64_t limit;				/* Records; 0: none. */
};

struct core_table {
	char name[CORE_TABLE_NAME];
	uint16_t key_max, value_max;
	uint8_t format;				/* The highest that was declared. */
	uint8_t flags;				/* The last that were declared... */
	uint64_t limit;				/* ...and the last limit. */
	/* Counted here, not copied to replicas. */
	uint64_t n_records, n_due;		/* Due: to be leased or settled. */
	uint64_t n_reads, n_hits, n_writes;
	uint64_t n_expired, n_leased, n_settled, n_evicted, n_full;
};

struct core_counters {
	uint64_t frames, reads, hits, groups, conflicts, refused, bounds, full, repeats;
	uint64_t expired, leased, settled, evicted;
	uint64_t records, due, memory_bytes, clients;
};

struct partition;

/* 'generation' is what frames have to carry; random for a new partition.  'seed'
 * keys the hash, so that nobody can choose keys that collide.  'n_partitions' is how
 * many the store has, kept for those who open it later. */
int partition_new(uint64_t generation, uint32_t n_partitions, const uint64_t seed[2],
		  struct partition **out);
void partition_free(struct partition *p);	/* NULL is ignored. */
uint64_t partition_generation(const struct partition *p);
uint32_t partition_siblings(const struct partition *p);

/*
 * Makes sure that a table of that name exists.  Returns its id (stable for the
 * partition's life, saved with it), or -EINVAL (name, limits or flags out of range),
 * -EEXIST (there is one with another key_max, or with a lower value_max and not of a
 * lower format), -ENOSPC.  The longest value_max is kept.  Format, flags and
 * limit may differ from one instance to another during an upgrade: the highest format
 * is kept, the last flags and limit.
 */
int partition_declare(struct partition *p, const struct core_declaration *d);
const struct core_table *partition_tables(const struct partition *p, unsigned int *n);

/* Bytes that grow; 'data' is the owner's to free with buffer_fini().  After
 * buffer_reserve() there is room for 'bytes' more; 0 or -ENOMEM. */
struct buffer {
	uint8_t *data;
	size_t bytes, room;
};
int buffer_reserve(struct buffer *b, size_t bytes);
void buffer_fini(struct buffer *b);

/*
 * Applies a frame: validates all of it, then answers its reads and applies its
 * groups in order, each whole or not at all.  What a group asks for is judged by what
 * is there before it: its CHECKs and SETTLEs by the records' versions, an ADD by the
 * field, a TAKE or GIVE by the member.  The reply is appended to 'reply'
 * (bytes already in it are kept: the caller may put a header there).  What
 * changed is appended to 'effects', unless that is NULL: partition_replay() of it
 * on a copy of the partition gives the same records and remembered frames.
 * 'term' is the only one that frames may carry now.
 * 'refuse' is set while memory is short: groups that put, or make a record or have it
 * grow, are refused; reads, deletes and what gives back go on.  A frame with groups of a
 * client that is not known fails then as a whole.
 *
 * A frame whose client and id were seen before does not apply its groups again:
 * they are answered as the first time, its reads afresh.  -EALREADY: seen so long
 * ago that the answer is forgotten.  -ESTALE: another generation or term.  -EBADMSG,
 * -ENOMEM, -EMSGSIZE (the reply would be over FRAME_MAX_REPLY_BYTES if every read
 * hit a value of its table's value_max).  After an error nothing has changed; clients
 * that were silent for some time may be forgotten after -ENOMEM.
 */
int partition_apply(struct partition *p, const void *frame, size_t bytes, uint64_t term,
		    uint64_t now_ms, bool refuse, struct buffer *reply,
		    struct buffer *effects);

/* Applies effects.  0, -EBADMSG (then some may be applied) or -ENOMEM. */
int partition_replay(struct partition *p, const void *effects, size_t bytes,
		     uint64_t now_ms);

/* Deletes records whose idle time has passed, or makes them due, ends quarantines, and
 * forgets clients that were silent for an hour, looking at up to 'max' records;
 * 'effects' as above.  Returns how many it looked at: 'max' means that there may be
 * more. */
unsigned int partition_expire(struct partition *p, uint64_t now_ms, unsigned int max,
			      struct buffer *effects);

/* The tables, a bit each by id, that have records for partition_lease(). */
uint64_t partition_due_tables(const struct partition *p);

/* Leases up to 'max' due records: appends a leases message (frame.h) to 'out'.  Returns
 * how many, or -ENOMEM.  A lease is kept by this copy alone: a replica knows of none,
 * and after a promotion all idle times start anew. */
int partition_lease(struct partition *p, uint64_t now_ms, uint64_t tables,
		    unsigned int max, struct buffer *out);

/*
 * Looks at up to 'max' records of a table in no particular order, and appends those that
 * are current to 'out' as in a leases message, without its head, each preceded by
 * u32 idle_ms (its whole idle time; 0: for ever), u32 left_ms.  '*cursor' is 0 at the
 * start and after the end.  A record that is there all the time is met at least once,
 * unless its value changes length meanwhile.  0 or -ENOMEM.
 */
int partition_scan(struct partition *p, uint64_t now_ms, unsigned int table,
		   unsigned int max, uint64_t *cursor, struct buffer *out);

void partition_count(const struct partition *p, struct core_counters *out);
/* How many groups there were. */
uint64_t partition_groups(const struct partition *p);

/*
 * The partition as bytes: 'emit' is called with pieces that partition_load() (for
 * the first) and partition_replay() (for the rest) turn back into it.  The first
 * piece holds generation and tables, each other one is effects of at most about
 * 64 KiB.  'emit' returns 0 or a negative errno, which ends it.
 */
int partition_save(const struct partition *p,
		   int (*emit)(void *context, const void *piece, size_t bytes),
		   void *context);
int partition_load(const void *piece, size_t bytes, const uint64_t seed[2],
		   struct partition **out);

/* Where the memory of partitions comes from: malloc() and free(), unless the module
 * points these at the server's allocator before it makes one. */
extern void *(*core_alloc)(size_t bytes);
extern void (*core_free)(void *memory);

#endif
