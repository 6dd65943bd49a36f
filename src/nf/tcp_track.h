/*
 * tcp_track.h - which segments belong to a TCP connection, by what its record says of its
 * two ends: the states and windows of Linux's nf_conntrack, without a write for each
 * packet.  Pure: no clock, no table, no packet but the one that is asked about.
 *
 * A record knows of each end where its stream has got to ('end'), how far the other end's
 * window lets it go ('limit'), the highest number it has acknowledged and the largest
 * window it has offered.  All of that only moves forward, and what is recorded lags: a
 * segment is written to the record when it changes the state, or when with it 'end' or
 * 'limit' of a direction has moved by the tolerance T of that direction,
 *
 *     T = max(64 KiB, half the largest window that its receiver has offered).
 *
 * Whoever releases a segment that is not written has seen that it is less than T ahead of
 * the record, and a segment that is written is released when the write is applied.  So
 * whatever two ends may know of each other is less than T ahead of the record, through
 * however many instances it went, and a segment of such ends fits if, as in nf_conntrack,
 *
 *     its sequence number  <= limit of its sender + T,
 *     what it acknowledges <= end of the other side + T', and
 *                          >= the same - max(window of its sender, 66000) - T',
 *
 * T being that of its direction and T' that of the other one.  What it acknowledges is
 * the highest edge of its SACK blocks, if that is higher.  Anything else is not valid.
 * Beside the window is what passes, as its receiver only answers it, and changes nothing:
 * old data below it (RFC 5961, 5); and above the limit as much as its receiver's largest
 * window, but not more than another T, for some senders overshoot a window that shuts.  So
 * it is in nf_conntrack.
 *
 * A RST is judged by the same numbers (RFC 5961, 3.2).  One whose sequence number is the
 * one that is recorded as the next, or was last recorded as acknowledged, closes the
 * connection.  One between what was acknowledged and end + T may be exact for all that
 * the record can tell: it passes, for its receiver knows, and puts the connection in
 * TRACK_RESET.  From there the connection comes back when its sender goes on, or its
 * receiver says anything: that is the challenge if it was not exact, and if it was, the
 * answer is another RST.  All others are not valid.
 */
#ifndef NF_TCP_TRACK_H
#define NF_TCP_TRACK_H

#include "nf/tcp_segment.h"

enum {
	TRACK_WINDOW_UNIT = 16 * 1024,
	TRACK_MIN_TOLERANCE = 64 * 1024,
	TRACK_MIN_ACK_WINDOW = 66000,		/* As nf_conntrack's MAXACKWINCONST. */
};

enum tcp_state {
	TRACK_SYN_SENT,
	TRACK_SYN_SENT2,			/* A SYN from both sides. */
	TRACK_SYN_RECV,
	TRACK_ESTABLISHED,
	TRACK_FIN_WAIT,
	TRACK_CLOSE_WAIT,
	TRACK_LAST_ACK,
	TRACK_TIME_WAIT,
	TRACK_RESET,				/* After a RST, maybe exact. */
	TRACK_CLOSE,				/* After an exact one. */
	TRACK_N_STATES
};

/* Of a side. */
enum {
	TRACK_SCALES = 1 << 0,			/* Its SYN offers to scale windows. */
	TRACK_FAST = 1 << 1,			/* Its SYN has data (RFC 7413). */
	TRACK_LIBERAL = 1 << 2,			/* Picked up: its scale is not known. */
	/* It sent a SYN amid the connection: 'ack' of the other side is what would accept
	 * that. */
	TRACK_AGAIN = 1 << 3,
	TRACK_TIMED = 1 << 4,			/* Its FIN has a timestamp: 'limit'. */
	TRACK_ACKED = 1 << 5,			/* Its SYN is acknowledged. */
	TRACK_REFUSES = 1 << 6,			/* It has sent a RST. */
};

struct tcp_side {
	uint32_t end;				/* Behind the last that it sent. */
	/* Behind the last that it may send.  Once it has sent its FIN that is 'end', and
	 * this is the FIN's timestamp. */
	uint32_t limit;
	/* The highest that it acknowledged; before that, the least that it has to. */
	uint32_t ack;
	/* The largest that it offered, in units, rounded up; 0: it has sent nothing. */
	uint16_t window;
	/* Of its windows; in the high bits, what its last SYN has offered (15: none). */
	uint8_t scale;
	uint8_t flags;				/* TRACK_... */
};

struct tcp_track {
	uint8_t state;				/* enum tcp_state */
	uint8_t opened;				/* The side that did: its bit. */
	uint8_t finished;			/* Sides that sent a FIN, a bit each. */
	uint8_t owner;				/* The caller's own; 0 in a new one. */
	struct tcp_side side[2];
};

static_assert(sizeof(struct tcp_track) == 36, "part of a record: no padding");

enum track_result {
	TRACK_PASS,				/* Valid; the record stays as it is. */
	TRACK_WRITE,				/* Valid; the record becomes '*next'. */
	/* A SYN behind a connection that has ended: if it is let in, tcp_track_open(). */
	TRACK_OPEN,
	TRACK_INVALID,
};

/* What a segment from 'side' is to the connection.  'liberal': windows are not checked,
 * but followed (RSTs are).  'next' is set with TRACK_WRITE only. */
enum track_result tcp_track(const struct tcp_track *t, unsigned int side,
			    const struct tcp_segment *s, bool liberal,
			    struct tcp_track *next);

/* A connection that begins with this SYN. */
void tcp_track_open(struct tcp_track *t, unsigned int side, const struct tcp_segment *s);
/* One whose beginning was not seen.  False: not by this segment. */
bool tcp_track_pick_up(struct tcp_track *t, unsigned int side,
		       const struct tcp_segment *s);

/* One that is established by the SYN/ACK of 'side' to a SYN of the other side that the
 * record does not know of, with that window; neither scales its windows. */
void tcp_track_join(struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
		    uint16_t window);

/* Whether 'side' may lately have sent a segment that began at 'seq': what an ICMP error
 * quotes (RFC 5927, 4.1). */
bool tcp_track_may_have_sent(const struct tcp_track *t, unsigned int side, uint32_t seq);

/* It is not known yet whether the other end wants it. */
static inline bool
tcp_track_half_open(const struct tcp_track *t)
{
	return t->state <= TRACK_SYN_RECV;
}

/* Both ends have agreed on it, and none has ended it for certain. */
static inline bool
tcp_track_is_open(const struct tcp_track *t)
{
	return t->state >= TRACK_ESTABLISHED && t->state <= TRACK_LAST_ACK;
}

/* T: how far what 'receiver' is sent may be ahead of the record. */
static inline uint32_t
tcp_track_tolerance(const struct tcp_side *receiver)
{
	uint32_t half = (uint32_t)receiver->window * (TRACK_WINDOW_UNIT / 2);

	return half > TRACK_MIN_TOLERANCE ? half : TRACK_MIN_TOLERANCE;
}

#endif
