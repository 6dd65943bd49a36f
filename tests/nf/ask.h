/*
 * ask.h - packets that ask a function of the tests for something: what, is the destination
 * port above 1000, about which record, the source port; and the answer is the destination
 * port with which they leave.
 */
#ifndef NF_ASK_H
#define NF_ASK_H

#include <stdio.h>
#include <string.h>

#include "harness.h"

static inline struct spec
ask(unsigned int what, unsigned int key)
{
	static char text[64][32];
	static unsigned int n;
	char *from = text[n++ % 64], *to = text[n++ % 64];

	sprintf(from, "10.0.0.1:%u", key);
	sprintf(to, "10.0.0.2:%u", 1000 + what);
	return (struct spec){ .from = from, .to = to, .protocol = PROTO_UDP };
}

static inline void
put(struct bench *b, unsigned int pipe, unsigned int what, unsigned int key)
{
	struct spec packet = ask(what, key);

	bench_put(b, pipe, &packet);
}

/* What a packet that left carries; -1: none did. */
static inline int
take(struct bench *b)
{
	const struct sent *s = bench_take(b);

	return s != NULL ? atoi(strrchr(sent_endpoints(s), ':') + 1) : -1;
}

/* One packet from in to out; what it carries then. */
static inline int
run_one(struct bench *b, unsigned int pipe, unsigned int what, unsigned int key)
{
	int n;

	put(b, pipe, what, key);
	bench_settle(b);
	n = take(b);
	assert_int_equal(take(b), -1);
	return n;
}

/* Those that nobody has looked at yet. */
static inline unsigned int
count_events(struct bench *b)
{
	struct pipe_event e;
	unsigned int n = 0;

	while (bench_event(b, &e))
		n++;
	return n;
}

#endif
