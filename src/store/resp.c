/*
 * resp.c - RESP2 without sockets: every line is found whole before it is looked at,
 * and a number that does not fit is an error, never a smaller one.
 */
#include "store/resp.h"

#include <errno.h>
#include <string.h>

/* Decimal digits with an optional '-' in front, all of [at, end). */
static int
number_parse(const uint8_t *at, const uint8_t *end, int64_t *out)
{
	bool negative = at < end && *at == '-';
	uint64_t n = 0;

	at += negative;
	if (at == end)
		return -EBADMSG;
	for (; at < end; at++) {
		unsigned int digit = (unsigned int)*at - '0';

		if (digit > 9 || n > ((uint64_t)INT64_MAX - digit) / 10)
			return -EBADMSG;
		n = n * 10 + digit;
	}
	*out = negative ? -(int64_t)n : (int64_t)n;
	return 0;
}

ssize_t
resp_next(const uint8_t *at, size_t left, struct resp *out)
{
	size_t most = left < RESP_MAX_LINE ? left : RESP_MAX_LINE;
	const uint8_t *end = left == 0 ? NULL : memchr(at, '\n', most);

	if (end == NULL)
		return left < RESP_MAX_LINE ? 0 : -EBADMSG;
	if (end - at < 2 || end[-1] != '\r')
		return -EBADMSG;
	*out = (struct resp){ .type = (char)at[0] };
	switch (out->type) {
	case '+':
	case '-':
		out->text = (const char *)at + 1;
		out->text_bytes = (size_t)(end - 1 - (at + 1));
		break;
	case ':':
		if (number_parse(at + 1, end - 1, &out->number) != 0)
			return -EBADMSG;
		break;
	case '$':
	case '*':
		if (number_parse(at + 1, end - 1, &out->number) != 0 || out->number < -1)
			return -EBADMSG;
		break;
	default:
		return -EBADMSG;
	}
	return end + 1 - at;
}

ssize_t
resp_string(const uint8_t *at, size_t left, size_t max, const uint8_t **text,
	    size_t *text_bytes)
{
	struct resp r;
	ssize_t n = resp_next(at, left, &r);
	size_t bytes;

	if (n <= 0)
		return n;
	if (r.type != '$' || r.number < 0 || (uint64_t)r.number > max)
		return -EBADMSG;
	bytes = (size_t)r.number;
	left -= (size_t)n;
	if (left < 2 || left - 2 < bytes)
		return 0;
	if (memcmp(at + n + bytes, "\r\n", 2) != 0)
		return -EBADMSG;
	*text = at + n;
	*text_bytes = bytes;
	return n + (ssize_t)bytes + 2;
}

/* Writes the digits so that they end at 'end'; returns where they start. */
static uint8_t *
digits_before(uint8_t *end, uint64_t n)
{
	do {
		*--end = (uint8_t)('0' + n % 10);
		n /= 10;
	} while (n != 0);
	return end;
}

bool
resp_put_head(struct resp_out *o, char type, size_t n)
{
	uint8_t head[RESP_MAX_HEAD], *end = head + sizeof(head), *at = end - 2;

	memcpy(at, "\r\n", 2);
	at = digits_before(at, n);
	*--at = (uint8_t)type;
	if (o->end - o->at < end - at)
		return false;
	memcpy(o->at, at, (size_t)(end - at));
	o->at += end - at;
	return true;
}

bool
resp_put_string(struct resp_out *o, const void *bytes, size_t n)
{
	uint8_t *start = o->at;

	if (!resp_put_head(o, '$', n))
		return false;
	if ((size_t)(o->end - o->at) < 2 || (size_t)(o->end - o->at) - 2 < n) {
		o->at = start;
		return false;
	}
	memcpy(o->at, bytes, n);
	memcpy(o->at + n, "\r\n", 2);
	o->at += n + 2;
	return true;
}

bool
resp_put_number(struct resp_out *o, uint64_t number)
{
	uint8_t digits[RESP_MAX_HEAD], *end = digits + sizeof(digits);
	uint8_t *at = digits_before(end, number);

	return resp_put_string(o, at, (size_t)(end - at));
}
