/*
 * test_port.c - which specifications are understood, what is said about those that are
 * not, and that packets come out of a device as they went in.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <rte_lcore.h>

#include "pipe/eal.h"
#include "pipe/port.h"

static char why[256];

static const struct {
	const char *spec, *pci;
	bool ok;
} specs[] = {
	{ "pci:0000:3b:02.1", "0000:3b:02.1", true },
	{ "pci:3b:02.1", "3b:02.1", true },
	{ "pci:", "", false },
	{ "pci:eth0", "eth0", false },
	{ "pci:0000:3b:02.1x", "0000:3b:02.1x", false },
	{ "af_packet:eth0", NULL, true },
	{ "af_packet:", NULL, false },
	{ "af_packet:a-name-that-is-too-long", NULL, false },
	{ "af_packet:eth0,qpairs=2", NULL, false },
	{ "af_xdp:eth0", NULL, true },
	{ "af_xdp:", NULL, false },
	{ "memif:/run/m.sock", NULL, true },
	{ "memif:/run/m.sock,role=server", NULL, true },
	{ "memif:", NULL, false },
	{ "tap:snf0", NULL, true },
	{ "tap:", NULL, false },
	{ "tap:snf0,mac=fixed", NULL, false },
	{ "pcap:a,b", NULL, true },
	{ "pcap:a,", NULL, true },
	{ "pcap:,b", NULL, true },
	{ "pcap:", NULL, true },
	{ "pcap:a,b,c", NULL, false },
	{ "pcap:-,b", NULL, false },
	{ "pcap:a,a", NULL, false },
	{ "net_null0", NULL, true },
	{ "net_null0,copy=1", NULL, true },
	{ "net_af_packet0,iface=eth0", NULL, true },
	{ "eth0", NULL, false },
	{ "af_paket:eth0", NULL, false },
	{ "", NULL, false },
	{ ":", NULL, false },
};

static void
test_specs(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(specs); i++) {
		const char *pci = port_spec_pci(specs[i].spec);

		print_message("  \"%s\" is %s\n", specs[i].spec,
			      specs[i].ok ? "ok" : "not");
		why[0] = '\0';
		assert_int_equal(port_spec_ok(specs[i].spec, why, sizeof(why)),
				 specs[i].ok);
		assert_int_equal(why[0] == '\0', specs[i].ok);
		assert_null(strchr(why, '\n'));
		assert_int_equal(pci == NULL, specs[i].pci == NULL);
		if (pci != NULL)
			assert_string_equal(pci, specs[i].pci);
	}
}

static const struct {
	const char *name, *inside, *outside, *want;
	unsigned int n_queues;
} refusals[] = {
	{ "no such interface", "af_packet:nosuch0", "gen:", "no interface 'nosuch0'", 1 },
	{ "the same through XDP", "af_xdp:nosuch0", "gen:", "no interface 'nosuch0'", 1 },
	{ "the source has to be on both sides", "gen:", "pcap:", "other port", 1 },
	{ "and on the outside as well", "pcap:", "gen:", "other port", 1 },
	{ "no such driver", "net_nosuch0", "pcap:", "net_nosuch0 cannot be opened", 1 },
	{ "the outside is looked at too", "gen:", "nonsense", "nonsense", 1 },
	{ "no pipes", "gen:", "gen:", "0 pipes", 0 },
	{ "too many pipes", "gen:", "gen:", "9 pipes", 9 },
	{ "a NIC that is not there", "pci:ffff:ff:1f.7", "pcap:", "cannot be opened", 1 },
};

static void
test_refusals(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < RTE_DIM(refusals); i++) {
		const char *const spec[2] = { refusals[i].inside, refusals[i].outside };
		struct ports p;

		print_message("  %s\n", refusals[i].name);
		assert_int_not_equal(ports_open(spec, refusals[i].n_queues, 0, false, &p,
						why, sizeof(why)),
				     0);
		assert_non_null(strstr(why, refusals[i].want));
		assert_null(strchr(why, '\n'));
	}
}

static void
test_device(void **state)
{
	static const char *const spec[2] = { "net_ring0", "pcap:" };
	struct rte_mbuf *in, *out;
	struct ports p;

	(void)state;
	if (ports_open(spec, 1, 100, false, &p, why, sizeof(why)) != 0)
		fail_msg("%s", why);
	struct port *ring = p.queue[0][0];
	print_message("  what was asked for is reserved in each packet\n");
	in = rte_pktmbuf_alloc(p.pool[0]);
	assert_in_range(rte_pktmbuf_priv_size(p.pool[0]), 100, 200);
	assert_int_equal((uintptr_t)rte_pktmbuf_mtod(in, void *) % RTE_CACHE_LINE_SIZE,
			 0);

	print_message("  an idle device gives nothing, and never ends\n");
	assert_int_equal(ring->ops->rx(ring, &out, 1), 0);
	assert_null(ring->ops->ended);

	print_message("  what goes in comes out\n");
	strcpy(rte_pktmbuf_append(in, 60), "hello");
	assert_int_equal(ring->ops->tx(ring, &in, 1), 1);
	assert_int_equal(ring->ops->rx(ring, &out, 1), 1);
	assert_string_equal(rte_pktmbuf_mtod(out, char *), "hello");
	rte_pktmbuf_free(out);
	assert_int_equal(ports_missed(&p), 0);
	ports_close(&p);

	print_message("  what was closed can be opened again\n");
	assert_int_equal(ports_open(spec, 1, 100, false, &p, why, sizeof(why)), 0);
	ports_close(&p);
}

static void
test_packet_of_two_parts(void **state)
{
	static const char *const spec[2] = { "pcap:", "pcap:" };
	static const unsigned int lengths[] = { 0, 1, 2047, 2048, 2049, 9000, 65535 };
	static uint8_t data[65535], copy[65600];
	struct ports p;

	(void)state;
	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = i * 13 + (i >> 8);
	assert_int_equal(ports_open(spec, 1, 0, false, &p, why, sizeof(why)), 0);
	for (unsigned int i = 0; i < RTE_DIM(lengths); i++) {
		struct rte_mbuf *m =
			port_packet(p.pool[0], "0123456789abcd", 14, data, lengths[i]);

		assert_non_null(m);
		rte_mbuf_sanity_check(m, 1);
		assert_int_equal(m->pkt_len, 14 + lengths[i]);
		const void *whole = rte_pktmbuf_read(m, 0, m->pkt_len, copy);
		assert_memory_equal(whole, "0123456789abcd", 14);
		assert_memory_equal((const char *)whole + 14, data, lengths[i]);
		rte_pktmbuf_free(m);
	}
	assert_int_equal(rte_mempool_avail_count(p.pool[0]), p.pool[0]->size);
	ports_close(&p);
}

static void
test_caller_keeps_its_cpus(void **state)
{
	const cpu_set_t *before = *state;
	cpu_set_t now;

	assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
	assert_true(CPU_EQUAL(before, &now));
	assert_int_not_equal(rte_lcore_id(), LCORE_ID_ANY);
}

static int
setup(void **state)
{
	const struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 128 };
	static cpu_set_t cpus;

	*state = &cpus;
	if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0)
		return -1;
	return eal_start(&options, why, sizeof(why));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_specs),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_device),
		cmocka_unit_test(test_packet_of_two_parts),
		cmocka_unit_test(test_caller_keeps_its_cpus),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
