/*
 * test_nat_ports.c - outside addresses and ports of the NAT: who gets which, and what a
 * section may say of them.
 */
#include "nat_hosts.h"

/* [B2] */
static void
test_a_host_has_one_outside_address(void **state)
{
	struct bench *b = open_bench(THREE, 2, 3);
	unsigned int n_hosts[4] = { 0 }, port;
	char first[32], ip[32];

	for (unsigned int host = 1; host <= 60; host++) {
		assert_true(run(b, 0, host, 1000, first, &port));
		n_hosts[atoi(strrchr(first, '.') + 1)]++;
		for (unsigned int i = 1; i < 4; i++) {
			assert_true(run(b, i % 2, host, 1000 + i, ip, &port));
			assert_string_equal(ip, first);
		}
	}
	for (unsigned int i = 1; i <= 3; i++)
		assert_in_range(n_hosts[i], 5, 40);
	bench_close(b);
}

/* [B4, B5] */
static void
test_ports_are_from_1024_up_and_in_no_order(void **state)
{
	struct bench *b = open_bench(ONE, 2, 1);
	unsigned int before = 0, port, n_near = 0, n_up = 0;
	char ip[32];

	for (unsigned int i = 0; i < 200; i++) {
		assert_true(run(b, i % 2, 1, 2000 + i, ip, &port));
		assert_in_range(port, 1024, 65535);
		assert_int_not_equal(port, 2000 + i);
		n_up += port > before;
		n_near += port - before + 8 <= 16;
		before = port;
	}
	assert_in_range(n_up, 60, 140);
	assert_in_range(n_near, 0, 3);
	bench_close(b);
}

/* [B2, B10; case 5; U14] */
static void
test_paired_means_dropped_when_the_address_is_full(void **state)
{
	struct bench *b = open_bench(TWO "ports: 5000-5003\n", 2, 1);

	for (unsigned int i = 0; i < 4; i++)
		assert_true(runs(b, i % 2, 1, 1000 + i));
	assert_false(runs(b, 0, 1, 1004));
	assert_false(runs(b, 1, 1, 1004));
	assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 2);
	/* Those that are there live on. */
	for (unsigned int i = 0; i < 4; i++)
		assert_true(runs(b, i % 2, 1, 1000 + i));
	bench_close(b);
}

/* [B2, B3; U13, U15] Of few addresses and of many; until all are full. */
static void
test_arbitrary_means_another_address_then(void **state)
{
	static const unsigned int n_addresses[] = { 2, 5, 6, 40 };

	for (unsigned int c = 0; c < 4; c++) {
		char section[1024] =
			ANY "pooling: arbitrary\nports: 5000-5002\naddresses:\n";
		unsigned int n = n_addresses[c], port, n_first = 0, last;
		bool used[64][4] = { { false } };
		char ip[32], first[32] = "";
		struct bench *b;

		for (unsigned int i = 1; i <= n; i++)
			sprintf(section + strlen(section), "- 192.0.2.%u\n", i);
		b = open_bench(section, 2, 1);
		for (unsigned int i = 0; i < 3 * n; i++) {
			assert_true(run(b, i % 2, 1, 1000 + i, ip, &port));
			last = (unsigned int)atoi(strrchr(ip, '.') + 1);
			assert_false(used[last][port - 5000]);
			used[last][port - 5000] = true;
			if (i == 0)
				strcpy(first, ip);
			n_first += strcmp(ip, first) == 0;
			/* Its own address comes first. */
			assert_int_equal(n_first, i < 3 ? i + 1 : 3);
		}
		assert_false(runs(b, 0, 1, 1000 + 3 * n));
		assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 1);
		let_all_end(b);
		assert_true(run(b, 0, 1, 1000, ip, &port));
		assert_string_equal(ip, first);
		bench_close(b);
	}
}

/* [B20] */
static void
test_a_port_rests_before_it_is_given_again(void **state)
{
	struct bench *b = open_bench(ONE "ports: 5000-5000\n", 2, 1);

	assert_true(runs(b, 0, 1, 1000));
	bench_wait(b, UDP_MS + TICK_MS);
	bench_settle(b);
	assert_int_equal(bench_records(b, "outside"), 0);
	bench_wait(b, QUARANTINE_MS - 2 * TICK_MS);
	assert_false(runs(b, 1, 1, 1001));
	bench_wait(b, 3 * TICK_MS);
	assert_true(runs(b, 1, 1, 1001));
	bench_close(b);
}

/* [B3, B26] */
static void
test_ports_of_forwards_are_given_to_nobody(void **state)
{
	struct bench *b = open_bench(
		ONE "ports: 5000-5007\nforwards:\n"
		"- {protocol: udp, outside: 192.0.2.1:5001, inside: 10.0.0.9:80}\n"
		"- {protocol: udp, outside: 192.0.2.1:5005, inside: 10.0.0.9:81}\n",
		2, 1);
	unsigned int n = 0, port;
	char ip[32];

	/* A try that meets two of them in a row is in vain. */
	for (unsigned int i = 0; i < 12 && n < 6; i++) {
		if (!run(b, i % 2, 1, 1000 + n, ip, &port))
			continue;
		assert_int_not_equal(port, 5001);
		assert_int_not_equal(port, 5005);
		n++;
	}
	assert_int_equal(n, 6);
	for (unsigned int i = 0; i < 4; i++)
		assert_false(runs(b, 0, 1, 1006));
	/* They are taken for nobody for as long as there is the rule. */
	assert_int_equal(bench_records(b, "reserved"), 2);
	bench_wait(b, 601 * 1000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "reserved"), 2);
	bench_close(b);
}

/* [B5; case 9; U4] */
static void
test_racing_instances_never_share_a_port(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(ONE "ports: 5000-5011\n", 2, 1);
		struct spec packets[12];
		bool used[12] = { false };
		unsigned int n = 0, port;
		char ip[32];

		for (unsigned int i = 0; i < 12; i++)
			packets[i] = packet(1 + i, 1000);
		bench_race(b, packets, 12, schedule, 8);
		for (; take(b, ip, &port); n++) {
			assert_false(used[port - 5000]);
			used[port - 5000] = true;
		}
		/* And each gets one. */
		assert_int_equal(n, 12);
		bench_close(b);
	}
}

static const char *const not_sections[] = {
	"ports: 1024-65535\n",
	"addresses: []\n",
	"addresses: '2001:db8::1'\n",
	"addresses: [192.0.2.1, 192.0.2.1]\n",
	"addresses: 192.0.2.1\nports: 0-100\n",
	"addresses: 192.0.2.1\nblocks: {size: 100}\n",
	"addresses: 192.0.2.1\nblocks: {size: 8}\n",
	"addresses: 192.0.2.1\nblocks: {per_subscriber: 2}\n",
	"addresses: 192.0.2.1\nblocks: {size: 64, per_subscriber: 5}\n",
	"addresses: 192.0.2.1\nlog: blocks\n",
	"addresses: 192.0.2.1\nlimits: {ports: 0}\n",
	"addresses: 192.0.2.1\npooling: any\n",
	"addresses: 0.0.0.0",
	"addresses: 127.0.0.1",
	"addresses: [203.0.113.1, 224.0.0.5]",
	"addresses: 255.255.255.255",
	"addresses: 203.0.113.1/24",
	"addresses: 203.0.112.0/23",
	"addresses: [203.0.113.0/24, 203.0.113.7]",
	"{ addresses: 10.0.0.1, ports: 0-5 }",
	"{ addresses: 10.0.0.1, ports: 1024-1038, blocks: {size: 16} }",
	"{ addresses: 10.0.0.1, ping: never }",
	"{ addresses: 10.0.0.1, ports: 70000 }",
	"{ addresses: 10.0.0.1, udp_idle: never }",
	"{ addresses: 10.0.0.1, mapping: symmetric }",
	"{ addresses: 10.0.0.1, mapping: endpoint_dependent, "
	"filtering: address }",
	"{ addresses: 10.0.0.1, mac: '01:00:5e:00:00:01' }",
	"{ addresses: 10.0.0.1, mac: 'yes' }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.1.1.1, "
	"outside: 10.0.0.1}] }",
	"{ addresses: 10.0.0.1, static: [{inside: '::1', outside: 10.0.0.2}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.1.1.1}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.1.1.1, "
	"outside: 224.0.0.9}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.0.0.1, "
	"outside: 10.0.0.2}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.0.0.3, "
	"outside: 10.0.0.2}, {inside: 10.1.1.1, outside: 10.0.0.3}] }",
	"{ addresses: 10.0.0.1, forwards: [{outside: '10.0.0.1:80', inside: "
	"'10.0.0.1:81'}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.1.1.1, outside: 10.0.0.2}, "
	"{inside: 10.1.1.2, outside: 10.0.0.2}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.1.1.1, outside: 10.0.0.2}, "
	"{inside: 10.1.1.1, outside: 10.0.0.3}] }",
	"{ addresses: 10.0.0.1, forwards: [{outside: '10.0.0.1:80', inside: "
	"'10.1.1.1:0'}] }",
	"{ addresses: 10.0.0.1, forwards: [{outside: '10.0.0.1:80', inside: "
	"'10.1.1.1:1'}, {outside: '10.0.0.1:80', inside: '10.1.1.1:2'}] }",
	"{ addresses: 10.0.0.1, forwards: [{outside: '10.0.0.1:80', "
	"protocol: any, inside: '10.1.1.1:1'}, {outside: '10.0.0.1:81', "
	"protocol: udp, inside: '10.1.1.1:1'}] }",
	"{ addresses: 10.0.0.1, static: [{inside: 10.1.1.1, outside: 10.0.0.2}], "
	"forwards: [{outside: '10.0.0.2:80', inside: '10.1.1.2:80'}] }",
	"{ addresses: 10.0.0.1, mac: auto, static: [{inside: 10.1.1.1, outside: "
	"10.0.0.2}] }",
};

static void
test_what_a_section_may_not_say(void **state)
{
	for (unsigned int i = 0; i < sizeof(not_sections) / sizeof(*not_sections); i++)
		if (!bench_refuses("nat", not_sections[i]))
			fail_msg("accepted: %s", not_sections[i]);
}

static void
test_what_a_section_may_say(void **state)
{
	static const char *const right[] = {
		"addresses: [203.0.112.0/25, 203.0.112.128/25]",
		"{ addresses: 203.0.113.0/30, ports: 1024-1039, blocks: {size: 16} }",
		/* A host that keeps its address. */
		"{ addresses: 10.0.0.1, static: [{inside: 10.0.0.2, "
		"outside: 10.0.0.2}] }",
	};

	for (unsigned int i = 0; i < sizeof(right) / sizeof(*right); i++)
		if (bench_refuses("nat", right[i]))
			fail_msg("refused: %s", right[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_host_has_one_outside_address),
		cmocka_unit_test(test_ports_are_from_1024_up_and_in_no_order),
		cmocka_unit_test(test_paired_means_dropped_when_the_address_is_full),
		cmocka_unit_test(test_arbitrary_means_another_address_then),
		cmocka_unit_test(test_a_port_rests_before_it_is_given_again),
		cmocka_unit_test(test_ports_of_forwards_are_given_to_nobody),
		cmocka_unit_test(test_racing_instances_never_share_a_port),
		cmocka_unit_test(test_what_a_section_may_not_say),
		cmocka_unit_test(test_what_a_section_may_say),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
