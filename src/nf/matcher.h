/*
 * matcher.h - finds many byte strings at once in a stream that comes in pieces.
 *
 * What has to be remembered between two pieces is one number, the state: it means
 * the same to every matcher made of the same strings in the same order.  A matcher
 * is read-only once made.
 */
#ifndef NF_MATCHER_H
#define NF_MATCHER_H

#include <stddef.h>
#include <stdint.h>

enum {
	MATCHER_START = 0,			/* The state before the first byte. */
	MATCHER_MAX_BYTES = 256 * 1024,		/* Of all strings together. */
};

struct matcher_string {
	const uint8_t *bytes;
	size_t n_bytes;				/* Not 0. */
};

struct matcher;

/* The strings are not needed afterwards.  Returns 0, -ENOMEM, or -E2BIG. */
int matcher_new(const struct matcher_string *strings, unsigned int n,
		struct matcher **out);
void matcher_free(struct matcher *m);		/* NULL is ignored. */
/* How many states there are; a state from elsewhere has to be below. */
uint32_t matcher_n_states(const struct matcher *m);

/* Reads on from 'state' and returns the one after 'bytes'.  Calls 'found' for each
 * string that ends in them, by index, in the order of their ends. */
uint32_t matcher_scan(const struct matcher *m, uint32_t state, const uint8_t *bytes,
		      size_t n_bytes, void (*found)(void *context, unsigned int string),
		      void *context);

#endif
