/*
 * fragments.c - finds the ports of fragments: reassembly without putting anything
 * together.
 *
 * A record for each datagram has the ports that its first fragment had, and which parts
 * of it have been seen.  With these ports fragments arrive anew, at the functions, each
 * as the packet that it is.  One that comes before the first is held in a table of its
 * own; the first sends what is held behind it.  A fragment is listed, held and sent only
 * in groups that check the datagram's record, so whichever instances get the fragments,
 * each goes on once.
 *
 * Parts may be repeated exactly, for networks do that.  If they overlap in any other way,
 * the datagram is refused from then on: RFC 5722 for IPv6, and RFC 1858, 3128 for what it
 * is used for over IPv4.  A whole IPv4 datagram gives its identification free: there are
 * only 65536, and a fast sender comes back to one within seconds (RFC 6864).
 *
 * All records of one sender lie in one partition.
 */
#include "nf/fragments.h"

enum {
	MAX_PARTS = 128,			/* Of the longest, with an MTU of 576. */
	MAX_HELD = 64,				/* Of one datagram... */
	MAX_SENT = NF_MAX_WRITES - 2,		/* ...and of them, in one group. */
	MAX_FRAME_BYTES = NF_MAX_VALUE_BYTES,
	MAX_DATAGRAM = 65535,
	TCP_HEADER_BYTES = 20,

	TIMEOUT4_MS = 30 * 1000,
	TIMEOUT6_MS = 60 * 1000,		/* RFC 8200, 4.5. */
	MAX_TIMEOUT_MS = 120 * 1000,
	SENDER_MS = 2 * MAX_TIMEOUT_MS + TIMEOUT6_MS, /* No held one lives as long. */
	PER_SOURCE = 100,
};

enum datagram_state {
	WAITING,				/* For the first fragment. */
	FOUND,
	REFUSED,
};

/* A datagram; a part of it that is held; or, with the rest 0, its sender. */
struct datagram_key {
	uint8_t version;			/* 4 or 6. */
	uint8_t protocol;			/* 0 for IPv6: RFC 8200, 4.5. */
	uint16_t zone;
	uint32_t id;
	uint16_t start;				/* In units of 8 bytes: of a part. */
	uint16_t zero;
	union {
		struct { rte_be32_t src, dst; } ip4;
		struct { uint8_t src[16], dst[16]; } ip6;
	};
};

#define KEY4_BYTES 20

static_assert(sizeof(struct datagram_key) == 44, "no padding");
static_assert(offsetof(struct datagram_key, ip4) + 8 == KEY4_BYTES, "IPv4 is a prefix");

enum {
	PART_START = 0x1fff,			/* In units of 8 bytes. */
	PART_HELD = 0x4000,
	PART_LAST = 0x8000,			/* No more follow. */
};

struct part {
	uint16_t start;				/* With PART_... */
	uint16_t bytes;
};

struct datagram {				/* Only as long as it has parts. */
	uint8_t state;				/* enum datagram_state */
	uint8_t n_parts;
	uint8_t n_held;
	uint8_t protocol;			/* Of its first; 0: of each. */
	rte_be16_t src_port, dst_port;
	struct part part[MAX_PARTS];		/* As they came. */
};

struct fragment {
	uint8_t frame[MAX_FRAME_BYTES];		/* Only as long as it is. */
};

struct sender {
	int64_t n_held;				/* Fragments, now. */
};

static uint32_t datagram_spread(const void *key, unsigned int key_bytes);
static void fragment_expired(struct nf_run *r, const void *key, const void *value);

static const struct nf_field key_fields[] = {
	{ "version", NF_FIELD_UINT, offsetof(struct datagram_key, version), 1 },
	{ "protocol", NF_FIELD_UINT, offsetof(struct datagram_key, protocol), 1 },
	{ "zone", NF_FIELD_UINT, offsetof(struct datagram_key, zone), 2 },
	{ "id", NF_FIELD_UINT, offsetof(struct datagram_key, id), 4 },
	{ "start", NF_FIELD_UINT, offsetof(struct datagram_key, start), 2 },
	{ 0 }
};

static const struct nf_field datagram_fields[] = {
	{ "state", NF_FIELD_UINT, offsetof(struct datagram, state), 1 },
	{ "parts", NF_FIELD_UINT, offsetof(struct datagram, n_parts), 1 },
	{ "held", NF_FIELD_UINT, offsetof(struct datagram, n_held), 1 },
	{ 0 }
};

static const struct nf_field sender_fields[] = {
	{ "held", NF_FIELD_UINT, offsetof(struct sender, n_held), 8 },
	{ 0 }
};

NF_TABLE(datagram, struct datagram_key, struct datagram, .limit = 1 << 18, .evict = true,
	 .spread = datagram_spread, .key_fields = key_fields, .fields = datagram_fields)
NF_TABLE(fragment, struct datagram_key, struct fragment, .limit = 1 << 14,
	 .spread = datagram_spread, .key_fields = key_fields, .expired = fragment_expired)
NF_TABLE(sender, struct datagram_key, struct sender, .idle_ms = SENDER_MS,
	 .spread = datagram_spread, .key_fields = key_fields, .fields = sender_fields)

/* --- options ------------------------------------------------------------------- */

struct fragments_options {
	uint64_t timeout_ms, per_source;	/* 0: not given. */
	int overlap;
};

struct fragments {
	uint32_t timeout4_ms, timeout6_ms;
	int64_t per_source;
	bool overlaps_pass;			/* Over IPv4. */
};

static const char *const overlap_words[] = { "drop", "pass", NULL };

static const struct config_field fragments_fields[] = {
	{ "timeout", CONFIG_DURATION, offsetof(struct fragments_options, timeout_ms),
	  .min = 1000, .max = MAX_TIMEOUT_MS,
	  .help = "how long the rest of a datagram is waited for (default: 30s for IPv4, "
		  "60s for IPv6)" },
	{ "per_source", CONFIG_UINT, offsetof(struct fragments_options, per_source),
	  .min = 1, .max = 10000,
	  .help = "fragments of one sender that wait for their first one "
		  "(default: 100)" },
	{ "overlap", CONFIG_ENUM, offsetof(struct fragments_options, overlap),
	  .words = overlap_words,
	  .help = "what becomes of IPv4 fragments that overlap (default: drop)" },
	{ 0 }
};

static int
fragments_init(const void *from, void **state)
{
	const struct fragments_options *options = from;
	struct fragments *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return -ENOMEM;
	f->timeout4_ms = f->timeout6_ms = (uint32_t)options->timeout_ms;
	if (options->timeout_ms == 0) {
		f->timeout4_ms = TIMEOUT4_MS;
		f->timeout6_ms = TIMEOUT6_MS;
	}
	f->per_source = options->per_source != 0 ? (int64_t)options->per_source
						 : PER_SOURCE;
	f->overlaps_pass = options->overlap == 1;
	*state = f;
	return 0;
}

/* --- records ------------------------------------------------------------------- */

static unsigned int
key_bytes(const struct datagram_key *key)
{
	return key->version == 4 ? KEY4_BYTES : sizeof(*key);
}

/* By the sender alone. */
static uint32_t
datagram_spread(const void *from, unsigned int bytes)
{
	const struct datagram_key *key = from;

	(void)bytes;
	if (key->version == 4)
		return nf_spread(&key->ip4.src, sizeof(key->ip4.src));
	return nf_spread(key->ip6.src, sizeof(key->ip6.src));
}

static void
datagram_key_make(const struct nf_run *r, uint32_t id, struct datagram_key *key)
{
	const struct flow *f = nf_flow(r);

	*key = (struct datagram_key){ .version = f->version, .zone = f->zone, .id = id };
	if (f->version == 4) {
		key->protocol = f->protocol;
		memcpy(&key->ip4, &f->ip4, sizeof(key->ip4));
	} else {
		memcpy(&key->ip6, &f->ip6, sizeof(key->ip6));
	}
}

static struct datagram_key
part_key(const struct datagram_key *key, const struct part *part)
{
	struct datagram_key of = *key;

	of.start = part->start & PART_START;
	return of;
}

static struct datagram_key
sender_key(const struct datagram_key *key)
{
	struct datagram_key of = { .version = key->version, .zone = key->zone };

	if (key->version == 4)
		of.ip4.src = key->ip4.src;
	else
		memcpy(of.ip6.src, key->ip6.src, sizeof(of.ip6.src));
	return of;
}

static uint32_t
timeout_of(const struct nf_run *r, const struct datagram_key *key)
{
	const struct fragments *f = nf_static(r);

	return key->version == 4 ? f->timeout4_ms : f->timeout6_ms;
}

static unsigned int
datagram_bytes(unsigned int n_parts)
{
	return (unsigned int)(offsetof(struct datagram, part) +
			      n_parts * sizeof(struct part));
}

/* What is seen of a datagram does not make it live longer. */
static const struct datagram *
read_datagram(struct nf_run *r, const struct datagram_key *key)
{
	unsigned int bytes = 0;
	const struct datagram *d = nf_table_read(r, &datagram_table, key, key_bytes(key),
						 NF_PEEK, &bytes);

	if (d == NULL || bytes < datagram_bytes(0) || d->n_parts > MAX_PARTS)
		return nf_table_sized(r, d, bytes, datagram_bytes(MAX_PARTS) + 1);
	return nf_table_sized(r, d, bytes, datagram_bytes(d->n_parts));
}

static void
count_held(struct nf_run *r, const struct datagram_key *key, int64_t more, int64_t max)
{
	struct datagram_key of = sender_key(key);

	nf_table_add(r, &sender_table, &of, key_bytes(&of), sizeof(struct sender),
		     offsetof(struct sender, n_held), more, INT64_MIN, max);
}

static void
fragment_expired(struct nf_run *r, const void *key, const void *value)
{
	(void)value;
	count_held(r, key, -1, INT64_MAX);
}

/* --- parts --------------------------------------------------------------------- */

enum place {
	PLACED,
	REPEATED,				/* It is there already. */
	OVERLAPS,
	TOO_MANY,
};

static uint32_t
start_of(const struct part *p)
{
	return (p->start & PART_START) * 8U;
}

static uint32_t
end_of(const struct part *p)
{
	return start_of(p) + p->bytes;
}

/* Whether both cannot be of one datagram: they share bytes, or one lies behind the
 * end. */
static bool
contradict(const struct part *a, const struct part *b)
{
	if (start_of(a) < end_of(b) && start_of(b) < end_of(a))
		return true;
	return ((a->start & PART_LAST) && end_of(b) > end_of(a)) ||
	       ((b->start & PART_LAST) && end_of(a) > end_of(b));
}

/* Puts a part behind the others.  Where it is not 'strict' they may overlap, but no two
 * that are held begin alike. */
static enum place
place(struct datagram *d, const struct part *own, bool strict)
{
	for (unsigned int i = 0; i < d->n_parts; i++) {
		const struct part *p = &d->part[i];

		if ((p->start & ~PART_HELD) == own->start && p->bytes == own->bytes)
			return REPEATED;
		if (strict ? contradict(p, own)
			   : (p->start & PART_HELD) && start_of(p) == start_of(own))
			return OVERLAPS;
	}
	if (d->n_parts == MAX_PARTS)
		return TOO_MANY;
	d->part[d->n_parts++] = *own;
	return PLACED;
}

/* Whether every byte was seen, as parts do not overlap; where they may, a guess. */
static bool
is_whole(const struct datagram *d)
{
	uint32_t seen = 0, end = UINT32_MAX;

	for (unsigned int i = 0; i < d->n_parts; i++) {
		seen += d->part[i].bytes;
		if (d->part[i].start & PART_LAST)
			end = end_of(&d->part[i]);
	}
	return seen == end;
}

/* What can be no part of any datagram, or only of one that is made to deceive. */
static bool
is_malformed(const struct packet *p, const struct packet_part *part)
{
	uint32_t bytes = part->end - part->start;
	uint32_t headers = p->end - p->l3 - bytes;

	/* That of IPv6 does not count its fixed header, nor the fragment's. */
	if (p->flow.version == 6)
		headers -= 48;
	if (bytes == 0 || headers + part->end > MAX_DATAGRAM)
		return true;
	if (part->more && bytes % 8 != 0)
		return true;
	/* Behind a first fragment without the flags (RFC 1858), or over them (RFC
	 * 3128). */
	return part->protocol == PROTO_TCP && part->start != 0 &&
	       part->start < TCP_HEADER_BYTES;
}

/* --- packets ------------------------------------------------------------------- */

/* When there are too many, those go first of which nothing more is to come, then the
 * oldest: no flood, of whatever parts, lets the newest go before them.  What is held of a
 * datagram that is forgotten expires, and is counted until then. */
static void
save(struct nf_run *r, const struct datagram_key *key, const struct datagram *d)
{
	bool is_done = d->n_held == 0 && is_whole(d);

	nf_table_write(r, &datagram_table, key, key_bytes(key), d,
		       datagram_bytes(d->n_parts), is_done ? NF_BRIEF : NF_KEPT,
		       timeout_of(r, key));
}

/* It arrives anew, as one of the flow with these ports. */
static enum nf_verdict
go_on(struct nf_run *r, const struct datagram *d)
{
	nf_set_ports(r, d->protocol, d->src_port, d->dst_port);
	return NF_AGAIN;
}

/* Refuses the datagram as long as it is remembered.  What is held of it expires. */
static enum nf_verdict
refuse(struct nf_run *r, const struct datagram_key *key)
{
	struct datagram refused = { .state = REFUSED };

	save(r, key, &refused);
	return nf_drop(r, NF_DROP_FRAGMENT);
}

/* Sends of what is held as much as one group may, behind the run's packet and as far as it
 * is still there, and lists it as sent.  False: wait. */
static bool
release_held(struct nf_run *r, const struct datagram_key *key, struct datagram *next)
{
	const void *frame[MAX_SENT];
	struct datagram_key of[MAX_SENT];
	unsigned int bytes[MAX_SENT], n = 0, n_sent = 0;

	for (unsigned int i = 0; i < next->n_parts && n < MAX_SENT; i++) {
		if (!(next->part[i].start & PART_HELD))
			continue;
		next->part[i].start &= (uint16_t)~PART_HELD;
		of[n] = part_key(key, &next->part[i]);
		frame[n] = nf_table_read(r, &fragment_table, &of[n], key_bytes(key),
					 NF_PEEK, &bytes[n]);
		n++;
	}
	next->n_held = n < MAX_SENT ? 0 : (uint8_t)(next->n_held - n);
	if (nf_pending(r))
		return false;
	for (unsigned int i = 0; i < n; i++) {
		if (frame[i] == NULL)
			continue;
		nf_table_delete(r, &fragment_table, &of[i], key_bytes(key));
		nf_inject(r, frame[i], bytes[i], next->protocol, next->src_port,
			  next->dst_port);
		n_sent++;
	}
	if (n_sent > 0)
		count_held(r, key, -(int64_t)n_sent, INT64_MAX);
	return true;
}

/* The first fragment, of a datagram of which 'next' is known.  If more is held than goes in
 * one group it comes here again, before it goes on. */
static enum nf_verdict
first_packet(struct nf_run *r, const struct datagram_key *key, struct datagram *next)
{
	next->state = FOUND;
	next->protocol = nf_flow(r)->protocol;
	next->src_port = nf_flow(r)->src_port;
	next->dst_port = nf_flow(r)->dst_port;
	if (next->n_held > 0 && !release_held(r, key, next))
		return NF_WAIT;
	save(r, key, next);
	return next->n_held > 0 ? NF_AGAIN : go_on(r, next);
}

/* A later one whose first has not come, and which is listed last.  Nearly always the
 * first is on its way through another instance: what is looked for only now takes another
 * trip, with which the datagram is read again. */
static enum nf_verdict
hold(struct nf_run *r, const struct datagram_key *key, struct datagram *next)
{
	const struct fragments *f = nf_static(r);
	const struct packet *p = nf_packet(r);
	struct part *own = &next->part[next->n_parts - 1];
	struct datagram_key of = part_key(key, own), from = sender_key(key);
	/* One of a datagram that is forgotten may lie in its place. */
	const void *left = nf_table_read(r, &fragment_table, &of, key_bytes(&of), NF_PEEK,
					 NULL);
	const struct sender *s = nf_table_read(r, &sender_table, &from, key_bytes(&from),
					       NF_GLANCE, NULL);

	if (nf_pending(r))
		return NF_WAIT;
	if (next->n_held >= MAX_HELD || (s != NULL && s->n_held >= f->per_source) ||
	    p->end > MAX_FRAME_BYTES || nf_head_bytes(r) < p->end)
		return nf_drop(r, NF_DROP_LIMIT);
	own->start |= PART_HELD;
	next->n_held++;
	save(r, key, next);
	nf_table_write(r, &fragment_table, &of, key_bytes(&of), p->data, p->end, NF_BRIEF,
		       timeout_of(r, key));
	if (left == NULL)
		count_held(r, key, 1, f->per_source);
	return NF_KEEP;
}

/* One that is there already.  A first of another flow is not the same again; nor,
 * over IPv4, if all of its datagram has come: what follows a mere repetition goes on
 * either way, and what follows another datagram's first may have other lengths. */
static bool
is_same_again(const struct nf_run *r, const struct datagram *d, const struct part *own)
{
	const struct flow *f = nf_flow(r);

	if (start_of(own) != 0)
		return true;
	if (f->version == 4 && d->n_held == 0 && is_whole(d))
		return false;
	return (d->protocol == f->protocol || d->protocol == 0) &&
	       d->src_port == f->src_port && d->dst_port == f->dst_port;
}

/* A fragment of a datagram of which 'd' is known, or NULL. */
static enum nf_verdict
fragment_packet(struct nf_run *r, const struct datagram_key *key,
		const struct datagram *d, const struct part *own)
{
	const struct fragments *f = nf_static(r);
	struct datagram next = { .state = WAITING };
	bool is_ip4 = key->version == 4, strict = !is_ip4 || !f->overlaps_pass;
	enum place placed;

	if (d != NULL)
		memcpy(&next, d, datagram_bytes(d->n_parts));
	placed = place(&next, own, strict);
	if (placed == REPEATED && is_same_again(r, &next, own)) {
		if (start_of(own) == 0 && next.n_held > 0)
			return first_packet(r, key, &next);
		return next.state == FOUND ? go_on(r, &next) : NF_KEEP;
	}
	if (is_ip4 && placed != PLACED && (placed == REPEATED || is_whole(&next))) {
		/* Another datagram, with an identification that has come round. */
		next = (struct datagram){ .state = WAITING };
		placed = place(&next, own, strict);
	}
	if (placed == TOO_MANY)
		return nf_drop(r, NF_DROP_LIMIT);
	if (placed != PLACED)
		return refuse(r, key);
	if (start_of(own) == 0)
		return first_packet(r, key, &next);
	if (next.state == WAITING)
		return hold(r, key, &next);
	save(r, key, &next);
	return go_on(r, &next);
}

static enum nf_verdict
fragments_packet(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	const struct datagram *d;
	struct datagram_key key;
	struct packet_part part;

	packet_part(p, &part);
	if (is_malformed(p, &part))
		return nf_drop(r, NF_DROP_FRAGMENT);
	datagram_key_make(r, part.id, &key);
	d = read_datagram(r, &key);
	if (nf_pending(r))
		return NF_WAIT;
	if (d != NULL && d->state == REFUSED)
		return nf_drop(r, NF_DROP_FRAGMENT);

	struct part own = { (uint16_t)(part.start / 8 | (part.more ? 0 : PART_LAST)),
			    (uint16_t)(part.end - part.start) };

	return fragment_packet(r, &key, d, &own);
}

const struct nf nf_fragments = {
	.name = "fragments",
	.options = fragments_fields,
	.options_bytes = sizeof(struct fragments_options),
	.init = fragments_init,
	.fini = free,
	.packet = fragments_packet,
};
