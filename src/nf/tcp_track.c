/*
 * tcp_track.c - see tcp_track.h.
 *
 * Numbers are compared as RFC 9293, 3.4 has it: by the sign of their difference.  Windows
 * are at most 1 GiB and the tolerance half of that, so that no comparison is ambiguous.
 */
#include "nf/tcp_track.h"

enum kind { SYN, SYN_ACK, FIN, ACK, RST, NONSENSE };

enum {
	SCALE_MASK = 15,
	OFFER_SHIFT = 4,			/* In 'scale'. */
	NO_SCALE = 15,
	/* A SYN that is less than this behind what its side sends is the first one,
	 * late. */
	LATE_SYN = 1 << 16,
};

static inline bool
before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool
after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

static inline uint32_t
later(uint32_t a, uint32_t b)
{
	return after(a, b) ? a : b;
}

static enum kind
kind_of(uint8_t flags)
{
	switch (flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) {
	case TCP_SYN:
		return SYN;
	case TCP_SYN | TCP_ACK:
		return SYN_ACK;
	case TCP_FIN | TCP_ACK:
		return FIN;
	case TCP_ACK:
		return ACK;
	case TCP_RST:
	case TCP_RST | TCP_ACK:
		return RST;
	default:
		return NONSENSE;
	}
}

/* --- windows ------------------------------------------------------------------ */

static inline uint32_t
window_bytes(const struct tcp_side *d)
{
	return (uint32_t)d->window * TRACK_WINDOW_UNIT;
}

static uint16_t
window_units(uint32_t bytes)
{
	/* At most 65535 << 14 bytes, which are as many units. */
	uint32_t units = (bytes + TRACK_WINDOW_UNIT - 1) / TRACK_WINDOW_UNIT;

	return units == 0 ? 1 : (uint16_t)units;
}

static inline uint32_t
scaled_window(const struct tcp_side *d, const struct tcp_segment *s)
{
	if (s->flags & TCP_SYN)
		return s->window;
	return (uint32_t)s->window << (d->scale & SCALE_MASK);
}

static inline bool
has_finished(const struct tcp_track *t, unsigned int side)
{
	return (t->finished >> side & 1) != 0;
}

enum fit { FITS, BESIDE, OUTSIDE };

/* Where a segment of a known stream lies. */
static inline enum fit
fit(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];
	uint32_t ahead = tcp_track_tolerance(o), acks_ahead = tcp_track_tolerance(d);
	uint32_t limit = (has_finished(t, side) ? d->end : d->limit) + ahead;
	uint32_t behind = window_bytes(d), window = window_bytes(o);
	uint32_t overshoot = window < ahead ? window : ahead;

	if (behind < TRACK_MIN_ACK_WINDOW)
		behind = TRACK_MIN_ACK_WINDOW;
	if (d->window == 0 || after(s->seq, limit + overshoot) ||
	    after(s->sack, o->end + acks_ahead) ||
	    before(s->sack, o->end - behind - acks_ahead))
		return OUTSIDE;
	return after(s->seq, limit) || before(s->end, d->end - window) ? BESIDE : FITS;
}

/* Whether the record is too far behind. */
static inline bool
has_moved(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];
	uint32_t edge = s->ack + scaled_window(d, s);

	if ((int32_t)(s->end - d->end) >= (int32_t)tcp_track_tolerance(o))
		return true;
	return !has_finished(t, !side) &&
	       (int32_t)(edge - o->limit) >= (int32_t)tcp_track_tolerance(d);
}

/* Records where the segment leaves both directions. */
static void
move(struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	struct tcp_side *d = &t->side[side], *o = &t->side[!side];
	uint32_t window = scaled_window(d, s);
	uint16_t units = window_units(window);

	d->end = later(d->end, s->end);
	d->ack = o->flags & TRACK_AGAIN ? s->ack : later(d->ack, s->ack);
	o->flags &= (uint8_t)~TRACK_AGAIN;
	if (units > d->window)
		d->window = units;
	/* What is acknowledged was sent. */
	o->end = later(o->end, s->sack);
	if (!has_finished(t, !side))
		o->limit = later(o->limit, s->ack + window + (window == 0));
}

/* --- opening ------------------------------------------------------------------ */

/* What a SYN says of scaling, as it is remembered. */
static uint8_t
offer_of(const struct tcp_segment *s)
{
	uint8_t scale = s->scale == TCP_NO_WSCALE ? NO_SCALE : s->scale & SCALE_MASK;

	return (uint8_t)(scale << OFFER_SHIFT);
}

/* A side whose SYN this is. */
static void
side_start(struct tcp_side *d, const struct tcp_segment *s)
{
	*d = (struct tcp_side){ .end = s->end, .limit = s->end, .ack = d->ack,
				.window = window_units(s->window),
				.scale = offer_of(s) };
	if (s->scale != TCP_NO_WSCALE) {
		d->scale |= s->scale & SCALE_MASK;
		d->flags |= TRACK_SCALES;
	}
	if (s->end != s->seq + 1)
		d->flags |= TRACK_FAST;
}

void
tcp_track_open(struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	*t = (struct tcp_track){ .state = TRACK_SYN_SENT };
	t->opened = (uint8_t)(1 << side);
	side_start(&t->side[side], s);
	t->side[!side].ack = s->seq + 1;
}

bool
tcp_track_pick_up(struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	struct tcp_side *d = &t->side[side], *o = &t->side[!side];

	if (kind_of(s->flags) != ACK)
		return false;
	*t = (struct tcp_track){ .state = TRACK_ESTABLISHED,
				 .opened = (uint8_t)(1 << side) };
	*d = (struct tcp_side){ .end = s->end, .limit = s->end, .ack = s->ack,
				.window = window_units(s->window),
				.flags = TRACK_LIBERAL };
	*o = (struct tcp_side){ .end = s->sack, .limit = s->sack + s->window,
				.ack = s->seq, .window = 1, .flags = TRACK_LIBERAL };
	return true;
}

/* Whether it acknowledges the SYN of the other side, and no more than came with it. */
static bool
acks_syn(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];

	return (s->flags & TCP_ACK) != 0 && !before(s->ack, d->ack) &&
	       !after(s->ack, o->end);
}

/* Windows are scaled if both SYNs have offered that: a second answer may do so where the
 * first one did not. */
static void
scale_both(struct tcp_side *d, struct tcp_side *o)
{
	bool both = (d->flags & o->flags & TRACK_SCALES) != 0 &&
		    o->scale >> OFFER_SHIFT != NO_SCALE;

	d->scale &= (uint8_t)~SCALE_MASK;
	o->scale &= (uint8_t)~SCALE_MASK;
	if (both) {
		d->scale |= d->scale >> OFFER_SHIFT;
		o->scale |= o->scale >> OFFER_SHIFT;
	}
}

/* The SYN/ACK of 'side' settles what both may send. */
static void
accept_syn(struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	struct tcp_side *d = &t->side[side], *o = &t->side[!side];

	side_start(d, s);
	d->ack = s->ack;
	d->limit = s->end + window_bytes(o);
	o->ack = s->seq + 1;
	o->limit = s->ack + s->window;
	o->flags |= TRACK_ACKED;
	scale_both(d, o);
	t->state = TRACK_SYN_RECV;
}

/* The SYN of the opener once more.  It may have fewer options, or not the data of the
 * first one (RFC 7413, 4.1.3), and nobody knows yet which of them is accepted. */
static enum track_result
repeat_syn(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	   struct tcp_track *next)
{
	struct tcp_side *d = &next->side[side];
	struct tcp_side again = { .ack = d->ack };

	side_start(&again, s);
	d->end = d->limit = later(d->end, again.end);
	if ((again.flags & TRACK_SCALES) != 0 &&
	    ((d->flags & TRACK_SCALES) == 0 || again.scale > d->scale))
		d->scale = again.scale;
	d->flags |= again.flags;
	return memcmp(next, t, sizeof(*t)) == 0 ? TRACK_PASS : TRACK_WRITE;
}

/* Before anybody accepted.  A segment that makes no sense to the opener passes if its
 * answer is a RST that clears the way (RFC 9293, 3.5.1: half-open connections): that RST
 * passes, too, and closes nothing here. */
static enum track_result
in_syn_sent(const struct tcp_track *t, unsigned int side, enum kind kind,
	    const struct tcp_segment *s, struct tcp_track *next)
{
	bool opener = (t->opened >> side & 1) != 0, fast;

	*next = *t;
	switch (kind) {
	case SYN:
		if (opener && s->seq + 1 == t->side[!side].ack)
			return repeat_syn(t, side, s, next);
		if (opener) {
			tcp_track_open(next, side, s);
			return TRACK_WRITE;
		}
		side_start(&next->side[side], s);
		next->side[!side].ack = s->seq + 1;
		next->state = TRACK_SYN_SENT2;
		return TRACK_WRITE;
	case SYN_ACK:
		if (opener)
			return TRACK_INVALID;
		if (!acks_syn(t, side, s))
			return TRACK_PASS;
		accept_syn(next, side, s);
		return TRACK_WRITE;
	case ACK:
		/* An answer to data on the SYN may overtake the SYN/ACK. */
		fast = (t->side[!side].flags & TRACK_FAST) != 0 && acks_syn(t, side, s);
		return !opener && (s->end == s->seq || fast) ? TRACK_PASS : TRACK_INVALID;
	case RST:
		if (opener)
			return TRACK_PASS;
		if (!acks_syn(t, side, s))
			return TRACK_INVALID;
		next->state = TRACK_CLOSE;
		return TRACK_WRITE;
	default:
		return TRACK_INVALID;
	}
}

/* A SYN/ACK where both sides have sent their SYN.  One of other numbers is that of an end
 * which has started again, or whose SYN was forged. */
static enum track_result
repeat_syn_ack(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	       struct tcp_track *next)
{
	bool opener = (t->opened >> side & 1) != 0;
	uint32_t since = t->side[side].end - s->seq;
	bool same = since > 0 && since <= UINT16_MAX;

	if (!acks_syn(t, side, s))
		return TRACK_PASS;
	*next = *t;
	if (same && t->state == TRACK_SYN_RECV) {
		if (t->side[!side].flags & TRACK_ACKED)
			return TRACK_PASS;
		next->side[!side].flags |= TRACK_ACKED;
		next->state = TRACK_ESTABLISHED;
		move(next, side, s);
		return TRACK_WRITE;
	}
	if (!same && opener)
		return TRACK_INVALID;
	accept_syn(next, side, s);
	if (same)
		next->side[side].end = t->side[side].end;
	return TRACK_WRITE;
}

/* --- closing ------------------------------------------------------------------ */

/* Whether it refuses a SYN of the other side that has not opened anything here. */
static bool
refuses_syn(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	if ((s->flags & TCP_ACK) == 0)
		return false;
	if (t->side[!side].flags & TRACK_AGAIN)
		return s->ack == t->side[side].ack;
	return t->state == TRACK_SYN_SENT2 && acks_syn(t, side, s);
}

static enum track_result
by_rst(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
       struct tcp_track *next)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];
	bool again = (d->flags & TRACK_AGAIN) != 0;
	/* That of its own FIN is right, too: to ends that got the FIN it is exact. */
	uint32_t lowest = again ? d->end - window_bytes(o)
				: o->ack - has_finished(t, side);
	uint32_t acks_ahead = tcp_track_tolerance(d);
	uint32_t ack_window = window_bytes(d) + TRACK_MIN_ACK_WINDOW + acks_ahead;
	bool refusal = refuses_syn(t, side, s);
	bool exact = refusal || s->seq == d->end || (!again && s->seq == o->ack);

	if (!refusal && (before(s->seq, lowest) ||
			 after(s->seq, d->end + tcp_track_tolerance(o))))
		return TRACK_INVALID;
	if (!refusal && (s->flags & TCP_ACK) != 0 && s->ack != 0 &&
	    (after(s->ack, o->end + acks_ahead) || before(s->ack, o->end - ack_window)))
		return TRACK_INVALID;
	/* The record is up to date: nothing was sent since the SYNs. */
	if (!exact && tcp_track_half_open(t) && (o->flags & TRACK_FAST) == 0)
		return TRACK_INVALID;
	if (t->state == TRACK_CLOSE ||
	    (!exact && (t->state == TRACK_RESET || t->state == TRACK_TIME_WAIT)))
		return TRACK_PASS;
	*next = *t;
	next->state = exact ? TRACK_CLOSE : TRACK_RESET;
	next->side[side].flags |= TRACK_REFUSES;
	return TRACK_WRITE;
}

/* Whether a RST was not its sender's own, or not exact: that side goes on behind it, or
 * the other one still speaks.  If what that says was under way before the RST was there,
 * the answer is another RST. */
static bool
goes_on(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];

	return ((d->flags & TRACK_REFUSES) != 0 && after(s->end, d->end)) ||
	       ((o->flags & TRACK_REFUSES) != 0 &&
		(t->state == TRACK_RESET || after(s->ack, o->end)));
}

static enum tcp_state
state_by_fins(const struct tcp_track *t)
{
	return t->finished == 0 ? TRACK_ESTABLISHED
	       : t->finished == 3 ? TRACK_LAST_ACK : TRACK_FIN_WAIT;
}

/* A FIN counts once for each side: a repeated one changes nothing. */
static bool
take_fin(struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	struct tcp_side *d = &t->side[side];

	if (has_finished(t, side))
		return false;
	t->finished |= (uint8_t)(1 << side);
	d->limit = s->timestamp;
	if (s->has_timestamp)
		d->flags |= TRACK_TIMED;
	if (t->finished == 3)
		t->state = TRACK_LAST_ACK;
	else if (t->state != TRACK_CLOSE_WAIT)
		t->state = TRACK_FIN_WAIT;
	return true;
}

/* A SYN amid a connection resets nothing: an end that knows of the connection challenges
 * it (RFC 5961, 4).  One that does not accepts it: so that is remembered. */
static enum track_result
syn_again(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	  struct tcp_track *next)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];

	if ((t->opened >> side & 1) == 0)
		return TRACK_INVALID;
	if (d->end - s->seq < LATE_SYN ||
	    ((d->flags & TRACK_AGAIN) != 0 && o->ack == s->seq + 1))
		return TRACK_PASS;
	*next = *t;
	next->side[!side].ack = s->seq + 1;
	next->side[side].flags |= TRACK_AGAIN;
	next->side[side].scale = (uint8_t)((d->scale & SCALE_MASK) | offer_of(s));
	return TRACK_WRITE;
}

/* The answer to that of an end that does not know of the connection... */
static bool
accepts_again(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	return (t->side[!side].flags & TRACK_AGAIN) != 0 && s->ack == t->side[side].ack;
}

/* ...with which it begins anew. */
static enum track_result
accept_again(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	     struct tcp_track *next)
{
	const struct tcp_side *o = &t->side[!side];
	uint8_t scale = o->scale >> OFFER_SHIFT;
	struct tcp_segment syn = { .seq = s->ack - 1, .end = s->ack, .flags = TCP_SYN,
				   .window = UINT16_MAX,
				   .scale = scale == NO_SCALE ? TCP_NO_WSCALE : scale };

	tcp_track_open(next, !side, &syn);
	accept_syn(next, side, s);
	return TRACK_WRITE;
}

/* A SYN behind the end of a connection (RFC 9293, 3.6.1; RFC 6191). */
static bool
is_newer(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s)
{
	const struct tcp_side *d = &t->side[side];

	return after(s->seq, d->end) ||
	       ((d->flags & TRACK_TIMED) != 0 && s->has_timestamp &&
		after(s->timestamp, d->limit));
}

/* --- in between --------------------------------------------------------------- */

/* What a SYN or SYN/ACK is to a connection that was accepted. */
static enum track_result
by_syn(const struct tcp_track *t, unsigned int side, enum kind kind,
       const struct tcp_segment *s, struct tcp_track *next)
{
	if (kind == SYN) {
		if (t->state == TRACK_CLOSE ||
		    (t->state == TRACK_TIME_WAIT && is_newer(t, side, s)))
			return TRACK_OPEN;
		return t->state == TRACK_SYN_SENT2 ? TRACK_PASS
						   : syn_again(t, side, s, next);
	}
	if (tcp_track_half_open(t))
		return accepts_again(t, side, s) ? accept_again(t, side, s, next)
						 : repeat_syn_ack(t, side, s, next);
	if (fit(t, side, s) != OUTSIDE && s->end - s->seq == 1 &&
	    !after(s->end, t->side[side].end))
		return TRACK_PASS;
	return accepts_again(t, side, s) ? accept_again(t, side, s, next) : TRACK_INVALID;
}

/* An ACK, maybe with data or FIN, before the connection is established: what it
 * acknowledges has to be right, for it may come from somebody who has not seen the
 * SYN/ACK. */
static enum track_result
in_handshake(const struct tcp_track *t, unsigned int side, enum kind kind,
	     const struct tcp_segment *s, struct tcp_track *next)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];
	bool fast = ((d->flags | o->flags) & TRACK_FAST) != 0;

	if (t->state != TRACK_SYN_RECV ||
	    ((o->flags & TRACK_AGAIN) == 0 && before(s->ack, d->ack)) ||
	    (!fast && after(s->sack, o->end)))
		return TRACK_INVALID;
	*next = *t;
	next->side[!side].flags |= TRACK_ACKED;
	if ((next->side[0].flags & next->side[1].flags & TRACK_ACKED) != 0)
		next->state = TRACK_ESTABLISHED;
	move(next, side, s);
	if (kind == FIN)
		take_fin(next, side, s);
	return next->state != t->state || has_moved(t, side, s) ? TRACK_WRITE
								: TRACK_PASS;
}

/* Steps that are taken once, or not for every packet. */
static enum track_result
step(const struct tcp_track *t, unsigned int side, enum kind kind,
     const struct tcp_segment *s, bool moved, struct tcp_track *next)
{
	bool changed = moved;

	if (t->state == TRACK_TIME_WAIT)
		return TRACK_PASS;
	*next = *t;
	if (t->state >= TRACK_RESET) {
		if (!goes_on(t, side, s))
			return TRACK_PASS;
		next->side[0].flags &= (uint8_t)~TRACK_REFUSES;
		next->side[1].flags &= (uint8_t)~TRACK_REFUSES;
		next->state = (uint8_t)state_by_fins(t);
		changed = true;
	}
	move(next, side, s);
	if (kind == FIN && take_fin(next, side, s))
		changed = true;
	if (kind == ACK && has_finished(t, !side) &&
	    !before(s->ack, t->side[!side].end) &&
	    (next->state == TRACK_FIN_WAIT || next->state == TRACK_LAST_ACK)) {
		next->state = next->state == TRACK_FIN_WAIT ? TRACK_CLOSE_WAIT
							    : TRACK_TIME_WAIT;
		changed = true;
	}
	return changed ? TRACK_WRITE : TRACK_PASS;
}

enum track_result
tcp_track(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	  bool liberal, struct tcp_track *next)
{
	enum kind kind = kind_of(s->flags);

	if (kind == NONSENSE)
		return TRACK_INVALID;
	if (t->state == TRACK_SYN_SENT)
		return in_syn_sent(t, side, kind, s, next);
	if (kind == RST)
		return by_rst(t, side, s, next);
	if (kind == SYN || kind == SYN_ACK)
		return by_syn(t, side, kind, s, next);

	enum fit where = fit(t, side, s);

	if (where != FITS && !liberal &&
	    ((t->side[0].flags | t->side[1].flags) & TRACK_LIBERAL) == 0)
		return where == BESIDE ? TRACK_PASS : TRACK_INVALID;
	if (tcp_track_half_open(t))
		return in_handshake(t, side, kind, s, next);

	bool moved = has_moved(t, side, s);

	if (t->state == TRACK_ESTABLISHED && kind == ACK && !moved)
		return TRACK_PASS;
	return step(t, side, kind, s, moved, next);
}

void
tcp_track_join(struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	       uint16_t window)
{
	struct tcp_segment syn = { .seq = s->ack - 1, .end = s->ack, .flags = TCP_SYN,
				   .window = window, .scale = TCP_NO_WSCALE };

	tcp_track_open(t, !side, &syn);
	accept_syn(t, side, s);
	t->side[side].flags |= TRACK_ACKED;
	t->state = TRACK_ESTABLISHED;
}

bool
tcp_track_may_have_sent(const struct tcp_track *t, unsigned int side, uint32_t seq)
{
	const struct tcp_side *d = &t->side[side], *o = &t->side[!side];
	uint32_t ahead = tcp_track_tolerance(o);

	if (((d->flags | o->flags) & TRACK_LIBERAL) != 0)
		return true;
	return d->window != 0 && !after(seq, d->end + ahead) &&
	       !before(seq, d->end - window_bytes(o) - TRACK_MIN_ACK_WINDOW - ahead);
}
