/*
 * tap.c - a tap device, made here: what the kernel sends into it is received, and the
 * other way round.  It goes when the port is closed.
 *
 * DPDK's driver for taps learns of packets by a signal to the process, which no thread
 * here would take; without it there is little left of it to use.
 */
#define _GNU_SOURCE
#include "pipe/port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	MAX_PACKET = 64 << 10,
	MAX_PARTS = 64,
};

struct tap {
	struct port port;		/* wait_fd is the queue. */
	uint8_t buffer[MAX_PACKET];
};

static struct tap *
tap_of(const struct port *p)
{
	return (struct tap *)(uintptr_t)p;
}

static unsigned int
tap_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct tap *t = tap_of(p);
	unsigned int received = 0;

	while (received < n) {
		ssize_t bytes = read(p->wait_fd, t->buffer, sizeof(t->buffer));

		if (bytes <= 0)
			break;
		packets[received] = port_packet(p->pool, NULL, 0, t->buffer, bytes);
		if (packets[received] == NULL)
			break;
		received++;
	}
	return received;
}

static unsigned int
tap_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	unsigned int taken;

	for (taken = 0; taken < n; taken++) {
		struct iovec part[MAX_PARTS];
		unsigned int parts = 0;

		for (struct rte_mbuf *m = packets[taken]; m != NULL && parts < MAX_PARTS;
		     m = m->next) {
			part[parts].iov_base = rte_pktmbuf_mtod(m, void *);
			part[parts++].iov_len = m->data_len;
		}
		/* EIO: the device is down, and takes nothing. */
		if (writev(p->wait_fd, part, parts) < 0 &&
		    (errno == EAGAIN || errno == EIO || errno == ENOBUFS))
			break;
		rte_pktmbuf_free(packets[taken]);
	}
	return taken;
}

static void
tap_close(struct port *p)
{
	if (p->wait_fd >= 0)
		close(p->wait_fd);
	free(tap_of(p));
}

static const struct port_ops tap_ops = { .rx = tap_rx, .tx = tap_tx, .close = tap_close };

static int
queue_open(const char *name, bool several, struct rte_mempool *pool, struct port **out)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI |
					(several ? IFF_MULTI_QUEUE : 0) };
	struct tap *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return -ENOMEM;
	t->port.ops = &tap_ops;
	t->port.pool = pool;
	t->port.wait_fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (t->port.wait_fd < 0 || ioctl(t->port.wait_fd, TUNSETIFF, &r) != 0) {
		int err = -errno;

		tap_close(&t->port);
		return err;
	}
	*out = &t->port;
	return 0;
}

/* Up at once, as the far end of a cable would be. */
static int
link_up(const char *name)
{
	struct ifreq r = { .ifr_flags = 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), err = 0;

	if (fd < 0)
		return -errno;
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &r) != 0)
		err = -errno;
	r.ifr_flags |= IFF_UP;
	if (err == 0 && ioctl(fd, SIOCSIFFLAGS, &r) != 0)
		err = -errno;
	close(fd);
	return err;
}

static int
tap_open(const struct port_request *r, struct port **queue, char *why, size_t why_bytes)
{
	int err = 0;

	for (unsigned int i = 0; err == 0 && i < r->n_queues; i++)
		err = queue_open(r->rest, r->n_queues > 1, r->pool[i], &queue[i]);
	if (err == 0)
		err = link_up(r->rest);
	if (err == 0)
		return 0;
	for (unsigned int i = 0; i < r->n_queues; i++) {
		if (queue[i] != NULL)
			tap_close(queue[i]);
		queue[i] = NULL;
	}
	if (err == -EPERM || err == -EACCES)
		snprintf(why, why_bytes,
			 "tap:%s: no right to make a tap device: run as root "
			 "or give the program CAP_NET_ADMIN",
			 r->rest);
	else
		snprintf(why, why_bytes, "tap:%s: %s", r->rest,
			 err == -ENOENT ? "there is no /dev/net/tun" : strerror(-err));
	return err;
}

static bool
tap_ok(const char *rest, char *why, size_t why_bytes)
{
	if (*rest != '\0' && strlen(rest) < IF_NAMESIZE && strpbrk(rest, "/ ,:%") == NULL)
		return true;
	snprintf(why, why_bytes,
		 "\"tap:%s\": a name of at most %d characters is wanted, as "
		 "tap:snf0",
		 rest, IF_NAMESIZE - 1);
	return false;
}

const struct port_kind port_tap = { .scheme = "tap", .ok = tap_ok, .open = tap_open };
