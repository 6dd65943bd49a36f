/*
 * console.h - what the commands for people ask of a store: one question at a time, to the
 * server that has a partition, and each call waits for the answer.
 */
#ifndef CLI_CONSOLE_H
#define CLI_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct console;

/* A word of a command. */
struct console_word {
	const void *bytes;
	size_t n;
};

/* An answer, or a part of one: walked from the start to the end, arrays as a number of
 * parts that follow.  It lives until the next question. */
struct console_cursor {
	const uint8_t *at, *end;
};

struct console_part {
	char type;				/* '+', '-', ':', '$' or '*' */
	int64_t number;				/* ':', and of '$' and '*' the length. */
	const char *text;			/* '+', '-' and '$', not terminated. */
	size_t text_bytes;
};

/* Finds the server of a store's partition.  Returns 0 or a negative errno; then 'why' says
 * what to do about it.  The key of the partition is console_key(). */
int console_open(const char *url, unsigned int partition, struct console **out, char *why,
		 size_t why_bytes);
const char *console_key(const struct console *c);
/* Where it is: "127.0.0.1:6379". */
const char *console_server(struct console *c);
/* Rises with each connect: what WAIT says is of one connection. */
uint32_t console_connection(const struct console *c);
/* Asks, follows the partition if it has moved, and waits.  -EREMOTEIO: the server refuses;
 * 'why' is its text. */
int console_ask(struct console *c, const struct console_word *word, unsigned int n,
		struct console_cursor *answer, char *why, size_t why_bytes);
void console_close(struct console *c);		/* NULL is ignored. */

/* A word from text, or of a number in the caller's 'room'. */
struct console_word console_text(const char *text);
struct console_word console_number(uint64_t number, char room[24]);

/* Takes the next part off.  False at the end, and of bytes that are no answer. */
bool console_next(struct console_cursor *c, struct console_part *part);

/* Whether the bytes begin with a whole answer.  1, 0: more have to come, -EBADMSG: or
 * longer than any of a store. */
int console_whole(const uint8_t *bytes, size_t n_bytes);

#endif
