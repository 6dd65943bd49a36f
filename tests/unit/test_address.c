/*
 * test_address.c - what is an address, and what is a mistake.
 */
#include "net/address.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

union any {
	struct endpoint endpoint;
	struct prefix prefix;
	struct port_range range;
	uint8_t mac[MAC_BYTES];
};

static void
print_endpoint(const union any *value, char *text)
{
	endpoint_print(&value->endpoint, text);
}

static void
print_prefix(const union any *value, char *text)
{
	struct endpoint e = { .version = value->prefix.version };

	memcpy(e.ip6, value->prefix.ip6, sizeof(e.ip6));
	e.port = rte_cpu_to_be_16(value->prefix.length);
	endpoint_print(&e, text);
}

static void
print_range(const union any *value, char *text)
{
	snprintf(text, PACKET_TEXT_BYTES, "%u-%u", value->range.low, value->range.high);
}

static void
print_mac(const union any *value, char *text)
{
	const uint8_t *m = value->mac;

	snprintf(text, PACKET_TEXT_BYTES, "%u %u %u %u %u %u", m[0], m[1], m[2], m[3],
		 m[4], m[5]);
}

struct parser {
	int (*parse)(const char *text, void *out);
	void (*print)(const union any *value, char *text);
};

static const struct parser address = { address_parse, print_endpoint };
static const struct parser endpoint = { endpoint_parse, print_endpoint };
static const struct parser prefix = { prefix_parse, print_prefix };
static const struct parser ports = { port_range_parse, print_range };
static const struct parser mac = { mac_parse, print_mac };

static const struct {
	const char *name;
	const struct parser *parser;
	const char *text;
	const char *want; /* Printed; NULL: it is refused. */
} cases[] = {
	{ "an IPv4 address", &address, "10.0.0.1", "10.0.0.1:0" },
	{ "an IPv6 address", &address, "2001:db8::1", "[2001:db8::1]:0" },
	{ "the longest IPv6 address", &address,
	  "2001:0db8:1111:2222:3333:4444:255.255.255.255",
	  "[2001:db8:1111:2222:3333:4444:ffff:ffff]:0" },
	{ "nothing is no address", &address, "", NULL },
	{ "a short IPv4 address is none", &address, "10.1", NULL },
	{ "nor one above 255", &address, "10.0.0.256", NULL },
	{ "nor one with a leading zero", &address, "10.0.0.01", NULL },
	{ "nor one with a blank", &address, "10.0.0.1 ", NULL },
	{ "nor one with a port", &address, "10.0.0.1:80", NULL },
	{ "nor one in brackets", &address, "[::1]", NULL },
	{ "nor one with an interface", &address, "fe80::1%eth0", NULL },
	{ "nor a name", &address, "localhost", NULL },
	{ "nor one that never ends", &address,
	  "1111:2222:3333:4444:5555:6666:7777:8888:9999:1111:2222:3333", NULL },

	{ "an IPv4 endpoint", &endpoint, "10.0.0.1:80", "10.0.0.1:80" },
	{ "an IPv6 endpoint", &endpoint, "[2001:db8::1]:443", "[2001:db8::1]:443" },
	{ "the highest port", &endpoint, "10.0.0.1:65535", "10.0.0.1:65535" },
	{ "a port above it is none", &endpoint, "10.0.0.1:65536", NULL },
	{ "nor one that wraps around", &endpoint, "10.0.0.1:4294967376", NULL },
	{ "port 0 is no endpoint's", &endpoint, "10.0.0.1:0", NULL },
	{ "an endpoint has a port", &endpoint, "10.0.0.1", NULL },
	{ "even after its colon", &endpoint, "10.0.0.1:", NULL },
	{ "a port has no sign", &endpoint, "10.0.0.1:+80", NULL },
	{ "nor a leading zero", &endpoint, "10.0.0.1:080", NULL },
	{ "nor is it hexadecimal", &endpoint, "10.0.0.1:0x50", NULL },
	{ "nothing follows it", &endpoint, "10.0.0.1:80/tcp", NULL },
	{ "an endpoint has an address", &endpoint, ":80", NULL },
	{ "IPv6 needs brackets here", &endpoint, "2001:db8::1:443", NULL },
	{ "IPv4 has none", &endpoint, "[10.0.0.1]:80", NULL },
	{ "brackets are closed", &endpoint, "[2001:db8::1:443", NULL },
	{ "and opened", &endpoint, "2001:db8::1]:443", NULL },
	{ "and not empty", &endpoint, "[]:443", NULL },
	{ "nothing follows them but the port", &endpoint, "[::1]x:443", NULL },

	{ "an IPv4 prefix", &prefix, "10.0.0.0/8", "10.0.0.0:8" },
	{ "an IPv6 prefix", &prefix, "2001:db8::/32", "[2001:db8::]:32" },
	{ "an odd length", &prefix, "10.128.0.0/9", "10.128.0.0:9" },
	{ "all of IPv4", &prefix, "0.0.0.0/0", "0.0.0.0:0" },
	{ "all of IPv6", &prefix, "::/0", "[::]:0" },
	{ "a host", &prefix, "10.1.2.3/32", "10.1.2.3:32" },
	{ "a host needs no length", &prefix, "10.1.2.3", "10.1.2.3:32" },
	{ "nor over IPv6", &prefix, "2001:db8::1", "[2001:db8::1]:128" },
	{ "a bit behind the prefix is a mistake", &prefix, "10.64.0.0/9", NULL },
	{ "the last one too", &prefix, "2001:db8::1/127", NULL },
	{ "all bits are, behind a length of 0", &prefix, "128.0.0.0/0", NULL },
	{ "IPv4 has 32 bits", &prefix, "10.0.0.0/33", NULL },
	{ "IPv6 has 128 bits", &prefix, "::/129", NULL },
	{ "a slash needs a length", &prefix, "10.0.0.0/", NULL },
	{ "which is not a mask", &prefix, "10.0.0.0/255.0.0.0", NULL },
	{ "and not negative", &prefix, "10.0.0.0/-1", NULL },
	{ "and is one", &prefix, "10.0.0.0/8/8", NULL },
	{ "a prefix has an address", &prefix, "/8", NULL },

	{ "a port", &ports, "80", "80-80" },
	{ "a range of ports", &ports, "1024-65535", "1024-65535" },
	{ "a range of one", &ports, "80-80", "80-80" },
	{ "all ports", &ports, "0-65535", "0-65535" },
	{ "a range does not go down", &ports, "81-80", NULL },
	{ "a range has an end", &ports, "80-", NULL },
	{ "and a start", &ports, "-80", NULL },
	{ "a port has at most 16 bits", &ports, "65536", NULL },
	{ "at the end too", &ports, "1-65536", NULL },
	{ "a range has two ports", &ports, "1-2-3", NULL },
	{ "a range has no blanks", &ports, "1 - 2", NULL },
	{ "no port is no port", &ports, "", NULL },

	{ "a MAC address", &mac, "02:00:5e:10:00:01", "2 0 94 16 0 1" },
	{ "in capitals", &mac, "FF:FF:FF:FF:FF:Aa", "255 255 255 255 255 170" },
	{ "it has six bytes", &mac, "02:00:5e:10:00", NULL },
	{ "and no more", &mac, "02:00:5e:10:00:01:02", NULL },
	{ "of two digits", &mac, "2:00:5e:10:00:001", NULL },
	{ "with colons between", &mac, "02-00-5e-10-00-01", NULL },
	{ "and digits are hexadecimal", &mac, "02:00:5g:10:00:01", NULL },
};

static void
texts_are_taken_whole_or_refused(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[PACKET_TEXT_BYTES];
		union any value, before;

		print_message("  %s: \"%s\"\n", cases[i].name, cases[i].text);
		memset(&value, 0xa5, sizeof(value));
		before = value;

		int err = cases[i].parser->parse(cases[i].text, &value);

		if (cases[i].want == NULL) {
			assert_int_equal(err, -EINVAL);
			assert_memory_equal(&value, &before, sizeof(value));
		} else {
			assert_int_equal(err, 0);
			cases[i].parser->print(&value, text);
			assert_string_equal(text, cases[i].want);
		}
	}
}

static const struct {
	const char *name;
	const char *prefix, *address;
	bool want;
} members[] = {
	{ "the first address", "10.0.0.0/8", "10.0.0.0", true },
	{ "the last", "10.0.0.0/8", "10.255.255.255", true },
	{ "not the one behind", "10.0.0.0/8", "11.0.0.0", false },
	{ "nor the one before", "10.0.0.0/8", "9.255.255.255", false },
	{ "the last of an odd length", "10.128.0.0/9", "10.255.255.255", true },
	{ "not the one before it", "10.128.0.0/9", "10.127.255.255", false },
	{ "a host is itself", "10.0.0.1", "10.0.0.1", true },
	{ "and no other", "10.0.0.1", "10.0.0.2", false },
	{ "any", "0.0.0.0/0", "255.255.255.255", true },
	{ "any IPv4 is no IPv6", "0.0.0.0/0", "::", false },
	{ "any IPv6 is no IPv4", "::/0", "0.0.0.0", false },
	{ "any IPv6", "::/0", "ffff::", true },
	{ "an IPv6 host is itself", "2001:db8::1", "2001:db8::1", true },
	{ "an IPv6 host is no other", "2001:db8::1", "2001:db8::", false },
	{ "the last of an IPv6 prefix", "2001:db8::/33", "2001:db8:7fff::ffff", true },
	{ "not the one behind it", "2001:db8::/33", "2001:db8:8000::", false },
};

static void
a_prefix_contains_what_begins_like_it(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
		struct prefix p;
		struct endpoint e;

		print_message("  %s\n", members[i].name);
		assert_int_equal(prefix_parse(members[i].prefix, &p), 0);
		assert_int_equal(address_parse(members[i].address, &e), 0);
		assert_int_equal(prefix_contains(&p, &e), members[i].want);
		e.port = 80;
		assert_int_equal(prefix_contains(&p, &e), members[i].want);
	}
}

static void
a_prefix_of_zeros_contains_nothing(void **state)
{
	static const struct prefix none;
	struct endpoint e;

	(void)state;
	assert_int_equal(address_parse("0.0.0.0", &e), 0);
	assert_false(prefix_contains(&none, &e));
}

static void
hosts_are_not_at_every_address(void **state)
{
	static const struct {
		const char *address;
		bool want;
	} hosts[] = {
		{ "0.0.0.0", false }, { "0.1.2.3", false }, { "127.0.0.1", false },
		{ "224.0.0.1", false }, { "255.255.255.255", false }, { "::1", false },
		{ "::ffff:192.0.2.1", false }, { "ff02::1", false }, { "1.0.0.0", true },
		{ "126.255.255.255", true }, { "223.255.255.255", true },
		{ "2001:db8::", true }, { "fe80::1", true },
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		struct endpoint e;

		print_message("  %s\n", hosts[i].address);
		assert_int_equal(address_parse(hosts[i].address, &e), 0);
		assert_int_equal(endpoint_is_host(&e), hosts[i].want);
	}
}

static void
a_port_range_contains_both_its_ends(void **state)
{
	static const struct port_range range = { 80, 443 };

	(void)state;
	assert_false(port_range_contains(&range, rte_cpu_to_be_16(79)));
	assert_true(port_range_contains(&range, rte_cpu_to_be_16(80)));
	assert_true(port_range_contains(&range, rte_cpu_to_be_16(443)));
	assert_false(port_range_contains(&range, rte_cpu_to_be_16(444)));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_are_taken_whole_or_refused),
		cmocka_unit_test(a_prefix_contains_what_begins_like_it),
		cmocka_unit_test(a_prefix_of_zeros_contains_nothing),
		cmocka_unit_test(hosts_are_not_at_every_address),
		cmocka_unit_test(a_port_range_contains_both_its_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
