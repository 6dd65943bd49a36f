/*
 * test_tunnel.c - headers around packets, held against another program's.
 */
#include "net/tunnel.h"

#include "net/address.h"
#include "packet_samples.h"

/* Made with scapy; IPv6 with flow label 0. */
static const struct {
	const char *name;
	unsigned int sample;
	enum tunnel kind;
	uint8_t version;
	const char *want;
} cases[] = {
	{ "IPv4 in IPv4; padding stays behind", TCP4, TUNNEL_IPIP, 4,
	  "02000000000202000000000108004500003c000040004004e653c6336401c63364024500"
	  "0028000700004006aebf0a000001c000020904000050010203040506070850021234bd40"
	  "0000000000000000" },
	{ "IPv6 in IPv4", UDP6, TUNNEL_IPIP, 4,
	  "020000000002020000000001080045000047000040004029e623c6336401c63364026000"
	  "0000000b114020010db800000000000000000000000120010db800010000000000000000"
	  "000914e90035000bbbd86f6464" },
	{ "IPv4 in IPv6, behind a tag", TAGGED, TUNNEL_IPIP, 6,
	  "0200000000020200000000018100000586dd60000000001e044020010db8000f00000000"
	  "00000000000120010db8000f000000000000000000024500001e000700004011aebe0a00"
	  "0001c000020914e90035000aa6387879" },
	{ "IPv6 in IPv6, behind two tags", TWO_TAGS, TUNNEL_IPIP, 6,
	  "02000000000202000000000188a800068100000586dd600000000033294020010db8000f"
	  "0000000000000000000120010db8000f0000000000000000000260000000000b11402001"
	  "0db800000000000000000000000120010db800010000000000000000000914e90035000b"
	  "9cc378797a" },
	{ "IPv4 in GUE over IPv4", UDP4, TUNNEL_GUE, 4,
	  "02000000000202000000000108004500003f000040004011e643c6336401c6336402c350"
	  "17c0002b0000000400004500001f000700004011aebd0a000001c000020914e90035000b"
	  "4b4b6f6464" },
	{ "IPv6 in GUE over IPv6", TCP6, TUNNEL_GUE, 6,
	  "02000000000202000000000186dd600000000049114020010db8000f0000000000000000"
	  "000120010db8000f00000000000000000002c35017c00049000000290000600000000015"
	  "064020010db800000000000000000000000120010db80001000000000000000000090400"
	  "00500000000000000000500220000f15000021" },
};

static void
outer_addresses(uint8_t version, struct endpoint *src, struct endpoint *dst)
{
	const char *from = version == 4 ? "198.51.100.1:50000" : "[2001:db8:f::1]:50000";
	const char *to = version == 4 ? "198.51.100.2:6080" : "[2001:db8:f::2]:6080";

	assert_int_equal(endpoint_parse(from, src), 0);
	assert_int_equal(endpoint_parse(to, dst), 0);
}

/* The frame in a tunnel, in memory with just the room that it needs; the caller frees
 * it. */
static uint8_t *
in_tunnel(const struct frame *f, enum tunnel kind, const struct endpoint *src,
	  const struct endpoint *dst, struct packet *p)
{
	unsigned int room = tunnel_bytes(kind, dst->version);
	uint8_t *memory = malloc(room + f->bytes);

	memcpy(memory + room, f->data, f->bytes);
	assert_int_equal(packet_parse(p, memory + room, f->bytes, f->bytes), PACKET_OK);
	assert_ptr_equal(tunnel_put(p, kind, src, dst), memory);
	return memory;
}

/* The flow label, which becomes 0, of an IPv6 header. */
static uint32_t
label_take(uint8_t *ip)
{
	uint32_t label = (ip[1] & 15) << 16 | word_at(ip + 2);

	ip[1] &= 0xf0;
	word_put(ip + 2, 0);
	return label;
}

/* [B47] */
static void
headers_are_what_another_program_makes(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct frame f, want = { .bytes = 0 };
		struct endpoint src, dst;
		struct packet p;

		print_message("  %s\n", cases[i].name);
		frame_make(&f, samples[cases[i].sample].hex);
		hex_append(&want, cases[i].want);
		outer_addresses(cases[i].version, &src, &dst);

		uint8_t *made = in_tunnel(&f, cases[i].kind, &src, &dst, &p);

		if (cases[i].version == 6)
			assert_int_not_equal(label_take(made + p.l3), 0);
		assert_int_equal(f.bytes + tunnel_bytes(cases[i].kind, cases[i].version),
				 want.bytes);
		assert_memory_equal(made, want.data, want.bytes);
		free(made);
	}
}

/* What another router may tell flows apart by: all packets of one flow have the same. */
static void
source_port_and_label_are_the_flows(void **state)
{
	static const unsigned int of[] = { UDP4, UDP4_SURPLUS, TCP4, ECHO4 };
	uint32_t port[4], label[4];

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		struct endpoint src, dst;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[of[i]].hex);
		outer_addresses(6, &src, &dst);
		src.port = 0;

		uint8_t *made = in_tunnel(&f, TUNNEL_GUE, &src, &dst, &p);

		label[i] = label_take(made + 14);
		port[i] = word_at(made + 14 + 40);
		assert_true(port[i] >= 49152);
		free(made);
	}
	assert_int_equal(port[0], port[1]);
	assert_int_equal(label[0], label[1]);
	assert_int_not_equal(port[0], port[2]);
	assert_int_not_equal(label[0], label[2]);
	assert_int_not_equal(port[0], port[3]);
}

static void
class_and_ttl_are_the_inner_ones(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		bool is_inner4 = i & 1, is_outer4 = i & 2;
		struct endpoint src, dst;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[is_inner4 ? UDP4 : UDP6].hex);
		if (is_inner4) {
			f.data[14 + 1] = 0xb9;
			f.data[14 + 8] = 7;
			reference_ip4(f.data + 14);
		} else {
			word_put(f.data + 14, 0x6b9f);
			f.data[14 + 7] = 7;
		}
		outer_addresses(is_outer4 ? 4 : 6, &src, &dst);

		uint8_t *ip = in_tunnel(&f, TUNNEL_IPIP, &src, &dst, &p) + 14;

		assert_int_equal(is_outer4 ? ip[1] : (word_at(ip) >> 4 & 0xff), 0xb9);
		assert_int_equal(ip[is_outer4 ? 8 : 7], 7);
		free(ip - 14);
	}
}

static void
any_sample_goes_through_a_tunnel(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++)
		for (unsigned int n = 0; n < 4; n++) {
			enum tunnel kind = n & 1 ? TUNNEL_IPIP : TUNNEL_GUE;
			struct endpoint src, dst;
			struct packet p, outer;
			struct frame f;

			frame_make(&f, samples[i].hex);
			outer_addresses(n & 2 ? 4 : 6, &src, &dst);

			uint8_t *made = in_tunnel(&f, kind, &src, &dst, &p);
			unsigned int more = tunnel_bytes(kind, dst.version);

			assert_int_equal(packet_parse(&outer, made, more + f.bytes,
						      more + f.bytes),
					 PACKET_OK);
			assert_int_equal(outer.end, p.end + more);
			assert_memory_equal(made + more + p.l3, f.data + p.l3,
					    f.bytes - p.l3);
			free(made);
		}
}

static void
none_is_nothing(void **state)
{
	struct endpoint src, dst;
	struct packet p;
	struct frame f;

	(void)state;
	assert_int_equal(tunnel_bytes(TUNNEL_NONE, 4), 0);
	assert_int_equal(tunnel_bytes(TUNNEL_IPIP, 4), 20);
	assert_int_equal(tunnel_bytes(TUNNEL_IPIP, 6), 40);
	assert_int_equal(tunnel_bytes(TUNNEL_GUE, 4), 32);
	assert_int_equal(tunnel_bytes(TUNNEL_GUE, 6), TUNNEL_MAX_BYTES);
	frame_make(&f, samples[TCP4].hex);
	outer_addresses(4, &src, &dst);

	uint8_t *made = in_tunnel(&f, TUNNEL_NONE, &src, &dst, &p);

	assert_memory_equal(made, f.data, f.bytes);
	free(made);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_are_what_another_program_makes),
		cmocka_unit_test(source_port_and_label_are_the_flows),
		cmocka_unit_test(class_and_ttl_are_the_inner_ones),
		cmocka_unit_test(any_sample_goes_through_a_tunnel),
		cmocka_unit_test(none_is_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
