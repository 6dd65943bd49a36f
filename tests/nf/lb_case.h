/*
 * lb_case.h - what the tests of the load balancer share: packets of clients and backends,
 * health that a test decides, and who got how many.
 */
#ifndef NF_LB_CASE_H
#define NF_LB_CASE_H

#include "harness.h"

#include <stdio.h>

#include "nf/lb.h"

/* Sources whose flows to 192.0.2.10:80 (TCP and UDP) and to 192.0.2.11:80 (TCP) have
 * hashes that are multiples of 6: among two or three equals they get the first, so that
 * tables can say who gets what.  test_lb_schedule.c makes sure of it. */
#define HOST_1 "198.51.100.1:260"
#define HOST_2 "198.51.100.1:363"
#define HOST_3 "198.51.100.1:577"
#define HOST_4 "198.51.100.1:898"
#define HOST_5 "198.51.100.1:1169"
#define HOST_6 "198.51.100.1:1309"
#define HOST_9 "198.51.100.1:1521"
#define HOST(n) HOST_##n

#define CLIENT(n) .side = NF_OUTSIDE, .from = HOST(n), .to = "192.0.2.10:80"
#define DATAGRAM(n) CLIENT(n), .protocol = PROTO_UDP, .data = "?"
#define BACKEND(b, n)                                                            \
	.side = NF_INSIDE, .from = "10.0.0." #b ":8080", .to = HOST(n)

#define TO(n, b) HOST(n) " > 10.0.0." #b ":8080"
#define BACK(n) "192.0.2.10:80 > " HOST(n)

extern const struct nf nf_lb;

/* Which backends of the first service are down, a bit each, once notes are made anew. */
static uint64_t lb_down;

static inline void
lb_case_note(struct nf_run *r, void *note)
{
	((struct lb_health_note *)note)->down[0] = lb_down;
}

/* One whose health the test decides. */
static inline struct bench *
lb_bench(const char *section, unsigned int n_pipes, unsigned int n_partitions)
{
	static struct nf nf;
	struct bench_setup setup = { .nf = &nf, .section = section, .n_pipes = n_pipes,
				     .n_partitions = n_partitions };

	nf = nf_lb;
	nf.note = lb_case_note;
	lb_down = 0;
	return bench_open_as(&setup);
}

static inline void
lb_set_down(struct bench *b, uint64_t down)
{
	lb_down = down;
	bench_note(b);
}

/* All instances get another file. */
static inline void
lb_reload(struct bench *b, unsigned int n_pipes, const char *section)
{
	bench_settle(b);
	for (unsigned int i = 0; i < n_pipes; i++)
		bench_reload(b, i, section);
}

static char lb_names[256][32];

/* A packet of client i: of an address and port of its own. */
static inline struct spec
lb_client(unsigned int i, const char *flags)
{
	sprintf(lb_names[i], "198.51.%u.%u:%u", 100 + i % 7, 1 + i, 1000 + i);
	return (struct spec){ .side = NF_OUTSIDE, .from = lb_names[i],
			      .to = "192.0.2.10:80", .flags = flags };
}

/* To which of 10.0.0.0 to 10.0.0.9 it was sent. */
static inline unsigned int
lb_went_to(const struct sent *s)
{
	return (unsigned int)(strstr(sent_endpoints(s), "> 10.0.0.")[9] - '0');
}

/* How many of what was sent went to each. */
static inline void
lb_count_sent(struct bench *b, unsigned int n[10])
{
	const struct sent *s;

	memset(n, 0, 10 * sizeof(*n));
	while ((s = bench_take(b)) != NULL)
		n[lb_went_to(s)]++;
}

/* Sends one, alone, and says where it went; 0: nowhere. */
static inline unsigned int
lb_try(struct bench *b, unsigned int pipe, const struct spec *packet)
{
	const struct sent *s;
	unsigned int to = 0;

	bench_put(b, pipe, packet);
	bench_settle(b);
	while ((s = bench_take(b)) != NULL)
		if (s->side != packet->side)
			to = lb_went_to(s);
	return to;
}

#define N_STEPS(steps) (sizeof(steps) / sizeof((steps)[0]))

#endif
