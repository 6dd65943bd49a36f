/*
 * test_flow.c - both ends of a connection come to the same name for it.
 */
#include "net/packet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "net/address.h"

static const struct {
	const char *name;
	const char *low, *high;
} cases[] = {
	{ "the lower address is the source", "10.0.0.1:9", "10.0.0.2:8" },
	{ "as the bytes on the wire are", "10.0.0.255:9", "10.0.1.0:8" },
	{ "above 127 too", "127.0.0.1:1", "128.0.0.1:1" },
	{ "of one address the lower port", "10.0.0.1:255", "10.0.0.1:256" },
	{ "the lower IPv6 address", "[2001:db8::1]:9", "[2001:db8::2]:8" },
	{ "its first bytes count most", "[2001:db8::ff]:9", "[2002::]:8" },
	{ "of one IPv6 address the lower port", "[::1]:255", "[::1]:32768" },
};

/* The memory holds 'fill' before: nothing of it may be left in what counts. */
static void
flow_make(const char *src, const char *dst, int fill, struct flow *f)
{
	struct endpoint from, to;

	memset(f, fill, sizeof(*f));
	assert_int_equal(endpoint_parse(src, &from), 0);
	assert_int_equal(endpoint_parse(dst, &to), 0);
	f->version = from.version;
	f->protocol = PROTO_UDP;
	f->zone = 3;
	f->src_port = from.port;
	f->dst_port = to.port;
	if (from.version == 4) {
		f->ip4.src = from.ip4;
		f->ip4.dst = to.ip4;
	} else {
		memcpy(f->ip6.src, from.ip6, sizeof(f->ip6.src));
		memcpy(f->ip6.dst, to.ip6, sizeof(f->ip6.dst));
	}
}

static void
both_directions_have_one_name(void **state)
{
	struct flow there, back, name;

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		print_message("  %s\n", cases[i].name);
		flow_make(cases[i].low, cases[i].high, 0x00, &there);
		flow_make(cases[i].high, cases[i].low, 0xff, &back);
		memset(&name, 0xaa, sizeof(name));
		assert_false(flow_canonical(&there, &name));
		assert_memory_equal(&name, &there, flow_bytes(&there));
		memset(&name, 0x55, sizeof(name));
		assert_true(flow_canonical(&back, &name));
		assert_memory_equal(&name, &there, flow_bytes(&there));
		flow_reverse(&there, &name);
		assert_memory_equal(&name, &back, flow_bytes(&back));
	}
}

static void
a_flow_between_one_endpoint_is_its_own_reverse(void **state)
{
	static const char *const ends[] = { "127.0.0.1:7", "[::1]:7" };
	struct flow f, name;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		flow_make(ends[i], ends[i], 0x00, &f);
		assert_false(flow_canonical(&f, &name));
		assert_memory_equal(&name, &f, flow_bytes(&f));
	}
}

static void
endpoints_are_printed_as_they_are_written(void **state)
{
	struct flow f;
	struct endpoint e;
	char text[PACKET_TEXT_BYTES];

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		flow_make(cases[i].low, cases[i].high, 0xff, &f);
		memset(&e, 0xff, sizeof(e));
		flow_source(&f, &e);
		endpoint_print(&e, text);
		assert_string_equal(text, cases[i].low);
		memset(&e, 0xff, sizeof(e));
		flow_destination(&f, &e);
		endpoint_print(&e, text);
		assert_string_equal(text, cases[i].high);
	}
}

static void
an_endpoint_has_no_undefined_byte(void **state)
{
	struct flow f;
	struct endpoint e, want;

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		flow_make(cases[i].low, cases[i].high, 0xff, &f);
		memset(&e, 0xff, sizeof(e));
		memset(&want, 0x00, sizeof(want));
		flow_source(&f, &e);
		assert_int_equal(endpoint_parse(cases[i].low, &want), 0);
		assert_memory_equal(&e, &want, sizeof(e));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_directions_have_one_name),
		cmocka_unit_test(a_flow_between_one_endpoint_is_its_own_reverse),
		cmocka_unit_test(endpoints_are_printed_as_they_are_written),
		cmocka_unit_test(an_endpoint_has_no_undefined_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
