/*
 * lb_icmp.c - what comes to virtual addresses and is not of a connection: ICMP errors,
 * echo requests, and the neighbours' questions where the addresses are.
 *
 * An ICMP error goes to whom the packet that it quotes came from, whichever instance it
 * arrives at (RFC 7690): the connection is found by what is quoted, and the quotation is
 * rewritten back to what its sender had sent.  It changes no connection and keeps none
 * alive (RFC 5508, 4).
 *
 * With a MAC address of their own, virtual addresses are where any instance is: all of
 * them answer with it, so there is nothing to announce when traffic moves to another one.
 */
#include "nf/lb.h"

#include "net/neighbour.h"

enum {
	ECHO_REQUEST = 8,
	ECHO6_REQUEST = 128,
	SOLICITATION = 135,
	MAX_ECHO_BYTES = 2048,			/* nf_answer() */
};

static const struct lb_place *
address_find(const struct lb *lb, const struct endpoint *e)
{
	struct endpoint address = *e;

	address.port = 0;
	return lb_find(&lb->virtual, &address, 0);
}

/* --- errors ------------------------------------------------------------------- */

/* From outside, about what a client was sent. */
static enum nf_verdict
error_to_backend(struct nf_run *r, const struct flow *quoted)
{
	const struct lb_service *s;
	struct endpoint address;
	struct lb_conn c;
	struct flow key;

	if (!packet_quoted_ok(nf_packet(r), nf_head_bytes(r)))
		return nf_drop(r, NF_DROP_CHECKSUM);
	flow_source(quoted, &address);
	s = lb_service_at(nf_static(r), &address, quoted->protocol);
	if (s == NULL)
		return nf_drop(r, NF_DROP_STATE);
	flow_reverse(quoted, &key);
	if (s->by_datagram) {
		c = (struct lb_conn){ .key = &key, .service = s };
		/* Where one of those went that fall by chance, nobody knows. */
		if (s->scheduler < LB_BY_CONNECTION || !lb_datagram_place(r, &c))
			return nf_drop(r, NF_DROP_STATE);
	} else if (!lb_conn_read(r, s, &key, NF_PEEK, &c)) {
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_STATE);
	}
	if (s->mode <= LB_NAT) {
		nf_set_dst(r, &c.backend);
		nf_set_quoted_src(r, &c.backend);
	}
	if (c.is_full)
		nf_set_quoted_dst(r, &c.source);
	lb_send_to_backend(r, &c);
	return NF_SEND;
}

/* Whether there is the connection that 'answer' names, or another one of the backend.
 * False if pending, too. */
static bool
is_of_connection(struct nf_run *r, const struct flow *answers, struct lb_answer *answer)
{
	const struct lb_service *s = answer->service;
	struct endpoint backend;
	struct lb_conn c;

	if (s->by_datagram || answer->is_read)
		return true;
	flow_source(answers, &backend);
	if (lb_conn_read(r, s, &answer->key, NF_PEEK, &c) &&
	    lb_same_endpoint(&c.backend, &backend))
		return true;
	if (nf_pending(r) || s->mode != LB_DNAT)
		return false;
	lb_former_owner(r, answers, answer);
	return answer->service != NULL;
}

/* From inside, about what a backend was sent.  Where in there it arose stays hidden. */
static enum nf_verdict
error_to_client(struct nf_run *r, const struct flow *quoted)
{
	const struct lb_service *s;
	struct lb_answer answer;
	struct flow answers;
	struct endpoint client;

	flow_reverse(quoted, &answers);
	lb_owner(r, &answers, &answer);
	if (nf_pending(r))
		return NF_WAIT;
	if (answer.service == NULL && !answer.is_ours)
		return NF_SEND;
	if (answer.service == NULL || !is_of_connection(r, &answers, &answer))
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_STATE);
	if (!packet_quoted_ok(nf_packet(r), nf_head_bytes(r)))
		return nf_drop(r, NF_DROP_CHECKSUM);
	s = answer.service;
	nf_set_src(r, &s->address);
	nf_set_quoted_dst(r, &s->address);
	if (s->mode == LB_NAT) {
		flow_source(&answer.key, &client);
		nf_set_dst(r, &client);
		nf_set_quoted_src(r, &client);
	}
	lb_send_to_client(r);
	return NF_SEND;
}

static enum nf_verdict
icmp_error(struct nf_run *r)
{
	const struct lb_place *place;
	struct endpoint to;
	struct flow quoted;

	flow_destination(nf_flow(r), &to);
	place = address_find(nf_static(r), &to);
	if (nf_side(r) == NF_OUTSIDE && (place == NULL || !place->is_virtual))
		return NF_SEND;
	if (!nf_quoted(r, &quoted))
		return nf_side(r) == NF_OUTSIDE ? nf_drop(r, NF_DROP_STATE) : NF_SEND;
	return nf_side(r) == NF_OUTSIDE ? error_to_backend(r, &quoted)
					: error_to_client(r, &quoted);
}

/* --- echo --------------------------------------------------------------------- */

static enum nf_verdict
echo(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	uint8_t frame[MAX_ECHO_BYTES];

	if ((p->flags & PACKET_FRAGMENT) || p->end > nf_head_bytes(r) ||
	    p->end > sizeof(frame))
		return nf_drop(r, NF_DROP_FRAGMENT);
	if (!packet_checksum_ok(p))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (packet_echo(p, frame) == 0)
		return nf_drop(r, NF_DROP_VERDICT);
	nf_answer(r, frame, p->end);
	return NF_KEEP;
}

/* --- neighbours --------------------------------------------------------------- */

/* Virtual addresses are asked for outside, those that backends see inside. */
static bool
ours_outside(const void *lb, const struct endpoint *address)
{
	const struct lb_place *place = address_find(lb, address);

	return place != NULL && place->is_virtual;
}

static bool
ours_inside(const void *lb, const struct endpoint *address)
{
	const struct lb_place *place = address_find(lb, address);

	return place != NULL && place->is_source;
}

static bool
neighbour(struct nf_run *r)
{
	const struct lb *lb = nf_static(r);
	uint8_t frame[NEIGHBOUR_MAX_BYTES];
	unsigned int bytes;

	if (!lb->has_mac)
		return false;
	bytes = neighbour_answer(nf_packet(r)->data, nf_head_bytes(r),
				 nf_side(r) == NF_OUTSIDE ? ours_outside : ours_inside,
				 lb, lb->mac, frame);
	if (bytes > 0)
		nf_answer(r, frame, bytes);
	return bytes > 0;
}

enum nf_verdict
lb_non_ip(struct nf_run *r)
{
	return neighbour(r) ? NF_KEEP : NF_SEND;
}

enum nf_verdict
lb_icmp(struct nf_run *r)
{
	const struct lb *lb = nf_static(r);
	const struct packet *p = nf_packet(r);
	bool is_ip4 = nf_flow(r)->version == 4;
	struct endpoint to;

	if (p->flags & PACKET_ICMP_ERROR)
		return icmp_error(r);
	if (!is_ip4 && p->icmp_type == SOLICITATION)
		return lb_non_ip(r);
	if (!lb->ping || nf_side(r) == NF_INSIDE ||
	    p->icmp_type != (is_ip4 ? ECHO_REQUEST : ECHO6_REQUEST))
		return NF_SEND;
	flow_destination(nf_flow(r), &to);
	return ours_outside(lb, &to) ? echo(r) : NF_SEND;
}
