/*
 * lb_options.c - the load balancer's section of the file, and the state that is made of
 * it.
 *
 * A section without 'services' is itself a service.  What packets are looked up in is
 * made here: two hashes of endpoints, which hold few, and in which nothing is ever far
 * from where it belongs.
 */
#include "nf/lb.h"

#include "base/hash.h"

struct backend_options {
	struct endpoint address;		/* First: it may stand alone. */
	uint16_t weight;			/* One more; 0: not given. */
	uint8_t mac[MAC_BYTES];			/* Zeros: not given. */
};

struct service_options {
	struct endpoint address;		/* Version 0: not given. */
	int protocol, scheduler, mode, no_backend, hash;
	int down;				/* enum lb_down */
	char *name;
	struct config_list backends;		/* struct backend_options */
	struct config_list sources;		/* struct endpoint */
	/* 0: not given. */
	uint64_t persistence_ms, idle_ms, opening_ms, closed_ms, drain_ms;
	struct lb_check check;
};

struct lb_options {
	struct service_options alone;		/* First: the section itself. */
	struct config_list services;		/* struct service_options */
	struct config_list tunnel_sources;	/* struct endpoint */
	uint8_t mac[MAC_BYTES], router_mac[MAC_BYTES];
	int ping;				/* Odd: no. */
};

static_assert(sizeof(struct lb_options) <= LB_OPTIONS_BYTES, "what lb.c says they are");

static const uint8_t no_mac[MAC_BYTES];

/* --- the section -------------------------------------------------------------- */

static int
weight_parse(const char *text, void *out)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || n > LB_MAX_WEIGHT)
		return -EINVAL;
	*(uint16_t *)out = (uint16_t)(n + 1);
	return 0;
}

/* 0.0.0.0 is no wildcard. */
static int
host_parse(const char *text, void *out)
{
	return address_parse(text, out) == 0 && endpoint_is_host(out) ? 0 : -EINVAL;
}

static int
service_parse(const char *text, void *out)
{
	return endpoint_parse(text, out) == 0 && endpoint_is_host(out) ? 0 : -EINVAL;
}

/* Frames have it as their source: it is no group's. */
static int
station_parse(const char *text, void *out)
{
	return mac_parse(text, out) == 0 && !(*(uint8_t *)out & 1) ? 0 : -EINVAL;
}

static int
down_parse(const char *text, void *out)
{
	static const char *const words[] = {
		[LB_DOWN_KEEP] = "keep",
		[LB_DOWN_RESET] = "reset",
		[LB_DOWN_MOVE] = "move",
	};

	for (int i = LB_DOWN_KEEP; i <= LB_DOWN_MOVE; i++) {
		if (strcmp(text, words[i]) == 0) {
			*(int *)out = i;
			return 0;
		}
	}
	return -EINVAL;
}

static const struct config_field backend_fields[] = {
	{ "address", CONFIG_SCALAR, offsetof(struct backend_options, address),
	  .required = true, .parse = service_parse, .help = "ADDRESS:PORT of a host" },
	{ "weight", CONFIG_SCALAR, offsetof(struct backend_options, weight),
	  .parse = weight_parse,
	  .help = "its share, 1 to 100 (default: 1), or 0: no new connections" },
	{ "mac", CONFIG_SCALAR, offsetof(struct backend_options, mac), .parse = mac_parse,
	  .help = "the destination of frames to it, as 02:00:5e:10:00:01" },
	{ 0 }
};

#define DURATION(key, member, help_text)                                         \
	{ key, CONFIG_DURATION, offsetof(struct service_options, member),        \
	  .min = 1000, .max = 30ULL * 86400 * 1000, .help = help_text }

#define SERVICE_FIELDS                                                           \
	{ "name", CONFIG_STRING, offsetof(struct service_options, name),         \
	  .help = "for people" },                                                \
	{ "address", CONFIG_SCALAR, offsetof(struct service_options, address),   \
	  .parse = service_parse,                                                \
	  .help = "ADDRESS:PORT that clients know, of a host" },                 \
	{ "protocol", CONFIG_ENUM, offsetof(struct service_options, protocol),   \
	  .words = (const char *const[]){ "tcp", "udp", NULL },                  \
	  .help = "default: tcp" },                                              \
	{ "scheduler", CONFIG_ENUM, offsetof(struct service_options, scheduler), \
	  .words = (const char *const[]){ "least_connections", "round_robin",    \
					  "maglev", "source", NULL },            \
	  .help = "default: least_connections" },                                \
	{ "mode", CONFIG_ENUM, offsetof(struct service_options, mode),           \
	  .words = (const char *const[]){ "dnat", "nat", "dsr_mac", "dsr_ipip",  \
					  "dsr_gue", NULL },                     \
	  .help = "default: dnat" },                                             \
	{ "backends", CONFIG_LIST, offsetof(struct service_options, backends),   \
	  .min = 1, .max = LB_MAX_BACKENDS,                                      \
	  .item_bytes = sizeof(struct backend_options),                          \
	  .fields = backend_fields, .parse = service_parse,                      \
	  .help = "ADDRESS:PORT of a host, of the IP version of 'address'" },    \
	{ "sources", CONFIG_LIST, offsetof(struct service_options, sources),     \
	  .max = LB_MAX_SOURCES, .item_bytes = sizeof(struct endpoint),          \
	  .parse = host_parse,                                                   \
	  .help = "the addresses that backends see, of mode nat" },              \
	{ "no_backend", CONFIG_ENUM,                                             \
	  offsetof(struct service_options, no_backend),                          \
	  .words = (const char *const[]){ "reset", "drop", "panic", NULL },      \
	  .help = "when all are down (default: reset)" },                        \
	{ "backend_down", CONFIG_SCALAR, offsetof(struct service_options, down), \
	  .parse = down_parse,                                                   \
	  .help = "keep, reset or (UDP) move its connections" },                 \
	{ "hash", CONFIG_ENUM, offsetof(struct service_options, hash),           \
	  .words = (const char *const[]){ "connection", "datagram", NULL },      \
	  .help = "what of UDP is balanced (default: connection)" },             \
	DURATION("persistence", persistence_ms,                                  \
		 "how long a client returns to its backend (default: not)"),     \
	DURATION("idle", idle_ms,                                                \
		 "of a silent connection (default: tcp 7440s, udp 300s)"),       \
	DURATION("opening", opening_ms,                                          \
		 "the same while there are only SYNs (default: 10s)"),           \
	DURATION("closed", closed_ms,                                            \
		 "the same after a FIN or RST (default: 240s)"),                 \
	{ "drain", CONFIG_DURATION, offsetof(struct service_options, drain_ms),  \
	  .max = 30ULL * 86400 * 1000,                                           \
	  .help = "what connections of a backend without weight have (default: " \
		  "0, for ever)" },                                              \
	{ "check", CONFIG_MAP, offsetof(struct service_options, check),          \
	  .fields = lb_check_fields, .help = "how it is told which are up" }

static const struct config_field service_fields[] = { SERVICE_FIELDS, { 0 } };

const struct config_field lb_options_fields[] = {
	SERVICE_FIELDS,
	{ "services", CONFIG_LIST, offsetof(struct lb_options, services), .min = 1,
	  .max = LB_MAX_SERVICES, .item_bytes = sizeof(struct service_options),
	  .fields = service_fields, .help = "each with an 'address' and 'backends'" },
	{ "tunnel_source", CONFIG_LIST, offsetof(struct lb_options, tunnel_sources),
	  .max = 2, .item_bytes = sizeof(struct endpoint), .parse = host_parse,
	  .help = "the outer source of dsr_ipip and dsr_gue, of each IP version" },
	{ "mac", CONFIG_SCALAR, offsetof(struct lb_options, mac), .parse = station_parse,
	  .help = "the MAC address, of no group, of virtual addresses" },
	{ "router_mac", CONFIG_SCALAR, offsetof(struct lb_options, router_mac),
	  .parse = mac_parse, .help = "the destination of frames to clients" },
	/* So that "yes" is what it is if not given. */
	{ "ping", CONFIG_ENUM, offsetof(struct lb_options, ping),
	  .words = (const char *const[]){ "yes", "no", "true", "false", "on", "off",
					  NULL },
	  .help = "whether virtual addresses answer echo requests (default: yes)" },
	{ 0 }
};

/* --- what endpoints are ------------------------------------------------------- */

/* One multiplication: every packet is looked up.  Strangers do not choose what is in the
 * index, so they cannot make it slow.  An endpoint that was just made of a packet is read in
 * the pieces that it was written in: wider loads would wait for its way through memory. */
static inline uint32_t
place_hash(const struct endpoint *e, uint8_t protocol)
{
	uint64_t name = (uint64_t)e->port << 16 | protocol;
	uint64_t low = e->ip4, high = 0;

	if (e->version != 4) {
		memcpy(&low, e->ip6, sizeof(low));
		memcpy(&high, e->ip6 + sizeof(low), sizeof(high));
	}
	return (uint32_t)hash_fold(low ^ name << 32, high ^ name ^ 0x9e3779b97f4a7c15u);
}

static inline bool
is_named(const struct endpoint *name, const struct endpoint *e, uint8_t protocol)
{
	if (name->port != e->port || name->version != e->version ||
	    name->zero != protocol)
		return false;
	return e->version == 4 ? name->ip4 == e->ip4
			       : memcmp(name->ip6, e->ip6, sizeof(e->ip6)) == 0;
}

/* The one of that name, or a free one. */
static struct lb_place *
place_of(const struct lb_index *index, const struct endpoint *e, uint8_t protocol)
{
	uint32_t i = place_hash(e, protocol) & index->mask;

	while (index->place[i].n > 0 && !is_named(&index->place[i].name, e, protocol))
		i = (i + 1) & index->mask;
	return &index->place[i];
}

const struct lb_place *
lb_find(const struct lb_index *index, const struct endpoint *e, uint8_t protocol)
{
	const struct lb_place *place = place_of(index, e, protocol);

	return place->n > 0 ? place : NULL;
}

const struct lb_service *
lb_service_at(const struct lb *lb, const struct endpoint *address, uint8_t protocol)
{
	const struct lb_place *place = lb_find(&lb->virtual, address, protocol);

	return place != NULL ? &lb->service[place->service[0]] : NULL;
}

/* Where the backend's place stands, or would: 0 there if it has none. */
static unsigned int
backend_slot(const struct lb_service *s, const struct endpoint *backend)
{
	unsigned int i = place_hash(backend, 0) % LB_PLACES;

	while (s->place[i] != 0 &&
	       !lb_same_endpoint(&s->backend[s->place[i] - 1].endpoint, backend))
		i = (i + 1) % LB_PLACES;
	return i;
}

int
lb_backend_at(const struct lb_service *s, const struct endpoint *backend)
{
	return s->place[backend_slot(s, backend)] - 1;	/* LB_NONE */
}

static int
index_init(struct lb_index *index, unsigned int n)
{
	unsigned int size = 8;

	while (size < 4 * n)
		size *= 2;
	index->mask = size - 1;
	index->place = calloc(size, sizeof(*index->place));
	return index->place != NULL ? 0 : -ENOMEM;
}

static struct lb_place *
place_make(struct lb_index *index, const struct endpoint *e, uint8_t protocol)
{
	struct lb_place *place = place_of(index, e, protocol);

	place->name = *e;
	place->name.zero = protocol;
	return place;
}

/* An address alone. */
static struct lb_place *
address_make(struct lb_index *index, const struct endpoint *e)
{
	struct endpoint address = *e;
	struct lb_place *place;

	address.port = 0;
	place = place_make(index, &address, 0);
	place->n = 1;
	return place;
}

/* False: there are too many. */
static bool
add_sibling(struct lb_service *s, uint8_t sibling)
{
	unsigned int n = 0;

	while (n < s->n_siblings && s->sibling[n] != sibling)
		n++;
	if (n == LB_MAX_SIBLINGS)
		return false;
	s->sibling[n] = sibling;
	if (n == s->n_siblings)
		s->n_siblings++;
	return true;
}

/* 'where' is the options that are wrong: whose line an error names. */
static int
refuse(const void *where, const char *why)
{
	config_error(where, "%s", why);
	return -EINVAL;
}

static int
index_backend(struct lb *lb, struct lb_service *s, unsigned int i, const void *where)
{
	struct lb_place *place = place_make(&lb->backends, &s->backend[i].endpoint,
					    s->protocol);

	if (place->n == LB_MAX_SHARED) {
		config_error(where, "a backend of more than %d services", LB_MAX_SHARED);
		return -EINVAL;
	}
	for (unsigned int k = 0; k < place->n; k++) {
		struct lb_service *other = &lb->service[place->service[k]];

		if (s->by_datagram || other->by_datagram)
			return refuse(where, "a backend of several services, want "
					     "another one with 'hash: datagram'");
		if (!add_sibling(s, other->number) || !add_sibling(other, s->number)) {
			config_error(where, "a service that shares backends with more "
					    "than %d others", LB_MAX_SIBLINGS);
			return -EINVAL;
		}
	}
	place->service[place->n] = s->number;
	place->backend[place->n++] = (uint8_t)i;
	return 0;
}

/* --- services ----------------------------------------------------------------- */

/* A key of the service, with its path; 'where' is what it would have filled. */
static int
lacks_key(const struct lb_options *options, const struct service_options *o,
	   const void *where, const char *key, const char *help)
{
	const struct service_options *listed = options->services.items;

	if (o == &options->alone)
		config_error(where, "missing key 'lb.%s' (%s)", key, help);
	else
		config_error(where, "missing key 'lb.services[%td].%s' (%s)", o - listed,
			     key, help);
	return -EINVAL;
}

static int
check_service(const struct lb_options *options, const struct service_options *o)
{
	bool tunnels = o->mode == LB_DSR_IPIP || o->mode == LB_DSR_GUE, found = false;
	const struct endpoint *source = options->tunnel_sources.items;

	if (o->address.version == 0)
		return lacks_key(options, o, &o->address, "address",
				 "the ADDRESS:PORT that clients know");
	if (o->backends.n == 0)
		return lacks_key(options, o, &o->backends, "backends", "ADDRESS:PORT");
	for (unsigned int i = 0; i < options->tunnel_sources.n; i++)
		found |= source[i].version == o->address.version;
	if (tunnels && !found)
		return refuse(o, "a tunnel without 'tunnel_source', want an address of "
				 "the same IP version");
	if (o->mode == LB_NAT && o->sources.n == 0)
		return refuse(o, "'mode: nat' without 'sources', want the addresses "
				 "that backends see");
	if (o->mode != LB_NAT && o->sources.n > 0)
		return refuse(o, "'sources' are of 'mode: nat'");
	if (o->hash != 0 && (o->protocol == 0 || o->mode == LB_NAT))
		return refuse(o, "'hash: datagram' is of UDP, and not of 'mode: nat'");
	if (o->hash != 0 && o->persistence_ms != 0)
		return refuse(o, "'persistence' is not of 'hash: datagram'");
	if (o->down == LB_DOWN_MOVE && o->protocol == 0)
		return refuse(o, "a TCP connection cannot be moved, want 'backend_down: "
				 "reset' or 'keep'");
	return 0;
}

static int
check_backend(const struct lb_service *s, const struct backend_options *b)
{
	if (b->address.version != s->address.version)
		return refuse(b, "a backend of another IP version than 'address', want "
				 "the same");
	if (s->mode >= LB_DSR_MAC && b->address.port != s->address.port)
		return refuse(b, "another port than that of 'address', which no mode of "
				 "direct return rewrites");
	if (s->mode == LB_DSR_MAC && memcmp(b->mac, no_mac, MAC_BYTES) == 0)
		return refuse(b, "a backend without 'mac', want it with 'mode: dsr_mac'");
	return 0;
}

static int
add_backends(struct lb *lb, struct lb_service *s, const struct service_options *o,
	     const struct lb_check *check)
{
	const struct backend_options *b = o->backends.items;

	for (unsigned int i = 0; i < o->backends.n; i++, b++) {
		struct lb_backend *to = &s->backend[s->n_backends++];
		int err = check_backend(s, b);
		unsigned int at;

		if (err != 0)
			return err;
		to->endpoint = b->address;
		to->weight = b->weight != 0 ? b->weight - 1 : 1;
		to->has_mac = memcmp(b->mac, no_mac, MAC_BYTES) != 0;
		memcpy(to->mac, b->mac, MAC_BYTES);
		s->weighted |= (uint64_t)(to->weight > 0) << i;
		at = backend_slot(s, &to->endpoint);
		if (s->place[at] != 0)
			return refuse(b, "a backend that stands twice in its service");
		s->place[at] = (uint8_t)(i + 1);
		if (s->mode == LB_DNAT)
			err = index_backend(lb, s, i, b);
		if (err == 0)
			err = lb_health_add(lb->health, s->number, i, &to->endpoint,
					    check);
		if (err != 0)
			return err;
	}
	return 0;
}

static int
add_sources(struct lb *lb, struct lb_service *s, const struct service_options *o)
{
	const struct endpoint *source = o->sources.items;

	for (unsigned int i = 0; i < o->sources.n; i++) {
		if (source[i].version != s->address.version)
			return refuse(&source[i], "a source of another IP version than "
						  "'address', want the same");
		s->source[s->n_sources++] = source[i];
		address_make(&lb->virtual, &source[i])->is_source = 1;
		lb->has_nat = true;
	}
	return 0;
}

static uint32_t
given_or(uint64_t ms, uint32_t default_s)
{
	return ms != 0 ? (uint32_t)ms : default_s * 1000;
}

static void
set_service(struct lb_service *s, const struct service_options *o)
{
	bool tcp = o->protocol == 0;

	s->address = o->address;
	s->protocol = tcp ? PROTO_TCP : PROTO_UDP;
	s->mode = (uint8_t)o->mode;
	s->scheduler = (uint8_t)o->scheduler;
	s->no_backend = (uint8_t)o->no_backend;
	s->down = (uint8_t)(o->down != LB_DOWN_UNSAID ? o->down
			    : tcp ? LB_DOWN_RESET : LB_DOWN_MOVE);
	s->by_datagram = o->hash != 0;
	s->idle_ms = given_or(o->idle_ms, tcp ? 7440 : 300);	/* RFC 5382, RFC 4787 */
	s->opening_ms = given_or(o->opening_ms, 10);
	s->closed_ms = given_or(o->closed_ms, 240);
	s->drain_ms = (uint32_t)o->drain_ms;
	s->persistence_ms = (uint32_t)o->persistence_ms;
}

static int
add_service(struct lb *lb, const struct lb_options *options,
	    const struct service_options *o)
{
	struct lb_service *s = &lb->service[lb->n_services];
	struct lb_check check;
	struct lb_place *place;
	int err = check_service(options, o);

	if (err == 0)
		err = lb_check_init(&o->check, &check);
	if (err != 0)
		return err;
	s->number = (uint8_t)lb->n_services++;
	set_service(s, o);
	lb->translates |= s->mode == LB_DNAT;
	place = place_make(&lb->virtual, &s->address, s->protocol);
	if (place->n > 0)
		return refuse(o, "two services at one address, want another");
	place->n = 1;
	place->service[0] = s->number;
	address_make(&lb->virtual, &s->address)->is_virtual = 1;
	err = add_sources(lb, s, o);
	if (err == 0)
		err = add_backends(lb, s, o, &check);
	return err != 0 ? err : lb_schedule_init(s);
}

static int
add_services(struct lb *lb, const struct lb_options *options)
{
	static const struct service_options none;	/* Padding and all. */
	const struct service_options *o = options->services.items;
	unsigned int n = options->services.n, n_virtual = 0, n_backends = 0;
	int err;

	if (n > 0 && memcmp(&options->alone, &none, sizeof(none)) != 0)
		return refuse(&options->alone, "both 'services' and keys of a service "
					       "beside it, want one of them");
	if (n == 0) {
		o = &options->alone;
		n = 1;
	}
	for (unsigned int i = 0; i < n; i++) {
		n_virtual += 2 + o[i].sources.n;
		n_backends += o[i].backends.n;
	}
	err = index_init(&lb->virtual, n_virtual);
	if (err == 0)
		err = index_init(&lb->backends, n_backends);
	for (unsigned int i = 0; i < n && err == 0; i++)
		err = add_service(lb, options, &o[i]);
	return err;
}

static int
set_tunnel_sources(struct lb *lb, const struct config_list *list)
{
	const struct endpoint *source = list->items;

	for (unsigned int i = 0; i < list->n; i++) {
		struct endpoint *to = &lb->tunnel_source[source[i].version == 6];

		if (to->version != 0)
			return refuse(&source[i], "a second 'tunnel_source' of this IP "
						  "version, want one of each");
		*to = source[i];
	}
	return 0;
}

int
lb_init(const void *from, void **state)
{
	const struct lb_options *options = from;
	struct lb *lb = calloc(1, sizeof(*lb));
	int err;

	if (lb == NULL)
		return -ENOMEM;
	lb->ping = options->ping % 2 == 0;
	lb->has_mac = memcmp(options->mac, no_mac, MAC_BYTES) != 0;
	lb->has_router_mac = memcmp(options->router_mac, no_mac, MAC_BYTES) != 0;
	memcpy(lb->mac, options->mac, MAC_BYTES);
	memcpy(lb->router_mac, options->router_mac, MAC_BYTES);
	err = set_tunnel_sources(lb, &options->tunnel_sources);
	if (err == 0)
		err = lb_health_new(&lb->health);
	if (err == 0)
		err = add_services(lb, options);
	if (err == 0)
		*state = lb;
	else
		lb_fini(lb);
	return err;
}

void
lb_fini(void *state)
{
	struct lb *lb = state;

	for (unsigned int i = 0; i < lb->n_services; i++) {
		free(lb->service[i].turns);
		free(lb->service[i].maglev);
	}
	free(lb->virtual.place);
	free(lb->backends.place);
	lb_health_free(lb->health);
	free(lb);
}
