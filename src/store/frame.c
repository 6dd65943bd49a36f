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
	FRAME_PICK_OP = 8,
	FRAME_LONG_OP = 16,			/* Of GROUP, CHECK, PUT, TAKE and GIVE. */
	FRAME_ADD_OP = 40,
	/* Kinds that stand in groups, and those that change a record without knowing what
	 * it is. */
	FRAME_IN_GROUP = 1 << FRAME_CHECK | 1 << FRAME_PUT | 1 << FRAME_DELETE |
			 1 << FRAME_SETTLE | 1 << FRAME_ADD | 1 << FRAME_TAKE |
			 1 << FRAME_GIVE,
	FRAME_BLIND = 1 << FRAME_ADD | 1 << FRAME_TAKE | 1 << FRAME_GIVE,
	FRAME_WRITES = FRAME_BLIND | 1 << FRAME_PUT,
};

static inline uint64_t
load_u64(const uint8_t *at)
{
	uint64_t x;

	memcpy(&x, at, sizeof(x));
	return x;
}

/* Takes a head of 'bytes' off: magic and length are the same in all. */
static int
head_open(const void *message, size_t bytes, size_t max, uint32_t magic, void *head,
	  size_t head_bytes, struct frame_cursor *c)
{
	uint32_t start[2];

	if (bytes < head_bytes || bytes > max || bytes % FRAME_ALIGN != 0)
		return -EBADMSG;
	memcpy(start, message, sizeof(start));
	if (start[0] != magic || start[1] != bytes)
		return -EBADMSG;
	memcpy(head, message, head_bytes);
	c->at = (const uint8_t *)message + head_bytes;
	c->end = (const uint8_t *)message + bytes;
	return 0;
}

int
frame_open(const void *frame, size_t bytes, struct frame_head *head,
	   struct frame_cursor *c)
{
	return head_open(frame, bytes, FRAME_MAX_BYTES, FRAME_MAGIC, head, sizeof(*head),
			 c);
}

int
frame_reply_open(const void *reply, size_t bytes, struct frame_reply_head *head,
		 struct frame_cursor *c)
{
	return head_open(reply, bytes, FRAME_MAX_REPLY_BYTES, FRAME_REPLY_MAGIC, head,
			 sizeof(*head), c);
}

int
frame_leases_open(const void *leases, size_t bytes, struct frame_cursor *c)
{
	struct frame_reply_head head;
	int err = head_open(leases, bytes, FRAME_MAX_REPLY_BYTES, FRAME_LEASES_MAGIC,
			    &head, sizeof(head), c);

	return err != 0 || head.id == 0 ? err : -EBADMSG;
}

int
frame_lease_next(struct frame_cursor *c, struct frame_lease *lease)
{
	size_t left = (size_t)(c->end - c->at), bytes;
	uint64_t word;

	if (left < FRAME_LONG_OP)
		return left == 0 ? 0 : -EBADMSG;
	word = load_u64(c->at);
	lease->table = (uint8_t)(word >> 8);
	lease->key_bytes = (uint8_t)(word >> 16);
	lease->format = (uint8_t)(word >> 24);
	lease->value_bytes = (uint16_t)(word >> 32);
	lease->version = load_u64(c->at + FRAME_ALIGN);
	lease->value = c->at + FRAME_LONG_OP;
	lease->key = lease->value + FRAME_PAD(lease->value_bytes);
	bytes = FRAME_LONG_OP + FRAME_PAD(lease->value_bytes) +
		FRAME_PAD(lease->key_bytes);
	if (left < bytes || (uint8_t)word != FRAME_HIT || word >> 48 != 0 ||
	    lease->key_bytes == 0 || lease->version == 0)
		return -EBADMSG;
	c->at += bytes;
	return 1;
}

/* READ, PEEK, TOUCH and DELETE: u8 op, u8 table, u8 key_bytes, u8 0, key. */
static inline int
frame_next_key(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;

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

	op->value_bytes = (uint16_t)(word >> 32);
	op->value = c->at + FRAME_LONG_OP;
	op->key = op->value + FRAME_PAD(op->value_bytes);
	bytes = FRAME_LONG_OP + FRAME_PAD(op->value_bytes) + FRAME_PAD(op->key_bytes);
	op->rank = (uint8_t)(word >> 48);
	if (left < bytes || word >> 48 >= FRAME_RANKS)
		return -EBADMSG;
	idle_ms = load_u64(c->at + FRAME_ALIGN);
	if (idle_ms > UINT32_MAX)
		return -EBADMSG;
	op->idle_ms = (uint32_t)idle_ms;
	c->at += bytes;
	return 1;
}

static inline int
frame_next_pick(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;

	op->n_members = (uint32_t)(word >> 32);
	op->key = c->at + FRAME_PICK_OP;
	bytes = FRAME_PICK_OP + FRAME_PAD(op->key_bytes);
	if (left < bytes || (uint8_t)(word >> 24) != 0)
		return -EBADMSG;
	c->at += bytes;
	return 1;
}

static int
frame_next_add(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;
	uint64_t idle_ms;

	op->value_bytes = (uint16_t)(word >> 32);
	op->offset = (uint16_t)(word >> 48);
	op->key = c->at + FRAME_ADD_OP;
	bytes = FRAME_ADD_OP + FRAME_PAD(op->key_bytes);
	if (left < bytes)
		return -EBADMSG;
	idle_ms = load_u64(c->at + FRAME_ALIGN);
	if (idle_ms > UINT32_MAX)
		return -EBADMSG;
	op->idle_ms = (uint32_t)idle_ms;
	op->delta = (int64_t)load_u64(c->at + 16);
	op->min = (int64_t)load_u64(c->at + 24);
	op->max = (int64_t)load_u64(c->at + 32);
	c->at += bytes;
	return 1;
}

/* TAKE: u8 format, u32 n_members; GIVE has 0 for the one and u32 quarantine_ms for the
 * other. */
static int
frame_next_member(struct frame_cursor *c, size_t left, uint64_t word, struct frame_op *op)
{
	size_t bytes;
	uint64_t member;

	op->n_members = op->idle_ms = (uint32_t)(word >> 32);
	op->key = c->at + FRAME_LONG_OP;
	bytes = FRAME_LONG_OP + FRAME_PAD(op->key_bytes);
	if (left < bytes || (op->kind == FRAME_GIVE && op->format != 0))
		return -EBADMSG;
	member = load_u64(c->at + FRAME_ALIGN);
	if (member >= FRAME_MAX_MEMBERS)
		return -EBADMSG;
	op->member = (uint32_t)member;
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
	/* Kind, table, key_bytes and format, as they lie there: one store, for who reads
	 * several of them at once behind single ones would wait for all of these. */
	memcpy(op, &word, 4);
	switch (op->kind) {
	case FRAME_READ:
	case FRAME_PEEK:
	case FRAME_TOUCH:
	case FRAME_DELETE:
		return frame_next_key(c, left, word, op);
	case FRAME_PICK:
		return frame_next_pick(c, left, word, op);
	case FRAME_GROUP:
		return frame_next_group(c, left, word, op);
	case FRAME_CHECK:
	case FRAME_SETTLE:
		return frame_next_check(c, left, word, op);
	case FRAME_PUT:
		return frame_next_put(c, left, word, op);
	case FRAME_ADD:
		return frame_next_add(c, left, word, op);
	case FRAME_TAKE:
	case FRAME_GIVE:
		return frame_next_member(c, left, word, op);
	default:
		return -EBADMSG;
	}
}

/* Whether the table and the key of an operation are such. */
static inline bool
key_fits(const struct frame_op *op, const struct frame_limits *tables,
	 unsigned int n_tables)
{
	return op->table < n_tables && op->key_bytes != 0 &&
	       op->key_bytes <= tables[op->table].key_max;
}

static inline bool
range_fits(const struct frame_op *op, uint16_t value_max)
{
	return op->n_members > 0 && op->n_members <= FRAME_MAX_MEMBERS &&
	       frame_range_bytes(op->n_members) <= value_max;
}

/* Whether the rest of a blind operation is. */
static bool
blind_fits(const struct frame_op *op, uint16_t value_max)
{
	if (op->kind == FRAME_ADD)
		return op->value_bytes <= value_max &&
		       op->offset + sizeof(uint64_t) <= op->value_bytes &&
		       op->min <= op->max;
	return op->kind == FRAME_GIVE ||
	       (range_fits(op, value_max) && op->member < op->n_members);
}

static bool
same_key(const struct frame_op *a, const struct frame_op *b)
{
	return a->table == b->table && a->key_bytes == b->key_bytes &&
	       memcmp(a->key, b->key, a->key_bytes) == 0;
}

static bool
is_blind(const struct frame_op *op)
{
	return (FRAME_BLIND >> op->kind & 1) != 0;
}

/* Whether two operations of a group go together: what a blind one does must not depend on
 * another. */
static bool
go_together(const struct frame_op *a, const struct frame_op *b)
{
	if (a->kind == FRAME_CHECK || b->kind == FRAME_CHECK ||
	    (!is_blind(a) && !is_blind(b)) || !same_key(a, b))
		return true;
	if (!is_blind(a) || !is_blind(b) ||
	    (a->kind == FRAME_ADD) != (b->kind == FRAME_ADD))
		return false;
	if (a->kind != FRAME_ADD)
		return a->member != b->member;
	return a->value_bytes == b->value_bytes &&
	       (a->offset >= b->offset + sizeof(uint64_t) ||
		b->offset >= a->offset + sizeof(uint64_t));
}

/* The operations of a group in which one is blind, that are else well formed. */
static bool
validate_blind(struct frame_cursor c, unsigned int n_ops)
{
	struct frame_op op[FRAME_MAX_GROUP_OPS];

	for (unsigned int i = 0; i < n_ops; i++) {
		frame_next(&c, &op[i]);
		for (unsigned int j = 0; j < i; j++) {
			if (!go_together(&op[i], &op[j]))
				return false;
		}
	}
	return true;
}

static int
validate_group(struct frame_cursor *c, const struct frame_op *group,
	       const struct frame_limits *tables, unsigned int n_tables,
	       struct frame_shape *shape)
{
	const struct frame_cursor start = *c;
	struct frame_op op;
	unsigned int kinds = 0;

	if (group->version == 0 || group->n_ops == 0 ||
	    group->n_ops > FRAME_MAX_GROUP_OPS)
		return -EBADMSG;
	for (unsigned int i = 0; i < group->n_ops; i++) {
		if (frame_next(c, &op) != 1 || (FRAME_IN_GROUP >> op.kind & 1) == 0 ||
		    !key_fits(&op, tables, n_tables))
			return -EBADMSG;
		if (op.kind == FRAME_PUT) {
			if (op.value_bytes > tables[op.table].value_max)
				return -EBADMSG;
			shape->value_bytes += op.value_bytes;
		}
		if (is_blind(&op) && !blind_fits(&op, tables[op.table].value_max))
			return -EBADMSG;
		kinds |= 1u << op.kind;
		shape->n_writes += FRAME_WRITES >> op.kind & 1;
		shape->key_bytes += op.key_bytes;
	}
	shape->n_ops += group->n_ops;
	if ((kinds & FRAME_BLIND) != 0 && !validate_blind(start, group->n_ops))
		return -EBADMSG;
	return 0;
}

/* TOUCH and PICK; reads are the first two kinds. */
static int
validate_alone(const struct frame_op *op, const struct frame_limits *tables,
	       struct frame_shape *shape)
{
	if (op->kind == FRAME_TOUCH)
		return 0;
	if (op->kind != FRAME_PICK || !range_fits(op, tables[op->table].value_max) ||
	    ++shape->n_picks > FRAME_MAX_PICKS)
		return -EBADMSG;
	shape->n_answers++;
	shape->max_reply_bytes += FRAME_LONG_OP + FRAME_ALIGN;
	return 0;
}

/* Takes all reads off that come next: the most of most frames.  0 or -EBADMSG. */
static inline int
validate_reads(struct frame_cursor *c, const struct frame_limits *tables,
	       unsigned int n_tables, struct frame_shape *shape)
{
	struct frame_op op;

	while ((size_t)(c->end - c->at) >= FRAME_ALIGN && frame_is_read(c->at)) {
		uint64_t word = load_u64(c->at);

		memcpy(&op, &word, 4);
		if (frame_next_key(c, (size_t)(c->end - c->at), word, &op) != 1 ||
		    !key_fits(&op, tables, n_tables))
			return -EBADMSG;
		shape->n_answers++;
		shape->max_reply_bytes +=
			FRAME_LONG_OP + FRAME_PAD(tables[op.table].value_max);
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
	for (;;) {
		if (validate_reads(&c, tables, n_tables, shape) != 0)
			return -EBADMSG;
		more = frame_next(&c, &op);
		if (more != 1)
			return more;
		if (op.kind == FRAME_GROUP) {
			if (validate_group(&c, &op, tables, n_tables, shape) != 0)
				return -EBADMSG;
			shape->n_groups++;
			shape->n_answers++;
			shape->max_reply_bytes += FRAME_ALIGN;
		} else if (!key_fits(&op, tables, n_tables)) {
			return -EBADMSG;
		} else if (validate_alone(&op, tables, shape) != 0) {
			return -EBADMSG;
		}
	}
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
