/*
 * nat_pool.c - the NAT's pool as the file has it: addresses, ports, what subscribers may
 * have of them, and which events are logged.
 */
#include "nf/nat.h"

const char *const nat_pooling_words[] = { "paired", "arbitrary", NULL };
const char *const nat_log_words[] = { "default", "off", "mappings", "blocks", NULL };

const struct config_field nat_block_fields[] = {
	{ "size", CONFIG_UINT, offsetof(struct nat_block_options, size),
	  .required = true, .min = 1 << NAT_BLOCK_BITS_MIN,
	  .max = 1 << NAT_BLOCK_BITS_MAX,
	  .help = "ports in a block: a power of two" },
	{ "per_subscriber", CONFIG_UINT,
	  offsetof(struct nat_block_options, per_subscriber), .min = 1,
	  .max = NAT_MAX_BLOCKS, .help = "blocks that an inside host may have" },
	{ 0 }
};

const struct config_field nat_limit_fields[] = {
	{ "ports", CONFIG_UINT, offsetof(struct nat_limit_options, ports), .min = 1,
	  .max = UINT32_MAX, .help = "outside ports that an inside host may have" },
	{ "sessions", CONFIG_UINT, offsetof(struct nat_limit_options, sessions),
	  .min = 1, .max = UINT32_MAX, .help = "flows that it may have" },
	{ "rate", CONFIG_UINT, offsetof(struct nat_limit_options, rate), .min = 1,
	  .max = UINT32_MAX, .help = "outside ports that it may be given in a second" },
	{ 0 }
};

const struct nf_event nat_events[] = {
	[NAT_MAPPING_CREATED] = { "mapping_created", "mapping", NULL, NULL },
	[NAT_MAPPING_DELETED] = { "mapping_deleted", "mapping", NULL, NULL },
	[NAT_BLOCK_ALLOCATED] = { "block_allocated", "block", NULL, "size" },
	[NAT_BLOCK_RELEASED] = { "block_released", "block", NULL, "size" },
	[NAT_EXHAUSTED] = { "ports_exhausted", "flow", "outside", NULL, .line = true },
	[NAT_LIMITED] = { "subscriber_limited", "flow", "outside", NULL, .line = true },
	[NAT_LIMITED + 1] = { 0 },
};

/* Port 0 is nobody's. */
int
nat_ports_parse(const char *text, void *out)
{
	struct port_range range;

	if (port_range_parse(text, &range) != 0 || range.low == 0)
		return -EINVAL;
	*(struct port_range *)out = range;
	return 0;
}

/* The last byte of the address if that is not in use: so a slot mostly stays an
 * address's when the file has others. */
static void
choose_slots(struct nat_ports *ports)
{
	bool used[NAT_MAX_ADDRESSES] = { false };

	for (unsigned int i = 0; i < ports->n_addresses; i++) {
		uint32_t slot = rte_be_to_cpu_32(ports->address[i].ip4);

		while (used[slot % NAT_MAX_ADDRESSES])
			slot++;
		ports->slot[i] = (uint8_t)(slot % NAT_MAX_ADDRESSES);
		used[ports->slot[i]] = true;
	}
}

/* 'at' is where the file has it. */
static int
take_address(const struct endpoint *address, const void *at, struct nat_ports *ports)
{
	if (!endpoint_is_host(address)) {
		config_error(at, "not the address of a host");
		return -EINVAL;
	}
	if (nat_ports_own(ports, address)) {
		config_error(at, "the address is there twice");
		return -EINVAL;
	}
	if (ports->n_addresses == NAT_MAX_ADDRESSES) {
		config_error(at, "more than %d addresses", NAT_MAX_ADDRESSES);
		return -EINVAL;
	}
	ports->address[ports->n_addresses++] = *address;
	return 0;
}

static int
take_addresses(const struct config_list *list, struct nat_ports *ports)
{
	const struct prefix *prefix = list->items;

	for (unsigned int i = 0; i < list->n; i++) {
		struct endpoint address = { .ip4 = prefix[i].ip4, .version = 4 };

		if (prefix[i].version != 4) {
			config_error(&prefix[i], "an IPv6 address, want IPv4");
			return -EINVAL;
		}
		while (prefix_contains(&prefix[i], &address)) {
			if (take_address(&address, &prefix[i], ports) != 0)
				return -EINVAL;
			address.ip4 = rte_cpu_to_be_32(
				rte_be_to_cpu_32(address.ip4) + 1);
		}
	}
	choose_slots(ports);
	return 0;
}

int
nat_ports_init(const struct nat_ports_options *options, struct nat_ports *ports)
{
	const struct nat_block_options *blocks = &options->blocks;
	bool given = options->ports.high != 0;
	int err = take_addresses(&options->addresses, ports);

	if (err != 0)
		return err;
	ports->first_port = given ? options->ports.low : 1024;
	ports->n_ports = (given ? options->ports.high : UINT16_MAX) + 1U;
	ports->n_ports -= ports->first_port;
	ports->arbitrary = options->pooling == NAT_ARBITRARY;
	if (blocks->size != 0) {
		if ((blocks->size & (blocks->size - 1)) != 0) {
			config_error(&blocks->size, "blocks.size: want a power of two");
			return -EINVAL;
		}
		if (blocks->size > ports->n_ports) {
			config_error(&blocks->size, "blocks.size: want no more than the "
						    "%u of 'ports'", ports->n_ports);
			return -EINVAL;
		}
		ports->block_bits = (uint8_t)__builtin_ctzll(blocks->size);
		ports->max_blocks = blocks->per_subscriber != 0
					    ? (uint8_t)blocks->per_subscriber
					    : NAT_MAX_BLOCKS;
	}
	if (options->log == NAT_LOG_BLOCKS && blocks->size == 0) {
		config_error(&options->log, "log: blocks, but there are no 'blocks'");
		return -EINVAL;
	}
	ports->log_mappings = options->log == NAT_LOG_MAPPINGS;
	ports->log_blocks = blocks->size != 0 && options->log != NAT_LOG_OFF;
	ports->max_ports = (uint32_t)options->limits.ports;
	ports->max_sessions = (uint32_t)options->limits.sessions;
	ports->max_rate = (uint32_t)options->limits.rate;
	return 0;
}

bool
nat_ports_own(const struct nat_ports *ports, const struct endpoint *address)
{
	for (unsigned int i = 0; i < ports->n_addresses; i++)
		if (ports->address[i].ip4 == address->ip4)
			return true;
	return false;
}
