/*
 * test_link_find.c - a link that follows a Cluster's redirects and the word of Sentinels,
 * while servers hang, die and are promoted.
 */
#define _GNU_SOURCE
#include "test_link.h"

/* --- A Cluster --------------------------------------------------------------------- */

static void
test_redirects_are_followed_at_once(void **state)
{
	char moved[40], ask[40];

	snprintf(moved, sizeof(moved), "-MOVED 77 :%u\r\n", servers[1].port);
	snprintf(ask, sizeof(ask), "ASK 77 127.0.0.1:%u", servers[2].port);
	servers[0].says = moved;
	servers[2].says = OK UP;
	link_start("valkey+cluster://127.0.0.1:%u", 1000);
	assert_true(turns_until(LINK_UP, 50) < 10);
	assert_int_equal(wire_address_port(&l.at), servers[1].port);
	assert_false(l.asking);
	assert_int_equal(n_lines, 0);
	link_refused(&l, now_ms, ask, strlen(ask));
	assert_true(turns_until(LINK_UP, 50) < 10);
	assert_int_equal(wire_address_port(&l.at), servers[2].port);
	assert_true(l.asking);
	assert_true(strstr(servers[2].heard, LINK_ASKING "*16\r\n$8\r\nSNF.OPEN") ==
		    servers[2].heard);
	assert_int_equal(l.table_id[0], 3);
	link_init_beside(&side, &l);
	servers[2].until = "x";
	turns(5);
	assert_true(side.state == LINK_UP && side.asking);
	assert_int_equal(wire_address_port(&side.at), servers[2].port);
}

static void
test_redirects_in_a_circle_make_no_storm(void **state)
{
	char there[40], back[40];

	snprintf(there, sizeof(there), "-MOVED 77 127.0.0.1:%u\r\n", servers[1].port);
	snprintf(back, sizeof(back), "-MOVED 77 127.0.0.1:%u\r\n", servers[0].port);
	servers[0].says = there;
	servers[1].says = back;
	link_start("valkey+cluster://127.0.0.1:%u", 1000);
	assert_calm(500, 0);
}

static void
test_a_dead_owner_is_not_waited_for(void **state)
{
	char moved[40];

	/* 0 and 1 know where the partition is; it is at 2, which hangs. */
	snprintf(moved, sizeof(moved), "-MOVED 77 127.0.0.1:%u\r\n", servers[2].port);
	servers[0].says = servers[1].says = moved;
	link_start("valkey+cluster://127.0.0.1:%u,127.0.0.1:%u", 1000);
	turns_until(LINK_UP, 50);
	turns(2000);
	servers[2].says = NULL;
	link_fail(&l, now_ms, "no answer within 1000 ms");
	turns(800);
	assert_int_equal(servers[2].n_connections, 1);
	/* Now 1 is promoted; 0 does not know yet. */
	servers[1].says = UP;
	assert_true(turns_until(LINK_UP, 1000) < 100);
	assert_int_equal(wire_address_port(&l.at), servers[1].port);
}

static void
test_a_dead_seed_does_not_eat_the_time_of_the_others(void **state)
{
	servers[0].says = NULL;
	link_start("valkey+cluster://127.0.0.1:%u,127.0.0.1:%u", 1000);
	assert_true(turns_until(LINK_UP, 1000) < 300);
}

/* --- Sentinels --------------------------------------------------------------------- */

static char told[2][64];

/* Server 'i' is a Sentinel that tells of the server 'of'. */
static void
sentinel_tells(unsigned int i, unsigned int of)
{
	snprintf(told[i], sizeof(told[i]), "*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%u\r\n",
		 snprintf(NULL, 0, "%u", servers[of].port), servers[of].port);
	servers[i].until = "get-master-addr-by-name\r\n$4\r\nmain\r\n";
	servers[i].says = told[i];
}

static void
test_a_promotion_is_followed_within_a_poll(void **state)
{
	struct server *one = &servers[1], *two = &servers[2];

	sentinel_tells(0, 1);
	link_start("valkey+sentinel://127.0.0.1:%u/main", 1000);
	assert_true(turns_until(LINK_UP, 100) < 10);
	assert_int_equal(wire_address_port(&l.at), one->port);
	turns(2000);
	assert_int_equal(servers[0].n_connections, 1);
	sentinel_tells(0, 2);
	assert_true(turns_until(LINK_DOWN, 1000) <= 255);
	assert_non_null(strstr(lines, "the primary is now 127.0.0.1:"));
	assert_true(turns_until(LINK_UP, 100) < 10);
	assert_int_equal(wire_address_port(&l.at), two->port);
}

static void
test_a_failover_costs_little_more_than_itself(void **state)
{
	sentinel_tells(0, 1);
	link_start("valkey+sentinel://127.0.0.1:%u/main", 1000);
	turns_until(LINK_UP, 100);
	turns(2000);
	/* It hangs; the Sentinel takes three seconds to find that out. */
	servers[1].says = NULL;
	link_fail(&l, now_ms, "no answer within 1000 ms");
	turns(3000);
	sentinel_tells(0, 2);
	assert_true(turns_until(LINK_UP, 1000) < 100);
	assert_int_equal(wire_address_port(&l.at), servers[2].port);
	assert_true(servers[0].n_connections < 50);
}

static void
test_a_dead_sentinel_is_passed_over(void **state)
{
	servers[0].until = "x";
	sentinel_tells(1, 2);
	link_start("valkey+sentinel://127.0.0.1:%u,127.0.0.1:%u/main", 1000);
	assert_true(turns_until(LINK_UP, 1000) < 300);
}

static void
test_no_sentinel_at_all_is_told(void **state)
{
	server_stop(&servers[0]);
	server_stop(&servers[1]);
	link_start("valkey+sentinel://127.0.0.1:%u,127.0.0.1:%u/main", 1000);
	turns(50);
	assert_non_null(strstr(l.reason, "Sentinel 127.0.0.1:"));
	assert_non_null(strstr(l.reason, ": Connection refused"));
	assert_false(l.hopeless);
}

static void
test_sentinels_that_die_are_missed_but_not_often(void **state)
{
	sentinel_tells(0, 1);
	link_start("valkey+sentinel://127.0.0.1:%u/main", 1000);
	turns_until(LINK_UP, 100);
	server_stop(&servers[0]);
	turns(20000);
	assert_int_equal(l.state, LINK_UP);
	assert_in_range(n_lines, 1, 2);
	assert_non_null(strstr(lines, "Sentinel 127.0.0.1:"));
}

static void
test_an_unknown_service_is_told(void **state)
{
	sentinel_tells(0, 2);
	servers[0].says = servers[1].says = "*-1\r\n";
	servers[1].until = servers[0].until;
	link_start("valkey+sentinel://127.0.0.1:%u,127.0.0.1:%u/main", 1000);
	turns(50);
	assert_non_null(strstr(l.reason, "it knows no service \"main\""));
	assert_true(l.hopeless);
	assert_calm(200, 0);
	sentinel_tells(1, 2);
	turns_until(LINK_UP, 1000);
}

static void
test_a_sentinel_gets_a_password_if_it_asks(void **state)
{
	sentinel_tells(0, 1);
	servers[0].says = "-NOAUTH Authentication required.\r\n";
	servers[1].says = OK UP;
	link_start("valkey+sentinel://me:secret@127.0.0.1:%u/main", 1000);
	turn();
	turn();
	assert_null(strstr(servers[0].heard, "AUTH"));
	while (strstr(servers[0].heard, "AUTH") == NULL)
		turn();
	/* It has answered that with another NOAUTH. */
	turns(3);
	assert_string_equal(strstr(l.reason, ": ") + 2,
			    "it wants a password: set user:password@ in the URL");
	char says[100];

	snprintf(says, sizeof(says), OK "%s", told[0]);
	servers[0].says = says;
	turns_until(LINK_UP, 1000);
	assert_int_equal(wire_address_port(&l.at), servers[1].port);
	/* The next questions on this connection are without. */
	servers[0].says = told[0];
	turns(2000);
	assert_int_equal(l.state, LINK_UP);
}

static void
test_a_server_in_place_of_a_sentinel_is_told(void **state)
{
	sentinel_tells(0, 1);
	servers[0].says = "-ERR unknown command 'SENTINEL'\r\n";
	link_start("valkey+sentinel://127.0.0.1:%u/main", 1000);
	turns(10);
	assert_non_null(strstr(l.reason, "this is no Sentinel"));
	assert_true(l.hopeless);
}

/* --- Waiting ----------------------------------------------------------------------- */

static void
test_it_says_when_it_has_something_to_do(void **state)
{
	sentinel_tells(0, 1);
	link_start("valkey+sentinel://127.0.0.1:%u/main", 1000);
	turns_until(LINK_UP, 100);
	turns(5);

	uint64_t due_ms = link_due_ms(&l, now_ms);
	int fd[LINK_MAX_FDS];

	assert_true(due_ms > now_ms && due_ms <= now_ms + 250);
	assert_int_equal(link_fds(&l, fd, LINK_MAX_FDS), 2);
	server_stop(&servers[1]);
	link_receive(&l, &(char){ 0 }, 1, now_ms);
	assert_int_equal(link_due_ms(&l, now_ms), now_ms);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		LINK_TEST(test_redirects_are_followed_at_once),
		LINK_TEST(test_redirects_in_a_circle_make_no_storm),
		LINK_TEST(test_a_dead_owner_is_not_waited_for),
		LINK_TEST(test_a_dead_seed_does_not_eat_the_time_of_the_others),
		LINK_TEST(test_a_promotion_is_followed_within_a_poll),
		LINK_TEST(test_a_failover_costs_little_more_than_itself),
		LINK_TEST(test_a_dead_sentinel_is_passed_over),
		LINK_TEST(test_no_sentinel_at_all_is_told),
		LINK_TEST(test_sentinels_that_die_are_missed_but_not_often),
		LINK_TEST(test_an_unknown_service_is_told),
		LINK_TEST(test_a_sentinel_gets_a_password_if_it_asks),
		LINK_TEST(test_a_server_in_place_of_a_sentinel_is_told),
		LINK_TEST(test_it_says_when_it_has_something_to_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
