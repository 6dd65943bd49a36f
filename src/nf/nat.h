/*
 * nat.h - what the files of the NAT share.
 *
 *   nat.c            packets: which of the following is asked
 *   nat_options.c    the section of the file, and the rules in it
 *   nat_session.c    the records of sessions and mappings: how they begin and end
 *   nat_refuse.c     what becomes of those that get nothing
 *   nat_icmp.c       ICMP errors, and pings of the outside addresses
 *   nat_link.c       Ethernet addresses, and ARP for the outside addresses
 *   nat_ports.c      outside ports, with nat_blocks.c
 *
 * A session is a flow from inside and that of its answers.  A mapping is what the
 * sessions of an inside endpoint share: its outside endpoint (RFC 4787, REQ-1).  With
 * 'mapping: endpoint_dependent' there are none, and each session has an outside endpoint
 * of its own.
 *
 * All addresses are of IPv4.
 */
#ifndef NF_NAT_H
#define NF_NAT_H

#include "nf/nat_ports.h"

enum {
	NAT_MAX_RULES = 2048,			/* Forwards for any protocol are two. */
	NAT_SLOTS = 8192,			/* Of hash tables. */
};

static_assert(NAT_SLOTS >= 2 * (NAT_MAX_RULES + NAT_MAX_ADDRESSES), "at most half full");

enum nat_filtering {				/* RFC 4787, 5. */
	NAT_FILTER_DEFAULT,
	NAT_FILTER_NONE,
	NAT_FILTER_ADDRESS,
	NAT_FILTER_ADDRESS_AND_PORT,
};

/* A TCP session, as RFC 6146, 3.5.2, has it; the others are NAT_OPENING for ever. */
enum nat_state {
	NAT_OPENING,				/* A SYN went out... */
	NAT_CALLED,				/* ...or came in. */
	NAT_OPEN,				/* There was one from both sides. */
	NAT_FIN_OUT,				/* The inside has ended, ... */
	NAT_FIN_IN,				/* ...the outside, ... */
	NAT_CLOSED,				/* ...both. */
	NAT_RESET,				/* There was a RST. */
};

enum nat_session_flags {
	NAT_SHARED = 1,				/* Of a mapping, which has the port. */
	NAT_HAIRPIN = 2,			/* The remote end is inside, too. */
	NAT_PERMITS = 4,			/* Counted in a permission. */
	NAT_COUNTED = 8,			/* Counted by nat_session_count(). */
};

/* Key: the flow from inside ("forward"), and that of its answers ("reverse"). */
struct nat_session {
	rte_be32_t address;			/* What source or destination becomes. */
	rte_be16_t port;
	uint8_t state;				/* enum nat_state, alike in both... */
	uint8_t flags;				/* ...as all of this is. */
	uint16_t first_port;			/* Of struct nat_port, if not shared. */
	uint8_t bucket, port_flags;
	uint8_t mac[MAC_BYTES];			/* Of the inside host, or its router. */
	uint16_t zero;
};

static_assert(sizeof(struct nat_session) == 20, "no padding");

/* Key: of a mapping, by its inside or its outside endpoint. */
struct nat_key {
	rte_be32_t address;
	rte_be16_t port;
	uint16_t zone;
	uint8_t protocol;
	uint8_t zero[3];
};

static_assert(sizeof(struct nat_key) == 12, "no padding");

/* By the inside endpoint.  Never changes. */
struct nat_mapping {
	rte_be32_t address;			/* The outside endpoint. */
	rte_be16_t port;
	uint16_t zero;
	rte_be32_t first_remote;		/* The address that it was made for. */
};

static_assert(sizeof(struct nat_mapping) == 12, "no padding");

/* By the outside endpoint; only the count ever changes. */
struct nat_outside {
	int64_t n_sessions;
	rte_be32_t address;			/* The inside endpoint. */
	rte_be16_t port;
	uint16_t first_port;			/* Of struct nat_port. */
	rte_be32_t first_remote;		/* As in the mapping. */
	uint8_t bucket, port_flags;
	uint8_t mac[MAC_BYTES];			/* As of the first session. */
	uint8_t zero[4];
};

static_assert(sizeof(struct nat_outside) == 32, "no padding");

/* A static address (port and protocol 0), or a forwarded port. */
struct nat_rule {
	rte_be32_t inside, outside;
	rte_be16_t inside_port, outside_port;
	uint8_t protocol;
	uint8_t mac[MAC_BYTES];			/* Of the inside host, or its router. */
	bool has_mac;
};

struct nat {
	struct nat_ports ports;			/* First: nat_ports.h. */
	bool endpoint_dependent, no_hairpin, inbound_refresh, hold_syn, pass_ip6, ping;
	bool has_mac;
	uint8_t mac[MAC_BYTES];
	uint8_t filtering;			/* enum nat_filtering, not the default. */
	uint32_t tcp_ms, opening_ms, closing_ms, udp_ms, udp_well_known_ms, icmp_ms;
	unsigned int n_rules, n_static;
	struct nat_rule rule[NAT_MAX_RULES];
	uint16_t by_inside[NAT_SLOTS];		/* Index into 'rule', from 1... */
	uint16_t by_outside[NAT_SLOTS];
	rte_be32_t own[NAT_SLOTS];		/* Outside addresses; 0: none. */
};

/* nat_options.c */
struct nat_options {
	struct nat_ports_options ports;
	int mapping, filtering;
	int hairpin, unsolicited_syn, ipv6, ping; /* 0: yes, refuse, drop, yes. */
	bool inbound_refresh;
	uint64_t tcp_ms, opening_ms, closing_ms, udp_ms, udp_well_known_ms, icmp_ms;
	struct nat_mac_option {
		uint8_t mac[MAC_BYTES];
		bool is_auto, is_given;
	} mac;
	struct config_list statics, forwards;	/* nat_options.c */
};

extern const struct config_field nat_fields[];
int nat_init(const void *options, void **state);

/* Rules.  NULL: none. */
const struct nat_rule *nat_rule_inside(const struct nat *nat, rte_be32_t address,
				       rte_be16_t port, uint8_t protocol);
const struct nat_rule *nat_rule_outside(const struct nat *nat, rte_be32_t address,
					rte_be16_t port, uint8_t protocol);
/* Whether it is one that inside hosts appear under. */
bool nat_owns(const struct nat *nat, rte_be32_t address);

static inline struct endpoint
nat_endpoint(rte_be32_t address, rte_be16_t port)
{
	return (struct endpoint){ .ip4 = address, .port = port, .version = 4 };
}

/* nat_session.c */
/* The flow of the answers to 'out' once its source has become that, and the other way
 * round.  Of ICMP both ports are the identifier. */
void nat_answers_to(const struct flow *out, rte_be32_t address, rte_be16_t port,
		    struct flow *answers);
void nat_answered_by(const struct flow *in, rte_be32_t address, rte_be16_t port,
		     struct flow *out);
const struct nat_session *nat_session_out(struct nf_run *r, const struct flow *out,
					  bool refresh);
const struct nat_session *nat_session_in(struct nf_run *r, const struct flow *in);
const struct nat_mapping *nat_mapping_of(struct nf_run *r, const struct flow *out);
const struct nat_outside *nat_outside_of(struct nf_run *r, const struct flow *in);
/* Whether the outside endpoint of 'in' has sent to its remote address; nf_pending()
 * first. */
bool nat_is_permitted(struct nf_run *r, const struct flow *in,
		      const struct nat_outside *outside);
/* Refreshes a session on behalf of a packet from outside. */
void nat_session_refresh(struct nf_run *r, const struct flow *in,
			 const struct nat_session *back);
/* A session in another state, or with another MAC address: writes both records. */
void nat_session_save_out(struct nf_run *r, const struct nat_session *there,
			  enum nat_state state, const uint8_t *mac);
void nat_session_save_in(struct nf_run *r, const struct nat_session *back,
			 enum nat_state state);
/* A new session for the packet, which came from inside: NF_SEND with '*there' as its
 * translation, or another verdict. */
enum nf_verdict nat_session_open(struct nf_run *r, struct nat_session *there);
/* The same for one from outside, to a mapping that lets it in. */
enum nf_verdict nat_session_accept(struct nf_run *r, const struct nat_outside *outside,
				   struct nat_session *back);

/* nat_refuse.c */
/* There is nothing for a new session. */
enum nf_verdict nat_refuse_new(struct nf_run *r, enum nf_drop why);
/* A SYN from outside that nobody gets. */
enum nf_verdict nat_refuse_syn(struct nf_run *r);

/* nat_icmp.c */
enum nf_verdict nat_icmp_error(struct nf_run *r);
/* An echo request, from either side, to an outside address that no host has alone. */
bool nat_icmp_is_ping(const struct nf_run *r);
enum nf_verdict nat_icmp_echo(struct nf_run *r);

/* nat_link.c */
enum nf_verdict nat_non_ip(struct nf_run *r);
/* The Ethernet addresses of a packet that goes out, or in to the host with that MAC. */
void nat_link_out(struct nf_run *r, bool hairpin);
void nat_link_in(struct nf_run *r, const uint8_t *mac, bool hairpin);
/* Those of the sender as they came. */
static inline const uint8_t *
nat_link_source(const struct nf_run *r)
{
	return nf_packet(r)->data + MAC_BYTES;
}

/* Events behind those of nat_ports.h. */
enum {
	NAT_EXHAUSTED = NAT_BLOCK_RELEASED + 1,	/* The pool is. */
	NAT_LIMITED,				/* A subscriber has what it may have. */
};

#endif
