/*
 * ahead.c - reads that the next packet of a flow will want, too.
 *
 * What the functions behind a translation read is not known before it was made: a trip
 * more, and until it is over all later packets of the connection have to wait.  But it is
 * the same for each packet of a flow.  So what a packet read that took several trips is
 * remembered, and the next one of its flow asks for all of it in the first.  A wrong guess
 * is a read in vain: values are matched by their keys.
 */
#include "pipe/run.h"

#include <errno.h>

#include <rte_malloc.h>

#include "base/hash.h"

enum {
	AHEAD_FLOWS = 4096,			/* A power of two. */
	AHEAD_READS = 8,
	AHEAD_KEY_BYTES = 40,			/* A flow of IPv6. */
};

struct ahead {
	uint64_t hash;				/* Of the flow and its side; 0: of none. */
	unsigned int n;
	struct ahead_read {
		uint8_t table, how, key_bytes;
		uint8_t key[AHEAD_KEY_BYTES];
	} read[AHEAD_READS];
};

static uint64_t
ahead_hash(const struct run_context *c, const struct nf_run *r)
{
	const struct flow *f = &r->packet.flow;

	return hash_bytes(f, flow_bytes(f), c->secret + r->side) | 1;
}

static inline struct ahead *
ahead_place(struct run_context *c, uint64_t hash)
{
	return &c->ahead[hash >> 1 & (AHEAD_FLOWS - 1)];
}

void
ahead_ask(struct run_context *c, struct nf_run *r)
{
	uint64_t hash = ahead_hash(c, r);
	const struct ahead *a = ahead_place(c, hash);

	if (a->hash != hash)
		return;
	for (unsigned int i = 0; i < r->n_asked && i < a->n; i++) {
		const struct run_value *v = &r->value[i];

		if (v->table != a->read[i].table || v->key_bytes != a->read[i].key_bytes ||
		    memcmp(v->key, a->read[i].key, v->key_bytes) != 0)
			return;
	}
	for (unsigned int i = r->n_asked; i < a->n; i++)
		run_read_ahead(r, a->read[i].table, a->read[i].key, a->read[i].key_bytes,
			       a->read[i].how);
}

void
ahead_learn(struct run_context *c, const struct nf_run *r)
{
	uint64_t hash = ahead_hash(c, r);
	struct ahead *a = ahead_place(c, hash);

	if (r->n_asked > AHEAD_READS)
		return;
	a->hash = 0;
	for (unsigned int i = 0; i < r->n_asked; i++) {
		const struct run_value *v = &r->value[i];

		if (v->how == RUN_PICK || v->key_bytes > AHEAD_KEY_BYTES)
			return;
		a->read[i].table = v->table;
		a->read[i].how = v->how;
		a->read[i].key_bytes = v->key_bytes;
		memcpy(a->read[i].key, v->key, v->key_bytes);
	}
	a->hash = hash;
	a->n = r->n_asked;
}

int
ahead_open(struct run_context *c)
{
	if (c->chain.n == 1)
		return 0;
	c->ahead = rte_zmalloc("ahead", AHEAD_FLOWS * sizeof(*c->ahead),
			       RTE_CACHE_LINE_SIZE);
	return c->ahead != NULL ? 0 : -ENOMEM;
}
