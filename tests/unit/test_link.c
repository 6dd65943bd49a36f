/*
 * test_link.c - a link to one server: the greeting, what goes wrong, and how often it is
 * tried again and told.
 */
#define _GNU_SOURCE
#include "test_link.h"

/* --- Coming up --------------------------------------------------------------------- */

static void
test_the_greeting_and_what_it_brings(void **state)
{
	static const char want[] =
		"*16\r\n$8\r\nSNF.OPEN\r\n$14\r\nsnf:{edge-1:0}\r\n$1\r\n2\r\n$1\r\n4\r\n"
		"$1\r\na\r\n$2\r\n16\r\n$2\r\n64\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n0\r\n"
		"$1\r\nb\r\n$1\r\n4\r\n$1\r\n8\r\n$1\r\n2\r\n$1\r\n2\r\n$4\r\n1000\r\n";

	link_start("valkey://127.0.0.1:%u/edge-1", 1000);
	turns_until(LINK_UP, 10);
	assert_string_equal(l.key, "snf:{edge-1:0}");
	assert_string_equal(servers[0].heard, want);
	assert_int_equal(l.generation, 7);
	assert_int_equal(l.term, 8);
	assert_int_equal(l.n_replicas, 1);
	assert_int_equal(l.table_id[0], 3);
	assert_int_equal(l.table_id[1], 0);
	assert_int_equal(l.connection, 1);
	assert_int_equal(n_lines, 0);
}

static void
test_a_password_goes_first(void **state)
{
	servers[0].says = OK UP;
	link_start("valkey://me:se%%63ret@127.0.0.1:%u", 1000);
	turns_until(LINK_UP, 10);
	assert_true(strstr(servers[0].heard,
			   "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$6\r\nsecret\r\n*16\r\n") ==
		    servers[0].heard);
	assert_null(strstr(l.name, "secret"));
}

static void
test_answers_come_in_any_pieces(void **state)
{
	const char *all = OK UP;

	servers[0].says = NULL;
	link_start("valkey://:p@127.0.0.1:%u", 1000);
	turns(5);
	for (const char *c = all; *c != 0; c++) {
		assert_int_equal(l.state, LINK_GREETING);
		send(servers[0].client[0], c, 1, 0);
		turn();
	}
	assert_int_equal(l.state, LINK_UP);
	assert_int_equal(l.table_id[0], 3);
}

static const struct {
	const char *name, *says;
	bool hopeless;
	const char *why;
} refusals[] = {
	{ "no module", "-ERR unknown command 'SNF.OPEN'\r\n", true, "not loaded" },
	{ "another release", "-ERR SNFPROTO x\r\n", true, "of another release" },
	{ "other tables", "-ERR SNFTABLE a\r\n", true, "another name" },
	{ "other partitions", "-ERR SNFPARTITIONS the store has 2 partitions, not 4\r\n",
	  true, "has 2 partitions, not 4\": set 'partitions'" },
	{ "a password is wanted", "-NOAUTH Authentication required.\r\n", true,
	  "it wants a password: set user:password@ in the URL" },
	{ "a password is wanted before long commands",
	  "-ERR Protocol error: unauthenticated multibulk length\r\n", true,
	  "it wants a password: set user:password@ in the URL" },
	{ "a wrong password", "-WRONGPASS invalid username-password pair\r\n", true,
	  "wrong password: set user:password@ in the URL" },
	{ "a user of few rights", "-NOPERM this user has no permissions\r\n", true,
	  "the user may not" },
	{ "a replica", "-READONLY You can't write to it.\r\n", false,
	  "server is a replica" },
	{ "a server that starts", "-LOADING Redis is loading\r\n", false, "is loading" },
	{ "a server of a Cluster", "-MOVED 1 127.0.0.1:1\r\n", true,
	  "valkey+cluster://" },
	{ "what nobody knows", "-ERR what\x01 now\r\n", false, "says \"ERR what  now\"" },
	{ "another protocol", "HTTP/1.1 400 Bad Request\r\n", false,
	  "no Redis or Valkey" },
	{ "a server that wants TLS", "\x15\x03\x01\x02\x02\x46\r\n", true, "valkeys://" },
	{ "an answer to something else", "+OK\r\n", false, "no Redis or Valkey" },
	{ "a module that answers otherwise", "*2\r\n:1\r\n:2\r\n", true, "release" },
	{ "an id that is none", "*5\r\n:1\r\n:2\r\n:3\r\n:256\r\n:0\r\n", true,
	  "release" },
	{ "a negative generation", "*5\r\n:-1\r\n:2\r\n:3\r\n:0\r\n:0\r\n", true,
	  "release" },
};

static void
test_refusals_are_told_in_a_line(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		servers[0].says = refusals[i].says;
		link_start("valkey://127.0.0.1:%u", 1000);
		turns_until(LINK_GREETING, 10);
		turns_until(LINK_DOWN, 10);
		if (l.hopeless != refusals[i].hopeless ||
		    strstr(l.reason, refusals[i].why) == NULL)
			fail_msg("%s: %d '%s'", refusals[i].name, l.hopeless, l.reason);
		assert_int_equal(n_lines, 0);
		link_fini(&l);
	}
	link_start("valkey://127.0.0.1:%u", 1000);
}

static void
test_nobody_is_there(void **state)
{
	server_stop(&servers[0]);
	link_start("valkey://127.0.0.1:%u", 1000);
	turn();
	turn();
	assert_int_equal(l.state, LINK_DOWN);
	assert_string_equal(l.reason, "cannot connect: Connection refused: is a server "
				      "running there?");
	assert_false(l.hopeless);
}

static void
test_a_server_that_hangs_costs_a_timeout(void **state)
{
	servers[0].says = NULL;
	link_start("valkey://127.0.0.1:%u", 300);
	turns_until(LINK_GREETING, 10);
	assert_in_range(turns_until(LINK_DOWN, 1000), 290, 300);
	assert_string_equal(l.reason, "no answer from the server");
}

/* --- Going down, and trying again -------------------------------------------------- */

static void
test_a_lost_connection_is_made_again_at_once(void **state)
{
	char byte;

	link_start("valkey://127.0.0.1:%u", 1000);
	turns_until(LINK_UP, 10);
	turns(2000);
	server_drop(&servers[0]);
	assert_int_equal(link_receive(&l, &byte, 1, now_ms), 0);
	assert_int_equal(l.state, LINK_DOWN);
	assert_true(turns_until(LINK_UP, 10) < 4);
	assert_int_equal(l.connection, 2);
	assert_non_null(strstr(lines, "the server closed the connection, trying again"));
	assert_non_null(strstr(lines, ": connected again\n"));
	assert_int_equal(n_lines, 2);
}

static void
test_a_wrong_password_is_tried_at_leisure(void **state)
{
	link_start("valkey://127.0.0.1:%u", 1000);
	turns_until(LINK_UP, 10);
	servers[0].says = "-WRONGPASS no\r\n";
	server_drop(&servers[0]);
	link_receive(&l, &(char){ 0 }, 1, now_ms);
	assert_calm(20, 1);
	assert_non_null(strstr(lines, "wrong password: set user:password@ in the URL, "
				      "trying again\n"));
	servers[0].says = UP;
	turns_until(LINK_UP, 2500);
	assert_non_null(strstr(lines, "connected again\n"));
}

static void
test_a_replica_is_tried_less_and_less_often(void **state)
{
	link_start("valkey://127.0.0.1:%u", 1000);
	turns_until(LINK_UP, 10);
	servers[0].says = "-READONLY You can't\r\n";
	link_refused(&l, now_ms, "READONLY x", 10);
	assert_calm(500, 1);
	assert_true(l.backoff_ms >= 90);
}

static void
test_a_connection_that_only_brings_a_refusal_is_no_success(void **state)
{
	unsigned int ups = 0, before = 0;

	link_start("valkey://127.0.0.1:%u", 1000);
	turns_until(LINK_UP, 10);
	for (unsigned int i = 0; i < 10000; i++) {
		turn();
		if (l.state == LINK_UP && l.connection != before) {
			before = l.connection;
			ups++;
			link_refused(&l, now_ms, "NOPERM no rights to snf.frame", 29);
		}
	}
	assert_in_range(ups, 3, 20);
	assert_int_equal(n_lines, 2);		/* What it was, and "connected again". */
}

static void
test_a_state_that_is_always_stale_makes_no_storm(void **state)
{
	unsigned int ups = 0, before = 0;

	link_start("valkey://127.0.0.1:%u", 1000);
	for (unsigned int i = 0; i < 10000; i++) {
		turn();
		if (l.state == LINK_UP && l.connection != before) {
			before = l.connection;
			ups++;
			link_refused(&l, now_ms, "SNFSTALE", 8);
		}
	}
	assert_in_range(ups, 10, 600);
	assert_in_range(n_lines, 1, 2);
}

static void
test_the_end_of_an_outage_is_found_in_a_hundredth_of_it(void **state)
{
	for (unsigned int outage = 1000; outage < 40000; outage *= 3) {
		unsigned int took;

		link_start("valkey://127.0.0.1:%u", 1000);
		turns_until(LINK_UP, 10);
		turns(2000);
		servers[0].says = "-LOADING x\r\n";
		server_drop(&servers[0]);
		link_receive(&l, &(char){ 0 }, 1, now_ms);
		turns(outage);
		servers[0].says = UP;
		took = turns_until(LINK_UP, 1000);
		assert_true(took <= 25 + outage / 100);
		link_fini(&l);
		server_drop(&servers[0]);
	}
	link_start("valkey://127.0.0.1:%u", 1000);
}

static void
test_what_all_partitions_see_is_said_by_the_first(void **state)
{
	struct link_config config = { .url = &url, .tables = tables, .n_tables = 2,
				      .partition = 3, .n_partitions = 4,
				      .timeout_ms = 1000 };

	link_start("valkey://127.0.0.1:%u", 1000);
	link_fini(&l);
	assert_int_equal(link_init(&l, &config), 0);
	turns_until(LINK_UP, 10);
	link_fail(&l, now_ms, "no answer");
	assert_int_equal(n_lines, 0);
	turns_until(LINK_UP, 100);
	link_refused(&l, now_ms, "SNFSTALE", 8);
	assert_int_equal(n_lines, 1);
	assert_non_null(strstr(lines, "partition 3: the state was lost"));
}

/* --- Beside ------------------------------------------------------------------------ */

static void
test_a_link_beside_follows_the_other(void **state)
{
	int fd[LINK_MAX_FDS];

	/* More than a link beside asks for, but it does not look at the rest. */
	servers[0].until = "AUTH";
	servers[0].says = OK UP;
	link_start("valkey://:p@127.0.0.1:%u", 1000);
	assert_int_equal(link_init_beside(&side, &l), 0);
	turn();
	assert_int_equal(side.state, LINK_DOWN);
	turns_until(LINK_UP, 10);
	turns(5);
	assert_int_equal(side.state, LINK_UP);
	assert_string_equal(servers[0].heard, "*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n");
	assert_int_equal(link_fds(&side, fd, LINK_MAX_FDS), 1);
	link_fail(&l, now_ms, "no answer");
	n_lines = 0;
	link_turn(&side, now_ms);
	assert_int_equal(side.state, LINK_DOWN);
	assert_int_equal(link_fds(&side, fd, LINK_MAX_FDS), 0);
	assert_int_equal(link_due_ms(&side, now_ms), UINT64_MAX);
	turns_until(LINK_UP, 100);
	turns(5);
	assert_int_equal(side.state, LINK_UP);
	assert_int_equal(side.connection, 2);
	assert_int_equal(n_lines, 1);		/* The main one's "connected again". */
}

static void
test_a_link_beside_says_what_is_refused_to_it(void **state)
{
	link_start("valkey://127.0.0.1:%u", 1000);
	link_init_beside(&side, &l);
	turns_until(LINK_UP, 10);
	turns(5);
	assert_int_equal(side.state, LINK_UP);
	link_refused(&side, now_ms, "NOPERM no snf.due", 17);
	assert_int_equal(side.state, LINK_DOWN);
	assert_int_equal(l.state, LINK_UP);
	assert_int_equal(n_lines, 1);
	turns(100);
	assert_int_equal(side.state, LINK_UP);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		LINK_TEST(test_the_greeting_and_what_it_brings),
		LINK_TEST(test_a_password_goes_first),
		LINK_TEST(test_answers_come_in_any_pieces),
		LINK_TEST(test_refusals_are_told_in_a_line),
		LINK_TEST(test_nobody_is_there),
		LINK_TEST(test_a_server_that_hangs_costs_a_timeout),
		LINK_TEST(test_a_lost_connection_is_made_again_at_once),
		LINK_TEST(test_a_wrong_password_is_tried_at_leisure),
		LINK_TEST(test_a_replica_is_tried_less_and_less_often),
		LINK_TEST(test_a_connection_that_only_brings_a_refusal_is_no_success),
		LINK_TEST(test_a_state_that_is_always_stale_makes_no_storm),
		LINK_TEST(test_the_end_of_an_outage_is_found_in_a_hundredth_of_it),
		LINK_TEST(test_what_all_partitions_see_is_said_by_the_first),
		LINK_TEST(test_a_link_beside_follows_the_other),
		LINK_TEST(test_a_link_beside_says_what_is_refused_to_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
