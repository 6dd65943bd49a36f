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
 */
#include "store/core.h"

#include <errno.h>

enum {
	APPLY_WINDOW = 64,			/* Operations: then it is full. */
	APPLY_MAX_OPS = APPLY_WINDOW - 1 + FRAME_MAX_GROUP_OPS,
};

/* A read, or a group, of a window. */
struct apply_item {
	uint8_t first, n_ops;			/* Its operations in the window. */
	bool group;
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

/* Takes operations off a validated frame until the window is full, no group split.
 * Returns false at the end of the frame. */
static bool
window_fill(struct apply_window *w, struct frame_cursor *c)
{
	w->n_items = 0;
	w->n_ops = 0;
	while (w->n_ops < APPLY_WINDOW && frame_next(c, &w->op[w->n_ops]) == 1) {
		const struct frame_op *op = &w->op[w->n_ops];
		struct apply_item *item = &w->item[w->n_items++];

		item->first = (uint8_t)w->n_ops;
		item->group = op->kind == FRAME_GROUP;
		if (!item->group) {
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
apply_read(struct apply *a, const struct apply_item *item)
{
	const struct apply_window *w = &a->window;
	struct partition *p = a->p;
	struct record *r = partition_current(p, &w->probe[item->first], a->now);
	uint64_t head;

	p->counters.reads++;
	if (r == NULL) {
		head = FRAME_MISS;
		memcpy(a->out, &head, 8);
		a->out += 8;
		return;
	}
	p->counters.hits++;
	if (w->op[item->first].kind == FRAME_READ && r->touched != a->now)
		r->touched = a->now;
	head = FRAME_HIT | (uint64_t)r->format << 8 | (uint64_t)r->value_bytes << 16;
	memcpy(a->out, &head, 8);
	memcpy(a->out + 8, &r->version, 8);
	a->out = frame_copy(a->out + 16, record_value(r), r->value_bytes);
}

/* Whether a group may be applied; makes sure of room for its records. */
static enum frame_answer
group_check(const struct apply *a, const struct apply_item *item)
{
	const struct frame_op *op = &a->window.op[item->first];
	const struct table_probe *probe = &a->window.probe[item->first];
	struct table *t = &a->p->table;
	struct table_room room = { 0 };

	for (unsigned int i = 0; i < item->n_ops; i++) {
		const struct record *r;

		if (op[i].kind != FRAME_CHECK)
			continue;
		r = partition_current(a->p, &probe[i], a->now);
		if ((r == NULL ? 0 : r->version) != op[i].version)
			return FRAME_CONFLICT;
	}
	for (unsigned int i = 0; i < item->n_ops; i++) {
		if (op[i].kind != FRAME_PUT)
			continue;
		if (a->refuse || table_reserve(t, &room, table_get(t, &probe[i]),
					       op[i].key_bytes, op[i].value_bytes) != 0)
			return FRAME_REFUSED;
	}
	return FRAME_APPLIED;
}

static void
group_write(struct apply *a, const struct apply_item *item)
{
	const struct frame_op *op = &a->window.op[item->first];
	const struct table_probe *probe = &a->window.probe[item->first];

	for (unsigned int i = 0; i < item->n_ops; i++, op++, probe++) {
		if (op->kind == FRAME_PUT) {
			const struct record *r =
				partition_put(a->p, probe, op, item->version, a->now);

			if (a->effects != NULL)
				effect_put(a->effects, r);
		} else if (op->kind == FRAME_DELETE && partition_delete(a->p, probe) &&
			   a->effects != NULL) {
			effect_delete(a->effects, op->table, op->key, op->key_bytes);
		}
	}
}

static void
apply_group(struct apply *a, const struct apply_item *item)
{
	enum frame_answer answer;
	uint64_t head;

	if (a->repeat != NULL) {
		answer = client_answer(a->repeat->answers, a->n_groups);
	} else {
		answer = group_check(a, item);
		client_answer_set(a->answers, a->n_groups, answer);
		if (answer == FRAME_APPLIED)
			group_write(a, item);
		a->p->counters.conflicts += answer == FRAME_CONFLICT;
		a->p->counters.refused += answer == FRAME_REFUSED;
		a->p->counters.groups++;
	}
	a->n_groups++;
	head = answer;
	memcpy(a->out, &head, 8);
	a->out += 8;
}

static void
apply_window(struct apply *a)
{
	struct apply_window *w = &a->window;

	table_probe(&a->p->table, w->probe, w->n_ops);
	for (unsigned int i = 0; i < w->n_items; i++) {
		if (w->item[i].group)
			apply_group(a, &w->item[i]);
		else
			apply_read(a, &w->item[i]);
	}
}

/* Gets everything that a frame needs, or fails.  An effect may take 4 bytes more than
 * the operation, of 24 bytes or more, that had it. */
static int
apply_prepare(struct apply *a, const struct frame_head *head,
	      const struct frame_shape *shape, struct buffer *reply,
	      struct client **client)
{
	size_t effects_bytes = head->n_bytes + head->n_bytes / 4 + EFFECT_CLIENT_BYTES +
			       client_answers_bytes(shape->n_groups);
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
	if (a->effects != NULL && buffer_reserve(a->effects, effects_bytes) != 0)
		return -ENOMEM;
	return clients_prepare(clients, head->client, shape->n_groups, client,
			       &a->answers);
}

int
partition_apply(struct partition *p, const void *frame, size_t bytes, uint64_t now_ms,
		bool refuse, struct buffer *reply, struct buffer *effects)
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
	if (head.generation != p->generation)
		return -ESTALE;
	if (frame_validate(c, p->limits, p->n_tables, &shape) != 0)
		return -EBADMSG;
	a.p = p;
	a.refuse = refuse;
	a.effects = effects;
	a.repeat = NULL;
	a.n_groups = 0;
	int err = apply_prepare(&a, &head, &shape, reply, &client);
	if (err != 0)
		return err;
	a.now = partition_tick(p, now_ms);
	start = reply->data + reply->bytes;
	a.out = start + FRAME_REPLY_HEAD_BYTES;
	while (window_fill(&a.window, &c))
		apply_window(&a);
	reply_head.n_bytes = (uint32_t)(a.out - start);
	reply_head.id = head.id;
	memcpy(start, &reply_head, sizeof(reply_head));
	reply->bytes += reply_head.n_bytes;
	if (client != NULL && effects != NULL)
		effect_client(effects, head.client, head.id, shape.n_groups, a.answers);
	if (client != NULL)
		clients_remember(&p->clients, client, head.id, shape.n_groups, a.now);
	p->counters.frames++;
	p->counters.repeats += a.repeat != NULL;
	return 0;
}
