/*
 * nat.c - network address and port translation, IPv4 (Algorithm 2 of the paper).
 *
 * Packets of a session that is there are translated by its record, which one read finds
 * (nat_session.c).  The others are asked about in this order:
 *
 *   - static addresses, before all else: their packets need no state;
 *   - forwarded ports: nor do theirs, but a session of before the rule goes on;
 *   - from inside, a new session, on the mapping that its endpoint has or a new one
 *     (RFC 4787, 4);
 *   - from outside, a mapping that lets the packet in (RFC 4787, 5).  A SYN makes a
 *     session of it; other packets just pass, for what comes from outside does not keep
 *     a mapping alive (RFC 4787, REQ-6).
 *
 * A packet from inside to an outside address is a hairpin: its source is translated, and
 * it arrives anew as if from outside.  So the host that gets it sees an outside address.
 *
 * What can not be translated does not pass.
 */
#include "nf/nat.h"

/* Of TCP; the state of others never changes. */
static enum nat_state
next_state(const struct nf_run *r, enum nat_state state)
{
	const struct packet *p = nf_packet(r);
	bool out = nf_side(r) == NF_INSIDE;
	uint8_t flags = p->tcp_flags;

	if (!nf_is_tcp(r) || (p->flags & PACKET_LATER_FRAGMENT))
		return state;
	if (flags & TCP_RST)
		return state == NAT_CLOSED ? NAT_CLOSED : NAT_RESET;
	/* The host has given up the old connection, or the remote one has. */
	if (nf_is_syn(r) && (state == NAT_CLOSED || state == NAT_RESET ||
			     (out && state > NAT_OPEN)))
		return out ? NAT_OPENING : NAT_CALLED;
	switch (state) {
	case NAT_OPENING:
		return !out && (flags & TCP_SYN) ? NAT_OPEN : state;
	case NAT_CALLED:
		return out && (flags & TCP_SYN) ? NAT_OPEN : state;
	case NAT_OPEN:
		if (flags & TCP_FIN)
			return out ? NAT_FIN_OUT : NAT_FIN_IN;
		return state;
	case NAT_FIN_OUT:
		return !out && (flags & TCP_FIN) ? NAT_CLOSED : state;
	case NAT_FIN_IN:
		return out && (flags & TCP_FIN) ? NAT_CLOSED : state;
	case NAT_RESET:
		if (!out)
			return state;
		/* It did not believe the RST, or their ways crossed. */
		return flags & TCP_FIN ? NAT_FIN_OUT : NAT_OPEN;
	default:
		return state;
	}
}

/* --- from inside -------------------------------------------------------------- */

/* Hosts number their packets each for itself.  Those that may be fragments would be mixed
 * up where they have one address: each host's numbers are moved by an amount of their
 * own, which is the same for all fragments of a packet, at all instances (RFC 6864). */
static void
move_id(struct nf_run *r)
{
	const struct flow *out = nf_flow(r);

	nf_shift_id(r, (uint16_t)nf_spread(&out->ip4, sizeof(out->ip4)));
}

static enum nf_verdict
send_out(struct nf_run *r, rte_be32_t address, rte_be16_t port, bool hairpin)
{
	const struct nat *nat = nf_static(r);
	struct endpoint outside = nat_endpoint(address, port);

	nf_set_src(r, &outside);
	if (!packet_is_atomic(nf_packet(r)))
		move_id(r);
	if (!hairpin && !nat->has_mac)
		return NF_SEND;
	if (hairpin && nat->no_hairpin)
		return nf_drop(r, NF_DROP_POLICY);
	nat_link_out(r, hairpin);
	return hairpin ? NF_TURN : NF_SEND;
}

/* Whether no session is made for it, wherever it goes: it has no source, or many
 * destinations. */
static bool
is_local(const struct flow *out)
{
	return out->ip4.src == 0 || rte_be_to_cpu_32(out->ip4.dst) >= 0xe0000000U;
}

/* Whether it may make a session.  A later fragment may be run before the first one of its
 * datagram, which is at another instance: then it makes the session which that one finds.
 * Of ICMP it has no type, but the identifier of its datagram, if that is a query's.
 * Errors have none (nor has, as far as can be told, a query whose identifier is 0).  A
 * reply has one, too: what its later fragments make, a query could have made. */
static bool
may_begin(const struct nf_run *r)
{
	const struct flow *out = nf_flow(r);

	if (nf_is_tcp(r))
		return nf_is_syn(r);
	return out->protocol != PROTO_ICMP || out->src_port != 0 ||
	       !(nf_packet(r)->flags & PACKET_LATER_FRAGMENT);
}

/* There is no session, or nobody knows yet. */
static enum nf_verdict
outbound_new(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct flow *out = nf_flow(r);
	const struct nat_rule *rule = NULL;
	bool hairpin = nat_owns(nat, out->ip4.dst);
	struct nat_session there;
	enum nf_verdict verdict;

	if (nat->n_rules > nat->n_static)
		rule = nat_rule_inside(nat, out->ip4.src, out->src_port, out->protocol);
	if (rule != NULL)
		return nf_pending(r) ? NF_WAIT
				     : send_out(r, rule->outside, rule->outside_port,
						hairpin);
	if (!may_begin(r))
		return nf_drop(r, NF_DROP_STATE);
	if (is_local(out) || (hairpin && nat->no_hairpin))
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_POLICY);
	verdict = nat_session_open(r, &there);
	if (verdict != NF_SEND)
		return verdict;
	return send_out(r, there.address, there.port, hairpin);
}

static enum nf_verdict
outbound(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct nat_session *there = nat_session_out(r, nf_flow(r), true);

	/* A SYN will need a port, most likely: it asks for one in the same trip. */
	if (nf_pending(r) && !nf_is_syn(r))
		return NF_WAIT;
	if (there == NULL)
		return outbound_new(r);

	enum nat_state state = next_state(r, (enum nat_state)there->state);
	bool hairpin = there->flags & NAT_HAIRPIN;
	bool moved = (hairpin || nat->has_mac) &&
		     memcmp(there->mac, nat_link_source(r), MAC_BYTES) != 0;

	if (state != there->state || moved) {
		if (!nf_checksum_ok(r))
			return nf_drop(r, NF_DROP_CHECKSUM);
		nat_session_save_out(r, there, state, nat_link_source(r));
	}
	return send_out(r, there->address, there->port, hairpin);
}

/* --- from outside ------------------------------------------------------------- */

static enum nf_verdict
send_in(struct nf_run *r, rte_be32_t address, rte_be16_t port, const uint8_t *mac,
	bool hairpin)
{
	const struct nat *nat = nf_static(r);
	struct endpoint inside = nat_endpoint(address, port);

	nf_set_dst(r, &inside);
	if (hairpin || nat->has_mac)
		nat_link_in(r, mac, hairpin);
	return NF_SEND;
}

static enum nf_verdict
send_by_rule(struct nf_run *r, const struct nat_rule *rule, rte_be16_t port)
{
	return send_in(r, rule->inside, port, rule->has_mac ? rule->mac : NULL,
		       nat_owns(nf_static(r), nf_flow(r)->ip4.src));
}

/* To a mapping: those may pass that it lets in.  Asks for all at once. */
static enum nf_verdict
inbound_to_mapping(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct flow *in = nf_flow(r);
	const struct nat_outside *outside = nat_outside_of(r, in);
	bool is_permitted = nat->filtering == NAT_FILTER_NONE;
	struct nat_session back;
	enum nf_verdict verdict;

	if (nat->filtering == NAT_FILTER_ADDRESS)
		is_permitted = nat_is_permitted(r, in, outside);
	if (nf_pending(r))
		return NF_WAIT;
	if (outside == NULL)
		return nf_drop(r, NF_DROP_STATE);
	if (!is_permitted)
		return nf_is_tcp(r) && nat->hold_syn ? nat_refuse_syn(r)
						     : nf_drop(r, NF_DROP_STATE);
	if (!nf_is_tcp(r))
		return send_in(r, outside->address, outside->port, outside->mac,
			       nat_owns(nat, in->ip4.src));
	verdict = nat_session_accept(r, outside, &back);
	if (verdict != NF_SEND)
		return verdict;
	return send_in(r, back.address, back.port, back.mac, back.flags & NAT_HAIRPIN);
}

static enum nf_verdict
inbound_new(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct flow *in = nf_flow(r);
	const struct nat_rule *rule = NULL;

	if (nat->n_rules > nat->n_static)
		rule = nat_rule_outside(nat, in->ip4.dst, in->dst_port, in->protocol);
	if (rule != NULL)
		return nf_pending(r) ? NF_WAIT : send_by_rule(r, rule, rule->inside_port);
	if (nf_is_syn(r) && !nat->endpoint_dependent)
		return inbound_to_mapping(r);
	if (nf_pending(r))
		return NF_WAIT;
	if (nf_is_tcp(r) || nat->filtering == NAT_FILTER_ADDRESS_AND_PORT)
		return nf_drop(r, NF_DROP_STATE);
	return inbound_to_mapping(r);
}

static enum nf_verdict
inbound(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct nat_session *back = nat_session_in(r, nf_flow(r));

	if (nf_pending(r) && !nf_is_syn(r))
		return NF_WAIT;
	if (back == NULL)
		return inbound_new(r);

	enum nat_state state = next_state(r, (enum nat_state)back->state);

	if (state != back->state) {
		if (!nf_checksum_ok(r))
			return nf_drop(r, NF_DROP_CHECKSUM);
		nat_session_save_in(r, back, state);
	} else if (nat->inbound_refresh && !(nf_packet(r)->tcp_flags & TCP_RST)) {
		nat_session_refresh(r, nf_flow(r), back);
	}
	return send_in(r, back->address, back->port, back->mac,
		       back->flags & NAT_HAIRPIN);
}

/* --- all ---------------------------------------------------------------------- */

/* Of a static address. */
static bool
is_static(struct nf_run *r, enum nf_verdict *verdict)
{
	const struct nat *nat = nf_static(r);
	const struct flow *f = nf_flow(r);
	const struct nat_rule *rule;

	if (nf_side(r) == NF_INSIDE) {
		rule = nat_rule_inside(nat, f->ip4.src, 0, 0);
		if (rule != NULL)
			*verdict = send_out(r, rule->outside, f->src_port,
					    nat_owns(nat, f->ip4.dst));
	} else {
		rule = nat_rule_outside(nat, f->ip4.dst, 0, 0);
		if (rule != NULL)
			*verdict = send_by_rule(r, rule, f->dst_port);
	}
	return rule != NULL;
}

/* Queries go out, answers come in. */
static bool
icmp_passes(const struct nf_run *r)
{
	static const uint16_t want[] = {
		[NF_INSIDE] = PACKET_ICMP_QUERY,
		[NF_OUTSIDE] = PACKET_ICMP_QUERY | PACKET_ICMP_REPLY,
	};
	const struct packet *p = nf_packet(r);

	return (p->flags & PACKET_LATER_FRAGMENT) ||
	       (p->flags & want[NF_OUTSIDE]) == want[nf_side(r)];
}

static enum nf_verdict
nat_packet(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	const struct packet *p = nf_packet(r);
	enum nf_verdict verdict;

	if (p->flow.version != 4)
		return nat->pass_ip6 ? NF_SEND : nf_drop(r, NF_DROP_POLICY);
	if (p->flags & (PACKET_ICMP_ERROR | PACKET_ICMP_QUERY)) {
		if (p->flags & PACKET_ICMP_ERROR)
			return nat_icmp_error(r);
		if (nat->ping && nat_icmp_is_ping(r))
			return nat_icmp_echo(r);
	}
	if (nat->n_static > 0 && is_static(r, &verdict))
		return verdict;
	switch (p->flow.protocol) {
	case PROTO_ICMP:
		if (!icmp_passes(r))
			return nf_drop(r, NF_DROP_STATE);
		break;
	case PROTO_TCP:
	case PROTO_UDP:
		break;
	default:
		return nf_drop(r, NF_DROP_POLICY);
	}
	return nf_side(r) == NF_INSIDE ? outbound(r) : inbound(r);
}

const struct nf nf_nat = {
	.name = "nat",
	.options = nat_fields,
	.options_bytes = sizeof(struct nat_options),
	.init = nat_init,
	.fini = free,
	.packet = nat_packet,
	.non_ip = nat_non_ip,
	.events = nat_events,
	.needs_ports = true,
};
