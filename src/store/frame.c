/*
 * frame.c - takes frames and replies apart, and checks them.
 *
 * What arrives here was written by anyone.  A cursor never passes its end: sizes are
 * compared before anything moves.  Fields that have to be 0 are refused when they
 * are not, so that a later protocol can give them a meaning; padding is not looked
 * at and never copied.
 */
#include "store/frame.h"

enum {
	FRAME_ALIGN = 8,
	FRAME_KEY_OP = 4,			/* Bytes before the key of a READ. */
	FRAME_LONG_OP = 16,			/* Of a GROUP, CHECK or PUT. */
};

static inline uint64_t
load_u64(const uint8_t *at)
{
	uint64_t x;

	memcpy(&x, at, sizeof(x));
	return x;
}

int
frame_open(const void *frame, size_t bytes, struct frame_head *head,
	   struct frame_cursor *c)
{
	if (bytes < sizeof(*head) || bytes > FRAME_MAX_BYTES || bytes % FRAME_ALIGN != 0)
		return -EBADMSG;
	memcpy(head, frame, sizeof(*head));
	if (head->magic != FRAME_MAGIC || head->n_bytes != bytes)
		return -EBADMSG;
	c->at = (const uint8_t *)frame + sizeof(*head);
	c->end = (const uint8_t *)frame + bytes;
	return 0;
}

int
frame_reply_open(const void *reply, size_t bytes, struct frame_reply_head *head,
		 struct frame_cursor *c)
{
	if (bytes < sizeof(*head) || bytes > FRAME_MAX_REPLY_BYTES ||
	    bytes % FRAME_ALIGN != 0)
		return -EBADMSG;
	memcpy(head, reply, sizeof(*head));
	if (head->magic != FRAME_REPLY_MAGIC || head->n_bytes != bytes)
		return -EBADMSG;
	c->at = (const uint8_t *)reply + sizeof(*head);
	c->end = (const uint8_t *)reply + bytes;
	return 0;
}

/* READ, PEEK and DELETE: u8 op, u8 table, u8 key_bytes, u8 0, key. */
static inline int
frame_next_key(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;

	op->table = (uint8_t)(word >> 8);
	op->key_bytes = (uint8_t)(word >> 16);
	op->key = c->at + FRAME_KEY_OP;
	bytes = FRAME_PAD(FRAME_KEY_OP + op->key_bytes);
	if (left < bytes || (uint8_t)(word >> 24) != 0)
		return -EBADMSG;
	c->at += bytes;
	return 1;
}

static inline int
frame_next_group(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	if (left < FRAME_LONG_OP || word >> 16 != 0)
		return -EBADMSG;
	op->n_ops = (uint8_t)(word >> 8);
	op->version = load_u64(c->at + FRAME_ALIGN);
	c->at += FRAME_LONG_OP;
	return 1;
}

static inline int
frame_next_check(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;

	op->table = (uint8_t)(word >> 8);
	op->key_bytes = (uint8_t)(word >> 16);
	op->key = c->at + FRAME_LONG_OP;
	bytes = FRAME_LONG_OP + FRAME_PAD(op->key_bytes);
	if (left < bytes || word >> 24 != 0)
		return -EBADMSG;
	op->version = load_u64(c->at + FRAME_ALIGN);
	c->at += bytes;
	return 1;
}

static inline int
frame_next_put(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;
	uint64_t idle_ms;

	op->table = (uint8_t)(word >> 8);
	op->key_bytes = (uint8_t)(word >> 16);
	op->format = (uint8_t)(word >> 24);
	op->value_bytes = (uint16_t)(word >> 32);
	op->value = c->at + FRAME_LONG_OP;
	op->key = op->value + FRAME_PAD(op->value_bytes);
	bytes = FRAME_LONG_OP + FRAME_PAD(op->value_bytes) + FRAME_PAD(op->key_bytes);
	if (left < bytes || word >> 48 != 0)
		return -EBADMSG;
	idle_ms = load_u64(c->at + FRAME_ALIGN);
	if (idle_ms > UINT32_MAX)
		return -EBADMSG;
	op->idle_ms = (uint32_t)idle_ms;
	c->at += bytes;
	return 1;
}

int
frame_next(struct frame_cursor *c, struct frame_op *op)
{
	size_t left = (size_t)(c->end - c->at);
	uint64_t word;

	if (left < FRAME_ALIGN)
		return left == 0 ? 0 : -EBADMSG;
	word = load_u64(c->at);
	op->kind = (uint8_t)word;
	switch (op->kind) {
	case FRAME_READ:
	case FRAME_PEEK:
	case FRAME_DELETE:
		return frame_next_key(c, left, word, op);
	case FRAME_GROUP:
		return frame_next_group(c, left, word, op);
	case FRAME_CHECK:
		return frame_next_check(c, left, word, op);
	case FRAME_PUT:
		return frame_next_put(c, left, word, op);
	default:
		return -EBADMSG;
	}
}

/* Whether a keyed operation keeps to the limits of its table. */
static inline bool
within_limits(const struct frame_op *op, const struct frame_limits *tables,
	      unsigned int n_tables)
{
	if (op->table >= n_tables || op->key_bytes == 0 ||
	    op->key_bytes > tables[op->table].key_max)
		return false;
	return op->kind != FRAME_PUT || op->value_bytes <= tables[op->table].value_max;
}

static int
validate_group(struct frame_cursor *c, const struct frame_op *group,
	       const struct frame_limits *tables, unsigned int n_tables)
{
	struct frame_op op;

	if (group->version == 0 || group->n_ops == 0 ||
	    group->n_ops > FRAME_MAX_GROUP_OPS)
		return -EBADMSG;
	for (unsigned int i = 0; i < group->n_ops; i++) {
		if (frame_next(c, &op) != 1 || op.kind < FRAME_CHECK ||
		    !within_limits(&op, tables, n_tables))
			return -EBADMSG;
	}
	return 0;
}

int
frame_validate(struct frame_cursor c, const struct frame_limits *tables,
	       unsigned int n_tables, struct frame_shape *shape)
{
	struct frame_op op;
	int more;

	*shape = (struct frame_shape){ .max_reply_bytes = FRAME_REPLY_HEAD_BYTES };
	while ((more = frame_next(&c, &op)) == 1) {
		shape->n_answers++;
		if (op.kind == FRAME_GROUP) {
			if (validate_group(&c, &op, tables, n_tables) != 0)
				return -EBADMSG;
			shape->n_groups++;
			shape->max_reply_bytes += FRAME_ALIGN;
		} else if (op.kind <= FRAME_PEEK &&
			   within_limits(&op, tables, n_tables)) {
			shape->max_reply_bytes +=
				FRAME_LONG_OP + FRAME_PAD(tables[op.table].value_max);
		} else {
			return -EBADMSG;
		}
	}
	return more;
}

void
frame_map_tables(struct frame *f, const uint8_t *ids, unsigned int n_ids)
{
	struct frame_cursor c = { f->start + FRAME_HEAD_BYTES, f->at };
	struct frame_op op;

	for (uint8_t *at = f->start + FRAME_HEAD_BYTES; frame_next(&c, &op) == 1;
	     at = f->start + (c.at - f->start)) {
		if (op.kind != FRAME_GROUP && op.table < n_ids)
			at[1] = ids[op.table];
	}
}
