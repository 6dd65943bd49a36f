/*
 * neighbour.h - ARP and IPv6 neighbour discovery for addresses that have no host of their
 * own: those of a pool, or virtual ones.
 *
 * All instances of a fleet give the same link-layer address, so it does not matter which
 * of them is asked, and what one announces is no conflict to the others.
 */
#ifndef NET_NEIGHBOUR_H
#define NET_NEIGHBOUR_H

#include "net/address.h"

#define NEIGHBOUR_MAX_BYTES 94			/* Two tags, IPv6 and an advertisement. */

/*
 * Writes to 'out' (of NEIGHBOUR_MAX_BYTES) the answer to the ARP request (RFC 826) or
 * neighbour solicitation (RFC 4861) at 'frame', 'bytes' long and all of it readable, if
 * that asks for an address that 'ours' says is one: with port 0.  Probes for duplicates
 * are answered too (RFC 5227, RFC 4862).  VLAN tags are kept.  Returns its length; 0: it
 * is not to be answered, whatever it is.
 */
unsigned int neighbour_answer(const uint8_t *frame, uint32_t bytes,
			      bool (*ours)(const void *who,
					   const struct endpoint *address),
			      const void *who, const uint8_t mac[MAC_BYTES],
			      uint8_t *out);

/* Writes to 'out' what tells all neighbours that 'address' is at 'mac' now: a
 * gratuitous ARP request, or an unsolicited advertisement.  Returns its length. */
unsigned int neighbour_announce(const struct endpoint *address,
				const uint8_t mac[MAC_BYTES], uint8_t *out);

#endif
