/*
 * run.c - one execution of a handler: what nf.h promises its author.
 *
 * Reads are matched by position: the handler is a pure function of the packet and of
 * the values, so with the same values it asks for the same keys in the same order.
 * Where it does not (a value changed in between), what follows is asked for anew.
 * Reads that are not here go into the open frame as they are asked for; everything
 * else that a handler does stays in the run until it ends with a verdict.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

#include "base/hash.h"

enum nf_verdict
run_execute(struct run_context *c, struct nf_run *r)
{
	r->n_asked = 0;
	r->n_pending = 0;
	r->n_writes = 0;
	r->n_alerts = 0;
	r->drop = NF_DROP_VERDICT;
	r->set_src = false;
	r->set_dst = false;
	r->unreadable = false;
	if (unlikely(r->emitted != NULL))
		run_free_emitted(r);
	c->writes.at = c->writes.start;

	enum nf_verdict verdict = c->nf->packet(r);

	if (unlikely(r->unreadable && r->n_pending == 0))
		return nf_drop(r, NF_DROP_FORMAT);
	/* An author's mistake: to wait for nothing would be for ever. */
	assert(verdict != NF_WAIT || r->n_pending > 0);
	return verdict;
}

static struct run_context *
context_of(const struct nf_run *r)
{
	return &r->pipe->context;
}

/* IPv4 flows make most of the keys. */
static inline bool
same_key(const void *a, const void *b, unsigned int bytes)
{
	uint64_t x[2], y[2];

	if (unlikely(bytes != sizeof(x)))
		return memcmp(a, b, bytes) == 0;
	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

/* Puts the read of a value in the open frame. */
static void
ask(struct run_context *c, struct run_value *v, const void *key)
{
	v->key = frame_read(c->request, v->table, key, v->key_bytes, v->touch);
	assert(v->key != NULL);			/* RUN_FRAME_BYTES */
}

const void *
nf_table_read(struct nf_run *r, const struct nf_table *t, const void *key,
	      unsigned int key_bytes, bool touch, unsigned int *value_bytes)
{
	unsigned int i = r->n_asked++;

	assert(i < NF_MAX_READS);

	struct run_value *v = &r->value[i];

	if (i < r->n_fetched) {
		if (likely(v->table == t->index && v->key_bytes == key_bytes &&
			   same_key(v->key, key, key_bytes))) {
			if (unlikely(v->value != NULL && v->format != t->format)) {
				r->unreadable = true;
				return NULL;
			}
			if (value_bytes != NULL)
				*value_bytes = v->value_bytes;
			return v->value;
		}
		r->n_fetched = i;
	}
	v->table = t->index;
	v->key_bytes = key_bytes;
	v->touch = touch;
	r->n_pending++;
	ask(context_of(r), v, key);
	return NULL;
}

void
run_ask_again(struct run_context *c, struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_fetched; i++)
		ask(c, &r->value[i], r->value[i].key);
	r->first = r->n_fetched;
}

const void *
nf_table_sized(struct nf_run *r, const void *value, unsigned int bytes, unsigned int want)
{
	if (likely(value == NULL || bytes == want))
		return value;
	r->unreadable = true;
	return NULL;
}

/* A second write of a key in one run replaces the first. */
static struct run_write *
write_slot(struct nf_run *r, const struct nf_table *t, const void *key,
	   unsigned int key_bytes)
{
	for (unsigned int i = 0; i < r->n_writes; i++) {
		struct run_write *w = &r->write[i];

		assert(w->table != t->index || w->key_bytes != key_bytes ||
		       memcmp(w->key, key, key_bytes) != 0);
	}
	assert(r->n_writes < NF_MAX_WRITES);
	return &r->write[r->n_writes++];
}

void
nf_table_write(struct nf_run *r, const struct nf_table *t, const void *key,
	       unsigned int key_bytes, const void *value, unsigned int value_bytes,
	       uint32_t idle_ms)
{
	struct run_write *w = write_slot(r, t, key, key_bytes);

	assert(value_bytes <= t->value_max);
	w->table = t->index;
	w->key_bytes = key_bytes;
	w->format = t->format;
	w->value_bytes = value_bytes;
	w->value = frame_put(&context_of(r)->writes, t->index, key, key_bytes, t->format,
			     value, value_bytes, idle_ms);
	assert(w->value != NULL);		/* RUN_WRITE_BYTES */
	w->key = w->value + FRAME_PAD(value_bytes);
}

void
nf_table_delete(struct nf_run *r, const struct nf_table *t, const void *key,
		unsigned int key_bytes)
{
	struct run_write *w = write_slot(r, t, key, key_bytes);

	w->table = t->index;
	w->key_bytes = key_bytes;
	w->format = t->format;
	w->value_bytes = 0;
	w->value = NULL;
	w->key = frame_delete(&context_of(r)->writes, t->index, key, key_bytes);
	assert(w->key != NULL);
}

void
run_put_group(struct run_context *c, struct nf_run *r)
{
	size_t bytes = c->writes.at - c->writes.start;
	uint64_t version = ++c->next_version;
	uint8_t *group = frame_group(c->request, version);
	uint8_t *to = c->request->at;

	memcpy(to, c->writes.start, bytes);
	c->request->at += bytes;
	for (unsigned int i = 0; i < r->n_writes; i++) {
		struct run_write *w = &r->write[i];

		w->key = to + (w->key - c->writes.start);
		if (w->value != NULL)
			w->value = w->key - FRAME_PAD(w->value_bytes);
		w->version = version;
	}
	for (unsigned int i = 0; i < r->n_asked; i++) {
		const struct run_value *v = &r->value[i];

		frame_check(c->request, v->table, v->key, v->key_bytes,
			    v->value != NULL ? v->version : 0);
	}
	frame_group_end(group, r->n_writes + r->n_asked);
	r->group_version = version;
	r->has_group = true;
	r->fate = RUN_UNKNOWN;
}

void
run_rewrite(struct nf_run *r)
{
	if (r->set_src)
		packet_set_src(&r->packet, &r->src);
	if (r->set_dst)
		packet_set_dst(&r->packet, &r->dst);
}

void
run_free_emitted(struct nf_run *r)
{
	while (r->emitted != NULL) {
		struct rte_mbuf *m = r->emitted;

		r->emitted = run_of(m)->emitted_next;
		rte_pktmbuf_free(m);
	}
}

const struct packet *
nf_packet(const struct nf_run *r)
{
	return &r->packet;
}

const struct flow *
nf_flow(const struct nf_run *r)
{
	return &r->packet.flow;
}

const struct flow *
nf_connection(struct nf_run *r)
{
	if (!r->has_connection) {
		flow_canonical(&r->packet.flow, &r->connection);
		r->has_connection = true;
	}
	return &r->connection;
}

enum nf_side
nf_side(const struct nf_run *r)
{
	return r->side;
}

const void *
nf_static(const struct nf_run *r)
{
	return context_of(r)->nf_static;
}

uint32_t
nf_head_bytes(const struct nf_run *r)
{
	return r->mbuf->data_len;
}

uint64_t
nf_random(const struct nf_run *r)
{
	return hash_fold(r->sequence ^ context_of(r)->secret,
			 (r->attempt + 1) * 0x9e3779b97f4a7c15u ^ context_of(r)->secret);
}

bool
nf_pending(const struct nf_run *r)
{
	return r->n_pending > 0;
}

void
nf_set_src(struct nf_run *r, const struct endpoint *to)
{
	r->src = *to;
	r->set_src = true;
}

void
nf_set_dst(struct nf_run *r, const struct endpoint *to)
{
	r->dst = *to;
	r->set_dst = true;
}

void
nf_emit(struct nf_run *r, const void *frame, unsigned int bytes)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(r->mbuf->pool);

	if (m == NULL) {
		r->pipe->stats.dropped[NF_DROP_BUFFERS]++;
		return;
	}

	char *to = rte_pktmbuf_append(m, bytes);

	assert(to != NULL);			/* bytes <= 2048 */
	memcpy(to, frame, bytes);
	memcpy(m->dynfield1, r->mbuf->dynfield1, sizeof(m->dynfield1));
	run_of(m)->emitted_next = NULL;

	struct rte_mbuf **tail = &r->emitted;

	while (*tail != NULL)
		tail = &run_of(*tail)->emitted_next;
	*tail = m;
}

void
nf_alert(struct nf_run *r, uint32_t id)
{
	if (r->n_alerts < RUN_MAX_ALERTS)
		r->alert[r->n_alerts++] = id;
}

enum nf_verdict
nf_drop(struct nf_run *r, enum nf_drop reason)
{
	r->drop = reason;
	return NF_DROP;
}
