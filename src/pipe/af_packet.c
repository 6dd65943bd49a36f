/*
 * af_packet.c - a kernel interface, through packet sockets.
 *
 * DPDK has a driver for this, reachable as "net_af_packet0,iface=eth0".  It asks the
 * kernel to put fragments together and then cuts off what does not fit, hands on the
 * checksums that a veth leaves unfinished, sees what the host itself sends, and waits
 * without end in transmit when the interface is down.  A function in the middle of the
 * traffic can have none of that.
 *
 * Packets are received from a ring shared with the kernel (packet_mmap.rst, version 2:
 * each frame is there at once, without a timeout for a block) and sent by sendmmsg()
 * from where they lie.
 */
#define _GNU_SOURCE
#include "pipe/port.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_ip.h>
#include <rte_tcp.h>
#include <rte_udp.h>

#include "base/log.h"
#include "net/packet.h"

enum {
	RING_BYTES = 4 << 20,			/* 2048 frames of the usual MTU. */
	BLOCK_BYTES = 64 << 10,
	MIN_FRAME_BYTES = 2048,
	MAX_FRAME_BYTES = 128 << 10,
	/* What the kernel puts before the packet, and two VLAN tags. */
	FRAME_HEAD_BYTES = 128,
	SEND_BYTES = 4 << 20,			/* The socket's, not yet sent. */
	SEND_PACKETS = 64,			/* In one call. */
	SEND_PARTS = 256,
	CHECK_TURNS = 256,			/* Idle ones between looks at the link. */
};

struct af_packet {
	struct port port;			/* Receives from wait_fd. */
	int tx_fd;
	uint8_t *ring;
	unsigned int frame_bytes, n_frames, at;
	unsigned int idle;
	bool down, told;
	uint64_t unsuitable;			/* Packets longer than the ring's frames or
						 * the MTU. */
	_Atomic uint64_t dropped;		/* By the kernel: the ring was full. */
	unsigned int mtu;
	char name[IF_NAMESIZE];
};

static struct af_packet *
af_packet_of(const struct port *p)
{
	return (struct af_packet *)(uintptr_t)p;
}

/* Does what a NIC would have done to a packet that never sees one. */
static void
checksum_finish(uint8_t *data, uint32_t bytes)
{
	struct packet p;
	unsigned int at;
	uint16_t check = 0;

	if (packet_parse(&p, data, bytes, bytes) != PACKET_OK || p.l4 == 0)
		return;
	if (p.flow.protocol == PROTO_TCP)
		at = p.l4 + offsetof(struct rte_tcp_hdr, cksum);
	else if (p.flow.protocol == PROTO_UDP)
		at = p.l4 + offsetof(struct rte_udp_hdr, dgram_cksum);
	else
		return;
	memcpy(data + at, &check, sizeof(check));
	if (p.flow.version == 4)
		check = rte_ipv4_udptcp_cksum((const void *)(data + p.l3), data + p.l4);
	else if (p.l4 == p.l3 + sizeof(struct rte_ipv6_hdr))
		check = rte_ipv6_udptcp_cksum((const void *)(data + p.l3), data + p.l4);
	memcpy(data + at, &check, sizeof(check));
}

static void
unsuitable(struct af_packet *a, unsigned int bytes)
{
	a->unsuitable++;
	if (a->told)
		return;
	a->told = true;
	log_warning("port", "af_packet:%s: a packet of %u bytes, the MTU is %u: dropped, as all "
			    "such; on the interface that sends: ethtool -K NAME tso off gso off",
		    a->name, bytes, a->mtu);
}

/* The packet in a frame of the ring, or NULL if there is no buffer for it. */
static struct rte_mbuf *
frame_packet(const struct af_packet *a, struct tpacket2_hdr *h)
{
	uint8_t *data = (uint8_t *)h + h->tp_mac;
	unsigned int bytes = h->tp_snaplen, head_bytes = 0;
	uint8_t head[2 * ETH_ALEN + 4];

	if (h->tp_status & TP_STATUS_CSUMNOTREADY)
		checksum_finish(data, bytes);
	if ((h->tp_status & TP_STATUS_VLAN_VALID) && bytes >= 2 * ETH_ALEN) {
		bool told = h->tp_status & TP_STATUS_VLAN_TPID_VALID;
		rte_be16_t tag[2] = { rte_cpu_to_be_16(told ? h->tp_vlan_tpid : ETH_P_8021Q),
				      rte_cpu_to_be_16(h->tp_vlan_tci) };

		memcpy(head, data, 2 * ETH_ALEN);
		memcpy(head + 2 * ETH_ALEN, tag, sizeof(tag));
		head_bytes = sizeof(head);
		data += 2 * ETH_ALEN;
		bytes -= 2 * ETH_ALEN;
	}
	return port_packet(a->port.pool, head, head_bytes, data, bytes);
}

/* An interface that goes down leaves an error on the socket, for which poll() wakes
 * until it is read; when it comes up again packets simply arrive. */
static void
link_check(struct af_packet *a)
{
	int err = 0;
	socklen_t bytes = sizeof(err);

	if (getsockopt(a->port.wait_fd, SOL_SOCKET, SO_ERROR, &err, &bytes) != 0 || err == 0)
		return;
	if (!a->down)
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
		uint32_t status = __atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE);

		if ((status & TP_STATUS_USER) == 0)
			break;
		if (h->tp_snaplen < h->tp_len) {
			unsuitable(a, h->tp_len);
		} else {
			packets[received] = frame_packet(a, h);
			if (packets[received] == NULL)
				break;
			received++;
		}
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
		unsigned int want = messages_fill(message, part, packets + taken,
						  RTE_MIN(n - taken, (unsigned int)SEND_PACKETS));
		int sent = want == 0 ? 0 : sendmmsg(a->tx_fd, message, want, MSG_DONTWAIT);

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
	return setsockopt(fd, SOL_PACKET, option, &value, sizeof(value)) == 0 ? 0 : -errno;
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
	if (setsockopt(a->port.wait_fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)) != 0)
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
	int bytes = SEND_BYTES;

	/* Without a protocol nothing is received: not before bind(), when it would be
	 * from all interfaces, and never on the one that sends. */
	a->port.wait_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	a->tx_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (a->port.wait_fd < 0 || a->tx_fd < 0)
		return -errno;
	int err = option_set(a->port.wait_fd, PACKET_IGNORE_OUTGOING, 1);
	if (err == 0)
		err = ring_open(a);
	if (err == 0)
		err = option_set(a->tx_fd, PACKET_QDISC_BYPASS, 1);
	if (err != 0)
		return err;
	if (setsockopt(a->tx_fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
		setsockopt(a->tx_fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	if (setsockopt(a->port.wait_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous,
		       sizeof(promiscuous)) != 0)
		return -errno;
	if (bind(a->tx_fd, (const void *)&address, sizeof(address)) != 0)
		return -errno;
	address.sll_protocol = htons(ETH_P_ALL);
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

/* Receive offload puts segments together to packets longer than the MTU. */
static void
offload_off(int fd, const char *name)
{
	struct ethtool_value value = { .cmd = ETHTOOL_GGRO };
	struct ifreq r = { .ifr_data = (void *)&value };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (ioctl(fd, SIOCETHTOOL, &r) == 0 && value.data != 0) {
		value = (struct ethtool_value){ .cmd = ETHTOOL_SGRO };
		if (ioctl(fd, SIOCETHTOOL, &r) == 0)
			log_info("port", "af_packet:%s: switched its receive offload (gro) off",
				 name);
	}
	value = (struct ethtool_value){ .cmd = ETHTOOL_GFLAGS };
	if (ioctl(fd, SIOCETHTOOL, &r) == 0 && (value.data & ETH_FLAG_LRO)) {
		value.cmd = ETHTOOL_SFLAGS;
		value.data &= ~ETH_FLAG_LRO;
		if (ioctl(fd, SIOCETHTOOL, &r) == 0)
			log_info("port", "af_packet:%s: switched its receive offload (lro) off",
				 name);
	}
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
queue_open(const char *name, unsigned int index, struct rte_mempool *pool, struct port **out)
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
af_packet_open(const struct port_request *r, struct port **queue, char *why, size_t why_bytes)
{
	unsigned int index = if_nametoindex(r->rest), i;
	uint16_t fanout = 0;
	int err = 0;

	if (index == 0) {
		snprintf(why, why_bytes, "no interface '%s' in this network namespace: "
					 "ip link shows what there is",
			 r->rest);
		return -ENODEV;
	}
	for (i = 0; err == 0 && i < r->n_queues; i++) {
		err = queue_open(r->rest, index, r->pool[i], &queue[i]);
		if (err == 0 && r->n_queues > 1)
			err = fanout_join(queue[i]->wait_fd, &fanout);
	}
	if (err == 0) {
		offload_off(queue[0]->wait_fd, r->rest);
		return 0;
	}
	for (i = 0; i < r->n_queues; i++) {
		if (queue[i] != NULL)
			af_packet_close(queue[i]);
		queue[i] = NULL;
	}
	if (err == -EPERM || err == -EACCES)
		snprintf(why, why_bytes, "af_packet:%s: no right to open packet sockets: run "
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
	snprintf(why, why_bytes, "\"af_packet:%s\": the name of an interface is wanted, as "
				 "af_packet:eth0",
		 rest);
	return false;
}

const struct port_kind port_af_packet = {
	.scheme = "af_packet", .ok = af_packet_ok, .open = af_packet_open
};
