/*
 * link.h - one connection to a server with the module: found, greeted, kept.  It
 * never blocks after link_init(); link_turn() does what is due.
 */
#ifndef STORE_LINK_H
#define STORE_LINK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "store/store.h"
#include "store/url.h"

enum {
	LINK_MAX_ADDRESSES = 8,
	LINK_HELLO_BYTES = 4096, /* Holds AUTH, and OPEN of 16 tables. */
	LINK_RECEIVE_BYTES = 64 << 10,
	LINK_KEY_BYTES = 80, /* "snf:{NAME:0}" */
};

enum link_state {
	LINK_DOWN,     /* Until 'retry_ms'. */
	LINK_GREETING, /* Connecting, or waiting for its answers. */
	LINK_UP,
};

union link_address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

struct link {
	/* Set by link_init(), constant after. */
	struct store_url url;
	char key[LINK_KEY_BYTES]; /* Of the partition. */
	union link_address address[LINK_MAX_ADDRESSES];
	socklen_t address_bytes[LINK_MAX_ADDRESSES];
	unsigned int n_addresses, n_tables, timeout_ms;
	uint8_t hello[LINK_HELLO_BYTES];
	size_t hello_bytes;

	enum link_state state;
	int fd; /* -1 while it is down. */
	unsigned int next_address;
	size_t hello_sent;
	uint64_t retry_ms, backoff_ms; /* When it is down: when to try again. */
	uint64_t give_up_ms;           /* When it greets: until when. */
	uint64_t random;               /* State of the jitter; never 0. */

	/* What the last greeting brought. */
	uint64_t generation;
	uint8_t table_id[STORE_MAX_TABLES];

	/* Received and not yet taken: [rx_at, rx_end) of rx. */
	uint8_t *rx;
	size_t rx_at, rx_end;

	bool quiet;    /* Failures are told by 'reason' alone. */
	bool hopeless; /* The last one does not pass by itself. */
	char reason[256], logged[256];
};

/* Finds the server and writes the greeting; does not connect yet.  Blocks while a
 * name is resolved.  Returns 0 or a negative errno; then 'reason' says why. */
int
link_init(struct link *l, const struct store_url *url, const struct store_table *tables,
	  unsigned int n_tables, unsigned int timeout_ms);
void link_fini(struct link *l);

/* Connects and greets as far as that goes without waiting. */
void link_turn(struct link *l, uint64_t now_ms);

/* Sends what it can.  Returns the bytes it took; on an error the link is down. */
size_t link_send(struct link *l, const void *bytes, size_t n, uint64_t now_ms);

/* Receives up to 'room' bytes to 'to'.  Returns how many; 0 also on an error, and
 * then the link is down. */
size_t link_receive(struct link *l, void *to, size_t room, uint64_t now_ms);

/* Takes the connection down, to be tried again later.  The reason is logged if it is
 * not the one that was logged last. */
void link_fail(struct link *l, uint64_t now_ms, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same for an error reply of the server. */
void link_refused(struct link *l, uint64_t now_ms, const char *text, size_t bytes);

#endif
