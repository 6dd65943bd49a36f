/*
 * test_lb_health.c - health checks that the fleet makes together, by results that the
 * test makes up: a function that has nothing but them, and shows what its note says.
 */
#include "harness.h"

#include <stdio.h>

#include "nf/lb_health.h"
#include "nf/lb_probe.h"
#include "nf/lb_target.h"

enum {
	SERVICES = 2,
	INTERVAL_MS = 1000,
	LOSE = 1000,				/* The port to which a packet does so. */
	TICK_MS = 100,				/* The store's, of which it may take two. */
};

/* What backends do: by the last number of their address.  0: they answer. */
static uint32_t cause_of[256];
static uint32_t elapsed_of[256];
static unsigned int probes_of[256];
static unsigned int n_probes;
static unsigned int n_pipes;

static const struct nf health;

struct options {
	uint64_t n_backends, first;		/* 10.0.0.FIRST and so on, in all services. */
	struct lb_check check;
};

static const struct config_field fields[] = {
	{ "backends", CONFIG_UINT, offsetof(struct options, n_backends),
	  .help = "how many" },
	{ "first", CONFIG_UINT, offsetof(struct options, first), .help = "the first" },
	{ "check", CONFIG_MAP, offsetof(struct options, check), .fields = lb_check_fields,
	  .help = "how" },
	{ 0 }
};

struct state {
	struct lb_health *health;		/* First: lb_health.h. */
};

static int
init(const void *from, void **out)
{
	const struct options *o = from;
	struct lb_check check;
	struct state *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	*out = s;
	if (lb_check_init(&o->check, &check) != 0)
		return -EINVAL;
	assert_int_equal(lb_health_new(&s->health), 0);
	for (unsigned int i = 0; i < SERVICES * o->n_backends; i++) {
		struct endpoint e = { .version = 4, .port = rte_cpu_to_be_16(80) };
		unsigned int backend = i / SERVICES;
		int err;

		e.ip4 = rte_cpu_to_be_32(0x0a000000 + (uint32_t)o->first + backend);
		err = lb_health_add(s->health, i % SERVICES, backend, &e, &check);
		assert_int_equal(err, 0);
	}
	return 0;
}

static void
fini(void *state)
{
	struct state *s = state;

	lb_health_free(s->health);
	free(s);
}

static unsigned int
work(const void *state, const void *task, unsigned int bytes, void *result)
{
	struct lb_probe_result *to = result;
	uint8_t number = ((const uint8_t *)task)[3];	/* Of a target's address. */

	(void)state, (void)bytes;
	n_probes++;
	probes_of[number]++;
	to->cause = cause_of[number];
	to->elapsed_ms = elapsed_of[number];
	return sizeof(*to);
}

/* As a store may do that loses a part of what it had. */
static enum nf_verdict
lose_record(struct nf_run *r)
{
	const struct state *s = nf_static(r);
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(&health, table, STORE_MAX_TABLES);

	for (unsigned int i = 0; i < n; i++)
		if (strcmp(table[i]->name, "health") == 0)
			nf_table_delete(r, table[i], &s->health->target[0].key,
					sizeof(struct target_key));
	return NF_SEND;
}

/* Shows whether backend 'source port' of service 'destination port' is up: 1 or 0. */
static enum nf_verdict
packet(struct nf_run *r)
{
	unsigned int service, backend;
	struct endpoint to;

	flow_destination(nf_flow(r), &to);
	if (to.port == rte_cpu_to_be_16(LOSE))
		return lose_record(r);
	service = rte_be_to_cpu_16(nf_flow(r)->dst_port) - 1;
	backend = rte_be_to_cpu_16(nf_flow(r)->src_port) - 1;
	to.port = rte_cpu_to_be_16(lb_health_up(nf_note(r), service, backend));
	nf_set_dst(r, &to);
	return NF_SEND;
}

static const struct nf_event events[] = { LB_HEALTH_EVENTS, { 0 } };

/* By its name, the tables of lb_health.c are its own. */
static const struct nf health = {
	.name = "lb", .options = fields, .options_bytes = sizeof(struct options),
	.init = init, .fini = fini, .packet = packet, .events = events,
	.note = lb_health_note, .note_ms = LB_HEALTH_NOTE_MS,
	.work = work, .done = lb_health_done,
};

/* --- how it is asked ------------------------------------------------------------ */

#define SECTION(n, check)                                                        \
	"backends: " #n "\nfirst: 1\ncheck: {type: tcp, interval: 1s, " check "}"

static struct bench *
open_bench(const char *section, unsigned int pipes, unsigned int n_partitions)
{
	struct bench_setup setup = { .nf = &health, .section = section, .n_pipes = pipes,
				     .n_partitions = n_partitions };
	struct bench *b;

	memset(cause_of, 0, sizeof(cause_of));
	memset(elapsed_of, 0, sizeof(elapsed_of));
	memset(probes_of, 0, sizeof(probes_of));
	n_probes = 0;
	n_pipes = pipes;
	b = bench_open_as(&setup);
	bench_note(b);
	return b;
}

/* So many intervals pass; what is due is done, and one pipe after the other gets it. */
static void
pass(struct bench *b, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		bench_wait(b, INTERVAL_MS + 2 * TICK_MS);
		bench_turn(b, i % n_pipes);
		bench_work(b);
	}
	bench_note(b);
}

static bool
is_up(struct bench *b, unsigned int pipe, unsigned int service, unsigned int backend)
{
	char from[32], to[32];
	struct spec ask = { .from = from, .to = to, .protocol = PROTO_UDP };
	const struct sent *s;

	sprintf(from, "10.9.9.9:%u", backend + 1);
	sprintf(to, "10.8.8.8:%u", service + 1);
	bench_put(b, pipe, &ask);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	return strrchr(sent_endpoints(s), ':')[1] == '1';
}

/* The same for all pipes and services. */
static bool
all_say(struct bench *b, unsigned int backend, bool up)
{
	for (unsigned int i = 0; i < n_pipes * SERVICES; i++)
		if (is_up(b, i % n_pipes, i / n_pipes, backend) != up)
			return false;
	return true;
}

static const struct {
	unsigned int n_pipes, n_partitions;
} shapes[] = { { 1, 1 }, { 2, 1 }, { 2, 3 } };

enum {
	N_SHAPES = sizeof(shapes) / sizeof(shapes[0]),
};

/* --- states --------------------------------------------------------------------- */

/* [B44] */
static void
test_a_backend_falls_and_rises_after_as_many_probes(void **state)
{
	for (unsigned int i = 0; i < N_SHAPES; i++) {
		struct bench *b = open_bench(SECTION(3, "jitter: 0, fall: 3, rise: 2"),
					     shapes[i].n_pipes, shapes[i].n_partitions);
		struct pipe_event e;

		pass(b, 3);
		for (unsigned int k = 0; k < 3; k++)
			assert_true(all_say(b, k, true));
		assert_false(bench_event(b, &e));
		cause_of[2] = ECONNREFUSED;
		pass(b, 2);
		assert_true(all_say(b, 1, true));
		pass(b, 1);
		assert_true(all_say(b, 1, false));
		assert_true(all_say(b, 0, true));
		assert_true(all_say(b, 2, true));
		assert_true(bench_event(b, &e));
		assert_int_equal(e.said.event, LB_HEALTH_DOWN);
		assert_int_equal(e.said.number, ECONNREFUSED);
		assert_int_equal(e.said.endpoint.ip4, rte_cpu_to_be_32(0x0a000002));
		cause_of[2] = 0;
		pass(b, 1);
		assert_true(all_say(b, 1, false));
		pass(b, 1);
		assert_true(all_say(b, 1, true));
		assert_true(bench_event(b, &e));
		assert_int_equal(e.said.event, LB_HEALTH_UP);
		assert_false(bench_event(b, &e));
		bench_close(b);
	}
}

/* [B44] */
static void
test_a_single_failure_is_forgotten(void **state)
{
	struct bench *b = open_bench(SECTION(1, "jitter: 0, fall: 2"), 1, 1);

	pass(b, 3);
	for (unsigned int i = 0; i < 10; i++) {
		cause_of[1] = i % 2 == 0 ? ETIMEDOUT : 0;
		pass(b, 1);
		assert_true(all_say(b, 0, true));
	}
	bench_close(b);
}

/* [B44] */
static void
test_the_first_probe_decides_alone(void **state)
{
	struct bench *b = open_bench(SECTION(2, "jitter: 0, fall: 3"), 1, 1);
	struct pipe_event e;

	cause_of[1] = ETIMEDOUT;
	assert_true(all_say(b, 0, true));
	pass(b, 1);
	assert_true(all_say(b, 0, false));
	assert_true(all_say(b, 1, true));
	assert_true(bench_event(b, &e));
	assert_int_equal(e.said.event, LB_HEALTH_DOWN);
	assert_false(bench_event(b, &e));
	bench_close(b);
}

/* [B44] One set of probes, however many instances there are and services have it. */
static void
test_the_fleet_probes_once_an_interval(void **state)
{
	for (unsigned int i = 0; i < N_SHAPES; i++) {
		struct bench *b = open_bench(SECTION(20, "jitter: 0"), shapes[i].n_pipes,
					     shapes[i].n_partitions);

		pass(b, 2);
		for (unsigned int k = 1; k <= 20; k++)
			probes_of[k] = 0;
		pass(b, 10);
		for (unsigned int k = 1; k <= 20; k++)
			assert_int_equal(probes_of[k], 10);
		assert_int_equal(bench_records(b, "health"), 20);
		bench_close(b);
	}
}

/* [B44] An instance takes a check, and dies before its probe is done. */
static void
test_probes_go_on_when_the_instance_that_probes_dies(void **state)
{
	for (unsigned int n_turns = 0; n_turns < 6; n_turns++) {
		struct bench *b = open_bench(SECTION(1, "jitter: 0, fall: 1"), 2, 1);

		pass(b, 2);
		cause_of[1] = ECONNREFUSED;
		bench_wait(b, INTERVAL_MS);
		for (unsigned int i = 0; i < n_turns; i++)
			bench_turn(b, 0);
		/* From here on only the other one turns, until its lease is over. */
		for (unsigned int i = 0; i < 5; i++) {
			bench_wait(b, INTERVAL_MS);
			for (unsigned int k = 0; k < 8; k++)
				bench_turn(b, 1);
		}
		bench_work(b);
		bench_note(b);
		assert_true(all_say(b, 0, false));
		assert_in_range(probes_of[1], 3, 9);
		bench_close(b);
	}
}

/* [B44] What is late in coming counts once, and not if something newer is known. */
static void
test_a_result_counts_once(void **state)
{
	struct bench *b = open_bench(SECTION(1, "jitter: 0, fall: 3"), 1, 1);

	pass(b, 2);
	cause_of[1] = ETIMEDOUT;
	/* Two intervals pass before the first probe has ended. */
	for (unsigned int i = 0; i < 2; i++) {
		bench_wait(b, INTERVAL_MS + 2 * TICK_MS);
		bench_settle(b);
	}
	bench_work(b);
	bench_note(b);
	assert_true(all_say(b, 0, true));
	pass(b, 1);
	assert_true(all_say(b, 0, false));
	bench_close(b);
}

/* [B44] The interval is from one probe's start to the next one's. */
static void
test_the_time_of_a_probe_is_part_of_the_interval(void **state)
{
	struct bench *b = open_bench(SECTION(1, "jitter: 0, fall: 100, timeout: 900ms"),
				     1, 1);

	pass(b, 2);
	cause_of[1] = ETIMEDOUT;
	elapsed_of[1] = 900;
	bench_wait(b, INTERVAL_MS + 2 * TICK_MS);
	bench_settle(b);
	for (unsigned int i = 0; i < 10; i++) {
		/* It has ended. */
		bench_wait(b, 900);
		probes_of[1] = 0;
		bench_work(b);
		assert_int_equal(probes_of[1], 1);
		/* The next one begins. */
		bench_wait(b, INTERVAL_MS - 900 + 2 * TICK_MS);
		bench_settle(b);
	}
	bench_close(b);
}

/* [B44] */
static void
test_intervals_differ_by_the_jitter(void **state)
{
	struct bench *b = open_bench(SECTION(40, "jitter: 50"), 1, 1);
	unsigned int seen = 0;

	pass(b, 4);
	n_probes = 0;
	for (unsigned int i = 0; i < 100; i++) {
		unsigned int before = n_probes;

		bench_wait(b, 100);
		bench_work(b);
		seen += n_probes > before;
	}
	/* 40 for 10 seconds, less a tick or two of each. */
	assert_in_range(n_probes, 330, 400);
	/* They do not come together. */
	assert_true(seen > 60);
	bench_close(b);
}

/* --- flapping ------------------------------------------------------------------- */

/* How many good probes it takes until the backend, which is down, is up. */
static unsigned int
rise(struct bench *b)
{
	cause_of[1] = 0;
	for (unsigned int n = 1;; n++) {
		assert_true(n < 100);
		pass(b, 1);
		if (is_up(b, 0, 0, 0))
			return n;
	}
}

static void
fall(struct bench *b)
{
	cause_of[1] = ECONNREFUSED;
	pass(b, 1);
	assert_false(is_up(b, 0, 0, 0));
}

/* [B44] */
static void
test_who_flaps_has_to_rise_longer(void **state)
{
	static const unsigned int want[] = {
		1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8,
	};
	struct bench *b = open_bench(SECTION(1, "jitter: 0, fall: 1, rise: 1"), 1, 1);

	pass(b, 2);
	for (unsigned int i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		unsigned int n;

		fall(b);
		n = rise(b);
		if (n != want[i])
			fail_msg("change %u: up after %u probes, want %u", i, n, want[i]);
	}
	/* Windows without changes take it back. */
	for (unsigned int n = 4; n > 0; n /= 2) {
		pass(b, 62);
		fall(b);
		assert_in_range(rise(b), n / 2 + (n == 1), n);
	}
	bench_close(b);
}

/* --- who is checked ------------------------------------------------------------- */

/* [B44] More than go into one group, or onto one board. */
static void
test_all_of_a_large_fleet_are_checked(void **state)
{
	for (unsigned int i = 0; i < N_SHAPES; i++) {
		struct bench *b = open_bench(SECTION(64, "jitter: 0, fall: 1"),
					     shapes[i].n_pipes, shapes[i].n_partitions);

		for (unsigned int k = 1; k <= 64; k++)
			cause_of[k] = k % 3 == 0 ? ECONNREFUSED : 0;
		assert_int_equal(bench_records(b, "health"), 64);
		pass(b, 2);
		for (unsigned int k = 1; k <= 64; k++)
			assert_true(all_say(b, k - 1, k % 3 != 0));
		bench_close(b);
	}
}

/* [B44, B54] Instances whose files differ for a while do not spoil each other's checks;
 * a backend that no file has any more is forgotten. */
static void
test_a_backend_is_checked_as_long_as_somebody_has_it(void **state)
{
	struct bench *b = open_bench(SECTION(2, "jitter: 0, fall: 1"), 2, 1);

	pass(b, 2);
	/* The second instance has 10.0.0.2 and 10.0.0.3. */
	bench_reload(b, 1, "backends: 2\nfirst: 2\n"
			   "check: {type: tcp, interval: 1s, jitter: 0, fall: 1}");
	pass(b, 2);
	cause_of[1] = ECONNREFUSED;
	pass(b, 40);
	assert_int_equal(bench_records(b, "health"), 3);
	assert_false(is_up(b, 0, 0, 0));
	assert_true(is_up(b, 0, 0, 1));
	assert_true(is_up(b, 1, 0, 0));
	cause_of[3] = ECONNREFUSED;
	pass(b, 6);
	assert_false(is_up(b, 1, 1, 1));
	assert_true(is_up(b, 0, 1, 1));
	bench_reload(b, 0, "backends: 2\nfirst: 2\n"
			   "check: {type: tcp, interval: 1s, jitter: 0, fall: 1}");
	for (unsigned int i = 0; i < 110; i++) {
		bench_wait(b, 450);
		bench_work(b);
	}
	assert_int_equal(bench_records(b, "health"), 2);
	bench_close(b);
}

/* [B44] */
static void
test_a_reload_begins_with_all_up_until_the_next_note(void **state)
{
	struct bench *b = open_bench(SECTION(2, "jitter: 0, fall: 1"), 1, 1);

	cause_of[1] = ECONNREFUSED;
	pass(b, 2);
	assert_false(is_up(b, 0, 0, 0));
	/* Another backend has its place. */
	bench_reload(b, 0, "backends: 1\nfirst: 2\n"
			   "check: {type: tcp, interval: 1s, jitter: 0, fall: 1}");
	assert_true(is_up(b, 0, 0, 0));
	bench_note(b);
	assert_true(is_up(b, 0, 0, 0));
	bench_reload(b, 0, SECTION(2, "jitter: 0, fall: 1"));
	bench_note(b);
	assert_false(is_up(b, 0, 0, 0));
	bench_close(b);
}

/* [B44] It would be up or down for ever. */
static void
test_a_record_that_a_store_lost_is_made_anew(void **state)
{
	struct bench *b = open_bench(SECTION(1, "jitter: 0, fall: 1"), 2, 1);
	struct spec lose = { .from = "10.9.9.9:1", .to = "10.8.8.8:1000",
			     .protocol = PROTO_UDP };

	cause_of[1] = ECONNREFUSED;
	pass(b, 2);
	assert_true(all_say(b, 0, false));
	bench_put(b, 0, &lose);
	bench_settle(b);
	assert_non_null(bench_take(b));
	assert_int_equal(bench_records(b, "health"), 0);
	bench_note(b);
	assert_int_equal(bench_records(b, "health"), 1);
	cause_of[1] = 0;
	pass(b, 2);
	assert_true(all_say(b, 0, true));
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_backend_falls_and_rises_after_as_many_probes),
		cmocka_unit_test(test_a_single_failure_is_forgotten),
		cmocka_unit_test(test_the_first_probe_decides_alone),
		cmocka_unit_test(test_the_fleet_probes_once_an_interval),
		cmocka_unit_test(test_probes_go_on_when_the_instance_that_probes_dies),
		cmocka_unit_test(test_a_result_counts_once),
		cmocka_unit_test(test_the_time_of_a_probe_is_part_of_the_interval),
		cmocka_unit_test(test_intervals_differ_by_the_jitter),
		cmocka_unit_test(test_who_flaps_has_to_rise_longer),
		cmocka_unit_test(test_all_of_a_large_fleet_are_checked),
		cmocka_unit_test(test_a_backend_is_checked_as_long_as_somebody_has_it),
		cmocka_unit_test(test_a_reload_begins_with_all_up_until_the_next_note),
		cmocka_unit_test(test_a_record_that_a_store_lost_is_made_anew),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
