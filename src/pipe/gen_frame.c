/*
 * gen_frame.c - the synthetic source's packets as bytes: the frame that all are copied
 * from, and those that open, answer and close connections.
 */
#include "pipe/gen.h"

#include <rte_ip.h>
#include <rte_tcp.h>
#include <rte_udp.h>

enum {
	WINDOW_SCALE = 14,		/* RFC 7323's largest: nobody fills it. */
	SYN_OPTION_BYTES = 8,
};

static const uint8_t syn_options[SYN_OPTION_BYTES] = { 2, 4, 1440 >> 8, 1440 & 0xff,
						       1, 3, 3,         WINDOW_SCALE };

static uint16_t
l4_check(const struct gen_frame *f, const uint8_t *data)
{
	return f->ipv6 ? rte_ipv6_udptcp_cksum((const void *)(data + 14), data + f->l4)
		       : rte_ipv4_udptcp_cksum((const void *)(data + 14), data + f->l4);
}

/* Length and checksum of the IP header for 'l4_bytes' behind it. */
static void
ip_finish(const struct gen_frame *f, uint8_t *data, unsigned int l4_bytes)
{
	if (f->ipv6) {
		struct rte_ipv6_hdr *ip = (struct rte_ipv6_hdr *)(data + 14);

		ip->payload_len = rte_cpu_to_be_16(l4_bytes);
		ip->hop_limits = 64;
	} else {
		struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(data + 14);

		ip->total_length = rte_cpu_to_be_16(sizeof(*ip) + l4_bytes);
		ip->time_to_live = 64;
		ip->hdr_checksum = 0;
		ip->hdr_checksum = rte_ipv4_cksum(ip);
	}
}

static void
ip_init(const struct gen_frame *f, uint8_t *data, const uint8_t *to)
{
	static const uint8_t from6[16] = { 0xfd, 0, [7] = 1 };
	uint8_t protocol = f->udp ? PROTO_UDP : PROTO_TCP;

	if (f->ipv6) {
		struct rte_ipv6_hdr *ip = (struct rte_ipv6_hdr *)(data + 14);

		ip->vtc_flow = RTE_BE32(0x60000000);
		ip->proto = protocol;
		memcpy(ip->src_addr, from6, sizeof(from6));
		memcpy(ip->dst_addr, to, 16);
	} else {
		struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(data + 14);

		ip->version_ihl = RTE_IPV4_VHL_DEF;
		ip->fragment_offset = RTE_BE16(RTE_IPV4_HDR_DF_FLAG);
		ip->next_proto_id = protocol;
		memcpy(&ip->dst_addr, to, 4);
	}
}

void
gen_frame_init(struct gen_frame *f, const struct gen_options *options)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1 };

	memset(f, 0, sizeof(*f));
	f->udp = options->udp;
	f->ipv6 = options->ipv6;
	f->bytes = options->size - GEN_FCS;
	f->l4 = f->ipv6 ? 54 : 34;
	f->src_host = f->ipv6 ? 34 : 26;
	f->dst_host = f->ipv6 ? 50 : 30;
	f->payload_bytes = f->bytes - f->l4 - (f->udp ? 8 : 20);

	uint8_t *l4 = f->data + f->l4;
	rte_be16_t type =
		f->ipv6 ? RTE_BE16(RTE_ETHER_TYPE_IPV6) : RTE_BE16(RTE_ETHER_TYPE_IPV4);
	memcpy(f->data, macs, sizeof(macs));
	memcpy(f->data + 12, &type, sizeof(type));
	ip_init(f, f->data, options->to);
	if (f->udp) {
		struct rte_udp_hdr *udp = (struct rte_udp_hdr *)l4;

		udp->dst_port = rte_cpu_to_be_16(options->port);
		udp->dgram_len = rte_cpu_to_be_16(f->bytes - f->l4);
	} else {
		struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)l4;

		tcp->dst_port = rte_cpu_to_be_16(options->port);
		tcp->data_off = 0x50;
		tcp->tcp_flags = TCP_ACK;
		tcp->rx_win = 0xffff;
	}
	ip_finish(f, f->data, f->bytes - f->l4);
	f->l4_sum = ~l4_check(f, f->data);
	if (!f->ipv6) {
		memcpy(&f->ip_sum, f->data + 24, 2);
		f->ip_sum = ~f->ip_sum;
	}
}

void
gen_flow_sum(const struct gen_frame *f, struct gen_flow *flow)
{
	uint32_t host = (flow->host & 0xffff) + (flow->host >> 16);
	uint32_t ip = f->ip_sum + host;

	ip = (ip & 0xffff) + (ip >> 16);
	ip = (ip & 0xffff) + (ip >> 16);
	flow->ip_sum = ~ip;
	flow->sum = f->l4_sum + host + flow->port;
	if (!f->udp)
		flow->sum += (flow->ack & 0xffff) + (flow->ack >> 16);
}

/* Makes a segment without data of a frame whose addresses and ports are right. */
static void
segment_finish(const struct gen_frame *f, struct rte_mbuf *m, uint8_t tcp_flags,
	       uint32_t seq, uint32_t ack)
{
	uint8_t *data = rte_pktmbuf_mtod(m, uint8_t *);
	struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(data + f->l4);
	unsigned int l4_bytes = sizeof(*tcp);

	tcp->sent_seq = rte_cpu_to_be_32(seq);
	tcp->recv_ack = rte_cpu_to_be_32(ack);
	tcp->tcp_flags = tcp_flags;
	tcp->rx_win = 0xffff;
	tcp->tcp_urp = 0;
	tcp->cksum = 0;
	if (tcp_flags & TCP_SYN) {
		memcpy(tcp + 1, syn_options, sizeof(syn_options));
		l4_bytes += sizeof(syn_options);
	}
	tcp->data_off = l4_bytes << 2;
	ip_finish(f, data, l4_bytes);
	tcp->cksum = l4_check(f, data);

	unsigned int bytes = f->l4 + l4_bytes;
	if (bytes < GEN_MIN_FRAME) {
		memset(data + bytes, 0, GEN_MIN_FRAME - bytes);
		bytes = GEN_MIN_FRAME;
	}
	gen_mbuf_init(m, bytes);
}

/* Marks a UDP packet that is otherwise complete. */
static void
datagram_finish(const struct gen_frame *f, struct rte_mbuf *m, uint8_t mark)
{
	uint8_t *data = rte_pktmbuf_mtod(m, uint8_t *);
	struct rte_udp_hdr *udp = (struct rte_udp_hdr *)(data + f->l4);

	data[f->l4 + sizeof(*udp)] = mark;
	udp->dgram_cksum = 0;
	udp->dgram_cksum = l4_check(f, data);
}

void
gen_control(const struct gen_frame *f, const struct gen_flow *flow, struct rte_mbuf *m,
	    uint8_t tcp_flags)
{
	gen_mbuf_init(m, f->bytes);

	uint8_t *data = rte_pktmbuf_mtod(m, uint8_t *);
	unsigned int copied = f->udp ? f->bytes : f->l4 + sizeof(struct rte_tcp_hdr);
	uint32_t ack = rte_be_to_cpu_32(flow->ack);

	memcpy(data, f->data, copied);
	memcpy(data + f->src_host, &flow->host, sizeof(flow->host));
	memcpy(data + f->l4, &flow->port, sizeof(flow->port));
	if (!f->udp) {
		segment_finish(f, m, tcp_flags, flow->seq, tcp_flags & TCP_ACK ? ack : 0);
		return;
	}
	ip_finish(f, data, f->bytes - f->l4);
	datagram_finish(f, m, GEN_OPEN);
}

static void
swap(uint8_t *a, uint8_t *b, unsigned int bytes)
{
	uint8_t old[16];

	memcpy(old, a, bytes);
	memcpy(a, b, bytes);
	memcpy(b, old, bytes);
}

void
gen_answer(const struct gen_frame *f, struct rte_mbuf *m, uint8_t tcp_flags, uint32_t seq,
	   uint32_t ack)
{
	uint8_t *data = rte_pktmbuf_mtod(m, uint8_t *);

	swap(data, data + 6, 6);
	if (f->ipv6)
		swap(data + 22, data + 38, 16);
	else
		swap(data + 26, data + 30, 4);
	swap(data + f->l4, data + f->l4 + 2, 2);
	if (!f->udp)
		segment_finish(f, m, tcp_flags, seq, ack);
	else
		datagram_finish(f, m, GEN_ANSWER);
}

bool
gen_frame_ok(const struct gen_frame *f, const struct rte_mbuf *m)
{
	const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
	unsigned int ip_bytes;

	if (f->ipv6) {
		const struct rte_ipv6_hdr *ip = (const struct rte_ipv6_hdr *)(data + 14);

		ip_bytes = sizeof(*ip) + rte_be_to_cpu_16(ip->payload_len);
	} else {
		const struct rte_ipv4_hdr *ip = (const struct rte_ipv4_hdr *)(data + 14);

		ip_bytes = rte_be_to_cpu_16(ip->total_length);
		if (rte_ipv4_cksum(ip) != 0)
			return false;
	}
	if (ip_bytes + 14 > m->data_len || ip_bytes + 14u < f->l4 + (f->udp ? 9u : 20u))
		return false;

	/* Over a right checksum the sum is 0; DPDK turns that into 0xffff for UDP. */
	uint16_t check = l4_check(f, data);
	return check == 0 || (f->udp && check == 0xffff);
}

bool
gen_has_payload(const struct gen_frame *f, const uint8_t *data)
{
	/* IPv6 counts what is behind its header. */
	const uint8_t *length = data + (f->ipv6 ? 18 : 16);
	unsigned int head_bytes = f->ipv6 ? 20 : 40;

	return (unsigned int)(length[0] << 8 | length[1]) > head_bytes;
}
