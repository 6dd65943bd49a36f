/*
 * fuzz_console.c - any bytes as the answer of a server that `snf show` asks.
 *
 * The input is copied to where nothing lies behind it.  What counts as a whole answer is
 * made of parts that all lie in it, a cut is never whole, and of what is not an answer
 * no part lies outside either.
 */
#include "cli/console.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

/* Returns how many bytes the parts of one answer take; 0: they are not all there. */
static size_t
walk(const uint8_t *at, size_t bytes)
{
	struct console_cursor c = { at, at + bytes };
	struct console_part part;
	uint64_t n_left = 1;
	size_t end = 0;

	while (console_next(&c, &part)) {
		const uint8_t *text = (const uint8_t *)part.text;

		assert(c.at > at && c.at <= c.end && strchr("+-:$*", part.type) != NULL);
		assert(part.text_bytes == 0 ||
		       (text > at && text + part.text_bytes + 2 <= c.at));
		if (end != 0)
			continue;
		n_left += part.type == '*' && part.number > 0 ? (uint64_t)part.number : 0;
		if (--n_left == 0)
			end = (size_t)(c.at - at);
	}
	return end;
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	uint8_t *copy = malloc(bytes);
	int whole;
	size_t end;

	if (bytes != 0)
		memcpy(copy, input, bytes);
	end = walk(copy, bytes);
	whole = console_whole(copy, bytes);
	assert(whole == 1 || whole == 0 || whole == -EBADMSG);
	/* Too many parts make no sense, even if all are there. */
	assert(whole != 1 || end != 0);
	assert(whole != 0 || end == 0);
	for (size_t i = 0; whole == 1 && i < end; i++)
		assert(console_whole(copy, i) == 0);
	free(copy);
	return 0;
}
