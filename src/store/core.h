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
 * -ENOMEM, -EMSGSIZE (the reply would be over FRAME_MAX_REPLY_BYTES if every read
 * hit a value of its table's value_max).  After an error nothing has changed.
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

/* Starts the idle time of every record anew: for a replica that is promoted, which
 * does not know of the reads. */
void partition_refresh(struct partition *p, uint64_t now_ms);

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

/* --- Private to the core from here on ------------------------------------------ */

/* --- memory.c: all memory of a partition ---------------------------------------
 * The module points these at the server's allocator before it makes a partition. */
extern void *(*core_alloc)(size_t bytes);
extern void (*core_free)(void *memory);

/* Allocations that are counted in '*account', NULL when there is no memory. */
void *memory_alloc(size_t bytes, uint64_t *account);
void memory_free(void *memory, size_t bytes, uint64_t *account);
/* The same, starting on a cache line. */
void *memory_alloc_lines(size_t bytes, uint64_t *account);
void memory_free_lines(void *memory, size_t bytes, uint64_t *account);
/* Makes room for more than '*room' elements in a counted array that holds them. */
int memory_grow(void **array, uint32_t *room, size_t element_bytes, uint64_t *account);

/* --- table.c, slots.c: the index and the memory of records --------------------- */

/* A record's number: stable until the record is deleted or its value's length
 * moves it to another size class.  0 is none. */
typedef uint32_t record_id;

struct record {
	uint64_t version;			/* 0: the slot is free. */
	record_id next, prev;			/* In a wheel slot, or of free slots. */
	uint32_t touched;			/* Wheel ticks; the last read or write. */
	uint32_t idle;				/* Wheel ticks; 0: for ever. */
	uint16_t value_bytes;
	uint8_t table, key_bytes, format;
	uint8_t slot_level;			/* Where it is in the wheel; 0: not. */
	uint16_t slot;
	uint8_t bytes[];			/* Key, pad, value, pad, as in frame.h. */
};

static_assert(sizeof(struct record) == 32, "an IPv4 connection fits a cache line");

enum {
	TABLE_BUCKET_ENTRIES = 10,		/* What fits a cache line. */
	TABLE_SLOT_BITS = 14,			/* Of a record_id; the rest: its chunk. */
	TABLE_MAX_CLASSES = 40,
	TABLE_STEP = 16,			/* Sizes of slots are multiples of it. */
	TABLE_MAX_SLOT = sizeof(struct record) + FRAME_MAX_KEY + FRAME_MAX_VALUE,
};

/* A cache line of the index.  Entries are packed from 0, through the chain of
 * overflow buckets; a tag of 0 is an empty entry. */
struct table_bucket {
	uint16_t tag[TABLE_BUCKET_ENTRIES];
	uint32_t overflow;			/* 0: none. */
	record_id id[TABLE_BUCKET_ENTRIES];
} __attribute__((aligned(64)));

struct table_chunk {
	uint8_t *start;				/* NULL for chunk 0, never used. */
	uint32_t slot_bytes;
	uint16_t n_slots;
	uint8_t class;
};

struct table_class {
	record_id free;				/* List of freed slots. */
	uint32_t n_free;			/* On the list, or not used so far. */
	uint32_t chunk;				/* The newest one. */
	uint32_t n_used;			/* Of its slots. */
	uint16_t slot_bytes;
};

struct slots {
	struct table_chunk *chunks;
	uint32_t n_chunks, chunks_room;
	unsigned int n_classes;
	uint8_t class_of[TABLE_MAX_SLOT / TABLE_STEP + 1];	/* By size in steps. */
	struct table_class classes[TABLE_MAX_CLASSES];
	uint64_t memory_bytes;
};

struct table {
	struct slots slots;
	struct table_bucket **segments;		/* Linear hashing: bucket by bucket. */
	struct table_bucket **spill;		/* Overflow buckets. */
	uint32_t n_segments, segments_room;
	uint32_t n_spill, spill_room;
	uint32_t n_buckets, mask;		/* mask / 2 < n_buckets <= mask */
	uint32_t spill_free;			/* List of overflow buckets. */
	uint32_t n_spill_free;
	uint64_t n_records;
	uint64_t n_inserted, n_removed;		/* Since the start: age of a probe. */
	uint64_t secret[4];
	uint64_t memory_bytes;			/* Of the index alone. */
};

/* One key on its way through table_probe(), table_get(). */
struct table_probe {
	const uint8_t *key;
	uint8_t table, key_bytes;
	record_id candidate;			/* The first entry with the key's tag. */
	uint64_t hash;
	uint64_t n_inserted, n_removed;		/* The table's, at that time. */
};

/* Slots and entries that a group of writes needs at the most, so far. */
struct table_room {
	uint8_t slots[TABLE_MAX_CLASSES];
	uint8_t entries;
};

int table_init(struct table *t, const uint64_t seed[2]);
void table_fini(struct table *t);
/* Sets all of 'probes' but key, table and key_bytes, and fetches what they will
 * need from memory, all misses at once. */
void table_probe(const struct table *t, struct table_probe *probes, unsigned int n);
/* The slow way to a record, by its hash; 0: absent. */
record_id table_find(const struct table *t, const struct table_probe *probe);
/* Adds a write of this length to 'room', of the record that the key has now (0:
 * absent), and makes sure of all of 'room': after that table_insert() and
 * table_move() for these writes, in between any others, cannot fail. */
int table_reserve(struct table *t, struct table_room *room, record_id id,
		  uint8_t key_bytes, uint16_t value_bytes);
/* Makes a record of a key that is absent.  Table, key and value_bytes are set. */
record_id table_insert(struct table *t, const struct table_probe *probe,
		       uint16_t value_bytes);
/* Gives a record, out of the wheel, a slot of another class; returns its new id. */
record_id table_move(struct table *t, const struct table_probe *probe, record_id id,
		     uint16_t value_bytes);
void table_remove(struct table *t, const struct table_probe *probe, record_id id);

int slots_init(struct slots *s);
void slots_fini(struct slots *s);
int slots_reserve(struct slots *s, uint8_t class, uint32_t n);
record_id slots_take(struct slots *s, uint8_t class);
void slots_give(struct slots *s, record_id id);
/* The record after 'id' (0: the first) in no particular order; 0 at the end. */
record_id slots_next(const struct slots *s, record_id id);

static inline uint8_t
slots_class(const struct slots *s, uint8_t key_bytes, uint16_t value_bytes)
{
	return s->class_of[(sizeof(struct record) + FRAME_PAD(key_bytes) +
			    FRAME_PAD(value_bytes) + TABLE_STEP - 1) / TABLE_STEP];
}

static inline struct record *
slots_record(const struct slots *s, record_id id)
{
	const struct table_chunk *c = &s->chunks[id >> TABLE_SLOT_BITS];
	size_t slot = id & ((1u << TABLE_SLOT_BITS) - 1);

	return (struct record *)(void *)(c->start + slot * c->slot_bytes);
}

static inline struct record *
table_record(const struct table *t, record_id id)
{
	return slots_record(&t->slots, id);
}

static inline uint8_t *
record_value(struct record *r)
{
	return r->bytes + FRAME_PAD(r->key_bytes);
}

static inline bool
table_key_equal(const uint8_t *a, const uint8_t *b, unsigned int bytes)
{
	uint64_t x, y, differ = 0;

	if (bytes < 8)
		return memcmp(a, b, bytes) == 0;
	for (unsigned int i = 0; i + 8 < bytes; i += 8) {
		memcpy(&x, a + i, 8);
		memcpy(&y, b + i, 8);
		differ |= x ^ y;
	}
	memcpy(&x, a + bytes - 8, 8);
	memcpy(&y, b + bytes - 8, 8);
	return (differ | (x ^ y)) == 0;
}

static inline bool
record_has_key(const struct record *r, const struct table_probe *probe)
{
	return r->key_bytes == probe->key_bytes && r->table == probe->table &&
	       table_key_equal(r->bytes, probe->key, probe->key_bytes);
}

/* The record of a key after table_probe(), whatever has changed since; 0: absent. */
static inline record_id
table_get(const struct table *t, const struct table_probe *probe)
{
	record_id id = probe->candidate;

	if (id == 0 && probe->n_inserted == t->n_inserted)
		return 0;
	if (id != 0 && probe->n_removed == t->n_removed &&
	    record_has_key(table_record(t, id), probe))
		return id;
	return table_find(t, probe);
}

/* --- wheel.c: the timer wheel ---------------------------------------------------
 * Lazy: a touch only sets 'touched'; a record whose slot comes up while it is not
 * yet due is armed again. */
#define WHEEL_TICK_MS 100

enum {
	WHEEL_LEVELS = 3,
	WHEEL_BITS = 8,
	WHEEL_SLOTS = 1 << WHEEL_BITS,
};

struct wheel {
	uint32_t tick;				/* All before it have come up. */
	uint32_t n[WHEEL_LEVELS];
	record_id slot[WHEEL_LEVELS][WHEEL_SLOTS];
};

/* Makes a record that is not in the wheel come up at tick 'due' or earlier. */
void wheel_arm(struct wheel *w, const struct slots *s, record_id id, uint32_t now,
	       uint32_t due);
/* Takes a record out; one that is not in is left alone. */
void wheel_disarm(struct wheel *w, const struct slots *s, record_id id);
/* Takes out the next record that has come up by 'now'; 0: there is none left. */
record_id wheel_next(struct wheel *w, const struct slots *s, uint32_t now);

/* --- clients.c: which frames were applied, and how they were answered ----------- */

enum {
	CLIENT_MAX_GROUPS = FRAME_MAX_BYTES / 24,	/* 24: the smallest group. */
};

struct client_frame {
	uint64_t id;
	uint32_t n_groups;
	uint32_t room;				/* Bytes of 'answers'. */
	uint8_t *answers;			/* 2 bits a group: answer - APPLIED. */
};

struct client {
	uint64_t id;
	struct client *chain;			/* In a hash slot. */
	struct client *older, *newer;		/* By when they were heard of. */
	uint32_t seen;				/* Wheel ticks. */
	uint32_t n_frames;			/* Remembered. */
	uint32_t newest;			/* Index of the newest in 'frames'. */
	struct client_frame frames[CORE_CLIENT_FRAMES];
};

struct clients {
	struct client **heads;
	struct client *oldest, *newest;
	uint64_t n;
	uint64_t secret;
	uint64_t memory_bytes;
};

static inline size_t
client_answers_bytes(uint32_t n_groups)
{
	return ((size_t)n_groups + 3) / 4;
}

static inline void
client_answer_set(uint8_t *answers, uint32_t group, enum frame_answer answer)
{
	answers[group / 4] |= (uint8_t)((answer - FRAME_APPLIED) << group % 4 * 2);
}

static inline enum frame_answer
client_answer(const uint8_t *answers, uint32_t group)
{
	return (answers[group / 4] >> group % 4 * 2 & 3) + FRAME_APPLIED;
}

int clients_init(struct clients *c, uint64_t secret);
void clients_fini(struct clients *c);
/* 0: never seen; 1: remembered, and '*out' is set; -EALREADY: forgotten. */
int clients_seen(const struct clients *c, uint64_t client, uint64_t frame,
		 const struct client_frame **out);
/* Finds or makes the client, and a place for the answers of its next frame, all 0,
 * over its oldest one.  Nothing may fail between this and clients_remember(). */
int clients_prepare(struct clients *c, uint64_t client, uint32_t n_groups,
		    struct client **out, uint8_t **answers);
void clients_remember(struct clients *c, struct client *client, uint64_t frame,
		      uint32_t n_groups, uint32_t now);
void clients_forget(struct clients *c, uint64_t client);
/* The client that was silent for the longest, if for longer than it may. */
const struct client *clients_silent(const struct clients *c, uint32_t now);

/* --- partition.c: records and what happens to them ------------------------------ */

struct partition {
	uint64_t generation;
	uint64_t start_ms, now_ms;		/* The caller's clock. */
	bool started;				/* 'start_ms' is set. */
	uint32_t fresh;				/* Idle times count from here at least. */
	uint8_t n_tables;
	struct core_table tables[CORE_MAX_TABLES];
	struct frame_limits limits[CORE_MAX_TABLES];
	struct table table;
	struct wheel wheel;
	struct clients clients;
	struct core_counters counters;
};

/* Wheel ticks since the partition's start; never goes backwards. */
uint32_t partition_tick(struct partition *p, uint64_t now_ms);
/* Writes a record; table_reserve() has made sure of room. */
struct record *partition_put(struct partition *p, const struct table_probe *probe,
			     const struct frame_op *op, uint64_t version, uint32_t now);
/* Deletes a record; false: it is absent. */
bool partition_delete(struct partition *p, const struct table_probe *probe);

/* The tick at which a record with an idle time expires. */
static inline uint32_t
partition_due(const struct partition *p, const struct record *r)
{
	uint32_t from = r->touched > p->fresh ? r->touched : p->fresh;

	return from + r->idle + 1;
}

/* The record of a key, NULL: absent or expired. */
static inline struct record *
partition_current(const struct partition *p, const struct table_probe *probe,
		  uint32_t now)
{
	record_id id = table_get(&p->table, probe);
	struct record *r;

	if (id == 0)
		return NULL;
	r = table_record(&p->table, id);
	return r->idle == 0 || now < partition_due(p, r) ? r : NULL;
}

/* --- effects.c: what changed, as bytes ------------------------------------------
 *   PUT     u8 1, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u16 0,
 *           u32 idle_ms, u64 version, key, value
 *   DELETE  u8 2, u8 table, u8 key_bytes, u8 0, key
 *   CLIENT  u8 3, u8 0, u16 0, u32 n_groups (0: the client is forgotten), u64 client,
 *           u64 id, answers
 *   DECLARE u8 4, u8 format, u8 name_bytes, u8 0, u16 key_max, u16 value_max, name */
enum {
	EFFECT_PUT = 1,
	EFFECT_DELETE = 2,
	EFFECT_CLIENT = 3,
	EFFECT_DECLARE = 4,
	EFFECT_DELETE_BYTES = 4,		/* Without key, value and the like. */
	EFFECT_PUT_BYTES = 20,
	EFFECT_CLIENT_BYTES = 24,
	EFFECT_DECLARE_BYTES = 8,
};

/* Append to 'b', which has to have room. */
void effect_put(struct buffer *b, const struct record *r);
void effect_delete(struct buffer *b, uint8_t table, const uint8_t *key,
		   uint8_t key_bytes);
void effect_client(struct buffer *b, uint64_t client, uint64_t frame, uint32_t n_groups,
		   const uint8_t *answers);
void effect_declare(struct buffer *b, const struct core_table *table);

#endif
