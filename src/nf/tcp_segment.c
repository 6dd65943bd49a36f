/*
 * tcp_segment.c - see tcp_segment.h.
 */
#include "nf/tcp_segment.h"

enum {
	TIMESTAMPS_BYTES = 12,			/* Of options, if that is all. */
};

/* What nearly all segments without SYN have, if anything: nop, nop, timestamps (RFC 7323,
 * appendix A). */
static inline bool
has_timestamps_alone(const struct packet *p)
{
	static const uint8_t head[4] = { 1, 1, 8, 10 };

	return p->tcp_options == TIMESTAMPS_BYTES &&
	       memcmp(p->data + p->payload - TIMESTAMPS_BYTES, head, sizeof(head)) == 0;
}

static void
take_options(const struct packet *p, struct tcp_segment *s)
{
	struct tcp_options o;

	/* What comes before a malformed one counts, as everywhere. */
	packet_tcp_options(p, &o);
	s->scale = o.wscale;
	s->has_timestamp = o.has_timestamp;
	s->timestamp = o.timestamp;
	for (unsigned int i = 0; i < o.n_sacks; i++)
		if ((int32_t)(o.sack[i][1] - s->sack) > 0)
			s->sack = o.sack[i][1];
}

void
tcp_segment_of(const struct packet *p, struct tcp_segment *s)
{
	uint8_t ends = p->tcp_flags & (TCP_SYN | TCP_FIN);

	s->seq = packet_tcp_seq(p);
	s->ack = packet_tcp_ack(p);
	s->sack = s->ack;
	s->end = s->seq + packet_payload_bytes(p) + ((ends & TCP_SYN) != 0) +
		 ((ends & TCP_FIN) != 0);
	s->window = packet_tcp_window(p);
	s->flags = p->tcp_flags;
	s->scale = TCP_NO_WSCALE;
	s->has_timestamp = false;
	s->timestamp = 0;
	if (p->tcp_options != 0 && (ends != 0 || !has_timestamps_alone(p)))
		take_options(p, s);
}
