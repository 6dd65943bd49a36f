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
	MATCHER_TEXT_BYTES = 250,
};

/* A string as users write it: text with bytes in hexadecimal between bars, as in
 * "GET /|0d 0a|"; a backslash takes the next character as it is. */
struct matcher_text {
	uint16_t n_bytes;
	uint8_t bytes[MATCHER_TEXT_BYTES];
};

/* For a config_field; 'out' is a struct matcher_text.  Returns 0 or -EINVAL. */
int matcher_text_parse(const char *text, void *out);

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
