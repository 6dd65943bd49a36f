/*
 * test_tcp_transfer.c - segments by chance, and whole transfers whose segments are
 * sprayed over trackers that share a record, each of which decides by what it has read
 * some time ago.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "nf/tcp_track.h"
#include "test_random.h"

enum {
	A = 0,					/* The one that opens. */
	B = 1,
	MIB = 1 << 20,
	KIB = 1 << 10,
};

/* --- segments by chance ------------------------------------------------------- */

static struct tcp_segment
any_segment(struct test_random *r, const struct tcp_track *t, unsigned int side)
{
	static const uint8_t flags[] = { TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK | TCP_FIN,
					 TCP_RST, TCP_RST | TCP_ACK, TCP_SYN,
					 TCP_SYN | TCP_ACK, 0xff, 0 };
	uint32_t near = 1U << test_random_below(r, 32);
	struct tcp_segment s = {
		.seq = t->side[side].end + test_random_below(r, near) - near / 2,
		.ack = t->side[!side].end + test_random_below(r, near) - near / 2,
		.window = (uint16_t)test_random_u64(r),
		.flags = flags[test_random_below(r, sizeof(flags))],
		.scale = test_random_below(r, 2) ? TCP_NO_WSCALE
						 : (uint8_t)test_random_below(r, 15),
		.has_timestamp = test_random_below(r, 2) != 0,
		.timestamp = (uint32_t)test_random_u64(r),
	};

	s.end = s.seq + test_random_below(r, 1500);
	s.sack = s.ack + (test_random_below(r, 4) ? 0 : test_random_below(r, near));
	return s;
}

static bool
went_back(uint32_t from, uint32_t to)
{
	return (int32_t)(to - from) < 0;
}

/* [B30, B39] */
static void
test_whatever_comes_nothing_moves_back(void **state)
{
	struct test_random r = test_random_init("any segments");

	for (unsigned int i = 0; i < 300000; i++) {
		static struct tcp_track t;
		unsigned int side = test_random_below(&r, 2);
		struct tcp_segment s = any_segment(&r, &t, side);
		struct tcp_track before = t, next;
		enum track_result got = tcp_track(&t, side, &s, i % 1000 == 0, &next);

		assert_memory_equal(&t, &before, sizeof(t));
		if (got == TRACK_OPEN)
			tcp_track_open(&next, side, &s);
		if (got != TRACK_WRITE && got != TRACK_OPEN)
			continue;
		t = next;
		assert_true(t.state < TRACK_N_STATES);
		if (before.state < TRACK_ESTABLISHED || t.state < TRACK_ESTABLISHED)
			continue;
		for (unsigned int k = 0; k < 2; k++) {
			assert_false(went_back(before.side[k].end, t.side[k].end));
			assert_true(before.side[k].window <= t.side[k].window);
			if ((t.finished >> k & 1) == 0)
				assert_false(went_back(before.side[k].limit,
						       t.side[k].limit));
		}
		assert_true((before.finished & ~t.finished) == 0);
	}
}

/* --- transfers ---------------------------------------------------------------- */

enum {
	MSS = 1460,
	MAX_SEGMENTS = 12000,			/* Of a stream. */
	MAX_FLYING = 8192,
	N_RUNS = 12,				/* Packets that trackers have read for. */
};

struct peer {
	uint32_t first, una, nxt, edge;		/* What it sends. */
	uint32_t n_segments;
	uint32_t rcv, shown;			/* What it gets, and the edge it has shown. */
	uint32_t rcv_first, highest;
	uint32_t buffer;
	uint8_t scale;
	bool got[MAX_SEGMENTS];
};

struct flying {
	unsigned int side;			/* It comes from. */
	struct tcp_segment s;
};

struct queue {
	unsigned int n;
	struct flying at[MAX_FLYING];
};

struct tracker_run {
	bool busy;
	struct flying f;
	struct tcp_track read;
	uint64_t version;
};

struct transfer {
	struct test_random random;
	struct peer peer[2];
	struct queue before, after;		/* The trackers. */
	struct tracker_run run[N_RUNS];
	struct tcp_track record;
	uint64_t version, n_writes, n_conflicts, n_released;
	unsigned int reordering, loss;		/* Packets; one in that many, or 0. */
};

static void
queue_put(struct queue *q, unsigned int side, const struct tcp_segment *s)
{
	assert_true(q->n < MAX_FLYING);
	q->at[q->n++] = (struct flying){ side, *s };
}

/* One of the first. */
static bool
queue_take(struct transfer *x, struct queue *q, struct flying *out)
{
	unsigned int i;

	if (q->n == 0)
		return false;
	i = test_random_below(&x->random, q->n < x->reordering ? q->n : x->reordering);
	*out = q->at[i];
	memmove(&q->at[i], &q->at[i + 1], (--q->n - i) * sizeof(q->at[0]));
	return true;
}

static void
peer_send(struct transfer *x, unsigned int side, uint32_t seq, uint32_t bytes)
{
	struct peer *p = &x->peer[side];
	uint32_t free = p->buffer - test_random_below(&x->random, p->buffer / 2 + 1);
	uint32_t window;

	if (went_back(p->shown, p->rcv + free))
		free = p->shown - p->rcv;
	window = free >> p->scale;
	p->shown = p->rcv + (window << p->scale);

	struct tcp_segment s = { .seq = seq, .end = seq + bytes, .ack = p->rcv,
				 .sack = went_back(p->rcv, p->highest) ? p->rcv : p->highest,
				 .window = (uint16_t)window, .flags = TCP_ACK,
				 .scale = TCP_NO_WSCALE };
	queue_put(&x->before, side, &s);
}

/* As much as it may, or at least 'again', the first segment that is not acknowledged. */
static void
peer_push(struct transfer *x, unsigned int side, bool again)
{
	struct peer *p = &x->peer[side];
	uint32_t last = p->first + p->n_segments * MSS;

	if (again && p->una != last)
		peer_send(x, side, p->una, MSS);
	for (unsigned int i = 0; i < 8 && p->nxt != last &&
				 !went_back(p->nxt + MSS, p->edge); i++) {
		peer_send(x, side, p->nxt, MSS);
		p->nxt += MSS;
	}
}

static void
peer_receive(struct transfer *x, unsigned int side, const struct tcp_segment *s)
{
	struct peer *p = &x->peer[side];
	uint32_t edge = s->ack + ((uint32_t)s->window << x->peer[!side].scale);

	if (!went_back(p->una, s->ack))
		p->una = s->ack;
	if (!went_back(p->edge, edge))
		p->edge = edge;
	if (s->end != s->seq) {
		p->got[(s->seq - p->rcv_first) / MSS] = true;
		while (p->got[(p->rcv - p->rcv_first) / MSS])
			p->rcv += MSS;
		if (!went_back(p->highest, s->end))
			p->highest = s->end;
		if (p->nxt == p->first + p->n_segments * MSS ||
		    test_random_below(&x->random, 2) != 0)
			peer_send(x, side, p->nxt, 0);
	}
	peer_push(x, side, false);
}

/* What nobody can have had from its peer must not pass. */
static void
check_forgery(struct transfer *x, const struct tcp_track *t)
{
	unsigned int side = test_random_below(&x->random, 2);
	const struct peer *p = &x->peer[side], *o = &x->peer[!side];
	uint32_t far = p->buffer + o->buffer + 2 * TRACK_MIN_TOLERANCE;
	uint32_t off = far + test_random_below(&x->random, 1U << 29);
	struct tcp_segment s = { .seq = p->nxt, .end = p->nxt + 1, .ack = p->rcv,
				 .sack = p->rcv, .flags = TCP_ACK };
	struct tcp_track next;

	switch (test_random_below(&x->random, 3)) {
	case 0:
		s.seq = o->shown + off;
		s.end = s.seq + 1;
		break;
	case 1:
		s.ack = s.sack = o->nxt + off;
		break;
	default:
		s.flags = TCP_RST;
		s.seq = p->nxt + off;
		break;
	}
	assert_int_equal(tcp_track(t, side, &s, false, &next), TRACK_INVALID);
}

/* Overtaken by more than a window of what it would acknowledge: its receiver would not
 * take that ACK, either (RFC 5961, 5). */
static bool
is_stale(const struct transfer *x, const struct flying *f)
{
	return x->peer[!f->side].nxt - f->s.ack >
	       TRACK_MIN_ACK_WINDOW + TRACK_MIN_TOLERANCE &&
	       x->peer[!f->side].nxt - f->s.ack > x->peer[f->side].buffer;
}

/* A tracker decides by what it has read, however old that is; it writes only if that is
 * still so. */
static void
decide(struct transfer *x, struct tracker_run *run)
{
	const struct tcp_segment *s = &run->f.s;
	struct tcp_track next;
	enum track_result got = tcp_track(&run->read, run->f.side, s, false, &next);

	if (got == TRACK_INVALID && is_stale(x, &run->f)) {
		run->busy = false;
		return;
	}
	if (got == TRACK_INVALID)
		fail_msg("a segment of side %u is not valid: +%d, acknowledges +%d",
			 run->f.side, (int)(s->seq - run->read.side[run->f.side].end),
			 (int)(s->ack - run->read.side[!run->f.side].end));
	if (got == TRACK_WRITE && run->version != x->version) {
		run->read = x->record;
		run->version = x->version;
		x->n_conflicts++;
		return;
	}
	if (got == TRACK_WRITE) {
		x->record = next;
		x->version++;
		x->n_writes++;
	}
	run->busy = false;
	x->n_released++;
	/* The promise that everything rests on. */
	assert_true((int32_t)(s->end - x->record.side[run->f.side].end) <
		    (int32_t)tcp_track_tolerance(&x->record.side[!run->f.side]));
	if (x->loss == 0 || test_random_below(&x->random, x->loss) != 0)
		queue_put(&x->after, run->f.side, s);
}

static void
turn(struct transfer *x)
{
	struct tracker_run *run = &x->run[test_random_below(&x->random, N_RUNS)];
	struct flying f;

	if (run->busy) {
		decide(x, run);
	} else if (queue_take(x, &x->before, &run->f)) {
		run->busy = true;
		run->read = x->record;
		run->version = x->version;
	}
	if (queue_take(x, &x->after, &f))
		peer_receive(x, !f.side, &f.s);
	if (test_random_below(&x->random, 50) == 0)
		check_forgery(x, &x->record);
}

static bool
quiet(const struct transfer *x)
{
	for (unsigned int i = 0; i < N_RUNS; i++)
		if (x->run[i].busy)
			return false;
	return x->before.n == 0 && x->after.n == 0;
}

static bool
complete(const struct transfer *x)
{
	return x->peer[A].una == x->peer[A].first + x->peer[A].n_segments * MSS &&
	       x->peer[B].una == x->peer[B].first + x->peer[B].n_segments * MSS;
}

static void
handshake(struct transfer *x)
{
	struct peer *a = &x->peer[A], *b = &x->peer[B];
	struct tcp_segment syn = { .seq = a->first - 1, .end = a->first, .window = 65535,
				   .flags = TCP_SYN, .scale = a->scale };
	struct tcp_segment answer = { .seq = b->first - 1, .end = b->first,
				      .ack = a->first, .sack = a->first, .window = 65535,
				      .flags = TCP_SYN | TCP_ACK, .scale = b->scale };
	struct tcp_segment ack = { .seq = a->first, .end = a->first, .ack = b->first,
				   .sack = b->first, .window = 65535 >> a->scale,
				   .flags = TCP_ACK };
	struct tcp_track next;

	tcp_track_open(&x->record, A, &syn);
	assert_int_equal(tcp_track(&x->record, B, &answer, false, &next), TRACK_WRITE);
	x->record = next;
	assert_int_equal(tcp_track(&x->record, A, &ack, false, &next), TRACK_WRITE);
	x->record = next;
	for (unsigned int side = 0; side < 2; side++) {
		struct peer *p = &x->peer[side];

		p->una = p->nxt = p->first;
		p->rcv = p->rcv_first = p->highest = x->peer[!side].first;
		p->edge = p->first + 60000;
		p->shown = p->rcv + 60000;
	}
}

static void
transfer(struct transfer *x)
{
	handshake(x);
	while (!complete(x)) {
		peer_push(x, A, true);
		peer_push(x, B, true);
		while (!quiet(x))
			turn(x);
	}
}

/* [B30, B72; U4, U26] */
static void
test_transfers_pass_however_they_are_sprayed(void **state)
{
	struct test_random random = test_random_init("transfers");

	for (unsigned int i = 0; i < 60; i++) {
		struct transfer *x = calloc(1, sizeof(*x));

		x->random = random;
		x->reordering = 1 + test_random_below(&random, 100);
		x->loss = test_random_below(&random, 3) ? 100 : 0;
		for (unsigned int side = 0; side < 2; side++) {
			struct peer *p = &x->peer[side];

			p->first = (uint32_t)test_random_u64(&random);
			p->n_segments = test_random_below(&random, 2500);
			p->buffer = 60000U << test_random_below(&random, 7);
			p->scale = 7;
		}
		transfer(x);
		free(x);
		test_random_u64(&random);
	}
}

/* [B30] */
static void
test_a_transfer_takes_few_writes(void **state)
{
	static const struct {
		const char *name;
		uint32_t buffer;
		unsigned int n_segments;
		uint64_t max_writes;
	} cases[] = {
		{ "10 MB in windows of 1 MB", MIB, 7000, 60 },
		{ "10 MB in windows of 64 KB", 64 * KIB, 7000, 400 },
		{ "1 MB in windows of 4 MB", 4 * MIB, 700, 40 },
		{ "10 KB", 64 * KIB, 7, 0 },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct transfer *x = calloc(1, sizeof(*x));

		x->random = test_random_init(cases[i].name);
		x->reordering = 1;
		x->peer[A].n_segments = cases[i].n_segments;
		for (unsigned int side = 0; side < 2; side++) {
			x->peer[side].first = 0xfff00000;
			x->peer[side].buffer = cases[i].buffer;
			x->peer[side].scale = 7;
		}
		transfer(x);
		print_message("%s: %llu writes for %llu segments, %llu conflicts\n",
			      cases[i].name, (unsigned long long)x->n_writes,
			      (unsigned long long)x->n_released,
			      (unsigned long long)x->n_conflicts);
		assert_true(x->n_writes <= cases[i].max_writes);
		/* Whoever lost finds it moved: at most the others that had read. */
		assert_true(x->n_conflicts <= x->n_writes * N_RUNS);
		free(x);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whatever_comes_nothing_moves_back),
		cmocka_unit_test(test_transfers_pass_however_they_are_sprayed),
		cmocka_unit_test(test_a_transfer_takes_few_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
