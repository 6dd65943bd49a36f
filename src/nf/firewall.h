/*
 * firewall.h - what the files of the firewall share: firewall.c (options, and which
 * packet goes where), firewall_records.c (connections, and what is counted),
 * firewall_tcp.c, firewall_sctp.c, firewall_icmp.c, firewall_proxy.c and
 * firewall_cookie.c.
 */
#ifndef NF_FIREWALL_H
#define NF_FIREWALL_H

#include "nf/nf.h"

#include "nf/rules.h"
#include "nf/tcp_track.h"

enum {
	PROTO_GRE = 47,
	PROTO_SCTP = RULE_SCTP,
};

/* States, idle times in seconds, and what the option is for.  The first are those of
 * tcp_track.h.  Times are the defaults of Linux's nf_conntrack (its documentation, and
 * nf_conntrack_proto_*.c), but for tcp_reset, which is explained in tcp_track.h. */
#define FIREWALL_STATES(X)                                                       \
	X(SYN_SENT, "tcp_syn_sent", 120, "TCP, after a SYN")                     \
	X(SYN_SENT2, "tcp_syn_sent2", 120, "TCP, after a SYN from both sides")   \
	X(SYN_RECV, "tcp_syn_recv", 60, "TCP, after the SYN/ACK")                \
	X(ESTABLISHED, "tcp_established", 432000, "TCP, open")                   \
	X(FIN_WAIT, "tcp_fin_wait", 120, "TCP, after a FIN")                     \
	X(CLOSE_WAIT, "tcp_close_wait", 60, "TCP, after the FIN's ACK")          \
	X(LAST_ACK, "tcp_last_ack", 30, "TCP, after a FIN from both sides")      \
	X(TIME_WAIT, "tcp_time_wait", 120, "TCP, closed")                        \
	X(RESET, "tcp_reset", 300, "TCP, after a RST that may have been right")  \
	X(CLOSE, "tcp_close", 10, "TCP, after a RST that was right")             \
	X(UDP, "udp", 30, "UDP, before an answer")                               \
	X(UDP_STREAM, "udp_stream", 120, "UDP, answered")                        \
	X(ICMP, "icmp", 30, "ICMP and ICMPv6 queries")                           \
	X(GRE, "gre", 30, "GRE, before an answer")                               \
	X(GRE_STREAM, "gre_stream", 180, "GRE, answered")                        \
	X(SCTP_WAIT, "sctp_cookie_wait", 3, "SCTP, after an INIT")               \
	X(SCTP_ECHOED, "sctp_cookie_echoed", 3, "SCTP, after the COOKIE ECHO")   \
	X(SCTP_OPEN, "sctp_established", 432000, "SCTP, open")                   \
	X(SCTP_SHUTDOWN, "sctp_shutdown", 3, "SCTP, after a SHUTDOWN")           \
	X(SCTP_CLOSED, "sctp_closed", 10, "SCTP, closed or aborted")             \
	X(SCTP_PROBED, "sctp_heartbeat_sent", 30, "SCTP, another path, asked")   \
	X(SCTP_PATH, "sctp_heartbeat_acked", 210, "SCTP, another path, answered") \
	X(PROXIED, "tcp_proxied", 30, "TCP, until a server answers the SYN proxy") \
	X(GENERIC, "generic", 600, "other protocols")

enum state {
#define X(id, option, seconds, help) id,
	FIREWALL_STATES(X)
#undef X
	N_STATES
};

static_assert((int)SYN_SENT == TRACK_SYN_SENT && (int)CLOSE == TRACK_CLOSE &&
		      (int)UDP == TRACK_N_STATES,
	      "the first states are TCP's");

/* What a connection is in the count of, until it is given back: 'counted'. */
enum {
	COUNTS_HALF_OPEN = 1 << 0,		/* Of all that are half-open. */
	COUNTS_HALF_OPEN_SOURCE = 1 << 1,	/* Of those of its source. */
	COUNTS_CONNECTION = 1 << 2,		/* Of its source's connections. */
	COUNTS_DESTINATION = 1 << 3,		/* Its source is the key's destination. */
	COUNTS_HALF = COUNTS_HALF_OPEN | COUNTS_HALF_OPEN_SOURCE,
	COUNTS_ANY = COUNTS_HALF | COUNTS_CONNECTION,
};

struct connection {				/* Key: the flow, from either side. */
	/* Of all: 'state' (enum state) and 'opened', the sides that did.  Of TCP: the rest.
	 * Of SCTP: 'end' is the verification tag of the packets of that side. */
	struct tcp_track track;
	uint16_t rule;				/* That let it in, from 1; 0: default. */
	uint8_t counted;			/* COUNTS_...: then it is in 'counted'. */
	uint8_t epoch;				/* In which it was written: the high byte.  The
						 * low one is 'track.owner'. */
	uint32_t rules;				/* The id of those it is one of. */
	/* Through a SYN proxy: what is to be added to the sequence numbers of the server. */
	uint32_t shift;
};

static_assert(sizeof(struct connection) == 48, "a connection in 108 bytes of the store");

enum proxy {
	PROXY_OFF,
	PROXY_AUTO,				/* Where a limit would drop a SYN. */
	PROXY_ALWAYS,
};

struct firewall {
	struct rules *rules;
	uint32_t id;				/* Of them and what stands for none. */
	enum rule_action otherwise[2];		/* By rule_direction: without a rule. */
	bool reevaluates;			/* By new rules, what old ones let in. */
	bool liberal, loose;			/* As nf_conntrack has them. */
	bool counts_connections;
	enum proxy proxy;
	uint32_t idle_ms[N_STATES];
	uint32_t udp6_ms;			/* The same of UDP in IPv6, unanswered. */
	int64_t max_half_open;			/* 0: no limit, of any of them. */
	int64_t max_half_open_source, max_connections_source;
};

/* A run's view of its connection. */
struct view {
	const struct firewall *fw;
	const struct flow *flow;		/* As the packet has it... */
	const struct flow *key;			/* ...and as the record. */
	const struct connection *c;		/* NULL: there is none. */
	bool counted;				/* It is in that table... */
	bool looked;				/* ...and the other one was asked. */
	bool changed;				/* 'c' is 'now', to be written. */
	bool judged;				/* 'action' and 'rule' are set. */
	bool glanced;				/* 'half_open' and 'source' are. */
	bool crowded;				/* Too many are half-open for one more. */
	enum rule_action action;
	uint32_t rule;
	const void *half_open, *source;		/* Counters; NULL: they are 0. */
	struct connection now;
};

/* What the packet's flow is on each side. */
static inline uint8_t
side_bit(const struct nf_run *r)
{
	return (uint8_t)(1 << nf_side(r));
}

/* --- firewall.c --------------------------------------------------------------- */

/* What the rules say of opening the packet's flow from its side. */
enum rule_action firewall_judge(struct nf_run *r, struct view *v);
/* Drops what they do not allow, and says so if they do. */
enum nf_verdict firewall_deny(struct nf_run *r, const struct view *v);
/* Opens a connection with this record, if the rules and limits let it. */
enum nf_verdict firewall_open(struct nf_run *r, struct view *v,
			      const struct connection *first);
/* Sends the packet; its connection stays as it is. */
enum nf_verdict firewall_pass(struct nf_run *r, struct view *v);

/* --- firewall_records.c ------------------------------------------------------- */

/* The record in the table of those that are not counted, or NULL. */
const struct connection *firewall_uncounted(struct nf_run *r, const struct flow *key);
/* Sets 'v->c'.  'both': looks wherever it may be, otherwise where it should be.  False:
 * pending. */
bool firewall_find(struct nf_run *r, struct view *v, bool both);
/* If it was not found: looks where it may be besides. */
bool firewall_find_elsewhere(struct nf_run *r, struct view *v);
/* Like that of a flow which is not the packet's, without a touch. */
bool
firewall_peek(struct nf_run *r, const struct flow *key, const struct connection **out);
/* Counts what is about to be opened in '*next', and in the store.  NF_WAIT; NF_DROP: a
 * limit is reached; NF_SEND: it may be saved. */
enum nf_verdict firewall_count(struct nf_run *r, struct view *v, struct connection *next);
/* Writes the connection: 'v->c' becomes 'next'.  Takes it off counts that it has left. */
enum nf_verdict firewall_save(struct nf_run *r, struct view *v,
			      const struct connection *next);
/* Whether the record was written before the store's last restart or failover: it may be
 * older than what was written last... */
bool firewall_is_older(const struct nf_run *r, const struct flow *key,
		       const struct connection *c);
/* ...or is said to be of now. */
void firewall_renew(const struct nf_run *r, const struct flow *key,
		    struct connection *c);
/* Deletes 'v->c'. */
void firewall_forget(struct nf_run *r, struct view *v);

/* --- firewall_cookie.c, firewall_proxy.c -------------------------------------- */

struct firewall_syn {
	uint32_t seq;
	uint16_t mss;
	bool sack;
};

/* What note() has to do for them. */
void firewall_cookie_note(struct nf_run *r, void *note);
/* False: there is no key yet. */
bool firewall_cookie_make(const struct nf_run *r, const struct flow *flow,
			  const struct firewall_syn *syn, uint32_t *cookie);
/* Whether it was made for the flow and 'syn->seq'; sets the rest of '*syn'. */
bool firewall_cookie_check(const struct nf_run *r, const struct flow *flow,
			   uint32_t cookie, struct firewall_syn *syn);

/* Answers a SYN with a cookie. */
enum nf_verdict firewall_proxy_answer(struct nf_run *r, struct view *v);
/* Whether a segment brings a cookie back... */
bool
firewall_proxy_accepts(struct nf_run *r, struct view *v, const struct tcp_segment *s);
/* ...which makes the record, and a SYN to the server. */
enum nf_verdict firewall_proxy_open(struct nf_run *r, struct view *v,
				    const struct tcp_segment *s);
/* A segment of a connection in PROXIED. */
enum nf_verdict firewall_proxy_segment(struct nf_run *r, struct view *v,
				       const struct tcp_segment *s);
/* Of a connection with a shift: makes the segment's numbers the record's... */
void firewall_proxy_take(const struct connection *c, unsigned int side,
			 struct tcp_segment *s);
/* ...and the packet's those that the other end knows. */
void firewall_proxy_shift(struct nf_run *r, const struct connection *c);

/* --- the others --------------------------------------------------------------- */

enum nf_verdict firewall_tcp(struct nf_run *r, struct view *v);
enum nf_verdict firewall_sctp(struct nf_run *r, struct view *v);
/* The flow of an SCTP packet, with its ports, and its key.  False: it is cut short. */
bool firewall_sctp_flow(struct nf_run *r, struct flow *flow, struct flow *key);
/* ICMP that is not a query. */
enum nf_verdict firewall_icmp(struct nf_run *r, const struct firewall *fw);

#endif
