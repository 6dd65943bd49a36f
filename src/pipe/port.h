/*
 * port.h - where packets come from and go to: a NIC or vdev through DPDK, capture
 * files, or the synthetic source.  A port queue belongs to one pipe's thread.
 */
#ifndef PIPE_PORT_H
#define PIPE_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_mbuf.h>

struct port;

struct port_ops {
	const char *scheme;			/* "af_packet" in "af_packet:veth0". */
	/* Receives up to 'n' packets; they are the caller's.  Never blocks. */
	unsigned int (*rx)(struct port *, struct rte_mbuf **packets, unsigned int n);
	/* Takes up to 'n' packets; those not taken stay the caller's. */
	unsigned int (*tx)(struct port *, struct rte_mbuf **packets, unsigned int n);
	/* Nothing will ever come again.  NULL: never so. */
	bool (*ended)(const struct port *);
	void (*close)(struct port *);
	/* Packets have to leave in the order in which they came, and dropped ones
	 * are told of by tx_none(): a capture is a reproducible file. */
	bool ordered;
};

struct port {
	const struct port_ops *ops;
	int wait_fd;				/* Readable when rx has something; or -1. */
};

#endif
