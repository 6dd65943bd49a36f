/*
 * spec.c - packets from what a test says of them: see harness.h.  Checksums are made
 * here, from the words of the RFCs, and not by what they test.
 */
#include "harness.h"

#include "net/address.h"

struct writer {
	uint8_t *at;
};

static void
put(struct writer *w, const void *bytes, unsigned int n)
{
	memcpy(w->at, bytes, n);
	w->at += n;
}

static void
put8(struct writer *w, uint8_t value)
{
	*w->at++ = value;
}

static void
put16(struct writer *w, uint16_t value)
{
	put(w, (uint8_t[]){ value >> 8, value & 0xff }, 2);
}

static void
put32(struct writer *w, uint32_t value)
{
	put16(w, (uint16_t)(value >> 16));
	put16(w, (uint16_t)value);
}

static uint32_t
sum(const uint8_t *at, unsigned int n, uint32_t from)
{
	for (unsigned int i = 0; i < n; i++)
		from += i % 2 == 0 ? at[i] << 8 : at[i];
	return from;
}

static void
store_checksum(uint8_t *at, uint32_t value, bool bad)
{
	while (value >> 16)
		value = (value & 0xffff) + (value >> 16);
	value = ~value & 0xffff;
	if (bad)
		value ^= 0x1111;
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint8_t
tcp_flags_of(const char *text)
{
	static const char letters[] = "FSRPAU";
	uint8_t flags = 0;

	for (; text != NULL && *text != '\0'; text++)
		flags |= (uint8_t)(1 << (strchr(letters, *text) - letters));
	return flags;
}

static uint8_t
protocol_of(const struct spec *spec, bool ip6)
{
	if (spec->protocol == PROTO_ICMP && ip6)
		return PROTO_ICMP6;
	return spec->protocol == 0 ? PROTO_TCP : spec->protocol;
}

static void put_datagram(struct writer *w, const struct spec *spec,
			 unsigned int max_bytes);

/* The transport header and data; returns where the checksum is, or NULL. */
static uint8_t *
put_transport(struct writer *w, const struct spec *spec, uint8_t protocol, uint16_t from,
	      uint16_t to)
{
	unsigned int bytes = spec->data != NULL ? (unsigned int)strlen(spec->data) : 0;
	uint8_t *start = w->at, *checksum = NULL;

	if (spec->fragment != 0) {
		;
	} else if (protocol == PROTO_TCP) {
		put16(w, from);
		put16(w, to);
		put32(w, spec->seq);
		put32(w, spec->ack);
		put8(w, 5 << 4);
		put8(w, tcp_flags_of(spec->flags));
		put16(w, 65535);
		put32(w, 0);
		checksum = start + 16;
	} else if (protocol == PROTO_UDP) {
		put16(w, from);
		put16(w, to);
		put16(w, (uint16_t)(8 + bytes));
		put16(w, 0);
		checksum = start + 6;
	} else if (protocol == PROTO_ICMP || protocol == PROTO_ICMP6) {
		put8(w, spec->type);
		put8(w, spec->code);
		put16(w, 0);
		put16(w, spec->quote == NULL ? from : 0);
		put16(w, spec->quote == NULL ? 1 : 0);
		checksum = start + 2;
	}
	if (bytes > 0)
		put(w, spec->data, bytes);
	if (spec->quote != NULL)
		put_datagram(w, spec->quote,
			     spec->quote_bytes != 0 ? spec->quote_bytes : 8);
	return spec->more ? NULL : checksum;
}

static uint32_t
pseudo_sum(const struct endpoint *from, const struct endpoint *to, uint8_t protocol,
	   unsigned int bytes)
{
	unsigned int n = from->version == 4 ? 4 : 16;

	if (protocol == PROTO_ICMP)
		return 0;
	return sum(from->ip6, n, sum(to->ip6, n, protocol + bytes));
}

static void
put_ip4(struct writer *w, const struct spec *spec, const struct endpoint *from,
	const struct endpoint *to, uint8_t protocol)
{
	put16(w, 0x4500);
	put16(w, 0);				/* The length comes later. */
	put16(w, 0x1234);
	put16(w, (uint16_t)(spec->fragment | (spec->more ? 0x2000 : 0)));
	put8(w, 64);
	put8(w, protocol);
	put16(w, 0);
	put(w, from->ip6, 4);
	put(w, to->ip6, 4);
}

static void
put_ip6(struct writer *w, const struct spec *spec, const struct endpoint *from,
	const struct endpoint *to, uint8_t protocol)
{
	bool fragment = spec->fragment != 0 || spec->more;

	put32(w, 6U << 28);
	put16(w, 0);
	put8(w, fragment ? 44 : protocol);
	put8(w, 64);
	put(w, from->ip6, 16);
	put(w, to->ip6, 16);
	if (!fragment)
		return;
	put16(w, (uint16_t)(protocol << 8));
	put16(w, (uint16_t)(spec->fragment << 3 | spec->more));
	put32(w, 0x1234);
}

/* An IP datagram, of which no more than 'max_bytes' behind its header are put there:
 * its length says what it was. */
static void
put_datagram(struct writer *w, const struct spec *spec, unsigned int max_bytes)
{
	struct endpoint from, to;
	uint8_t *ip = w->at, *transport, *checksum;

	assert_int_equal(endpoint_parse(spec->from, &from), 0);
	assert_int_equal(endpoint_parse(spec->to, &to), 0);

	uint8_t protocol = protocol_of(spec, from.version == 6);

	if (from.version == 4)
		put_ip4(w, spec, &from, &to, protocol);
	else
		put_ip6(w, spec, &from, &to, protocol);
	transport = w->at;
	checksum = put_transport(w, spec, protocol, rte_be_to_cpu_16(from.port),
				 rte_be_to_cpu_16(to.port));

	unsigned int bytes = (unsigned int)(w->at - transport);

	if (checksum != NULL)
		store_checksum(checksum,
			       pseudo_sum(&from, &to, protocol, bytes) +
				       sum(transport, bytes, 0), spec->bad_checksum);
	bytes = (unsigned int)(w->at - ip);
	if (from.version == 4) {
		ip[2] = (uint8_t)(bytes >> 8);
		ip[3] = (uint8_t)bytes;
		store_checksum(ip + 10, sum(ip, 20, 0), false);
	} else {
		ip[4] = (uint8_t)((bytes - 40) >> 8);
		ip[5] = (uint8_t)(bytes - 40);
	}
	if (w->at > transport + max_bytes)
		w->at = transport + max_bytes;
}

unsigned int
spec_build(const struct spec *spec, uint8_t *frame)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };
	struct writer w = { frame };

	put(&w, macs, sizeof(macs));
	if (spec->arp) {
		put16(&w, 0x0806);
		put(&w, (uint8_t[28]){ 0, 1, 8, 0, 6, 4, 0, 1 }, 28);
		return (unsigned int)(w.at - frame);
	}
	if (spec->vlan != 0) {
		put16(&w, 0x8100);
		put16(&w, spec->vlan);
	}
	put16(&w, spec->from[0] == '[' ? 0x86dd : 0x0800);
	put_datagram(&w, spec, BENCH_FRAME_BYTES);
	memset(w.at, 0xee, spec->padding);
	return (unsigned int)(w.at - frame) + spec->padding;
}
