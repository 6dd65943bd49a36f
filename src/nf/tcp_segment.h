/*
 * tcp_segment.h - what a TCP segment says, as tcp_track.h asks for it.
 */
#ifndef NF_TCP_SEGMENT_H
#define NF_TCP_SEGMENT_H

#include "net/packet.h"

/* In host order. */
struct tcp_segment {
	uint32_t seq, end;			/* End: behind its data, SYN and FIN. */
	uint32_t ack, sack;			/* Sack: the highest edge, or 'ack'. */
	uint32_t timestamp;
	uint16_t window;
	uint8_t flags;				/* TCP_... */
	uint8_t scale;				/* Of a SYN; or TCP_NO_WSCALE. */
	bool has_timestamp;
};

/* Of a packet that is TCP and not a later fragment.  Options are only looked at where
 * they matter: those of a SYN and a FIN, and SACKs. */
void tcp_segment_of(const struct packet *p, struct tcp_segment *out);

#endif
