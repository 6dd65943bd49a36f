/*
 * test_finder.c - where a client looks for a primary, given what servers and Sentinels
 * say.  Nothing is connected; the clock is the test's.
 */
#include "store/finder.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct store_url url;
static struct finder finder;
static char why[FINDER_WHY_BYTES];

static void
start(const char *text)
{
	assert_int_equal(url_parse(text, &url, why, sizeof(why)), 0);
	assert_int_equal(finder_init(&finder, &url, why, sizeof(why)), 0);
}

/* The next address to be tried, as text. */
static const char *
next(uint64_t now_ms)
{
	static char shown[WIRE_SHOWN_BYTES];
	const struct finder_place *p = finder_next(&finder, now_ms);

	if (p == NULL)
		return "none";
	wire_address_print(&p->address, shown);
	return shown;
}

static int
redirect(const char *text, uint64_t now_ms)
{
	return finder_redirect(&finder, text, strlen(text), now_ms, why);
}

static enum finder_verdict
told(const char *host, uint16_t port, bool up)
{
	struct finder_target t = { .port = port };

	snprintf(t.host, sizeof(t.host), "%s", host);
	return finder_told(&finder, &t, up, why);
}

/* --- Texts ------------------------------------------------------------------------- */

static const struct {
	const char *name, *text, *want;
} redirects[] = {
	{ "moved", "MOVED 3999 127.0.0.1:6381", "moved 127.0.0.1 6381" },
	{ "asked", "ASK 3999 10.0.0.1:1", "ask 10.0.0.1 1" },
	{ "moved to a name", "MOVED 0 node-1.example:65535",
	  "moved node-1.example 65535" },
	{ "moved to an IPv6 address", "MOVED 1 2001:db8::1:6379",
	  "moved 2001:db8::1 6379" },
	{ "moved to another port of the same host", "MOVED 1 :7001", "moved  7001" },
	{ "moved to nowhere", "MOVED 1 ?:7001", "moved ? 7001" },
	{ "no slot", "MOVED 127.0.0.1:6381", NULL },
	{ "no port", "MOVED 1 127.0.0.1", NULL },
	{ "an empty port", "MOVED 1 127.0.0.1:", NULL },
	{ "port 0", "MOVED 1 127.0.0.1:0", NULL },
	{ "port 65536", "MOVED 1 127.0.0.1:65536", NULL },
	{ "a long port", "MOVED 1 127.0.0.1:000001", NULL },
	{ "a port with a sign", "MOVED 1 127.0.0.1:+1", NULL },
	{ "more behind the port", "MOVED 1 127.0.0.1:1 x", NULL },
	{ "a blank in the host", "MOVED 1 a b:1", NULL },
	{ "a control character in the host", "MOVED 1 a\033b:1", NULL },
	{ "another word", "MOVE 1 a:1", NULL },
	{ "a word alone", "MOVED ", NULL },
	{ "nothing", "", NULL },
};

static void
test_redirects_are_taken_apart(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(redirects) / sizeof(redirects[0]); i++) {
		const char *want = redirects[i].want;
		struct finder_target t;
		char got[400] = "";
		int err = finder_redirect_parse(redirects[i].text,
						strlen(redirects[i].text), &t);

		if (err == 0)
			snprintf(got, sizeof(got), "%s %s %u", t.is_ask ? "ask" : "moved",
				 t.host, t.port);
		if (want == NULL ? err != -EINVAL : strcmp(got, want) != 0)
			fail_msg("%s: got '%s' %d", redirects[i].name, got, err);
	}
}

static const struct {
	const char *name, *bytes;
	ssize_t taken;
	const char *want;
} answers[] = {
	{ "an address", "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n", 29, "127.0.0.1 6379" },
	{ "a name", "*2\r\n$1\r\na\r\n$1\r\n1\r\n", 18, "a 1" },
	{ "an unknown service", "*-1\r\n", -ENOENT, NULL },
	{ "an unknown service in the words of others", "$-1\r\n", -ENOENT, NULL },
	{ "half of it", "*2\r\n$9\r\n127.0", 0, NULL },
	{ "another number of words", "*3\r\n", -EBADMSG, NULL },
	{ "another type", "+OK\r\n", -EBADMSG, NULL },
	{ "an empty host", "*2\r\n$0\r\n\r\n$1\r\n1\r\n", -EBADMSG, NULL },
	{ "a bad port", "*2\r\n$1\r\na\r\n$2\r\nxx\r\n", -EBADMSG, NULL },
	{ "a host with a line in it", "*2\r\n$2\r\na\n\r\n$1\r\n1\r\n", -EBADMSG, NULL },
	{ "a long host", "*2\r\n$257\r\n", -EBADMSG, NULL },
};

static void
test_answers_are_taken_apart(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		size_t n = strlen(answers[i].bytes);
		struct finder_target t;
		char got[400] = "";
		ssize_t taken =
			finder_answer_parse((const uint8_t *)answers[i].bytes, n, &t);

		if (taken > 0)
			snprintf(got, sizeof(got), "%s %u", t.host, t.port);
		if (taken != answers[i].taken ||
		    (answers[i].want != NULL && strcmp(got, answers[i].want) != 0))
			fail_msg("%s: took %zd: '%s'", answers[i].name, taken, got);
	}
}

/* --- One server -------------------------------------------------------------------- */

static void
test_one_address_is_tried_again_and_again(void **state)
{
	(void)state;
	start("valkey://127.0.0.1:1");
	for (uint64_t now_ms = 1; now_ms < 10; now_ms++) {
		assert_string_equal(next(now_ms), "127.0.0.1:1");
		finder_down(&finder, FINDER_HUNG, now_ms);
		assert_int_equal(finder_attempt_ms(&finder, 1000), 1000);
	}
}

static void
test_a_host_that_cannot_be_found_is_said(void **state)
{
	(void)state;
	assert_int_equal(url_parse("valkey://a..b", &url, why,
				   sizeof(why)), 0);
	assert_int_equal(finder_init(&finder, &url, why, sizeof(why)), -EHOSTUNREACH);
	assert_non_null(strstr(why, "cannot find the host a..b"));
	start("valkey+cluster://a..b,127.0.0.1:1");
	assert_string_equal(next(1), "127.0.0.1:1");
}

/* --- A Cluster --------------------------------------------------------------------- */

static void
test_seeds_are_tried_in_turn(void **state)
{
	(void)state;
	start("valkey+cluster://127.0.0.1:1,127.0.0.1:2");
	assert_string_equal(next(1), "127.0.0.1:1");
	finder_down(&finder, FINDER_GONE, 1);
	assert_string_equal(next(2), "127.0.0.1:2");
	finder_down(&finder, FINDER_GONE, 2);
	assert_string_equal(next(3), "127.0.0.1:1");
}

static void
test_a_redirect_is_followed(void **state)
{
	(void)state;
	start("valkey+cluster://127.0.0.1:1");
	assert_string_equal(next(1), "127.0.0.1:1");
	assert_int_equal(redirect("MOVED 5 127.0.0.2:3", 1), 0);
	finder_down(&finder, FINDER_GONE, 1);
	assert_string_equal(next(1), "127.0.0.2:3");
	assert_false(finder.asking);
	assert_int_equal(redirect("MOVED 5 :4", 1), 0);
	assert_string_equal(next(1), "127.0.0.2:4");
	assert_int_equal(redirect("MOVED 5 ::1:6", 1), 0);
	assert_string_equal(next(1), "[::1]:6");
}

static void
test_asking_is_for_one_connection(void **state)
{
	(void)state;
	start("valkey+cluster://127.0.0.1:1");
	next(1);
	assert_int_equal(redirect("ASK 5 127.0.0.1:2", 1), 0);
	finder_down(&finder, FINDER_GONE, 1);
	assert_string_equal(next(1), "127.0.0.1:2");
	assert_true(finder.asking);
	finder_up(&finder);
	finder_down(&finder, FINDER_LOST, 2);
	assert_string_equal(next(2), "127.0.0.1:2");
	assert_false(finder.asking);
}

static void
test_a_lost_server_is_tried_first_and_then_the_others(void **state)
{
	(void)state;
	start("valkey+cluster://127.0.0.1:1,127.0.0.1:2");
	next(1);
	redirect("MOVED 5 127.0.0.1:3", 1);
	next(1);
	finder_up(&finder);
	finder_down(&finder, FINDER_LOST, 2);
	assert_string_equal(next(2), "127.0.0.1:3");
	finder_down(&finder, FINDER_GONE, 3);
	assert_string_equal(next(3), "127.0.0.1:2");
	finder_down(&finder, FINDER_GONE, 4);
	assert_string_equal(next(4), "127.0.0.1:3");
}

static void
test_a_server_that_hangs_is_left_alone_for_a_while(void **state)
{
	(void)state;
	start("valkey+cluster://127.0.0.1:1,127.0.0.1:2");
	next(1);
	redirect("MOVED 5 127.0.0.1:3", 1);
	next(1);
	finder_up(&finder);
	finder_down(&finder, FINDER_HUNG, 100);
	for (uint64_t now_ms = 101; now_ms < 1100; now_ms += 20) {
		assert_string_not_equal(next(now_ms), "127.0.0.1:3");
		assert_int_equal(redirect("MOVED 5 127.0.0.1:3", now_ms), -EAGAIN);
		finder_down(&finder, FINDER_GONE, now_ms);
	}
	assert_int_equal(redirect("MOVED 5 127.0.0.1:4", 1000), 0);
	assert_string_equal(next(1000), "127.0.0.1:4");
	assert_int_equal(redirect("MOVED 5 127.0.0.1:3", 1100), 0);
	assert_string_equal(next(1100), "127.0.0.1:3");
	assert_true(finder_attempt_ms(&finder, 10000) < 300);
}

static void
test_a_server_that_is_far_away_gets_more_time(void **state)
{
	(void)state;
	start("valkey+cluster://127.0.0.1:1,127.0.0.1:2");
	next(1);
	assert_int_equal(finder_attempt_ms(&finder, 400), 100);
	finder_down(&finder, FINDER_HUNG, 100);
	next(101);
	assert_int_equal(finder_attempt_ms(&finder, 400), 100);
	finder_down(&finder, FINDER_HUNG, 200);
	next(201);
	assert_int_equal(finder_attempt_ms(&finder, 400), 400);
}

static void
test_a_name_is_followed_if_the_url_has_it(void **state)
{
	(void)state;
	start("valkey+cluster://localhost:1");
	next(1);
	assert_int_equal(redirect("MOVED 5 LocalHost:2", 1), 0);
	assert_string_equal(finder_next(&finder, 1)->address.host, "localhost");
	assert_int_equal(redirect("MOVED 5 elsewhere:2", 1), -EINVAL);
	assert_non_null(strstr(why, "elsewhere"));
	assert_int_equal(redirect("MOVED 5 ?:2", 1), -EINVAL);
}

static void
test_an_address_of_the_url_keeps_its_name_for_certificates(void **state)
{
	char text[64];

	(void)state;
	start("valkeys+cluster://localhost:1");
	bool four = finder.place[0].address.any.sa_family == AF_INET;

	snprintf(text, sizeof(text), "MOVED 5 %s:2", four ? "127.0.0.1" : "::1");
	next(1);
	assert_int_equal(redirect(text, 1), 0);
	assert_string_equal(finder_next(&finder, 1)->address.host, "localhost");
	assert_int_equal(redirect("MOVED 5 10.1.1.1:2", 1), 0);
	assert_string_equal(finder_next(&finder, 1)->address.host, "10.1.1.1");
}

static void
test_any_number_of_redirects_is_remembered_in_bounds(void **state)
{
	char text[64];

	(void)state;
	start("valkey+cluster://127.0.0.1:1");
	next(1);
	for (unsigned int i = 0; i < 1000; i++) {
		snprintf(text, sizeof(text), "MOVED 5 10.0.%u.%u:2", i / 250, i % 250);
		assert_int_equal(redirect(text, 1), 0);
		assert_string_equal(next(1), strrchr(text, ' ') + 1);
		finder_up(&finder);
		finder_down(&finder, FINDER_GONE, 1);
	}
	assert_true(finder.n_places <= FINDER_MAX_PLACES);
	assert_string_equal(finder.place[0].address.host, "127.0.0.1");
}

/* --- Sentinels --------------------------------------------------------------------- */

static void
test_only_a_sentinel_knows(void **state)
{
	(void)state;
	start("valkey+sentinel://127.0.0.1:1,127.0.0.1:2/m");
	assert_string_equal(next(1), "none");
	assert_int_equal(told("10.0.0.1", 6379, false), FINDER_GO);
	assert_string_equal(next(1), "10.0.0.1:6379");
	assert_string_equal(next(2), "10.0.0.1:6379");
}

static void
test_a_sentinel_that_knew_the_primary_is_believed(void **state)
{
	(void)state;
	start("valkey+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/m");
	assert_int_equal(told("10.0.0.1", 1, false), FINDER_GO);
	next(1);
	finder_up(&finder);
	assert_int_equal(told("10.0.0.1", 1, true), FINDER_STAY);
	assert_int_equal(told("10.0.0.2", 1, true), FINDER_GO);
	assert_string_equal(next(2), "10.0.0.2:1");
}

static void
test_a_working_primary_is_not_left_on_the_word_of_one(void **state)
{
	(void)state;
	start("valkey+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/m");
	told("10.0.0.1", 1, false);
	next(1);
	finder_up(&finder);
	finder_ask_another(&finder);
	/* The same one again and again is still one. */
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(told("10.0.0.9", 1, true), FINDER_ASK_ANOTHER);
	finder_ask_another(&finder);
	assert_int_equal(told("10.0.0.1", 1, true), FINDER_STAY);
	finder_ask_another(&finder);
	assert_int_equal(told("10.0.0.9", 1, true), FINDER_ASK_ANOTHER);
	finder_ask_another(&finder);
	assert_int_equal(told("10.0.0.9", 1, true), FINDER_GO);
}

static void
test_without_a_primary_any_sentinel_is_believed(void **state)
{
	(void)state;
	start("valkey+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/m");
	told("10.0.0.1", 1, false);
	next(1);
	finder_up(&finder);
	finder_down(&finder, FINDER_LOST, 5);
	finder_ask_another(&finder);
	assert_int_equal(told("10.0.0.2", 1, false), FINDER_GO);
}

static void
test_a_sentinel_that_repeats_what_is_of_no_use_is_left(void **state)
{
	unsigned int n = 1;

	(void)state;
	start("valkey+sentinel://127.0.0.1:1,127.0.0.1:2/m");
	told("10.0.0.1", 1, false);
	next(1);
	/* While the attempt lasts there is no reason. */
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(told("10.0.0.1", 1, false), FINDER_STAY);
	finder_down(&finder, FINDER_GONE, 5);
	while (told("10.0.0.1", 1, false) == FINDER_STAY)
		assert_true(++n < 10);
	assert_int_equal(finder.asked, 0);
	finder_ask_another(&finder);
	assert_int_equal(finder.asked, 1);
	finder_ask_another(&finder);
	assert_int_equal(finder.asked, 0);
}

static void
test_a_sentinel_that_names_a_host_is_told_on(void **state)
{
	(void)state;
	start("valkey+sentinel://127.0.0.1:1,127.0.0.1:2/m");
	assert_int_equal(told("db-1", 1, false), FINDER_ASK_ANOTHER);
	assert_non_null(strstr(why, "names the host db-1, which the URL does not"));
	assert_string_equal(next(1), "none");
}

static void
test_a_sentinel_at_the_servers_address_is_no_server(void **state)
{
	(void)state;
	start("valkey+sentinel://127.0.0.1:1/m");
	assert_int_equal(told("127.0.0.1", 6379, false), FINDER_GO);
	assert_string_equal(next(1), "127.0.0.1:6379");
	assert_int_equal(finder.n_seeds, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_redirects_are_taken_apart),
		cmocka_unit_test(test_answers_are_taken_apart),
		cmocka_unit_test(test_one_address_is_tried_again_and_again),
		cmocka_unit_test(test_a_host_that_cannot_be_found_is_said),
		cmocka_unit_test(test_seeds_are_tried_in_turn),
		cmocka_unit_test(test_a_redirect_is_followed),
		cmocka_unit_test(test_asking_is_for_one_connection),
		cmocka_unit_test(test_a_lost_server_is_tried_first_and_then_the_others),
		cmocka_unit_test(test_a_server_that_hangs_is_left_alone_for_a_while),
		cmocka_unit_test(test_a_server_that_is_far_away_gets_more_time),
		cmocka_unit_test(test_a_name_is_followed_if_the_url_has_it),
		cmocka_unit_test(
			test_an_address_of_the_url_keeps_its_name_for_certificates),
		cmocka_unit_test(test_any_number_of_redirects_is_remembered_in_bounds),
		cmocka_unit_test(test_only_a_sentinel_knows),
		cmocka_unit_test(test_a_sentinel_that_knew_the_primary_is_believed),
		cmocka_unit_test(test_a_working_primary_is_not_left_on_the_word_of_one),
		cmocka_unit_test(test_without_a_primary_any_sentinel_is_believed),
		cmocka_unit_test(test_a_sentinel_that_repeats_what_is_of_no_use_is_left),
		cmocka_unit_test(test_a_sentinel_that_names_a_host_is_told_on),
		cmocka_unit_test(test_a_sentinel_at_the_servers_address_is_no_server),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
