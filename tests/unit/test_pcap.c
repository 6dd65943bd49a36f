/*
 * test_pcap.c - captures in, captures out: order, times, link types, named pipes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "pipe/eal.h"
#include "pipe/port.h"

enum {
	MICRO = 0xa1b2c3d4,
	NANO = 0xa1b23c4d,
	ETHERNET = 1,
	MAX_PACKETS = 64,
};

static char dir[] = "/tmp/test_pcap.XXXXXX";
static char why[256];

static const char *
path(const char *name)
{
	static char text[4][sizeof(dir) + 32];
	static unsigned int i;

	i = (i + 1) % 4;
	snprintf(text[i], sizeof(text[i]), "%s/%s", dir, name);
	return text[i];
}

static void
put_head(int fd, uint32_t magic, uint32_t link)
{
	uint32_t head[6] = { magic, 4 << 16 | 2, 0, 0, 262144, link };

	assert_int_equal(write(fd, head, sizeof(head)), sizeof(head));
}

static void
put_packet(int fd, uint32_t seconds, uint32_t part, const void *data, uint32_t bytes,
	   uint32_t bytes_on_wire)
{
	uint32_t head[4] = { seconds, part, bytes, bytes_on_wire };

	assert_int_equal(write(fd, head, sizeof(head)), sizeof(head));
	assert_int_equal(write(fd, data, bytes), bytes);
}

static int
create(const char *name, uint32_t magic, uint32_t link)
{
	int fd = open(path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	put_head(fd, magic, link);
	return fd;
}

/* A capture of frames, each with its letter: digits and letters both count from 1. */
static void
create_seconds(const char *name, const char *letters)
{
	int fd = create(name, MICRO, ETHERNET);

	for (; *letters != '\0'; letters++) {
		uint8_t frame[60] = { [59] = *letters };

		put_packet(fd, *letters & 0xf, 7, frame, sizeof(frame), sizeof(frame));
	}
	close(fd);
}

static int
open_pair(struct ports *p, const char *inside, const char *outside, bool pace)
{
	char spec[2][256];
	const char *const specs[2] = { spec[0], spec[1] };

	snprintf(spec[0], sizeof(spec[0]), "pcap:%s", inside);
	snprintf(spec[1], sizeof(spec[1]), "pcap:%s", outside);
	return ports_open(specs, 1, 64, pace, p, why, sizeof(why));
}

static unsigned int
rx(struct port *p, struct rte_mbuf **m, unsigned int n)
{
	return p->ops->rx(p, m, n);
}

static void
tx(struct port *p, struct rte_mbuf *m)
{
	assert_int_equal(p->ops->tx(p, &m, 1), 1);
}

static uint32_t
read_file(const char *name, uint8_t *to, uint32_t max)
{
	int fd = open(path(name), O_RDONLY);
	ssize_t n = read(fd, to, max);

	assert_true(fd >= 0 && n >= 0);
	close(fd);
	return n;
}

static const struct {
	const char *name, *inside, *outside, *want;
} orders[] = {
	{ "one side alone", "123", "", "123" },
	{ "the other side alone", "", "abc", "abc" },
	{ "sides take turns by time", "135", "bdf", "1b3d5f" },
	{ "a later side waits", "789", "abc", "abc789" },
	{ "ties: inside first", "112", "aab", "11aa2b" },
	{ "times that go backwards stay in place", "312", "d", "312d" },
};

static void
test_order(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(orders); i++) {
		struct rte_mbuf *m[MAX_PACKETS];
		char in[128], out[128], got[MAX_PACKETS] = "";
		unsigned int n_got = 0;
		struct ports p;

		print_message("  %s\n", orders[i].name);
		create_seconds("a", orders[i].inside);
		create_seconds("b", orders[i].outside);
		snprintf(in, sizeof(in), "%s,", path("a"));
		snprintf(out, sizeof(out), "%s,", path("b"));
		assert_int_equal(open_pair(&p, in, out, false), 0);
		while (!p.queue[0][0]->ops->ended(p.queue[0][0]) ||
		       !p.queue[1][0]->ops->ended(p.queue[1][0])) {
			for (unsigned int side = 0; side < 2; side++) {
				unsigned int n = rx(p.queue[side][0], m, 2);

				for (unsigned int j = 0; j < n; j++)
					got[n_got++] = rte_pktmbuf_mtod(m[j], char *)[59];
				rte_pktmbuf_free_bulk(m, n);
			}
		}
		assert_string_equal(got, orders[i].want);
		ports_close(&p);
	}
}

static const struct {
	const char *name;
	uint32_t link;
	uint8_t bytes[24];
	unsigned int n;
	uint16_t type;			/* 0: refused. */
} links[] = {
	{ "raw IP, version 4", 101, { 0x45, 1 }, 2, 0x0800 },
	{ "raw IP, version 6", 101, { 0x60, 1 }, 2, 0x86dd },
	{ "IPv4", 228, { 0x45, 1 }, 2, 0x0800 },
	{ "IPv6", 229, { 0x60, 1 }, 2, 0x86dd },
	{ "BSD loopback", 0, { 2, 0, 0, 0, 0x45, 1 }, 6, 0x0800 },
	{ "OpenBSD loopback", 108, { 0, 0, 0, 24, 0x60, 1 }, 6, 0x86dd },
	{ "Linux cooked", 113, { [14] = 8, [15] = 6, 0x45, 1 }, 18, 0x0806 },
	{ "Linux cooked 2", 276, { 0x86, 0xdd, [20] = 0x45, 1 }, 22, 0x86dd },
	{ "wireless is refused", 105, { 0 }, 2, 0 },
};

static void
test_links(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(links); i++) {
		int fd = create("a", MICRO, links[i].link);
		struct rte_mbuf *m;
		struct ports p;

		print_message("  %s\n", links[i].name);
		put_packet(fd, 1, 1, links[i].bytes, links[i].n, links[i].n);
		close(fd);
		if (links[i].type == 0) {
			assert_int_not_equal(open_pair(&p, path("a"), "", false), 0);
			assert_non_null(strstr(why, "link type"));
			continue;
		}
		assert_int_equal(open_pair(&p, path("a"), "", false), 0);
		assert_int_equal(rx(p.queue[0][0], &m, 1), 1);
		assert_int_equal(m->pkt_len, 16);
		const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
		assert_int_equal(data[12] << 8 | data[13], links[i].type);
		assert_int_equal(data[15], 1);
		rte_pktmbuf_free(m);
		ports_close(&p);
	}
}

static const struct {
	const char *name;
	uint32_t magic, part, bytes, bytes_on_wire;
} copies[] = {
	{ "microseconds stay microseconds", MICRO, 123456, 60, 60 },
	{ "nanoseconds stay nanoseconds", NANO, 123456789, 60, 60 },
	{ "a cut packet is taken as it is", MICRO, 1, 60, 1514 },
	{ "a packet of several buffers is written whole", MICRO, 1, 9014, 9014 },
};

static void
test_copies(void **state)
{
	static uint8_t data[9014], file[16384];

	(void)state;
	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = i * 31;
	for (unsigned int i = 0; i < RTE_DIM(copies); i++) {
		int fd = create("a", copies[i].magic, ETHERNET);
		uint32_t bytes = copies[i].bytes, head[6], record[4];
		struct rte_mbuf *m, *emitted;
		struct ports p;

		print_message("  %s\n", copies[i].name);
		put_packet(fd, 77, copies[i].part, data, bytes, copies[i].bytes_on_wire);
		close(fd);
		char out[64];
		snprintf(out, sizeof(out), ",%s", path("out"));
		assert_int_equal(open_pair(&p, path("a"), out, false), 0);
		assert_int_equal(rx(p.queue[0][0], &m, 1), 1);
		/* One of the function's own, made of the first. */
		emitted = port_packet(p.pool[0], NULL, 0, data, 60);
		rte_mbuf_dynfield_copy(emitted, m);
		tx(p.queue[1][0], m);
		tx(p.queue[1][0], emitted);
		ports_close(&p);

		assert_int_equal(read_file("out", file, sizeof(file)),
				 24 + 16 + bytes + 16 + 60);
		memcpy(head, file, sizeof(head));
		assert_int_equal(head[0], copies[i].magic);
		assert_int_equal(head[5], ETHERNET);
		memcpy(record, file + 24, sizeof(record));
		assert_int_equal(record[0], 77);
		assert_int_equal(record[1], copies[i].part);
		assert_int_equal(record[2], bytes);
		assert_int_equal(record[3], bytes);
		assert_memory_equal(file + 40, data, bytes);
		memcpy(record, file + 40 + bytes, sizeof(record));
		assert_int_equal(record[0], 77);
		assert_int_equal(record[1], copies[i].part);
	}
}

static void
test_empty_output_is_a_capture(void **state)
{
	uint8_t file[64];
	struct ports p;
	char out[64];

	(void)state;
	snprintf(out, sizeof(out), ",%s", path("out"));
	assert_int_equal(open_pair(&p, out, "", false), 0);
	assert_true(p.queue[0][0]->ops->ended(p.queue[0][0]));
	ports_close(&p);
	assert_int_equal(read_file("out", file, sizeof(file)), 24);
}

static void
test_torn_file_ends(void **state)
{
	int fd = create("a", MICRO, ETHERNET);
	uint8_t frame[60] = { 0 };
	struct rte_mbuf *m[4];
	struct ports p;

	(void)state;
	put_packet(fd, 1, 1, frame, sizeof(frame), sizeof(frame));
	assert_int_equal(write(fd, frame, 20), 20);
	close(fd);
	assert_int_equal(open_pair(&p, path("a"), "", false), 0);
	unsigned int n = rx(p.queue[0][0], m, 4);
	assert_in_range(n, 1, 2);
	rte_pktmbuf_free_bulk(m, n);
	assert_int_equal(rx(p.queue[0][0], m, 4), 0);
	assert_true(p.queue[0][0]->ops->ended(p.queue[0][0]));
	ports_close(&p);
}

/* Waits for the port as an idle pipe does. */
static void
wait_for(const struct port *p)
{
	struct pollfd f = { .fd = p->wait_fd, .events = POLLIN };

	assert_int_equal(poll(&f, 1, 5000), 1);
}

static void
test_pace(void **state)
{
	int fd = create("a", MICRO, ETHERNET);
	uint8_t frame[60] = { 0 };
	struct rte_mbuf *m;
	struct timespec from, to;
	struct ports p;

	(void)state;
	put_packet(fd, 1, 990000, frame, sizeof(frame), sizeof(frame));
	put_packet(fd, 2, 10000, frame, sizeof(frame), sizeof(frame));
	close(fd);
	assert_int_equal(open_pair(&p, path("a"), "", true), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(rx(p.queue[0][0], &m, 1), 1);
	rte_pktmbuf_free(m);
	while (rx(p.queue[0][0], &m, 1) == 0)
		wait_for(p.queue[0][0]);
	rte_pktmbuf_free(m);
	clock_gettime(CLOCK_MONOTONIC, &to);
	int64_t us =
		(to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
	assert_in_range(us, 19000, 5000000);
	assert_int_equal(rx(p.queue[0][0], &m, 1), 0);
	assert_int_equal(p.queue[0][0]->wait_fd, -1);
	ports_close(&p);
}

static void
test_named_pipes(void **state)
{
	uint8_t frame[60] = { [59] = 9 }, file[256];
	struct rte_mbuf *m;
	struct ports p;
	char in[64], out[64];

	(void)state;
	assert_int_equal(mkfifo(path("fin"), 0600), 0);
	assert_int_equal(mkfifo(path("fout"), 0600), 0);
	snprintf(in, sizeof(in), "%s,", path("fin"));
	snprintf(out, sizeof(out), ",%s", path("fout"));
	assert_int_equal(open_pair(&p, in, out, false), 0);
	struct port *inside = p.queue[0][0], *outside = p.queue[1][0];

	print_message("  nobody writes yet: no packet, no end\n");
	assert_int_equal(rx(inside, &m, 1), 0);
	assert_false(inside->ops->ended(inside));
	int to = open(path("fin"), O_WRONLY),
	    from = open(path("fout"), O_RDONLY | O_NONBLOCK);
	assert_int_equal(rx(inside, &m, 1), 0);

	print_message("  a header alone is no packet\n");
	put_head(to, MICRO, ETHERNET);
	wait_for(inside);
	assert_int_equal(rx(inside, &m, 1), 0);
	assert_false(inside->ops->ended(inside));

	for (unsigned int i = 0; i < 2; i++) {
		print_message("  each packet comes when it is written, and leaves\n");
		put_packet(to, 5, i, frame, sizeof(frame), sizeof(frame));
		wait_for(inside);
		assert_int_equal(rx(inside, &m, 1), 1);
		tx(outside, m);
		assert_int_equal(rx(outside, &m, 1), 0);
		assert_int_equal(read(from, file, sizeof(file)),
				 (i == 0 ? 24 : 0) + 16 + 60);
	}
	print_message("  closing is the end\n");
	close(to);
	assert_int_equal(rx(inside, &m, 1), 0);
	assert_true(inside->ops->ended(inside));
	assert_int_equal(inside->wait_fd, -1);
	ports_close(&p);
	close(from);
}

static const struct {
	const char *name, *inside, *want;
	unsigned int n_queues;
} refusals[] = {
	{ "no such file", "pcap:/nonexistent/x,", "No such file", 1 },
	{ "no capture", "pcap:/proc/self/status,", "not a capture", 1 },
	{ "no place for the output", "pcap:,/nonexistent/x", "No such file", 1 },
	{ "one pipe reads a capture", "pcap:,", "one pipe", 2 },
};

static void
test_refusals(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(refusals); i++) {
		const char *const spec[2] = { refusals[i].inside, "pcap:," };
		struct ports p;

		print_message("  %s\n", refusals[i].name);
		assert_int_not_equal(ports_open(spec, refusals[i].n_queues, 0, false, &p,
						why, sizeof(why)),
				     0);
		assert_non_null(strstr(why, refusals[i].want));
	}
}

static int
setup(void **state)
{
	const struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 128 };

	(void)state;
	return mkdtemp(dir) == NULL ? -1 : eal_start(&options, why, sizeof(why));
}

static int
teardown(void **state)
{
	static const char *const names[] = { "a", "b", "out", "fin", "fout" };

	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(names); i++)
		unlink(path(names[i]));
	return rmdir(dir);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_empty_output_is_a_capture),
		cmocka_unit_test(test_torn_file_ends),
		cmocka_unit_test(test_pace),
		cmocka_unit_test(test_named_pipes),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
