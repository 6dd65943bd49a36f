/*
 * neighbour.c - see neighbour.h.
 */
#include "net/neighbour.h"

#include "net/sums.h"

enum {
	ARP_BYTES = 28,
	ARP_OPERATION = 6,
	ARP_SENDER_MAC = 8,
	ARP_SENDER_IP = 14,
	ARP_TARGET_MAC = 18,
	ARP_TARGET_IP = 24,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,

	SOLICITATION = 135,
	ADVERTISEMENT = 136,
	ND_BYTES = 24, /* Of both, without options. */
	ND_FLAGS = 4,
	ND_SOLICITED = 0x40,
	ND_OVERRIDE = 0x20,
	ND_TARGET = 8,
	ND_HOPS = 255, /* It has passed no router. */
	OPTION_SOURCE_MAC = 1,
	OPTION_TARGET_MAC = 2,
	OPTION_BYTES = 8, /* That of a link-layer address; its unit, too. */

	IP6_ADDRESS_BYTES = IP6_DST - IP6_SRC,
};

/* What ARP over Ethernet for IPv4 begins with. */
static const uint8_t arp_head[ARP_OPERATION] = { 0, 1, 0x08, 0, MAC_BYTES, 4 };
static const uint8_t no_mac[MAC_BYTES];
static const uint8_t all_macs[MAC_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t all_nodes_mac[MAC_BYTES] = { 0x33, 0x33, 0, 0, 0, 1 };
static const uint8_t all_nodes[IP6_ADDRESS_BYTES] = { 0xff, 2, [15] = 1 };
static const uint8_t no_ip6[IP6_ADDRESS_BYTES];
/* The first bytes of the group that an address is asked for in (RFC 4291, 2.7.1). */
static const uint8_t solicited_node[13] = { 0xff, 2, [11] = 1, [12] = 0xff };

/* One to a single station. */
static bool
is_station(const uint8_t *mac)
{
	return !(mac[0] & 1) && memcmp(mac, no_mac, MAC_BYTES) != 0;
}

/* The link header: to and from, with the tags of 'frame' if that is not NULL. */
static uint8_t *
put_link(uint8_t *out, const uint8_t *to, const uint8_t *from, uint16_t type,
	 const uint8_t *frame, uint32_t l3)
{
	if (frame != NULL)
		memcpy(out, frame, l3);
	memcpy(out, to, MAC_BYTES);
	memcpy(out + MAC_BYTES, from, MAC_BYTES);
	store_be16(out + l3 - sizeof(type), type);
	return out + l3;
}

static unsigned int
arp_answer(const uint8_t *frame, uint32_t l3,
	   bool (*ours)(const void *who, const struct endpoint *address), const void *who,
	   const uint8_t *mac, uint8_t *out)
{
	const uint8_t *arp = frame + l3;
	const uint8_t *asker = arp + ARP_SENDER_MAC;
	struct endpoint target = { .version = 4, .ip4 = load_32(arp + ARP_TARGET_IP) };

	if (memcmp(arp, arp_head, sizeof(arp_head)) != 0 ||
	    load_be16(arp + ARP_OPERATION) != ARP_REQUEST || !is_station(asker))
		return 0;
	/* One that asks for itself tells, and does not ask (RFC 5227, 3). */
	if (load_32(arp + ARP_SENDER_IP) == target.ip4 || !ours(who, &target))
		return 0;

	uint8_t *reply = put_link(out, asker, mac, TYPE_ARP, frame, l3);

	memcpy(reply, arp_head, sizeof(arp_head));
	store_be16(reply + ARP_OPERATION, ARP_REPLY);
	memcpy(reply + ARP_SENDER_MAC, mac, MAC_BYTES);
	store_32(reply + ARP_SENDER_IP, target.ip4);
	memcpy(reply + ARP_TARGET_MAC, asker, MAC_BYTES);
	memcpy(reply + ARP_TARGET_IP, arp + ARP_SENDER_IP, sizeof(target.ip4));
	return l3 + ARP_BYTES;
}

/* An advertisement that 'target' is at 'mac'. */
static unsigned int
put_advertisement(uint8_t *ip, const uint8_t *target, const uint8_t *to, uint8_t flags,
		  const uint8_t *mac)
{
	uint8_t *icmp = ip + IP6_BYTES, *option = icmp + ND_BYTES;
	uint32_t bytes = ND_BYTES + OPTION_BYTES;

	memset(ip, 0, IP6_BYTES + ND_BYTES);
	ip[0] = 0x60;
	store_be16(ip + IP6_PAYLOAD, bytes);
	ip[IP6_NEXT] = PROTO_ICMP6;
	ip[IP6_HOPS] = ND_HOPS;
	memcpy(ip + IP6_SRC, target, IP6_ADDRESS_BYTES);
	memcpy(ip + IP6_DST, to, IP6_ADDRESS_BYTES);
	icmp[0] = ADVERTISEMENT;
	icmp[ND_FLAGS] = flags;
	memcpy(icmp + ND_TARGET, target, IP6_ADDRESS_BYTES);
	option[0] = OPTION_TARGET_MAC;
	option[1] = 1;
	memcpy(option + 2, mac, MAC_BYTES);
	make_sum(icmp + ICMP_SUM, sum_pseudo(ip, PROTO_ICMP6, bytes), icmp, bytes);
	return IP6_BYTES + bytes;
}

/* Whether the options are well formed.  '*source' becomes the sender's link-layer
 * address, if they have it. */
static bool
options_ok(const uint8_t *at, uint32_t bytes, const uint8_t **source)
{
	while (bytes > 0) {
		if (bytes < OPTION_BYTES || at[1] == 0 || at[1] * OPTION_BYTES > bytes)
			return false;
		if (at[0] == OPTION_SOURCE_MAC && at[1] == 1)
			*source = at + 2;
		bytes -= at[1] * OPTION_BYTES;
		at += at[1] * OPTION_BYTES;
	}
	return true;
}

/* Whether 'p' is a valid solicitation (RFC 4861, 7.1.1; RFC 6980: no fragment). '*source'
 * as above, or NULL. */
static bool
is_solicitation(const struct packet *p, const uint8_t **source)
{
	const uint8_t *ip = p->data + p->l3, *icmp = p->data + p->l4;
	uint32_t bytes = p->end - p->l4;

	*source = NULL;
	if (p->flow.version != 6 || p->flow.protocol != PROTO_ICMP6 ||
	    (p->flags & PACKET_FRAGMENT) || p->icmp_type != SOLICITATION ||
	    p->icmp_code != 0 || ip[IP6_HOPS] != ND_HOPS || bytes < ND_BYTES)
		return false;
	if (!packet_checksum_ok(p) || icmp[ND_TARGET] == 0xff ||
	    !options_ok(icmp + ND_BYTES, bytes - ND_BYTES, source))
		return false;
	if (*source != NULL && !is_station(*source))
		return false;
	if (memcmp(ip + IP6_SRC, no_ip6, IP6_ADDRESS_BYTES) != 0)
		return ip[IP6_SRC] != 0xff;
	return *source == NULL &&
	       memcmp(ip + IP6_DST, solicited_node, sizeof(solicited_node)) == 0;
}

static unsigned int
nd_answer(const struct packet *p,
	  bool (*ours)(const void *who, const struct endpoint *address), const void *who,
	  const uint8_t *mac, uint8_t *out)
{
	const uint8_t *ip = p->data + p->l3, *target = p->data + p->l4 + ND_TARGET;
	const uint8_t *source, *to = ip + IP6_SRC;
	struct endpoint address = { .version = 6 };
	uint8_t flags = ND_OVERRIDE;

	if (!is_solicitation(p, &source))
		return 0;
	memcpy(address.ip6, target, sizeof(address.ip6));
	if (!ours(who, &address))
		return 0;
	if (memcmp(to, no_ip6, sizeof(no_ip6)) == 0) {
		/* A probe: its sender has no address yet, so all are told. */
		to = all_nodes;
		source = all_nodes_mac;
	} else {
		flags |= ND_SOLICITED;
		if (source == NULL)
			source = p->data + MAC_BYTES;
	}

	uint8_t *reply = put_link(out, source, mac, TYPE_IP6, p->data, p->l3);

	return p->l3 + put_advertisement(reply, target, to, flags, mac);
}

/* Where the header behind Ethernet and its tags is, and its type; 0: nowhere. */
static uint32_t
link_bytes(const uint8_t *frame, uint32_t bytes, uint16_t *type)
{
	uint32_t at = ETHER_BYTES;

	for (unsigned int n = 0; n <= MAX_TAGS; n++, at += TAG_BYTES) {
		if (at > bytes)
			return 0;
		*type = load_be16(frame + at - sizeof(*type));
		if (*type != TYPE_TAG && *type != TYPE_SERVICE_TAG)
			return at;
	}
	return 0;
}

unsigned int
neighbour_answer(const uint8_t *frame, uint32_t bytes,
		 bool (*ours)(const void *who, const struct endpoint *address),
		 const void *who, const uint8_t mac[MAC_BYTES], uint8_t *out)
{
	uint16_t type;
	uint32_t l3 = link_bytes(frame, bytes, &type);
	struct packet p;

	/* What is for another station, or from us, concerns nobody here. */
	if (l3 == 0 || !is_station(frame + MAC_BYTES) ||
	    memcmp(frame + MAC_BYTES, mac, MAC_BYTES) == 0 ||
	    (!(frame[0] & 1) && memcmp(frame, mac, MAC_BYTES) != 0))
		return 0;
	if (type == TYPE_ARP && bytes - l3 >= ARP_BYTES)
		return arp_answer(frame, l3, ours, who, mac, out);
	/* It is read only. */
	if (type == TYPE_IP6 &&
	    packet_parse(&p, (uint8_t *)frame, bytes, bytes) == PACKET_OK)
		return nd_answer(&p, ours, who, mac, out);
	return 0;
}

unsigned int
neighbour_announce(const struct endpoint *address, const uint8_t mac[MAC_BYTES],
		   uint8_t *out)
{
	uint8_t *l3;

	if (address->version == 6) {
		l3 = put_link(out, all_nodes_mac, mac, TYPE_IP6, NULL, ETHER_BYTES);
		return ETHER_BYTES +
		       put_advertisement(l3, address->ip6, all_nodes, ND_OVERRIDE, mac);
	}
	l3 = put_link(out, all_macs, mac, TYPE_ARP, NULL, ETHER_BYTES);
	memset(l3, 0, ARP_BYTES);
	memcpy(l3, arp_head, sizeof(arp_head));
	store_be16(l3 + ARP_OPERATION, ARP_REQUEST);
	memcpy(l3 + ARP_SENDER_MAC, mac, MAC_BYTES);
	store_32(l3 + ARP_SENDER_IP, address->ip4);
	store_32(l3 + ARP_TARGET_IP, address->ip4);
	return ETHER_BYTES + ARP_BYTES;
}
