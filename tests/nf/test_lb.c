/*
 * test_lb.c - the load balancer, packet by packet.
 */
#define _GNU_SOURCE
#include "lb_case.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static const char section[] = "address: 192.0.2.10:80\n"
			      "backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n";

/* [B42] */
static void
test_a_connection_keeps_its_backend(void **state)
{
	static const struct step steps[] = {
		{ "the first goes to the first", { CLIENT(1), .flags = "S" }, SENT, true,
		  TO(1, 1) },
		{ "again", { CLIENT(1), .flags = "S" }, SENT, false, TO(1, 1) },
		{ "the next to the next", { CLIENT(2), .flags = "S" }, SENT, true,
		  TO(2, 2) },
		{ "SYN/ACK", { BACKEND(1, 1), .flags = "SA" }, SENT, false, BACK(1) },
		{ "the ACK that opens it", { CLIENT(1), .flags = "A" }, SENT, true,
		  TO(1, 1) },
		{ "data", { CLIENT(1), .flags = "PA", .data = "GET" }, SENT, false,
		  TO(1, 1) },
		{ "data", { BACKEND(1, 1), .flags = "PA", .data = "x" }, SENT, false,
		  BACK(1) },
		{ "what was never opened", { CLIENT(9), .flags = "A" }, DROPPED(STATE) },
		{ "from a backend that does not have it", { BACKEND(1, 9), .flags = "A" },
		  DROPPED(STATE) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B42] */
static void
test_a_syn_begins_anew_where_the_old_connection_is_over(void **state)
{
	static const struct step steps[] = {
		{ "another one is open", { CLIENT(9), .flags = "S", .seq = 1 }, SENT,
		  true, TO(9, 1) },
		{ "SYN", { CLIENT(1), .flags = "S", .seq = 1000 }, SENT, true, TO(1, 2) },
		{ "repeated", { CLIENT(1), .flags = "S", .seq = 1000 }, SENT, false,
		  TO(1, 2) },
		{ "another try before it opened is another connection",
		  { CLIENT(1), .flags = "S", .seq = 2000 }, SENT, true, TO(1, 3) },
		{ "it opens", { CLIENT(1), .flags = "A", .seq = 2001 }, SENT, true,
		  TO(1, 3) },
		{ "a late repetition", { CLIENT(1), .flags = "S", .seq = 2000 }, SENT,
		  false, TO(1, 3) },
		{ "a SYN into the open connection goes to where that is",
		  { CLIENT(1), .flags = "S", .seq = 9000 }, SENT, false, TO(1, 3) },
		{ "the backend asks whether it is meant (RFC 5961)",
		  { BACKEND(3, 1), .flags = "A" }, SENT, false, BACK(1) },
		{ "the client has lost its memory",
		  { CLIENT(1), .flags = "R", .seq = 9001 }, SENT, true, TO(1, 3) },
		{ "its SYN, repeated, begins anew",
		  { CLIENT(1), .flags = "S", .seq = 9000 }, SENT, true, TO(1, 2) },
		{ "what is late of the old one goes with it",
		  { CLIENT(1), .flags = "A", .seq = 2001 }, SENT, true, TO(1, 2) },
		{ "the old backend is no longer its", { BACKEND(3, 1), .flags = "A" },
		  DROPPED(STATE) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B43] */
static void
test_the_backend_with_the_fewest_gets_the_next(void **state)
{
	static const struct step steps[] = {
		{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "2", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 2) },
		{ "3", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 3) },
		{ "4", { CLIENT(4), .flags = "S" }, SENT, true, TO(4, 1) },
		{ "the second closes", { CLIENT(2), .flags = "FA" }, SENT, true, TO(2,
		  2) },
		{ "and again", { CLIENT(2), .flags = "FA" }, SENT, false, TO(2, 2) },
		{ "its other end closes", { BACKEND(2, 2), .flags = "FA" }, SENT, false,
		  BACK(2) },
		{ "its last ACK", { CLIENT(2), .flags = "A" }, SENT, false, TO(2, 2) },
		{ "it has the fewest", { CLIENT(5), .flags = "S" }, SENT, true, TO(5,
		  2) },
		{ "the third is reset by its server", { BACKEND(3, 3), .flags = "R" },
		  SENT,
		  true, BACK(3) },
		{ "that has the fewest", { CLIENT(6), .flags = "S" }, SENT, true, TO(6,
		  3) },
		{ "a SYN of a closed one chooses anew", { CLIENT(2), .flags = "S" }, SENT,
		  true, TO(2, 2) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B43] */
static void
test_only_the_virtual_address_is_balanced(void **state)
{
	static const struct step steps[] = {
		{ "another port passes", { .side = NF_OUTSIDE, .from = "198.51.100.1:1",
		  .to = "192.0.2.10:81", .flags = "S" }, SENT },
		{ "from inside it is nobody's", { .side = NF_INSIDE, .from = "10.0.0.9:1",
		  .to = "192.0.2.10:80", .flags = "S" }, SENT },
		{ "a backend's other connections pass", { .side = NF_INSIDE,
		  .from = "10.0.0.1:3000", .to = "198.51.100.1:1", .flags = "S" }, SENT },
		{ "UDP to it has no backend", { CLIENT(1), .protocol = PROTO_UDP },
		  DROPPED(BACKEND) },
		{ "ARP", { .side = NF_OUTSIDE, .arp = true }, SENT },
		{ "a wrong checksum is not counted", { CLIENT(1), .flags = "S",
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "the next is the first", { CLIENT(1), .flags = "S" }, SENT, true,
		  TO(1, 1) },
		{ "nor does it close", { CLIENT(1), .flags = "R", .bad_checksum = true },
		  DROPPED(CHECKSUM) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B53; U21, U25] */
static void
test_silent_connections_end(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "nothing but a SYN lives for seconds", { CLIENT(1), .flags = "A" },
		  DROPPED(STATE), .after_ms = 11000 },
		{ "it is off the count", { CLIENT(1), .flags = "S" }, SENT, true,
		  TO(1, 1) },
		{ "it opens", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
		{ "2 hours later", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1),
		  .after_ms = 7200 * 1000 },
		{ "too late, and the client gets to know",
		  { CLIENT(1), .flags = "A", .ack = 7 }, DROPPED(STATE),
		  .after_ms = 7441 * 1000, .answers = 1 },
		{ "so does the backend", { BACKEND(1, 1), .flags = "A", .ack = 7 },
		  DROPPED(STATE), .answers = 1 },
		{ "it is off the count", { CLIENT(1), .flags = "S" }, SENT, true,
		  TO(1, 1) },
		{ "FIN", { CLIENT(1), .flags = "FA" }, SENT, true, TO(1, 1) },
		{ "too late", { BACKEND(1, 1), .flags = "FA" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
		{ "once", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 1) },
		{ "and the next", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 2) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B53; U21] */
static void
test_each_service_has_its_times(void **state)
{
	static const char two[] =
		"services:\n"
		"  - {address: '192.0.2.10:80', backends: '10.0.0.1:8080', idle: 60s,\n"
		"     opening: 2s, closed: 5s}\n"
		"  - {address: '192.0.2.11:53', backends: '10.0.0.1:53', protocol: udp,\n"
		"     idle: 20s}\n";
	static const struct spec query = { .side = NF_OUTSIDE,
					   .from = "198.51.100.1:5",
					   .to = "192.0.2.11:53",
					   .protocol = PROTO_UDP, .data = "?" };
	static const struct step steps[] = {
		{ "SYN", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "no ACK", { CLIENT(1), .flags = "A" }, DROPPED(STATE),
		  .after_ms = 3000 },
		{ "SYN", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "ACK", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
		{ "within", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1),
		  .after_ms = 59000 },
		{ "RST", { CLIENT(1), .flags = "R" }, SENT, true, TO(1, 1) },
		{ "closed for long", { CLIENT(1), .flags = "A" }, DROPPED(STATE),
		  .after_ms = 6000 },
		{ "UDP", query, SENT, true, "198.51.100.1:5 > 10.0.0.1:53" },
		{ "within", query, SENT, false, "198.51.100.1:5 > 10.0.0.1:53",
		  .after_ms = 19000 },
		{ "it is a new one", query, SENT, true, "198.51.100.1:5 > 10.0.0.1:53",
		  .after_ms = 21000 },
	};

	RUN_STEPS("lb", two, steps);
}

/* [B47; U4] */
static void
test_ipv6(void **state)
{
	static const char section6[] = "address: '[2001:db8::10]:80'\n"
				       "backends: '[2001:db8:1::1]:8080'\n";
	static const struct step steps[] = {
		{ "SYN", { .side = NF_OUTSIDE, .from = "[2001:db8:2::1]:1",
		  .to = "[2001:db8::10]:80", .flags = "S" }, SENT, true,
		  "[2001:db8:2::1]:1 > [2001:db8:1::1]:8080" },
		{ "SYN/ACK", { .side = NF_INSIDE, .from = "[2001:db8:1::1]:8080",
		  .to = "[2001:db8:2::1]:1", .flags = "SA" }, SENT, false,
		  "[2001:db8::10]:80 > [2001:db8:2::1]:1" },
	};

	RUN_STEPS("lb", section6, steps);
}

#define SECTION(text) "{ address: '192.0.2.10:80', backends: '10.0.0.1:80', " text " }"
#define SERVICE(n, b) "{address: '192.0.2." #n ":80', backends: '10.0.0." #b ":80'}"

/* [B41, B47, B51] */
static void
test_what_a_section_may_not_say(void **state)
{
	static const char *const refused[] = {
		"",
		"backends: 10.0.0.1:80",
		"address: 10.0.0.1:80",
		"{ address: 10.0.0.1:80, backends: [] }",
		"{ address: 10.0.0.1, backends: 10.0.0.2:80 }",
		"address: 10.0.0.1:80\nbackends: '[::1]:80'",
		"{ address: '10.0.0.1:80', backends: ['10.0.0.2:1', '10.0.0.2:1'] }",
		"{ address: '10.0.0.1:80', backends: [{weight: 2}] }",
		"{ address: '10.0.0.1:80', backends: [{address: '10.0.0.2:1', "
		"weight: 101}] }",
		SECTION("mode: nat"), SECTION("sources: 10.1.1.1"),
		SECTION("mode: nat, sources: '2001:db8::1'"),
		SECTION("mode: dsr_mac"), SECTION("mode: dsr_ipip"),
		SECTION("mode: dsr_gue, tunnel_source: '2001:db8::1'"),
		SECTION("hash: datagram"), SECTION("backend_down: move"),
		SECTION("backend_down: forget"),
		SECTION("protocol: udp, hash: datagram, persistence: 5s"),
		SECTION("services: [" SERVICE(11, 1) "]"),
		"services: [" SERVICE(10, 1) ", " SERVICE(10, 2) "]",
		"services: [" SERVICE(1, 1) ", " SERVICE(2, 1) ", " SERVICE(3, 1) ", "
		SERVICE(4, 1) ", " SERVICE(5, 1) "]",
		"{ address: '192.0.2.10:80', mode: dsr_ipip, tunnel_source: 10.9.9.9, "
		"backends: '10.0.0.1:8080' }",
		SECTION("mode: dsr_ipip, tunnel_source: [10.9.9.9, 10.9.9.8]"),
		SECTION("mode: dsr_ipip, tunnel_source: 224.0.0.1"),
		SECTION("mode: nat, sources: 0.0.0.0"),
		SECTION("mac: '01:00:5e:00:00:01'"),
		"{ address: '0.0.0.0:80', backends: '10.0.0.1:80' }",
		"{ address: '239.0.0.1:80', backends: '10.0.0.1:80' }",
		"{ address: '[ff02::1]:80', backends: '[fd00::1]:80' }",
		"{ address: '[2001:db8::1]:80', backends: '[::1]:80' }",
		"{ address: '10.0.0.1:80', backends: '127.0.0.1:80' }",
		SECTION("check: {type: tcp, timeout: 3s}"),
		SECTION("check: {type: tcp, interval: 1s, timeout: 2s}"),
	};

	for (unsigned int i = 0; i < N_STEPS(refused); i++)
		if (!bench_refuses("lb", refused[i]))
			fail_msg("accepted: %s", refused[i]);
	assert_false(bench_refuses("lb", SECTION("mode: dsr_ipip, tunnel_source: "
						 "[10.9.9.9, '2001:db8::9'], "
						 "persistence: 5s")));
	assert_false(bench_refuses("lb", SECTION("protocol: udp, hash: datagram")));
}

/* Reads "lb: ..." and returns what is said of it; lives until the next call. */
static const char *
complaint(const char *text)
{
	static const struct config_field sections[] = { { "lb", CONFIG_MAP }, { 0 } };
	static char said[300];
	const struct nf *lb = nf_find("lb");
	void *options = calloc(1, lb->options_bytes), *state = NULL;
	struct config *config = NULL;
	int to = memfd_create("stderr", MFD_CLOEXEC), before = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(config_load_text("f", text, strlen(text), sections, NULL,
					  &config), 0);
	assert_int_equal(config_section(config, "lb", lb->options, options), 0);
	dup2(to, STDERR_FILENO);
	assert_int_equal(lb->init(options, &state), -EINVAL);
	dup2(before, STDERR_FILENO);
	n = pread(to, said, sizeof(said) - 1, 0);
	assert_true(n > 0);
	said[n] = '\0';
	close(before);
	close(to);
	config_free(config);
	free(options);
	return said;
}

static void
test_what_is_wrong_has_its_line_and_key(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{ "# An\nlb:\n  scheduler: maglev\n  backends: 10.0.0.1:80\n",
		  "f:2: missing key 'lb.address' (the ADDRESS:PORT that clients "
		  "know)\n" },
		{ "lb:\n  ping: no\n  address: 192.0.2.1:80\n",
		  "f:1: missing key 'lb.backends' (ADDRESS:PORT)\n" },
		{ "lb:\n  services:\n  - " SERVICE(1, 1) "\n"
		  "  - name: x\n    backends: 10.0.0.1:80\n",
		  "f:4: missing key 'lb.services[1].address' (the ADDRESS:PORT that "
		  "clients know)\n" },
		{ "lb:\n  services:\n  - " SERVICE(1, 1) "\n"
		  "  - name: x\n    address: 192.0.2.2:80\n",
		  "f:4: missing key 'lb.services[1].backends' (ADDRESS:PORT)\n" },
		{ "lb:\n  address: 192.0.2.1:80\n  backends: 10.0.0.1:80\n"
		  "  check:\n    type: tcp\n    interval: 1s\n    timeout: 2s\n",
		  "f:7: 'lb.check.timeout' is longer than the interval, want 1000ms or "
		  "less\n" },
	};

	for (unsigned int i = 0; i < N_STEPS(cases); i++)
		assert_string_equal(complaint(cases[i].text), cases[i].want);
}

/* One by one, so that what was counted before shows. */
static void
assert_counts_are_even(struct bench *b)
{
	unsigned int n[10];

	for (unsigned int i = 0; i < 24; i++) {
		struct spec packet = lb_client(i, "S");

		bench_put(b, i % 2, &packet);
		bench_settle(b);
	}
	lb_count_sent(b, n);
	for (unsigned int i = 1; i <= 3; i++)
		assert_int_equal(n[i], 8);
}

/* Connections open and close on two instances at once: the counts are exact, so the next
 * ones spread evenly. */

/* [B43; case 51] */
static void
test_two_instances_count_exactly(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = bench_open("lb", section, 2);
		struct spec packets[48];
		unsigned int n[10];

		for (unsigned int i = 0; i < 48; i++)
			packets[i] = lb_client(i % 24, i < 24 ? "S" : "FA");
		for (unsigned int i = 0; i < 24; i += 4)
			bench_race(b, packets + i, 4, schedule, 8);
		lb_count_sent(b, n);
		for (unsigned int i = 1; i <= 3; i++)
			assert_in_range(n[i], 6, 10);
		for (unsigned int i = 24; i < 48; i += 4)
			bench_race(b, packets + i, 4, schedule, 8);
		assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
		assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 0);
		lb_count_sent(b, n);
		assert_counts_are_even(b);
		bench_close(b);
	}
}

static void
put_host(struct bench *b, unsigned int pipe, unsigned int i, const char *flags)
{
	static const char *const hosts[] = { HOST(1), HOST(2), HOST(3), HOST(4),
					     HOST(5) };
	struct spec packet = { CLIENT(1), .flags = flags };

	packet.from = hosts[i];
	bench_put(b, pipe, &packet);
}

/* An instance does not know yet that the other one has closed a connection, and closes
 * it in vain; another that it closes meanwhile is off the count nevertheless. */

/* [B43] */
static void
test_a_close_in_vain_hides_no_other(void **state)
{
	static const char two[] = "address: 192.0.2.10:80\n"
				  "backends: [10.0.0.1:8080, 10.0.0.2:8080]\n";
	struct bench *b = bench_open("lb", two, 2);
	unsigned int n[10];

	/* 0 and 2 on the first, 1 on the second. */
	for (unsigned int i = 0; i < 3; i++) {
		bench_hold(b, i == 2);
		put_host(b, 1, i, "S");
		for (unsigned int turn = 0; turn < 8; turn++)
			bench_turn(b, 1);
	}
	put_host(b, 0, 2, "R");
	for (unsigned int turn = 0; turn < 8; turn++)
		bench_turn(b, 0);
	put_host(b, 1, 2, "R");
	put_host(b, 1, 0, "R");
	for (unsigned int turn = 0; turn < 8; turn++)
		bench_turn(b, 1);
	bench_hold(b, false);
	bench_settle(b);
	lb_count_sent(b, n);
	/* None and one are left. */
	for (unsigned int i = 3; i < 5; i++) {
		put_host(b, 0, i, "S");
		bench_settle(b);
	}
	lb_count_sent(b, n);
	assert_int_equal(n[1], 2);
	bench_close(b);
}

/* [B43] */
static void
test_a_burst_spreads_evenly(void **state)
{
	struct bench *b = bench_open("lb", section, 1);
	unsigned int n[10];

	for (unsigned int i = 0; i < 60; i++) {
		struct spec packet = lb_client(i, "S");

		bench_put(b, 0, &packet);
	}
	bench_settle(b);
	lb_count_sent(b, n);
	for (unsigned int i = 1; i <= 3; i++)
		assert_int_equal(n[i], 20);
	bench_close(b);
}

/* The client's first packet after a silence races with its expiry: it goes on, or is off
 * the count, and never both. */

/* [B43, B53] */
static void
test_expiry_counts_once(void **state)
{
	uint64_t settled = 0, revived = 0;

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("lb", section, 2);
		struct spec syn[24], again = lb_client(0, "S");
		unsigned int n[10];

		for (unsigned int i = 0; i < 24; i++)
			syn[i] = lb_client(i, "S");
		bench_race(b, syn, 24, 0, 0);
		lb_count_sent(b, n);
		bench_wait(b, 11000);
		bench_put(b, 0, &again);
		bench_race(b, NULL, 0, schedule, 10);
		settled += bench_stats(b).leases_settled == 24;
		revived += bench_stats(b).leases_settled == 23;
		assert_int_equal(bench_records(b, "client"), 1);
		bench_wait(b, 11000);
		bench_settle(b);
		assert_int_equal(bench_records(b, "client"), 0);
		lb_count_sent(b, n);
		assert_counts_are_even(b);
		bench_close(b);
	}
	assert_true(settled > 0 && revived > 0);
}

/* [B43] */
static void
test_partitions_count_on_their_own(void **state)
{
	struct bench_setup setup = { .nf = nf_find("lb"), .section = section,
				     .n_pipes = 2, .n_partitions = 4 };
	struct bench *b = bench_open_as(&setup);
	unsigned int n[10];

	for (unsigned int round = 0; round < 2; round++) {
		for (unsigned int i = 0; i < 60; i++) {
			struct spec packet = lb_client(i, "S");

			bench_put(b, i % 2, &packet);
			bench_settle(b);
		}
		lb_count_sent(b, n);
		/* Each partition may be one off. */
		for (unsigned int i = 1; i <= 3; i++)
			assert_in_range(n[i], 16, 24);
		assert_int_equal(bench_records(b, "pool"), 4);
		bench_wait(b, 11000);
		bench_settle(b);
		assert_int_equal(bench_records(b, "client"), 0);
	}
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_connection_keeps_its_backend),
		cmocka_unit_test(test_a_syn_begins_anew_where_the_old_connection_is_over),
		cmocka_unit_test(test_each_service_has_its_times),
		cmocka_unit_test(test_the_backend_with_the_fewest_gets_the_next),
		cmocka_unit_test(test_only_the_virtual_address_is_balanced),
		cmocka_unit_test(test_silent_connections_end),
		cmocka_unit_test(test_ipv6),
		cmocka_unit_test(test_what_a_section_may_not_say),
		cmocka_unit_test(test_what_is_wrong_has_its_line_and_key),
		cmocka_unit_test(test_two_instances_count_exactly),
		cmocka_unit_test(test_a_close_in_vain_hides_no_other),
		cmocka_unit_test(test_a_burst_spreads_evenly),
		cmocka_unit_test(test_expiry_counts_once),
		cmocka_unit_test(test_partitions_count_on_their_own),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
