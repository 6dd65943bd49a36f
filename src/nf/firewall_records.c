/*
 * firewall_records.c - the firewall's records: connections, and the counts that bound
 * them.
 *
 * A connection is one record.  If it is in no count, it is in the table 'connection',
 * from where it just expires.  As long as it is in one (half-open, or of its source) it
 * is in 'counted', whose records are leased to an instance when their time has passed,
 * which gives back what they counted: once, whichever instance dies.  Packets of open
 * connections read one record, that of the table where the file's limits put them; the
 * other is looked at when it is not there, for limits may have changed.
 *
 * Counters lie in the partition of the connection, so that they are counted in its group;
 * each partition has its share of a limit.  They are only added to, within the limit, and
 * never waited for: so they are exact, and are no hot spot.  That a limit is reached is
 * glanced at before, so that a flood costs no group.
 */
#include "nf/firewall.h"

struct partition_key {
	uint32_t partition;
};

struct half_open {
	int64_t n;
};

/* Those that opened: an IPv4 address, or an IPv6 /64. */
struct source_key {
	uint32_t partition;
	uint8_t version, zero;
	uint16_t zone;
	uint8_t address[8];
};

struct source {
	int64_t half_open, connections;
};

static_assert(sizeof(struct source_key) == 16, "a key: no padding");

static void counted_expired(struct nf_run *r, const void *key, const void *value);
static void source_expired(struct nf_run *r, const void *key, const void *value);

/* A counter says itself where it is. */
static uint32_t
counter_spread(const void *key, unsigned int key_bytes)
{
	uint32_t partition;

	(void)key_bytes;
	memcpy(&partition, key, sizeof(partition));
	return partition;
}

static const char *const state_words[] = {
#define X(id, option, seconds, help) option,
	FIREWALL_STATES(X)
#undef X
	NULL
};

#define TRACK(field)                                                             \
	(offsetof(struct connection, track) + offsetof(struct tcp_track, field))

static const struct nf_field connection_fields[] = {
	{ "state", NF_FIELD_WORD, TRACK(state), 1, state_words },
	{ "opened", NF_FIELD_UINT, TRACK(opened), 1 },
	{ "finished", NF_FIELD_UINT, TRACK(finished), 1 },
	{ "rule", NF_FIELD_UINT, offsetof(struct connection, rule), 2 },
	{ "rules", NF_FIELD_UINT, offsetof(struct connection, rules), 4 },
	{ "counted", NF_FIELD_UINT, offsetof(struct connection, counted), 1 },
	{ "inside_end", NF_FIELD_UINT, TRACK(side[NF_INSIDE].end), 4 },
	{ "outside_end", NF_FIELD_UINT, TRACK(side[NF_OUTSIDE].end), 4 },
	{ 0 }
};

static const struct nf_field partition_fields[] = {
	{ "partition", NF_FIELD_UINT, offsetof(struct partition_key, partition), 4 },
	{ 0 }
};

static const struct nf_field half_open_fields[] = {
	{ "connections", NF_FIELD_INT, offsetof(struct half_open, n), 8 },
	{ 0 }
};

static const struct nf_field source_key_fields[] = {
	{ "partition", NF_FIELD_UINT, offsetof(struct source_key, partition), 4 },
	{ "zone", NF_FIELD_UINT, offsetof(struct source_key, zone), 2 },
	{ "address", NF_FIELD_SOURCE, offsetof(struct source_key, version), 12 },
	{ 0 }
};

static const struct nf_field source_fields[] = {
	{ "half_open", NF_FIELD_INT, offsetof(struct source, half_open), 8 },
	{ "connections", NF_FIELD_INT, offsetof(struct source, connections), 8 },
	{ 0 }
};

NF_TABLE(connection, struct flow, struct connection, .idle_ms = 600 * 1000, .format = 2,
	 .fields = connection_fields)
NF_TABLE(counted, struct flow, struct connection, .idle_ms = 600 * 1000,
	 .expired = counted_expired, .fields = connection_fields)
NF_TABLE(half_open, struct partition_key, struct half_open, .spread = counter_spread,
	 .key_fields = partition_fields, .fields = half_open_fields)
NF_TABLE(source, struct source_key, struct source, .idle_ms = 60 * 1000,
	 .spread = counter_spread, .expired = source_expired,
	 .key_fields = source_key_fields, .fields = source_fields)

/* --- find --------------------------------------------------------------------- */

static void glance(struct nf_run *r, struct view *v);

const struct connection *
firewall_uncounted(struct nf_run *r, const struct flow *key)
{
	return connection_read(r, key);
}

bool
firewall_find(struct nf_run *r, struct view *v, bool both)
{
	bool counted = v->fw->counts_connections;
	const struct connection *first =
		counted ? counted_read(r, v->key) : connection_read(r, v->key);
	const struct connection *second =
		!both ? NULL : counted ? connection_read(r, v->key)
				       : counted_read(r, v->key);

	if (both)
		glance(r, v);
	if (nf_pending(r))
		return false;
	v->c = first != NULL ? first : second;
	v->counted = first != NULL ? counted : !counted;
	v->looked = both;
	return true;
}

bool
firewall_find_elsewhere(struct nf_run *r, struct view *v)
{
	bool counted = !v->fw->counts_connections;

	if (v->c != NULL || v->looked)
		return true;
	v->c = counted ? counted_read(r, v->key) : connection_read(r, v->key);
	v->counted = counted;
	v->looked = true;
	return !nf_pending(r);
}

bool
firewall_peek(struct nf_run *r, const struct flow *key, const struct connection **out)
{
	const struct connection *a = connection_peek(r, key), *b = counted_peek(r, key);

	if (nf_pending(r))
		return false;
	*out = a != NULL ? a : b;
	return true;
}

/* --- counts ------------------------------------------------------------------- */

/* The counters of the connection of 'key', opened by its source, or by its
 * destination. */
static void
counters_of(struct nf_run *r, const struct flow *key, bool destination,
	    struct partition_key *all, struct source_key *source)
{
	const void *address;

	all->partition = counted_partition(r, key);
	*source = (struct source_key){ .partition = all->partition,
				       .version = key->version, .zone = key->zone };
	if (key->version == 4)
		address = destination ? &key->ip4.dst : &key->ip4.src;
	else
		address = destination ? key->ip6.dst : key->ip6.src;
	memcpy(source->address, address, key->version == 4 ? 4 : sizeof(source->address));
}

/* Of a limit, what a partition may have. */
static int64_t
share(const struct nf_run *r, int64_t limit)
{
	int64_t n = limit / (int64_t)nf_partitions(r);

	return n > 0 ? n : 1;
}

/* What is counted is given back whatever the counter is: it may have been lost. */
static void
give_back(struct nf_run *r, const struct flow *key, uint8_t counted, uint8_t what)
{
	struct partition_key all;
	struct source_key source;

	what &= counted;
	counters_of(r, key, (counted & COUNTS_DESTINATION) != 0, &all, &source);
	if (what & COUNTS_HALF_OPEN)
		half_open_add(r, &all, offsetof(struct half_open, n), -1, INT64_MIN,
			      INT64_MAX);
	if (what & COUNTS_HALF_OPEN_SOURCE)
		source_add(r, &source, offsetof(struct source, half_open), -1, INT64_MIN,
			   INT64_MAX);
	if (what & COUNTS_CONNECTION)
		source_add(r, &source, offsetof(struct source, connections), -1,
			   INT64_MIN, INT64_MAX);
}

static void
counted_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct connection *c = value;

	give_back(r, key, c->counted, c->counted);
}

/* A source that counts nothing is forgotten. */
static void
source_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct source *s = value;

	if (s->half_open > 0 || s->connections > 0)
		source_write(r, key, s);
}

/* The counts that a new connection would be in. */
static uint8_t
counts_of(const struct firewall *fw, const struct connection *c, bool tcp)
{
	bool half = tcp && tcp_track_half_open(&c->track);
	uint8_t counts = 0;

	if (half && fw->max_half_open > 0)
		counts |= COUNTS_HALF_OPEN;
	if (half && fw->max_half_open_source > 0)
		counts |= COUNTS_HALF_OPEN_SOURCE;
	if (fw->counts_connections)
		counts |= COUNTS_CONNECTION;
	return counts;
}

/* Whether the packet goes the other way than the connection's key. */
static bool
is_reverse(const struct view *v)
{
	return memcmp(v->flow, v->key, flow_bytes(v->key)) != 0;
}

/* Asks for the counters that a connection which this packet opens would be in. */
static void
glance(struct nf_run *r, struct view *v)
{
	const struct firewall *fw = v->fw;
	bool tcp = v->key->protocol == PROTO_TCP;
	bool half_source = tcp && fw->max_half_open_source > 0;
	struct partition_key all;
	struct source_key source;

	v->glanced = true;
	if (fw->max_half_open == 0 && !half_source && !fw->counts_connections)
		return;
	counters_of(r, v->key, is_reverse(v), &all, &source);
	if (tcp && fw->max_half_open > 0)
		v->half_open = half_open_glance(r, &all);
	if (half_source || fw->counts_connections)
		v->source = source_glance(r, &source);
}

enum nf_verdict
firewall_count(struct nf_run *r, struct view *v, struct connection *next)
{
	const struct firewall *fw = v->fw;
	uint8_t counts = counts_of(fw, next, v->key->protocol == PROTO_TCP);
	int64_t half = share(r, fw->max_half_open);
	int64_t half_source = share(r, fw->max_half_open_source);
	int64_t connections = share(r, fw->max_connections_source);
	struct partition_key all;
	struct source_key source;

	if (counts == 0)
		return NF_SEND;
	if (!v->glanced)
		glance(r, v);
	if (nf_pending(r))
		return NF_WAIT;

	const struct half_open *h = v->half_open;
	const struct source *s = v->source;

	if ((counts & COUNTS_CONNECTION) != 0 && s != NULL &&
	    s->connections >= connections)
		return nf_drop(r, NF_DROP_LIMIT);
	v->crowded = ((counts & COUNTS_HALF_OPEN) != 0 && h != NULL && h->n >= half) ||
		     ((counts & COUNTS_HALF_OPEN_SOURCE) != 0 && s != NULL &&
		      s->half_open >= half_source);
	if (v->crowded)
		return nf_drop(r, NF_DROP_LIMIT);
	/* What is added here is applied although the packet is dropped. */
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	counters_of(r, v->key, is_reverse(v), &all, &source);
	if (counts & COUNTS_HALF_OPEN)
		half_open_add(r, &all, offsetof(struct half_open, n), 1, INT64_MIN, half);
	if (counts & COUNTS_HALF_OPEN_SOURCE)
		source_add(r, &source, offsetof(struct source, half_open), 1, INT64_MIN,
			   half_source);
	if (counts & COUNTS_CONNECTION)
		source_add(r, &source, offsetof(struct source, connections), 1, INT64_MIN,
			   connections);
	next->counted = (uint8_t)(counts | (is_reverse(v) ? COUNTS_DESTINATION : 0));
	return NF_SEND;
}

/* --- write -------------------------------------------------------------------- */

/* Whether it is worth less than a connection that was answered, and is still used. */
static bool
is_brief(enum state state)
{
	switch (state) {
	case ESTABLISHED:
	case FIN_WAIT:
	case CLOSE_WAIT:
	case UDP_STREAM:
	case GRE_STREAM:
	case SCTP_OPEN:
	case GENERIC:
		return false;
	default:
		return true;
	}
}

/* States in which a rule's own idle time counts. */
static bool
is_established(enum state state)
{
	return state == ESTABLISHED || state == UDP_STREAM || state == GRE_STREAM ||
	       state == SCTP_OPEN || state == GENERIC;
}

/* RFC 6092, REC-14: at least 2 minutes, between ports that are not well known. */
static bool
is_long_udp(const struct flow *key)
{
	return key->version == 6 && rte_be_to_cpu_16(key->src_port) >= 1024 &&
	       rte_be_to_cpu_16(key->dst_port) >= 1024;
}

static uint32_t
idle_of(const struct view *v, const struct connection *c)
{
	const struct firewall *fw = v->fw;
	enum state state = c->track.state;
	uint32_t idle_ms = 0;

	if (is_established(state) && c->rules == fw->id)
		idle_ms = rules_idle_ms(fw->rules, c->rule);
	if (idle_ms != 0)
		return idle_ms;
	if (state == UDP && is_long_udp(v->key))
		return fw->udp6_ms;
	return fw->idle_ms[state];
}

/* What it no longer counts as. */
static uint8_t
leaves(const struct connection *c, bool tcp)
{
	enum state state = c->track.state;
	uint8_t what = 0;

	if (!tcp || !tcp_track_half_open(&c->track))
		what |= COUNTS_HALF;
	if (state == TIME_WAIT || state == CLOSE || state == SCTP_CLOSED)
		what |= COUNTS_CONNECTION;
	return what & c->counted;
}

/* The table of what was read lets go of it, if the other one gets it. */
static void
take_from(struct nf_run *r, const struct view *v, bool counted)
{
	if (v->c == NULL || v->counted == counted)
		return;
	if (v->counted)
		counted_delete(r, v->key);
	else
		connection_delete(r, v->key);
}

enum nf_verdict
firewall_save(struct nf_run *r, struct view *v, const struct connection *from)
{
	struct connection next = *from;
	uint8_t what = leaves(&next, v->key->protocol == PROTO_TCP);
	uint32_t idle_ms;

	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (what != 0) {
		give_back(r, v->key, next.counted, what);
		next.counted &= (uint8_t)~what;
	}
	if ((next.counted & COUNTS_ANY) == 0)
		next.counted = 0;
	take_from(r, v, next.counted != 0);
	idle_ms = idle_of(v, &next);
	if (next.counted != 0)
		counted_write_for(r, v->key, &next, idle_ms);
	else if (is_brief(next.track.state))
		connection_write_brief(r, v->key, &next, idle_ms);
	else
		connection_write_for(r, v->key, &next, idle_ms);
	return NF_SEND;
}

bool
firewall_is_older(const struct nf_run *r, const struct flow *key,
		  const struct connection *c)
{
	return (c->epoch << 8 | c->track.owner) !=
	       nf_epoch(r, connection_partition(r, key));
}

void
firewall_renew(const struct nf_run *r, const struct flow *key, struct connection *c)
{
	uint16_t epoch = nf_epoch(r, connection_partition(r, key));

	c->epoch = (uint8_t)(epoch >> 8);
	c->track.owner = (uint8_t)epoch;
}

void
firewall_forget(struct nf_run *r, struct view *v)
{
	if (v->counted) {
		give_back(r, v->key, v->c->counted, v->c->counted);
		counted_delete(r, v->key);
	} else {
		connection_delete(r, v->key);
	}
}
