/*
 * url.c - takes a store's URL apart.  Every part is checked against what its field
 * holds: nothing is cut short in silence.
 */
#define _GNU_SOURCE
#include "store/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static const struct scheme {
	const char *text;
	enum url_kind kind;
	bool is_unix, is_tls;
} schemes[] = {
	{ "valkey://", URL_PLAIN, false, false },
	{ "valkeys://", URL_PLAIN, false, true },
	{ "valkey+unix://", URL_PLAIN, true, false },
	{ "valkey+sentinel://", URL_SENTINEL, false, false },
	{ "valkeys+sentinel://", URL_SENTINEL, false, true },
	{ "valkey+cluster://", URL_CLUSTER, false, false },
	{ "valkeys+cluster://", URL_CLUSTER, false, true },
};

static const char bad_name[] =
	"the name is up to 63 letters, digits, '_', '-', '.'";
static const char bad_path[] =
	"wants the absolute path of a socket, up to 107 bytes: "
	"valkey+unix:///run/valkey.sock";

static const struct scheme *
scheme_of(const char *text)
{
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (strncmp(text, schemes[i].text, strlen(schemes[i].text)) == 0)
			return &schemes[i];
	return NULL;
}

bool
url_is_known(const char *text)
{
	size_t n = strcspn(text, ":");

	/* "valkey:" is meant as one of ours, though it is wrong. */
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (strcspn(schemes[i].text, ":") == n &&
		    strncmp(text, schemes[i].text, n) == 0)
			return true;
	return false;
}

/* --- Parts ------------------------------------------------------------------------- */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Copies [from, end) with its %XX decoded.  False: too long, or not decodable. */
static bool
part_copy(char *to, size_t room, const char *from, const char *end)
{
	size_t n = 0;

	while (from < end) {
		int c = (unsigned char)*from++;

		if (c == '%') {
			if (end - from < 2 || hex_digit(from[0]) < 0 ||
			    hex_digit(from[1]) < 0)
				return false;
			c = hex_digit(from[0]) << 4 | hex_digit(from[1]);
			from += 2;
		}
		if (c == 0 || n + 1 >= room)
			return false;
		to[n++] = (char)c;
	}
	to[n] = 0;
	return true;
}

/* A store's or a service's name; both have the same room. */
static bool
name_copy(char to[64], const char *from, const char *end)
{
	for (const char *c = from; c < end; c++)
		if (!isalnum((unsigned char)*c) && strchr("_-.", *c) == NULL)
			return false;
	return from < end && part_copy(to, 64, from, end);
}

/* "user:password@" in front of '*at', which moves behind it. */
static const char *
userinfo_parse(struct store_url *u, const char **at, const char *end)
{
	const char *stop = memrchr(*at, '@', (size_t)(end - *at)), *colon;

	if (stop == NULL)
		return NULL;
	colon = memchr(*at, ':', (size_t)(stop - *at));
	if (colon == NULL || colon + 1 == stop)
		return "no password: write user:password@ or :password@";
	if (!part_copy(u->user, sizeof(u->user), *at, colon) ||
	    !part_copy(u->password, sizeof(u->password), colon + 1, stop))
		return "user or password too long, or with a bad %XX";
	*at = stop + 1;
	return NULL;
}

static const char *
port_parse(struct url_host *h, const char *from, const char *end)
{
	char *rest;

	if (!part_copy(h->port, sizeof(h->port), from, end))
		return "the port is a number from 1 to 65535";

	long port = strtol(h->port, &rest, 10);

	if (!isdigit((unsigned char)h->port[0]) || *rest != 0 || port < 1 || port > 65535)
		return "the port is a number from 1 to 65535";
	return NULL;
}

/* host, host:port, [address] or [address]:port, all of [at, end). */
static const char *
host_parse(struct url_host *h, const char *at, const char *end)
{
	bool bracket = at < end && *at == '[';
	const char *stop;

	at += bracket;
	if (at >= end)
		return "no host, or one that is too long: valkey://127.0.0.1:6379";
	stop = memchr(at, bracket ? ']' : ':', (size_t)(end - at));
	if (bracket && stop == NULL)
		return "an IPv6 address ends with ']'";
	if (stop == NULL)
		stop = end;
	if (stop == at || !part_copy(h->name, sizeof(h->name), at, stop))
		return "no host, or one that is too long: valkey://127.0.0.1:6379";
	stop += bracket;
	if (stop == end)
		return NULL;
	return *stop == ':' ? port_parse(h, stop + 1, end)
			    : "a ':' separates host and port";
}

static const char *
hosts_parse(struct store_url *u, const char *at, const char *end)
{
	for (;;) {
		const char *stop = memchr(at, ',', (size_t)(end - at));
		struct url_host *h = &u->host[u->n_hosts];
		const char *wrong;

		if (stop != NULL && u->kind == URL_PLAIN)
			return "one host only: several are for valkey+sentinel:// and "
			       "valkey+cluster://";
		if (u->n_hosts++ == URL_MAX_HOSTS)
			return "up to 8 hosts";
		strcpy(h->port, u->kind == URL_SENTINEL ? "26379" : "6379");
		wrong = host_parse(h, at, stop == NULL ? end : stop);
		if (wrong != NULL || stop == NULL)
			return wrong;
		at = stop + 1;
	}
}

/* --- "?key=value&key=value" --------------------------------------------------------- */

/* What may stand there depends on the rest of the URL. */
static const char *
parameter_parse(struct store_url *u, const char *from, const char *end)
{
	const struct {
		const char *word;
		char *to;
		bool allowed;
	} parameters[] = {
		{ "name=", u->name, u->is_unix || u->kind == URL_SENTINEL },
		{ "ca=", u->ca, u->is_tls },
		{ "cert=", u->cert, u->is_tls },
		{ "key=", u->key, u->is_tls },
	};

	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
		size_t n = strlen(parameters[i].word);

		if (!parameters[i].allowed || (size_t)(end - from) < n ||
		    memcmp(from, parameters[i].word, n) != 0)
			continue;
		if (i == 0)
			return name_copy(u->name, from + n, end) ? NULL : bad_name;
		if (from + n == end ||
		    !part_copy(parameters[i].to, URL_FILE_BYTES, from + n, end))
			return "a file's name is missing, too long or has a bad %XX";
		return NULL;
	}
	if (u->is_tls)
		return u->kind == URL_SENTINEL
			       ? "only name=, ca=, cert= and key= may stand behind '?'"
			       : "only ca=, cert= and key= may stand behind '?'";
	return u->is_unix || u->kind == URL_SENTINEL
		       ? "only ?name=NAME may stand behind the rest"
		       : "only /name may stand behind host and port";
}

static const char *
query_parse(struct store_url *u, const char *at)
{
	const char *wrong = NULL;

	if (*at != 0 && *at != '?')
		return "a '#' means nothing here: write %23";
	while (*at != 0 && wrong == NULL) {
		const char *end = at + 1 + strcspn(at + 1, "&");

		wrong = parameter_parse(u, at + 1, end);
		at = end;
	}
	if (wrong == NULL && (u->cert[0] == 0) != (u->key[0] == 0))
		return "a client's certificate is two files: cert=FILE&key=FILE";
	return wrong;
}

/* --- The whole ---------------------------------------------------------------------- */

static const char *
tcp_parse(struct store_url *u, const char *at)
{
	const char *end = at + strcspn(at, "/?#"), *rest;
	const char *wrong = userinfo_parse(u, &at, end);

	if (wrong == NULL)
		wrong = hosts_parse(u, at, end);
	if (wrong != NULL)
		return wrong;
	at = end + (*end == '/');
	rest = at + strcspn(at, "?#");
	if (u->kind == URL_SENTINEL && !name_copy(u->service, at, rest))
		return "wants the service's name, as the Sentinels call it: "
		       "valkey+sentinel://host,host/service";
	if (u->kind != URL_SENTINEL && at != rest && !name_copy(u->name, at, rest))
		return bad_name;
	return query_parse(u, rest);
}

static const char *
unix_parse(struct store_url *u, const char *at)
{
	const char *end = at + strcspn(at, "?#");
	const char *slash = memchr(at, '/', (size_t)(end - at));
	const char *wrong = userinfo_parse(u, &at, slash == NULL ? end : slash);
	char *path = u->host[0].name;

	if (wrong != NULL)
		return wrong;
	u->n_hosts = 1;
	if (*at != '/' || !part_copy(path, sizeof(u->host[0].name), at, end) ||
	    strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return bad_path;
	return query_parse(u, end);
}

int
url_parse(const char *text, struct store_url *out, char *why, size_t why_bytes)
{
	const struct scheme *s = scheme_of(text);
	struct store_url u = { .name = "snf" };
	const char *wrong = "wants valkey://host:port or valkey+unix:///path";

	if (s != NULL) {
		u.kind = s->kind;
		u.is_unix = s->is_unix;
		u.is_tls = s->is_tls;
		text += strlen(s->text);
		wrong = u.is_unix ? unix_parse(&u, text) : tcp_parse(&u, text);
	}
	if (wrong != NULL) {
		snprintf(why, why_bytes, "store: %s", wrong);
		return -EINVAL;
	}
	url_print(text - strlen(s->text), u.shown, sizeof(u.shown));
	*out = u;
	return 0;
}

void
url_print(const char *text, char *out, size_t bytes)
{
	const struct scheme *s = scheme_of(text);
	const char *start = strstr(text, "://"), *secret;
	struct store_url u = { 0 };

	if (start == NULL)
		start = text;
	else
		start += 3;
	/* What is no URL may have an '@' or a '/' in its password: of that, only what is
	 * behind the last '@' is shown. */
	secret = strrchr(start, '@');
	if (s != NULL) {
		const char *end = start + strcspn(start, "/?#");
		const char *stop = memrchr(start, '@', (size_t)(end - start));
		const char *wrong = s->is_unix ? unix_parse(&u, start) : NULL;

		u.kind = s->kind;
		u.is_tls = s->is_tls;
		if (!s->is_unix)
			wrong = tcp_parse(&u, start);
		if (wrong == NULL)
			secret = stop;
	}
	snprintf(out, bytes, "%.*s%s", (int)(start - text), text,
		 secret == NULL ? start : secret + 1);
}
