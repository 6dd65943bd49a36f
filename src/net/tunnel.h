/*
 * tunnel.h - headers around a packet: IP in IP and generic UDP encapsulation.
 */
#ifndef NET_TUNNEL_H
#define NET_TUNNEL_H

#include "net/packet.h"

enum tunnel {
	TUNNEL_NONE,
	TUNNEL_IPIP,				/* RFC 2003, RFC 4213, RFC 2473. */
	TUNNEL_GUE,				/* UDP, with a GUE header of 4 bytes:
						 * draft-ietf-intarea-gue, variant 0. */
};

#define TUNNEL_MAX_BYTES 52			/* IPv6, UDP and GUE. */

/* How many bytes 'kind' puts in front of an IP packet, with outer addresses of 'version'
 * (4 or 6). */
unsigned int tunnel_bytes(enum tunnel kind, uint8_t version);

/*
 * Puts the outer header between the link header (Ethernet and VLAN tags) and the IP
 * header of 'p': there have to be tunnel_bytes() of room in front of 'p->data', to where
 * the link header moves.  'src' and 'dst' are the outer addresses, with the UDP ports of
 * GUE; a source port of 0 is made of the inner flow.  Outer DF is set, TOS and TTL are
 * the inner ones'.  Returns the new start of the frame.  'p' is not valid afterwards.
 */
uint8_t *tunnel_put(struct packet *p, enum tunnel kind, const struct endpoint *src,
		    const struct endpoint *dst);

#endif
