/*
 * test_nat_rules.c - static addresses and forwarded ports of the NAT, their change while
 * it runs, and its place on the link.
 */
#include "harness.h"

#include <stdio.h>

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000"
#define AS_OUT "203.0.113.1:2000 > 192.0.2.1:80"
#define AS_IN "192.0.2.1:80 > 10.0.0.1:1000"
#define UDP .protocol = PROTO_UDP
#define ICMP .protocol = PROTO_ICMP
#define POOL "addresses: 203.0.113.1\nports: 2000\n"
#define STATIC "static: [{inside: 10.0.0.5, outside: 203.0.113.9}]\n"
#define FORWARD "forwards: [{outside: '203.0.113.1:80', inside: '10.0.0.6:8080'}]\n"
#define CLIENT .side = NF_OUTSIDE, .from = "192.0.2.1:5000"

/* [B26] */
static void
test_a_static_address_is_translated_without_state(void **state)
{
	static const struct spec left = { .from = "203.0.113.9:7", .to = "192.0.2.1:8",
					  UDP };
	static const struct spec came = { .from = "192.0.2.1:8", .to = "10.0.0.5:7",
					  UDP };
	static const struct spec gre = { .from = "203.0.113.9:1", .to = "192.0.2.1:1",
					 .protocol = 47, .data = "12345678" };
	static const struct step steps[] = {
		{ "in", { CLIENT, .to = "203.0.113.9:22", .flags = "S" }, SENT, false,
		  "192.0.2.1:5000 > 10.0.0.5:22" },
		{ "out", { .side = NF_INSIDE, .from = "10.0.0.5:22",
		  .to = "192.0.2.1:5000", .flags = "SA" }, SENT, false,
		  "203.0.113.9:22 > 192.0.2.1:5000" },
		{ "ping", { .side = NF_OUTSIDE, .from = "192.0.2.1:9",
		  .to = "203.0.113.9:9", ICMP, .type = 8 }, SENT, false,
		  "192.0.2.1:9 > 10.0.0.5:9" },
		{ "any protocol", { .side = NF_INSIDE, .from = "10.0.0.5:1",
		  .to = "192.0.2.1:1", .protocol = 47, .data = "data" }, SENT, false,
		  "203.0.113.9:0 > 192.0.2.1:0" },
		{ "an error, in", { .side = NF_OUTSIDE, .from = "192.0.2.1:1",
		  .to = "203.0.113.9:1", ICMP, .type = 3, .quote = &left }, SENT, false,
		  "192.0.2.1:0 > 10.0.0.5:0", .quoted_as = "10.0.0.5:7 > 192.0.2.1:8" },
		{ "about any protocol", { .side = NF_OUTSIDE, .from = "192.0.2.1:1",
		  .to = "203.0.113.9:1", ICMP, .type = 3, .quote = &gre }, SENT, false,
		  "192.0.2.1:0 > 10.0.0.5:0", .quoted_as = "10.0.0.5:0 > 192.0.2.1:0" },
		{ "an error, out", { .side = NF_INSIDE, .from = "10.0.0.5:1",
		  .to = "192.0.2.1:1", ICMP, .type = 3, .quote = &came }, SENT, false,
		  "203.0.113.9:0 > 192.0.2.1:0",
		  .quoted_as = "192.0.2.1:8 > 203.0.113.9:7" },
		{ "others are translated as ever", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:1", .to = "203.0.113.1:1", UDP },
		  DROPPED(STATE) },
	};

	RUN_STEPS("nat", POOL STATIC, steps);
}

/* [B9, B17] */
static void
test_inside_hosts_ping_a_static_address(void **state)
{
	static const struct step steps[] = {
		{ "request", { .side = NF_INSIDE, .from = "10.0.0.1:77",
		  .to = "203.0.113.9:77", ICMP, .type = 8 }, BOUNCED, true,
		  "203.0.113.1:2000 > 10.0.0.5:2000" },
		{ "reply", { .side = NF_INSIDE, .from = "10.0.0.5:2000",
		  .to = "203.0.113.1:2000", ICMP, .type = 0 }, BOUNCED, false,
		  "203.0.113.9:77 > 10.0.0.1:77" },
		{ "TCP", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "203.0.113.9:80", .flags = "S" }, BOUNCED, true,
		  "203.0.113.1:2000 > 10.0.0.5:80" },
		{ "its answer", { .side = NF_INSIDE, .from = "10.0.0.5:80",
		  .to = "203.0.113.1:2000", .flags = "SA" }, BOUNCED, true,
		  "203.0.113.9:80 > 10.0.0.1:1000" },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL STATIC, steps);
}

/* [case 7; B26] */
static void
test_a_forwarded_port_leads_to_its_server(void **state)
{
	static const struct spec left = { .from = "203.0.113.1:80",
					  .to = "192.0.2.1:5000", .flags = "SA" };
	static const struct spec came = { .from = "192.0.2.1:5000",
					  .to = "10.0.0.6:8080", .flags = "S" };
	static const struct step steps[] = {
		{ "SYN", { CLIENT, .to = "203.0.113.1:80", .flags = "S" }, SENT, false,
		  "192.0.2.1:5000 > 10.0.0.6:8080" },
		{ "SYN/ACK", { .side = NF_INSIDE, .from = "10.0.0.6:8080",
		  .to = "192.0.2.1:5000", .flags = "SA" }, SENT, false,
		  "203.0.113.1:80 > 192.0.2.1:5000" },
		{ "data", { CLIENT, .to = "203.0.113.1:80", .flags = "A", .data = "x" },
		  SENT, false, "192.0.2.1:5000 > 10.0.0.6:8080" },
		{ "not UDP", { CLIENT, .to = "203.0.113.1:80", UDP }, DROPPED(STATE) },
		{ "not another port", { CLIENT, .to = "203.0.113.1:81", .flags = "S" },
		  DROPPED(STATE) },
		{ "too big", { .side = NF_OUTSIDE, .from = "198.51.100.7:1",
		  .to = "203.0.113.1:1", ICMP, .type = 3, .code = 4, .quote = &left },
		  SENT, false, "198.51.100.7:0 > 10.0.0.6:0",
		  .quoted_as = "10.0.0.6:8080 > 192.0.2.1:5000" },
		{ "an error of the server", { .side = NF_INSIDE, .from = "10.0.0.6:1",
		  .to = "192.0.2.1:1", ICMP, .type = 3, .code = 3, .quote = &came },
		  SENT, false, "203.0.113.1:0 > 192.0.2.1:0",
		  .quoted_as = "192.0.2.1:5000 > 203.0.113.1:80" },
	};
	static const struct step hairpin[] = {
		{ "from inside", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "203.0.113.1:80", .flags = "S" }, BOUNCED, true,
		  "203.0.113.1:2000 > 10.0.0.6:8080" },
		{ "and back", { .side = NF_INSIDE, .from = "10.0.0.6:8080",
		  .to = "203.0.113.1:2000", .flags = "SA" }, BOUNCED, true,
		  "203.0.113.1:80 > 10.0.0.1:1000" },
	};

	RUN_STEPS("nat", POOL FORWARD, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL FORWARD, hairpin);
}

/* [B26] */
static void
test_a_forwarded_port_is_nobody_elses(void **state)
{
	static const struct step steps[] = {
		{ "TCP finds the only port reserved", { OUT, .flags = "S" },
		  DROPPED(PORTS), true, .answers = 1 },
		{ "UDP does not", { OUT, UDP }, SENT, true, AS_OUT },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL "forwards: [{outside: '203.0.113.1:2000', "
				   "inside: '10.0.0.6:22'}]", steps);
}

/* [B26] */
static void
test_rules_come_and_go_without_a_trace_in_other_flows(void **state)
{
	static const struct step before[] = {
		{ "a flow", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "its answer", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "the rule is not there", { CLIENT, .to = "203.0.113.1:80",
		  .flags = "S" }, DROPPED(STATE) },
	};
	static const struct step with[] = {
		{ "the rule is there", { CLIENT, .to = "203.0.113.1:80", .flags = "S" },
		  SENT, false, "192.0.2.1:5000 > 10.0.0.6:8080" },
		{ "the flow", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "goes on", { IN, .flags = "A" }, SENT, false, AS_IN },
		{ "even if its own port is forwarded by now", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:81", .to = "203.0.113.1:2000", .flags = "S" },
		  SENT, false, "192.0.2.1:81 > 10.0.0.7:22" },
	};
	static const struct step after[] = {
		{ "the rule has gone", { CLIENT, .to = "203.0.113.1:80", .flags = "A" },
		  DROPPED(STATE) },
		{ "the flow", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "goes on", { IN, .flags = "A" }, SENT, false, AS_IN },
	};

	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = bench_open("nat", POOL, n_pipes);

		bench_steps(b, before, 3);
		for (unsigned int i = 0; i < n_pipes; i++)
			bench_reload(b, i, POOL
				     "forwards: [{outside: '203.0.113.1:80', inside: "
				     "'10.0.0.6:8080'}, {outside: '203.0.113.1:2000', "
				     "inside: '10.0.0.7:22'}]");
		bench_steps(b, with, 4);
		for (unsigned int i = 0; i < n_pipes; i++)
			bench_reload(b, i, POOL);
		bench_steps(b, after, 3);
		bench_close(b);
	}
}

/* --- the link ------------------------------------------------------------------ */

#define ROUTER "02:00:00:00:00:99"
#define HOST "02:00:00:00:00:11"
#define SERVER "02:00:00:00:00:66"
#define VIRTUAL "02:53:cb:00:71:01"		/* "S", 203.0.113.1. */

/* Who has 203.0.113.x? */
static const struct spec *
who_has(enum nf_side side, uint8_t last)
{
	static uint8_t frame[42] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x99, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0x99, 203, 0, 113, 254,
		0, 0, 0, 0, 0, 0, 203, 0, 113, 0,
	};
	static struct spec spec;

	frame[41] = last;
	spec = (struct spec){ .side = side, .raw = frame, .raw_bytes = sizeof(frame) };
	return &spec;
}

static const struct sent *
through(struct bench *b, unsigned int pipe, const struct spec *packet)
{
	bench_put(b, pipe, packet);
	bench_settle(b);
	return bench_take(b);
}

/* [B49; U7] */
static void
test_any_instance_answers_for_the_outside_addresses(void **state)
{
	static const char section[] =
		POOL "mac: auto\n"
		     "static: [{inside: 10.0.0.5, outside: 203.0.113.9, "
		     "mac: '02:00:00:00:00:66'}]\n";
	struct bench *b = bench_open("nat", section, 2);

	for (unsigned int i = 0; i < 4; i++) {
		enum nf_side side = i < 2 ? NF_OUTSIDE : NF_INSIDE;
		uint8_t ours = i % 2 == 0 ? 1 : 9;
		const struct sent *s = through(b, i % 2, who_has(side, ours));

		assert_non_null(s);
		assert_int_equal(s->side, side);
		assert_string_equal(sent_macs(s), VIRTUAL " > " ROUTER);
		assert_int_equal(s->frame[21], 2);	/* A reply... */
		assert_int_equal(s->frame[31], ours);	/* ...from the one asked for. */
		assert_null(bench_take(b));

		/* Somebody else's passes. */
		s = through(b, i % 2, who_has(side, 77));
		assert_non_null(s);
		assert_int_equal(s->side, !side);
		assert_null(bench_take(b));
	}
	bench_close(b);

	b = bench_open("nat", POOL, 1);
	assert_int_equal(through(b, 0, who_has(NF_OUTSIDE, 1))->side, NF_INSIDE);
	bench_close(b);
}

/* [U7] */
static void
test_packets_to_the_virtual_mac_find_their_host(void **state)
{
	static const char section[] =
		POOL "mac: auto\nfiltering: endpoint_independent\n"
		     "forwards: [{outside: '203.0.113.1:80', inside: '10.0.0.6:8080', "
		     "mac: '02:00:00:00:00:66'}]\n";
	static const struct spec out = { OUT, UDP, .mac_from = HOST, .mac_to = ROUTER };
	static const struct spec in = { IN, UDP, .mac_from = ROUTER, .mac_to = VIRTUAL };
	static const struct spec stranger = { .side = NF_OUTSIDE, .from = "192.0.2.2:1",
					      .to = "203.0.113.1:2000", UDP,
					      .mac_from = ROUTER, .mac_to = VIRTUAL };
	static const struct spec routed = { IN, UDP, .mac_from = ROUTER,
					    .mac_to = "02:00:00:00:00:12" };
	static const struct spec moved = { OUT, UDP, .mac_from = "02:00:00:00:00:13",
					   .mac_to = ROUTER };
	static const struct spec client = { CLIENT, .to = "203.0.113.1:80", .flags = "S",
					    .mac_from = ROUTER, .mac_to = VIRTUAL };
	static const struct spec left = { .from = "203.0.113.1:2000",
					  .to = "192.0.2.1:80", UDP };
	static const struct spec error = { .side = NF_OUTSIDE, .from = "192.0.2.1:1",
					   .to = "203.0.113.1:1", ICMP, .type = 3,
					   .quote = &left, .mac_from = ROUTER,
					   .mac_to = VIRTUAL };
	static const struct {
		const char *name;
		const struct spec *packet;
		const char *macs;
	} steps[] = {
		{ "out it goes from it", &out, VIRTUAL " > " ROUTER },
		{ "answers go to the host", &in, ROUTER " > " HOST },
		{ "so does what the mapping lets in", &stranger, ROUTER " > " HOST },
		{ "and errors", &error, ROUTER " > " HOST },
		{ "what is routed stays so", &routed, ROUTER " > 02:00:00:00:00:12" },
		{ "the host's router is another one", &moved, VIRTUAL " > " ROUTER },
		{ "and is remembered", &in, ROUTER " > 02:00:00:00:00:13" },
		{ "a rule has its own", &client, ROUTER " > " SERVER },
	};

	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = bench_open("nat", section, n_pipes);

		for (unsigned int i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
			const struct sent *s = through(b, i % n_pipes, steps[i].packet);

			if (s == NULL || strcmp(sent_macs(s), steps[i].macs) != 0)
				fail_msg("%s: got %s", steps[i].name,
					 s != NULL ? sent_macs(s) : "nothing");
			assert_null(bench_take(b));
		}
		bench_close(b);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_static_address_is_translated_without_state),
		cmocka_unit_test(test_inside_hosts_ping_a_static_address),
		cmocka_unit_test(test_a_forwarded_port_leads_to_its_server),
		cmocka_unit_test(test_a_forwarded_port_is_nobody_elses),
		cmocka_unit_test(test_rules_come_and_go_without_a_trace_in_other_flows),
		cmocka_unit_test(test_any_instance_answers_for_the_outside_addresses),
		cmocka_unit_test(test_packets_to_the_virtual_mac_find_their_host),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
