/*
 * segment.c - see segment.h.  The kernel's word is taken for where headers are only as
 * far as the packet goes: it passes on what others wrote.
 */
#include "pipe/segment.h"

#include <rte_ether.h>
#include <rte_hash_crc.h>
#include <rte_ip.h>
#include <rte_tcp.h>

#include "net/packet.h"
#include "pipe/port.h"

enum {
	MAX_HEAD = 256,
	SCTP_SUM = 8, /* Where that of SCTP stands, and no other. */
};

/* A CRC-32C (RFC 9260, appendix A), though the kernel does not say so. */
static void
sctp_checksum(uint8_t *sctp, uint32_t bytes)
{
	rte_le32_t sum = 0;

	memcpy(sctp + SCTP_SUM, &sum, sizeof(sum));
	sum = rte_cpu_to_le_32(~rte_hash_crc(sctp, bytes, UINT32_MAX));
	memcpy(sctp + SCTP_SUM, &sum, sizeof(sum));
}

void
segment_checksum(uint8_t *data, uint32_t bytes, const struct virtio_net_hdr *h)
{
	uint32_t at = (uint32_t)h->csum_start + h->csum_offset;

	if (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || h->csum_start > bytes ||
	    at + 2 > bytes)
		return;
	if (h->csum_offset == SCTP_SUM && at + 4 <= bytes) {
		sctp_checksum(data + h->csum_start, bytes - h->csum_start);
		return;
	}
	/* The field holds the sum of the pseudo header. */
	uint16_t sum = ~rte_raw_cksum(data + h->csum_start, bytes - h->csum_start);
	if (sum == 0)
		sum = 0xffff;		/* As good; and not "none" in UDP. */
	memcpy(data + at, &sum, sizeof(sum));
}

static uint32_t
l3_of(const uint8_t *data, uint32_t bytes)
{
	uint32_t at = RTE_ETHER_HDR_LEN;

	for (unsigned int tags = 0; tags < 2 && at < bytes; tags++) {
		uint16_t type;

		memcpy(&type, data + at - 2, sizeof(type));
		if (type != RTE_BE16(RTE_ETHER_TYPE_VLAN) &&
		    type != RTE_BE16(RTE_ETHER_TYPE_QINQ))
			break;
		at += RTE_VLAN_HLEN;
	}
	return at;
}

/* Lengths and checksums of a segment with 'l4_bytes' behind its IP header. */
static void
segment_finish(uint8_t *l3, struct rte_tcp_hdr *tcp, uint32_t l4_bytes, bool ipv6,
	       unsigned int number)
{
	tcp->cksum = 0;
	if (ipv6) {
		struct rte_ipv6_hdr *ip = (struct rte_ipv6_hdr *)l3;

		ip->payload_len = rte_cpu_to_be_16(l4_bytes);
		tcp->cksum = rte_ipv6_udptcp_cksum(ip, tcp);
	} else {
		struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)l3;

		ip->total_length = rte_cpu_to_be_16(rte_ipv4_hdr_len(ip) + l4_bytes);
		ip->packet_id =
			rte_cpu_to_be_16(rte_be_to_cpu_16(ip->packet_id) + number);
		ip->hdr_checksum = 0;
		ip->hdr_checksum = rte_ipv4_cksum(ip);
		tcp->cksum = rte_ipv4_udptcp_cksum(ip, tcp);
	}
}

unsigned int
segment_tcp(struct rte_mempool *pool, uint8_t *data, uint32_t bytes,
	    const struct virtio_net_hdr *h, struct rte_mbuf **out, unsigned int max)
{
	uint8_t type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
	bool ipv6 = type == VIRTIO_NET_HDR_GSO_TCPV6;
	uint32_t l3 = l3_of(data, bytes), l4 = h->csum_start;
	uint32_t l4_min =
		l3 + (ipv6 ? sizeof(struct rte_ipv6_hdr) : sizeof(struct rte_ipv4_hdr));
	const struct rte_tcp_hdr *whole = (const struct rte_tcp_hdr *)(data + l4);
	uint8_t head[MAX_HEAD];
	unsigned int made = 0;

	if ((type != VIRTIO_NET_HDR_GSO_TCPV4 && !ipv6) || h->gso_size == 0)
		return 0;
	if (l4 < l4_min || l4 + sizeof(*whole) > bytes || (ipv6 && l4 != l4_min))
		return 0;
	if (!ipv6 &&
	    l4 != l3 + rte_ipv4_hdr_len((const struct rte_ipv4_hdr *)(data + l3)))
		return 0;
	uint32_t tcp_bytes = (whole->data_off >> 4) * 4, head_bytes = l4 + tcp_bytes;
	if (tcp_bytes < sizeof(*whole) || head_bytes > bytes || head_bytes > MAX_HEAD)
		return 0;

	/* Each segment gets its headers where the end of the one before was. */
	memcpy(head, data, head_bytes);
	for (uint32_t at = head_bytes; at < bytes && made < max; at += h->gso_size) {
		uint32_t n = RTE_MIN(bytes - at, (uint32_t)h->gso_size);
		uint8_t *start = data + at - head_bytes;
		struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(start + l4);

		memcpy(start, head, head_bytes);
		tcp->sent_seq = rte_cpu_to_be_32(rte_be_to_cpu_32(tcp->sent_seq) + at -
						 head_bytes);
		if (at + n < bytes)
			tcp->tcp_flags &= ~(TCP_FIN | TCP_PSH);
		if (made > 0)
			tcp->tcp_flags &= ~RTE_TCP_CWR_FLAG;
		segment_finish(start + l3, tcp, tcp_bytes + n, ipv6, made);
		out[made] = port_packet(pool, NULL, 0, start, head_bytes + n);
		if (out[made] == NULL)
			break;
		made++;
	}
	return made;
}
