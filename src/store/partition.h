/*
 * partition.h - the inside of the core: what its files share, and what their tests look
 * at.  core.h is what everybody else knows of it.
 */
#ifndef STORE_PARTITION_H
#define STORE_PARTITION_H

#include "store/core.h"

/* --- memory.c: all memory of a partition --------------------------------------- */

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
	record_id next, prev;			/* In a wheel slot or queue, or free. */
	uint32_t touched;			/* Wheel ticks; the last read or write. */
	uint32_t idle;				/* Wheel ticks; 0: for ever. */
	uint16_t value_bytes;
	uint8_t table, key_bytes, format;
	uint8_t slot_level;			/* Where it is in the wheel; 0: not. */
	uint8_t slot;
	uint8_t rank : 1;
	uint8_t due : 1;			/* In the queue, or leased. */
	uint8_t bytes[];			/* Key, pad, value, pad, as in frame.h. */
};

static_assert(sizeof(struct record) == 32, "an IPv4 connection fits a cache line");

enum {
	TABLE_BUCKET_ENTRIES = 10,		/* What fits a cache line. */
	TABLE_SLOT_BITS = 14,			/* Of a record_id; the rest: its chunk. */
	TABLE_MAX_CLASSES = 48,
	TABLE_STEP = 16,			/* Sizes of slots are multiples of it. */
	TABLE_MAX_SLOT = sizeof(struct record) + FRAME_MAX_KEY + FRAME_MAX_VALUE,
	/* Of the core's own tables, whose values are short. */
	TABLE_MAX_KEY = FRAME_MAX_KEY + 8,
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
	uint32_t room;				/* Buckets that segments have room for. */
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
/* What table_reserve() does if the record needs a slot. */
int table_reserve_slot(struct table *t, struct table_room *room, bool absent,
		       uint8_t class);
/* Makes a record of a key that is absent.  Table, key and value_bytes are set. */
record_id table_insert(struct table *t, const struct table_probe *probe,
		       uint16_t value_bytes);
/* Gives a record, out of the wheel, a slot of another class, with as much of its value as
 * fits; returns its new id. */
record_id table_move(struct table *t, const struct table_probe *probe, record_id id,
		     uint16_t value_bytes);
void table_remove(struct table *t, const struct table_probe *probe, record_id id);

int slots_init(struct slots *s);
void slots_fini(struct slots *s);
int slots_reserve(struct slots *s, uint8_t class, uint32_t n);
record_id slots_take(struct slots *s, uint8_t class);
void slots_give(struct slots *s, record_id id);
/* The slot after 'id' (0: the first; any number will do), in no particular order; 0 at
 * the end.  slots_next() leaves out those that are free. */
record_id slots_after(const struct slots *s, record_id id);
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

/* Adds a write of this length to 'room', of the record that the key has now (0:
 * absent), and makes sure of all of 'room': after that table_insert() and
 * table_move() for these writes, in between any others, cannot fail. */
static inline int
table_reserve(struct table *t, struct table_room *room, record_id id, uint8_t key_bytes,
	      uint16_t value_bytes)
{
	uint8_t class = slots_class(&t->slots, key_bytes, value_bytes);

	if (id != 0 && t->slots.chunks[id >> TABLE_SLOT_BITS].class == class)
		return 0;
	return table_reserve_slot(t, room, id == 0, class);
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
enum {
	WHEEL_LEVELS = 3,
	WHEEL_BITS = 8,
	WHEEL_SLOTS = 1 << WHEEL_BITS,
};

struct wheel {
	uint32_t tick;				/* All before it have come up. */
	uint32_t n[WHEEL_LEVELS];
	record_id newest[WHEEL_LEVELS][WHEEL_SLOTS];	/* Of each slot's list... */
	record_id oldest[WHEEL_LEVELS][WHEEL_SLOTS];	/* ...and its other end. */
};

/* Makes a record that is not in the wheel come up at tick 'due' or earlier. */
void wheel_arm(struct wheel *w, const struct slots *s, record_id id, uint32_t now,
	       uint32_t due);
/* Takes a record out; one that is not in is left alone. */
void wheel_disarm(struct wheel *w, const struct slots *s, record_id id);
/* Takes out the next record that has come up by 'now'; 0: there is none left. */
record_id wheel_next(struct wheel *w, const struct slots *s, uint32_t now);
/* The record that comes up after 'id' (0: first of all), in about that order; 0: none. */
record_id wheel_after(const struct wheel *w, const struct slots *s, record_id id);
/* Whether a record comes up too early for what is due at tick 'due': it was touched. */
bool wheel_early(const struct wheel *w, const struct record *r, uint32_t due);

/* --- clients.c: which frames were applied, and how they were answered ----------- */

enum {
	CLIENT_MAX_GROUPS = FRAME_MAX_BYTES / 24,	/* 24: the smallest group. */
};

struct client_frame {
	uint64_t id;
	uint32_t n_groups;
	uint32_t room;				/* Bytes of 'answers'. */
	uint8_t *answers;			/* 4 bits a group: answer - APPLIED. */
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
	return ((size_t)n_groups + 1) / 2;
}

static inline void
client_answer_set(uint8_t *answers, uint32_t group, enum frame_answer answer)
{
	answers[group / 2] |= (uint8_t)((answer - FRAME_APPLIED) << group % 2 * 4);
}

static inline enum frame_answer
client_answer(const uint8_t *answers, uint32_t group)
{
	return (answers[group / 2] >> group % 2 * 4 & 15) + FRAME_APPLIED;
}

int clients_init(struct clients *c, uint64_t secret);
void clients_fini(struct clients *c);
/* 0: never seen; 1: remembered, and '*out' is set; -EALREADY: forgotten. */
int clients_seen(const struct clients *c, uint64_t client, uint64_t frame,
		 const struct client_frame **out);
/* Who has to make way for a client that needs room. */
enum clients_way {
	CLIENTS_FOLLOW,				/* Anybody: a primary has decided. */
	CLIENTS_SPARE,				/* Nobody who was heard of lately. */
	CLIENTS_SHORT,				/* The same; and memory is short. */
};

/* Finds or makes the client, and a place for the answers of its next frame, all 0,
 * over its oldest one.  -ENOMEM also if nobody makes way.  Nothing may fail between this
 * and clients_remember(). */
int clients_prepare(struct clients *c, uint64_t client, uint32_t n_groups,
		    enum clients_way way, uint32_t now, struct client **out,
		    uint8_t **answers);
void clients_remember(struct client *client, uint64_t frame, uint32_t n_groups);
void clients_forget(struct clients *c, uint64_t client);
/* The client that was silent for the longest, if for longer than it may. */
const struct client *clients_silent(const struct clients *c, uint32_t now);

/* --- partition.c: records and what happens to them ------------------------------ */

enum {
	PARTITION_PICKS = 4096,			/* Slots of those that are remembered. */
};

/* Due records that nobody has leased, by when they became due. */
struct due_queue {
	record_id first, last;
};

/* What PICK draws from: nobody without the key knows what it gives next. */
struct pick_random {
	uint64_t key[2], n_drawn;
};

/* A pick: what tells the member from others, and its number among all picks, not 0. */
struct pick_memory {
	uint32_t tag, number;
};

struct partition {
	uint64_t generation;
	uint64_t start_ms, now_ms;		/* The caller's clock. */
	bool started;				/* 'start_ms' is set. */
	uint8_t n_tables;
	uint8_t quarantine;			/* Its table; CORE_MAX_TABLES: none. */
	uint8_t expire_next;			/* The wheel to look at. */
	uint32_t n_partitions;
	uint64_t due_tables;			/* A bit for each with a queue. */
	struct core_table tables[CORE_MAX_TABLES];
	struct frame_limits limits[CORE_MAX_TABLES];	/* For clients: 0 if not. */
	struct wheel *wheel[CORE_MAX_TABLES][FRAME_RANKS];	/* NULL: none needed. */
	struct due_queue due[CORE_MAX_TABLES];
	struct table table;
	struct clients clients;
	struct pick_random random;
	struct pick_memory picks[PARTITION_PICKS];	/* By hashes of key and member. */
	uint32_t n_picks;
	uint64_t n_frames, n_repeats, n_answers[FRAME_N_ANSWERS];	/* Of groups. */
	uint64_t memory_bytes;			/* Its own and the wheels'. */
};

/* Wheel ticks since the partition's start; never goes backwards. */
uint32_t partition_tick(struct partition *p, uint64_t now_ms);
uint32_t partition_ticks(uint32_t idle_ms);
/* As partition_declare(), but with any name and to the last place. */
int partition_add_table(struct partition *p, const struct core_declaration *d);
/* Makes sure that records of the table can have an idle time. */
int partition_reserve_wheel(struct partition *p, uint8_t table, uint8_t rank);

/* Each of these writes a record, and makes it if it is absent, which takes
 * table_reserve() and partition_reserve_wheel() before; returns it. */
struct record *partition_put(struct partition *p, const struct table_probe *probe,
			     const struct frame_op *op, uint64_t version, uint32_t now);
/* Sets the field that an ADD is for. */
struct record *partition_patch(struct partition *p, const struct table_probe *probe,
			       const struct frame_op *op, int64_t field, uint64_t version,
			       uint32_t now);
/* Marks the member of a TAKE or GIVE; the range has n_members then, if not more. */
struct record *partition_mark(struct partition *p, const struct table_probe *probe,
			      const struct frame_op *op, bool taken, uint64_t version,
			      uint32_t now);
/* Deletes a record; false: it is absent. */
bool partition_delete(struct partition *p, const struct table_probe *probe);
/* Deletes a record, and says so in 'effects', which has to have room. */
void partition_remove(struct partition *p, record_id id, struct buffer *effects);
/* The idle time of a record that was touched, and due till then, starts anew. */
void partition_revive(struct partition *p, record_id id, uint32_t now);

/* The tick at which a record with an idle time expires. */
static inline uint32_t
record_due(const struct record *r)
{
	return r->touched + r->idle + 1;
}

static inline bool
record_is_due(const struct record *r, uint32_t now)
{
	return r->idle != 0 && now >= record_due(r);
}

/* Whether a record is as good as deleted: its time has passed, and that is all. */
static inline bool
partition_gone(const struct partition *p, const struct record *r, uint32_t now)
{
	return record_is_due(r, now) && (p->tables[r->table].flags & CORE_LEASED) == 0 &&
	       r->table != p->quarantine;
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
	return partition_gone(p, r, now) ? NULL : r;
}

/* --- leases.c: what becomes of a leased table's records, and how they are shown --- */

/* Puts a record that is out of its wheel into the queue. */
void due_add(struct partition *p, record_id id);
/* Ends a record's being due: it is in no queue then. */
void due_end(struct partition *p, record_id id);
/* Arms what is due in tables that are not leased any more; returns how many. */
unsigned int due_disband(struct partition *p, unsigned int max, uint32_t now);

/* --- limits.c: tables that are full ---------------------------------------------- */

/* A group of operations that may be applied, but for limits. */
struct group_ops {
	const struct frame_op *op;
	const struct table_probe *probe;
	unsigned int n;
};

/* Makes room for the records that the group makes, by eviction where a table says so;
 * 'effects' has to have room.  False: a table is full, and nothing has changed. */
bool limits_make_room(struct partition *p, const struct group_ops *g, uint32_t now,
		      struct buffer *effects);

/* --- ranges.c: bitmaps of members, and quarantine -------------------------------- */

enum {
	QUARANTINE_KEY = 5,			/* Bytes besides the range's key. */
};

/* PICK: false: no member below 'n_members' is free.  'r' is NULL if there is no range. */
bool range_pick(struct partition *p, const struct table_probe *probe,
		const struct record *r, uint32_t n_members, uint32_t *member);
/* Whether a TAKE, or a GIVE, may be applied to a range, NULL: there is none. */
bool range_may_take(const struct partition *p, const struct record *r,
		    const struct frame_op *op);
bool range_may_give(const struct partition *p, const struct record *r,
		    const struct frame_op *op);
/* Whether a record is a range, and how many members it has. */
bool range_size(const struct record *r, uint32_t *n_members);
/* Marks a member of a record that is a range with more members than that. */
void range_mark(struct record *r, uint32_t member, bool taken);

/* Declares the table of quarantine, which is all that 'd' may be. */
int quarantine_declare(struct partition *p, const struct core_declaration *d);
/* Makes sure of room for a record of quarantine. */
int quarantine_reserve(struct partition *p, struct table_room *room, uint8_t key_bytes);
/* Begins a member's quarantine. */
void quarantine_begin(struct partition *p, const struct frame_op *give, uint64_t version,
		      uint32_t now, struct buffer *effects);
/* Frees the member that a record of quarantine is for, and deletes that. */
void quarantine_end(struct partition *p, record_id id, struct buffer *effects);

/* --- effects.c: what changed, as bytes ------------------------------------------
 *   PUT     u8 1, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u8 rank, u8 0,
 *           u32 idle_ms, u64 version, key, value
 *   DELETE  u8 2, u8 table, u8 key_bytes, u8 0, key
 *   CLIENT  u8 3, u8 0, u16 0, u32 n_groups (0: the client is forgotten), u64 client,
 *           u64 id, answers
 *   DECLARE u8 4, u8 format, u8 name_bytes, u8 flags, u16 key_max, u16 value_max,
 *           u64 limit, name
 *   PATCH   u8 5, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u16 offset,
 *           u32 idle_ms, u64 version, u64 field, key; an absent record is made of zeros
 *   MEMBER  u8 6, u8 table, u8 key_bytes, u8 format, u16 member, u8 taken, u8 0,
 *           u32 n_members (of the range), u64 version, key */
enum {
	EFFECT_PUT = 1,
	EFFECT_DELETE = 2,
	EFFECT_CLIENT = 3,
	EFFECT_DECLARE = 4,
	EFFECT_PATCH = 5,
	EFFECT_MEMBER = 6,
	EFFECT_DELETE_BYTES = 4,		/* Without key, value and the like. */
	EFFECT_PUT_BYTES = 20,
	EFFECT_CLIENT_BYTES = 24,
	EFFECT_DECLARE_BYTES = 16,
	EFFECT_PATCH_BYTES = 28,
	EFFECT_MEMBER_BYTES = 20,
};

/* Append to 'b', which has to have room; NULL: nobody asks. */
void effect_put(struct buffer *b, const struct record *r);
void effect_delete(struct buffer *b, uint8_t table, const uint8_t *key,
		   uint8_t key_bytes);
void effect_client(struct buffer *b, uint64_t client, uint64_t frame, uint32_t n_groups,
		   const uint8_t *answers);
void effect_declare(struct buffer *b, const struct core_table *table);
void effect_patch(struct buffer *b, const struct record *r, uint16_t offset);
void effect_member(struct buffer *b, const struct record *r, uint32_t member, bool taken);

#endif
