/*
 * test_firewall_limits.c - how many connections there may be: counts that are exact over
 * all instances, and are given back once.
 */
#include "harness.h"

#include <stdio.h>

static const char half_open[] = "limits: { half_open: 6 }";
static const char per_source[] = "limits: { half_open_per_source: 6 }";
static const char connections[] = "limits: { connections_per_source: 6 }";

/* A client and the server, with the client's segments from 1000 and the server's from
 * 5000. */
struct client {
	char address[32];
};

static const struct client *
client(unsigned int host, unsigned int port)
{
	static struct client c;

	snprintf(c.address, sizeof(c.address), "10.0.0.%u:%u", host, 1024 + port);
	return &c;
}

/* Returns whether it passed. */
static bool
send_spec(struct bench *b, unsigned int pipe, const struct spec *spec)
{
	unsigned int n = 0;

	bench_put(b, pipe, spec);
	bench_settle(b);
	while (bench_take(b) != NULL)
		n++;
	return n == 1;
}

static bool
from_client(struct bench *b, unsigned int pipe, const struct client *c, const char *flags,
	    uint32_t seq, uint32_t ack)
{
	struct spec spec = { .side = NF_INSIDE, .from = c->address, .to = "192.0.2.1:80",
			     .flags = flags, .seq = seq, .ack = ack };

	return send_spec(b, pipe, &spec);
}

static bool
from_server(struct bench *b, unsigned int pipe, const struct client *c, const char *flags,
	    uint32_t seq, uint32_t ack)
{
	struct spec spec = { .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = c->address,
			     .flags = flags, .seq = seq, .ack = ack };

	return send_spec(b, pipe, &spec);
}

static struct bench *
open_two(const char *section)
{
	struct bench_setup setup = { .nf = nf_find("firewall"), .section = section,
				     .n_pipes = 2, .n_partitions = 1 };

	return bench_open_as(&setup);
}

/* How many SYNs of new connections pass, of 'n' from ports behind 'first'. */
static unsigned int
syns(struct bench *b, unsigned int n_pipes, unsigned int host, unsigned int first,
     unsigned int n)
{
	unsigned int passed = 0;

	for (unsigned int i = 0; i < n; i++)
		passed += from_client(b, i % n_pipes, client(host, first + i), "S", 1000, 0);
	return passed;
}

/* [B33; U25] */
static void
test_half_open_connections_are_counted_over_all_instances(void **state)
{
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = n_pipes == 2 ? open_two(half_open)
					       : bench_open("firewall", half_open, 1);
		uint64_t dropped;

		assert_int_equal(syns(b, n_pipes, 1, 0, 20), 6);
		assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 14);
		/* The same SYNs again are no new ones. */
		assert_int_equal(syns(b, n_pipes, 1, 0, 6), 6);
		/* Others do not suffer a second longer than it takes. */
		assert_false(from_client(b, 0, client(2, 0), "S", 1000, 0));
		assert_true(from_server(b, 0, client(1, 0), "SA", 5000, 1001));
		assert_false(from_client(b, 0, client(2, 0), "S", 1000, 0));
		assert_true(from_client(b, n_pipes - 1, client(1, 0), "A", 1001, 5001));
		assert_true(from_client(b, 0, client(2, 0), "S", 1000, 0));
		/* Refused. */
		assert_true(from_server(b, 0, client(1, 1), "RA", 0, 1001));
		assert_int_equal(syns(b, n_pipes, 2, 1, 5), 1);
		/* Gone silent. */
		bench_wait(b, 121 * 1000);
		bench_settle(b);
		dropped = bench_dropped(b, NF_DROP_LIMIT);
		assert_int_equal(syns(b, n_pipes, 3, 0, 20), 6);
		assert_int_equal(bench_dropped(b, NF_DROP_LIMIT) - dropped, 14);
		/* An open connection costs no more than without limits. */
		assert_true(from_server(b, 0, client(1, 0), "A", 5001, 1001));
		assert_int_equal(bench_records(b, "connection"), 1);
		bench_close(b);
	}
}

/* [B33] */
static void
test_a_share_of_the_limit_is_in_each_partition(void **state)
{
	struct bench_setup setup = { .nf = nf_find("firewall"), .section = half_open,
				     .n_pipes = 2, .n_partitions = 3 };
	struct bench *b = bench_open_as(&setup);
	unsigned int n = syns(b, 2, 1, 0, 100);

	assert_int_equal(n, 6);
	bench_wait(b, 121 * 1000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "counted"), 0);
	assert_int_equal(syns(b, 2, 1, 200, 100), 6);
	bench_close(b);
}

/* [B33, B72] Both instances at once, in every order: never one too many, never one too
 * few. */
static void
test_races_for_the_last_place(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_two("limits: { half_open: 1 }");
		static const struct spec racing[] = {
			{ .side = NF_INSIDE, .from = "10.0.0.1:1", .to = "192.0.2.1:80",
			  .flags = "S" },
			{ .side = NF_INSIDE, .from = "10.0.0.2:1", .to = "192.0.2.1:80",
			  .flags = "S" },
		};
		unsigned int n = 0;

		bench_race(b, racing, 2, schedule, 8);
		while (bench_take(b) != NULL)
			n++;
		assert_int_equal(n, 1);
		assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 1);
		assert_int_equal(bench_records(b, "counted"), 1);
		bench_close(b);
	}
}

/* [B33; U25] */
static void
test_sources_have_a_limit_each(void **state)
{
	struct bench *b = open_two(per_source);

	assert_int_equal(syns(b, 2, 1, 0, 20), 6);
	assert_int_equal(syns(b, 2, 2, 0, 20), 6);
	for (unsigned int i = 0; i < 6; i++)
		assert_true(from_server(b, 0, client(1, i), "RA", 0, 1001));
	assert_int_equal(syns(b, 2, 2, 20, 20), 0);
	assert_int_equal(syns(b, 2, 1, 20, 20), 6);
	bench_wait(b, 121 * 1000);
	bench_settle(b);
	/* What counts nothing is forgotten. */
	bench_wait(b, 61 * 1000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "source"), 0);
	bench_close(b);
}

/* [B33, B35] */
static void
test_in_ipv6_a_source_is_a_64(void **state)
{
	struct bench *b = open_two(per_source);
	char from[64];
	unsigned int n = 0;

	for (unsigned int i = 0; i < 20; i++) {
		struct spec spec = { .side = NF_INSIDE, .from = from,
				     .to = "[2001:db8:1::1]:80", .flags = "S" };

		snprintf(from, sizeof(from), "[2001:db8::%x:0:0:%x]:7", i + 1, i);
		n += send_spec(b, i % 2, &spec);
		snprintf(from, sizeof(from), "[2001:db8::1:%x:0:0:1]:7", i + 1);
		if (i < 3)
			assert_true(send_spec(b, i % 2, &spec));
	}
	assert_int_equal(n, 6);
	bench_close(b);
}

/* [B33] */
static void
test_connections_of_a_source_are_counted_until_they_end(void **state)
{
	struct bench *b = open_two(connections);
	const struct client *c;

	for (unsigned int i = 0; i < 6; i++) {
		assert_true(from_client(b, 0, client(1, i), "S", 1000, 0));
		assert_true(from_server(b, 1, client(1, i), "SA", 5000, 1001));
		assert_true(from_client(b, 0, client(1, i), "A", 1001, 5001));
	}
	assert_int_equal(syns(b, 2, 1, 10, 5), 0);
	assert_int_equal(syns(b, 2, 2, 0, 5), 5);
	/* Closed: its place is free, though its last packets still pass. */
	c = client(1, 0);
	assert_true(from_client(b, 0, c, "FA", 1001, 5001));
	assert_true(from_server(b, 1, c, "FA", 5001, 1002));
	assert_true(from_client(b, 0, c, "A", 1002, 5002));
	assert_true(from_client(b, 1, c, "A", 1002, 5002));
	assert_int_equal(syns(b, 2, 1, 10, 5), 1);
	/* Reset. */
	assert_true(from_server(b, 1, client(1, 1), "R", 5001, 0));
	assert_int_equal(syns(b, 2, 1, 20, 5), 1);
	/* Silent: the half-open ones. */
	bench_wait(b, 121 * 1000);
	bench_settle(b);
	assert_int_equal(syns(b, 2, 1, 30, 5), 2);
	/* All that are open are still there. */
	for (unsigned int i = 2; i < 6; i++)
		assert_true(from_server(b, i % 2, client(1, i), "A", 5001, 1001));
	bench_close(b);
}

/* [B33] */
static void
test_other_protocols_count_as_connections(void **state)
{
	struct bench *b = open_two(connections);
	unsigned int n = 0;

	for (unsigned int i = 0; i < 10; i++) {
		struct spec spec = { .side = NF_INSIDE, .from = client(1, i)->address,
				     .to = "192.0.2.1:53", .protocol = PROTO_UDP };

		n += send_spec(b, i % 2, &spec);
		n += i < 6 && !send_spec(b, i % 2, &spec);
	}
	assert_int_equal(n, 6);
	bench_wait(b, 31 * 1000);
	bench_settle(b);
	assert_int_equal(syns(b, 2, 1, 0, 10), 6);
	bench_close(b);
}

/* [B33, B37] */
static void
test_limits_may_come_and_go(void **state)
{
	static const char *const sections[] = { "rules: []", half_open, connections };

	for (unsigned int from = 0; from < 3; from++) {
		for (unsigned int to = 0; to < 3; to++) {
			struct bench *b = bench_open("firewall", sections[from], 2);
			const struct client *c = client(1, 0);
			struct spec udp = { .side = NF_INSIDE, .from = "10.0.0.1:7",
					    .to = "192.0.2.1:53",
					    .protocol = PROTO_UDP };
			struct spec answer = { .side = NF_OUTSIDE, .to = "10.0.0.1:7",
					       .from = "192.0.2.1:53",
					       .protocol = PROTO_UDP };

			assert_true(from_client(b, 0, c, "S", 1000, 0));
			assert_true(send_spec(b, 1, &udp));
			/* Of two instances one has the new file. */
			bench_reload(b, 1, sections[to]);
			assert_true(send_spec(b, 1, &answer));
			assert_true(from_server(b, 1, c, "SA", 5000, 1001));
			assert_true(from_client(b, 0, c, "A", 1001, 5001));
			assert_true(from_client(b, 1, c, "A", 1001, 5001));
			assert_true(from_server(b, 0, c, "A", 5001, 1001));
			assert_true(from_client(b, 1, c, "FA", 1001, 5001));
			assert_true(from_server(b, 1, c, "FA", 5001, 1002));
			assert_true(from_client(b, 1, c, "A", 1002, 5002));
			assert_true(from_client(b, 0, c, "A", 1002, 5002));
			bench_wait(b, 500 * 1000);
			bench_settle(b);
			assert_int_equal(bench_records(b, "connection"), 0);
			assert_int_equal(bench_records(b, "counted"), 0);
			bench_close(b);
		}
	}
}

/* [B33, B37] New limits put connections elsewhere, and new rules count for them all. */
static void
test_new_rules_and_new_limits_come_together(void **state)
{
	static const char *const limits[] = { "", half_open, connections };

	for (unsigned int from = 0; from < 3; from++) {
		for (unsigned int to = 0; to < 3; to++) {
			struct bench *b = bench_open("firewall", limits[from], 2);
			const struct client *c = client(1, 0);
			struct spec udp = { .side = NF_INSIDE, .from = "10.0.0.1:7",
					    .to = "192.0.2.1:53",
					    .protocol = PROTO_UDP };
			char section[128];

			assert_true(from_client(b, 0, c, "S", 1000, 0));
			assert_true(from_server(b, 1, c, "SA", 5000, 1001));
			assert_true(from_client(b, 0, c, "A", 1001, 5001));
			assert_true(send_spec(b, 1, &udp));
			snprintf(section, sizeof(section),
				 "reload: reevaluate\ndefault: { out: deny }\n%s",
				 limits[to]);
			bench_reload(b, 0, section);
			bench_reload(b, 1, section);
			assert_false(from_server(b, 0, c, "A", 5001, 1001));
			assert_false(send_spec(b, 1, &udp));
			assert_int_equal(bench_dropped(b, NF_DROP_POLICY), 2);
			assert_int_equal(bench_records(b, "connection"), 0);
			assert_int_equal(bench_records(b, "counted"), 0);
			bench_close(b);
		}
	}
}

/* [B33, B39] Nor is anything given back that was never counted. */
static void
test_a_wrong_checksum_counts_nothing(void **state)
{
	struct bench *b = open_two("limits: { half_open: 6, half_open_per_source: 6,\n"
				   "          connections_per_source: 6 }");

	for (unsigned int i = 0; i < 20; i++) {
		struct spec syn = { .side = NF_INSIDE, .from = client(1, i)->address,
				    .to = "192.0.2.1:80", .flags = "S",
				    .bad_checksum = true };

		assert_false(send_spec(b, i % 2, &syn));
	}
	assert_int_equal(bench_dropped(b, NF_DROP_CHECKSUM), 20);
	assert_int_equal(bench_records(b, "source"), 0);
	assert_int_equal(syns(b, 2, 1, 0, 20), 6);
	bench_close(b);
}

/* [B33; U25] A flood of SYNs that the limits stop: those that are open do not notice. */
static void
test_a_flood_leaves_open_connections_alone(void **state)
{
	struct bench *b = open_two("limits: { half_open: 50 }");
	const struct client *c = client(1, 0);
	struct spec data = { .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = c->address,
			     .flags = "A", .seq = 5001, .ack = 1001, .data = "x" };
	char from[32];

	assert_true(from_client(b, 0, c, "S", 1000, 0));
	assert_true(from_server(b, 1, c, "SA", 5000, 1001));
	assert_true(from_client(b, 0, c, "A", 1001, 5001));
	for (unsigned int i = 0; i < 3000; i++) {
		struct spec syn = { .side = NF_INSIDE, .from = from, .flags = "S",
				    .to = "192.0.2.1:80" };

		snprintf(from, sizeof(from), "10.%u.%u.2:%u", i % 200, i / 200, 1024 + i);
		bench_put(b, i % 2, &syn);
		if (i % 100 == 99) {
			bench_settle(b);
			while (bench_take(b) != NULL)
				;
			assert_true(send_spec(b, i / 100 % 2, &data));
		}
	}
	assert_int_equal(bench_records(b, "counted"), 50);
	assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 2950);
	assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_half_open_connections_are_counted_over_all_instances),
		cmocka_unit_test(test_a_share_of_the_limit_is_in_each_partition),
		cmocka_unit_test(test_races_for_the_last_place),
		cmocka_unit_test(test_sources_have_a_limit_each),
		cmocka_unit_test(test_in_ipv6_a_source_is_a_64),
		cmocka_unit_test(test_connections_of_a_source_are_counted_until_they_end),
		cmocka_unit_test(test_other_protocols_count_as_connections),
		cmocka_unit_test(test_limits_may_come_and_go),
		cmocka_unit_test(test_new_rules_and_new_limits_come_together),
		cmocka_unit_test(test_a_wrong_checksum_counts_nothing),
		cmocka_unit_test(test_a_flood_leaves_open_connections_alone),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
