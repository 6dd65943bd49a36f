/*
 * nat_hosts.h - inside hosts that send UDP through a NAT, and what becomes of it: for the
 * tests of its ports and of its blocks.
 */
#ifndef NF_NAT_HOSTS_H
#define NF_NAT_HOSTS_H

#include <stdio.h>

#include "harness.h"

enum {
	UDP_MS = 120 * 1000,			/* Of all sections here. */
	QUARANTINE_MS = 120 * 1000,
	TICK_MS = 1000,				/* More than timers are late. */
};

#define ANY "udp_idle: 120s\nfiltering: endpoint_independent\n"
#define ONE ANY "addresses: 192.0.2.1\n"
#define TWO ANY "addresses: [192.0.2.1, 192.0.2.2]\n"
#define THREE ANY "addresses: [192.0.2.1, 192.0.2.2, 192.0.2.3]\n"

static inline struct bench *
open_bench(const char *section, unsigned int n_pipes, unsigned int n_partitions)
{
	struct bench_setup setup = { .names = "nat", .section = section,
				     .n_pipes = n_pipes, .n_partitions = n_partitions };

	return bench_open_as(&setup);
}

static inline struct spec
packet(unsigned int host, unsigned int port)
{
	static char text[64][32];
	static unsigned int n;
	char *from = text[n++ % 64];

	sprintf(from, "10.0.%u.%u:%u", host / 256, host % 256, port);
	return (struct spec){ .from = from, .to = "198.51.100.7:53",
			      .protocol = PROTO_UDP };
}

/* Where it leaves from.  False: nothing did. */
static inline bool
take(struct bench *b, char ip[32], unsigned int *port)
{
	const struct sent *s = bench_take(b);

	if (s == NULL)
		return false;
	if (s->side != NF_OUTSIDE)
		return take(b, ip, port);
	assert_int_equal(sscanf(sent_endpoints(s), "%31[^:]:%u >", ip, port), 2);
	return true;
}

/* A packet of a host's port. */
static inline bool
run(struct bench *b, unsigned int pipe, unsigned int host, unsigned int port,
    char ip[32], unsigned int *outside)
{
	struct spec p = packet(host, port);

	bench_put(b, pipe, &p);
	bench_settle(b);
	return take(b, ip, outside);
}

static inline bool
runs(struct bench *b, unsigned int pipe, unsigned int host, unsigned int port)
{
	unsigned int outside;
	char ip[32];

	return run(b, pipe, host, port, ip, &outside);
}

/* All that was logged since the last time: how many lines begin so. */
static inline unsigned int
logged(struct bench *b, const char *start, char first[640])
{
	const char *line;
	unsigned int n = 0;

	while ((line = bench_log(b)) != NULL) {
		if (strncmp(line, start, strlen(start)) != 0)
			continue;
		if (n++ == 0 && first != NULL)
			strcpy(first, line);
	}
	return n;
}

/* All mappings end, and their ports rest no more. */
static inline void
let_all_end(struct bench *b)
{
	bench_wait(b, UDP_MS + TICK_MS);
	bench_settle(b);
	bench_wait(b, QUARANTINE_MS + TICK_MS);
	bench_settle(b);
}

#endif
