/*
 * nat_link.c - the NAT on its links: Ethernet addresses, and ARP.
 *
 * Without 'mac' the NAT is a bump in the wire: routers on both sides know each other,
 * packets for the outside addresses are routed to the one inside, and Ethernet addresses
 * stay.
 *
 * With it the outside addresses are on the link: whichever instance hears a question for
 * one answers it, all with the same MAC address, and packets leave outside from that.
 * What comes for it goes on to the MAC address that the session, or the rule, remembers.
 *
 * A hairpin never leaves the inside, where its first Ethernet addresses would lead it out
 * again: it goes to the one that is remembered, or if there is none back to where it came
 * from, as it was a router's.
 */
#include "nf/nat.h"

#include "net/neighbour.h"

static bool
owns_endpoint(const void *nat, const struct endpoint *address)
{
	return address->version == 4 && nat_owns(nat, address->ip4);
}

enum nf_verdict
nat_non_ip(struct nf_run *r)
{
	const struct nat *nat = nf_static(r);
	uint8_t answer[NEIGHBOUR_MAX_BYTES];
	unsigned int bytes;

	if (!nat->has_mac)
		return NF_SEND;
	bytes = neighbour_answer(nf_packet(r)->data, nf_head_bytes(r), owns_endpoint, nat,
				 nat->mac, answer);
	if (bytes == 0)
		return NF_SEND;
	nf_answer(r, answer, bytes);
	return NF_KEEP;
}

void
nat_link_out(struct nf_run *r, bool hairpin)
{
	const struct nat *nat = nf_static(r);
	const uint8_t *dst = nf_packet(r)->data;

	if (hairpin)
		nf_set_ethernet(r, nat->has_mac ? nat->mac : dst, nat_link_source(r));
	else if (nat->has_mac)
		nf_set_ethernet(r, nat->mac, NULL);
}

void
nat_link_in(struct nf_run *r, const uint8_t *mac, bool hairpin)
{
	const struct nat *nat = nf_static(r);

	if (mac != NULL &&
	    (hairpin || (nat->has_mac &&
			 memcmp(nf_packet(r)->data, nat->mac, MAC_BYTES) == 0)))
		nf_set_ethernet(r, NULL, mac);
}
