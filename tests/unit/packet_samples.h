/*
 * packet_samples.h - packets for the tests of net/, and checksums computed anew.
 *
 * The samples are another program's packets, checksums included, so that parser
 * and tests cannot agree on the same mistake.
 */
#ifndef PACKET_SAMPLES_H
#define PACKET_SAMPLES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "net/packet.h"

#define FRAME_MAX  2048
#define ETHER_TEXT "020000000002020000000001"

/* clang-format off */
enum {
	TCP4, TCP4_OPTIONS, IP4_OPTIONS, TAGGED, TWO_TAGS, UDP4, UDP4_NO_SUM,
	UDP4_SURPLUS, ECHO4, ECHO_REPLY4, TIMESTAMP4, REDIRECT4, ERROR4_TCP,
	ERROR4_UDP, ERROR4_ECHO, ERROR4_ERROR, ERROR4_FRAGMENT, ERROR4_GRE,
	ERROR4_SHORT, FIRST4, LATER4, GRE4, TCP6, UDP6, ECHO6, ECHO_REPLY6, NEIGHBOR6,
	CHAIN6, AH6, ATOMIC6, FIRST6, LATER6, ERROR6_UDP, ERROR6_ECHO, ERROR6_LATER,
	NO_NEXT6, N_SAMPLES
};

/* Made with scapy.  Each starts behind the Ethernet addresses. */
static const struct sample {
	const char *name, *hex;
	const char *src, *dst;
	struct { uint16_t l3, l4, payload, end; } at;
	uint16_t flags;
	uint8_t protocol;
	struct { uint8_t protocol; const char *src, *dst; } inner;
} samples[N_SAMPLES] = {
	[TCP4] = { "TCP over IPv4, with padding",
	  "080045000028000700004006aebf0a000001c00002090400005001020304050607085002"
	  "1234bd400000000000000000",
	  "10.0.0.1:1024", "192.0.2.9:80",
	  { 14, 34, 54, 54 }, 0, PROTO_TCP },
	[TCP4_OPTIONS] = { "TCP options",
	  "080045000041000700004006aea60a000001c0000209040000500000000000000000a012"
	  "200013be0000020405b40402080a00000001000000000103030768656c6c6f",
	  "10.0.0.1:1024", "192.0.2.9:80",
	  { 14, 34, 74, 79 }, 0, PROTO_TCP },
	[IP4_OPTIONS] = { "IPv4 options",
	  "08004600002f00010000400619ba0a000001c00002099404000004000050000000000000"
	  "000050192000fb0b0000616263",
	  "10.0.0.1:1024", "192.0.2.9:80",
	  { 14, 38, 58, 61 }, 0, PROTO_TCP },
	[TAGGED] = { "one 802.1Q tag",
	  "8100000508004500001e000700004011aebe0a000001c000020914e90035000aa6387879",
	  "10.0.0.1:5353", "192.0.2.9:53",
	  { 18, 38, 46, 48 }, 0, PROTO_UDP },
	[TWO_TAGS] = { "an 802.1ad and an 802.1Q tag",
	  "88a800068100000586dd60000000000b114020010db80000000000000000000000012001"
	  "0db800010000000000000000000914e90035000b9cc378797a",
	  "[2001:db8::1]:5353", "[2001:db8:1::9]:53",
	  { 22, 62, 70, 73 }, 0, PROTO_UDP },
	[UDP4] = { "UDP over IPv4, an odd length",
	  "08004500001f000700004011aebd0a000001c000020914e90035000b4b4b6f6464",
	  "10.0.0.1:5353", "192.0.2.9:53",
	  { 14, 34, 42, 45 }, 0, PROTO_UDP },
	[UDP4_NO_SUM] = { "UDP without a checksum",
	  "080045000020000700004011aebc0a000001c000020914e90035000c0000666f7572",
	  "10.0.0.1:5353", "192.0.2.9:53",
	  { 14, 34, 42, 46 }, 0, PROTO_UDP },
	[UDP4_SURPLUS] = { "UDP shorter than its datagram",
	  "080045000024000700004011aeb80a000001c000020914e90035000c42cc666f75726d6f"
	  "7265",
	  "10.0.0.1:5353", "192.0.2.9:53",
	  { 14, 34, 42, 50 }, 0, PROTO_UDP },
	[ECHO4] = { "echo",
	  "080045000020000700004001aecc0a000001c00002090800080a1122000370696e67",
	  "10.0.0.1:4386", "192.0.2.9:4386",
	  { 14, 34, 42, 46 }, PACKET_ICMP_QUERY, PROTO_ICMP },
	[ECHO_REPLY4] = { "echo reply",
	  "080045000020000700004001aecc0a000001c00002090000100a1122000370696e67",
	  "10.0.0.1:4386", "192.0.2.9:4386",
	  { 14, 34, 42, 46 }, PACKET_ICMP_QUERY | PACKET_ICMP_REPLY, PROTO_ICMP },
	[TIMESTAMP4] = { "timestamp",
	  "080045000028000700004001aec40a000001c00002090d00e1d911220003000000010000"
	  "000000000000",
	  "10.0.0.1:4386", "192.0.2.9:4386",
	  { 14, 34, 42, 54 }, PACKET_ICMP_QUERY, PROTO_ICMP },
	[REDIRECT4] = { "a redirect is no error",
	  "080045000038000700004001aeb40a000001c00002090501ebb00a0000fe450000280009"
	  "00004006aebdc00002090a0000010050040000000000",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 70 }, 0, PROTO_ICMP },
	[ERROR4_TCP] = { "fragmentation needed, quotes TCP up to its 8th byte",
	  "080045000038000700004001aeb40a000001c00002090304f33300000578450000280009"
	  "00004006aebdc00002090a0000010050040000000000",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 70 }, PACKET_ICMP_ERROR, PROTO_ICMP,
	  { PROTO_TCP, "192.0.2.9:80", "10.0.0.1:1024" } },
	[ERROR4_UDP] = { "time exceeded, quotes UDP behind IPv4 options",
	  "080045000040000700004001aeac0a000001c00002090b00c12700000000460000240001"
	  "0000401119bac00002090a00000194040000003514e9000c45eb64617461",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 78 }, PACKET_ICMP_ERROR, PROTO_ICMP,
	  { PROTO_UDP, "192.0.2.9:53", "10.0.0.1:5353" } },
	[ERROR4_ECHO] = { "host unreachable, quotes an echo",
	  "080045000038000700004001aeb40a000001c00002090301fcfe000000004500001c0001"
	  "00004001aed6c00002090a0000010800e6da11220003",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 70 }, PACKET_ICMP_ERROR, PROTO_ICMP,
	  { PROTO_ICMP, "192.0.2.9:4386", "10.0.0.1:4386" } },
	[ERROR4_ERROR] = { "an error that quotes an error has no inner flow",
	  "080045000040000700004001aeac0a000001c00002090301fcfe00000000450000240001"
	  "00004001aecec00002090a00000103012c2a000000003132333435363738",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 78 }, PACKET_ICMP_ERROR, PROTO_ICMP },
	[ERROR4_FRAGMENT] = { "nor has one that quotes a later fragment",
	  "080045000038000700004001aeb40a000001c00002090b01242a000000004500001c0001"
	  "00054011aec1c00002090a0000013132333435363738",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 70 }, PACKET_ICMP_ERROR, PROTO_ICMP },
	[ERROR4_GRE] = { "protocol unreachable, quotes GRE",
	  "080045000034000700004001aeb80a000001c00002090302f4fd00000000450000180001"
	  "0000402faeacc00002090a00000100000800",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 66 }, PACKET_ICMP_ERROR, PROTO_ICMP,
	  { 47, "192.0.2.9:0", "10.0.0.1:0" } },
	[ERROR4_SHORT] = { "a quotation of 7 bytes of TCP is too short",
	  "080045000037000700004001aeb50a000001c00002090303f8ac00000000450000280009"
	  "00004006aebdc00002090a00000100500400000000",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 42, 69 }, PACKET_ICMP_ERROR, PROTO_ICMP },
	[FIRST4] = { "a first fragment has ports",
	  "0800450000240007200040118eb80a000001c000020914e90035001051d5303132333435"
	  "3637",
	  "10.0.0.1:5353", "192.0.2.9:53",
	  { 14, 34, 42, 50 }, PACKET_FRAGMENT, PROTO_UDP },
	[LATER4] = { "a later fragment has none",
	  "080045000016000700024011aec40a000001c00002093839",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 0, 34, 36 }, PACKET_FRAGMENT | PACKET_LATER_FRAGMENT, PROTO_UDP },
	[GRE4] = { "another protocol has none",
	  "08004500001800010000402faeac0a000001c000020900000800",
	  "10.0.0.1:0", "192.0.2.9:0",
	  { 14, 34, 34, 38 }, 0, 47 },
	[TCP6] = { "TCP over IPv6",
	  "86dd600000000015064020010db800000000000000000000000120010db8000100000000"
	  "000000000009040000500000000000000000500220000f15000021",
	  "[2001:db8::1]:1024", "[2001:db8:1::9]:80",
	  { 14, 54, 74, 75 }, 0, PROTO_TCP },
	[UDP6] = { "UDP over IPv6, an odd length",
	  "86dd60000000000b114020010db800000000000000000000000120010db8000100000000"
	  "00000000000914e90035000bbbd86f6464",
	  "[2001:db8::1]:5353", "[2001:db8:1::9]:53",
	  { 14, 54, 62, 65 }, 0, PROTO_UDP },
	[ECHO6] = { "ICMPv6 echo",
	  "86dd60000000000c3a4020010db800000000000000000000000120010db8000100000000"
	  "000000000009800034461122000370696e67",
	  "[2001:db8::1]:4386", "[2001:db8:1::9]:4386",
	  { 14, 54, 62, 66 }, PACKET_ICMP_QUERY, PROTO_ICMP6 },
	[ECHO_REPLY6] = { "ICMPv6 echo reply",
	  "86dd60000000000c3a4020010db800000000000000000000000120010db8000100000000"
	  "000000000009810033461122000370696e67",
	  "[2001:db8::1]:4386", "[2001:db8:1::9]:4386",
	  { 14, 54, 62, 66 }, PACKET_ICMP_QUERY | PACKET_ICMP_REPLY, PROTO_ICMP6 },
	[NEIGHBOR6] = { "neighbour solicitation",
	  "86dd6000000000183aff20010db8000000000000000000000001ff020000000000000000"
	  "0001ff00000987001f220000000020010db8000100000000000000000009",
	  "[2001:db8::1]:0", "[ff02::1:ff00:9]:0",
	  { 14, 54, 62, 78 }, 0, PROTO_ICMP6 },
	[CHAIN6] = { "hop-by-hop, routing and destination options",
	  "86dd60000000003a004020010db800000000000000000000000120010db8000100000000"
	  "0000000000092b000502000001003c0202000000000020010db800000000000000000000"
	  "00011101010c00000000000000000000000014e90035000a2ddd6162",
	  "[2001:db8::1]:5353", "[2001:db8:1::9]:53",
	  { 14, 102, 110, 112 }, 0, PROTO_UDP },
	[AH6] = { "an authentication header",
	  "86dd60000000002c334020010db800000000000000000000000120010db8000100000000"
	  "000000000009060400000000000100000000010101010101010101010101040000500000"
	  "0000000000005010200030080000",
	  "[2001:db8::1]:1024", "[2001:db8:1::9]:80",
	  { 14, 78, 98, 98 }, 0, PROTO_TCP },
	[ATOMIC6] = { "an atomic fragment is a whole datagram",
	  "86dd6000000000122c4020010db800000000000000000000000120010db8000100000000"
	  "000000000009110000000000000714e90035000a2ddd6162",
	  "[2001:db8::1]:5353", "[2001:db8:1::9]:53",
	  { 14, 62, 70, 72 }, 0, PROTO_UDP },
	[FIRST6] = { "a first IPv6 fragment has ports",
	  "86dd6000000000182c4020010db800000000000000000000000120010db8000100000000"
	  "000000000009110000010000000714e900350010c2623031323334353637",
	  "[2001:db8::1]:5353", "[2001:db8:1::9]:53",
	  { 14, 62, 70, 78 }, PACKET_FRAGMENT, PROTO_UDP },
	[LATER6] = { "a later IPv6 fragment has none",
	  "86dd60000000000a2c4020010db800000000000000000000000120010db8000100000000"
	  "00000000000911000010000000073839",
	  "[2001:db8::1]:0", "[2001:db8:1::9]:0",
	  { 14, 0, 62, 64 }, PACKET_FRAGMENT | PACKET_LATER_FRAGMENT, PROTO_UDP },
	[ERROR6_UDP] = { "packet too big, quotes UDP behind an extension header",
	  "86dd6000000000443a4020010db800000000000000000000000120010db8000100000000"
	  "0000000000090200eec8000005006000000000143c4020010db800010000000000000000"
	  "000920010db80000000000000000000000011100010400000000003514e9000cb6786461"
	  "7461",
	  "[2001:db8::1]:0", "[2001:db8:1::9]:0",
	  { 14, 54, 62, 122 }, PACKET_ICMP_ERROR, PROTO_ICMP6,
	  { PROTO_UDP, "[2001:db8:1::9]:53", "[2001:db8::1]:5353" } },
	[ERROR6_ECHO] = { "address unreachable, quotes an echo",
	  "86dd6000000000383a4020010db800000000000000000000000120010db8000100000000"
	  "00000000000901030907000000006000000000083a4020010db800010000000000000000"
	  "000920010db80000000000000000000000018000131b11220003",
	  "[2001:db8::1]:0", "[2001:db8:1::9]:0",
	  { 14, 54, 62, 110 }, PACKET_ICMP_ERROR, PROTO_ICMP6,
	  { PROTO_ICMP6, "[2001:db8:1::9]:4386", "[2001:db8::1]:4386" } },
	[ERROR6_LATER] = { "an error that quotes a later IPv6 fragment has no inner flow",
	  "86dd6000000000403a4020010db800000000000000000000000120010db8000100000000"
	  "0000000000090301db58000000006000000000102c4020010db800010000000000000000"
	  "000920010db800000000000000000000000111000010000000003031323334353637",
	  "[2001:db8::1]:0", "[2001:db8:1::9]:0",
	  { 14, 54, 62, 118 }, PACKET_ICMP_ERROR, PROTO_ICMP6 },
	[NO_NEXT6] = { "an IPv6 header alone",
	  "86dd6000000000003b4020010db800000000000000000000000120010db8000100000000"
	  "000000000009",
	  "[2001:db8::1]:0", "[2001:db8:1::9]:0",
	  { 14, 54, 54, 54 }, 0, 59 },
};
/* clang-format on */

struct frame {
	uint8_t data[FRAME_MAX];
	uint32_t bytes;
};

static inline void
hex_append(struct frame *f, const char *hex)
{
	unsigned int byte;

	for (; hex[0] != '\0'; hex += 2) {
		assert_int_equal(sscanf(hex, "%2x", &byte), 1);
		f->data[f->bytes++] = (uint8_t)byte;
	}
}

static inline void
frame_make(struct frame *f, const char *hex)
{
	f->bytes = 0;
	hex_append(f, ETHER_TEXT);
	hex_append(f, hex);
}

/* A copy that ends where its memory does; the caller frees it. */
static inline uint8_t *
exact_copy(const struct frame *f, uint32_t bytes)
{
	uint8_t *copy = malloc(bytes);

	if (bytes != 0)
		memcpy(copy, f->data, bytes);
	return copy;
}

static inline uint16_t
word_at(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void
word_put(uint8_t *at, uint16_t word)
{
	at[0] = (uint8_t)(word >> 8);
	at[1] = (uint8_t)word;
}

/* Adds words to a one's complement sum, one after the other. */
static inline uint16_t
reference_sum(uint16_t sum, const uint8_t *at, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i += 2) {
		uint32_t more = at[i] << 8 | (i + 1 < bytes ? at[i + 1] : 0);

		more += sum;
		sum = (uint16_t)(more > 0xffff ? more - 0xffff : more);
	}
	return sum;
}

static inline void
reference_ip4(uint8_t *ip)
{
	word_put(ip + 10, 0);
	word_put(ip + 10, ~reference_sum(0, ip, (ip[0] & 15) * 4U));
}

/* Where the checksum of the packet's transport header is, or 0. */
static inline uint32_t
sum_offset(const struct packet *p)
{
	bool icmp = p->flow.protocol == (p->flow.version == 4 ? PROTO_ICMP : PROTO_ICMP6);

	if (p->flags & PACKET_LATER_FRAGMENT)
		return 0;
	if (p->flow.protocol == PROTO_TCP)
		return p->l4 + 16U;
	if (p->flow.protocol == PROTO_UDP)
		return p->l4 + 6U;
	return icmp ? p->l4 + 2U : 0;
}

/* Computes the packet's checksums anew. */
static inline void
reference_sums(const struct packet *p)
{
	uint8_t *ip = p->data + p->l3, *l4 = p->data + p->l4;
	uint32_t at = sum_offset(p), bytes = p->end - p->l4;
	bool udp = p->flow.protocol == PROTO_UDP;
	uint16_t sum = 0;

	if (p->flow.version == 4)
		reference_ip4(ip);
	if (at == 0 || (udp && word_at(p->data + at) == 0))
		return;
	if (udp)
		bytes = word_at(l4 + 4);
	if (p->flow.protocol != PROTO_ICMP) {
		uint8_t rest[4] = { (uint8_t)(bytes >> 8), (uint8_t)bytes, 0,
				    p->flow.protocol };

		sum = p->flow.version == 4 ? reference_sum(0, ip + 12, 8)
					   : reference_sum(0, ip + 8, 32);
		sum = reference_sum(sum, rest, sizeof(rest));
	}
	word_put(p->data + at, 0);
	sum = ~reference_sum(sum, l4, bytes);
	word_put(p->data + at, udp && sum == 0 ? 0xffff : sum);
}

#endif
