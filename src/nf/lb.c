/*
 * lb.c - TCP load balancer (Algorithm 1 of the paper).
 *
 * A SYN to the virtual address picks the backend with the fewest open connections,
 * counts itself there, and remembers the choice; later packets of the connection
 * read that choice, and answers leave with the virtual address as their source.  The
 * first FIN or RST takes the connection off the count again, and so does its expiry if
 * it just goes silent.
 *
 * The counts of all backends are one record (in each partition of the store) that all
 * instances share and add to: they are exact, and nobody waits for anybody.  What a SYN
 * chooses by is as old as its read.  The slots carry the backends' addresses, so that
 * instances with different lists of backends do not misread each other; and a count
 * carries a tag of its backend above, so that an add to a slot that has become another
 * backend's leaves its bounds, and the run looks again.
 *
 * What is neither for the virtual address nor from a backend passes unchanged.
 */
#include "nf/nf.h"

#include "net/address.h"

enum {
	MAX_BACKENDS = 64,
};

struct slot {
	struct endpoint backend;
	uint32_t zero;
	int64_t tagged;				/* The tag, shifted, and the count. */
};

struct pool_key {
	struct endpoint address;		/* The virtual one. */
	uint32_t partition;
};

struct pool {					/* Only as long as it is. */
	struct slot slot[MAX_BACKENDS];
};

struct client {					/* Key: the flow from the client. */
	struct endpoint backend;
	uint32_t closed;			/* No longer in the count. */
};

static_assert(sizeof(struct slot) == 32, "no padding");

static void client_expired(struct nf_run *r, const void *key, const void *value);
static uint32_t pool_spread(const void *key, unsigned int key_bytes);

static const struct nf_field pool_fields[] = {
	{ "address", NF_FIELD_ENDPOINT, offsetof(struct pool_key, address),
	  sizeof(struct endpoint) },
	{ "partition", NF_FIELD_UINT, offsetof(struct pool_key, partition), 4 },
	{ 0 }
};

static const struct nf_field client_fields[] = {
	{ "backend", NF_FIELD_ENDPOINT, offsetof(struct client, backend),
	  sizeof(struct endpoint) },
	{ "closed", NF_FIELD_UINT, offsetof(struct client, closed), 4 },
	{ 0 }
};

NF_TABLE(pool, struct pool_key, struct pool, .format = 2, .spread = pool_spread,
	 .key_fields = pool_fields)
NF_TABLE(client, struct flow, struct client, .idle_ms = 7440 * 1000,
	 .expired = client_expired, .fields = client_fields)

struct lb_options {
	struct endpoint address;
	struct config_list backends;		/* struct endpoint */
	uint64_t idle_ms, closed_ms;		/* 0: not given. */
};

struct lb {
	struct endpoint address;
	unsigned int n_backends;
	struct endpoint backend[MAX_BACKENDS];
	uint32_t idle_ms, closed_ms;
};

static const struct config_field lb_fields[] = {
	{ "address", CONFIG_SCALAR, offsetof(struct lb_options, address),
	  .required = true, .parse = endpoint_parse,
	  .help = "the virtual address that clients connect to, ADDRESS:PORT" },
	{ "backends", CONFIG_LIST, offsetof(struct lb_options, backends),
	  .required = true, .min = 1, .max = MAX_BACKENDS,
	  .item_bytes = sizeof(struct endpoint), .parse = endpoint_parse,
	  .help = "a list of ADDRESS:PORT, of the same IP version as 'address'" },
	{ "idle", CONFIG_DURATION, offsetof(struct lb_options, idle_ms), .min = 1000,
	  .max = 30ULL * 86400 * 1000,
	  .help = "how long a silent connection is remembered (default: 7440s)" },
	{ "closed", CONFIG_DURATION, offsetof(struct lb_options, closed_ms), .min = 1000,
	  .max = 86400ULL * 1000,
	  .help = "the same after its first FIN or RST (default: 240s)" },
	{ 0 }
};

static bool
same_endpoint(const struct endpoint *a, const struct endpoint *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static int
lb_init(const void *from, void **state)
{
	const struct lb_options *options = from;
	const struct endpoint *backend = options->backends.items;
	struct lb *lb = calloc(1, sizeof(*lb));

	if (lb == NULL)
		return -ENOMEM;
	lb->address = options->address;
	lb->idle_ms = 7440 * 1000;		/* RFC 5382, REQ-5. */
	if (options->idle_ms != 0)
		lb->idle_ms = (uint32_t)options->idle_ms;
	lb->closed_ms = 240 * 1000;
	if (options->closed_ms != 0)
		lb->closed_ms = (uint32_t)options->closed_ms;
	for (unsigned int i = 0; i < options->backends.n; i++) {
		if (backend[i].version != lb->address.version) {
			config_error(&backend[i], "a backend of another IP version than "
						  "'address', want the same");
			free(lb);
			return -EINVAL;
		}
		lb->backend[lb->n_backends++] = backend[i];
	}
	*state = lb;
	return 0;
}

/* --- counts ------------------------------------------------------------------- */

enum {
	COUNT_BITS = 32,
};

static uint32_t
pool_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct pool_key *)key)->partition;
}

/* The count of this backend if there are no connections. */
static int64_t
tag(const struct endpoint *backend)
{
	return (int64_t)((uint64_t)(nf_spread(backend, sizeof(*backend)) >> 1 | 1)
			 << COUNT_BITS);
}

static int64_t
n_open(const struct slot *slot)
{
	return slot->tagged - tag(&slot->backend);
}

/* The counts for a client's flow: those in the partition of its record, which is written
 * with them. */
static void
pool_key_make(const struct nf_run *r, const struct flow *client, struct pool_key *key)
{
	flow_destination(client, &key->address);
	key->partition = client_partition(r, client);
}

/* NULL: there is none; 'n' is set to the number of slots. */
static const struct slot *
pool_slots(struct nf_run *r, const struct pool_key *key, enum nf_ask how, unsigned int *n)
{
	unsigned int bytes = 0;
	const void *v = nf_table_read(r, &pool_table, key, sizeof(*key), how, &bytes);

	*n = v != NULL ? bytes / sizeof(struct slot) : 0;
	return nf_table_sized(r, v, bytes, *n * (unsigned int)sizeof(struct slot));
}

static unsigned int
slot_find(const struct slot *slot, unsigned int n, const struct endpoint *backend)
{
	unsigned int i = 0;

	while (i < n && !same_endpoint(&slot[i].backend, backend))
		i++;
	return i;
}

/* Adds to the count in a slot, if it still is this backend's. */
static void
count(struct nf_run *r, const struct pool_key *key, const struct slot *slot,
      unsigned int at, int delta)
{
	int64_t none = tag(&slot[at].backend);
	unsigned int offset = at * sizeof(struct slot) + offsetof(struct slot, tagged);

	pool_add(r, key, offset, delta, none, none + UINT32_MAX);
}

/* Takes a connection off the count of its backend, unless there is none: the counts may
 * have been lost.  That is not for a glance to say.  It guesses at what is under way, and
 * of that some comes to nothing, as when another instance has closed a connection before;
 * so the count is read then, and stays as it is until this run's group is applied.
 * False: pending. */
static bool
count_off(struct nf_run *r, const struct pool_key *key, const struct slot *glanced,
	  unsigned int n, const struct endpoint *backend)
{
	const struct slot *slot = glanced;
	unsigned int at = slot_find(slot, n, backend);

	if (at == n || n_open(&slot[at]) <= 0) {
		slot = pool_slots(r, key, NF_READ, &n);
		if (nf_pending(r))
			return false;
		at = slot_find(slot, n, backend);
	}
	if (at < n && n_open(&slot[at]) > 0)
		count(r, key, slot, at, -1);
	return true;
}

/* The pool with slots for the backends that have none: those of backends that no longer
 * have connections if all are used.  What is there is read again, for this is written
 * whole, and nobody's add may get lost.  Returns how many there are. */
static unsigned int
pool_extend(struct nf_run *r, const struct pool_key *key, struct pool *next)
{
	const struct lb *lb = nf_static(r);
	unsigned int n;
	const struct slot *slot = pool_slots(r, key, NF_READ, &n);

	if (nf_pending(r))
		return 0;
	if (n > 0)
		memcpy(next->slot, slot, n * sizeof(*slot));
	for (unsigned int i = 0; i < lb->n_backends; i++) {
		const struct endpoint *backend = &lb->backend[i];
		unsigned int to = n;

		if (slot_find(next->slot, n, backend) < n)
			continue;
		for (unsigned int k = 0; n == MAX_BACKENDS && k < n; k++)
			if (n_open(&next->slot[k]) == 0)
				to = k;
		if (to == MAX_BACKENDS)
			continue;
		n += to == n;
		next->slot[to] = (struct slot){ .backend = *backend,
						.tagged = tag(backend) };
	}
	return n;
}

/* Which of this instance's backends has the fewest; 'n': none has a slot. */
static unsigned int
least_loaded(const struct lb *lb, const struct slot *slot, unsigned int n)
{
	unsigned int least = n;

	for (unsigned int i = 0; i < lb->n_backends; i++) {
		unsigned int at = slot_find(slot, n, &lb->backend[i]);

		if (at < n && (least == n || n_open(&slot[at]) < n_open(&slot[least])))
			least = at;
	}
	return least;
}

static bool
all_have_slots(const struct lb *lb, const struct slot *slot, unsigned int n)
{
	for (unsigned int i = 0; i < lb->n_backends; i++)
		if (slot_find(slot, n, &lb->backend[i]) == n)
			return false;
	return true;
}

/* --- connections -------------------------------------------------------------- */

static enum nf_verdict
lb_open(struct nf_run *r, const struct pool_key *key, const struct slot *slot,
	unsigned int n)
{
	const struct lb *lb = nf_static(r);
	bool complete = all_have_slots(lb, slot, n);
	struct pool next;
	unsigned int to;

	if (!complete) {
		n = pool_extend(r, key, &next);
		if (nf_pending(r))
			return NF_WAIT;
		slot = next.slot;
	}
	to = least_loaded(lb, slot, n);
	if (to == n)
		return nf_drop(r, NF_DROP_BACKEND);
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);

	struct client client = { .backend = slot[to].backend };

	if (complete) {
		count(r, key, slot, to, 1);
	} else {
		next.slot[to].tagged++;
		nf_table_write(r, &pool_table, key, sizeof(*key), next.slot,
			       n * (unsigned int)sizeof(struct slot), NF_KEPT, 0);
	}
	client_write_for(r, nf_flow(r), &client, lb->idle_ms);
	nf_set_dst(r, &client.backend);
	return NF_SEND;
}

/* Sends a packet of a connection to its other end. */
static enum nf_verdict
forward(struct nf_run *r, const struct client *client, bool from_backend)
{
	const struct lb *lb = nf_static(r);

	if (from_backend)
		nf_set_src(r, &lb->address);
	else
		nf_set_dst(r, &client->backend);
	return NF_SEND;
}

/* Takes the connection off the count, and sends the packet that closes it. */
static enum nf_verdict
lb_close(struct nf_run *r, const struct flow *flow, const struct client *client,
	 const struct pool_key *key, const struct slot *slot, unsigned int n,
	 bool from_backend)
{
	const struct lb *lb = nf_static(r);
	struct client closed = { client->backend, .closed = 1 };

	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (!count_off(r, key, slot, n, &client->backend))
		return NF_WAIT;
	client_write_for(r, flow, &closed, lb->closed_ms);
	return forward(r, client, from_backend);
}

/* A connection went silent. */
static void
client_expired(struct nf_run *r, const void *from, const void *value)
{
	const struct client *client = value;
	const struct slot *slot;
	struct pool_key key;
	unsigned int n;

	if (client->closed)
		return;
	pool_key_make(r, from, &key);
	slot = pool_slots(r, &key, NF_GLANCE, &n);
	if (!nf_pending(r))
		count_off(r, &key, slot, n, &client->backend);
}

/* A packet that may open or close the connection 'flow' names. */
static enum nf_verdict
lb_change(struct nf_run *r, const struct flow *flow, bool from_backend)
{
	bool opens = nf_is_syn(r) && !from_backend;
	const struct client *client = client_read(r, flow);
	const struct slot *slot;
	struct pool_key key;
	unsigned int n;

	pool_key_make(r, flow, &key);
	slot = pool_slots(r, &key, NF_GLANCE, &n);
	if (nf_pending(r))
		return NF_WAIT;
	if (opens && (client == NULL || client->closed))
		return lb_open(r, &key, slot, n);
	if (client == NULL)
		return nf_drop(r, NF_DROP_STATE);
	if (!opens && !client->closed)
		return lb_close(r, flow, client, &key, slot, n, from_backend);
	return forward(r, client, from_backend);
}

/* A packet of the connection 'flow' names, in either direction. */
static enum nf_verdict
lb_connection(struct nf_run *r, const struct flow *flow, bool from_backend)
{
	uint8_t flags = nf_packet(r)->tcp_flags;
	const struct client *client;

	if ((flags & (TCP_FIN | TCP_RST)) != 0 || (nf_is_syn(r) && !from_backend))
		return lb_change(r, flow, from_backend);
	client = client_read(r, flow);
	if (nf_pending(r))
		return NF_WAIT;
	if (client == NULL)
		return nf_drop(r, NF_DROP_STATE);
	return forward(r, client, from_backend);
}

static bool
is_backend(const struct lb *lb, const struct endpoint *e)
{
	for (unsigned int i = 0; i < lb->n_backends; i++)
		if (same_endpoint(&lb->backend[i], e))
			return true;
	return false;
}

/* The flow from a backend to a client, as the client's own to the virtual address. */
static void
client_key(const struct flow *from_backend, const struct endpoint *virtual,
	   struct flow *key)
{
	flow_reverse(from_backend, key);
	key->dst_port = virtual->port;
	if (key->version == 4)
		key->ip4.dst = virtual->ip4;
	else
		memcpy(key->ip6.dst, virtual->ip6, sizeof(key->ip6.dst));
}

static enum nf_verdict
lb_packet(struct nf_run *r)
{
	const struct lb *lb = nf_static(r);
	struct endpoint from, to;
	struct flow key;

	flow_destination(nf_flow(r), &to);
	if (nf_side(r) == NF_OUTSIDE && same_endpoint(&to, &lb->address)) {
		if (!nf_is_tcp(r))
			return nf_drop(r, NF_DROP_BACKEND);
		return lb_connection(r, nf_flow(r), false);
	}
	flow_source(nf_flow(r), &from);
	if (nf_side(r) == NF_OUTSIDE || !nf_is_tcp(r) || !is_backend(lb, &from))
		return NF_SEND;
	client_key(nf_flow(r), &lb->address, &key);
	return lb_connection(r, &key, true);
}

const struct nf nf_lb = {
	.name = "lb",
	.options = lb_fields,
	.options_bytes = sizeof(struct lb_options),
	.init = lb_init,
	.fini = free,
	.packet = lb_packet,
	.passes_non_ip = true,
};
