/*
 * refusal.h - what the server's error replies mean for a connection: whether to wait, to
 * go elsewhere or to call an operator, and what to tell him.  No I/O, no state.
 */
#ifndef STORE_REFUSAL_H
#define STORE_REFUSAL_H

#include <stdbool.h>
#include <stddef.h>

enum refusal_kind {
	REFUSAL_REDIRECT,			/* The text says where to go. */
	REFUSAL_ELSEWHERE,			/* Another server is wanted. */
	REFUSAL_ANEW,				/* The same one, from the start. */
	REFUSAL_TRANSIENT,			/* It passes by itself. */
	REFUSAL_HOPELESS,			/* It does not. */
};

struct refusal {
	const char *prefix;			/* Of the text. */
	enum refusal_kind kind;
	bool of_partition;			/* The others may fare better. */
	bool quoted;				/* The server's own words are of use. */
	const char *words;
};

/* Never NULL; of what is not known, 'words' is empty.  The text need not end with a 0. */
const struct refusal *refusal_of(const char *text, size_t bytes);

#endif
