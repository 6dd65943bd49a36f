/*
 * packet.h - what is known of a packet, and how it is changed.
 *
 * Every length is checked here, once: whoever holds a parsed packet may read its
 * headers through the offsets without looking at a length again.  Nothing here
 * knows of mbufs, rings or state.
 *
 * Addresses and ports are in network byte order, as on the wire; lengths and
 * offsets are in bytes and in host order, offsets counted from the first byte of
 * the Ethernet header.
 */
#ifndef NET_PACKET_H
#define NET_PACKET_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <rte_byteorder.h>

enum {
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ICMP6 = 58,
};

enum {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_PSH = 0x08,
	TCP_ACK = 0x10,
	TCP_URG = 0x20,
};

/* More extension headers than this before the upper layer: malformed. */
#define PACKET_MAX_EXTENSIONS 8

struct endpoint {
	union {
		rte_be32_t ip4;
		uint8_t ip6[16];
	};
	rte_be16_t port;
	uint8_t version;			/* 4 or 6. */
	uint8_t zero;
};

/*
 * A 5-tuple, in the direction it was received.  An IPv4 flow is the first
 * FLOW4_BYTES bytes, so that it makes a short key.  No padding, and every byte
 * defined: it is hashed and compared as memory.
 *
 * ICMP and ICMPv6 queries carry their identifier in both ports.  A fragment
 * other than the first, and a protocol without ports, has ports 0.
 */
struct flow {
	uint8_t version;			/* 4 or 6. */
	uint8_t protocol;
	uint16_t zone;				/* 0, or the VLAN's or zone's number. */
	rte_be16_t src_port, dst_port;
	union {
		struct { rte_be32_t src, dst; } ip4;
		struct { uint8_t src[16], dst[16]; } ip6;
	};
};

#define FLOW4_BYTES 16
#define FLOW6_BYTES 40

static_assert(sizeof(struct flow) == FLOW6_BYTES, "a flow is a key: no padding");
static_assert(offsetof(struct flow, ip4) + 8 == FLOW4_BYTES, "an IPv4 flow is a prefix");

/* How many bytes of a flow count. */
static inline unsigned int
flow_bytes(const struct flow *f)
{
	return f->version == 4 ? FLOW4_BYTES : FLOW6_BYTES;
}

/* The same flow seen from its other end.  'out' is not 'f', here and below. */
void flow_reverse(const struct flow *f, struct flow *out);

/* The direction-independent name of a connection: of a flow and its reverse,
 * the one whose source is lower.  Returns true if that is the reverse. */
bool flow_canonical(const struct flow *f, struct flow *out);

void flow_source(const struct flow *f, struct endpoint *out);
void flow_destination(const struct flow *f, struct endpoint *out);

/* "10.0.0.1:80" or "[2001:db8::1]:80"; 'text' has PACKET_TEXT_BYTES bytes. */
#define PACKET_TEXT_BYTES 64
void endpoint_print(const struct endpoint *e, char *text);

enum {
	PACKET_FRAGMENT = 1 << 0,		/* A part of a datagram... */
	PACKET_LATER_FRAGMENT = 1 << 1,		/* ...and not the one with the ports. */
	PACKET_ICMP_ERROR = 1 << 2,		/* Quotes a packet: see packet_inner(). */
	PACKET_ICMP_QUERY = 1 << 3,		/* Echo and its like: has an identifier... */
	PACKET_ICMP_REPLY = 1 << 4,		/* ...and is the answer, not the question. */
};

struct packet {
	uint8_t *data;				/* The Ethernet header. */
	uint16_t l3, l4, payload;		/* Offsets; 'l4' is 0 in a later fragment. */
	uint16_t flags;				/* PACKET_... */
	uint32_t end;				/* Offset behind the datagram: no padding. */
	uint8_t tcp_flags;
	uint8_t icmp_type, icmp_code;
	uint8_t tcp_options;			/* Bytes of them. */
	struct flow flow;
};

enum packet_error {
	PACKET_OK = 0,
	PACKET_NOT_IP,				/* ARP, LLDP, MPLS...: no flow. */
	PACKET_MALFORMED,			/* Cut short, or lengths that contradict:
						 * also a first fragment that ends before
						 * its ports and flags do (RFC 1858), and
						 * what other hosts could take for IP. */
};

/*
 * Parses the packet at 'data', whose first 'head_bytes' bytes can be read and
 * which is 'bytes' long in all (more than 'head_bytes' if it continues in other
 * buffers).  Understands Ethernet, up to two 802.1Q/802.1ad tags (a third one, and IP in
 * an 802.3 frame, would hide what is behind them: malformed), IPv4 with
 * options (RFC 791; the header checksum is verified), IPv6 (RFC 8200) with up to
 * PACKET_MAX_EXTENSIONS extension headers, TCP, UDP, ICMP and ICMPv6.  Headers
 * have to lie within 'head_bytes'.  'p' refers to 'data' afterwards.  Other
 * protocols over IP are PACKET_OK, with ports 0 and the payload at 'l4'.  Unless it
 * returns PACKET_OK, nothing but 'p->data' is defined.
 */
enum packet_error packet_parse(struct packet *p, uint8_t *data, uint32_t head_bytes,
			       uint32_t bytes);

/*
 * The flow that the packet quoted by an ICMP error belonged to, in the direction
 * in which that packet travelled (RFC 792, RFC 4443).  The quotation may end
 * after the first 8 bytes of the quoted transport header.  False if 'p' is not
 * an ICMP error or quotes nothing that has a flow (then 'inner' is undefined).
 */
bool packet_inner(const struct packet *p, uint32_t head_bytes, struct flow *inner);

/* Which bytes of its datagram, counted from behind the headers that every fragment has, a
 * packet with PACKET_FRAGMENT is. */
struct packet_part {
	uint32_t id;				/* Of the datagram: 16 bits, IPv6: 32. */
	uint32_t start, end;
	bool more;				/* Others follow. */
	uint8_t protocol;			/* What all of them say it begins with:
						 * over IPv6 that may be options. */
};

void packet_part(const struct packet *p, struct packet_part *out);

/* Sequence and acknowledgement numbers and the window as sent, in host order; of
 * a TCP packet only. */
uint32_t packet_tcp_seq(const struct packet *p);
uint32_t packet_tcp_ack(const struct packet *p);
uint16_t packet_tcp_window(const struct packet *p);
/* Bytes of payload behind the TCP or UDP header. */
static inline uint32_t
packet_payload_bytes(const struct packet *p)
{
	return p->end - p->payload;
}

/* Whether the TCP, UDP, ICMP or ICMPv6 checksum is right.  A UDP checksum of 0
 * over IPv4 is (RFC 768).  The whole packet has to be readable at 'p->data'; a
 * fragment cannot be checked and counts as right.  A packet that an IPv6 routing
 * header sends on to another address counts as wrong: its sum is over that one. */
bool packet_checksum_ok(const struct packet *p);

/*
 * Rewrites source or destination address and port (the identifier of an ICMP
 * query), with incremental checksums (RFC 1624, equation 3).  'to' has the IP
 * version of the packet.  Of a later fragment, an ICMP error and a protocol
 * without ports only the address is rewritten; what an ICMP error quotes stays.
 * 'p->flow' stays as received.  A UDP checksum of 0 ("none") stays 0.
 */
void packet_set_src(struct packet *p, const struct endpoint *to);
void packet_set_dst(struct packet *p, const struct endpoint *to);

/*
 * The same of the packet that an ICMP error quotes, which has to have one
 * (packet_inner()): the quoted address and port (the identifier of a query), the quoted
 * IP checksum, the quoted TCP or UDP checksum if it is within the quotation, and with
 * them the checksum of the error itself (RFC 5508, 4.2).  Only what lies within
 * 'head_bytes' is changed.
 */
void packet_set_quoted_src(struct packet *p, uint32_t head_bytes,
			   const struct endpoint *to);
void packet_set_quoted_dst(struct packet *p, uint32_t head_bytes,
			   const struct endpoint *to);

/* The first 8 bytes of the transport header that an ICMP error quotes; NULL: it does not
 * quote so much of one. */
const uint8_t *packet_quoted_transport(const struct packet *p, uint32_t head_bytes);
/* Adds 'seq' to the sequence number of the TCP segment that an ICMP error quotes. */
void packet_shift_quoted(struct packet *p, uint32_t head_bytes, uint32_t seq);

/* Whether the checksum of an ICMP error and that of the IPv4 header it quotes are
 * right (RFC 5508, 4.2; that of the quoted transport header does not matter).  Not of
 * an error that is a fragment, or goes on behind 'head_bytes': errors are short. */
bool packet_quoted_ok(const struct packet *p, uint32_t head_bytes);

/* Of a TCP segment: adds 'seq' to the sequence number, and 'ack' to the
 * acknowledgement number, if there is one, and to all edges of SACK blocks (RFC 2018),
 * which are numbers of the same direction. */
void packet_shift_tcp(struct packet *p, uint32_t seq, uint32_t ack);

/* Whether an IPv4 packet is not a fragment, and may not become one: then its
 * identification means nothing (RFC 6864, 4). */
static inline bool
packet_is_atomic(const struct packet *p)
{
	return (p->data[p->l3 + 6] & 0x40) != 0 && !(p->flags & PACKET_FRAGMENT);
}

/* Adds 'id' to the identification of an IPv4 packet. */
void packet_shift_id(struct packet *p, uint16_t id);

/* What a TCP segment's options say.  Absent: 0, and 'wscale' is TCP_NO_WSCALE. */
#define TCP_NO_WSCALE 255
#define TCP_MAX_SACKS 4
struct tcp_options {
	uint16_t mss;
	uint8_t wscale;				/* At most 14 (RFC 7323, 2.3). */
	bool sack_permitted, has_timestamp;
	uint32_t timestamp, timestamp_echo;
	uint8_t n_sacks;
	uint32_t sack[TCP_MAX_SACKS][2];	/* Left and right edges. */
};

/* False: they are malformed (what came before that is set). */
bool packet_tcp_options(const struct packet *p, struct tcp_options *out);

/* The Internet checksum 'sum' (as found in the packet) after the 16-bit words
 * of 'from' have become those of 'to', both 'bytes' long, an even number. */
rte_be16_t checksum_update(rte_be16_t sum, const void *from, const void *to,
			   unsigned int bytes);

#endif
