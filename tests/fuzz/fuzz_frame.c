/*
 * fuzz_frame.c - any bytes as frames for a partition, and as a reply for a client.
 *
 * The input is a row of frames, each behind two bytes of length.  Heads are made
 * right, for else nothing would get past them.  Whatever is taken is answered in the
 * announced number of answers, and a replica that replays the effects has as many
 * records; whatever is refused changes nothing.
 */
#include <assert.h>
#include <stdlib.h>

#include "store/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

enum { GENERATION = 1 };

static const uint64_t seed[2] = { 5, 6 };

struct pair {
	struct partition *primary, *replica;
	struct buffer reply, effects;
	uint64_t now_ms;
};

static struct partition *
partition_with_tables(void)
{
	struct partition *p;

	if (partition_new(GENERATION, seed, &p) != 0)
		abort();
	partition_declare(p, "a", 64, 2048, 1);
	partition_declare(p, "b", 4, 16, 1);
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
	assert(c.at <= c.end && sum <= n * 2048u * 255u * 32u);
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
	struct frame_limits limits[2] = { { 64, 2048 }, { 4, 16 } };
	struct frame_reply_head reply_head;
	struct core_counters before, after;
	struct frame_shape shape;
	struct frame_head head;
	struct frame_cursor c;
	int err;

	partition_count(p->primary, &before);
	p->reply.bytes = p->effects.bytes = 0;
	err = partition_apply(p->primary, frame, bytes, p->now_ms, frame[bytes - 1] == 1,
			      &p->reply, &p->effects);
	if (err != 0) {
		partition_count(p->primary, &after);
		assert(memcmp(&before, &after, sizeof(before)) == 0);
		assert(p->reply.bytes == 0 && p->effects.bytes == 0);
		return;
	}
	assert(frame_open(frame, bytes, &head, &c) == 0);
	assert(frame_validate(c, limits, 2, &shape) == 0);
	assert(frame_reply_open(p->reply.data, p->reply.bytes, &reply_head, &c) == 0);
	assert(reply_head.id == head.id && p->reply.bytes <= shape.max_reply_bytes);
	assert(count_answers(c) == shape.n_answers);
	err = partition_replay(p->replica, p->effects.data, p->effects.bytes, p->now_ms);
	assert(err == 0);
	expect_same(p);
}

/* The time and what expires in it come out of the frame's first byte. */
static void
expire(struct pair *p, uint8_t what)
{
	int err;

	p->now_ms += what < 200 ? what * 3u : (uint64_t)what << 18;
	p->effects.bytes = 0;
	partition_expire(p->primary, p->now_ms, what % 8, &p->effects);
	err = partition_replay(p->replica, p->effects.data, p->effects.bytes, p->now_ms);
	assert(err == 0);
	expect_same(p);
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	struct pair p = { .now_ms = 1000 };
	struct frame_cursor c = { input, input + bytes };

	count_answers(c);
	p.primary = partition_with_tables();
	p.replica = partition_with_tables();
	while (c.end - c.at >= 2) {
		size_t n = (size_t)(c.at[0] | c.at[1] << 8) * 8;
		size_t left = (size_t)(c.end - c.at - 2);
		size_t body = n < left ? n : left / 8 * 8;
		size_t frame_bytes = FRAME_HEAD_BYTES + body;
		uint8_t *frame = malloc(frame_bytes);
		struct frame_head head = { FRAME_MAGIC, (uint32_t)frame_bytes, GENERATION,
					   c.at[0] % 3, c.at[0] / 3 };

		expire(&p, c.at[0]);
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
