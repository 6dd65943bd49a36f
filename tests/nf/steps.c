/*
 * steps.c - tables of packets and of what comes of them: see harness.h.
 */
#include "harness.h"

/* What the counters say of the one packet that went through since 'before'.  Which port it
 * left by, is seen in what left. */
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

	return fate == SENT	 ? "sent"
	       : fate == KEPT	 ? "kept"
	       : fate == BOUNCED ? "bounced"
				 : names[fate];
}

/* Checks the packet itself, which left for 'step'. */
static void
check_packet(const struct step *step, const struct sent *s)
{
	uint8_t frame[BENCH_FRAME_BYTES];
	unsigned int bytes = spec_build(&step->packet, frame);

	if (step->as == NULL && step->quoted_as == NULL && !step->differs) {
		assert_int_equal(s->bytes, bytes);
		assert_memory_equal(s->frame, frame, bytes);
	}
	if (step->as != NULL) {
		if (!step->differs)
			assert_int_equal(s->bytes, bytes);
		assert_string_equal(sent_endpoints(s), step->as);
	}
	if (step->quoted_as != NULL)
		assert_string_equal(sent_quoted(s), step->quoted_as);
}

/* Checks what left for 'step', if anything should have. */
static void
check_sent(struct bench *b, const struct step *step)
{
	const struct sent *s;

	if (step->fate == SENT || step->fate == BOUNCED) {
		s = bench_take_from(b, step->fate == BOUNCED ? step->packet.side
						       : !step->packet.side);
		if (s == NULL)
			fail_msg("%s: it left on the wrong side", step->name);
		check_packet(step, s);
	}
	for (unsigned int i = 0; i < step->emits; i++)
		assert_non_null(bench_take_from(b, !step->packet.side));
	for (unsigned int i = 0; i < step->answers; i++)
		assert_non_null(bench_take_from(b, step->packet.side));
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

	/* check_sent() looks at where it left. */
	if (fate == SENT && step->fate == BOUNCED)
		fate = BOUNCED;

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
		run_step(b, &steps[i], i % bench_pipes(b));
}

void
run_steps(const char *nf, const char *section, const struct step *steps, unsigned int n,
	  unsigned int n_shapes)
{
	static const unsigned int shapes[][2] = { { 1, 1 }, { 2, 1 }, { 2, 3 } };

	for (unsigned int i = 0; i < n_shapes; i++) {
		struct bench_setup setup = { .names = nf, .section = section,
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

uint64_t
bench_trips(struct bench *b, const struct spec *packet)
{
	uint64_t before = bench_stats(b).batches;

	bench_put(b, 0, packet);
	bench_settle(b);
	assert_non_null(bench_take(b));
	assert_null(bench_take(b));
	return bench_stats(b).batches - before;
}
