/*
 * test_rules.c - rules against a plain search: random ones, from a world so small that
 * rules and flows meet, and as many as there may be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "net/address.h"
#include "nf/rules.h"

enum {
	N_RANDOM = 150,				/* More than two words of bits. */
	MAX_ITEMS = 3,
};

struct random_rule {
	uint16_t protocols[MAX_ITEMS];
	struct prefix sources[MAX_ITEMS], destinations[MAX_ITEMS];
	struct port_range source_ports[MAX_ITEMS], destination_ports[MAX_ITEMS];
};

static unsigned int seed = 1;

static unsigned int
random_number(void)
{
	return (unsigned int)rand_r(&seed);
}

/* Both ends of the address space are in it. */
static void
random_address(uint8_t version, uint8_t *out)
{
	memset(out, random_number() % 3 ? 0 : 0xff, 16);
	if (version == 4)
		memset(out + 4, 0, 12);
	out[version == 4 ? 3 : 15] = (uint8_t)(random_number() % 8);
	out[0] = random_number() % 2 ? 0 : 0xff;
}

static void
random_prefix(struct prefix *p)
{
	uint8_t address[16];

	p->version = random_number() % 2 ? 4 : 6;

	unsigned int max = p->version == 4 ? 32 : 128;

	p->length = (uint8_t)(random_number() % 3 ? max - random_number() % 4
						: random_number() % 9);
	random_address(p->version, address);
	for (unsigned int bit = p->length; bit < max; bit++)
		address[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
	memcpy(p->ip6, address, 16);
}

static uint16_t
random_port(void)
{
	return (uint16_t)(random_number() % 2 ? random_number() % 8
					    : 65535 - random_number() % 8);
}

static void
random_range(struct port_range *range)
{
	uint16_t a = random_port(), b = random_port();

	*range = (struct port_range){ a < b ? a : b, a < b ? b : a };
}

static struct config_list
random_length(void *items)
{
	return (struct config_list){ items, random_number() % (MAX_ITEMS + 1) };
}

static void
random_rule(struct rule *rule, struct random_rule *lists)
{
	bool ports = random_number() % 2;

	for (unsigned int i = 0; i < MAX_ITEMS; i++) {
		lists->protocols[i] = ports ? (i % 2 ? PROTO_UDP : PROTO_TCP)
					    : (uint16_t)(random_number() % 257);
		random_prefix(&lists->sources[i]);
		random_prefix(&lists->destinations[i]);
		random_range(&lists->source_ports[i]);
		random_range(&lists->destination_ports[i]);
	}
	*rule = (struct rule){ .action = random_number() % 2,
			       .direction = random_number() % 3,
			       .protocols = random_length(lists->protocols),
			       .sources = random_length(lists->sources),
			       .destinations = random_length(lists->destinations) };
	/* Of different IP versions throughout, it would be a mistake. */
	if (rule->sources.n > 0 && rule->destinations.n > 0)
		lists->destinations[0] = lists->sources[0];
	if (rule->protocols.n > 0 && ports) {
		rule->source_ports = random_length(lists->source_ports);
		rule->destination_ports = random_length(lists->destination_ports);
	}
}

static bool
plainly_in(const struct config_list *prefixes, const struct endpoint *e)
{
	const struct prefix *p = prefixes->items;
	bool in = prefixes->n == 0;

	for (unsigned int i = 0; i < prefixes->n; i++)
		in |= prefix_contains(&p[i], e);
	return in;
}

static bool
plainly_within(const struct config_list *ranges, rte_be16_t port)
{
	const struct port_range *range = ranges->items;
	bool in = ranges->n == 0;

	for (unsigned int i = 0; i < ranges->n; i++)
		in |= port_range_contains(&range[i], port);
	return in;
}

static bool
matches_plainly(const struct rule *rule, enum rule_direction direction,
		const struct flow *f)
{
	const uint16_t *protocol = rule->protocols.items;
	bool in = rule->protocols.n == 0;
	struct endpoint from, to;

	for (unsigned int i = 0; i < rule->protocols.n; i++)
		in |= protocol[i] == f->protocol || protocol[i] == 256 ||
		      (protocol[i] == PROTO_ICMP && f->protocol == PROTO_ICMP6);
	flow_source(f, &from);
	flow_destination(f, &to);
	return in && (rule->direction == 0 || rule->direction == (int)direction + 1) &&
	       plainly_in(&rule->sources, &from) &&
	       plainly_in(&rule->destinations, &to) &&
	       plainly_within(&rule->source_ports, f->src_port) &&
	       plainly_within(&rule->destination_ports, f->dst_port);
}

static void
random_flow(struct flow *f)
{
	static const uint8_t protocols[] = {
		PROTO_TCP, PROTO_UDP, PROTO_ICMP, PROTO_ICMP6, 47,
	};
	uint8_t from[16], to[16];

	*f = (struct flow){ .version = random_number() % 2 ? 4 : 6,
			    .protocol = protocols[random_number() % sizeof(protocols)],
			    .src_port = rte_cpu_to_be_16(random_port()),
			    .dst_port = rte_cpu_to_be_16(random_port()) };
	random_address(f->version, from);
	random_address(f->version, to);
	if (f->version == 4) {
		memcpy(&f->ip4.src, from, 4);
		memcpy(&f->ip4.dst, to, 4);
	} else {
		memcpy(f->ip6.src, from, 16);
		memcpy(f->ip6.dst, to, 16);
	}
}

static void
test_rules_match_what_a_plain_search_matches(void **state)
{
	static struct random_rule lists[N_RANDOM];
	static struct rule rule[N_RANDOM];
	unsigned int hits = 0;

	for (unsigned int round = 0; round < 60; round++) {
		struct config_list list = { rule, random_number() % N_RANDOM };
		struct rules *rules;

		for (unsigned int i = 0; i < list.n; i++)
			random_rule(&rule[i], &lists[i]);
		assert_int_equal(rules_new(&list, &rules), 0);
		for (unsigned int k = 0; k < 500; k++) {
			enum rule_direction direction = random_number() % 2;
			uint32_t want = 0, number;
			struct flow f;

			random_flow(&f);
			while (want < list.n &&
			       !matches_plainly(&rule[want], direction, &f))
				want++;

			bool hit = want < list.n;
			int action = (int)rules_match(rules, direction, &f, &number);

			assert_int_equal(number, hit ? want + 1 : 0);
			assert_int_equal(action, hit ? rule[want].action : RULE_NONE);
			hits += hit && want > 0;
		}
		rules_free(rules);
	}
	assert_true(hits > 5000);
}

/* As many rules as there may be, each for one address and some ports. */
static void
test_ten_thousand_rules(void **state)
{
	struct rule *rule = calloc(RULES_MAX, sizeof(*rule));
	struct prefix *prefix = calloc(RULES_MAX, sizeof(*prefix));
	static uint16_t tcp = PROTO_TCP;
	static struct port_range range[] = { { 1, 99 }, { 60000, 60000 } };
	struct config_list list = { rule, RULES_MAX };
	struct rules *rules;
	uint32_t number;

	for (uint32_t i = 0; i < RULES_MAX; i++) {
		prefix[i] = (struct prefix){ .ip4 = rte_cpu_to_be_32(0xac100000 + 7 * i),
					     .version = 4, .length = 32 };
		rule[i] = (struct rule){ .action = i % 2, .protocols = { &tcp, 1 },
					 .sources = { &prefix[i], 1 },
					 .destination_ports = { range, 2 } };
	}
	assert_int_equal(rules_new(&list, &rules), 0);
	free(rule);
	for (uint32_t i = 0; i < RULES_MAX; i++) {
		struct flow f = { .version = 4, .protocol = PROTO_TCP,
				  .dst_port = rte_cpu_to_be_16(i % 2 ? 60000 : 99),
				  .ip4.src = prefix[i].ip4 };

		assert_int_equal(rules_match(rules, RULE_IN, &f, &number), i % 2);
		assert_int_equal(number, i + 1);
		f.dst_port = rte_cpu_to_be_16(100);
		assert_int_equal(rules_match(rules, RULE_IN, &f, &number), RULE_NONE);
		f.dst_port = rte_cpu_to_be_16(99);
		f.ip4.src = rte_cpu_to_be_32(0xac100000 + 7 * i + 1);
		assert_int_equal(rules_match(rules, RULE_IN, &f, &number), RULE_NONE);
		assert_int_equal(number, 0);
	}
	rules_free(rules);
	free(prefix);
}

static void
test_no_rules_match_nothing(void **state)
{
	struct config_list list = { NULL, 0 };
	struct flow f = { .version = 6 };
	struct rules *rules;
	uint32_t number;

	assert_int_equal(rules_new(&list, &rules), 0);
	assert_int_equal(rules_match(rules, RULE_OUT, &f, &number), RULE_NONE);
	rules_free(rules);
}

static bool
refuses(const char *text)
{
	struct config *config = NULL;
	struct rule rule = { 0 };
	struct config_list list = { &rule, 1 };
	struct rules *rules;
	int err = config_load_text("rule", text, strlen(text), rule_fields, &rule,
				   &config);

	if (err == 0)
		err = rules_new(&list, &rules);
	if (err == 0)
		rules_free(rules);
	config_free(config);
	return err != 0;
}

/* One that somebody forgot to fill would open what it is to close. */
static void
test_an_empty_list_is_a_mistake(void **state)
{
	assert_true(refuses("{action: allow, protocol: []}"));
	assert_true(refuses("{action: allow, source: []}"));
	assert_true(refuses("{action: allow, destination: []}"));
	assert_true(refuses("{action: allow, source_ports: []}"));
	assert_true(refuses("{action: allow, destination_ports: []}"));
	assert_false(refuses("{action: allow, protocol: [tcp], source: [10.0.0.0/8], "
			     "destination: [10.0.0.0/8], source_ports: [80], "
			     "destination_ports: [80]}"));
	assert_false(refuses("{action: allow}"));
}

static void
test_what_no_packet_matches_is_a_mistake(void **state)
{
	assert_true(refuses("{action: allow, source: [10.0.0.0/8], "
			    "destination: ['2001:db8::/32']}"));
	assert_false(refuses("{action: allow, source: [10.0.0.0/8, 'fd00::/8'], "
			     "destination: ['2001:db8::/32']}"));
	assert_false(refuses("{action: allow, destination: ['2001:db8::/32']}"));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules_match_what_a_plain_search_matches),
		cmocka_unit_test(test_ten_thousand_rules),
		cmocka_unit_test(test_no_rules_match_nothing),
		cmocka_unit_test(test_an_empty_list_is_a_mistake),
		cmocka_unit_test(test_what_no_packet_matches_is_a_mistake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
