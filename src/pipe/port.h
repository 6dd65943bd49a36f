/*
 * port.h - where packets come from and go to: a NIC or vdev through DPDK, capture
 * files, or the synthetic source.  A port here is one queue of one side, and belongs
 * to one pipe's thread.
 */
#ifndef PIPE_PORT_H
#define PIPE_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_mbuf.h>

struct port;

struct port_ops {
	/* Receives up to 'n' packets; they are the caller's.  Never blocks. */
	unsigned int (*rx)(struct port *, struct rte_mbuf **packets, unsigned int n);
	/* Takes up to 'n' packets; those not taken stay the caller's. */
	unsigned int (*tx)(struct port *, struct rte_mbuf **packets, unsigned int n);
	/* Nothing will ever come again.  NULL: never so. */
	bool (*ended)(const struct port *);
	void (*close)(struct port *);
};

struct port {
	const struct port_ops *ops;
	struct rte_mempool *pool;		/* That of its packets. */
	int wait_fd;				/* Readable when rx has something; or -1. */
	bool busy;				/* Without a descriptor, and yet never to be
						 * slept on: the synthetic source. */
	bool ordered;				/* Packets have to leave in the order they
						 * came: a capture is reproducible. */
};

/*
 * Opens both sides, 'n_queues' of each; out[side][queue] are the caller's to
 * ports_close().  A specification is
 *
 *   pci:0000:3b:02.1          a NIC, by its address
 *   af_packet:eth0            a kernel interface
 *   af_xdp:eth0               the same, through XDP
 *   memif:/path               shared memory; "memif:/path,role=server"
 *   tap:name                  a tap device, made here
 *   pcap:in.pcap,out.pcap     capture files (either may be empty, "-" excluded)
 *   gen:size=64,flows=1000    the synthetic source; the outside says just "gen:"
 *   any DPDK vdev             "net_null0,copy=1"
 *
 * On failure 'why' says in one line what is wrong and what to do.
 * 'private_bytes' are reserved in each mbuf (rte_mbuf_to_priv()).
 */
#define PORT_MAX_QUEUES 8

struct ports {
	unsigned int n_queues;
	struct port *queue[2][PORT_MAX_QUEUES];
	void *context;				/* port.c's. */
};

int ports_open(const char *const spec[2], unsigned int n_queues,
	       unsigned int private_bytes, bool pace_original, struct ports *out,
	       char *why, size_t why_bytes);
void ports_close(struct ports *p);

/* Whether the specification can be understood; nothing is opened. */
bool port_spec_ok(const char *spec, char *why, size_t why_bytes);

/* Packets that the port's hardware or driver lost before we saw them, both sides
 * together. */
uint64_t ports_missed(const struct ports *p);

/* One of these for each kind of port; the file of the kind defines it. */
struct port_kind {
	const char *scheme;			/* "af_packet" */
	bool (*ok)(const char *rest, char *why, size_t why_bytes);
};

#endif
