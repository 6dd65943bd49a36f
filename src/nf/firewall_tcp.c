/*
 * firewall_tcp.c - TCP in the firewall: tcp_track.c says what a segment is, here it
 * becomes a verdict and a write.
 */
#include "nf/firewall.h"

/* A SYN without a record, or behind the end of one. */
static enum nf_verdict
open_by_syn(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	struct connection first = { 0 };

	if (v->fw->proxy == PROXY_ALWAYS)
		return firewall_judge(r, v) == RULE_ALLOW ? firewall_proxy_answer(r, v)
							  : firewall_deny(r, v);
	tcp_track_open(&first.track, nf_side(r), s);
	firewall_renew(r, v->key, &first);
	return firewall_open(r, v, &first);
}

/* What belongs to no connection that anybody knows. */
static enum nf_verdict
unknown_segment(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	struct connection first = { 0 };

	if (firewall_proxy_accepts(r, v, s))
		return firewall_proxy_open(r, v, s);
	if (!v->fw->loose || !tcp_track_pick_up(&first.track, nf_side(r), s))
		return nf_drop(r, NF_DROP_STATE);
	firewall_renew(r, v->key, &first);
	return firewall_open(r, v, &first);
}

/* What comes may belong to the next one, whose SYN was answered by the proxy. */
static bool
has_ended(const struct connection *c)
{
	return c->track.state == TIME_WAIT || c->track.state == CLOSE;
}

/* After a restart or failover of the store a record may be behind by more than the
 * tolerance, and stay so.  What does not fit its windows passes then, for the ends know; but
 * it moves nothing: who can guess addresses and ports must not be able to shut the ends out.
 * Only a FIN counts. */
static enum track_result
track_older(const struct tcp_track *t, unsigned int side, const struct tcp_segment *s,
	    struct tcp_track *next)
{
	if (!tcp_track_is_open(t) || (s->flags & TCP_SYN))
		return TRACK_INVALID;
	if ((s->flags & (TCP_FIN | TCP_RST)) == TCP_FIN)
		return tcp_track(t, side, s, true, next);
	return s->flags & (TCP_ACK | TCP_RST) ? TRACK_PASS : TRACK_INVALID;
}

/* Sets '*whole' with TRACK_WRITE only.  Also a record that is behind because packets have
 * passed without the store catches up. */
static enum track_result
track(struct nf_run *r, const struct view *v, const struct tcp_segment *s,
      struct connection *whole)
{
	const struct tcp_track *t = &v->c->track;
	struct tcp_track next;
	enum track_result result = tcp_track(t, nf_side(r), s, v->fw->liberal, &next);
	bool fits = result != TRACK_INVALID;

	if (!fits && !v->fw->liberal && nf_unseen(r))
		result = tcp_track(t, nf_side(r), s, true, &next);
	else if (!fits && !v->fw->liberal && firewall_is_older(r, v->key, v->c))
		result = track_older(t, nf_side(r), s, &next);
	if (result != TRACK_WRITE)
		return result;
	*whole = *v->c;
	whole->track = next;
	whole->track.owner = t->owner;
	if (fits)
		firewall_renew(r, v->key, whole);
	return result;
}

/* A segment of a connection that there is a record of. */
static enum nf_verdict
known_segment(struct nf_run *r, struct view *v, struct tcp_segment *s)
{
	const struct connection *c = v->c;
	struct connection whole;
	enum nf_verdict verdict;

	if (c->shift != 0)
		firewall_proxy_take(c, nf_side(r), s);
	switch (track(r, v, s, &whole)) {
	case TRACK_PASS:
		if (tcp_track_is_open(&c->track))
			nf_established(r);
		verdict = firewall_pass(r, v);
		break;
	case TRACK_WRITE:
		verdict = firewall_save(r, v, &whole);
		/* A window that has moved: firewall_is_older() makes up for its loss. */
		if (verdict == NF_SEND && c->track.state == TRACK_ESTABLISHED &&
		    whole.track.state == TRACK_ESTABLISHED)
			nf_may_lose(r);
		break;
	case TRACK_OPEN:
		return open_by_syn(r, v, s);
	default:
		return nf_drop(r, NF_DROP_STATE);
	}
	if (c->shift != 0 && verdict == NF_SEND)
		firewall_proxy_shift(r, c);
	return verdict;
}

enum nf_verdict
firewall_tcp(struct nf_run *r, struct view *v)
{
	struct tcp_segment s;

	tcp_segment_of(nf_packet(r), &s);
	if (v->c == NULL) {
		if (nf_is_syn(r))
			return open_by_syn(r, v, &s);
		if (!firewall_find_elsewhere(r, v))
			return NF_WAIT;
		if (v->c == NULL)
			return unknown_segment(r, v, &s);
	}
	if (v->c->track.state == PROXIED)
		return firewall_proxy_segment(r, v, &s);
	if (has_ended(v->c) && firewall_proxy_accepts(r, v, &s))
		return firewall_proxy_open(r, v, &s);
	return known_segment(r, v, &s);
}
