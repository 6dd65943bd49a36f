/*
 * nat.c - network address and port translation, IPv4 (Algorithm 2 of the paper).
 *
 * The first packet of a flow from inside takes an outside address and port; two
 * records remember it, one under the flow as it is seen inside, one under the flow
 * of its answers.  Both are written in one group with the taking of the port, so that
 * two instances never give the same port to two flows.
 *
 * Free ports are the members of ranges in the store, one for each outside address,
 * protocol and bucket of remote endpoints: an outside port may serve several flows if
 * their remote endpoints are in different buckets (RFC 4787 calls that address and port
 * dependent).  One is found as long as any is free.  A port that is given back rests for
 * QUARANTINE_MS, so that nobody gets what was on its way to somebody else.
 *
 * Only packets from inside keep a mapping alive (RFC 4787, REQ-6): they touch the first
 * record, and when its time has passed the runtime calls mapping_expired(), which deletes
 * the other one and gives the port back, all at once.  So one never is there without the
 * other.  An inside host keeps its outside address.
 *
 * In a store of several partitions, the records of an inside endpoint lie in one of them,
 * and so do those of an outside port: an inside endpoint gets ports of its partition.
 *
 * ICMP errors, fragments other than the first, and hairpins are dropped.
 */
#include "nf/nf.h"

#include "net/address.h"

enum {
	MAX_ADDRESSES = 256,
	BUCKETS = 256,				/* 8 KiB each, where ports are taken. */
	QUARANTINE_MS = 120 * 1000,		/* RFC 6888, REQ-8. */
};

enum mapping_state {
	OPENING,				/* Idle time "opening". */
	OPEN,					/* TCP; the inside has heard an answer. */
	CLOSING,				/* TCP; a FIN or RST was seen. */
};

/* Key: the flow from inside, and the flow of its answers. */
struct mapping {
	struct endpoint to;			/* What source or destination becomes. */
	uint8_t state;				/* enum mapping_state, alike in both... */
	uint8_t zero;
	uint16_t first_port;			/* ...as this is: of the range. */
};

static_assert(sizeof(struct mapping) == 24, "no padding");

/* The free ports of an outside address, from the first one that is in the partition; the
 * next member is n_partitions ports further.  Instances that have another first port in
 * their files have other ranges, which do not keep them from each other's ports: that no
 * one is given twice, the reverse record sees to. */
struct ports_key {
	rte_be32_t address;
	uint16_t first_port;
	uint8_t protocol, bucket, partition;
	uint8_t zero[3];
};

static_assert(sizeof(struct ports_key) == 12, "no padding");

static void mapping_expired(struct nf_run *r, const void *key, const void *value);
static uint32_t inside_spread(const void *key, unsigned int key_bytes);
static uint32_t outside_spread(const void *key, unsigned int key_bytes);
static uint32_t ports_spread(const void *key, unsigned int key_bytes);

static const struct nf_field mapping_fields[] = {
	{ "to", NF_FIELD_ENDPOINT, offsetof(struct mapping, to), sizeof(struct endpoint) },
	{ "state", NF_FIELD_WORD, offsetof(struct mapping, state), 1,
	  (const char *const[]){ "opening", "open", "closing", NULL } },
	{ 0 }
};

static const struct nf_field ports_fields[] = {
	{ "address", NF_FIELD_IP4, offsetof(struct ports_key, address), 4 },
	{ "first_port", NF_FIELD_UINT, offsetof(struct ports_key, first_port), 2 },
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct ports_key, protocol), 1 },
	{ "bucket", NF_FIELD_UINT, offsetof(struct ports_key, bucket), 1 },
	{ "partition", NF_FIELD_UINT, offsetof(struct ports_key, partition), 1 },
	{ 0 }
};

NF_TABLE(forward, struct flow, struct mapping, .idle_ms = 300 * 1000, .format = 2,
	 .expired = mapping_expired, .spread = inside_spread, .fields = mapping_fields)
NF_TABLE(reverse, struct flow, struct mapping, .format = 2, .spread = outside_spread,
	 .fields = mapping_fields)
NF_RANGE(ports, struct ports_key, .spread = ports_spread, .key_fields = ports_fields)

struct nat_options {
	struct config_list addresses;		/* struct endpoint */
	struct port_range ports;		/* 0: not given. */
	uint64_t tcp_ms, opening_ms, udp_ms, icmp_ms;
};

struct nat {
	unsigned int n_addresses, n_ports;
	struct endpoint address[MAX_ADDRESSES];
	uint16_t first_port;
	uint32_t tcp_ms, opening_ms, udp_ms, icmp_ms;
};

/* Port 0 is nobody's. */
static int
ports_parse(const char *text, void *out)
{
	struct port_range range;

	if (port_range_parse(text, &range) != 0 || range.low == 0)
		return -EINVAL;
	*(struct port_range *)out = range;
	return 0;
}

static const struct config_field nat_fields[] = {
	{ "addresses", CONFIG_LIST, offsetof(struct nat_options, addresses),
	  .required = true, .min = 1, .max = MAX_ADDRESSES,
	  .item_bytes = sizeof(struct endpoint), .parse = address_parse,
	  .help = "the IPv4 addresses that inside hosts appear under" },
	{ "ports", CONFIG_SCALAR, offsetof(struct nat_options, ports),
	  .parse = ports_parse,
	  .help = "their ports and ICMP identifiers (default: 1024-65535)" },
	{ "tcp_idle", CONFIG_DURATION, offsetof(struct nat_options, tcp_ms), .min = 1000,
	  .max = 30ULL * 86400 * 1000,
	  .help = "how long an open TCP mapping lives (default: 7440s, RFC 5382)" },
	{ "tcp_opening_idle", CONFIG_DURATION, offsetof(struct nat_options, opening_ms),
	  .min = 1000, .max = 86400ULL * 1000,
	  .help = "the same while it opens or closes (default: 240s, RFC 5382)" },
	{ "udp_idle", CONFIG_DURATION, offsetof(struct nat_options, udp_ms), .min = 1000,
	  .max = 86400ULL * 1000, .help = "of UDP (default: 300s, RFC 4787)" },
	{ "icmp_idle", CONFIG_DURATION, offsetof(struct nat_options, icmp_ms),
	  .min = 1000, .max = 86400ULL * 1000,
	  .help = "of an ICMP query (default: 60s, RFC 5508)" },
	{ 0 }
};

static uint32_t
given_or(uint64_t ms, uint32_t default_s)
{
	return ms != 0 ? (uint32_t)ms : default_s * 1000;
}

static int
nat_init(const void *from, void **state)
{
	const struct nat_options *options = from;
	const struct endpoint *address = options->addresses.items;
	struct nat *nat = calloc(1, sizeof(*nat));
	bool ports = options->ports.high != 0;

	if (nat == NULL)
		return -ENOMEM;
	for (unsigned int i = 0; i < options->addresses.n; i++) {
		if (address[i].version != 4) {
			config_error(&address[i], "an IPv6 address, want IPv4");
			free(nat);
			return -EINVAL;
		}
		nat->address[nat->n_addresses++] = address[i];
	}
	nat->first_port = ports ? options->ports.low : 1024;
	nat->n_ports = (ports ? options->ports.high : UINT16_MAX) - nat->first_port + 1U;
	nat->tcp_ms = given_or(options->tcp_ms, 7440);
	nat->opening_ms = given_or(options->opening_ms, 240);
	nat->udp_ms = given_or(options->udp_ms, 300);
	nat->icmp_ms = given_or(options->icmp_ms, 60);
	*state = nat;
	return 0;
}

static uint32_t
idle_of(const struct nf_run *r, enum mapping_state state)
{
	const struct nat *nat = nf_static(r);

	if (nf_is_tcp(r))
		return state == OPEN ? nat->tcp_ms : nat->opening_ms;
	return nf_flow(r)->protocol == PROTO_UDP ? nat->udp_ms : nat->icmp_ms;
}

/* The flow of the answers to 'out' once its source has become 'outside'.  Of ICMP
 * both ports are the identifier. */
static void
answers_to(const struct flow *out, const struct endpoint *outside, struct flow *answers)
{
	flow_reverse(out, answers);
	answers->ip4.dst = outside->ip4;
	answers->dst_port = outside->port;
	if (out->protocol == PROTO_ICMP)
		answers->src_port = outside->port;
}

/* The same the other way round: what came from inside for 'in' to be an answer. */
static void
answered_by(const struct flow *in, const struct endpoint *inside, struct flow *out)
{
	flow_reverse(in, out);
	out->ip4.src = inside->ip4;
	out->src_port = inside->port;
	if (in->protocol == PROTO_ICMP)
		out->dst_port = inside->port;
}

/* The state after a packet; of UDP and ICMP it never changes. */
static enum mapping_state
next_state(const struct nf_run *r, enum mapping_state state)
{
	uint8_t flags = nf_packet(r)->tcp_flags;

	if (!nf_is_tcp(r))
		return OPENING;
	if (flags & (TCP_FIN | TCP_RST))
		return CLOSING;
	if (nf_side(r) == NF_OUTSIDE)
		return state;
	if (flags & TCP_SYN)
		return state == OPEN ? OPEN : OPENING;
	return state == OPENING ? OPEN : state;
}

/* A flow and its translation. */
struct session {
	struct flow out, answers;
	struct endpoint inside, outside;
	uint16_t first_port;
};

/* Writes both records, of a new mapping or one that is there.  False if the packet is not
 * fit to. */
static bool
save(struct nf_run *r, const struct session *s, enum mapping_state state, bool is_new)
{
	struct mapping there = { s->outside, (uint8_t)state, 0, s->first_port };
	struct mapping back = { s->inside, (uint8_t)state, 0, s->first_port };

	if (!nf_checksum_ok(r))
		return false;
	forward_write_for(r, &s->out, &there, idle_of(r, state));
	if (is_new)
		reverse_insert(r, &s->answers, &back, 0);
	else
		reverse_write(r, &s->answers, &back);
	return true;
}

/* --- ports -------------------------------------------------------------------- */

static uint32_t
inside_spread(const void *key, unsigned int key_bytes)
{
	const struct flow *out = key;
	uint64_t inside = (uint64_t)out->ip4.src << 16 | out->src_port;

	(void)key_bytes;
	return nf_spread(&inside, sizeof(inside));
}

/* Neighbouring ports lie in neighbouring partitions. */
static uint32_t
outside_spread(const void *key, unsigned int key_bytes)
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

/* The range that a flow's port is of. */
static void
ports_key_make(const struct nf_run *r, const struct flow *out, rte_be32_t address,
	       uint16_t first_port, struct ports_key *key)
{
	uint64_t remote = (uint64_t)out->ip4.dst << 16;

	/* Of a query, what looks like the remote port is the host's own identifier. */
	if (out->protocol != PROTO_ICMP)
		remote |= out->dst_port;
	*key = (struct ports_key){
		.address = address, .first_port = first_port, .protocol = out->protocol,
		.bucket = (uint8_t)(nf_spread(&remote, sizeof(remote)) % BUCKETS),
		.partition = (uint8_t)forward_partition(r, out),
	};
}

/* Member 0 of a range. */
static unsigned int
lowest_port(const struct nf_run *r, const struct ports_key *key)
{
	unsigned int n = nf_partitions(r);

	return key->first_port + (key->partition + n - key->first_port % n) % n;
}

static unsigned int
members_of(const struct nf_run *r, const struct ports_key *key)
{
	const struct nat *nat = nf_static(r);
	unsigned int end = nat->first_port + nat->n_ports, low = lowest_port(r, key);

	return low < end ? (end - low + nf_partitions(r) - 1) / nf_partitions(r) : 0;
}

/* A mapping's time has passed. */
static void
mapping_expired(struct nf_run *r, const void *from, const void *value)
{
	const struct mapping *there = value;
	const struct flow *out = from;
	struct ports_key key;
	struct flow answers;
	unsigned int port = rte_be_to_cpu_16(there->to.port);

	answers_to(out, &there->to, &answers);
	reverse_delete(r, &answers);
	ports_key_make(r, out, there->to.ip4, there->first_port, &key);
	ports_give(r, &key, (port - lowest_port(r, &key)) / nf_partitions(r),
		   QUARANTINE_MS);
}

/* --- from inside -------------------------------------------------------------- */

/* The inside host's outside address: always the same one. */
static const struct endpoint *
address_of(const struct nat *nat, rte_be32_t inside)
{
	uint32_t mixed = rte_be_to_cpu_32(inside) * 2654435761U;	/* Knuth, 6.4. */

	return &nat->address[(uint64_t)mixed * nat->n_addresses >> 32];
}

static bool
is_outside(const struct nat *nat, rte_be32_t ip)
{
	for (unsigned int i = 0; i < nat->n_addresses; i++)
		if (nat->address[i].ip4 == ip)
			return true;
	return false;
}

/* A new mapping. */
static enum nf_verdict
nat_open(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	struct session s = { .outside = *address_of(nat, nf_flow(r)->ip4.src),
			     .out = *nf_flow(r), .first_port = nat->first_port };
	struct ports_key key;
	unsigned int n;
	uint32_t member;

	if (is_outside(nat, s.out.ip4.dst))
		return nf_drop(r, NF_DROP_POLICY);
	ports_key_make(r, &s.out, s.outside.ip4, s.first_port, &key);
	n = members_of(r, &key);
	if (n == 0 || !ports_pick(r, &key, n, &member))
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_PORTS);
	s.outside.port = rte_cpu_to_be_16((uint16_t)(lowest_port(r, &key) +
						     member * nf_partitions(r)));
	answers_to(&s.out, &s.outside, &s.answers);
	flow_source(&s.out, &s.inside);
	if (!save(r, &s, next_state(r, OPENING), true))
		return nf_drop(r, NF_DROP_CHECKSUM);
	ports_take(r, &key, n, member);
	nf_set_src(r, &s.outside);
	return NF_SEND;
}

static enum nf_verdict
nat_outbound(struct nf_run *r)
{
	const struct mapping *there = forward_read(r, nf_flow(r));

	/* A SYN will need a port, most likely: it asks for one in the same trip. */
	if (nf_pending(r) && !nf_is_syn(r))
		return NF_WAIT;
	if (there == NULL)
		return nf_is_tcp(r) && !nf_is_syn(r) ? nf_drop(r, NF_DROP_STATE)
						     : nat_open(r);

	enum mapping_state state = next_state(r, there->state);

	if (state != there->state) {
		struct session s = { .outside = there->to, .out = *nf_flow(r),
				     .first_port = there->first_port };

		answers_to(&s.out, &s.outside, &s.answers);
		flow_source(&s.out, &s.inside);
		if (!save(r, &s, state, false))
			return nf_drop(r, NF_DROP_CHECKSUM);
	}
	nf_set_src(r, &there->to);
	return NF_SEND;
}

/* --- from outside ------------------------------------------------------------- */

static enum nf_verdict
nat_inbound(struct nf_run *r)
{
	const struct flow *in = nf_flow(r);
	const struct mapping *back = reverse_peek(r, in);

	if (nf_pending(r))
		return NF_WAIT;
	if (back == NULL)
		return nf_drop(r, NF_DROP_STATE);

	enum mapping_state state = next_state(r, back->state);

	if (state != back->state) {
		struct session s = { .inside = back->to, .answers = *in,
				     .first_port = back->first_port };

		answered_by(in, &s.inside, &s.out);
		flow_destination(in, &s.outside);
		if (!save(r, &s, state, false))
			return nf_drop(r, NF_DROP_CHECKSUM);
	}
	nf_set_dst(r, &back->to);
	return NF_SEND;
}

static enum nf_verdict
nat_packet(struct nf_run *r)
{
	/* Queries go out, answers come in. */
	static const uint16_t icmp_that_passes[] = {
		[NF_INSIDE] = PACKET_ICMP_QUERY,
		[NF_OUTSIDE] = PACKET_ICMP_QUERY | PACKET_ICMP_REPLY,
	};
	const struct packet *p = nf_packet(r);
	uint8_t protocol = p->flow.protocol;

	if (p->flow.version != 4)
		return nf_drop(r, NF_DROP_POLICY);
	if (p->flags & PACKET_LATER_FRAGMENT)
		return nf_drop(r, NF_DROP_FRAGMENT);
	if (protocol == PROTO_ICMP && (p->flags & icmp_that_passes[NF_OUTSIDE]) !=
					      icmp_that_passes[nf_side(r)])
		return nf_drop(r, NF_DROP_STATE);
	if (protocol != PROTO_TCP && protocol != PROTO_UDP && protocol != PROTO_ICMP)
		return nf_drop(r, NF_DROP_POLICY);
	return nf_side(r) == NF_INSIDE ? nat_outbound(r) : nat_inbound(r);
}

const struct nf nf_nat = {
	.name = "nat",
	.options = nat_fields,
	.options_bytes = sizeof(struct nat_options),
	.init = nat_init,
	.fini = free,
	.packet = nat_packet,
	.passes_non_ip = true,
};
