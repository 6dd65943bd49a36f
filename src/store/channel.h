/*
 * channel.h - the conversation with one partition, over up to three connections: frames
 * and their answers (channel.c); beside it, while groups wait for replicas, how many
 * have them, and whether there is a replica at all (channel_commit.c); and records whose
 * time has passed (channel_lease.c).
 *
 * A part is a batch's frame for this partition.  It is the channel's from
 * channel_submit() until both counts of its batch no longer contain it: it is
 * unanswered, then perhaps uncommitted, then final.  Parts become so in the order
 * submitted.
 */
#ifndef STORE_CHANNEL_H
#define STORE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/link.h"
#include "store/resp.h"
#include "store/store.h"

enum {
	CHANNEL_RESERVE = 192,			/* In front of a frame, for words. */
	CHANNEL_TAIL = 2,			/* Behind it, for "\r\n". */
	CHANNEL_RING = 64,
	CHANNEL_COMMAND_BYTES = 768,		/* Of those that are no frames: the longest
						 * names all leased tables. */
	CHANNEL_SOON_MS = 5,			/* While a socket may become writable. */
	CHANNEL_WATCH_MS = 1000,		/* Between two looks for a replica. */
	/* How long parts wait for replicas that are known to be missing: so long that a
	 * round finds out if they are back. */
	CHANNEL_MISSING_MS = 10,
};

static_assert(CHANNEL_RING >= STORE_INFLIGHT + STORE_UNCOMMITTED, "room for all parts");
static_assert((CHANNEL_RING & (CHANNEL_RING - 1)) == 0, "the index is masked");

/* How many of a batch's parts are not there yet. */
struct channel_counts {
	unsigned int n_unanswered, n_uncommitted;
};

/* A long answer on its way, with its "\r\n".  Starts at a multiple of 64. */
struct channel_bulk {
	uint8_t *bytes;
	size_t room, got;
	size_t want;				/* 0: its first line is still to come. */
};

struct channel_part {
	/* Set before channel_submit(). */
	struct store_part *part;
	struct channel_counts *batch;
	uint8_t commit;				/* So many replicas have to have it. */
	bool has_groups;			/* So the server remembers it. */

	/* The channel's own. */
	bool answered;				/* It was; it may be asked again. */
	uint64_t n_before;			/* Frames with groups, ever. */
	const uint8_t *command;
	size_t command_bytes;
	uint64_t id, asked_ms;
	struct channel_bulk reply;
	uint8_t *first_reply;			/* The caller may be reading it. */
};

struct channel_ring {
	struct channel_part *slot[CHANNEL_RING];
	unsigned int first, n;
};

/* A short command beside the frames, and how far it is. */
struct channel_ask {
	uint8_t bytes[CHANNEL_COMMAND_BYTES];
	size_t n, sent;
	unsigned int n_lines;			/* Of the answer, to come; 0: idle. */
	uint64_t asked_ms;
	uint32_t connection;			/* Of the link that it went to. */
};

struct channel {
	/* Frames. */
	struct link frames;
	struct channel_ring flight;		/* Not answered, from the oldest. */
	unsigned int n_sent;			/* Of them, sent whole. */
	size_t next_sent;			/* Bytes of the one after those. */
	bool asking_taken;			/* The "+OK" before the next answer. */
	uint64_t client, next_id;
	uint64_t n_groups;			/* Frames with some, ever. */
	uint8_t words[CHANNEL_RESERVE];		/* What every command starts with. */
	size_t words_bytes;
	unsigned int timeout_ms, n_links;

	/* What holds for all frames in flight. */
	uint32_t connection;			/* Of 'frames', when it was opened. */
	uint64_t generation, term;
	uint8_t table_id[STORE_MAX_TABLES];
	bool same_ids;				/* All are the caller's own indexes. */

	bool was_up;
	bool look;				/* At sockets, even if nothing is due. */
	uint64_t turned_ms, looked_ms, lost_ms;
	uint64_t refused_ms, missed_ms;		/* When it was last said. */

	/* Commits. */
	struct link commits;
	struct channel_ring uncommitted;	/* Answered, from the oldest. */
	struct channel_ask round;
	uint64_t round_id;			/* The last frame that it covers. */
	uint8_t round_commit;			/* So many are asked for... */
	int64_t round_replicas;			/* ...and have what it covers. */
	bool missing;				/* Too few, when last asked in vain. */
	bool watch;				/* The caller's: find out 'replicated'. */
	bool replicated;			/* The server had a replica, once. */

	/* Leases. */
	uint64_t leased;			/* The caller's tables that are, a bit each. */
	struct link leases;
	struct channel_ask due;
	struct channel_bulk message;
	struct frame_cursor lease;		/* Those of it that are not given out. */
	bool lease_held;			/* It may still be read. */
};

/* Zeroed memory; channel_fini() is due in either case.  0 or a negative errno, and
 * frames.reason says why. */
int channel_init(struct channel *c, const struct link_config *config, uint64_t client,
		 uint64_t leased);
void channel_fini(struct channel *c);

/* Sends, receives, connects; what can be done now. */
void channel_turn(struct channel *c, uint64_t now_ms);

/* Whether it was lost for longer than the timeout: then nothing can be submitted. */
static inline bool
channel_is_lost(const struct channel *c, uint64_t now_ms)
{
	return c->frames.state != LINK_UP && now_ms - c->lost_ms >= c->timeout_ms;
}

/* Whether one more frame with groups would have the server forget how it answered the
 * oldest one that is not final, and may have to be asked again.  What is final at once
 * counts too if it came behind that one. */
static inline bool
channel_is_full(const struct channel *c)
{
	const struct channel_ring *open = c->uncommitted.n > 0 ? &c->uncommitted
							       : &c->flight;
	const struct channel_part *oldest = open->slot[open->first % CHANNEL_RING];

	return open->n > 0 && c->n_groups - oldest->n_before >= FRAME_REMEMBERED;
}

/* 'request' has CHANNEL_RESERVE and CHANNEL_TAIL bytes around it.  Counts the part as
 * unanswered, and as uncommitted if it needs replicas. */
void channel_submit(struct channel *c, struct channel_part *p, uint64_t now_ms);

/* Makes 'reply' of a final part start again, with the answers that hold. */
void channel_rewind(struct channel_part *p);
void channel_part_fini(struct channel_part *p);

/* Gives the next lease.  Those given live until channel_release(). */
bool channel_lease(struct channel *c, struct frame_lease *lease);
void channel_release(struct channel *c, uint64_t now_ms);

/* As store_ops' wait_fds(), with the time of a deadline in *until_ms. */
unsigned int channel_wait_fds(struct channel *c, int *fd, unsigned int max,
			      uint64_t now_ms, uint64_t *until_ms);

/* --- Between its files -------------------------------------------------- */

static inline struct channel_part *
ring_at(const struct channel_ring *r, unsigned int i)
{
	return r->slot[(r->first + i) % CHANNEL_RING];
}

static inline void
ring_push(struct channel_ring *r, struct channel_part *p)
{
	r->slot[(r->first + r->n++) % CHANNEL_RING] = p;
}

static inline struct channel_part *
ring_pop(struct channel_ring *r)
{
	r->n--;
	return r->slot[r->first++ % CHANNEL_RING];
}

static inline uint64_t
earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* How long a part may be uncommitted. */
static inline uint64_t
channel_patience_ms(const struct channel *c)
{
	return c->missing ? earlier(c->timeout_ms, CHANNEL_MISSING_MS) : c->timeout_ms;
}

/* Whether something is to be asked on the link for commits. */
static inline bool
round_is_due(const struct channel *c, uint64_t now_ms)
{
	return c->uncommitted.n > 0 ||
	       (c->watch && now_ms - c->round.asked_ms >= CHANNEL_WATCH_MS);
}

/* What was received and not taken moves to the front, and more comes behind it.  Returns
 * how much; '*drained' is set if there is no more for now. */
size_t channel_receive(struct link *l, uint64_t now_ms, bool *drained);

/* Makes room for an answer of 'n' bytes and "\r\n".  0 or -ENOMEM. */
int bulk_expect(struct channel_bulk *b, size_t n);
/* Takes what is here of it: what was received, else straight from the socket.  Returns
 * whether that is all. */
bool bulk_take(struct channel_bulk *b, struct link *l, uint64_t now_ms);

/* What goes before each command that names the key. */
void channel_put_asking(struct resp_out *o, const struct link *frames);
/* Starts a command, and ends it: 'n_lines' answers are going to come. */
struct resp_out channel_ask_start(struct channel_ask *a, const struct link *frames);
void channel_ask_end(struct channel_ask *a, const struct resp_out *o,
		     const struct link *l, unsigned int n_lines, uint64_t now_ms);
/* Sends what is left of a command.  False: it is not all sent. */
bool channel_ask_send(struct channel_ask *a, struct link *l, uint64_t now_ms);

/* Takes an error reply of a link beside the frames: most say that the partition itself
 * has to be found again. */
void channel_refused(struct channel *c, struct link *l, const char *text, size_t bytes,
		     uint64_t now_ms);

void commit_turn(struct channel *c, uint64_t now_ms);
/* Its part of channel_wait_fds(). */
unsigned int commit_wait_fds(struct channel *c, int *fd, unsigned int max,
			     uint64_t now_ms, uint64_t *until_ms);
void lease_turn(struct channel *c, uint64_t now_ms);
/* What is not given out yet is void. */
void lease_void(struct channel *c);

#endif
