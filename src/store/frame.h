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
 *     head    u32 magic, u32 n_bytes (of the whole frame), u64 generation,
 *             u64 client, u64 id
 *     READ    u8 op, u8 table, u8 key_bytes, u8 0, key, pad          (PEEK alike)
 *     GROUP   u8 op, u8 n_ops, u16 0, u32 0, u64 version; then its n_ops operations:
 *       CHECK u8 op, u8 table, u8 key_bytes, u8 0, u32 0, u64 version (0: absent),
 *             key, pad
 *       PUT   u8 op, u8 table, u8 key_bytes, u8 format, u16 value_bytes, u16 0,
 *             u32 idle_ms (0: for ever), u32 0, value, pad, key, pad
 *       DELETE u8 op, u8 table, u8 key_bytes, u8 0, key, pad
 *   reply     head: u32 magic, u32 n_bytes, u64 id; then one answer for each READ,
 *             PEEK and GROUP, in order
 *     read    u8 FRAME_MISS, u8 0, u16 0, u32 0
 *             u8 FRAME_HIT, u8 format, u16 value_bytes, u32 0, u64 version, value, pad
 *     group   u8 FRAME_APPLIED, FRAME_CONFLICT or FRAME_REFUSED, u8 0, u16 0, u32 0
 */
#ifndef STORE_FRAME_H
#define STORE_FRAME_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FRAME_PROTOCOL 1			/* The last byte of both magics. */
#define FRAME_MAGIC 0x01464e53u			/* "SNF\1" */
#define FRAME_REPLY_MAGIC 0x01524e53u		/* "SNR\1" */

enum {
	FRAME_MAX_BYTES = 4 << 20,		/* Of a request; a reply may be longer. */
	FRAME_MAX_REPLY_BYTES = 16 << 20,
	FRAME_MAX_KEY = 64,
	FRAME_MAX_VALUE = 2048,
	FRAME_MAX_GROUP_OPS = 32,
	FRAME_HEAD_BYTES = 32,
	FRAME_REPLY_HEAD_BYTES = 16,
};

enum frame_op_kind {
	FRAME_READ = 1,
	FRAME_PEEK = 2,
	FRAME_GROUP = 3,
	FRAME_CHECK = 4,
	FRAME_PUT = 5,
	FRAME_DELETE = 6,
};

enum frame_answer {
	FRAME_MISS = 0,
	FRAME_HIT = 1,
	FRAME_APPLIED = 2,
	FRAME_CONFLICT = 3,			/* A check failed: nothing was changed. */
	FRAME_REFUSED = 4,			/* Out of memory: nothing was changed. */
};

struct frame_head {
	uint32_t magic, n_bytes;
	uint64_t generation;			/* As SNF.OPEN gave it. */
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
	uint8_t format;				/* PUT */
	uint8_t n_ops;				/* GROUP */
	uint16_t value_bytes;			/* PUT */
	uint32_t idle_ms;			/* PUT */
	uint64_t version;			/* GROUP, CHECK */
	const uint8_t *key, *value;
};

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

/* A frame or reply being written.  Writers return false, and write nothing, if
 * it does not fit. */
struct frame {
	uint8_t *start, *at, *end;
};

static inline void
frame_init(struct frame *f, void *buffer, size_t bytes)
{
	f->start = buffer;
	f->at = f->start + FRAME_HEAD_BYTES;
	f->end = f->start + bytes;
}

static inline size_t
frame_room(const struct frame *f)
{
	return (size_t)(f->end - f->at);
}

/* Completes the head. */
static inline void
frame_finish(struct frame *f, uint64_t generation, uint64_t client, uint64_t id)
{
	struct frame_head h = { FRAME_MAGIC, (uint32_t)(f->at - f->start),
				generation, client, id };

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
	return at;
}

static inline void
frame_group_end(uint8_t *group, uint8_t n_ops)
{
	group[1] = n_ops;
}

static inline bool
frame_check(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	    uint64_t version)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16 + FRAME_PAD(key_bytes))
		return false;
	memcpy(at, (uint8_t[8]){ FRAME_CHECK, table, key_bytes }, 8);
	memcpy(at + 8, &version, 8);
	f->at = frame_copy(at + 16, key, key_bytes);
	return true;
}

/* Returns where the value was put, FRAME_PAD(value_bytes) before the key; NULL: no
 * room. */
static inline const uint8_t *
frame_put(struct frame *f, uint8_t table, const void *key, uint8_t key_bytes,
	  uint8_t format, const void *value, uint16_t value_bytes, uint32_t idle_ms)
{
	uint8_t *at = f->at;

	if (frame_room(f) < 16 + FRAME_PAD(key_bytes) + FRAME_PAD(value_bytes))
		return NULL;
	memcpy(at, (uint8_t[4]){ FRAME_PUT, table, key_bytes, format }, 4);
	memcpy(at + 4, (uint16_t[2]){ value_bytes, 0 }, 4);
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
	size_t max_reply_bytes;			/* If every read hits with a value_max. */
};

/* Table limits as frame_validate() needs them. */
struct frame_limits {
	uint16_t key_max, value_max;		/* key_max 0: no such table. */
};

/* Checks all of the operations: known kinds, tables below 'n_tables', lengths
 * within the limits, groups complete, with at least one member and a version
 * other than 0.  Returns 0 or -EBADMSG. */
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
		return v->answer <= FRAME_REFUSED ? 1 : -EBADMSG;
	}
	if (left < 16 + FRAME_PAD(v->value_bytes))
		return -EBADMSG;
	memcpy(&v->version, c->at + 8, 8);
	v->value = c->at + 16;
	c->at += 16 + FRAME_PAD(v->value_bytes);
	return 1;
}

#endif
