/*
 * ethdev.c - ports that are DPDK devices: NICs, and the vdevs that are as good.
 *
 * A device is one side's, a queue of it one pipe's.  What fails here is said in terms
 * of what the user wrote, and DPDK's own complaint is added, as it knows best.
 */
#define _GNU_SOURCE
#include "pipe/port.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_dev.h>
#include <rte_ethdev.h>

#include "base/log.h"
#include "pipe/eal.h"

enum {
	RING_PACKETS = 1024,
	HELD = 2 * RING_PACKETS,
	MAX_FD = 1024,
	ARGS_BYTES = 512,
};

struct ethdev {
	struct port port;
	uint16_t id, queue;
	bool owns_wait_fd;
};

static struct ethdev *
ethdev_of(const struct port *p)
{
	return (struct ethdev *)(uintptr_t)p;
}

static unsigned int
ethdev_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	const struct ethdev *e = ethdev_of(p);

	return rte_eth_rx_burst(e->id, e->queue, packets, n);
}

static unsigned int
ethdev_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	const struct ethdev *e = ethdev_of(p);

	return rte_eth_tx_burst(e->id, e->queue, packets, n);
}

static uint64_t
ethdev_missed(const struct port *p)
{
	const struct ethdev *e = ethdev_of(p);
	struct rte_eth_stats stats;

	if (e->queue != 0 || rte_eth_stats_get(e->id, &stats) != 0)
		return 0;
	return stats.imissed + stats.rx_nombuf;
}

/* The device goes with its queue 0, which is closed last. */
static void
ethdev_close(struct port *p)
{
	struct ethdev *e = ethdev_of(p);
	struct rte_eth_dev_info info;

	if (e->owns_wait_fd)
		close(e->port.wait_fd);
	if (e->queue == 0 && rte_eth_dev_info_get(e->id, &info) == 0) {
		rte_eth_dev_stop(e->id);
		rte_dev_remove(info.device);
	}
	free(e);
}

static const struct port_ops ethdev_ops = {
	.rx = ethdev_rx, .tx = ethdev_tx, .missed = ethdev_missed, .close = ethdev_close
};

__attribute__((format(printf, 3, 4))) static int
refuse(char *why, size_t why_bytes, const char *format, ...)
{
	const char *complaint = eal_complaint();
	va_list args;

	va_start(args, format);
	int n = vsnprintf(why, why_bytes, format, args);
	va_end(args);
	if (complaint[0] != '\0' && n >= 0 && (size_t)n < why_bytes)
		snprintf(why + n, why_bytes - n, " (DPDK: %s)", complaint);
	return -ENODEV;
}

static int
queues_setup(uint16_t id, const struct port_request *r,
	     const struct rte_eth_dev_info *info)
{
	static const uint64_t rss = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
	struct rte_eth_conf conf = { .rxmode.mq_mode = RTE_ETH_MQ_RX_NONE };
	uint16_t n_rx = RING_PACKETS, n_tx = RING_PACKETS;
	int err;

	if (r->n_queues > 1 && (info->flow_type_rss_offloads & rss) != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = info->flow_type_rss_offloads & rss;
	}
	conf.rxmode.offloads = info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	conf.txmode.offloads = info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	err = rte_eth_dev_configure(id, r->n_queues, r->n_queues, &conf);
	if (err == 0)
		err = rte_eth_dev_adjust_nb_rx_tx_desc(id, &n_rx, &n_tx);
	for (unsigned int i = 0; err == 0 && i < r->n_queues; i++) {
		err = rte_eth_rx_queue_setup(id, i, n_rx, SOCKET_ID_ANY, NULL,
					     r->pool[i]);
		if (err == 0)
			err = rte_eth_tx_queue_setup(id, i, n_tx, SOCKET_ID_ANY, NULL);
	}
	return err;
}

static int
device_start(uint16_t id, const char *spec, const struct port_request *r, char *why,
	     size_t why_bytes)
{
	struct rte_eth_dev_info info;
	int err = rte_eth_dev_info_get(id, &info);

	if (err != 0)
		return refuse(why, why_bytes, "%s: %s", spec, strerror(-err));
	unsigned int max = RTE_MIN(info.max_rx_queues, info.max_tx_queues);
	if (r->n_queues > max)
		return refuse(why, why_bytes,
			      "%s has %u queues, %u are needed: set "
			      "pipes: {max: %u}",
			      spec, max, r->n_queues, max);
	err = queues_setup(id, r, &info);
	if (err == 0)
		err = rte_eth_dev_start(id);
	if (err != 0)
		return refuse(why, why_bytes, "%s does not start: %s", spec,
			      strerror(-err));
	err = rte_eth_promiscuous_enable(id);
	if (err != 0 && err != -ENOTSUP)
		log_warning("port",
			    "%s: not promiscuous (%s): frames to other addresses "
			    "are not seen",
			    spec, strerror(-err));
	return 0;
}

/* Which descriptors are open: fd_set is what fits. */
static void
fds_now(bool *open)
{
	DIR *dir = opendir("/proc/self/fd");

	memset(open, 0, MAX_FD * sizeof(*open));
	if (dir == NULL)
		return;
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] != '.' && fd != dirfd(dir) && fd < MAX_FD)
			open[fd] = true;
	}
	closedir(dir);
}

/* The drivers do not tell which sockets they read; these are the AF_XDP ones that
 * were not there before.  Several may be any queue's: then each waits for all. */
static void
wait_fds_find(const bool *before, struct port **queue, unsigned int n_queues)
{
	bool after[MAX_FD];
	int found[PORT_MAX_QUEUES];
	unsigned int n = 0;

	fds_now(after);
	for (int fd = 0; fd < MAX_FD && n < PORT_MAX_QUEUES; fd++) {
		socklen_t bytes = sizeof(int);
		int domain;

		if (after[fd] && !before[fd] &&
		    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 &&
		    domain == AF_XDP)
			found[n++] = fd;
	}
	for (unsigned int i = 0; n > 0 && i < n_queues; i++) {
		struct ethdev *e = ethdev_of(queue[i]);

		if (n == 1) {
			e->port.wait_fd = found[0];
			continue;
		}
		e->port.wait_fd = epoll_create1(EPOLL_CLOEXEC);
		e->owns_wait_fd = e->port.wait_fd >= 0;
		for (unsigned int j = 0; j < n; j++) {
			struct epoll_event event = { .events = EPOLLIN };

			epoll_ctl(e->port.wait_fd, EPOLL_CTL_ADD, found[j], &event);
		}
	}
}

static int
queues_make(uint16_t id, const struct port_request *r, struct port **queue)
{
	for (unsigned int i = 0; i < r->n_queues; i++) {
		struct ethdev *e = calloc(1, sizeof(*e));

		if (e == NULL) {
			for (; i > 0; queue[i] = NULL)
				free(ethdev_of(queue[--i]));
			return -ENOMEM;
		}
		e->port.ops = &ethdev_ops;
		e->port.pool = r->pool[i];
		e->port.wait_fd = -1;
		e->id = id;
		e->queue = i;
		queue[i] = &e->port;
	}
	return 0;
}

/* Takes the device 'name' of 'bus' into use; 'spec' is what the user calls it. */
static int
device_open(const char *bus, const char *name, const char *args, const char *spec,
	    const struct port_request *r, struct port **queue, char *why,
	    size_t why_bytes)
{
	bool before[MAX_FD];
	uint16_t id;
	int err;

	fds_now(before);
	if (rte_eth_dev_get_port_by_name(name, &id) != 0 &&
	    (rte_eal_hotplug_add(bus, name, args) != 0 ||
	     rte_eth_dev_get_port_by_name(name, &id) != 0))
		return refuse(why, why_bytes, "%s cannot be opened", spec);
	err = device_start(id, spec, r, why, why_bytes);
	if (err == 0)
		err = queues_make(id, r, queue);
	if (err != 0)
		rte_eal_hotplug_remove(bus, name);
	else
		wait_fds_find(before, queue, r->n_queues);
	return err;
}

static int
pci_open(const struct port_request *r, struct port **queue, char *why, size_t why_bytes)
{
	char spec[64];

	snprintf(spec, sizeof(spec), "pci:%s", r->rest);
	return device_open("pci", r->rest, "", spec, r, queue, why, why_bytes);
}

static bool
pci_ok(const char *rest, char *why, size_t why_bytes)
{
	unsigned int domain, bus, slot, function;
	char more;

	if (sscanf(rest, "%4x:%2x:%2x.%1x%c", &domain, &bus, &slot, &function, &more) ==
		    4 ||
	    sscanf(rest, "%2x:%2x.%1x%c", &bus, &slot, &function, &more) == 3)
		return true;
	snprintf(why, why_bytes, "\"pci:%s\": an address like pci:0000:3b:02.1 is wanted",
		 rest);
	return false;
}

static bool
named_ok(const char *rest, char *why, size_t why_bytes)
{
	if (*rest != '\0' && *rest != ',' && strlen(rest) < ARGS_BYTES / 2)
		return true;
	snprintf(why, why_bytes, "a name has to follow the colon, and be shorter than %d",
		 ARGS_BYTES / 2);
	return false;
}

/* Devices whose names are ours: numbered, as each is there once in the process. */
static int
numbered_open(const char *driver, const char *args, const struct port_request *r,
	      struct port **queue, char *why, size_t why_bytes)
{
	static unsigned int number;
	char name[64], spec[64];

	snprintf(name, sizeof(name), "%s%u", driver, number++);
	snprintf(spec, sizeof(spec), "%s:%.40s", r->scheme, r->rest);
	return device_open("vdev", name, args, spec, r, queue, why, why_bytes);
}

static int
af_xdp_open(const struct port_request *r, struct port **queue, char *why,
	    size_t why_bytes)
{
	char args[ARGS_BYTES], interface[IF_NAMESIZE];

	snprintf(interface, sizeof(interface), "%.*s", (int)strcspn(r->rest, ","),
		 r->rest);
	if (if_nametoindex(interface) == 0) {
		snprintf(why, why_bytes,
			 "no interface '%s' in this network namespace: "
			 "ip link shows what there is",
			 interface);
		return -ENODEV;
	}
	snprintf(args, sizeof(args), "iface=%s,start_queue=0,queue_count=%u", r->rest,
		 r->n_queues);
	return numbered_open("net_af_xdp", args, r, queue, why, why_bytes);
}

static int
memif_open(const struct port_request *r, struct port **queue, char *why, size_t why_bytes)
{
	char args[ARGS_BYTES];

	snprintf(args, sizeof(args), "socket-abstract=no,socket=%s", r->rest);
	return numbered_open("net_memif", args, r, queue, why, why_bytes);
}

static int
vdev_open(const struct port_request *r, struct port **queue, char *why, size_t why_bytes)
{
	size_t name_bytes = strcspn(r->rest, ",");
	const char *args = r->rest + name_bytes;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)name_bytes, r->rest);
	if (*args == ',')
		args++;
	return device_open("vdev", name, args, name, r, queue, why, why_bytes);
}

static bool
vdev_ok(const char *rest, char *why, size_t why_bytes)
{
	size_t name_bytes = strcspn(rest, ",");

	/* DPDK's own names, which all end in a number. */
	if (strchr(rest, ':') == NULL || strchr(rest, ':') > rest + name_bytes)
		if (name_bytes > 4 && name_bytes < 64 && strncmp(rest, "net_", 4) == 0)
			return true;
	snprintf(why, why_bytes,
		 "\"%s\": there are pci:, af_packet:, af_xdp:, memif:, tap:, pcap:, gen: "
		 "and DPDK's vdevs, as net_null0",
		 rest);
	return false;
}

const struct port_kind port_pci = {
	.scheme = "pci", .held = HELD, .ok = pci_ok, .open = pci_open
};
const struct port_kind port_af_xdp = {
	.scheme = "af_xdp", .held = HELD, .ok = named_ok, .open = af_xdp_open
};
const struct port_kind port_memif = {
	.scheme = "memif", .held = HELD, .ok = named_ok, .open = memif_open
};
const struct port_kind port_vdev = { .held = HELD, .ok = vdev_ok, .open = vdev_open };
