/*
 * fuzz_resp.c - any bytes as replies of a server, taken off line by line, and as what a
 * server or a Sentinel says of where the primary is, and answers to the greeting.
 *
 * The input is copied to where nothing lies behind it.  Whatever can be read can be
 * read of the same bytes with more behind them, and a cut is never taken for a whole.
 */
#include "store/finder.h"
#include "store/hello.h"
#include "store/refusal.h"
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

static void
check_string(const uint8_t *at, size_t left)
{
	const uint8_t *text;
	size_t n, cut_n;
	ssize_t taken = resp_string(at, left, 100, &text, &n);

	assert(taken == 0 || taken == -EBADMSG || (taken > 0 && (size_t)taken <= left));
	if (taken <= 0)
		return;
	assert(n <= 100 && text > at && text + n + 2 == at + taken);
	for (ssize_t i = 0; i < taken; i++)
		assert(resp_string(at, (size_t)i, 100, &text, &cut_n) == 0);
}

static void
check_target(const struct finder_target *t)
{
	size_t n = strnlen(t->host, sizeof(t->host));

	assert(n < sizeof(t->host) && t->port != 0);
	for (size_t i = 0; i < n; i++)
		assert(t->host[i] > ' ' && t->host[i] < 0x7f);
}

/* Error replies, from the '-' on without it. */
static void
check_refusal(const uint8_t *at, size_t left)
{
	struct finder_target t;

	assert(refusal_of((const char *)at, left)->words != NULL);
	if (finder_redirect_parse((const char *)at, left, &t) == 0)
		check_target(&t);
}

static void
check_answer(const uint8_t *at, size_t left)
{
	struct finder_target t, cut;
	ssize_t n = finder_answer_parse(at, left, &t);

	assert(n == 0 || n == -EBADMSG || n == -ENOENT || (n > 0 && (size_t)n <= left));
	if (n <= 0)
		return;
	check_target(&t);
	for (ssize_t i = 0; i < n; i++)
		assert(finder_answer_parse(at, (size_t)i, &cut) == 0);
}

static void
check_hello(const uint8_t *at, size_t left)
{
	static struct store_url url = { .password = "p", .n_hosts = 1 };
	static const struct store_table tables[3] = { { .name = "a" } };
	static const struct hello_open open = { "k", tables, 3, 1 };
	static struct hello hello;

	assert(hello_write(&hello, &url, &open));
	for (unsigned int asking = 0; asking < 2; asking++) {
		struct hello_answer a = { 0 };
		int got = hello_take(&hello, asking, at, left, &a);

		assert(got == 1 || got == 0 || got == -EREMOTEIO || got == -EPROTO ||
		       got == -EBADMSG);
		if (got == -EREMOTEIO)
			assert((const uint8_t *)a.refusal > at &&
			       (const uint8_t *)a.refusal + a.refusal_bytes < at + left);
		if (got == 1)
			assert(a.generation <= INT64_MAX && a.term <= INT64_MAX);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	uint8_t *copy = malloc(bytes);
	size_t at = 0;

	if (bytes != 0)
		memcpy(copy, input, bytes);
	check_refusal(copy, bytes);
	check_answer(copy, bytes);
	check_hello(copy, bytes);
	while (at < bytes) {
		struct resp r;
		ssize_t n = resp_next(copy + at, bytes - at, &r);

		assert(n == 0 || n == -EBADMSG || (n > 0 && (size_t)n <= bytes - at));
		if (n <= 0)
			break;
		check_line(copy + at, n, &r);
		check_number(n, &r);
		check_string(copy + at, bytes - at);
		at += (size_t)n;
	}
	free(copy);
	return 0;
}
