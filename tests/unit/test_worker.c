/*
 * test_worker.c - a pipe's thread beside the main thread: reload, alerts, end.
 *
 * The port makes packets without end.  The function looks at its static state in every
 * execution; the main thread replaces that state again and again and spoils the old
 * one as soon as it may.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "pipe/eal.h"
#include "pipe/instance.h"

enum {
	N_RELOADS = 2000,
	GOOD = 0x600d,
};

struct look_state {
	uint32_t magic, number;
};

static _Atomic uint64_t n_spoiled;

static enum nf_verdict
look_packet(struct nf_run *r)
{
	const struct look_state *s = nf_static(r);

	if (s->magic != GOOD)
		atomic_fetch_add(&n_spoiled, 1);
	nf_alert(r, s->number);
	return NF_SEND;
}

static const struct nf look_nf = { .name = "look", .packet = look_packet };

static const uint8_t packet_bytes[] = {
	2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0,
	0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 1, 10, 0, 0, 2,
	0, 1, 0, 2, 0, 8, 0, 0,
};

static unsigned int
source_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	if (rte_pktmbuf_alloc_bulk(p->pool, packets, n) != 0)
		return 0;
	for (unsigned int i = 0; i < n; i++)
		memcpy(rte_pktmbuf_append(packets[i], sizeof(packet_bytes)), packet_bytes,
		       sizeof(packet_bytes));
	return n;
}

static unsigned int
nothing_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	(void)p, (void)packets, (void)n;
	return 0;
}

static unsigned int
sink_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	(void)p;
	rte_pktmbuf_free_bulk(packets, n);
	return n;
}

static const struct port_ops source_ops = { .rx = source_rx, .tx = sink_tx };
static const struct port_ops sink_ops = { .rx = nothing_rx, .tx = sink_tx };

static struct rte_mempool *pool;

static struct store *
open_store(void)
{
	struct store_options options = { .url = "embedded:" };
	struct store *store;
	char why[256];

	assert_int_equal(store_open(&options, NULL, 0, &store, why, sizeof(why)), 0);
	return store;
}

static void
test_a_reload_is_safe_while_packets_flow(void **unused)
{
	static struct look_state state[2] = { { GOOD, 0 }, { 0, 0 } };
	struct port inside = { .ops = &source_ops, .pool = pool, .wait_fd = -1, .busy = true };
	struct port outside = { .ops = &sink_ops, .pool = pool, .wait_fd = -1 };
	struct chain chain[2] = { { 1, 1, { { &look_nf, &state[0] } } },
				  { 1, 1, { { &look_nf, &state[1] } } } };
	struct pipe_config config = { .chain = chain[0], .store = open_store(),
				      .port = { &inside, &outside } };
	struct worker *w;
	uint32_t seen = 0;

	(void)unused;
	assert_int_equal(worker_start(&config, &w), 0);
	for (uint32_t i = 1; i <= N_RELOADS || seen < N_RELOADS; i++) {
		struct pipe_alert alert[64];
		unsigned int n = pipe_alerts(worker_pipe(w), alert, 64);

		for (unsigned int k = 0; k < n; k++) {
			assert_true(alert[k].id >= seen);
			seen = alert[k].id;
		}
		state[i % 2] = (struct look_state){ GOOD, i };
		worker_set_static(w, &chain[i % 2]);
		state[(i + 1) % 2].magic = 0;
	}
	worker_stop(w, 1000);
	assert_int_equal(atomic_load(&n_spoiled), 0);

	const struct pipe_stats *s = pipe_stats(worker_pipe(w));

	assert_true(s->received > 0);
	assert_int_equal(s->received, s->sent);
	assert_true(s->alerts >= s->sent);
	worker_free(w);
	config.store->ops->close(config.store);
}

static int
start_dpdk(void **unused)
{
	struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 64 };
	char why[256];

	(void)unused;
	if (eal_start(&options, why, sizeof(why)) != 0)
		return -1;
	pool = rte_pktmbuf_pool_create("test", 8191, 0, pipe_private_bytes(),
				       RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	return pool != NULL ? 0 : -1;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_reload_is_safe_while_packets_flow),
	};

	return cmocka_run_group_tests(tests, start_dpdk, NULL);
}
