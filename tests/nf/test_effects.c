/*
 * test_effects.c - what may come of a packet beside its being sent: verdicts, rewrites,
 * packets of the function's own, refusals, fragments that arrive anew, MTUs, and what
 * passes without the store.
 *
 * The function here does as the packet's data says.  It counts all IP packets by connection,
 * so that each of them waits for a read and for a group.
 */
#include "harness.h"

#include <stdio.h>

#include <rte_cycles.h>

#include "net/address.h"

struct tally {
	uint64_t n;
};

NF_TABLE(tally, struct flow, struct tally, .owner = "obey.c")

static const uint8_t mac_a[6] = { 2, 0, 0, 0, 0, 0xa }, mac_b[6] = { 2, 0, 0, 0, 0, 0xb };
static const uint8_t own_frame[60] = { 2, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9, 8, 0x88, 0xb5 };

static bool
says(const struct nf_run *r, const char *what)
{
	const struct packet *p = nf_packet(r);

	return p->payload + strlen(what) <= p->end &&
	       memcmp(p->data + p->payload, what, strlen(what)) == 0;
}

static struct endpoint
endpoint(const char *text)
{
	struct endpoint e;

	assert_int_equal(endpoint_parse(text, &e), 0);
	return e;
}

static void
rewrite(struct nf_run *r)
{
	struct endpoint to = endpoint("192.0.2.1:7"), here = endpoint("203.0.113.1:5"),
			far = endpoint("203.0.113.7:6080");

	if (says(r, "moved"))
		nf_set_src(r, &to);
	if (says(r, "macs"))
		nf_set_ethernet(r, mac_a, mac_b);
	if (says(r, "one mac"))
		nf_set_ethernet(r, NULL, mac_b);
	if (says(r, "shift"))
		nf_shift_tcp(r, 1000, (uint32_t)-5);
	if (says(r, "tunnel"))
		nf_encapsulate(r, TUNNEL_IPIP, &here, &far);
	if (says(r, "gue, moved")) {
		nf_set_dst(r, &to);
		nf_encapsulate(r, TUNNEL_GUE, &here, &far);
	}
}

static enum nf_verdict
verdict(struct nf_run *r)
{
	struct endpoint to;

	for (unsigned int i = 0; i < 2 && says(r, "emit"); i++)
		nf_emit(r, own_frame, sizeof(own_frame));
	if (says(r, "emit"))
		nf_answer(r, own_frame, sizeof(own_frame));
	if (says(r, "refuse"))
		nf_refuse(r, nf_is_tcp(r) ? REFUSE_RST : REFUSE_PROHIBITED);
	if (says(r, "turn") || says(r, "refuse, turn")) {
		flow_destination(nf_flow(r), &to);
		to.port = RTE_BE16(99);
		nf_set_dst(r, &to);
		return nf_flow(r)->dst_port == to.port && !says(r, "turn twice") ? NF_SEND
									       : NF_TURN;
	}
	if (says(r, "emit, drop") || says(r, "refuse, drop"))
		return nf_drop(r, NF_DROP_POLICY);
	if (says(r, "emit, keep"))
		return NF_KEEP;
	return says(r, "bounce") ? NF_BOUNCE : NF_SEND;
}

static enum nf_verdict
obey(struct nf_run *r)
{
	const struct tally *tally = tally_read(r, nf_connection(r));
	struct tally next = { tally != NULL ? tally->n + 1 : 1 };

	/* What an execution asks for that does not count must not happen. */
	if (nf_pending(r) && says(r, "emit"))
		nf_emit(r, own_frame, sizeof(own_frame));
	if (nf_pending(r) && says(r, "refuse"))
		nf_refuse(r, REFUSE_HOST);
	if (nf_pending(r))
		return NF_WAIT;
	if (says(r, "look")) {
		if (tally != NULL)
			nf_established(r);
		return tally != NULL ? NF_SEND : nf_drop(r, NF_DROP_STATE);
	}
	tally_write(r, nf_connection(r), &next);
	rewrite(r);
	return verdict(r);
}

static enum nf_verdict
obey_non_ip(struct nf_run *r)
{
	const uint8_t *data = nf_packet(r)->data;

	if (nf_head_bytes(r) < 15)
		return nf_drop(r, NF_DROP_POLICY);
	if (data[14] == 'a' || data[14] == 'd')
		nf_answer(r, own_frame, sizeof(own_frame));
	if (data[14] == 'a')
		return NF_KEEP;
	if (data[14] == 'b')
		return NF_BOUNCE;
	if (data[14] == 'd')
		return nf_drop(r, NF_DROP_POLICY);
	return nf_side(r) == NF_INSIDE ? NF_SEND : nf_drop(r, NF_DROP_NOT_IP);
}

static const struct nf obey_nf = {
	.name = "obey", .packet = obey, .non_ip = obey_non_ip, .may_pass_unseen = true,
	.needs_ports = true,
};

/* --- a stand-in for the function that finds the ports of fragments ---------------- */

struct found {
	rte_be16_t src_port, dst_port;
	uint32_t n_held;
	uint16_t bytes, zero[3];
	uint8_t frame[256];
};

struct found_key {
	rte_be32_t src, id;
};

NF_TABLE(found, struct found_key, struct found, .owner = "finder.c")

static enum nf_verdict
find(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	struct found_key key = { nf_flow(r)->ip4.src, 0 };
	struct found next = { 0 };

	memcpy(&key.id, p->data + p->l3 + 4, 2);

	const struct found *found = found_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	if (found != NULL)
		next = *found;
	if (p->flags & PACKET_LATER_FRAGMENT) {
		if (next.src_port != 0) {
			nf_set_ports(r, 0, next.src_port, next.dst_port);
			return NF_AGAIN;
		}
		/* There is room for one, which comes back twice. */
		next.bytes = (uint16_t)nf_head_bytes(r);
		assert_true(next.bytes <= sizeof(next.frame));
		memcpy(next.frame, p->data, next.bytes);
		found_write(r, &key, &next);
		return NF_KEEP;
	}
	next.src_port = nf_flow(r)->src_port;
	next.dst_port = nf_flow(r)->dst_port;
	for (unsigned int i = 0; i < 2 && next.bytes > 0; i++)
		nf_inject(r, next.frame, next.bytes, 0, next.src_port,
			  next.dst_port);
	next.bytes = 0;
	found_write(r, &key, &next);
	nf_set_ports(r, 0, next.src_port, next.dst_port);
	return NF_AGAIN;
}

static const struct nf finder_nf = { .name = "finder", .packet = find };

/* --- tests ---------------------------------------------------------------------- */

#define N(steps) (sizeof(steps) / sizeof((steps)[0]))
#define OUT .from = "10.0.0.1:1000", .to = "198.51.100.9:80"
#define IN .side = NF_OUTSIDE, .from = "198.51.100.9:80", .to = "10.0.0.1:1000"
#define UDP .protocol = PROTO_UDP
#define SERVER "198.51.100.9:80"

static struct bench_setup
setup_of(unsigned int shape)
{
	return (struct bench_setup){ .nf = &obey_nf, .n_pipes = 1 + shape % 2,
				     .n_partitions = 1 + shape, .ordered = shape == 2,
				     .finder = &finder_nf };
}

#define SHAPES 3

static void
run_shapes(const struct step *steps, unsigned int n)
{
	for (unsigned int shape = 0; shape < SHAPES; shape++) {
		struct bench_setup setup = setup_of(shape);
		struct bench *b = bench_open_as(&setup);

		bench_steps(b, steps, n);
		bench_close(b);
	}
}

/* [B14, B15] */
static void
test_where_a_packet_leaves(void **state)
{
	static const struct step steps[] = {
		{ "on", { OUT, UDP }, SENT, true },
		{ "back", { OUT, UDP, .data = "bounce" }, BOUNCED, true },
		{ "back to the outside", { IN, UDP, .data = "bounce" }, BOUNCED, true },
		{ "with packets of its own on both sides", { OUT, UDP, .data = "emit" },
		  SENT, true, .emits = 2, .answers = 1 },
		{ "these leave although it is dropped", { IN, UDP, .data = "emit, drop" },
		  DROPPED(POLICY), true, .emits = 2, .answers = 1 },
		{ "and although it is kept", { OUT, UDP, .data = "emit, keep" }, KEPT,
		  true, .emits = 2, .answers = 1 },
		{ "turned", { OUT, UDP, .data = "turn" }, BOUNCED, true,
		  "10.0.0.1:1000 > 198.51.100.9:99" },
		{ "turned from outside", { IN, UDP, .data = "turn" }, BOUNCED, true,
		  "198.51.100.9:80 > 10.0.0.1:99" },
		{ "not more than once", { OUT, UDP, .data = "turn twice" },
		  DROPPED(TURNED), true },
	};

	(void)state;
	run_shapes(steps, N(steps));
}

/* [B13, B48] */
static void
test_how_a_packet_is_rewritten(void **state)
{
	static const struct step steps[] = {
		{ "its source", { OUT, .data = "moved" }, SENT, true,
		  "192.0.2.1:7 > 198.51.100.9:80" },
		{ "by GUE, and within it", { OUT, UDP, .data = "gue, moved" }, SENT, true,
		  "203.0.113.1:5 > 203.0.113.7:6080", .differs = true },
	};
	struct bench_setup setup = setup_of(0);
	struct bench *b = bench_open_as(&setup);
	struct spec macs = { OUT, .data = "macs" }, one = { OUT, .data = "one mac" };
	struct spec shift = { OUT, .data = "shift", .seq = 7, .ack = 3, .flags = "A",
			      .sack = { { 10, 20 } } };
	struct spec tunnel = { OUT, .data = "tunnel", .vlan = 5 };
	const struct spec *packets[] = { &macs, &one, &shift, &tunnel };
	const struct sent *s;

	(void)state;
	run_shapes(steps, N(steps));
	for (unsigned int i = 0; i < 4; i++)
		bench_put(b, 0, packets[i]);
	bench_settle(b);
	assert_string_equal(sent_macs(bench_take(b)),
			    "02:00:00:00:00:0a > 02:00:00:00:00:0b");
	assert_string_equal(sent_macs(bench_take(b)),
			    "02:00:00:00:00:02 > 02:00:00:00:00:0b");
	s = bench_take(b);
	assert_int_equal(packet_tcp_seq(sent_packet(s)), 1007);
	assert_int_equal(packet_tcp_ack(sent_packet(s)), 0xfffffffe);
	s = bench_take(b);
	assert_int_equal(sent_packet(s)->flow.protocol, 4);
	assert_int_equal(sent_packet(s)->l3, 18);
	assert_string_equal(sent_macs(s), "02:00:00:00:00:02 > 02:00:00:00:00:01");
	assert_int_equal(s->bytes, sent_packet(s)->l3 + 20 + 20 + 20 + 6);
	assert_null(bench_take(b));
	bench_close(b);
}

/* [B36] */
static void
test_a_refusal_is_sent_once_and_back(void **state)
{
	static const struct step steps[] = {
		{ "a packet that goes on, too", { OUT, UDP, .data = "refuse" }, SENT, true,
		  .answers = 1 },
		{ "one that is dropped", { IN, UDP, .data = "refuse, drop" },
		  DROPPED(POLICY), true, .answers = 1 },
		{ "a RST is not answered", { OUT, .flags = "R", .data = "refuse, drop" },
		  DROPPED(POLICY), true },
	};
	static const struct spec turns = { OUT, UDP, .data = "refuse, turn" };
	static const struct spec syn = { OUT, .flags = "S", .seq = 5,
					 .data = "refuse, drop" };
	struct bench_setup setup = setup_of(0);
	struct bench *b = bench_open_as(&setup);
	const struct sent *s;

	(void)state;
	run_shapes(steps, N(steps));
	bench_put(b, 0, &syn);
	bench_settle(b);
	s = bench_take_from(b, NF_INSIDE);
	assert_string_equal(sent_flags(s), "RA");
	assert_string_equal(sent_endpoints(s), "198.51.100.9:80 > 10.0.0.1:1000");
	assert_null(bench_take(b));
	/* The second time it is of an address of ours. */
	bench_put(b, 0, &turns);
	bench_settle(b);
	assert_int_equal(sent_packet(bench_take(b))->flow.protocol, PROTO_ICMP);
	assert_int_equal(sent_packet(bench_take(b))->flow.protocol, PROTO_UDP);
	assert_null(bench_take(b));
	assert_int_equal(bench_stats(b).suppressed, 1);
	bench_close(b);
}

/* [B36; U25] */
static void
test_refusals_are_limited(void **state)
{
	static const struct spec packet = { OUT, UDP, .data = "refuse, drop" };
	struct bench_setup setup = setup_of(0);
	unsigned int n = 0;

	(void)state;
	setup.refusals = 3;

	uint64_t start = rte_get_tsc_cycles();
	struct bench *b = bench_open_as(&setup);

	for (unsigned int i = 0; i < 100; i++)
		bench_put(b, 0, &packet);
	bench_settle(b);
	while (bench_take(b) != NULL)
		n++;

	uint64_t seconds = (rte_get_tsc_cycles() - start) / rte_get_tsc_hz();
	assert_true(n >= 3 && n <= 3 + 3 * (seconds + 1));
	assert_int_equal(bench_stats(b).answered, n);
	assert_int_equal(bench_stats(b).suppressed, 100 - n);
	assert_int_equal(bench_dropped(b, NF_DROP_POLICY), 100);
	bench_close(b);
}

/* [B16] */
static void
test_packets_that_are_not_ip(void **state)
{
	static const uint8_t frames[][60] = {
		{ 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 'a' },
		{ 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 'b' },
		{ 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 'd' },
		{ 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 'x' },
	};
#define RAW(i) .raw = frames[i], .raw_bytes = sizeof(frames[i])
	static const struct step steps[] = {
		{ "answered", { RAW(0) }, KEPT, .answers = 1 },
		{ "answered on the other side", { RAW(0), .side = NF_OUTSIDE }, KEPT,
		  .answers = 1 },
		{ "sent back", { RAW(1) }, BOUNCED },
		{ "dropped, with an answer", { RAW(2) }, DROPPED(POLICY), .answers = 1 },
		{ "passed", { RAW(3) }, SENT },
		{ "not passed", { RAW(3), .side = NF_OUTSIDE }, DROPPED(NOT_IP) },
		{ "too short to say", { .raw = frames[3], .raw_bytes = 14 },
		  DROPPED(POLICY) },
	};

	(void)state;
	run_shapes(steps, N(steps));
}

/* [B22, B34; U19] */
static void
test_fragments_arrive_anew_with_their_ports(void **state)
{
	static const struct spec whole = { OUT, UDP, .data_bytes = 100 };
#define FIRST(of) .part_of = &(of), .part_bytes = 64, .more = true
#define LAST(of) .part_of = &(of), .fragment = 8
	static const struct step steps[] = {
		{ "first", { FIRST(whole) }, SENT, true },
		{ "the rest", { LAST(whole) }, SENT, true },
		{ "the rest, before the first", { LAST(whole), .id = 9 }, KEPT, true },
	};
	static const struct spec first = { FIRST(whole), .id = 9 };
	static const struct spec turn = { OUT, UDP, .data = "turn, of which there is more" };
	static const struct spec turn_first = { .part_of = &turn, .part_bytes = 16,
						.more = true, .id = 7 };
	static const struct spec turn_last = { .part_of = &turn, .fragment = 2, .id = 7 };

	(void)state;
	for (unsigned int shape = 0; shape < SHAPES; shape++) {
		struct bench_setup setup = setup_of(shape);
		struct bench *b = bench_open_as(&setup);
		struct pipe_stats n;

		bench_steps(b, steps, N(steps));
		bench_put(b, 0, &first);
		bench_settle(b);
		assert_false(sent_packet(bench_take(b))->flags & PACKET_LATER_FRAGMENT);
		assert_true(sent_packet(bench_take(b))->flags & PACKET_LATER_FRAGMENT);
		assert_true(sent_packet(bench_take(b))->flags & PACKET_LATER_FRAGMENT);
		assert_null(bench_take(b));
		/* All of them are of one connection. */
		assert_int_equal(bench_records(b, "tally"), 1);
		n = bench_stats(b);
		assert_int_equal(n.received, 4);
		assert_int_equal(n.injected, 2);
		assert_int_equal(n.received + n.injected, n.sent + n.kept);
		/* Those that waited are not of the side where the first one has turned to. */
		bench_put(b, 0, &turn_last);
		bench_put(b, 0, &turn_first);
		bench_settle(b);
		assert_non_null(bench_take_from(b, NF_INSIDE));
		assert_non_null(bench_take_from(b, NF_OUTSIDE));
		assert_non_null(bench_take_from(b, NF_OUTSIDE));
		assert_null(bench_take(b));
		bench_close(b);
	}
}

/* [B52; U18] */
static void
test_what_is_longer_than_the_mtu(void **state)
{
	static const struct spec big = { OUT, UDP, .data_bytes = 1000,
					 .dont_fragment = true };
	static const struct spec part = { OUT, UDP, .data_bytes = 1000 };
	static const struct spec fits = { OUT, UDP, .data_bytes = 572,
					  .dont_fragment = true, .vlan = 7 };
	static const struct spec in = { IN, UDP, .data_bytes = 1000,
					.dont_fragment = true };
	struct bench_setup setup = setup_of(0);
	const struct sent *s;

	(void)state;
	setup.mtu[NF_OUTSIDE] = 600;

	struct bench *b = bench_open_as(&setup);

	bench_put(b, 0, &big);
	bench_settle(b);
	s = bench_take_from(b, NF_INSIDE);
	assert_int_equal(sent_packet(s)->flow.protocol, PROTO_ICMP);
	assert_int_equal(sent_packet(s)->icmp_type, 3);
	assert_int_equal(sent_packet(s)->icmp_code, 4);
	assert_string_equal(sent_quoted(s), "10.0.0.1:1000 > 198.51.100.9:80");
	assert_null(bench_take(b));
	bench_put(b, 0, &in);
	bench_put(b, 0, &fits);
	bench_put(b, 0, &part);
	bench_settle(b);
	assert_int_equal(bench_take_from(b, NF_INSIDE)->bytes, 14 + 1028);
	assert_int_equal(bench_take(b)->bytes, 18 + 600);
	assert_true(sent_packet(bench_take(b))->flags & PACKET_FRAGMENT);
	assert_true(sent_packet(bench_take(b))->flags & PACKET_LATER_FRAGMENT);
	assert_null(bench_take(b));
	assert_int_equal(bench_dropped(b, NF_DROP_TOO_BIG), 1);
	bench_close(b);
}

#define DOWN(b) bench_fail(b, 0, -ETIMEDOUT)

static const struct step up[] = {
	{ "open", { OUT, UDP }, SENT, true },
	{ "established", { OUT, UDP, .data = "look" }, SENT },
};

static struct bench *
open_for_loss(enum pipe_loss loss, uint64_t grace_ms)
{
	struct bench_setup setup = { .nf = &obey_nf, .n_pipes = 1, .n_partitions = 1,
				     .loss = loss, .grace_ms = grace_ms };

	return bench_open_as(&setup);
}

/* [B38] */
static void
test_without_the_store_packets_are_dropped(void **state)
{
	static const struct step down[] = {
		{ "established", { OUT, UDP, .data = "look" }, DROPPED(STORE_LOST) },
		{ "new", { .from = "10.0.0.2:1", .to = SERVER, .protocol = PROTO_UDP },
		  DROPPED(STORE_LOST) },
	};
	struct bench *b = open_for_loss(PIPE_LOSS_DROP, 0);

	(void)state;
	bench_steps(b, up, N(up));
	DOWN(b);
	bench_steps(b, down, N(down));
	bench_fail(b, 0, 0);
	bench_steps(b, up + 1, 1);
	assert_int_equal(bench_stats(b).passed_unseen, 0);
	bench_close(b);
}

/* [B38] */
static void
test_without_the_store_all_packets_pass(void **state)
{
	static const struct step down[] = {
		{ "new", { .from = "10.0.0.2:1", .to = SERVER, .protocol = PROTO_UDP },
		  SENT },
		{ "from outside", { .side = NF_OUTSIDE, .from = SERVER,
		  .to = "10.0.0.3:1", .protocol = PROTO_UDP }, SENT },
	};
	struct bench *b = open_for_loss(PIPE_LOSS_PASS, 0);

	(void)state;
	DOWN(b);
	bench_steps(b, down, N(down));
	assert_int_equal(bench_stats(b).passed_unseen, 2);
	bench_fail(b, 0, 0);
	bench_close(b);
}

/* [B38] */
static void
test_without_the_store_what_is_established_passes(void **state)
{
	static const struct step others[] = {
		{ "open, and not established yet", { .from = "10.0.0.2:1", .to = SERVER,
		  .protocol = PROTO_UDP }, SENT, true },
		{ "unknown", { .from = "10.0.0.4:1", .to = SERVER,
		  .protocol = PROTO_UDP, .data = "look" }, DROPPED(STATE) },
	};
	static const struct step down[] = {
		{ "established", { OUT, UDP, .data = "look" }, SENT },
		{ "the other direction", { .side = NF_OUTSIDE, .from = SERVER,
		  .to = "10.0.0.1:1000", .protocol = PROTO_UDP }, SENT },
		{ "not established", { .from = "10.0.0.2:1", .to = SERVER,
		  .protocol = PROTO_UDP }, DROPPED(STORE_LOST) },
		{ "unknown", { .from = "10.0.0.3:1", .to = SERVER,
		  .protocol = PROTO_UDP }, DROPPED(STORE_LOST) },
		{ "refused before", { .from = "10.0.0.4:1", .to = SERVER,
		  .protocol = PROTO_UDP }, DROPPED(STORE_LOST) },
		{ "a write that nobody answers, of what is established", { OUT, UDP }, SENT },
	};
	struct bench *b = open_for_loss(PIPE_LOSS_ESTABLISHED, 0);

	(void)state;
	bench_steps(b, up, N(up));
	bench_steps(b, others, N(others));
	DOWN(b);
	bench_steps(b, down, N(down));
	assert_int_equal(bench_stats(b).passed_unseen, 3);
	bench_fail(b, 0, 0);
	bench_close(b);
}

/* [B38] */
static void
test_what_was_established_passes_for_a_while(void **state)
{
	static const struct spec look = { OUT, UDP, .data = "look" };
	struct bench *b = open_for_loss(PIPE_LOSS_ESTABLISHED, 20);
	uint64_t end = rte_get_tsc_cycles() + 10 * rte_get_tsc_hz();

	(void)state;
	bench_steps(b, up, N(up));
	DOWN(b);
	while (bench_dropped(b, NF_DROP_STORE_LOST) == 0) {
		assert_true(rte_get_tsc_cycles() < end);
		bench_put(b, 0, &look);
		bench_settle(b);
		while (bench_take(b) != NULL)
			;
	}
	bench_fail(b, 0, 0);
	bench_close(b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_where_a_packet_leaves),
		cmocka_unit_test(test_how_a_packet_is_rewritten),
		cmocka_unit_test(test_a_refusal_is_sent_once_and_back),
		cmocka_unit_test(test_refusals_are_limited),
		cmocka_unit_test(test_packets_that_are_not_ip),
		cmocka_unit_test(test_fragments_arrive_anew_with_their_ports),
		cmocka_unit_test(test_what_is_longer_than_the_mtu),
		cmocka_unit_test(test_without_the_store_packets_are_dropped),
		cmocka_unit_test(test_without_the_store_all_packets_pass),
		cmocka_unit_test(test_without_the_store_what_is_established_passes),
		cmocka_unit_test(test_what_was_established_passes_for_a_while),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
