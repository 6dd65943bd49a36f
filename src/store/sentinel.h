/*
 * sentinel.h - asks the Sentinels where the primary is, one at a time, over a connection
 * that is kept: often while there is no primary, now and then while there is.  It does
 * not block.
 */
#ifndef STORE_SENTINEL_H
#define STORE_SENTINEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/finder.h"
#include "store/tls.h"
#include "store/wire.h"

enum {
	SENTINEL_ANSWER_BYTES = 1024,
	SENTINEL_QUESTION_BYTES = 640,		/* Holds AUTH and the question. */
	SENTINEL_WHY_BYTES = 256,
};

enum sentinel_state {
	SENTINEL_CLOSED,			/* Until 'next_ms'. */
	SENTINEL_CONNECTING,
	SENTINEL_ASKED,
	SENTINEL_IDLE,				/* Until 'next_ms'. */
};

struct sentinel {
	struct tls_context *tls;		/* The link's. */
	enum sentinel_state state;
	struct wire wire;
	bool wants_password;			/* They said so. */
	bool answers_auth;			/* First, before the question. */
	unsigned int n_failed;			/* In a row, each time another... */
	unsigned int n_hopeless;		/* ...and so many need an operator. */
	unsigned int timeout_ms;		/* For an answer. */
	uint64_t next_ms, give_up_ms;
	uint8_t question[SENTINEL_QUESTION_BYTES], answer[SENTINEL_ANSWER_BYTES];
	size_t question_bytes, sent, answer_bytes;
	char why[SENTINEL_WHY_BYTES];		/* Why the last one was no help. */
};

void sentinel_init(struct sentinel *s, struct tls_context *tls, unsigned int timeout_ms);
void sentinel_fini(struct sentinel *s);

/* Does what is due; 'up': there is a primary.  FINDER_GO: finder_next() has another. */
enum finder_verdict sentinel_turn(struct sentinel *s, struct finder *f, bool up,
				  uint64_t now_ms);

/* Has it ask at once: the primary is lost. */
void sentinel_hurry(struct sentinel *s, uint64_t now_ms);

/* When sentinel_turn() has to be called at the latest. */
uint64_t sentinel_due_ms(const struct sentinel *s, uint64_t now_ms);

/* All of them were asked, and none was of any help: 'why' says so of the last.
 * '*hopeless': it will not pass by itself. */
bool sentinel_is_lost(const struct sentinel *s, const struct finder *f, bool *hopeless);

#endif
