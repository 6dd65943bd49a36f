/*
 * nat_session.c - the records of sessions and mappings.
 *
 * A session has two records: "forward", under the flow as it is seen inside, and
 * "reverse", under the flow of its answers.  So a packet of a session that is there costs
 * one read.  The sessions of an inside endpoint share a mapping, which has two as well:
 * "mapping", under the inside endpoint, and "outside", under the outside one, with the
 * number of its sessions.  A session that is made without a mapping makes that in the
 * same group, and takes its port.
 *
 * Only the forward record has an idle time.  When it has passed the runtime calls
 * session_expired(), which deletes the reverse record and takes the session off the
 * count; the last one deletes the mapping and gives its port back, all in one group.
 *
 * Sessions of a mapping may begin and end at many instances at once, so none of them
 * depends on the count's value: they add to it.  One that begins adds 1 and wants at
 * least 2 to come of it, so it is run again if the mapping has gone.  One that ends takes
 * 1 and wants at least 1 to be left; if it sees that it is the last, it deletes the
 * record only if nobody has added to it since.  An outside record that was only glanced
 * at may be another mapping's by the time that the group is applied, or one that this
 * pipe wrote in vain: so whoever joins depends on the mapping's other record, which never
 * changes and lives as long, and whoever leaves has a session, which keeps both.
 *
 * With address-dependent filtering, a mapping lets in packets from the address it was
 * made for, and from those that have a record in "permission", with the number of the
 * mapping's sessions with that address.
 *
 * All that a group writes lies in the partition of the inside address: an outside port is
 * chosen from there.
 */
#include "nf/nat.h"

struct permission_key {
	struct nat_key outside;
	rte_be32_t remote;
};

static_assert(sizeof(struct permission_key) == 16, "no padding");

struct permission {
	int64_t n_sessions;
};

static void session_expired(struct nf_run *r, const void *key, const void *value);
static uint32_t forward_spread(const void *key, unsigned int key_bytes);
static uint32_t reverse_spread(const void *key, unsigned int key_bytes);
static uint32_t mapping_spread(const void *key, unsigned int key_bytes);
static uint32_t outside_spread(const void *key, unsigned int key_bytes);

static const char *const state_words[] = { "opening", "called", "open", "fin_out",
					   "fin_in", "closed", "reset", NULL };

#define ADDRESS_AND_PORT sizeof(rte_be32_t) + sizeof(rte_be16_t)

static const struct nf_field session_fields[] = {
	{ "to", NF_FIELD_IP4_PORT, offsetof(struct nat_session, address),
	  ADDRESS_AND_PORT },
	{ "state", NF_FIELD_WORD, offsetof(struct nat_session, state), 1, state_words },
	{ "flags", NF_FIELD_UINT, offsetof(struct nat_session, flags), 1 },
	{ 0 }
};

/* Of keys that begin with a struct nat_key. */
#define KEY_FIELDS                                                               \
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct nat_key, protocol), 1 }, \
	{ "address", NF_FIELD_IP4_PORT, offsetof(struct nat_key, address),       \
	  ADDRESS_AND_PORT },                                                    \
	{ "zone", NF_FIELD_UINT, offsetof(struct nat_key, zone), 2 }

static const struct nf_field key_fields[] = { KEY_FIELDS, { 0 } };

static const struct nf_field permission_key_fields[] = {
	KEY_FIELDS,
	{ "remote", NF_FIELD_IP4, offsetof(struct permission_key, remote), 4 },
	{ 0 }
};

static const struct nf_field mapping_fields[] = {
	{ "to", NF_FIELD_IP4_PORT, offsetof(struct nat_mapping, address),
	  ADDRESS_AND_PORT },
	{ "first_remote", NF_FIELD_IP4, offsetof(struct nat_mapping, first_remote), 4 },
	{ 0 }
};

static const struct nf_field outside_fields[] = {
	{ "to", NF_FIELD_IP4_PORT, offsetof(struct nat_outside, address),
	  ADDRESS_AND_PORT },
	{ "sessions", NF_FIELD_INT, offsetof(struct nat_outside, n_sessions), 8 },
	{ "first_remote", NF_FIELD_IP4, offsetof(struct nat_outside, first_remote), 4 },
	{ 0 }
};

static const struct nf_field permission_fields[] = {
	{ "sessions", NF_FIELD_INT, offsetof(struct permission, n_sessions), 8 },
	{ 0 }
};

NF_TABLE(forward, struct flow, struct nat_session, .idle_ms = 300 * 1000, .format = 3,
	 .expired = session_expired, .spread = forward_spread, .fields = session_fields)
NF_TABLE(reverse, struct flow, struct nat_session, .format = 3, .spread = reverse_spread,
	 .fields = session_fields)
NF_TABLE(mapping, struct nat_key, struct nat_mapping, .spread = mapping_spread,
	 .key_fields = key_fields, .fields = mapping_fields)
NF_TABLE(outside, struct nat_key, struct nat_outside, .spread = outside_spread,
	 .key_fields = key_fields, .fields = outside_fields)
NF_TABLE(permission, struct permission_key, struct permission, .spread = outside_spread,
	 .key_fields = permission_key_fields, .fields = permission_fields)
/* --- keys --------------------------------------------------------------------- */

static uint32_t
forward_spread(const void *key, unsigned int key_bytes)
{
	const struct flow *out = key;
	struct endpoint inside = nat_endpoint(out->ip4.src, out->src_port);

	(void)key_bytes;
	return nat_inside_spread(&inside, out->zone);
}

static uint32_t
reverse_spread(const void *key, unsigned int key_bytes)
{
	const struct flow *in = key;
	struct endpoint outside = nat_endpoint(in->ip4.dst, in->dst_port);

	(void)key_bytes;
	return nat_outside_spread(&outside);
}

static uint32_t
mapping_spread(const void *key, unsigned int key_bytes)
{
	const struct nat_key *k = key;
	struct endpoint inside = nat_endpoint(k->address, k->port);

	(void)key_bytes;
	return nat_inside_spread(&inside, k->zone);
}

/* Of a key that begins with a struct nat_key. */
static uint32_t
outside_spread(const void *key, unsigned int key_bytes)
{
	const struct nat_key *k = key;
	struct endpoint outside = nat_endpoint(k->address, k->port);

	(void)key_bytes;
	return nat_outside_spread(&outside);
}

void
nat_answers_to(const struct flow *out, rte_be32_t address, rte_be16_t port,
	       struct flow *answers)
{
	flow_reverse(out, answers);
	answers->ip4.dst = address;
	answers->dst_port = port;
	if (out->protocol == PROTO_ICMP)
		answers->src_port = port;
}

void
nat_answered_by(const struct flow *in, rte_be32_t address, rte_be16_t port,
		struct flow *out)
{
	flow_reverse(in, out);
	out->ip4.src = address;
	out->src_port = port;
	if (in->protocol == PROTO_ICMP)
		out->dst_port = port;
}

static struct nat_key
key_of(const struct flow *f, rte_be32_t address, rte_be16_t port)
{
	return (struct nat_key){ .address = address, .port = port, .zone = f->zone,
				 .protocol = f->protocol };
}

static struct nat_owner
owner_of(const struct flow *out)
{
	return (struct nat_owner){ .inside = nat_endpoint(out->ip4.src, out->src_port),
				   .protocol = out->protocol, .zone = out->zone };
}

/* --- what others read --------------------------------------------------------- */

const struct nat_session *
nat_session_out(struct nf_run *r, const struct flow *out, bool refresh)
{
	return refresh ? forward_read(r, out) : forward_peek(r, out);
}

const struct nat_session *
nat_session_in(struct nf_run *r, const struct flow *in)
{
	return reverse_peek(r, in);
}

const struct nat_mapping *
nat_mapping_of(struct nf_run *r, const struct flow *out)
{
	struct nat_key key = key_of(out, out->ip4.src, out->src_port);

	return mapping_peek(r, &key);
}

const struct nat_outside *
nat_outside_of(struct nf_run *r, const struct flow *in)
{
	struct nat_key key = key_of(in, in->ip4.dst, in->dst_port);

	return outside_glance(r, &key);
}

bool
nat_is_permitted(struct nf_run *r, const struct flow *in,
		 const struct nat_outside *outside)
{
	struct permission_key key = { key_of(in, in->ip4.dst, in->dst_port),
				      in->ip4.src };
	const struct permission *permission = permission_glance(r, &key);

	return permission != NULL ||
	       (outside != NULL && outside->first_remote == in->ip4.src);
}

/* --- sessions that are there -------------------------------------------------- */

static uint32_t
idle_of(const struct nat *nat, const struct flow *out, enum nat_state state)
{
	switch (out->protocol) {
	case PROTO_TCP:
		if (state == NAT_OPEN)
			return nat->tcp_ms;
		return state < NAT_OPEN ? nat->opening_ms : nat->closing_ms;
	case PROTO_UDP:
		return rte_be_to_cpu_16(out->dst_port) < 1024 ? nat->udp_well_known_ms
							       : nat->udp_ms;
	default:
		return nat->icmp_ms;
	}
}

/* The session as the other record has it. */
static struct nat_session
towards(const struct nat_session *s, rte_be32_t address, rte_be16_t port)
{
	struct nat_session other = *s;

	other.address = address;
	other.port = port;
	return other;
}

void
nat_session_refresh(struct nf_run *r, const struct flow *in,
		    const struct nat_session *back)
{
	struct flow out;

	nat_answered_by(in, back->address, back->port, &out);
	forward_touch(r, &out);
}

void
nat_session_save_out(struct nf_run *r, const struct nat_session *there,
		     enum nat_state state, const uint8_t *mac)
{
	const struct flow *out = nf_flow(r);
	struct nat_session next = *there, back;
	struct flow answers;

	next.state = (uint8_t)state;
	memcpy(next.mac, mac, MAC_BYTES);
	back = towards(&next, out->ip4.src, out->src_port);
	nat_answers_to(out, there->address, there->port, &answers);
	forward_write_for(r, out, &next, idle_of(nf_static(r), out, state));
	reverse_write(r, &answers, &back);
}

void
nat_session_save_in(struct nf_run *r, const struct nat_session *back,
		    enum nat_state state)
{
	const struct flow *in = nf_flow(r);
	struct nat_session next = *back, there;
	struct flow out;

	next.state = (uint8_t)state;
	there = towards(&next, in->ip4.dst, in->dst_port);
	nat_answered_by(in, back->address, back->port, &out);
	forward_write_for(r, &out, &there, idle_of(nf_static(r), &out, state));
	reverse_write(r, in, &next);
}

/* --- a new session ------------------------------------------------------------ */

/* Counts the session in its mapping, which is there. */
static void
join(struct nf_run *r, const struct flow *answers)
{
	struct nat_key key = key_of(answers, answers->ip4.dst, answers->dst_port);

	outside_add(r, &key, offsetof(struct nat_outside, n_sessions), 1, 2, INT64_MAX);
}

/* Permits the session's remote address to send to its mapping.  Returns whether that is
 * counted. */
static bool
permit(struct nf_run *r, const struct flow *answers, rte_be32_t first_remote)
{
	const struct nat *nat = nf_static(r);
	struct permission_key key = { key_of(answers, answers->ip4.dst,
					     answers->dst_port), answers->ip4.src };

	if (nat->filtering != NAT_FILTER_ADDRESS || answers->ip4.src == first_remote)
		return false;
	permission_add(r, &key, offsetof(struct permission, n_sessions), 1, 1, INT64_MAX);
	return true;
}

/* Writes the mapping that session 'there' is the first of. */
static void
mapping_make(struct nf_run *r, const struct flow *out, const struct nat_session *there,
	     const struct nat_port *port)
{
	struct nat_key inside = key_of(out, out->ip4.src, out->src_port);
	struct nat_key outside = key_of(out, there->address, there->port);
	struct nat_mapping mapping = { .address = there->address, .port = there->port,
				       .first_remote = out->ip4.dst };
	struct nat_outside back = { .n_sessions = 1, .address = out->ip4.src,
				    .port = out->src_port, .first_port = port->first_port,
				    .first_remote = out->ip4.dst, .bucket = port->bucket,
				    .port_flags = port->flags };

	memcpy(back.mac, there->mac, MAC_BYTES);
	mapping_write(r, &inside, &mapping);
	outside_insert(r, &outside, &back, 0);
}

/* Writes a new session, which is counted with its subscriber's. */
static void
session_make(struct nf_run *r, const struct flow *out, const struct flow *answers,
	     struct nat_session *there)
{
	struct nat_owner owner = owner_of(out);
	struct nat_session back;

	if (nat_session_count(r, &owner, 1))
		there->flags |= NAT_COUNTED;
	back = towards(there, out->ip4.src, out->src_port);
	forward_write_for(r, out, there,
			  idle_of(nf_static(r), out, (enum nat_state)there->state));
	reverse_insert(r, answers, &back, 0);
}

/* The session of the packet on 'mapping', or if that is NULL with what is offered. */
static void
session_open(struct nf_run *r, const struct nat_mapping *mapping,
	     const struct nat_offer *offer, struct nat_session *there)
{
	const struct nat *nat = nf_static(r);
	const struct flow *out = nf_flow(r);
	const struct nat_port *port = &offer->port;
	struct nat_owner owner = owner_of(out);
	struct flow answers;

	*there = (struct nat_session){ .state = NAT_OPENING };
	there->address = mapping != NULL ? mapping->address : port->outside.ip4;
	there->port = mapping != NULL ? mapping->port : port->outside.port;
	memcpy(there->mac, nat_link_source(r), MAC_BYTES);
	if (nat_owns(nat, out->ip4.dst))
		there->flags |= NAT_HAIRPIN;
	nat_answers_to(out, there->address, there->port, &answers);
	if (nat->endpoint_dependent) {
		there->first_port = port->first_port;
		there->bucket = port->bucket;
		there->port_flags = port->flags;
	} else {
		there->flags |= NAT_SHARED;
		if (permit(r, &answers,
			   mapping != NULL ? mapping->first_remote : out->ip4.dst))
			there->flags |= NAT_PERMITS;
		if (mapping != NULL)
			join(r, &answers);
		else
			mapping_make(r, out, there, port);
	}
	if (mapping == NULL)
		nat_port_take(r, &owner, offer);
	session_make(r, out, &answers, there);
}

enum nf_verdict
nat_session_open(struct nf_run *r, struct nat_session *there)
{
	const struct nat *nat = nf_static(r);
	const struct flow *out = nf_flow(r);
	const struct nat_mapping *mapping = NULL;
	struct nat_owner owner = owner_of(out);
	/* Of a query, what looks like the remote port is the host's own identifier. */
	struct endpoint remote = nat_endpoint(
		out->ip4.dst, out->protocol == PROTO_ICMP ? 0 : out->dst_port);
	enum nf_drop why = NF_DROP_PORTS;
	struct nat_offer offer = { 0 };
	bool offered = true;

	if (!nat->endpoint_dependent)
		mapping = nat_mapping_of(r, out);

	bool fits = nat_session_fits(r, &owner);

	if (mapping == NULL)
		offered = nat_port_pick(r, &owner,
					nat->endpoint_dependent ? &remote : NULL, &offer,
					&why);
	if (nf_pending(r))
		return NF_WAIT;
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (!fits || !offered)
		return nat_refuse_new(r, fits ? why : NF_DROP_LIMIT);
	session_open(r, mapping, &offer, there);
	return NF_SEND;
}

enum nf_verdict
nat_session_accept(struct nf_run *r, const struct nat_outside *outside,
		   struct nat_session *back)
{
	const struct nat *nat = nf_static(r);
	const struct flow *in = nf_flow(r);
	struct nat_session there = { .address = in->ip4.dst, .port = in->dst_port,
				     .state = NAT_CALLED, .flags = NAT_SHARED };
	struct nat_owner owner;
	struct flow out;

	nat_answered_by(in, outside->address, outside->port, &out);
	owner = owner_of(&out);

	/* While instances differ in 'mapping', it may have a session of its own. */
	const struct nat_session *other = nat_session_out(r, &out, false);
	const struct nat_mapping *mapping = nat_mapping_of(r, &out);
	bool fits = nat_session_fits(r, &owner);

	if (nf_pending(r))
		return NF_WAIT;
	if (mapping == NULL || mapping->address != in->ip4.dst ||
	    mapping->port != in->dst_port)
		return nf_drop(r, NF_DROP_STATE);
	/* One that has begun here just now is found when this is run again. */
	if (other != NULL && (other->address != in->ip4.dst ||
			      other->port != in->dst_port))
		return nf_drop(r, NF_DROP_STATE);
	if (!fits)
		return nf_drop(r, NF_DROP_LIMIT);
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	memcpy(there.mac, outside->mac, MAC_BYTES);
	if (nat_owns(nat, in->ip4.src))
		there.flags |= NAT_HAIRPIN;
	if (permit(r, in, mapping->first_remote))
		there.flags |= NAT_PERMITS;
	join(r, in);
	session_make(r, &out, in, &there);
	*back = towards(&there, outside->address, outside->port);
	return NF_SEND;
}

/* --- the end of a session ----------------------------------------------------- */

/* Counts.  Whoever would delete one, or leave it be as there is none, depends on it: what
 * a glance shows may be a write of this pipe's own that is never applied.  NULL: pending,
 * or there is none. */
static const struct nat_outside *
outside_count(struct nf_run *r, const struct nat_key *key)
{
	const struct nat_outside *seen = outside_glance(r, key);

	if (seen == NULL ? nf_pending(r) : seen->n_sessions > 1)
		return seen;
	return outside_peek(r, key);
}

static const struct permission *
permission_count(struct nf_run *r, const struct permission_key *key)
{
	const struct permission *seen = permission_glance(r, key);

	if (seen == NULL ? nf_pending(r) : seen->n_sessions > 1)
		return seen;
	return permission_peek(r, key);
}

/* The last session of a mapping has ended.  False: pending. */
static bool
mapping_end(struct nf_run *r, const struct flow *out, const struct nat_key *key,
	    const struct nat_outside *outside)
{
	struct nat_key inside = key_of(out, out->ip4.src, out->src_port);
	struct nat_owner owner = owner_of(out);
	struct nat_port port = { .outside = nat_endpoint(key->address, key->port),
				 .first_port = outside->first_port,
				 .bucket = outside->bucket,
				 .flags = outside->port_flags };

	if (!nat_port_give(r, &owner, &port))
		return false;
	mapping_delete(r, &inside);
	outside_delete(r, key);
	return true;
}

/* One of the sessions of a mapping has ended. */
static bool
mapping_leave(struct nf_run *r, const struct flow *out, const struct nat_session *there)
{
	struct permission_key permits = { key_of(out, there->address, there->port),
					  out->ip4.dst };
	const struct nat_key *key = &permits.outside;
	const struct permission *permission = NULL;
	const struct nat_outside *outside = outside_count(r, key);

	if (there->flags & NAT_PERMITS)
		permission = permission_count(r, &permits);
	if (nf_pending(r))
		return false;
	if (outside != NULL && outside->n_sessions > 1)
		outside_add(r, key, offsetof(struct nat_outside, n_sessions), -1, 1,
			    INT64_MAX);
	else if (outside != NULL && !mapping_end(r, out, key, outside))
		return false;
	if (permission != NULL && permission->n_sessions > 1)
		permission_add(r, &permits, offsetof(struct permission, n_sessions), -1,
			       1, INT64_MAX);
	else if (permission != NULL)
		permission_delete(r, &permits);
	return true;
}

/* A session's time has passed. */
static void
session_expired(struct nf_run *r, const void *from, const void *value)
{
	const struct nat_session *there = value;
	const struct flow *out = from;
	struct nat_owner owner = owner_of(out);
	struct nat_port port = { .outside = nat_endpoint(there->address, there->port),
				 .first_port = there->first_port,
				 .bucket = there->bucket, .flags = there->port_flags };
	struct flow answers;

	if (there->flags & NAT_SHARED) {
		if (!mapping_leave(r, out, there))
			return;
	} else if (!nat_port_give(r, &owner, &port)) {
		return;
	}
	if (there->flags & NAT_COUNTED)
		nat_session_count(r, &owner, -1);
	nat_answers_to(out, there->address, there->port, &answers);
	reverse_delete(r, &answers);
}
