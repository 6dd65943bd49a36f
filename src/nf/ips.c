/*
 * ips.c - inline signature matching over TCP streams (Algorithm 5 of the paper).
 *
 * A record for each connection holds, for both directions, the state of the matching
 * automaton and the sequence number expected next; a signature is found wherever the
 * segments that carry it were cut, and whichever instances they came through.  Once
 * a signature says drop, the record does: for both directions, on every instance.
 *
 * Bytes are matched once and in order.  A segment ahead of its turn is dropped, to
 * be sent again: put "reassembly" in front where that is too dear.  What was seen
 * before passes again, but not with a signature in it that says drop.  Datagrams are
 * matched one by one; fragments are dropped.
 */
#include "nf/nf.h"

#include "nf/matcher.h"

enum {
	MAX_REPORTED = 8,			/* Signatures, of one packet. */
};

struct direction {
	uint32_t expected;			/* Sequence number. */
	uint32_t state;				/* Of the automaton. */
};

struct inspection {				/* Key: nf_connection(). */
	uint32_t signatures;			/* Whose automaton the states are of. */
	uint8_t known, moved, finished;		/* A bit for each side: SYN, data, FIN. */
	uint8_t blocked;
	struct direction from[2];		/* By nf_side. */
};

static const struct nf_field inspection_fields[] = {
	{ "signatures", NF_FIELD_UINT, offsetof(struct inspection, signatures), 4 },
	{ "blocked", NF_FIELD_UINT, offsetof(struct inspection, blocked), 1 },
	{ "finished", NF_FIELD_UINT, offsetof(struct inspection, finished), 1 },
	{ 0 }
};

NF_TABLE(inspection, struct flow, struct inspection, .idle_ms = 7440 * 1000,
	 .fields = inspection_fields)

enum signature_action {
	ALERT,
	DROP,
};

struct signature {
	uint64_t id;
	int action;				/* enum signature_action */
	struct matcher_text content;
};

struct ips_options {
	struct config_list signatures;		/* struct signature */
	int midstream;				/* Index into the words. */
	uint64_t idle_ms;			/* 0: not given. */
};

struct ips {
	struct matcher *matcher;
	struct signature *signature;
	uint32_t signatures;			/* As in struct inspection. */
	bool midstream;
	uint32_t idle_ms;
};

/* --- options ------------------------------------------------------------------ */

static const struct config_field signature_fields[] = {
	{ "id", CONFIG_UINT, offsetof(struct signature, id), .required = true, .min = 1,
	  .max = UINT32_MAX, .help = "a number of its own, which alerts name" },
	{ "content", CONFIG_SCALAR, offsetof(struct signature, content), .required = true,
	  .parse = matcher_text_parse,
	  .help = "1 to 250 bytes, as text and |hexadecimal|: 'GET /x|0d 0a|'" },
	{ "action", CONFIG_ENUM, offsetof(struct signature, action), .required = true,
	  .words = (const char *const[]){ "alert", "drop", NULL },
	  .help = "alert: report it; drop: and drop the rest of the connection" },
	{ 0 }
};

static const struct config_field ips_fields[] = {
	{ "signatures", CONFIG_LIST, offsetof(struct ips_options, signatures),
	  .required = true, .fields = signature_fields,
	  .item_bytes = sizeof(struct signature), .help = "what to look for" },
	{ "midstream", CONFIG_ENUM, offsetof(struct ips_options, midstream),
	  .words = (const char *const[]){ "drop", "inspect", NULL },
	  .help = "TCP connections whose opening was not seen (default: drop)" },
	{ "idle", CONFIG_DURATION, offsetof(struct ips_options, idle_ms), .min = 1000,
	  .max = 30ULL * 86400 * 1000,
	  .help = "how long a silent connection is remembered (default: 7440s)" },
	{ 0 }
};

static void
ips_fini(void *state)
{
	struct ips *ips = state;

	matcher_free(ips->matcher);
	free(ips->signature);
	free(ips);
}

/* Of all that numbers the automaton's states (FNV-1a). */
static uint32_t
signatures_hash(const struct signature *signature, unsigned int n)
{
	uint32_t hash = 2166136261U;

	for (unsigned int i = 0; i < n; i++) {
		const struct matcher_text *c = &signature[i].content;

		hash = (hash ^ c->n_bytes) * 16777619U;
		for (unsigned int at = 0; at < c->n_bytes; at++)
			hash = (hash ^ c->bytes[at]) * 16777619U;
	}
	return hash;
}

static int
ips_compile(struct ips *ips, unsigned int n)
{
	struct matcher_string *string = calloc(n + 1, sizeof(*string));
	int err;

	if (string == NULL)
		return -ENOMEM;
	for (unsigned int i = 0; i < n; i++)
		string[i] = (struct matcher_string){ ips->signature[i].content.bytes,
						     ips->signature[i].content.n_bytes };
	err = matcher_new(string, n, &ips->matcher);
	free(string);
	return err;
}

static int
ips_init(const void *from, void **state)
{
	const struct ips_options *options = from;
	unsigned int n = options->signatures.n;
	struct ips *ips = calloc(1, sizeof(*ips));
	int err = -ENOMEM;

	if (ips == NULL)
		return err;
	ips->signature = calloc(n + 1, sizeof(*ips->signature));
	if (ips->signature != NULL) {
		if (n > 0)
			memcpy(ips->signature, options->signatures.items,
			       n * sizeof(*ips->signature));
		err = ips_compile(ips, n);
	}
	if (err == -E2BIG)
		config_error(&options->signatures, "more than %u bytes, want fewer",
			     MATCHER_MAX_BYTES);
	if (err != 0) {
		ips_fini(ips);
		return err;
	}
	ips->signatures = signatures_hash(ips->signature, n);
	ips->midstream = options->midstream == 1;
	ips->idle_ms = options->idle_ms != 0 ? (uint32_t)options->idle_ms : 7440 * 1000;
	*state = ips;
	return 0;
}

/* --- matching ----------------------------------------------------------------- */

struct hits {
	struct nf_run *r;
	bool again;				/* Bytes seen before: only drops count. */
	bool drop;
	unsigned int n;
	uint32_t reported[MAX_REPORTED];
};

static void
found(void *context, unsigned int string)
{
	struct hits *hits = context;
	const struct ips *ips = nf_static(hits->r);
	const struct signature *signature = &ips->signature[string];
	uint32_t id = (uint32_t)signature->id;

	if (hits->again && signature->action != DROP)
		return;
	hits->drop |= signature->action == DROP;
	for (unsigned int i = 0; i < hits->n; i++)
		if (hits->reported[i] == id)
			return;
	if (hits->n == MAX_REPORTED)
		return;
	hits->reported[hits->n++] = id;
	nf_alert(hits->r, id);
}

static uint32_t
match(struct hits *hits, uint32_t state, uint32_t skip)
{
	const struct packet *p = nf_packet(hits->r);
	const struct ips *ips = nf_static(hits->r);

	if (state >= matcher_n_states(ips->matcher))
		state = MATCHER_START;
	return matcher_scan(ips->matcher, state, p->data + p->payload + skip,
			    packet_payload_bytes(p) - skip, found, hits);
}

/* Ends a run whose packet was matched; '*next' is what to remember of it. */
static enum nf_verdict
conclude(struct nf_run *r, const struct hits *hits, struct inspection *next, bool changed)
{
	const struct ips *ips = nf_static(r);

	next->blocked |= hits->drop;
	if ((changed || hits->drop) && (next->moved || next->blocked))
		inspection_write_for(r, nf_connection(r), next, ips->idle_ms);
	else if (changed)
		inspection_write_brief(r, nf_connection(r), next, ips->idle_ms);
	return hits->drop ? nf_drop(r, NF_DROP_SIGNATURE) : NF_SEND;
}

static enum nf_verdict
datagram(struct nf_run *r)
{
	const struct ips *ips = nf_static(r);
	struct hits hits = { .r = r };
	struct inspection next = { .signatures = ips->signatures };

	match(&hits, MATCHER_START, 0);
	if (hits.drop && !nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	return conclude(r, &hits, &next, false);
}

/* --- TCP ---------------------------------------------------------------------- */

static int32_t
ahead(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

/* A SYN in an open direction changes nothing: its receiver objects, and the sender
 * answers with a RST (RFC 5961, 4). */
static enum nf_verdict
syn(struct nf_run *r, const struct inspection *old, struct inspection *next)
{
	const struct packet *p = nf_packet(r);
	struct direction *from = &next->from[nf_side(r)];
	uint8_t side = (uint8_t)(1 << nf_side(r));
	uint32_t first = packet_tcp_seq(p) + 1;
	struct hits hits = { .r = r };

	if (old != NULL && (old->moved & ~old->finished & side) != 0)
		return NF_SEND;
	if (old != NULL && (old->known & side) != 0 && from->expected == first)
		return NF_SEND;
	if (nf_is_syn(r) && next->finished != 0)
		*next = (struct inspection){ .signatures = next->signatures };
	next->known |= side;
	from->state = match(&hits, MATCHER_START, 0);
	from->expected = first + packet_payload_bytes(p);
	return conclude(r, &hits, next, true);
}

/* A segment with data or a FIN. */
static enum nf_verdict
segment(struct nf_run *r, struct inspection *next)
{
	const struct packet *p = nf_packet(r);
	struct direction *from = &next->from[nf_side(r)];
	uint8_t side = (uint8_t)(1 << nf_side(r));
	uint32_t bytes = packet_payload_bytes(p), fin = (p->tcp_flags & TCP_FIN) != 0;
	struct hits hits = { .r = r };

	if ((next->known & side) == 0)
		from->expected = packet_tcp_seq(p);

	int32_t early = ahead(packet_tcp_seq(p), from->expected);
	int32_t news = early + (int32_t)(bytes + fin);
	uint32_t old = (uint32_t)-early;

	if (early > 0)
		return nf_drop(r, NF_DROP_LIMIT);
	if (early < 0) {
		hits.again = true;
		match(&hits, MATCHER_START, 0);
		hits.again = false;
	}
	if (news <= 0)
		return conclude(r, &hits, next, false);
	if (next->finished & side)
		return nf_drop(r, NF_DROP_STATE);
	from->state = match(&hits, from->state, old < bytes ? old : bytes);
	from->expected += (uint32_t)news;
	next->known |= side;
	next->moved |= side;
	next->finished |= fin ? side : 0;
	return conclude(r, &hits, next, true);
}

static enum nf_verdict
tcp_packet(struct nf_run *r, const struct inspection *old)
{
	const struct packet *p = nf_packet(r);
	const struct ips *ips = nf_static(r);
	struct inspection next = { .signatures = ips->signatures };
	const struct direction *from = &next.from[nf_side(r)];

	if (old == NULL && (p->tcp_flags & TCP_SYN) == 0 && !ips->midstream)
		return nf_drop(r, NF_DROP_STATE);
	if (old != NULL)
		next = *old;
	if (next.signatures != ips->signatures) {
		next.signatures = ips->signatures;
		next.from[NF_INSIDE].state = next.from[NF_OUTSIDE].state = MATCHER_START;
	}
	if (p->tcp_flags & TCP_RST) {
		if (old != NULL && packet_tcp_seq(p) == from->expected &&
		    nf_checksum_ok(r))
			inspection_delete(r, nf_connection(r));
		return NF_SEND;
	}
	if (packet_payload_bytes(p) == 0 && (p->tcp_flags & (TCP_SYN | TCP_FIN)) == 0)
		return NF_SEND;
	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	return p->tcp_flags & TCP_SYN ? syn(r, old, &next) : segment(r, &next);
}

static enum nf_verdict
ips_packet(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);

	if (p->flags & PACKET_FRAGMENT)
		return nf_drop(r, NF_DROP_FRAGMENT);
	if (nf_head_bytes(r) < p->end)
		return nf_drop(r, NF_DROP_LIMIT);

	const struct inspection *old = inspection_read(r, nf_connection(r));

	if (nf_pending(r))
		return NF_WAIT;
	if (old != NULL && old->blocked)
		return nf_drop(r, NF_DROP_SIGNATURE);
	if (old != NULL && old->moved != 0)
		nf_established(r);
	return nf_is_tcp(r) ? tcp_packet(r, old) : datagram(r);
}

const struct nf nf_ips = {
	.name = "ips",
	.options = ips_fields,
	.options_bytes = sizeof(struct ips_options),
	.init = ips_init,
	.fini = ips_fini,
	.packet = ips_packet,
	.passes_non_ip = true,
	.keeps_flow = true,
	.may_pass_unseen = true,
};
