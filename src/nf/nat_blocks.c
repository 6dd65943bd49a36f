/*
 * nat_blocks.c - what a subscriber of the NAT has: blocks of ports, and how much of all.
 *
 * With 'blocks', a subscriber gets its ports from blocks that are its own as long as any
 * of their ports is in use, so that the log needs a line for each block only (RFC 6431,
 * RFC 7422).  Three records say who has what:
 *
 *   ports (a range of blocks)   which blocks of an address are taken
 *   blocks, by the subscriber   which it has; all that opens or closes one changes it
 *   block, by subscriber and block   how many of its ports are in use
 *
 * and within a block a range of each protocol says which of its ports are.  Who takes a
 * port of a block adds to its count, and depends on the subscriber's list as it is.  Who
 * gives one back takes off the count, which may not become 0 so; who finds 1 there closes
 * the block, which depends on the count as it is.  So a block is closed by the end of its
 * last port and by nothing else, once, however many end at the same time.
 *
 * A block rests as its ports do: nobody gets it before the last of them may be given
 * again.  So all ports of a new block are free, and one is chosen without asking.
 *
 * In a store of n partitions a block's ports are n apart, for all that is a subscriber's
 * lies in one partition.
 *
 * The limits of a subscriber are counts in a record of its own.  The rate is limited by a
 * second record, which remembers what the count of all mappings ever made was when the
 * second began, and is gone when it is over: nobody refreshes it.
 */
#include "nf/nat_blocks.h"

enum {
	SUBSCRIBER_MS = 300 * 1000,		/* One that has nothing is forgotten. */
	WINDOW_MS = 1000,
};

struct subscriber_key {
	rte_be32_t address;
	uint16_t zone, zero;
};

/* How much it has. */
struct subscriber {
	int64_t n_ports, n_sessions;
	int64_t n_made;				/* Mappings, ever. */
};

/* A second. */
struct window {
	int64_t n_made;				/* Before it began. */
};

struct blocks {
	struct nat_block block[NAT_MAX_BLOCKS];	/* The first ones are. */
};

struct block_key {
	struct subscriber_key subscriber;
	rte_be32_t address;
	uint16_t first_port, zero;
};

struct block {
	int64_t n_ports;			/* In use, of all protocols. */
};

static_assert(sizeof(struct subscriber_key) == 8 && sizeof(struct block_key) == 16,
	      "no padding");

static uint32_t subscriber_spread(const void *key, unsigned int key_bytes);
static void subscriber_expired(struct nf_run *r, const void *key, const void *value);

static const struct nf_field subscriber_key_fields[] = {
	{ "subscriber", NF_FIELD_IP4, offsetof(struct subscriber_key, address), 4 },
	{ "zone", NF_FIELD_UINT, offsetof(struct subscriber_key, zone), 2 },
	{ 0 }
};

static const struct nf_field subscriber_fields[] = {
	{ "ports", NF_FIELD_INT, offsetof(struct subscriber, n_ports), 8 },
	{ "sessions", NF_FIELD_INT, offsetof(struct subscriber, n_sessions), 8 },
	{ "made", NF_FIELD_INT, offsetof(struct subscriber, n_made), 8 },
	{ 0 }
};

static const struct nf_field window_fields[] = {
	{ "made", NF_FIELD_INT, offsetof(struct window, n_made), 8 },
	{ 0 }
};

#define BLOCK_FIELDS(i)                                                          \
	{ "address_" #i, NF_FIELD_IP4, offsetof(struct blocks, block[i].address), 4 }, \
	{ "first_port_" #i, NF_FIELD_UINT,                                       \
	  offsetof(struct blocks, block[i].first_port), 2 }

static const struct nf_field blocks_fields[] = {
	BLOCK_FIELDS(0), BLOCK_FIELDS(1), BLOCK_FIELDS(2), BLOCK_FIELDS(3), { 0 }
};

static_assert(NAT_MAX_BLOCKS == 4, "blocks_fields");

static const struct nf_field block_key_fields[] = {
	{ "subscriber", NF_FIELD_IP4, offsetof(struct block_key, subscriber.address), 4 },
	{ "zone", NF_FIELD_UINT, offsetof(struct block_key, subscriber.zone), 2 },
	{ "address", NF_FIELD_IP4, offsetof(struct block_key, address), 4 },
	{ "first_port", NF_FIELD_UINT, offsetof(struct block_key, first_port), 2 },
	{ 0 }
};

static const struct nf_field block_fields[] = {
	{ "ports", NF_FIELD_INT, offsetof(struct block, n_ports), 8 },
	{ 0 }
};

NF_TABLE(subscriber, struct subscriber_key, struct subscriber, .idle_ms = SUBSCRIBER_MS,
	 .expired = subscriber_expired, .spread = subscriber_spread,
	 .key_fields = subscriber_key_fields, .fields = subscriber_fields)
NF_TABLE(window, struct subscriber_key, struct window, .idle_ms = WINDOW_MS,
	 .spread = subscriber_spread, .key_fields = subscriber_key_fields,
	 .fields = window_fields)
NF_TABLE(blocks, struct subscriber_key, struct blocks, .spread = subscriber_spread,
	 .key_fields = subscriber_key_fields, .fields = blocks_fields)
NF_TABLE(block, struct block_key, struct block, .spread = subscriber_spread,
	 .key_fields = block_key_fields, .fields = block_fields)

/* Of keys that begin with a struct subscriber_key. */
static uint32_t
subscriber_spread(const void *key, unsigned int key_bytes)
{
	const struct subscriber_key *subscriber = key;
	struct endpoint inside = { .ip4 = subscriber->address, .version = 4 };

	(void)key_bytes;
	return nat_inside_spread(&inside, subscriber->zone);
}

static struct subscriber_key
subscriber_of(const struct nat_owner *owner)
{
	return (struct subscriber_key){ owner->inside.ip4, owner->zone, 0 };
}

/* --- limits ------------------------------------------------------------------- */

/* One that has nothing is deleted. */
static void
subscriber_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct subscriber *s = value;

	if (s->n_ports > 0 || s->n_sessions > 0)
		subscriber_write(r, key, s);
}

bool
nat_limits_fit(struct nf_run *r, const struct nat_owner *owner, struct nat_offer *offer)
{
	const struct nat_ports *ports = nf_static(r);
	struct subscriber_key key = subscriber_of(owner);
	const struct subscriber *s;
	const struct window *window = NULL;

	if (ports->max_ports == 0 && ports->max_rate == 0)
		return true;
	s = subscriber_glance(r, &key);
	if (ports->max_rate != 0)
		window = window_peek(r, &key);
	offer->made = s != NULL ? s->n_made : 0;
	offer->opens_window = ports->max_rate != 0 && window == NULL;
	offer->max_made = (window != NULL ? window->n_made : offer->made) +
			  ports->max_rate;
	if (ports->max_rate != 0 && offer->made >= offer->max_made)
		return false;
	return ports->max_ports == 0 || s == NULL || s->n_ports < ports->max_ports;
}

void
nat_limits_take(struct nf_run *r, const struct nat_owner *owner,
		const struct nat_offer *offer)
{
	const struct nat_ports *ports = nf_static(r);
	struct subscriber_key key = subscriber_of(owner);
	const struct window window = { offer->made };

	if ((offer->port.flags & NAT_PORT_LIMITED) != 0)
		subscriber_add(r, &key, offsetof(struct subscriber, n_ports), 1,
			       INT64_MIN, ports->max_ports);
	if (ports->max_rate != 0)
		subscriber_add(r, &key, offsetof(struct subscriber, n_made), 1, INT64_MIN,
			       offer->max_made);
	if (offer->opens_window)
		window_write(r, &key, &window);
}

void
nat_limits_give(struct nf_run *r, const struct nat_owner *owner,
		const struct nat_port *port)
{
	struct subscriber_key key = subscriber_of(owner);

	if ((port->flags & NAT_PORT_LIMITED) != 0)
		subscriber_add(r, &key, offsetof(struct subscriber, n_ports), -1,
			       INT64_MIN, INT64_MAX);
}

bool
nat_session_fits(struct nf_run *r, const struct nat_owner *owner)
{
	const struct nat_ports *ports = nf_static(r);
	struct subscriber_key key = subscriber_of(owner);
	const struct subscriber *s;

	if (ports->max_sessions == 0)
		return true;
	s = subscriber_glance(r, &key);
	return !nf_pending(r) && (s == NULL || s->n_sessions < ports->max_sessions);
}

bool
nat_session_count(struct nf_run *r, const struct nat_owner *owner, int delta)
{
	const struct nat_ports *ports = nf_static(r);
	struct subscriber_key key = subscriber_of(owner);

	if (delta > 0 && ports->max_sessions == 0)
		return false;
	subscriber_add(r, &key, offsetof(struct subscriber, n_sessions), delta, INT64_MIN,
		       delta > 0 ? ports->max_sessions : INT64_MAX);
	return true;
}

/* --- blocks ------------------------------------------------------------------- */

static struct block_key
block_key_of(const struct nat_owner *owner, rte_be32_t address, uint16_t first_port)
{
	return (struct block_key){ subscriber_of(owner), address, first_port, 0 };
}

/* The range of blocks that a block is of, and its number there. */
static uint32_t
number_of(const struct nf_run *r, const struct nat_block *block, uint8_t partition,
	  struct ports_key *key)
{
	*key = (struct ports_key){ .address = block->address,
				   .first_port = block->range_first,
				   .bucket = block->bits,
				   .partition = partition };
	return (block->first_port - nat_lowest_port(r, key)) / nf_partitions(r) >>
	       block->bits;
}

/* How many blocks there are of the subscriber's. */
static unsigned int
n_blocks_of(const struct blocks *blocks)
{
	unsigned int n = 0;

	while (blocks != NULL && n < NAT_MAX_BLOCKS && blocks->block[n].address != 0)
		n++;
	return n;
}

/* A port of the blocks that it has: the first ones are filled first. */
static bool
pick_own(struct picking *p, const struct blocks *blocks, unsigned int n_blocks,
	 struct nat_offer *offer)
{
	bool found = false;

	for (unsigned int i = 0; i < n_blocks; i++) {
		const struct nat_block *block = &blocks->block[i];
		struct endpoint address = { .ip4 = block->address, .version = 4 };
		struct ports_key key = { .address = block->address,
					 .first_port = block->first_port,
					 .protocol = p->owner->protocol,
					 .bucket = p->bucket,
					 .partition = p->partition };
		uint32_t member;

		/* An address that is to be used no longer. */
		if (!nat_ports_own(p->ports, &address))
			continue;
		if (!nat_pick(p, &key, 1U << block->bits, &member) || found)
			continue;
		offer->port.outside = nat_outside_of_range(p->r, &key, member);
		offer->port.first_port = block->first_port;
		offer->port.flags = block->bits;
		found = true;
	}
	return found;
}

/* A port of a new block: all are free, but for those that are reserved. */
static bool
choose_port(const struct picking *p, const struct nat_block *block,
	    struct nat_offer *offer)
{
	const struct ports_key key = { .address = block->address,
				       .first_port = block->first_port,
				       .protocol = p->owner->protocol,
				       .bucket = p->bucket,
				       .partition = p->partition };
	uint32_t n = 1U << block->bits, from = (uint32_t)(nf_random(p->r) >> 32);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t member = (from + i) % n;

		if (nat_is_reserved(p, &key, member))
			continue;
		offer->port.outside = nat_outside_of_range(p->r, &key, member);
		offer->port.first_port = block->first_port;
		offer->port.flags = block->bits;
		return true;
	}
	return false;
}

/* A free block of an address. */
static bool
pick_block(const struct picking *p, unsigned int address, struct nat_block *block)
{
	struct ports_key key = { .address = p->ports->address[address].ip4,
				 .first_port = (uint16_t)p->ports->first_port,
				 .bucket = p->ports->block_bits,
				 .partition = p->partition };
	unsigned int n = nat_members(p->r, &key) >> p->ports->block_bits;
	uint32_t number;

	if (n == 0 || !nat_pick_block(p, &key, n, &number))
		return false;
	*block = (struct nat_block){
		.address = key.address,
		.first_port = (uint16_t)(nat_lowest_port(p->r, &key) +
					 (number << p->ports->block_bits) *
						 nf_partitions(p->r)),
		.range_first = key.first_port,
		.bits = p->ports->block_bits,
	};
	return true;
}

/* Its address; any of the pool's if it has none, or none that is in use. */
static unsigned int
address_of(const struct picking *p, const struct blocks *blocks, unsigned int n_blocks,
	   bool *is_bound)
{
	*is_bound = false;
	for (unsigned int i = 0; i < n_blocks; i++) {
		for (unsigned int a = 0; a < p->ports->n_addresses; a++) {
			if (p->ports->address[a].ip4 != blocks->block[i].address)
				continue;
			*is_bound = !p->ports->arbitrary;
			return a;
		}
	}
	return nat_address_of(p->ports, p->owner->inside.ip4);
}

static bool
pick_new(const struct picking *p, const struct blocks *blocks, unsigned int n_blocks,
	 struct nat_block *block)
{
	uint8_t others[NAT_MAX_BLOCKS];
	unsigned int first, n_others;
	bool is_bound, found = false;

	first = address_of(p, blocks, n_blocks, &is_bound);
	if (pick_block(p, first, block))
		return true;
	if (nf_pending(p->r) || is_bound)
		return false;
	/* No more reads than one that has all its blocks needs for them. */
	n_others = nat_other_addresses(p, first, NAT_MAX_BLOCKS - n_blocks, others);
	for (unsigned int i = 0; i < n_others; i++) {
		struct nat_block other;

		if (pick_block(p, others[i], &other) && !found) {
			*block = other;
			found = true;
		}
	}
	return found && !nf_pending(p->r);
}

/* Index of the block that begins there; 'n': it has none such. */
static unsigned int
block_at(const struct blocks *blocks, unsigned int n, rte_be32_t address,
	 uint16_t first_port)
{
	unsigned int i = 0;

	while (i < n && (blocks->block[i].address != address ||
			 blocks->block[i].first_port != first_port))
		i++;
	return i;
}

/* A new block.  One that begins where another of its blocks does, which is of another
 * size then, would have the name of that. */
static bool
pick_other(const struct picking *p, const struct blocks *blocks, unsigned int n_blocks,
	   struct nat_block *block)
{
	return pick_new(p, blocks, n_blocks, block) &&
	       block_at(blocks, n_blocks, block->address, block->first_port) == n_blocks;
}

bool
nat_block_pick(struct picking *p, struct nat_offer *offer)
{
	struct subscriber_key key = subscriber_of(p->owner);
	const struct blocks *blocks = blocks_peek(p->r, &key);
	unsigned int n_blocks;

	if (nf_pending(p->r))
		return false;
	n_blocks = n_blocks_of(blocks);
	offer->port.bucket = p->bucket;
	if (pick_own(p, blocks, n_blocks, offer))
		return true;
	if (nf_pending(p->r) || n_blocks >= p->ports->max_blocks)
		return false;
	if (blocks != NULL)
		memcpy(offer->block, blocks->block, sizeof(offer->block));
	offer->opens_block = true;
	return pick_other(p, blocks, n_blocks, &offer->block[n_blocks]) &&
	       choose_port(p, &offer->block[n_blocks], offer);
}

/* From the subscriber to its first port outside, of all protocols. */
static void
log_block(struct nf_run *r, enum nat_event event, const struct nat_owner *owner,
	  const struct nat_block *block)
{
	const struct nat_ports *ports = nf_static(r);
	const struct flow line = {
		.version = 4, .zone = owner->zone,
		.dst_port = rte_cpu_to_be_16(block->first_port),
		.ip4 = { owner->inside.ip4, block->address },
	};

	if (ports->log_blocks)
		nf_log(r, event, &line, NULL, 1ULL << block->bits);
}

void
nat_block_take(struct nf_run *r, const struct nat_owner *owner,
	       const struct nat_offer *offer)
{
	const struct nat_port *port = &offer->port;
	struct subscriber_key subscriber = subscriber_of(owner);
	struct block_key name = block_key_of(owner, port->outside.ip4, port->first_port);
	struct blocks blocks;
	struct ports_key key;
	const struct block block = { .n_ports = 1 };
	const struct nat_block *new;
	uint32_t number;

	if (!offer->opens_block) {
		block_add(r, &name, offsetof(struct block, n_ports), 1, INT64_MIN,
			  INT64_MAX);
		return;
	}
	memcpy(blocks.block, offer->block, sizeof(blocks.block));
	new = &blocks.block[n_blocks_of(&blocks) - 1];
	number = number_of(r, new, (uint8_t)blocks_partition(r, &subscriber), &key);
	nat_take_block(r, &key, nat_members(r, &key) >> new->bits, number);
	blocks_write(r, &subscriber, &blocks);
	block_write(r, &name, &block);
	log_block(r, NAT_BLOCK_ALLOCATED, owner, new);
}

/* Takes the block off the subscriber's list, and gives it back. */
static void
close_block(struct nf_run *r, const struct nat_owner *owner, const struct blocks *blocks,
	    const struct nat_port *port)
{
	struct subscriber_key subscriber = subscriber_of(owner);
	unsigned int n = n_blocks_of(blocks), n_left = 0;
	unsigned int i = block_at(blocks, n, port->outside.ip4, port->first_port);
	struct blocks left = { 0 };
	struct ports_key key;
	uint32_t number;

	if (i == n)
		return;
	number = number_of(r, &blocks->block[i],
			   (uint8_t)blocks_partition(r, &subscriber), &key);
	nat_give_block(r, &key, number);
	for (unsigned int other = 0; other < n; other++)
		if (other != i)
			left.block[n_left++] = blocks->block[other];
	if (n_left > 0)
		blocks_write(r, &subscriber, &left);
	else
		blocks_delete(r, &subscriber);
	log_block(r, NAT_BLOCK_RELEASED, owner, &blocks->block[i]);
}

bool
nat_block_give(struct nf_run *r, const struct nat_owner *owner,
	       const struct nat_port *port)
{
	struct block_key key = block_key_of(owner, port->outside.ip4, port->first_port);
	struct subscriber_key subscriber = subscriber_of(owner);
	const struct block *block = block_glance(r, &key);
	const struct blocks *blocks;

	if (nf_pending(r))
		return false;
	if (block == NULL || block->n_ports <= 1) {
		/* Now for sure: nat_session.c, outside_count(). */
		block = block_peek(r, &key);
		blocks = blocks_peek(r, &subscriber);
		if (nf_pending(r))
			return false;
		if (block == NULL)
			return true;
		if (block->n_ports <= 1) {
			block_delete(r, &key);
			close_block(r, owner, blocks, port);
			return true;
		}
	}
	block_add(r, &key, offsetof(struct block, n_ports), -1, 1, INT64_MAX);
	return true;
}
