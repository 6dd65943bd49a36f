/*
 * port.c - opens both sides of the pipes: which kind a specification names, and the
 * pools that their packets come from.
 *
 * One pool serves both sides of a pipe, so that a packet goes back to the cache that it
 * was taken from, and no two pipes ever touch the same pool.
 */
#define _GNU_SOURCE
#include "pipe/port.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	/* 4096 in a pipe, and as many that its functions emit or are on their way
	 * between; what devices hold comes on top. */
	POOL_PACKETS = 8191,
	POOL_CACHE = 256,
	BUFFER_BYTES = 2048 + RTE_PKTMBUF_HEADROOM,
};

/* The last one takes what no other does. */
static const struct port_kind *const kinds[] = {
	&port_pci, &port_af_packet, &port_af_xdp, &port_memif,
	&port_tap, &port_pcap,      &port_gen,    &port_vdev,
};

static const struct port_kind *
kind_of(const char *spec, const char **rest)
{
	/* "gen" alone will do: in YAML the colon at the end needs quotes. */
	size_t bytes = strcspn(spec, ":");

	for (unsigned int i = 0; i < RTE_DIM(kinds); i++) {
		const char *scheme = kinds[i]->scheme;

		*rest = spec;
		if (scheme == NULL)
			return kinds[i];
		if (strlen(scheme) != bytes || memcmp(scheme, spec, bytes) != 0)
			continue;
		*rest = spec + bytes + (spec[bytes] == ':');
		return kinds[i];
	}
	return NULL;
}

bool
port_spec_ok(const char *spec, char *why, size_t why_bytes)
{
	const char *rest;
	const struct port_kind *kind = kind_of(spec, &rest);

	return kind->ok(rest, why, why_bytes);
}

const char *
port_spec_pci(const char *spec)
{
	const char *rest;

	return kind_of(spec, &rest) == &port_pci ? rest : NULL;
}

static int
pools_open(struct ports *p, unsigned int packets, unsigned int private_bytes, char *why,
	   size_t why_bytes)
{
	/* Data starts on a cache line if what lies before it fills lines. */
	uint16_t private_size = RTE_ALIGN_CEIL(private_bytes, RTE_CACHE_LINE_SIZE);

	for (unsigned int i = 0; i < p->n_queues; i++) {
		static unsigned int number; /* Names stay unique over reopening. */
		char name[RTE_MEMPOOL_NAMESIZE];

		snprintf(name, sizeof(name), "pipe%u", number++);
		p->pool[i] =
			rte_pktmbuf_pool_create(name, packets, POOL_CACHE, private_size,
						BUFFER_BYTES, SOCKET_ID_ANY);
		if (p->pool[i] == NULL) {
			snprintf(why, why_bytes,
				 "no memory for the packets of pipe %u: %u MB are "
				 "needed for each",
				 i, (packets * (BUFFER_BYTES + private_size) >> 20) + 2);
			return -ENOMEM;
		}
	}
	return 0;
}

int
ports_open(const char *const spec[2], unsigned int n_queues, unsigned int private_bytes,
	   bool pace_original, struct ports *out, char *why, size_t why_bytes)
{
	struct ports p = { .n_queues = n_queues };
	const struct port_kind *kind[2];
	unsigned int packets = POOL_PACKETS;
	struct port_request request = { .n_queues = n_queues,
					.pace_original = pace_original,
					.pool = p.pool };
	int err;

	if (n_queues == 0 || n_queues > PORT_MAX_QUEUES) {
		snprintf(why, why_bytes, "%u pipes: 1 to %d are possible", n_queues,
			 PORT_MAX_QUEUES);
		return -EINVAL;
	}
	for (unsigned int side = 0; side < 2; side++) {
		kind[side] = kind_of(spec[side], &request.rest);
		if (!kind[side]->ok(request.rest, why, why_bytes))
			return -EINVAL;
		packets += kind[side]->held;
	}
	err = pools_open(&p, packets, private_bytes, why, why_bytes);
	if (err != 0)
		goto close;
	for (unsigned int side = 0; side < 2; side++) {
		kind_of(spec[side], &request.rest);
		request.scheme = kind[side]->scheme;
		request.peer_scheme = kind[!side]->scheme;
		request.side = side;
		if (side == NF_OUTSIDE && kind[0] == kind[1])
			request.inside = p.queue[NF_INSIDE];
		err = kind[side]->open(&request, p.queue[side], why, why_bytes);
		if (err != 0)
			goto close;
	}
	*out = p;
	return 0;
close:
	ports_close(&p);
	return err;
}

/* Puts bytes behind those of the packet; returns the last buffer or NULL. */
static struct rte_mbuf *
append(struct rte_mbuf *packet, struct rte_mbuf *last, const uint8_t *data,
       unsigned int bytes)
{
	while (bytes > 0) {
		unsigned int n = RTE_MIN(bytes, rte_pktmbuf_tailroom(last));

		if (n == 0) {
			last->next = rte_pktmbuf_alloc(packet->pool);
			if (last->next == NULL)
				return NULL;
			last = last->next;
			packet->nb_segs++;
			continue;
		}
		memcpy(rte_pktmbuf_mtod_offset(last, void *, last->data_len), data, n);
		last->data_len += n;
		packet->pkt_len += n;
		data += n;
		bytes -= n;
	}
	return last;
}

struct rte_mbuf *
port_packet(struct rte_mempool *pool, const void *head, unsigned int head_bytes,
	    const void *data, unsigned int bytes)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	struct rte_mbuf *last;

	if (m == NULL)
		return NULL;
	last = append(m, m, head, head_bytes);
	if (last != NULL && append(m, last, data, bytes) != NULL)
		return m;
	rte_pktmbuf_free(m);
	return NULL;
}

/* The outside goes first: it was opened last, and knows the inside. */
void
ports_close(struct ports *p)
{
	for (unsigned int side = 2; side-- > 0;) {
		for (unsigned int i = p->n_queues; i-- > 0;) {
			struct port *port = p->queue[side][i];

			if (port != NULL && port->ops->close != NULL)
				port->ops->close(port);
			p->queue[side][i] = NULL;
		}
	}
	for (unsigned int i = 0; i < p->n_queues; i++) {
		rte_mempool_free(p->pool[i]);
		p->pool[i] = NULL;
	}
}

uint64_t
ports_missed(const struct ports *p)
{
	uint64_t n = 0;

	for (unsigned int side = 0; side < 2; side++) {
		for (unsigned int i = 0; i < p->n_queues; i++) {
			const struct port *port = p->queue[side][i];

			if (port->ops->missed != NULL)
				n += port->ops->missed(port);
		}
	}
	return n;
}

bool
ports_gen_stats(const struct ports *p, struct gen_stats *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned int i = 0; i < p->n_queues; i++)
		if (!gen_stats(p->queue[NF_INSIDE][i], out))
			return false;
	return true;
}
