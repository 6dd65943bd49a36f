/*
 * core.h - what the embedded store and the server's module share: a partition.
 *
 * A partition holds the records of all tables of one store, in memory, and
 * applies frames to them.  It belongs to one thread at a time and does no I/O;
 * time is the caller's, in milliseconds of any clock that does not go backwards.
 *
 * A record has a key, a value, the version that its last writer gave it (versions
 * are unique, chosen by clients, never 0), and an idle time.  Reads and writes
 * start the idle time anew; when it has passed the record is deleted.  An expired
 * record is never answered, even if its deletion is still to come.
 */
#ifndef STORE_CORE_H
#define STORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/frame.h"

enum {
	CORE_MAX_TABLES = 32,
	CORE_TABLE_NAME = 32,			/* Bytes, with the final 0. */
	CORE_CLIENT_FRAMES = 32,		/* Remembered frames of each client. */
};

struct core_table {
	char name[CORE_TABLE_NAME];
	uint16_t key_max, value_max;
	uint8_t format;				/* The highest that was declared. */
	uint64_t n_records;
};

struct core_counters {
	uint64_t frames, reads, hits, groups, conflicts, refused, repeats, expired;
	uint64_t records, memory_bytes, clients;
};

struct partition;

/* 'generation' is what frames have to carry; random for a new partition.  'seed'
 * keys the hash, so that nobody can choose keys that collide. */
int partition_new(uint64_t generation, const uint64_t seed[2], struct partition **out);
void partition_free(struct partition *p);	/* NULL is ignored. */
uint64_t partition_generation(const struct partition *p);

/*
 * Makes sure that a table of that name exists.  Returns its id (stable for the
 * partition's life, saved with it), or -EINVAL (name or limits out of range),
 * -EEXIST (there is one with other key_max or value_max), -ENOSPC.  'format' may
 * differ from one instance to another during an upgrade; the highest is kept.
 */
int partition_declare(struct partition *p, const char *name, uint16_t key_max,
		      uint16_t value_max, uint8_t format);
const struct core_table *partition_tables(const struct partition *p, unsigned int *n);

/* Bytes that grow; 'data' is the owner's to free with buffer_fini(). */
struct buffer {
	uint8_t *data;
	size_t bytes, room;
};
int buffer_reserve(struct buffer *b, size_t bytes);
void buffer_fini(struct buffer *b);

/*
 * Applies a frame: validates all of it, then answers its reads and applies its
 * groups in order, each whole or not at all.  The reply is appended to 'reply'
 * (bytes already in it are kept: the caller may put a header there).  What
 * changed is appended to 'effects', unless that is NULL: partition_replay() of it
 * on a copy of the partition gives the same records and remembered frames.
 * 'refuse' is set while memory is short: groups that put are refused, deletes and
 * reads go on.
 *
 * A frame whose client and id were seen before does not apply its groups again:
 * they are answered as the first time, its reads afresh.  -EALREADY: seen so long
 * ago that the answer is forgotten.  -ESTALE: another generation.  -EBADMSG,
 * -ENOMEM, -EMSGSIZE (the reply would be over FRAME_MAX_REPLY_BYTES).  After an
 * error nothing has changed.
 */
int partition_apply(struct partition *p, const void *frame, size_t bytes, uint64_t now_ms,
		    bool refuse, struct buffer *reply, struct buffer *effects);

/* Applies effects.  0, -EBADMSG (then some may be applied) or -ENOMEM. */
int partition_replay(struct partition *p, const void *effects, size_t bytes,
		     uint64_t now_ms);

/* Deletes records whose idle time has passed and forgets clients that were silent
 * for an hour, looking at up to 'max' records; 'effects' as above.  Returns how
 * many it looked at: 'max' means that there may be more. */
unsigned int partition_expire(struct partition *p, uint64_t now_ms, unsigned int max,
			      struct buffer *effects);

void partition_count(const struct partition *p, struct core_counters *out);

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

/* --- table.c: the index and the memory of records --------------------------- */

/* A record's number: stable from its making to its deletion.  0 is none. */
typedef uint32_t record_id;

struct record {
	uint64_t version;
	record_id next, prev;			/* In a wheel slot. */
	uint32_t touched;			/* Wheel ticks; the last read or write. */
	uint32_t idle;				/* Wheel ticks; 0: for ever. */
	uint16_t value_bytes;
	uint8_t table, key_bytes, format;
	uint8_t slot_level;			/* Where it is in the wheel. */
	uint16_t slot;
	uint8_t bytes[];			/* Key, then value. */
};

/* --- wheel.c: the timer wheel -------------------------------------------------
 * Lazy: a touch only sets 'touched'; a record whose slot comes up while it is not
 * yet due is put off. */
#define WHEEL_TICK_MS 100

#endif
