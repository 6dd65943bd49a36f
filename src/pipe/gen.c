/*
 * gen.c - the synthetic source: clients inside and the end that answers them outside,
 * with the function under test between.
 *
 * Connections are real as far as a stateful function can see: opened by a handshake,
 * closed by FINs, with window scaling so large that data needs few acknowledgements,
 * and started again from another port when they close.  The outside end keeps no
 * state: it answers to whatever addresses it sees, so the function may rewrite them.
 * The inside end finds its flow from the address and port that come back to it.
 *
 * Flows take turns, so what comes in a lap is one packet of each.  A flow that waits
 * for an answer is passed over, and asks again after a while: nothing that is lost on
 * the way stops the source.
 */
#include "pipe/gen.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_malloc.h>

#include "pipe/port.h"

enum {
	ANSWERS = 4096,			/* Queued between the ends; 2^n. */
	/* Flows looked at for each packet asked for, when most of them wait. */
	SCAN = 4,
	PREFETCH = 4,
	MAX_TRIES = 8,			/* Then the connection is given up. */
	RETRY_MS = 50,
	DUE_SHIFT = 16,			/* TSC cycles to units of gen_flow.due. */
	MAX_LATE = 1024,		/* Packets made up for after a stall. */
};

enum flow_state {
	FLOW_NEW,			/* Opens at its next turn. */
	FLOW_OPENING,			/* Waits for the answer. */
	FLOW_ACK,			/* Answered: acknowledges that next. */
	FLOW_DATA,
	FLOW_CLOSE,			/* All was sent. */
	FLOW_CLOSING,			/* Waits for the other FIN. */
	FLOW_LAST,			/* The last acknowledgement comes next. */
};

/* Both ends of one queue; one thread runs them. */
struct gen {
	struct port inside, outside;
	struct gen_frame frame;
	struct gen_flow *flow;
	uint32_t n_flows, hosts, blocks, generations;
	uint32_t first_host;
	uint32_t data_offset;		/* Of a packet's bytes, from its mbuf. */
	uint32_t turn;			/* The flow whose turn it is. */
	uint32_t retry;			/* In units of gen_flow.due. */
	uint64_t packets, total, random;
	double cycles_per_packet;	/* 0: as fast as they are asked for. */
	double paced_until;		/* TSC up to which packets were sent. */
	uint32_t answer_head, answer_tail;
	struct rte_mbuf *answer[ANSWERS];
	struct gen_stats stats;
};

static struct gen *
gen_inside(const struct port *p)
{
	return (struct gen *)(uintptr_t)((const char *)p - offsetof(struct gen, inside));
}

static struct gen *
gen_outside(const struct port *p)
{
	return (struct gen *)(uintptr_t)((const char *)p - offsetof(struct gen, outside));
}

static uint64_t
random_next(uint64_t *state)
{
	/* splitmix64, public domain. */
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static uint32_t
now_due(void)
{
	return rte_rdtsc() >> DUE_SHIFT;
}

/* Gives the flow the address and port of its next connection. */
static void
flow_restart(struct gen *g, struct gen_flow *f)
{
	uint32_t i = f - g->flow;
	uint32_t port = GEN_FIRST_PORT + f->generation * g->blocks + i / g->hosts;

	if (++f->generation == g->generations)
		f->generation = 0;
	f->host = rte_cpu_to_be_32(g->first_host + i % g->hosts);
	f->port = rte_cpu_to_be_16(port);
	f->seq = random_next(&g->random);
	f->ack = 0;
	f->left = g->packets;
	f->tries = 0;
	f->state = FLOW_NEW;
	gen_flow_sum(&g->frame, f);
}

static void
flow_send_open(struct gen *g, struct gen_flow *f, struct rte_mbuf *m)
{
	f->state = FLOW_OPENING;
	f->due = now_due() + g->retry;
	gen_control(&g->frame, f, m, TCP_SYN);
}

static void
flow_send_close(struct gen *g, struct gen_flow *f, struct rte_mbuf *m)
{
	f->state = FLOW_CLOSING;
	f->due = now_due() + g->retry;
	gen_control(&g->frame, f, m, TCP_FIN | TCP_ACK);
}

static void
flow_closed(struct gen *g, struct gen_flow *f)
{
	g->stats.closed++;
	g->stats.established--;
	flow_restart(g, f);
}

/* An answer did not come in time. */
static void
flow_retry(struct gen *g, struct gen_flow *f, struct rte_mbuf *m)
{
	g->stats.retried++;
	if (++f->tries > MAX_TRIES) {
		if (f->state == FLOW_CLOSING)
			flow_closed(g, f);
		else
			flow_restart(g, f);
	}
	if (f->state == FLOW_CLOSING)
		flow_send_close(g, f, m);
	else
		flow_send_open(g, f, m);
}

/* The turn of a flow that is not in its data phase.  Returns whether it made a packet
 * of 'm'. */
static bool
flow_turn(struct gen *g, struct gen_flow *f, struct rte_mbuf *m)
{
	switch ((enum flow_state)f->state) {
	case FLOW_NEW:
		flow_send_open(g, f, m);
		return true;
	case FLOW_OPENING:
	case FLOW_CLOSING:
		if ((int32_t)(now_due() - f->due) < 0)
			return false;
		flow_retry(g, f, m);
		return true;
	case FLOW_ACK:
		gen_control(&g->frame, f, m, TCP_ACK);
		f->state = FLOW_DATA;
		return true;
	case FLOW_CLOSE:
		if (g->frame.udp) {
			flow_closed(g, f);
			flow_send_open(g, f, m);
		} else {
			flow_send_close(g, f, m);
		}
		return true;
	case FLOW_LAST:
		gen_control(&g->frame, f, m, TCP_ACK);
		flow_closed(g, f);
		return true;
	case FLOW_DATA:
		break;
	}
	return false;
}

/* How many packets may be sent now, of 'n' that are asked for. */
static unsigned int
budget(struct gen *g, unsigned int n)
{
	if (g->total != 0)
		n = RTE_MIN((uint64_t)n, g->total - g->stats.sent);
	if (g->cycles_per_packet == 0)
		return n;

	double late = (double)rte_rdtsc() - g->paced_until;

	if (late > MAX_LATE * g->cycles_per_packet) {
		late = MAX_LATE * g->cycles_per_packet;
		g->paced_until = (double)rte_rdtsc() - late;
	}
	if (late < g->cycles_per_packet)
		return 0;
	return RTE_MIN((uint64_t)n, (uint64_t)(late / g->cycles_per_packet));
}

/* Makes up to 'n' packets; how many. */
static __rte_always_inline unsigned int
flows_send(struct gen *g, struct rte_mbuf **packets, unsigned int n, bool ipv6, bool udp)
{
	unsigned int made = 0, looked_at = 0;
	uint32_t turn = g->turn;

	for (; made < n && looked_at < SCAN * n; looked_at++) {
		struct gen_flow *f = &g->flow[turn];
		struct rte_mbuf *m = packets[made];
		unsigned int ahead = RTE_MIN(made + PREFETCH, n - 1);

		__builtin_prefetch(packets[ahead], 1);
		__builtin_prefetch((char *)packets[ahead] + g->data_offset, 1);
		if (++turn == g->n_flows)
			turn = 0;
		if (likely(f->state == FLOW_DATA)) {
			gen_data(&g->frame, f, m, ipv6, udp);
			if (--f->left == 0)
				f->state = FLOW_CLOSE;
			made++;
		} else {
			made += flow_turn(g, f, m);
		}
	}
	g->turn = turn;
	return made;
}

static unsigned int
inside_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct gen *g = gen_inside(p);
	unsigned int made;

	n = budget(g, n);
	if (n == 0 || rte_mempool_get_bulk(p->pool, (void **)packets, n) != 0)
		return 0;
	if (g->frame.ipv6)
		made = g->frame.udp ? flows_send(g, packets, n, true, true)
				    : flows_send(g, packets, n, true, false);
	else
		made = g->frame.udp ? flows_send(g, packets, n, false, true)
				    : flows_send(g, packets, n, false, false);
	if (made < n)
		rte_mempool_put_bulk(p->pool, (void **)(packets + made), n - made);
	g->stats.sent += made;
	g->paced_until += made * g->cycles_per_packet;
	return made;
}

/* Frees packets.  Those as they come from the pool and go back to it, in one go. */
static void
give_back(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int n)
{
	bool plain = true;

	for (unsigned int i = 0; i < n; i++) {
		const struct rte_mbuf *m = packets[i];

		plain &= (m->pool == pool) & (m->nb_segs == 1) &
			 (rte_mbuf_refcnt_read(m) == 1) & RTE_MBUF_DIRECT(m);
	}
	if (likely(plain))
		rte_mempool_put_bulk(pool, (void **)packets, n);
	else
		rte_pktmbuf_free_bulk(packets, n);
}

/* The flow that a packet which arrived inside belongs to, or NULL. */
static struct gen_flow *
flow_of(struct gen *g, const uint8_t *data)
{
	rte_be32_t host;
	rte_be16_t port;

	memcpy(&host, data + g->frame.dst_host, sizeof(host));
	memcpy(&port, data + g->frame.l4 + 2, sizeof(port));

	uint32_t h = rte_be_to_cpu_32(host) - g->first_host;
	uint32_t block = (uint32_t)(rte_be_to_cpu_16(port) - GEN_FIRST_PORT) % g->blocks;
	uint64_t i = (uint64_t)block * g->hosts + h;

	if (h >= g->hosts || i >= g->n_flows || g->flow[i].port != port)
		return NULL;
	return &g->flow[i];
}

static void
flow_established(struct gen *g, struct gen_flow *f)
{
	g->stats.opened++;
	g->stats.established++;
	f->tries = 0;
	gen_flow_sum(&g->frame, f);
}

static void
flow_receive_tcp(struct gen *g, struct gen_flow *f, const uint8_t *data)
{
	uint8_t flags = data[g->frame.l4 + 13];
	rte_be32_t seq, ack;

	memcpy(&seq, data + g->frame.l4 + 4, sizeof(seq));
	memcpy(&ack, data + g->frame.l4 + 8, sizeof(ack));
	if (flags & TCP_RST) {
		g->stats.reset++;
		if (f->state > FLOW_OPENING)
			flow_closed(g, f);
		else
			flow_restart(g, f);
	} else if (f->state == FLOW_OPENING && flags == (TCP_SYN | TCP_ACK) &&
		   rte_be_to_cpu_32(ack) == f->seq + 1) {
		f->seq++;
		f->ack = rte_cpu_to_be_32(rte_be_to_cpu_32(seq) + 1);
		f->state = FLOW_ACK;
		flow_established(g, f);
	} else if (f->state == FLOW_CLOSING && (flags & TCP_FIN)) {
		f->seq++;
		f->ack = rte_cpu_to_be_32(rte_be_to_cpu_32(seq) + 1);
		f->state = FLOW_LAST;
	}
}

static unsigned int
inside_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct gen *g = gen_inside(p);
	bool udp = g->frame.udp;

	for (unsigned int i = 0; i < n; i++) {
		const uint8_t *data = rte_pktmbuf_mtod(packets[i], const uint8_t *);
		struct gen_flow *f = NULL;

		if (!gen_frame_is_ours(packets[i], data, g->frame.ipv6, udp) ||
		    (f = flow_of(g, data)) == NULL) {
			g->stats.foreign++;
			continue;
		}
		if (!gen_frame_ok(&g->frame, packets[i])) {
			g->stats.corrupt++;
			continue;
		}
		g->stats.answers_delivered++;
		if (!udp) {
			flow_receive_tcp(g, f, data);
		} else if (f->state == FLOW_OPENING) {
			f->state = FLOW_DATA;
			flow_established(g, f);
		}
	}
	give_back(p->pool, packets, n);
	return n;
}

/* What the outside end says to a packet that stands out.  Returns whether it is now an
 * answer. */
static bool
outside_answer(struct gen *g, struct rte_mbuf *m)
{
	const struct gen_frame *f = &g->frame;
	const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
	const uint8_t *l4 = data + f->l4;
	uint32_t seq, ack;

	if (!gen_frame_ok(f, m)) {
		g->stats.corrupt++;
		return false;
	}
	if (f->udp) {
		gen_answer(f, m, 0, 0, 0);
		return true;
	}
	memcpy(&seq, l4 + 4, sizeof(seq));
	memcpy(&ack, l4 + 8, sizeof(ack));
	seq = rte_be_to_cpu_32(seq);
	ack = rte_be_to_cpu_32(ack);
	if ((l4[13] & TCP_RST) || (l4[13] == TCP_ACK && !gen_has_payload(f, data)))
		return false;
	if (l4[13] & TCP_SYN)
		gen_answer(f, m, TCP_SYN | TCP_ACK, ~seq, seq + 1);
	else if (l4[13] & TCP_FIN)
		gen_answer(f, m, TCP_FIN | TCP_ACK, ack, seq + 1);
	else
		gen_answer(f, m, TCP_ACK, ack, seq);
	return true;
}

/* Whether the outside end has anything to say to this packet. */
static __rte_always_inline bool
outside_wants_answer(const struct gen_frame *f, const uint8_t *data, bool udp)
{
	const uint8_t *l4 = data + f->l4;
	rte_be32_t word;

	if (udp)
		return l4[8] == GEN_OPEN;
	memcpy(&word, l4 + 4, sizeof(word));

	uint32_t seq = rte_be_to_cpu_32(word);
	bool entered = ((seq ^ (seq - f->payload_bytes)) >> GEN_ACK_SHIFT) != 0;
	return ((l4[13] & (TCP_SYN | TCP_FIN)) != 0) | entered;
}

static unsigned int
outside_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct gen *g = gen_outside(p);
	bool ipv6 = g->frame.ipv6, udp = g->frame.udp;
	unsigned int n_done = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct rte_mbuf *m = packets[i];
		const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);

		if (unlikely(!gen_frame_is_ours(m, data, ipv6, udp))) {
			g->stats.foreign++;
		} else if (unlikely(outside_wants_answer(&g->frame, data, udp))) {
			bool room = g->answer_head - g->answer_tail < ANSWERS;

			if (room && outside_answer(g, m)) {
				g->answer[g->answer_head++ % ANSWERS] = m;
				continue;
			}
		}
		packets[n_done++] = m;
	}
	g->stats.delivered += n;
	give_back(p->pool, packets, n_done);
	return n;
}

static unsigned int
outside_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct gen *g = gen_outside(p);

	n = RTE_MIN(n, g->answer_head - g->answer_tail);
	for (unsigned int i = 0; i < n; i++)
		packets[i] = g->answer[g->answer_tail++ % ANSWERS];
	g->stats.answers += n;
	return n;
}

static bool
inside_ended(const struct port *p)
{
	const struct gen *g = gen_inside(p);

	return g->total != 0 && g->stats.sent >= g->total;
}

static bool
outside_ended(const struct port *p)
{
	const struct gen *g = gen_outside(p);

	return inside_ended(&g->inside) && g->answer_head == g->answer_tail;
}

static void
gen_close(struct port *p)
{
	/* The inside, closed last, owns the memory. */
	struct gen *g = gen_inside(p);

	while (g->answer_tail != g->answer_head)
		rte_pktmbuf_free(g->answer[g->answer_tail++ % ANSWERS]);
	rte_free(g->flow);
	rte_free(g);
}

static const struct port_ops inside_ops = {
	.rx = inside_rx, .tx = inside_tx, .ended = inside_ended, .close = gen_close
};
static const struct port_ops outside_ops = { .rx = outside_rx,
					     .tx = outside_tx,
					     .ended = outside_ended };

bool
gen_stats(const struct port *inside, struct gen_stats *out)
{
	if (inside->ops != &inside_ops)
		return false;

	const struct gen_stats *s = &gen_inside(inside)->stats;

	out->sent += s->sent;
	out->delivered += s->delivered;
	out->answers += s->answers;
	out->answers_delivered += s->answers_delivered;
	out->opened += s->opened;
	out->closed += s->closed;
	out->reset += s->reset;
	out->retried += s->retried;
	out->corrupt += s->corrupt;
	out->foreign += s->foreign;
	out->flows += s->flows;
	out->established += s->established;
	return true;
}

static int
gen_queue_open(const struct gen_options *o, unsigned int queue, struct rte_mempool *pool,
	       struct gen **out)
{
	struct gen *g = rte_zmalloc("gen", sizeof(*g), RTE_CACHE_LINE_SIZE);

	if (g == NULL)
		return -ENOMEM;
	g->flow = rte_zmalloc("gen flows", o->flows * sizeof(*g->flow),
			      RTE_CACHE_LINE_SIZE);
	if (g->flow == NULL) {
		rte_free(g);
		return -ENOMEM;
	}
	gen_frame_init(&g->frame, o);
	g->inside = (struct port){
		.ops = &inside_ops, .pool = pool, .wait_fd = -1, .busy = true
	};
	g->outside = g->inside;
	g->outside.ops = &outside_ops;
	g->data_offset = sizeof(struct rte_mbuf) + rte_pktmbuf_priv_size(pool) +
			 RTE_PKTMBUF_HEADROOM;
	g->n_flows = o->flows;
	g->stats.flows = o->flows;
	g->hosts = o->hosts;
	g->blocks = (o->flows + o->hosts - 1) / o->hosts;
	g->generations = GEN_PORTS / g->blocks;
	g->first_host = GEN_FIRST_HOST + queue * GEN_MAX_HOSTS;
	g->retry = rte_get_tsc_hz() * RETRY_MS / 1000 >> DUE_SHIFT;
	g->packets = o->packets;
	g->total = o->total;
	g->random = o->seed + queue;
	g->paced_until = rte_rdtsc();
	if (o->rate != 0)
		g->cycles_per_packet = (double)rte_get_tsc_hz() / o->rate;
	for (uint32_t i = 0; i < g->n_flows; i++) {
		flow_restart(g, &g->flow[i]);
		/* Else all flows would end in the same lap. */
		g->flow[i].left = 1 + random_next(&g->random) % g->packets;
	}
	*out = g;
	return 0;
}

static int
gen_open(const struct port_request *r, struct port **queue, char *why, size_t why_bytes)
{
	struct gen_options o;
	struct gen *g;

	if (r->peer_scheme == NULL || strcmp(r->peer_scheme, "gen") != 0) {
		snprintf(why, why_bytes,
			 "gen: answers itself: the other port has to be "
			 "\"gen:\" as well");
		return -EINVAL;
	}
	for (unsigned int i = 0; r->side == NF_OUTSIDE && i < r->n_queues; i++)
		queue[i] = &gen_inside(r->inside[i])->outside;
	if (r->side == NF_OUTSIDE)
		return 0;
	if (!gen_options_read(r->rest, &o, why, why_bytes))
		return -EINVAL;
	for (unsigned int i = 0; i < r->n_queues; i++) {
		if (gen_queue_open(&o, i, r->pool[i], &g) == 0) {
			queue[i] = &g->inside;
			continue;
		}
		snprintf(why, why_bytes,
			 "gen: no memory for %u flows: fewer, or more "
			 "packet memory",
			 (unsigned int)o.flows);
		for (; i > 0; queue[i] = NULL)
			gen_close(queue[--i]);
		return -ENOMEM;
	}
	return 0;
}

static bool
gen_ok(const char *rest, char *why, size_t why_bytes)
{
	struct gen_options o;

	return gen_options_read(rest, &o, why, why_bytes);
}

const struct port_kind port_gen = { .scheme = "gen", .ok = gen_ok, .open = gen_open };
