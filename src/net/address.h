/*
 * address.h - addresses, prefixes and ports as people write them.
 *
 * The parsers take the whole text or nothing: no blanks, signs, leading zeros or
 * anything behind.  They fit config_field.parse: 0, or -EINVAL with '*out' as it
 * was.
 */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "net/packet.h"

/* All addresses whose first 'length' bits are those given; the other bits are 0. */
struct prefix {
	union {
		rte_be32_t ip4;
		uint8_t ip6[16];
	};
	uint8_t version; /* 4 or 6; 0 contains nothing. */
	uint8_t length;  /* 0..32 or 0..128. */
	uint16_t zero;
};

struct port_range {
	uint16_t low, high; /* Host order, both included. */
};

#define MAC_BYTES 6

/* struct endpoint, with port 0: "10.0.0.1", "2001:db8::1". */
int address_parse(const char *text, void *out);
/* struct endpoint: "10.0.0.1:80", "[2001:db8::1]:443"; not port 0. */
int endpoint_parse(const char *text, void *out);
/* struct prefix: "10.0.0.0/8", "2001:db8::/32"; an address alone is a host's.  An
 * address with bits set behind the prefix is refused: it is a mistake. */
int prefix_parse(const char *text, void *out);
/* struct port_range: "80", "1024-65535", the lower first. */
int port_range_parse(const char *text, void *out);
/* MAC_BYTES bytes: "02:00:5e:10:00:01". */
int mac_parse(const char *text, void *out);

/* Whether a host may have its address: not 0.0.0.0/8, 127.0.0.0/8, ::/64 (which has ::, ::1
 * and IPv4's), nor of a group or above. */
bool endpoint_is_host(const struct endpoint *e);
/* Whether the endpoint's address is one of the prefix; its port does not matter. */
bool prefix_contains(const struct prefix *prefix, const struct endpoint *e);

static inline bool
port_range_contains(const struct port_range *range, rte_be16_t port)
{
	uint16_t host_port = rte_be_to_cpu_16(port);

	return range->low <= host_port && host_port <= range->high;
}

#endif
