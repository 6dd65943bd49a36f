/*
 * chain.c - the functions of an instance, one after the other.
 *
 * A packet from inside goes through them in the order of the file, one from outside in the
 * reverse.  All of them share the run: its reads, matched by position, its group, its
 * rewrites.  While the chain runs, the run's flow is the one that the next function is to
 * see; outside of it, it is the flow as received, by which packets are kept in order.
 *
 * A function that waits ends the execution, unless it rewrites nothing: then those behind
 * it are asked for their reads as well, so that all of them travel in one trip.  What else
 * they do then counts for nothing, as the run waits.
 *
 * What is dropped by one function did not pass those before it: what they wrote and said is
 * forgotten, what it wrote itself is not.
 */
#include "pipe/run.h"

#include <stdio.h>

#include "nf/fragments.h"

/* --- execution ----------------------------------------------------------------- */

static void
set_ip(struct flow *f, bool src, const struct endpoint *to)
{
	if (f->version == 4) {
		if (src)
			f->ip4.src = to->ip4;
		else
			f->ip4.dst = to->ip4;
	} else {
		memcpy(src ? f->ip6.src : f->ip6.dst, to->ip6, sizeof(to->ip6));
	}
}

/* One end of a flow becomes 'to'.  An ICMP query's identifier is both ports. */
static void
set_end(struct flow *f, bool src, const struct endpoint *to, bool has_ports)
{
	bool icmp = f->protocol == PROTO_ICMP || f->protocol == PROTO_ICMP6;

	set_ip(f, src, to);
	if (!has_ports)
		return;
	if (src || icmp)
		f->src_port = to->port;
	if (!src || icmp)
		f->dst_port = to->port;
}

void
chain_rewrite_flow(const struct nf_run *r, struct flow *f)
{
	bool has_ports;

	if (r->packet.flags & PACKET_LATER_FRAGMENT)
		has_ports = r->marks & RUN_HAS_FOUND;
	else if (f->protocol == PROTO_ICMP || f->protocol == PROTO_ICMP6)
		has_ports = r->packet.flags & PACKET_ICMP_QUERY;
	else
		has_ports = f->protocol == PROTO_TCP || f->protocol == PROTO_UDP;
	if (r->edits & RUN_SET_SRC)
		set_end(f, true, &r->src, has_ports);
	if (r->edits & RUN_SET_DST)
		set_end(f, false, &r->dst, has_ports);
}

/* The same of what it quotes. */
static void
rewrite_quoted(struct run_context *c, const struct nf_run *r)
{
	struct flow *q = &c->quoted;

	if (!c->has_quoted && !nf_quoted(r, q))
		return;
	c->has_quoted = true;

	bool has_ports = (q->src_port | q->dst_port) != 0;

	if (r->edits & RUN_SET_QUOTED_SRC)
		set_end(q, true, &r->quoted_src, has_ports);
	if (r->edits & RUN_SET_QUOTED_DST)
		set_end(q, false, &r->quoted_dst, has_ports);
}

/* As received, while functions see something else. */
struct received {
	bool saved, has_connection;
	struct flow flow, connection;
};

/* Shows the next function what this one has made of the packet. */
static void
show_rewritten(struct run_context *c, struct nf_run *r, struct received *as)
{
	if (!as->saved) {
		as->flow = r->packet.flow;
		as->connection = r->connection;
		as->has_connection = r->has_connection;
		as->saved = true;
	}
	chain_rewrite_flow(r, &r->packet.flow);
	r->has_connection = false;
	if (r->edits & (RUN_SET_QUOTED_SRC | RUN_SET_QUOTED_DST))
		rewrite_quoted(c, r);
}

/* How much a run has written and said. */
struct extent {
	unsigned int n_writes, n_events;
	size_t bytes;
};

static struct extent
extent_of(const struct run_context *c, const struct nf_run *r)
{
	return (struct extent){ r->n_writes, r->extras & RUN_LOGS ? r->n_events : 0,
				(size_t)(c->writes.at - c->writes.start) };
}

static __rte_noinline void
forget_before(struct run_context *c, struct nf_run *r, const struct extent *e)
{
	struct frame *f = &c->writes;

	/* There was no room: the run is dropped, whatever is left of it. */
	if (r->unreadable == RUN_TOO_MUCH)
		return;
	if (r->extras & RUN_LOGS) {
		r->n_events -= (uint8_t)e->n_events;
		memmove(r->event, r->event + e->n_events,
			r->n_events * sizeof(r->event[0]));
	}
	r->n_writes -= (uint8_t)e->n_writes;
	memmove(r->write, r->write + e->n_writes, r->n_writes * sizeof(r->write[0]));
	memmove(f->start, f->start + e->bytes, (size_t)(f->at - f->start) - e->bytes);
	f->at -= e->bytes;
	for (unsigned int i = 0; i < r->n_writes; i++) {
		r->write[i].key -= e->bytes;
		if (r->write[i].value != NULL)
			r->write[i].value -= e->bytes;
	}
}

enum nf_verdict
chain_packet(struct nf_run *r)
{
	struct run_context *c = context_of(r);
	struct received as = { .saved = false };
	struct extent before = { 0 };
	enum nf_verdict verdict = NF_SEND;
	bool waits = false;

	for (unsigned int i = 0; i < c->chain.n; i++) {
		unsigned int at = r->side == NF_INSIDE ? i : c->chain.n - 1 - i;
		const struct nf *nf = c->chain.stage[at].nf;

		before = extent_of(c, r);
		chain_enter(c, at);
		verdict = nf->packet(r);
		waits |= verdict == NF_WAIT;
		if (verdict != NF_SEND && (verdict != NF_WAIT || !nf->keeps_flow))
			break;
		if (r->edits != 0)
			show_rewritten(c, r, &as);
	}
	if (as.saved) {
		r->packet.flow = as.flow;
		r->connection = as.connection;
		r->has_connection = as.has_connection;
		c->has_quoted = false;
	}
	chain_enter(c, 0);
	if (waits) {
		if (r->n_fetched == 0)
			ahead_ask(c, r);
		return NF_WAIT;
	}
	if (verdict == NF_SEND && r->trips > 0 && r->n_writes == 0 && r->n_pending == 0)
		ahead_learn(c, r);
	if (verdict == NF_DROP && (before.n_writes | before.n_events) != 0)
		forget_before(c, r, &before);
	return verdict;
}

enum nf_verdict
chain_non_ip(struct nf_run *r)
{
	struct run_context *c = context_of(r);
	enum nf_verdict verdict = NF_SEND;

	run_reset(r);
	for (unsigned int i = 0; i < c->chain.n && verdict == NF_SEND; i++) {
		unsigned int at = r->side == NF_INSIDE ? i : c->chain.n - 1 - i;
		const struct nf *nf = c->chain.stage[at].nf;

		chain_enter(c, at);
		if (nf->non_ip != NULL)
			verdict = nf->non_ip(r);
		else if (!nf->passes_non_ip)
			verdict = nf_drop(r, NF_DROP_NOT_IP);
	}
	chain_enter(c, 0);
	assert(verdict != NF_WAIT && verdict != NF_TURN && verdict != NF_AGAIN);
	assert(r->n_asked == 0 && r->n_writes == 0);
	return verdict;
}

/* --- what it consists of ------------------------------------------------------- */

void
chain_make(struct chain *c, const struct nf *const *nf, unsigned int n)
{
	bool needs_ports = false;

	assert(n > 0 && n <= NF_MAX_STAGES);
	*c = (struct chain){ .n = n, .n_all = n };
	for (unsigned int i = 0; i < n; i++) {
		c->stage[i].nf = nf[i];
		needs_ports |= nf[i]->needs_ports;
	}
	if (needs_ports)
		c->stage[c->n_all++].nf = &nf_fragments;
}

unsigned int
chain_tables(const struct chain *c, struct nf_table **table, uint8_t *stage)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < c->n_all; i++) {
		unsigned int n_own = nf_tables(c->stage[i].nf, table + n,
					       STORE_MAX_TABLES - n);

		memset(stage + n, (int)i, n_own);
		n += n_own;
	}
	return n;
}

void
chain_names(const struct chain *c, char *text, size_t bytes)
{
	size_t n = 0;

	text[0] = '\0';
	for (unsigned int i = 0; i < c->n && n < bytes; i++)
		n += (size_t)snprintf(text + n, bytes - n, "%s%s", i > 0 ? ", " : "",
				      c->stage[i].nf->name);
}

/* The longest value that may be written, in any format. */
static uint16_t
value_max(const struct nf_table *t)
{
	unsigned int n, max = t->value_max;

	for (unsigned int format = 1; format < t->format; format++) {
		n = nf_table_bytes(t, (uint8_t)format, t->value_max);
		max = RTE_MAX(max, n);
	}
	return (uint16_t)max;
}

unsigned int
pipe_tables(const struct chain *chain, const struct pipe_table *wanted,
	    struct store_table *declared)
{
	struct nf_table *table[STORE_MAX_TABLES];
	uint8_t stage[STORE_MAX_TABLES];
	unsigned int n = chain_tables(chain, table, stage);

	for (unsigned int i = 0; i < n; i++) {
		struct nf_table *t = table[i];

		assert(!t->evict || t->expired == NULL);
		t->index = (uint8_t)i;
		declared[i] = (struct store_table){
			.key_max = t->key_max, .value_max = value_max(t),
			.format = t->format, .leased = t->expired != NULL,
			.evict = wanted[i].evict, .commit = wanted[i].commit,
			.limit = wanted[i].limit != 0 ? wanted[i].limit : t->limit,
		};
		snprintf(declared[i].name, sizeof(declared[i].name), "%s.%s",
			 chain->stage[stage[i]].nf->name, t->name);
	}
	return n;
}
