/*
 * test_events.c - what functions report by nf_log(), by one that does as its packets say:
 * UDP packets to port 1000 + what, from a port that is the key.  What it sees, it stamps
 * into the destination port.
 */
#include "ask.h"

#include <stdio.h>
#include <unistd.h>

#include "net/address.h"

enum what {
	COUNT = 1,				/* One more, and say so. */
	SAY,					/* So, and write nothing. */
	SAY_MUCH,				/* In four events. */
	SAY_AND_WAIT,				/* The same, before it knows enough. */
	INSERT,					/* A session, and say so. */
	BOUNDED,				/* One more, up to 2, and say so. */
	READ,
};

enum {
	SESSION_MS = 10 * 1000,
};

enum {
	EVENT_COUNTED,
	EVENT_ENDED,
};

struct counter {
	int64_t n, unused;
};

struct session {
	uint32_t unused, zero;
};

static void session_expired(struct nf_run *r, const void *key, const void *value);

NF_TABLE(counter, uint32_t, struct counter)
NF_TABLE(session, uint32_t, struct session, .idle_ms = SESSION_MS,
	 .expired = session_expired)

static const struct nf_event events[] = {
	[EVENT_COUNTED] = { "counted", "flow", "to", "n" },
	[EVENT_ENDED] = { .name = "ended", .number = "key" },
	{ 0 }
};

static void
session_expired(struct nf_run *r, const void *key, const void *value)
{
	(void)value;
	nf_log(r, EVENT_ENDED, NULL, NULL, *(const uint32_t *)key);
}

static void
stamp(struct nf_run *r, int64_t n)
{
	struct endpoint to;

	flow_destination(nf_flow(r), &to);
	to.port = rte_cpu_to_be_16((uint16_t)n);
	nf_set_dst(r, &to);
}

static void
say(struct nf_run *r, int64_t n)
{
	struct endpoint to;

	flow_destination(nf_flow(r), &to);
	nf_log(r, EVENT_COUNTED, nf_flow(r), &to, (uint64_t)n);
}

static enum nf_verdict
count(struct nf_run *r, uint32_t key)
{
	const struct counter *c = counter_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;

	struct counter next = { c != NULL ? c->n + 1 : 1, 0 };

	counter_write(r, &key, &next);
	say(r, next.n);
	return NF_SEND;
}

static enum nf_verdict
packet(struct nf_run *r)
{
	uint32_t key = rte_be_to_cpu_16(nf_flow(r)->src_port);
	enum what what = rte_be_to_cpu_16(nf_flow(r)->dst_port) - 1000U;
	struct session new = { 0 };
	const struct counter *c;

	switch (what) {
	case COUNT:
		return count(r, key);
	case SAY_MUCH:
		for (unsigned int i = 0; i < 3; i++)
			say(r, i);
		/* fall through */
	case SAY:
		say(r, 3);
		return NF_SEND;
	case SAY_AND_WAIT:
		say(r, 4);
		counter_read(r, &key);
		return nf_pending(r) ? NF_WAIT : NF_SEND;
	case INSERT:
		session_insert(r, &key, &new, SESSION_MS);
		say(r, key);
		return NF_SEND;
	case BOUNDED:
		counter_add(r, &key, 0, 1, 0, 2);
		say(r, key);
		return NF_SEND;
	default:
		break;
	}
	c = counter_read(r, &key);
	if (nf_pending(r))
		return NF_WAIT;
	stamp(r, c != NULL ? c->n : 0);
	return NF_SEND;
}

static const struct nf function = { .name = "test_events", .packet = packet,
				    .events = events };

/* --- how it is asked ------------------------------------------------------------ */

static struct bench *
open_bench(unsigned int n_pipes, unsigned int n_partitions)
{
	struct bench_setup setup = { .nf = &function, .section = "", .n_pipes = n_pipes,
				     .n_partitions = n_partitions };

	return bench_open_as(&setup);
}

/* --- events --------------------------------------------------------------------- */

/* Whatever the order of two instances' turns. */
static void
test_each_group_that_is_applied_has_one_event(void **state)
{
	uint64_t conflicts = 0;

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = open_bench(2, 1 + schedule % 2 * 2);
		struct spec packets[6];
		uint64_t id[6];
		unsigned int seen = 0;
		struct pipe_event e;

		for (unsigned int i = 0; i < 6; i++)
			packets[i] = ask(COUNT, 1);
		bench_race(b, packets, 6, schedule, 10);
		for (unsigned int i = 0; i < 6; i++) {
			assert_true(bench_event(b, &e));
			assert_int_equal(e.said.event, EVENT_COUNTED);
			assert_false(e.unconfirmed);
			assert_in_range(e.said.number, 1, 6);
			seen |= 1U << e.said.number;
			id[i] = e.id;
			for (unsigned int k = 0; k < i; k++)
				assert_int_not_equal(id[i], id[k]);
		}
		assert_int_equal(seen, 0x7e);
		assert_false(bench_event(b, &e));
		conflicts += bench_conflicts(b);
		while (take(b) >= 0)
			;
		assert_int_equal(run_one(b, 0, READ, 1), 6);
		bench_close(b);
	}
	assert_true(conflicts > 100);
}

static void
test_a_group_that_is_refused_has_none(void **state)
{
	struct bench *b = open_bench(2, 1);

	assert_int_equal(run_one(b, 0, INSERT, 1), 1000 + INSERT);
	assert_int_equal(count_events(b), 1);
	assert_int_equal(run_one(b, 1, INSERT, 1), -1);
	assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 1);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(run_one(b, 0, BOUNDED, 2), i < 2 ? 1000 + BOUNDED : -1);
	assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 1);
	assert_int_equal(count_events(b), 2);
	bench_fail(b, 0, -ENOMEM);
	assert_int_equal(run_one(b, 0, BOUNDED, 3), -1);
	assert_int_equal(count_events(b), 0);
	bench_fail(b, 0, 0);
	bench_close(b);
}

/* One may have been applied.  The event says so; one that was never sent has none. */
static void
test_what_nobody_knows_is_said_to_be_unconfirmed(void **state)
{
	static const struct {
		int error;
		bool event;
	} cases[] = {
		{ -ETIMEDOUT, true }, { -EALREADY, true }, { -ENOTCONN, false },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bench *b = open_bench(1, 1);
		struct pipe_event e;

		bench_settle(b);
		bench_fail(b, 0, cases[i].error);
		assert_int_equal(run_one(b, 0, BOUNDED, 1), -1);
		assert_int_equal(bench_event(b, &e), cases[i].event);
		if (cases[i].event)
			assert_true(e.unconfirmed);
		assert_int_equal(count_events(b), 0);
		bench_fail(b, 0, 0);
		bench_close(b);
	}
}

static void
test_a_run_that_waits_says_nothing(void **state)
{
	struct bench *b = open_bench(1, 1);

	assert_int_equal(run_one(b, 0, SAY_AND_WAIT, 1), 1000 + SAY_AND_WAIT);
	assert_int_equal(count_events(b), 1);
	bench_fail(b, 0, -ETIMEDOUT);
	assert_int_equal(run_one(b, 0, SAY_AND_WAIT, 1), -1);
	assert_int_equal(count_events(b), 0);
	bench_fail(b, 0, 0);
	bench_close(b);
}

static void
test_events_of_runs_that_write_nothing_have_names_too(void **state)
{
	struct bench *b = open_bench(1, 1);
	struct pipe_event first, e;

	assert_int_equal(run_one(b, 0, SAY_MUCH, 1), 1000 + SAY_MUCH);
	assert_true(bench_event(b, &first));
	for (unsigned int i = 1; i < 4; i++) {
		assert_true(bench_event(b, &e));
		assert_int_equal(e.said.number, i);
		assert_true(e.id == first.id);
	}
	assert_int_equal(run_one(b, 0, SAY, 1), 1000 + SAY);
	assert_true(bench_event(b, &e));
	assert_true(e.id != first.id);
	assert_int_equal(count_events(b), 0);
	bench_close(b);
}

static void
test_an_event_comes_with_its_packet(void **state)
{
	struct bench *b = open_bench(1, 1);

	bench_settle(b);
	bench_hold(b, true);
	put(b, 0, COUNT, 1);
	for (unsigned int i = 0; i < 8; i++)
		bench_turn(b, 0);
	assert_int_equal(take(b), -1);
	assert_int_equal(count_events(b), 0);
	bench_hold(b, false);
	bench_settle(b);
	assert_int_equal(take(b), 1000 + COUNT);
	assert_int_equal(count_events(b), 1);
	bench_close(b);
}

static void
test_expiry_is_an_event_once(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(2, 1);
		unsigned int seen = 0;
		struct pipe_event e;

		for (unsigned int key = 1; key <= 5; key++)
			assert_int_equal(run_one(b, 0, INSERT, key), 1000 + INSERT);
		assert_int_equal(count_events(b), 5);
		bench_wait(b, SESSION_MS + 1000);
		for (unsigned int i = 0; i < 8; i++)
			bench_turn(b, schedule >> i & 1);
		bench_settle(b);
		for (unsigned int i = 0; i < 5; i++) {
			assert_true(bench_event(b, &e));
			assert_int_equal(e.said.event, EVENT_ENDED);
			seen |= 1U << e.said.number;
		}
		assert_int_equal(seen, 0x3e);
		assert_int_equal(count_events(b), 0);
		bench_close(b);
	}
}

static void
test_what_finds_no_room_is_counted(void **state)
{
	struct bench *b = open_bench(1, 1);
	uint64_t said = 0;

	while (said < EVENTS_ROOM + 100) {
		for (unsigned int i = 0; i < 300; i++)
			put(b, 0, SAY_MUCH, 1);
		bench_settle(b);
		while (take(b) >= 0)
			said += 4;
	}
	assert_int_equal(bench_stats(b).events, EVENTS_ROOM);
	assert_int_equal(bench_stats(b).events_lost, said - EVENTS_ROOM);
	assert_int_equal(count_events(b), EVENTS_ROOM);
	assert_int_equal(run_one(b, 0, SAY, 1), 1000 + SAY);
	assert_int_equal(count_events(b), 1);
	bench_close(b);
}

/* --- lines ---------------------------------------------------------------------- */

static const struct nf_event names[] = {
	{ "all", "inside", "outside", "bytes" },
	{ .name = "bare" },
	{ 0 }
};

static const struct nf named = { .name = "nat", .events = names };

static void
set_ends(struct pipe_event *e, const char *from, const char *to, const char *endpoint)
{
	struct endpoint src, dst;

	assert_int_equal(endpoint_parse(from, &src), 0);
	assert_int_equal(endpoint_parse(to, &dst), 0);
	assert_int_equal(endpoint_parse(endpoint, &e->said.endpoint), 0);
	e->said.flow.version = src.version;
	e->said.flow.src_port = src.port;
	e->said.flow.dst_port = dst.port;
	if (src.version == 4) {
		e->said.flow.ip4.src = src.ip4;
		e->said.flow.ip4.dst = dst.ip4;
	} else {
		memcpy(e->said.flow.ip6.src, src.ip6, 16);
		memcpy(e->said.flow.ip6.dst, dst.ip6, 16);
	}
	e->said.has_flow = e->said.has_endpoint = true;
}

static void
test_an_event_is_a_line_of_json(void **state)
{
	static const struct {
		const char *src, *dst, *to;
		struct pipe_event e;
		const char *want;
	} cases[] = {
		{ "10.0.0.1:1000", "192.0.2.1:53", "203.0.113.1:4096",
		  { .said = { .flow.protocol = 17, .number = 18446744073709551615u },
		    .id = 0xabc },
		  ",\"event_type\":\"nat\",\"event\":\"all\",\"id\":\"0000000000000abc\","
		  "\"inside\":{\"src_ip\":\"10.0.0.1\",\"src_port\":1000,"
		  "\"dest_ip\":\"192.0.2.1\",\"dest_port\":53,\"proto\":\"UDP\"},"
		  "\"outside\":{\"ip\":\"203.0.113.1\",\"port\":4096},"
		  "\"bytes\":18446744073709551615}\n" },
		{ "[2001:db8::1]:1", "[2001:db8::2]:2", "[2001:db8::3]:3",
		  { .said = { .flow = { .protocol = 99, .zone = 7 } },
		    .unconfirmed = true },
		  ",\"event_type\":\"nat\",\"event\":\"all\",\"id\":\"0000000000000000\","
		  "\"inside\":{\"src_ip\":\"2001:db8::1\",\"src_port\":1,"
		  "\"dest_ip\":\"2001:db8::2\",\"dest_port\":2,\"proto\":\"99\","
		  "\"zone\":7},\"outside\":{\"ip\":\"2001:db8::3\",\"port\":3},"
		  "\"bytes\":0,\"unconfirmed\":true}\n" },
		{ NULL, NULL, NULL, { .said.event = 0 },
		  ",\"event_type\":\"nat\",\"event\":\"all\",\"id\":\"0000000000000000\","
		  "\"bytes\":0}\n" },
		{ "10.0.0.1:1000", "192.0.2.1:53", "203.0.113.1:4096",
		  { .said.event = 1 },
		  ",\"event_type\":\"nat\",\"event\":\"bare\","
		  "\"id\":\"0000000000000000\"}\n" },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct pipe_event e = cases[i].e;
		char text[EVENT_TEXT_BYTES];
		unsigned int d[7], bytes;
		int n = 0;

		if (cases[i].src != NULL)
			set_ends(&e, cases[i].src, cases[i].dst, cases[i].to);
		bytes = event_print(&named, &e, 0, text);
		assert_int_equal(bytes, strlen(text));
		sscanf(text, "{\"timestamp\":\"%4u-%2u-%2uT%2u:%2u:%2u.%6u+0000\"%n",
		       &d[0], &d[1], &d[2], &d[3], &d[4], &d[5], &d[6], &n);
		assert_int_equal(n, 46);
		assert_string_equal(text + n, cases[i].want);
	}
}

static char *
read_all(const char *path, char *text, size_t bytes)
{
	FILE *f = fopen(path, "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, bytes - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static void
test_a_journal_goes_on_in_a_new_file(void **state)
{
	char dir[] = "/tmp/snf-notes-XXXXXX", path[64], moved[64], text[64];
	struct journal *j;

	assert_non_null(mkdtemp(dir));
	sprintf(path, "%s/log", dir);
	sprintf(moved, "%s/log.1", dir);
	assert_int_equal(journal_open(path, &j), 0);
	journal_add(j, "one\n", 4);
	assert_int_equal(rename(path, moved), 0);
	journal_add(j, "two\n", 4);
	journal_reopen(j);
	journal_add(j, "three\n", 6);
	journal_close(j);
	assert_string_equal(read_all(moved, text, sizeof(text)), "one\ntwo\n");
	assert_string_equal(read_all(path, text, sizeof(text)), "three\n");
	assert_int_equal(journal_open(path, &j), 0);
	journal_add(j, "four\n", 5);
	journal_close(j);
	assert_string_equal(read_all(path, text, sizeof(text)), "three\nfour\n");
	assert_int_equal(unlink(path) | unlink(moved) | rmdir(dir), 0);
	assert_int_equal(journal_open(path, &j), -ENOENT);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_group_that_is_applied_has_one_event),
		cmocka_unit_test(test_a_group_that_is_refused_has_none),
		cmocka_unit_test(test_what_nobody_knows_is_said_to_be_unconfirmed),
		cmocka_unit_test(test_a_run_that_waits_says_nothing),
		cmocka_unit_test(test_events_of_runs_that_write_nothing_have_names_too),
		cmocka_unit_test(test_an_event_comes_with_its_packet),
		cmocka_unit_test(test_expiry_is_an_event_once),
		cmocka_unit_test(test_what_finds_no_room_is_counted),
		cmocka_unit_test(test_an_event_is_a_line_of_json),
		cmocka_unit_test(test_a_journal_goes_on_in_a_new_file),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
