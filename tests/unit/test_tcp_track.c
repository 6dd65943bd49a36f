/*
 * test_tcp_track.c - which segments belong to a connection: tables of what happens to one
 * record.  Whole transfers are in test_tcp_transfer.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "nf/tcp_track.h"

enum {
	A = 0,					/* The one that opens. */
	B = 1,
	MIB = 1 << 20,
};

#define NO 0					/* Scale: not offered; others are one more. */
#define PASS TRACK_PASS
#define WRITE TRACK_WRITE
#define OPEN TRACK_OPEN
#define BAD TRACK_INVALID

struct step {
	const char *name;
	unsigned int side;
	const char *flags;
	uint32_t seq, ack, bytes;
	uint16_t window;			/* 0: 1000. */
	enum track_result want;
	enum tcp_state state;
	unsigned int scale;
	uint32_t timestamp, sack;
};

static uint8_t
flags_of(const char *text)
{
	static const char letters[] = "FSRPAU";
	uint8_t flags = 0;

	for (; *text != '\0'; text++)
		flags |= (uint8_t)(1 << (strchr(letters, *text) - letters));
	return flags;
}

static struct tcp_segment
segment_of(const struct step *x)
{
	uint8_t flags = flags_of(x->flags);

	return (struct tcp_segment){
		.seq = x->seq, .ack = x->ack, .sack = x->sack != 0 ? x->sack : x->ack,
		.end = x->seq + x->bytes + ((flags & TCP_SYN) != 0) +
		       ((flags & TCP_FIN) != 0),
		.window = x->window != 0 ? x->window : 1000, .flags = flags,
		.scale = x->scale == NO ? TCP_NO_WSCALE : (uint8_t)(x->scale - 1),
		.has_timestamp = x->timestamp != 0, .timestamp = x->timestamp,
	};
}

/* From a record that there is, or not ('known' false), all on from 'base'. */
static void
run(const struct step *steps, unsigned int n, uint32_t base)
{
	struct tcp_track t = { 0 }, next;
	bool known = false;

	for (unsigned int i = 0; i < n; i++) {
		struct step x = steps[i];
		struct tcp_segment s;
		enum track_result got = OPEN;

		x.seq += base;
		x.ack += strchr(x.flags, 'A') != NULL ? base : 0;
		x.sack += x.sack != 0 ? base : 0;
		s = segment_of(&x);
		if (known)
			got = tcp_track(&t, x.side, &s, false, &next);
		if (got == TRACK_OPEN)
			tcp_track_open(&next, x.side, &s);
		if (got == TRACK_WRITE || got == TRACK_OPEN)
			t = next;
		known = true;
		if (got != x.want || t.state != x.state)
			fail_msg("%s: want %u in %u, got %u in %u", x.name, x.want, x.state,
				 got, t.state);
	}
}

/* At several places of the sequence space: also across its end. */
#define RUN(steps)                                                               \
	do {                                                                     \
		static const uint32_t bases[] = { 0, 0xfffffff0, 0x7fffffc0, 0xffff0000 }; \
		for (unsigned int b = 0; b < 4; b++)                             \
			run(steps, sizeof(steps) / sizeof((steps)[0]), bases[b]); \
	} while (0)

#define SYN_SENT TRACK_SYN_SENT
#define SYN_RECV TRACK_SYN_RECV
#define ESTABLISHED TRACK_ESTABLISHED

/* A has 1001 to send next, B 5001; both may send 64,000, in windows scaled by 64. */
#define HANDSHAKE                                                                \
	{ "SYN", A, "S", 1000, 0, 0, 1000, OPEN, SYN_SENT, 7 },                  \
	{ "SYN/ACK", B, "SA", 5000, 1001, 0, 1000, WRITE, SYN_RECV, 7 },         \
	{ "ACK", A, "A", 1001, 5001, 0, 1000, WRITE, ESTABLISHED }

/* [B30] */
static void
test_windows(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "data", A, "PA", 1001, 5001, 1000, 0, PASS, ESTABLISHED },
		{ "a window and the tolerance ahead", A, "A", 1001 + 1000 + 65536, 5001, 100,
		  0, WRITE, ESTABLISHED },
		{ "the tolerance ahead of the limit, and one", A, "A",
		  1001 + 1000 + 65536 + 65536 + 200000, 5001, 100, 0, BAD, ESTABLISHED },
		{ "far above", A, "A", 1001 + 0x30000000, 5001, 100, 0, BAD, ESTABLISHED },
		{ "an ACK of what may have been sent", B, "A", 5001, 2001, 0, 0, PASS,
		  ESTABLISHED },
		{ "an ACK of what cannot have been sent", B, "A", 5001, 1001 + 300000, 0, 0,
		  BAD, ESTABLISHED },
		{ "a SACK of what cannot have been sent", B, "A", 5001, 2001, 0, 0, BAD,
		  ESTABLISHED, .sack = 1001 + 400000 },
		{ "an ACK of long ago", A, "A", 2001, 5001 - 200000, 0, 0, BAD,
		  ESTABLISHED },
		{ "nothing of it changed anything", B, "PA", 5001, 2001, 100, 0, PASS,
		  ESTABLISHED },
		{ "a keep-alive", A, "A", 1000, 5101, 0, 0, PASS, ESTABLISHED },
		{ "and with its byte", A, "A", 1000, 5101, 1, 0, PASS, ESTABLISHED },
	};

	RUN(steps);
}

/* [B30] As nf_conntrack does: what its receiver has no room for, it drops. */
static void
test_a_sender_may_overshoot_a_window_that_shuts(void **state)
{
	static const struct step steps[] = {
		{ "SYN", A, "S", 1000, 0, 0, 65535, OPEN, SYN_SENT },
		{ "SYN/ACK", B, "SA", 5000, 1001, 0, 65535, WRITE, SYN_RECV },
		{ "ACK", A, "A", 1001, 5001, 0, 65535, WRITE, ESTABLISHED },
		{ "60,000 bytes", B, "A", 5001, 1001, 60000, 65535, PASS, ESTABLISHED },
		{ "the window shuts", A, "A", 1001, 65001, 0, 0, PASS, ESTABLISHED },
		{ "the server goes on", B, "A", 65001, 1001, 60000, 65535, WRITE,
		  ESTABLISHED },
		{ "and on", B, "A", 125001, 1001, 1400, 65535, PASS, ESTABLISHED },
		{ "beyond the tolerance, of which the record lacks all", B, "A",
		  5001 + 140000, 1001, 1400, 65535, PASS, ESTABLISHED },
		{ "which is not followed", A, "A", 1001, 5001 + 3 * 65536, 0, 0, BAD,
		  ESTABLISHED },
		{ "nor is there more", B, "A", 5002 + 3 * 65536, 1001, 1400, 65535, BAD,
		  ESTABLISHED },
		{ "an ACK of what was in the window", A, "A", 1001, 65001, 0, 65535, PASS,
		  ESTABLISHED },
	};

	RUN(steps);
}

/* [B30; case 41] */
static void
test_windows_move(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "60,000 bytes", A, "A", 1001, 5001, 60000, 0, PASS, ESTABLISHED },
		{ "their ACK, with the first scaled window", B, "A", 5001, 61001, 0, 1000,
		  WRITE, ESTABLISHED },
		{ "60,000 more", A, "A", 61001, 5001, 60000, 0, PASS, ESTABLISHED },
		{ "their ACK", B, "A", 5001, 121001, 0, 1000, PASS, ESTABLISHED },
		{ "60,000 more", A, "A", 121001, 5001, 60000, 0, WRITE, ESTABLISHED },
		{ "their ACK", B, "A", 5001, 181001, 0, 1000, WRITE, ESTABLISHED },
		{ "60,000 more", A, "A", 181001, 5001, 60000, 0, PASS, ESTABLISHED },
		{ "their ACK", B, "A", 5001, 241001, 0, 1000, PASS, ESTABLISHED },
		{ "the very first segment again", A, "A", 1001, 5001, 1000, 0, PASS,
		  ESTABLISHED },
		{ "the window shuts", B, "A", 5001, 241001, 0, 0, PASS, ESTABLISHED },
		{ "a probe of it", A, "A", 241001, 5001, 1, 0, PASS, ESTABLISHED },
		{ "it opens wide", B, "A", 5001, 241001, 0, 65535, WRITE, ESTABLISHED },
		{ "and all of it is used", A, "A", 241001 + 4 * MIB, 5001, 1000, 0, WRITE,
		  ESTABLISHED },
		{ "more than half of it again changes nothing", A, "A", 241001 + 7 * MIB, 5001,
		  1000, 0, PASS, ESTABLISHED },
		{ "and more than all of it is not valid", A, "A", 241001 + 9 * MIB, 5001,
		  1000, 0, BAD, ESTABLISHED },
	};

	RUN(steps);
}

static void
test_scales_count_if_both_offer_them(void **state)
{
	static const struct step steps[] = {
		{ "SYN with a scale", A, "S", 1000, 0, 0, 1000, OPEN, SYN_SENT, 15 },
		{ "SYN/ACK without", B, "SA", 5000, 1001, 0, 60000, WRITE, SYN_RECV },
		{ "ACK", A, "A", 1001, 5001, 0, 60000, WRITE, ESTABLISHED },
		{ "not 64 KiB times 16384", B, "A", 5001 + MIB, 1001, 1, 0, BAD,
		  ESTABLISHED },
		{ "but unscaled", B, "A", 5001 + 60000, 1001, 1, 0, PASS, ESTABLISHED },
	};

	RUN(steps);
}

/* [B31; case 37] */
static void
test_rsts(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "far to the left", B, "R", 5001 - 100000, 0, 0, 0, BAD, ESTABLISHED },
		{ "to the left of what was acknowledged", B, "R", 5000, 0, 0, 0, BAD,
		  ESTABLISHED },
		{ "beyond the tolerance", B, "R", 5001 + 65537, 0, 0, 0, BAD, ESTABLISHED },
		{ "with an ACK that is not right", B, "RA", 5001, 1001 + 300000, 0, 0, BAD,
		  ESTABLISHED },
		{ "maybe exact: it passes, but does not close", B, "R", 5001 + 30000, 0, 0, 0,
		  WRITE, TRACK_RESET },
		{ "once", B, "R", 5001 + 50000, 0, 0, 0, PASS, TRACK_RESET },
		{ "the receiver has not minded: its sender goes on", B, "A", 5001, 1001, 100,
		  0, WRITE, ESTABLISHED },
		{ "a RST behind that", B, "R", 5101 + 65536, 0, 0, 0, WRITE, TRACK_RESET },
		{ "the receiver challenges it", A, "A", 1001, 5101, 0, 0, WRITE,
		  ESTABLISHED },
		{ "it has not made room for another one", B, "R", 5101 + 65537, 0, 0, 0, BAD,
		  ESTABLISHED },
		{ "an exact one closes", B, "R", 5101, 0, 0, 0, WRITE, TRACK_CLOSE },
		{ "an answer to it is no longer one", A, "A", 1001, 5101, 0, 0, PASS,
		  TRACK_CLOSE },
		{ "but what goes on behind it is", B, "A", 5101, 1001, 10, 0, WRITE,
		  ESTABLISHED },
		{ "an exact one, with what was acknowledged last", A, "RA", 1001, 5001, 0,
		  0, WRITE, TRACK_CLOSE },
		{ "a new SYN opens anew", A, "S", 77, 0, 0, 0, OPEN, SYN_SENT },
	};
	static const struct step finished[] = {
		HANDSHAKE,
		{ "a FIN", B, "FA", 5001, 1001, 0, 0, WRITE, TRACK_FIN_WAIT },
		{ "acknowledged", A, "A", 1001, 5002, 0, 0, WRITE, TRACK_CLOSE_WAIT },
		{ "a RST before it", B, "R", 5000, 0, 0, 0, BAD, TRACK_CLOSE_WAIT },
		{ "one in its place", B, "R", 5001, 0, 0, 0, WRITE, TRACK_RESET },
	};

	RUN(steps);
	RUN(finished);
}

/* [B32] */
static void
test_rsts_while_opening(void **state)
{
	static const struct step steps[] = {
		{ "SYN", A, "S", 1000, 0, 10, 0, OPEN, SYN_SENT },
		{ "refused without an ACK", B, "R", 0, 0, 0, 0, BAD, SYN_SENT },
		{ "with one that is too high", B, "RA", 0, 1012, 0, 0, BAD, SYN_SENT },
		{ "too low", B, "RA", 0, 1000, 0, 0, BAD, SYN_SENT },
		{ "right", B, "RA", 0, 1001, 0, 0, WRITE, TRACK_CLOSE },
		{ "SYN", A, "S", 2000, 0, 0, 0, OPEN, SYN_SENT },
		{ "SYN/ACK", B, "SA", 5000, 2001, 0, 0, WRITE, SYN_RECV },
		{ "not exact", A, "R", 2002, 0, 0, 0, BAD, SYN_RECV },
		{ "exact", A, "R", 2001, 0, 0, 0, WRITE, TRACK_CLOSE },
	};

	RUN(steps);
}

/* [B31, B32; cases 37, 39] */
static void
test_challenges(void **state)
{
	static const struct step unknown_here[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "a challenge by one who knows an old connection", B, "A", 900000, 777, 0,
		  0, PASS, SYN_SENT },
		{ "or its SYN/ACK", B, "SA", 900000, 777, 0, 0, PASS, SYN_SENT },
		{ "the answer to that", A, "R", 777, 0, 0, 0, PASS, SYN_SENT },
		{ "the SYN again", A, "S", 1000, 0, 0, 0, PASS, SYN_SENT },
		{ "or another one", A, "S", 99, 0, 0, 0, WRITE, SYN_SENT },
		{ "accepted", B, "SA", 5000, 100, 0, 0, WRITE, SYN_RECV },
		{ "a challenge is no ACK of the SYN/ACK", A, "A", 100, 5002, 0, 0, BAD,
		  SYN_RECV },
		{ "confirmed", A, "A", 100, 5001, 0, 0, WRITE, ESTABLISHED },
	};
	static const struct step known_here[] = {
		HANDSHAKE,
		{ "a SYN amid the connection", A, "S", 0x10000000, 0, 0, 0, WRITE,
		  ESTABLISHED },
		{ "again", A, "S", 0x10000000, 0, 0, 0, PASS, ESTABLISHED },
		{ "the challenge", B, "A", 5001, 1001, 0, 0, PASS, ESTABLISHED },
		{ "its answer is exact", A, "R", 1001, 0, 0, 0, WRITE, TRACK_CLOSE },
		{ "the SYN once more", A, "S", 0x10000000, 0, 0, 0, OPEN, SYN_SENT },
	};
	static const struct step unknown_there[] = {
		HANDSHAKE,
		{ "the other side may not", B, "S", 0x20000000, 0, 0, 0, BAD, ESTABLISHED },
		{ "a late first SYN is no new one", A, "S", 1000, 0, 0, 0, PASS,
		  ESTABLISHED },
		{ "nor its answer", B, "SA", 5000, 1001, 0, 0, PASS, ESTABLISHED },
		{ "a SYN amid the connection", A, "S", 0x10000000, 0, 0, 0, WRITE,
		  ESTABLISHED, 3 },
		{ "accepted with the wrong number", B, "SA", 0x20000000, 0x10000002, 0, 0,
		  BAD, ESTABLISHED },
		{ "accepted by one who has forgotten the connection", B, "SA", 0x20000000,
		  0x10000001, 0, 0, WRITE, SYN_RECV, 3 },
		{ "confirmed", A, "A", 0x10000001, 0x20000001, 0, 0, WRITE, ESTABLISHED },
		{ "the old stream is not valid any more", A, "A", 1001, 5001, 100, 0, BAD,
		  ESTABLISHED },
	};

	RUN(unknown_here);
	RUN(known_here);
	RUN(unknown_there);
}

/* [B31, B32; cases 37, 39] */
static void
test_a_client_that_begins_anew_before_it_is_answered(void **state)
{
	static const struct step accepted[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "SYN/ACK, which is lost", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "another SYN", A, "S", 0x10000000, 0, 0, 0, WRITE, SYN_RECV, 3 },
		{ "again", A, "S", 0x10000000, 0, 0, 0, PASS, SYN_RECV, 3 },
		{ "the answer to the first one, again", B, "SA", 5000, 1001, 0, 0, PASS,
		  SYN_RECV },
		{ "that to the other one", B, "SA", 0x20000000, 0x10000001, 0, 0, WRITE,
		  SYN_RECV, 3 },
		{ "confirmed", A, "A", 0x10000001, 0x20000001, 0, 0, WRITE, ESTABLISHED },
	};
	static const struct step challenged[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "SYN/ACK", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "another SYN", A, "S", 0x10000000, 0, 0, 0, WRITE, SYN_RECV },
		{ "its challenge", B, "A", 5001, 1001, 0, 0, PASS, SYN_RECV },
		{ "the answer to that", A, "R", 1001, 0, 0, 0, WRITE, TRACK_CLOSE },
		{ "the SYN again", A, "S", 0x10000000, 0, 0, 0, OPEN, SYN_SENT },
	};
	static const struct step forged[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "SYN/ACK", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "somebody else's SYN", A, "S", 0x10000000, 0, 0, 0, WRITE, SYN_RECV },
		{ "is no obstacle", A, "A", 1001, 5001, 0, 0, WRITE, ESTABLISHED },
		{ "for either side", B, "A", 5001, 1001, 10, 0, PASS, ESTABLISHED },
		{ "its RST still has to be right", B, "R", 5000, 0, 0, 0, BAD, ESTABLISHED },
	};
	static const struct step refused[] = {
		HANDSHAKE,
		{ "a SYN amid the connection", A, "S", 0x10000000, 0, 0, 0, WRITE,
		  ESTABLISHED },
		{ "a refusal of another one", B, "RA", 0x7000000, 0x10000002, 0, 0, BAD,
		  ESTABLISHED },
		{ "the refusal of one who has forgotten the connection", B, "RA", 0x7000000,
		  0x10000001, 0, 0, WRITE, TRACK_CLOSE },
	};

	RUN(accepted);
	RUN(challenged);
	RUN(forged);
	RUN(refused);
}

/* [B30, B32] */
static void
test_repeated_syns_that_differ(void **state)
{
	static const struct step fast[] = {
		{ "SYN with data", A, "S", 1000, 0, 400, 0, OPEN, SYN_SENT },
		{ "again, without", A, "S", 1000, 0, 0, 0, PASS, SYN_SENT },
		{ "the first one is accepted", B, "SA", 5000, 1401, 0, 0, WRITE, SYN_RECV },
		{ "confirmed", A, "A", 1401, 5001, 0, 0, WRITE, ESTABLISHED },
	};
	static const struct step not_fast[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "again, with data", A, "S", 1000, 0, 400, 0, WRITE, SYN_SENT },
		{ "the second one is accepted", B, "SA", 5000, 1401, 0, 0, WRITE, SYN_RECV },
		{ "answered at once", B, "PA", 5001, 1401, 100, 0, PASS, SYN_RECV },
	};
	static const struct step scaled[] = {
		{ "SYN without a scale", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "with one", A, "S", 1000, 0, 0, 0, WRITE, SYN_SENT, 8 },
		{ "with less", A, "S", 1000, 0, 0, 0, PASS, SYN_SENT, 2 },
		{ "without, at last", A, "S", 1000, 0, 0, 0, PASS, SYN_SENT },
		{ "accepted with a scale", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV, 8 },
		{ "ACK", A, "A", 1001, 5001, 0, 60000, WRITE, ESTABLISHED },
		{ "8 MB are the window", B, "A", 5001 + 7 * MIB, 1001, 1, 0, WRITE,
		  ESTABLISHED },
	};
	static const struct step answers[] = {
		{ "SYN with a scale", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT, 8 },
		{ "accepted without, which is lost", B, "SA", 5000, 1001, 0, 0, WRITE,
		  SYN_RECV },
		{ "and with one, by another number", B, "SA", 0x30000000, 1001, 0, 0, WRITE,
		  SYN_RECV, 8 },
		{ "ACK", A, "A", 1001, 0x30000001, 0, 60000, WRITE, ESTABLISHED },
		{ "8 MB are the window", B, "A", 0x30000001 + 7 * MIB, 1001, 1, 0, WRITE,
		  ESTABLISHED },
	};
	static const struct step forged[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "a SYN from the other side, forged", B, "S", 0x30000000, 0, 0, 0, WRITE,
		  TRACK_SYN_SENT2 },
		{ "the SYN/ACK of the real one", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "ACK", A, "A", 1001, 5001, 0, 0, WRITE, ESTABLISHED },
	};

	RUN(fast);
	RUN(not_fast);
	RUN(scaled);
	RUN(answers);
	RUN(forged);
}

/* [B14, B32] */
static void
test_both_open(void **state)
{
	static const struct step simultaneous[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "SYN", B, "S", 5000, 0, 0, 0, WRITE, TRACK_SYN_SENT2 },
		{ "no data yet", A, "A", 1001, 5001, 10, 0, BAD, TRACK_SYN_SENT2 },
		{ "SYN/ACK", A, "SA", 1000, 5001, 0, 0, WRITE, SYN_RECV },
		{ "SYN/ACK", B, "SA", 5000, 1001, 0, 0, WRITE, ESTABLISHED },
		{ "data", A, "A", 1001, 5001, 10, 0, PASS, ESTABLISHED },
	};
	static const struct step split[] = {
		{ "SYN with data", A, "S", 1000, 0, 4, 0, OPEN, SYN_SENT },
		{ "SYN alone", B, "S", 5000, 0, 0, 0, WRITE, TRACK_SYN_SENT2 },
		{ "accepted", A, "SA", 1000, 5001, 0, 0, WRITE, SYN_RECV },
		{ "confirmed", B, "A", 5001, 1005, 0, 0, WRITE, ESTABLISHED },
	};
	static const struct step fast[] = {
		{ "SYN with data", A, "S", 1000, 0, 400, 0, OPEN, SYN_SENT },
		{ "SYN/ACK of it", B, "SA", 5000, 1401, 0, 0, WRITE, SYN_RECV },
		{ "its answer, before the ACK", B, "PA", 5001, 1401, 1400, 0, PASS,
		  SYN_RECV },
		{ "ACK of all", A, "A", 1401, 6401, 0, 0, WRITE, ESTABLISHED },
	};
	static const struct step fast_and_late[] = {
		{ "SYN with data", A, "S", 1000, 0, 400, 0, OPEN, SYN_SENT },
		{ "its answer, before the SYN/ACK", B, "PA", 5001, 1401, 1400, 0, PASS,
		  SYN_SENT },
		{ "not to what was never sent", B, "PA", 5001, 1402, 1400, 0, BAD, SYN_SENT },
		{ "the SYN/ACK", B, "SA", 5000, 1401, 0, 0, WRITE, SYN_RECV },
		{ "ACK of all", A, "A", 1401, 6401, 0, 0, WRITE, ESTABLISHED },
	};
	static const struct step fast_refused[] = {
		{ "SYN with data", A, "S", 1000, 0, 400, 0, OPEN, SYN_SENT },
		{ "SYN/ACK without it", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "the data again", A, "PA", 1001, 5001, 400, 0, WRITE, ESTABLISHED },
	};
	static const struct step repeated[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "SYN/ACK", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "SYN/ACK again, as the ACK was lost", B, "SA", 5000, 1001, 0, 0, PASS,
		  SYN_RECV },
		{ "by one that has started again", B, "SA", 0x30000000, 1001, 0, 0, WRITE,
		  SYN_RECV },
		{ "which is confirmed", A, "A", 1001, 0x30000001, 0, 0, WRITE, ESTABLISHED },
	};

	RUN(simultaneous);
	RUN(split);
	RUN(fast);
	RUN(fast_and_late);
	RUN(fast_refused);
	RUN(repeated);
}

/* [B27, B32; cases 31, 33] */
static void
test_closing(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "FIN", A, "FA", 1001, 5001, 10, 0, WRITE, TRACK_FIN_WAIT, .timestamp = 9 },
		{ "FIN again", A, "FA", 1001, 5001, 10, 0, PASS, TRACK_FIN_WAIT },
		{ "data the other way, before it has come", B, "A", 5001, 1001, 10, 0, PASS,
		  TRACK_FIN_WAIT },
		{ "its ACK", B, "A", 5011, 1012, 0, 0, WRITE, TRACK_CLOSE_WAIT },
		{ "data the other way", B, "A", 5011, 1012, 10, 0, PASS, TRACK_CLOSE_WAIT },
		{ "nothing far behind the FIN", A, "A", 1012 + 2 * 65536 + 1, 5021, 10, 0,
		  BAD, TRACK_CLOSE_WAIT },
		{ "the other FIN", B, "FA", 5021, 1012, 0, 0, WRITE, TRACK_LAST_ACK,
		  .timestamp = 9 },
		{ "the other FIN again", B, "FA", 5021, 1012, 0, 0, PASS, TRACK_LAST_ACK },
		{ "the last ACK", A, "A", 1012, 5022, 0, 0, WRITE, TRACK_TIME_WAIT },
		{ "and again", A, "A", 1012, 5022, 0, 0, PASS, TRACK_TIME_WAIT },
		{ "the FIN, as that was lost", B, "FA", 5021, 1012, 0, 0, PASS,
		  TRACK_TIME_WAIT },
		{ "a SYN with a lower number, and older", A, "S", 500, 0, 0, 0, PASS,
		  TRACK_TIME_WAIT, .timestamp = 8 },
		{ "a SYN of the other side, likewise", B, "S", 500, 0, 0, 0, BAD,
		  TRACK_TIME_WAIT },
		{ "a SYN with a lower number, but newer", A, "S", 500, 0, 0, 0, OPEN,
		  SYN_SENT, .timestamp = 10 },
	};
	static const struct step higher[] = {
		HANDSHAKE,
		{ "FIN", A, "FA", 1001, 5001, 0, 0, WRITE, TRACK_FIN_WAIT },
		{ "FIN", B, "FA", 5001, 1001, 0, 0, WRITE, TRACK_LAST_ACK },
		{ "ACK", A, "A", 1002, 5002, 0, 0, WRITE, TRACK_TIME_WAIT },
		{ "ACK", B, "A", 5002, 1002, 0, 0, PASS, TRACK_TIME_WAIT },
		{ "a SYN with a higher number", B, "S", 5003, 0, 0, 0, OPEN, SYN_SENT },
	};

	RUN(steps);
	RUN(higher);
}

static void
test_nonsense(void **state)
{
	static const struct step steps[] = {
		{ "SYN", A, "S", 1000, 0, 0, 0, OPEN, SYN_SENT },
		{ "the opener confirms nothing", A, "A", 1001, 1, 0, 0, BAD, SYN_SENT },
		{ "nor accepts itself", A, "SA", 1000, 1, 0, 0, BAD, SYN_SENT },
		{ "no FIN", B, "FA", 1, 1001, 0, 0, BAD, SYN_SENT },
		{ "no data", B, "A", 1, 1001, 9, 0, BAD, SYN_SENT },
		{ "no flags", A, "", 1000, 0, 0, 0, BAD, SYN_SENT },
		{ "all flags", A, "FSRPAU", 1000, 0, 0, 0, BAD, SYN_SENT },
		{ "SYN/ACK", B, "SA", 5000, 1001, 0, 0, WRITE, SYN_RECV },
		{ "ACK", A, "A", 1001, 5001, 0, 0, WRITE, ESTABLISHED },
		{ "a FIN has an ACK", A, "F", 1001, 0, 0, 0, BAD, ESTABLISHED },
		{ "SYN and FIN", A, "SF", 1001, 0, 0, 0, BAD, ESTABLISHED },
		{ "PSH alone", A, "P", 1001, 0, 0, 0, BAD, ESTABLISHED },
	};

	RUN(steps);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_a_sender_may_overshoot_a_window_that_shuts),
		cmocka_unit_test(test_windows_move),
		cmocka_unit_test(test_scales_count_if_both_offer_them),
		cmocka_unit_test(test_rsts),
		cmocka_unit_test(test_rsts_while_opening),
		cmocka_unit_test(test_challenges),
		cmocka_unit_test(test_a_client_that_begins_anew_before_it_is_answered),
		cmocka_unit_test(test_repeated_syns_that_differ),
		cmocka_unit_test(test_both_open),
		cmocka_unit_test(test_closing),
		cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
