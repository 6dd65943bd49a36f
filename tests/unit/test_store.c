/*
 * test_store.c - which backend a URL picks, and what is said of one that picks none.
 * The remote backends are stand-ins: nothing is connected here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "store/store.h"

static struct store opened;

static int
open_stand_in(const struct store_options *options, const struct store_table *tables,
	      unsigned int n_tables, struct store **out, char *why, size_t why_bytes)
{
	(void)tables;
	(void)n_tables;
	(void)why;
	(void)why_bytes;
	opened.ops = strstr(options->url, "valkey") != NULL ? &store_valkey_ops :
							      &store_embedded_ops;
	*out = &opened;
	return 0;
}

const struct store_ops store_embedded_ops = { .scheme = "embedded",
					      .open = open_stand_in };
const struct store_ops store_valkey_ops = { .scheme = "valkey", .open = open_stand_in };

static const struct {
	const char *name, *url;
	const struct store_ops *want;		/* NULL: refused. */
	const char *why;			/* Part of what is said. */
} cases[] = {
	{ "embedded", "embedded:", &store_embedded_ops, "" },
	{ "embedded with a name", "embedded:two", &store_embedded_ops, "" },
	{ "a server", "valkey://127.0.0.1:6379", &store_valkey_ops, "" },
	{ "a socket", "valkey+unix:///run/valkey.sock", &store_valkey_ops, "" },
	{ "a server without host", "valkey://", NULL, "host" },
	{ "a socket without path", "valkey+unix://", NULL, "path" },
	{ "TLS", "valkeys://host", &store_valkey_ops, "" },
	{ "Sentinels", "valkey+sentinel://a,b/name", &store_valkey_ops, "" },
	{ "a Cluster", "valkeys+cluster://a,b", &store_valkey_ops, "" },
	{ "Sentinels without a service", "valkey+sentinel://a,b", NULL, "service" },
	{ "embedded needs no colon", "embedded", &store_embedded_ops, "" },
	{ "a word is no scheme", "memory", NULL, "use embedded:" },
	{ "no such scheme", "memcached://host", NULL, "use embedded:" },
	{ "nothing", "", NULL, "use embedded:" },
	{ "another's password is not told", "redis://u:secret@h", NULL,
	  "redis://h is no store" },
};

static void
urls(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_options options = { .url = cases[i].url };
		struct store *s = NULL;
		char why[256] = "";
		bool ok = store_url_ok(cases[i].url, why, sizeof(why));
		int err = store_open(&options, NULL, 0, &s, why, sizeof(why));

		if (ok != (cases[i].want != NULL) || (err == 0) != ok ||
		    (ok && s->ops != cases[i].want))
			fail_msg("not so: %s", cases[i].name);
		if (strstr(why, cases[i].why) == NULL || strstr(why, "secret") != NULL)
			fail_msg("%s: it says '%s'", cases[i].name, why);
	}
}

static void
a_store_has_so_many_tables(void **state)
{
	struct store_options options = { .url = "embedded:" };
	struct store *s;
	char why[256] = "";

	(void)state;
	assert_int_equal(store_open(&options, NULL, STORE_MAX_TABLES + 1, &s, why,
				    sizeof(why)),
			 -EINVAL);
	assert_string_equal(why, "41 tables: a store has up to 40");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(urls),
		cmocka_unit_test(a_store_has_so_many_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
