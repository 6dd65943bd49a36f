/*
 * test_chain_trips.c - how often a packet of a chain asks the store, where a function behind
 * another one wants more than it can know at first: a flow that is known asks once, and
 * packets of one connection side by side; and they leave in their order.
 */
#include "harness.h"

#include <stdio.h>

#define SERVER "198.51.100.9:53"

struct seen {
	uint64_t n;
};

NF_TABLE(seen, struct flow, struct seen, .owner = "mover.c", .idle_ms = 1000 * 1000)
NF_TABLE(known, struct flow, struct seen, .owner = "reader.c", .idle_ms = 1000 * 1000)

/* Moves everything to another address, once it has read what it knows. */
static enum nf_verdict
mover_packet(struct nf_run *r)
{
	static const struct endpoint other = { .ip4 = RTE_BE32(0x0a090909),
					       .port = RTE_BE16(7), .version = 4 };

	seen_read(r, nf_connection(r));
	if (nf_pending(r))
		return NF_WAIT;
	nf_set_src(r, &other);
	return NF_SEND;
}

/* Reads what it knows of the connection as it is behind the mover; writes it if 'w'. */
static enum nf_verdict
reader_packet(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	const struct seen *seen = known_read(r, nf_connection(r));
	struct seen next = { 1 };

	if (nf_pending(r))
		return NF_WAIT;
	if (seen != NULL)
		next.n += seen->n;
	if (p->data[p->payload] == 'w')
		known_write(r, nf_connection(r), &next);
	return NF_SEND;
}

static const struct nf mover = { .name = "mover", .packet = mover_packet };
static const struct nf reader = { .name = "reader", .packet = reader_packet };

enum {
	N_PACKETS = 64,
};

/* One of 'every' packets writes; returns how many frames it took. */
static unsigned int
frames_of(unsigned int every, bool ordered)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &mover, .then = { &reader }, .n_pipes = 1, .n_partitions = 1,
		.ordered = ordered });
	unsigned int n = 0, batches;
	const struct sent *s;
	char text[16];

	for (unsigned int i = 0; i < N_PACKETS; i++) {
		struct spec packet = { .from = "10.0.0.1:1000", .to = "192.0.2.9:53",
				       .protocol = PROTO_UDP, .data = text };

		snprintf(text, sizeof(text), "%c%u", i % every == 0 ? 'w' : 'r', i);
		bench_put(b, 0, &packet);
	}
	bench_settle(b);
	while ((s = bench_take(b)) != NULL) {
		snprintf(text, sizeof(text), "%c%u", n % every == 0 ? 'w' : 'r', n);
		assert_string_equal(sent_data(s), text);
		n++;
	}
	assert_int_equal(n, N_PACKETS);
	batches = (unsigned int)bench_stats(b).batches;
	bench_close(b);
	return batches;
}

/* Nothing is read twice as often for there being many.  [U26] */
static void
test_a_connection_shares_its_trips_behind_a_function_that_rewrites(void **state)
{
	for (unsigned int ordered = 0; ordered <= 1; ordered++) {
		assert_true(frames_of(1, ordered) <= 8);
		assert_true(frames_of(5, ordered) <= 8);
		assert_true(frames_of(N_PACKETS, ordered) <= 8);
	}
}

/* A port by chance is proposed anew in each trip: those behind have to see one and the
 * same, or they never have what they read. */
static void
test_what_is_behind_a_nat_lets_connections_open(void **state)
{
	static const struct {
		const char *functions, *section;
	} cases[] = {
		{ "nat,firewall", "nat: {addresses: 203.0.113.1}\n" },
		{ "nat,ips", "nat: {addresses: 203.0.113.1}\nips: {signatures: []}\n" },
	};
	static const struct spec packet = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
					    .to = SERVER, .protocol = PROTO_UDP };

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bench *b = bench_open(cases[i].functions, cases[i].section, 1);

		bench_trips(b, &packet);
		assert_int_equal(bench_records(b, "nat.forward"), 1);
		bench_close(b);
	}
}

static void
test_a_flow_is_read_in_one_trip_when_it_is_known(void **state)
{
	static const char section[] = "firewall: {rules: []}\n"
				      "nat: {addresses: 203.0.113.1, ports: 2000, "
				      "mapping: endpoint_dependent}\n";
	static const struct spec out = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
					 .to = SERVER, .protocol = PROTO_UDP };
	static const struct spec back = { .side = NF_OUTSIDE, .from = SERVER,
					  .to = "203.0.113.1:2000",
					  .protocol = PROTO_UDP };
	struct bench *b = bench_open("firewall,nat", section, 1);

	bench_trips(b, &out);
	bench_trips(b, &back);		/* Writes: the firewall has an answer. */
	assert_int_equal(bench_trips(b, &back), 2);
	assert_int_equal(bench_trips(b, &back), 1);
	assert_int_equal(bench_trips(b, &out), 1);
	assert_int_equal(bench_trips(b, &back), 1);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_behind_a_nat_lets_connections_open),
		cmocka_unit_test(test_a_flow_is_read_in_one_trip_when_it_is_known),
		cmocka_unit_test(
			test_a_connection_shares_its_trips_behind_a_function_that_rewrites),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
