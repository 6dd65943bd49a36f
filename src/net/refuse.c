/*
 * refuse.c - see refuse.h.
 *
 * What is made here answers a packet that may be anybody's: nothing of it is believed but
 * where it says it comes from, and what could make two machines answer each other, or one
 * packet many, is not answered at all.
 */
#include "net/refuse.h"

#include "net/address.h"
#include "net/sums.h"

enum {
	TTL = 64,
	TOS_CONTROL = 0xc0,      /* Of errors (RFC 1812, 4.3.2.5). */
	ERROR4_MAX_BYTES = 576,  /* RFC 1812, 4.3.2.3. */
	ERROR6_MAX_BYTES = 1280, /* RFC 4443, 2.4 (c). */
	ICMP_MTU = 6,
	ICMP6_MTU = 4,
	ECHO4_REQUEST = 8,
	ECHO4_REPLY = 0,
	ECHO6_REQUEST = 128,
	ECHO6_REPLY = 129,
};

/* Type and code of the error that says so. */
static const struct {
	uint8_t type4, code4, type6, code6;
} errors[] = {
	[REFUSE_RST] = { 3, 3, 1, 4 },     [REFUSE_PORT] = { 3, 3, 1, 4 },
	[REFUSE_HOST] = { 3, 1, 1, 3 },    [REFUSE_PROHIBITED] = { 3, 13, 1, 1 },
	[REFUSE_TOO_BIG] = { 3, 4, 2, 0 },
};

/* Not 0.0.0.0/8, loopback, multicast, broadcast or reserved. */
static bool
is_host4(const uint8_t *ip)
{
	return ip[0] != 0 && ip[0] != 127 && ip[0] < 224;
}

static bool
is_host6(const uint8_t *ip)
{
	static const uint8_t zero[15];

	return ip[0] != 0xff && !(memcmp(ip, zero, sizeof(zero)) == 0 && ip[15] <= 1);
}

static bool
answerable(const struct packet *p)
{
	const uint8_t *ip = p->data + p->l3;
	bool hosts;

	if (p->flags & (PACKET_ICMP_ERROR | PACKET_LATER_FRAGMENT))
		return false;
	if (p->flow.protocol == PROTO_TCP && (p->tcp_flags & TCP_RST))
		return false;
	if (flow_transport(&p->flow) == PROTO_ICMP && p->icmp_type == 5)
		return false;
	if (flow_transport(&p->flow) == PROTO_ICMP6 && p->icmp_type == 137)
		return false;
	if (p->flow.version == 4)
		hosts = is_host4(ip + IP4_SRC) && is_host4(ip + IP4_DST);
	else
		hosts = is_host6(ip + IP6_SRC) && is_host6(ip + IP6_DST);
	/* Nor what came to many by a group address of the link. */
	return hosts && !(p->data[0] & 1) && !(p->data[MAC_BYTES] & 1);
}

/* Writes the headers up to IP's, of a packet with 'bytes' of 'protocol' behind them, from
 * the source of 'p' to its destination or, with 'back', the other way.  Returns IP's. */
static uint8_t *
put_headers(const struct packet *p, bool back, uint8_t protocol, uint8_t tos,
	    uint32_t bytes, uint8_t *frame)
{
	const uint8_t *old = p->data + p->l3;
	uint8_t *ip = frame + p->l3;
	bool is_ip4 = p->flow.version == 4;
	unsigned int src = is_ip4 ? IP4_SRC : IP6_SRC, dst = is_ip4 ? IP4_DST : IP6_DST;
	unsigned int n = dst - src;

	memcpy(frame, p->data, p->l3);
	if (back) {
		memcpy(frame, p->data + MAC_BYTES, MAC_BYTES);
		memcpy(frame + MAC_BYTES, p->data, MAC_BYTES);
	}
	memset(ip, 0, is_ip4 ? IP4_BYTES : IP6_BYTES);
	memcpy(ip + src, old + (back ? dst : src), n);
	memcpy(ip + dst, old + (back ? src : dst), n);
	if (is_ip4) {
		ip[0] = 0x45;
		ip[IP4_TOS] = tos;
		store_be16(ip + IP4_TOTAL, IP4_BYTES + bytes);
		store_be16(ip + IP4_FRAGMENT, IP4_DONT);
		ip[IP4_TTL] = TTL;
		ip[IP4_PROTOCOL] = protocol;
		make_ip4_sum(ip);
	} else {
		store_be32(ip, 6U << 28 | (uint32_t)tos << 20);
		store_be16(ip + IP6_PAYLOAD, bytes);
		ip[IP6_NEXT] = protocol;
		ip[IP6_HOPS] = TTL;
	}
	return ip;
}

/* A RST with these numbers; 'ack' counts if 'flags' have TCP_ACK. */
static unsigned int
put_rst(const struct packet *p, bool back, uint32_t seq, uint32_t ack, uint8_t flags,
	uint8_t *frame)
{
	const uint8_t *old = p->data + p->l4;
	uint8_t *ip = put_headers(p, back, PROTO_TCP, 0, TCP_BYTES, frame);
	uint8_t *tcp = ip + (p->flow.version == 4 ? IP4_BYTES : IP6_BYTES);

	memset(tcp, 0, TCP_BYTES);
	memcpy(tcp + SRC_PORT, old + (back ? DST_PORT : SRC_PORT), 2);
	memcpy(tcp + DST_PORT, old + (back ? SRC_PORT : DST_PORT), 2);
	store_be32(tcp + TCP_SEQ, seq);
	store_be32(tcp + TCP_ACKNOWLEDGED, flags & TCP_ACK ? ack : 0);
	tcp[TCP_OFFSET] = TCP_BYTES / 4 << 4;
	tcp[TCP_FLAGS] = TCP_RST | flags;
	make_sum(tcp + TCP_SUM, sum_pseudo(ip, PROTO_TCP, TCP_BYTES), tcp, TCP_BYTES);
	return (unsigned int)(tcp + TCP_BYTES - frame);
}

/* To the source (RFC 9293, 3.5.2): from where it says the other end is or, if it says
 * nothing, from 0 with what it has sent. */
static unsigned int
put_rst_back(const struct packet *p, uint8_t *frame)
{
	uint32_t behind = packet_tcp_seq(p) + packet_payload_bytes(p);

	if (p->tcp_flags & TCP_ACK)
		return put_rst(p, true, packet_tcp_ack(p), 0, 0, frame);
	behind += (p->tcp_flags & TCP_SYN) != 0;
	behind += (p->tcp_flags & TCP_FIN) != 0;
	return put_rst(p, true, 0, behind, TCP_ACK, frame);
}

static unsigned int
put_error(const struct packet *p, uint32_t head_bytes, enum refusal how, unsigned int mtu,
	  uint8_t *frame)
{
	bool is_ip4 = p->flow.version == 4;
	uint8_t protocol = is_ip4 ? PROTO_ICMP : PROTO_ICMP6;
	uint32_t header = is_ip4 ? IP4_BYTES : IP6_BYTES;
	uint32_t quoted = (head_bytes < p->end ? head_bytes : p->end) - p->l3;
	uint32_t most =
		(is_ip4 ? ERROR4_MAX_BYTES : ERROR6_MAX_BYTES) - header - ICMP_BYTES;
	uint32_t bytes = ICMP_BYTES + (quoted < most ? quoted : most);
	uint8_t *ip = put_headers(p, true, protocol, TOS_CONTROL, bytes, frame);
	uint8_t *icmp = ip + header;

	memset(icmp, 0, ICMP_BYTES);
	icmp[0] = is_ip4 ? errors[how].type4 : errors[how].type6;
	icmp[1] = is_ip4 ? errors[how].code4 : errors[how].code6;
	if (how == REFUSE_TOO_BIG && is_ip4)
		store_be16(icmp + ICMP_MTU, mtu < UINT16_MAX ? mtu : UINT16_MAX);
	else if (how == REFUSE_TOO_BIG)
		store_be32(icmp + ICMP6_MTU, mtu > IP6_MIN_MTU ? mtu : IP6_MIN_MTU);
	memcpy(icmp + ICMP_BYTES, p->data + p->l3, bytes - ICMP_BYTES);
	make_sum(icmp + ICMP_SUM, is_ip4 ? 0 : sum_pseudo(ip, protocol, bytes), icmp,
		 bytes);
	return (unsigned int)(icmp + bytes - frame);
}

unsigned int
packet_refuse(const struct packet *p, uint32_t head_bytes, enum refusal how,
	      unsigned int mtu, uint8_t *frame)
{
	if (!answerable(p))
		return 0;
	if (how == REFUSE_RST && p->flow.protocol == PROTO_TCP)
		return put_rst_back(p, frame);
	return put_error(p, head_bytes, how, mtu, frame);
}

unsigned int
packet_reset(const struct packet *p, bool to_source, uint8_t *frame)
{
	if (p->flow.protocol != PROTO_TCP || (p->flags & PACKET_LATER_FRAGMENT) ||
	    (p->tcp_flags & TCP_RST))
		return 0;
	if (to_source)
		return put_rst_back(p, frame);
	return put_rst(p, false, packet_tcp_seq(p), packet_tcp_ack(p),
		       p->tcp_flags & TCP_ACK, frame);
}

static bool
is_echo_request(const struct packet *p)
{
	if (p->flags & PACKET_FRAGMENT)
		return false;
	switch (flow_transport(&p->flow)) {
	case PROTO_ICMP:
		return p->icmp_type == ECHO4_REQUEST;
	case PROTO_ICMP6:
		return p->icmp_type == ECHO6_REQUEST;
	default:
		return false;
	}
}

unsigned int
packet_echo(const struct packet *p, uint8_t *frame)
{
	const uint8_t *old = p->data + p->l3;
	uint8_t *ip = frame + p->l3, *icmp = frame + p->l4;
	bool is_ip4 = p->flow.version == 4;
	unsigned int src = is_ip4 ? IP4_SRC : IP6_SRC, dst = is_ip4 ? IP4_DST : IP6_DST;
	unsigned int n = dst - src;

	if (!is_echo_request(p) || !answerable(p))
		return 0;

	uint8_t type_code[2] = { is_ip4 ? ECHO4_REPLY : ECHO6_REPLY, p->icmp_code };

	memcpy(frame, p->data, p->end);
	memcpy(frame, p->data + MAC_BYTES, MAC_BYTES);
	memcpy(frame + MAC_BYTES, p->data, MAC_BYTES);
	memcpy(ip + src, old + dst, n);
	memcpy(ip + dst, old + src, n);
	ip[is_ip4 ? IP4_TTL : IP6_HOPS] = TTL;
	if (is_ip4) {
		make_ip4_sum(ip);
		rewrite_icmp_sum(icmp, replace(icmp, type_code, sizeof(type_code)));
	} else {
		rewrite_sum(icmp + ICMP_SUM, replace(icmp, type_code, sizeof(type_code)));
	}
	return p->end;
}
