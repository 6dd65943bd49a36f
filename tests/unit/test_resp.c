/*
 * test_resp.c - replies from a server, whole, cut short and wrong; commands to it.
 */
#include "store/resp.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	const char *name;
	const char *bytes;
	ssize_t taken; /* Or a negative errno. */
	struct resp want;
} replies[] = {
	{ "a simple string", "+OK\r\n", 5, { '+', 0, "OK", 2 } },
	{ "an empty simple string", "+\r\n", 3, { '+', 0, "", 0 } },
	{ "an error", "-ERR no\r\n", 9, { '-', 0, "ERR no", 6 } },
	{ "a number", ":42\r\n", 5, { ':', 42, NULL, 0 } },
	{ "a negative number", ":-42\r\n", 6, { ':', -42, NULL, 0 } },
	{ "the greatest number",
	  ":9223372036854775807\r\n",
	  22,
	  { ':', INT64_MAX, NULL, 0 } },
	{ "a greater number is refused", ":9223372036854775808\r\n", -EBADMSG, { 0 } },
	{ "a string's first line leaves the string",
	  "$3\r\nabc\r\n",
	  4,
	  { '$', 3, NULL, 0 } },
	{ "a null string", "$-1\r\n", 5, { '$', -1, NULL, 0 } },
	{ "another negative length is refused", "$-2\r\n", -EBADMSG, { 0 } },
	{ "an array's first line leaves its replies",
	  "*2\r\n:1\r\n:2\r\n",
	  4,
	  { '*', 2, NULL, 0 } },
	{ "what follows is left", ":1\r\n+OK\r\n", 4, { ':', 1, NULL, 0 } },
	{ "nothing is too little", "", 0, { 0 } },
	{ "a type alone is too little", "$", 0, { 0 } },
	{ "a line without its end is too little", "$12\r", 0, { 0 } },
	{ "a bare line feed is refused", ":1\n", -EBADMSG, { 0 } },
	{ "an empty line is refused", "\r\n", -EBADMSG, { 0 } },
	{ "no number is refused", ":\r\n", -EBADMSG, { 0 } },
	{ "a minus alone is refused", ":-\r\n", -EBADMSG, { 0 } },
	{ "a plus is refused", ":+1\r\n", -EBADMSG, { 0 } },
	{ "a blank is refused", "$ 1\r\n", -EBADMSG, { 0 } },
	{ "a carriage return inside is refused", ":1\r1\r\n", -EBADMSG, { 0 } },
	{ "RESP3 is refused", "_\r\n", -EBADMSG, { 0 } },
	{ "HTTP is refused", "HTTP/1.1 400 Bad Request\r\n", -EBADMSG, { 0 } },
};

static void
test_replies(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
		const uint8_t *bytes = (const uint8_t *)replies[i].bytes;
		const struct resp *want = &replies[i].want;
		struct resp r;
		ssize_t n = resp_next(bytes, strlen(replies[i].bytes), &r);

		if (n != replies[i].taken)
			fail_msg("%s: took %zd", replies[i].name, n);
		if (n <= 0)
			continue;
		if (r.type != want->type || r.number != want->number ||
		    r.text_bytes != want->text_bytes ||
		    (want->text != NULL && memcmp(r.text, want->text, r.text_bytes) != 0))
			fail_msg("%s: read wrongly", replies[i].name);
	}
}

static const struct {
	const char *name;
	const char *bytes;
	ssize_t taken;
	const char *want;
} strings[] = {
	{ "a string", "$3\r\nabc\r\n", 9, "abc" },
	{ "an empty string", "$0\r\n\r\n", 6, "" },
	{ "one of the greatest length", "$8\r\n12345678\r\n", 14, "12345678" },
	{ "a longer one is refused", "$9\r\n123456789\r\n", -EBADMSG, NULL },
	{ "what follows is left", "$1\r\na\r\n$", 7, "a" },
	{ "a null string is refused", "$-1\r\n", -EBADMSG, NULL },
	{ "another type is refused", ":1\r\n", -EBADMSG, NULL },
	{ "a string that goes on is refused", "$1\r\nabc\r\n", -EBADMSG, NULL },
	{ "half a string is too little", "$3\r\nab", 0, NULL },
	{ "one without its end is too little", "$3\r\nabc\r", 0, NULL },
};

static void
test_strings(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
		const uint8_t *bytes = (const uint8_t *)strings[i].bytes, *text;
		size_t n;
		ssize_t got = resp_string(bytes, strlen(strings[i].bytes), 8, &text, &n);

		if (got != strings[i].taken)
			fail_msg("%s: took %zd", strings[i].name, got);
		if (got > 0 && (n != strlen(strings[i].want) ||
				memcmp(text, strings[i].want, n) != 0))
			fail_msg("%s: read wrongly", strings[i].name);
	}
}

static void
test_any_cut_is_too_little(void **state)
{
	static const uint8_t line[] = "-ERR unknown command\r\n";
	struct resp r;

	(void)state;
	for (size_t n = 0; n < sizeof(line) - 1; n++) {
		uint8_t *copy = malloc(n);

		memcpy(copy, line, n);
		assert_int_equal(resp_next(copy, n, &r), 0);
		free(copy);
	}
}

static void
test_a_line_has_an_end(void **state)
{
	uint8_t line[2 * RESP_MAX_LINE];
	struct resp r;

	(void)state;
	memset(line, 'x', sizeof(line));
	line[0] = '-';
	assert_int_equal(resp_next(line, RESP_MAX_LINE - 1, &r), 0);
	assert_int_equal(resp_next(line, RESP_MAX_LINE, &r), -EBADMSG);
	memcpy(line + RESP_MAX_LINE - 2, "\r\n", 2);
	assert_int_equal(resp_next(line, sizeof(line), &r), RESP_MAX_LINE);
}

static void
test_commands(void **state)
{
	static const char want[] = "*3\r\n$9\r\nSNF.FRAME\r\n$0\r\n\r\n$20\r\n"
				   "18446744073709551615\r\n";
	uint8_t bytes[sizeof(want) - 1];

	(void)state;
	/* In every smaller room one writer fails, and writes nothing. */
	for (size_t room = 0; room <= sizeof(bytes); room++) {
		struct resp_out o = { bytes, bytes + room };
		bool fits = resp_put_head(&o, '*', 3) &&
			    resp_put_string(&o, "SNF.FRAME", 9) &&
			    resp_put_string(&o, "", 0) && resp_put_number(&o, UINT64_MAX);

		assert_int_equal(fits, room == sizeof(bytes));
		assert_true(o.at <= o.end);
		assert_memory_equal(bytes, want, (size_t)(o.at - bytes));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replies),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_any_cut_is_too_little),
		cmocka_unit_test(test_a_line_has_an_end),
		cmocka_unit_test(test_commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
