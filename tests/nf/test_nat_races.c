/*
 * test_nat_races.c - sessions of the NAT begin and end at two instances at the same
 * moment.  Every schedule of the first turns is tried. */
#include "harness.h"

#include <stdio.h>

#define UDP .protocol = PROTO_UDP
#define ONE_PORT "{ addresses: 203.0.113.1, ports: 2000 }"
#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define AS_OUT "203.0.113.1:2000 > 192.0.2.1:80"

/* Each session has two records, each mapping has two, and nothing else is there. */
static void
check_records(struct bench *b, unsigned int n_sessions, unsigned int n_mappings)
{
	assert_int_equal(bench_records(b, "forward"), n_sessions);
	assert_int_equal(bench_records(b, "reverse"), n_sessions);
	assert_int_equal(bench_records(b, "mapping"), n_mappings);
	assert_int_equal(bench_records(b, "outside"), n_mappings);
}

/* Time passes until nothing can be left, and nothing is: no port, no count. */
static void
check_all_ends(struct bench *b)
{
	static const struct spec last = { OUT, UDP };

	for (unsigned int i = 0; i < 10; i++) {
		bench_wait(b, 301 * 1000);
		bench_settle(b);
	}
	check_records(b, 0, 0);
	assert_int_equal(bench_records(b, "permission"), 0);
	while (bench_take(b) != NULL)
		;
	/* A port can be had again: those with one port show that none was lost. */
	bench_put(b, 0, &last);
	bench_settle(b);
	assert_non_null(bench_take(b));
	check_records(b, 1, 1);
}

/* [B20; U16] A packet from inside races with the end of its session: either that lives
 * on, or it is gone with its mapping and port, which rests. */
static void
test_a_session_lives_on_or_is_gone(void **state)
{
	static const struct spec first = { OUT, UDP };
	uint64_t lived = 0, gone = 0;

	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = bench_open("nat", ONE_PORT, 2);
		const struct sent *s;

		bench_put(b, 0, &first);
		bench_settle(b);
		bench_take(b);
		bench_wait(b, 301 * 1000);
		for (unsigned int i = 0; i < 8; i++) {
			if (i == 4)
				bench_put(b, 1, &first);
			bench_turn(b, schedule >> i & 1);
		}
		bench_settle(b);
		s = bench_take(b);
		if (bench_dropped(b, NF_DROP_PORTS) == 0) {
			assert_string_equal(sent_endpoints(s), AS_OUT);
			lived++;
			check_records(b, 1, 1);
			assert_int_equal(bench_stats(b).leases_settled, 0);
		} else {
			gone++;
			check_records(b, 0, 0);
			assert_int_equal(bench_stats(b).leases_settled, 1);
		}
		check_all_ends(b);
		bench_close(b);
	}
	assert_true(lived > 0 && gone > 0);
}

/* [B1, B20] A mapping's last session ends while another one begins on it: that one
 * gets the mapping, or none is left and there is no port; it never has a translation
 * that is not there. */
static void
test_a_mapping_ends_while_a_session_begins_on_it(void **state)
{
	static const struct spec first = { OUT, UDP };
	static const struct spec second = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
					    .to = "192.0.2.2:53", UDP };
	uint64_t lived = 0, gone = 0;

	for (unsigned int schedule = 0; schedule < 1 << 12; schedule++) {
		struct bench *b = bench_open("nat", ONE_PORT, 2);

		bench_put(b, 0, &first);
		bench_settle(b);
		bench_take(b);
		bench_wait(b, 301 * 1000);
		bench_put(b, 1, &second);
		for (unsigned int i = 0; i < 12; i++)
			bench_turn(b, schedule >> i & 1);
		bench_settle(b);
		/* A lease that came too late is given again. */
		bench_wait(b, 1500);
		bench_settle(b);
		if (bench_dropped(b, NF_DROP_PORTS) == 0) {
			assert_string_equal(sent_endpoints(bench_take(b)),
					    "203.0.113.1:2000 > 192.0.2.2:53");
			check_records(b, 1, 1);
			lived++;
		} else {
			check_records(b, 0, 0);
			gone++;
		}
		check_all_ends(b);
		bench_close(b);
	}
	assert_true(lived > 0 && gone > 0);
}

/* [B8, B20] The same with one that a SYN from outside begins. */
static void
test_a_mapping_ends_while_it_is_called(void **state)
{
	static const struct spec first = { OUT, .flags = "S" };
	static const struct spec call = { .side = NF_OUTSIDE, .from = "192.0.2.1:81",
					  .to = "203.0.113.1:2000", .flags = "S" };
	uint64_t lived = 0, gone = 0;

	for (unsigned int schedule = 0; schedule < 1 << 12; schedule++) {
		struct bench *b = bench_open("nat", ONE_PORT, 2);

		bench_put(b, 0, &first);
		bench_settle(b);
		bench_take(b);
		bench_wait(b, 241 * 1000);
		bench_put(b, 1, &call);
		for (unsigned int i = 0; i < 12; i++)
			bench_turn(b, schedule >> i & 1);
		bench_settle(b);
		bench_wait(b, 1500);
		bench_settle(b);
		if (bench_dropped(b, NF_DROP_STATE) == 0) {
			assert_string_equal(sent_endpoints(bench_take(b)),
					    "192.0.2.1:81 > 10.0.0.1:1000");
			check_records(b, 1, 1);
			lived++;
		} else {
			check_records(b, 0, 0);
			gone++;
		}
		check_all_ends(b);
		bench_close(b);
	}
	assert_true(lived > 0 && gone > 0);
}

/* [B1; U7] Sessions of one endpoint begin at two instances: they have one mapping. */
static void
test_two_instances_give_an_endpoint_one_mapping(void **state)
{
	static const struct spec packets[] = {
		{ OUT, UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.2:53", UDP },
		{ OUT, UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:53", UDP },
	};
	uint64_t conflicts = 0;

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("nat", "addresses: 203.0.113.1", 2);
		unsigned int port = 0, got, n = 0;
		const struct sent *s;

		bench_race(b, packets, 4, schedule, 10);
		while ((s = bench_take(b)) != NULL) {
			assert_int_equal(sscanf(sent_endpoints(s), "203.0.113.1:%u",
						&got), 1);
			assert_true(port == 0 || port == got);
			port = got;
			n++;
		}
		assert_int_equal(n, 4);
		check_records(b, 3, 1);
		assert_int_equal(bench_records(b, "permission"), 1);
		conflicts += bench_conflicts(b);
		check_all_ends(b);
		bench_close(b);
	}
	assert_true(conflicts > 0);
}

/* [B20, B21] The sessions of one mapping end at two instances at the same moment: the
 * last one of them ends the mapping, once. */
static void
test_the_last_session_ends_the_mapping(void **state)
{
	static const struct spec packets[] = {
		{ OUT, UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.2:53", UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.2:54", UDP },
	};

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, "
						    "ports: 2000, log: mappings }", 2);
		unsigned int created = 0, deleted = 0;
		const char *line;

		for (unsigned int i = 0; i < 3; i++) {
			bench_put(b, i % 2, &packets[i]);
			bench_settle(b);
			assert_non_null(bench_take(b));
		}
		bench_wait(b, 301 * 1000);
		for (unsigned int i = 0; i < 10; i++)
			bench_turn(b, schedule >> i & 1);
		for (unsigned int i = 0; i < 4; i++) {
			bench_settle(b);
			bench_wait(b, 1500);
		}
		bench_settle(b);
		check_records(b, 0, 0);
		assert_int_equal(bench_records(b, "permission"), 0);
		assert_int_equal(bench_stats(b).leases_settled, 3);
		while ((line = bench_log(b)) != NULL) {
			created += strstr(line, "mapping_created") != NULL;
			deleted += strstr(line, "mapping_deleted") != NULL;
		}
		assert_int_equal(created, 1);
		assert_int_equal(deleted, 1);
		bench_close(b);
	}
}

/* [U16] Many sessions of one endpoint end together, as those of a host that has gone
 * do: it does not take a lease time for each. */
static void
test_many_sessions_of_a_mapping_end_together(void **state)
{
	struct bench *b = bench_open("nat", ONE_PORT, 2);
	char to[200][32];

	for (unsigned int i = 0; i < 200; i++) {
		struct spec packet = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
				       .to = to[i], UDP };

		sprintf(to[i], "192.0.2.%u:%u", i % 7, 1000 + i);
		bench_put(b, i % 2, &packet);
	}
	bench_settle(b);
	check_records(b, 200, 1);
	assert_int_equal(bench_records(b, "permission"), 6);
	while (bench_take(b) != NULL)
		;
	bench_wait(b, 301 * 1000);
	for (unsigned int i = 0; i < 4; i++) {
		bench_settle(b);
		bench_wait(b, 1100);
	}
	bench_settle(b);
	check_records(b, 0, 0);
	assert_int_equal(bench_records(b, "permission"), 0);
	bench_close(b);
}

/* [B5; U15] Two instances map flows of different hosts at the same moment, in a pool
 * where they must collide: never the same port twice. */
static void
test_two_instances_never_give_a_port_twice(void **state)
{
	uint64_t conflicts = 0;

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, "
						    "ports: 2000-2007 }", 2);
		bool taken[8] = { false };
		static char from[10][32];
		struct spec packets[10];
		const struct sent *s;
		unsigned int port = 0, n = 0;

		for (unsigned int i = 0; i < 10; i++) {
			sprintf(from[i], "10.0.0.%u:1000", i + 1);
			packets[i] = (struct spec){ .side = NF_INSIDE, .from = from[i],
						    .to = "192.0.2.1:53", UDP };
		}
		bench_race(b, packets, 10, schedule, 10);
		while ((s = bench_take(b)) != NULL) {
			if (s->side == NF_INSIDE)
				continue;	/* Is told that there is none. */
			sscanf(sent_endpoints(s), "203.0.113.1:%u", &port);
			assert_in_range(port, 2000, 2007);
			assert_false(taken[port - 2000]);
			taken[port - 2000] = true;
			n++;
		}
		/* As long as there is one, it is found. */
		assert_int_equal(n, 8);
		assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 2);
		check_records(b, 8, 8);
		conflicts += bench_conflicts(b);
		bench_close(b);
	}
	assert_true(conflicts > 0);
}

/* [B20, B21; U16] An instance is so slow that the leases of what it ends run out, and
 * begin anew, while others send on the same mappings: what nobody has any more is gone,
 * and its block is given back once. */
static void
test_a_slow_instance_ends_nothing_by_halves(void **state)
{
	static const struct spec first[] = {
		{ OUT, UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.2:53", UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1001", .to = "192.0.2.1:80", UDP },
	};
	static const struct spec second = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
					    .to = "192.0.2.3:53", UDP };

	for (unsigned int schedule = 0; schedule < 1 << 12; schedule++) {
		struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, "
						    "ports: 2000-2015, "
						    "blocks: { size: 16 } }", 2);

		for (unsigned int i = 0; i < 3; i++) {
			bench_put(b, 0, &first[i]);
			bench_settle(b);
		}
		bench_wait(b, 301 * 1000);
		for (unsigned int i = 0; i < 12; i++) {
			if (i == 3)
				bench_put(b, 1, &second);
			if (i % 4 == 2)
				bench_wait(b, 1100);
			bench_turn(b, schedule >> i & 1);
		}
		check_all_ends(b);
		assert_int_equal(bench_records(b, "blocks"), 1);
		bench_close(b);
	}
}

/* [B14] Both ends call each other at the same moment, at two instances. */
static void
test_both_sides_open_at_once(void **state)
{
	static const struct spec first = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
					   .to = "192.0.2.1:81", .flags = "S" };
	static const struct spec syns[] = {
		{ OUT, .flags = "S" },
		{ .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000",
		  .flags = "S" },
	};

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("nat", ONE_PORT, 2);

		bench_put(b, schedule & 1, &first);
		bench_settle(b);
		assert_non_null(bench_take(b));
		bench_race(b, syns, 2, schedule, 10);
		assert_non_null(bench_take(b));
		assert_non_null(bench_take(b));
		check_records(b, 2, 1);
		bench_wait(b, 7441 * 1000);	/* For it is open. */
		check_all_ends(b);
		bench_close(b);
	}
}

/* [B14; U10] Answers and packets from inside change the state of a connection at two
 * instances. */
static void
test_both_sides_close_at_once(void **state)
{
	static const struct spec syn = { OUT, .flags = "S" };
	static const struct spec syn_ack = { .side = NF_OUTSIDE, .from = "192.0.2.1:80",
					     .to = "203.0.113.1:2000", .flags = "SA" };
	static const struct spec fins[] = {
		{ OUT, .flags = "FA" },
		{ .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000",
		  .flags = "FA" },
	};

	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		for (unsigned int mode = 0; mode < 2; mode++) {
			struct bench *b = bench_open("nat", mode == 0 ? ONE_PORT :
				"{ addresses: 203.0.113.1, ports: 2000, "
				"mapping: endpoint_dependent }", 2);

			bench_put(b, 0, &syn);
			bench_settle(b);
			bench_put(b, 1, &syn_ack);
			bench_settle(b);
			while (bench_take(b) != NULL)
				;
			bench_race(b, fins, 2, schedule, 8);
			assert_non_null(bench_take(b));
			assert_non_null(bench_take(b));
			/* Both are seen: a SYN from inside opens it anew. */
			uint64_t before = bench_writes(b);

			bench_put(b, 0, &syn);
			bench_settle(b);
			assert_non_null(bench_take(b));
			assert_int_equal(bench_writes(b), before + 1);
			check_records(b, 1, mode == 0);
			bench_wait(b, 241 * 1000);
			bench_settle(b);
			check_records(b, 0, 0);
			bench_close(b);
		}
	}
}

/* [B10] Instances have different modes for a while, as during a reload of all: no
 * session is lost, and none has another's translation. */
static void
test_modes_may_differ_between_instances(void **state)
{
	static const struct spec packets[] = {
		{ OUT, UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.2:53", UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.2:1000", .to = "192.0.2.1:80", UDP },
		{ .side = NF_INSIDE, .from = "10.0.0.2:1000", .to = "192.0.2.2:53", UDP },
	};
	struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, "
					    "ports: 2000-2003 }", 2);
	char as[4][64];

	bench_reload(b, 1, "{ addresses: 203.0.113.1, ports: 2000-2003, "
			   "mapping: endpoint_dependent }");
	for (unsigned int i = 0; i < 8; i++) {
		bench_put(b, i < 4 ? i % 2 : (i + 1) % 2, &packets[i % 4]);
		bench_settle(b);

		const struct sent *s = bench_take(b);

		assert_non_null(s);
		if (i < 4)
			strcpy(as[i], sent_endpoints(s));
		else
			assert_string_equal(sent_endpoints(s), as[i - 4]);
	}
	assert_string_not_equal(as[0], as[2]);
	assert_string_not_equal(as[1], as[3]);
	bench_reload(b, 1, "{ addresses: 203.0.113.1, ports: 2000-2003 }");
	check_all_ends(b);
	bench_close(b);
}

/* [B10, B20] The same: a host that is called at its mapping has a session with the
 * caller already, of an instance that knows no mappings.  That keeps its port. */
static void
test_a_call_takes_over_no_session_of_another_mode(void **state)
{
	static const struct spec steps[] = {
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:81",
		  .flags = "S" },
		{ .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80",
		  .flags = "S" },
	};
	struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, "
					    "ports: 2000-2003 }", 2);
	unsigned int port = 0;
	char to[32];

	bench_reload(b, 1, "{ addresses: 203.0.113.1, ports: 2000-2003, "
			   "mapping: endpoint_dependent }");
	for (unsigned int i = 0; i < 2; i++) {
		bench_put(b, i, &steps[i]);
		bench_settle(b);

		const struct sent *s = bench_take(b);

		assert_non_null(s);
		if (i == 0)
			sscanf(sent_endpoints(s), "203.0.113.1:%u", &port);
	}
	sprintf(to, "203.0.113.1:%u", port);

	struct spec call = { .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = to,
			     .flags = "S" };

	bench_put(b, 0, &call);
	bench_settle(b);
	assert_null(bench_take(b));
	assert_int_equal(bench_dropped(b, NF_DROP_STATE), 1);
	assert_int_equal(bench_records(b, "forward"), 2);
	assert_int_equal(bench_records(b, "reverse"), 2);
	bench_reload(b, 1, "{ addresses: 203.0.113.1, ports: 2000-2003 }");
	check_all_ends(b);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_session_lives_on_or_is_gone),
		cmocka_unit_test(test_a_mapping_ends_while_a_session_begins_on_it),
		cmocka_unit_test(test_a_mapping_ends_while_it_is_called),
		cmocka_unit_test(test_two_instances_give_an_endpoint_one_mapping),
		cmocka_unit_test(test_the_last_session_ends_the_mapping),
		cmocka_unit_test(test_many_sessions_of_a_mapping_end_together),
		cmocka_unit_test(test_two_instances_never_give_a_port_twice),
		cmocka_unit_test(test_a_slow_instance_ends_nothing_by_halves),
		cmocka_unit_test(test_both_sides_open_at_once),
		cmocka_unit_test(test_both_sides_close_at_once),
		cmocka_unit_test(test_modes_may_differ_between_instances),
		cmocka_unit_test(test_a_call_takes_over_no_session_of_another_mode),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
