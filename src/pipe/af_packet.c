/*
 * af_packet.c - a kernel interface, through packet sockets.
 *
 * DPDK has a driver for this, reachable as "net_af_packet0,iface=eth0".  It asks the
 * kernel to put fragments together and then cuts off what does not fit, hands on the
 * checksums and segments that a veth leaves unfinished, sees what the host itself sends,
 * and waits without end in transmit when the interface is down.  A function in the middle
 * of the traffic can have none of that.
 *
 * Packets are received from a ring shared with the kernel (packet_mmap.rst, version 2:
 * each frame is there at once, without a timeout for a block); those that do not fit
 * into its frames are read from the socket.  They are sent by sendmmsg() from where
 * they lie.
 */
#define _GNU_SOURCE
#include "pipe/port.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "pipe/segment.h"

enum {
	RING_BYTES = 4 << 20,		/* 2048 frames of the usual MTU. */
	BLOCK_BYTES = 64 << 10,
	MIN_FRAME_BYTES = 2048,
	MAX_FRAME_BYTES = 128 << 10,
	/* What the kernel puts before the packet, and two VLAN tags. */
	FRAME_HEAD_BYTES = 128,
	MAX_SEGMENTS = 256,		/* In one packet. */
	LARGE_BYTES = 128 << 10,
	SOCKET_BYTES = 4 << 20,		/* Not yet sent, or too long for a frame. */
	SEND_PACKETS = 64,		/* In one call. */
	SEND_PARTS = 256,
	CHECK_TURNS = 256,		/* Idle ones between looks at the link. */
};

struct af_packet {
	struct port port;		/* Receives from wait_fd. */
	int tx_fd;
	uint8_t *ring;
	unsigned int frame_bytes, n_frames, at;
	unsigned int idle;
	bool down, told;
	bool tells;			/* One queue for all of the interface. */
	uint64_t unsuitable;		/* Longer than the MTU, or no TCP though many
					 * in one. */
	_Atomic uint64_t dropped;	/* The ring was full, or the pool empty. */
	unsigned int mtu;
	char name[IF_NAMESIZE];
	unsigned int n_waiting, n_given; /* Of 'waiting'. */
	struct rte_mbuf *waiting[MAX_SEGMENTS];
	uint8_t large[LARGE_BYTES];	/* For a packet longer than a frame. */
};

static struct af_packet *
af_packet_of(const struct port *p)
{
	return (struct af_packet *)(uintptr_t)p;
}

static void
unsuitable(struct af_packet *a, unsigned int bytes)
{
	a->unsuitable++;
	if (a->told)
		return;
	a->told = true;
	log_warning("port",
		    "af_packet:%s: a packet of %u bytes does not fit, its MTU is %u: "
		    "dropped, as all such",
		    a->name, bytes, a->mtu);
}

/* Puts the VLAN tag back that the kernel took out, in front of which there are a few
 * bytes that nobody needs any more. */
static uint8_t *
tag_insert(const struct tpacket2_hdr *h, uint8_t *data)
{
	bool told = h->tp_status & TP_STATUS_VLAN_TPID_VALID;
	rte_be16_t tag[2] = { rte_cpu_to_be_16(told ? h->tp_vlan_tpid : ETH_P_8021Q),
			      rte_cpu_to_be_16(h->tp_vlan_tci) };

	memmove(data - sizeof(tag), data, 2 * ETH_ALEN);
	memcpy(data - sizeof(tag) + 2 * ETH_ALEN, tag, sizeof(tag));
	return data - sizeof(tag);
}

/* Takes the packet of a frame that is ours: it waits as one or more afterwards, or is
 * lost. */
static void
frame_take(struct af_packet *a, struct tpacket2_hdr *h)
{
	uint8_t *data = (uint8_t *)h + h->tp_mac;
	uint32_t bytes = h->tp_snaplen;
	struct virtio_net_hdr virtio;

	a->n_given = a->n_waiting = 0;
	if (h->tp_status & TP_STATUS_COPY) {
		ssize_t got = recv(a->port.wait_fd, a->large, sizeof(a->large),
				   MSG_DONTWAIT | MSG_TRUNC);

		data = a->large + sizeof(virtio);
		bytes = got > (ssize_t)sizeof(virtio) ? got - sizeof(virtio) : 0;
		if (bytes == 0 || got > (ssize_t)sizeof(a->large)) {
			unsuitable(a, bytes);
			return;
		}
	} else if (bytes < h->tp_len) {
		a->dropped++;		/* The socket's buffer was full. */
		return;
	}
	memcpy(&virtio, data - sizeof(virtio), sizeof(virtio));
	if ((h->tp_status & TP_STATUS_VLAN_VALID) && bytes >= 2 * ETH_ALEN) {
		data = tag_insert(h, data);
		bytes += 4;
		virtio.csum_start += 4;
	}
	if (virtio.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		a->n_waiting = segment_tcp(a->port.pool, data, bytes, &virtio, a->waiting,
					   MAX_SEGMENTS);
		if (a->n_waiting == 0)
			unsuitable(a, bytes);
		return;
	}
	segment_checksum(data, bytes, &virtio);
	a->waiting[0] = port_packet(a->port.pool, NULL, 0, data, bytes);
	a->n_waiting = a->waiting[0] != NULL;
	a->dropped += a->waiting[0] == NULL;
}

/* An interface that goes down leaves an error on the socket, for which poll() wakes
 * until it is read; when it comes up again packets simply arrive. */
static void
link_check(struct af_packet *a)
{
	int err = 0;
	socklen_t bytes = sizeof(err);

	if (getsockopt(a->port.wait_fd, SOL_SOCKET, SO_ERROR, &err, &bytes) != 0 ||
	    err == 0)
		return;
	if (!a->down && a->tells)
		log_warning("port", "af_packet:%s: %s, waiting", a->name, strerror(err));
	a->down = true;
}

static unsigned int
af_packet_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct af_packet *a = af_packet_of(p);
	unsigned int received = 0;

	while (received < n) {
		struct tpacket2_hdr *h =
			(struct tpacket2_hdr *)(a->ring + (size_t)a->at * a->frame_bytes);

		if (a->n_given < a->n_waiting) {
			packets[received++] = a->waiting[a->n_given++];
			continue;
		}
		if (!(__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			break;
		frame_take(a, h);
		__atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		a->at = a->at + 1 < a->n_frames ? a->at + 1 : 0;
	}
	if (received == 0 && ++a->idle % CHECK_TURNS == 0)
		link_check(a);
	else if (received > 0)
		a->down = false;
	return received;
}

/* Describes packets to the kernel, as many as fit; how many. */
static unsigned int
messages_fill(struct mmsghdr *message, struct iovec *part, struct rte_mbuf **packets,
	      unsigned int n)
{
	unsigned int filled, parts = 0;

	memset(message, 0, n * sizeof(*message));
	for (filled = 0; filled < n; filled++) {
		struct msghdr *h = &message[filled].msg_hdr;

		if (parts + packets[filled]->nb_segs > SEND_PARTS)
			break;
		h->msg_iov = &part[parts];
		for (struct rte_mbuf *m = packets[filled]; m != NULL; m = m->next) {
			part[parts].iov_base = rte_pktmbuf_mtod(m, void *);
			part[parts++].iov_len = m->data_len;
			h->msg_iovlen++;
		}
	}
	return filled;
}

static unsigned int
af_packet_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct af_packet *a = af_packet_of(p);
	struct mmsghdr message[SEND_PACKETS];
	struct iovec part[SEND_PARTS];
	unsigned int taken = 0;

	while (taken < n) {
		unsigned int want =
			messages_fill(message, part, packets + taken,
				      RTE_MIN(n - taken, (unsigned int)SEND_PACKETS));
		int sent =
			want == 0 ? 0 : sendmmsg(a->tx_fd, message, want, MSG_DONTWAIT);

		if (want == 0 || (sent < 0 && errno == EMSGSIZE)) {
			/* It would be in the way of all others for ever. */
			unsuitable(a, packets[taken]->pkt_len);
			sent = 1;
		}
		if (sent <= 0)
			break;
		rte_pktmbuf_free_bulk(packets + taken, sent);
		taken += sent;
	}
	return taken;
}

static uint64_t
af_packet_missed(const struct port *p)
{
	struct af_packet *a = af_packet_of(p);
	struct tpacket_stats stats;
	socklen_t bytes = sizeof(stats);

	/* Reading them sets them to 0. */
	if (getsockopt(p->wait_fd, SOL_PACKET, PACKET_STATISTICS, &stats, &bytes) == 0)
		a->dropped += stats.tp_drops;
	return a->dropped + a->unsuitable;
}

static void
af_packet_close(struct port *p)
{
	struct af_packet *a = af_packet_of(p);

	while (a->n_given < a->n_waiting)
		rte_pktmbuf_free(a->waiting[a->n_given++]);
	if (a->ring != NULL)
		munmap(a->ring, (size_t)a->n_frames * a->frame_bytes);
	if (a->tx_fd >= 0)
		close(a->tx_fd);
	if (a->port.wait_fd >= 0)
		close(a->port.wait_fd);
	free(a);
}

static const struct port_ops af_packet_ops = { .rx = af_packet_rx,
					       .tx = af_packet_tx,
					       .missed = af_packet_missed,
					       .close = af_packet_close };

static int
option_set(int fd, int option, int value)
{
	return setsockopt(fd, SOL_PACKET, option, &value, sizeof(value)) == 0 ? 0
									      : -errno;
}

/* As far as we may. */
static void
buffer_set(int fd, int force, int option)
{
	int bytes = SOCKET_BYTES;

	if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)) != 0)
		setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof(bytes));
}

static int
ring_open(struct af_packet *a)
{
	unsigned int frame = MIN_FRAME_BYTES;

	while (frame < MAX_FRAME_BYTES && frame < a->mtu + FRAME_HEAD_BYTES)
		frame *= 2;
	unsigned int block = RTE_MAX(frame, (unsigned int)BLOCK_BYTES);
	struct tpacket_req req = { .tp_block_size = block,
				   .tp_block_nr = RING_BYTES / block,
				   .tp_frame_size = frame,
				   .tp_frame_nr = RING_BYTES / frame };
	int err = option_set(a->port.wait_fd, PACKET_VERSION, TPACKET_V2);

	if (err != 0)
		return err;
	if (setsockopt(a->port.wait_fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)) !=
	    0)
		return -errno;
	void *ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			  a->port.wait_fd, 0);
	if (ring == MAP_FAILED)
		return -errno;
	a->ring = ring;
	a->frame_bytes = frame;
	a->n_frames = req.tp_frame_nr;
	return 0;
}

static int
sockets_open(struct af_packet *a, unsigned int index)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_ifindex = index };
	struct packet_mreq promiscuous = { .mr_ifindex = index,
					   .mr_type = PACKET_MR_PROMISC };

	/* Without a protocol nothing is received: not before bind(), when it would be
	 * from all interfaces, and never on the one that sends. */
	a->port.wait_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	a->tx_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (a->port.wait_fd < 0 || a->tx_fd < 0)
		return -errno;
	int err = option_set(a->port.wait_fd, PACKET_IGNORE_OUTGOING, 1);
	if (err == 0)
		err = option_set(a->port.wait_fd, PACKET_VNET_HDR, 1);
	if (err == 0)
		err = option_set(a->port.wait_fd, PACKET_COPY_THRESH, 1);
	if (err == 0)
		err = ring_open(a);
	if (err == 0)
		err = option_set(a->tx_fd, PACKET_QDISC_BYPASS, 1);
	if (err != 0)
		return err;
	buffer_set(a->tx_fd, SO_SNDBUFFORCE, SO_SNDBUF);
	buffer_set(a->port.wait_fd, SO_RCVBUFFORCE, SO_RCVBUF);
	if (setsockopt(a->port.wait_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous,
		       sizeof(promiscuous)) != 0)
		return -errno;
	if (bind(a->tx_fd, (const void *)&address, sizeof(address)) != 0)
		return -errno;
	address.sll_protocol = rte_cpu_to_be_16(ETH_P_ALL);
	if (bind(a->port.wait_fd, (const void *)&address, sizeof(address)) != 0)
		return -errno;
	return 0;
}

/* Has the kernel spread packets over the queues, both directions of a connection to
 * the same one; fragments stay what they are. */
static int
fanout_join(int fd, uint16_t *id)
{
	int flags = PACKET_FANOUT_HASH | (*id == 0 ? PACKET_FANOUT_FLAG_UNIQUEID : 0);
	int value = flags << 16 | *id;
	socklen_t bytes = sizeof(value);

	int err = option_set(fd, PACKET_FANOUT, value);
	if (err != 0)
		return err;
	if (getsockopt(fd, SOL_PACKET, PACKET_FANOUT, &value, &bytes) != 0)
		return -errno;
	*id = value & 0xffff;
	return 0;
}

static unsigned int
mtu_of(const char *name)
{
	struct ifreq r = { .ifr_mtu = 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool known;

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	known = fd >= 0 && ioctl(fd, SIOCGIFMTU, &r) == 0;
	if (fd >= 0)
		close(fd);
	return known ? r.ifr_mtu : ETH_DATA_LEN;
}

static int
queue_open(const char *name, unsigned int index, struct rte_mempool *pool,
	   struct port **out)
{
	struct af_packet *a = calloc(1, sizeof(*a));

	if (a == NULL)
		return -ENOMEM;
	a->port.ops = &af_packet_ops;
	a->port.pool = pool;
	a->port.wait_fd = -1;
	a->tx_fd = -1;
	a->mtu = mtu_of(name);
	snprintf(a->name, sizeof(a->name), "%s", name);

	int err = sockets_open(a, index);
	if (err != 0) {
		af_packet_close(&a->port);
		return err;
	}
	*out = &a->port;
	return 0;
}

static int
af_packet_open(const struct port_request *r, struct port **queue, char *why,
	       size_t why_bytes)
{
	unsigned int index = if_nametoindex(r->rest), i;
	uint16_t fanout = 0;
	int err = 0;

	if (index == 0) {
		snprintf(why, why_bytes,
			 "no interface '%s' in this network namespace: "
			 "ip link shows what there is",
			 r->rest);
		return -ENODEV;
	}
	for (i = 0; err == 0 && i < r->n_queues; i++) {
		err = queue_open(r->rest, index, r->pool[i], &queue[i]);
		if (err == 0)
			af_packet_of(queue[i])->tells = i == 0;
		if (err == 0 && r->n_queues > 1)
			err = fanout_join(queue[i]->wait_fd, &fanout);
	}
	if (err == 0)
		return 0;
	for (i = 0; i < r->n_queues; i++) {
		if (queue[i] != NULL)
			af_packet_close(queue[i]);
		queue[i] = NULL;
	}
	if (err == -EPERM || err == -EACCES)
		snprintf(why, why_bytes,
			 "af_packet:%s: no right to open packet sockets: run "
			 "as root or give the program CAP_NET_RAW",
			 r->rest);
	else
		snprintf(why, why_bytes, "af_packet:%s: %s", r->rest, strerror(-err));
	return err;
}

static bool
af_packet_ok(const char *rest, char *why, size_t why_bytes)
{
	if (*rest != '\0' && strlen(rest) < IF_NAMESIZE && strpbrk(rest, "/ ,") == NULL)
		return true;
	snprintf(why, why_bytes,
		 "\"af_packet:%s\": the name of an interface is wanted, as "
		 "af_packet:eth0",
		 rest);
	return false;
}

const struct port_kind port_af_packet = { .scheme = "af_packet",
					  .ok = af_packet_ok,
					  .open = af_packet_open };
