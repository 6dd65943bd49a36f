/*
 * test_firewall_tcp.c - TCP through the firewall: states, windows, resets.
 */
#include "firewall_case.h"

static const char defaults[] = "rules: []";

/* [B29; U1] */
static void
test_nothing_is_picked_up_midstream(void **state)
{
	static const struct step steps[] = {
		{ "ACK from inside", { C("A", 1, 1) }, DROPPED(STATE) },
		{ "data from inside", { C("PA", 1, 1), .data = "x" }, DROPPED(STATE) },
		{ "FIN from inside", { C("FA", 1, 1) }, DROPPED(STATE) },
		{ "RST from inside", { C("R", 1, 0) }, DROPPED(STATE) },
		{ "SYN/ACK from inside", { C("SA", 1, 1) }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B29] */
static void
test_tcp_loose_picks_up_midstream_what_the_rules_allow(void **state)
{
	static const struct step steps[] = {
		{ "the rules count", { S("A", 5001, 1001) }, DROPPED(POLICY) },
		{ "SYN/ACK is no beginning", { C("SA", 1000, 5001) }, DROPPED(STATE) },
		{ "nor FIN", { C("FA", 1001, 5001) }, DROPPED(STATE) },
		{ "nor RST", { C("R", 1001, 0) }, DROPPED(STATE) },
		{ "an ACK from inside", { C("PA", 1001, 5001), .data = "x" }, SENT, true },
		{ "its answer", { S("PA", 5001, 1002), .data = "y" }, SENT },
		{ "windows are not known", { S("A", 5001 + 900000, 1002), .data = "y" },
		  SENT, true },
		{ "FIN", { C("FA", 1002, 5001) }, SENT, true },
	};

	RUN_STEPS("firewall", "tcp_loose: yes", steps);
}

/* [B14, B27; case 31, 35] Each repeated once: a retransmission passes and writes
 * nothing. */
static void
test_every_state_writes_once(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0) }, SENT, true },
		{ "SYN again", { C("S", 1000, 0) }, SENT },
		{ "SYN/ACK", { S("SA", 5000, 1001) }, SENT, true },
		{ "SYN/ACK again, as the ACK was lost", { S("SA", 5000, 1001) }, SENT },
		{ "ACK", { C("A", 1001, 5001) }, SENT, true },
		{ "ACK again", { C("A", 1001, 5001) }, SENT },
		{ "FIN", { C("FA", 1001, 5001) }, SENT, true, .after_ms = 3600 * 1000 },
		{ "FIN again", { C("FA", 1001, 5001) }, SENT },
		{ "ACK of the FIN", { S("A", 5001, 1002) }, SENT, true },
		{ "FIN once more", { C("FA", 1001, 5001) }, SENT },
		{ "data the other way", { S("PA", 5001, 1002), .data = "x" }, SENT },
		{ "the other FIN", { S("FA", 5002, 1002) }, SENT, true },
		{ "the other FIN again", { S("FA", 5002, 1002) }, SENT },
		{ "the last ACK", { C("A", 1002, 5003) }, SENT, true },
		{ "the other FIN in TIME_WAIT", { S("FA", 5002, 1002) }, SENT },
		{ "the last ACK again, within the time", { C("A", 1002, 5003) }, SENT,
		  .after_ms = 119000 },
		{ "a stray ACK behind it", { C("A", 1002, 5003) }, DROPPED(STATE),
		  .after_ms = 121000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

static void
test_flags_that_make_no_sense_in_a_state_are_dropped(void **state)
{
	static const struct step steps[] = {
		{ "no flags", { OUT }, DROPPED(STATE) },
		{ "SYN and FIN", { C("SF", 1000, 0) }, DROPPED(STATE) },
		{ "SYN and RST", { C("SR", 1000, 0) }, DROPPED(STATE) },
		{ "SYN", { C("S", 1000, 0) }, SENT, true },
		{ "the opener does not confirm what nobody accepted",
		  { C("A", 1001, 1) }, DROPPED(STATE) },
		{ "nor accept its own SYN", { C("SA", 1000, 1) }, DROPPED(STATE) },
		{ "FIN before anything", { C("FA", 1001, 1) }, DROPPED(STATE) },
		{ "SYN/ACK", { S("SA", 5000, 1001) }, SENT, true },
		{ "ACK", { C("A", 1001, 5001) }, SENT, true },
		{ "a FIN has an ACK", { C("F", 1001, 0) }, DROPPED(STATE) },
		{ "SYN from the other end of an open connection",
		  { S("S", 9000, 0) }, DROPPED(STATE) },
		{ "all of them", { C("FSRPAU", 1001, 5001) }, DROPPED(STATE) },
		{ "the connection is none the worse", { C("A", 1001, 5001) }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B14, B32] */
static void
test_simultaneous_open_and_close(void **state)
{
	static const struct step steps[] = {
		{ "SYN out", { C("S", 1000, 0) }, SENT, true },
		{ "SYN in", { S("S", 5000, 0) }, SENT, true },
		{ "SYN/ACK out", { C("SA", 1000, 5001) }, SENT, true },
		{ "SYN/ACK in", { S("SA", 5000, 1001) }, SENT, true },
		{ "ACK out", { C("A", 1001, 5001) }, SENT },
		{ "data in", { S("PA", 5001, 1001), .data = "x" }, SENT },
		{ "FIN out", { C("FA", 1001, 5002) }, SENT, true },
		{ "FIN in, before its ACK", { S("FA", 5002, 1001) }, SENT, true },
		{ "ACK out", { C("A", 1002, 5003) }, SENT, true },
		{ "ACK in", { S("A", 5003, 1002) }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B32] */
static void
test_split_handshake_and_data_on_a_syn(void **state)
{
	static const struct step steps[] = {
		{ "SYN with data", { C("S", 1000, 0), .data = "fast" }, SENT, true },
		{ "the answer is a bare SYN", { S("S", 5000, 0) }, SENT, true },
		{ "which is accepted", { C("SA", 1000, 5001) }, SENT, true },
		{ "and confirmed", { S("A", 5001, 1005) }, SENT, true },
		{ "data", { C("PA", 1005, 5001), .data = "x" }, SENT },
	};
	static const struct step fast[] = {
		{ "SYN with data", { C("S", 1000, 0), .data = "fast" }, SENT, true },
		{ "accepted with it", { S("SA", 5000, 1005) }, SENT, true },
		{ "answered at once", { S("PA", 5001, 1005), .data = "open" }, SENT },
		{ "confirmed", { C("A", 1005, 5005) }, SENT, true },
	};

	RUN_STEPS("firewall", defaults, steps);
	RUN_STEPS("firewall", defaults, fast);
}

/* [B32; case 33, 39] */
static void
test_a_syn_reopens_what_was_closed(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "a SYN in an open connection passes, to be challenged",
		  { C("S", 0x20000000, 0) }, SENT, true },
		{ "the challenge", { S("A", 5001, 1001) }, SENT },
		{ "its answer", { C("R", 1001, 0) }, SENT, true },
		{ "outside may not reopen", { S("S", 9000, 0) }, DROPPED(POLICY) },
		{ "the SYN again", { C("S", 0x20000000, 0) }, SENT, true },
		{ "a challenge by one who still knows the old one",
		  { S("A", 5001, 1001) }, SENT },
		{ "its answer does not end what begins", { C("R", 1001, 0) }, SENT },
		{ "and again", { C("S", 0x20000000, 0) }, SENT },
		{ "without SYN/ACK no data", { C("PA", 0x20000001, 1), .data = "x" },
		  DROPPED(STATE) },
		{ "SYN/ACK", { S("SA", 7000, 0x20000001) }, SENT, true },
		{ "ACK", { C("A", 0x20000001, 7001) }, SENT, true },
		{ "FIN", { C("FA", 0x20000001, 7001) }, SENT, true },
		{ "FIN", { S("FA", 7001, 0x20000002) }, SENT, true },
		{ "ACK: TIME_WAIT", { C("A", 0x20000002, 7002) }, SENT, true },
		{ "outside may not reopen in TIME_WAIT", { S("S", 9000, 0) },
		  DROPPED(POLICY) },
		{ "a SYN with a lower number is for the server to judge",
		  { C("S", 0x20000000, 0) }, SENT },
		{ "that with a higher one is a new flow", { C("S", 0x20000003, 0) }, SENT,
		  true },
		{ "in which the old one does not count", { S("FA", 7001, 0x20000002) },
		  DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B32] */
static void
test_a_newer_timestamp_reopens_too(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0), .timestamp = 100 }, SENT, true },
		{ "SYN/ACK", { S("SA", 5000, 1001), .timestamp = 900 }, SENT, true },
		{ "ACK", { C("A", 1001, 5001), .timestamp = 100 }, SENT, true },
		{ "FIN", { C("FA", 1001, 5001), .timestamp = 200 }, SENT, true },
		{ "FIN", { S("FA", 5001, 1002), .timestamp = 990 }, SENT, true },
		{ "ACK", { C("A", 1002, 5002), .timestamp = 200 }, SENT, true },
		{ "lower and older", { C("S", 900, 0), .timestamp = 199 }, SENT },
		{ "lower and without", { C("S", 900, 0) }, SENT },
		{ "lower and newer", { C("S", 900, 0), .timestamp = 201 }, SENT, true },
		{ "it is a new flow", { S("SA", 100, 901) }, SENT, true },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B30; case 41] */
static void
test_what_is_outside_of_the_window_is_invalid(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0), .wscale = WSCALE(7) }, SENT, true },
		{ "SYN/ACK", { S("SA", 5000, 1001), .wscale = WSCALE(7) }, SENT, true },
		{ "ACK", { C("A", 1001, 5001), .window = 512 }, SENT, true },
		{ "far above", { C("A", 1001 + 0x20000000, 5001), .data = "x" },
		  DROPPED(STATE) },
		{ "an ACK of what was not sent", { C("A", 1001, 5001 + 200000) },
		  DROPPED(STATE) },
		{ "a SACK of it", { C("A", 1001, 5001), .sack = { { 805000, 805100 } } },
		  DROPPED(STATE) },
		{ "an ACK of long ago", { C("A", 1001, 5001 - 200000) }, DROPPED(STATE) },
		{ "the window is 8 MB", { S("A", 5001, 1001), .window = 65535 }, SENT,
		  true },
		{ "which is used", { C("A", 1001 + 7000000, 5001), .data = "x" }, SENT,
		  true },
		{ "SACKed", { S("A", 5001, 1001), .window = 65535,
		  .sack = { { 1001 + 7000000, 1002 + 7000000 } } }, SENT },
		{ "and acknowledged", { S("A", 5001, 7001002), .window = 65535 }, SENT,
		  true },
		{ "the very first byte again", { C("A", 1001, 5001), .data = "x" }, SENT },
		{ "a keep-alive", { C("A", 7001001, 5001) }, SENT },
		{ "the window shuts", { S("A", 5001, 7001002), .no_window = true }, SENT },
		{ "and is probed", { C("A", 7001002, 5001), .data = "x" }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B30] */
static void
test_tcp_liberal_looks_at_no_window(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "far above", { C("A", 1001 + 0x20000000, 5001), .data = "x" }, SENT, true },
		{ "what follows it", { C("A", 1002 + 0x20000000, 5001), .data = "x" }, SENT },
		{ "a RST still has to be right", { S("R", 99, 0) }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", "tcp_liberal: yes", steps);
}

/* [B31; case 37] What is within the tolerance may be exact: it passes, its receiver
 * decides, and the flow lives on as long as it is not silent. */
static void
test_a_blind_rst_closes_nothing(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "far below", { S("R", 0x90000000, 0) }, DROPPED(STATE) },
		{ "just below", { S("R", 5000, 0) }, DROPPED(STATE) },
		{ "far above", { S("R", 0x10000000, 0) }, DROPPED(STATE) },
		{ "above the tolerance", { S("R", 5001 + 65537, 0) }, DROPPED(STATE) },
		{ "with an ACK of nothing", { S("RA", 5001, 900000) }, DROPPED(STATE) },
		{ "established", { C("A", 1001, 5001) }, SENT, .after_ms = 86400 * 1000 },
		{ "within the tolerance: its receiver may know better",
		  { S("R", 5001 + 700, 0) }, SENT, true },
		{ "its challenge, much later, proves it wrong", { C("A", 1001, 5001) }, SENT,
		  true, .after_ms = 290 * 1000 },
		{ "established", { C("A", 1001, 5001) }, SENT, .after_ms = 86400 * 1000 },
		{ "another one", { S("R", 5001 + 700, 0) }, SENT, true },
		{ "data", { S("A", 5001, 1001), .data_bytes = 701 }, SENT, true },
		{ "proves it wrong as well", { C("A", 1001, 5702) }, SENT,
		  .after_ms = 86400 * 1000 },
		{ "the exact one", { S("R", 5702, 0) }, SENT, true },
		{ "closes", { C("A", 1001, 5702) }, DROPPED(STATE), .after_ms = 11000 },
	};
	static const struct step answered[] = {
		HANDSHAKE,
		{ "data", { S("A", 5001, 1001), .data_bytes = 700 }, SENT },
		{ "a RST behind it", { S("R", 5701, 0) }, SENT, true },
		{ "an ACK that was under way", { C("A", 1001, 5701) }, SENT, true },
		{ "is answered by another one", { S("R", 5701, 0) }, SENT, true },
		{ "which closes", { C("A", 1001, 5701) }, DROPPED(STATE),
		  .after_ms = 11000 },
	};
	static const struct step silent[] = {
		HANDSHAKE,
		{ "maybe exact", { S("R", 5001 + 700, 0) }, SENT, true },
		{ "and nothing else for 5 minutes", { C("A", 1001, 5001) }, DROPPED(STATE),
		  .after_ms = 301 * 1000 },
	};

	RUN_STEPS("firewall", defaults, steps);
	RUN_STEPS("firewall", defaults, answered);
	RUN_STEPS("firewall", defaults, silent);
}

/* [B32] */
static void
test_a_refusal_has_to_acknowledge_the_syn(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0) }, SENT, true },
		{ "no ACK", { S("R", 0, 0) }, DROPPED(STATE) },
		{ "another ACK", { S("RA", 0, 1002) }, DROPPED(STATE) },
		{ "refused", { S("RA", 0, 1001) }, SENT, true },
		{ "the SYN again", { C("S", 1000, 0) }, SENT, true },
		{ "refused again", { S("RA", 0, 1001) }, SENT, true },
		{ "the next one", { C("S", 9000, 0) }, SENT, true },
		{ "accepted", { S("SA", 5000, 9001) }, SENT, true },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B31; case 39] */
static void
test_a_new_connection_that_only_the_ends_agree_on(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "the client begins anew, and the server has forgotten",
		  { C("S", 0x20000000, 0), .wscale = WSCALE(7) }, SENT, true },
		{ "a forged SYN/ACK", { S("SA", 77, 0x12345678) }, DROPPED(STATE) },
		{ "the SYN/ACK", { S("SA", 0x60000000, 0x20000001), .wscale = WSCALE(7) },
		  SENT, true },
		{ "ACK", { C("A", 0x20000001, 0x60000001) }, SENT, true },
		{ "data", { S("PA", 0x60000001, 0x20000001), .data = "x" }, SENT, true },
		{ "the old stream", { C("A", 1001, 5001) }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B39] */
static void
test_a_wrong_checksum_moves_no_window(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "data far ahead", { C("A", 67001, 5001), .data = "x", .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "RST", { S("R", 5001, 0), .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "did not close", { C("A", 1001, 5001) }, SENT, .after_ms = 86400 * 1000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B30, B72; U4] 4 MB each way in windows of 1 MB, 1,000 bytes a segment, acknowledged
 * every fourth. */
static void
test_a_long_transfer_takes_few_writes(void **state)
{
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		static const struct step opening[] = {
			{ "SYN", { C("S", 1000, 0), .wscale = WSCALE(4) }, SENT, true },
			{ "SYN/ACK", { S("SA", 5000, 1001), .wscale = WSCALE(4) }, SENT,
			  true },
			{ "ACK", { C("A", 1001, 5001) }, SENT, true },
		};
		struct bench *b = bench_open("firewall", defaults, n_pipes);
		uint64_t before;

		bench_steps(b, opening, 3);
		before = bench_writes(b);
		for (uint32_t at = 0; at < 4000; at++) {
			struct spec data = { C("A", 1001 + at * 1000, 5001),
					     .data_bytes = 1000 };
			struct spec ack = { S("A", 5001, 1001 + at * 1000) };

			/* Two instances, both busy with it at the same moment. */
			bench_put(b, at % n_pipes, &data);
			if (at % 4 == 0)
				bench_put(b, (at / 4 + 1) % n_pipes, &ack);
			bench_turn(b, at % 3 % n_pipes);
			if (at % 64 == 0)
				bench_settle(b);
			while (bench_take(b) != NULL)
				;
		}
		bench_settle(b);
		while (bench_take(b) != NULL)
			;
		assert_int_equal(bench_dropped(b, NF_DROP_STATE), 0);
		assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
		assert_in_range(bench_writes(b) - before, 1, 25);
		assert_in_range(bench_conflicts(b), 0, 60);
		bench_close(b);
	}
}

/* [B32, B72; U3, U4] Whatever the order in which two instances see the two ends of a
 * handshake and its close, every packet passes, and the connection ends closed. */
static void
test_two_instances_agree_on_a_connection(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		static const struct spec opening = { C("S", 1000, 0) };
		static const struct spec confirming = { C("A", 1001, 5001) };
		static const struct spec racing[] = {
			{ S("SA", 5000, 1001) }, { C("S", 1000, 0) },
		};
		static const struct spec closing[] = {
			{ C("FA", 1001, 5001) }, { S("FA", 5001, 1001) },
			{ C("A", 1002, 5002) }, { S("A", 5002, 1002) },
		};
		static const struct step after[] = {
			{ "no second thoughts", { S("S", 9000, 0) }, DROPPED(POLICY) },
			{ "the FIN again", { C("FA", 1001, 5001) }, SENT },
		};
		struct bench *b = bench_open("firewall", defaults, 2);
		unsigned int n = 0;

		bench_race(b, &opening, 1, schedule, 10);
		bench_race(b, racing, 2, schedule, 10);
		bench_race(b, &confirming, 1, schedule, 10);
		bench_race(b, closing, 2, schedule, 10);
		bench_race(b, closing + 2, 2, schedule, 10);
		while (bench_take(b) != NULL)
			n++;
		assert_int_equal(n, 8);
		assert_int_equal(bench_records(b, "connection"), 1);
		bench_steps(b, after, 2);
		bench_close(b);
	}
}

/* [B72] */
static void
test_two_instances_open_a_connection_once(void **state)
{
	static const struct spec twice[] = {
		{ C("S", 1000, 0) }, { C("S", 1000, 0) },
	};
	uint64_t conflicts = 0;

	for (unsigned int schedule = 0; schedule < 1 << 6; schedule++) {
		struct bench *b = bench_open("firewall", defaults, 2);

		bench_race(b, twice, 2, schedule, 6);
		assert_int_equal(bench_writes(b), 1);
		assert_non_null(bench_take(b));
		assert_non_null(bench_take(b));
		conflicts += bench_conflicts(b);
		bench_close(b);
	}
	assert_true(conflicts > 0);
}

/* [B38] */
static void
test_established_flows_outlive_a_store_and_catch_up(void **state)
{
	struct bench_setup setup = { .nf = nf_find("firewall"), .section = defaults,
				     .n_pipes = 1, .n_partitions = 1,
				     .loss = PIPE_LOSS_ESTABLISHED };
	static const struct step before[] = {
		HANDSHAKE,
		{ "data", { C("A", 1001, 5001), .data = "x" }, SENT },
	};
	static const struct spec unseen[] = {
		{ C("A", 1002, 5001), .data = "x" },
		{ C("A", 1001 + 400000, 5001), .data = "x" },
		{ S("A", 5001, 1002 + 400000) },
	};
	static const struct spec unknown = { .side = NF_INSIDE, .from = "10.0.0.1:2000",
					     .to = "192.0.2.1:80", .flags = "S" };
	static const struct step behind[] = {
		{ "the stream has gone on meanwhile",
		  { C("A", 1001 + 800000, 5001), .data = "x" }, SENT, true },
		{ "and so has its ACK", { S("A", 5001, 1002 + 800000) }, SENT, true },
		{ "nothing else has", { .side = NF_OUTSIDE, .from = "192.0.2.1:80",
		  .to = "10.0.0.1:1001", .flags = "A" }, DROPPED(STATE) },
	};
	struct bench *b = bench_open_as(&setup);

	bench_steps(b, before, 4);
	bench_fail(b, 0, -ETIMEDOUT);
	for (unsigned int i = 0; i < 3; i++) {
		bench_put(b, 0, &unseen[i]);
		bench_settle(b);
		assert_non_null(bench_take(b));
	}
	bench_put(b, 0, &unknown);
	bench_settle(b);
	assert_null(bench_take(b));
	assert_int_equal(bench_dropped(b, NF_DROP_STORE_LOST), 1);
	bench_fail(b, 0, 0);
	bench_steps(b, behind, 3);
	bench_close(b);
}

/* [B38] */
static void
test_by_default_nothing_passes_without_the_store(void **state)
{
	static const struct step opening[] = { HANDSHAKE };
	static const struct spec data = { C("A", 1001, 5001), .data = "x" };
	struct bench *b = bench_open("firewall", defaults, 1);

	bench_steps(b, opening, 3);
	bench_fail(b, 0, -ETIMEDOUT);
	bench_put(b, 0, &data);
	bench_settle(b);
	assert_null(bench_take(b));
	assert_int_equal(bench_dropped(b, NF_DROP_STORE_LOST), 1);
	bench_fail(b, 0, 0);
	bench_close(b);
}

/* [B73; U8, U29] A store that comes back may lack what was written last, and the ends have
 * gone on. */
static void
test_records_from_before_a_failover_stop_nobody(void **state)
{
	static const struct step opening[] = { HANDSHAKE };
	static const struct step behind[] = {
		{ "far ahead", { S("A", 5001 + 900000, 1001), .data = "x" }, SENT },
		{ "its answer", { C("A", 1001, 5002 + 900000) }, SENT },
		{ "what is far off moves nothing", { C("A", 1001 - 900000, 5001 - 900000),
		  .data = "x" }, SENT },
		{ "a SYN is no segment of it", { S("SA", 5001 + 900000, 1) },
		  DROPPED(STATE) },
		{ "nor are no flags", { S("", 5001 + 900000, 1) }, DROPPED(STATE) },
		{ "a RST is for its receiver to judge", { S("R", 5002 + 900000, 0) }, SENT },
		{ "a FIN ends it", { S("FA", 5002 + 900000, 1001) }, SENT, true },
	};
	static const struct step renewed[] = {
		{ "a segment that fits", { S("A", 5001, 1001), .data_bytes = 1000 }, SENT },
		{ "one with which the window moves", { C("FA", 1001, 5001) }, SENT, true },
		{ "and windows count again", { S("A", 5001 + 900000, 1002), .data = "x" },
		  DROPPED(STATE) },
	};

	for (unsigned int i = 0; i < 4; i++) {
		struct bench *b = bench_open("firewall", defaults, 1 + i % 2);

		bench_steps(b, opening, 3);
		bench_fail_over(b);
		if (i < 2)
			bench_steps(b, behind, sizeof(behind) / sizeof(behind[0]));
		else
			bench_steps(b, renewed, sizeof(renewed) / sizeof(renewed[0]));
		bench_close(b);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_picked_up_midstream),
		cmocka_unit_test(test_tcp_loose_picks_up_midstream_what_the_rules_allow),
		cmocka_unit_test(test_every_state_writes_once),
		cmocka_unit_test(test_flags_that_make_no_sense_in_a_state_are_dropped),
		cmocka_unit_test(test_simultaneous_open_and_close),
		cmocka_unit_test(test_split_handshake_and_data_on_a_syn),
		cmocka_unit_test(test_a_syn_reopens_what_was_closed),
		cmocka_unit_test(test_a_newer_timestamp_reopens_too),
		cmocka_unit_test(test_what_is_outside_of_the_window_is_invalid),
		cmocka_unit_test(test_tcp_liberal_looks_at_no_window),
		cmocka_unit_test(test_a_blind_rst_closes_nothing),
		cmocka_unit_test(test_a_refusal_has_to_acknowledge_the_syn),
		cmocka_unit_test(test_a_new_connection_that_only_the_ends_agree_on),
		cmocka_unit_test(test_a_wrong_checksum_moves_no_window),
		cmocka_unit_test(test_a_long_transfer_takes_few_writes),
		cmocka_unit_test(test_two_instances_agree_on_a_connection),
		cmocka_unit_test(test_two_instances_open_a_connection_once),
		cmocka_unit_test(test_established_flows_outlive_a_store_and_catch_up),
		cmocka_unit_test(test_by_default_nothing_passes_without_the_store),
		cmocka_unit_test(test_records_from_before_a_failover_stop_nobody),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
