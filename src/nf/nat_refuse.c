/*
 * nat_refuse.c - who is told that nothing is to be had.
 *
 * A host inside for which there is no port, or which has all that it may have, is told
 * each time, as far as the runtime lets it; the log now and then, by whichever instance
 * finds that it has not been lately (RFC 6888, REQ-11).
 *
 * A SYN from outside that a mapping does not let in may be the first half of a
 * simultaneous open: it is dropped and remembered, and only one that is sent again when
 * HELD_MS have passed is refused, for then nobody inside has asked for it (RFC 5382,
 * REQ-4).
 */
#include "nf/nat_blocks.h"

#include "nf/nat.h"

enum {
	HELD_MS = 6000,				/* RFC 5382, REQ-4. */
	RIPE_MS = 60 * 1000,			/* A SYN comes again within 32 s. */
	MAX_HELD = 65536,			/* However many strangers call. */
	ALARM_MS = 10 * 1000,			/* Between two events of a kind. */
};

/* A SYN that nobody asked for. */
struct held {
	uint32_t is_ripe;			/* It may be refused now. */
};

/* What was logged lately. */
struct alarm_key {
	rte_be32_t address;			/* The subscriber's, or the pool's. */
	uint16_t zone;
	uint8_t protocol;
	uint8_t partition;
};

struct alarm {
	uint32_t zero;
};

static void held_expired(struct nf_run *r, const void *key, const void *value);
static uint32_t alarm_spread(const void *key, unsigned int key_bytes);

static const struct nf_field held_fields[] = {
	{ "ripe", NF_FIELD_UINT, offsetof(struct held, is_ripe), 4 },
	{ 0 }
};

static const struct nf_field alarm_key_fields[] = {
	{ "address", NF_FIELD_IP4, offsetof(struct alarm_key, address), 4 },
	{ "zone", NF_FIELD_UINT, offsetof(struct alarm_key, zone), 2 },
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct alarm_key, protocol), 1 },
	{ "partition", NF_FIELD_UINT, offsetof(struct alarm_key, partition), 1 },
	{ 0 }
};

NF_TABLE(held, struct flow, struct held, .idle_ms = HELD_MS, .limit = MAX_HELD,
	 .expired = held_expired, .fields = held_fields)
NF_TABLE(alarm, struct alarm_key, struct alarm, .idle_ms = ALARM_MS,
	 .spread = alarm_spread, .key_fields = alarm_key_fields)

/* With what picking a port may have written. */
static uint32_t
alarm_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct alarm_key *)key)->partition;
}

static uint8_t
partition_of(const struct nf_run *r, const struct flow *out)
{
	struct endpoint inside = nat_endpoint(out->ip4.src, out->src_port);

	return (uint8_t)(nat_inside_spread(&inside, out->zone) % nf_partitions(r));
}

enum nf_verdict
nat_refuse_new(struct nf_run *r, enum nf_drop why)
{
	const struct nat_ports *ports = nf_static(r);
	const struct flow *out = nf_flow(r);
	const struct endpoint *pool =
		&ports->address[nat_address_of(ports, out->ip4.src)];
	struct alarm_key key = {
		.address = why == NF_DROP_LIMIT ? out->ip4.src : pool->ip4,
		.zone = out->zone, .protocol = out->protocol,
		.partition = partition_of(r, out),
	};
	struct alarm alarm = { 0 };
	struct flow whose = *out;
	bool rings = alarm_peek(r, &key) != NULL;

	if (nf_pending(r))
		return NF_WAIT;
	if (!rings) {
		alarm_write(r, &key, &alarm);
		/* Where to is nobody's business (RFC 6888, REQ-12). */
		whose.ip4.dst = 0;
		whose.dst_port = 0;
		nf_log(r, why == NF_DROP_LIMIT ? NAT_LIMITED : NAT_EXHAUSTED, &whose,
		       pool, 0);
	}
	nf_refuse(r, REFUSE_HOST);
	return nf_drop(r, why);
}

static void
held_expired(struct nf_run *r, const void *key, const void *value)
{
	struct held ripe = { .is_ripe = 1 };

	if (!((const struct held *)value)->is_ripe)
		held_write_for(r, key, &ripe, RIPE_MS);
}

enum nf_verdict
nat_refuse_syn(struct nf_run *r)
{
	const struct flow *in = nf_flow(r);
	const struct held *held = held_peek(r, in);
	struct held first = { 0 };

	if (nf_pending(r))
		return NF_WAIT;
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (held == NULL)
		held_write(r, in, &first);
	else if (held->is_ripe)
		nf_refuse(r, REFUSE_PORT);
	return nf_drop(r, NF_DROP_STATE);
}
