/*
 * test_quoted.c - rewrites of what ICMP errors quote, held against an error made anew
 * about a packet that was always so.
 */
#include "net/packet.h"

#include "packet_samples.h"
#include "test_random.h"

/* What errors are made about here. */
static const unsigned int quotable[] = {
	TCP4,        TCP4_OPTIONS, IP4_OPTIONS, UDP4,    UDP4_NO_SUM, ECHO4,
	ECHO_REPLY4, TIMESTAMP4,   FIRST4,      GRE4,    TCP6,        UDP6,
	ECHO6,       CHAIN6,       AH6,         ATOMIC6,
};

#define N_QUOTABLE (sizeof(quotable) / sizeof(quotable[0]))

/* Words of all zeros and all ones are what goes wrong: half of them are such. */
static void
random_words(struct test_random *r, void *out, uint32_t bytes)
{
	for (uint8_t *at = out; bytes >= 2; at += 2, bytes -= 2) {
		uint64_t n = test_random_u64(r);

		word_put(at, n & 1 ? (uint16_t)(n >> 16) : n & 2 ? 0xffff : 0);
	}
}

/* An error from 'f', a sample's frame, about its own first 'n' bytes of IP. */
static void
error_make(const struct frame *f, const struct packet *about, uint32_t n,
	   struct frame *out)
{
	bool is_ip4 = about->flow.version == 4;
	uint32_t header = is_ip4 ? 20 : 40;
	struct packet p;

	hex_append(out, ETHER_TEXT);
	hex_append(out, is_ip4 ? "0800450000000000000040010000c6336401c6336402"
			       : "86dd6000000000003a40"
				 "20010db8000f0000000000000000000120010db8000f00000000000"
				 "000000002");
	hex_append(out, is_ip4 ? "0304000000000578" : "0200000000000578");
	memcpy(out->data + out->bytes, f->data + about->l3, n);
	out->bytes += n;
	word_put(out->data + 14 + (is_ip4 ? 2 : 4),
		 (uint16_t)(n + 8 + (is_ip4 ? header : 0)));
	if (is_ip4)
		reference_ip4(out->data + 14);
	assert_int_equal(packet_parse(&p, out->data, out->bytes, out->bytes), PACKET_OK);
	reference_sums(&p);
}

/* Gives a sample's frame these ends, with checksums made anew. */
static void
frame_rewrite(struct frame *f, struct packet *p, const struct endpoint *src,
	      const struct endpoint *dst)
{
	unsigned int ip_bytes = src->version == 4 ? 4 : 16;
	uint8_t *ip = f->data + p->l3 + (src->version == 4 ? 12 : 8);

	memcpy(ip, src->ip6, ip_bytes);
	memcpy(ip + ip_bytes, dst->ip6, ip_bytes);
	if (p->flags & PACKET_ICMP_QUERY) {
		memcpy(f->data + p->l4 + 4, &dst->port, 2);
	} else if (p->flow.src_port != 0) {
		memcpy(f->data + p->l4, &src->port, 2);
		memcpy(f->data + p->l4 + 2, &dst->port, 2);
	}
	p->data = f->data;
	if (p->flags & PACKET_FRAGMENT) /* Its sum is not over what is here. */
		reference_ip4(f->data + p->l3);
	else
		reference_sums(p);
}

/* The checksum of a fragment, which only differences can keep right. */
static void
fragment_sum(const struct packet *p, const struct frame *from, struct frame *to)
{
	uint32_t at = sum_offset(p);
	rte_be16_t sum;

	if (!(p->flags & PACKET_FRAGMENT))
		return;
	memcpy(&sum, from->data + at, sizeof(sum));
	sum = checksum_update(sum, from->data + p->l3 + 12, to->data + p->l3 + 12, 8);
	sum = checksum_update(sum, from->data + p->l4, to->data + p->l4, 4);
	if (p->flow.protocol == PROTO_UDP && sum == 0)
		sum = UINT16_MAX; /* RFC 768: zero is no checksum. */
	memcpy(to->data + at, &sum, sizeof(sum));
}

static void
ends_random(struct test_random *r, const struct packet *p, struct endpoint *src,
	    struct endpoint *dst)
{
	unsigned int ip_bytes = p->flow.version == 4 ? 4 : 16;

	*src = *dst = (struct endpoint){ .version = p->flow.version };
	random_words(r, src->ip6, ip_bytes);
	random_words(r, &src->port, sizeof(src->port));
	random_words(r, dst->ip6, ip_bytes);
	random_words(r, &dst->port, sizeof(dst->port));
}

/* Rewrites an error about the first 'n' bytes of IP of the sample. */
static void
rewrite_and_compare(struct test_random *r, const struct frame *f, const struct packet *p,
		    uint32_t n)
{
	struct frame error = { .bytes = 0 }, want = { .bytes = 0 }, changed = *f;
	struct packet q, e, about = *p;
	struct endpoint src, dst;
	struct flow inner;

	ends_random(r, p, &src, &dst);
	frame_rewrite(&changed, &about, &src, &dst);
	fragment_sum(p, f, &changed);
	error_make(f, p, n, &error);
	error_make(&changed, p, n, &want);

	uint8_t *copy = exact_copy(&error, error.bytes);

	assert_int_equal(packet_parse(&e, copy, error.bytes, error.bytes), PACKET_OK);
	assert_true(packet_inner(&e, error.bytes, &inner));
	packet_set_quoted_src(&e, error.bytes, &src);
	packet_set_quoted_dst(&e, error.bytes, &dst);
	assert_memory_equal(copy, want.data, want.bytes);
	assert_int_equal(packet_parse(&q, copy, error.bytes, error.bytes), PACKET_OK);
	assert_true(packet_checksum_ok(&q));
	assert_true(packet_quoted_ok(&q, error.bytes));
	free(copy);
}

/* [B18, B22] */
static void
what_is_quoted_is_rewritten_as_if_sent_so(void **state)
{
	struct test_random r = test_random_init("quoted");

	(void)state;
	for (unsigned int i = 0; i < N_QUOTABLE; i++) {
		const struct sample *s = &samples[quotable[i]];
		uint32_t least = s->protocol == 47 ? 0 : 8;
		struct packet p;
		struct frame f;

		print_message("  about: %s\n", s->name);
		frame_make(&f, s->hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		for (uint32_t n = p.l4 - p.l3 + least; n <= p.end - p.l3; n++)
			/* Half of a checksum stays as it is. */
			for (unsigned int k = 0;
			     k < 200 && n + p.l3 != sum_offset(&p) + 1; k++)
				rewrite_and_compare(&r, &f, &p, n);
	}
}

/* Each of its forms of zero comes up.  [B22] */
static void
every_port_leaves_all_checksums_as_if_computed(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_QUOTABLE; i++) {
		struct frame f, error = { .bytes = 0 };
		struct packet p, e, about;
		struct endpoint src, dst;

		frame_make(&f, samples[quotable[i]].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		if (p.flow.src_port == 0 || (p.flags & PACKET_FRAGMENT))
			continue;
		error_make(&f, &p, p.end - p.l3, &error);
		assert_int_equal(packet_parse(&e, error.data, error.bytes, error.bytes),
				 PACKET_OK);
		flow_source(&p.flow, &src);
		flow_destination(&p.flow, &dst);
		about = p;
		for (uint32_t port = 0; port <= UINT16_MAX; port++) {
			struct frame want = { .bytes = 0 }, changed = f;

			src.port = rte_cpu_to_be_16((uint16_t)port);
			if (p.flags & PACKET_ICMP_QUERY)
				dst.port = src.port;
			packet_set_quoted_src(&e, error.bytes, &src);
			frame_rewrite(&changed, &about, &src, &dst);
			error_make(&changed, &p, p.end - p.l3, &want);
			assert_memory_equal(error.data, want.data, want.bytes);
		}
	}
}

/* An error in several buffers: only what is in the first changes. */
static void
nothing_behind_the_head_is_touched(void **state)
{
	struct test_random r = test_random_init("heads");

	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		struct endpoint src, dst;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[i].hex);
		if (!(samples[i].flags & PACKET_ICMP_ERROR))
			continue;
		for (uint32_t n = samples[i].at.payload; n <= f.bytes; n++) {
			uint8_t *copy = exact_copy(&f, n);

			assert_int_equal(packet_parse(&p, copy, n, f.bytes), PACKET_OK);
			ends_random(&r, &p, &src, &dst);
			packet_set_quoted_src(&p, n, &src);
			packet_set_quoted_dst(&p, n, &dst);
			(void)packet_quoted_ok(&p, n);
			free(copy);
		}
	}
}

static const struct {
	const char *name;
	unsigned int sample, at;
	const char *patch;
	bool found;
} hostile[] = {
	{ "as it is", ERROR4_UDP, 42, "46", true },
	{ "a header of 4 words", ERROR4_UDP, 42, "44", false },
	{ "a header without words", ERROR4_UDP, 42, "40", false },
	{ "a header that is longer than the quotation", ERROR4_UDP, 42, "4f", false },
	{ "a header that leaves 8 bytes for UDP", ERROR4_UDP, 42, "47", true },
	{ "a header that leaves 4", ERROR4_UDP, 42, "48", false },
	{ "IPv6 in an IPv4 error", ERROR4_UDP, 42, "66", false },
	{ "version 0", ERROR4_UDP, 42, "06", false },
	{ "a length of 0", ERROR4_UDP, 44, "0000", true },
	{ "a length that nothing has", ERROR4_UDP, 44, "ffff", true },
	{ "a later fragment", ERROR4_UDP, 48, "0001", false },
	{ "a later fragment far out", ERROR4_UDP, 48, "3fff", false },
	{ "a first fragment", ERROR4_UDP, 48, "2000", true },
	{ "an error", ERROR4_ECHO, 62, "03", false },
	{ "a redirect", ERROR4_ECHO, 62, "05", false },
	{ "an echo reply", ERROR4_ECHO, 62, "00", true },
	{ "ICMPv6 over IPv4", ERROR4_ECHO, 51, "3a", true },
	{ "IP in IP", ERROR4_UDP, 51, "04", true },
	{ "IPv6 in IPv4", ERROR4_UDP, 51, "29", true },
	{ "GRE", ERROR4_GRE, 51, "2f", true },
	{ "TCP that is cut", ERROR4_SHORT, 51, "06", false },
	{ "IPv4 in an ICMPv6 error", ERROR6_UDP, 62, "45", false },
	{ "a length of 0 over IPv6", ERROR6_UDP, 66, "0000", true },
	{ "options that are longer than all", ERROR6_UDP, 103, "ff", false },
	{ "options that are followed by nothing", ERROR6_UDP, 103, "01", false },
	{ "a chain that comes back to its start", ERROR6_UDP, 102, "00", false },
	{ "a second chain in what is UDP", ERROR6_UDP, 102, "3c", false },
	{ "IPv6 in IPv6", ERROR6_UDP, 102, "29", true },
	{ "a later IPv6 fragment", ERROR6_LATER, 102, "11", false },
	{ "an ICMPv6 error", ERROR6_ECHO, 102, "01", false },
};

/* No read or write beyond it, and what is not found does not change.  [B18; U17] */
static void
hostile_quotations_do_no_harm(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		struct frame f, patch = { .bytes = 0 };
		struct endpoint to = { .port = 7 };
		struct flow inner;
		struct packet p;

		print_message("  %s\n", hostile[i].name);
		frame_make(&f, samples[hostile[i].sample].hex);
		hex_append(&patch, hostile[i].patch);
		memcpy(f.data + hostile[i].at, patch.data, patch.bytes);

		uint8_t *copy = exact_copy(&f, f.bytes);

		assert_int_equal(packet_parse(&p, copy, f.bytes, f.bytes), PACKET_OK);
		assert_int_equal(packet_inner(&p, f.bytes, &inner), hostile[i].found);
		to.version = p.flow.version;
		packet_set_quoted_src(&p, f.bytes, &to);
		packet_set_quoted_dst(&p, f.bytes, &to);
		if (!hostile[i].found)
			assert_memory_equal(copy, f.data, f.bytes);
		free(copy);
	}
}

/* Any bytes as a quotation: in memory that ends behind them. */
static void
random_quotations_do_no_harm(void **state)
{
	struct test_random r = test_random_init("hostile");

	(void)state;
	for (unsigned int i = 0; i < 200000; i++) {
		unsigned int of = i & 1 ? ERROR4_UDP : ERROR6_UDP;
		struct endpoint to = { .port = 7 };
		struct flow inner;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[of].hex);
		for (unsigned int n = test_random_below(&r, 4) + 1; n > 0; n--)
			f.data[samples[of].at.payload +
			       test_random_below(&r, f.bytes - samples[of].at.payload)] =
				(uint8_t)test_random_u64(&r);

		uint32_t head =
			samples[of].at.payload +
			test_random_below(&r, f.bytes - samples[of].at.payload + 1);
		uint8_t *copy = exact_copy(&f, head);

		assert_int_equal(packet_parse(&p, copy, head, f.bytes), PACKET_OK);
		to.version = p.flow.version;
		(void)packet_inner(&p, head, &inner);
		packet_set_quoted_src(&p, head, &to);
		packet_set_quoted_dst(&p, head, &to);
		(void)packet_quoted_ok(&p, head);
		free(copy);
	}
}

/* [B18] */
static void
a_wrong_bit_of_error_or_quoted_ip_header_is_seen(void **state)
{
	static const unsigned int errors[] = { ERROR4_TCP, ERROR4_UDP, ERROR6_UDP };
	struct packet p;
	struct frame f;

	(void)state;
	for (unsigned int i = 0; i < 3; i++) {
		const struct sample *s = &samples[errors[i]];

		frame_make(&f, s->hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		assert_true(packet_quoted_ok(&p, f.bytes));
		assert_false(packet_quoted_ok(&p, f.bytes - 1));
		for (unsigned int bit = s->at.payload * 8U; bit < f.bytes * 8; bit++) {
			bool ip4 = s->protocol == PROTO_ICMP &&
				   bit / 8 < s->at.payload +
						     (f.data[s->at.payload] & 15) * 4U;

			f.data[bit / 8] ^= 1 << bit % 8;
			assert_false(packet_quoted_ok(&p, f.bytes));
			reference_sums(&p);
			if (ip4)
				assert_false(packet_quoted_ok(&p, f.bytes));
			frame_make(&f, s->hex);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_quoted_is_rewritten_as_if_sent_so),
		cmocka_unit_test(every_port_leaves_all_checksums_as_if_computed),
		cmocka_unit_test(nothing_behind_the_head_is_touched),
		cmocka_unit_test(hostile_quotations_do_no_harm),
		cmocka_unit_test(random_quotations_do_no_harm),
		cmocka_unit_test(a_wrong_bit_of_error_or_quoted_ip_header_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
