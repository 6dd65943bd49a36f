/*
 * refuse.h - packets that answer another, made of it: they refuse it, end its connection,
 * or are the reply to its echo request.
 */
#ifndef NET_REFUSE_H
#define NET_REFUSE_H

#include "net/packet.h"

enum refusal {
	REFUSE_RST,				/* TCP: RST (RFC 9293, 3.5.2); others: as
						 * REFUSE_PORT. */
	REFUSE_PORT,				/* The port: ICMP 3/3, ICMPv6 1/4. */
	REFUSE_HOST,				/* ICMP 3/1, ICMPv6 1/3. */
	REFUSE_PROHIBITED,			/* ICMP 3/13 (RFC 1812), ICMPv6 1/1. */
	REFUSE_TOO_BIG,				/* ICMP 3/4, ICMPv6 2/0, with the MTU. */
};

#define REFUSE_MAX_BYTES 1302			/* ICMPv6: at most 1280 bytes of IP. */

/*
 * Writes the frame that refuses 'p', of which 'head_bytes' can be read, to 'frame' (of
 * REFUSE_MAX_BYTES): Ethernet and IP addresses exchanged, VLAN tags kept, all checksums
 * right.  'mtu' in bytes, of REFUSE_TOO_BIG.  Returns its length; 0: such a packet is
 * never answered: an ICMP error or redirect, a RST, a later fragment, one to or from an
 * address that is not a single host's (RFC 1122, 3.2.2; RFC 4443, 2.4).
 */
unsigned int packet_refuse(const struct packet *p, uint32_t head_bytes, enum refusal how,
			   unsigned int mtu, uint8_t *frame);

/*
 * Writes a RST that ends the connection of 'p' at one of its ends: at the destination, as
 * if from the source, or with 'to_source' at the source, as if from the destination.  Its
 * sequence number is the one that this end expects, if 'p' is in order: that of the
 * segment, or what it acknowledges (RFC 5961, 3.2).  Returns its length; 0: 'p' is not
 * TCP, a later fragment, or a RST itself.
 */
unsigned int packet_reset(const struct packet *p, bool to_source, uint8_t *frame);

/*
 * Writes the reply to an echo request, all of which can be read, to 'frame' (of 'p->end'
 * bytes): Ethernet and IP addresses exchanged, TTL or hop limit anew, all else as it
 * came.  A wrong checksum stays wrong.  Returns its length; 0: 'p' is no echo request, a
 * fragment, or nothing that packet_refuse() answers, for the same reasons.
 */
unsigned int packet_echo(const struct packet *p, uint8_t *frame);

#endif
