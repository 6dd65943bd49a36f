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

/* IPv6 next headers. */
enum {
	NEXT_HOP_BY_HOP = 0,
	NEXT_ROUTING = 43,
	NEXT_FRAGMENT = 44,
	NEXT_AUTHENTICATION = 51,
	NEXT_DESTINATION = 60,
};

enum {
	IP4_VERSION_NO_OPTIONS = 0x45,
	IP4_MORE_OR_OFFSET = IP4_MORE | IP4_OFFSET,
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

/* What the extension headers of an IPv6 packet say. */
struct extensions {
	uint8_t next;        /* What follows them. */
	bool fragment, more; /* There is a fragment header; others
			      * follow this fragment. */
	uint16_t offset;     /* Of the fragment. */
	uint32_t at;         /* Of the fragment header. */
};

/*
 * Skips extension headers, the first of type 'e->next', the rest of '*e' being zeros.
 * Ends behind the fragment header of a later fragment: what follows that is data.
 */
static enum packet_error
skip_extensions(struct cursor *c, struct extensions *e)
{
	for (unsigned int n = 0; n <= PACKET_MAX_EXTENSIONS; n++) {
		const uint8_t *header;
		uint32_t at = c->at, rest = 0;

		if (e->next != NEXT_HOP_BY_HOP && e->next != NEXT_ROUTING &&
		    e->next != NEXT_FRAGMENT && e->next != NEXT_AUTHENTICATION &&
		    e->next != NEXT_DESTINATION)
			return PACKET_OK;
		if (e->next == NEXT_HOP_BY_HOP && n != 0)
			return PACKET_MALFORMED; /* RFC 8200, 4.1: only at the start. */
		header = take(c, EXTENSION_BYTES);
		if (header == NULL)
			return PACKET_MALFORMED;
		if (e->next == NEXT_FRAGMENT) {
			if (e->fragment)
				return PACKET_MALFORMED;
			e->fragment = true;
			e->at = at;
			e->offset = load_be16(header + 2) & IP6_OFFSET;
			e->more = load_be16(header + 2) & IP6_MORE;
		} else if (e->next == NEXT_AUTHENTICATION) {
			rest = header[1] * 4U; /* RFC 4302: words less 2. */
		} else {
			rest = header[1] * 8U;
		}
		if (take(c, rest) == NULL)
			return PACKET_MALFORMED;
		e->next = header[0];
		if (e->offset != 0)
			return PACKET_OK;
	}
	return PACKET_MALFORMED;
}

static enum packet_error
parse_ip6(struct packet *p, struct cursor *c, uint32_t bytes)
{
	const uint8_t *ip = take(c, IP6_BYTES);
	struct extensions e = { .next = 0 };
	enum packet_error err;

	if (ip == NULL || ip[0] >> 4 != 6)
		return PACKET_MALFORMED;

	uint32_t total = IP6_BYTES + load_be16(ip + IP6_PAYLOAD);

	if (total > bytes - p->l3)
		return PACKET_MALFORMED;
	set_end(p, c, total);
	p->flow.version = 6;
	p->flow.zone = 0;
	memcpy(&p->flow.ip6, ip + IP6_SRC, sizeof(p->flow.ip6));
	e.next = ip[IP6_NEXT];
	err = skip_extensions(c, &e);
	p->flow.protocol = e.next;
	if (err != PACKET_OK)
		return err;
	/* One that is first and last is a whole datagram (RFC 6946). */
	p->flags = 0;
	if (e.offset != 0 || e.more)
		p->flags = PACKET_FRAGMENT;
	if (e.offset != 0)
		p->flags |= PACKET_LATER_FRAGMENT;
	return parse_transport(p, c, !e.more);
}

/* What stands behind the length of an 802.3 frame: IP, or a tag, in a SNAP header
 * (RFC 1042).  It would be no packet here, and yet one to some hosts. */
static bool
hides_ip(struct cursor *c)
{
	const uint8_t *snap = take(c, SNAP_BYTES);

	if (snap == NULL || memcmp(snap, "\xaa\xaa\x03\0\0", 5) != 0 ||
	    (snap[5] != 0 && snap[5] != SNAP_TUNNELS))
		return false;

	uint16_t type = load_be16(snap + SNAP_TYPE);

	return type == TYPE_IP4 || type == TYPE_IP6 || type == TYPE_TAG ||
	       type == TYPE_SERVICE_TAG;
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
			return PACKET_MALFORMED;

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
	if (type <= MAX_LENGTH && hides_ip(&c))
		return PACKET_MALFORMED;
	return PACKET_NOT_IP;
}

void
packet_part(const struct packet *p, struct packet_part *out)
{
	const uint8_t *ip = p->data + p->l3;
	uint32_t bytes;

	if (p->flow.version == 4) {
		uint16_t fragment = load_be16(ip + IP4_FRAGMENT);

		out->id = load_be16(ip + IP4_ID);
		out->start = (fragment & IP4_OFFSET) * 8U;
		out->more = fragment & IP4_MORE;
		out->protocol = ip[IP4_PROTOCOL];
		bytes = p->end - p->l3 - (ip[0] & 0x0f) * 4U;
	} else {
		struct cursor c = { p->data, p->l3 + IP6_BYTES, p->payload };
		struct extensions e = { .next = ip[IP6_NEXT] };

		(void)skip_extensions(&c, &e);
		out->id = load_be32(p->data + e.at + 4);
		out->start = e.offset;
		out->more = e.more;
		out->protocol = p->data[e.at];
		bytes = p->end - e.at - EXTENSION_BYTES;
	}
	out->end = out->start + bytes;
}

/* The ports of the packet quoted at 'c'; false if it has no flow. */
static bool
quoted_ports(struct cursor *c, struct packet *q)
{
	uint8_t protocol = flow_transport(&q->flow);
	const uint8_t *quoted;

	q->l4 = (uint16_t)c->at;
	q->flow.src_port = 0;
	q->flow.dst_port = 0;
	quoted = take(c, QUOTED_BYTES);
	switch (protocol) {
	case PROTO_TCP:
	case PROTO_UDP:
		if (quoted == NULL)
			return false;
		memcpy(&q->flow.src_port, quoted, PORTS_BYTES);
		return true;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		if (quoted == NULL ||
		    !(icmp_flags(protocol, quoted[0]) & PACKET_ICMP_QUERY))
			return false;
		q->flags |= PACKET_ICMP_QUERY;
		q->flow.src_port = load_16(quoted + ICMP_ID);
		q->flow.dst_port = q->flow.src_port;
		return true;
	default:
		return true;
	}
}

static bool
quoted_ip4(struct cursor *c, struct packet *q)
{
	const uint8_t *ip = take(c, IP4_BYTES);

	/* A length that is too small makes a number that is too large. */
	if (ip == NULL || ip[0] >> 4 != 4 ||
	    take(c, (ip[0] & 0x0f) * 4U - IP4_BYTES) == NULL)
		return false;
	if (load_be16(ip + IP4_FRAGMENT) & IP4_OFFSET)
		return false;
	q->flow.protocol = ip[IP4_PROTOCOL];
	memcpy(&q->flow.ip4, ip + IP4_SRC, sizeof(q->flow.ip4));
	return quoted_ports(c, q);
}

static bool
quoted_ip6(struct cursor *c, struct packet *q)
{
	const uint8_t *ip = take(c, IP6_BYTES);
	struct extensions e = { .next = 0 };

	if (ip == NULL || ip[0] >> 4 != 6)
		return false;
	memcpy(&q->flow.ip6, ip + IP6_SRC, sizeof(q->flow.ip6));
	e.next = ip[IP6_NEXT];
	if (skip_extensions(c, &e) != PACKET_OK || e.offset != 0)
		return false;
	q->flow.protocol = e.next;
	return quoted_ports(c, q);
}

bool
packet_quote(const struct packet *p, uint32_t head_bytes, struct packet *q)
{
	struct cursor c = { p->data, p->payload, p->end };

	if (!(p->flags & PACKET_ICMP_ERROR))
		return false;
	if (c.end > head_bytes)
		c.end = head_bytes;
	if (c.end < c.at)
		return false;
	q->data = p->data;
	q->l3 = p->payload;
	q->end = c.end;
	q->flags = 0;
	q->flow.version = p->flow.version;
	q->flow.zone = p->flow.zone;
	return q->flow.version == 4 ? quoted_ip4(&c, q) : quoted_ip6(&c, q);
}

bool
packet_inner(const struct packet *p, uint32_t head_bytes, struct flow *inner)
{
	struct packet q;

	if (!packet_quote(p, head_bytes, &q))
		return false;
	memcpy(inner, &q.flow, flow_bytes(&q.flow));
	return true;
}

uint32_t
packet_tcp_seq(const struct packet *p)
{
	return load_be32(p->data + p->l4 + TCP_SEQ);
}

uint32_t
packet_tcp_ack(const struct packet *p)
{
	return load_be32(p->data + p->l4 + TCP_ACKNOWLEDGED);
}

uint16_t
packet_tcp_window(const struct packet *p)
{
	return load_be16(p->data + p->l4 + TCP_WINDOW);
}
