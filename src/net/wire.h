/*
 * wire.h - where things stand in headers, and how they are read from there.
 *
 * For the files of net/ alone.  Headers lie in memory at any alignment: they are
 * read through these loads, whose lengths the caller has checked.
 *
 * The Internet checksum is a one's complement sum, which does not care for the
 * order of bytes within its words: sums are made of words as they lie in memory.
 */
#ifndef NET_WIRE_H
#define NET_WIRE_H

#include <stdint.h>
#include <string.h>

#include <rte_byteorder.h>

#include "net/packet.h"

/* Ethernet types. */
enum {
	TYPE_IP4 = 0x0800,
	TYPE_ARP = 0x0806,
	TYPE_TAG = 0x8100, /* 802.1Q */
	TYPE_IP6 = 0x86dd,
	TYPE_SERVICE_TAG = 0x88a8, /* 802.1ad */
};

/* Sizes of headers, and where in them a field stands. */
enum {
	ETHER_BYTES = 14,
	ETHER_TYPE = 12,
	TAG_BYTES = 4,
	TAG_TYPE = 2,
	MAX_TAGS = 2,
	MAX_LENGTH = 1500, /* As an Ethernet type: a length (IEEE 802.3, 3.2.6). */
	SNAP_BYTES = 8,
	SNAP_TUNNELS = 0xf8, /* Of its organization, 00-00-f8: bridged (802.1H). */
	SNAP_TYPE = 6,

	IP4_BYTES = 20,
	IP4_TOS = 1,
	IP4_TOTAL = 2,
	IP4_ID = 4,
	IP4_FRAGMENT = 6,
	IP4_DONT = 0x4000, /* In it: do not fragment... */
	IP4_MORE = 0x2000, /* ...and more follow. */
	IP4_OFFSET = 0x1fff,
	IP4_TTL = 8,
	IP4_PROTOCOL = 9,
	IP4_SUM = 10,
	IP4_SRC = 12,
	IP4_DST = 16,

	IP6_BYTES = 40,
	IP6_MIN_MTU = 1280, /* That every link has. */
	IP6_PAYLOAD = 4,
	IP6_NEXT = 6,
	IP6_HOPS = 7,
	IP6_SRC = 8,
	IP6_DST = 24,
	EXTENSION_BYTES = 8, /* The least; a fragment header has no more. */

	PORTS_BYTES = 4, /* At the start of TCP and of UDP. */
	SRC_PORT = 0,
	DST_PORT = 2,
	TCP_BYTES = 20,
	TCP_SEQ = 4,
	TCP_ACKNOWLEDGED = 8,
	TCP_OFFSET = 12,
	TCP_FLAGS = 13,
	TCP_WINDOW = 14,
	TCP_SUM = 16,
	UDP_BYTES = 8,
	UDP_LENGTH = 4,
	UDP_SUM = 6,
	ICMP_BYTES = 8,
	ICMP_SUM = 2,
	ICMP_ID = 4,
	QUOTED_BYTES = 8, /* Of a transport header: RFC 792. */
};

static inline uint16_t
load_16(const uint8_t *at)
{
	uint16_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

static inline uint32_t
load_32(const uint8_t *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

static inline uint16_t
load_be16(const uint8_t *at)
{
	return rte_be_to_cpu_16(load_16(at));
}

static inline uint32_t
load_be32(const uint8_t *at)
{
	return rte_be_to_cpu_32(load_32(at));
}

/* Folds a sum of words into one. */
static inline uint16_t
sum_fold(uint64_t sum)
{
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & UINT32_MAX) + (sum >> 32);

	uint32_t halves = (uint32_t)sum;

	return (uint16_t)((halves + (halves << 16 | halves >> 16)) >> 16);
}

/* The sum of 'bytes' bytes, not folded: 64 KB of 32-bit words fit many times. */
static inline uint64_t
sum_bytes(const uint8_t *at, uint32_t bytes)
{
	uint64_t sum = 0;
	uint32_t last = 0;

	for (; bytes >= sizeof(last); bytes -= sizeof(last), at += sizeof(last))
		sum += load_32(at);
	memcpy(&last, at, bytes);
	return sum + last;
}

/* The flow's protocol, or 0 if that means nothing over its version of IP: ICMP
 * over IPv6, ICMPv6 over IPv4. */
static inline uint8_t
flow_transport(const struct flow *f)
{
	if (f->protocol == (f->version == 4 ? PROTO_ICMP6 : PROTO_ICMP))
		return 0;
	return f->protocol;
}

/* The packet that an ICMP error quotes, as packet_inner() has it, and where in the
 * error it stands: of '*q', what packet_parse() sets but for 'payload' and the fields
 * of TCP and ICMP; 'end' is that of what can be read. */
bool packet_quote(const struct packet *p, uint32_t head_bytes, struct packet *q);

#endif
