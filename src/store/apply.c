/*
 * apply.c - what a frame means: its reads are answered and its groups applied, in
 * order, each group whole or not at all.
 *
 * All that can fail is done first: the frame is validated, the reply, the effects and
 * the memory of the answers get their room.  Then the frame is taken in windows of
 * some 64 operations: all keys of a window are hashed and looked up at once, so that
 * misses of the cache wait for memory together, and then executed one by one; what
 * was looked up too early (an operation before it wrote the same record) is looked up
 * again.  Only memory for a group's records is asked for later, by each group before
 * it changes anything; without it the group is refused.
 *
 * A group is judged in steps: what it asks of the records as they are, memory, the limits
 * of its tables.  The last step evicts, so nothing may fail after it.  Operations that are
 * rarer than reads and writes are kept out of their loops ('noinline'): a write takes 12 %
 * more instructions otherwise (callgrind, bench/core.c).
 */
#include "store/partition.h"

#include <errno.h>

enum {
	APPLY_WINDOW = 64,			/* Operations: then it is full. */
	APPLY_MAX_OPS = APPLY_WINDOW - 1 + FRAME_MAX_GROUP_OPS,
};

/* A read, or a group, of a window. */
struct apply_item {
	uint8_t first, n_ops;			/* Its operations in the window. */
	uint8_t kind;
	uint64_t version;
};

struct apply_window {
	unsigned int n_items, n_ops;
	struct apply_item item[APPLY_WINDOW];
	struct frame_op op[APPLY_MAX_OPS];
	struct table_probe probe[APPLY_MAX_OPS];
};

/* A frame on its way. */
struct apply {
	struct partition *p;
	uint32_t now;				/* Wheel ticks. */
	bool refuse;
	uint8_t *out;				/* Where the next answer goes. */
	struct buffer *effects;			/* NULL: nobody asks. */
	const struct client_frame *repeat;	/* Seen before: its answers. */
	uint8_t *answers;			/* To be remembered. */
	uint32_t n_groups;			/* Answered so far. */
	struct apply_window window;
};

static void
window_add(struct apply_window *w)
{
	const struct frame_op *op = &w->op[w->n_ops];
	struct table_probe *probe = &w->probe[w->n_ops++];

	probe->key = op->key;
	probe->table = op->table;
	probe->key_bytes = op->key_bytes;
}

/* The reads that come next; of them nothing but their keys is needed. */
static inline void
window_reads(struct apply_window *w, struct frame_cursor *c)
{
	for (; w->n_ops < APPLY_WINDOW && c->at < c->end && frame_is_read(c->at);
	     w->n_ops++) {
		struct apply_item *item = &w->item[w->n_items++];
		struct table_probe *probe = &w->probe[w->n_ops];

		item->first = (uint8_t)w->n_ops;
		item->kind = c->at[0];
		probe->table = c->at[1];
		probe->key_bytes = c->at[2];
		probe->key = c->at + 4;
		c->at += FRAME_PAD(4u + probe->key_bytes);
	}
}

/* Takes operations off a validated frame until the window is full, no group split.
 * Returns false at the end of the frame. */
static bool
window_fill(struct apply_window *w, struct frame_cursor *c)
{
	w->n_items = 0;
	w->n_ops = 0;
	for (;;) {
		window_reads(w, c);
		if (w->n_ops >= APPLY_WINDOW || frame_next(c, &w->op[w->n_ops]) != 1)
			break;

		const struct frame_op *op = &w->op[w->n_ops];
		struct apply_item *item = &w->item[w->n_items++];

		item->first = (uint8_t)w->n_ops;
		item->kind = op->kind;
		if (item->kind != FRAME_GROUP) {
			window_add(w);
			continue;
		}
		item->n_ops = op->n_ops;
		item->version = op->version;
		for (unsigned int i = 0; i < item->n_ops; i++) {
			frame_next(c, &w->op[w->n_ops]);
			window_add(w);
		}
	}
	return w->n_items > 0;
}

static void
answer_short(struct apply *a, enum frame_answer answer)
{
	uint64_t head = answer;

	memcpy(a->out, &head, 8);
	a->out += 8;
}

/* What happens to a record that a READ or TOUCH finds. */
static inline void
touch(const struct apply *a, const struct table_probe *probe, struct record *r)
{
	if (r->touched == a->now)
		return;
	r->touched = a->now;
	if (r->due)
		partition_revive(a->p, table_get(&a->p->table, probe), a->now);
}

/* READ and PEEK. */
static void
apply_read(struct apply *a, const struct apply_item *item)
{
	const struct table_probe *probe = &a->window.probe[item->first];
	struct record *r = partition_current(a->p, probe, a->now);
	struct core_table *t = &a->p->tables[probe->table];
	uint64_t head;

	t->n_reads++;
	if (r == NULL) {
		answer_short(a, FRAME_MISS);
		return;
	}
	t->n_hits++;
	if (item->kind == FRAME_READ)
		touch(a, probe, r);
	head = FRAME_HIT | (uint64_t)r->format << 8 | (uint64_t)r->value_bytes << 16;
	memcpy(a->out, &head, 8);
	memcpy(a->out + 8, &r->version, 8);
	a->out = frame_copy(a->out + 16, record_value(r), r->value_bytes);
}

static __attribute__((noinline)) void
apply_touch(struct apply *a, const struct apply_item *item)
{
	const struct table_probe *probe = &a->window.probe[item->first];
	struct record *r = partition_current(a->p, probe, a->now);

	a->p->tables[probe->table].n_reads++;
	if (r == NULL)
		return;
	a->p->tables[probe->table].n_hits++;
	touch(a, probe, r);
}

static __attribute__((noinline)) void
apply_pick(struct apply *a, const struct apply_item *item)
{
	const struct table_probe *probe = &a->window.probe[item->first];
	const struct record *r = partition_current(a->p, probe, a->now);
	uint64_t answer[3] = { FRAME_HIT | sizeof(uint32_t) << 16 };
	uint32_t member;

	a->p->tables[probe->table].n_reads++;
	if (!range_pick(a->p, probe, r, a->window.op[item->first].n_members, &member)) {
		answer_short(a, FRAME_MISS);
		return;
	}
	a->p->tables[probe->table].n_hits++;
	answer[2] = member;
	memcpy(a->out, answer, sizeof(answer));
	a->out += sizeof(answer);
}

/* The field that an ADD leaves: false if that is out of its bounds, or of the value. */
static bool
add_field(struct record *r, const struct frame_op *op, int64_t *field)
{
	*field = 0;
	if (r != NULL) {
		if (op->offset + sizeof(*field) > r->value_bytes)
			return false;
		memcpy(field, record_value(r) + op->offset, sizeof(*field));
	}
	return !__builtin_add_overflow(*field, op->delta, field) && *field >= op->min &&
	       *field <= op->max;
}

/* Deletes what is as good as deleted, so that ADD and TAKE make a record anew; and so that
 * a replica which has a group that was told of an absence has the absence as well. */
static __attribute__((noinline)) void
drop_gone(const struct apply *a, const struct table_probe *probe)
{
	record_id id = table_get(&a->p->table, probe);

	if (id != 0 && partition_gone(a->p, table_record(&a->p->table, id), a->now))
		partition_remove(a->p, id, a->effects);
}

/* What an operation that is neither CHECK, PUT nor DELETE asks of its record. */
static __attribute__((noinline)) enum frame_answer
op_judge(const struct apply *a, const struct table_probe *probe,
	 const struct frame_op *op)
{
	struct record *r = partition_current(a->p, probe, a->now);
	bool holds = true;
	int64_t field;

	if (r == NULL)
		drop_gone(a, probe);
	if (op->kind == FRAME_ADD)
		return add_field(r, op, &field) ? FRAME_APPLIED : FRAME_BOUND;
	if (op->kind == FRAME_SETTLE)
		holds = r != NULL && r->version == op->version &&
			record_is_due(r, a->now);
	else if (op->kind == FRAME_TAKE)
		holds = range_may_take(a->p, r, op);
	else if (op->kind == FRAME_GIVE)
		holds = range_may_give(a->p, r, op);
	return holds ? FRAME_APPLIED : FRAME_CONFLICT;
}

/* What the group asks of the records as they are; a conflict counts more than a bound,
 * for who is told of the one has to look again at what the other was about. */
static inline enum frame_answer
group_judge(const struct apply *a, const struct group_ops *g)
{
	enum frame_answer answer = FRAME_APPLIED;
	const struct table_probe *probe = g->probe;

	for (const struct frame_op *op = g->op; op < g->op + g->n; op++, probe++) {
		const struct record *r;

		if (op->kind == FRAME_CHECK) {
			r = partition_current(a->p, probe, a->now);
			if (r == NULL)
				drop_gone(a, probe);
			if ((r == NULL ? 0 : r->version) != op->version)
				return FRAME_CONFLICT;
		} else if (op->kind > FRAME_DELETE) {
			enum frame_answer other = op_judge(a, probe, op);

			if (other == FRAME_CONFLICT)
				return other;
			answer = other == FRAME_APPLIED ? answer : other;
		}
	}
	return answer;
}

/* Makes sure of memory for a record that is made, or grows, to a value of 'bytes'. */
static __attribute__((noinline)) bool
reserve_made(const struct apply *a, struct table_room *room,
	     const struct table_probe *probe, unsigned int bytes)
{
	const struct record *r = partition_current(a->p, probe, a->now);
	record_id id = r == NULL ? 0 : table_get(&a->p->table, probe);

	if (r != NULL && r->value_bytes >= bytes)
		return true;
	return !a->refuse && table_reserve(&a->p->table, room, id, probe->key_bytes,
					   (uint16_t)bytes) == 0;
}

static inline bool
reserve_wheel(const struct apply *a, uint8_t table, uint8_t rank)
{
	return a->p->wheel[table][rank] != NULL ||
	       partition_reserve_wheel(a->p, table, rank) == 0;
}

/* Memory for an operation that is neither CHECK, PUT nor DELETE. */
static __attribute__((noinline)) bool
op_reserve(const struct apply *a, struct table_room *room,
	   const struct table_probe *probe, const struct frame_op *op)
{
	const struct record *r;

	if (op->kind == FRAME_TAKE)
		return reserve_made(a, room, probe, frame_range_bytes(op->n_members));
	if (op->kind == FRAME_GIVE)
		return op->idle_ms == 0 ||
		       quarantine_reserve(a->p, room, op->key_bytes) == 0;
	if (op->kind != FRAME_ADD)
		return true;
	r = partition_current(a->p, probe, a->now);
	return (r != NULL || reserve_made(a, room, probe, op->value_bytes)) &&
	       (op->idle_ms == 0 || reserve_wheel(a, op->table, r == NULL ? 0 : r->rank));
}

/* Whether a group may be applied; then nothing that it needs is missing. */
static inline enum frame_answer
group_check(const struct apply *a, const struct group_ops *g)
{
	const struct table_probe *probe = g->probe;
	struct table_room room = { 0 };
	struct partition *p = a->p;
	enum frame_answer answer = group_judge(a, g);
	uint64_t limits = 0;

	if (answer != FRAME_APPLIED)
		return answer;
	for (const struct frame_op *op = g->op; op < g->op + g->n; op++, probe++) {
		if (op->kind == FRAME_PUT) {
			if (a->refuse ||
			    table_reserve(&p->table, &room, table_get(&p->table, probe),
					  op->key_bytes, op->value_bytes) != 0 ||
			    (op->idle_ms != 0 && !reserve_wheel(a, op->table, op->rank)))
				return FRAME_REFUSED;
			limits |= p->tables[op->table].limit;
		} else if (op->kind > FRAME_DELETE) {
			if (!op_reserve(a, &room, probe, op))
				return FRAME_REFUSED;
			limits |= p->tables[op->table].limit;
		}
	}
	if (limits != 0 && !limits_make_room(p, g, a->now, a->effects))
		return FRAME_FULL;
	return FRAME_APPLIED;
}

static __attribute__((noinline)) void
write_counter(const struct apply *a, const struct table_probe *probe,
	      const struct frame_op *op, uint64_t version)
{
	const struct record *r;
	int64_t field;

	add_field(partition_current(a->p, probe, a->now), op, &field);
	r = partition_patch(a->p, probe, op, field, version, a->now);
	effect_patch(a->effects, r, op->offset);
}

static __attribute__((noinline)) void
write_member(const struct apply *a, const struct table_probe *probe,
	     const struct frame_op *op, uint64_t version)
{
	bool take = op->kind == FRAME_TAKE;
	struct frame_op mark = *op;

	if (!take && op->idle_ms != 0) {
		quarantine_begin(a->p, op, version, a->now, a->effects);
		return;
	}
	mark.n_members = take ? op->n_members : 0;
	effect_member(a->effects,
		      partition_mark(a->p, probe, &mark, take, version, a->now),
		      op->member, take);
}

static inline void
group_write(const struct apply *a, const struct group_ops *g, uint64_t version)
{
	const struct table_probe *probe = g->probe;

	for (const struct frame_op *op = g->op; op < g->op + g->n; op++, probe++) {
		struct core_table *t = &a->p->tables[op->table];

		if (op->kind == FRAME_CHECK)
			continue;
		t->n_writes++;
		if (op->kind == FRAME_PUT) {
			const struct record *r =
				partition_put(a->p, probe, op, version, a->now);

			if (a->effects != NULL)
				effect_put(a->effects, r);
		} else if (op->kind == FRAME_ADD) {
			write_counter(a, probe, op, version);
		} else if (op->kind == FRAME_TAKE || op->kind == FRAME_GIVE) {
			write_member(a, probe, op, version);
		} else if (partition_delete(a->p, probe)) {
			t->n_settled += op->kind == FRAME_SETTLE;
			effect_delete(a->effects, op->table, op->key, op->key_bytes);
		}
	}
}

/* Whether the group is a PUT over a record that needs no memory for it, nor may be refused
 * for another reason. */
static inline bool
is_plain_put(const struct apply *a, const struct group_ops *g)
{
	const struct slots *s = &a->p->table.slots;
	const struct frame_op *op = g->op;
	record_id id;

	if (g->n != 1 || op->kind != FRAME_PUT || a->refuse ||
	    a->p->tables[op->table].limit != 0)
		return false;
	id = table_get(&a->p->table, g->probe);
	return id != 0 &&
	       s->chunks[id >> TABLE_SLOT_BITS].class ==
		       slots_class(s, op->key_bytes, op->value_bytes) &&
	       (op->idle_ms == 0 || a->p->wheel[op->table][op->rank] != NULL);
}

static void
apply_group(struct apply *a, const struct apply_item *item)
{
	const struct group_ops g = {
		.op = &a->window.op[item->first],
		.probe = &a->window.probe[item->first],
		.n = item->n_ops,
	};
	enum frame_answer answer;

	if (a->repeat != NULL) {
		answer = client_answer(a->repeat->answers, a->n_groups);
	} else {
		answer = is_plain_put(a, &g) ? FRAME_APPLIED : group_check(a, &g);
		client_answer_set(a->answers, a->n_groups, answer);
		if (answer == FRAME_APPLIED)
			group_write(a, &g, item->version);
		a->p->n_answers[answer]++;
	}
	a->n_groups++;
	answer_short(a, answer);
}

static void
apply_window(struct apply *a)
{
	struct apply_window *w = &a->window;

	table_probe(&a->p->table, w->probe, w->n_ops);
	for (unsigned int i = 0; i < w->n_items; i++) {
		if (w->item[i].kind == FRAME_GROUP)
			apply_group(a, &w->item[i]);
		else if (w->item[i].kind <= FRAME_PEEK)
			apply_read(a, &w->item[i]);
		else if (w->item[i].kind == FRAME_TOUCH)
			apply_touch(a, &w->item[i]);
		else
			apply_pick(a, &w->item[i]);
	}
}

/* What the effects of a frame take at the most.  Any operation in a group may delete a
 * record of its key, be it one whose time has passed; what writes says so besides, at
 * most in a PATCH with its key or a PUT with key and value, and may evict a record with a key
 * of any length.  The rest are once a frame. */
static size_t
effects_max(const struct frame_shape *shape)
{
	const size_t a_write = EFFECT_PATCH_BYTES + EFFECT_DELETE_BYTES + FRAME_MAX_KEY;

	static_assert(EFFECT_PATCH_BYTES >= EFFECT_MEMBER_BYTES &&
			      EFFECT_PATCH_BYTES >= EFFECT_PUT_BYTES + QUARANTINE_KEY,
		      "none has a longer head");
	return shape->n_ops * EFFECT_DELETE_BYTES + 2 * shape->key_bytes +
	       shape->n_writes * a_write + shape->value_bytes + EFFECT_DECLARE_BYTES +
	       CORE_TABLE_NAME + EFFECT_CLIENT_BYTES +
	       client_answers_bytes(shape->n_groups);
}

/* Gets everything that a frame needs, or fails. */
static int
apply_prepare(struct apply *a, const struct frame_head *head,
	      const struct frame_shape *shape, struct buffer *reply,
	      struct client **client)
{
	struct clients *clients = &a->p->clients;
	int seen = 0;

	*client = NULL;
	if (shape->max_reply_bytes > FRAME_MAX_REPLY_BYTES)
		return -EMSGSIZE;
	if (shape->n_groups > 0) {
		seen = clients_seen(clients, head->client, head->id, &a->repeat);
		if (seen < 0)
			return seen;
		if (seen == 1 && a->repeat->n_groups != shape->n_groups)
			return -EBADMSG;
	}
	if (buffer_reserve(reply, shape->max_reply_bytes) != 0)
		return -ENOMEM;
	if (shape->n_groups == 0 || seen == 1)
		return 0;
	if (a->effects != NULL &&
	    buffer_reserve(a->effects, effects_max(shape)) != 0)
		return -ENOMEM;
	return clients_prepare(clients, head->client, shape->n_groups,
			       a->refuse ? CLIENTS_SHORT : CLIENTS_SPARE, a->now, client,
			       &a->answers);
}

int
partition_apply(struct partition *p, const void *frame, size_t bytes, uint64_t term,
		uint64_t now_ms, bool refuse, struct buffer *reply,
		struct buffer *effects)
{
	struct frame_reply_head reply_head = { .magic = FRAME_REPLY_MAGIC };
	struct frame_shape shape;
	struct frame_head head;
	struct frame_cursor c;
	struct client *client;
	struct apply a;
	uint8_t *start;

	if (frame_open(frame, bytes, &head, &c) != 0)
		return -EBADMSG;
	if (head.generation != p->generation || head.term != term)
		return -ESTALE;
	if (frame_validate(c, p->limits, p->n_tables, &shape) != 0)
		return -EBADMSG;
	a.p = p;
	a.refuse = refuse;
	a.effects = effects;
	a.repeat = NULL;
	a.n_groups = 0;
	a.now = partition_tick(p, now_ms);
	int err = apply_prepare(&a, &head, &shape, reply, &client);
	if (err != 0)
		return err;
	start = reply->data + reply->bytes;
	a.out = start + FRAME_REPLY_HEAD_BYTES;
	while (window_fill(&a.window, &c))
		apply_window(&a);
	reply_head.n_bytes = (uint32_t)(a.out - start);
	reply_head.id = head.id;
	memcpy(start, &reply_head, sizeof(reply_head));
	reply->bytes += reply_head.n_bytes;
	if (client != NULL)
		effect_client(effects, head.client, head.id, shape.n_groups, a.answers);
	if (client != NULL)
		clients_remember(client, head.id, shape.n_groups);
	p->n_frames++;
	p->n_repeats += a.repeat != NULL;
	return 0;
}
