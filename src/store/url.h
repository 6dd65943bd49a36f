/*
 * url.h - where a store is: the URL that configuration gives.
 *
 *   valkey://[user:password@]host[:port][/name]
 *   valkey+unix://[user:password@]/path/to/socket[?name=name]
 *
 * An IPv6 address stands in brackets.  ":password@" alone is for servers with no
 * users.  User, password and path may contain %XX.  The name (letters, digits, '_',
 * '-', '.'; default "snf") tells stores on one server apart: its partition is the
 * key "snf:{name:0}".
 */
#ifndef STORE_URL_H
#define STORE_URL_H

#include <stdbool.h>
#include <stddef.h>

struct store_url {
	bool is_unix;
	char host[256]; /* Or the path of the socket. */
	char port[8];
	char user[128], password[256]; /* Empty: none. */
	char name[64];
};

/* Returns 0 or -EINVAL; then 'why' says what is wrong and what would be right. */
int url_parse(const char *text, struct store_url *out, char *why, size_t why_bytes);

#endif
