/*
 * packet.c - parses packets.
 *
 * All bytes from outside that the runtime understands are read here, through a
 * cursor that never passes the end of what can be read, nor the end of the
 * datagram.  What lies behind the datagram (padding) is nobody's business.
 * rewrite.c relies on these checks, flow.c on the flow.
 */
#include "net/packet.h"

#include "net/wire.h"

/* Ethernet types, IPv6 next headers. */
enum {
	TYPE_IP4 = 0x0800,
	TYPE_TAG = 0x8100, /* 802.1Q */
	TYPE_IP6 = 0x86dd,
	TYPE_SERVICE_TAG = 0x88a8, /* 802.1ad */

	NEXT_HOP_BY_HOP = 0,
	NEXT_ROUTING = 43,
	NEXT_FRAGMENT = 44,
	NEXT_AUTHENTICATION = 51,
	NEXT_DESTINATION = 60,
};

enum {
	IP4_VERSION_NO_OPTIONS = 0x45,
	IP4_MORE_OR_OFFSET = 0x3fff,
	IP4_OFFSET = 0x1fff,
	IP6_MORE = 0x0001,
	IP6_OFFSET = 0xfff8,
};

/* What is left to read: 'at' never passes 'end'. */
struct cursor {
	const uint8_t *data;
	uint32_t at, end;
};

/* The next 'bytes' bytes, or NULL if there are not so many. */
static inline const uint8_t *
take(struct cursor *c, uint32_t bytes)
{
	if (c->end - c->at < bytes)
		return NULL;

	const uint8_t *taken = c->data + c->at;

	c->at += bytes;
	return taken;
}

/* The PACKET_ICMP_... flags of a type. */
static uint16_t
icmp_flags(uint8_t protocol, uint8_t type)
{
	switch (protocol << 8 | type) {
	case PROTO_ICMP << 8 | 8:    /* Echo. */
	case PROTO_ICMP << 8 | 13:   /* Timestamp. */
	case PROTO_ICMP6 << 8 | 128: /* Echo. */
		return PACKET_ICMP_QUERY;
	case PROTO_ICMP << 8 | 0:
	case PROTO_ICMP << 8 | 14:
	case PROTO_ICMP6 << 8 | 129:
		return PACKET_ICMP_QUERY | PACKET_ICMP_REPLY;
	case PROTO_ICMP << 8 | 3:  /* Destination unreachable. */
	case PROTO_ICMP << 8 | 4:  /* Source quench. */
	case PROTO_ICMP << 8 | 11: /* Time exceeded. */
	case PROTO_ICMP << 8 | 12: /* Parameter problem. */
	case PROTO_ICMP6 << 8 | 1: /* Destination unreachable. */
	case PROTO_ICMP6 << 8 | 2: /* Packet too big. */
	case PROTO_ICMP6 << 8 | 3: /* Time exceeded. */
	case PROTO_ICMP6 << 8 | 4: /* Parameter problem. */
		return PACKET_ICMP_ERROR;
	default:
		return 0;
	}
}

static inline enum packet_error
parse_tcp(struct packet *p, struct cursor *c)
{
	const uint8_t *tcp = take(c, TCP_BYTES);

	if (tcp == NULL)
		return PACKET_MALFORMED;

	/* An offset that is too small makes a number that is too large. */
	uint32_t options = (tcp[TCP_OFFSET] >> 4) * 4U - TCP_BYTES;

	if (take(c, options) == NULL)
		return PACKET_MALFORMED;
	memcpy(&p->flow.src_port, tcp, PORTS_BYTES);
	p->tcp_flags = tcp[TCP_FLAGS];
	p->tcp_options = (uint8_t)options;
	return PACKET_OK;
}

static inline enum packet_error
parse_udp(struct packet *p, struct cursor *c, bool whole)
{
	const uint8_t *udp = take(c, UDP_BYTES);

	if (udp == NULL)
		return PACKET_MALFORMED;

	uint32_t length = load_be16(udp + UDP_LENGTH);

	if (length < UDP_BYTES || (whole && length > p->end - p->l4))
		return PACKET_MALFORMED;
	memcpy(&p->flow.src_port, udp, PORTS_BYTES);
	return PACKET_OK;
}

static enum packet_error
parse_icmp(struct packet *p, struct cursor *c)
{
	const uint8_t *icmp = take(c, ICMP_BYTES);

	if (icmp == NULL)
		return PACKET_MALFORMED;
	p->icmp_type = icmp[0];
	p->icmp_code = icmp[1];
	p->flags |= icmp_flags(p->flow.protocol, p->icmp_type);
	if (p->flags & PACKET_ICMP_QUERY) {
		p->flow.src_port = load_16(icmp + ICMP_ID);
		p->flow.dst_port = p->flow.src_port;
	}
	return PACKET_OK;
}

/* The header behind IP.  'whole': all of the datagram is in this packet. */
static inline enum packet_error
parse_transport(struct packet *p, struct cursor *c, bool whole)
{
	enum packet_error err = PACKET_OK;

	p->flow.src_port = 0;
	p->flow.dst_port = 0;
	p->tcp_flags = 0;
	p->tcp_options = 0;
	p->icmp_type = 0;
	p->icmp_code = 0;
	if (p->flags & PACKET_LATER_FRAGMENT) {
		p->l4 = 0;
		p->payload = (uint16_t)c->at;
		return PACKET_OK;
	}
	p->l4 = (uint16_t)c->at;
	switch (flow_transport(&p->flow)) {
	case PROTO_TCP:
		err = parse_tcp(p, c);
		break;
	case PROTO_UDP:
		err = parse_udp(p, c, whole);
		break;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		err = parse_icmp(p, c);
		break;
	}
	p->payload = (uint16_t)c->at;
	return err;
}

/* The datagram is 'length' bytes long from 'l3' on. */
static inline void
set_end(struct packet *p, struct cursor *c, uint32_t length)
{
	p->end = p->l3 + length;
	if (c->end > p->end)
		c->end = p->end;
}

static inline enum packet_error
parse_ip4(struct packet *p, struct cursor *c, uint32_t bytes)
{
	const uint8_t *ip = take(c, IP4_BYTES);
	uint32_t header = IP4_BYTES;

	if (ip == NULL)
		return PACKET_MALFORMED;
	if (ip[0] != IP4_VERSION_NO_OPTIONS) {
		header = (ip[0] & 0x0f) * 4U;
		if (ip[0] >> 4 != 4 || take(c, header - IP4_BYTES) == NULL)
			return PACKET_MALFORMED;
		if (sum_fold(sum_bytes(ip, header)) != UINT16_MAX)
			return PACKET_MALFORMED;
	} else if (sum_fold(sum_bytes(ip, IP4_BYTES)) != UINT16_MAX) {
		return PACKET_MALFORMED;
	}

	uint32_t total = load_be16(ip + IP4_TOTAL);
	uint32_t fragment = load_be16(ip + IP4_FRAGMENT) & IP4_MORE_OR_OFFSET;

	if (total < header || total > bytes - p->l3)
		return PACKET_MALFORMED;
	set_end(p, c, total);
	p->flow.version = 4;
	p->flow.protocol = ip[IP4_PROTOCOL];
	p->flow.zone = 0;
	memcpy(&p->flow.ip4, ip + IP4_SRC, sizeof(p->flow.ip4));
	p->flags = 0;
	if (fragment != 0)
		p->flags = PACKET_FRAGMENT;
	if (fragment & IP4_OFFSET)
		p->flags |= PACKET_LATER_FRAGMENT;
	return parse_transport(p, c, fragment == 0);
}

/*
 * Skips IPv6 extension headers, the first of type '*next', and leaves the type of
 * what follows there.  Ends behind the fragment header of a later fragment:
 * what follows that is data.  '*more': further fragments follow this one.
 */
static enum packet_error
skip_extensions(struct cursor *c, uint8_t *next, uint16_t *flags, bool *more)
{
	const uint8_t *header;
	uint16_t fragment;

	for (unsigned int n = 0; n <= PACKET_MAX_EXTENSIONS; n++) {
		uint32_t rest = 0;

		if (*next != NEXT_HOP_BY_HOP && *next != NEXT_ROUTING &&
		    *next != NEXT_FRAGMENT && *next != NEXT_AUTHENTICATION &&
		    *next != NEXT_DESTINATION)
			return PACKET_OK;
		if (*next == NEXT_HOP_BY_HOP && n != 0)
			return PACKET_MALFORMED; /* RFC 8200, 4.1: only at the start. */
		header = take(c, EXTENSION_BYTES);
		if (header == NULL)
			return PACKET_MALFORMED;
		if (*next == NEXT_FRAGMENT) {
			if (*flags & PACKET_FRAGMENT)
				return PACKET_MALFORMED;
			fragment = load_be16(header + 2);
			*flags |= PACKET_FRAGMENT;
			*more = fragment & IP6_MORE;
			if (fragment & IP6_OFFSET)
				*flags |= PACKET_LATER_FRAGMENT;
		} else if (*next == NEXT_AUTHENTICATION) {
			rest = header[1] * 4U; /* RFC 4302: words less 2. */
		} else {
			rest = header[1] * 8U;
		}
		if (take(c, rest) == NULL)
			return PACKET_MALFORMED;
		*next = header[0];
		if (*flags & PACKET_LATER_FRAGMENT)
			return PACKET_OK;
	}
	return PACKET_MALFORMED;
}

static enum packet_error
parse_ip6(struct packet *p, struct cursor *c, uint32_t bytes)
{
	const uint8_t *ip = take(c, IP6_BYTES);
	enum packet_error err;
	bool more = false;

	if (ip == NULL || ip[0] >> 4 != 6)
		return PACKET_MALFORMED;

	uint32_t total = IP6_BYTES + load_be16(ip + IP6_PAYLOAD);

	if (total > bytes - p->l3)
		return PACKET_MALFORMED;
	set_end(p, c, total);
	p->flow.version = 6;
	p->flow.protocol = ip[IP6_NEXT];
	p->flow.zone = 0;
	memcpy(&p->flow.ip6, ip + IP6_SRC, sizeof(p->flow.ip6));
	p->flags = 0;
	err = skip_extensions(c, &p->flow.protocol, &p->flags, &more);
	if (err != PACKET_OK)
		return err;
	return parse_transport(p, c, !more);
}

enum packet_error
packet_parse(struct packet *p, uint8_t *data, uint32_t head_bytes, uint32_t bytes)
{
	struct cursor c = { data, 0, head_bytes < bytes ? head_bytes : bytes };
	const uint8_t *ether = take(&c, ETHER_BYTES);

	p->data = data;
	if (ether == NULL)
		return PACKET_MALFORMED;

	uint16_t type = load_be16(ether + ETHER_TYPE);

	for (unsigned int n = 0; type == TYPE_TAG || type == TYPE_SERVICE_TAG; n++) {
		if (n == MAX_TAGS)
			return PACKET_NOT_IP;

		const uint8_t *tag = take(&c, TAG_BYTES);

		if (tag == NULL)
			return PACKET_MALFORMED;
		type = load_be16(tag + TAG_TYPE);
	}
	p->l3 = (uint16_t)c.at;
	if (type == TYPE_IP4)
		return parse_ip4(p, &c, bytes);
	if (type == TYPE_IP6)
		return parse_ip6(p, &c, bytes);
	return PACKET_NOT_IP;
}

/* The ports of the packet quoted at 'c'; false if it has no flow. */
static bool
quoted_ports(struct cursor *c, struct flow *f)
{
	uint8_t protocol = flow_transport(f);
	const uint8_t *quoted = take(c, QUOTED_BYTES);

	f->src_port = 0;
	f->dst_port = 0;
	switch (protocol) {
	case PROTO_TCP:
	case PROTO_UDP:
		if (quoted == NULL)
			return false;
		memcpy(&f->src_port, quoted, PORTS_BYTES);
		return true;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		if (quoted == NULL ||
		    !(icmp_flags(protocol, quoted[0]) & PACKET_ICMP_QUERY))
			return false;
		f->src_port = load_16(quoted + ICMP_ID);
		f->dst_port = f->src_port;
		return true;
	default:
		return true;
	}
}

static bool
inner_ip4(struct cursor *c, struct flow *f)
{
	const uint8_t *ip = take(c, IP4_BYTES);

	if (ip == NULL || ip[0] >> 4 != 4)
		return false;
	if (take(c, (ip[0] & 0x0f) * 4U - IP4_BYTES) == NULL)
		return false;
	if (load_be16(ip + IP4_FRAGMENT) & IP4_OFFSET)
		return false;
	f->protocol = ip[IP4_PROTOCOL];
	memcpy(&f->ip4, ip + IP4_SRC, sizeof(f->ip4));
	return quoted_ports(c, f);
}

static bool
inner_ip6(struct cursor *c, struct flow *f)
{
	const uint8_t *ip = take(c, IP6_BYTES);
	uint16_t flags = 0;
	bool more = false;

	if (ip == NULL || ip[0] >> 4 != 6)
		return false;
	f->protocol = ip[IP6_NEXT];
	memcpy(&f->ip6, ip + IP6_SRC, sizeof(f->ip6));
	if (skip_extensions(c, &f->protocol, &flags, &more) != PACKET_OK)
		return false;
	return !(flags & PACKET_LATER_FRAGMENT) && quoted_ports(c, f);
}

bool
packet_inner(const struct packet *p, uint32_t head_bytes, struct flow *inner)
{
	struct cursor c = { p->data, p->payload, p->end };

	if (!(p->flags & PACKET_ICMP_ERROR))
		return false;
	if (c.end > head_bytes)
		c.end = head_bytes;
	if (c.end < c.at)
		return false;
	inner->version = p->flow.version;
	inner->zone = p->flow.zone;
	return inner->version == 4 ? inner_ip4(&c, inner) : inner_ip6(&c, inner);
}

uint32_t
packet_tcp_seq(const struct packet *p)
{
	return rte_be_to_cpu_32(load_32(p->data + p->l4 + TCP_SEQ));
}

uint32_t
packet_tcp_ack(const struct packet *p)
{
	return rte_be_to_cpu_32(load_32(p->data + p->l4 + TCP_ACKNOWLEDGED));
}

uint16_t
packet_tcp_window(const struct packet *p)
{
	return load_be16(p->data + p->l4 + TCP_WINDOW);
}
