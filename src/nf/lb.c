/*
 * lb.c - load balancer (Algorithm 1 of the paper).
 *
 * The first packet of a connection to a virtual address picks a backend and remembers the
 * choice; later ones read that choice, and answers leave with the virtual address as
 * their source.  The first FIN or RST takes the connection off its backend's count again,
 * and so does its expiry if it just goes silent.
 *
 * The choice is the connection's until it ends, whatever becomes of schedulers and files
 * meanwhile.  It ends early only by policy: when its backend is down, or when one that
 * gets nothing new has had its time.  Then both ends get a RST, and whatever still comes
 * of the connection is refused.  UDP has no ends to tell, and moves.
 *
 * A SYN that is not a repetition begins anew where the old connection is over or never
 * was open, or where its backend gets nothing new.  Otherwise it goes where the
 * connection is: there it is known whether the client has lost its memory, or somebody
 * else plays it, and it is answered accordingly (RFC 5961, 4; RFC 9293, 3.5.1).
 *
 * What is neither for a virtual address nor from a backend passes unchanged.
 */
#include "nf/lb.h"

/* What a backend is to a connection that it has. */
enum standing {
	USABLE,
	DRAINED,				/* It gets nothing new... */
	DOWN,
};

/* What a new connection is chosen by. */
struct opening {
	struct lb_pool pool;
	uint64_t turn;
	bool has_sticky;
	struct endpoint sticky;
	uint64_t avoid;				/* They have the client's port already. */
};

/* --- backends ----------------------------------------------------------------- */

uint64_t
lb_usable(const struct nf_run *r, const struct lb_service *s)
{
	const struct lb_health_note *note = nf_note(r);
	uint64_t up = s->weighted & ~note->down[s->number];

	return up == 0 && s->no_backend == LB_NO_BACKEND_PANIC ? s->weighted : up;
}

static enum standing
standing_of(const struct nf_run *r, const struct lb_service *s, int place)
{
	if (place == LB_NONE || s->backend[place].weight == 0)
		return DRAINED;
	if (lb_health_up(nf_note(r), s->number, (unsigned int)place) ||
	    (lb_usable(r, s) >> place & 1))
		return USABLE;
	return DOWN;
}

bool
lb_datagram_place(struct nf_run *r, struct lb_conn *c)
{
	const struct lb_service *s = c->service;
	uint64_t hash = nf_random(r), usable = lb_usable(r, s);

	if (usable == 0)
		return false;
	if (s->scheduler >= LB_BY_CONNECTION)
		hash = lb_hash(s, c->key);
	c->place = lb_maglev_at(s->maglev, hash, usable);
	c->backend = s->backend[c->place].endpoint;
	return true;
}

static enum nf_verdict
no_backend(struct nf_run *r, const struct lb_service *s)
{
	if (s->no_backend != LB_NO_BACKEND_DROP)
		nf_refuse(r, REFUSE_RST);
	return nf_drop(r, NF_DROP_BACKEND);
}

/* --- new connections ---------------------------------------------------------- */

/* Backends that serve several virtual addresses tell a client's connections to them apart
 * by its ports alone: one that has a connection of this port gets no other. */
static uint64_t
avoid_siblings(struct nf_run *r, const struct lb_service *s, const struct flow *key)
{
	const struct lb *lb = nf_static(r);
	struct flow answers, other;
	struct lb_conn c;
	uint64_t avoid = 0;
	int at;

	flow_reverse(key, &answers);
	for (unsigned int i = 0; i < s->n_siblings; i++) {
		const struct lb_service *sibling = &lb->service[s->sibling[i]];

		lb_conn_key(&answers, &sibling->address, &other);
		if (!lb_conn_read(r, sibling, &other, NF_PEEK, &c))
			continue;
		at = lb_backend_at(s, &c.backend);
		if (at != LB_NONE)
			avoid |= 1ULL << at;
	}
	return avoid;
}

static void
opening_read(struct nf_run *r, const struct lb_service *s, const struct flow *key,
	     struct opening *o)
{
	unsigned int partition = lb_conn_partition(r, key);

	/* First, as only the first thing that is glanced at is guessed on. */
	if (s->scheduler == LB_ROUND_ROBIN) {
		struct lb_pool turns = { .key = { s->address, (uint16_t)partition,
						  s->protocol, 0 } };

		o->turn = lb_turn_glance(r, &turns);
	}
	lb_pool_glance(r, &s->address, s->protocol, partition, &o->pool);
	o->has_sticky = s->persistence_ms != 0 && lb_sticky_read(r, s, key, &o->sticky);
	o->avoid = s->n_siblings > 0 ? avoid_siblings(r, s, key) : 0;
}

static int
choose(const struct nf_run *r, const struct lb_service *s, const struct flow *key,
       const struct opening *o)
{
	struct lb_load load = { .usable = lb_usable(r, s) & ~o->avoid, .turn = o->turn };
	int at = o->has_sticky ? lb_backend_at(s, &o->sticky) : LB_NONE;

	if (at != LB_NONE && (load.usable >> at & 1))
		return at;
	if (s->scheduler == LB_LEAST_CONNECTIONS)
		lb_pool_loads(s, &o->pool, load.n_open);
	at = lb_choose(s, &load, key);
	if (at == LB_NONE || lb_pool_has_room(&o->pool, &s->backend[at].endpoint))
		return at;
	load.usable &= lb_pool_there(s, &o->pool);
	return lb_choose(s, &load, key);
}

/* Whether the client is to return to the backend of 'c' from now on, and not to the one
 * that it had.  Where that only has the client's port already, its others return. */
static bool
moves_client(const struct nf_run *r, const struct lb_service *s, const struct opening *o,
	     const struct lb_conn *c)
{
	int at = o->has_sticky ? lb_backend_at(s, &o->sticky) : LB_NONE;

	return at != c->place &&
	       (at == LB_NONE || !(lb_usable(r, s) & o->avoid & 1ULL << at));
}

/* 'old', if there is one, is over. */
static enum nf_verdict
conn_open(struct nf_run *r, const struct lb_service *s, const struct flow *key,
	  const struct opening *o, const struct lb_conn *old)
{
	struct lb_conn c = { .key = key, .service = s, .is_full = s->mode == LB_NAT };
	enum nf_verdict counted, taken = NF_SEND;
	const struct endpoint *off = NULL;
	uint32_t idle_ms = s->idle_ms;

	c.place = choose(r, s, key, o);
	if (c.place == LB_NONE)
		return no_backend(r, s);
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	c.backend = s->backend[c.place].endpoint;
	c.state = LB_OPEN;
	if (nf_is_tcp(r)) {
		c.state = LB_OPENING;
		c.seq = lb_conn_seq(packet_tcp_seq(nf_packet(r)));
		idle_ms = s->opening_ms;
	}
	/* Both may have to ask for more, in one trip. */
	if (old != NULL && old->state < LB_CLOSED)
		off = &old->backend;
	counted = lb_pool_move(r, &o->pool, off, &c.backend);
	if (c.is_full)
		taken = lb_conn_take_source(r, &c);
	if (nf_pending(r))
		return NF_WAIT;
	if (counted != NF_SEND)
		return nf_drop(r, NF_DROP_BACKEND);
	if (taken != NF_SEND)
		return nf_drop(r, NF_DROP_PORTS);
	if (old != NULL)
		lb_conn_give_source(r, old);
	if (s->scheduler == LB_ROUND_ROBIN)
		lb_turn_take(r, &o->pool);
	if (s->persistence_ms != 0 && moves_client(r, s, o, &c))
		lb_sticky_write(r, s, key, &c.backend);
	lb_conn_write(r, &c, idle_ms);
	return lb_send(r, &c, false);
}

/* The same where what it is chosen by has not been asked for yet. */
static enum nf_verdict
conn_open_late(struct nf_run *r, const struct lb_service *s, const struct flow *key,
	       const struct lb_conn *old)
{
	struct opening o;

	opening_read(r, s, key, &o);
	return nf_pending(r) ? NF_WAIT : conn_open(r, s, key, &o, old);
}

/* --- connections -------------------------------------------------------------- */

/* Takes the connection off the count, and sends the packet that closes it.  Of one
 * that was refused, nothing is to be waited for. */
static enum nf_verdict
conn_close(struct nf_run *r, struct lb_conn *c, const struct lb_pool *pool,
	   bool from_backend)
{
	bool refused = c->state == LB_OPENING && (nf_packet(r)->tcp_flags & TCP_RST);

	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (lb_pool_move(r, pool, &c->backend, NULL) == NF_WAIT)
		return NF_WAIT;
	c->state = LB_CLOSED;
	lb_conn_write(r, c, refused ? c->service->opening_ms : c->service->closed_ms);
	return lb_send(r, c, from_backend);
}

/* Both ends get to know that it is over. */
static enum nf_verdict
conn_reset(struct nf_run *r, struct lb_conn *c, bool from_backend)
{
	const struct lb_service *s = c->service;
	struct lb_pool pool;

	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (c->state < LB_CLOSED) {
		lb_pool_glance(r, &s->address, s->protocol,
			       lb_conn_partition(r, c->key), &pool);
		if (nf_pending(r) ||
		    lb_pool_move(r, &pool, &c->backend, NULL) == NF_WAIT)
			return NF_WAIT;
	}
	if (nf_is_tcp(r)) {
		c->state = LB_ENDED;
		lb_conn_write(r, c, s->closed_ms);
		lb_conn_end_answers(r, c);
		lb_send_resets(r, c, from_backend);
	} else {
		lb_conn_delete(r, c);
		lb_conn_give_source(r, c);
		nf_refuse(r, REFUSE_PORT);
	}
	return nf_drop(r, NF_DROP_BACKEND);
}

/* Whether the connection is to end, as its backend is not what it was.  False if pending,
 * too.  A packet that closes it itself, or of which no reset can be made, goes on. */
static bool
is_over(struct nf_run *r, const struct lb_conn *c, enum standing standing)
{
	const struct packet *p = nf_packet(r);

	if ((p->tcp_flags & TCP_RST) || (p->flags & PACKET_LATER_FRAGMENT))
		return false;
	if (standing == DRAINED)
		return (c->place == LB_NONE && c->service->mode == LB_DSR_MAC) ||
		       lb_drain_over(r, c);
	return c->service->down != LB_DOWN_KEEP;
}

static enum nf_verdict
conn_over(struct nf_run *r, struct lb_conn *c, enum standing standing, bool from_backend)
{
	bool moves = standing == DRAINED || c->service->down == LB_DOWN_MOVE;

	if (nf_is_tcp(r) || !moves)
		return conn_reset(r, c, from_backend);
	/* Its client will move it. */
	if (from_backend)
		return lb_send(r, c, true);
	return conn_open_late(r, c->service, c->key, c);
}

/* Whether a SYN begins a connection, instead of repeating the one that opened 'c'. */
static bool
begins_anew(const struct nf_run *r, const struct lb_conn *c, enum standing standing)
{
	bool repeats = c->seq == lb_conn_seq(packet_tcp_seq(nf_packet(r)));

	if (c->state >= LB_CLOSED)
		return true;
	if (c->state == LB_OPENING)
		return !repeats || standing != USABLE;
	return !repeats && standing != USABLE;
}

static bool
shakes_hands(const struct nf_run *r, const struct lb_conn *c, bool from_backend)
{
	return c->state == LB_OPENING && !from_backend &&
	       (nf_packet(r)->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_ACK;
}

/* A packet of a connection that there is, and that goes on. */
static enum nf_verdict
conn_packet(struct nf_run *r, struct lb_conn *c, const struct lb_pool *pool,
	    bool from_backend)
{
	if (pool != NULL && c->state < LB_CLOSED)
		return conn_close(r, c, pool, from_backend);
	if (shakes_hands(r, c, from_backend)) {
		if (!nf_checksum_ok(r))
			return nf_drop(r, NF_DROP_CHECKSUM);
		c->state = LB_OPEN;
		lb_conn_write(r, c, c->service->idle_ms);
	}
	return lb_send(r, c, from_backend);
}

static bool
is_from(const struct nf_run *r, const struct endpoint *backend)
{
	struct endpoint from;

	flow_source(nf_flow(r), &from);
	return lb_same_endpoint(&from, backend);
}

static enum nf_verdict former_answer(struct nf_run *r, const struct lb_service *s);

/* A packet of the connection that 'key' names, in either direction.  'known' is what was
 * read of it already, or NULL. */
static enum nf_verdict
connection(struct nf_run *r, const struct lb_service *s, const struct flow *key,
	   const struct lb_conn *known, bool from_backend)
{
	bool opens = nf_is_syn(r) && !from_backend;
	bool closes = (nf_packet(r)->tcp_flags & (TCP_FIN | TCP_RST)) != 0;
	bool found = known != NULL;
	enum standing standing;
	struct opening o;
	struct lb_conn c;

	if (found)
		c = *known;
	else
		found = lb_conn_read(r, s, key, NF_READ, &c);
	if (opens)
		opening_read(r, s, key, &o);
	else if (closes)
		lb_pool_glance(r, &s->address, s->protocol, lb_conn_partition(r, key),
			       &o.pool);
	if (nf_pending(r))
		return NF_WAIT;
	if (!found && opens)
		return conn_open(r, s, key, &o, NULL);
	if (from_backend && (!found || !is_from(r, &c.backend)))
		return former_answer(r, s);
	if (!found && nf_is_tcp(r))
		return nf_drop(r, NF_DROP_STATE);
	if (!found)
		return conn_open_late(r, s, key, NULL);
	standing = standing_of(r, s, c.place);
	if (opens && begins_anew(r, &c, standing))
		return conn_open(r, s, key, &o, &c);
	if (c.state == LB_ENDED) {
		nf_refuse(r, REFUSE_RST);
		return nf_drop(r, NF_DROP_STATE);
	}
	if (standing != USABLE) {
		if (is_over(r, &c, standing))
			return conn_over(r, &c, standing, from_backend);
		if (nf_pending(r))
			return NF_WAIT;
	}
	return conn_packet(r, &c, closes ? &o.pool : NULL, from_backend);
}

/* An answer that is not of its client's connection to the service.  Its backend may have
 * been another service's, in files that are no more; or it is late, of a connection that
 * the client had before. */
static enum nf_verdict
former_answer(struct nf_run *r, const struct lb_service *s)
{
	struct lb_answer answer = { .service = NULL };

	if (s->mode == LB_DNAT)
		lb_former_owner(r, nf_flow(r), &answer);
	if (nf_pending(r))
		return NF_WAIT;
	if (answer.service == NULL)
		return nf_drop(r, NF_DROP_STATE);
	lb_conn_touch(r, answer.service, &answer.key);
	return connection(r, answer.service, &answer.key, &answer.conn, true);
}

/* --- answers ------------------------------------------------------------------ */

/* Which of some virtual addresses it is that a backend has a connection of. */
static void
owner_of_shared(struct nf_run *r, const struct flow *answers,
		const struct endpoint *address, unsigned int n, struct lb_answer *out)
{
	struct endpoint backend;

	flow_source(answers, &backend);
	for (unsigned int i = 0; i < n; i++) {
		const struct lb_service *s;
		struct lb_conn c;
		struct flow key;

		s = lb_service_at(nf_static(r), &address[i], answers->protocol);
		if (s == NULL || s->mode != LB_DNAT)
			continue;
		lb_conn_key(answers, &address[i], &key);
		if (!lb_conn_read(r, s, &key, NF_PEEK, &c) ||
		    !lb_same_endpoint(&c.backend, &backend))
			continue;
		out->service = s;
		out->key = key;
		out->conn = c;
		out->conn.key = &out->key;
		out->is_read = true;
	}
}

void
lb_former_owner(struct nf_run *r, const struct flow *answers, struct lb_answer *out)
{
	struct endpoint origin[LB_MAX_SHARED], backend;
	struct flow client;
	unsigned int n;

	out->service = NULL;
	out->is_read = false;
	flow_reverse(answers, &client);
	flow_source(answers, &backend);
	n = lb_origins(r, &backend, answers->protocol, lb_conn_partition(r, &client),
		       origin);
	owner_of_shared(r, answers, origin, n, out);
}

/* With full NAT answers go to an address of ours.  False: this one does not. */
static bool
owner_of_source(struct nf_run *r, const struct flow *answers, struct lb_answer *out)
{
	const struct lb *lb = nf_static(r);
	const struct lb_service *s;
	const struct lb_place *place;
	struct endpoint e;

	flow_destination(answers, &e);
	e.port = 0;
	place = lb_find(&lb->virtual, &e, 0);
	if (place == NULL || !place->is_source)
		return false;
	out->is_ours = true;
	if (!lb_conn_answered(r, answers, &out->key, &out->ended))
		return true;
	flow_destination(&out->key, &e);
	s = lb_service_at(lb, &e, answers->protocol);
	if (s != NULL && s->mode == LB_NAT)
		out->service = s;
	return true;
}

void
lb_owner(struct nf_run *r, const struct flow *answers, struct lb_answer *out)
{
	const struct lb *lb = nf_static(r);
	struct endpoint address[LB_MAX_SHARED], e;
	const struct lb_place *place;

	out->service = NULL;
	out->is_ours = out->ended = out->is_read = false;
	if ((lb->has_nat && owner_of_source(r, answers, out)) || !lb->translates)
		return;
	flow_source(answers, &e);
	place = lb_find(&lb->backends, &e, answers->protocol);
	for (unsigned int i = 0; place != NULL && i < place->n; i++)
		address[i] = lb->service[place->service[i]].address;
	if (place == NULL || place->n > 1) {
		if (place != NULL)
			owner_of_shared(r, answers, address, place->n, out);
		if (!nf_pending(r) && out->service == NULL)
			lb_former_owner(r, answers, out);
		return;
	}
	out->service = &lb->service[place->service[0]];
	lb_conn_key(answers, address, &out->key);
}

/* An answer of full NAT needs no other record than the one that led here, unless
 * something becomes of the connection. */
static bool
is_plain(const struct nf_run *r, const struct lb_service *s, bool ended)
{
	struct endpoint backend;

	if (ended || (nf_packet(r)->tcp_flags & (TCP_FIN | TCP_RST)))
		return false;
	flow_source(nf_flow(r), &backend);
	return standing_of(r, s, lb_backend_at(s, &backend)) == USABLE;
}

static enum nf_verdict
from_inside(struct nf_run *r)
{
	const struct lb_service *s;
	struct lb_answer answer;
	struct lb_conn c;

	lb_owner(r, nf_flow(r), &answer);
	if (nf_pending(r))
		return NF_WAIT;
	s = answer.service;
	if (s == NULL)
		return answer.is_ours ? nf_drop(r, NF_DROP_STATE) : NF_SEND;
	c = (struct lb_conn){ .key = &answer.key, .service = s,
			      .is_full = s->mode == LB_NAT };
	if (s->by_datagram)
		return lb_send(r, &c, true);
	if (c.is_full && is_plain(r, s, answer.ended)) {
		lb_conn_touch(r, s, &answer.key);
		return lb_send(r, &c, true);
	}
	if (answer.is_read)
		lb_conn_touch(r, s, &answer.key);
	return connection(r, s, &answer.key, answer.is_read ? &answer.conn : NULL, true);
}

/* --- packets ------------------------------------------------------------------ */

/* A virtual endpoint, but of the other protocol. */
static bool
is_half_served(const struct nf_run *r, const struct endpoint *to)
{
	uint8_t other = nf_is_tcp(r) ? PROTO_UDP : PROTO_TCP;

	return lb_service_at(nf_static(r), to, other) != NULL;
}

static enum nf_verdict
from_outside(struct nf_run *r)
{
	const struct flow *f = nf_flow(r);
	const struct lb_service *s;
	struct endpoint to;
	struct lb_conn c;

	flow_destination(f, &to);
	s = lb_service_at(nf_static(r), &to, f->protocol);
	if (s == NULL)
		return is_half_served(r, &to) ? nf_drop(r, NF_DROP_BACKEND) : NF_SEND;
	if (!s->by_datagram)
		return connection(r, s, f, NULL, false);
	c = (struct lb_conn){ .key = f, .service = s };
	return lb_datagram_place(r, &c) ? lb_send(r, &c, false) : no_backend(r, s);
}

static enum nf_verdict
lb_packet(struct nf_run *r)
{
	uint8_t protocol = nf_flow(r)->protocol;

	if (protocol != PROTO_TCP && protocol != PROTO_UDP)
		return protocol == PROTO_ICMP || protocol == PROTO_ICMP6 ? lb_icmp(r)
									 : NF_SEND;
	return nf_side(r) == NF_OUTSIDE ? from_outside(r) : from_inside(r);
}

static const struct nf_event lb_events[] = { LB_HEALTH_EVENTS, { 0 } };

const struct nf nf_lb = {
	.name = "lb",
	.options = lb_options_fields,
	.options_bytes = LB_OPTIONS_BYTES,
	.init = lb_init,
	.fini = lb_fini,
	.packet = lb_packet,
	.non_ip = lb_non_ip,
	.note = lb_health_note,
	.note_ms = LB_HEALTH_NOTE_MS,
	.work = lb_health_work,
	.done = lb_health_done,
	.events = lb_events,
	.needs_ports = true,
};
