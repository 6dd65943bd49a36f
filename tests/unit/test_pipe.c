/*
 * test_pipe.c - order, atomicity and reruns of a pipe, against a store that answers
 * when it likes.
 *
 * Two pipes share a partition.  Their stores delay frames and replies at random, so
 * batches overlap, races are lost, and runs wait for each other in every way there is;
 * batches with groups may come back twice, as if replicas had to have them.
 *
 * Packets of a flow carry their number; the function counts them in a record and stamps
 * the count into the packet, so that each packet that leaves tells which state it saw.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <rte_ethdev.h>
#include <rte_ether.h>

#include "pipe/eal.h"
#include "pipe/run.h"
#include "store/core.h"
#include "store/pool.h"

enum {
	MAX_FLOWS = 300,
	N_PACKETS = 2800,
	PACKET_BYTES = 14 + 20 + 8 + 8,
};

/* --- the function -------------------------------------------------------------- */

struct count {
	uint64_t n;				/* Packets that counted. */
};

/* What a packet wants of the function: in its payload. */
enum wish {
	WISH_COUNT,				/* Read, add, write. */
	WISH_COUNT_FAR,				/* The same, reading another record first. */
	WISH_LOOK,				/* Read. */
	WISH_TOGGLE,				/* Make or delete a second record. */
	N_WISHES,
};

struct payload {
	uint32_t number;			/* In its flow and pipe. */
	uint8_t wish, pad[3];
};

NF_TABLE(count, uint32_t, struct count, .idle_ms = 0)
NF_TABLE(far, uint64_t, struct count, .idle_ms = 0)

/* All packets look, arrive anew on the other side, and only there do what they want. */
static bool turning;

static enum nf_verdict
count_packet(struct nf_run *r)
{
	uint32_t flow = nf_flow(r)->ip4.src;
	const struct packet *p = nf_packet(r);
	struct payload wish;
	struct count next = { 1 };

	memcpy(&wish, p->data + p->payload, sizeof(wish));

	const struct count *c = count_read(r, &flow);

	if (nf_pending(r))
		return NF_WAIT;
	if (c != NULL)
		next.n = c->n + 1;
	if (turning && nf_side(r) == NF_INSIDE)
		return NF_TURN;

	if (wish.wish == WISH_COUNT_FAR) {
		uint64_t key = c != NULL ? c->n % 3 : 0;
		const struct count *f = far_read(r, &key);

		if (nf_pending(r))
			return NF_WAIT;

		struct count other = { f != NULL ? f->n + 1 : 1 };

		far_write(r, &key, &other);
	} else if (wish.wish == WISH_TOGGLE) {
		uint64_t key = 100 + flow;
		const struct count *f = far_read(r, &key);

		if (nf_pending(r))
			return NF_WAIT;
		if (f != NULL)
			far_delete(r, &key);
		else
			far_write(r, &key, &next);
	}
	if (wish.wish == WISH_LOOK)
		next.n--;
	else
		count_write(r, &flow, &next);

	struct endpoint stamp = { .ip4 = (uint32_t)next.n, .version = 4,
				  .port = nf_flow(r)->dst_port };

	nf_set_dst(r, &stamp);
	return NF_SEND;
}

static const struct nf count_nf = { .name = "test_pipe", .packet = count_packet };
static const struct chain count_chain = { 1, 1, { { &count_nf, NULL } } };

/* --- the store ------------------------------------------------------------------ */

#define TERM 9

struct slow_store {
	struct store store;
	struct partition *partition;
	unsigned int *seed;
	bool twice;				/* Batches with groups come back so. */
	uint64_t client, next_id;
	struct pool pool;
	struct store_batch batch[STORE_BATCHES];
	bool applied[STORE_BATCHES];
	struct buffer reply[STORE_BATCHES];
	struct store_batch *queue[STORE_INFLIGHT], *wait[STORE_UNCOMMITTED];
	unsigned int n_queued, n_waiting;
};

static struct store_batch *
slow_batch(struct store *s)
{
	struct slow_store *slow = (struct slow_store *)s;
	struct store_batch empty;
	int number = pool_take(&slow->pool, &empty);

	assert_true(number >= 0);
	slow->batch[number] = empty;
	slow->applied[number] = false;
	return &slow->batch[number];
}

static void
slow_answer(struct slow_store *slow, struct store_batch *b)
{
	const struct buffer *reply = &slow->reply[b - slow->batch];
	struct frame_reply_head head;

	assert_int_equal(frame_reply_open(reply->data, reply->bytes, &head,
					  &b->part[0].reply), 0);
}

static void
slow_apply(struct slow_store *slow, struct store_batch *b)
{
	struct frame *f = &b->part[0].request;
	struct buffer *reply = &slow->reply[b - slow->batch];

	frame_finish(f, partition_generation(slow->partition), TERM, slow->client,
		     ++slow->next_id);
	reply->bytes = 0;
	assert_int_equal(partition_apply(slow->partition, f->start,
					 (size_t)(f->at - f->start), TERM, 1000, false,
					 reply, NULL), 0);
	slow_answer(slow, b);
	b->part[0].error = 0;
	b->final = true;
	slow->applied[b - slow->batch] = true;
}

/* Frames are applied in order, some at once and some only when they are polled. */
static int
slow_submit(struct store *s, struct store_batch *batch)
{
	struct slow_store *slow = (struct slow_store *)s;

	if (slow->n_queued == STORE_INFLIGHT || slow->n_waiting == STORE_UNCOMMITTED)
		return -EAGAIN;
	slow->queue[slow->n_queued++] = batch;
	for (unsigned int i = 0; i < slow->n_queued && rand_r(slow->seed) % 3 == 0; i++) {
		if (!slow->applied[slow->queue[i] - slow->batch])
			slow_apply(slow, slow->queue[i]);
	}
	return 0;
}

static struct store_batch *
first_of(struct store_batch **list, unsigned int *n)
{
	struct store_batch *first = list[0];

	memmove(list, list + 1, --*n * sizeof(*list));
	return first;
}

static unsigned int
slow_poll(struct store *s, struct store_batch **done, unsigned int max)
{
	struct slow_store *slow = (struct slow_store *)s;

	if (max == 0 || rand_r(slow->seed) % 3 == 0)
		return 0;
	if (slow->n_waiting > 0 && rand_r(slow->seed) % 5 == 0) {
		*done = first_of(slow->wait, &slow->n_waiting);
		slow_answer(slow, *done);
		(*done)->final = true;
		return 1;
	}
	if (slow->n_queued == 0 || slow->n_waiting == STORE_UNCOMMITTED)
		return 0;
	*done = first_of(slow->queue, &slow->n_queued);
	if (!slow->applied[*done - slow->batch])
		slow_apply(slow, *done);
	if (slow->twice && rand_r(slow->seed) % 4 != 0) {
		(*done)->final = false;
		slow->wait[slow->n_waiting++] = *done;
	}
	return 1;
}

static void
slow_free(struct store *s, struct store_batch *batch)
{
	struct slow_store *slow = (struct slow_store *)s;

	pool_give(&slow->pool, (unsigned int)(batch - slow->batch));
}

static enum store_health
slow_health(const struct store *s)
{
	(void)s;
	return STORE_CONNECTED;
}

static const struct store_ops slow_ops = {
	.scheme = "slow", .batch = slow_batch, .submit = slow_submit, .poll = slow_poll,
	.free = slow_free, .health = slow_health,
};

static void
slow_init(struct slow_store *s, struct partition *partition, uint64_t client,
	  unsigned int *seed)
{
	memset(s, 0, sizeof(*s));
	s->store.ops = &slow_ops;
	s->store.n_partitions = 1;
	s->partition = partition;
	s->client = client;
	s->seed = seed;
	s->twice = *seed % 2 == 0;
	assert_int_equal(pool_init(&s->pool, 1, 0, 0), 0);
}

static void
slow_fini(struct slow_store *s)
{
	for (unsigned int i = 0; i < STORE_BATCHES; i++)
		buffer_fini(&s->reply[i]);
	pool_fini(&s->pool);
}

/* --- ports ---------------------------------------------------------------------- */

struct memory_port {
	struct port port;
	struct rte_mbuf **in;
	unsigned int n_in, at;
	unsigned int *seed;
	unsigned int n_out;
	struct { uint32_t flow, number, stamp; uint8_t wish; } out[N_PACKETS];
};

static unsigned int
memory_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct memory_port *m = (struct memory_port *)p;
	unsigned int take = RTE_MIN(n, m->n_in - m->at);

	if (take == 0)
		return 0;
	take = rand_r(m->seed) % (take + 1);
	memcpy(packets, m->in + m->at, take * sizeof(*packets));
	m->at += take;
	return take;
}

static unsigned int
memory_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct memory_port *m = (struct memory_port *)p;

	for (unsigned int i = 0; i < n; i++) {
		const uint8_t *data = rte_pktmbuf_mtod(packets[i], uint8_t *);
		struct payload wish;

		memcpy(&wish, data + 42, sizeof(wish));
		memcpy(&m->out[m->n_out].flow, data + 26, 4);
		memcpy(&m->out[m->n_out].stamp, data + 30, 4);
		m->out[m->n_out].number = wish.number;
		m->out[m->n_out++].wish = wish.wish;
		rte_pktmbuf_free(packets[i]);
	}
	return n;
}

static const struct port_ops memory_ops = { .rx = memory_rx, .tx = memory_tx };

static struct rte_mbuf *
make_packet(struct rte_mempool *pool, uint32_t flow, uint32_t number, enum wish wish)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	uint8_t *data = (uint8_t *)rte_pktmbuf_append(m, PACKET_BYTES);
	struct rte_ipv4_hdr ip = { .version_ihl = 0x45, .time_to_live = 64,
				   .total_length = rte_cpu_to_be_16(36),
				   .next_proto_id = PROTO_UDP, .src_addr = flow,
				   .dst_addr = RTE_BE32(0x0a000001) };
	struct rte_udp_hdr udp = { .src_port = RTE_BE16(1), .dst_port = RTE_BE16(2),
				   .dgram_len = RTE_BE16(16) };
	struct payload payload = { .number = number, .wish = wish };

	memset(data, 0, 12);
	memcpy(data + 12, (uint8_t[2]){ 8, 0 }, 2);
	ip.hdr_checksum = rte_ipv4_cksum(&ip);
	memcpy(data + 14, &ip, 20);
	memcpy(data + 34, &udp, 8);
	memcpy(data + 42, &payload, 8);
	return m;
}

/* --- the tests ------------------------------------------------------------------ */

struct end {
	struct slow_store store;
	struct memory_port inside, outside;
	struct rte_mbuf *packet[N_PACKETS];
	struct pipe *pipe;
};

static struct rte_mempool *pool;

/* Few: there is always a newer write in the overlay.  Many: hardly ever. */
static const unsigned int flow_counts[] = { 1, 7, MAX_FLOWS };
static unsigned int n_flows;

static struct partition *
make_partition(void)
{
	static const struct pipe_table wanted[STORE_MAX_TABLES];
	struct store_table table[STORE_MAX_TABLES];
	unsigned int n = pipe_tables(&count_chain, wanted, table);
	struct partition *p;

	assert_int_equal(n, 2);
	assert_int_equal(partition_new(7, 1, (uint64_t[2]){ 1, 2 }, &p), 0);
	for (unsigned int i = 0; i < n; i++) {
		struct core_declaration d = { .name = table[i].name,
					      .key_max = table[i].key_max,
					      .value_max = table[i].value_max,
					      .format = table[i].format };

		assert_int_equal(partition_declare(p, &d), i);
	}
	return p;
}

static struct end *
make_end(struct partition *partition, uint64_t client, unsigned int *seed, bool ordered,
	 int only)
{
	struct end *e = calloc(1, sizeof(*e));
	uint32_t number[MAX_FLOWS] = { 0 };

	slow_init(&e->store, partition, client, seed);
	for (unsigned int i = 0; i < N_PACKETS; i++) {
		uint32_t flow = rand_r(seed) % n_flows;
		int wish = only >= 0 ? only : rand_r(seed) % N_WISHES;

		e->packet[i] = make_packet(pool, flow + 1, number[flow]++, wish);
	}
	e->inside = (struct memory_port){ .port = { .ops = &memory_ops, .ordered = ordered },
					  .in = e->packet, .n_in = N_PACKETS, .seed = seed };
	e->outside = (struct memory_port){ .port = { .ops = &memory_ops }, .seed = seed };

	struct pipe_config config = { .chain = count_chain, .store = &e->store.store,
				      .port = { &e->inside.port, &e->outside.port } };

	assert_int_equal(pipe_open(&config, &e->pipe), 0);
	return e;
}

static void
free_end(struct end *e)
{
	pipe_close(e->pipe);
	slow_fini(&e->store);
	free(e);
}

static bool
finished(const struct end *e)
{
	return e->inside.at == N_PACKETS && pipe_drained(e->pipe);
}

/* Where packets leave. */
static const struct memory_port *
outlet(const struct end *e)
{
	return turning ? &e->inside : &e->outside;
}

/* Packets of a flow left in the order they came, and none saw less than the one
 * before it. */
static void
check_order(const struct end *e)
{
	uint32_t number[MAX_FLOWS + 1] = { 0 }, stamp[MAX_FLOWS + 1] = { 0 };

	const struct memory_port *m = outlet(e);

	for (unsigned int i = 0; i < m->n_out; i++) {
		uint32_t flow = m->out[i].flow;

		assert_true(m->out[i].number >= number[flow]);
		assert_true(m->out[i].stamp >= stamp[flow]);
		if (m->out[i].wish != WISH_LOOK)
			assert_true(m->out[i].stamp > stamp[flow]);
		number[flow] = m->out[i].number + 1;
		stamp[flow] = m->out[i].stamp;
	}
}

/* Every count was given to exactly one packet, over all pipes. */
static void
check_counts(struct end **end, unsigned int n_ends)
{
	for (uint32_t flow = 1; flow <= n_flows; flow++) {
		static bool seen[2 * N_PACKETS + 1];
		uint32_t n = 0;

		memset(seen, 0, sizeof(seen));
		for (unsigned int k = 0; k < n_ends; k++) {
			const struct memory_port *m = outlet(end[k]);

			for (unsigned int i = 0; i < m->n_out; i++) {
				uint32_t stamp = m->out[i].stamp;

				if (m->out[i].flow != flow ||
				    m->out[i].wish == WISH_LOOK)
					continue;
				assert_false(seen[stamp]);
				seen[stamp] = true;
				n++;
			}
		}
		for (uint32_t i = 1; i <= n; i++)
			assert_true(seen[i]);
	}
}

/* What all runs of a test met, lest it prove nothing. */
static struct pipe_stats total;

/* 'n_ends' pipes on one partition; 'only' one wish, or all mixed (-1). */
static void
run_ends(unsigned int n_ends, bool ordered, int only, unsigned int seed)
{
	struct partition *partition = make_partition();
	struct end *end[2];
	unsigned int state = seed;

	for (unsigned int k = 0; k < n_ends; k++)
		end[k] = make_end(partition, 1000 + k, &state, ordered, only);

	bool all;

	do {
		all = true;
		for (unsigned int k = 0; k < n_ends; k++) {
			pipe_turn(end[k]->pipe);
			all &= finished(end[k]);
		}
	} while (!all);
	for (unsigned int k = 0; k < n_ends; k++) {
		const struct pipe_stats *s = pipe_stats(end[k]->pipe);

		assert_int_equal(s->sent + s->dropped[NF_DROP_CONFLICT], N_PACKETS);
		if (n_ends == 1) {
			assert_int_equal(s->conflicts, 0);
			assert_int_equal(outlet(end[k])->n_out, N_PACKETS);
		}
		check_order(end[k]);
		total.conflicts += s->conflicts;
		total.parked += s->parked;
	}
	check_counts(end, n_ends);
	for (unsigned int k = 0; k < n_ends; k++)
		free_end(end[k]);
	partition_free(partition);
}

static void
run_all(unsigned int n_ends, unsigned int n_seeds)
{
	for (size_t i = 0; i < sizeof(flow_counts) / sizeof(*flow_counts); i++) {
		n_flows = flow_counts[i];
		for (int only = -1; only < N_WISHES; only++) {
			for (unsigned int seed = 1; seed <= n_seeds; seed++)
				run_ends(n_ends, false, only, seed);
		}
	}
}

static void
test_one_pipe_never_conflicts_with_itself(void **state)
{
	(void)state;
	run_all(1, 5);
}

static void
test_two_pipes_count_every_packet_once_and_in_order(void **state)
{
	(void)state;
	run_all(2, 10);
	assert_true(total.conflicts > 1000);
	assert_true(total.parked > 1000);
}

static void
test_what_turns_is_counted_once_and_in_order(void **state)
{
	(void)state;
	turning = true;
	run_all(1, 2);
	run_all(2, 3);
	turning = false;
}

static void
keep_order_of_arrival(void)
{
	n_flows = 7;

	struct partition *partition = make_partition();
	unsigned int seed = 3;
	struct end *e = make_end(partition, 1, &seed, true, -1);
	uint32_t flow[N_PACKETS];

	for (unsigned int i = 0; i < N_PACKETS; i++)
		memcpy(&flow[i], rte_pktmbuf_mtod(e->packet[i], uint8_t *) + 26, 4);
	while (!finished(e))
		pipe_turn(e->pipe);
	assert_int_equal(outlet(e)->n_out, N_PACKETS);
	for (unsigned int i = 0; i < N_PACKETS; i++)
		assert_int_equal(outlet(e)->out[i].flow, flow[i]);
	free_end(e);
	partition_free(partition);
}

static void
test_ordered_ports_keep_the_order_of_arrival_over_all_flows(void **state)
{
	(void)state;
	keep_order_of_arrival();
	turning = true;
	keep_order_of_arrival();
	turning = false;
}

static int
start_dpdk(void **state)
{
	char why[256];
	struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 128 };

	(void)state;
	if (eal_start(&options, why, sizeof(why)) != 0)
		return -1;
	pool = rte_pktmbuf_pool_create("test", 8191, 256, pipe_private_bytes(),
				       RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	return pool != NULL ? 0 : -1;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_pipe_never_conflicts_with_itself),
		cmocka_unit_test(test_two_pipes_count_every_packet_once_and_in_order),
		cmocka_unit_test(test_what_turns_is_counted_once_and_in_order),
		cmocka_unit_test(test_ordered_ports_keep_the_order_of_arrival_over_all_flows),
	};

	return cmocka_run_group_tests(tests, start_dpdk, NULL);
}
