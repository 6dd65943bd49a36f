/*
 * firewall.c - stateful firewall.
 *
 * A packet that opens a connection is judged by the rules; what belongs to an open one
 * passes in both directions, through whichever instance it comes.  A connection is one
 * record, under the same key for both directions, and is written only when its state
 * changes or a TCP window has moved by a good part of itself (tcp_track.h).  States and
 * idle times are those of Linux's nf_conntrack; but connections are not picked up
 * midstream unless the file says so, for every instance knows all of them.
 *
 * Of nf_conntrack's times, two are left out: that after several retransmissions, and that
 * of an open connection with unacknowledged data (300 s each).  Both depend on packets
 * that change nothing in the record: knowing them would take a write for each.
 *
 * Fragments have the ports of their first one, and pass if its connection does.
 */
#include "nf/firewall.h"

#include "base/hash.h"

struct firewall_options {
	struct config_list rules;		/* struct rule */
	struct {
		int out, in;			/* Index into the words. */
	} otherwise;
	struct {
		uint64_t half_open, half_open_per_source, connections_per_source;
	} limits;
	int reload, syn_proxy;			/* Index into the words. */
	bool tcp_liberal, tcp_loose;
	uint64_t idle_ms[N_STATES];		/* 0: not given. */
};

#define OTHERWISE(field)                                                         \
	(offsetof(struct firewall_options, otherwise.field) -                    \
	 offsetof(struct firewall_options, otherwise))
#define LIMITS(field)                                                            \
	(offsetof(struct firewall_options, limits.field) -                       \
	 offsetof(struct firewall_options, limits))

static const struct config_field otherwise_fields[] = {
	{ "out", CONFIG_ENUM, OTHERWISE(out),
	  .words = (const char *const[]){ "allow", "deny", "reject", NULL },
	  .help = "connections from inside that no rule matches (default: allow)" },
	{ "in", CONFIG_ENUM, OTHERWISE(in),
	  .words = (const char *const[]){ "deny", "allow", "reject", NULL },
	  .help = "connections from outside that no rule matches (default: deny)" },
	{ 0 }
};

#define MAX_LIMIT (1ULL << 32)

static const struct config_field limits_fields[] = {
	{ "half_open", CONFIG_UINT, LIMITS(half_open), .min = 1, .max = MAX_LIMIT,
	  .help = "TCP connections that are not established yet, in the whole store "
		  "(default: no limit)" },
	{ "half_open_per_source", CONFIG_UINT, LIMITS(half_open_per_source), .min = 1,
	  .max = MAX_LIMIT,
	  .help = "the same that an IPv4 address, or an IPv6 /64, has opened "
		  "(default: no limit)" },
	{ "connections_per_source", CONFIG_UINT, LIMITS(connections_per_source), .min = 1,
	  .max = MAX_LIMIT,
	  .help = "connections that it has opened and that have not ended (default: no "
		  "limit)" },
	{ 0 }
};

static const struct config_field timeout_fields[] = {
#define X(id, option, seconds, text)                                             \
	{ option, CONFIG_DURATION, id * sizeof(uint64_t), .min = 1000,           \
	  .max = 30ULL * 86400 * 1000, .help = text " (default: " #seconds "s)" },
	FIREWALL_STATES(X)
#undef X
	{ 0 }
};

static const struct config_field firewall_fields[] = {
	{ "rules", CONFIG_LIST, offsetof(struct firewall_options, rules),
	  .max = RULES_MAX, .fields = rule_fields, .item_bytes = sizeof(struct rule),
	  .help = "a list of rules; the first that matches a new connection counts" },
	{ "default", CONFIG_MAP, offsetof(struct firewall_options, otherwise),
	  .fields = otherwise_fields, .help = "what happens when no rule matches" },
	{ "limits", CONFIG_MAP, offsetof(struct firewall_options, limits),
	  .fields = limits_fields, .help = "how many connections there may be" },
	{ "reload", CONFIG_ENUM, offsetof(struct firewall_options, reload),
	  .words = (const char *const[]){ "keep", "reevaluate", NULL },
	  .help = "keep: what old rules let in stays; reevaluate: its next packet is "
		  "judged by the new ones (default: keep)" },
	{ "syn_proxy", CONFIG_ENUM, offsetof(struct firewall_options, syn_proxy),
	  .words = (const char *const[]){ "off", "auto", "always", NULL },
	  .help = "SYNs are answered with cookies. auto: those that a limit would drop "
		  "(default: off)" },
	{ "tcp_liberal", CONFIG_BOOL, offsetof(struct firewall_options, tcp_liberal),
	  .help = "TCP segments outside of the window pass, but for RSTs (default: no)" },
	{ "tcp_loose", CONFIG_BOOL, offsetof(struct firewall_options, tcp_loose),
	  .help = "TCP connections whose opening was not seen are judged by the rules "
		  "(default: no, they are dropped)" },
	{ "timeouts", CONFIG_MAP, offsetof(struct firewall_options, idle_ms),
	  .fields = timeout_fields,
	  .help = "how long a connection without packets is remembered, by its state" },
	{ 0 }
};

static void
set_idle(struct firewall *fw, const uint64_t *given_ms)
{
	static const uint32_t idle_s[N_STATES] = {
#define X(id, option, seconds, help) seconds,
		FIREWALL_STATES(X)
#undef X
	};

	for (unsigned int i = 0; i < N_STATES; i++)
		fw->idle_ms[i] = given_ms[i] != 0 ? (uint32_t)given_ms[i]
						  : idle_s[i] * 1000;
	fw->udp6_ms = given_ms[UDP] != 0 ? (uint32_t)given_ms[UDP] : 120 * 1000;
}

static int
firewall_init(const void *from, void **state)
{
	static const enum rule_action out[] = { RULE_ALLOW, RULE_DENY, RULE_REJECT };
	static const enum rule_action in[] = { RULE_DENY, RULE_ALLOW, RULE_REJECT };
	const struct firewall_options *options = from;
	struct firewall *fw = calloc(1, sizeof(*fw));

	if (fw == NULL)
		return -ENOMEM;

	int err = rules_new(&options->rules, &fw->rules);

	if (err != 0) {
		free(fw);
		return err;
	}
	fw->otherwise[RULE_OUT] = out[options->otherwise.out];
	fw->otherwise[RULE_IN] = in[options->otherwise.in];
	fw->id = (uint32_t)hash_fold(rules_id(fw->rules) + 1ULL,
				     0x9e3779b97f4a7c15u +
					     (uint64_t)fw->otherwise[RULE_OUT] * 4 +
					     fw->otherwise[RULE_IN]);
	fw->reevaluates = options->reload == 1;
	fw->liberal = options->tcp_liberal;
	fw->loose = options->tcp_loose;
	fw->proxy = (enum proxy)options->syn_proxy;
	fw->max_half_open = (int64_t)options->limits.half_open;
	fw->max_half_open_source = (int64_t)options->limits.half_open_per_source;
	fw->max_connections_source = (int64_t)options->limits.connections_per_source;
	fw->counts_connections = fw->max_connections_source > 0;
	set_idle(fw, options->idle_ms);
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

/* --- rules -------------------------------------------------------------------- */

static enum rule_action
match(const struct firewall *fw, enum nf_side from, const struct flow *flow,
      uint32_t *rule)
{
	enum rule_direction direction = from == NF_INSIDE ? RULE_OUT : RULE_IN;
	enum rule_action action = rules_match(fw->rules, direction, flow, rule);

	return action == RULE_NONE ? fw->otherwise[direction] : action;
}

enum rule_action
firewall_judge(struct nf_run *r, struct view *v)
{
	if (!v->judged) {
		v->action = match(v->fw, nf_side(r), v->flow, &v->rule);
		v->judged = true;
	}
	return v->action;
}

enum nf_verdict
firewall_deny(struct nf_run *r, const struct view *v)
{
	if (v->action == RULE_REJECT && nf_checksum_ok(r))
		nf_refuse(r, nf_is_tcp(r) ? REFUSE_RST : REFUSE_PROHIBITED);
	return nf_drop(r, NF_DROP_POLICY);
}

enum nf_verdict
firewall_open(struct nf_run *r, struct view *v, const struct connection *first)
{
	struct connection next = *first;

	if (firewall_judge(r, v) != RULE_ALLOW)
		return firewall_deny(r, v);
	next.rule = (uint16_t)v->rule;
	next.rules = v->fw->id;
	if (next.counted == 0) {
		enum nf_verdict verdict = firewall_count(r, v, &next);

		if (v->crowded && v->fw->proxy == PROXY_AUTO)
			return firewall_proxy_answer(r, v);
		if (verdict != NF_SEND)
			return verdict;
	}
	return firewall_save(r, v, &next);
}

enum nf_verdict
firewall_pass(struct nf_run *r, struct view *v)
{
	return v->changed ? firewall_save(r, v, v->c) : NF_SEND;
}

/* Judges a connection by rules that are not those which let it in, in the direction in
 * which it was opened; of a query that both sides have asked, each for itself.  False: it
 * is forgotten. */
static bool
reevaluate(struct nf_run *r, struct view *v)
{
	struct flow reverse;
	uint32_t rule;

	v->now = *v->c;
	flow_reverse(v->flow, &reverse);
	for (enum nf_side side = NF_INSIDE; side <= NF_OUTSIDE; side++) {
		const struct flow *flow = side == nf_side(r) ? v->flow : &reverse;

		if ((v->now.track.opened >> side & 1) == 0)
			continue;

		enum rule_action action = match(v->fw, side, flow, &rule);

		if (action == RULE_ALLOW) {
			v->now.rule = (uint16_t)rule;
			continue;
		}
		v->now.track.opened &= (uint8_t)~(1 << side);
		v->action = action;
	}
	if (v->now.track.opened == 0) {
		firewall_forget(r, v);
		return false;
	}
	v->now.rules = v->fw->id;
	v->c = &v->now;
	v->changed = true;
	return true;
}

/* --- protocols that have no file of their own --------------------------------- */

/* A question and its answers: two states and nothing else. */
static enum nf_verdict
pair_packet(struct nf_run *r, struct view *v, enum state asked, enum state answered)
{
	struct connection next = { .track = { .state = (uint8_t)asked,
					      .opened = side_bit(r) } };

	if (v->c == NULL)
		return firewall_open(r, v, &next);
	if (v->c->track.state == answered)
		nf_established(r);
	if (v->c->track.state == answered || (v->c->track.opened & side_bit(r)) != 0)
		return firewall_pass(r, v);
	next = *v->c;
	next.track.state = (uint8_t)answered;
	return firewall_save(r, v, &next);
}

/* Both sides may ask under the same identifier; each is answered only if it did. */
static enum nf_verdict
query_packet(struct nf_run *r, struct view *v)
{
	struct connection next = { 0 };
	uint8_t opened = v->c != NULL ? v->c->track.opened : 0;

	if (nf_packet(r)->flags & PACKET_ICMP_REPLY)
		return opened & ~side_bit(r) ? firewall_pass(r, v)
					     : nf_drop(r, NF_DROP_STATE);
	if (opened & side_bit(r))
		return firewall_pass(r, v);
	if (v->c != NULL)
		next = *v->c;
	next.track.state = ICMP;
	next.track.opened = opened | side_bit(r);
	return firewall_open(r, v, &next);
}

/* What is behind the ports of another fragment: nothing here can be looked at. */
static enum nf_verdict
later_fragment(struct nf_run *r, struct view *v)
{
	if (!firewall_find_elsewhere(r, v))
		return NF_WAIT;
	if (v->c != NULL)
		return firewall_pass(r, v);
	if (v->key->protocol == PROTO_TCP || v->key->protocol == PROTO_SCTP)
		return nf_drop(r, NF_DROP_STATE);
	return firewall_judge(r, v) == RULE_ALLOW ? NF_SEND : firewall_deny(r, v);
}

/* --- packets ------------------------------------------------------------------ */

static enum nf_verdict
by_protocol(struct nf_run *r, struct view *v)
{
	uint8_t protocol = v->key->protocol;

	if (protocol == PROTO_TCP)
		return firewall_tcp(r, v);
	if (protocol == PROTO_SCTP)
		return firewall_sctp(r, v);
	/* What the rules let in need not be looked for any further. */
	if (v->c == NULL && firewall_judge(r, v) != RULE_ALLOW &&
	    !firewall_find_elsewhere(r, v))
		return NF_WAIT;
	switch (protocol) {
	case PROTO_UDP:
		return pair_packet(r, v, UDP, UDP_STREAM);
	case PROTO_ICMP:
	case PROTO_ICMP6:
		return query_packet(r, v);
	case PROTO_GRE:
		return pair_packet(r, v, GRE, GRE_STREAM);
	default:
		return pair_packet(r, v, GENERIC, GENERIC);
	}
}

/* A packet of any kind; 'c' is its connection if that was looked for. */
static __attribute__((noinline)) enum nf_verdict
any_packet(struct nf_run *r, bool looked, const struct connection *c)
{
	const struct firewall *fw = nf_static(r);
	const struct packet *p = nf_packet(r);
	uint8_t protocol = nf_flow(r)->protocol;
	bool later = (p->flags & PACKET_LATER_FRAGMENT) != 0;
	struct view v = { .fw = fw, .flow = nf_flow(r), .key = nf_connection(r),
			  .c = c, .counted = c == NULL };
	struct flow flow, key;

	if ((protocol == PROTO_ICMP || protocol == PROTO_ICMP6) && !later &&
	    (p->flags & PACKET_ICMP_QUERY) == 0)
		return firewall_icmp(r, fw);
	if (protocol == PROTO_SCTP && !later) {
		if (!firewall_sctp_flow(r, &flow, &key))
			return nf_drop(r, NF_DROP_STATE);
		v.flow = &flow;
		v.key = &key;
	}
	if (!looked && !firewall_find(r, &v, (nf_is_syn(r) && !later) || fw->reevaluates))
		return NF_WAIT;
	/* Where it should not be, it has to be judged as well. */
	if (fw->reevaluates && !firewall_find_elsewhere(r, &v))
		return NF_WAIT;
	if (fw->reevaluates && v.c != NULL && v.c->rules != fw->id && !reevaluate(r, &v))
		return firewall_deny(r, &v);
	if (later)
		return later_fragment(r, &v);
	return by_protocol(r, &v);
}

/* Whether it is a segment amid an open connection, and changes nothing. */
static inline bool
passes_at_once(struct nf_run *r, const struct firewall *fw, const struct connection *c)
{
	struct tcp_segment s;
	struct tcp_track next;

	if (c->track.state != ESTABLISHED || c->shift != 0 ||
	    (fw->reevaluates && c->rules != fw->id))
		return false;
	tcp_segment_of(nf_packet(r), &s);
	return tcp_track(&c->track, nf_side(r), &s, fw->liberal, &next) == TRACK_PASS;
}

/* Nearly all packets are such segments.  All that these need is one function, as calls
 * took 8 % of their cycles. */
static __attribute__((flatten)) enum nf_verdict
firewall_packet(struct nf_run *r)
{
	const struct firewall *fw = nf_static(r);
	const struct packet *p = nf_packet(r);
	const struct connection *c;

	if (!nf_is_tcp(r) || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) != 0 ||
	    (p->flags & PACKET_LATER_FRAGMENT) != 0 || fw->counts_connections)
		return any_packet(r, false, NULL);
	c = firewall_uncounted(r, nf_connection(r));
	if (nf_pending(r))
		return NF_WAIT;
	if (c == NULL || !passes_at_once(r, fw, c))
		return any_packet(r, true, c);
	nf_established(r);
	return NF_SEND;
}

static void
firewall_note(struct nf_run *r, void *note)
{
	const struct firewall *fw = nf_static(r);

	if (fw->proxy != PROXY_OFF)
		firewall_cookie_note(r, note);
}

static const void *
emits_by(const void *from)
{
	const struct firewall_options *options = from;

	return options->syn_proxy != PROXY_OFF ? &options->syn_proxy : NULL;
}

const struct nf nf_firewall = {
	.name = "firewall",
	.options = firewall_fields,
	.options_bytes = sizeof(struct firewall_options),
	.init = firewall_init,
	.fini = firewall_fini,
	.packet = firewall_packet,
	.note = firewall_note,
	.note_ms = 5 * 1000,
	.passes_non_ip = true,
	.needs_ports = true,
	.keeps_flow = true,
	.emits_by = emits_by,
	.may_pass_unseen = true,
};
