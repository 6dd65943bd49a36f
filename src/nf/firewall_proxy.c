/*
 * firewall_proxy.c - SYN proxy: a client has to show that it is where it says, before a
 * server, or a record, hears of it.
 *
 * Its SYN is answered with a cookie (firewall_cookie.c) and forgotten.  The ACK that
 * brings a cookie back makes the record, in PROXIED, and a SYN to the server with the
 * client's own number.  The server's SYN/ACK establishes the connection: the server gets
 * its ACK, and the client the window that the SYN/ACK with the cookie kept shut.  From
 * then on segments go through, with the difference between the server's numbers and the
 * cookie's, 'shift', taken from one direction and added to the other.  The record is in
 * the server's numbers.
 *
 * What the cookie has no room for is not offered: windows are not scaled and there are no
 * timestamps.  Nothing is sent again by a clock: a client that waits asks for its window,
 * which sends the SYN again.  Frames are made as the firewall sees flows, so the
 * functions that are in a chain with it must not translate.
 */
#include "nf/firewall.h"

enum {
	IP4_BYTES = 20,
	IP6_BYTES = 40,
	TCP_BYTES = 20,
	MAX_LINK_BYTES = 22,			/* Ethernet, with two tags. */
	MAX_OPTIONS = 8,
	TCP_SUM = 16,
	TTL = 64,
	MSS4 = 1460,				/* For a path with Ethernet's MTU. */
	MSS6 = 1440,
};

/* A segment without data. */
struct reply {
	bool reverse;				/* To where the packet came from. */
	uint8_t flags;
	uint32_t seq, ack;
	uint16_t window;
	uint16_t mss;				/* Options; 0 or false: none. */
	bool sack;
};

struct writer {
	uint8_t *at;
};

static void
put16(struct writer *w, uint32_t word)
{
	*w->at++ = (uint8_t)(word >> 8);
	*w->at++ = (uint8_t)word;
}

static void
put32(struct writer *w, uint32_t word)
{
	put16(w, word >> 16);
	put16(w, word & UINT16_MAX);
}

static void
put(struct writer *w, const uint8_t *from, unsigned int bytes)
{
	memcpy(w->at, from, bytes);
	w->at += bytes;
}

static uint32_t
add_words(uint32_t sum, const uint8_t *at, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i += 2)
		sum += (uint32_t)at[i] << 8 | at[i + 1];
	return sum;
}

static void
put_sum(uint8_t *at, uint32_t sum)
{
	sum = (sum & UINT16_MAX) + (sum >> 16);
	sum = (sum & UINT16_MAX) + (sum >> 16);
	at[0] = (uint8_t)(~sum >> 8);
	at[1] = (uint8_t)~sum;
}

/* Two fields of 'bytes' that stand side by side at 'from', exchanged or not. */
static void
put_pair(struct writer *w, const uint8_t *from, unsigned int bytes, bool reverse)
{
	put(w, from + (reverse ? bytes : 0), bytes);
	put(w, from + (reverse ? 0 : bytes), bytes);
}

/* Writes the IP header around 'bytes' of TCP.  Returns the sum of the pseudo header. */
static uint32_t
put_ip(struct writer *w, const struct packet *p, unsigned int bytes, bool reverse)
{
	const uint8_t *ip = p->data + p->l3;
	uint8_t *start = w->at;

	if (p->flow.version == 4) {
		put16(w, 0x4500);
		put16(w, IP4_BYTES + bytes);
		put32(w, 0x4000);		/* No identifier: it is not fragmented. */
		put16(w, TTL << 8 | PROTO_TCP);
		put16(w, 0);
		put_pair(w, ip + 12, 4, reverse);
		put_sum(start + 10, add_words(0, start, IP4_BYTES));
		return add_words(PROTO_TCP + bytes, start + 12, 8);
	}
	put32(w, 6U << 28);
	put16(w, bytes);
	put16(w, PROTO_TCP << 8 | TTL);
	put_pair(w, ip + 8, 16, reverse);
	return add_words(PROTO_TCP + bytes, start + 8, 32);
}

/* Writes the segment, made of the packet's headers.  Returns its length. */
static unsigned int
make_frame(const struct packet *p, const struct reply *s, uint8_t *frame)
{
	unsigned int options = s->mss == 0 ? 0 : s->sack ? 8 : 4;
	unsigned int bytes = TCP_BYTES + options;
	struct writer w = { frame };
	uint8_t *tcp;
	uint32_t sum;

	put_pair(&w, p->data, 6, s->reverse);
	put(&w, p->data + 12, p->l3 - 12u);
	sum = put_ip(&w, p, bytes, s->reverse);
	tcp = w.at;
	put_pair(&w, p->data + p->l4, 2, s->reverse);
	put32(&w, s->seq);
	put32(&w, s->ack);
	put16(&w, bytes / 4 << 12 | s->flags);
	put16(&w, s->window);
	put32(&w, 0);
	if (options > 0)
		put32(&w, 0x02040000u | s->mss);
	if (options > 4)
		put32(&w, 0x04020101u);		/* SACK permitted, 2 no-operations. */
	put_sum(tcp + TCP_SUM, add_words(sum, tcp, bytes));
	return (unsigned int)(w.at - frame);
}

static void
send_segment(struct nf_run *r, const struct reply *s)
{
	uint8_t frame[MAX_LINK_BYTES + IP6_BYTES + TCP_BYTES + MAX_OPTIONS];
	unsigned int bytes = make_frame(nf_packet(r), s, frame);

	if (s->reverse)
		nf_answer(r, frame, bytes);
	else
		nf_emit(r, frame, bytes);
}

/* --- before the record -------------------------------------------------------- */

enum nf_verdict
firewall_proxy_answer(struct nf_run *r, struct view *v)
{
	struct tcp_options o;
	struct reply answer = { .reverse = true, .flags = TCP_SYN | TCP_ACK };
	struct firewall_syn syn = { .seq = packet_tcp_seq(nf_packet(r)) };

	packet_tcp_options(nf_packet(r), &o);
	syn.mss = o.mss != 0 ? o.mss : v->key->version == 4 ? 536 : 1220;
	syn.sack = o.sack_permitted;
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (!firewall_cookie_make(r, v->flow, &syn, &answer.seq))
		return nf_drop(r, NF_DROP_LIMIT);
	answer.ack = syn.seq + 1;
	answer.mss = v->key->version == 4 ? MSS4 : MSS6;
	answer.sack = syn.sack;
	send_segment(r, &answer);
	return NF_KEEP;
}

/* To the server, as the client would. */
static void
send_syn(struct nf_run *r, const struct firewall_syn *syn, uint16_t window)
{
	struct reply s = { .flags = TCP_SYN, .seq = syn->seq, .window = window,
			   .mss = syn->mss, .sack = syn->sack };

	send_segment(r, &s);
}

/* --- until the server has answered -------------------------------------------- */

/* Whether the segment brings a cookie back, and for which SYN.  If the ACK that was to is
 * lost, the client asks for its window: many do by an old byte's number. */
static bool
brings_cookie(const struct nf_run *r, const struct view *v, const struct tcp_segment *s,
	      struct firewall_syn *syn)
{
	if ((s->flags & (TCP_SYN | TCP_RST | TCP_ACK | TCP_FIN)) != TCP_ACK)
		return false;
	syn->seq = s->seq - 1;
	if (firewall_cookie_check(r, v->flow, s->ack - 1, syn))
		return true;
	syn->seq = s->seq;
	return firewall_cookie_check(r, v->flow, s->ack - 1, syn);
}

/*
 * In PROXIED: 'end' of the client's side is its next number, that of the server's the one
 * after the cookie; 'limit' of the client's is the window it has sent, and 'ack' the MSS;
 * 'scale' says whether it may send SACKs.
 */
bool
firewall_proxy_accepts(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	struct firewall_syn syn;

	return v->fw->proxy != PROXY_OFF && brings_cookie(r, v, s, &syn);
}

enum nf_verdict
firewall_proxy_open(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	struct firewall_syn syn = { 0 };
	struct connection first = { .track = { .state = PROXIED,
					       .opened = side_bit(r) } };
	struct tcp_side *client = &first.track.side[nf_side(r)];
	enum nf_verdict verdict;

	brings_cookie(r, v, s, &syn);
	*client = (struct tcp_side){ .end = syn.seq + 1, .limit = s->window,
				     .ack = syn.mss, .scale = syn.sack };
	first.track.side[!nf_side(r)].end = s->ack;
	verdict = firewall_open(r, v, &first);
	if (verdict != NF_SEND)
		return verdict;
	send_syn(r, &syn, s->window);
	return NF_KEEP;
}

/* The server's SYN/ACK: both may begin. */
static enum nf_verdict
establish(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	struct connection next = *v->c;
	struct tcp_side *server = &next.track.side[nf_side(r)];
	struct tcp_side *client = &next.track.side[!nf_side(r)];
	struct reply to_server = { .reverse = true, .flags = TCP_ACK, .seq = client->end,
				   .ack = s->end, .window = (uint16_t)client->limit };
	struct reply to_client = { .flags = TCP_ACK, .seq = server->end,
				   .ack = client->end, .window = s->window };
	enum nf_verdict verdict;

	next.shift = server->end - s->end;
	tcp_track_join(&next.track, nf_side(r), s, (uint16_t)client->limit);
	firewall_renew(r, v->key, &next);
	verdict = firewall_save(r, v, &next);
	if (verdict != NF_SEND)
		return verdict;
	send_segment(r, &to_server);
	send_segment(r, &to_client);
	return NF_KEEP;
}

/* It refuses: the client gets its RST, behind the cookie. */
static enum nf_verdict
refused(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	struct connection next = *v->c;
	enum nf_verdict verdict;

	next.track.state = CLOSE;
	verdict = firewall_save(r, v, &next);
	if (verdict == NF_SEND)
		nf_shift_tcp(r, v->c->track.side[nf_side(r)].end - s->seq, 0);
	return verdict;
}

enum nf_verdict
firewall_proxy_segment(struct nf_run *r, struct view *v, const struct tcp_segment *s)
{
	const struct connection *c = v->c;
	unsigned int side = nf_side(r);
	bool from_client = (c->track.opened >> side & 1) != 0;
	const struct tcp_side *client = &c->track.side[from_client ? side : !side];
	struct firewall_syn syn = { .seq = client->end - 1, .mss = (uint16_t)client->ack,
				    .sack = client->scale != 0 };
	uint8_t flags = s->flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST);

	if (!from_client && flags == (TCP_SYN | TCP_ACK) && s->ack == client->end)
		return establish(r, v, s);
	if (!from_client && flags == (TCP_RST | TCP_ACK) && s->ack == client->end)
		return refused(r, v, s);
	if (from_client && (flags & TCP_RST) != 0 && s->seq == client->end) {
		if (!nf_checksum_ok(r))
			return nf_drop(r, NF_DROP_CHECKSUM);
		firewall_forget(r, v);
		return nf_drop(r, NF_DROP_STATE);
	}
	/* It waits, or asks whether it may send. */
	if (from_client && flags == TCP_ACK && s->ack == c->track.side[!side].end) {
		send_syn(r, &syn, (uint16_t)client->limit);
		return NF_KEEP;
	}
	return nf_drop(r, NF_DROP_STATE);
}

/* --- from then on ------------------------------------------------------------- */

void
firewall_proxy_take(const struct connection *c, unsigned int side, struct tcp_segment *s)
{
	if (c->track.opened >> side & 1) {
		s->ack -= c->shift;
		s->sack -= c->shift;
	}
}

void
firewall_proxy_shift(struct nf_run *r, const struct connection *c)
{
	if (c->track.opened >> nf_side(r) & 1)
		nf_shift_tcp(r, 0, -c->shift);
	else
		nf_shift_tcp(r, c->shift, 0);
}
