/*
 * url.h - where a store is: the URL that configuration gives.
 *
 *   valkey://[user:password@]host[:port][/name]
 *   valkey+unix://[user:password@]/path/to/socket[?name=NAME]
 *   valkey+sentinel://[user:password@]host[:port],host...[:port]/service[?name=NAME]
 *   valkey+cluster://[user:password@]host[:port],host...[:port][/name]
 *
 * "valkeys" instead of "valkey" is TLS (not for a socket), with ?ca=FILE (default: the
 * system's) &cert=FILE&key=FILE (default: none).  Ports default to 6379, a Sentinel's
 * to 26379.  An IPv6 address stands in brackets.  ":password@" alone is for servers with
 * no users.  User, password, path and files may contain %XX.  The name (letters,
 * digits, '_', '-', '.'; default "snf") tells stores on one server apart: its partitions
 * are the keys "snf:{name:0}" and on.
 */
#ifndef STORE_URL_H
#define STORE_URL_H

#include <stdbool.h>
#include <stddef.h>

enum {
	URL_MAX_HOSTS = 8,
	URL_HOST_BYTES = 256,			/* Lengths are with the final 0. */
	URL_PORT_BYTES = 8,
	URL_FILE_BYTES = 512,
};

enum url_kind {
	URL_PLAIN,
	URL_SENTINEL,
	URL_CLUSTER,
};

struct url_host {
	char name[URL_HOST_BYTES];		/* Or the path of the socket. */
	char port[URL_PORT_BYTES];
};

struct store_url {
	enum url_kind kind;
	bool is_unix, is_tls;
	unsigned int n_hosts;			/* At least 1; 1 if it is plain. */
	struct url_host host[URL_MAX_HOSTS];	/* Of servers, or of Sentinels. */
	char user[128], password[256];		/* Empty: none. */
	char service[64];			/* As the Sentinels call it. */
	char name[64];
	char ca[URL_FILE_BYTES], cert[URL_FILE_BYTES], key[URL_FILE_BYTES];
	char shown[256];			/* For people: url_print(). */
};

/* Whether the text starts with a scheme from the list above. */
bool url_is_known(const char *text);

/* Returns 0 or -EINVAL; then 'why' says what is wrong and what would be right. */
int url_parse(const char *text, struct store_url *out, char *why, size_t why_bytes);

/* The text without user and password.  Of a text that is no URL more may be missing,
 * but never less. */
void url_print(const char *text, char *out, size_t bytes);

#endif
