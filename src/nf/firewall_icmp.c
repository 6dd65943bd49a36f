/*
 * firewall_icmp.c - ICMP and ICMPv6 that is no query: errors, which belong to the
 * connection whose packet they quote, and messages of links and routers.
 */
#include "nf/firewall.h"

enum {
	TCP_SEQ = 4,
};

/*
 * What RFC 4890 has pass without being asked for, as this is a bridge between two parts
 * of a link or a path: Packet Too Big (4.3.1); neighbour and router discovery with its
 * inverse, its security and redirects, multicast listeners and multicast routers (4.4.1,
 * 4.4.4).  The other errors (1, 3, 4) pass if they are about a connection; echo (128,
 * 129) is a query; all others, such as those of Mobile IPv6, are judged by the rules
 * (4.3.2, 4.3.4, 4.3.5).
 */
static bool
icmp6_always_passes(uint8_t type)
{
	switch (type) {
	case 2:
	case 130 ... 137:
	case 141 ... 143:
	case 148:
	case 149:
	case 151 ... 153:
		return true;
	default:
		return false;
	}
}

/* Whether an error goes back to where the packet it quotes came from. */
static bool
goes_back(const struct flow *error, const struct flow *quoted)
{
	if (error->version == 4)
		return error->ip4.dst == quoted->ip4.src;
	return memcmp(error->ip6.dst, quoted->ip6.src, sizeof(error->ip6.dst)) == 0;
}

/* What came from the server of a proxied connection is quoted as its client got it. */
static uint32_t
shift_of(const struct nf_run *r, const struct connection *c)
{
	return c->track.opened == 1 << !nf_side(r) ? 0 : c->shift;
}

/* An off-path sender knows addresses and ports, but not where the stream is (RFC 5927). */
static bool
quotes_right(const struct nf_run *r, const struct firewall *fw,
	     const struct connection *c, const struct flow *quoted)
{
	const uint8_t *tcp = packet_quoted_transport(nf_packet(r), nf_head_bytes(r));
	rte_be32_t seq;

	if (quoted->protocol != PROTO_TCP || fw->liberal)
		return true;
	if (tcp == NULL)
		return false;
	memcpy(&seq, tcp + TCP_SEQ, sizeof(seq));
	return tcp_track_may_have_sent(&c->track, !nf_side(r),
				       rte_be_to_cpu_32(seq) - shift_of(r, c));
}

/* SCTP has its ports where TCP has them; the parser leaves them to the functions. */
static void
set_sctp_ports(const struct nf_run *r, struct flow *quoted)
{
	const uint8_t *sctp = packet_quoted_transport(nf_packet(r), nf_head_bytes(r));

	if (quoted->protocol != PROTO_SCTP || sctp == NULL)
		return;
	memcpy(&quoted->src_port, sctp, sizeof(quoted->src_port));
	memcpy(&quoted->dst_port, sctp + 2, sizeof(quoted->dst_port));
}

static enum nf_verdict
error_packet(struct nf_run *r, const struct firewall *fw)
{
	const struct connection *c;
	struct flow quoted, key;

	if (!nf_quoted(r, &quoted) || !packet_quoted_ok(nf_packet(r), nf_head_bytes(r)) ||
	    !goes_back(nf_flow(r), &quoted))
		return nf_drop(r, NF_DROP_STATE);
	set_sctp_ports(r, &quoted);
	flow_canonical(&quoted, &key);
	if (!firewall_peek(r, &key, &c))
		return NF_WAIT;
	if (c == NULL || (!quotes_right(r, fw, c, &quoted) &&
			  !firewall_is_older(r, &key, c)))
		return nf_drop(r, NF_DROP_STATE);
	if (quoted.protocol == PROTO_TCP && shift_of(r, c) != 0)
		nf_shift_tcp(r, -shift_of(r, c), 0);
	return NF_SEND;
}

enum nf_verdict
firewall_icmp(struct nf_run *r, const struct firewall *fw)
{
	const struct packet *p = nf_packet(r);
	struct view v = { .fw = fw, .flow = nf_flow(r) };
	bool passes = v.flow->protocol == PROTO_ICMP6 && icmp6_always_passes(p->icmp_type);

	if (p->flags & PACKET_ICMP_ERROR) {
		enum nf_verdict verdict = error_packet(r, fw);

		return verdict == NF_DROP && passes ? NF_SEND : verdict;
	}
	if (passes)
		return NF_SEND;
	return firewall_judge(r, &v) == RULE_ALLOW ? NF_SEND : firewall_deny(r, &v);
}
