/*
 * store.c - picks the backend by the scheme of a URL: one in this process, or the one
 * that knows all that url.h does.
 */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>

#include "store/url.h"

static const char usage[] =
	"use embedded:, valkey://HOST:PORT, valkey+unix:///PATH, "
	"valkey+sentinel://HOST,HOST/SERVICE or valkey+cluster://HOST,HOST";

static bool
is_embedded(const char *url)
{
	size_t bytes = strlen(store_embedded_ops.scheme);

	/* "embedded" alone will do: in YAML the colon at the end needs quotes. */
	return strncmp(url, store_embedded_ops.scheme, bytes) == 0 &&
	       (url[bytes] == ':' || url[bytes] == '\0');
}

static const struct store_ops *
backend_of(const char *url, char *why, size_t why_bytes)
{
	struct store_url parsed;
	char shown[256];

	if (is_embedded(url))
		return &store_embedded_ops;
	if (url_is_known(url))
		return url_parse(url, &parsed, why, why_bytes) == 0 ? &store_valkey_ops
								    : NULL;
	url_print(url, shown, sizeof(shown));
	snprintf(why, why_bytes, "%s is no store: %s", shown, usage);
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
	url_print(url, text, bytes);
}
