/*
 * resp.h - the little of the server's protocol (RESP2) that a client of the module
 * needs: commands are written, replies are taken apart.  No I/O, no state.
 */
#ifndef STORE_RESP_H
#define STORE_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	RESP_MAX_LINE = 2048, /* Longer ones are not the server's. */
	RESP_MAX_HEAD = 24,   /* "$" and 19 digits and "\r\n" */
};

/* The first line of a reply. */
struct resp {
	char type;        /* '+', '-', ':', '$' or '*' */
	int64_t number;   /* ':', and the length of '$' and '*', -1: null. */
	const char *text; /* '+', '-': not terminated. */
	size_t text_bytes;
};

/*
 * Takes the first line of a reply off 'left' bytes.  Returns the bytes it took, 0 if
 * there are too few of them yet, -EBADMSG.  What a '$' or a '*' announces comes
 * behind it: 'number' bytes and "\r\n", or 'number' replies.
 */
ssize_t resp_next(const uint8_t *at, size_t left, struct resp *out);

/*
 * Takes a whole string ('$') of up to 'max' bytes off, and points 'text' at its bytes.
 * Returns as resp_next(), and -EBADMSG if it is longer or null.
 */
ssize_t resp_string(const uint8_t *at, size_t left, size_t max, const uint8_t **text,
		    size_t *text_bytes);

/* A command being written.  Writers return false, and write nothing, if it does not
 * fit. */
struct resp_out {
	uint8_t *at, *end;
};

/* Writes "*n\r\n" or "$n\r\n". */
bool resp_put_head(struct resp_out *o, char type, size_t n);
bool resp_put_string(struct resp_out *o, const void *bytes, size_t n);
/* A number as a string, which is how commands take them. */
bool resp_put_number(struct resp_out *o, uint64_t number);

#endif
