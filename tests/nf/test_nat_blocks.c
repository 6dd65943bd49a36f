/*
 * test_nat_blocks.c - what a subscriber of the NAT has: blocks of ports, how much of all,
 * and what is logged of it.
 */
#include "nat_hosts.h"

/* --- blocks ----------------------------------------------------------------------- */

#define BLOCKS TWO "ports: 4096-4223\nblocks: {size: 16, per_subscriber: 2}\n"

/* The block that a line says. */
static void
read_block(const char *line, char ip[32], unsigned int *first, unsigned int *size)
{
	assert_int_equal(sscanf(line, "%*s block %*s > %31[^:]:%u, size %u", ip, first,
				size), 3);
}

/* [B21; U20] */
static void
test_a_host_has_its_ports_from_blocks(void **state)
{
	for (unsigned int n_partitions = 1; n_partitions <= 3; n_partitions += 2) {
		struct bench *b = open_bench(BLOCKS, 2, n_partitions);
		char line[640], ip[32], its_ip[32];
		unsigned int first, size, port;

		for (unsigned int i = 0; i < 32; i++) {
			assert_true(run(b, i % 2, 1, 1000 + i, ip, &port));
			if (i % 16 == 0) {
				assert_int_equal(logged(b, "block_allocated", line), 1);
				read_block(line, its_ip, &first, &size);
				assert_int_equal(size, 16);
			}
			assert_int_equal(logged(b, "block_", NULL), 0);
			assert_string_equal(ip, its_ip);
			assert_int_equal((port - first) % n_partitions, 0);
			assert_in_range((port - first) / n_partitions, 0, 15);
		}
		assert_false(runs(b, 0, 1, 1032));
		assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 1);
		assert_int_equal(bench_records(b, "block"), 2);
		bench_close(b);
	}
}

/* [B21] */
static void
test_protocols_share_a_block(void **state)
{
	struct bench *b = open_bench(BLOCKS, 2, 1);
	struct spec ping = packet(1, 1000), syn = packet(1, 1000);

	ping.to = "198.51.100.7:1000";
	ping.protocol = PROTO_ICMP;
	ping.type = 8;
	syn.protocol = PROTO_TCP;
	syn.flags = "S";
	assert_true(runs(b, 0, 1, 1000));
	bench_put(b, 1, &ping);
	bench_put(b, 0, &syn);
	bench_settle(b);
	assert_int_equal(logged(b, "block_allocated", NULL), 1);
	assert_int_equal(bench_records(b, "block"), 1);
	/* It is there until the last of them has ended. */
	bench_wait(b, UDP_MS + TICK_MS);
	bench_settle(b);
	assert_int_equal(logged(b, "block_released", NULL), 0);
	bench_wait(b, 240 * 1000 + TICK_MS);
	bench_settle(b);
	assert_int_equal(logged(b, "block_released", NULL), 1);
	assert_int_equal(bench_records(b, "block"), 0);
	assert_int_equal(bench_records(b, "blocks"), 0);
	bench_close(b);
}

/* [B2, B20, B21] */
static void
test_a_block_is_another_hosts_when_it_has_rested(void **state)
{
	struct bench *b = open_bench(ONE "ports: 4096-4111\nblocks: {size: 16}\n", 2, 1);

	assert_true(runs(b, 0, 1, 1000));
	assert_false(runs(b, 1, 2, 1000));
	bench_wait(b, UDP_MS + TICK_MS);
	bench_settle(b);
	assert_int_equal(bench_records(b, "block"), 0);
	bench_wait(b, QUARANTINE_MS - 2 * TICK_MS);
	assert_false(runs(b, 1, 2, 1000));
	bench_wait(b, 3 * TICK_MS);
	assert_true(runs(b, 1, 2, 1000));
	assert_false(runs(b, 0, 1, 1000));
	bench_close(b);
}

/* [B2] A host that has none may get them of any address, and then stays there. */
static void
test_the_first_block_is_of_any_address(void **state)
{
	struct bench *b = open_bench(THREE "ports: 4096-4127\nblocks: {size: 16}\n", 2,
				     1);
	char first[32], ip[32];
	unsigned int port;

	for (unsigned int host = 1; host <= 6; host++)
		assert_true(run(b, host % 2, host, 1000, first, &port));
	assert_false(runs(b, 0, 7, 1000));
	for (unsigned int i = 1; i < 16; i++) {
		assert_true(run(b, i % 2, 6, 1000 + i, ip, &port));
		assert_string_equal(ip, first);
	}
	assert_false(runs(b, 0, 6, 1016));
	bench_close(b);
}

/* [B3, B21] Where the mapping depends on the remote endpoint, a port serves several. */
static void
test_a_port_of_a_block_serves_several_remote_endpoints(void **state)
{
	struct bench *b = open_bench("udp_idle: 120s\naddresses: 192.0.2.1\n"
				     "mapping: endpoint_dependent\nports: 4096-4111\n"
				     "blocks: {size: 16}\n", 2, 1);
	unsigned int n_uses[16] = { 0 }, n_shared = 0, port;
	char ip[32], to[32];

	for (unsigned int i = 0; i < 40; i++) {
		struct spec p = packet(1, 1000);

		sprintf(to, "198.51.100.%u:53", i + 1);
		p.to = to;
		bench_put(b, i % 2, &p);
		bench_settle(b);
		assert_true(take(b, ip, &port));
		n_shared += n_uses[port - 4096]++ > 0;
	}
	assert_in_range(n_shared, 40 - 16, 40);
	assert_int_equal(logged(b, "block_allocated", NULL), 1);
	let_all_end(b);
	assert_int_equal(logged(b, "block_released", NULL), 1);
	assert_int_equal(bench_records(b, "block"), 0);
	bench_close(b);
}

/* All that there is, in a chain: a run has room for it. */
static void
test_all_options_go_together(void **state)
{
	struct bench_setup setup = {
		.names = "firewall,nat", .n_pipes = 2, .n_partitions = 1,
		.section = "firewall:\n"
			   "  default: {out: allow, in: deny}\n"
			   "nat:\n"
			   "  udp_idle: 120s\n"
			   "  filtering: address\n"
			   "  addresses: [192.0.2.1, 192.0.2.2, 192.0.2.3]\n"
			   "  ports: 4096-4287\n"
			   "  pooling: arbitrary\n"
			   "  blocks: {size: 16, per_subscriber: 4}\n"
			   "  limits: {ports: 60, sessions: 70, rate: 100}\n"
			   "  forwards:\n"
			   "  - {protocol: any, outside: 192.0.2.1:4100,\n"
			   "     inside: 10.0.9.9:80}\n"
			   "  - {protocol: any, outside: 192.0.2.2:4200,\n"
			   "     inside: 10.0.9.9:81}\n",
	};
	struct bench *b = bench_open_as(&setup);
	unsigned int n = 0;

	for (unsigned int i = 0; i < 70; i++)
		n += runs(b, i % 2, 1, 1000 + i);
	assert_in_range(n, 58, 60);
	assert_int_equal(bench_records(b, "nat.block"), 4);
	let_all_end(b);
	assert_int_equal(bench_records(b, "nat.block"), 0);
	assert_int_equal(bench_records(b, "nat.outside"), 0);
	bench_close(b);
}

/* [B21; U4, U7] Ports of a block end and begin at the same time, at two instances, in
 * any order: it is opened and closed as often, and what is open has ports. */
static void
test_a_block_is_released_exactly_once(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 9; schedule++) {
		struct bench *b = open_bench(BLOCKS, 2, 1 + schedule % 2 * 2);
		unsigned int n_opened = 0, n_closed = 0;

		for (unsigned int i = 0; i < 3; i++)
			assert_true(runs(b, i % 2, 1, 1000 + i));
		bench_wait(b, UDP_MS + TICK_MS);
		for (unsigned int i = 0; i < 9; i++) {
			struct spec p = packet(1, 2000 + i);

			if (i == 2 || i == 4)
				bench_put(b, i / 2 % 2, &p);
			bench_turn(b, schedule >> i & 1);
			assert_in_range(bench_records(b, "block"), 0, 1);
		}
		bench_settle(b);
		assert_int_equal(bench_records(b, "block"), 1);
		let_all_end(b);
		assert_int_equal(bench_records(b, "outside"), 0);
		assert_int_equal(bench_records(b, "block"), 0);
		assert_int_equal(bench_records(b, "blocks"), 0);
		for (const char *line; (line = bench_log(b)) != NULL;) {
			n_opened += strncmp(line, "block_allocated", 15) == 0;
			n_closed += strncmp(line, "block_released", 14) == 0;
		}
		assert_in_range(n_opened, 1, 2);
		assert_int_equal(n_opened, n_closed);
		bench_close(b);
	}
}

/* [B21] Blocks get another size while a host has some: what it had is given back. */
static void
test_blocks_of_another_size_are_others(void **state)
{
	for (unsigned int i = 0; i < 16; i++) {
		struct bench *b = open_bench(ONE "ports: 4096-4127\n"
					     "blocks: {size: 16}\n", 2, 1);
		unsigned int n_opened, n = 0;

		assert_true(runs(b, 0, 1, 1000));
		bench_reload(b, 0, ONE "ports: 4096-4127\nblocks: {size: 32}\n");
		bench_reload(b, 1, ONE "ports: 4096-4127\nblocks: {size: 32}\n");
		for (unsigned int port = 0; port < 17; port++)
			n += runs(b, port % 2, 1, 2000 + port);
		assert_in_range(n, 15, 17);
		n_opened = (unsigned int)bench_records(b, "block");
		let_all_end(b);
		assert_int_equal(logged(b, "block_allocated", NULL), n_opened);
		assert_int_equal(bench_records(b, "block"), 0);
		assert_int_equal(bench_records(b, "blocks"), 0);
		assert_int_equal(bench_records(b, "outside"), 0);
		bench_close(b);
	}
}

/* [B21; U4] */
static void
test_racing_instances_open_one_block(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(BLOCKS, 2, 1);
		struct spec packets[12];
		unsigned int n = 0, port;
		char ip[32];

		for (unsigned int i = 0; i < 12; i++)
			packets[i] = packet(1, 1000 + i);
		bench_race(b, packets, 12, schedule, 8);
		while (take(b, ip, &port))
			n++;
		assert_int_equal(n, 12);
		assert_int_equal(logged(b, "block_allocated", NULL), 1);
		assert_int_equal(bench_records(b, "block"), 1);
		bench_close(b);
	}
}

/* --- limits ----------------------------------------------------------------------- */

/* [B19; U20] Over all instances, in any order, and with partitions. */
static void
test_a_host_has_no_more_ports_than_its_limit(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(
			ONE "limits: {ports: 5}\n", 2,
			1 + schedule % 3);
		struct spec packets[16];
		unsigned int n[2] = { 0 }, port;
		char ip[32];

		for (unsigned int i = 0; i < 16; i++)
			packets[i] = packet(1 + i / 8, 1000 + i);
		bench_race(b, packets, 16, schedule, 8);
		while (take(b, ip, &port))
			n[0]++;
		assert_int_equal(n[0], 10);
		assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 6);
		/* What is there is not evicted, and makes room when it ends. */
		assert_int_equal(bench_records(b, "outside"), 10);
		let_all_end(b);
		for (unsigned int i = 0; i < 6; i++)
			n[1] += runs(b, i % 2, 1, 3000 + i);
		assert_int_equal(n[1], 5);
		bench_close(b);
	}
}

/* [B19] */
static void
test_a_host_has_no_more_sessions_than_its_limit(void **state)
{
	struct bench *b = open_bench(ONE "limits: {sessions: 3}\n", 2, 3);
	static const char *const remotes[] = { "198.51.100.7:1", "198.51.100.7:2",
					       "198.51.100.8:1", "198.51.100.9:1" };

	for (unsigned int i = 0; i < 4; i++) {
		struct spec p = packet(1, 1000);
		unsigned int port;
		char ip[32];

		p.to = remotes[i];
		bench_put(b, i % 2, &p);
		bench_settle(b);
		assert_int_equal(take(b, ip, &port), i < 3);
	}
	assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 1);
	let_all_end(b);
	assert_true(runs(b, 0, 1, 1000));
	bench_close(b);
}

/* [B19] */
static void
test_a_host_gets_no_more_ports_a_second_than_its_rate(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(
			ONE "limits: {rate: 4}\n", 2, 1);
		struct spec packets[12];
		unsigned int n = 0, port;
		char ip[32];

		for (unsigned int i = 0; i < 12; i++)
			packets[i] = packet(1, 1000 + i);
		bench_race(b, packets, 12, schedule, 8);
		while (take(b, ip, &port))
			n++;
		assert_int_equal(n, 4);
		/* Those that are refused do not make the second longer. */
		for (unsigned int i = 0; i < 4; i++) {
			bench_wait(b, 200);
			assert_false(runs(b, i % 2, 1, 2000));
		}
		bench_wait(b, 500);
		for (unsigned int i = 0; i < 4; i++)
			assert_true(runs(b, i % 2, 1, 2000 + i));
		assert_false(runs(b, 0, 1, 2004));
		/* Nor do the packets of mappings that are there count. */
		assert_true(runs(b, 0, 1, 2003));
		bench_close(b);
	}
}

/* [B19] */
static void
test_a_host_that_has_nothing_is_forgotten(void **state)
{
	struct bench *b = open_bench(
		ONE "limits: {ports: 5, sessions: 5, rate: 5}\n", 2, 1);

	assert_true(runs(b, 0, 1, 1000));
	assert_int_equal(bench_records(b, "subscriber"), 1);
	for (unsigned int i = 0; i < 8; i++) {
		bench_wait(b, UDP_MS - TICK_MS);
		bench_settle(b);
		assert_true(runs(b, i % 2, 1, 1000));
		assert_int_equal(bench_records(b, "subscriber"), 1);
	}
	bench_wait(b, UDP_MS + TICK_MS);
	bench_settle(b);
	bench_wait(b, 301 * 1000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "subscriber"), 0);
	assert_int_equal(bench_records(b, "window"), 0);
	bench_close(b);
}

/* --- logs ------------------------------------------------------------------------- */

/* [B19, B21; U4] Both instances get packets of the same new mappings. */
static void
test_each_mapping_is_logged_exactly_once(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(ONE "log: mappings\n", 2, 1);
		char line[640], ip[32], want[128];
		struct spec packets[8];
		unsigned int port;

		for (unsigned int i = 0; i < 8; i++)
			packets[i] = packet(1, 1000 + i / 2);
		bench_race(b, packets, 8, schedule, 8);
		while (take(b, ip, &port))
			;
		assert_int_equal(logged(b, "mapping_created", line), 4);
		assert_null(strstr(line, "198.51.100.7"));
		assert_true(run(b, 0, 1, 1000, ip, &port));
		let_all_end(b);
		sprintf(want, "mapping_deleted, mapping 10.0.0.1:1000 > 192.0.2.1:%u",
			port);
		assert_int_equal(bench_records(b, "outside"), 0);
		assert_int_equal(logged(b, want, NULL), 1);
		bench_close(b);
	}
}

/* [B19] */
static void
test_nothing_is_logged_unless_it_is_asked_for(void **state)
{
	struct bench *b = open_bench(ONE, 2, 1);

	assert_true(runs(b, 0, 1, 1000));
	let_all_end(b);
	assert_null(bench_log(b));
	bench_close(b);
	b = open_bench(BLOCKS "log: off\n", 2, 1);
	assert_true(runs(b, 0, 1, 1000));
	let_all_end(b);
	assert_null(bench_log(b));
	bench_close(b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_host_has_its_ports_from_blocks),
		cmocka_unit_test(test_protocols_share_a_block),
		cmocka_unit_test(test_a_block_is_another_hosts_when_it_has_rested),
		cmocka_unit_test(test_the_first_block_is_of_any_address),
		cmocka_unit_test(test_a_port_of_a_block_serves_several_remote_endpoints),
		cmocka_unit_test(test_all_options_go_together),
		cmocka_unit_test(test_a_block_is_released_exactly_once),
		cmocka_unit_test(test_blocks_of_another_size_are_others),
		cmocka_unit_test(test_racing_instances_open_one_block),
		cmocka_unit_test(test_a_host_has_no_more_ports_than_its_limit),
		cmocka_unit_test(test_a_host_has_no_more_sessions_than_its_limit),
		cmocka_unit_test(test_a_host_gets_no_more_ports_a_second_than_its_rate),
		cmocka_unit_test(test_a_host_that_has_nothing_is_forgotten),
		cmocka_unit_test(test_each_mapping_is_logged_exactly_once),
		cmocka_unit_test(test_nothing_is_logged_unless_it_is_asked_for),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
