/*
 * lb.c - TCP load balancer (Algorithm 1 of the paper).
 *
 * A SYN to the virtual address picks the backend with the fewest open connections,
 * counts itself there, and remembers the choice; later packets of the connection
 * read that choice, and answers leave with the virtual address as their source.  The
 * first FIN or RST takes the connection off the count again.
 *
 * The counts of all backends are one record that all instances share: two SYNs at
 * the same moment never see the same counts.  Its slots carry the backends' addresses,
 * so that instances with different lists of backends do not misread each other.
 * A connection that just goes silent stays in the count.
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
	uint32_t n_open;
};

struct pool {					/* Key: the virtual address. */
	uint32_t n_slots, zero;
	struct slot slot[MAX_BACKENDS];
};

struct client {					/* Key: the flow from the client. */
	struct endpoint backend;
	uint32_t closed;			/* No longer in the count. */
};

NF_TABLE(pool, struct endpoint, struct pool)
NF_TABLE(client, struct flow, struct client, .idle_ms = 7440 * 1000)

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

static struct slot *
pool_find(struct pool *pool, const struct endpoint *backend)
{
	for (uint32_t i = 0; i < pool->n_slots; i++)
		if (same_endpoint(&pool->slot[i].backend, backend))
			return &pool->slot[i];
	return NULL;
}

/* The backend's slot, made if there is none yet: of a backend that no longer has
 * connections if the pool is full. */
static struct slot *
pool_slot(struct pool *pool, const struct endpoint *backend)
{
	struct slot *slot = pool_find(pool, backend);

	if (slot != NULL)
		return slot;
	if (pool->n_slots < MAX_BACKENDS)
		slot = &pool->slot[pool->n_slots++];
	for (uint32_t i = 0; slot == NULL && i < pool->n_slots; i++)
		if (pool->slot[i].n_open == 0)
			slot = &pool->slot[i];
	if (slot != NULL)
		*slot = (struct slot){ .backend = *backend };
	return slot;
}

static struct slot *
least_loaded(const struct lb *lb, struct pool *pool)
{
	struct slot *least = NULL;

	for (unsigned int i = 0; i < lb->n_backends; i++) {
		struct slot *slot = pool_slot(pool, &lb->backend[i]);

		if (slot != NULL && (least == NULL || slot->n_open < least->n_open))
			least = slot;
	}
	return least;
}

static enum nf_verdict
lb_open(struct nf_run *r, const struct pool *pool)
{
	const struct lb *lb = nf_static(r);
	struct pool next = { 0 };

	if (pool != NULL)
		next = *pool;

	struct slot *slot = least_loaded(lb, &next);

	if (slot == NULL)
		return nf_drop(r, NF_DROP_BACKEND);
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);

	struct client client = { .backend = slot->backend };

	slot->n_open++;
	pool_write(r, &lb->address, &next);
	client_write_for(r, nf_flow(r), &client, lb->idle_ms);
	nf_set_dst(r, &client.backend);
	return NF_SEND;
}

/* Takes the connection off the count. */
static bool
lb_close(struct nf_run *r, const struct flow *key, const struct client *client,
	 const struct pool *pool)
{
	const struct lb *lb = nf_static(r);
	struct client closed = { client->backend, .closed = 1 };

	if (!nf_checksum_ok(r))
		return false;
	if (pool != NULL) {
		struct pool next = *pool;
		struct slot *slot = pool_find(&next, &client->backend);

		if (slot != NULL && slot->n_open > 0) {
			slot->n_open--;
			pool_write(r, &lb->address, &next);
		}
	}
	client_write_for(r, key, &closed, lb->closed_ms);
	return true;
}

/* A packet of the connection 'key' names, in either direction. */
static enum nf_verdict
lb_connection(struct nf_run *r, const struct flow *key, bool from_backend)
{
	const struct lb *lb = nf_static(r);
	bool closes = (nf_packet(r)->tcp_flags & (TCP_FIN | TCP_RST)) != 0;
	bool opens = nf_is_syn(r) && !from_backend;
	const struct client *client = client_read(r, key);
	const struct pool *pool = opens || closes ? pool_read(r, &lb->address) : NULL;

	if (nf_pending(r))
		return NF_WAIT;
	if (opens && (client == NULL || client->closed))
		return lb_open(r, pool);
	if (client == NULL)
		return nf_drop(r, NF_DROP_STATE);
	if (closes && !client->closed && !lb_close(r, key, client, pool))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (from_backend)
		nf_set_src(r, &lb->address);
	else
		nf_set_dst(r, &client->backend);
	return NF_SEND;
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
