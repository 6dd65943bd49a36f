/*
 * test_url.c - where a store is, and what is a mistake.
 */
#include "store/url.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define X10  "xxxxxxxxxx"
#define X50  X10 X10 X10 X10 X10
#define X250 X50 X50 X50 X50 X50

static const struct {
	const char *name;
	const char *text;
	const char *want; /* unix or tcp, host, port, user, password, name. */
} cases[] = {
	{ "a host alone", "valkey://host", "tcp|host|6379|||snf" },
	{ "a slash alone", "valkey://host/", "tcp|host|6379|||snf" },
	{ "a port", "valkey://10.0.0.1:7000", "tcp|10.0.0.1|7000|||snf" },
	{ "a name", "valkey://h:1/edge-1.a_B", "tcp|h|1|||edge-1.a_B" },
	{ "user and password", "valkey://u:p@h", "tcp|h|6379|u|p|snf" },
	{ "a password alone", "valkey://:p@h", "tcp|h|6379||p|snf" },
	{ "a password with everything in it", "valkey://u:a%2Fb%40:c@d@h:1/n",
	  "tcp|h|1|u|a/b@:c@d|n" },
	{ "an IPv6 address", "valkey://[2001:db8::1]", "tcp|2001:db8::1|6379|||snf" },
	{ "an IPv6 address and a port", "valkey://[::1]:80/n", "tcp|::1|80|||n" },
	{ "a socket", "valkey+unix:///run/v.sock", "unix|/run/v.sock|6379|||snf" },
	{ "a socket and a name", "valkey+unix:///a%3Fb?name=x", "unix|/a?b|6379|||x" },
	{ "a socket and a password", "valkey+unix://u:p@/a", "unix|/a|6379|u|p|snf" },
	{ "an '@' in a path is the path's", "valkey+unix:///a@b",
	  "unix|/a@b|6379|||snf" },
	{ "another scheme", "redis://h", NULL },
	{ "no scheme", "host:6379", NULL },
	{ "nothing", "", NULL },
	{ "no host", "valkey://", NULL },
	{ "no host but a port", "valkey://:6379", NULL },
	{ "no port after the colon", "valkey://h:", NULL },
	{ "port 0", "valkey://h:0", NULL },
	{ "port 65536", "valkey://h:65536", NULL },
	{ "a port with more behind it", "valkey://h:80x", NULL },
	{ "a port with a sign", "valkey://h:+80", NULL },
	{ "a long port", "valkey://h:00000000080", NULL },
	{ "a user without a password", "valkey://u@h", NULL },
	{ "an empty password", "valkey://u:@h", NULL },
	{ "an open bracket", "valkey://[::1", NULL },
	{ "more behind the bracket", "valkey://[::1]80", NULL },
	{ "a name with a brace", "valkey://h/a}b", NULL },
	{ "a name with a slash", "valkey://h/a/b", NULL },
	{ "a long name", "valkey://h/" X50 X10 "xxxx", NULL },
	{ "a long host", "valkey://" X250 X10, NULL },
	{ "a query", "valkey://h?name=x", NULL },
	{ "a bad escape", "valkey://u:%4@h", NULL },
	{ "a null byte", "valkey://u:%00@h", NULL },
	{ "a relative path", "valkey+unix://run/v.sock", NULL },
	{ "no path", "valkey+unix://", NULL },
	{ "a long path", "valkey+unix:///" X50 X50 X10, NULL },
	{ "an empty name", "valkey+unix:///a?name=", NULL },
	{ "another parameter", "valkey+unix:///a?db=1", NULL },
};

static void
test_cases(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_url u;
		char why[200] = "", got[1024] = "";
		int err = url_parse(cases[i].text, &u, why, sizeof(why));

		if (err == 0)
			snprintf(got, sizeof(got), "%s|%s|%s|%s|%s|%s",
				 u.is_unix ? "unix" : "tcp", u.host, u.port, u.user,
				 u.password, u.name);
		if (cases[i].want == NULL && (err != -EINVAL || why[0] == 0))
			fail_msg("%s: not refused: %s", cases[i].name, got);
		if (cases[i].want != NULL && strcmp(got, cases[i].want) != 0)
			fail_msg("%s: got %s %s", cases[i].name, got, why);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
