/*
 * snapshot.c - a partition as bytes: to disk, to a new replica, to another server.
 *
 * The first piece is u32 magic, u32 format, u64 generation, u32 n_partitions, u32 0, and
 * a DECLARE effect for each table, in order: their ids are their places.  All other
 * pieces are effects: PUT for each record, CLIENT for each frame that is remembered, from
 * the client that was silent for the longest and its oldest frame on.  Idle times start
 * anew when it is read.
 */
#include "store/partition.h"

#include <errno.h>

#define SNAPSHOT_MAGIC 0x50464e53u		/* "SNFP" */

enum {
	SNAPSHOT_FORMAT = 2,
	SNAPSHOT_HEAD_BYTES = 24,
	SNAPSHOT_PIECE = 64 << 10,
};

struct snapshot {
	struct buffer piece;
	int (*emit)(void *context, const void *piece, size_t bytes);
	void *context;
};

/* Makes sure of room for an effect of 'bytes', in this piece or the next. */
static int
snapshot_room(struct snapshot *s, size_t bytes)
{
	int err = 0;

	if (s->piece.bytes > 0 && s->piece.bytes + bytes > SNAPSHOT_PIECE) {
		err = s->emit(s->context, s->piece.data, s->piece.bytes);
		s->piece.bytes = 0;
	}
	return err == 0 ? buffer_reserve(&s->piece, bytes) : err;
}

static int
save_head(const struct partition *p, struct snapshot *s)
{
	size_t most = SNAPSHOT_HEAD_BYTES +
		      p->n_tables * (EFFECT_DECLARE_BYTES + (size_t)CORE_TABLE_NAME);
	int err = buffer_reserve(&s->piece, most);

	if (err != 0)
		return err;
	memcpy(s->piece.data, (uint32_t[2]){ SNAPSHOT_MAGIC, SNAPSHOT_FORMAT }, 8);
	memcpy(s->piece.data + 8, &p->generation, 8);
	memcpy(s->piece.data + 16, (uint32_t[2]){ p->n_partitions, 0 }, 8);
	s->piece.bytes = SNAPSHOT_HEAD_BYTES;
	for (unsigned int i = 0; i < p->n_tables; i++)
		effect_declare(&s->piece, &p->tables[i]);
	err = s->emit(s->context, s->piece.data, s->piece.bytes);
	s->piece.bytes = 0;
	return err;
}

static int
save_records(const struct partition *p, struct snapshot *s)
{
	const struct slots *slots = &p->table.slots;
	uint32_t now = (uint32_t)((p->now_ms - p->start_ms) / WHEEL_TICK_MS);
	record_id id = 0;
	int err = 0;

	while (err == 0 && (id = slots_next(slots, id)) != 0) {
		const struct record *r = slots_record(slots, id);

		if (partition_gone(p, r, now))
			continue;
		err = snapshot_room(s, EFFECT_PUT_BYTES + r->key_bytes + r->value_bytes);
		if (err == 0)
			effect_put(&s->piece, r);
	}
	return err;
}

static int
save_client(const struct client *client, struct snapshot *s)
{
	for (uint32_t i = client->n_frames; i-- > 0;) {
		const struct client_frame *f =
			&client->frames[(client->newest - i) % CORE_CLIENT_FRAMES];
		size_t bytes = EFFECT_CLIENT_BYTES + client_answers_bytes(f->n_groups);
		int err = snapshot_room(s, bytes);

		if (err != 0)
			return err;
		effect_client(&s->piece, client->id, f->id, f->n_groups, f->answers);
	}
	return 0;
}

int
partition_save(const struct partition *p,
	       int (*emit)(void *context, const void *piece, size_t bytes), void *context)
{
	struct snapshot s = { .emit = emit, .context = context };
	const struct client *client = p->clients.oldest;
	int err = save_head(p, &s);

	if (err == 0)
		err = save_records(p, &s);
	for (; err == 0 && client != NULL; client = client->newer)
		err = save_client(client, &s);
	if (err == 0 && s.piece.bytes > 0)
		err = emit(context, s.piece.data, s.piece.bytes);
	buffer_fini(&s.piece);
	return err;
}

int
partition_load(const void *piece, size_t bytes, const uint64_t seed[2],
	       struct partition **out)
{
	uint32_t head[2], partitions[2];
	uint64_t generation;
	struct partition *p;
	int err;

	if (bytes < SNAPSHOT_HEAD_BYTES)
		return -EBADMSG;
	memcpy(head, piece, sizeof(head));
	memcpy(&generation, (const uint8_t *)piece + 8, sizeof(generation));
	memcpy(partitions, (const uint8_t *)piece + 16, sizeof(partitions));
	if (head[0] != SNAPSHOT_MAGIC || head[1] != SNAPSHOT_FORMAT ||
	    partitions[0] > CORE_MAX_PARTITIONS || partitions[1] != 0)
		return -EBADMSG;
	err = partition_new(generation, partitions[0], seed, &p);
	if (err != 0)
		return err;
	err = partition_replay(p, (const uint8_t *)piece + SNAPSHOT_HEAD_BYTES,
			       bytes - SNAPSHOT_HEAD_BYTES, 0);
	if (err != 0) {
		partition_free(p);
		return err;
	}
	p->started = false;
	*out = p;
	return 0;
}
