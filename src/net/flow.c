/*
 * flow.c - the names of flows: which way they go, and how they are printed.
 *
 * Flows are keys: what these functions leave in 'out' is defined up to
 * flow_bytes(), and equal flows are equal as memory.  Every instance has to come
 * to the same name for a connection, so the order behind flow_canonical() is that
 * of the bytes on the wire, whatever the machine's own is.
 */
#include "net/packet.h"

#include <arpa/inet.h>
#include <stdio.h>

void
flow_reverse(const struct flow *f, struct flow *out)
{
	out->version = f->version;
	out->protocol = f->protocol;
	out->zone = f->zone;
	out->src_port = f->dst_port;
	out->dst_port = f->src_port;
	if (f->version == 4) {
		out->ip4.src = f->ip4.dst;
		out->ip4.dst = f->ip4.src;
	} else {
		memcpy(out->ip6.src, f->ip6.dst, sizeof(out->ip6.src));
		memcpy(out->ip6.dst, f->ip6.src, sizeof(out->ip6.dst));
	}
}

/* An IPv4 address and a port as one number, the address above. */
static inline uint64_t
order_ip4(rte_be32_t ip, rte_be16_t port)
{
	return (uint64_t)rte_be_to_cpu_32(ip) << 16 | rte_be_to_cpu_16(port);
}

bool
flow_canonical(const struct flow *f, struct flow *out)
{
	bool reverse;

	if (f->version == 4) {
		reverse = order_ip4(f->ip4.dst, f->dst_port) <
			  order_ip4(f->ip4.src, f->src_port);
	} else {
		int order = memcmp(f->ip6.dst, f->ip6.src, sizeof(f->ip6.dst));

		if (order == 0)
			order = rte_be_to_cpu_16(f->dst_port) -
				rte_be_to_cpu_16(f->src_port);
		reverse = order < 0;
	}
	if (reverse)
		flow_reverse(f, out);
	else if (f->version == 4)
		memcpy(out, f, FLOW4_BYTES);
	else
		*out = *f;
	return reverse;
}

/* An endpoint of the flow's version, whose address is at 'ip'. */
static void
endpoint_make(const struct flow *f, const void *ip, rte_be16_t port, struct endpoint *out)
{
	*out = (struct endpoint){ .port = port, .version = f->version };
	if (f->version == 4)
		memcpy(&out->ip4, ip, sizeof(out->ip4));
	else
		memcpy(out->ip6, ip, sizeof(out->ip6));
}

void
flow_source(const struct flow *f, struct endpoint *out)
{
	endpoint_make(f, f->version == 4 ? (const void *)&f->ip4.src : f->ip6.src,
		      f->src_port, out);
}

void
flow_destination(const struct flow *f, struct endpoint *out)
{
	endpoint_make(f, f->version == 4 ? (const void *)&f->ip4.dst : f->ip6.dst,
		      f->dst_port, out);
}

void
endpoint_print(const struct endpoint *e, char *text)
{
	char ip[INET6_ADDRSTRLEN];

	inet_ntop(e->version == 4 ? AF_INET : AF_INET6, e->ip6, ip, sizeof(ip));
	snprintf(text, PACKET_TEXT_BYTES, e->version == 4 ? "%s:%u" : "[%s]:%u", ip,
		 (unsigned int)rte_be_to_cpu_16(e->port));
}
