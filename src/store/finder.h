/*
 * finder.h - where the primary of a partition is: which address to try next, given what
 * the addresses tried before, the Cluster's redirects and the Sentinels said.
 *
 * It decides and does nothing: texts and times come in, addresses go out.  Only
 * finder_init() blocks, to resolve the names in the URL.  Servers and Sentinels name
 * others by numeric addresses, or by names that the URL has too; others are refused,
 * because resolving them would block.
 */
#ifndef STORE_FINDER_H
#define STORE_FINDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/url.h"
#include "store/wire.h"

enum {
	FINDER_MAX_SEEDS = 16,
	FINDER_MAX_PLACES = FINDER_MAX_SEEDS + 8,
	FINDER_WHY_BYTES = 160,
};

/* A host and port as a server writes them. */
struct finder_target {
	bool is_ask;
	char host[URL_HOST_BYTES];		/* Empty: the host that says so. */
	uint16_t port;
};

struct finder_place {
	struct wire_address address;
	bool was_up;
	uint64_t hung_ms;			/* When it did not answer; 0: it did. */
};

struct finder {
	enum url_kind kind;
	const struct store_url *url;
	unsigned int n_seeds;			/* Addresses of the URL's hosts... */
	unsigned int n_places;			/* ...and behind them, learned ones. */
	struct finder_place place[FINDER_MAX_PLACES];
	int at;					/* The place tried last, -1: none. */
	int next;				/* To be tried next, -1: any. */
	unsigned int turn;
	unsigned int learned;			/* So many so far. */
	bool ask_next, asking;			/* 'next', 'at' were named by an ASK. */

	/* Sentinels. */
	int primary;				/* The place they tell, -1: none yet. */
	bool failed;				/* It was tried, in vain. */
	unsigned int asked;			/* The seed that is asked now... */
	bool told_here;				/* ...and that has told 'primary'. */
	unsigned int n_useless;
	uint32_t doubts;			/* Seeds that tell of another: bits. */
};

/* 'url' has to live as long.  Returns 0 or a negative errno and why; 'why' is set, too,
 * if only some of the hosts cannot be found, and else empty. */
int finder_init(struct finder *f, const struct store_url *url, char *why,
		size_t why_bytes);

/* Where to go now; NULL: only a Sentinel knows.  It counts as tried. */
const struct finder_place *finder_next(struct finder *f, uint64_t now_ms);

enum finder_end {
	FINDER_GONE,				/* No connection, or the wrong server. */
	FINDER_LOST,				/* It was up: may be so again at once. */
	FINDER_HUNG,				/* It does not answer. */
};

/* How the place that finder_next() gave last went. */
void finder_up(struct finder *f);
void finder_down(struct finder *f, enum finder_end end, uint64_t now_ms);

/* How long an attempt at the place tried last may take, when 'timeout_ms' is for all. */
unsigned int finder_attempt_ms(const struct finder *f, unsigned int timeout_ms);

/* Takes "MOVED slot host:port" and "ASK slot host:port".  Returns 0: that is where to
 * go next; -EAGAIN: there is no use in it, for that one hung just now; -EINVAL and
 * why. */
int finder_redirect(struct finder *f, const char *text, size_t bytes, uint64_t now_ms,
		    char why[FINDER_WHY_BYTES]);
/* Only takes it apart.  Returns 0 or -EINVAL. */
int finder_redirect_parse(const char *text, size_t bytes, struct finder_target *out);

enum finder_verdict {
	FINDER_STAY,				/* Go on where we are. */
	FINDER_GO,				/* The primary is elsewhere. */
	FINDER_ASK_ANOTHER,			/* Sentinel, for this one is no help. */
};

/* What a Sentinel says; finder_next() then gives that.  A working primary is left on the
 * word of a Sentinel that knew it before, or of more than half of them.  'why' is
 * set if what it says cannot be used, else empty. */
enum finder_verdict finder_told(struct finder *f, const struct finder_target *told,
				bool up, char why[FINDER_WHY_BYTES]);
/* Makes 'asked' the next one. */
void finder_ask_another(struct finder *f);

/* Takes a Sentinel's answer to get-master-addr-by-name apart.  Returns the bytes it took,
 * 0: there is more to come, -ENOENT: it does not know the service, -EBADMSG. */
ssize_t finder_answer_parse(const uint8_t *at, size_t left, struct finder_target *out);

#endif
