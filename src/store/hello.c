/*
 * hello.c - the greeting as bytes.
 */
#include "store/hello.h"

#include <errno.h>
#include <string.h>

#include "store/core.h"
#include "store/resp.h"

static bool
put_auth(struct resp_out *o, const struct store_url *u)
{
	if (u->password[0] == 0)
		return true;
	return resp_put_head(o, '*', u->user[0] != 0 ? 3 : 2) &&
	       resp_put_string(o, "AUTH", 4) &&
	       (u->user[0] == 0 || resp_put_string(o, u->user, strlen(u->user))) &&
	       resp_put_string(o, u->password, strlen(u->password));
}

static bool
put_table(struct resp_out *o, const struct store_table *t)
{
	unsigned int flags = (t->leased ? CORE_LEASED : 0u) |
			     (t->evict ? CORE_EVICT : 0u);

	return resp_put_string(o, t->name, strlen(t->name)) &&
	       resp_put_number(o, t->key_max) && resp_put_number(o, t->value_max) &&
	       resp_put_number(o, t->format) && resp_put_number(o, flags) &&
	       resp_put_number(o, t->limit);
}

static bool
put_open(struct resp_out *o, const struct hello_open *open)
{
	bool fits = resp_put_head(o, '*', 4 + 6 * open->n_tables) &&
		    resp_put_string(o, "SNF.OPEN", 8) &&
		    resp_put_string(o, open->key, strlen(open->key)) &&
		    resp_put_number(o, FRAME_PROTOCOL) &&
		    resp_put_number(o, open->n_partitions);

	for (unsigned int i = 0; i < open->n_tables; i++)
		fits = fits && put_table(o, &open->tables[i]);
	return fits;
}

bool
hello_write(struct hello *h, const struct store_url *url, const struct hello_open *open)
{
	static const size_t asking_bytes = sizeof(HELLO_ASKING) - 1;
	struct resp_out o = { h->bytes, h->bytes + sizeof(h->bytes) };
	bool fits = put_auth(&o, url);

	h->auth_end = h->open_start = h->end = (size_t)(o.at - h->bytes);
	h->n_tables = 0;
	if (open == NULL || !fits)
		return fits;
	if (open->n_tables > STORE_MAX_TABLES || (size_t)(o.end - o.at) < asking_bytes)
		return false;
	memcpy(o.at, HELLO_ASKING, asking_bytes);
	o.at += asking_bytes;
	h->open_start = (size_t)(o.at - h->bytes);
	h->n_tables = open->n_tables;
	fits = put_open(&o, open);
	h->end = (size_t)(o.at - h->bytes);
	return fits;
}

size_t
hello_next(const struct hello *h, bool asking, size_t *sent)
{
	if (*sent == h->auth_end && !asking)
		*sent = h->open_start;
	return (*sent < h->auth_end ? h->auth_end : h->end) - *sent;
}

/* Takes an answer off; 1, or as hello_take(). */
static int
answer_next(const uint8_t **at, size_t *left, char want, int64_t *number,
	    struct hello_answer *out)
{
	struct resp r;
	ssize_t n = resp_next(*at, *left, &r);

	if (n <= 0)
		return (int)n;
	if (r.type == '-') {
		out->refusal = r.text;
		out->refusal_bytes = r.text_bytes;
		return -EREMOTEIO;
	}
	if (r.type != want)
		return -EBADMSG;
	*at += n;
	*left -= (size_t)n;
	*number = r.number;
	return 1;
}

int
hello_take(const struct hello *h, bool asking, const uint8_t *at, size_t left,
	   struct hello_answer *out)
{
	unsigned int n = 3 + h->n_tables;
	int64_t number[3 + STORE_MAX_TABLES] = { 0 };
	int got = 1;

	if (h->auth_end > 0)
		got = answer_next(&at, &left, '+', &number[0], out);
	if (h->end == h->auth_end)
		return got;
	if (got == 1 && asking)
		got = answer_next(&at, &left, '+', &number[0], out);
	if (got == 1)
		got = answer_next(&at, &left, '*', &number[0], out);
	if (got == 1 && number[0] != (int64_t)n)
		return -EPROTO;
	for (unsigned int i = 0; got == 1 && i < n; i++) {
		got = answer_next(&at, &left, ':', &number[i], out);
		if (got == 1 && (number[i] < 0 || (i >= 3 && number[i] > UINT8_MAX)))
			return -EPROTO;
	}
	if (got != 1)
		return got;
	out->generation = (uint64_t)number[0];
	out->term = (uint64_t)number[1];
	out->n_replicas = (unsigned int)number[2];
	for (unsigned int i = 0; i < h->n_tables; i++)
		out->table_id[i] = (uint8_t)number[3 + i];
	return 1;
}
