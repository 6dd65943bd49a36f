/*
 * test_gen.c - the synthetic source: its packets are right, its connections open and
 * close, and nothing that happens on the way stops it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "net/packet.h"
#include "pipe/eal.h"
#include "pipe/port.h"

enum {
	BURST = 32,
	DEADLINE_S = 10,
};

static char why[256];

/* What happens to a packet between the ends. */
enum fate {
	PASS,
	LOSE,
	SPOIL,
};

struct way {
	struct ports ports;
	/* Called for each packet; may change it. */
	enum fate (*visit)(struct way *, struct packet *, unsigned int side);
	uint64_t count[2];		/* Packets that left each side. */
	uint64_t n_syn, n_fin;
	uint16_t last_port;		/* Of a SYN. */
	uint32_t bytes;			/* The longest packet. */
};

static void
open_gen(struct way *w, const char *options, unsigned int n_queues)
{
	char spec[128];
	const char *const specs[2] = { spec, "gen:" };

	memset(w, 0, sizeof(*w));
	snprintf(spec, sizeof(spec), "gen:%s", options);
	if (ports_open(specs, n_queues, 64, false, &w->ports, why, sizeof(why)) != 0)
		fail_msg("%s", why);
}

/* Carries a burst from one side to the other, and looks at each packet. */
static unsigned int
carry(struct way *w, unsigned int queue, unsigned int side)
{
	struct port *from = w->ports.queue[side][queue],
		    *to = w->ports.queue[!side][queue];
	struct rte_mbuf *m[BURST];
	unsigned int n = from->ops->rx(from, m, BURST), kept = 0;

	for (unsigned int i = 0; i < n; i++) {
		uint8_t *data = rte_pktmbuf_mtod(m[i], uint8_t *);
		enum fate fate = PASS;
		struct packet p;

		assert_int_equal(m[i]->pkt_len, m[i]->data_len);
		assert_int_equal(packet_parse(&p, data, m[i]->data_len, m[i]->pkt_len),
				 PACKET_OK);
		assert_true(packet_checksum_ok(&p));
		w->bytes = RTE_MAX(w->bytes, m[i]->pkt_len);
		w->count[side]++;
		w->n_syn += side == 0 && p.tcp_flags == TCP_SYN;
		w->n_fin += side == 0 && (p.tcp_flags & TCP_FIN);
		if (p.tcp_flags == TCP_SYN)
			w->last_port = rte_be_to_cpu_16(p.flow.src_port);
		if (w->visit != NULL)
			fate = w->visit(w, &p, side);
		if (fate == SPOIL)
			data[p.end - 1] ^= 1;
		if (fate == LOSE)
			rte_pktmbuf_free(m[i]);
		else
			m[kept++] = m[i];
	}
	assert_int_equal(to->ops->tx(to, m, kept), kept);
	return n;
}

static struct gen_stats
stats(const struct way *w)
{
	struct gen_stats s;

	assert_true(ports_gen_stats(&w->ports, &s));
	return s;
}

static void
close_gen(struct way *w)
{
	struct rte_mempool *pool = w->ports.pool[0];

	for (unsigned int i = 0; i < 100; i++)
		carry(w, 0, 1);
	assert_int_equal(rte_mempool_avail_count(pool), pool->size);
	ports_close(&w->ports);
}

static const struct {
	const char *name, *options;
	uint32_t bytes;			/* The longest packet. */
} kinds[] = {
	{ "TCP over IPv4", "flows=50,packets=20,size=64", 62 },
	{ "TCP over IPv6", "flows=50,packets=20,ipv6=1", 82 },
	{ "UDP over IPv4", "flows=50,packets=20,proto=udp", 60 },
	{ "UDP over IPv6", "flows=50,packets=20,proto=udp,ipv6=1", 63 },
	{ "long TCP packets", "flows=50,packets=20,size=1518", 1514 },
	{ "long UDP packets over IPv6", "flows=50,packets=20,size=1518,proto=udp,ipv6=1",
	  1514 },
	{ "an odd size", "flows=50,packets=20,size=127", 123 },
	{ "one flow of one packet", "flows=1,packets=1", 62 },
	{ "several flows of one host", "flows=50,packets=20,hosts=7", 62 },
};

static void
test_kinds(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(kinds); i++) {
		struct way w;

		print_message("  %s\n", kinds[i].name);
		open_gen(&w, kinds[i].options, 1);
		for (unsigned int turn = 0; turn < 1000; turn++) {
			carry(&w, 0, 0);
			carry(&w, 0, 1);
		}
		struct gen_stats s = stats(&w);
		assert_int_equal(w.bytes, kinds[i].bytes);
		assert_int_equal(s.sent, w.count[0]);
		assert_int_equal(s.delivered, w.count[0]);
		assert_int_equal(s.answers, w.count[1]);
		assert_int_equal(s.answers_delivered, w.count[1]);
		assert_int_equal(s.corrupt + s.foreign + s.retried + s.reset, 0);
		assert_in_range(s.closed, s.flows, UINT64_MAX);
		assert_int_equal(s.opened - s.closed, s.established);
		close_gen(&w);
	}
}

static void
test_all_flows_open_in_two_laps(void **state)
{
	struct way w;

	(void)state;
	open_gen(&w, "flows=320,packets=1000", 1);
	for (unsigned int turn = 0; turn < 10; turn++) {
		carry(&w, 0, 0);
		carry(&w, 0, 1);
	}
	assert_int_equal(stats(&w).established, 320);
	assert_int_equal(w.n_syn, 320);
	close_gen(&w);
}

static void
test_a_flow_starts_again_from_another_port(void **state)
{
	uint16_t first;
	struct way w;

	(void)state;
	open_gen(&w, "flows=1,packets=5", 1);
	carry(&w, 0, 0);
	first = w.last_port;
	while (w.n_syn < 2) {
		carry(&w, 0, 0);
		carry(&w, 0, 1);
	}
	assert_int_equal(w.n_fin, 1);
	assert_int_not_equal(w.last_port, first);
	close_gen(&w);
}

static enum fate
lose_first_answers(struct way *w, struct packet *p, unsigned int side)
{
	(void)p;
	return side == 1 && w->count[1] <= 10 ? LOSE : PASS;
}

static enum fate
spoil_first(struct way *w, struct packet *p, unsigned int side)
{
	(void)p;
	return side == 0 && w->count[0] <= 3 ? SPOIL : PASS;
}

static const struct {
	const char *name;
	enum fate (*visit)(struct way *, struct packet *, unsigned int side);
	uint64_t corrupt;
} mishaps[] = {
	{ "answers that are lost are asked for again", lose_first_answers, 0 },
	{ "a wrong checksum is counted and not answered", spoil_first, 3 },
};

static void
test_mishaps(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(mishaps); i++) {
		time_t end = time(NULL) + DEADLINE_S;
		struct way w;

		print_message("  %s\n", mishaps[i].name);
		open_gen(&w, "flows=20,packets=100000", 1);
		w.visit = mishaps[i].visit;
		while (stats(&w).established < 20 && time(NULL) < end) {
			carry(&w, 0, 0);
			carry(&w, 0, 1);
		}
		assert_int_equal(stats(&w).established, 20);
		assert_in_range(stats(&w).retried, 1, 1000);
		assert_int_equal(stats(&w).corrupt, mishaps[i].corrupt);
		close_gen(&w);
	}
}

/* An address translation that is no more than an offset. */
static enum fate
translate(struct way *w, struct packet *p, unsigned int side)
{
	struct endpoint e;

	(void)w;
	if (side == 0) {
		flow_source(&p->flow, &e);
		e.ip4 ^= 1;
		e.port ^= rte_cpu_to_be_16(0x4000);
		packet_set_src(p, &e);
	} else {
		flow_destination(&p->flow, &e);
		e.ip4 ^= 1;
		e.port ^= rte_cpu_to_be_16(0x4000);
		packet_set_dst(p, &e);
	}
	return PASS;
}

static void
test_translated_packets_are_answered(void **state)
{
	struct way w;

	(void)state;
	open_gen(&w, "flows=100,packets=10", 1);
	w.visit = translate;
	for (unsigned int turn = 0; turn < 1000; turn++) {
		carry(&w, 0, 0);
		carry(&w, 0, 1);
	}
	assert_int_equal(stats(&w).corrupt + stats(&w).foreign + stats(&w).retried, 0);
	assert_in_range(stats(&w).closed, 100, UINT64_MAX);
	close_gen(&w);
}

static void
test_total(void **state)
{
	struct way w;

	(void)state;
	open_gen(&w, "flows=10,total=777", 1);
	struct port *inside = w.ports.queue[0][0], *outside = w.ports.queue[1][0];
	while (!inside->ops->ended(inside) || !outside->ops->ended(outside)) {
		carry(&w, 0, 0);
		carry(&w, 0, 1);
	}
	assert_int_equal(w.count[0], 777);
	assert_int_equal(carry(&w, 0, 0), 0);
	close_gen(&w);
}

static void
test_rate(void **state)
{
	struct timespec from, to;
	struct way w;

	(void)state;
	open_gen(&w, "flows=10,rate=10000,total=300", 1);
	clock_gettime(CLOCK_MONOTONIC, &from);
	while (w.count[0] < 300) {
		carry(&w, 0, 0);
		carry(&w, 0, 1);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	int64_t us =
		(to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
	assert_in_range(us, 25000, 10000000);
	close_gen(&w);
}

static void
test_queues_have_flows_of_their_own(void **state)
{
	struct way w;

	(void)state;
	open_gen(&w, "flows=100,packets=10", 2);
	for (unsigned int turn = 0; turn < 100; turn++) {
		struct rte_mbuf *m[2];
		struct packet p[2];

		for (unsigned int q = 0; q < 2; q++) {
			struct port *inside = w.ports.queue[0][q];

			assert_int_equal(inside->ops->rx(inside, &m[q], 1), 1);
			packet_parse(&p[q], rte_pktmbuf_mtod(m[q], uint8_t *),
				     m[q]->data_len, m[q]->pkt_len);
		}
		uint32_t a = rte_be_to_cpu_32(p[0].flow.ip4.src);
		uint32_t b = rte_be_to_cpu_32(p[1].flow.ip4.src);
		assert_int_not_equal(a >> 20, b >> 20);
		rte_pktmbuf_free_bulk(m, 2);
	}
	assert_int_equal(stats(&w).flows, 200);
	ports_close(&w.ports);
}

static const struct {
	const char *name, *spec;
	bool ok;
} specs[] = {
	{ "nothing needs to be said", "gen:", true },
	{ "everything may be",
	  "gen:size=64,flows=7,hosts=2,packets=1,seed=2,rate=3,total=4,proto=tcp,ipv6=0,"
	  "to=10.1.1.1,port=443",
	  true },
	{ "an IPv6 address asks for IPv6", "gen:to=2001:db8::1", true },
	{ "64 bytes are too short for IPv6", "gen:ipv6=1,size=64", false },
	{ "below the least frame", "gen:size=63", false },
	{ "beyond the longest", "gen:size=1519", false },
	{ "no flow is none", "gen:flows=0", false },
	{ "no number", "gen:flows=many", false },
	{ "a negative number", "gen:flows=-1", false },
	{ "an unknown word", "gen:speed=1", false },
	{ "no value", "gen:flows", false },
	{ "no protocol of ours", "gen:proto=sctp", false },
	{ "no address", "gen:to=example.org", false },
	{ "more flows than ports", "gen:flows=100000,hosts=1", false },
};

static void
test_specs(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(specs); i++) {
		print_message("  %s\n", specs[i].name);
		why[0] = '\0';
		assert_int_equal(port_spec_ok(specs[i].spec, why, sizeof(why)),
				 specs[i].ok);
		assert_int_equal(why[0] == '\0', specs[i].ok);
	}
}

static int
setup(void **state)
{
	const struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 128 };

	(void)state;
	return eal_start(&options, why, sizeof(why));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_all_flows_open_in_two_laps),
		cmocka_unit_test(test_a_flow_starts_again_from_another_port),
		cmocka_unit_test(test_mishaps),
		cmocka_unit_test(test_translated_packets_are_answered),
		cmocka_unit_test(test_total),
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_queues_have_flows_of_their_own),
		cmocka_unit_test(test_specs),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
