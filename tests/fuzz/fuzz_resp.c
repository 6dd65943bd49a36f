/*
 * fuzz_resp.c - any bytes as replies of a server, taken off line by line.
 *
 * The input is copied to where nothing lies behind it.  Whatever can be read can be
 * read of the same bytes with more behind them, and a cut is never taken for a whole.
 */
#include "store/resp.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

static void
check_line(const uint8_t *at, ssize_t n, const struct resp *r)
{
	struct resp cut;

	assert(n >= 3 && n <= RESP_MAX_LINE && at[n - 1] == '\n');
	for (ssize_t i = 0; i < n; i++)
		assert(resp_next(at, (size_t)i, &cut) == 0);
	if (r->type == '+' || r->type == '-')
		assert((const uint8_t *)r->text == at + 1 &&
		       r->text_bytes == (size_t)n - 3);
	else if (r->type == '$' || r->type == '*')
		assert(r->number >= -1);
	else
		assert(r->type == ':');
}

/* A number that was read is written as the same bytes, but for leading zeros. */
static void
check_number(ssize_t n, const struct resp *r)
{
	uint8_t bytes[RESP_MAX_HEAD];
	struct resp_out o = { bytes, bytes + sizeof(bytes) };
	struct resp again;

	if (r->type == '+' || r->type == '-' || r->number < 0)
		return;
	assert(resp_put_head(&o, r->type, (size_t)r->number));
	assert(o.at - bytes <= n);
	assert(resp_next(bytes, (size_t)(o.at - bytes), &again) == o.at - bytes);
	assert(again.number == r->number);
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	uint8_t *copy = malloc(bytes);
	size_t at = 0;

	if (bytes != 0)
		memcpy(copy, input, bytes);
	while (at < bytes) {
		struct resp r;
		ssize_t n = resp_next(copy + at, bytes - at, &r);

		assert(n == 0 || n == -EBADMSG || (n > 0 && (size_t)n <= bytes - at));
		if (n <= 0)
			break;
		check_line(copy + at, n, &r);
		check_number(n, &r);
		at += (size_t)n;
	}
	free(copy);
	return 0;
}
