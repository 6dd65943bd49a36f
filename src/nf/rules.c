/*
 * rules.c - finds the first rule that matches a flow, by bit vectors.
 *
 * Each dimension of a flow (an address, a port, the protocol, the direction) is cut
 * into intervals at every bound that some rule mentions.  An interval has a row of
 * bits: those of the rules that accept the values in it.  To match, look up the row
 * of each dimension by binary search and find the first bit set in all of them.
 * A list in a rule is several intervals with its bit set, and costs nothing more.
 *
 * A rule that leaves a dimension open has its bit in all of its rows.  One that names
 * addresses of one IP version only is in no row of the other's.
 */
#include "nf/rules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "net/address.h"

enum {
	PROTOCOL_ANY = 256,
	RULES_MAX_BYTES = 512 << 20,		/* Of one dimension's rows. */
	RULE_MAX_IDLE_S = 30 * 86400,
};

enum dimension_id {
	SOURCE4,
	DESTINATION4,
	SOURCE6,
	DESTINATION6,
	SOURCE_PORT,
	DESTINATION_PORT,
	PROTOCOL,
	DIRECTION,
	N_DIMENSIONS
};

typedef unsigned __int128 number;		/* An IPv6 address, or anything less. */

/* Values that a rule accepts. */
struct span {
	number low, high;			/* Both included. */
	uint32_t rule;
};

struct dimension {
	unsigned int n;				/* Intervals. */
	number *start;				/* Of each; the first is 0. */
	uint64_t *rows;				/* One for each interval. */
};

struct rules {
	unsigned int n, n_words;		/* n_words: of a row. */
	uint32_t id;
	uint8_t *action;			/* enum rule_action, by rule. */
	uint32_t *idle_ms;			/* By rule. */
	struct dimension dimension[N_DIMENSIONS];
};

/* What one dimension is built from. */
struct spans {
	unsigned int n;
	struct span *span;
	uint64_t *open;				/* Rules that accept every value. */
};

static int
protocol_parse(const char *text, void *out)
{
	static const struct {
		const char *word;
		uint16_t protocol;
	} words[] = {
		{ "tcp", PROTO_TCP },
		{ "udp", PROTO_UDP },
		{ "icmp", PROTO_ICMP },
		{ "sctp", RULE_SCTP },
		{ "any", PROTOCOL_ANY },
	};
	uint16_t *protocol = out;
	struct port_range range;

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(text, words[i].word) == 0) {
			*protocol = words[i].protocol;
			return 0;
		}
	}
	if (port_range_parse(text, &range) != 0 || range.low != range.high ||
	    range.low > UINT8_MAX)
		return -EINVAL;
	*protocol = range.low;
	return 0;
}

#define PREFIX_HELP "a prefix without host bits, such as 10.0.0.0/8 or 2001:db8::/32, or a " \
		    "list of them"
#define PORTS_HELP "ports, such as 80 or 1024-65535, or a list of them"

const struct config_field rule_fields[] = {
	{ "action", CONFIG_ENUM, offsetof(struct rule, action), .required = true,
	  .words = (const char *const[]){ "allow", "deny", "reject", NULL },
	  .help = "what to do with a connection that matches; reject: deny, and tell its "
		  "sender" },
	{ "direction", CONFIG_ENUM, offsetof(struct rule, direction),
	  .words = (const char *const[]){ "both", "out", "in", NULL },
	  .help = "out: opened from inside; in: opened from outside (default: both)" },
	{ "protocol", CONFIG_LIST, offsetof(struct rule, protocols),
	  .min = 1, .item_bytes = sizeof(uint16_t), .parse = protocol_parse,
	  .help = "tcp, udp, sctp, icmp (with ICMPv6), any or a number, or a list of "
		  "them" },
	{ "source", CONFIG_LIST, offsetof(struct rule, sources),
	  .min = 1, .item_bytes = sizeof(struct prefix), .parse = prefix_parse,
	  .help = PREFIX_HELP },
	{ "destination", CONFIG_LIST, offsetof(struct rule, destinations),
	  .min = 1, .item_bytes = sizeof(struct prefix), .parse = prefix_parse,
	  .help = PREFIX_HELP },
	{ "source_ports", CONFIG_LIST, offsetof(struct rule, source_ports),
	  .min = 1, .item_bytes = sizeof(struct port_range), .parse = port_range_parse,
	  .help = PORTS_HELP },
	{ "destination_ports", CONFIG_LIST, offsetof(struct rule, destination_ports),
	  .min = 1, .item_bytes = sizeof(struct port_range), .parse = port_range_parse,
	  .help = PORTS_HELP },
	{ "idle", CONFIG_DURATION, offsetof(struct rule, idle_ms), .min = 1000,
	  .max = RULE_MAX_IDLE_S * 1000ULL,
	  .help = "how long its connections are remembered once they are established "
		  "(default: by 'timeouts')" },
	{ 0 }
};

/* --- what rules accept -------------------------------------------------------- */

static number
number_of_address(const void *address, unsigned int bytes)
{
	const uint8_t *from = address;
	number n = 0;

	for (unsigned int i = 0; i < bytes; i++)
		n = n << 8 | from[i];
	return n;
}

static void
set_bit(uint64_t *row, uint32_t rule)
{
	row[rule / 64] |= 1ULL << rule % 64;
}

static void
spans_add(struct spans *s, number low, number high, uint32_t rule)
{
	s->span[s->n++] = (struct span){ low, high, rule };
}

static void
spans_add_prefixes(struct spans *s, const struct config_list *list, uint8_t version,
		   uint32_t rule)
{
	const struct prefix *prefix = list->items;
	unsigned int bytes = version == 4 ? 4 : 16;

	for (unsigned int i = 0; i < list->n; i++) {
		if (prefix[i].version != version)
			continue;

		number low = number_of_address(prefix[i].ip6, bytes);
		unsigned int rest = bytes * 8 - prefix[i].length;
		number size = rest == 128 ? 0 : (number)1 << rest;

		spans_add(s, low, low + size - 1, rule);
	}
	if (list->n == 0)
		set_bit(s->open, rule);
}

static void
spans_add_ports(struct spans *s, const struct config_list *list, uint32_t rule)
{
	const struct port_range *range = list->items;

	for (unsigned int i = 0; i < list->n; i++)
		spans_add(s, range[i].low, range[i].high, rule);
	if (list->n == 0)
		set_bit(s->open, rule);
}

static void
spans_add_protocols(struct spans *s, const struct config_list *list, uint32_t rule)
{
	const uint16_t *protocol = list->items;

	for (unsigned int i = 0; i < list->n; i++) {
		if (protocol[i] == PROTOCOL_ANY)
			set_bit(s->open, rule);
		else
			spans_add(s, protocol[i], protocol[i], rule);
		if (protocol[i] == PROTO_ICMP)
			spans_add(s, PROTO_ICMP6, PROTO_ICMP6, rule);
	}
	if (list->n == 0)
		set_bit(s->open, rule);
}

/* In the order of the words in rule_fields. */
static void
spans_add_direction(struct spans *s, int word, uint32_t rule)
{
	if (word == 0)
		set_bit(s->open, rule);
	else if (word == 1)
		spans_add(s, RULE_OUT, RULE_OUT, rule);
	else
		spans_add(s, RULE_IN, RULE_IN, rule);
}

static void
spans_add_rule(struct spans *s, enum dimension_id id, const struct rule *rule, uint32_t i)
{
	switch (id) {
	case SOURCE4:
		spans_add_prefixes(s, &rule->sources, 4, i);
		break;
	case DESTINATION4:
		spans_add_prefixes(s, &rule->destinations, 4, i);
		break;
	case SOURCE6:
		spans_add_prefixes(s, &rule->sources, 6, i);
		break;
	case DESTINATION6:
		spans_add_prefixes(s, &rule->destinations, 6, i);
		break;
	case SOURCE_PORT:
		spans_add_ports(s, &rule->source_ports, i);
		break;
	case DESTINATION_PORT:
		spans_add_ports(s, &rule->destination_ports, i);
		break;
	case PROTOCOL:
		spans_add_protocols(s, &rule->protocols, i);
		break;
	default:
		spans_add_direction(s, rule->direction, i);
		break;
	}
}

/* --- build -------------------------------------------------------------------- */

static int
compare_numbers(const void *a, const void *b)
{
	number x = *(const number *)a, y = *(const number *)b;

	return x < y ? -1 : x > y;
}

/* The interval that holds 'value'. */
static inline unsigned int
dimension_find(const struct dimension *d, number value)
{
	unsigned int at = 0, n = d->n;

	while (n > 1) {
		unsigned int half = n / 2;

		at += d->start[at + half] <= value ? half : 0;
		n -= half;
	}
	return at;
}

static int
dimension_cut(struct dimension *d, const struct spans *s)
{
	unsigned int n = 0;

	d->start = calloc(2 * s->n + 1, sizeof(*d->start));
	if (d->start == NULL)
		return -ENOMEM;
	d->start[n++] = 0;
	for (unsigned int i = 0; i < s->n; i++) {
		d->start[n++] = s->span[i].low;
		d->start[n++] = s->span[i].high + 1;	/* Wraps to 0 behind the last. */
	}
	qsort(d->start, n, sizeof(*d->start), compare_numbers);
	d->n = 1;
	for (unsigned int i = 1; i < n; i++)
		if (d->start[i] != d->start[i - 1])
			d->start[d->n++] = d->start[i];
	return 0;
}

static int
dimension_build(struct dimension *d, const struct spans *s, unsigned int n_words)
{
	if (dimension_cut(d, s) != 0)
		return -ENOMEM;
	if ((size_t)d->n * n_words > RULES_MAX_BYTES / sizeof(*d->rows))
		return -E2BIG;
	d->rows = malloc((size_t)d->n * n_words * sizeof(*d->rows));
	if (d->rows == NULL)
		return -ENOMEM;
	for (unsigned int i = 0; i < d->n; i++)
		memcpy(&d->rows[(size_t)i * n_words], s->open,
		       n_words * sizeof(*s->open));
	for (unsigned int i = 0; i < s->n; i++) {
		const struct span *span = &s->span[i];

		for (unsigned int at = dimension_find(d, span->low);
		     at < d->n && d->start[at] <= span->high; at++)
			set_bit(&d->rows[(size_t)at * n_words], span->rule);
	}
	return 0;
}

/* Spans that no dimension needs more of. */
static size_t
most_spans(const struct config_list *list)
{
	const struct rule *rule = list->items;
	size_t most = 0;

	for (unsigned int i = 0; i < list->n; i++) {
		most += 1 + 2 * (size_t)rule[i].protocols.n + rule[i].sources.n;
		most += (size_t)rule[i].destinations.n + rule[i].source_ports.n;
		most += rule[i].destination_ports.n;
	}
	return most;
}

static int
rules_build(struct rules *rules, const struct config_list *list)
{
	const struct rule *rule = list->items;
	size_t row_bytes = rules->n_words * sizeof(uint64_t);
	struct spans s = { .span = calloc(most_spans(list) + 1, sizeof(*s.span)),
			   .open = malloc(row_bytes + 1) };
	int err = s.span == NULL || s.open == NULL ? -ENOMEM : 0;

	for (unsigned int id = 0; err == 0 && id < N_DIMENSIONS; id++) {
		s.n = 0;
		memset(s.open, 0, row_bytes);
		for (uint32_t i = 0; i < list->n; i++)
			spans_add_rule(&s, id, &rule[i], i);
		err = dimension_build(&rules->dimension[id], &s, rules->n_words);
	}
	free(s.span);
	free(s.open);
	return err;
}

/* Bits 4 and 6: which IP versions a list of prefixes has. */
static unsigned int
versions_of(const struct config_list *list)
{
	const struct prefix *prefix = list->items;
	unsigned int versions = 0;

	for (unsigned int i = 0; i < list->n; i++)
		versions |= 1u << prefix[i].version;
	return list->n > 0 ? versions : ~0u;
}

static bool
all_have_ports(const struct config_list *protocols)
{
	const uint16_t *protocol = protocols->items;
	bool all = protocols->n > 0;

	for (unsigned int i = 0; i < protocols->n; i++)
		all &= protocol[i] == PROTO_TCP || protocol[i] == PROTO_UDP ||
		       protocol[i] == RULE_SCTP;
	return all;
}

/* Only protocols with ports may be asked for them; and some packet has to match. */
static int
rule_check(const struct rule *rule)
{
	if ((rule->source_ports.n > 0 || rule->destination_ports.n > 0) &&
	    !all_have_ports(&rule->protocols)) {
		config_error(rule, "a rule with ports needs 'protocol: tcp', 'protocol: "
				   "udp', 'protocol: sctp' or a list of these");
		return -EINVAL;
	}
	if ((versions_of(&rule->sources) & versions_of(&rule->destinations)) == 0) {
		config_error(rule, "'source' and 'destination' are of different IP "
				   "versions: no packet matches");
		return -EINVAL;
	}
	return 0;
}

static uint64_t
list_hash(const struct config_list *list, unsigned int item_bytes, uint64_t hash)
{
	return hash_bytes(list->items, list->n * item_bytes, hash + list->n);
}

/* Of what they say: the same in every instance that has the same rules. */
static uint32_t
content_id(const struct config_list *list)
{
	const struct rule *rule = list->items;
	uint64_t hash = list->n;

	for (unsigned int i = 0; i < list->n; i++) {
		uint64_t words[2] = { (uint64_t)rule[i].action << 8 |
				      (uint64_t)rule[i].direction, rule[i].idle_ms };

		hash = hash_bytes(words, sizeof(words), hash);
		hash = list_hash(&rule[i].protocols, sizeof(uint16_t), hash);
		hash = list_hash(&rule[i].sources, sizeof(struct prefix), hash);
		hash = list_hash(&rule[i].destinations, sizeof(struct prefix), hash);
		hash = list_hash(&rule[i].source_ports, sizeof(struct port_range), hash);
		hash = list_hash(&rule[i].destination_ports, sizeof(struct port_range),
				 hash);
	}
	return (uint32_t)(hash ^ hash >> 32);
}

int
rules_new(const struct config_list *list, struct rules **out)
{
	const struct rule *rule = list->items;
	struct rules *rules;
	int err;

	for (unsigned int i = 0; i < list->n; i++)
		if (rule_check(&rule[i]) != 0)
			return -EINVAL;
	rules = calloc(1, sizeof(*rules));
	if (rules == NULL)
		return -ENOMEM;
	rules->n = list->n;
	rules->n_words = (list->n + 63) / 64;
	rules->id = content_id(list);
	rules->action = malloc(list->n + 1);
	rules->idle_ms = calloc(list->n + 1, sizeof(*rules->idle_ms));
	err = rules->action != NULL && rules->idle_ms != NULL ? rules_build(rules, list)
							      : -ENOMEM;
	if (err == -E2BIG) {
		config_error(list, "the rules name too many different values, want fewer "
				   "rules or fewer prefixes and ports in them");
		err = -EINVAL;
	}
	if (err != 0) {
		rules_free(rules);
		return err;
	}
	for (unsigned int i = 0; i < list->n; i++) {
		rules->action[i] = (uint8_t)rule[i].action;
		rules->idle_ms[i] = (uint32_t)rule[i].idle_ms;
	}
	*out = rules;
	return 0;
}

void
rules_free(struct rules *rules)
{
	if (rules == NULL)
		return;
	for (unsigned int id = 0; id < N_DIMENSIONS; id++) {
		free(rules->dimension[id].start);
		free(rules->dimension[id].rows);
	}
	free(rules->action);
	free(rules->idle_ms);
	free(rules);
}

uint32_t
rules_id(const struct rules *rules)
{
	return rules->id;
}

uint32_t
rules_idle_ms(const struct rules *rules, uint32_t rule_number)
{
	return rule_number == 0 || rule_number > rules->n
		       ? 0
		       : rules->idle_ms[rule_number - 1];
}

/* --- match -------------------------------------------------------------------- */

static const uint64_t *
row(const struct rules *rules, enum dimension_id id, number value)
{
	const struct dimension *d = &rules->dimension[id];

	return &d->rows[(size_t)dimension_find(d, value) * rules->n_words];
}

enum rule_action
rules_match(const struct rules *rules, enum rule_direction direction,
	    const struct flow *f, uint32_t *rule_number)
{
	bool ip4 = f->version == 4;
	const uint64_t *src, *dst;

	if (ip4) {
		src = row(rules, SOURCE4, rte_be_to_cpu_32(f->ip4.src));
		dst = row(rules, DESTINATION4, rte_be_to_cpu_32(f->ip4.dst));
	} else {
		src = row(rules, SOURCE6, number_of_address(f->ip6.src, 16));
		dst = row(rules, DESTINATION6, number_of_address(f->ip6.dst, 16));
	}

	const uint64_t *src_port = row(rules, SOURCE_PORT, rte_be_to_cpu_16(f->src_port));
	const uint64_t *dst_port =
		row(rules, DESTINATION_PORT, rte_be_to_cpu_16(f->dst_port));
	const uint64_t *protocol = row(rules, PROTOCOL, f->protocol);
	const uint64_t *way = row(rules, DIRECTION, direction);

	for (unsigned int i = 0; i < rules->n_words; i++) {
		uint64_t hits = src[i] & dst[i] & src_port[i] & dst_port[i] &
				protocol[i] & way[i];

		if (hits == 0)
			continue;

		uint32_t n = i * 64 + (uint32_t)__builtin_ctzll(hits);

		*rule_number = n + 1;
		return rules->action[n];
	}
	*rule_number = 0;
	return RULE_NONE;
}
