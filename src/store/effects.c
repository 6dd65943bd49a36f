/*
 * effects.c - what changed, as bytes, and the way back.
 *
 * Effects are absolute: they say what a record, a field or a member is now, not what was
 * asked for, so a replica that replays them has nothing to decide: it has no limits, and
 * nothing expires.  Where they come from is trusted no more than a client: everything is
 * checked, as in frame.c.
 */
#include "store/partition.h"

#include <assert.h>
#include <errno.h>

enum {
	EFFECTS_WINDOW = 32,			/* Records fetched from memory at once. */
};

struct effect_cursor {
	const uint8_t *at, *end;
};

/* Records on their way to being written. */
struct effect_window {
	unsigned int n;
	/* PATCH is an ADD whose sum is 'delta', MEMBER a TAKE or GIVE. */
	struct frame_op op[EFFECTS_WINDOW];
	struct table_probe probe[EFFECTS_WINDOW];
};

static uint8_t *
effect_start(struct buffer *b, size_t bytes)
{
	uint8_t *at = b->data + b->bytes;

	assert(b->room - b->bytes >= bytes);
	b->bytes += bytes;
	return at;
}

static uint32_t
idle_ms_of(const struct record *r)
{
	uint64_t idle_ms = (uint64_t)r->idle * WHEEL_TICK_MS;

	return idle_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)idle_ms;
}

void
effect_put(struct buffer *b, const struct record *r)
{
	uint32_t idle_ms = idle_ms_of(r);
	uint8_t *at;

	if (b == NULL)
		return;
	at = effect_start(b, EFFECT_PUT_BYTES + r->key_bytes + r->value_bytes);
	memcpy(at, (uint8_t[4]){ EFFECT_PUT, r->table, r->key_bytes, r->format }, 4);
	memcpy(at + 4, &r->value_bytes, 2);
	memcpy(at + 6, (uint8_t[2]){ r->rank, 0 }, 2);
	memcpy(at + 8, &idle_ms, 4);
	memcpy(at + 12, &r->version, 8);
	memcpy(at + EFFECT_PUT_BYTES, r->bytes, r->key_bytes);
	memcpy(at + EFFECT_PUT_BYTES + r->key_bytes, r->bytes + FRAME_PAD(r->key_bytes),
	       r->value_bytes);
}

void
effect_patch(struct buffer *b, const struct record *r, uint16_t offset)
{
	uint32_t idle_ms = idle_ms_of(r);
	uint8_t *at;

	if (b == NULL)
		return;
	at = effect_start(b, EFFECT_PATCH_BYTES + r->key_bytes);
	memcpy(at, (uint8_t[4]){ EFFECT_PATCH, r->table, r->key_bytes, r->format }, 4);
	memcpy(at + 4, (uint16_t[2]){ r->value_bytes, offset }, 4);
	memcpy(at + 8, &idle_ms, 4);
	memcpy(at + 12, &r->version, 8);
	memcpy(at + 20, r->bytes + FRAME_PAD(r->key_bytes) + offset, 8);
	memcpy(at + EFFECT_PATCH_BYTES, r->bytes, r->key_bytes);
}

void
effect_member(struct buffer *b, const struct record *r, uint32_t member, bool taken)
{
	uint8_t *at;

	if (b == NULL)
		return;
	at = effect_start(b, EFFECT_MEMBER_BYTES + r->key_bytes);
	memcpy(at, (uint8_t[4]){ EFFECT_MEMBER, r->table, r->key_bytes, r->format }, 4);
	memcpy(at + 4, (uint16_t[2]){ (uint16_t)member, taken }, 4);
	memcpy(at + 8, r->bytes + FRAME_PAD(r->key_bytes), 4);
	memcpy(at + 12, &r->version, 8);
	memcpy(at + EFFECT_MEMBER_BYTES, r->bytes, r->key_bytes);
}

void
effect_delete(struct buffer *b, uint8_t table, const uint8_t *key, uint8_t key_bytes)
{
	uint8_t *at;

	if (b == NULL)
		return;
	at = effect_start(b, EFFECT_DELETE_BYTES + key_bytes);
	memcpy(at, (uint8_t[4]){ EFFECT_DELETE, table, key_bytes, 0 }, 4);
	memcpy(at + EFFECT_DELETE_BYTES, key, key_bytes);
}

void
effect_client(struct buffer *b, uint64_t client, uint64_t frame, uint32_t n_groups,
	      const uint8_t *answers)
{
	size_t bytes = client_answers_bytes(n_groups);
	uint8_t *at;

	if (b == NULL)
		return;
	at = effect_start(b, EFFECT_CLIENT_BYTES + bytes);
	memcpy(at, (uint32_t[2]){ EFFECT_CLIENT, n_groups }, 8);
	memcpy(at + 8, (uint64_t[2]){ client, frame }, 16);
	if (bytes > 0)
		memcpy(at + EFFECT_CLIENT_BYTES, answers, bytes);
}

void
effect_declare(struct buffer *b, const struct core_table *table)
{
	uint8_t name_bytes = (uint8_t)strlen(table->name);
	uint8_t *at;

	if (b == NULL)
		return;
	at = effect_start(b, EFFECT_DECLARE_BYTES + name_bytes);
	memcpy(at, (uint8_t[3]){ EFFECT_DECLARE, table->format, name_bytes }, 3);
	at[3] = table->flags;
	memcpy(at + 4, (uint16_t[2]){ table->key_max, table->value_max }, 4);
	memcpy(at + 8, &table->limit, 8);
	memcpy(at + EFFECT_DECLARE_BYTES, table->name, name_bytes);
}

/* Takes 'bytes' off; NULL: there are not as many. */
static const uint8_t *
effect_take(struct effect_cursor *c, size_t bytes)
{
	const uint8_t *at = c->at;

	if ((size_t)(c->end - at) < bytes)
		return NULL;
	c->at += bytes;
	return at;
}

static int
take_put(struct effect_cursor *c, struct frame_op *op)
{
	const uint8_t *at = effect_take(c, EFFECT_PUT_BYTES);

	if (at == NULL)
		return -EBADMSG;
	op->kind = FRAME_PUT;
	op->table = at[1];
	op->key_bytes = at[2];
	op->format = at[3];
	memcpy(&op->value_bytes, at + 4, 2);
	op->rank = at[6];
	memcpy(&op->idle_ms, at + 8, 4);
	memcpy(&op->version, at + 12, 8);
	op->key = effect_take(c, (size_t)op->key_bytes + op->value_bytes);
	if (op->key == NULL || op->rank >= FRAME_RANKS || at[7] != 0 || op->version == 0)
		return -EBADMSG;
	op->value = op->key + op->key_bytes;
	return 0;
}

static int
take_patch(struct effect_cursor *c, struct frame_op *op)
{
	const uint8_t *at = effect_take(c, EFFECT_PATCH_BYTES);

	if (at == NULL)
		return -EBADMSG;
	op->kind = FRAME_ADD;
	op->table = at[1];
	op->key_bytes = at[2];
	op->format = at[3];
	memcpy(&op->value_bytes, at + 4, 2);
	memcpy(&op->offset, at + 6, 2);
	memcpy(&op->idle_ms, at + 8, 4);
	memcpy(&op->version, at + 12, 8);
	memcpy(&op->delta, at + 20, 8);
	op->key = effect_take(c, op->key_bytes);
	if (op->key == NULL || op->version == 0 ||
	    op->offset + sizeof(op->delta) > op->value_bytes)
		return -EBADMSG;
	return 0;
}

static int
take_member(struct effect_cursor *c, struct frame_op *op)
{
	const uint8_t *at = effect_take(c, EFFECT_MEMBER_BYTES);
	uint16_t member;

	if (at == NULL || at[6] > 1 || at[7] != 0)
		return -EBADMSG;
	op->kind = at[6] ? FRAME_TAKE : FRAME_GIVE;
	op->table = at[1];
	op->key_bytes = at[2];
	op->format = at[3];
	memcpy(&member, at + 4, 2);
	op->member = member;
	memcpy(&op->n_members, at + 8, 4);
	memcpy(&op->version, at + 12, 8);
	op->key = effect_take(c, op->key_bytes);
	if (op->key == NULL || op->version == 0 || op->n_members > FRAME_MAX_MEMBERS ||
	    op->member >= op->n_members)
		return -EBADMSG;
	op->value_bytes = (uint16_t)frame_range_bytes(op->n_members);
	return 0;
}

static int
take_delete(struct effect_cursor *c, struct frame_op *op)
{
	const uint8_t *at = effect_take(c, EFFECT_DELETE_BYTES);

	if (at == NULL || at[3] != 0)
		return -EBADMSG;
	op->kind = FRAME_DELETE;
	op->table = at[1];
	op->key_bytes = at[2];
	op->value_bytes = 0;
	op->key = effect_take(c, op->key_bytes);
	return op->key == NULL ? -EBADMSG : 0;
}

/* A frame that is not newer than what is known changes nothing. */
static int
replay_client(struct partition *p, struct effect_cursor *c, uint32_t now)
{
	const uint8_t *at = effect_take(c, EFFECT_CLIENT_BYTES), *answers;
	const struct client_frame *known;
	struct client *client;
	uint32_t head[2];
	uint64_t id[2];
	uint8_t *to;

	if (at == NULL)
		return -EBADMSG;
	memcpy(head, at, sizeof(head));
	memcpy(id, at + 8, sizeof(id));
	answers = effect_take(c, client_answers_bytes(head[1]));
	if (answers == NULL || head[0] != EFFECT_CLIENT || head[1] > CLIENT_MAX_GROUPS)
		return -EBADMSG;
	if (head[1] == 0) {
		clients_forget(&p->clients, id[0]);
		return 0;
	}
	for (uint32_t i = 0; i < head[1]; i++) {
		if (client_answer(answers, i) >= FRAME_N_ANSWERS)
			return -EBADMSG;
	}
	if (clients_seen(&p->clients, id[0], id[1], &known) != 0)
		return 0;
	if (clients_prepare(&p->clients, id[0], head[1], CLIENTS_FOLLOW, now, &client,
			    &to) != 0)
		return -ENOMEM;
	memcpy(to, answers, client_answers_bytes(head[1]));
	clients_remember(client, id[1], head[1]);
	return 0;
}

static int
replay_declare(struct partition *p, struct effect_cursor *c)
{
	const uint8_t *at = effect_take(c, EFFECT_DECLARE_BYTES), *text;
	char name[CORE_TABLE_NAME] = "";
	struct core_declaration d = { .name = name };
	int id;

	if (at == NULL || at[2] >= sizeof(name))
		return -EBADMSG;
	d.format = at[1];
	d.flags = at[3];
	memcpy(&d.key_max, at + 4, 2);
	memcpy(&d.value_max, at + 6, 2);
	memcpy(&d.limit, at + 8, 8);
	text = effect_take(c, at[2]);
	if (text == NULL || memchr(text, 0, at[2]) != NULL)
		return -EBADMSG;
	memcpy(name, text, at[2]);
	id = partition_declare(p, &d);
	if (id == -EINVAL)
		id = quarantine_declare(p, &d);
	return id < 0 ? -EBADMSG : 0;
}

/* Whether a record that is there is what a PATCH or MEMBER is for. */
static bool
record_suits(const struct record *r, const struct frame_op *op)
{
	uint32_t n_members;

	if (op->kind == FRAME_ADD)
		return op->offset + sizeof(op->delta) <= r->value_bytes;
	return op->kind == FRAME_PUT || range_size(r, &n_members);
}

static int
replay_record(struct partition *p, const struct table_probe *probe,
	      const struct frame_op *op, uint32_t now)
{
	struct table_room room = { 0 };
	record_id id = table_get(&p->table, probe);
	const struct record *r = id == 0 ? NULL : table_record(&p->table, id);
	uint8_t rank = r == NULL ? 0 : r->rank;
	bool timed = op->kind == FRAME_PUT || op->kind == FRAME_ADD;

	if (op->kind == FRAME_DELETE) {
		partition_delete(p, probe);
		return 0;
	}
	if (r != NULL && !record_suits(r, op))
		return -EBADMSG;
	if (timed && op->idle_ms != 0 &&
	    partition_reserve_wheel(p, op->table,
				    op->kind == FRAME_PUT ? op->rank : rank) != 0)
		return -ENOMEM;
	if ((op->kind == FRAME_PUT || r == NULL || r->value_bytes < op->value_bytes) &&
	    table_reserve(&p->table, &room, id, op->key_bytes, op->value_bytes) != 0)
		return -ENOMEM;
	if (op->kind == FRAME_PUT)
		partition_put(p, probe, op, op->version, now);
	else if (op->kind == FRAME_ADD)
		partition_patch(p, probe, op, op->delta, op->version, now);
	else
		partition_mark(p, probe, op, op->kind == FRAME_TAKE, op->version, now);
	return 0;
}

static int
window_replay(struct partition *p, struct effect_window *w, uint32_t now)
{
	int err = 0;

	table_probe(&p->table, w->probe, w->n);
	for (unsigned int i = 0; i < w->n && err == 0; i++)
		err = replay_record(p, &w->probe[i], &w->op[i], now);
	w->n = 0;
	return err;
}

/* Takes the next effect: into the window, or at once if it is not of a record. */
static int
replay_next(struct partition *p, struct effect_cursor *c, struct effect_window *w,
	    uint32_t now)
{
	struct frame_op *op = &w->op[w->n];
	int err;

	switch (*c->at) {
	case EFFECT_PUT:
		err = take_put(c, op);
		break;
	case EFFECT_DELETE:
		err = take_delete(c, op);
		break;
	case EFFECT_PATCH:
		err = take_patch(c, op);
		break;
	case EFFECT_MEMBER:
		err = take_member(c, op);
		break;
	case EFFECT_CLIENT:
		return replay_client(p, c, now);
	case EFFECT_DECLARE:
		return replay_declare(p, c);
	default:
		return -EBADMSG;
	}
	if (err != 0 || op->table >= p->n_tables || op->key_bytes == 0 ||
	    op->key_bytes > p->tables[op->table].key_max ||
	    op->value_bytes > p->tables[op->table].value_max)
		return -EBADMSG;
	w->probe[w->n++] = (struct table_probe){
		.key = op->key,
		.table = op->table,
		.key_bytes = op->key_bytes,
	};
	return 0;
}

int
partition_replay(struct partition *p, const void *effects, size_t bytes, uint64_t now_ms)
{
	uint32_t now = partition_tick(p, now_ms);
	struct effect_cursor c;
	struct effect_window w;
	int err = 0;

	if (bytes == 0)				/* Of an empty buffer: NULL. */
		return 0;
	c.at = effects;
	c.end = c.at + bytes;
	w.n = 0;
	while (err == 0 && c.at < c.end) {
		err = replay_next(p, &c, &w, now);
		if (err == 0 && w.n == EFFECTS_WINDOW)
			err = window_replay(p, &w, now);
	}
	return err == 0 ? window_replay(p, &w, now) : err;
}
