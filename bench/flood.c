/*
 * flood.c - the program `bench-flood`: 64-byte UDP packets of many flows, as fast as one
 * core can hand them to a network device.  What compares a function with the kernel
 * (bench/kernel.py) has to give both the same.
 *
 *   bench-flood DEVICE DESTINATION-MAC FLOWS SECONDS
 *
 * Flows go from 10.0.0.0/16 to 192.0.2.1, each from an address and port of its own.
 * Prints one JSON object: how many packets the device took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	FRAME_BYTES = 60,			/* 64 with the FCS. */
	BURST = 64,
	SERVER = 0xc0000201,			/* 192.0.2.1 */
	CLIENTS = 0x0a000100,			/* 10.0.1.0, and on. */
};

struct frame {
	struct ether_header ether;
	struct iphdr ip;
	struct udphdr udp;
	uint8_t data[FRAME_BYTES - 42];
} __attribute__((packed));

_Static_assert(sizeof(struct frame) == FRAME_BYTES, "the smallest");

static int
fail(const char *what)
{
	fprintf(stderr, "bench-flood: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Behind the queue of the device, which would drop what it cannot hold. */
static int
open_device(const char *name)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1;
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_ifindex = (int)if_nametoindex(name) };

	if (fd < 0 || to.sll_ifindex == 0 ||
	    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) != 0 ||
	    bind(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
		return -1;
	return fd;
}

static uint16_t
ip_checksum(const void *header)
{
	uint16_t word[10];
	uint32_t sum = 0;

	memcpy(word, header, sizeof(word));
	for (unsigned int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~(sum + (sum >> 16));
}

/* UDP without a checksum: a function has less to do, and so has the kernel. */
static void
make(struct frame *f, const uint8_t *mac, unsigned int flow)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->ether.ether_dhost, mac, ETH_ALEN);
	f->ether.ether_shost[0] = 0x02;
	f->ether.ether_type = htons(ETHERTYPE_IP);
	f->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
				.tot_len = htons(FRAME_BYTES - 14),
				.saddr = htonl(CLIENTS + flow % 1000),
				.daddr = htonl(SERVER) };
	f->ip.check = ip_checksum(&f->ip);
	f->udp = (struct udphdr){ .source = htons((uint16_t)(20000 + flow / 1000)),
				  .dest = htons(80), .len = htons(FRAME_BYTES - 34) };
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Returns how many were taken, or -1. */
static long
flood(int fd, struct frame *frame, unsigned int n_flows, double seconds)
{
	struct iovec piece[BURST];
	struct mmsghdr message[BURST] = { 0 };
	double end = now() + seconds;
	unsigned int flow = 0;
	long sent = 0;

	while (now() < end) {
		for (unsigned int i = 0; i < BURST; i++) {
			piece[i] = (struct iovec){ &frame[flow], FRAME_BYTES };
			message[i].msg_hdr.msg_iov = &piece[i];
			message[i].msg_hdr.msg_iovlen = 1;
			flow = flow + 1 < n_flows ? flow + 1 : 0;
		}

		int n = sendmmsg(fd, message, BURST, 0);

		if (n < 0 && errno != ENOBUFS && errno != EAGAIN)
			return -1;
		sent += n > 0 ? n : 0;
	}
	return sent;
}

int
main(int argc, char **argv)
{
	unsigned int m[ETH_ALEN], n_flows = argc == 5 ? (unsigned int)atoi(argv[3]) : 0;
	uint8_t mac[ETH_ALEN];

	if (n_flows == 0 || n_flows > 1000 * 1000 ||
	    sscanf(argv[2], "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) {
		fprintf(stderr, "usage: bench-flood DEVICE DESTINATION-MAC FLOWS SECONDS\n");
		return 2;
	}
	for (unsigned int i = 0; i < ETH_ALEN; i++)
		mac[i] = (uint8_t)m[i];

	struct frame *frame = malloc(n_flows * sizeof(*frame));
	int fd = open_device(argv[1]);

	if (frame == NULL || fd < 0)
		return fail(argv[1]);
	for (unsigned int i = 0; i < n_flows; i++)
		make(&frame[i], mac, i);

	double began = now();
	long sent = flood(fd, frame, n_flows, atof(argv[4]));

	if (sent < 0)
		return fail("cannot send");
	printf("{\"sent\":%ld,\"seconds\":%.3f}\n", sent, now() - began);
	free(frame);
	return 0;
}
