/*
 * harness.c - see harness.h.
 */
#include "harness.h"

#include <stdatomic.h>
#include <stdio.h>

#include "bench_store.h"
#include "pipe/eal.h"

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

struct bench {
	const struct nf *nf, *other;		/* Other: the second pipe's, or NULL. */
	void *nf_static;
	struct bench_partitions partitions;
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

/* --- the bench ---------------------------------------------------------------- */

/* Returns 0, or what the function's init() does. */
static int
read_section(const struct nf *nf, const char *section, void **nf_static)
{
	void *options = calloc(1, nf->options_bytes);
	struct config *config;

	*nf_static = NULL;
	if (nf->options == NULL) {
		free(options);
		return 0;
	}

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
open_pipe(struct bench *b, unsigned int i, bool pass_unseen)
{
	struct pipe_config config = { .nf = b->nf, .nf_static = b->nf_static,
				      .store = &b->store[i].store,
				      .pass_unseen = pass_unseen };

	if (i == 1 && b->other != NULL)
		config.nf = b->other;
	bench_store_init(&b->store[i], &b->partitions, 1 + i);
	for (unsigned int side = 0; side < 2; side++) {
		b->port[i][side] = (struct memory_port){
			.port = { .ops = &memory_ops, .pool = pool, .wait_fd = -1 },
			.bench = b, .pipe = i, .side = side,
		};
		config.port[side] = &b->port[i][side].port;
	}
	assert_int_equal(pipe_open(&config, &b->pipe[i]), 0);
}

/* As another release of the function declares its tables: under the same names. */
static void
declare_other(struct bench *b, const struct bench_setup *setup)
{
	struct store_table declared[STORE_MAX_TABLES];
	char table[STORE_TABLE_NAME];
	unsigned int n = pipe_tables(b->other, setup->table, declared);

	for (unsigned int i = 0; i < n; i++) {
		strcpy(table, strchr(declared[i].name, '.'));
		snprintf(declared[i].name, sizeof(declared[i].name), "%.16s%.15s",
			 b->nf->name, table);
	}
	bench_partitions_declare(&b->partitions, declared, n);
}

struct bench *
bench_open_as(const struct bench_setup *setup)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct store_table declared[STORE_MAX_TABLES];

	b->nf = setup->nf;
	b->other = setup->other;
	assert_int_equal(read_section(b->nf, setup->section, &b->nf_static), 0);
	bench_partitions_init(&b->partitions, setup->n_partitions);
	bench_partitions_declare(&b->partitions, declared,
				 pipe_tables(b->nf, setup->table, declared));
	if (b->other != NULL)
		declare_other(b, setup);
	b->n_pipes = setup->n_pipes;
	for (unsigned int i = 0; i < b->n_pipes; i++)
		open_pipe(b, i, setup->pass_unseen);
	return b;
}

struct bench *
bench_open(const char *nf, const char *section, unsigned int n_pipes)
{
	struct bench_setup setup = { .nf = nf_find(nf), .section = section,
				     .n_pipes = n_pipes, .n_partitions = 1 };

	assert_non_null(setup.nf);
	return bench_open_as(&setup);
}

void
bench_close(struct bench *b)
{
	bench_settle(b);
	for (unsigned int i = 0; i < b->n_pipes; i++) {
		pipe_close(b->pipe[i]);
		bench_store_fini(&b->store[i]);
	}
	bench_partitions_fini(&b->partitions);
	if (b->nf->fini != NULL)
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
	return !bench_partitions_due(&b->partitions);
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
	struct bench_partitions *p = &b->partitions;

	p->now_ms += ms;
	for (unsigned int i = 0; i < p->n; i++)
		while (partition_expire(p->partition[i], p->now_ms, 1000, NULL) == 1000)
			;
}

void
bench_hold(struct bench *b, bool hold)
{
	b->partitions.hold = hold;
}

void
bench_fail(struct bench *b, unsigned int partition, int error)
{
	b->partitions.error[partition] = error;
}

void
bench_pin(struct bench *b, unsigned int pipe, uint8_t format)
{
	uint8_t formats[STORE_MAX_TABLES];

	memset(formats, format, sizeof(formats));
	pipe_set_formats(b->pipe[pipe], formats);
}

struct pipe_stats
bench_stats(const struct bench *b)
{
	struct pipe_stats sum = { 0 };

	for (unsigned int i = 0; i < b->n_pipes; i++) {
		const uint64_t *from = (const uint64_t *)pipe_stats(b->pipe[i]);

		for (size_t k = 0; k < sizeof(sum) / sizeof(*from); k++)
			((uint64_t *)&sum)[k] += from[k];
	}
	return sum;
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
	return bench_stats(b).dropped[reason];
}

uint64_t
bench_conflicts(const struct bench *b)
{
	return bench_stats(b).conflicts;
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
	const struct bench_partitions *p = &b->partitions;
	struct core_counters n;
	uint64_t writes = 0;

	for (unsigned int i = 0; i < p->n; i++) {
		partition_count(p->partition[i], &n);
		writes += n.groups - n.conflicts - n.bounds - n.full;
	}
	return writes;
}

/* Its id is the same in all partitions. */
static unsigned int
table_id(const struct bench *b, const char *table)
{
	char name[STORE_TABLE_NAME];
	unsigned int n, id = 0;
	const struct core_table *t = partition_tables(b->partitions.partition[0], &n);

	snprintf(name, sizeof(name), "%s.%s", b->nf->name, table);
	while (id < n && strcmp(t[id].name, name) != 0)
		id++;
	assert_true(id < n);
	return id;
}

uint64_t
bench_records(const struct bench *b, const char *table)
{
	const struct bench_partitions *p = &b->partitions;
	unsigned int n, id = table_id(b, table);
	uint64_t records = 0;

	for (unsigned int i = 0; i < p->n; i++)
		records += partition_tables(p->partition[i], &n)[id].n_records;
	return records;
}

uint64_t
bench_formats(const struct bench *b, const char *table, uint8_t format)
{
	const struct bench_partitions *p = &b->partitions;
	struct buffer found = { 0 };
	struct frame_cursor c;
	struct frame_lease record;
	uint64_t cursor, n = 0;

	for (unsigned int i = 0; i < p->n; i++) {
		cursor = 0;
		do {
			assert_int_equal(partition_scan(p->partition[i], p->now_ms,
							table_id(b, table), 100, &cursor,
							&found), 0);
		} while (cursor != 0);
	}
	c = (struct frame_cursor){ found.data, found.data + found.bytes };
	while (c.at < c.end) {
		c.at += 8;			/* Its times. */
		assert_int_equal(frame_lease_next(&c, &record), 1);
		n += record.format == format;
	}
	buffer_fini(&found);
	return n;
}

uint64_t
bench_refused(const struct bench *b, unsigned int pipe, uint8_t format)
{
	unsigned int n;
	const struct pipe_refusal *r = pipe_refusals(b->pipe[pipe], &n);
	uint64_t refused = 0;

	for (; n > 0; n--, r++)
		if (r->format == format)
			refused += atomic_load(&r->n);
	return refused;
}

/* --- tables ------------------------------------------------------------------- */

/* What the counters say of the one packet that went through since 'before'. */
struct counts {
	uint64_t kept, writes, dropped[NF_N_DROPS];
};

static void
count(const struct bench *b, struct counts *n)
{
	struct pipe_stats s = bench_stats(b);

	n->kept = s.kept;
	n->writes = bench_writes(b);
	memcpy(n->dropped, s.dropped, sizeof(n->dropped));
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
	bench_settle(b);
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
run_steps(const char *nf, const char *section, const struct step *steps, unsigned int n,
	  unsigned int n_shapes)
{
	static const unsigned int shapes[][2] = { { 1, 1 }, { 2, 1 }, { 2, 3 } };

	for (unsigned int i = 0; i < n_shapes; i++) {
		struct bench_setup setup = { .nf = nf_find(nf), .section = section,
					     .n_pipes = shapes[i][0],
					     .n_partitions = shapes[i][1] };
		struct bench *b = bench_open_as(&setup);

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
