/*
 * test_lb.c - the load balancer, packet by packet.
 */
#include "harness.h"

#include <stdio.h>

static const char section[] = "address: 192.0.2.10:80\n"
			      "backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n";

#define CLIENT(n)                                                                \
	.side = NF_OUTSIDE, .from = "198.51.100.1:" #n, .to = "192.0.2.10:80"
#define BACKEND(b, n)                                                            \
	.side = NF_INSIDE, .from = "10.0.0." #b ":8080", .to = "198.51.100.1:" #n

#define TO(n, b) "198.51.100.1:" #n " > 10.0.0." #b ":8080"
#define BACK(n) "192.0.2.10:80 > 198.51.100.1:" #n

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
		{ "ACK", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1) },
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

static void
test_idle_connections_are_forgotten(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "2 hours later", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1),
		  .after_ms = 7200 * 1000 },
		{ "too late", { CLIENT(1), .flags = "A" }, DROPPED(STATE),
		  .after_ms = 7441 * 1000 },
		{ "SYN", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 2) },
		{ "FIN", { CLIENT(1), .flags = "FA" }, SENT, true, TO(1, 2) },
		{ "too late", { BACKEND(2, 1), .flags = "FA" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
	};

	RUN_STEPS("lb", section, steps);
}

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

static void
test_what_a_section_may_not_say(void **state)
{
	assert_true(bench_refuses("lb", "backends: 10.0.0.1:80"));
	assert_true(bench_refuses("lb", "address: 10.0.0.1:80"));
	assert_true(bench_refuses("lb", "{ address: 10.0.0.1:80, backends: [] }"));
	assert_true(bench_refuses("lb", "{ address: 10.0.0.1, backends: 10.0.0.2:80 }"));
	assert_true(bench_refuses("lb", "address: 10.0.0.1:80\nbackends: '[::1]:80'"));
}

/* Connections that open and close on two instances at once: the counts are exact, so
 * the next ones spread evenly.  [B43, B72, case 51] */
static void
test_two_instances_count_exactly(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		static char from[64][32];
		struct bench *b = bench_open("lb", section, 2);
		struct spec packets[48];
		unsigned int n[4] = { 0 };
		const struct sent *s;

		for (unsigned int i = 0; i < 48; i++) {
			sprintf(from[i], "198.51.100.1:%u", 1 + i % 24);
			packets[i] = (struct spec){ .side = NF_OUTSIDE, .from = from[i],
						    .to = "192.0.2.10:80",
						    .flags = i < 24 ? "S" : "FA" };
		}
		for (unsigned int i = 0; i < 48; i += 4)
			bench_race(b, packets + i, 4, schedule, 8);
		while (bench_take(b) != NULL)
			;
		assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
		for (unsigned int i = 0; i < 24; i += 4)
			bench_race(b, packets + i, 4, schedule, 8);
		while ((s = bench_take(b)) != NULL)
			n[strstr(sent_endpoints(s), "> 10.0.0.")[9] - '0']++;
		for (unsigned int i = 1; i <= 3; i++)
			assert_int_equal(n[i], 8);
		bench_close(b);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_connection_keeps_its_backend),
		cmocka_unit_test(test_the_backend_with_the_fewest_gets_the_next),
		cmocka_unit_test(test_only_the_virtual_address_is_balanced),
		cmocka_unit_test(test_idle_connections_are_forgotten),
		cmocka_unit_test(test_ipv6),
		cmocka_unit_test(test_what_a_section_may_not_say),
		cmocka_unit_test(test_two_instances_count_exactly),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
