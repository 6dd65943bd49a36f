/*
 * harness.c - see harness.h.
 *
 * Its store is the embedded one's shape over the same partition, but with the
 * test's clock: a frame is applied when it is submitted, and its reply is there with
 * the next poll.  So a run that reads and then writes takes two turns of its pipe, and
 * what another pipe does in between is a race.
 */
#include "harness.h"

#include <stdio.h>

#include "pipe/eal.h"
#include "pipe/pipe.h"
#include "store/core.h"

enum {
	MAX_PACKETS = 512,
	N_MBUFS = 2047,
	MAX_TURNS = 10000,
};

struct memory_port {
	struct port port;
	struct bench *bench;
	unsigned int pipe;
	enum nf_side side;
	unsigned int n_in;
	struct rte_mbuf *in[MAX_PACKETS];
};

struct bench_batch {
	struct store_batch batch;		/* First: the pipe's pointer. */
	uint8_t *request;
	struct buffer reply;
	bool taken;
};

struct bench_store {
	struct store store;			/* First: the pipe's pointer. */
	struct bench *bench;
	uint64_t client, next_id;
	unsigned int n_done;
	struct store_batch *done[STORE_INFLIGHT];
	struct bench_batch batch[STORE_BATCHES];
};

struct bench {
	const struct nf *nf;
	void *nf_static;
	struct partition *partition;
	uint64_t now_ms;
	unsigned int n_pipes;
	struct pipe *pipe[BENCH_PIPES];
	struct bench_store store[BENCH_PIPES];
	struct memory_port port[BENCH_PIPES][2];
	unsigned int n_sent, n_taken;
	struct sent sent[MAX_PACKETS];
};

static struct rte_mempool *pool;

int
bench_start(void **state)
{
	struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 64 };
	char why[256];

	(void)state;
	if (eal_start(&options, why, sizeof(why)) != 0) {
		print_error("%s\n", why);
		return -1;
	}
	pool = rte_pktmbuf_pool_create("bench", N_MBUFS, 0,
				       (uint16_t)pipe_private_bytes(),
				       RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	return pool != NULL ? 0 : -1;
}

/* --- ports -------------------------------------------------------------------- */

static unsigned int
memory_rx(struct port *port, struct rte_mbuf **packets, unsigned int n)
{
	struct memory_port *m = (struct memory_port *)port;

	n = RTE_MIN(n, m->n_in);
	memcpy(packets, m->in, n * sizeof(*packets));
	m->n_in -= n;
	memmove(m->in, m->in + n, m->n_in * sizeof(m->in[0]));
	return n;
}

static unsigned int
memory_tx(struct port *port, struct rte_mbuf **packets, unsigned int n)
{
	struct memory_port *m = (struct memory_port *)port;
	struct bench *b = m->bench;

	for (unsigned int i = 0; i < n; i++) {
		assert_true(b->n_sent < MAX_PACKETS);

		struct sent *s = &b->sent[b->n_sent++];

		*s = (struct sent){ m->pipe, m->side, packets[i]->pkt_len, { 0 } };
		assert_true(s->bytes <= BENCH_FRAME_BYTES);
		memcpy(s->frame, rte_pktmbuf_mtod(packets[i], void *), s->bytes);
		rte_pktmbuf_free(packets[i]);
	}
	return n;
}

static const struct port_ops memory_ops = { .rx = memory_rx, .tx = memory_tx };

/* --- the store ---------------------------------------------------------------- */

static struct store_batch *
store_batch_take(struct store *store)
{
	struct bench_store *m = (struct bench_store *)store;

	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		struct bench_batch *b = &m->batch[i];

		if (b->taken)
			continue;
		b->taken = true;
		frame_init(&b->batch.request, b->request, FRAME_MAX_BYTES);
		return &b->batch;
	}
	return NULL;
}

static int
store_submit(struct store *store, struct store_batch *batch)
{
	struct bench_store *m = (struct bench_store *)store;
	struct bench_batch *b = (struct bench_batch *)batch;
	struct partition *p = m->bench->partition;
	struct frame *f = &batch->request;
	struct frame_reply_head head;

	if (m->n_done == STORE_INFLIGHT)
		return -EAGAIN;
	frame_finish(f, partition_generation(p), m->client, ++m->next_id);
	b->reply.bytes = 0;
	assert_int_equal(partition_apply(p, f->start, (size_t)(f->at - f->start),
					 m->bench->now_ms, false, &b->reply, NULL), 0);
	assert_int_equal(frame_reply_open(b->reply.data, b->reply.bytes, &head,
					  &batch->reply), 0);
	batch->error = 0;
	m->done[m->n_done++] = batch;
	return 0;
}

static unsigned int
store_poll(struct store *store, struct store_batch **done, unsigned int max)
{
	struct bench_store *m = (struct bench_store *)store;

	if (max == 0 || m->n_done == 0)
		return 0;
	done[0] = m->done[0];
	memmove(m->done, m->done + 1, --m->n_done * sizeof(m->done[0]));
	return 1;
}

static void
store_free(struct store *store, struct store_batch *batch)
{
	(void)store;
	((struct bench_batch *)batch)->taken = false;
}

static const struct store_ops bench_store_ops = {
	.scheme = "memory", .batch = store_batch_take, .submit = store_submit,
	.poll = store_poll, .free = store_free,
};

static void
store_init(struct bench *b, unsigned int i)
{
	struct bench_store *m = &b->store[i];

	m->store.ops = &bench_store_ops;
	m->bench = b;
	m->client = 1 + i;
	for (unsigned int k = 0; k < STORE_BATCHES; k++) {
		m->batch[k].request = aligned_alloc(64, FRAME_MAX_BYTES);
		assert_non_null(m->batch[k].request);
	}
}

static void
store_fini(struct bench_store *m)
{
	for (unsigned int k = 0; k < STORE_BATCHES; k++) {
		free(m->batch[k].request);
		buffer_fini(&m->batch[k].reply);
	}
}

/* --- the bench ---------------------------------------------------------------- */

/* Returns 0, or what the function's init() does. */
static int
read_section(const struct nf *nf, const char *section, void **nf_static)
{
	void *options = calloc(1, nf->options_bytes);
	struct config *config;
	int err = config_load_text("section", section, strlen(section), nf->options,
				   options, &config);

	if (err == 0) {
		err = nf->init(options, nf_static);
		config_free(config);
	}
	free(options);
	return err;
}

bool
bench_refuses(const char *name, const char *section)
{
	const struct nf *nf = nf_find(name);
	void *nf_static;

	if (read_section(nf, section, &nf_static) != 0)
		return true;
	nf->fini(nf_static);
	return false;
}

static void
open_pipe(struct bench *b, unsigned int i)
{
	struct pipe_config config = { .nf = b->nf, .nf_static = b->nf_static,
				      .store = &b->store[i].store };

	store_init(b, i);
	for (unsigned int side = 0; side < 2; side++) {
		b->port[i][side] = (struct memory_port){
			.port = { .ops = &memory_ops, .pool = pool, .wait_fd = -1 },
			.bench = b, .pipe = i, .side = side,
		};
		config.port[side] = &b->port[i][side].port;
	}
	assert_int_equal(pipe_open(&config, &b->pipe[i]), 0);
}

static void
declare_tables(struct bench *b)
{
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(b->nf, 0, table, STORE_MAX_TABLES);

	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(partition_declare(b->partition, table[i]->name,
						   table[i]->key_max, table[i]->value_max,
						   table[i]->format),
				 table[i]->index);
}

struct bench *
bench_open(const char *nf, const char *section, unsigned int n_pipes)
{
	struct bench *b = calloc(1, sizeof(*b));

	b->nf = nf_find(nf);
	assert_non_null(b->nf);
	assert_int_equal(read_section(b->nf, section, &b->nf_static), 0);
	b->now_ms = 1000000;
	assert_int_equal(partition_new(1, (uint64_t[2]){ 1, 2 }, &b->partition), 0);
	declare_tables(b);
	b->n_pipes = n_pipes;
	for (unsigned int i = 0; i < n_pipes; i++)
		open_pipe(b, i);
	return b;
}

void
bench_close(struct bench *b)
{
	bench_settle(b);
	for (unsigned int i = 0; i < b->n_pipes; i++) {
		pipe_close(b->pipe[i]);
		store_fini(&b->store[i]);
	}
	partition_free(b->partition);
	b->nf->fini(b->nf_static);
	/* No packet was lost track of. */
	assert_int_equal(rte_mempool_avail_count(pool), N_MBUFS);
	free(b);
}

void
bench_put(struct bench *b, unsigned int pipe, const struct spec *spec)
{
	struct memory_port *m = &b->port[pipe][spec->side];
	struct rte_mbuf *packet = rte_pktmbuf_alloc(pool);
	uint8_t frame[BENCH_FRAME_BYTES];
	unsigned int bytes = spec_build(spec, frame);

	assert_non_null(packet);
	assert_true(m->n_in < MAX_PACKETS);
	memcpy(rte_pktmbuf_append(packet, (uint16_t)bytes), frame, bytes);
	m->in[m->n_in++] = packet;
}

void
bench_turn(struct bench *b, unsigned int pipe)
{
	pipe_turn(b->pipe[pipe]);
}

static bool
idle(const struct bench *b)
{
	for (unsigned int i = 0; i < b->n_pipes; i++)
		if (!pipe_drained(b->pipe[i]) || b->port[i][NF_INSIDE].n_in > 0 ||
		    b->port[i][NF_OUTSIDE].n_in > 0)
			return false;
	return true;
}

void
bench_settle(struct bench *b)
{
	for (unsigned int turn = 0; !idle(b); turn++) {
		assert_true(turn < MAX_TURNS);
		bench_turn(b, turn % b->n_pipes);
	}
}

void
bench_wait(struct bench *b, uint64_t ms)
{
	b->now_ms += ms;
	while (partition_expire(b->partition, b->now_ms, 1000, NULL) == 1000)
		;
}

const struct sent *
bench_take(struct bench *b)
{
	if (b->n_taken == b->n_sent) {
		b->n_taken = b->n_sent = 0;
		return NULL;
	}
	return &b->sent[b->n_taken++];
}

static void
sent_parse(const struct sent *s, struct packet *p)
{
	static uint8_t frame[BENCH_FRAME_BYTES];

	memcpy(frame, s->frame, s->bytes);
	assert_int_equal(packet_parse(p, frame, s->bytes, s->bytes), PACKET_OK);
	assert_true(packet_checksum_ok(p));
}

const char *
sent_endpoints(const struct sent *s)
{
	static char text[2 * PACKET_TEXT_BYTES + 4];
	char from[PACKET_TEXT_BYTES], to[PACKET_TEXT_BYTES];
	struct endpoint e;
	struct packet p;

	sent_parse(s, &p);
	flow_source(&p.flow, &e);
	endpoint_print(&e, from);
	flow_destination(&p.flow, &e);
	endpoint_print(&e, to);
	snprintf(text, sizeof(text), "%s > %s", from, to);
	return text;
}

const char *
sent_data(const struct sent *s)
{
	static char text[BENCH_FRAME_BYTES + 1];
	struct packet p;

	sent_parse(s, &p);
	memcpy(text, p.data + p.payload, packet_payload_bytes(&p));
	text[packet_payload_bytes(&p)] = '\0';
	return text;
}

uint64_t
bench_dropped(const struct bench *b, enum nf_drop reason)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < b->n_pipes; i++)
		n += pipe_stats(b->pipe[i])->dropped[reason];
	return n;
}

uint64_t
bench_kept(const struct bench *b)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < b->n_pipes; i++)
		n += pipe_stats(b->pipe[i])->kept;
	return n;
}

uint64_t
bench_conflicts(const struct bench *b)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < b->n_pipes; i++)
		n += pipe_stats(b->pipe[i])->conflicts;
	return n;
}

uint32_t
bench_alert(struct bench *b)
{
	struct pipe_alert alert;

	for (unsigned int i = 0; i < b->n_pipes; i++)
		if (pipe_alerts(b->pipe[i], &alert, 1) == 1)
			return alert.id;
	return 0;
}

uint64_t
bench_writes(const struct bench *b)
{
	struct core_counters n;

	partition_count(b->partition, &n);
	return n.groups - n.conflicts;
}

uint64_t
bench_records(const struct bench *b)
{
	struct core_counters n;

	partition_count(b->partition, &n);
	return n.records;
}

/* --- tables ------------------------------------------------------------------- */

/* What the counters say of the one packet that went through since 'before'. */
struct counts {
	uint64_t kept, writes, dropped[NF_N_DROPS];
};

static void
count(const struct bench *b, struct counts *n)
{
	n->kept = bench_kept(b);
	n->writes = bench_writes(b);
	for (unsigned int i = 0; i < NF_N_DROPS; i++)
		n->dropped[i] = bench_dropped(b, i);
}

static int
fate_of(const struct counts *before, const struct counts *after)
{
	if (after->kept != before->kept)
		return KEPT;
	for (int i = 0; i < NF_N_DROPS; i++)
		if (after->dropped[i] != before->dropped[i])
			return i;
	return SENT;
}

static const char *
fate_name(int fate)
{
	static const char *const names[] = {
#define X(id, name, help) name,
		NF_DROPS(X)
#undef X
	};

	return fate == SENT ? "sent" : fate == KEPT ? "kept" : names[fate];
}

/* Checks the packet that left for 'step', if one should have. */
static void
check_sent(struct bench *b, const struct step *step)
{
	uint8_t frame[BENCH_FRAME_BYTES];
	const struct sent *s;

	if (step->fate == SENT) {
		unsigned int bytes = spec_build(&step->packet, frame);

		s = bench_take(b);
		assert_non_null(s);
		assert_int_not_equal(s->side, step->packet.side);
		assert_int_equal(s->bytes, bytes);
		if (step->as != NULL)
			assert_string_equal(sent_endpoints(s), step->as);
		else
			assert_memory_equal(s->frame, frame, bytes);
	}
	for (unsigned int i = 0; i < step->emits; i++) {
		s = bench_take(b);
		assert_non_null(s);
		assert_int_not_equal(s->side, step->packet.side);
	}
	assert_null(bench_take(b));
}

static void
run_step(struct bench *b, const struct step *step, unsigned int pipe)
{
	struct counts before, after;

	bench_wait(b, step->after_ms);
	count(b, &before);
	bench_put(b, pipe, &step->packet);
	bench_settle(b);
	count(b, &after);

	int fate = fate_of(&before, &after);
	bool wrote = after.writes != before.writes;
	uint32_t alert = bench_alert(b);

	if (fate != step->fate || wrote != step->writes || alert != step->alerts)
		fail_msg("%s: want %s, %s, alert %u; got %s, %s, alert %u", step->name,
			 fate_name(step->fate), step->writes ? "written" : "not written",
			 step->alerts, fate_name(fate), wrote ? "written" : "not written",
			 alert);
	assert_int_equal(bench_alert(b), 0);
	check_sent(b, step);
}

void
bench_steps(struct bench *b, const struct step *steps, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		run_step(b, &steps[i], i % b->n_pipes);
}

void
run_steps(const char *nf, const char *section, const struct step *steps, unsigned int n)
{
	for (unsigned int n_pipes = 1; n_pipes <= BENCH_PIPES; n_pipes++) {
		struct bench *b = bench_open(nf, section, n_pipes);

		bench_steps(b, steps, n);
		bench_close(b);
	}
}

void
bench_race(struct bench *b, const struct spec *packets, unsigned int n,
	   unsigned int schedule, unsigned int n_turns)
{
	for (unsigned int i = 0; i < n; i++)
		bench_put(b, i % 2, &packets[i]);
	for (unsigned int i = 0; i < n_turns; i++)
		bench_turn(b, schedule >> i & 1);
	bench_settle(b);
}
