/*
 * segment.h - what a NIC would have done to a packet that never saw one: interfaces of
 * the same host hand on packets whose checksum is not filled in and which are many
 * segments in one.
 */
#ifndef PIPE_SEGMENT_H
#define PIPE_SEGMENT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

#include <rte_mbuf.h>

/* Fills in the checksum that 'h' says is missing. */
void segment_checksum(uint8_t *data, uint32_t bytes, const struct virtio_net_hdr *h);

/*
 * Cuts the TCP packet at 'data', a frame with up to two VLAN tags, into segments of
 * h->gso_size.  Returns how many, at most 'max'; fewer than there are if the pool is
 * empty, which TCP repairs.  0: it is no TCP packet.  'data' is changed.
 */
unsigned int segment_tcp(struct rte_mempool *pool, uint8_t *data, uint32_t bytes,
			 const struct virtio_net_hdr *h, struct rte_mbuf **out,
			 unsigned int max);

#endif
