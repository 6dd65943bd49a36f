/*
 * mtu.c - see mtu.h.
 *
 * Few packets come here, so each fragment is a copy: nobody else has to know that packets
 * may share buffers.
 */
#include "pipe/mtu.h"

#include <rte_ip.h>

enum {
	IP4_BYTES = sizeof(struct rte_ipv4_hdr),
	IP4_MAX_BYTES = 60,

	OPTION_END = 0,
	OPTION_NOP = 1,
	OPTION_COPIED = 0x80, /* In its type: every fragment has it. */
};

enum mtu_fate
mtu_fate(const struct packet *p, unsigned int around, unsigned int mtu)
{
	const struct rte_ipv4_hdr *ip = (const void *)(p->data + p->l3);

	if (p->end - p->l3 + around <= mtu)
		return MTU_FITS;
	if (p->flow.version != 4 ||
	    (ip->fragment_offset & RTE_BE16(RTE_IPV4_HDR_DF_FLAG)))
		return MTU_TOO_BIG;
	return MTU_FRAGMENT;
}

/* The header of later fragments: of the options of 'ip', 'bytes' long in all, only those
 * that say so (RFC 791, 3.1).  Returns its length. */
static unsigned int
later_header(const uint8_t *ip, unsigned int bytes, uint8_t *out)
{
	unsigned int n = IP4_BYTES, length;

	memcpy(out, ip, IP4_BYTES);
	for (unsigned int at = IP4_BYTES; at < bytes; at += length) {
		length = 1;
		if (ip[at] == OPTION_NOP)
			continue;
		/* What is malformed is for the receiver to refuse. */
		if (ip[at] == OPTION_END || at + 1 == bytes || ip[at + 1] < 2 ||
		    ip[at + 1] > bytes - at)
			break;
		length = ip[at + 1];
		if (ip[at] & OPTION_COPIED) {
			memcpy(out + n, ip + at, length);
			n += length;
		}
	}
	while (n % 4 != 0)
		out[n++] = OPTION_END;
	out[0] = (uint8_t)(0x40 | n / 4);
	return n;
}

/* A fragment with the link header of the frame 'm', this IP header, and 'bytes' bytes
 * from 'at' on of the frame.  NULL: there are not enough buffers. */
static struct rte_mbuf *
copy_part(const struct rte_mbuf *m, uint32_t link_bytes, const uint8_t *ip,
	  unsigned int ip_bytes, uint32_t at, uint32_t bytes)
{
	struct rte_mbuf *part = rte_pktmbuf_copy(m, m->pool, at, bytes);
	char *head;

	if (part == NULL)
		return NULL;
	head = rte_pktmbuf_prepend(part, (uint16_t)(link_bytes + ip_bytes));
	if (head == NULL) {
		rte_pktmbuf_free(part);
		return NULL;
	}
	memcpy(head, rte_pktmbuf_mtod(m, const char *), link_bytes);
	memcpy(head + link_bytes, ip, ip_bytes);
	return part;
}

unsigned int
mtu_fragment(const struct rte_mbuf *m, const struct packet *p, unsigned int mtu,
	     struct rte_mbuf **out)
{
	union {
		struct rte_ipv4_hdr ip;
		uint8_t bytes[IP4_MAX_BYTES];
	} header;
	const uint8_t *old = rte_pktmbuf_mtod_offset(m, const uint8_t *, p->l3);
	unsigned int ip_bytes = (old[0] & 0x0f) * 4U, n = 0;
	uint32_t at = p->l3 + ip_bytes, offset, bytes;
	bool more;

	memcpy(header.bytes, old, ip_bytes);
	offset = rte_be_to_cpu_16(header.ip.fragment_offset);
	more = offset & RTE_IPV4_HDR_MF_FLAG;
	offset &= RTE_IPV4_HDR_OFFSET_MASK;
	for (; at < p->end; at += bytes, offset += bytes / 8) {
		bytes = RTE_MIN((mtu - ip_bytes) / 8 * 8, p->end - at);

		bool follow = more || at + bytes < p->end;

		header.ip.total_length = rte_cpu_to_be_16((uint16_t)(ip_bytes + bytes));
		header.ip.fragment_offset = rte_cpu_to_be_16(
			(uint16_t)(offset | (follow ? RTE_IPV4_HDR_MF_FLAG : 0)));
		header.ip.hdr_checksum = 0;
		header.ip.hdr_checksum = rte_ipv4_cksum(&header.ip);
		assert(n < MTU_MAX_FRAGMENTS);
		out[n] = copy_part(m, p->l3, header.bytes, ip_bytes, at, bytes);
		if (out[n] == NULL) {
			rte_pktmbuf_free_bulk(out, n);
			return 0;
		}
		if (n++ == 0)
			ip_bytes = later_header(old, ip_bytes, header.bytes);
	}
	return n;
}
