/*
 * test_neighbour.c - who asks for an address of ours is told where it is, as another
 * program would say it.
 */
#include "net/neighbour.h"

#include "packet_samples.h"

static const uint8_t our_mac[MAC_BYTES] = { 0x02, 0, 0x5e, 0x10, 0, 0x01 };

#define ARP_REQUEST                                                                      \
	"ffffffffffff020000000001080600010800060400010200000000010a00000100000000"       \
	"0000c0000209"
#define ARP_REPLY                                                                        \
	"02000000000102005e1000010806000108000604000202005e100001c000020902000000"       \
	"00010a000001"
#define SOLICITATION                                                                     \
	"3333ff00000902000000000186dd6000000000203aff20010db800000000000000000000"       \
	"0001ff0200000000000000000001ff00000987001c120000000020010db8000100000000"       \
	"0000000000090101020000000007"
#define ADVERTISEMENT                                                                    \
	"02000000000702005e10000186dd6000000000203aff20010db800010000000000000000"       \
	"000920010db800000000000000000000000188002c526000000020010db8000100000000"       \
	"000000000009020102005e100001"
#define PROBE6                                                                           \
	"3333ff00000902000000000186dd6000000000183aff0000000000000000000000000000"       \
	"0000ff0200000000000000000001ff00000987004cdc0000000020010db8000100000000"       \
	"000000000009"

#define PADDING "000000000000000000000000000000000000"
#define PADDED  1 /* The index of that which has it. */

/* Made with scapy. */
static const struct {
	const char *name, *frame, *want;
} answers[] = {
	{ "an ARP request", ARP_REQUEST, ARP_REPLY },
	{ "padding is no part of it", ARP_REQUEST PADDING, ARP_REPLY },
	{ "a probe, from no address",
	  "ffffffffffff020000000001080600010800060400010200000000010000000000000000"
	  "0000c0000209",
	  "02000000000102005e1000010806000108000604000202005e100001c000020902000000"
	  "000100000000" },
	{ "one that only we got, with a tag",
	  "02005e10000102000000000181000005080600010800060400010200000000010a000001"
	  "02005e100001c0000209",
	  "02000000000102005e100001810000050806000108000604000202005e100001c0000209"
	  "0200000000010a000001" },
	{ "a neighbour solicitation", SOLICITATION, ADVERTISEMENT },
	{ "one that only we got, with two tags, and without a source address",
	  "02005e10000102000000000188a800068100000586dd6000000000183aff20010db80000"
	  "0000000000000000000120010db80001000000000000000000098700ef6c000000002001"
	  "0db8000100000000000000000009",
	  "02000000000102005e10000188a800068100000586dd6000000000203aff20010db80001"
	  "0000000000000000000920010db800000000000000000000000188002c52600000002001"
	  "0db8000100000000000000000009020102005e100001" },
	{ "a probe for a duplicate address", PROBE6,
	  "33330000000102005e10000186dd6000000000203aff20010db800010000000000000000"
	  "0009ff02000000000000000000000000000188009b082000000020010db8000100000000"
	  "000000000009020102005e100001" },
};

static const struct {
	const char *name, *frame;
	unsigned int at;
	const char *patch;
	bool sums; /* Which are right afterwards. */
} silent[] = {
	{ "an ARP reply", ARP_REQUEST, 20, "0002", false },
	{ "another protocol's", ARP_REQUEST, 16, "86dd", false },
	{ "another link's", ARP_REQUEST, 14, "0006", false },
	{ "other lengths", ARP_REQUEST, 18, "0810", false },
	{ "for another address", ARP_REQUEST, 38, "c000020a", false },
	{ "one that tells, and does not ask", ARP_REQUEST, 28, "c0000209", false },
	{ "from a group of stations", ARP_REQUEST, 22, "03", false },
	{ "from no station", ARP_REQUEST, 22, "000000000000", false },
	{ "to another station", ARP_REQUEST, 0, "020000000009", false },
	{ "from us", ARP_REQUEST, 6, "02005e100001", false },
	{ "cut short", ARP_REQUEST, 12, "8100000188a800010806", false },
	{ "three tags", ARP_REQUEST, 12, "88a8000181000002810000030806", false },
	{ "a router has passed it on", SOLICITATION, 21, "fe", false },
	{ "a wrong checksum", SOLICITATION, 56, "1c13", false },
	{ "another code", SOLICITATION, 55, "01", true },
	{ "an advertisement", SOLICITATION, 54, "88", true },
	{ "for another IPv6 address", SOLICITATION, 77, "0a", true },
	{ "for a multicast address", SOLICITATION, 62, "ff", true },
	{ "an option without a length", SOLICITATION, 79, "00", true },
	{ "an option that is longer than all", SOLICITATION, 79, "02", true },
	{ "a source that is a group", SOLICITATION, 80, "03", true },
	{ "from a multicast address", SOLICITATION, 22, "ff02", true },
	{ "a probe with a source's address", SOLICITATION, 22,
	  "00000000000000000000000000000000", true },
	{ "a probe to all", PROBE6, 38, "ff020000000000000000000000000001", true },
	{ "IPv6 to another station", SOLICITATION, 0, "020000000009", false },
	{ "a short one", PROBE6, 18, "0010", true },
};

/* 192.0.2.9 and 2001:db8:1::9, if it is told that it is asked by us. */
static bool
ours(const void *who, const struct endpoint *address)
{
	struct endpoint one;

	assert_ptr_equal(who, our_mac);
	assert_int_equal(address->port, 0);
	assert_int_equal(address->zero, 0);
	assert_int_equal(
		address_parse(address->version == 4 ? "192.0.2.9" : "2001:db8:1::9",
			      &one),
		0);
	return memcmp(&one, address, sizeof(one)) == 0;
}

/* The answer, in memory that ends where it may; the caller frees it. */
static uint8_t *
answer(const struct frame *f, unsigned int *bytes)
{
	uint8_t *out = malloc(NEIGHBOUR_MAX_BYTES);
	uint8_t *copy = exact_copy(f, f->bytes);

	*bytes = neighbour_answer(copy, f->bytes, ours, our_mac, our_mac, out);
	free(copy);
	return out;
}

/* [B49] */
static void
who_asks_is_answered(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct frame f = { .bytes = 0 }, want = { .bytes = 0 };
		unsigned int bytes;

		print_message("  %s\n", answers[i].name);
		hex_append(&f, answers[i].frame);
		hex_append(&want, answers[i].want);

		uint8_t *out = answer(&f, &bytes);

		assert_int_equal(bytes, want.bytes);
		assert_memory_equal(out, want.data, bytes);
		free(out);
	}
}

/* [B49] */
static void
what_is_no_question_for_us_is_not(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(silent) / sizeof(silent[0]); i++) {
		struct frame f = { .bytes = 0 }, patch = { .bytes = 0 };
		unsigned int bytes;
		struct packet p;

		print_message("  %s\n", silent[i].name);
		hex_append(&f, silent[i].frame);
		hex_append(&patch, silent[i].patch);
		memcpy(f.data + silent[i].at, patch.data, patch.bytes);
		if (silent[i].sums) {
			assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
					 PACKET_OK);
			reference_sums(&p);
		}
		free(answer(&f, &bytes));
		assert_int_equal(bytes, 0);
	}
}

static void
nothing_else_is_answered_nor_what_is_cut_short(void **state)
{
	unsigned int bytes;
	struct frame f;

	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		frame_make(&f, samples[i].hex);
		free(answer(&f, &bytes));
		assert_int_equal(bytes, 0);
	}
	for (unsigned int i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		f.bytes = 0;
		hex_append(&f, answers[i].frame);
		f.bytes -= strlen(PADDING) / 2 * (i == PADDED);
		while (f.bytes-- > 0) {
			free(answer(&f, &bytes));
			assert_int_equal(bytes, 0);
		}
	}
}

static void
announcements_tell_all(void **state)
{
	static const struct {
		const char *address, *want;
	} cases[] = {
		{ "192.0.2.9", "ffffffffffff02005e1000010806000108000604000102005e100001c"
			       "000020900000000"
			       "0000c0000209" },
		{ "2001:db8:1::9", "33330000000102005e10000186dd6000000000203aff20010db80"
				   "0010000000000000000"
				   "0009ff02000000000000000000000000000188009b08200000002"
				   "0010db8000100000000"
				   "000000000009020102005e100001" },
	};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		uint8_t *out = malloc(NEIGHBOUR_MAX_BYTES);
		struct frame made = { .bytes = 0 }, want = { .bytes = 0 };
		unsigned int bytes;
		struct endpoint e;

		hex_append(&want, cases[i].want);
		assert_int_equal(address_parse(cases[i].address, &e), 0);
		made.bytes = neighbour_announce(&e, our_mac, out);
		assert_int_equal(made.bytes, want.bytes);
		assert_memory_equal(out, want.data, want.bytes);
		memcpy(made.data, out, made.bytes);
		free(out);
		/* The others of the fleet have nothing to say to it. */
		free(answer(&made, &bytes));
		assert_int_equal(bytes, 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_asks_is_answered),
		cmocka_unit_test(what_is_no_question_for_us_is_not),
		cmocka_unit_test(nothing_else_is_answered_nor_what_is_cut_short),
		cmocka_unit_test(announcements_tell_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
