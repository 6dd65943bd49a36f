/*
 * lb_conn.c - the records of connections.
 *
 * A connection is one record under the client's flow to the virtual address, which both
 * directions read, for an answer's source says what its destination was.  With full NAT
 * an answer goes to an address of ours, so a second record leads from there to the first;
 * both are written in one group with the taking of the port, and deleted in one when the
 * first one's time has passed.
 *
 * All that belongs to one client address lies in one partition: its connections, where it
 * has been lately, and the counts that they are in.  An answer's record lies where the
 * port says, so ports are chosen that say the same.
 */
#include "nf/lb.h"

enum {
	FIRST_PORT = 1024,			/* RFC 4787, REQ-3 */
	N_PORTS = 65536 - FIRST_PORT,
	TRIED_SOURCES = 4,
	QUARANTINE_MS = 120 * 1000,		/* RFC 6888, REQ-8 */
	DRAIN_SLICE_MS = 10 * 1000,
};

struct client {					/* Key: the flow from the client. */
	struct endpoint backend;		/* Its 'zero' is the enum lb_state. */
	uint32_t seq_and_place;			/* Of the SYN, above; of the backend. */
};

struct full {					/* The same, of full NAT. */
	struct client client;
	struct endpoint source;
};

struct answer {					/* Key: the flow from the backend. */
	struct endpoint client, address;
	uint32_t ended;
};

/* The free ports of a source towards a backend, of those in one partition. */
struct ports_key {
	struct endpoint source, backend;
	uint16_t partition;
	uint8_t protocol, zero;
};

struct sticky_key {
	struct endpoint client, address;	/* The client's with port 0. */
	uint32_t protocol;
};

struct sticky {
	struct endpoint backend;
};

struct drain_key {
	struct endpoint address, backend;
	uint16_t partition;
	uint8_t protocol, zero;
};

struct drain {
	uint32_t left_ms;			/* 0: it is over. */
};

static_assert(sizeof(struct client) == 24, "no padding");
static_assert(sizeof(struct full) == 44, "no padding");
static_assert(sizeof(struct answer) == 44, "no padding");
static_assert(sizeof(struct ports_key) == 44, "no padding");
static_assert(sizeof(struct sticky_key) == 44, "no padding");
static_assert(sizeof(struct drain_key) == 44, "no padding");

static void client_expired(struct nf_run *r, const void *key, const void *value);
static void full_expired(struct nf_run *r, const void *key, const void *value);
static void drain_expired(struct nf_run *r, const void *key, const void *value);
static uint32_t client_spread(const void *key, unsigned int key_bytes);
static uint32_t answer_spread(const void *key, unsigned int key_bytes);
static uint32_t ports_spread(const void *key, unsigned int key_bytes);
static uint32_t sticky_spread(const void *key, unsigned int key_bytes);
static uint32_t drain_spread(const void *key, unsigned int key_bytes);

#define ENDPOINT_FIELD(name, type, member)                                       \
	{ name, NF_FIELD_ENDPOINT, offsetof(struct type, member),                \
	  sizeof(struct endpoint) }
#define CLIENT_FIELDS                                                            \
	ENDPOINT_FIELD("backend", client, backend),                              \
	{ "state", NF_FIELD_WORD, offsetof(struct client, backend.zero), 1,      \
	  (const char *const[]){ "opening", "open", "closed", "ended", NULL } }

static const struct nf_field client_fields[] = { CLIENT_FIELDS, { 0 } };

static const struct nf_field full_fields[] = {
	CLIENT_FIELDS, ENDPOINT_FIELD("source", full, source), { 0 }
};

static const struct nf_field answer_fields[] = {
	ENDPOINT_FIELD("client", answer, client),
	ENDPOINT_FIELD("address", answer, address),
	{ "ended", NF_FIELD_UINT, offsetof(struct answer, ended), 4 },
	{ 0 }
};

static const struct nf_field ports_fields[] = {
	ENDPOINT_FIELD("source", ports_key, source),
	ENDPOINT_FIELD("backend", ports_key, backend),
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct ports_key, protocol), 1 },
	{ "partition", NF_FIELD_UINT, offsetof(struct ports_key, partition), 2 },
	{ 0 }
};

static const struct nf_field sticky_key_fields[] = {
	ENDPOINT_FIELD("client", sticky_key, client),
	ENDPOINT_FIELD("address", sticky_key, address),
	{ 0 }
};

static const struct nf_field sticky_fields[] = {
	ENDPOINT_FIELD("backend", sticky, backend), { 0 }
};

static const struct nf_field drain_key_fields[] = {
	ENDPOINT_FIELD("address", drain_key, address),
	ENDPOINT_FIELD("backend", drain_key, backend),
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct drain_key, protocol), 1 },
	{ "partition", NF_FIELD_UINT, offsetof(struct drain_key, partition), 2 },
	{ 0 }
};

static const struct nf_field drain_fields[] = {
	{ "left_ms", NF_FIELD_UINT, offsetof(struct drain, left_ms), 4 }, { 0 }
};

NF_TABLE(client, struct flow, struct client, .idle_ms = 7440 * 1000, .format = 2,
	 .expired = client_expired, .spread = client_spread, .fields = client_fields)
NF_TABLE(full, struct flow, struct full, .idle_ms = 7440 * 1000,
	 .expired = full_expired, .spread = client_spread, .fields = full_fields)
NF_TABLE(answer, struct flow, struct answer, .spread = answer_spread,
	 .fields = answer_fields)
NF_RANGE(ports, struct ports_key, .spread = ports_spread, .key_fields = ports_fields)
NF_TABLE(sticky, struct sticky_key, struct sticky, .idle_ms = 300 * 1000,
	 .spread = sticky_spread, .key_fields = sticky_key_fields,
	 .fields = sticky_fields)
NF_TABLE(drain, struct drain_key, struct drain, .idle_ms = DRAIN_SLICE_MS,
	 .expired = drain_expired, .spread = drain_spread,
	 .key_fields = drain_key_fields, .fields = drain_fields)

/* --- where records lie -------------------------------------------------------- */

static uint32_t
address_spread(const void *ip, uint8_t version)
{
	return nf_spread(ip, version == 4 ? 4 : 16);
}

static uint32_t
client_spread(const void *key, unsigned int key_bytes)
{
	const struct flow *f = key;

	(void)key_bytes;
	return address_spread(f->version == 4 ? (const void *)&f->ip4.src : f->ip6.src,
			      f->version);
}

/* Neighbouring ports lie in neighbouring partitions. */
static uint32_t
answer_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return rte_be_to_cpu_16(((const struct flow *)key)->dst_port);
}

static uint32_t
ports_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct ports_key *)key)->partition;
}

static uint32_t
sticky_spread(const void *key, unsigned int key_bytes)
{
	const struct sticky_key *k = key;

	(void)key_bytes;
	return address_spread(k->client.ip6, k->client.version);
}

static uint32_t
drain_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct drain_key *)key)->partition;
}

unsigned int
lb_conn_partition(const struct nf_run *r, const struct flow *key)
{
	return client_partition(r, key);
}

/* --- flows -------------------------------------------------------------------- */

static void
set_destination(struct flow *f, const struct endpoint *to)
{
	f->dst_port = to->port;
	if (f->version == 4)
		f->ip4.dst = to->ip4;
	else
		memcpy(f->ip6.dst, to->ip6, sizeof(f->ip6.dst));
}

static void
set_source(struct flow *f, const struct endpoint *from)
{
	f->src_port = from->port;
	if (f->version == 4)
		f->ip4.src = from->ip4;
	else
		memcpy(f->ip6.src, from->ip6, sizeof(f->ip6.src));
}

void
lb_conn_key(const struct flow *from_backend, const struct endpoint *virtual,
	    struct flow *key)
{
	flow_reverse(from_backend, key);
	set_destination(key, virtual);
}

/* What comes back from the backend, with full NAT. */
static void
answers_make(const struct lb_conn *c, struct flow *answers)
{
	flow_reverse(c->key, answers);
	set_source(answers, &c->backend);
	set_destination(answers, &c->source);
}

/* --- connections -------------------------------------------------------------- */

static void
conn_take(const struct client *v, struct lb_conn *c)
{
	unsigned int place = v->seq_and_place & 0xff;
	const struct lb_service *s = c->service;

	c->backend = v->backend;
	c->backend.zero = 0;
	c->state = v->backend.zero;
	c->seq = v->seq_and_place >> 8;
	c->place = LB_NONE;
	if (s == NULL)
		return;
	if (place < s->n_backends &&
	    lb_same_endpoint(&s->backend[place].endpoint, &c->backend))
		c->place = (int)place;
	else
		c->place = lb_backend_at(s, &c->backend);
}

static bool
full_take(struct nf_run *r, const struct flow *key, enum nf_ask how, struct lb_conn *c)
{
	const struct full *v = how == NF_PEEK ? full_peek(r, key) : full_read(r, key);

	if (v == NULL)
		return false;
	conn_take(&v->client, c);
	c->source = v->source;
	return true;
}

bool
lb_conn_read(struct nf_run *r, const struct lb_service *s, const struct flow *key,
	     enum nf_ask how, struct lb_conn *c)
{
	const struct client *v;

	c->key = key;
	c->service = s;
	c->is_full = s->mode == LB_NAT;
	if (c->is_full)
		return full_take(r, key, how, c);
	v = how == NF_PEEK ? client_peek(r, key) : client_read(r, key);
	if (v == NULL)
		return false;
	conn_take(v, c);
	return true;
}

void
lb_conn_write(struct nf_run *r, const struct lb_conn *c, uint32_t idle_ms)
{
	struct full v = {
		.client = { .backend = c->backend,
			    .seq_and_place = c->seq << 8 | (uint8_t)c->place },
	};

	v.client.backend.zero = (uint8_t)c->state;
	if (!c->is_full) {
		client_write_for(r, c->key, &v.client, idle_ms);
		return;
	}
	v.source = c->source;
	full_write_for(r, c->key, &v, idle_ms);
}

void
lb_conn_delete(struct nf_run *r, const struct lb_conn *c)
{
	if (c->is_full)
		full_delete(r, c->key);
	else
		client_delete(r, c->key);
}

void
lb_conn_touch(struct nf_run *r, const struct lb_service *s, const struct flow *key)
{
	if (s->mode == LB_NAT)
		full_touch(r, key);
	else
		client_touch(r, key);
}

/* A connection went silent.  If it was open, its ends get to know when they next say
 * something. */
static void
conn_expired(struct nf_run *r, struct lb_conn *c)
{
	struct endpoint address;
	struct lb_pool pool;

	if (c->state < LB_CLOSED) {
		flow_destination(c->key, &address);
		lb_pool_glance(r, &address, c->key->protocol,
			       lb_conn_partition(r, c->key), &pool);
		if (nf_pending(r) ||
		    lb_pool_move(r, &pool, &c->backend, NULL) == NF_WAIT)
			return;
	}
	if (c->state == LB_OPEN && c->service != NULL && c->key->protocol == PROTO_TCP) {
		c->state = LB_ENDED;
		lb_conn_write(r, c, c->service->closed_ms);
		lb_conn_end_answers(r, c);
	} else {
		lb_conn_give_source(r, c);
	}
}

static void
conn_of_record(struct nf_run *r, const struct flow *key, bool is_full, struct lb_conn *c)
{
	struct endpoint address;

	flow_destination(key, &address);
	c->key = key;
	c->is_full = is_full;
	c->service = lb_service_at(nf_static(r), &address, key->protocol);
	/* It may have another mode by now. */
	if (c->service != NULL && (c->service->mode == LB_NAT) != is_full)
		c->service = NULL;
}

static void
client_expired(struct nf_run *r, const void *key, const void *value)
{
	struct lb_conn c;

	conn_of_record(r, key, false, &c);
	conn_take(value, &c);
	conn_expired(r, &c);
}

static void
full_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct full *v = value;
	struct lb_conn c;

	conn_of_record(r, key, true, &c);
	conn_take(&v->client, &c);
	c.source = v->source;
	conn_expired(r, &c);
}

/* --- full NAT ----------------------------------------------------------------- */

static void
ports_key_make(const struct nf_run *r, const struct lb_conn *c,
	       const struct endpoint *source, struct ports_key *key)
{
	*key = (struct ports_key){ .source = *source, .backend = c->backend,
				   .partition = (uint16_t)lb_conn_partition(r, c->key),
				   .protocol = c->key->protocol };
	key->source.port = 0;
}

/* Member 0 of a range. */
static unsigned int
lowest_port(const struct nf_run *r, const struct ports_key *key)
{
	unsigned int n = nf_partitions(r);

	return FIRST_PORT + (key->partition + n - FIRST_PORT % n) % n;
}

/* All partitions have at least so many. */
static unsigned int
n_members(const struct nf_run *r)
{
	return N_PORTS / nf_partitions(r);
}

/* Which source it is, a client's address says. */
enum nf_verdict
lb_conn_take_source(struct nf_run *r, struct lb_conn *c)
{
	const struct lb_service *s = c->service;
	unsigned int first = client_spread(c->key, 0) / 64 % s->n_sources;
	struct answer answer = { .address = s->address };
	struct ports_key key;
	struct flow answers;
	uint32_t member;

	for (unsigned int i = 0; i < s->n_sources && i < TRIED_SOURCES; i++) {
		c->source = s->source[(first + i) % s->n_sources];
		ports_key_make(r, c, &c->source, &key);
		if (!ports_pick(r, &key, n_members(r), &member)) {
			if (nf_pending(r))
				return NF_WAIT;
			continue;
		}
		c->source.port = rte_cpu_to_be_16(
			(uint16_t)(lowest_port(r, &key) + member * nf_partitions(r)));
		flow_source(c->key, &answer.client);
		answers_make(c, &answers);
		ports_take(r, &key, n_members(r), member);
		answer_insert(r, &answers, &answer, 0);
		return NF_SEND;
	}
	return NF_DROP;
}

void
lb_conn_give_source(struct nf_run *r, const struct lb_conn *c)
{
	unsigned int port = rte_be_to_cpu_16(c->source.port);
	struct ports_key key;
	struct flow answers;

	if (!c->is_full)
		return;
	answers_make(c, &answers);
	answer_delete(r, &answers);
	ports_key_make(r, c, &c->source, &key);
	ports_give(r, &key, (port - lowest_port(r, &key)) / nf_partitions(r),
		   QUARANTINE_MS);
}

void
lb_conn_end_answers(struct nf_run *r, const struct lb_conn *c)
{
	struct answer answer = { .ended = 1 };
	struct flow answers;

	if (!c->is_full)
		return;
	flow_source(c->key, &answer.client);
	flow_destination(c->key, &answer.address);
	answers_make(c, &answers);
	answer_write(r, &answers, &answer);
}

bool
lb_conn_answered(struct nf_run *r, const struct flow *answers, struct flow *key,
		 bool *ended)
{
	const struct answer *answer = answer_peek(r, answers);

	if (answer == NULL)
		return false;
	lb_conn_key(answers, &answer->address, key);
	set_source(key, &answer->client);
	*ended = answer->ended != 0;
	return true;
}

/* --- clients that come back --------------------------------------------------- */

static void
sticky_key_make(const struct lb_service *s, const struct flow *key,
		struct sticky_key *sticky)
{
	flow_source(key, &sticky->client);
	sticky->client.port = 0;
	sticky->address = s->address;
	sticky->protocol = s->protocol;
}

bool
lb_sticky_read(struct nf_run *r, const struct lb_service *s, const struct flow *key,
	       struct endpoint *backend)
{
	struct sticky_key name;
	const struct sticky *sticky;

	sticky_key_make(s, key, &name);
	sticky = sticky_read(r, &name);
	if (sticky != NULL)
		*backend = sticky->backend;
	return sticky != NULL;
}

void
lb_sticky_write(struct nf_run *r, const struct lb_service *s, const struct flow *key,
		const struct endpoint *backend)
{
	struct sticky next = { *backend };
	struct sticky_key name;

	sticky_key_make(s, key, &name);
	sticky_write_for(r, &name, &next, s->persistence_ms);
}

/* --- backends that get nothing new -------------------------------------------- */

static uint32_t
slice(uint32_t left_ms)
{
	return left_ms > 0 && left_ms < DRAIN_SLICE_MS ? left_ms : DRAIN_SLICE_MS;
}

bool
lb_drain_over(struct nf_run *r, const struct lb_conn *c)
{
	struct drain_key key = {
		.address = c->service->address, .backend = c->backend,
		.partition = (uint16_t)lb_conn_partition(r, c->key),
		.protocol = c->key->protocol,
	};
	struct drain begun = { c->service->drain_ms };
	const struct drain *drain;

	if (begun.left_ms == 0)
		return false;
	drain = drain_peek(r, &key);
	if (nf_pending(r))
		return false;
	if (drain != NULL)
		return drain->left_ms == 0;
	if (nf_checksum_ok(r))
		drain_insert(r, &key, &begun, slice(begun.left_ms));
	return false;
}

/* Time goes on in slices, so that it begins anew for a backend that is back, and away
 * again, some seconds later.  When it is over, that is remembered while there are
 * connections. */
static void
drain_expired(struct nf_run *r, const void *from, const void *value)
{
	const struct drain_key *key = from;
	struct drain next = *(const struct drain *)value;
	const struct lb_service *s;
	struct lb_pool pool;
	int place;

	s = lb_service_at(nf_static(r), &key->address, key->protocol);
	if (s == NULL || s->drain_ms == 0)
		return;
	place = lb_backend_at(s, &key->backend);
	if (place != LB_NONE && s->backend[place].weight > 0)
		return;
	if (next.left_ms == 0) {
		lb_pool_glance(r, &key->address, key->protocol, key->partition, &pool);
		if (nf_pending(r) || lb_pool_open(&pool, &key->backend) == 0)
			return;
	}
	next.left_ms -= next.left_ms > 0 ? slice(next.left_ms) : 0;
	drain_write_for(r, key, &next, slice(next.left_ms));
}
