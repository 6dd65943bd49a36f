/*
 * nat_blocks.h - what a subscriber of the NAT has: blocks of ports, and how much of
 * all.  For nat_ports.c.
 */
#ifndef NF_NAT_BLOCKS_H
#define NF_NAT_BLOCKS_H

#include "nf/nat_ports.h"

enum nat_port_flags {
	NAT_PORT_BLOCK_BITS = 0x0f,		/* Of its block; 0: it is of none. */
	NAT_PORT_LIMITED = 0x10,		/* Counted against limits.ports. */
	NAT_PORT_FILLS = 0x20,			/* Counted in its address. */
};

/* A range of ports of an address that lie in one partition: those from 'first_port' on,
 * every n-th of n partitions.  Or the blocks of such a range: then the protocol is 0, and
 * the bucket is the logarithm of their size. */
struct ports_key {
	rte_be32_t address;
	uint16_t first_port;
	uint8_t protocol, bucket, partition;
	uint8_t zero[3];
};

static_assert(sizeof(struct ports_key) == 12, "no padding");

/* nat_ports.c */
/* Where nat_port_pick() is. */
struct picking {
	struct nf_run *r;
	const struct nat_ports *ports;
	const struct nat_owner *owner;
	uint8_t partition, bucket;
	/* A reserved port that it has met; 0: none. */
	struct ports_key range;
	uint32_t member, n_members;
};

/* A free member of the range that is not reserved, of the first 'n'; one that is will be
 * taken for nobody, so that it is not proposed again.  False: nf_pending(), or there is
 * none. */
bool nat_pick(struct picking *p, const struct ports_key *key, unsigned int n,
	      uint32_t *member);
/* A free block, of the first 'n'. */
bool nat_pick_block(const struct picking *p, const struct ports_key *key, unsigned int n,
		    uint32_t *number);
void nat_take_block(struct nf_run *r, const struct ports_key *key, unsigned int n,
		    uint32_t number);
void nat_give_block(struct nf_run *r, const struct ports_key *key, uint32_t number);
/* Port of member 0, host order, and how many ports there are to the pool's last one. */
unsigned int nat_lowest_port(const struct nf_run *r, const struct ports_key *key);
unsigned int nat_members(const struct nf_run *r, const struct ports_key *key);
struct endpoint nat_outside_of_range(const struct nf_run *r, const struct ports_key *key,
				     uint32_t member);
bool nat_is_reserved(const struct picking *p, const struct ports_key *key,
		     uint32_t member);
/* Index of the address that a subscriber has, and of others: at most 'max', all of them
 * if there are not more. */
unsigned int nat_address_of(const struct nat_ports *ports, rte_be32_t inside);
unsigned int nat_other_addresses(const struct picking *p, unsigned int but,
				 unsigned int max, uint8_t *others);

/* nat_blocks.c */
/* As nat_port_pick(), with blocks, but for limits. */
bool nat_block_pick(struct picking *p, struct nat_offer *offer);
void nat_block_take(struct nf_run *r, const struct nat_owner *owner,
		    const struct nat_offer *offer);
/* Before anything is written.  False: nf_pending(). */
bool nat_block_give(struct nf_run *r, const struct nat_owner *owner,
		    const struct nat_port *port);
/* Whether the subscriber may have one more port; counts if not nf_pending(). */
bool nat_limits_fit(struct nf_run *r, const struct nat_owner *owner,
		    struct nat_offer *offer);
void nat_limits_take(struct nf_run *r, const struct nat_owner *owner,
		     const struct nat_offer *offer);
void nat_limits_give(struct nf_run *r, const struct nat_owner *owner,
		     const struct nat_port *port);

#endif
