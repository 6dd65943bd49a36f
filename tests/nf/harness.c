/*
 * harness.c - see harness.h.
 */
#include "harness.h"

#include <stdatomic.h>
#include <stdio.h>

#include "bench_store.h"
#include "pipe/eal.h"
#include "pipe/task.h"

enum { MAX_PACKETS = 512, N_MBUFS = 2047, MAX_TURNS = 10000 };

struct memory_port {
	struct port port;
	struct bench *bench;
	unsigned int pipe;
	enum nf_side side;
	unsigned int n_in;
	struct rte_mbuf *in[MAX_PACKETS];
};

/* What the functions of a chain were made of. */
struct made {
	struct chain chain;
	void *options[NF_MAX_STAGES + 1];
	struct config *config[NF_MAX_STAGES + 1];
};

struct bench {
	struct made made;
	struct made reloaded[BENCH_RELOADS];
	unsigned int n_reloaded;
	struct chain other;			/* The second pipe's, if it is another. */
	struct tasks *tasks;
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

/* Reads the function's options.  Its section is the text, or one of those in it. */
static int
read_section(struct made *m, unsigned int i, const char *text, bool one_of_several)
{
	const struct nf *nf = m->chain.stage[i].nf;
	struct config_field sections[NF_MAX_STAGES + 1] = { 0 };
	int err;

	if (nf->options == NULL)
		return 0;
	if (!one_of_several)
		return config_load_text("section", text, strlen(text), nf->options,
					m->options[i], &m->config[i]);
	for (unsigned int k = 0; k < m->chain.n; k++)
		sections[k] = (struct config_field){ .key = m->chain.stage[k].nf->name,
						     .kind = CONFIG_MAP };
	err = config_load_text("section", text, strlen(text), sections, NULL,
			       &m->config[i]);
	if (err == 0)
		err = config_section(m->config[i], nf->name, nf->options, m->options[i]);
	return err;
}

static int
make_stage(struct made *m, unsigned int i, const char *text, bool one_of_several)
{
	struct stage *stage = &m->chain.stage[i];
	void *state = NULL;
	int err;

	m->options[i] = calloc(1, stage->nf->options_bytes + 1);
	err = read_section(m, i, text, one_of_several);
	if (err == 0 && stage->nf->init != NULL)
		err = stage->nf->init(m->options[i], &state);
	stage->nf_static = stage->nf->init != NULL ? state : m->options[i];
	return err;
}

static int
make(struct made *m, const struct nf *const *nf, unsigned int n,
     const struct bench_setup *setup)
{
	const char *section = setup->section;
	int err = 0;

	chain_make(&m->chain, nf, n);
	if (setup->finder != NULL && m->chain.n_all > n)
		m->chain.stage[n].nf = setup->finder;
	for (unsigned int i = 0; i < n && err == 0; i++)
		err = make_stage(m, i, section != NULL ? section : "", n > 1);
	if (m->chain.n_all > n && err == 0)
		err = make_stage(m, n, setup->fragments != NULL ? setup->fragments : "",
				 false);
	return err;
}

static void
unmake(struct made *m)
{
	for (unsigned int i = 0; i < m->chain.n_all; i++) {
		struct stage *stage = &m->chain.stage[i];

		if (stage->nf_static != NULL && stage->nf->init != NULL &&
		    stage->nf->fini != NULL)
			stage->nf->fini((void *)stage->nf_static);
		config_free(m->config[i]);
		free(m->options[i]);
	}
}

bool
bench_refuses(const char *name, const char *section)
{
	const struct nf *nf = nf_find(name);
	struct bench_setup setup = { .section = section };
	struct made made = { 0 };
	bool refuses = make(&made, &nf, 1, &setup) != 0;

	unmake(&made);
	return refuses;
}

static void
open_pipe(struct bench *b, unsigned int i, const struct bench_setup *setup)
{
	struct pipe_config config = {
		.chain = i == 1 && b->other.n > 0 ? b->other : b->made.chain,
		.store = &b->store[i].store,
		.loss = setup->pass_unseen ? PIPE_LOSS_PASS : setup->loss,
		.grace_ms = setup->grace_ms != 0 ? setup->grace_ms : 60 * 1000,
		.zone = setup->zone,
		.refusals = setup->refusals != 0 ? setup->refusals : 1000,
		.mtu = { setup->mtu[0], setup->mtu[1] },
		.events = true,
		.lane = tasks_lane(b->tasks, i),
	};

	bench_store_init(&b->store[i], &b->partitions, 1 + i);
	for (unsigned int side = 0; side < 2; side++) {
		b->port[i][side] = (struct memory_port){
			.port = { .ops = &memory_ops, .pool = pool, .wait_fd = -1,
				  .ordered = setup->ordered },
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
	unsigned int n = pipe_tables(&b->other, setup->table, declared);

	for (unsigned int i = 0; i < n; i++) {
		strcpy(table, strchr(declared[i].name, '.'));
		snprintf(declared[i].name, sizeof(declared[i].name), "%.16s%.15s",
			 b->made.chain.stage[0].nf->name, table);
	}
	bench_partitions_declare(&b->partitions, declared, n);
}

/* The functions of a setup, in their order; returns how many. */
static unsigned int
functions_of(const struct bench_setup *setup, const struct nf *nf[NF_MAX_STAGES])
{
	char names[128], *at = names, *name;
	unsigned int n = 0;

	if (setup->names == NULL) {
		nf[n++] = setup->nf;
		for (unsigned int i = 0; i < NF_MAX_STAGES - 1; i++)
			if (setup->then[i] != NULL)
				nf[n++] = setup->then[i];
		return n;
	}
	snprintf(names, sizeof(names), "%s", setup->names);
	while ((name = strsep(&at, ", ")) != NULL) {
		if (*name == '\0')
			continue;
		assert_true(n < NF_MAX_STAGES);
		nf[n] = nf_find(name);
		assert_non_null(nf[n++]);
	}
	return n;
}

struct bench *
bench_open_as(const struct bench_setup *setup)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct store_table declared[STORE_MAX_TABLES];
	const struct nf *nf[NF_MAX_STAGES];
	unsigned int n = functions_of(setup, nf);

	assert_int_equal(make(&b->made, nf, n, setup), 0);
	bench_partitions_init(&b->partitions, setup->n_partitions);
	bench_partitions_declare(&b->partitions, declared,
				 pipe_tables(&b->made.chain, setup->table, declared));
	if (setup->other != NULL) {
		chain_make(&b->other, &setup->other, 1);
		declare_other(b, setup);
	}
	b->n_pipes = setup->n_pipes;
	assert_int_equal(tasks_open(&b->made.chain, b->n_pipes, 0, &b->tasks), 0);
	for (unsigned int i = 0; i < b->n_pipes; i++)
		open_pipe(b, i, setup);
	return b;
}

struct bench *
bench_open(const char *nf, const char *section, unsigned int n_pipes)
{
	struct bench_setup setup = { .names = nf, .section = section,
				     .n_pipes = n_pipes, .n_partitions = 1 };

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
	assert_true(tasks_close(b->tasks));
	bench_partitions_fini(&b->partitions);
	unmake(&b->made);
	for (unsigned int i = 0; i < b->n_reloaded; i++)
		unmake(&b->reloaded[i]);
	/* No packet was lost track of. */
	assert_int_equal(rte_mempool_avail_count(pool), N_MBUFS);
	free(b);
}

void
bench_reload(struct bench *b, unsigned int pipe, const char *section)
{
	struct made *m = &b->reloaded[b->n_reloaded++];
	struct bench_setup setup = { .section = section };
	const struct nf *nf[NF_MAX_STAGES];

	assert_true(b->n_reloaded <= BENCH_RELOADS);
	for (unsigned int i = 0; i < b->made.chain.n; i++)
		nf[i] = b->made.chain.stage[i].nf;
	assert_int_equal(make(m, nf, b->made.chain.n, &setup), 0);
	pipe_set_static(b->pipe[pipe], &m->chain);
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
bench_fail_over(struct bench *b)
{
	b->partitions.term++;
}

/* Until no pipe finds anything to do: what is in flight is not all. */
static void
finish(struct bench *b)
{
	bool any = true;

	for (unsigned int turn = 0; any || !idle(b); turn++) {
		assert_true(turn < MAX_TURNS);
		any = false;
		for (unsigned int i = 0; i < b->n_pipes; i++)
			any |= pipe_turn(b->pipe[i]);
	}
}

void
bench_note(struct bench *b)
{
	for (unsigned int i = 0; i < b->n_pipes; i++)
		pipe_note(b->pipe[i]);
	finish(b);
}

void
bench_work(struct bench *b)
{
	bool any = true;

	while (any) {
		finish(b);
		any = false;
		while (b->tasks != NULL && tasks_work(b->tasks))
			any = true;
	}
}

bool
bench_event(struct bench *b, struct pipe_event *out)
{
	unsigned int i = 0;

	while (i < b->n_pipes && pipe_events(b->pipe[i], out, 1) == 0)
		i++;
	return i < b->n_pipes;
}

const char *
bench_log(struct bench *b)
{
	static char text[EVENT_TEXT_BYTES];
	struct pipe_event e;

	if (!bench_event(b, &e))
		return NULL;
	event_describe(b->made.chain.stage[e.said.stage].nf, &e, text);
	return text;
}

void
bench_pin(struct bench *b, unsigned int pipe, uint8_t format)
{
	uint8_t formats[STORE_MAX_TABLES];

	memset(formats, format, sizeof(formats));
	pipe_set_formats(b->pipe[pipe], formats);
}

unsigned int
bench_pipes(const struct bench *b)
{
	return b->n_pipes;
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

const struct sent *
bench_take_from(struct bench *b, enum nf_side side)
{
	for (unsigned int i = b->n_taken; i < b->n_sent; i++) {
		struct sent taken = b->sent[i];

		if (taken.side != side)
			continue;
		memmove(&b->sent[b->n_taken + 1], &b->sent[b->n_taken],
			(i - b->n_taken) * sizeof(taken));
		b->sent[b->n_taken] = taken;
		return bench_take(b);
	}
	return NULL;
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

	snprintf(name, sizeof(name), "%s%s%s",
		 strchr(table, '.') == NULL ? b->made.chain.stage[0].nf->name : "",
		 strchr(table, '.') == NULL ? "." : "", table);
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
