/*
 * test_lb_schedule.c - which backend gets what is new: shares, order, and who returns
 * where.
 */
#include "lb_case.h"

#include "net/address.h"

/* --- Maglev's table ----------------------------------------------------------- */

static uint8_t table_before[LB_MAGLEV], table_after[LB_MAGLEV];

static unsigned int
make_backends(struct lb_backend *backend, unsigned int n)
{
	char text[PACKET_TEXT_BYTES];

	memset(backend, 0, n * sizeof(*backend));
	for (unsigned int i = 0; i < n; i++) {
		sprintf(text, "10.0.%u.%u:8080", i / 200, 1 + i % 200);
		assert_int_equal(endpoint_parse(text, &backend[i].endpoint), 0);
		backend[i].weight = 1;
	}
	return n;
}

/* [B41] */
static void
test_shares_are_within_1_percent_of_weights(void **state)
{
	static const struct { unsigned int n; uint16_t weight[4]; } cases[] = {
		{ 1, { 1 } }, { 3, { 1, 1, 1 } }, { 4, { 1, 2, 3, 4 } },
		{ 10, { 1, 1, 1, 1 } }, { 64, { 1, 1, 1, 1 } }, { 64, { 3, 1, 2, 5 } },
	};
	struct lb_backend backend[LB_MAX_BACKENDS];

	for (unsigned int k = 0; k < N_STEPS(cases); k++) {
		unsigned int n = make_backends(backend, cases[k].n), sum = 0;
		unsigned int got[LB_MAX_BACKENDS] = { 0 };

		for (unsigned int i = 0; i < n; i++) {
			backend[i].weight = cases[k].weight[i % 4];
			sum += backend[i].weight;
		}
		lb_maglev_make(table_before, backend, n);
		for (unsigned int i = 0; i < LB_MAGLEV; i++)
			got[table_before[i]]++;
		for (unsigned int i = 0; i < n; i++) {
			double want = (double)LB_MAGLEV * backend[i].weight / sum;

			if (got[i] < want * 0.99 - 1 || got[i] > want * 1.01 + 1)
				fail_msg("%u of %u has %u, want %.0f", i, n, got[i],
					 want);
		}
	}
}

/* Of the entries that were not the one's that goes. */
static double
moved_without(const struct lb_backend *backend, unsigned int n, unsigned int gone)
{
	struct lb_backend left[LB_MAX_BACKENDS];
	unsigned int n_left = 0, n_moved = 0, number[LB_MAX_BACKENDS];

	for (unsigned int i = 0; i < n; i++) {
		number[n_left] = i;
		if (i != gone)
			left[n_left++] = backend[i];
	}
	lb_maglev_make(table_after, left, n_left);
	for (unsigned int i = 0; i < LB_MAGLEV; i++)
		n_moved += table_before[i] != gone &&
			   table_before[i] != number[table_after[i]];
	return (double)n_moved / LB_MAGLEV;
}

/* [B41] */
static void
test_who_goes_moves_less_than_2_percent_of_others(void **state)
{
	static const unsigned int sizes[] = { 2, 3, 5, 10, 32, 64 };
	struct lb_backend backend[LB_MAX_BACKENDS];

	for (unsigned int k = 0; k < N_STEPS(sizes); k++) {
		unsigned int n = make_backends(backend, sizes[k]);
		double worst = 0;

		lb_maglev_make(table_before, backend, n);
		for (unsigned int gone = 0; gone < n; gone++) {
			double moved = moved_without(backend, n, gone);

			worst = moved > worst ? moved : worst;
		}
		print_message("1 of %u goes: %.2f %% of others move\n", n, 100 * worst);
		assert_true(worst < 0.02);
	}
}

/* [B41; U23] */
static void
test_who_is_down_moves_none_of_the_others(void **state)
{
	struct lb_backend backend[10];
	unsigned int got[10] = { 0 };

	lb_maglev_make(table_before, backend, make_backends(backend, 10));
	for (uint64_t h = 0; h < 100000; h++) {
		uint64_t hash = h * 0x9e3779b97f4a7c15u;
		int before = lb_maglev_at(table_before, hash, 0x3ff);
		int after = lb_maglev_at(table_before, hash, 0x3ff & ~0x10u);

		assert_true(before == after || before == 4);
		assert_int_not_equal(after, 4);
		got[after] += before == 4;
	}
	/* A ninth of a tenth for each. */
	for (unsigned int i = 0; i < 10; i++)
		if (i != 4)
			assert_in_range(got[i], 900, 1350);
	assert_int_equal(lb_maglev_at(table_before, 12345, 1 << 7), 7);
}

/* --- round robin's turns ------------------------------------------------------ */

/* [B43] */
static void
test_turns_are_as_even_as_weights_allow(void **state)
{
	static uint8_t turns[LB_MAX_BACKENDS * LB_MAX_WEIGHT];
	static const uint8_t want[] = { 0, 0, 1, 0, 2, 0, 0 };
	struct lb_backend backend[4];

	make_backends(backend, 4);
	backend[0].weight = 5;
	backend[3].weight = 0;
	assert_int_equal(lb_turns_make(turns, backend, 4), sizeof(want));
	assert_memory_equal(turns, want, sizeof(want));
}

/* [B43] */
static void
test_round_robin(void **state)
{
	static const char section[] =
		"address: 192.0.2.10:80\n"
		"scheduler: round_robin\n"
		"backends: [10.0.0.1:8080, {address: '10.0.0.2:8080', weight: 2},\n"
		"           {address: '10.0.0.3:8080', weight: 0}]\n";
	static const struct step steps[] = {
		{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 2) },
		{ "2", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 1) },
		{ "3", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 2) },
		{ "one ends", { CLIENT(1), .flags = "R" }, SENT, true, TO(1, 2) },
		{ "which does not matter", { CLIENT(4), .flags = "S" }, SENT, true,
		  TO(4, 2) },
		{ "5", { CLIENT(5), .flags = "S" }, SENT, true, TO(5, 1) },
		{ "it repeats itself, and that is no turn", { CLIENT(5), .flags = "S" },
		  SENT, false, TO(5, 1) },
		{ "6", { CLIENT(6), .flags = "S" }, SENT, true, TO(6, 2) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B43, B44] They are not all the next one's. */
static void
test_turns_of_who_is_down_are_shared_by_weight(void **state)
{
	static const struct {
		unsigned int weight[3], down, got[3];
	} cases[] = {
		{ { 1, 1, 1 }, 1 << 1, { 18, 0, 18 } },
		{ { 1, 1, 1 }, 1 << 0, { 0, 18, 18 } },
		{ { 2, 1, 1 }, 1 << 2, { 24, 12, 0 } },
		{ { 1, 3, 2 }, 1 << 1, { 12, 0, 24 } },
		{ { 1, 3, 2 }, 1 << 0 | 1 << 2, { 0, 36, 0 } },
	};

	for (unsigned int i = 0; i < N_STEPS(cases); i++) {
		const unsigned int *weight = cases[i].weight;
		unsigned int n[10] = { 0 };
		char section[256];
		struct bench *b;

		sprintf(section, "address: 192.0.2.10:80\nscheduler: round_robin\nbackends:"
			" [{address: '10.0.0.1:80', weight: %u}, {address: '10.0.0.2:80',"
			" weight: %u}, {address: '10.0.0.3:80', weight: %u}]\n",
			weight[0], weight[1], weight[2]);
		b = lb_bench(section, 2, 1);
		lb_set_down(b, cases[i].down);
		for (unsigned int k = 0; k < 36; k++) {
			struct spec syn = lb_client(k, "S");

			n[lb_try(b, k % 2, &syn)]++;
		}
		for (unsigned int k = 0; k < 3; k++)
			assert_int_equal(n[k + 1], cases[i].got[k]);
		bench_close(b);
	}
}

/* [B43; case 51] */
static void
test_50_connections_reach_all_three(void **state)
{
	static const char *const schedulers[] = {
		"least_connections", "round_robin", "maglev", "source",
	};

	for (unsigned int k = 0; k < N_STEPS(schedulers); k++) {
		unsigned int n[10] = { 0 };
		struct bench *b;
		char section[256];

		sprintf(section, "address: 192.0.2.10:80\nscheduler: %s\nbackends: "
			"[10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n", schedulers[k]);
		b = bench_open("lb", section, 2);
		for (unsigned int i = 0; i < 50; i++) {
			struct spec syn = lb_client(i, "S"), ack = lb_client(i, "A");
			unsigned int to = lb_try(b, i % 2, &syn);

			assert_in_range(to, 1, 3);
			n[to]++;
			for (unsigned int packet = 0; packet < 4; packet++)
				assert_int_equal(lb_try(b, packet % 2, &ack), to);
		}
		for (unsigned int i = 1; i <= 3; i++)
			assert_in_range(n[i], k < 2 ? 16 : 1, k < 2 ? 17 : 40);
		bench_close(b);
	}
}

/* Turns are glanced at: those who look at the same time may see the same. */

/* [B43] */
static void
test_racing_turns_stay_near_their_shares(void **state)
{
	static const char section[] =
		"address: 192.0.2.10:80\nscheduler: round_robin\n"
		"backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n";

	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = bench_open("lb", section, 2);
		struct spec syn[24];
		unsigned int n[10];

		for (unsigned int i = 0; i < 24; i++)
			syn[i] = lb_client(i, "S");
		for (unsigned int i = 0; i < 24; i += 4)
			bench_race(b, syn + i, 4, schedule, 8);
		assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
		lb_count_sent(b, n);
		for (unsigned int i = 1; i <= 3; i++)
			assert_in_range(n[i], 4, 12);
		bench_close(b);
	}
}

/* --- weights ------------------------------------------------------------------ */

/* [B43; case 53] */
static void
test_least_connections_go_by_weight(void **state)
{
	static const char weights[][192] = {
		"address: 192.0.2.10:80\n"
		"backends: [{address: '10.0.0.1:8080', weight: 3},"
		" 10.0.0.2:8080, {address: '10.0.0.3:8080', weight: 2}]\n",
		"address: 192.0.2.10:80\n"
		"backends: [{address: '10.0.0.1:8080', weight: 1},"
		" {address: '10.0.0.2:8080', weight: 5}, 10.0.0.3:8080]\n",
	};
	struct bench *b = bench_open("lb", weights[0], 2);
	unsigned int n[10], went[60];

	for (unsigned int i = 0; i < 60; i++) {
		struct spec syn = lb_client(i, "S");

		went[i] = lb_try(b, i % 2, &syn);
		bench_settle(b);
	}
	memset(n, 0, sizeof(n));
	for (unsigned int i = 0; i < 60; i++)
		n[went[i]]++;
	assert_int_equal(n[1], 30);
	assert_int_equal(n[2], 10);
	assert_int_equal(n[3], 20);
	lb_reload(b, 2, weights[1]);
	/* Those that are there stay; new ones go where the weights say they are
	 * missed. */
	for (unsigned int i = 0; i < 60; i++) {
		struct spec ack = lb_client(i, "A");

		assert_int_equal(lb_try(b, i % 2, &ack), went[i]);
	}
	for (unsigned int i = 60; i < 150; i++) {
		struct spec syn = lb_client(i, "S");

		n[lb_try(b, i % 2, &syn)]++;
	}
	assert_int_equal(n[1], 30);
	assert_in_range(n[2], 99, 101);
	assert_in_range(n[3], 19, 21);
	bench_close(b);
}

/* --- equals ------------------------------------------------------------------- */

#define THREE "address: 192.0.2.10:80\n"                                         \
	      "backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n"

/* Each connection closes before the next one opens: all backends are always equal. */

/* [B43; case 51] */
static void
test_all_take_part_though_there_is_little_to_do(void **state)
{
	static const char *const closings[] = { "R", "FA" };

	for (unsigned int k = 0; k < N_STEPS(closings); k++) {
		struct bench *b = bench_open("lb", THREE, 2);
		unsigned int n[10] = { 0 };

		for (unsigned int i = 0; i < 50; i++) {
			struct spec syn = lb_client(i, "S");
			struct spec last = lb_client(i, closings[k]);
			unsigned int to = lb_try(b, i % 2, &syn);

			assert_int_equal(lb_try(b, (i + 1) % 2, &last), to);
			n[to]++;
		}
		for (unsigned int i = 1; i <= 3; i++)
			assert_in_range(n[i], 5, 40);
		assert_int_equal(n[1] + n[2] + n[3], 50);
		bench_close(b);
	}
}

static void
flow_make(const char *from, const char *to, uint8_t protocol, struct flow *f)
{
	struct endpoint src, dst;

	assert_int_equal(endpoint_parse(from, &src), 0);
	assert_int_equal(endpoint_parse(to, &dst), 0);
	*f = (struct flow){ .version = 4, .protocol = protocol, .src_port = src.port,
			    .dst_port = dst.port, .ip4 = { src.ip4, dst.ip4 } };
}

/* Only those of them that are equal, and usable; and each gets its share. */

/* [B43] */
static void
test_among_equals_the_hash_decides(void **state)
{
	static const struct { uint64_t usable; uint32_t n_open[4]; uint64_t equals; }
	cases[] = {
		{ 0xf, { 0, 0, 0, 0 }, 0x6 }, { 0xf, { 2, 1, 5, 0 }, 0xa },
		{ 0xf, { 3, 8, 7, 3 }, 0xd }, { 0x9, { 3, 0, 0, 3 }, 0x9 },
		{ 0x8, { 0, 0, 0, 9 }, 0x8 },
	};
	static struct lb_service s;
	struct lb_load load = { 0 };
	unsigned int want, got[4];
	struct flow f;

	make_backends(s.backend, 4);
	s.n_backends = 4;
	s.backend[1].weight = s.backend[2].weight = 2;
	for (unsigned int k = 0; k < N_STEPS(cases); k++) {
		want = 4000 / (unsigned int)__builtin_popcountll(cases[k].equals);
		load.usable = cases[k].usable;
		memcpy(load.n_open, cases[k].n_open, sizeof(cases[k].n_open));
		memset(got, 0, sizeof(got));
		flow_make(HOST(1), "192.0.2.10:80", PROTO_TCP, &f);
		for (uint16_t port = 0; port < 4000; port++) {
			f.src_port = port;
			got[lb_choose(&s, &load, &f)]++;
		}
		for (unsigned int i = 0; i < 4; i++) {
			if (cases[k].equals >> i & 1)
				assert_in_range(got[i], want * 9 / 10, want * 11 / 10);
			else
				assert_int_equal(got[i], 0);
		}
	}
}

/* What the tables of all tests of the load balancer rely on. */

/* [B43] */
static void
test_hosts_of_tables_get_the_first_of_equals(void **state)
{
	static const char *const hosts[] = { HOST(1), HOST(2), HOST(3), HOST(4), HOST(5),
					     HOST(6), HOST(9) };
	static const char *const addresses[] = { "192.0.2.10:80", "192.0.2.11:80" };
	static const struct lb_service s;
	struct flow f;

	for (unsigned int i = 0; i < N_STEPS(hosts); i++) {
		for (unsigned int k = 0; k < N_STEPS(addresses); k++) {
			flow_make(hosts[i], addresses[k], PROTO_TCP, &f);
			assert_int_equal(lb_hash(&s, &f) % 6, 0);
		}
		flow_make(hosts[i], addresses[0], PROTO_UDP, &f);
		assert_int_equal(lb_hash(&s, &f) % 6, 0);
	}
}

/* --- hashes ------------------------------------------------------------------- */

/* Instances that have the same backends in another order choose alike. */

/* [B41] */
static void
test_instances_agree_without_asking_each_other(void **state)
{
	static const char section[] =
		"address: 192.0.2.10:80\nscheduler: maglev\n"
		"backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n";
	static const char other[] =
		"address: 192.0.2.10:80\nscheduler: maglev\n"
		"backends: [10.0.0.3:8080, 10.0.0.1:8080, 10.0.0.2:8080]\n";
	struct bench *b[2] = { bench_open("lb", section, 1), bench_open("lb", other, 1) };
	unsigned int n[10] = { 0 };

	for (unsigned int i = 0; i < 200; i++) {
		struct spec syn = lb_client(i, "S");
		unsigned int to = lb_try(b[0], 0, &syn);

		assert_int_equal(lb_try(b[1], 0, &syn), to);
		n[to]++;
	}
	for (unsigned int i = 1; i <= 3; i++)
		assert_in_range(n[i], 40, 95);
	bench_close(b[1]);
	bench_close(b[0]);
}

/* [B41, B43] */
static void
test_a_source_always_gets_the_same(void **state)
{
	static const char section[] =
		"address: 192.0.2.10:80\nscheduler: source\n"
		"backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n";
	struct bench *b = bench_open("lb", section, 2);
	struct spec syn = lb_client(0, "S");
	unsigned int to = lb_try(b, 0, &syn);
	char from[32];

	syn.from = from;
	for (unsigned int port = 1; port < 50; port++) {
		sprintf(from, "198.51.100.1:%u", port);
		assert_int_equal(lb_try(b, port % 2, &syn), to);
	}
	bench_close(b);
}

/* --- persistence -------------------------------------------------------------- */

static const char sticky[] =
	"address: 192.0.2.10:80\npersistence: 60s\n"
	"backends: [10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080]\n";

/* [B43] */
static void
test_a_client_returns_to_its_backend(void **state)
{
	static const struct step steps[] = {
		{ "the first", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "of another client", { .side = NF_OUTSIDE, .from = "198.51.100.2:1",
		  .to = "192.0.2.10:80", .flags = "S" }, SENT, true,
		  .differs = true },
		{ "the second, though others have fewer", { CLIENT(2), .flags = "S" },
		  SENT, true, TO(2, 1) },
		{ "50 seconds later", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 1),
		  .after_ms = 50000 },
		{ "50 more: it is as old as its last use", { CLIENT(4), .flags = "S" },
		  SENT, true, TO(4, 1), .after_ms = 50000 },
		{ "its connection is over, which does not matter",
		  { CLIENT(4), .flags = "R" }, SENT, true, TO(4, 1) },
		{ "another one", { CLIENT(5), .flags = "S" }, SENT, true, TO(5, 1),
		  .after_ms = 50000 },
	};

	RUN_STEPS("lb", sticky, steps);
}

/* [B43] */
static void
test_it_is_forgotten_in_time(void **state)
{
	static const struct step steps[] = {
		{ "the first", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "it stays open", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
		{ "the second, later", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 2),
		  .after_ms = 61000 },
	};

	RUN_STEPS("lb", sticky, steps);
}

/* Where its backend has the client's port for another service, only that connection goes
 * elsewhere. */

/* [B43] */
static void
test_a_port_that_is_taken_moves_no_client(void **state)
{
	static const char section[] =
		"services:\n"
		"  - {address: '192.0.2.10:80', persistence: 60s,\n"
		"     backends: ['10.0.0.1:8080', '10.0.0.2:8080']}\n"
		"  - {address: '192.0.2.11:80',\n"
		"     backends: ['10.0.0.1:8080', '10.0.0.2:8080']}\n";
	static const struct step steps[] = {
		{ "the first", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "the other service's", { .side = NF_OUTSIDE, .from = HOST(2),
		  .to = "192.0.2.11:80", .flags = "S" }, SENT, true, TO(2, 1) },
		{ "the same port", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 2) },
		{ "the next", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 1) },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B43] */
static void
test_two_first_connections_of_a_client_agree(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = bench_open("lb", sticky, 2);
		struct spec syn[] = {
			{ CLIENT(1), .flags = "S" }, { CLIENT(2), .flags = "S" },
			{ CLIENT(3), .flags = "S" }, { CLIENT(4), .flags = "S" },
		};
		unsigned int n[10];

		bench_race(b, syn, 4, schedule, 8);
		lb_count_sent(b, n);
		assert_true(n[1] == 4 || n[2] == 4 || n[3] == 4);
		bench_close(b);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shares_are_within_1_percent_of_weights),
		cmocka_unit_test(test_who_goes_moves_less_than_2_percent_of_others),
		cmocka_unit_test(test_who_is_down_moves_none_of_the_others),
		cmocka_unit_test(test_turns_are_as_even_as_weights_allow),
		cmocka_unit_test(test_round_robin),
		cmocka_unit_test(test_turns_of_who_is_down_are_shared_by_weight),
		cmocka_unit_test(test_50_connections_reach_all_three),
		cmocka_unit_test(test_racing_turns_stay_near_their_shares),
		cmocka_unit_test(test_least_connections_go_by_weight),
		cmocka_unit_test(test_all_take_part_though_there_is_little_to_do),
		cmocka_unit_test(test_among_equals_the_hash_decides),
		cmocka_unit_test(test_hosts_of_tables_get_the_first_of_equals),
		cmocka_unit_test(test_instances_agree_without_asking_each_other),
		cmocka_unit_test(test_a_source_always_gets_the_same),
		cmocka_unit_test(test_a_client_returns_to_its_backend),
		cmocka_unit_test(test_it_is_forgotten_in_time),
		cmocka_unit_test(test_a_port_that_is_taken_moves_no_client),
		cmocka_unit_test(test_two_first_connections_of_a_client_agree),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
