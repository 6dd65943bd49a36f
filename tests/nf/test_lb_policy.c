/*
 * test_lb_policy.c - backends that are down, get nothing new, or are no longer in the
 * file.
 */
#include "lb_case.h"

#define TWO "address: 192.0.2.10:80\nbackends: [10.0.0.1:8080, 10.0.0.2:8080]\n"
#define UDP_TWO TWO "protocol: udp\n"

static const unsigned int shapes[][2] = { { 1, 1 }, { 2, 1 }, { 2, 3 } };

/* Tables of steps, and what becomes of the backends in between. */
struct story {
	const char *section, *then;		/* NULL: the same file. */
	uint64_t down;				/* Then. */
	const struct step *before, *after, *at_last;
	unsigned int n_before, n_after, n_at_last;
};

/* Second by second, as records that time themselves see it. */
static void
pass(struct bench *b, unsigned int seconds)
{
	for (; seconds > 0; seconds--) {
		bench_wait(b, 1000);
		bench_settle(b);
	}
}

static void
tell(const struct story *story)
{
	for (unsigned int i = 0; i < N_STEPS(shapes); i++) {
		struct bench *b = lb_bench(story->section, shapes[i][0], shapes[i][1]);

		bench_steps(b, story->before, story->n_before);
		if (story->then != NULL)
			lb_reload(b, shapes[i][0], story->then);
		lb_set_down(b, story->down);
		bench_steps(b, story->after, story->n_after);
		pass(b, story->n_at_last > 0 ? 70 : 0);
		bench_steps(b, story->at_last, story->n_at_last);
		bench_close(b);
	}
}

#define TELL(first, second, which, steps, more)                                  \
	tell(&(struct story){ first, second, which, steps, more, NULL,           \
			      N_STEPS(steps), N_STEPS(more), 0 })
#define TELL_AFTER(section, which, more)                                         \
	tell(&(struct story){ section, NULL, which, NULL, more, NULL, 0,         \
			      N_STEPS(more), 0 })
#define TELL_ALL(first, second, which, steps, more, last)                        \
	tell(&(struct story){ first, second, which, steps, more, last,           \
			      N_STEPS(steps), N_STEPS(more), N_STEPS(last) })

static const struct step two_open[] = {
	{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
	{ "2", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 2) },
	{ "1 opens", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
	{ "2 opens", { CLIENT(2), .flags = "A" }, SENT, true, TO(2, 2) },
};

/* --- down --------------------------------------------------------------------- */

/* [B44] */
static void
test_a_backend_that_is_down_gets_nothing_new(void **state)
{
	static const struct step after[] = {
		{ "the first is down", { CLIENT(3), .flags = "S" }, SENT, true,
		  TO(3, 2) },
		{ "again", { CLIENT(4), .flags = "S" }, SENT, true, TO(4, 2) },
	};
	static const char *const schedulers[] = {
		TWO, TWO "scheduler: round_robin\n", TWO "scheduler: maglev\n",
		TWO "scheduler: source\n", TWO "persistence: 60s\n",
	};

	for (unsigned int i = 0; i < N_STEPS(schedulers); i++)
		TELL_AFTER(schedulers[i], 1, after);
}

/* [B44] */
static void
test_all_are_down(void **state)
{
	static const struct step resets[] = {
		{ "the client gets to know", { CLIENT(1), .flags = "S" },
		  DROPPED(BACKEND), .answers = 1 },
	};
	static const struct step drops[] = {
		{ "silence", { CLIENT(1), .flags = "S" }, DROPPED(BACKEND) },
	};
	static const struct step panics[] = {
		{ "as if they were up", { CLIENT(1), .flags = "S" }, SENT, true,
		  TO(1, 1) },
		{ "it opens", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
		{ "and stays", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1) },
	};
	static const struct step datagram[] = {
		{ "port unreachable", { DATAGRAM(1) }, DROPPED(BACKEND), .answers = 1 },
	};

	TELL_AFTER(TWO, 3, resets);
	TELL_AFTER(TWO "no_backend: drop\n", 3, drops);
	TELL_AFTER(TWO "no_backend: panic\n", 3, panics);
	TELL_AFTER(UDP_TWO, 3, datagram);
	TELL_AFTER(UDP_TWO "hash: datagram\n", 3, datagram);
}

/* [B46; U22] */
static void
test_connections_of_a_dead_backend_are_reset(void **state)
{
	static const struct step after[] = {
		{ "the other one's goes on", { CLIENT(2), .flags = "PA", .ack = 1 }, SENT,
		  false, TO(2, 2) },
		{ "a wrong checksum ends nothing", { CLIENT(1), .flags = "PA",
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "a RST to both ends", { CLIENT(1), .flags = "PA", .seq = 5, .ack = 9 },
		  DROPPED(BACKEND), true, .emits = 1, .answers = 1 },
		{ "once more, if it was lost", { CLIENT(1), .flags = "PA", .ack = 9 },
		  DROPPED(STATE), .answers = 1 },
		{ "the backend as well", { BACKEND(1, 1), .flags = "PA", .ack = 5 },
		  DROPPED(STATE), .answers = 1 },
		{ "no RST is answered", { CLIENT(1), .flags = "R" }, DROPPED(STATE) },
		{ "a new one goes elsewhere", { CLIENT(1), .flags = "S" }, SENT, true,
		  TO(1, 2) },
	};

	TELL(TWO, NULL, 1, two_open, after);
}

/* [B46] */
static void
test_resets_are_what_both_ends_accept(void **state)
{
	static const struct spec data = { BACKEND(1, 1), .flags = "PA", .seq = 77,
					  .ack = 33, .data = "abc" };
	struct bench *b = lb_bench(TWO, 1, 1);
	const struct sent *s;

	bench_steps(b, two_open, N_STEPS(two_open));
	lb_set_down(b, 1);
	bench_put(b, 0, &data);
	bench_settle(b);
	s = bench_take(b);
	assert_int_equal(s->side, NF_INSIDE);
	assert_string_equal(sent_endpoints(s), TO(1, 1));
	assert_int_equal(packet_tcp_seq(sent_packet(s)), 33);
	s = bench_take(b);
	assert_int_equal(s->side, NF_OUTSIDE);
	assert_string_equal(sent_endpoints(s), BACK(1));
	assert_non_null(strchr(sent_flags(s), 'R'));
	assert_int_equal(packet_tcp_seq(sent_packet(s)), 77);
	assert_null(bench_take(b));
	bench_close(b);
}

/* [B46] */
static void
test_or_they_are_kept(void **state)
{
	static const struct step after[] = {
		{ "it goes on", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1) },
		{ "and back", { BACKEND(1, 1), .flags = "A" }, SENT, false, BACK(1) },
		{ "a new one goes elsewhere", { CLIENT(3), .flags = "S" }, SENT, true,
		  TO(3, 2) },
	};

	TELL(TWO "backend_down: keep\n", NULL, 1, two_open, after);
}

/* [B46] */
static void
test_a_syn_that_the_dead_one_did_not_answer_moves(void **state)
{
	static const struct step before[] = {
		{ "SYN", { CLIENT(1), .flags = "S", .seq = 7 }, SENT, true, TO(1, 1) },
	};
	static const struct step after[] = {
		{ "again", { CLIENT(1), .flags = "S", .seq = 7 }, SENT, true, TO(1, 2) },
		{ "again", { CLIENT(1), .flags = "S", .seq = 7 }, SENT, false, TO(1, 2) },
	};

	TELL(TWO, NULL, 1, before, after);
}

/* [B46, B51] */
static void
test_udp_moves(void **state)
{
	static const struct step before[] = {
		{ "1", { DATAGRAM(1) }, SENT, true, TO(1, 1) },
		{ "2", { DATAGRAM(2) }, SENT, true, TO(2, 2) },
	};
	static const struct step after[] = {
		{ "it moves", { DATAGRAM(1) }, SENT, true, TO(1, 2) },
		{ "and stays", { DATAGRAM(1) }, SENT, false, TO(1, 2) },
		{ "the other one does not", { DATAGRAM(2) }, SENT, false, TO(2, 2) },
	};
	static const struct step reset[] = {
		{ "port unreachable", { DATAGRAM(1) }, DROPPED(BACKEND), true,
		  .answers = 1 },
		{ "the next is a new one", { DATAGRAM(1) }, SENT, true, TO(1, 2) },
	};
	static const struct step keep[] = {
		{ "it stays", { DATAGRAM(1) }, SENT, false, TO(1, 1) },
	};

	TELL(UDP_TWO, NULL, 1, before, after);
	TELL(UDP_TWO "backend_down: reset\n", NULL, 1, before, reset);
	TELL(UDP_TWO "backend_down: keep\n", NULL, 1, before, keep);
}

/* --- drained ------------------------------------------------------------------ */

#define DRAINED "address: 192.0.2.10:80\ndrain: 60s\n"                           \
	"backends: [{address: '10.0.0.1:8080', weight: 0}, 10.0.0.2:8080]\n"
#define GONE "address: 192.0.2.10:80\ndrain: 60s\nbackends: 10.0.0.2:8080\n"

/* [B45, B54; U22, U23; case 53] */
static void
test_without_weight_old_ones_stay(void **state)
{
	static const struct step after[] = {
		{ "an old one", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
		{ "and back", { BACKEND(1, 1), .flags = "A" }, SENT, false, BACK(1) },
		{ "a new one", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 2) },
		{ "another", { CLIENT(4), .flags = "S" }, SENT, true, TO(4, 2) },
		{ "it is not over yet", { CLIENT(1), .flags = "A" }, SENT, false,
		  TO(1, 1), .after_ms = 9000 },
	};
	static const struct step over[] = {
		{ "its time is over: a RST to both", { CLIENT(1), .flags = "A",
		  .ack = 1 }, DROPPED(BACKEND), true, .emits = 1, .answers = 1 },
		{ "those of others stay", { CLIENT(2), .flags = "A" }, SENT, false,
		  TO(2, 2) },
	};
	static const struct step for_ever[] = {
		{ "an old one", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1),
		  .after_ms = 7000 * 1000 },
		{ "a new one", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 2) },
	};

	TELL_ALL(TWO, DRAINED, 0, two_open, after, over);
	TELL(TWO, "address: 192.0.2.10:80\nbackends: [10.0.0.2:8080, "
		  "{address: '10.0.0.1:8080', weight: 0}]\n", 0, two_open, for_ever);
}

/* [B45, B54; U22, U23; case 53] */
static void
test_who_is_removed_keeps_what_it_has(void **state)
{
	static const struct step after[] = {
		{ "its answers are known for what they are",
		  { BACKEND(1, 1), .flags = "PA", .data = "x" }, SENT, true, BACK(1) },
		{ "an old one", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1) },
		{ "a new one", { CLIENT(3), .flags = "S" }, SENT, true, TO(3, 2) },
		{ "what else it sends passes", { .side = NF_INSIDE,
		  .from = "10.0.0.1:3000", .to = HOST(1), .flags = "S" }, SENT },
		{ "but not as if it were of a connection",
		  { BACKEND(1, 9), .flags = "A" }, SENT },
	};
	static const struct step over[] = {
		{ "its time is over: a RST to both", { BACKEND(1, 1), .flags = "A",
		  .ack = 1 }, DROPPED(BACKEND), true, .emits = 1, .answers = 1 },
	};
	static const struct step closes[] = {
		{ "it ends", { BACKEND(1, 1), .flags = "FA" }, SENT, true, BACK(1) },
		{ "both ways", { CLIENT(1), .flags = "FA" }, SENT, false, TO(1, 1) },
		{ "and begins anew", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 2) },
	};

	TELL_ALL(TWO, GONE, 0, two_open, after, over);
	TELL(TWO, "address: 192.0.2.10:80\nbackends: 10.0.0.2:8080\n", 0, two_open,
	     closes);
}

/* [B45] */
static void
test_who_comes_back_has_all_its_time_again(void **state)
{
	static const struct step goes_on[] = {
		{ "it goes on", { CLIENT(1), .flags = "A" }, SENT, false, TO(1, 1) },
	};
	static const struct step begins[] = {
		{ "it begins", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
	};
	static const struct step ends[] = {
		{ "it ends", { CLIENT(1), .flags = "A", .ack = 1 }, DROPPED(BACKEND),
		  true, .emits = 1, .answers = 1 },
	};
	struct bench *b = lb_bench(TWO, 2, 1);

	bench_steps(b, two_open, N_STEPS(two_open));
	lb_reload(b, 2, DRAINED);
	bench_steps(b, begins, 1);
	pass(b, 50);
	bench_steps(b, goes_on, 1);
	lb_reload(b, 2, TWO "drain: 60s\n");
	pass(b, 12);
	assert_int_equal(bench_records(b, "drain"), 0);
	lb_reload(b, 2, GONE);
	bench_steps(b, begins, 1);
	pass(b, 50);
	bench_steps(b, goes_on, 1);
	pass(b, 20);
	bench_steps(b, ends, 1);
	/* All that is over is forgotten. */
	pass(b, 12);
	assert_int_equal(bench_records(b, "drain"), 0);
	bench_close(b);
}

/* [B45, B46] */
static void
test_counts_are_right_whatever_becomes_of_backends(void **state)
{
	struct bench *b = lb_bench(TWO, 2, 1);
	unsigned int n[10] = { 0 };

	for (unsigned int i = 0; i < 40; i++) {
		struct spec syn = lb_client(i, "S"), ack = lb_client(i, "A");

		lb_try(b, i % 2, &syn);
		lb_try(b, i % 2, &ack);
	}
	/* 20 each; the first loses its own, in a race of both instances. */
	lb_set_down(b, 1);
	for (unsigned int i = 0; i < 40; i++) {
		struct spec data = lb_client(i, "PA");

		data.ack = 1;
		bench_put(b, 0, &data);
		bench_put(b, 1, &data);
	}
	bench_settle(b);
	while (bench_take(b) != NULL)
		;
	lb_set_down(b, 0);
	for (unsigned int i = 100; i < 120; i++) {
		struct spec syn = lb_client(i, "S");

		n[lb_try(b, i % 2, &syn)]++;
	}
	assert_int_equal(n[1], 20);
	/* The second is removed, and comes back: it still has its own. */
	lb_reload(b, 2, "address: 192.0.2.10:80\nbackends: 10.0.0.1:8080\n");
	for (unsigned int i = 120; i < 130; i++) {
		struct spec syn = lb_client(i, "S");

		assert_int_equal(lb_try(b, i % 2, &syn), 1);
	}
	lb_reload(b, 2, TWO);
	for (unsigned int i = 130; i < 140; i++) {
		struct spec syn = lb_client(i, "S");

		assert_int_equal(lb_try(b, i % 2, &syn), 2);
	}
	bench_close(b);
}

/* --- change sets -------------------------------------------------------------- */

/* Instances get their files one after the other: each connection stays where it is, also
 * those that an instance has opened at a backend that another one does not know. */

/* [B54; U23] */
static void
test_files_change_one_instance_after_the_other(void **state)
{
	static const char other[] =
		"address: 192.0.2.10:80\nbackends: [10.0.0.4:8080, 10.0.0.2:8080]\n";
	struct bench *b = lb_bench(TWO "scheduler: round_robin\n", 2, 3);
	unsigned int to[30];

	for (unsigned int i = 0; i < 30; i++) {
		struct spec syn = lb_client(i, "S");

		if (i == 10)
			bench_reload(b, 0, other);
		if (i == 20)
			bench_reload(b, 1, other);
		to[i] = lb_try(b, i % 2, &syn);
		assert_int_not_equal(to[i], 0);
		assert_true(to[i] != 4 || i >= 10);
		assert_true(to[i] != 1 || i < 20);
		for (unsigned int k = 0; k <= i; k++) {
			struct spec ack = lb_client(k, "A"), back = { .side = NF_INSIDE };
			const struct sent *s;
			char from[32];

			assert_int_equal(lb_try(b, (i + k) % 2, &ack), to[k]);
			sprintf(from, "10.0.0.%u:8080", to[k]);
			back.from = from;
			back.to = ack.from;
			back.flags = "A";
			bench_put(b, (i + k + 1) % 2, &back);
			bench_settle(b);
			s = bench_take(b);
			assert_non_null(s);
			assert_memory_equal(sent_endpoints(s), "192.0.2.10:80 > ", 16);
			assert_null(bench_take(b));
		}
	}
	bench_close(b);
}

static void
many_backends(char section[2048], unsigned int net)
{
	char item[32];

	strcpy(section, "address: 192.0.2.10:80\nbackends: [");
	for (unsigned int i = 1; i <= LB_MAX_BACKENDS; i++) {
		snprintf(item, sizeof(item), "10.0.%u.%u:8080, ", net, i);
		strcat(section, item);
	}
	strcat(section, "]\n");
}

/* All backends are exchanged while 24 of 64 have connections: those stay, and 40 of
 * the new ones share what is new until there is room. */

/* [B45, B54; U23] */
static void
test_slots_of_those_who_are_gone_are_used_again(void **state)
{
	char before[2048], after[2048];
	struct bench *b;
	unsigned int n_new = 0;

	many_backends(before, 0);
	many_backends(after, 1);
	b = lb_bench(before, 2, 1);
	for (unsigned int i = 0; i < 64; i++) {
		struct spec syn = lb_client(i, "S"), rst = lb_client(i, "R");

		bench_put(b, i % 2, &syn);
		bench_settle(b);
		if (i >= 24)
			bench_put(b, i % 2, &rst);
		bench_settle(b);
	}
	while (bench_take(b) != NULL)
		;
	lb_reload(b, 2, after);
	for (unsigned int i = 64; i < 164; i++) {
		struct spec syn = lb_client(i, "S");
		const struct sent *s;

		bench_put(b, i % 2, &syn);
		bench_settle(b);
		while ((s = bench_take(b)) != NULL)
			n_new += strstr(sent_endpoints(s), "> 10.0.1.") != NULL;
	}
	assert_int_equal(n_new, 100);
	for (unsigned int i = 0; i < 24; i++) {
		struct spec ack = lb_client(i, "A");
		const struct sent *s;

		bench_put(b, i % 2, &ack);
		bench_settle(b);
		s = bench_take(b);
		assert_non_null(s);
		assert_non_null(strstr(sent_endpoints(s), "> 10.0.0."));
	}
	assert_null(bench_take(b));
	assert_int_equal(bench_records(b, "origin"), 64);
	bench_close(b);
}

/* --- one backend, several services -------------------------------------------- */

#define SHARED                                                                   \
	"services:\n"                                                            \
	"  - {address: '192.0.2.10:80', backends: ['10.0.0.1:8080', '10.0.0.2:8080']}\n" \
	"  - {address: '192.0.2.11:80', backends: ['10.0.0.1:8080', '10.0.0.2:8080']}\n"

#define OTHER(n) .side = NF_OUTSIDE, .from = HOST(n), .to = "192.0.2.11:80"
#define OTHER_BACK(n) "192.0.2.11:80 > " HOST(n)

/* [B47, B54] */
static void
test_backends_may_serve_several_addresses(void **state)
{
	static const struct step before[] = {
		{ "one", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "the other; its count is its own", { OTHER(2), .flags = "S" }, SENT,
		  true, TO(2, 1) },
		{ "an answer", { BACKEND(1, 1), .flags = "SA" }, SENT, false, BACK(1) },
		{ "an answer of the other", { BACKEND(1, 2), .flags = "SA" }, SENT, false,
		  OTHER_BACK(2) },
		{ "nobody's", { BACKEND(2, 2), .flags = "SA" }, SENT },
		{ "the same port to both goes to another backend",
		  { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 2) },
		{ "an answer", { BACKEND(2, 2), .flags = "SA" }, SENT, false, BACK(2) },
		{ "an answer of the other", { BACKEND(1, 2), .flags = "SA" }, SENT, false,
		  OTHER_BACK(2) },
		{ "1 opens", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
		{ "2 closes", { BACKEND(1, 2), .flags = "R" }, SENT, true,
		  OTHER_BACK(2) },
	};
	static const struct step after[] = {
		{ "an answer", { BACKEND(1, 1), .flags = "A" }, SENT, false, BACK(1) },
	};
	static const struct step moved[] = {
		{ "an answer", { BACKEND(1, 1), .flags = "A" }, SENT, false, BACK(1) },
		{ "a new one", { OTHER(3), .flags = "S" }, SENT, true, TO(3, 1) },
		{ "and back", { BACKEND(1, 3), .flags = "SA" }, SENT, false,
		  OTHER_BACK(3) },
		{ "nobody's", { BACKEND(1, 9), .flags = "A" }, DROPPED(STATE) },
		{ "it ends", { BACKEND(1, 1), .flags = "FA" }, SENT, true, BACK(1) },
		{ "both ways", { CLIENT(1), .flags = "FA" }, SENT, false, TO(1, 1) },
	};

	TELL(SHARED, NULL, 0, before, after);
	/* The first service's is removed from one of the two. */
	TELL(SHARED, "services:\n"
	     "  - {address: '192.0.2.10:80', backends: ['10.0.0.2:8080']}\n"
	     "  - {address: '192.0.2.11:80', backends: ['10.0.0.1:8080']}\n",
	     0, before, moved);
	/* Others have it. */
	TELL(SHARED, "services:\n"
	     "  - {address: '192.0.2.11:80', backends: ['10.0.0.1:8080']}\n"
	     "  - {address: '192.0.2.10:80', backends: ['10.0.0.2:8080']}\n"
	     "  - {address: '192.0.2.12:80', backends: ['10.0.0.1:8080']}\n",
	     0, before, after);
	/* The first service's is removed. */
	TELL(SHARED, "services:\n"
	     "  - {address: '192.0.2.10:80', backends: ['10.0.0.2:8080']}\n"
	     "  - {address: '192.0.2.11:80', backends: ['10.0.0.2:8080']}\n",
	     0, before, after);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_backend_that_is_down_gets_nothing_new),
		cmocka_unit_test(test_all_are_down),
		cmocka_unit_test(test_connections_of_a_dead_backend_are_reset),
		cmocka_unit_test(test_resets_are_what_both_ends_accept),
		cmocka_unit_test(test_or_they_are_kept),
		cmocka_unit_test(test_a_syn_that_the_dead_one_did_not_answer_moves),
		cmocka_unit_test(test_udp_moves),
		cmocka_unit_test(test_without_weight_old_ones_stay),
		cmocka_unit_test(test_who_is_removed_keeps_what_it_has),
		cmocka_unit_test(test_who_comes_back_has_all_its_time_again),
		cmocka_unit_test(test_counts_are_right_whatever_becomes_of_backends),
		cmocka_unit_test(test_files_change_one_instance_after_the_other),
		cmocka_unit_test(test_slots_of_those_who_are_gone_are_used_again),
		cmocka_unit_test(test_backends_may_serve_several_addresses),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
