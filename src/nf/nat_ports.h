/*
 * nat_ports.h - the outside addresses and ports of a NAT: who gets which, how many, and
 * what is logged of it.
 *
 * A mapping takes its port in the group that writes it, and gives it back in the group
 * that deletes it; so nobody has a port without a mapping, and no port is two mappings'.
 * A subscriber is an inside address, in its zone.  All that there is of it lies in one
 * partition, so that its limits are exact; an outside port lies in the partition that
 * its number says.  A subscriber gets ports of its own partition.
 *
 * What nf_static() gives begins with a struct nat_ports.
 */
#ifndef NF_NAT_PORTS_H
#define NF_NAT_PORTS_H

#include "nf/nf.h"

#include "net/address.h"

enum {
	NAT_MAX_ADDRESSES = 256,
	NAT_MAX_BLOCKS = 4,			/* Of a subscriber. */
	NAT_BLOCK_BITS_MIN = 4,			/* 16 ports, */
	NAT_BLOCK_BITS_MAX = 12,		/* 4096 ports: their logarithms. */
	NAT_QUARANTINE_MS = 120 * 1000,		/* RFC 6888, REQ-8. */
};

enum nat_pooling {
	NAT_PAIRED,				/* RFC 4787, REQ-2. */
	NAT_ARBITRARY,
};

enum nat_log {
	NAT_LOG_DEFAULT,
	NAT_LOG_OFF,
	NAT_LOG_MAPPINGS,
	NAT_LOG_BLOCKS,
};

/* nf.events.  NAT_EXHAUSTED (nat.h) follows. */
enum nat_event {
	NAT_MAPPING_CREATED,
	NAT_MAPPING_DELETED,
	NAT_BLOCK_ALLOCATED,
	NAT_BLOCK_RELEASED,
};

extern const struct nf_event nat_events[];

/* This part of the section. */
struct nat_ports_options {
	struct config_list addresses;		/* struct prefix */
	struct port_range ports;		/* 0: not given. */
	int pooling, log;			/* enum nat_pooling, nat_log */
	struct nat_block_options {
		uint64_t size, per_subscriber;	/* Size 0: no blocks. */
	} blocks;
	struct nat_limit_options {
		uint64_t ports, sessions, rate;	/* 0: none. */
	} limits;
};

int nat_ports_parse(const char *text, void *out);
extern const char *const nat_pooling_words[], *const nat_log_words[];
extern const struct config_field nat_block_fields[], nat_limit_fields[];

/* Its fields, 'member' being where 'options' has it. */
#define NAT_PORTS_FIELDS(options, member)                                        \
	{ "addresses", CONFIG_LIST, offsetof(options, member.addresses),         \
	  .required = true, .min = 1, .max = NAT_MAX_ADDRESSES,                  \
	  .item_bytes = sizeof(struct prefix), .parse = prefix_parse,            \
	  .help = "addresses that inside hosts appear under, each alone or as "  \
		  "ADDRESS/LENGTH" },                                            \
	{ "ports", CONFIG_SCALAR, offsetof(options, member.ports),               \
	  .parse = nat_ports_parse,                                              \
	  .help = "those of their ports and ICMP identifiers that are given, from " \
		  "1 on (default: 1024-65535)" },                                \
	{ "pooling", CONFIG_ENUM, offsetof(options, member.pooling),             \
	  .words = nat_pooling_words,                                            \
	  .help = "whether an inside host has one outside address (paired: default) or " \
		  "others when that has no free port (arbitrary)" },             \
	{ "blocks", CONFIG_MAP, offsetof(options, member.blocks),                \
	  .fields = nat_block_fields, .help = "ports by the block" },            \
	{ "limits", CONFIG_MAP, offsetof(options, member.limits),                \
	  .fields = nat_limit_fields, .help = "what an inside host may have" },  \
	{ "log", CONFIG_ENUM, offsetof(options, member.log),                     \
	  .words = nat_log_words,                                                \
	  .help = "which events are logged: of mappings, of blocks (default if "  \
		  "there are blocks), or off (default if not)" }

struct nat_ports {
	struct endpoint address[NAT_MAX_ADDRESSES];	/* Ports 0. */
	uint8_t slot[NAT_MAX_ADDRESSES];	/* Where the ports of each are counted. */
	unsigned int n_addresses;
	unsigned int first_port, n_ports;
	bool arbitrary;
	uint8_t block_bits;			/* 2^block_bits ports; 0: no blocks. */
	uint8_t max_blocks;			/* Of a subscriber. */
	bool log_mappings, log_blocks;
	uint32_t max_ports, max_sessions, max_rate;	/* Of a subscriber; 0: any. */
	/* Whether an outside port is never given: another rule has it.  The caller's,
	 * to be set after nat_ports_init(). */
	bool (*reserved)(const struct nf_run *r, const struct endpoint *outside,
			 uint8_t protocol);
};

/* Returns 0, or -EINVAL after config_error().  '*ports' is all zeros before. */
int nat_ports_init(const struct nat_ports_options *options, struct nat_ports *ports);

/* Whether it is one of the pool's addresses. */
bool nat_ports_own(const struct nat_ports *ports, const struct endpoint *address);

/* For .spread: of the inside endpoint's and of the outside endpoint's records. */
uint32_t nat_inside_spread(const struct endpoint *inside, uint16_t zone);
uint32_t nat_outside_spread(const struct endpoint *outside);

/* What a mapping has to remember in order to give its port back. */
struct nat_port {
	struct endpoint outside;
	uint16_t first_port;			/* Of the range, or of the block. */
	uint8_t bucket;				/* Of remote endpoints. */
	uint8_t flags;				/* enum nat_port_flags */
};

static_assert(sizeof(struct nat_port) == 24, "no padding");

/* Who wants or has a port. */
struct nat_owner {
	struct endpoint inside;
	uint8_t protocol;
	uint16_t zone;
};

/* One that a subscriber has. */
struct nat_block {
	rte_be32_t address;			/* 0: none. */
	uint16_t first_port, range_first;	/* Its own, and its range's. */
	uint8_t bits;				/* 2^bits ports. */
	uint8_t zero[3];
};

static_assert(sizeof(struct nat_block) == 12, "no padding");

/* A port that may be taken, and what else is done then. */
struct nat_offer {
	struct nat_port port;
	bool opens_block, opens_window;
	struct nat_block block[NAT_MAX_BLOCKS];	/* With the one that is opened. */
	int64_t made, max_made;			/* Mappings before this one. */
};

/* Proposes an outside address and port: a read.  (What it writes are reservations, which
 * do not depend on what else the run does.)  'remote' is the flow's where the mapping
 * depends on it, NULL where it serves all of them.  False: nf_pending(), or '*why' says:
 * NF_DROP_PORTS, none is free; NF_DROP_LIMIT, the subscriber has all that it may have. */
bool nat_port_pick(struct nf_run *r, const struct nat_owner *owner,
		   const struct endpoint *remote, struct nat_offer *offer,
		   enum nf_drop *why);
/* Takes what was offered in this run, and logs the mapping. */
void nat_port_take(struct nf_run *r, const struct nat_owner *owner,
		   const struct nat_offer *offer);
/* Gives it back with the mapping that is deleted by this run, and logs that.  False:
 * nf_pending(), nothing was done. */
bool nat_port_give(struct nf_run *r, const struct nat_owner *owner,
		   const struct nat_port *port);

/* Sessions of a subscriber: flows within its mappings.  Whether one more is allowed: a
 * read.  False: nf_pending(), or it is not. */
bool nat_session_fits(struct nf_run *r, const struct nat_owner *owner);
/* Counts one more or less: returns whether it was counted, which has to be remembered for
 * when it ends; 'delta' -1 only for one that was. */
bool nat_session_count(struct nf_run *r, const struct nat_owner *owner, int delta);

#endif
