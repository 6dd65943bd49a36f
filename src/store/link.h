/*
 * link.h - one connection to the server that has a partition: found, greeted, kept.
 * It never blocks after link_init(); link_turn() does what is due.
 *
 * A link is of one of two kinds.  The one for frames finds the primary (finder.h), and
 * opens the partition there: when it is up, SNF.OPEN has been answered.  One beside it
 * (commits, leases) connects to where that one is up, and opens nothing.
 *
 * A link that is up goes down when the connection breaks, when the primary moves, or
 * when its user says so, by link_fail() and link_refused(); each time it comes up,
 * 'connection' has risen.  It logs what goes wrong once for each reason and outage.
 */
#ifndef STORE_LINK_H
#define STORE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/finder.h"
#include "store/hello.h"
#include "store/sentinel.h"
#include "store/store.h"
#include "store/tls.h"
#include "store/url.h"
#include "store/wire.h"

enum {
	LINK_RECEIVE_BYTES = 64 << 10,
	LINK_KEY_BYTES = 80,			/* "snf:{NAME:63}" */
	LINK_NAME_BYTES = 288,
	LINK_MAX_FDS = 2,
	LINK_MAX_SAID = 8,			/* Reasons logged in one outage. */
};

/* What has to stand in front of every command while 'asking'; it is answered "+OK". */
#define LINK_ASKING HELLO_ASKING

enum link_state {
	LINK_DOWN,				/* Until link_turn() finds it is time. */
	LINK_GREETING,				/* Connecting, or waiting for answers. */
	LINK_UP,
};

/* Read by link_init() only. */
struct link_config {
	const struct store_url *url;
	const struct store_table *tables;	/* 'limit' already divided. */
	unsigned int n_tables, partition, n_partitions, timeout_ms;
	bool bare;				/* Opens nothing, so needs no right to. */
};

struct link {
	/* Constant after init. */
	const struct link *main;		/* NULL: it is for frames itself. */
	struct store_url *url;			/* The frames link's own, shared. */
	struct tls_context *tls;		/* NULL: plain. */
	char key[LINK_KEY_BYTES];		/* Of the partition. */
	char name[LINK_NAME_BYTES];		/* For logs: no secrets. */
	unsigned int n_tables, timeout_ms;
	bool speaks_for_all;			/* Logs what all partitions see. */
	struct hello hello;

	enum link_state state;
	struct wire wire;
	struct wire_address at;			/* Where it is, or was last. */
	bool asking;				/* See LINK_ASKING. */
	uint32_t connection;			/* Rises with each connect. */
	uint32_t main_connection;		/* Of 'main', when this one connected. */

	/* What the last greeting brought. */
	uint64_t generation, term;
	unsigned int n_replicas;		/* Connected to the server then. */
	uint8_t table_id[STORE_MAX_TABLES];

	/* Received and not yet taken: [rx_at, rx_end) of rx. */
	uint8_t *rx;
	size_t rx_at, rx_end;

	bool hopeless;				/* It does not pass by itself. */
	char reason[256];			/* Why it is down; one line. */

	/* link.c's own. */
	bool is_connected, was_up, heard, said_up;
	size_t hello_sent;
	uint64_t retry_ms;			/* When it is down: when to try again. */
	uint64_t give_up_ms;			/* When it greets: until when. */
	uint64_t backoff_ms, up_ms, lost_ms;
	unsigned int n_at_once;			/* Retries without a wait, so far. */
	uint64_t random;			/* State of the jitter; never 0. */
	uint32_t said[LINK_MAX_SAID];		/* Hashes of reasons. */
	unsigned int n_said;
	struct finder finder;
	struct sentinel sentinel;
};

/* The link for frames.  Resolves names, which blocks, reads certificates and writes the
 * greeting; does not connect yet.  Returns 0 or a negative errno, and 'reason' says why;
 * link_fini() is due in either case. */
int link_init(struct link *l, const struct link_config *config);

/* A link beside 'main', which has to live as long and not move.  It does nothing while
 * 'main' is not up, goes down with it, and connects anew if it did.  Has no
 * generation, term and tables of its own.  Returns as link_init(). */
int link_init_beside(struct link *l, const struct link *main);
void link_fini(struct link *l);

/* Connects and greets as far as that goes without waiting, asks the Sentinels, and may
 * take the link down.  Cheap: to be called in every turn, up or not. */
void link_turn(struct link *l, uint64_t now_ms);

/* When link_turn() has to be called at the latest, if nothing turns readable before;
 * UINT64_MAX: there is nothing due. */
uint64_t link_due_ms(const struct link *l, uint64_t now_ms);

/* Only while it is up.  Sends what it can.  Returns the bytes it took; on an error the
 * link is down.  What it did not take has to be offered next, unchanged. */
size_t link_send_all(struct link *l, struct iovec *piece, unsigned int n,
		     uint64_t now_ms);

static inline size_t
link_send(struct link *l, const void *bytes, size_t n, uint64_t now_ms)
{
	struct iovec piece = { (void *)bytes, n };

	return link_send_all(l, &piece, 1, now_ms);
}

/* Only while it is up.  Receives up to 'room' bytes to 'to'.  Returns how many: less than
 * 'room' means that there is no more for now; 0 also on an error, and then the link
 * is down. */
size_t link_receive(struct link *l, void *to, size_t room, uint64_t now_ms);

/* Takes the connection down, to be tried again later: for a server that does not
 * answer, or whose answers make no sense. */
void link_fail(struct link *l, uint64_t now_ms, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same for an error reply of the server, whose text (without '-') says where and when
 * to try next: MOVED, ASK, READONLY and SNFSTALE at once, though not for ever; others
 * after a wait.  Those four are for the frames link, even if another one got them. */
void link_refused(struct link *l, uint64_t now_ms, const char *text, size_t bytes);

/* Descriptors to wait on until they are readable: sets up to 'max' (LINK_MAX_FDS are
 * enough) and returns how many. */
unsigned int link_fds(const struct link *l, int *fd, unsigned int max);

#endif
