/*
 * fragments_gate.h - what the tests of fragments share: datagrams, their parts, and a
 * function behind the stage that finds ports.
 *
 * The function judges by the destination's port, and whether it is UDP's, so a later
 * fragment that it sends has been given those of its first.
 */
#ifndef FRAGMENTS_GATE_H
#define FRAGMENTS_GATE_H

#include "harness.h"

#include "nf/fragments.h"

/* Sends what is for DNS; rewrites what is for HTTP; has no ports for what is for 22. */
static inline enum nf_verdict
gate_packet(struct nf_run *r)
{
	static const struct endpoint other = { .ip4 = RTE_BE32(0x0a090909),
					       .port = RTE_BE16(7), .version = 4 };

	switch (rte_be_to_cpu_16(nf_flow(r)->dst_port)) {
	case 53:
		return nf_flow(r)->protocol == PROTO_UDP ? NF_SEND : NF_DROP;
	case 80:
		nf_set_src(r, &other);
		return NF_SEND;
	case 22:
		return nf_drop(r, NF_DROP_PORTS);
	default:
		return NF_DROP;
	}
}

static const struct nf gate = { .name = "gate", .packet = gate_packet,
				.needs_ports = true };

#define DATA "0123456789abcdef0123456789abcdef0123456789abcdef"

/* All with 56 bytes behind IP. */
#define WHOLE(source, target)                                                            \
	{ .from = source, .to = target, .protocol = PROTO_UDP, .data = DATA }
static const struct spec dns = WHOLE("10.0.0.1:1000", "192.0.2.9:53");
static const struct spec dns2 = WHOLE("10.0.0.2:1000", "192.0.2.9:53");
static const struct spec ssh = WHOLE("10.0.0.1:1000", "192.0.2.9:22");
static const struct spec http = WHOLE("10.0.0.1:1000", "192.0.2.9:80");
static const struct spec dns6 = WHOLE("[2001:db8::1]:1000", "[2001:db8::9]:53");
static const struct spec ssh6 = WHOLE("[2001:db8::1]:1000", "[2001:db8::9]:22");

/* From 'at' on, in units of 8 bytes, 'n' bytes. */
#define PART(of, at, n, follow)                                                        \
	{ .part_of = &(of), .fragment = (at), .part_bytes = (n), .more = (follow) }
#define FIRST(of)  PART(of, 0, 16, true)
#define MIDDLE(of) PART(of, 2, 16, true)
#define LAST(of)   PART(of, 4, 24, false)

/* One instance, two, and two with several partitions. */
static inline void
run_shapes(const char *section, const struct step *steps, unsigned int n)
{
	static const struct { unsigned int n_pipes, n_partitions; } shapes[] = {
		{ 1, 1 }, { 2, 1 }, { 2, 3 },
	};

	for (unsigned int i = 0; i < RTE_DIM(shapes); i++) {
		struct bench_setup setup = { .nf = &gate, .fragments = section,
					     .n_pipes = shapes[i].n_pipes,
					     .n_partitions = shapes[i].n_partitions };
		struct bench *b = bench_open_as(&setup);

		bench_steps(b, steps, n);
		bench_close(b);
	}
}

#define RUN(section, steps) run_shapes(section, steps, RTE_DIM(steps))

#endif
