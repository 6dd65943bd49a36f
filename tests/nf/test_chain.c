/*
 * test_chain.c - several functions in one instance: what each sees of the packet, what
 * becomes of their verdicts, reads, writes and expired records; hairpins, and zones.
 *
 * The functions here are as small as can be: a gate that lets in what answers, a mover
 * that translates one address, and a watch that reports the ports that it sees.
 */
#include "harness.h"

#include <stdio.h>

#define SERVER "198.51.100.9:53"
#define MOVED "192.0.2.1"

enum {
	MOVED_BY = 1000,			/* Ports are. */
	MOVED_MS = 60 * 1000,
};

static const char gate_name[] = "gate", mover_name[] = "mover";

static int
gate_init(const void *options, void **state)
{
	(void)options;
	*state = (void *)gate_name;
	return 0;
}

static int
mover_init(const void *options, void **state)
{
	(void)options;
	*state = (void *)mover_name;
	return 0;
}

/* --- gate: what comes from outside needs a connection that was opened from inside ---- */

struct pass {
	uint64_t n;				/* Packets from inside. */
};

NF_TABLE(pass, struct flow, struct pass, .owner = "gate.c", .idle_ms = 1000 * 1000)

static bool
says(const struct nf_run *r, const char *what)
{
	const struct packet *p = nf_packet(r);

	return packet_payload_bytes(p) == strlen(what) &&
	       memcmp(p->data + p->payload, what, strlen(what)) == 0;
}

static enum nf_verdict
gate_packet(struct nf_run *r)
{
	const struct pass *pass = pass_read(r, nf_connection(r));
	struct pass next = { 1 };

	assert_ptr_equal(nf_static(r), gate_name);
	if (says(r, "at once"))
		return NF_SEND;
	if (nf_pending(r))
		return NF_WAIT;
	if (says(r, "no"))
		return nf_drop(r, NF_DROP_POLICY);
	if (nf_side(r) == NF_OUTSIDE)
		return pass != NULL ? NF_SEND : nf_drop(r, NF_DROP_STATE);
	if (pass != NULL && says(r, "look"))
		return NF_SEND;
	if (pass != NULL)
		next.n += pass->n;
	pass_write(r, nf_connection(r), &next);
	return NF_SEND;
}

static const struct nf gate_nf = {
	.name = "gate", .init = gate_init, .packet = gate_packet, .passes_non_ip = true,
	.keeps_flow = true,
};

/* --- mover: inside hosts are one address, their ports 1000 higher ------------------- */

struct owner {
	struct endpoint inside;
	uint32_t n_ended;
};

struct owner_key {
	uint32_t zone, port;
};

static void owner_expired(struct nf_run *r, const void *key, const void *value);

NF_TABLE(owner, struct owner_key, struct owner, .owner = "mover.c", .idle_ms = MOVED_MS,
	 .expired = owner_expired)

static void
owner_expired(struct nf_run *r, const void *key, const void *value)
{
	struct owner again = *(const struct owner *)value;

	assert_ptr_equal(nf_static(r), mover_name);
	if (again.n_ended++ == 0)
		owner_write(r, key, &again);
}

static struct owner_key
key_of(const struct nf_run *r, rte_be16_t port)
{
	return (struct owner_key){ nf_flow(r)->zone, rte_be_to_cpu_16(port) };
}

static bool
is_moved(rte_be32_t ip)
{
	return ip == RTE_BE32(0xc0000201);
}

static enum nf_verdict
mover_out(struct nf_run *r)
{
	const struct flow *f = nf_flow(r);
	struct endpoint to = { .ip4 = RTE_BE32(0xc0000201), .version = 4 };
	struct owner next = { .n_ended = 0 };

	to.port = rte_cpu_to_be_16(rte_be_to_cpu_16(f->src_port) + MOVED_BY);

	struct owner_key key = key_of(r, to.port);
	const struct owner *owner = owner_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	flow_source(f, &next.inside);
	if (owner == NULL)
		owner_write(r, &key, &next);
	nf_set_src(r, &to);
	return is_moved(f->ip4.dst) ? NF_TURN : NF_SEND;
}

static enum nf_verdict
mover_in(struct nf_run *r)
{
	struct owner_key key = key_of(r, nf_flow(r)->dst_port);
	const struct owner *owner = owner_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	if (owner == NULL || !is_moved(nf_flow(r)->ip4.dst))
		return nf_drop(r, NF_DROP_STATE);
	nf_set_dst(r, &owner->inside);
	return NF_SEND;
}

/* An error to what it quotes: the quoted source is ours. */
static enum nf_verdict
mover_error(struct nf_run *r)
{
	struct flow quoted;

	if (!nf_quoted(r, &quoted))
		return nf_drop(r, NF_DROP_STATE);

	struct owner_key key = { quoted.zone, rte_be_to_cpu_16(quoted.src_port) };
	const struct owner *owner = owner_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	if (owner == NULL)
		return nf_drop(r, NF_DROP_STATE);
	nf_set_dst(r, &owner->inside);
	nf_set_quoted_src(r, &owner->inside);
	return NF_SEND;
}

static enum nf_verdict
mover_packet(struct nf_run *r)
{
	assert_ptr_equal(nf_static(r), mover_name);
	if (nf_packet(r)->flags & PACKET_ICMP_ERROR)
		return mover_error(r);
	return nf_side(r) == NF_INSIDE ? mover_out(r) : mover_in(r);
}

static const struct nf mover_nf = {
	.name = "mover", .init = mover_init, .packet = mover_packet, .passes_non_ip = true,
};

/* --- watch: reports the port of the inside that it sees ----------------------------- */

static enum nf_verdict
watch_packet(struct nf_run *r)
{
	const struct flow *f = nf_flow(r), *c = nf_connection(r);
	struct flow own, quoted;

	flow_canonical(f, &own);
	assert_memory_equal(c, &own, flow_bytes(c));
	if (nf_packet(r)->flags & PACKET_ICMP_ERROR) {
		assert_true(nf_quoted(r, &quoted));
		nf_alert(r, rte_be_to_cpu_16(quoted.src_port));
		return NF_SEND;
	}
	nf_alert(r, rte_be_to_cpu_16(nf_side(r) == NF_INSIDE ? f->src_port : f->dst_port));
	return NF_SEND;
}

static const struct nf watch_nf = { .name = "watch", .packet = watch_packet };

/* --- greedy: reads and writes as many records as it is told ------------------------- */

NF_TABLE(much, uint64_t, struct pass, .owner = "greedy.c")

static enum nf_verdict
greedy_packet(struct nf_run *r)
{
	struct pass one = { 1 };
	uint64_t key, n = rte_be_to_cpu_16(nf_flow(r)->dst_port);

	for (key = 0; key < n % 100; key++)
		much_glance(r, &key);
	if (nf_pending(r))
		return NF_WAIT;
	for (key = 0; key < n / 100; key++)
		much_write(r, &key, &one);
	return NF_SEND;
}

static const struct nf greedy_nf = {
	.name = "greedy", .packet = greedy_packet, .keeps_flow = true,
};

static enum nf_verdict
eraser_packet(struct nf_run *r)
{
	for (uint64_t key = 100; key < 117; key++)
		much_delete(r, &key);
	return nf_drop(r, NF_DROP_POLICY);
}

static const struct nf eraser_nf = { .name = "eraser", .packet = eraser_packet };

/* --- tests -------------------------------------------------------------------------- */

#define OUT .from = "10.0.0.1:1000", .to = SERVER, .protocol = PROTO_UDP
#define BACK .side = NF_OUTSIDE, .from = SERVER, .to = MOVED ":2000", .protocol = PROTO_UDP
#define GONE_OUT MOVED ":2000 > " SERVER
#define GONE_IN SERVER " > 10.0.0.1:1000"

static struct bench *
open_chain(const struct nf *a, const struct nf *b, unsigned int n_pipes)
{
	struct bench_setup setup = { .nf = a, .then = { b }, .n_pipes = n_pipes,
				     .n_partitions = 1 };

	return bench_open_as(&setup);
}

#define N(steps) (sizeof(steps) / sizeof((steps)[0]))

/* [B40] */
static void
test_each_sees_what_those_before_it_made(void **state)
{
	static const struct spec gone = { .from = MOVED ":2000", .to = SERVER,
					  .protocol = PROTO_UDP, .data = "x" };
	static const struct step before[] = {
		{ "before the mover, ports are those inside", { OUT, .data = "x" }, SENT,
		  true, GONE_OUT, .alerts = 1000 },
		{ "what comes back is moved first", { BACK }, SENT, false, GONE_IN,
		  .alerts = 1000 },
		{ "of an error likewise, and what it quotes", { .side = NF_OUTSIDE,
		  .from = "203.0.113.1:1", .to = MOVED ":1", .protocol = PROTO_ICMP,
		  .type = 3, .code = 3, .quote = &gone }, SENT, false,
		  "203.0.113.1:0 > 10.0.0.1:0", .alerts = 1000,
		  .quoted_as = "10.0.0.1:1000 > " SERVER },
	};
	static const struct step behind[] = {
		{ "behind the mover, ports are those outside", { OUT, .data = "x" }, SENT,
		  true, GONE_OUT, .alerts = 2000 },
		{ "what comes back is not moved yet", { BACK }, SENT, false, GONE_IN,
		  .alerts = 2000 },
		{ "nor is what an error quotes", { .side = NF_OUTSIDE,
		  .from = "203.0.113.1:1", .to = MOVED ":1", .protocol = PROTO_ICMP,
		  .type = 3, .code = 3, .quote = &gone }, SENT, false,
		  "203.0.113.1:0 > 10.0.0.1:0", .alerts = 2000,
		  .quoted_as = "10.0.0.1:1000 > " SERVER },
	};

	(void)state;
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = open_chain(&watch_nf, &mover_nf, n_pipes);

		bench_steps(b, before, N(before));
		bench_close(b);
		b = open_chain(&mover_nf, &watch_nf, n_pipes);
		bench_steps(b, behind, N(behind));
		bench_close(b);
	}
}

/* [B29, B35] */
static void
test_the_first_that_objects_decides(void **state)
{
	static const struct step steps[] = {
		{ "the gate says no, and nothing is written", { OUT, .data = "no" },
		  DROPPED(POLICY) },
		{ "from outside, what was never moved", { BACK }, DROPPED(STATE) },
		{ "from inside, both write", { OUT }, SENT, true, GONE_OUT },
		{ "the answer goes through both", { BACK }, SENT, false, GONE_IN },
		{ "from elsewhere it is moved, and the gate objects", { .side = NF_OUTSIDE,
		  .from = "198.51.100.10:53", .to = MOVED ":2000",
		  .protocol = PROTO_UDP }, DROPPED(STATE) },
		{ "ARP passes where both let it", { .arp = true }, SENT },
	};

	(void)state;
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = open_chain(&gate_nf, &mover_nf, n_pipes);

		bench_steps(b, steps, N(steps));
		assert_int_equal(bench_records(b, "pass"), 1);
		assert_int_equal(bench_records(b, "mover.owner"), 1);
		bench_close(b);
	}
}

/* [D2] */
static void
test_reads_of_a_chain_travel_together(void **state)
{
	static const struct spec open = { OUT }, look = { OUT, .data = "look" };
	static const struct spec back = { BACK };
	struct bench *b = open_chain(&gate_nf, &mover_nf, 1);

	(void)state;
	/* Reads of both, and the group of both. */
	assert_int_equal(bench_trips(b, &open), 2);
	assert_int_equal(bench_writes(b), 1);
	/* What the gate does not rewrite, the mover need not wait for. */
	assert_int_equal(bench_trips(b, &look), 1);
	/* What the mover rewrites, the gate has to. */
	assert_int_equal(bench_trips(b, &back), 2);
	bench_close(b);

	b = open_chain(&mover_nf, &gate_nf, 1);
	assert_int_equal(bench_trips(b, &open), 3);
	assert_int_equal(bench_trips(b, &look), 2);
	bench_close(b);
}

/* [D3, D4; U4] */
static void
test_what_a_chain_writes_is_one_group(void **state)
{
	static const struct spec packets[] = { { OUT }, { OUT }, { OUT }, { OUT } };

	(void)state;
	for (unsigned int schedule = 0; schedule < 256; schedule++) {
		struct bench *b = open_chain(&gate_nf, &mover_nf, 2);
		unsigned int n = 0;

		bench_race(b, packets, 4, schedule, 8);
		assert_int_equal(bench_records(b, "pass"), 1);
		assert_int_equal(bench_records(b, "mover.owner"), 1);
		/* Each of them counted, once. */
		assert_int_equal(bench_writes(b), 4);
		for (const struct sent *s; (s = bench_take(b)) != NULL; n++)
			assert_string_equal(sent_endpoints(s), GONE_OUT);
		assert_int_equal(n, 4);
		bench_close(b);
	}
}

/* [B72; D8] */
static void
test_records_expire_by_the_function_they_belong_to(void **state)
{
	struct bench_setup setup = { .nf = &gate_nf, .then = { &mover_nf }, .n_pipes = 2,
				     .n_partitions = 1 };
	static const struct step steps[] = { { "open", { OUT }, SENT, true, GONE_OUT } };
	struct bench *b = bench_open_as(&setup);

	(void)state;
	bench_steps(b, steps, N(steps));
	bench_wait(b, MOVED_MS + 1000);
	bench_settle(b);
	assert_int_equal(bench_stats(b).leases_settled, 1);
	assert_int_equal(bench_records(b, "mover.owner"), 1);
	bench_wait(b, MOVED_MS + 1000);
	bench_settle(b);
	assert_int_equal(bench_stats(b).leases_settled, 2);
	assert_int_equal(bench_records(b, "mover.owner"), 0);
	assert_int_equal(bench_records(b, "pass"), 1);
	bench_close(b);
}

/* [B14] */
static void
test_a_hairpin_arrives_anew_on_the_other_side(void **state)
{
	static const struct step steps[] = {
		{ "one inside is known outside", { OUT }, SENT, true, GONE_OUT },
		{ "another calls it by that name", { .from = "10.0.0.2:3000",
		  .to = MOVED ":2000", .protocol = PROTO_UDP }, BOUNCED, true,
		  MOVED ":4000 > 10.0.0.1:1000" },
		{ "it answers", { .from = "10.0.0.1:1000", .to = MOVED ":4000",
		  .protocol = PROTO_UDP }, BOUNCED, false,
		  MOVED ":2000 > 10.0.0.2:3000" },
	};

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		struct bench_setup setup = { .nf = &mover_nf, .n_pipes = 1 + i % 2,
					     .n_partitions = 1, .ordered = i / 2 };
		struct bench *b = bench_open_as(&setup);

		bench_steps(b, steps, N(steps));
		assert_int_equal(bench_stats(b).turned, 2);
		assert_int_equal(bench_stats(b).received, 3);
		assert_int_equal(bench_stats(b).sent, 3);
		bench_close(b);
	}
}

/* [D7] */
static void
test_a_hairpin_keeps_its_order(void **state)
{
	static const struct spec open = { OUT };
	char number[4];

	(void)state;
	for (unsigned int ordered = 0; ordered < 2; ordered++) {
		struct bench_setup setup = { .nf = &mover_nf, .n_pipes = 1,
					     .n_partitions = 1, .ordered = ordered };
		struct bench *b = bench_open_as(&setup);
		unsigned int n = 0;

		bench_put(b, 0, &open);
		bench_settle(b);
		assert_non_null(bench_take(b));
		for (unsigned int i = 0; i < 200; i++) {
			struct spec turns = { .from = "10.0.0.2:3000", .to = MOVED ":2000",
					      .protocol = PROTO_UDP, .data = number };

			snprintf(number, sizeof(number), "%u", i);
			bench_put(b, 0, &turns);
			if (i % 7 == 0)
				bench_turn(b, 0);
		}
		bench_settle(b);
		for (const struct sent *s; (s = bench_take(b)) != NULL; n++) {
			assert_int_equal(s->side, NF_INSIDE);
			snprintf(number, sizeof(number), "%u", n);
			assert_string_equal(sent_data(s), number);
		}
		assert_int_equal(n, 200);
		bench_close(b);
	}
}

/* [U14] */
static void
test_what_a_chain_may_not_write_together_is_dropped(void **state)
{
	static const struct step steps[] = {
		{ "16 reads and 16 writes", { .from = "10.0.0.1:1", .to = "10.9.9.9:1616",
		  .protocol = PROTO_UDP }, SENT, true },
		{ "17 reads", { .from = "10.0.0.1:1", .to = "10.9.9.9:117",
		  .protocol = PROTO_UDP }, DROPPED(LIMIT) },
		{ "90 reads", { .from = "10.0.0.1:1", .to = "10.9.9.9:190",
		  .protocol = PROTO_UDP }, DROPPED(LIMIT) },
		{ "17 writes", { .from = "10.0.0.1:1", .to = "10.9.9.9:1701",
		  .protocol = PROTO_UDP }, DROPPED(LIMIT) },
		{ "300 writes", { .from = "10.0.0.1:1", .to = "10.9.9.9:30000",
		  .protocol = PROTO_UDP }, DROPPED(LIMIT) },
		{ "few again", { .from = "10.0.0.1:1", .to = "10.9.9.9:101",
		  .protocol = PROTO_UDP }, SENT, true },
	};
	struct bench *b = open_chain(&greedy_nf, &watch_nf, 1);

	(void)state;
	for (unsigned int i = 0; i < N(steps); i++) {
		struct step step = steps[i];

		step.alerts = step.fate == SENT;
		bench_steps(b, &step, 1);
	}
	bench_close(b);
	b = open_chain(&greedy_nf, &eraser_nf, 1);
	bench_steps(b, &(struct step){ "10 writes, and 17 of one that drops",
		    { .from = "10.0.0.1:1", .to = "10.9.9.9:1000",
		    .protocol = PROTO_UDP }, DROPPED(LIMIT) }, 1);
	bench_close(b);
}

/* --- what one drops did not pass those before it --------------------------------- */

#define FIRST .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = SERVER
#define SECOND .side = NF_INSIDE, .from = "10.0.0.2:1000", .to = SERVER

/* [B19, U14] */
static void
test_what_is_dropped_leaves_nothing_of_those_before(void **state)
{
	static const char section[] = "firewall: {rules: []}\n"
				      "nat: {addresses: 203.0.113.1, ports: 2000, "
				      "mapping: endpoint_dependent}\n";
	static const struct step steps[] = {
		{ "the only port", { FIRST, .protocol = PROTO_UDP }, SENT, true,
		  "203.0.113.1:2000 > " SERVER },
		{ "none is left", { SECOND, .protocol = PROTO_UDP }, DROPPED(PORTS), true,
		  .answers = 1 },
	};

	(void)state;
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = bench_open("firewall,nat", section, n_pipes);

		bench_steps(b, steps, N(steps));
		assert_int_equal(bench_records(b, "firewall.connection"), 1);
		assert_int_equal(bench_records(b, "nat.forward"), 1);
		bench_close(b);
	}
}

/* [B40] */
static void
test_connections_of_different_zones_do_not_mix(void **state)
{
	static const struct step vlans[] = {
		{ "opened in 7", { OUT, .vlan = 7 }, SENT, true, GONE_OUT },
		{ "not in 8", { BACK, .vlan = 8 }, DROPPED(STATE) },
		{ "not without", { BACK }, DROPPED(STATE) },
		{ "it is in 7, whatever its priority", { BACK, .vlan = 0xe007 }, SENT, false,
		  GONE_IN },
		{ "opened in 8 as well, by the same words", { OUT, .vlan = 8 }, SENT, true,
		  GONE_OUT },
		{ "the outer tag counts", { BACK, .vlan = 3, .service_vlan = 8 }, SENT,
		  false, GONE_IN },
		{ "and not the inner", { BACK, .vlan = 8, .service_vlan = 3 },
		  DROPPED(STATE) },
	};
	static const struct step number[] = {
		{ "opened", { OUT, .vlan = 7 }, SENT, true, GONE_OUT },
		{ "VLANs do not matter", { BACK, .vlan = 8 }, SENT, false, GONE_IN },
	};

	(void)state;
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench_setup setup = { .nf = &gate_nf, .then = { &mover_nf },
					     .n_pipes = n_pipes, .n_partitions = 1,
					     .zone = PIPE_ZONE_VLAN };
		struct bench *b = bench_open_as(&setup);

		bench_steps(b, vlans, N(vlans));
		assert_int_equal(bench_records(b, "pass"), 2);
		bench_close(b);
		setup.zone = 4;
		b = bench_open_as(&setup);
		bench_steps(b, number, N(number));
		bench_close(b);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_sees_what_those_before_it_made),
		cmocka_unit_test(test_the_first_that_objects_decides),
		cmocka_unit_test(test_reads_of_a_chain_travel_together),
		cmocka_unit_test(test_what_a_chain_writes_is_one_group),
		cmocka_unit_test(test_records_expire_by_the_function_they_belong_to),
		cmocka_unit_test(test_a_hairpin_arrives_anew_on_the_other_side),
		cmocka_unit_test(test_a_hairpin_keeps_its_order),
		cmocka_unit_test(test_what_a_chain_may_not_write_together_is_dropped),
		cmocka_unit_test(test_what_is_dropped_leaves_nothing_of_those_before),
		cmocka_unit_test(test_connections_of_different_zones_do_not_mix),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
