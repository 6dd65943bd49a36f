/*
 * frame.h - the packed wire format: one frame asks for everything that a batch of
 * packets needs, one reply answers it.  No I/O, no state.  docs/protocol.md is
 * its specification.
 *
 * All integers are little-endian.  Everything starts at a multiple of 8 from the
 * start of the frame or reply and is filled up to one with zeros ('pad'), so that in
 * an aligned buffer values can be used where they lie.
 *
 *   request   head, then operations
 *     head    u32 magic, u32 n_bytes (of the whole frame), u64 generation, u64 term,
 *             u64 client, u64 id
 *     READ    u8 op, u8 table, u8 key_bytes, u8 0, key, pad   (PEEK, TOUCH alike)
 *     PICK    u8 op, u8 table, u8 key_bytes, u8 0, u32 n_members, key, pad
 *     GROUP   u8 op, u8 n_ops, u16 0, u32 0, u64 version; then its n_ops operations:
 *       CHECK u8 op, u8 table, u8 key_bytes, u8 0, u32 0, u64 version (0: absent),
 *             key, pad                                        (SETTLE alike)
 *       PUT   u8 op, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u8 rank, u8 0,
 *             u32 idle_ms (0: for ever), u32 0, value, pad, key, pad
 *       DELETE u8 op, u8 table, u8 key_bytes, u8 0, key, pad
 *       ADD   u8 op, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u16 offset,
 *             u32 idle_ms, u32 0, i64 delta, i64 min, i64 max, key, pad
 *       TAKE  u8 op, u8 table, u8 key_bytes, u8 format, u32 n_members, u32 member,
 *             u32 0, key, pad
 *       GIVE  u8 op, u8 table, u8 key_bytes, u8 0, u32 quarantine_ms, u32 member,
 *             u32 0, key, pad
 *   reply     head: u32 magic, u32 n_bytes, u64 id; then one answer for each READ,
 *             PEEK, PICK and GROUP, in order (a TOUCH has none)
 *     read    u8 FRAME_MISS, u8 0, u16 0, u32 0
 *             u8 FRAME_HIT, u8 format, u16 value_bytes, u32 0, u64 version, value, pad
 *     pick    FRAME_MISS: none is free; or a FRAME_HIT of version 0 whose value is the
 *             member, u32
 *     group   u8 answer, FRAME_APPLIED or another, u8 0, u16 0, u32 0
 *   leases    head: u32 magic, u32 n_bytes, u64 0; then records whose time has passed:
 *     record  u8 FRAME_HIT, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u16 0,
 *             u64 version, value, pad, key, pad
 *
 * A range is a record that TAKE makes: u32 n_members, u32 n_taken, and a bit for each
 * member, from the lowest bit of the first u64 on, set while it is taken or in
 * quarantine.
 */
#ifndef STORE_FRAME_H
#define STORE_FRAME_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FRAME_PROTOCOL 2			/* The last byte of both magics. */
#define FRAME_MAGIC 0x02464e53u			/* "SNF\2" */
#define FRAME_REPLY_MAGIC 0x02524e53u		/* "SNR\2" */
#define FRAME_LEASES_MAGIC 0x02444e53u		/* "SND\2" */

enum {
	FRAME_MAX_BYTES = 4 << 20,		/* Of a request; a reply may be longer. */
	FRAME_MAX_REPLY_BYTES = 16 << 20,
	FRAME_MAX_KEY = 64,
	FRAME_MAX_VALUE = 8208,			/* A range of 65,536 members, and pad. */
	FRAME_MAX_MEMBERS = 65536,
	FRAME_RANKS = 2,
	FRAME_MAX_GROUP_OPS = 32,
	FRAME_MAX_PICKS = 4096,			/* Of a frame: 16 ms at worst. */
	FRAME_HEAD_BYTES = 40,
	FRAME_REPLY_HEAD_BYTES = 16,
	FRAME_REMEMBERED = 64,			/* Of a client, those with groups. */
};

enum frame_op_kind {
	FRAME_READ = 1,
	FRAME_PEEK = 2,
	FRAME_GROUP = 3,
	FRAME_CHECK = 4,
	FRAME_PUT = 5,
	FRAME_DELETE = 6,
	FRAME_TOUCH = 7,			/* A read without an answer. */
	FRAME_PICK = 8,				/* Proposes a free member of a range. */
	FRAME_SETTLE = 9,			/* Ends a lease: deletes what is due. */
	FRAME_ADD = 10,				/* To a 64-bit field of a value. */
	FRAME_TAKE = 11,			/* A member that has to be free. */
	FRAME_GIVE = 12,			/* A member that has to be taken. */
};

enum frame_answer {
	FRAME_MISS = 0,
	FRAME_HIT = 1,
	FRAME_APPLIED = 2,
	FRAME_CONFLICT = 3,			/* A check failed: nothing was changed. */
	FRAME_REFUSED = 4,			/* Out of memory: nothing was changed. */
	FRAME_BOUND = 5,			/* An ADD is out of bounds: likewise. */
	FRAME_FULL = 6,				/* A table is at its limit: likewise. */
	FRAME_N_ANSWERS
};

struct frame_head {
	uint32_t magic, n_bytes;
	uint64_t generation;			/* As SNF.OPEN gave it... */
	uint64_t term;				/* ...and this, for a primary's time. */
	uint64_t client;			/* Random, one for each connection's owner. */
	uint64_t id;				/* Rises with every frame of the client. */
};

struct frame_reply_head {
	uint32_t magic, n_bytes;
	uint64_t id;
};

static_assert(sizeof(struct frame_head) == FRAME_HEAD_BYTES, "wire format");
static_assert(sizeof(struct frame_reply_head) == FRAME_REPLY_HEAD_BYTES, "wire format");

/* One operation, taken off a frame.  Pointers point into the frame. */
struct frame_op {
	uint8_t kind;				/* enum frame_op_kind */
	uint8_t table;
	uint8_t key_bytes;
	uint8_t format;				/* PUT, ADD, TAKE */
	uint8_t n_ops;				/* GROUP */
	uint8_t rank;				/* PUT; 0 is evicted before 1. */
	uint16_t value_bytes;			/* PUT, ADD */
	uint16_t offset;			/* ADD */
	uint32_t idle_ms;			/* PUT, ADD; GIVE: quarantine */
	uint32_t n_members, member;		/* PICK, TAKE; TAKE, GIVE */
	uint64_t version;			/* GROUP, CHECK, SETTLE */
	const uint8_t *key, *value;
	int64_t delta, min, max;		/* ADD */
};

/* The length of a range's value. */
static inline unsigned int
frame_range_bytes(uint32_t n_members)
{
	return 8 + (n_members + 63) / 64 * 8;
}

/* One answer, taken off a reply. */
struct frame_value {
	uint8_t answer;				/* enum frame_answer */
	uint8_t format;
	uint16_t value_bytes;
	uint64_t version;			/* 0: absent. */
	const uint8_t *value;
};

struct frame_cursor {
	const uint8_t *at, *end;
};

static_assert(offsetof(struct frame_op, format) == 3, "the first bytes, as they lie there");

/* Whether a READ or PEEK lies here: kind, table, key_bytes, 0, key. */
static inline bool
frame_is_read(const uint8_t *at)
{
	static_assert(FRAME_READ == 1 && FRAME_PEEK == 2, "one comparison");
	return (uint8_t)(at[0] - 1) < FRAME_PEEK;
}

/* A frame or reply being written.  Writers return false, and write nothing, if
 * it does not fit. */
struct frame {
	uint8_t *start, *at, *end;
	uint8_t *groups;			/* Where the first starts; NULL: none. */
};

static inline void
frame_init(struct frame *f, void *buffer, size_t bytes)
{
	f->start = buffer;
	f->at = f->start + FRAME_HEAD_BYTES;
	f->end = f->start + bytes;
	f->groups = NULL;
}

static inline size_t
frame_room(const struct frame *f)
{
	return (size_t)(f->end - f->at);
}

static inline bool
frame_is_empty(const struct frame *f)
{
	return f->at == f->start + FRAME_HEAD_BYTES;
}

/* Completes the head. */
static inline void
frame_finish(struct frame *f, uint64_t generation, uint64_t term, uint64_t client,
	     uint64_t id)
{
	struct frame_head h = { FRAME_MAGIC, (uint32_t)(f->at - f->start),
				generation, term, client, id };

	memcpy(f->start, &h, sizeof(h));
}

#define FRAME_PAD(bytes) (((bytes) + 7u) & ~7u)

/* Copies 'bytes' to 'to' and fills up with zeros.  Returns where the next thing
 * goes. */
static inline uint8_t *
frame_copy(uint8_t *to, const void *from, unsigned int bytes)
{
	uint64_t word = 0;

	for (; bytes >= 8; to += 8, bytes -= 8, from = (const uint8_t *)from + 8)
		memcpy(to, from, 8);
	if (bytes == 0)
		return to;
	memcpy(&word, from, bytes);
	memcpy(to, &word, 8);
	return to + 8;
}

/* Returns where the key was put, NULL if there is no room. */
static inline const uint8_t *
frame_key_op(struct frame *f, enum frame_op_kind kind, uint8_t table, const void *key,
	     uint8_t key_bytes)
{
	uint8_t *at = f->at;

	if (frame_room(f) < FRAME_PAD(4u + key_bytes))
		return NULL;
	f->at += FRAME_PAD(4u + key_bytes);
	memset(f->at - 8, 0, 8);
	memcpy(at, (uint8_t[4]){ kind, table, key_bytes, 0 }, 4);
	memcpy(at + 4, key, key_bytes);
	return at + 4;
}

static inline const uint8_t *
frame_read(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes, bool touch)
{
	return frame_key_op(f, touch ? FRAME_READ : FRAME_PEEK, table, key, key_bytes);
}

static inline const uint8_t *
frame_delete(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes)
{
	return frame_key_op(f, FRAME_DELETE, table, key, key_bytes);
}

/* Starts a group.  Returns where it is, for frame_group_end(); NULL: no room. */
static inline uint8_t *
frame_group(struct frame *f, uint64_t version)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16)
		return NULL;
	memcpy(at, (uint8_t[8]){ FRAME_GROUP }, 8);
	memcpy(at + 8, &version, 8);
	f->at = at + 16;
	if (f->groups == NULL)
		f->groups = at;
	return at;
}

static inline void
frame_group_end(uint8_t *group, uint8_t n_ops)
{
	group[1] = n_ops;
}

/* 'kind' is CHECK or SETTLE. */
static inline bool
frame_check(struct frame *f, enum frame_op_kind kind, uint8_t table, const void *key,
	    uint8_t key_bytes, uint64_t version)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16 + FRAME_PAD(key_bytes))
		return false;
	memcpy(at, (uint8_t[8]){ kind, table, key_bytes }, 8);
	memcpy(at + 8, &version, 8);
	f->at = frame_copy(at + 16, key, key_bytes);
	return true;
}

/* Returns where the key was put, as frame_read(). */
static inline const uint8_t *
frame_pick(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	   uint32_t n_members)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 8 + FRAME_PAD(key_bytes))
		return NULL;
	memcpy(at, (uint8_t[4]){ FRAME_PICK, table, key_bytes, 0 }, 4);
	memcpy(at + 4, &n_members, 4);
	f->at = frame_copy(at + 8, key, key_bytes);
	return at + 8;
}

/* 'bytes' is the length of the value that is made, of zeros, if there is none. */
static inline bool
frame_add(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	  uint8_t format, uint16_t bytes, uint16_t offset, uint32_t idle_ms,
	  const int64_t delta_min_max[3])
{
	uint8_t *at = f->at;

	if (frame_room(f) < 40 + FRAME_PAD(key_bytes))
		return false;
	memcpy(at, (uint8_t[4]){ FRAME_ADD, table, key_bytes, format }, 4);
	memcpy(at + 4, (uint16_t[2]){ bytes, offset }, 4);
	memcpy(at + 8, (uint32_t[2]){ idle_ms, 0 }, 8);
	memcpy(at + 16, delta_min_max, 24);
	f->at = frame_copy(at + 40, key, key_bytes);
	return true;
}

static inline bool
frame_take(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	   uint8_t format, uint32_t n_members, uint32_t member)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16 + FRAME_PAD(key_bytes))
		return false;
	memcpy(at, (uint8_t[4]){ FRAME_TAKE, table, key_bytes, format }, 4);
	memcpy(at + 4, (uint32_t[3]){ n_members, member, 0 }, 12);
	f->at = frame_copy(at + 16, key, key_bytes);
	return true;
}

static inline bool
frame_give(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	   uint32_t quarantine_ms, uint32_t member)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16 + FRAME_PAD(key_bytes))
		return false;
	memcpy(at, (uint8_t[4]){ FRAME_GIVE, table, key_bytes, 0 }, 4);
	memcpy(at + 4, (uint32_t[3]){ quarantine_ms, member, 0 }, 12);
	f->at = frame_copy(at + 16, key, key_bytes);
	return true;
}

/* Returns where the value was put, FRAME_PAD(value_bytes) before the key; NULL: no
 * room. */
static inline const uint8_t *
frame_put(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	  uint8_t format, const void *value, uint16_t value_bytes, uint8_t rank,
	  uint32_t idle_ms)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16 + FRAME_PAD(key_bytes) + FRAME_PAD(value_bytes))
		return NULL;
	memcpy(at, (uint8_t[4]){ FRAME_PUT, table, key_bytes, format }, 4);
	memcpy(at + 4, (uint16_t[2]){ value_bytes, rank }, 4);
	memcpy(at + 8, (uint32_t[2]){ idle_ms, 0 }, 8);
	f->at = frame_copy(frame_copy(at + 16, value, value_bytes), key, key_bytes);
	return at + 16;
}

/* Takes the head off a frame of exactly 'bytes' bytes and sets 'c' to its
 * operations.  Returns 0 or -EBADMSG. */
int frame_open(const void *frame, size_t bytes, struct frame_head *head,
	       struct frame_cursor *c);

/* Takes the next operation off.  Returns 1, 0 at the end, -EBADMSG.  The order of
 * operations (a group is followed by its members, and by nothing else that is not
 * at top level) is frame_validate()'s to check. */
int frame_next(struct frame_cursor *c, struct frame_op *op);

/* What a frame asks for; a server validates it whole before it changes anything. */
struct frame_shape {
	unsigned int n_answers, n_groups;
	unsigned int n_picks;
	size_t max_reply_bytes;			/* If every read hits with a value_max. */
	/* Of the operations in groups; writes are all that can leave a record. */
	size_t n_ops, n_writes;
	size_t key_bytes, value_bytes;		/* Of all of them; of PUTs. */
};

/* Table limits as frame_validate() needs them. */
struct frame_limits {
	uint16_t key_max, value_max;		/* key_max 0: no such table. */
};

/* Checks all of the operations: known kinds, tables below 'n_tables', lengths
 * within the limits, groups complete, with at least one member and a version
 * other than 0; members below their range's size, fields inside their value, bounds
 * that enclose something; not too many PICKs; and that a key that ADD, TAKE or GIVE
 * names is not named by a PUT, DELETE or SETTLE of the same group, nor the same field or
 * member twice, nor one key as a range and not, nor with two lengths of the value that
 * is made.
 * Returns 0 or -EBADMSG. */
int frame_validate(struct frame_cursor c, const struct frame_limits *tables,
		   unsigned int n_tables, struct frame_shape *shape);

/* Replaces the table of every operation in a frame that the caller wrote by ids[table];
 * tables from 'n_ids' on keep theirs. */
void frame_map_tables(struct frame *f, const uint8_t *ids, unsigned int n_ids);

/* Takes the head off a reply, as frame_open() does. */
int frame_reply_open(const void *reply, size_t bytes, struct frame_reply_head *head,
		     struct frame_cursor *c);

/* Takes the next answer off a reply.  Returns 1, 0 at the end, -EBADMSG. */
static inline int
frame_reply_next(struct frame_cursor *c, struct frame_value *v)
{
	size_t left = (size_t)(c->end - c->at);

	if (left < 8)
		return left == 0 ? 0 : -EBADMSG;
	v->answer = c->at[0];
	v->format = c->at[1];
	memcpy(&v->value_bytes, c->at + 2, 2);
	if (v->answer != FRAME_HIT) {
		v->version = 0;
		v->value = NULL;
		c->at += 8;
		return v->answer < FRAME_N_ANSWERS ? 1 : -EBADMSG;
	}
	if (left < 16 + FRAME_PAD(v->value_bytes))
		return -EBADMSG;
	memcpy(&v->version, c->at + 8, 8);
	v->value = c->at + 16;
	c->at += 16 + FRAME_PAD(v->value_bytes);
	return 1;
}

/* One record of a leases message. */
struct frame_lease {
	uint8_t table, key_bytes, format;
	uint16_t value_bytes;
	uint64_t version;
	const uint8_t *key, *value;
};

/* Takes the head off, as frame_open() does, and the next record, as frame_next(). */
int frame_leases_open(const void *leases, size_t bytes, struct frame_cursor *c);
int frame_lease_next(struct frame_cursor *c, struct frame_lease *lease);

#endif
