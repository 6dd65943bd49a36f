/*
 * store.c - picks the backend by the scheme of a URL.  The one list of schemes.
 */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>

#include "store/url.h"

static int
valkey_check(const char *url, char *why, size_t why_bytes)
{
	struct store_url parsed;

	return url_parse(url, &parsed, why, why_bytes);
}

static const struct {
	const struct store_ops *ops;
	int (*check)(const char *url, char *why, size_t why_bytes);	/* NULL: any. */
} backends[] = {
	{ &store_embedded_ops, NULL },
	{ &store_valkey_ops, valkey_check },
	{ &store_valkey_unix_ops, valkey_check },
};

/* What people may expect to work: the error says so. */
static const char *const later[] = { "valkeys", "valkey+sentinel", "valkey+cluster" };

static bool
has_scheme(const char *url, const char *scheme)
{
	size_t bytes = strlen(scheme);

	/* "embedded" alone will do: in YAML the colon at the end needs quotes. */
	return strncmp(url, scheme, bytes) == 0 &&
	       (url[bytes] == ':' || url[bytes] == '\0');
}

static const struct store_ops *
backend_of(const char *url, char *why, size_t why_bytes)
{
	for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
		if (!has_scheme(url, backends[i].ops->scheme))
			continue;
		if (backends[i].check != NULL &&
		    backends[i].check(url, why, why_bytes) != 0)
			return NULL;
		return backends[i].ops;
	}
	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
		if (!has_scheme(url, later[i]))
			continue;
		snprintf(why, why_bytes,
			 "%s: is not supported yet, use valkey://HOST:PORT or "
			 "valkey+unix:///PATH",
			 later[i]);
		return NULL;
	}
	snprintf(why, why_bytes,
		 "%s is no store: use embedded:, valkey://HOST:PORT or "
		 "valkey+unix:///PATH",
		 url);
	return NULL;
}

int
store_open(const struct store_options *options, const struct store_table *tables,
	   unsigned int n_tables, struct store **out, char *why, size_t why_bytes)
{
	const struct store_ops *ops = backend_of(options->url, why, why_bytes);

	if (ops == NULL)
		return -EINVAL;
	if (n_tables > STORE_MAX_TABLES) {
		snprintf(why, why_bytes, "%u tables: a store has up to %d", n_tables,
			 STORE_MAX_TABLES);
		return -EINVAL;
	}
	return ops->open(options, tables, n_tables, out, why, why_bytes);
}

bool
store_url_ok(const char *url, char *why, size_t why_bytes)
{
	return backend_of(url, why, why_bytes) != NULL;
}

void
store_url_print(const char *url, char *text, size_t bytes)
{
	const char *secret = strstr(url, "://");
	const char *host = strrchr(url, '@');

	if (secret == NULL || host == NULL)
		snprintf(text, bytes, "%s", url);
	else
		snprintf(text, bytes, "%.*s%s", (int)(secret + 3 - url), url, host + 1);
}
