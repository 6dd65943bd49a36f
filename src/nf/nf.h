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

enum {
	NF_MAX_READS = 14,			/* In one run. */
	NF_MAX_WRITES = 12,			/* In one run, deletes and all. */
	NF_MAX_TOUCHES = 4,			/* In one run. */
	NF_MAX_VALUE_BYTES = 2048,
	NF_MAX_KEY_BYTES = 64,
	NF_MAX_MEMBERS = 65536,			/* Of a range. */
};

enum nf_verdict {
	NF_WAIT,				/* A value is not here yet. */
	NF_SEND,				/* Out of the other side's port. */
	NF_DROP,				/* Counted under nf_reason(). */
	NF_KEEP,				/* Lives on in what the run wrote. */
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
	X(BUFFERS, "buffers", "no packet buffer was free")                       \
	X(TRANSMIT, "transmit", "the port did not take it")

enum nf_drop {
#define X(id, name, help) NF_DROP_##id,
	NF_DROPS(X)
#undef X
	NF_N_DROPS
};

struct nf_run;

/* The packet, parsed; headers are as received: rewrites happen at the end. */
const struct packet *nf_packet(const struct nf_run *r);
/* The flow as received. */
const struct flow *nf_flow(const struct nf_run *r);
/* The direction-independent name of the connection (flow_canonical()). */
const struct flow *nf_connection(struct nf_run *r);
/* The side on which the packet came in. */
enum nf_side nf_side(const struct nf_run *r);
/* What init() made; constant while the run lasts. */
const void *nf_static(const struct nf_run *r);
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
/* Sends a packet of its own, an Ethernet frame of 'bytes' (at most 2048) bytes,
 * behind the run's packet and out of the same port as that would leave. */
void nf_emit(struct nf_run *r, const void *frame, unsigned int bytes);
/* Reports that signature 'id' matched, once the run has ended. */
void nf_alert(struct nf_run *r, uint32_t id);
/* Drops for a reason: return nf_drop(r, NF_DROP_POLICY). */
enum nf_verdict nf_drop(struct nf_run *r, enum nf_drop reason);

#include "nf/table.h"

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
	/* Packets that are not IP (ARP, LLDP...) pass unchanged. */
	bool passes_non_ip;
	/* 'on_store_loss: pass' may be chosen: a packet that passes as it came does no
	 * harm that the operator cannot judge. */
	bool may_pass_unseen;
};

/* The function of that name, or NULL. */
const struct nf *nf_find(const char *name);
/* Names of all functions, separated by ", ". */
const char *nf_names(void);
/* Gives the function's tables, in a fixed order, and numbers them from 'first'.
 * Returns how many; 'max' bounds them. */
unsigned int nf_tables(const struct nf *nf, unsigned int first, struct nf_table **tables,
		       unsigned int max);

#endif
