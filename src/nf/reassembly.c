/*
 * reassembly.c - TCP reassembly (Algorithm 3 of the paper): what leaves is in order.
 *
 * A record for each direction of a connection holds the sequence number expected
 * next and the list of segments that came too early; these lie whole in a table of
 * their own, under flow and sequence number.  The segment that fills a hole sends
 * what lies behind it.  Since a segment is listed, stored, sent and removed only in
 * groups that check the record, two instances never send one twice, and whichever
 * gets the missing one sends those that the other has stored.
 *
 * Of what is kept, one packet sends at most MAX_RELEASED; what still waits goes with
 * the next packet of its direction.  Segments that lie behind what was sent
 * already pass: the receiver may have missed them.  Without data there is nothing to
 * order: bare ACKs pass.  What is not TCP passes.
 */
#include "nf/nf.h"

enum {
	MAX_HELD = 64,				/* Segments, of one direction. */
	MAX_RELEASED = 10,			/* By one run: each is read, and deleted. */
	MAX_SEGMENT_BYTES = NF_MAX_VALUE_BYTES,
	FAR_AHEAD = 1 << 30,			/* The largest window (RFC 7323, 2.2). */
	HELD_MS = 30 * 1000,
};

enum stream_state {
	OPENING,				/* Only the SYN was sent. */
	OPEN,
	FINISHED,				/* The FIN was sent. */
};

struct held {
	uint32_t seq;
	uint16_t length;			/* In sequence numbers: a FIN is one. */
	uint16_t fin;
};

struct stream {					/* Key: the flow. */
	uint32_t expected;
	uint16_t state;				/* enum stream_state */
	uint16_t n_held;
	struct held held[MAX_HELD];		/* In order; only those stored. */
};

struct segment_key {
	struct flow flow;
	uint32_t seq;
};

struct segment {
	uint8_t frame[MAX_SEGMENT_BYTES];	/* Only as long as it is. */
};

static_assert(sizeof(struct segment_key) == sizeof(struct flow) + 4, "no padding");

static const struct nf_field stream_fields[] = {
	{ "expected", NF_FIELD_UINT, offsetof(struct stream, expected), 4 },
	{ "state", NF_FIELD_UINT, offsetof(struct stream, state), 2 },
	{ "held", NF_FIELD_UINT, offsetof(struct stream, n_held), 2 },
	{ 0 }
};

static const struct nf_field segment_fields[] = {
	{ "flow", NF_FIELD_FLOW, 0, 0 },
	{ "seq", NF_FIELD_UINT, offsetof(struct segment_key, seq), 4 },
	{ 0 }
};

/* A RST ends both directions. */
NF_TABLE(stream, struct flow, struct stream, .idle_ms = 7440 * 1000,
	 .spread = nf_spread_connection, .fields = stream_fields)
NF_TABLE(segment, struct segment_key, struct segment, .idle_ms = HELD_MS,
	 .spread = nf_spread_connection, .key_fields = segment_fields)

struct reassembly_options {
	uint64_t max_held;			/* 0: not given. */
	uint64_t idle_ms, closed_ms;
};

struct reassembly {
	unsigned int max_held;
	uint32_t idle_ms, closed_ms;
};

static const struct config_field reassembly_fields[] = {
	{ "max_held", CONFIG_UINT, offsetof(struct reassembly_options, max_held),
	  .min = 1, .max = MAX_HELD,
	  .help = "segments kept for one direction of a connection (default: 64)" },
	{ "idle", CONFIG_DURATION, offsetof(struct reassembly_options, idle_ms),
	  .min = 1000, .max = 30ULL * 86400 * 1000,
	  .help = "how long a silent connection is remembered (default: 7440s)" },
	{ "closed", CONFIG_DURATION, offsetof(struct reassembly_options, closed_ms),
	  .min = 1000, .max = 86400ULL * 1000,
	  .help = "the same after a FIN (default: 120s)" },
	{ 0 }
};

static int
reassembly_init(const void *from, void **state)
{
	const struct reassembly_options *options = from;
	struct reassembly *reassembly = calloc(1, sizeof(*reassembly));

	if (reassembly == NULL)
		return -ENOMEM;
	reassembly->max_held = options->max_held != 0 ? (unsigned int)options->max_held
						      : MAX_HELD;
	reassembly->idle_ms = options->idle_ms != 0 ? (uint32_t)options->idle_ms
						    : 7440 * 1000;
	reassembly->closed_ms = options->closed_ms != 0 ? (uint32_t)options->closed_ms
							: 120 * 1000;
	*state = reassembly;
	return 0;
}

/* How far 'a' is ahead of 'b', modulo 2^32. */
static int32_t
ahead(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

static unsigned int
stream_bytes(unsigned int n_held)
{
	return offsetof(struct stream, held) + n_held * (unsigned int)sizeof(struct held);
}

/* A stream is as long as its list is. */
static const struct stream *
read_stream(struct nf_run *r)
{
	unsigned int bytes = 0;
	const struct flow *key = nf_flow(r);
	const struct stream *s =
		nf_table_read(r, &stream_table, key, flow_bytes(key), NF_READ, &bytes);

	if (s == NULL || bytes < stream_bytes(0))
		return nf_table_sized(r, s, bytes, stream_bytes(0));
	return nf_table_sized(r, s, bytes, stream_bytes(s->n_held));
}

static void
stream_copy(struct stream *to, const struct stream *from)
{
	memcpy(to, from, stream_bytes(from->n_held));
}

static void
save(struct nf_run *r, const struct stream *s)
{
	const struct reassembly *options = nf_static(r);
	const struct flow *key = nf_flow(r);

	nf_table_write(r, &stream_table, key, flow_bytes(key), s, stream_bytes(s->n_held),
		       s->state == OPENING ? NF_BRIEF : NF_KEPT,
		       s->state == FINISHED ? options->closed_ms : options->idle_ms);
}

static void
segment_key_make(const struct nf_run *r, uint32_t seq, struct segment_key *key)
{
	memset(key, 0, sizeof(*key));
	memcpy(&key->flow, nf_flow(r), flow_bytes(nf_flow(r)));
	key->seq = seq;
}

static const void *
read_segment(struct nf_run *r, uint32_t seq, unsigned int *bytes)
{
	struct segment_key key;

	segment_key_make(r, seq, &key);
	return nf_table_read(r, &segment_table, &key, sizeof(key), NF_PEEK, bytes);
}

/* Stores the run's packet. */
static void
write_segment(struct nf_run *r, uint32_t seq)
{
	const struct packet *p = nf_packet(r);
	struct segment_key key;

	segment_key_make(r, seq, &key);
	nf_table_write(r, &segment_table, &key, sizeof(key), p->data, p->end, NF_KEPT,
		       HELD_MS);
}

/* The sequence numbers of the packet's data and FIN. */
static struct held
range_of(const struct packet *p)
{
	uint16_t fin = (p->tcp_flags & TCP_FIN) != 0;

	return (struct held){ packet_tcp_seq(p),
			      (uint16_t)(packet_payload_bytes(p) + fin), fin };
}

/* The stream after 'range' was sent. */
static void
advance(struct stream *s, const struct held *range)
{
	s->expected = range->seq + range->length;
	s->state = range->fin ? FINISHED : OPEN;
}

/* Sends what is held and is expected now, as far as it is still there.  'own' is the
 * run's packet if that is in the list, not in the store.  False: wait. */
static bool
release_held(struct nf_run *r, struct stream *next, const struct held *own)
{
	const void *frame[MAX_RELEASED];
	unsigned int bytes[MAX_RELEASED], n = 0, n_done = 0;
	uint32_t end = next->expected;
	struct segment_key key;

	for (; n < next->n_held && n < MAX_RELEASED; n++) {
		const struct held *held = &next->held[n];

		if (ahead(held->seq, end) > 0)
			break;
		frame[n] = nf_packet(r)->data;
		bytes[n] = nf_packet(r)->end;
		if (own == NULL || own->seq != held->seq)
			frame[n] = read_segment(r, held->seq, &bytes[n]);
		if (ahead(held->seq + held->length, end) > 0)
			end = held->seq + held->length;
	}
	if (nf_pending(r))
		return false;
	for (bool lost = false; n_done < n && !lost; n_done++) {
		const struct held *held = &next->held[n_done];
		uint32_t behind = held->seq + held->length;

		if (own == NULL || own->seq != held->seq) {
			segment_key_make(r, held->seq, &key);
			segment_delete(r, &key);
		}
		/* One whose time has passed is a hole: it will be sent again. */
		lost = frame[n_done] == NULL;
		if (lost || ahead(behind, next->expected) <= 0)
			continue;
		nf_emit(r, frame[n_done], bytes[n_done]);
		advance(next, held);
	}
	next->n_held -= (uint16_t)n_done;
	memmove(next->held, next->held + n_done, next->n_held * sizeof(next->held[0]));
	return true;
}

/* Puts a segment in the list, unless it is there already or the list is full. */
static bool
list(struct stream *s, const struct held *own, unsigned int max_held)
{
	unsigned int i = 0;

	while (i < s->n_held && ahead(s->held[i].seq, own->seq) < 0)
		i++;
	if (s->n_held >= max_held || (i < s->n_held && s->held[i].seq == own->seq))
		return false;
	memmove(&s->held[i + 1], &s->held[i], (s->n_held - i) * sizeof(s->held[0]));
	s->held[i] = *own;
	s->n_held++;
	return true;
}

static bool
listed(const struct stream *s, uint32_t seq)
{
	for (unsigned int i = 0; i < s->n_held; i++)
		if (s->held[i].seq == seq)
			return true;
	return false;
}

/* A segment that came too early.  The same one again is not kept twice. */
static enum nf_verdict
hold(struct nf_run *r, const struct stream *s, const struct held *own)
{
	const struct reassembly *reassembly = nf_static(r);
	const struct packet *p = nf_packet(r);
	bool known = listed(s, own->seq);
	struct stream next;
	bool kept;

	stream_copy(&next, s);
	kept = p->end <= MAX_SEGMENT_BYTES && nf_head_bytes(r) >= p->end &&
	       list(&next, own, reassembly->max_held);
	if (!release_held(r, &next, kept ? own : NULL))
		return NF_WAIT;
	if (kept && listed(&next, own->seq))
		write_segment(r, own->seq);
	if (kept || next.expected != s->expected || next.n_held != s->n_held)
		save(r, &next);
	return kept || known ? NF_KEEP : nf_drop(r, NF_DROP_LIMIT);
}

/* A segment with data or a FIN. */
static enum nf_verdict
data_packet(struct nf_run *r, const struct stream *s)
{
	struct held own = range_of(nf_packet(r));
	int32_t gap = ahead(own.seq, s->expected);
	bool news = ahead(own.seq + own.length, s->expected) > 0;
	struct stream next;

	if ((s->state == FINISHED && news) || gap > FAR_AHEAD)
		return nf_drop(r, NF_DROP_STATE);
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (gap > 0)
		return hold(r, s, &own);
	stream_copy(&next, s);
	if (news)
		advance(&next, &own);
	if (!release_held(r, &next, NULL))
		return NF_WAIT;
	if (news || next.n_held != s->n_held)
		save(r, &next);
	return NF_SEND;
}

/* A new connection, unless one is open: then the receiver will object, and its
 * sender answer with a RST (RFC 5961, 4). */
static enum nf_verdict
syn_packet(struct nf_run *r, const struct stream *s)
{
	struct held own = range_of(nf_packet(r));
	struct stream next = { .expected = own.seq + 1 + own.length, .state = OPENING };

	if (s != NULL && (s->state == OPEN || s->expected == next.expected))
		return NF_SEND;
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	save(r, &next);
	return NF_SEND;
}

/* Only the exact number ends the connection (RFC 5961, 3); any is passed on. */
static enum nf_verdict
rst_packet(struct nf_run *r, const struct stream *s)
{
	struct flow back;

	if (s == NULL || packet_tcp_seq(nf_packet(r)) != s->expected ||
	    !nf_checksum_ok(r))
		return NF_SEND;
	flow_reverse(nf_flow(r), &back);
	stream_delete(r, nf_flow(r));
	stream_delete(r, &back);
	return NF_SEND;
}

static enum nf_verdict
reassembly_packet(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);

	if (!nf_is_tcp(r))
		return NF_SEND;
	if (p->flags & PACKET_FRAGMENT)
		return nf_drop(r, NF_DROP_FRAGMENT);

	const struct stream *s = read_stream(r);

	if (nf_pending(r))
		return NF_WAIT;
	if (p->tcp_flags & TCP_RST)
		return rst_packet(r, s);
	if (p->tcp_flags & TCP_SYN)
		return syn_packet(r, s);
	if (s == NULL)
		return nf_drop(r, NF_DROP_STATE);
	if (range_of(p).length == 0)
		return NF_SEND;
	return data_packet(r, s);
}

const struct nf nf_reassembly = {
	.name = "reassembly",
	.options = reassembly_fields,
	.options_bytes = sizeof(struct reassembly_options),
	.init = reassembly_init,
	.fini = free,
	.packet = reassembly_packet,
	.alone = true,
	.passes_non_ip = true,
};
