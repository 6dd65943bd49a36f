/*
 * test_upgrade.c - two releases of a function on one store.  The newer one keeps more in
 * its records: it reads what the older writes, and writes so that the older can read
 * while it is told to.  Packets are UDP to port 1000 + what, from a port that is the key;
 * what a release reads there, it stamps into the destination port.
 */
#include "ask.h"

enum what {
	COUNT,					/* Read it, and write one more. */
	LOOK,
	OPEN,					/* A session. */
	ADD,					/* To a total. */
	TOTAL,
	AGAIN,					/* Read it twice, and write it. */
};

enum {
	SESSION_MS = 10 * 1000,
	UNKNOWN = 9,				/* A key of which no value can be made. */
};

struct old_item {
	uint32_t n, key;
};

struct new_item {
	uint64_t n, thrice;			/* The old one has not. */
	uint32_t key, zero;
};

struct old_total {
	int64_t sum;
};

struct new_total {
	int64_t sum, unused;
};

static void old_expired(struct nf_run *r, const void *key, const void *value);
static void new_expired(struct nf_run *r, const void *key, const void *value);

NF_TABLE(old_item, uint32_t, struct old_item, .name = "item", .owner = "old.c")
NF_TABLE(old_session, uint32_t, struct old_item, .name = "session", .owner = "old.c",
	 .idle_ms = SESSION_MS, .expired = old_expired)
NF_TABLE(old_total, uint32_t, struct old_total, .name = "total", .owner = "old.c")

static unsigned int
item_upgrade(uint8_t from, const void *old, unsigned int old_bytes, void *value)
{
	const struct old_item *o = old;
	struct new_item *v = value;

	if (from != 1 || old_bytes != sizeof(*o) || o->key == UNKNOWN)
		return 0;
	v->n = o->n;
	v->thrice = 3ULL * o->n;
	v->key = o->key;
	return sizeof(*v);
}

static unsigned int
item_downgrade(uint8_t to, const void *value, unsigned int value_bytes, void *old)
{
	const struct new_item *v = value;
	struct old_item *o = old;

	if (to != 1)
		return 0;
	assert_int_equal(value_bytes, sizeof(*v));
	assert_int_equal(o->n, 0);
	o->n = (uint32_t)v->n;
	o->key = v->key;
	return sizeof(*o);
}

static unsigned int
total_upgrade(uint8_t from, const void *old, unsigned int old_bytes, void *value)
{
	if (from != 1 || old_bytes != sizeof(struct old_total))
		return 0;
	memcpy(value, old, old_bytes);
	return sizeof(struct new_total);
}

static unsigned int
total_downgrade(uint8_t to, const void *value, unsigned int value_bytes, void *old)
{
	(void)value_bytes;
	memcpy(old, value, sizeof(struct old_total));
	return to == 1 ? sizeof(struct old_total) : 0;
}

NF_TABLE(new_item, uint32_t, struct new_item, .name = "item", .owner = "new.c",
	 .format = 2, .upgrade = item_upgrade, .downgrade = item_downgrade)
NF_TABLE(new_session, uint32_t, struct new_item, .name = "session", .owner = "new.c",
	 .format = 2, .upgrade = item_upgrade, .downgrade = item_downgrade,
	 .idle_ms = SESSION_MS, .expired = new_expired)
NF_TABLE(new_total, uint32_t, struct new_total, .name = "total", .owner = "new.c",
	 .format = 2, .upgrade = total_upgrade, .downgrade = total_downgrade)

/* Sessions that have ended are counted in the item of their key. */
static void
old_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct old_item *item = old_item_read(r, key), *session = value;

	if (nf_pending(r))
		return;
	assert_int_equal(session->key, *(const uint32_t *)key);

	struct old_item next = { item != NULL ? item->n + 1 : 1, session->key };

	old_item_write(r, key, &next);
}

static struct new_item
new_item(uint64_t n, uint32_t key)
{
	return (struct new_item){ n, 3 * n, key, 0 };
}

static void
new_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct new_item *item = new_item_read(r, key), *session = value;

	if (nf_pending(r))
		return;
	assert_int_equal(session->key, *(const uint32_t *)key);
	assert_int_equal(session->thrice, 3 * session->n);

	struct new_item next = new_item(item != NULL ? item->n + 1 : 1, session->key);

	new_item_write(r, key, &next);
}

static enum nf_verdict
stamp(struct nf_run *r, int64_t n)
{
	struct endpoint to;

	flow_destination(nf_flow(r), &to);
	to.port = rte_cpu_to_be_16((uint16_t)n);
	nf_set_dst(r, &to);
	return NF_SEND;
}

static enum what
asked(const struct nf_run *r, uint32_t *key)
{
	*key = rte_be_to_cpu_16(nf_flow(r)->src_port);
	return rte_be_to_cpu_16(nf_flow(r)->dst_port) - 1000U;
}

static enum nf_verdict
old_packet(struct nf_run *r)
{
	uint32_t key;
	enum what what = asked(r, &key);
	struct old_item next = { 1, key };

	if (what == OPEN) {
		old_session_write(r, &key, &next);
		return NF_SEND;
	}
	if (what == ADD) {
		old_total_add(r, &key, offsetof(struct old_total, sum), 1, 0, INT64_MAX);
		return NF_SEND;
	}
	if (what == TOTAL) {
		const struct old_total *total = old_total_read(r, &key);

		if (nf_pending(r))
			return NF_WAIT;
		return stamp(r, total != NULL ? total->sum : 0);
	}

	const struct old_item *item = old_item_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	if (item != NULL)
		assert_int_equal(item->key, key);
	next.n = (item != NULL ? item->n : 0) + (what == COUNT);
	if (what == COUNT)
		old_item_write(r, &key, &next);
	return stamp(r, next.n);
}

/* Values that were read stay as they are, however many are upgraded in between. */
static enum nf_verdict
again(struct nf_run *r, uint32_t key)
{
	uint32_t other = key + 1;
	const struct new_item *a = new_item_read(r, &key), *b = new_item_peek(r, &other);
	const struct new_item *c = new_item_glance(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	if (a == NULL || b == NULL || c == NULL)
		return NF_DROP;
	assert_int_equal(a->key, key);
	assert_int_equal(b->key, other);
	assert_memory_equal(a, c, sizeof(*a));
	new_item_write(r, &key, a);
	return stamp(r, (int64_t)(a->n + b->n));
}

static enum nf_verdict
new_packet(struct nf_run *r)
{
	uint32_t key;
	enum what what = asked(r, &key);
	struct new_item next = new_item(1, key);

	if (what == OPEN) {
		new_session_write(r, &key, &next);
		return NF_SEND;
	}
	if (what == ADD) {
		new_total_add(r, &key, offsetof(struct new_total, sum), 1, 0, INT64_MAX);
		return NF_SEND;
	}
	if (what == TOTAL) {
		const struct new_total *total = new_total_read(r, &key);

		if (nf_pending(r))
			return NF_WAIT;
		return stamp(r, total != NULL ? total->sum + total->unused : 0);
	}
	if (what == AGAIN)
		return again(r, key);

	const struct new_item *item = new_item_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	if (item != NULL) {
		assert_int_equal(item->key, key);
		assert_int_equal(item->thrice, 3 * item->n);
		assert_int_equal(item->zero, 0);
	}
	next = new_item((item != NULL ? item->n : 0) + (what == COUNT), key);
	if (what == COUNT)
		new_item_write(r, &key, &next);
	return stamp(r, (int64_t)next.n);
}

static const struct nf old_release = { .name = "old", .packet = old_packet };
static const struct nf new_release = { .name = "new", .packet = new_packet };

enum pipes {
	OLD,
	NEW,
};

/* --- how it is asked ------------------------------------------------------------ */

/* The old release in the first pipe, the new one in the second. */
static struct bench *
open_bench(unsigned int n_partitions)
{
	struct bench_setup setup = { .nf = &old_release, .other = &new_release,
				     .section = "", .n_pipes = 2,
				     .n_partitions = n_partitions };

	return bench_open_as(&setup);
}

static uint64_t
n_dropped(const struct bench *b)
{
	struct pipe_stats s = bench_stats(b);
	uint64_t n = 0;

	for (unsigned int i = 0; i < NF_N_DROPS; i++)
		n += s.dropped[i];
	return n;
}

/* --- during the roll ------------------------------------------------------------ */

static void
test_the_new_reads_what_the_old_wrote(void **state)
{
	for (unsigned int n_partitions = 1; n_partitions <= 3; n_partitions += 2) {
		struct bench *b = open_bench(n_partitions);

		for (int i = 1; i <= 5; i++)
			assert_int_equal(run_one(b, OLD, COUNT, 1), i);
		assert_int_equal(run_one(b, NEW, LOOK, 1), 5);
		assert_int_equal(bench_formats(b, "item", 1), 1);
		assert_int_equal(run_one(b, NEW, COUNT, 1), 6);
		assert_int_equal(bench_formats(b, "item", 2), 1);
		assert_int_equal(n_dropped(b), 0);
		bench_close(b);
	}
}

static void
test_values_that_were_upgraded_stay_until_the_run_ends(void **state)
{
	struct bench *b = open_bench(1);

	for (int i = 1; i <= 3; i++)
		assert_int_equal(run_one(b, OLD, COUNT, 1), i);
	assert_int_equal(run_one(b, OLD, COUNT, 2), 1);
	assert_int_equal(run_one(b, NEW, AGAIN, 1), 4);
	assert_int_equal(bench_formats(b, "item", 1), 1);
	assert_int_equal(bench_formats(b, "item", 2), 1);
	bench_close(b);
}

/* One connection, its packets spread over both releases; in each order of their turns. */
static void
test_a_pinned_new_and_an_old_count_together(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(1 + schedule % 2 * 2);
		struct spec packets[12];
		uint32_t seen = 0;
		int n;

		bench_pin(b, NEW, 1);
		for (unsigned int i = 0; i < 12; i++)
			packets[i] = ask(COUNT, 1);
		bench_race(b, packets, 12, schedule, 8);
		for (unsigned int i = 0; i < 12; i++) {
			n = take(b);
			assert_in_range(n, 1, 12);
			seen |= 1u << n;
		}
		assert_int_equal(seen, 0x1ffe);
		assert_int_equal(n_dropped(b), 0);
		assert_int_equal(bench_formats(b, "item", 1), 1);
		assert_int_equal(bench_refused(b, OLD, 2), 0);
		bench_close(b);
	}
}

static void
test_what_both_add_to_is_one_sum(void **state)
{
	for (unsigned int first = 0; first < 2; first++) {
		struct bench *b = open_bench(1);

		bench_pin(b, NEW, 1);
		for (unsigned int i = 0; i < 6; i++)
			assert_int_equal(run_one(b, (first + i) % 2, ADD, 1), 1000 + ADD);
		assert_int_equal(run_one(b, OLD, TOTAL, 1), 6);
		assert_int_equal(run_one(b, NEW, TOTAL, 1), 6);
		assert_int_equal(bench_formats(b, "total", 1), 1);
		bench_pin(b, NEW, 0);
		assert_int_equal(run_one(b, NEW, ADD, 1), 1000 + ADD);
		assert_int_equal(run_one(b, OLD, TOTAL, 1), 7);
		assert_int_equal(run_one(b, NEW, ADD, 2), 1000 + ADD);
		assert_int_equal(bench_formats(b, "total", 2), 1);
		bench_close(b);
	}
}

static void
test_a_session_of_the_old_ends_at_the_new(void **state)
{
	struct bench *b = open_bench(1);

	assert_int_equal(run_one(b, OLD, OPEN, 1), 1000 + OPEN);
	bench_wait(b, SESSION_MS + 1000);
	for (unsigned int i = 0; i < 6; i++)
		bench_turn(b, NEW);
	assert_int_equal(bench_records(b, "session"), 0);
	assert_int_equal(bench_stats(b).leases_settled, 1);
	assert_int_equal(run_one(b, NEW, LOOK, 1), 1);
	bench_close(b);
}

/* The old one leaves it, whenever it gets the lease. */
static void
test_a_session_of_the_new_waits_for_the_new(void **state)
{
	struct bench *b = open_bench(1);

	assert_int_equal(run_one(b, NEW, OPEN, 1), 1000 + OPEN);
	bench_wait(b, SESSION_MS + 1000);
	for (unsigned int i = 0; i < 3; i++) {
		bench_turn(b, OLD);
		assert_int_equal(bench_stats(b).leases_left, i + 1);
		assert_int_equal(bench_refused(b, OLD, 2), i + 1);
		bench_wait(b, 2000);
	}
	assert_int_equal(bench_formats(b, "session", 2), 1);
	for (unsigned int i = 0; i < 6; i++)
		bench_turn(b, NEW);
	assert_int_equal(bench_records(b, "session"), 0);
	assert_int_equal(bench_stats(b).leases_settled, 1);
	assert_int_equal(run_one(b, NEW, LOOK, 1), 1);
	bench_close(b);
}

/* --- after the roll ------------------------------------------------------------- */

/* Two of the new release; they are told one after the other, with packets under way. */
static void
test_pins_are_taken_off_without_a_loss(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench_setup setup = { .nf = &new_release, .section = "",
					     .n_pipes = 2, .n_partitions = 1 };
		struct bench *b = bench_open_as(&setup);
		struct spec packet;
		uint32_t seen = 0;

		bench_pin(b, 0, 1);
		bench_pin(b, 1, 1);
		for (unsigned int key = 1; key <= 2; key++)
			assert_int_equal(run_one(b, key % 2, COUNT, key), 1);
		assert_int_equal(bench_formats(b, "item", 1), 2);
		for (unsigned int i = 0; i < 12; i++) {
			packet = ask(COUNT, 1);
			bench_put(b, i % 2, &packet);
			bench_turn(b, schedule >> i % 8 & 1);
			if (i == 4 || i == 7)
				bench_pin(b, i == 4, 0);
		}
		bench_settle(b);
		for (unsigned int i = 0; i < 12; i++)
			seen |= 1u << (take(b) & 31);
		assert_int_equal(seen, 0x3ffc);
		assert_int_equal(n_dropped(b), 0);
		/* What nobody has written since is as it was. */
		assert_int_equal(bench_formats(b, "item", 1), 1);
		assert_int_equal(bench_formats(b, "item", 2), 1);
		assert_int_equal(run_one(b, 0, LOOK, 1), 13);
		assert_int_equal(run_one(b, 1, LOOK, 2), 1);
		bench_close(b);
	}
}

/* --- the other way round -------------------------------------------------------- */

static void
test_the_old_refuses_what_the_new_wrote_and_leaves_it(void **state)
{
	struct bench *b = open_bench(1);

	assert_int_equal(run_one(b, NEW, COUNT, 1), 1);
	assert_int_equal(run_one(b, NEW, COUNT, 1), 2);
	assert_int_equal(run_one(b, OLD, COUNT, 2), 1);

	uint64_t n_writes = bench_writes(b);

	for (unsigned int i = 1; i <= 3; i++) {
		assert_int_equal(run_one(b, OLD, COUNT, 1), -1);
		assert_int_equal(bench_dropped(b, NF_DROP_FORMAT), i);
		assert_int_equal(bench_refused(b, OLD, 2), i);
	}
	assert_int_equal(bench_writes(b), n_writes);
	assert_int_equal(n_dropped(b), 3);
	assert_int_equal(bench_refused(b, NEW, 1), 0);
	/* Other connections go on, and so does this one where it can be read. */
	assert_int_equal(run_one(b, OLD, COUNT, 2), 2);
	assert_int_equal(run_one(b, NEW, LOOK, 1), 2);
	assert_int_equal(run_one(b, NEW, LOOK, 2), 2);
	bench_close(b);
}

static void
test_what_cannot_be_upgraded_is_refused(void **state)
{
	struct bench *b = open_bench(1);

	assert_int_equal(run_one(b, OLD, COUNT, UNKNOWN), 1);
	assert_int_equal(run_one(b, OLD, OPEN, UNKNOWN), 1000 + OPEN);
	assert_int_equal(run_one(b, NEW, COUNT, UNKNOWN), -1);
	assert_int_equal(bench_dropped(b, NF_DROP_FORMAT), 1);
	assert_int_equal(bench_refused(b, NEW, 1), 1);
	bench_wait(b, SESSION_MS + 1000);
	bench_turn(b, NEW);
	assert_int_equal(bench_stats(b).leases_left, 1);
	assert_int_equal(bench_refused(b, NEW, 1), 2);
	assert_int_equal(run_one(b, OLD, COUNT, UNKNOWN), 2);
	bench_close(b);
}

/* A file that was pinned is the same file after the release is taken back. */
static void
test_an_old_may_be_pinned_to_what_it_writes(void **state)
{
	struct bench *b = open_bench(1);

	bench_pin(b, OLD, 1);
	assert_int_equal(run_one(b, OLD, COUNT, 1), 1);
	assert_int_equal(run_one(b, OLD, ADD, 1), 1000 + ADD);
	assert_int_equal(bench_formats(b, "item", 1), 1);
	assert_int_equal(run_one(b, NEW, COUNT, 1), 2);
	bench_close(b);
}

/* --- the store ------------------------------------------------------------------ */

/* Whichever instance comes first, and again when the last old one has gone. */
static void
test_the_store_takes_both_lengths(void **state)
{
	struct bench_setup setup = { .nf = &new_release, .other = &old_release,
				     .section = "", .n_pipes = 2, .n_partitions = 1 };
	struct bench *b = bench_open_as(&setup);

	assert_int_equal(run_one(b, 1, COUNT, 1), 1);
	assert_int_equal(run_one(b, 0, COUNT, 1), 2);
	assert_int_equal(bench_formats(b, "item", 2), 1);
	bench_close(b);
}

static void
test_a_release_knows_what_it_writes(void **state)
{
	static const struct {
		const char *name;
		const struct nf_table *table;
		uint8_t format;
		unsigned int bytes;
	} cases[] = {
		{ "its own format", &new_item_table, 2, 24 },
		{ "an older one", &new_item_table, 1, 8 },
		{ "none that nobody had", &new_item_table, 0, 0 },
		{ "none of the future", &new_item_table, 3, 0 },
		{ "nothing older than the oldest", &old_item_table, 0, 0 },
		{ "only its own", &old_item_table, 1, 8 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct nf_table *t = cases[i].table;

		if (nf_table_bytes(t, cases[i].format, t->value_max) != cases[i].bytes)
			fail_msg("%s", cases[i].name);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_new_reads_what_the_old_wrote),
		cmocka_unit_test(test_values_that_were_upgraded_stay_until_the_run_ends),
		cmocka_unit_test(test_a_pinned_new_and_an_old_count_together),
		cmocka_unit_test(test_what_both_add_to_is_one_sum),
		cmocka_unit_test(test_a_session_of_the_old_ends_at_the_new),
		cmocka_unit_test(test_a_session_of_the_new_waits_for_the_new),
		cmocka_unit_test(test_pins_are_taken_off_without_a_loss),
		cmocka_unit_test(test_the_old_refuses_what_the_new_wrote_and_leaves_it),
		cmocka_unit_test(test_what_cannot_be_upgraded_is_refused),
		cmocka_unit_test(test_an_old_may_be_pinned_to_what_it_writes),
		cmocka_unit_test(test_the_store_takes_both_lengths),
		cmocka_unit_test(test_a_release_knows_what_it_writes),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
