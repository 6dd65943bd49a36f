/*
 * url.c - takes a store's URL apart.  Every part is checked against what its field
 * holds: nothing is cut short in silence.
 */
#include "store/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

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

static bool
name_copy(struct store_url *u, const char *from, const char *end)
{
	for (const char *c = from; c < end; c++)
		if (!isalnum((unsigned char)*c) && strchr("_-.", *c) == NULL)
			return false;
	return from < end && part_copy(u->name, sizeof(u->name), from, end);
}

/* "user:password@" in front of '*at', which moves behind it. */
static const char *
userinfo_parse(struct store_url *u, const char **at, const char *end)
{
	const char *stop = NULL, *colon;

	for (const char *c = *at; c < end; c++)
		if (*c == '@')
			stop = c;
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
port_parse(struct store_url *u, const char *from, const char *end)
{
	char *rest;

	if (!part_copy(u->port, sizeof(u->port), from, end))
		return "the port is a number from 1 to 65535";

	long port = strtol(u->port, &rest, 10);

	if (!isdigit((unsigned char)u->port[0]) || *rest != 0 || port < 1 || port > 65535)
		return "the port is a number from 1 to 65535";
	return NULL;
}

static const char *
tcp_parse(struct store_url *u, const char *at)
{
	const char *end = at + strcspn(at, "/?#"), *stop;
	const char *wrong = userinfo_parse(u, &at, end);

	if (wrong != NULL)
		return wrong;
	if (*end == '/' && end[1] != 0 && !name_copy(u, end + 1, end + strlen(end)))
		return "the name behind the '/' is up to 63 letters, digits, '_', '-', "
		       "'.'";
	if (*end != 0 && *end != '/')
		return "only /name may stand behind host and port";
	if (*at == '[') {
		at++;
		stop = memchr(at, ']', (size_t)(end - at));
		if (stop == NULL)
			return "an IPv6 address ends with ']'";
	} else {
		stop = memchr(at, ':', (size_t)(end - at));
		stop = stop == NULL ? end : stop;
	}
	if (stop == at || !part_copy(u->host, sizeof(u->host), at, stop))
		return "no host, or one that is too long: valkey://127.0.0.1:6379";
	stop += *stop == ']';
	if (stop == end)
		return NULL;
	return *stop == ':' ? port_parse(u, stop + 1, end)
			    : "a ':' separates host and port";
}

static const char *
unix_parse(struct store_url *u, const char *at)
{
	const char *end = at + strcspn(at, "?#"), *slash;
	static const char query[] = "?name=";

	slash = memchr(at, '/', (size_t)(end - at));
	const char *wrong = userinfo_parse(u, &at, slash == NULL ? end : slash);

	if (wrong != NULL)
		return wrong;
	if (*at != '/' || !part_copy(u->host, sizeof(u->host), at, end) ||
	    strlen(u->host) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return "wants the absolute path of a socket, up to 107 bytes: "
		       "valkey+unix:///run/valkey.sock";
	if (*end == 0)
		return NULL;
	if (strncmp(end, query, sizeof(query) - 1) != 0 ||
	    !name_copy(u, end + sizeof(query) - 1, end + strlen(end)))
		return "only ?name=NAME may stand behind the path: up to 63 letters, "
		       "digits, "
		       "'_', '-', '.'";
	return NULL;
}

int
url_parse(const char *text, struct store_url *out, char *why, size_t why_bytes)
{
	static const char tcp[] = "valkey://", local[] = "valkey+unix://";
	struct store_url u = { .port = "6379", .name = "snf" };
	const char *wrong = "wants valkey://host:port or valkey+unix:///path";

	if (strncmp(text, tcp, sizeof(tcp) - 1) == 0) {
		wrong = tcp_parse(&u, text + sizeof(tcp) - 1);
	} else if (strncmp(text, local, sizeof(local) - 1) == 0) {
		u.is_unix = true;
		wrong = unix_parse(&u, text + sizeof(local) - 1);
	}
	if (wrong != NULL) {
		snprintf(why, why_bytes, "store: %s", wrong);
		return -EINVAL;
	}
	*out = u;
	return 0;
}
