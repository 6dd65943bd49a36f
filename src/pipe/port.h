/*
 * port.h - where packets come from and go to: a NIC or vdev through DPDK, a kernel
 * interface, capture files, or the synthetic source.  A port here is one queue of one
 * side, and belongs to one pipe's thread; opening and closing is the main thread's,
 * while no pipe runs.
 */
#ifndef PIPE_PORT_H
#define PIPE_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_mbuf.h>

#include "nf/nf.h"

struct port;

struct port_ops {
	/* Receives up to 'n' packets; they are the caller's.  Never blocks. */
	unsigned int (*rx)(struct port *, struct rte_mbuf **packets, unsigned int n);
	/* Takes up to 'n' packets; those not taken stay the caller's. */
	unsigned int (*tx)(struct port *, struct rte_mbuf **packets, unsigned int n);
	/* Nothing will ever come again.  NULL: never so. */
	bool (*ended)(const struct port *);
	/* It ended, and should not have.  NULL: never so. */
	bool (*failed)(const struct port *);
	/* Packets lost before we saw them; those of a device, not of a queue, count in
	 * its queue 0.  NULL: none are. */
	uint64_t (*missed)(const struct port *);
	/* NULL: it goes with its peer. */
	void (*close)(struct port *);
};

struct port {
	const struct port_ops *ops;
	struct rte_mempool *pool;		/* That of its packets. */
	int wait_fd;				/* Readable if rx has something; or -1.  May
						 * become -1: read it before each wait. */
	bool busy;				/* No descriptor, and yet never to be slept
						 * on: the synthetic source, a file. */
	bool ordered;				/* Packets have to leave in the order they
						 * came: a capture is reproducible. */
};

/*
 * Opens both sides, 'n_queues' of each; out->queue[side][i] are the pipes' until
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
	struct rte_mempool *pool[PORT_MAX_QUEUES]; /* One for both sides of a queue. */
};

int ports_open(const char *const spec[2], unsigned int n_queues,
	       unsigned int private_bytes, bool pace_original, struct ports *out,
	       char *why, size_t why_bytes);
/* Every packet has to be back. */
void ports_close(struct ports *p);

/* Whether the specification can be understood; nothing is opened. */
bool port_spec_ok(const char *spec, char *why, size_t why_bytes);

/* The address of a "pci:" port, for eal_start(); NULL for any other kind. */
const char *port_spec_pci(const char *spec);

/* Packets that were lost before we saw them, both sides together: rings that were
 * full, packets longer than the interface's MTU allows. */
uint64_t ports_missed(const struct ports *p);

/* What the synthetic source counts.  "Inside" is its clients' end. */
struct gen_stats {
	uint64_t sent;				/* By the clients. */
	uint64_t delivered;			/* Of these, arrived outside. */
	uint64_t answers;			/* Sent by the outside end. */
	uint64_t answers_delivered;
	uint64_t opened, closed;		/* Connections, since the start. */
	uint64_t reset;				/* Of these, by an RST. */
	uint64_t retried;			/* Packets whose answer did not come. */
	uint64_t corrupt;			/* Arrived with a wrong checksum; looked at
						 * are those that open or close. */
	uint64_t foreign;			/* Arrived, but of no connection. */
	uint32_t flows;				/* As configured... */
	uint32_t established;			/* ...and of these open now. */
};

/* All queues together; by any thread.  False if the ports are no synthetic source. */
bool ports_gen_stats(const struct ports *p, struct gen_stats *out);

/* What a kind of port is asked for: all queues of one side. */
struct port_request {
	const char *scheme;
	const char *rest;			/* What stands behind "scheme:". */
	const char *peer_scheme;		/* That of the other side. */
	enum nf_side side;
	unsigned int n_queues;
	bool pace_original;			/* With the spacing of the capture. */
	struct rte_mempool *const *pool;	/* By queue. */
	/* The outside is opened last, and then has the inside's ports here if they are
	 * of the same kind; NULL otherwise. */
	struct port *const *inside;
};

/* A packet of 'head' and 'data', one behind the other, over as many buffers as it
 * takes; NULL if there are not enough. */
struct rte_mbuf *port_packet(struct rte_mempool *pool, const void *head,
			     unsigned int head_bytes, const void *data,
			     unsigned int bytes);

/* One of these for each kind of port; the file of the kind defines it. */
struct port_kind {
	const char *scheme;			/* "af_packet"; NULL: any other. */
	unsigned int held;			/* Packets that a queue's rings hold. */
	/* Fills 'why' if it is not. */
	bool (*ok)(const char *rest, char *why, size_t why_bytes);
	/* Returns 0 with all of 'queue' set, or -errno, 'why' filled, and none. */
	int (*open)(const struct port_request *, struct port **queue, char *why,
		    size_t why_bytes);
};

extern const struct port_kind port_af_packet, port_af_xdp, port_gen, port_memif,
	port_pcap, port_pci, port_tap, port_vdev;

/* Those of one synthetic source's inside are added to 'out'. */
bool gen_stats(const struct port *inside, struct gen_stats *out);

#endif
