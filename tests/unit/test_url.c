/*
 * test_url.c - where a store is, what is a mistake, and what is shown of it.
 */
#define _GNU_SOURCE
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
	const char *want;	/* Kind, hosts and ports, user, password, name, the rest. */
} cases[] = {
	{ "a host alone", "valkey://host", "tcp|host 6379|||snf" },
	{ "a slash alone", "valkey://host/", "tcp|host 6379|||snf" },
	{ "a port", "valkey://10.0.0.1:7000", "tcp|10.0.0.1 7000|||snf" },
	{ "a name", "valkey://h:1/edge-1.a_B", "tcp|h 1|||edge-1.a_B" },
	{ "user and password", "valkey://u:p@h", "tcp|h 6379|u|p|snf" },
	{ "a password alone", "valkey://:p@h", "tcp|h 6379||p|snf" },
	{ "a password with everything in it", "valkey://u:a%2Fb%40:c@d@h:1/n",
	  "tcp|h 1|u|a/b@:c@d|n" },
	{ "an IPv6 address", "valkey://[2001:db8::1]", "tcp|2001:db8::1 6379|||snf" },
	{ "an IPv6 address and a port", "valkey://[::1]:80/n", "tcp|::1 80|||n" },
	{ "a socket", "valkey+unix:///run/v.sock", "unix|/run/v.sock|||snf" },
	{ "a socket and a name", "valkey+unix:///a%3Fb?name=x", "unix|/a?b|||x" },
	{ "a socket and a password", "valkey+unix://u:p@/a", "unix|/a|u|p|snf" },
	{ "an '@' in a path is the path's", "valkey+unix:///a@b",
	  "unix|/a@b|||snf" },
	{ "TLS", "valkeys://u:p@h/n", "tcp+tls|h 6379|u|p|n" },
	{ "TLS with files", "valkeys://h?ca=/etc/a%26b&cert=c.pem&key=/k",
	  "tcp+tls|h 6379|||snf|ca /etc/a&b|cert c.pem|key /k" },
	{ "TLS with a name and a file", "valkeys://h/n?ca=/c",
	  "tcp+tls|h 6379|||n|ca /c" },
	{ "Sentinels", "valkey+sentinel://a,b:1,[::1]:2/main",
	  "sentinel|a 26379,b 1,::1 2|||snf|main" },
	{ "Sentinels and a name", "valkey+sentinel://u:p@a/main-1.x?name=edge",
	  "sentinel|a 26379|u|p|edge|main-1.x" },
	{ "Sentinels under TLS", "valkeys+sentinel://a/m?ca=/c&name=n",
	  "sentinel+tls|a 26379|||n|m|ca /c" },
	{ "a Cluster", "valkey+cluster://a,b:7000", "cluster|a 6379,b 7000|||snf" },
	{ "a Cluster and a name", "valkey+cluster://:p@a,b/n",
	  "cluster|a 6379,b 6379||p|n" },
	{ "a Cluster under TLS", "valkeys+cluster://a?cert=c&key=k",
	  "cluster+tls|a 6379|||snf|cert c|key k" },
	{ "8 hosts", "valkey+cluster://a,b,c,d,e,f,g,h:1",
	  "cluster|a 6379,b 6379,c 6379,d 6379,e 6379,f 6379,g 6379,h 1|||snf" },
	{ "9 hosts", "valkey+cluster://a,b,c,d,e,f,g,h,i", NULL },
	{ "two hosts without a Cluster", "valkey://a,b", NULL },
	{ "an empty host among others", "valkey+cluster://a,,b", NULL },
	{ "a comma at the end", "valkey+cluster://a,", NULL },
	{ "a bad port among others", "valkey+sentinel://a,b:0/m", NULL },
	{ "Sentinels without a service", "valkey+sentinel://a,b", NULL },
	{ "Sentinels with an empty service", "valkey+sentinel://a,b/", NULL },
	{ "a service with a blank", "valkey+sentinel://a/my%20main", NULL },
	{ "a name where a Cluster has none", "valkey+cluster://a?name=n", NULL },
	{ "files without TLS", "valkey://a?ca=/c", NULL },
	{ "a certificate without a key", "valkeys://a?cert=/c", NULL },
	{ "a key without a certificate", "valkeys://a?key=/c", NULL },
	{ "an empty file", "valkeys://a?ca=", NULL },
	{ "an empty parameter", "valkeys://a?ca=/c&", NULL },
	{ "an empty query", "valkeys://a?", NULL },
	{ "another parameter of TLS", "valkeys://a?verify=no", NULL },
	{ "a fragment", "valkeys://a#b", NULL },
	{ "a fragment in a query", "valkeys://a?ca=/c#b",
	  "tcp+tls|a 6379|||snf|ca /c#b" },
	{ "TLS over a socket", "valkeys+unix:///run/v.sock", NULL },
	{ "a scheme and no slashes", "valkey:host", NULL },
	{ "a file of 512 bytes", "valkeys://a?ca=" X250 X250 X10 "xx", NULL },
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

static const char *
print(const struct store_url *u, char *to, size_t bytes)
{
	static const char *const kinds[] = { "tcp", "sentinel", "cluster" };
	FILE *f = fmemopen(to, bytes, "w");

	fprintf(f, "%s%s|", u->is_unix ? "unix" : kinds[u->kind],
		u->is_tls ? "+tls" : "");
	for (unsigned int i = 0; i < u->n_hosts; i++)
		fprintf(f, "%s%s%s%s", i == 0 ? "" : ",", u->host[i].name,
			u->is_unix ? "" : " ", u->host[i].port);
	fprintf(f, "|%s|%s|%s", u->user, u->password, u->name);
	if (u->service[0] != 0)
		fprintf(f, "|%s", u->service);
	if (u->ca[0] != 0)
		fprintf(f, "|ca %s", u->ca);
	if (u->cert[0] != 0)
		fprintf(f, "|cert %s", u->cert);
	if (u->key[0] != 0)
		fprintf(f, "|key %s", u->key);
	fclose(f);
	return to;
}

static void
test_cases(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_url u;
		char why[200] = "", got[1024] = "";
		int err = url_parse(cases[i].text, &u, why, sizeof(why));

		if (err == 0)
			print(&u, got, sizeof(got));
		if (cases[i].want == NULL && (err != -EINVAL || why[0] == 0))
			fail_msg("%s: not refused: %s", cases[i].name, got);
		if (cases[i].want != NULL && strcmp(got, cases[i].want) != 0)
			fail_msg("%s: got %s %s", cases[i].name, got, why);
		if (strlen(why) > 0 && strchr(why, '\n') != NULL)
			fail_msg("%s: more than a line: %s", cases[i].name, why);
	}
}

static const struct {
	const char *name, *text, *want;
} shown[] = {
	{ "nothing to hide", "valkey://h:1/n", "valkey://h:1/n" },
	{ "user and password", "valkey://u:p@h:1/n", "valkey://h:1/n" },
	{ "a password with an '@'", "valkey://u:p@q@h", "valkey://h" },
	{ "a password of several hosts", "valkeys+cluster://:p@a,b:1/n?ca=/x@y",
	  "valkeys+cluster://a,b:1/n?ca=/x@y" },
	{ "a service", "valkey+sentinel://u:p@a,b/main?name=n",
	  "valkey+sentinel://a,b/main?name=n" },
	{ "an '@' in a path", "valkey+unix:///a@b", "valkey+unix:///a@b" },
	{ "a password and an '@' in a path", "valkey+unix://u:p@/a@b",
	  "valkey+unix:///a@b" },
	{ "a password with a '/' is a mistake, and hidden", "valkey://u:p/q@h",
	  "valkey://h" },
	{ "a password with a '?' likewise", "valkeys://u:p?q@h", "valkeys://h" },
	{ "another scheme", "redis://u:p@h", "redis://h" },
	{ "no scheme", "u:p@h", "h" },
	{ "embedded", "embedded:", "embedded:" },
	{ "nothing", "", "" },
};

static void
test_passwords_are_hidden(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++) {
		char got[100];

		url_print(shown[i].text, got, sizeof(got));
		if (strcmp(got, shown[i].want) != 0)
			fail_msg("%s: got %s", shown[i].name, got);
	}
}

static void
test_schemes_are_known(void **state)
{
	(void)state;
	assert_true(url_is_known("valkey://h") && url_is_known("valkey:") &&
		    url_is_known("valkeys+cluster://") && url_is_known("valkey+unix:"));
	assert_false(url_is_known("redis://h") || url_is_known("valke://") ||
		     url_is_known("valkeyss://") || url_is_known("") ||
		     url_is_known("valkeys+unix://"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_passwords_are_hidden),
		cmocka_unit_test(test_schemes_are_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
