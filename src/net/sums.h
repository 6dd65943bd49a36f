/*
 * sums.h - checksums: changed by a difference, or made anew.
 *
 * For the files of net/ alone.  A change is the sum of what new words add and old ones
 * take away (RFC 1624); changes of several places add up.  Places are at even offsets
 * from the start of what is summed.
 */
#ifndef NET_SUMS_H
#define NET_SUMS_H

#include "net/wire.h"

static inline void
store_16(uint8_t *at, uint16_t word)
{
	memcpy(at, &word, sizeof(word));
}

static inline void
store_32(uint8_t *at, uint32_t word)
{
	memcpy(at, &word, sizeof(word));
}

static inline void
store_be16(uint8_t *at, uint32_t number)
{
	store_16(at, rte_cpu_to_be_16((uint16_t)number));
}

static inline void
store_be32(uint8_t *at, uint32_t number)
{
	store_32(at, rte_cpu_to_be_32(number));
}

/* What the change of 'from' into 'to' adds to a sum (RFC 1624: ~m + m'). */
static inline uint64_t
sum_change(const uint8_t *from, const uint8_t *to, unsigned int bytes)
{
	uint64_t change = 0;

	for (; bytes >= sizeof(uint32_t); bytes -= sizeof(uint32_t)) {
		change += (uint64_t)~load_32(from) + load_32(to);
		from += sizeof(uint32_t);
		to += sizeof(uint32_t);
	}
	if (bytes != 0)
		change += (uint16_t)~load_16(from) + load_16(to);
	return change;
}

/* A checksum after its sum has changed (RFC 1624, equation 3). */
static inline uint16_t
sum_apply(uint16_t checksum, uint64_t change)
{
	return (uint16_t)~sum_fold((uint16_t)~checksum + change);
}

/* Stores 'to' at 'at'; returns what that adds to a sum. */
static inline uint64_t
replace(uint8_t *at, const void *to, unsigned int bytes)
{
	uint64_t change = sum_change(at, to, bytes);

	memcpy(at, to, bytes);
	return change;
}

static inline void
rewrite_sum(uint8_t *sum, uint64_t change)
{
	store_16(sum, sum_apply(load_16(sum), change));
}

/* 0 stands for "no checksum" in UDP, and stays: over IPv6 as well, where RFC 6936
 * asks middle boxes to leave it alone.  A sum that comes out as 0 is sent as its
 * other form, 0xffff (RFC 768). */
static inline void
rewrite_udp_sum(uint8_t *udp, uint64_t change)
{
	uint16_t sum = load_16(udp + UDP_SUM);

	if (sum == 0)
		return;
	sum = sum_apply(sum, change);
	store_16(udp + UDP_SUM, sum == 0 ? UINT16_MAX : sum);
}

/* ICMP has no pseudo header, so its bytes may all be 0: then only 0xffff is right,
 * which equation 3 cannot know.  Where the header is 0 but for the sum, 0xffff is
 * right whatever follows. */
static inline void
rewrite_icmp_sum(uint8_t *icmp, uint64_t change)
{
	static const uint8_t zero[ICMP_BYTES];

	rewrite_sum(icmp + ICMP_SUM, change);
	if (memcmp(icmp, zero, ICMP_BYTES) == 0)
		store_16(icmp + ICMP_SUM, UINT16_MAX);
}

/* The sum of the pseudo header of RFC 9293 and RFC 8200, for 'bytes' bytes of 'protocol'
 * behind the IP header 'ip'. */
static inline uint64_t
sum_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t bytes)
{
	uint64_t sum = rte_cpu_to_be_32(bytes);

	sum += rte_cpu_to_be_16(protocol);
	if (ip[0] >> 4 == 4)
		return sum + sum_bytes(ip + IP4_SRC, IP4_BYTES - IP4_SRC);
	return sum + sum_bytes(ip + IP6_SRC, IP6_BYTES - IP6_SRC);
}

/* Makes the checksum of an IPv4 header, and that at 'sum' of what 'from' began and
 * 'bytes' at 'at' go on with. */
static inline void
make_ip4_sum(uint8_t *ip)
{
	store_16(ip + IP4_SUM, 0);
	store_16(ip + IP4_SUM, (uint16_t)~sum_fold(sum_bytes(ip, (ip[0] & 0x0f) * 4U)));
}

static inline void
make_sum(uint8_t *sum, uint64_t from, const uint8_t *at, uint32_t bytes)
{
	store_16(sum, 0);
	store_16(sum, (uint16_t)~sum_fold(from + sum_bytes(at, bytes)));
}

#endif
