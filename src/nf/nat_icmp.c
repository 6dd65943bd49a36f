/*
 * nat_icmp.c - ICMP errors (RFC 5508, 4), and pings of the outside addresses.
 *
 * An error quotes the packet that it is about, as that was on the side it was sent on.
 * That names the session, whoever sent the error: the remote host, a router on the way,
 * or a router inside.  What is quoted is translated back, and of the error itself the
 * address that is of the session: the rest of it, and the session, stay as they are.
 *
 * An error of a session that is not there is dropped, and nobody is told.
 *
 * Identifiers are not mapped inwards, so an echo request to an outside address can be for
 * no host inside, unless the address is a static one: whichever instance gets it answers,
 * as the host would that has that address.
 */
#include "nf/nat.h"

enum {
	ECHO_REQUEST = 8,
	MAX_ECHO_BYTES = 2048,			/* nf_answer() */
};

/* Whether packets of that protocol have sessions. */
static bool
has_sessions(uint8_t protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_ICMP;
}

/* What the host that sent the quoted packet out has inside.  False: nobody has, or it is
 * pending. */
static bool
sender_inside(struct nf_run *r, const struct flow *quoted, struct endpoint *inside,
	      const uint8_t **mac, bool *hairpin)
{
	const struct nat *nat = nf_static(r);
	const struct nat_session *back = NULL;
	const struct nat_rule *rule = nat_rule_outside(nat, quoted->ip4.src, 0, 0);
	struct flow answers;

	*hairpin = nat_owns(nat, quoted->ip4.dst);
	if (rule != NULL) {
		*inside = nat_endpoint(rule->inside, quoted->src_port);
		*mac = rule->has_mac ? rule->mac : NULL;
		return true;
	}
	if (!has_sessions(quoted->protocol))
		return false;
	flow_reverse(quoted, &answers);
	back = nat_session_in(r, &answers);
	if (back != NULL) {
		*inside = nat_endpoint(back->address, back->port);
		*mac = back->mac;
		return true;
	}
	rule = nat_rule_outside(nat, quoted->ip4.src, quoted->src_port, quoted->protocol);
	if (rule == NULL || nf_pending(r))
		return false;
	*inside = nat_endpoint(rule->inside, rule->inside_port);
	*mac = rule->has_mac ? rule->mac : NULL;
	return true;
}

/* What the host that the quoted packet was delivered to has outside. */
static bool
receiver_outside(struct nf_run *r, const struct flow *quoted, struct endpoint *outside)
{
	const struct nat *nat = nf_static(r);
	const struct nat_rule *rule = nat_rule_inside(nat, quoted->ip4.dst, 0, 0);
	const struct nat_session *there;
	const struct nat_mapping *mapping;
	struct flow out;

	if (rule != NULL) {
		*outside = nat_endpoint(rule->outside, quoted->dst_port);
		return true;
	}
	if (!has_sessions(quoted->protocol))
		return false;
	flow_reverse(quoted, &out);
	there = nat_session_out(r, &out, false);
	mapping = nat->endpoint_dependent ? NULL : nat_mapping_of(r, &out);
	if (nf_pending(r))
		return false;
	rule = nat_rule_inside(nat, quoted->ip4.dst, quoted->dst_port, quoted->protocol);
	if (there != NULL)
		*outside = nat_endpoint(there->address, there->port);
	else if (rule != NULL)
		*outside = nat_endpoint(rule->outside, rule->outside_port);
	else if (mapping != NULL)
		*outside = nat_endpoint(mapping->address, mapping->port);
	else
		return false;
	return true;
}

static enum nf_verdict
error_out(struct nf_run *r, const struct flow *quoted)
{
	const struct nat *nat = nf_static(r);
	bool hairpin = nat_owns(nat, nf_flow(r)->ip4.dst);
	struct endpoint outside;

	if (!receiver_outside(r, quoted, &outside))
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_STATE);
	if (hairpin && nat->no_hairpin)
		return nf_drop(r, NF_DROP_POLICY);
	nf_set_src(r, &outside);
	nf_set_quoted_dst(r, &outside);
	nat_link_out(r, hairpin);
	return hairpin ? NF_TURN : NF_SEND;
}

static enum nf_verdict
error_in(struct nf_run *r, const struct flow *quoted)
{
	struct endpoint inside;
	const uint8_t *mac;
	bool hairpin;

	if (!sender_inside(r, quoted, &inside, &mac, &hairpin))
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_STATE);
	nf_set_dst(r, &inside);
	nf_set_quoted_src(r, &inside);
	nat_link_in(r, mac, hairpin);
	return NF_SEND;
}

enum nf_verdict
nat_icmp_error(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	struct flow quoted;

	/* It goes to the sender of what it quotes. */
	if (!nf_quoted(r, &quoted) || quoted.ip4.src != p->flow.ip4.dst)
		return nf_drop(r, NF_DROP_STATE);
	if (!packet_quoted_ok(p, nf_head_bytes(r)))
		return nf_drop(r, NF_DROP_CHECKSUM);
	return nf_side(r) == NF_INSIDE ? error_out(r, &quoted) : error_in(r, &quoted);
}

bool
nat_icmp_is_ping(const struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	const struct nat *nat = nf_static(r);

	return !(p->flags & PACKET_FRAGMENT) && p->icmp_type == ECHO_REQUEST &&
	       nat_owns(nat, p->flow.ip4.dst) &&
	       nat_rule_outside(nat, p->flow.ip4.dst, 0, 0) == NULL;
}

enum nf_verdict
nat_icmp_echo(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	uint8_t frame[MAX_ECHO_BYTES];

	if (p->end > nf_head_bytes(r) || p->end > sizeof(frame))
		return nf_drop(r, NF_DROP_FRAGMENT);
	if (!packet_checksum_ok(p))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (packet_echo(p, frame) == 0)
		return nf_drop(r, NF_DROP_STATE);
	nf_answer(r, frame, p->end);
	return NF_KEEP;
}
