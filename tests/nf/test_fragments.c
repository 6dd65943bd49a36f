/*
 * test_fragments.c - fragments follow the first of their datagram, each once, whichever
 * instances race for them, and what could deceive a function does not.
 */
#include "fragments_gate.h"

/* [B13, B34, B52; case 23; U19] */
static void
test_fragments_in_order_pass(void **state)
{
	static const struct step steps[] = {
		{ "the first", FIRST(dns), SENT, true },
		{ "the second", MIDDLE(dns), SENT, true },
		{ "the last", LAST(dns), SENT, true },
		{ "one of another sender is not of it", MIDDLE(dns2), KEPT, true },
		{ "what is no fragment passes", dns, SENT },
	};

	RUN("", steps);
}

/* [B13, B34; case 23] */
static void
test_early_fragments_wait_for_the_first(void **state)
{
	static const struct step steps[] = {
		{ "the last waits", LAST(dns), KEPT, true },
		{ "the second waits", MIDDLE(dns), KEPT, true },
		{ "the first has both behind it", FIRST(dns), SENT, true, .emits = 2 },
		{ "nothing waits any more", FIRST(dns2), SENT, true },
	};

	RUN("", steps);
}

/* [B34] */
static void
test_a_fragment_is_judged_as_its_first_is(void **state)
{
	static const struct step steps[] = {
		{ "a first that is dropped", FIRST(ssh), DROPPED(PORTS), true },
		{ "drops its last", LAST(ssh), DROPPED(PORTS), true },
		{ "even an early one", MIDDLE(ssh6), KEPT, true },
		{ "is dropped behind it", FIRST(ssh6), DROPPED(PORTS), true },
		{ "a first is rewritten", { .part_of = &http, .part_bytes = 16,
		  .more = true, .id = 9 }, SENT, true, "10.9.9.9:7 > 192.0.2.9:80" },
		{ "its last, too, but for ports", { .part_of = &http, .fragment = 2,
		  .id = 9 }, SENT, true, "10.9.9.9:0 > 192.0.2.9:0" },
	};

	RUN("", steps);
}

/* [B13, B34; case 29] */
static void
test_ipv6_is_as_ipv4(void **state)
{
	static const struct step steps[] = {
		{ "the second waits", MIDDLE(dns6), KEPT, true },
		{ "the first goes", FIRST(dns6), SENT, true, .emits = 1 },
		{ "the last follows", LAST(dns6), SENT, true },
		{ "again", LAST(dns6), SENT },
	};

	RUN("", steps);
}

/* The identification of IPv6 has 32 bits. */
static void
test_datagrams_are_told_apart(void **state)
{
	static const struct step steps[] = {
		{ "one", FIRST(dns6), SENT, true },
		{ "all bits count", { .part_of = &dns6, .fragment = 2, .part_bytes = 16,
		  .more = true, .id = 0x00011234 }, KEPT, true },
		{ "its own first", { .part_of = &ssh6, .part_bytes = 16, .more = true,
		  .id = 0x00011234 }, DROPPED(PORTS), true },
		{ "the other goes on", LAST(dns6), SENT, true },
	};

	RUN("", steps);
}

/* [B34; case 27] */
static void
test_exact_duplicates_do_not_count(void **state)
{
	static const struct step steps[] = {
		{ "one waits", MIDDLE(dns), KEPT, true },
		{ "a second time it is not kept twice", MIDDLE(dns), KEPT },
		{ "a third time", MIDDLE(dns), KEPT },
		{ "the first lets it go once", FIRST(dns), SENT, true, .emits = 1 },
		{ "the first again", FIRST(dns), SENT },
		{ "from now on repetitions pass", MIDDLE(dns), SENT },
		{ "the last", LAST(dns), SENT, true },
		{ "the last again", LAST(dns), SENT },
		{ "the second again, of what is whole", MIDDLE(dns), SENT },
		{ "the first again", FIRST(dns), SENT, true },
		{ "what comes behind it", MIDDLE(dns), SENT, true },
		{ "of what has become whole again", LAST(dns), SENT, true },
	};

	RUN("", steps);
}

/* [B34, B61] */
static void
test_overlapping_fragments_are_refused(void **state)
{
	static const struct step teardrop[] = {
		{ "a first", PART(dns, 0, 32, true), SENT, true },
		{ "one within it", PART(dns, 1, 8, true), DROPPED(FRAGMENT), true },
		{ "the rest is refused", PART(dns, 4, 0, false), DROPPED(FRAGMENT) },
		{ "all of it", PART(dns, 0, 32, true), DROPPED(FRAGMENT) },
		{ "as long as the datagram may take", PART(dns, 4, 0, false),
		  DROPPED(FRAGMENT), .after_ms = 29000 },
		{ "and then no longer", PART(dns, 0, 32, true), SENT, true,
		  .after_ms = 1100 },
	};
	static const struct step early[] = {
		{ "one waits", PART(dns, 2, 16, true), KEPT, true },
		{ "an overlapping first", PART(dns, 0, 24, true), DROPPED(FRAGMENT),
		  true },
		{ "nor passes a right one", FIRST(dns), DROPPED(FRAGMENT) },
	};
	static const struct step over6[] = {
		{ "a first over IPv6", FIRST(dns6), SENT, true },
		{ "one that shares its last bytes", PART(dns6, 1, 16, true),
		  DROPPED(FRAGMENT), true },
		{ "the rest is refused", MIDDLE(dns6), DROPPED(FRAGMENT) },
		{ "for a minute", LAST(dns6), DROPPED(FRAGMENT), .after_ms = 59000 },
		{ "and not longer", FIRST(dns6), SENT, true, .after_ms = 1100 },
	};
	static const struct step first_twice[] = {
		{ "a first over IPv6", FIRST(dns6), SENT, true },
		{ "one with other ports", FIRST(ssh6), DROPPED(FRAGMENT), true },
	};
	static const struct step two_ends[] = {
		{ "the last", PART(dns, 2, 8, false), KEPT, true },
		{ "one behind it", PART(dns, 4, 8, true), DROPPED(FRAGMENT), true },
	};
	static const struct step short_end[] = {
		{ "one far out", PART(dns, 4, 8, true), KEPT, true },
		{ "a last before it", PART(dns, 2, 8, false), DROPPED(FRAGMENT), true },
	};

	RUN("", teardrop);
	RUN("", early);
	RUN("", over6);
	RUN("", first_twice);
	RUN("", two_ends);
	RUN("", short_end);
}

/* [B34] */
static void
test_overlaps_pass_if_the_operator_says_so(void **state)
{
	static const struct step steps[] = {
		{ "a first", PART(dns, 0, 32, true), SENT, true },
		{ "one within it", PART(dns, 1, 8, true), SENT, true },
		{ "the rest", LAST(dns), SENT, true },
		{ "not over IPv6", FIRST(dns6), SENT, true },
		{ "even then", PART(dns6, 1, 16, true), DROPPED(FRAGMENT), true },
		{ "an early one", { .part_of = &dns, .fragment = 2, .part_bytes = 16,
		  .more = true, .id = 3 }, KEPT, true },
		{ "goes behind a first that overlaps it", { .part_of = &dns,
		  .part_bytes = 24, .more = true, .id = 3 }, SENT, true, .emits = 1 },
	};

	RUN("overlap: pass", steps);
}

/* [B34, B61] */
static void
test_what_is_no_part_of_a_datagram_is_dropped(void **state)
{
	static const struct spec tcp = { .from = "10.0.0.1:1000", .to = "192.0.2.9:53",
					 .flags = "S", .data = DATA };
	static const struct step steps[] = {
		{ "a first without all of TCP's header", PART(tcp, 0, 16, true),
		  DROPPED(PARSE) },
		{ "one that rewrites TCP's flags", PART(tcp, 1, 16, true),
		  DROPPED(FRAGMENT) },
		{ "or its window", PART(tcp, 2, 16, true), DROPPED(FRAGMENT) },
		{ "no 8 bytes, and more to follow", PART(dns, 2, 12, true),
		  DROPPED(FRAGMENT) },
		{ "what ends behind 65535", { .from = "10.0.0.1:1", .to = "192.0.2.9:53",
		  .protocol = PROTO_UDP, .data = DATA, .fragment = 8185 },
		  DROPPED(FRAGMENT) },
		{ "what is as long as can be", { .from = "10.0.0.1:1",
		  .to = "192.0.2.9:53", .protocol = PROTO_UDP, .data = "0123456",
		  .fragment = 8188 }, KEPT, true },
		{ "nothing", { .from = "10.0.0.1:1", .to = "192.0.2.9:53",
		  .protocol = PROTO_UDP, .data = "", .fragment = 2 }, DROPPED(FRAGMENT) },
		{ "over IPv6, too", { .from = "[2001:db8::1]:1", .to = "[2001:db8::9]:53",
		  .protocol = PROTO_UDP, .data = DATA, .fragment = 8191 },
		  DROPPED(FRAGMENT) },
	};

	RUN("", steps);
}

/* [B34] */
static void
test_an_atomic_fragment_is_a_whole_datagram(void **state)
{
	static const uint8_t atomic[] =
		"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x86\xdd\x60\0\0\0\0\x12\x2c\x40"
		"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
		"\x20\x01\x0d\xb8\0\x01\0\0\0\0\0\0\0\0\0\x09"
		"\x11\0\0\0\0\0\0\x07\x14\xe9\0\x35\0\x0a\x2d\xddxb";
	uint8_t right[sizeof(atomic) - 1];
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });

	memcpy(right, atomic, sizeof(right));
	right[sizeof(right) - 2] = 'a';

	const struct step steps[] = {
		{ "it passes by itself", { .raw = right, .raw_bytes = sizeof(right) },
		  SENT },
		{ "and again", { .raw = right, .raw_bytes = sizeof(right) }, SENT },
	};

	bench_steps(b, steps, RTE_DIM(steps));
	assert_int_equal(bench_records(b, "fragments.datagram"), 0);
	bench_close(b);
}

/* Makes a fragment of a whole IPv6 packet, as if that had options before its transport
 * header: from 'at' on, in units of 8 bytes, 'n' bytes. */
static struct spec
optional_part(const struct spec *whole, unsigned int at, unsigned int n, bool more,
	      uint8_t frame[BENCH_FRAME_BYTES])
{
	enum { IP_END = 54 };
	static const uint8_t options[] = { PROTO_UDP, 0, 1, 4, 0, 0, 0, 0 };
	uint8_t built[BENCH_FRAME_BYTES], all[BENCH_FRAME_BYTES];
	unsigned int bytes = spec_build(whole, built) - IP_END;

	memcpy(all, options, sizeof(options));
	memcpy(all + sizeof(options), built + IP_END, bytes);
	assert_true(8 * at + n <= sizeof(options) + bytes);
	memcpy(frame, built, IP_END);
	frame[19] = (uint8_t)(8 + n);		/* Less than 256. */
	frame[20] = 44;
	memcpy(frame + IP_END,
	       (uint8_t[]){ 60, 0, 0, (uint8_t)(8 * at | more), 0, 0, 0, 7 }, 8);
	memcpy(frame + IP_END + 8, all + 8 * at, n);
	return (struct spec){ .raw = frame, .raw_bytes = IP_END + 8 + n };
}

/* Later ones say that they begin with options.  RFC 8200, 4.5.  [B34] */
static void
test_options_may_stand_in_the_first(void **state)
{
	static const struct spec other = WHOLE("[2001:db8::2]:1000", "[2001:db8::9]:53");
	static uint8_t frame[7][BENCH_FRAME_BYTES];
	const struct spec first = optional_part(&dns6, 0, 24, true, frame[0]),
			  middle = optional_part(&dns6, 3, 16, true, frame[1]),
			  last = optional_part(&dns6, 5, 24, false, frame[2]),
			  early = optional_part(&other, 5, 24, false, frame[3]),
			  late = optional_part(&other, 0, 24, true, frame[4]),
			  dropped = optional_part(&ssh6, 0, 16, true, frame[5]),
			  cut = optional_part(&other, 0, 8, true, frame[6]);
	const struct step steps[] = {
		{ "the first", first, SENT, true },
		{ "the second is of its flow", middle, SENT, true },
		{ "the last, too", last, SENT, true },
		{ "one that is early waits", early, KEPT, true },
		{ "and goes behind the first", late, SENT, true, .emits = 1 },
		{ "options without what is behind them", cut, DROPPED(PARSE) },
		{ "another first", dropped, DROPPED(FRAGMENT), true },
	};

	RUN("", steps);
}

/* IPv4 has only 65536 identifications.  [B23] */
static void
test_an_identification_comes_round(void **state)
{
	static const struct step steps[] = {
		{ "a datagram", FIRST(dns), SENT, true },
		{ "its rest", PART(dns, 2, 0, false), SENT, true },
		{ "another, with other ports", FIRST(ssh), DROPPED(PORTS), true },
		{ "its rest", PART(ssh, 2, 0, false), DROPPED(PORTS), true },
		{ "one more", FIRST(dns), SENT, true },
		{ "of other sizes", MIDDLE(dns), SENT, true },
		{ "and its end", LAST(dns), SENT, true },
		{ "one whose end comes first", PART(ssh, 2, 0, false), KEPT, true },
		{ "and then its first", FIRST(ssh), DROPPED(PORTS), true },
		{ "one that is cut short", FIRST(dns), SENT, true },
	};
	static const struct step tunnel[] = {
		{ "a first", FIRST(dns), SENT, true },
		{ "its rest", PART(dns, 2, 24, false), SENT, true },
		{ "the next, with the same ports", FIRST(dns), SENT, true },
		{ "and a longer rest", PART(dns, 2, 0, false), SENT, true },
		{ "one whose rest comes first", PART(dns, 2, 32, false), KEPT, true },
		{ "and then its first", FIRST(dns), SENT, true, .emits = 1 },
	};

	RUN("", steps);
	RUN("", tunnel);
}

/* [B40] */
static void
test_zones_do_not_mix(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 3, .zone = PIPE_ZONE_VLAN });
	static const struct step steps[] = {
		{ "in one", { .part_of = &dns, .part_bytes = 16, .more = true,
		  .vlan = 5 }, SENT, true },
		{ "in another", { .part_of = &dns, .fragment = 2, .vlan = 6 }, KEPT,
		  true },
		{ "in the same", { .part_of = &dns, .fragment = 2, .vlan = 5 }, SENT,
		  true },
		{ "the other's first", { .part_of = &ssh, .part_bytes = 16, .more = true,
		  .vlan = 6 }, DROPPED(PORTS), true },
	};

	bench_steps(b, steps, RTE_DIM(steps));
	bench_close(b);
}

/* The pieces of a packet that is longer than the outside takes.  [B12; U18] */
static void
test_what_is_too_long_is_fragmented_or_refused(void **state)
{
	static const struct spec udp = { .from = "10.0.0.1:1000", .to = "192.0.2.9:80",
					 .protocol = PROTO_UDP, .data_bytes = 1400 };
	static const struct step steps[] = {
		{ "it is cut in two, rewritten", udp, SENT,
		  .as = "10.9.9.9:7 > 192.0.2.9:80", .differs = true, .emits = 1 },
		{ "a fragment is, too", { .part_of = &udp, .part_bytes = 1200,
		  .more = true }, SENT, true, "10.9.9.9:7 > 192.0.2.9:80",
		  .differs = true, .emits = 1 },
		{ "but not what fits", { .part_of = &udp, .fragment = 150,
		  .part_bytes = 200 }, SENT, true,
		  "10.9.9.9:0 > 192.0.2.9:0" },
		{ "with DF its sender is told", { .from = "10.0.0.1:1000",
		  .to = "192.0.2.9:80", .protocol = PROTO_UDP, .data_bytes = 1400,
		  .dont_fragment = true }, DROPPED(TOO_BIG), .answers = 1 },
		{ "as over IPv6", { .from = "[2001:db8::1]:1", .to = "[2001:db8::9]:53",
		  .protocol = PROTO_UDP, .data_bytes = 1400 }, DROPPED(TOO_BIG),
		  .answers = 1 },
		{ "what fits passes", { .from = "10.0.0.1:1000", .to = "192.0.2.9:53",
		  .protocol = PROTO_UDP, .data_bytes = 972, .dont_fragment = true },
		  SENT },
		{ "the other side is another link", { .side = NF_OUTSIDE,
		  .from = "192.0.2.9:53", .to = "10.0.0.1:53", .protocol = PROTO_UDP,
		  .data_bytes = 1400, .dont_fragment = true }, SENT },
	};
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1,
		.mtu = { [NF_OUTSIDE] = 1000 } });

	bench_steps(b, steps, RTE_DIM(steps));
	bench_close(b);
}

/* The fragments of a datagram, in any order, at two instances at once: each leaves once.
 * [B13, B52; case 23; U19] */
static void
race(const struct spec *of, const unsigned int *order, unsigned int n,
     unsigned int schedule)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });
	const struct spec part[] = { FIRST(*of), MIDDLE(*of), LAST(*of) };
	unsigned int times[3] = { 0 };
	struct spec packets[4];
	const struct sent *s;

	for (unsigned int i = 0; i < n; i++)
		packets[i] = part[order[i]];
	bench_race(b, packets, n, schedule, 12);
	while ((s = bench_take(b)) != NULL)
		for (unsigned int i = 0; i < 3; i++) {
			uint8_t frame[BENCH_FRAME_BYTES];

			times[i] += spec_build(&part[i], frame) == s->bytes &&
				    memcmp(frame, s->frame, s->bytes) == 0;
		}
	for (unsigned int i = 0; i < 3; i++) {
		unsigned int put = 0;

		for (unsigned int k = 0; k < n; k++)
			put += order[k] == i;
		/* One that came twice may have been held once. */
		assert_true(times[i] >= 1 && times[i] <= put);
	}
	assert_int_equal(bench_records(b, "fragments.fragment"), 0);
	assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
	bench_close(b);
}

static void
race_all(const struct spec *of, unsigned int n, unsigned int n_schedules)
{
	for (unsigned int code = 0; code < 1U << 2 * n; code++) {
		unsigned int order[4], seen = 0;
		bool valid = true;

		for (unsigned int i = 0; i < n; i++) {
			order[i] = code >> 2 * i & 3;
			seen |= 1U << order[i];
			valid = valid && order[i] < 3;
		}
		for (unsigned int k = 0; valid && seen == 7 && k < n_schedules; k++)
			race(of, order, n, k * (4096 / n_schedules) + k % 7);
	}
}

/* [B13, B52; case 23; U4, U19] */
static void
test_two_instances_send_each_fragment_once(void **state)
{
	race_all(&dns, 3, 4096);
	race_all(&dns6, 3, 256);
}

/* [B13; case 27; U4] */
static void
test_nor_do_duplicates_confuse_them(void **state)
{
	race_all(&dns, 4, 128);
}

enum {
	LONG_PARTS = 45,			/* Of 65,535 bytes, at an MTU of 1500. */
};

static unsigned int
part_of(const struct sent *s)
{
	return ((s->frame[20] << 8 | s->frame[21]) & 0x1fff) / 2;
}

/* All parts of a long datagram at two instances at once, in an order that 'schedule'
 * makes. */
static void
race_long(unsigned int schedule)
{
	static const struct spec whole = { .from = "10.0.0.1:1000",
					   .to = "192.0.2.9:53", .protocol = PROTO_UDP,
					   .data_bytes = 16 * LONG_PARTS - 8 };
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });
	struct spec packets[LONG_PARTS];
	const struct sent *s;
	uint64_t seen = 0;

	for (unsigned int i = 0; i < LONG_PARTS; i++) {
		/* Each once, as the step has no divisor of their number. */
		unsigned int part = (schedule + i * (1 + schedule % 2 * 43)) % LONG_PARTS;

		packets[i] = (struct spec)PART(whole, 2 * part, 16,
					       part + 1 < LONG_PARTS);
	}
	bench_race(b, packets, LONG_PARTS, schedule * 2654435761U >> 8, 20);
	while ((s = bench_take(b)) != NULL) {
		assert_false(seen >> part_of(s) & 1);
		seen |= 1ULL << part_of(s);
	}
	assert_int_equal(seen, (1ULL << LONG_PARTS) - 1);
	assert_int_equal(bench_records(b, "fragments.fragment"), 0);
	bench_close(b);
}

/* The last part comes first. */
static void
hold_long(bool ordered)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 3, .ordered = ordered });
	static const struct spec whole = { .from = "10.0.0.1:1000",
					   .to = "192.0.2.9:53", .protocol = PROTO_UDP,
					   .data_bytes = 16 * LONG_PARTS - 8 };
	struct step step = { "a later one waits", .fate = KEPT, .writes = true };

	for (unsigned int part = LONG_PARTS; part-- > 1;) {
		step.packet = (struct spec)PART(whole, 2 * part, 16,
						part + 1 < LONG_PARTS);
		bench_steps(b, &step, 1);
	}
	step = (struct step){ "the first has all behind it", FIRST(whole), SENT, true,
			      .emits = LONG_PARTS - 1 };
	bench_steps(b, &step, 1);
	assert_int_equal(bench_stats(b).injected, LONG_PARTS - 1);
	assert_int_equal(bench_records(b, "fragments.fragment"), 0);
	bench_close(b);
}

/* [B13, B52; case 23; U19] */
static void
test_a_long_datagram_in_any_order_leaves_whole(void **state)
{
	hold_long(false);
	hold_long(true);
	for (unsigned int schedule = 0; schedule < 500; schedule++)
		race_long(schedule);
}

static bool
refuses(const char *section)
{
	uint8_t options[64] = { 0 };
	struct config *config = NULL;
	int err;

	assert_true(nf_fragments.options_bytes <= sizeof(options));
	err = config_load_text("section", section, strlen(section), nf_fragments.options,
			       options, &config);
	config_free(config);
	return err != 0;
}

static void
test_what_a_section_may_not_say(void **state)
{
	assert_true(refuses("timeout: 0"));
	assert_true(refuses("timeout: 121s"));
	assert_true(refuses("per_source: 0"));
	assert_true(refuses("overlap: first"));
	assert_false(refuses("{ timeout: 10s, per_source: 5, overlap: pass }"));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fragments_in_order_pass),
		cmocka_unit_test(test_early_fragments_wait_for_the_first),
		cmocka_unit_test(test_a_fragment_is_judged_as_its_first_is),
		cmocka_unit_test(test_ipv6_is_as_ipv4),
		cmocka_unit_test(test_datagrams_are_told_apart),
		cmocka_unit_test(test_exact_duplicates_do_not_count),
		cmocka_unit_test(test_overlapping_fragments_are_refused),
		cmocka_unit_test(test_overlaps_pass_if_the_operator_says_so),
		cmocka_unit_test(test_what_is_no_part_of_a_datagram_is_dropped),
		cmocka_unit_test(test_an_atomic_fragment_is_a_whole_datagram),
		cmocka_unit_test(test_options_may_stand_in_the_first),
		cmocka_unit_test(test_an_identification_comes_round),
		cmocka_unit_test(test_zones_do_not_mix),
		cmocka_unit_test(test_what_is_too_long_is_fragmented_or_refused),
		cmocka_unit_test(test_two_instances_send_each_fragment_once),
		cmocka_unit_test(test_nor_do_duplicates_confuse_them),
		cmocka_unit_test(test_a_long_datagram_in_any_order_leaves_whole),
		cmocka_unit_test(test_what_a_section_may_not_say),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}
