/*
 * firewall.c - stateful firewall.
 *
 * A packet that opens a connection is judged by the rules; what belongs to an open
 * one passes in both directions, through whichever instance it comes.  A connection
 * is one record, under the same key for both directions, and is written only when
 * its state changes.  States and idle times are those of Linux's nf_conntrack, with
 * two differences: connections are never picked up midstream, for every instance
 * knows all of them, and a repeated FIN is recognised as one by the side it came
 * from.
 *
 * Fragments other than the first have no ports and are dropped.
 */
#include "nf/nf.h"

#include "nf/rules.h"

/* States, idle times in seconds, and what the option is for. */
#define STATES(X)                                                                \
	X(SYN_SENT, "tcp_syn_sent", 120, "TCP, after a SYN")                     \
	X(SYN_SENT2, "tcp_syn_sent2", 120, "TCP, after a SYN from both sides")   \
	X(SYN_RECV, "tcp_syn_recv", 60, "TCP, after the SYN/ACK")                \
	X(ESTABLISHED, "tcp_established", 432000, "TCP, open")                   \
	X(FIN_WAIT, "tcp_fin_wait", 120, "TCP, after a FIN")                     \
	X(CLOSE_WAIT, "tcp_close_wait", 60, "TCP, after the FIN's ACK")          \
	X(LAST_ACK, "tcp_last_ack", 30, "TCP, after a FIN from both sides")      \
	X(TIME_WAIT, "tcp_time_wait", 120, "TCP, closed")                        \
	X(CLOSE, "tcp_close", 10, "TCP, after a RST")                            \
	X(UDP, "udp", 30, "UDP, before an answer")                               \
	X(UDP_STREAM, "udp_stream", 120, "UDP, answered")                        \
	X(ICMP, "icmp", 30, "ICMP and ICMPv6 queries")                           \
	X(GENERIC, "generic", 600, "other protocols")

enum state {
#define X(id, option, seconds, help) id,
	STATES(X)
#undef X
	N_STATES
};

struct connection {				/* Key: nf_connection(). */
	uint8_t state;				/* enum state */
	uint8_t opened;				/* Sides that did, a bit each. */
	uint8_t finished;			/* Sides that sent a FIN. */
	uint8_t zero;
	uint32_t rule;				/* That let it in, from 1; 0: default. */
};

static const char *const state_words[] = {
#define X(id, option, seconds, help) option,
	STATES(X)
#undef X
	NULL
};

static const struct nf_field connection_fields[] = {
	{ "state", NF_FIELD_WORD, offsetof(struct connection, state), 1, state_words },
	{ "opened", NF_FIELD_UINT, offsetof(struct connection, opened), 1 },
	{ "finished", NF_FIELD_UINT, offsetof(struct connection, finished), 1 },
	{ "rule", NF_FIELD_UINT, offsetof(struct connection, rule), 4 },
	{ 0 }
};

NF_TABLE(connection, struct flow, struct connection, .idle_ms = 600 * 1000,
	 .fields = connection_fields)

struct firewall_options {
	struct config_list rules;		/* struct rule */
	struct {
		int out, in;			/* Index into the words. */
	} otherwise;
	uint64_t idle_ms[N_STATES];		/* 0: not given. */
};

struct firewall {
	struct rules *rules;
	bool allows[2];				/* By rule_direction: without a rule. */
	uint32_t idle_ms[N_STATES];
};

static const struct config_field otherwise_fields[] = {
	{ "out", CONFIG_ENUM, offsetof(struct firewall_options, otherwise.out) -
			      offsetof(struct firewall_options, otherwise),
	  .words = (const char *const[]){ "allow", "deny", NULL },
	  .help = "connections from inside that no rule matches (default: allow)" },
	{ "in", CONFIG_ENUM, offsetof(struct firewall_options, otherwise.in) -
			     offsetof(struct firewall_options, otherwise),
	  .words = (const char *const[]){ "deny", "allow", NULL },
	  .help = "connections from outside that no rule matches (default: deny)" },
	{ 0 }
};

static const struct config_field timeout_fields[] = {
#define X(id, option, seconds, text)                                             \
	{ option, CONFIG_DURATION, id * sizeof(uint64_t), .min = 1000,           \
	  .max = 30ULL * 86400 * 1000, .help = text " (default: " #seconds "s)" },
	STATES(X)
#undef X
	{ 0 }
};

static const struct config_field firewall_fields[] = {
	{ "rules", CONFIG_LIST, offsetof(struct firewall_options, rules),
	  .max = RULES_MAX, .fields = rule_fields, .item_bytes = sizeof(struct rule),
	  .help = "a list of rules; the first that matches a new connection counts" },
	{ "default", CONFIG_MAP, offsetof(struct firewall_options, otherwise),
	  .fields = otherwise_fields, .help = "what happens when no rule matches" },
	{ "timeouts", CONFIG_MAP, offsetof(struct firewall_options, idle_ms),
	  .fields = timeout_fields,
	  .help = "how long a connection without packets is remembered, by its state" },
	{ 0 }
};

static int
firewall_init(const void *from, void **state)
{
	static const uint32_t idle_s[N_STATES] = {
#define X(id, option, seconds, help) seconds,
		STATES(X)
#undef X
	};
	const struct firewall_options *options = from;
	struct firewall *fw = calloc(1, sizeof(*fw));

	if (fw == NULL)
		return -ENOMEM;

	int err = rules_new(&options->rules, &fw->rules);

	if (err != 0) {
		free(fw);
		return err;
	}
	fw->allows[RULE_OUT] = options->otherwise.out == 0;
	fw->allows[RULE_IN] = options->otherwise.in == 1;
	for (unsigned int i = 0; i < N_STATES; i++)
		fw->idle_ms[i] = options->idle_ms[i] != 0 ? (uint32_t)options->idle_ms[i]
							  : idle_s[i] * 1000;
	*state = fw;
	return 0;
}

static void
firewall_fini(void *state)
{
	struct firewall *fw = state;

	rules_free(fw->rules);
	free(fw);
}

static uint8_t
side_bit(const struct nf_run *r)
{
	return (uint8_t)(1 << nf_side(r));
}

/* Whether the rules let the packet's flow be opened from its side. */
static bool
allowed(const struct nf_run *r, uint32_t *rule)
{
	const struct firewall *fw = nf_static(r);
	enum rule_direction direction = nf_side(r) == NF_INSIDE ? RULE_OUT : RULE_IN;
	enum rule_action action = rules_match(fw->rules, direction, nf_flow(r), rule);

	return action == RULE_NONE ? fw->allows[direction] : action == RULE_ALLOW;
}

/* Whether it is worth less than a connection that was answered, and is still used. */
static bool
is_brief(enum state state)
{
	return state != ESTABLISHED && state != UDP_STREAM && state != GENERIC &&
	       state != FIN_WAIT && state != CLOSE_WAIT;
}

static enum nf_verdict
save(struct nf_run *r, const struct connection *c)
{
	const struct firewall *fw = nf_static(r);

	if (!nf_checksum_ok(r))
		return nf_drop(r, NF_DROP_CHECKSUM);
	if (is_brief(c->state))
		connection_write_brief(r, nf_connection(r), c, fw->idle_ms[c->state]);
	else
		connection_write_for(r, nf_connection(r), c, fw->idle_ms[c->state]);
	return NF_SEND;
}

/* Opens a connection from the packet's side; 'opened' are the others that have. */
static enum nf_verdict
open_connection(struct nf_run *r, enum state state, uint8_t opened)
{
	struct connection c = { .state = (uint8_t)state, .opened = opened | side_bit(r) };

	if (!allowed(r, &c.rule))
		return nf_drop(r, NF_DROP_POLICY);
	return save(r, &c);
}

/* --- TCP ---------------------------------------------------------------------- */

enum segment { SYN, SYN_ACK, FIN, ACK, RST, INVALID };

static enum segment
segment_of(uint8_t flags)
{
	switch (flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) {
	case TCP_SYN:
		return SYN;
	case TCP_SYN | TCP_ACK:
		return SYN_ACK;
	case TCP_FIN | TCP_ACK:
		return FIN;
	case TCP_ACK:
		return ACK;
	case TCP_RST:
	case TCP_RST | TCP_ACK:
		return RST;
	default:
		return INVALID;
	}
}

/* A FIN counts once for each side: a repeated one changes nothing. */
static bool
step_fin(struct connection *c, uint8_t side)
{
	if (c->state == SYN_SENT || c->state == SYN_SENT2)
		return false;
	if (c->state == TIME_WAIT || c->state == CLOSE)
		return true;
	c->finished |= side;
	if (c->finished == (1 << NF_INSIDE | 1 << NF_OUTSIDE))
		c->state = LAST_ACK;
	else if (c->state != CLOSE_WAIT)
		c->state = FIN_WAIT;
	return true;
}

/* An ACK from the other end in SYN_SENT challenges a SYN (RFC 5961, 4): the opener
 * answers it with a RST. */
static bool
step_ack(struct connection *c, uint8_t side)
{
	bool opener = (c->opened & side) != 0;

	switch (c->state) {
	case SYN_SENT:
	case SYN_SENT2:
		return !opener;
	case SYN_RECV:
		if (opener)
			c->state = ESTABLISHED;
		return true;
	case FIN_WAIT:
		if ((c->finished & side) == 0)
			c->state = CLOSE_WAIT;
		return true;
	case LAST_ACK:
		c->state = TIME_WAIT;
		return true;
	default:
		return true;
	}
}

/* Makes the connection what it is after a segment from 'side'; a SYN does not come
 * here in TIME_WAIT and CLOSE.  False: the segment is not valid in its state. */
static bool
step(struct connection *c, enum segment segment, uint8_t side)
{
	bool opener = (c->opened & side) != 0;

	switch (segment) {
	case SYN:
		/* From the opener it is repeated, or will be challenged. */
		if (opener)
			return true;
		if (c->state == SYN_SENT)
			c->state = SYN_SENT2;
		return c->state == SYN_SENT2;
	case SYN_ACK:
		if (c->state == SYN_SENT2 || (c->state == SYN_SENT && !opener)) {
			c->state = SYN_RECV;
			return true;
		}
		return !opener || c->state == SYN_RECV;
	case FIN:
		return step_fin(c, side);
	case ACK:
		return step_ack(c, side);
	case RST:
		c->state = CLOSE;
		return true;
	default:
		return false;
	}
}

static enum nf_verdict
tcp_packet(struct nf_run *r, const struct connection *c)
{
	enum segment segment = segment_of(nf_packet(r)->tcp_flags);

	if (segment == SYN && (c == NULL || c->state == TIME_WAIT || c->state == CLOSE))
		return open_connection(r, SYN_SENT, 0);
	if (c == NULL)
		return nf_drop(r, NF_DROP_STATE);

	struct connection next = *c;

	if (!step(&next, segment, side_bit(r)))
		return nf_drop(r, NF_DROP_STATE);
	if (memcmp(&next, c, sizeof(next)) == 0)
		return NF_SEND;
	return save(r, &next);
}

/* --- the others --------------------------------------------------------------- */

static enum nf_verdict
udp_packet(struct nf_run *r, const struct connection *c)
{
	if (c == NULL)
		return open_connection(r, UDP, 0);
	if (c->state == UDP_STREAM || (c->opened & side_bit(r)) != 0)
		return NF_SEND;

	struct connection next = *c;

	next.state = UDP_STREAM;
	return save(r, &next);
}

/* Both sides may ask under the same identifier; each is answered only if it did. */
static enum nf_verdict
query_packet(struct nf_run *r, const struct connection *c)
{
	uint8_t opened = c != NULL ? c->opened : 0;

	if ((nf_packet(r)->flags & PACKET_ICMP_REPLY) == 0)
		return opened & side_bit(r) ? NF_SEND : open_connection(r, ICMP, opened);
	return opened & ~side_bit(r) ? NF_SEND : nf_drop(r, NF_DROP_STATE);
}

/* Packet Too Big, multicast listeners, and neighbour discovery: without them there
 * is no IPv6 through a firewall that no router knows of (RFC 4890, 4.3.1, 4.4.1). */
static bool
icmp6_always_passes(uint8_t type)
{
	return type == 2 || (type >= 130 && type <= 137) || type == 143;
}

/* Whether an error goes back to where the packet it quotes came from. */
static bool
goes_back(const struct flow *error, const struct flow *quoted)
{
	if (error->version == 4)
		return error->ip4.dst == quoted->ip4.src;
	return memcmp(error->ip6.dst, quoted->ip6.src, sizeof(error->ip6.dst)) == 0;
}

/* ICMP that is not a query: no connection of its own. */
static enum nf_verdict
icmp_packet(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	struct flow quoted, name;
	uint32_t rule;

	if (p->flow.protocol == PROTO_ICMP6 && icmp6_always_passes(p->icmp_type))
		return NF_SEND;
	if ((p->flags & PACKET_ICMP_ERROR) == 0)
		return allowed(r, &rule) ? NF_SEND : nf_drop(r, NF_DROP_POLICY);
	if (!packet_inner(p, nf_head_bytes(r), &quoted) || !goes_back(&p->flow, &quoted))
		return nf_drop(r, NF_DROP_STATE);
	flow_canonical(&quoted, &name);

	const struct connection *c = connection_peek(r, &name);

	if (nf_pending(r))
		return NF_WAIT;
	return c != NULL ? NF_SEND : nf_drop(r, NF_DROP_STATE);
}

static enum nf_verdict
firewall_packet(struct nf_run *r)
{
	const struct packet *p = nf_packet(r);
	uint8_t protocol = p->flow.protocol;
	bool icmp = protocol == PROTO_ICMP || protocol == PROTO_ICMP6;

	if (p->flags & PACKET_LATER_FRAGMENT)
		return nf_drop(r, NF_DROP_FRAGMENT);
	if (icmp && (p->flags & PACKET_ICMP_QUERY) == 0)
		return icmp_packet(r);

	const struct connection *c = connection_read(r, nf_connection(r));

	if (nf_pending(r))
		return NF_WAIT;
	if (icmp)
		return query_packet(r, c);
	if (protocol == PROTO_TCP)
		return tcp_packet(r, c);
	if (protocol == PROTO_UDP)
		return udp_packet(r, c);
	return c == NULL ? open_connection(r, GENERIC, 0) : NF_SEND;
}

const struct nf nf_firewall = {
	.name = "firewall",
	.options = firewall_fields,
	.options_bytes = sizeof(struct firewall_options),
	.init = firewall_init,
	.fini = firewall_fini,
	.packet = firewall_packet,
	.passes_non_ip = true,
};
