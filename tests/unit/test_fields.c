/* Records as people read them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "nf/nf.h"

struct sample {
	uint8_t state, protocol;
	uint16_t small;
	uint32_t wide;
	int64_t below;
	struct endpoint to;
	uint32_t ip;
	uint8_t source[12];
};

static const char *const words[] = { "new", "open", NULL };
static const struct nf_field fields[] = {
	{ "state", NF_FIELD_WORD, offsetof(struct sample, state), 1, words },
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct sample, protocol), 1 },
	{ "small", NF_FIELD_UINT, offsetof(struct sample, small), 2 },
	{ "wide", NF_FIELD_UINT, offsetof(struct sample, wide), 4 },
	{ "below", NF_FIELD_INT, offsetof(struct sample, below), 8 },
	{ "to", NF_FIELD_ENDPOINT, offsetof(struct sample, to), sizeof(struct endpoint) },
	{ "ip", NF_FIELD_IP4, offsetof(struct sample, ip), 4 },
	{ "source", NF_FIELD_SOURCE, offsetof(struct sample, source), 12 },
	{ 0 },
};
static const struct nf_table table = { .fields = fields, .key_fields = nf_fields_flow };

static const struct flow flow4 = {
	.version = 4,
	.protocol = 17,
	.src_port = RTE_BE16(1234),
	.dst_port = RTE_BE16(53),
	.ip4 = { RTE_BE32(0x0a000001), RTE_BE32(0xc0000201) },
};

/* "name=text" of all fields, a blank behind each. */
static const char *
print(const struct nf_table *t, bool readable, const void *key, unsigned int key_bytes,
      const void *value, unsigned int value_bytes)
{
	static char all[FIELDS_MAX * (FIELDS_TEXT + 32)];
	struct field_text text[FIELDS_MAX];
	unsigned int n = fields_print(t, readable, key, key_bytes, value, value_bytes, text);
	size_t bytes = 0;

	all[0] = 0;
	for (unsigned int i = 0; i < n; i++)
		bytes += (size_t)snprintf(all + bytes, sizeof(all) - bytes, "%s=%s ",
					  text[i].name, text[i].text);
	return all;
}

static void
fields_are_printed_by_kind(void **state)
{
	struct sample s = {
		.state = 1, .protocol = 6, .small = 65535, .wide = 4000000000u, .below = -5,
		.to = { .ip4 = RTE_BE32(0x0a000002), .port = RTE_BE16(80), .version = 4 },
		.ip = RTE_BE32(0x7f000001), .source = { 4, 0, 0, 0, 10, 0, 0, 9 },
	};
	static const uint8_t source6[] = { 6, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 7 };

	assert_string_equal(print(&table, true, &flow4, FLOW4_BYTES, &s, sizeof(s)),
			    "protocol=udp src=10.0.0.1:1234 dst=192.0.2.1:53 state=open "
			    "protocol=tcp small=65535 wide=4000000000 below=-5 "
			    "to=10.0.0.2:80 ip=127.0.0.1 source=10.0.0.9 ");
	s.state = 9;
	s.protocol = 200;
	memcpy(s.source, source6, sizeof(source6));
	assert_non_null(strstr(print(&table, true, &flow4, FLOW4_BYTES, &s, sizeof(s)),
			       "state=9 protocol=200 "));
	assert_non_null(strstr(print(&table, true, &flow4, FLOW4_BYTES, &s, sizeof(s)),
			       "source=fd00:0:0:7::/64 "));
}

static void
what_cannot_be_read_is_shown_as_digits(void **state)
{
	uint8_t value[3] = { 0x00, 0xab, 0x10 }, big[200] = { 0 };

	assert_string_equal(print(NULL, true, "k", 1, value, 3), "key=6b value=00ab10 ");
	assert_non_null(strstr(print(&table, false, &flow4, FLOW4_BYTES, value, 3),
			       "value=00ab10 "));
	/* A flow cut short, and a value cut short: no byte beyond them is looked at. */
	assert_string_equal(print(&table, true, &flow4, 5, value, 1),
			    "flow=0411000004 state=new ");
	assert_non_null(strstr(print(NULL, true, "k", 1, big, sizeof(big)), "00... "));
}

static void
a_range_shows_how_much_of_it_is_taken(void **state)
{
	static const struct nf_table range = { .is_range = true };
	uint32_t value[4] = { 100, 7 };

	assert_string_equal(print(&range, true, "k", 1, value, sizeof(value)),
			    "key=6b members=100 taken=7 ");
}

static void
a_field_is_asked_for_by_its_value(void **state)
{
	static const struct {
		const char *text, *wanted;
		bool match;
	} cases[] = {
		{ "10.0.0.1:80", "at=10.0.0.1:80", true },
		{ "10.0.0.1:80", "at=10.0.0.1", true },
		{ "10.0.0.1:80", "at=10.0.0", false },
		{ "10.0.0.1:80", "at=10.0.0.1:8", false },
		{ "10.0.0.1:80", "at=", false },
		{ "10.0.0.1:80", "a=10.0.0.1", false },
		{ "10.0.0.1:80", "attt=10.0.0.1", false },
		{ "10.0.0.1:80", "at", false },
		{ "[2001:db8::1]:443", "at=2001:db8::1", true },
		{ "[2001:db8::1]:443", "at=2001:db8:", false },
		{ "2001:db8::1", "at=2001:db8::1", true },
		{ "2001:db8::1", "at=2001:db8:", false },
		{ "", "at=", true },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct field_text text = { .name = "at" };

		strcpy(text.text, cases[i].text);
		if (fields_match(&text, 1, cases[i].wanted) != cases[i].match)
			fail_msg("%s %s", cases[i].text, cases[i].wanted);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_are_printed_by_kind),
		cmocka_unit_test(what_cannot_be_read_is_shown_as_digits),
		cmocka_unit_test(a_range_shows_how_much_of_it_is_taken),
		cmocka_unit_test(a_field_is_asked_for_by_its_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
