/*
 * nf.h - all that the author of a network function includes.
 *
 * A function is a pure function from a packet and some values to a verdict and
 * some writes.  Its handler is restartable (docs/writing-a-function.md):
 *
 *   - A run that returns NF_WAIT never happened.  What it asked for is fetched
 *     and the handler is called again from the top.  So: read, ask nf_pending(),
 *     then decide.
 *   - The writes of a run happen together or not at all, and only if every value
 *     that it read is still current; if not, it is run again.  They all lie in one
 *     partition.
 *   - The packet leaves after its writes are acknowledged, in order within its
 *     flow.
 *   - A value read lives until the run ends, and is the one before the run's own
 *     writes.
 *   - A handler has no other effects: no globals written, no clock, no
 *     allocation, no log line.
 *
 * Several functions may be a chain.  A packet from inside goes through them in the order
 * of the file, one from outside in the reverse; each sees the flow as those before it have
 * rewritten it, and all that they write is one group.
 */
#ifndef NF_H
#define NF_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "net/packet.h"
#include "net/refuse.h"
#include "net/tunnel.h"

enum {
	NF_MAX_READS = 16,			/* In one run, of a whole chain. */
	NF_MAX_WRITES = 16,			/* The same, deletes and all. */
	NF_MAX_TOUCHES = 8,			/* The same. */
	NF_MAX_VALUE_BYTES = 2048,
	NF_MAX_KEY_BYTES = 64,
	NF_MAX_MEMBERS = 65536,			/* Of a range. */
	NF_MAX_NOTE_BYTES = 1024,		/* What a pipe remembers: nf_note(). */
	NF_MAX_TASK_BYTES = 256,		/* nf_task(), and what comes of it. */
	NF_MAX_STAGES = 4,			/* Functions in a chain. */
};

enum nf_verdict {
	NF_WAIT,				/* A value is not here yet. */
	NF_SEND,				/* Out of the other side's port. */
	NF_BOUNCE,				/* Out of the port it came in on. */
	NF_TURN,				/* Rewritten, it arrives anew, as if on
						 * the other side: a hairpin. */
	NF_DROP,				/* Counted under nf_reason(). */
	NF_KEEP,				/* Lives on in what the run wrote. */
	NF_AGAIN,				/* Arrives anew at once, with what
						 * nf_set_ports() said; if that was not
						 * called, to look for ports again. */
};

enum nf_side {
	NF_INSIDE,
	NF_OUTSIDE,
};

/* Why packets die: every one of them is counted under one of these. */
#define NF_DROPS(X)                                                              \
	X(PARSE, "parse", "cut short, or its lengths contradict each other")     \
	X(NOT_IP, "not_ip", "not IPv4 or IPv6, and the function does not pass it") \
	X(VERDICT, "verdict", "the function said so")                            \
	X(POLICY, "policy", "no rule allows it")                                 \
	X(STATE, "state", "belongs to no connection, or is not valid in its state") \
	X(CHECKSUM, "checksum", "would create state, but its checksum is wrong") \
	X(FRAGMENT, "fragment", "a fragment, and the function needs the ports")  \
	X(BACKEND, "backend", "no backend to send it to")                        \
	X(PORTS, "ports", "no free outside port was found")                      \
	X(SIGNATURE, "signature", "a signature says drop")                       \
	X(LIMIT, "limit", "more is buffered, or counted, than is allowed")       \
	X(CONFLICT, "conflict", "still in conflict after 8 runs")                \
	X(STORE_LOST, "store_lost", "the store did not answer in time")          \
	X(STORE_REFUSED, "store_refused", "the store is out of memory")          \
	X(STORE_FULL, "store_full", "the table is at its limit")                 \
	X(FORMAT, "format", "its record was written by another version")         \
	X(TURNED, "turned", "would turn a second time: a loop")                   \
	X(TOO_BIG, "too_big", "longer than the MTU, and not to be fragmented")   \
	X(BUFFERS, "buffers", "no packet buffer was free")                       \
	X(TRANSMIT, "transmit", "the port did not take it")

enum nf_drop {
#define X(id, name, help) NF_DROP_##id,
	NF_DROPS(X)
#undef X
	NF_N_DROPS
};

struct nf_run;

/* The packet, parsed.  Its headers are as received: rewrites happen at the end.  Its
 * flow is as this function sees it: in a chain, as the functions before have rewritten
 * it; of a fragment other than the first, with the ports of the first. */
const struct packet *nf_packet(const struct nf_run *r);
/* The flow of nf_packet(). */
const struct flow *nf_flow(const struct nf_run *r);
/* The direction-independent name of the connection (flow_canonical()). */
const struct flow *nf_connection(struct nf_run *r);
/* Of an ICMP error: the flow of the packet that it quotes (packet_inner()), in the
 * direction in which that travelled.  False: it quotes nothing that has a flow. */
bool nf_quoted(const struct nf_run *r, struct flow *quoted);
/* The side on which the packet came in. */
enum nf_side nf_side(const struct nf_run *r);
/* What init() made; constant while the run lasts. */
const void *nf_static(const struct nf_run *r);
/* What the function's note() last made in this pipe, or zeros: NF_MAX_NOTE_BYTES.  May
 * be stale: for what is right either way. */
const void *nf_note(const struct nf_run *r);
/* Bytes of the packet that can be read at nf_packet()->data. */
uint32_t nf_head_bytes(const struct nf_run *r);
/* Random, unpredictable from outside; the same until the run is run again after
 * a conflict. */
uint64_t nf_random(const struct nf_run *r);
/* True if a value that was asked for is not here yet: return NF_WAIT. */
bool nf_pending(const struct nf_run *r);
/* Into how many partitions the store is divided. */
unsigned int nf_partitions(const struct nf_run *r);

static inline bool
nf_is_tcp(const struct nf_run *r)
{
	return nf_flow(r)->protocol == PROTO_TCP;
}

/* Opens a connection: SYN without ACK, FIN or RST. */
static inline bool
nf_is_syn(const struct nf_run *r)
{
	return nf_is_tcp(r) && (nf_packet(r)->tcp_flags &
				(TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) == TCP_SYN;
}

/* Whether the packet may create or change state.  One that lies in several buffers
 * cannot be checked here and counts as right, as a fragment does. */
static inline bool
nf_checksum_ok(const struct nf_run *r)
{
	const struct packet *p = nf_packet(r);

	return nf_head_bytes(r) < p->end || packet_checksum_ok(p);
}

/* Rewrites the source or destination when the packet leaves. */
void nf_set_src(struct nf_run *r, const struct endpoint *to);
void nf_set_dst(struct nf_run *r, const struct endpoint *to);
/* The same for the packet that an ICMP error quotes (packet_set_quoted_src()). */
void nf_set_quoted_src(struct nf_run *r, const struct endpoint *to);
void nf_set_quoted_dst(struct nf_run *r, const struct endpoint *to);
/* Adds to the sequence and acknowledgement numbers of a TCP segment, and to those of its
 * SACK blocks (packet_shift_tcp()); of an ICMP error, 'seq' to that of the segment which
 * it quotes. */
void nf_shift_tcp(struct nf_run *r, uint32_t seq, uint32_t ack);
/* Adds to the identification of an IPv4 packet (packet_shift_id()). */
void nf_shift_id(struct nf_run *r, uint16_t id);
/* Sets its Ethernet addresses; NULL: that one stays. */
void nf_set_ethernet(struct nf_run *r, const uint8_t *src, const uint8_t *dst);
/* Puts a header around it, after all rewrites: of IP, or of UDP with GUE (net/tunnel.h). */
void nf_encapsulate(struct nf_run *r, enum tunnel kind, const struct endpoint *src,
		    const struct endpoint *dst);

/* Sends a packet of its own, an Ethernet frame of 'bytes' (at most 2048) bytes,
 * behind the run's packet, whatever its verdict is: out of the other side's port...
 * It does not go through the other functions of a chain. */
void nf_emit(struct nf_run *r, const void *frame, unsigned int bytes);
/* ...or out of the port that the packet came in on. */
void nf_answer(struct nf_run *r, const void *frame, unsigned int bytes);
/* Answers the packet with a refusal made of it (net/refuse.h), unless it is one that is
 * never answered, or this pipe has lately sent too many. */
void nf_refuse(struct nf_run *r, enum refusal how);
/* Reports that signature 'id' matched, once the run has ended. */
void nf_alert(struct nf_run *r, uint32_t id);
/* Reports an event of the function's own, once the run's group is applied: 'event' is an
 * index into its 'events', and the rest what they say of it.  Exactly one for each group
 * that is applied, unless the instance dies at that moment, or the store does not answer:
 * then the event is marked as unconfirmed.  At most 4 in a run. */
void nf_log(struct nf_run *r, unsigned int event, const struct flow *a,
	    const struct endpoint *b, uint64_t number);
/* Has the function's work() do something that blocks, outside of the pipe, once the run's
 * group is applied; done() is told of what came of it.  One in a run, at the most. */
void nf_task(struct nf_run *r, const void *task, unsigned int bytes);
/* The packet belongs to what is established: with 'on_store_loss: established' its
 * like pass for a while without the store. */
void nf_established(struct nf_run *r);
/* Whether packets of this pipe have lately passed without the store: records may be behind
 * what their ends have sent each other. */
bool nf_unseen(const struct nf_run *r);
/* Another number after a restart or failover of the partition's server, and the same at all
 * instances: records written in another epoch may lack what was written last. */
uint16_t nf_epoch(const struct nf_run *r, unsigned int partition);
/* Of a fragment: its flow has these ports, and this protocol, unless that is 0.  Counts
 * when it arrives anew. */
void nf_set_ports(struct nf_run *r, uint8_t protocol, rte_be16_t src_port,
		  rte_be16_t dst_port);
/* A frame of at most 2048 bytes, that of a fragment of the flow with these, arrives anew,
 * on this packet's side and behind it. */
void nf_inject(struct nf_run *r, const void *frame, unsigned int bytes, uint8_t protocol,
	       rte_be16_t src_port, rte_be16_t dst_port);
/* Drops for a reason: return nf_drop(r, NF_DROP_POLICY). */
enum nf_verdict nf_drop(struct nf_run *r, enum nf_drop reason);

#include "nf/table.h"

/* What nf_log() says, as JSON lines: names of the event and of what it is about, which are
 * left out if NULL. */
struct nf_event {
	const char *name, *flow, *endpoint, *number;
	bool line;				/* In the log as well. */
};

/*
 * A function.  'options' describes its section of the configuration file, which
 * is read into a zeroed struct of 'options_bytes'.  init() turns that into what
 * handlers see as nf_static(): on failure it calls config_error() for the place
 * that is wrong and returns a negative errno.  Without init() they see the options.
 * fini() frees it.  Both run at start and at every reload, never while a run uses the
 * state.
 */
struct nf {
	const char *name;			/* That of its file and its section. */
	const struct config_field *options;
	size_t options_bytes;
	int (*init)(const void *options, void **state);
	void (*fini)(void *state);
	enum nf_verdict (*packet)(struct nf_run *r);
	/* A packet that is not IP (ARP, LLDP...), of which only nf_packet()->data,
	 * nf_head_bytes() and nf_side() are there.  It reads and writes no tables. */
	enum nf_verdict (*non_ip)(struct nf_run *r);
	/* Called in every pipe at the start and then every 'note_ms': a handler without a
	 * packet, as '.expired' is (table.h).  What it writes to 'note', zeros before, is
	 * what nf_note() shows from then on, even if there is no room for what it writes.
	 * One that has written is called again at once.  A new nf_static() begins with a
	 * note of zeros. */
	void (*note)(struct nf_run *r, void *note);
	uint32_t note_ms;
	/* A task, in a thread of its own; may block for as long as 'task' allows.  Returns
	 * how many of the NF_MAX_TASK_BYTES bytes at 'result' it set. */
	unsigned int (*work)(const void *state, const void *task, unsigned int bytes,
			     void *result);
	/* What came of it: a handler without a packet. */
	void (*done)(struct nf_run *r, const void *task, const void *result);
	const struct nf_event *events;		/* The last one has no name. */
	/* Packets that are not IP pass unchanged, where there is no non_ip(). */
	bool passes_non_ip;
	/* It needs the ports of fragments: it sees those of a datagram that is whole or
	 * whose first fragment was seen, each with the ports of the first. */
	bool needs_ports;
	/* It rewrites nothing: in a chain, the function behind it is asked what it wants
	 * to read before this one has decided. */
	bool keeps_flow;
	/* It cannot be part of a chain: the packets that it holds back, and emits later,
	 * would not go through the others. */
	bool alone;
	/* The option by which it emits packets that a function behind it would have to
	 * rewrite; NULL: none does. */
	const void *(*emits_by)(const void *options);
	/* 'on_store_loss' may be 'pass' or 'established': a packet that passes as it came
	 * does no harm that the operator cannot judge. */
	bool may_pass_unseen;
};

/* The function of that name, or NULL. */
const struct nf *nf_find(const char *name);
/* Names of all functions, separated by ", ". */
const char *nf_names(void);
/* Gives the function's tables, in a fixed order.  Returns how many; 'max' bounds them. */
unsigned int nf_tables(const struct nf *nf, struct nf_table **tables, unsigned int max);

#endif
