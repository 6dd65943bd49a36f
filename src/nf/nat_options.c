/*
 * nat_options.c - the NAT's section of the file, and what is made of it: times, and rules
 * (static addresses and forwarded ports), to be found by either side.
 *
 * Rules are looked up in hash tables that are made with them and never change: a reload
 * makes others.  An address and port that a rule has outside is never given to a mapping.
 */
#include "nf/nat.h"

enum {
	DAY_MS = 86400 * 1000,
};

struct static_option {
	struct endpoint inside, outside;	/* Ports 0. */
	struct nat_mac_option mac;
};

enum forward_protocol {
	FORWARD_TCP,
	FORWARD_UDP,
	FORWARD_ANY,
};

struct forward_option {
	int protocol;				/* enum forward_protocol */
	struct endpoint inside, outside;
	struct nat_mac_option mac;
};

static const char *const mapping_words[] = { "endpoint_independent", "endpoint_dependent",
					     NULL };
static const char *const filtering_words[] = { "default", "endpoint_independent",
					       "address", "address_and_port", NULL };
/* Every second one says no. */
static const char *const default_yes_words[] = { "yes", "no", "true", "false", "on",
						 "off", NULL };
static const char *const syn_words[] = { "refuse", "drop", NULL };
static const char *const ip6_words[] = { "drop", "pass", NULL };
static const char *const forward_words[] = { "tcp", "udp", "any", NULL };

static int
mac_option_parse(const char *text, void *out)
{
	struct nat_mac_option mac = { .is_given = true };

	if (strcmp(text, "off") == 0)
		mac.is_given = false;
	else if (strcmp(text, "auto") == 0)
		mac.is_auto = true;
	else if (mac_parse(text, mac.mac) != 0 || (mac.mac[0] & 1) != 0)
		return -EINVAL;
	*(struct nat_mac_option *)out = mac;
	return 0;
}

static int
host_mac_parse(const char *text, void *out)
{
	struct nat_mac_option mac;

	if (mac_option_parse(text, &mac) != 0 || !mac.is_given || mac.is_auto)
		return -EINVAL;
	*(struct nat_mac_option *)out = mac;
	return 0;
}

#define HOST_MAC(option)                                                         \
	{ "mac", CONFIG_SCALAR, offsetof(option, mac), .parse = host_mac_parse,  \
	  .help = "the MAC address of the inside host, or of the router before it" }

static const struct config_field static_fields[] = {
	{ "inside", CONFIG_SCALAR, offsetof(struct static_option, inside),
	  .required = true, .parse = address_parse, .help = "the inside host's address" },
	{ "outside", CONFIG_SCALAR, offsetof(struct static_option, outside),
	  .required = true, .parse = address_parse,
	  .help = "the address that it has outside, alone" },
	HOST_MAC(struct static_option),
	{ 0 }
};

static const struct config_field forward_fields[] = {
	{ "protocol", CONFIG_ENUM, offsetof(struct forward_option, protocol),
	  .words = forward_words, .help = "tcp (default), udp or any" },
	{ "outside", CONFIG_SCALAR, offsetof(struct forward_option, outside),
	  .required = true, .parse = endpoint_parse, .help = "ADDRESS:PORT outside" },
	{ "inside", CONFIG_SCALAR, offsetof(struct forward_option, inside),
	  .required = true, .parse = endpoint_parse, .help = "ADDRESS:PORT inside" },
	HOST_MAC(struct forward_option),
	{ 0 }
};

#define IDLE(name, member, most, text)                                           \
	{ name, CONFIG_DURATION, offsetof(struct nat_options, member), .min = 1000, \
	  .max = (most), .help = text }

const struct config_field nat_fields[] = {
	NAT_PORTS_FIELDS(struct nat_options, ports),
	{ "mapping", CONFIG_ENUM, offsetof(struct nat_options, mapping),
	  .words = mapping_words,
	  .help = "whether an inside endpoint has one outside endpoint for all remote "
		  "ones: endpoint_independent (default) or endpoint_dependent" },
	{ "filtering", CONFIG_ENUM, offsetof(struct nat_options, filtering),
	  .words = filtering_words,
	  .help = "who may answer: endpoint_independent, address (default: addresses "
		  "that were sent to) or address_and_port" },
	{ "hairpin", CONFIG_ENUM, offsetof(struct nat_options, hairpin),
	  .words = default_yes_words,
	  .help = "whether inside hosts reach each other's outside addresses "
		  "(default: yes)" },
	{ "inbound_refresh", CONFIG_BOOL, offsetof(struct nat_options, inbound_refresh),
	  .help = "whether packets from outside keep a mapping (default: no)" },
	{ "unsolicited_syn", CONFIG_ENUM, offsetof(struct nat_options, unsolicited_syn),
	  .words = syn_words,
	  .help = "what comes of a SYN to a mapping that does not let it in: refuse "
		  "(default; not before 6 s, RFC 5382) or drop" },
	{ "ipv6", CONFIG_ENUM, offsetof(struct nat_options, ipv6), .words = ip6_words,
	  .help = "drop (default) or pass, untranslated" },
	{ "ping", CONFIG_ENUM, offsetof(struct nat_options, ping),
	  .words = default_yes_words,
	  .help = "whether the outside addresses answer echo requests (default: yes)" },
	{ "mac", CONFIG_SCALAR, offsetof(struct nat_options, mac),
	  .parse = mac_option_parse,
	  .help = "the MAC address that the outside addresses have: off (default), auto, "
		  "or one" },
	IDLE("tcp_idle", tcp_ms, 30ULL * DAY_MS,
	     "how long an open TCP session lives (default: 7440s, RFC 5382)"),
	IDLE("tcp_opening_idle", opening_ms, DAY_MS,
	     "the same while it opens (default: 240s, RFC 5382)"),
	IDLE("tcp_closing_idle", closing_ms, DAY_MS,
	     "the same after a FIN or RST (default: 240s, RFC 7857)"),
	IDLE("udp_idle", udp_ms, DAY_MS, "of UDP (default: 300s, RFC 4787)"),
	IDLE("udp_well_known_idle", udp_well_known_ms, DAY_MS,
	     "of UDP to ports below 1024 (default: udp_idle)"),
	IDLE("icmp_idle", icmp_ms, DAY_MS, "of an ICMP query (default: 60s, RFC 5508)"),
	{ "static", CONFIG_LIST, offsetof(struct nat_options, statics),
	  .max = NAT_MAX_RULES / 2, .item_bytes = sizeof(struct static_option),
	  .fields = static_fields, .help = "addresses translated one to one" },
	{ "forwards", CONFIG_LIST, offsetof(struct nat_options, forwards),
	  .max = NAT_MAX_RULES / 4, .item_bytes = sizeof(struct forward_option),
	  .fields = forward_fields, .help = "ports that lead to inside servers" },
	{ 0 }
};

/* --- lookups ------------------------------------------------------------------ */

static unsigned int
slot_of(rte_be32_t address, rte_be16_t port, uint8_t protocol)
{
	uint64_t key = (uint64_t)address << 32 | (uint64_t)port << 16 | protocol;

	return nf_spread(&key, sizeof(key)) % NAT_SLOTS;
}

const struct nat_rule *
nat_rule_inside(const struct nat *nat, rte_be32_t address, rte_be16_t port,
		uint8_t protocol)
{
	unsigned int slot = slot_of(address, port, protocol);

	for (; nat->by_inside[slot] != 0; slot = (slot + 1) % NAT_SLOTS) {
		const struct nat_rule *rule = &nat->rule[nat->by_inside[slot] - 1];

		if (rule->inside == address && rule->inside_port == port &&
		    rule->protocol == protocol)
			return rule;
	}
	return NULL;
}

const struct nat_rule *
nat_rule_outside(const struct nat *nat, rte_be32_t address, rte_be16_t port,
		 uint8_t protocol)
{
	unsigned int slot = slot_of(address, port, protocol);

	for (; nat->by_outside[slot] != 0; slot = (slot + 1) % NAT_SLOTS) {
		const struct nat_rule *rule = &nat->rule[nat->by_outside[slot] - 1];

		if (rule->outside == address && rule->outside_port == port &&
		    rule->protocol == protocol)
			return rule;
	}
	return NULL;
}

/* Where the address is, or would be. */
static unsigned int
own_slot(const struct nat *nat, rte_be32_t address)
{
	unsigned int slot = slot_of(address, 0, 0);

	while (nat->own[slot] != 0 && nat->own[slot] != address)
		slot = (slot + 1) % NAT_SLOTS;
	return slot;
}

bool
nat_owns(const struct nat *nat, rte_be32_t address)
{
	return address != 0 && nat->own[own_slot(nat, address)] == address;
}

static bool
is_reserved(const struct nf_run *r, const struct endpoint *outside, uint8_t protocol)
{
	const struct nat *nat = nf_static(r);

	return nat->n_rules > nat->n_static &&
	       nat_rule_outside(nat, outside->ip4, outside->port, protocol) != NULL;
}

/* --- making ------------------------------------------------------------------- */

static void
own_add(struct nat *nat, rte_be32_t address)
{
	nat->own[own_slot(nat, address)] = address;
}

/* 'at' is where the file has it. */
static int
rule_add(struct nat *nat, const struct nat_rule *rule, const void *at)
{
	unsigned int in = slot_of(rule->inside, rule->inside_port, rule->protocol);
	unsigned int out = slot_of(rule->outside, rule->outside_port, rule->protocol);

	if (nat_rule_inside(nat, rule->inside, rule->inside_port, rule->protocol)) {
		config_error(at, "its inside has another rule already");
		return -EINVAL;
	}
	if (nat_rule_outside(nat, rule->outside, rule->outside_port, rule->protocol)) {
		config_error(at, "its outside has another rule already");
		return -EINVAL;
	}
	if (nat->has_mac && !rule->has_mac) {
		config_error(at, "needs the inside host's 'mac', as the section has one");
		return -EINVAL;
	}
	while (nat->by_inside[in] != 0)
		in = (in + 1) % NAT_SLOTS;
	while (nat->by_outside[out] != 0)
		out = (out + 1) % NAT_SLOTS;
	nat->rule[nat->n_rules++] = *rule;
	nat->by_inside[in] = (uint16_t)nat->n_rules;
	nat->by_outside[out] = (uint16_t)nat->n_rules;
	own_add(nat, rule->outside);
	return 0;
}

static int
rule_make(const struct endpoint *inside, const struct endpoint *outside,
	  const struct nat_mac_option *mac, const void *at, struct nat_rule *rule)
{
	if (inside->version != 4 || outside->version != 4) {
		config_error(at, "an IPv6 address, want IPv4");
		return -EINVAL;
	}
	if (!endpoint_is_host(inside) || !endpoint_is_host(outside)) {
		config_error(at, "not the address of a host");
		return -EINVAL;
	}
	*rule = (struct nat_rule){
		.inside = inside->ip4, .inside_port = inside->port,
		.outside = outside->ip4, .outside_port = outside->port,
		.has_mac = mac->is_given,
	};
	memcpy(rule->mac, mac->mac, MAC_BYTES);
	return 0;
}

static int
add_statics(const struct nat_options *options, struct nat *nat)
{
	const struct static_option *o = options->statics.items;
	struct nat_rule rule;

	for (unsigned int i = 0; i < options->statics.n; i++, o++) {
		if (rule_make(&o->inside, &o->outside, &o->mac, o, &rule) != 0)
			return -EINVAL;
		if (nat_ports_own(&nat->ports, &o->outside)) {
			config_error(o, "its outside address is one of 'addresses', want "
					"one of its own");
			return -EINVAL;
		}
		if (rule_add(nat, &rule, o) != 0)
			return -EINVAL;
	}
	nat->n_static = nat->n_rules;
	return 0;
}

static int
add_forwards(const struct nat_options *options, struct nat *nat)
{
	const struct forward_option *o = options->forwards.items;
	struct nat_rule rule;

	for (unsigned int i = 0; i < options->forwards.n; i++, o++) {
		if (rule_make(&o->inside, &o->outside, &o->mac, o, &rule) != 0)
			return -EINVAL;
		if (nat_rule_outside(nat, o->outside.ip4, 0, 0) != NULL ||
		    nat_rule_inside(nat, o->inside.ip4, 0, 0) != NULL) {
			config_error(o, "its address is a static one, all of whose ports "
					"are forwarded");
			return -EINVAL;
		}
		rule.protocol = PROTO_TCP;
		if (o->protocol != FORWARD_UDP && rule_add(nat, &rule, o) != 0)
			return -EINVAL;
		rule.protocol = PROTO_UDP;
		if (o->protocol != FORWARD_TCP && rule_add(nat, &rule, o) != 0)
			return -EINVAL;
	}
	return 0;
}

/* What is sent to an outside address has to end inside.  A host may keep its own. */
static int
check_inside(const struct nat *nat, const struct endpoint *inside,
	     const struct endpoint *outside, const void *at)
{
	if (!nat_ports_own(&nat->ports, inside) &&
	    (inside->ip4 == outside->ip4 || !nat_owns(nat, inside->ip4)))
		return 0;
	config_error(at, "its inside address is an outside one");
	return -EINVAL;
}

static int
check_insides(const struct nat_options *options, const struct nat *nat)
{
	const struct static_option *s = options->statics.items;
	const struct forward_option *f = options->forwards.items;

	for (unsigned int i = 0; i < options->statics.n; i++, s++)
		if (check_inside(nat, &s->inside, &s->outside, s) != 0)
			return -EINVAL;
	for (unsigned int i = 0; i < options->forwards.n; i++, f++)
		if (check_inside(nat, &f->inside, &f->outside, f) != 0)
			return -EINVAL;
	return 0;
}

/* All instances make the same one of the same file: locally administered, "S", and the
 * first address. */
static void
set_mac(const struct nat_mac_option *mac, struct nat *nat)
{
	nat->has_mac = mac->is_given;
	if (!mac->is_auto) {
		memcpy(nat->mac, mac->mac, MAC_BYTES);
		return;
	}
	nat->mac[0] = 0x02;
	nat->mac[1] = 'S';
	memcpy(nat->mac + 2, &nat->ports.address[0].ip4, 4);
}

static uint32_t
given_or(uint64_t ms, uint32_t default_ms)
{
	return ms != 0 ? (uint32_t)ms : default_ms;
}

static void
set_times(const struct nat_options *options, struct nat *nat)
{
	nat->tcp_ms = given_or(options->tcp_ms, 7440 * 1000);
	nat->opening_ms = given_or(options->opening_ms, 240 * 1000);
	nat->closing_ms = given_or(options->closing_ms, 240 * 1000);
	nat->udp_ms = given_or(options->udp_ms, 300 * 1000);
	nat->udp_well_known_ms = given_or(options->udp_well_known_ms, nat->udp_ms);
	nat->icmp_ms = given_or(options->icmp_ms, 60 * 1000);
}

static int
set_modes(const struct nat_options *options, struct nat *nat)
{
	nat->endpoint_dependent = options->mapping != 0;
	nat->filtering = (uint8_t)options->filtering;
	if (nat->endpoint_dependent && nat->filtering != NAT_FILTER_DEFAULT &&
	    nat->filtering != NAT_FILTER_ADDRESS_AND_PORT) {
		config_error(&options->filtering, "endpoint_dependent mappings can be "
						  "filtered by address_and_port only");
		return -EINVAL;
	}
	if (nat->filtering == NAT_FILTER_DEFAULT)
		nat->filtering = nat->endpoint_dependent ? NAT_FILTER_ADDRESS_AND_PORT
							 : NAT_FILTER_ADDRESS;
	nat->no_hairpin = options->hairpin % 2 != 0;
	nat->inbound_refresh = options->inbound_refresh;
	nat->hold_syn = options->unsolicited_syn == 0;
	nat->pass_ip6 = options->ipv6 != 0;
	nat->ping = options->ping % 2 == 0;
	set_mac(&options->mac, nat);
	return 0;
}

int
nat_init(const void *from, void **state)
{
	const struct nat_options *options = from;
	struct nat *nat = calloc(1, sizeof(*nat));

	if (nat == NULL)
		return -ENOMEM;
	if (nat_ports_init(&options->ports, &nat->ports) != 0)
		goto free_nat;
	for (unsigned int i = 0; i < nat->ports.n_addresses; i++)
		own_add(nat, nat->ports.address[i].ip4);
	if (set_modes(options, nat) != 0 || add_statics(options, nat) != 0 ||
	    add_forwards(options, nat) != 0 || check_insides(options, nat) != 0)
		goto free_nat;
	set_times(options, nat);
	nat->ports.reserved = is_reserved;
	*state = nat;
	return 0;
free_nat:
	free(nat);
	return -EINVAL;
}
