/*
 * firewall_sctp.c - SCTP associations (RFC 9260), by the types of their chunks and their
 * verification tags.
 *
 * Every packet of a side carries the tag that the other side has chosen, which nobody off
 * the path knows; it is learned from INIT and INIT ACK, or from the HEARTBEAT with which
 * a multihomed host probes another path.  The checksum is the ends' business.
 *
 * An end that has started again sends an INIT amid the association (RFC 9260, 5.2).
 * Anybody may, so the tags that it leads to are kept apart, in 'limit', until a COOKIE
 * ECHO carries the one that only the INIT ACK has told.
 */
#include "nf/firewall.h"

enum {
	SCTP_BYTES = 12,			/* Ports, tag, checksum. */
	SCTP_TAG = 4,
	CHUNK_BYTES = 4,			/* Type, flags, length. */
	MAX_CHUNKS = 16,			/* Looked at, in one packet. */
};

enum chunk {
	DATA = 0,
	INIT = 1,
	INIT_ACK = 2,
	HEARTBEAT = 4,
	HEARTBEAT_ACK = 5,
	ABORT = 6,
	SHUTDOWN = 7,
	SHUTDOWN_ACK = 8,
	COOKIE_ECHO = 10,
	COOKIE_ACK = 11,
	SHUTDOWN_COMPLETE = 14,
};

/* What an SCTP packet says. */
struct message {
	uint32_t tag;
	uint32_t chosen;			/* INIT, INIT ACK: the tag of answers. */
	uint32_t chunks;			/* The types, a bit each, below 32. */
	bool reflects;				/* ABORT, SHUTDOWN COMPLETE: T bit. */
};

static uint32_t
load_be32(const uint8_t *at)
{
	rte_be32_t word;

	memcpy(&word, at, sizeof(word));
	return rte_be_to_cpu_32(word);
}

/* How much of the packet can be read from its SCTP header on. */
static uint32_t
readable_bytes(const struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	uint32_t end = p->end < nf_head_bytes(r) ? p->end : nf_head_bytes(r);

	return end - p->l4;
}

bool
firewall_sctp_flow(struct nf_run *r, struct flow *flow, struct flow *key)
{
	const struct packet *p = nf_packet(r);

	if (readable_bytes(r) < SCTP_BYTES + CHUNK_BYTES)
		return false;
	*flow = *nf_flow(r);
	memcpy(&flow->src_port, p->data + p->l4, sizeof(flow->src_port));
	memcpy(&flow->dst_port, p->data + p->l4 + 2, sizeof(flow->dst_port));
	flow_canonical(flow, key);
	return true;
}

static bool
has(const struct message *m, enum chunk type)
{
	return (m->chunks >> type & 1) != 0;
}

/* False: its chunks contradict their lengths, or what may stand alone does not. */
static bool
read_message(const struct nf_run *r, struct message *m)
{
	const uint8_t *start = nf_packet(r)->data + nf_packet(r)->l4;
	uint32_t left = readable_bytes(r) - SCTP_BYTES;
	const uint8_t *at = start + SCTP_BYTES;
	unsigned int n = 0;

	*m = (struct message){ .tag = load_be32(start + SCTP_TAG) };
	while (left >= CHUNK_BYTES && n < MAX_CHUNKS) {
		uint8_t type = at[0];
		uint32_t bytes = (uint32_t)at[2] << 8 | at[3];
		uint32_t padded = (bytes + 3) & ~3u;

		if (bytes < CHUNK_BYTES)
			return false;
		if ((type == INIT || type == INIT_ACK) && left >= 8)
			m->chosen = load_be32(at + CHUNK_BYTES);
		if (type == ABORT || type == SHUTDOWN_COMPLETE)
			m->reflects = (at[1] & 1) != 0;
		m->chunks |= type < 32 ? 1u << type : 0;
		n++;
		if (left <= padded)
			break;
		at += padded;
		left -= padded;
	}
	/* RFC 9260, 4: these are never bundled. */
	if ((has(m, INIT) || has(m, INIT_ACK) || has(m, SHUTDOWN_COMPLETE)) && n > 1)
		return false;
	return n > 0 && has(m, INIT) == (m->tag == 0) &&
	       (has(m, INIT) || has(m, INIT_ACK)) == (m->chosen != 0);
}

/* Whether the packet carries the tag that its side has to. */
static bool
has_right_tag(const struct connection *c, unsigned int side, const struct message *m)
{
	uint32_t own = c->track.side[side].end, other = c->track.side[!side].end;

	if (has(m, INIT))
		return true;
	if (m->reflects && m->tag == other)
		return true;
	/* A probed path: the answer brings the tag of the other direction. */
	if (own == 0 && has(m, HEARTBEAT_ACK))
		return true;
	return m->tag == own;
}

static enum nf_verdict
open_association(struct nf_run *r, struct view *v, const struct message *m)
{
	struct connection first = { .track = { .opened = side_bit(r) } };

	if (has(m, INIT)) {
		first.track.state = SCTP_WAIT;
		first.track.side[!nf_side(r)].end = m->chosen;
		return firewall_open(r, v, &first);
	}
	if (has(m, HEARTBEAT)) {
		first.track.state = SCTP_PROBED;
		first.track.side[nf_side(r)].end = m->tag;
		return firewall_open(r, v, &first);
	}
	return nf_drop(r, NF_DROP_STATE);
}

/* The steps of one that begins anew, or from both ends at once.  False: it is none. */
static bool
step_again(struct connection *c, unsigned int side, const struct message *m)
{
	struct tcp_side *own = &c->track.side[side], *other = &c->track.side[!side];

	if (has(m, INIT)) {
		if (c->track.state == SCTP_WAIT && (c->track.opened >> side & 1) != 0)
			return false;
		if (other->limit != m->chosen)
			own->limit = 0;
		other->limit = m->chosen;
		return true;
	}
	if (own->limit == 0 || m->tag != own->limit)
		return false;
	if (has(m, INIT_ACK)) {
		other->limit = m->chosen;
	} else if (has(m, COOKIE_ECHO)) {
		c->track.state = SCTP_OPEN;
		own->end = own->limit;
		other->end = other->limit;
		own->limit = other->limit = 0;
	} else {
		return has(m, ABORT) && m->tag != own->end;
	}
	return true;
}

/* The end of an association, or of the attempt. */
static bool
step_end(struct connection *c, const struct message *m)
{
	if (has(m, ABORT) || (has(m, SHUTDOWN_COMPLETE) &&
			      c->track.state == SCTP_SHUTDOWN))
		c->track.state = SCTP_CLOSED;
	else if (c->track.state == SCTP_OPEN &&
		 (has(m, SHUTDOWN) || has(m, SHUTDOWN_ACK)))
		c->track.state = SCTP_SHUTDOWN;
	else
		return false;
	return true;
}

/* Makes the association what it is after the message.  False: not valid in its state. */
static bool
step(struct connection *c, unsigned int side, const struct message *m)
{
	bool opener = (c->track.opened >> side & 1) != 0;

	if (step_end(c, m))
		return true;
	switch ((enum state)c->track.state) {
	case SCTP_WAIT:
		if (has(m, INIT_ACK) && !opener)
			c->track.side[!side].end = m->chosen;
		else if (has(m, INIT))
			c->track.side[!side].end = m->chosen;
		else if (has(m, COOKIE_ECHO) && opener)
			c->track.state = SCTP_ECHOED;
		else
			return false;
		return true;
	case SCTP_ECHOED:
		if (has(m, COOKIE_ACK) && !opener)
			c->track.state = SCTP_OPEN;
		return true;
	case SCTP_PROBED:
		if (has(m, HEARTBEAT_ACK) && !opener) {
			c->track.state = SCTP_PATH;
			c->track.side[side].end = m->tag;
			return true;
		}
		return has(m, HEARTBEAT) && opener;
	default:
		return true;
	}
}

enum nf_verdict
firewall_sctp(struct nf_run *r, struct view *v)
{
	struct connection next;
	struct message m;

	if (!read_message(r, &m))
		return nf_drop(r, NF_DROP_STATE);
	if (v->c == NULL && !firewall_find_elsewhere(r, v))
		return NF_WAIT;
	if (v->c == NULL || (v->c->track.state == SCTP_CLOSED && has(&m, INIT)))
		return open_association(r, v, &m);
	if (v->c->track.state == SCTP_OPEN)
		nf_established(r);
	next = *v->c;
	if (!step_again(&next, nf_side(r), &m) &&
	    (!has_right_tag(v->c, nf_side(r), &m) || !step(&next, nf_side(r), &m)))
		return nf_drop(r, NF_DROP_STATE);
	if (memcmp(&next, v->c, sizeof(next)) == 0)
		return firewall_pass(r, v);
	return firewall_save(r, v, &next);
}
