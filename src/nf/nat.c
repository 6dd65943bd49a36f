/*
 * nat.c - network address and port translation, IPv4 (Algorithm 2 of the paper).
 *
 * The first packet of a flow from inside takes an outside address and port; two
 * records remember it, one under the flow as it is seen inside, one under the flow
 * of its answers.  Both are written in one group, and only if the port was still
 * free, so that two instances never give the same port to two flows.  An outside
 * port may serve several flows if their remote endpoints differ (RFC 4787 calls this
 * address and port dependent).
 *
 * Only packets from inside keep a mapping alive (RFC 4787, REQ-6): they refresh both
 * records, in the order forward, reverse, so that the reverse one, which is what
 * keeps the port taken, is never the first to go.  An inside host keeps its outside
 * address.
 *
 * ICMP errors, fragments other than the first, and hairpins are dropped.
 */
#include "nf/nf.h"

#include "net/address.h"

enum {
	MAX_ADDRESSES = 256,
	MAX_CANDIDATES = NF_MAX_READS - 2,	/* Ports that one run tries. */
};

enum mapping_state {
	OPENING,				/* Idle time "opening". */
	OPEN,					/* TCP; the inside has heard an answer. */
	CLOSING,				/* TCP; a FIN or RST was seen. */
};

/* Key: the flow from inside, and the flow of its answers. */
struct mapping {
	struct endpoint to;			/* What source or destination becomes. */
	uint8_t state;				/* enum mapping_state, alike in both. */
	uint8_t zero[3];
};

NF_TABLE(forward, struct flow, struct mapping, .idle_ms = 300 * 1000)
NF_TABLE(reverse, struct flow, struct mapping, .idle_ms = 300 * 1000)

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

/* Writes both records.  False if the packet is not fit to. */
static bool
save(struct nf_run *r, const struct flow *out, const struct flow *answers,
     const struct endpoint *inside, const struct endpoint *outside,
     enum mapping_state state)
{
	struct mapping there = { .to = *outside, .state = (uint8_t)state };
	struct mapping back = { .to = *inside, .state = (uint8_t)state };
	uint32_t idle_ms = idle_of(r, state);

	if (!nf_checksum_ok(r))
		return false;
	forward_write_for(r, out, &there, idle_ms);
	reverse_write_for(r, answers, &back, idle_ms);
	return true;
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

/* Candidate 'i' of this run: in the whole range, from a random one on. */
static rte_be16_t
candidate_port(const struct nf_run *r, const struct nat *nat, unsigned int i)
{
	uint64_t random = nf_random(r);
	uint32_t first = (uint32_t)random % nat->n_ports;
	uint32_t room = nat->n_ports / MAX_CANDIDATES;
	uint32_t step = room > 1 ? 1 + (uint32_t)(random >> 32) % room : 1;

	return rte_cpu_to_be_16((uint16_t)(nat->first_port +
					   (first + i * step) % nat->n_ports));
}

/* A new mapping: the first candidate whose answers are nobody else's. */
static enum nf_verdict
nat_open(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct flow *out = nf_flow(r);
	struct endpoint inside, outside = *address_of(nat, out->ip4.src);
	struct flow answers[MAX_CANDIDATES];
	unsigned int n = nat->n_ports < MAX_CANDIDATES ? nat->n_ports : MAX_CANDIDATES;
	unsigned int first = n;

	if (is_outside(nat, out->ip4.dst))
		return nf_drop(r, NF_DROP_POLICY);
	for (unsigned int i = n; i-- > 0;) {
		outside.port = candidate_port(r, nat, i);
		answers_to(out, &outside, &answers[i]);
		if (reverse_peek(r, &answers[i]) == NULL)
			first = i;
	}
	if (nf_pending(r))
		return NF_WAIT;
	if (first == n)
		return nf_drop(r, NF_DROP_PORTS);
	outside.port = candidate_port(r, nat, first);
	flow_source(out, &inside);
	if (!save(r, out, &answers[first], &inside, &outside, next_state(r, OPENING)))
		return nf_drop(r, NF_DROP_CHECKSUM);
	nf_set_src(r, &outside);
	return NF_SEND;
}

static enum nf_verdict
nat_unmapped(struct nf_run *r)
{
	return nf_is_tcp(r) && !nf_is_syn(r) ? nf_drop(r, NF_DROP_STATE) : nat_open(r);
}

static enum nf_verdict
nat_outbound(struct nf_run *r)
{
	const struct flow *out = nf_flow(r);
	const struct mapping *there = forward_read(r, out);
	struct endpoint inside;
	struct flow answers;

	if (nf_pending(r))
		return NF_WAIT;
	if (there == NULL)
		return nat_unmapped(r);
	answers_to(out, &there->to, &answers);

	const struct mapping *back = reverse_read(r, &answers);

	if (nf_pending(r))
		return NF_WAIT;
	flow_source(out, &inside);
	/* An instance that died between the two refreshes leaves half a mapping. */
	if (back == NULL || memcmp(&back->to, &inside, sizeof(inside)) != 0)
		return nat_unmapped(r);

	enum mapping_state state = next_state(r, there->state);

	if (state != there->state &&
	    !save(r, out, &answers, &inside, &there->to, state))
		return nf_drop(r, NF_DROP_CHECKSUM);
	nf_set_src(r, &there->to);
	return NF_SEND;
}

/* --- from outside ------------------------------------------------------------- */

static enum nf_verdict
nat_inbound(struct nf_run *r)
{
	const struct flow *in = nf_flow(r);
	const struct mapping *back = reverse_peek(r, in);
	struct endpoint outside;
	struct flow out;

	if (nf_pending(r))
		return NF_WAIT;
	if (back == NULL)
		return nf_drop(r, NF_DROP_STATE);

	enum mapping_state state = next_state(r, back->state);

	if (state != back->state) {
		answered_by(in, &back->to, &out);
		flow_destination(in, &outside);
		if (!save(r, &out, in, &back->to, &outside, state))
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
