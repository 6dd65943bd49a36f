/*
 * harness.h - drives pipes without NIC and server: what the tests of functions share.
 *
 * A bench has one or two pipes of a function, each with its own store; the stores
 * share their partitions, whose clock stands still until a test moves it.  Packets are
 * built from a spec and compared by what a spec can say; all of it asserts, so tests
 * read straight down.
 */
#ifndef NF_HARNESS_H
#define NF_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "pipe/events.h"
#include "pipe/pipe.h"

enum {
	BENCH_PIPES = 2,
	BENCH_FRAME_BYTES = 2048,
	BENCH_RELOADS = 16,
	BENCH_MAX_DATAGRAM = 65536,		/* Of which fragments are made. */
};

/* A packet.  Absent fields are 0 and mean what comes first. */
struct spec {
	enum nf_side side;			/* It comes in on. */
	const char *from, *to;			/* "10.0.0.1:1000"; [2001:db8::1]:1000. */
	uint8_t protocol;			/* 0: TCP. */
	const char *flags;			/* TCP: some of "SAFRPU". */
	uint32_t seq, ack;
	const char *data;
	uint8_t type, code;			/* ICMP; the identifier is the port. */
	const struct spec *quote;		/* ICMP error: its first bytes... */
	unsigned int quote_bytes;		/* ...behind its IP header; 0: 8. */
	uint16_t fragment;			/* Offset in 8 bytes... */
	bool more;				/* ...and whether fragments follow. */
	uint16_t vlan;
	unsigned int padding;			/* Bytes behind the datagram. */
	bool bad_checksum;
	bool arp;				/* Not IP at all. */
	unsigned int data_bytes;		/* Of some data, if 'data' is NULL. */
	/* A fragment of that packet, of which it has all but what stands beside this:
	 * 'part_bytes' from 'fragment' on; 0: all that are left. */
	const struct spec *part_of;
	unsigned int part_bytes;
	/* TCP. */
	uint16_t window;			/* 0: 65535. */
	bool no_window;				/* It is 0. */
	uint16_t mss;				/* Options; 0 or false: not there. */
	uint8_t wscale;				/* WSCALE(shift) */
	bool sack_permitted;
	uint32_t timestamp, timestamp_echo;
	uint32_t sack[4][2];			/* Up to the first that is all 0. */
	const char *options;			/* More of them, raw. */
	unsigned int option_bytes;
	/* UDP. */
	bool no_checksum;			/* It is 0. */
	/* IP. */
	uint32_t id;				/* 0: 0x1234. */
	bool dont_fragment;
	uint8_t ttl, tos;			/* 0: 64, 0. */
	bool bad_ip_checksum;
	/* Ethernet. */
	const char *mac_from, *mac_to;		/* "02:00:00:00:00:02", and ...:01. */
	uint16_t service_vlan;			/* Outside of 'vlan': 802.1ad. */
	const uint8_t *raw;			/* The frame itself... */
	unsigned int raw_bytes;			/* ...and only 'side' counts beside it. */
};

#define WSCALE(shift) ((uint8_t)((shift) + 1))

/* Returns how many of the BENCH_FRAME_BYTES bytes at 'frame' are the packet. */
unsigned int spec_build(const struct spec *spec, uint8_t *frame);

/* What became of a packet: SENT, KEPT, BOUNCED (out of the port where it came in), or
 * DROPPED(reason). */
enum fate {
	SENT = -1,
	KEPT = -2,
	BOUNCED = -3,
};
#define DROPPED(reason) ((int)NF_DROP_##reason)

/* One packet in, and what comes of it.  A packet that is sent leaves as it came but
 * for the endpoints in 'as', with right checksums. */
struct step {
	const char *name;			/* The sentence that it proves. */
	struct spec packet;
	int fate;
	bool writes;				/* Something was written... */
	const char *as;				/* "1.1.1.1:1 > 2.2.2.2:2", or NULL. */
	uint64_t after_ms;			/* The clock moves before. */
	unsigned int emits;			/* Packets behind it. */
	uint32_t alerts;			/* The signature reported; 0: none. */
	unsigned int answers;			/* Packets out of the port where it came in,
						 * behind all else. */
	const char *quoted_as;			/* As 'as', of the packet that it quotes. */
	bool differs;				/* Without 'as': not compared. */
};

struct sent {
	unsigned int pipe;
	enum nf_side side;			/* It left on. */
	unsigned int bytes;
	uint8_t frame[BENCH_FRAME_BYTES];
};

struct bench;

/* 'section' is the function's, as YAML; asserts that it is accepted.  Where 'nf' names
 * several, "firewall,nat", it has a section for each: "firewall: {...}\nnat: {...}". */
struct bench *bench_open(const char *nf, const char *section, unsigned int n_pipes);

struct bench_setup {
	const struct nf *nf;
	const struct nf *other;			/* The second pipe's: another release of
						 * it, without a section. */
	const char *section;
	unsigned int n_pipes, n_partitions;
	bool pass_unseen;
	struct pipe_table table[STORE_MAX_TABLES];
	const struct nf *then[NF_MAX_STAGES - 1]; /* A chain: behind 'nf'. */
	const char *names;			/* Instead of both: "firewall,nat". */
	const char *fragments;			/* The section "fragments". */
	enum pipe_loss loss;
	uint64_t grace_ms;			/* 0: 60 seconds. */
	uint32_t zone;
	uint32_t refusals;			/* 0: 1000. */
	uint32_t mtu[2];
	bool ordered;				/* Packets leave in the order they came. */
	const struct nf *finder;		/* Instead of nf_fragments. */
};
struct bench *bench_open_as(const struct bench_setup *setup);
void bench_close(struct bench *b);
/* From now on the pipe runs with another section. */
void bench_reload(struct bench *b, unsigned int pipe, const char *section);
/* Whether the function, which is one, refuses the section. */
bool bench_refuses(const char *nf, const char *section);

/* Hands a packet to a pipe; it runs with the next turn. */
void bench_put(struct bench *b, unsigned int pipe, const struct spec *spec);
void bench_turn(struct bench *b, unsigned int pipe);
/* Turns until nothing is in flight, and nothing due. */
void bench_settle(struct bench *b);
/* Moves the clock, and lets records expire, or become due. */
void bench_wait(struct bench *b, uint64_t ms);
/* From now on groups wait for replicas, or no longer. */
void bench_hold(struct bench *b, bool hold);
/* From now on frames for the partition come back with this error, and are not applied. */
void bench_fail(struct bench *b, unsigned int partition, int error);

/* Functions make their notes anew, in all pipes. */
void bench_note(struct bench *b);
/* Does all tasks that functions have asked for, here and now, and tells them. */
void bench_work(struct bench *b);
/* Takes an event, as event_describe() has it; NULL: there is none.  Lives until the next
 * one. */
const char *bench_log(struct bench *b);
/* The same, with all that is known of it. */
bool bench_event(struct bench *b, struct pipe_event *out);

/* The store has come back, with what it had: another term begins. */
void bench_fail_over(struct bench *b);

/* From now on the pipe writes records of all tables in this format; 0: in the newest. */
void bench_pin(struct bench *b, unsigned int pipe, uint8_t format);

/* Takes the packet that left first; NULL: none did.  Lives until the next take. */
const struct sent *bench_take(struct bench *b);
/* The same of those that left on that side. */
const struct sent *bench_take_from(struct bench *b, enum nf_side side);
/* The endpoints of a packet, as in struct step; asserts that it is well formed and that
 * its checksums are right. */
const char *sent_endpoints(const struct sent *s);
/* The payload of the same, as a string. */
const char *sent_data(const struct sent *s);
/* All that is known of it; asserts the same.  Lives until the next such call. */
const struct packet *sent_packet(const struct sent *s);
/* The endpoints of the packet that an ICMP error quotes; asserts that there is one, and
 * that the checksums are right. */
const char *sent_quoted(const struct sent *s);
/* "02:00:00:00:00:02 > 02:00:00:00:00:01" */
const char *sent_macs(const struct sent *s);
/* Flags of TCP, in the order "FSRPAU". */
const char *sent_flags(const struct sent *s);

unsigned int bench_pipes(const struct bench *b);
/* Sums over all pipes, since the start. */
struct pipe_stats bench_stats(const struct bench *b);
uint64_t bench_dropped(const struct bench *b, enum nf_drop reason);
uint64_t bench_conflicts(const struct bench *b);
/* Groups that were applied, and records that there are in a table. */
uint64_t bench_writes(const struct bench *b);
uint64_t bench_records(const struct bench *b, const char *table);
/* How many of them are in that format. */
uint64_t bench_formats(const struct bench *b, const char *table, uint8_t format);
/* How many reads of records of that format the pipe has refused. */
uint64_t bench_refused(const struct bench *b, unsigned int pipe, uint8_t format);
/* Takes an alert; 0: there is none. */
uint32_t bench_alert(struct bench *b);

/* Runs a table, one packet at a time: packet i through pipe i modulo their number. */
void bench_steps(struct bench *b, const struct step *steps, unsigned int n);
/* The same on benches of its own: one pipe, two, and two with several partitions. */
void run_steps(const char *nf, const char *section, const struct step *steps,
	       unsigned int n, unsigned int n_shapes);
#define RUN_STEPS(nf, section, steps)                                            \
	run_steps(nf, section, steps, sizeof(steps) / sizeof((steps)[0]), 3)
/* Where it depends on the partition what comes of a packet: with one. */
#define RUN_STEPS_UNDIVIDED(nf, section, steps)                                  \
	run_steps(nf, section, steps, sizeof(steps) / sizeof((steps)[0]), 2)

/* One packet that leaves alone, through the first pipe: how many batches it took. */
uint64_t bench_trips(struct bench *b, const struct spec *packet);

/* Races: packet i goes into pipe i modulo 2, all at once; the pipes take turns as the
 * bits of 'schedule' say, lowest first, for 'n_turns' turns, and then alternate until
 * all is done. */
void bench_race(struct bench *b, const struct spec *packets, unsigned int n,
		unsigned int schedule, unsigned int n_turns);

/* For cmocka_run_group_tests(). */
int bench_start(void **state);

#endif
