/*
 * fuzz_frame.c - any bytes as frames for a partition, and as a reply or leases for a
 * client.
 *
 * The input is a row of frames, each behind two bytes of length.  Heads are made
 * right, for else nothing would get past them.  Whatever is taken is answered in the
 * announced number of answers, and a replica that replays the effects has as many
 * records; whatever is refused changes nothing.
 */
#include <assert.h>
#include <stdlib.h>

#include "store/partition.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

enum { GENERATION = 1, TERM = 2, LIMIT = 3 };

static const uint64_t seed[2] = { 5, 6 };

static const struct core_declaration tables[] = {
	{ "a", 64, FRAME_MAX_VALUE, 1, 0, 0 },
	{ "b", 4, 24, 1, CORE_LEASED, 0 },
	{ "c", 64, 100, 1, CORE_EVICT, LIMIT },
};

enum { EVICTS = 2, N_TABLES = sizeof(tables) / sizeof(tables[0]) };

struct pair {
	struct partition *primary, *replica;
	struct buffer reply, effects;
	uint64_t now_ms;
};

static struct partition *
partition_with_tables(void)
{
	struct partition *p;

	if (partition_new(GENERATION, 1, seed, &p) != 0)
		abort();
	for (unsigned int i = 0; i < N_TABLES; i++) {
		if (partition_declare(p, &tables[i]) != (int)i)
			abort();
	}
	return p;
}

/* Walks a reply; any bytes will do. */
static unsigned int
count_answers(struct frame_cursor c)
{
	struct frame_value v;
	unsigned int n = 0, sum = 0;

	for (; frame_reply_next(&c, &v) == 1; n++) {
		for (unsigned int i = 0; v.answer == FRAME_HIT && i < v.value_bytes; i++)
			sum += v.value[i];
	}
	assert(c.at <= c.end && (n > 0 || sum == 0));
	return n;
}

/* Walks leases, likewise, and returns how many there are. */
static unsigned int
count_leases(struct frame_cursor c)
{
	struct frame_lease lease;
	unsigned int n = 0, sum = 0;

	for (; frame_lease_next(&c, &lease) == 1; n++) {
		for (unsigned int i = 0; i < lease.value_bytes; i++)
			sum += lease.value[i];
		for (unsigned int i = 0; i < lease.key_bytes; i++)
			sum += lease.key[i];
	}
	assert(c.at <= c.end && (n > 0 || sum == 0));
	return n;
}

static void
expect_same(struct pair *p)
{
	struct core_counters a, b;

	partition_count(p->primary, &a);
	partition_count(p->replica, &b);
	assert(a.records == b.records && a.clients == b.clients);
}

static void
apply(struct pair *p, const uint8_t *frame, size_t bytes)
{
	struct frame_reply_head reply_head;
	struct core_counters before, after;
	const struct core_table *evicts = &p->primary->tables[EVICTS];
	uint64_t n_records = evicts->n_records;
	struct frame_shape shape;
	struct frame_head head;
	struct frame_cursor c;
	int err;

	partition_count(p->primary, &before);
	p->reply.bytes = p->effects.bytes = 0;
	err = partition_apply(p->primary, frame, bytes, TERM, p->now_ms,
			      frame[bytes - 1] == 1, &p->reply, &p->effects);
	if (err != 0) {
		partition_count(p->primary, &after);
		assert(memcmp(&before, &after, sizeof(before)) == 0);
		assert(p->reply.bytes == 0 && p->effects.bytes == 0);
		return;
	}
	assert(frame_open(frame, bytes, &head, &c) == 0);
	assert(frame_validate(c, p->primary->limits, p->primary->n_tables, &shape) == 0);
	assert(frame_reply_open(p->reply.data, p->reply.bytes, &reply_head, &c) == 0);
	assert(reply_head.id == head.id && p->reply.bytes <= shape.max_reply_bytes);
	assert(count_answers(c) == shape.n_answers);
	assert(evicts->limit == 0 || evicts->n_records <= evicts->limit ||
	       evicts->n_records <= n_records);
	err = partition_replay(p->replica, p->effects.data, p->effects.bytes, p->now_ms);
	assert(err == 0);
	expect_same(p);
}

/* What is leased is well formed, and as many records are due as there should be. */
static void
lease(struct pair *p, uint8_t what)
{
	struct core_counters count;
	struct frame_cursor c;
	int n;

	p->reply.bytes = 0;
	n = partition_lease(p->primary, p->now_ms, UINT32_MAX, what % 4, &p->reply);
	assert(n >= 0 && frame_leases_open(p->reply.data, p->reply.bytes, &c) == 0);
	assert(count_leases(c) == (unsigned int)n);
	partition_count(p->primary, &count);
	assert(count.due >= (unsigned int)n && count.due <= count.records);
}

/* The table that evicts has a limit that comes and goes: it is over it at times. */
static void
limit(struct pair *p, uint8_t what)
{
	struct core_declaration d = tables[EVICTS];

	d.limit = what % 5 == 0 ? 0 : 1 + what % LIMIT;
	if (partition_declare(p->primary, &d) != EVICTS)
		abort();
}

/* The time and what expires in it come out of the frame's first byte. */
static void
expire(struct pair *p, uint8_t what)
{
	int err;

	p->now_ms += what < 200 ? what * 3u : (uint64_t)what << 18;
	buffer_fini(&p->effects);		/* Each frame asks for its own room. */
	p->effects = (struct buffer){ 0 };
	partition_expire(p->primary, p->now_ms, what % 8, &p->effects);
	err = partition_replay(p->replica, p->effects.data, p->effects.bytes, p->now_ms);
	assert(err == 0);
	expect_same(p);
	lease(p, what);
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	struct pair p = { .now_ms = 1000 };
	struct frame_cursor c = { input, input + bytes };

	count_answers(c);
	count_leases(c);
	frame_leases_open(input, bytes, &c);
	c.at = input;
	p.primary = partition_with_tables();
	p.replica = partition_with_tables();
	while (c.end - c.at >= 2) {
		size_t n = (size_t)(c.at[0] | c.at[1] << 8) * 8;
		size_t left = (size_t)(c.end - c.at - 2);
		size_t body = n < left ? n : left / 8 * 8;
		size_t frame_bytes = FRAME_HEAD_BYTES + body;
		uint8_t *frame = malloc(frame_bytes);
		struct frame_head head = { FRAME_MAGIC, (uint32_t)frame_bytes, GENERATION,
					   TERM, c.at[0] % 3, c.at[0] / 3 };

		expire(&p, c.at[0]);
		limit(&p, c.at[0]);
		memcpy(frame, &head, sizeof(head));
		memcpy(frame + FRAME_HEAD_BYTES, c.at + 2, body);
		apply(&p, frame, frame_bytes);
		free(frame);
		c.at += 2 + body;
	}
	partition_free(p.primary);
	partition_free(p.replica);
	buffer_fini(&p.reply);
	buffer_fini(&p.effects);
	return 0;
}
