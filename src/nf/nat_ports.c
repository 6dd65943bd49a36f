/*
 * nat_ports.c - the outside ports of a NAT: which are free, and who gets which.
 *
 * Free ports are the members of ranges in the store, one for each outside address,
 * protocol, bucket of remote endpoints and partition.  A port is proposed by a read,
 * unpredictably (RFC 6056), as long as any is free, and taken in the group that writes
 * its mapping.  One that is given back rests for NAT_QUARANTINE_MS, so that nobody gets
 * what was on its way to somebody else.
 *
 * A subscriber's outside address is made of its inside address: always the same one, and
 * without a record that says which.  With 'pooling: arbitrary' others are tried when it
 * has no free port: all of them if they are few.  Of many, those that have the most free
 * ports by a count of all that were taken are tried, and some by chance: the count does
 * not know of ports that rest, nor of those that were taken with other options.
 *
 * Ports that are reserved for rules may be proposed as others are, for ranges know
 * nothing of rules.  Who gets such a proposal takes the port for nobody, with a record
 * that gives it back when its time has passed and the rule is gone.
 */
#include "nf/nat_blocks.h"

enum {
	BUCKETS = 256,				/* 8 KiB each, where ports are taken. */
	MAX_OTHERS = 4,				/* Addresses that are tried in a run. */
	BY_CHANCE = 2,				/* Of them. */
	RESERVED_MS = 600 * 1000,
};

/* A member of a range that is taken for nobody. */
struct reserved_key {
	struct ports_key range;
	uint32_t member;
};

static_assert(sizeof(struct reserved_key) == 16, "no padding");

struct reserved {
	uint64_t zero;
};

/* Ports taken, by the slots of addresses. */
struct fill_key {
	uint8_t protocol, partition;		/* Protocol 0: blocks. */
	uint16_t zero;
};

struct fill {
	int64_t n_taken[NAT_MAX_ADDRESSES];
};

static uint32_t ports_spread(const void *key, unsigned int key_bytes);
static uint32_t fill_spread(const void *key, unsigned int key_bytes);
static void reserved_expired(struct nf_run *r, const void *key, const void *value);

/* Of keys that begin with a struct ports_key. */
#define RANGE_FIELDS                                                             \
	{ "address", NF_FIELD_IP4, offsetof(struct ports_key, address), 4 },     \
	{ "first_port", NF_FIELD_UINT, offsetof(struct ports_key, first_port), 2 }, \
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct ports_key, protocol), 1 }, \
	{ "bucket", NF_FIELD_UINT, offsetof(struct ports_key, bucket), 1 },      \
	{ "partition", NF_FIELD_UINT, offsetof(struct ports_key, partition), 1 }

static const struct nf_field ports_fields[] = { RANGE_FIELDS, { 0 } };

static const struct nf_field reserved_fields[] = {
	RANGE_FIELDS,
	{ "member", NF_FIELD_UINT, offsetof(struct reserved_key, member), 4 },
	{ 0 }
};

static const struct nf_field fill_fields[] = {
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct fill_key, protocol), 1 },
	{ "partition", NF_FIELD_UINT, offsetof(struct fill_key, partition), 1 },
	{ 0 }
};

NF_RANGE(ports, struct ports_key, .spread = ports_spread, .key_fields = ports_fields)
NF_TABLE(reserved, struct reserved_key, struct reserved, .idle_ms = RESERVED_MS,
	 .expired = reserved_expired, .spread = ports_spread,
	 .key_fields = reserved_fields)
NF_TABLE(fill, struct fill_key, struct fill, .spread = fill_spread,
	 .key_fields = fill_fields)

/* --- where things lie --------------------------------------------------------- */

uint32_t
nat_inside_spread(const struct endpoint *inside, uint16_t zone)
{
	uint64_t subscriber = (uint64_t)inside->ip4 << 16 | zone;

	return nf_spread(&subscriber, sizeof(subscriber));
}

/* Neighbouring ports lie in neighbouring partitions. */
uint32_t
nat_outside_spread(const struct endpoint *outside)
{
	return rte_be_to_cpu_16(outside->port);
}

/* Of keys that begin with a struct ports_key. */
static uint32_t
ports_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct ports_key *)key)->partition;
}

static uint32_t
fill_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct fill_key *)key)->partition;
}

unsigned int
nat_lowest_port(const struct nf_run *r, const struct ports_key *key)
{
	unsigned int n = nf_partitions(r);

	return key->first_port + (key->partition + n - key->first_port % n) % n;
}

unsigned int
nat_members(const struct nf_run *r, const struct ports_key *key)
{
	const struct nat_ports *ports = nf_static(r);
	unsigned int end = ports->first_port + ports->n_ports;
	unsigned int low = nat_lowest_port(r, key), n = nf_partitions(r);

	return low < end ? (end - low + n - 1) / n : 0;
}

struct endpoint
nat_outside_of_range(const struct nf_run *r, const struct ports_key *key, uint32_t member)
{
	unsigned int port = nat_lowest_port(r, key) + member * nf_partitions(r);

	return (struct endpoint){ .ip4 = key->address, .version = 4,
				  .port = rte_cpu_to_be_16((uint16_t)port) };
}

unsigned int
nat_address_of(const struct nat_ports *ports, rte_be32_t inside)
{
	uint32_t mixed = rte_be_to_cpu_32(inside) * 2654435761U;	/* Knuth, 6.4. */

	return (unsigned int)((uint64_t)mixed * ports->n_addresses >> 32);
}

static uint8_t
partition_of(const struct nf_run *r, const struct nat_owner *owner)
{
	return (uint8_t)(nat_inside_spread(&owner->inside, owner->zone) %
			 nf_partitions(r));
}

/* --- reserved ports ----------------------------------------------------------- */

static bool
reserved_here(const struct nf_run *r, const struct ports_key *key, uint32_t member)
{
	const struct nat_ports *ports = nf_static(r);
	struct endpoint outside = nat_outside_of_range(r, key, member);

	return ports->reserved != NULL && ports->reserved(r, &outside, key->protocol);
}

bool
nat_is_reserved(const struct picking *p, const struct ports_key *key, uint32_t member)
{
	return reserved_here(p->r, key, member);
}

/* Notes that a member is to be taken for nobody: one in a run.  False: there is one. */
static bool
note_reserved(struct picking *p, const struct ports_key *key, unsigned int n,
	      uint32_t member)
{
	if (p->n_members != 0)
		return false;
	p->range = *key;
	p->n_members = n;
	p->member = member;
	return true;
}

static void
reserve(struct picking *p)
{
	const struct reserved_key name = { p->range, p->member };
	const struct reserved nothing = { 0 };

	ports_take(p->r, &p->range, p->n_members, p->member);
	reserved_write(p->r, &name, &nothing);
}

static void
reserved_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct reserved_key *name = key;

	if (reserved_here(r, &name->range, name->member))
		reserved_write(r, name, value);
	else
		ports_give(r, &name->range, name->member, 0);
}

bool
nat_pick(struct picking *p, const struct ports_key *key, unsigned int n,
	 uint32_t *member)
{
	if (!ports_pick(p->r, key, n, member))
		return false;
	if (!nat_is_reserved(p, key, *member))
		return true;
	return note_reserved(p, key, n, *member) && ports_pick(p->r, key, n, member) &&
	       !nat_is_reserved(p, key, *member);
}

bool
nat_pick_block(const struct picking *p, const struct ports_key *key, unsigned int n,
	       uint32_t *number)
{
	return ports_pick(p->r, key, n, number);
}

void
nat_take_block(struct nf_run *r, const struct ports_key *key, unsigned int n,
	       uint32_t number)
{
	ports_take(r, key, n, number);
}

void
nat_give_block(struct nf_run *r, const struct ports_key *key, uint32_t number)
{
	ports_give(r, key, number, NAT_QUARANTINE_MS);
}

/* --- other addresses ---------------------------------------------------------- */

/* Whether there are too many addresses to try them all. */
static bool
is_counted(const struct nat_ports *ports)
{
	return ports->arbitrary && ports->n_addresses > 1 + MAX_OTHERS &&
	       ports->block_bits == 0;
}

static void
count(struct nf_run *r, const struct nat_owner *owner, rte_be32_t address, int delta)
{
	const struct nat_ports *ports = nf_static(r);
	const struct fill_key key = { owner->protocol, partition_of(r, owner), 0 };
	unsigned int i = 0;

	while (i < ports->n_addresses && ports->address[i].ip4 != address)
		i++;
	if (i < ports->n_addresses)
		fill_add(r, &key, ports->slot[i] * 8U, delta, INT64_MIN, INT64_MAX);
}

static bool
has(const uint8_t *list, unsigned int n, unsigned int wanted)
{
	for (unsigned int i = 0; i < n; i++)
		if (list[i] == wanted)
			return true;
	return false;
}

unsigned int
nat_other_addresses(const struct picking *p, unsigned int but, unsigned int max,
		    uint8_t *others)
{
	unsigned int n_addresses = p->ports->n_addresses, n = 0;
	uint64_t random = nf_random(p->r);

	if (n_addresses <= 1 + max) {
		for (unsigned int i = 1; i < n_addresses; i++)
			others[n++] = (uint8_t)((but + i) % n_addresses);
		return n;
	}
	while (n < max) {
		unsigned int i = (unsigned int)((random >> 32) * n_addresses >> 32);

		/* Another one of 2^64, and so on: an odd step. */
		random = random * 6364136223846793005U + 1442695040888963407U;
		if (i != but && !has(others, n, i))
			others[n++] = (uint8_t)i;
	}
	return n;
}

/* Those with the most free ports, and some by chance.  0: nf_pending(). */
static unsigned int
choose_others(const struct picking *p, unsigned int but, uint8_t *others)
{
	const struct fill_key key = { p->owner->protocol, p->partition, 0 };
	const struct fill *fill;
	unsigned int n;

	if (!is_counted(p->ports))
		return nat_other_addresses(p, but, MAX_OTHERS, others);
	fill = fill_glance(p->r, &key);
	if (nf_pending(p->r))
		return 0;
	n = nat_other_addresses(p, but, BY_CHANCE, others);
	while (fill != NULL && n < MAX_OTHERS) {
		unsigned int best = but;

		for (unsigned int i = 0; i < p->ports->n_addresses; i++)
			if (i != but && !has(others, n, i) &&
			    (best == but || fill->n_taken[p->ports->slot[i]] <
						    fill->n_taken[p->ports->slot[best]]))
				best = i;
		others[n++] = (uint8_t)best;
	}
	return n;
}

/* --- pick, take, give --------------------------------------------------------- */

/* What ranges a remote endpoint shares with others. */
static uint8_t
bucket_of(const struct endpoint *remote)
{
	uint64_t both;

	if (remote == NULL)
		return 0;
	both = (uint64_t)remote->ip4 << 16 | remote->port;
	return (uint8_t)(nf_spread(&both, sizeof(both)) % BUCKETS);
}

static struct ports_key
range_of(const struct picking *p, unsigned int address)
{
	return (struct ports_key){
		.address = p->ports->address[address].ip4,
		.first_port = (uint16_t)p->ports->first_port,
		.protocol = p->owner->protocol,
		.bucket = p->bucket,
		.partition = p->partition,
	};
}

static void
offer_member(const struct picking *p, const struct ports_key *key, uint32_t member,
	     struct nat_offer *offer)
{
	offer->port.outside = nat_outside_of_range(p->r, key, member);
	offer->port.first_port = key->first_port;
	offer->port.bucket = p->bucket;
	if (is_counted(p->ports))
		offer->port.flags |= NAT_PORT_FILLS;
}

static bool
pick_other(struct picking *p, unsigned int first, struct nat_offer *offer)
{
	uint8_t others[MAX_OTHERS];
	unsigned int n_others = choose_others(p, first, others);
	bool found = false;

	/* All are asked in one trip. */
	for (unsigned int i = 0; i < n_others; i++) {
		struct ports_key key = range_of(p, others[i]);
		unsigned int n = nat_members(p->r, &key);
		uint32_t member;

		if (n == 0 || !ports_pick(p->r, &key, n, &member) || found)
			continue;
		found = !nat_is_reserved(p, &key, member);
		if (found)
			offer_member(p, &key, member, offer);
		else
			note_reserved(p, &key, n, member);
	}
	return found && !nf_pending(p->r);
}

static bool
pick(struct picking *p, struct nat_offer *offer)
{
	unsigned int first = nat_address_of(p->ports, p->owner->inside.ip4);
	struct ports_key key = range_of(p, first);
	unsigned int n = nat_members(p->r, &key);
	uint32_t member;

	if (n > 0 && nat_pick(p, &key, n, &member)) {
		offer_member(p, &key, member, offer);
		return true;
	}
	if (nf_pending(p->r) || !p->ports->arbitrary)
		return false;
	return pick_other(p, first, offer);
}

bool
nat_port_pick(struct nf_run *r, const struct nat_owner *owner,
	      const struct endpoint *remote, struct nat_offer *offer, enum nf_drop *why)
{
	struct picking p = { .r = r, .ports = nf_static(r), .owner = owner,
			     .partition = partition_of(r, owner),
			     .bucket = bucket_of(remote) };
	bool fits, found;

	*offer = (struct nat_offer){ 0 };
	fits = nat_limits_fit(r, owner, offer);
	if (p.ports->block_bits != 0)
		found = nat_block_pick(&p, offer);
	else
		found = pick(&p, offer);
	if (p.ports->max_ports != 0)
		offer->port.flags |= NAT_PORT_LIMITED;
	*why = fits ? NF_DROP_PORTS : NF_DROP_LIMIT;
	if (nf_pending(r))
		return false;
	/* A run that opens a block writes enough. */
	if (p.n_members != 0 && !offer->opens_block)
		reserve(&p);
	return found && fits;
}

/* From inside to outside; whom it talks to is nobody's business (RFC 6888, REQ-12). */
static void
log_mapping(struct nf_run *r, enum nat_event event, const struct nat_owner *owner,
	    const struct nat_port *port)
{
	const struct nat_ports *ports = nf_static(r);
	const struct flow mapping = {
		.version = 4, .protocol = owner->protocol, .zone = owner->zone,
		.src_port = owner->inside.port, .dst_port = port->outside.port,
		.ip4 = { owner->inside.ip4, port->outside.ip4 },
	};

	if (ports->log_mappings)
		nf_log(r, event, &mapping, NULL, 0);
}

/* The range of a port, of which it returns the member. */
static uint32_t
member_of(const struct nf_run *r, const struct nat_owner *owner,
	  const struct nat_port *port, struct ports_key *key)
{
	*key = (struct ports_key){
		.address = port->outside.ip4, .first_port = port->first_port,
		.protocol = owner->protocol, .bucket = port->bucket,
		.partition = partition_of(r, owner),
	};
	return (rte_be_to_cpu_16(port->outside.port) - nat_lowest_port(r, key)) /
	       nf_partitions(r);
}

void
nat_port_take(struct nf_run *r, const struct nat_owner *owner,
	      const struct nat_offer *offer)
{
	unsigned int block_bits = offer->port.flags & NAT_PORT_BLOCK_BITS;
	struct ports_key key;
	uint32_t member = member_of(r, owner, &offer->port, &key);

	ports_take(r, &key, block_bits != 0 ? 1U << block_bits : nat_members(r, &key),
		   member);
	if (block_bits != 0)
		nat_block_take(r, owner, offer);
	if ((offer->port.flags & NAT_PORT_FILLS) != 0)
		count(r, owner, offer->port.outside.ip4, 1);
	nat_limits_take(r, owner, offer);
	log_mapping(r, NAT_MAPPING_CREATED, owner, &offer->port);
}

bool
nat_port_give(struct nf_run *r, const struct nat_owner *owner,
	      const struct nat_port *port)
{
	struct ports_key key;
	uint32_t member = member_of(r, owner, port, &key);

	if ((port->flags & NAT_PORT_BLOCK_BITS) != 0 && !nat_block_give(r, owner, port))
		return false;
	ports_give(r, &key, member, NAT_QUARANTINE_MS);
	if ((port->flags & NAT_PORT_FILLS) != 0)
		count(r, owner, port->outside.ip4, -1);
	nat_limits_give(r, owner, port);
	log_mapping(r, NAT_MAPPING_DELETED, owner, port);
	return true;
}
