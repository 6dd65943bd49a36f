/*
 * mtu.h - packets that are longer than the link by which they leave: refused or
 * fragmented.
 *
 * An MTU counts bytes of IP, headers and all, and not the link header.  A frame that has
 * at most MTU + 14 bytes fits whatever it is, so only longer ones need to be asked about.
 */
#ifndef PIPE_MTU_H
#define PIPE_MTU_H

#include <rte_mbuf.h>

#include "net/packet.h"

enum {
	MTU_MIN = 576,				/* The least that may be configured. */
	MTU_MAX_FRAGMENTS = 144,		/* Of the longest datagram, by that and
						 * in the largest tunnel. */
};

enum mtu_fate {
	MTU_FITS,
	MTU_TOO_BIG,				/* Drop it, and answer REFUSE_TOO_BIG with
						 * the MTU less what is put around it. */
	MTU_FRAGMENT,				/* mtu_fragment(), after all rewrites. */
};

/* What becomes of a packet around which 'around' bytes will be put (tunnel_bytes()).
 * IPv6, and IPv4 with DF set, is not fragmented on its way (RFC 8200, 4.5; RFC 791). */
enum mtu_fate mtu_fate(const struct packet *p, unsigned int around, unsigned int mtu);

/*
 * Makes the fragments of the frame 'm' that do not exceed 'mtu' (MTU_MIN, less a tunnel),
 * each a packet of its own; 'p' is what packet_parse() says of it, and may be older than
 * its rewrites.  Of a fragment they are fragments too.  A tunnel's header goes around
 * each of them: 'mtu' is then less by it.  'out' has room for MTU_MAX_FRAGMENTS packets.
 * Returns how many, in their order; 0: there are not enough buffers.  'm' stays the
 * caller's.
 */
unsigned int mtu_fragment(const struct rte_mbuf *m, const struct packet *p,
			  unsigned int mtu, struct rte_mbuf **out);

#endif
