/*
 * spec.c - packets from what a test says of them: see harness.h.  Checksums are made
 * here, from the words of the RFCs, and not by what they test.
 */
#include "harness.h"

#include <stdio.h>

#include <rte_common.h>

#include "net/address.h"

struct writer {
	uint8_t *at;
};

static void
put(struct writer *w, const void *bytes, unsigned int n)
{
	if (n > 0)
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

static void
put_tcp_options(struct writer *w, const struct spec *spec)
{
	unsigned int n_sacks = 0;
	uint8_t *start = w->at;

	if (spec->mss != 0) {
		put16(w, 0x0204);
		put16(w, spec->mss);
	}
	if (spec->wscale != 0) {
		put16(w, 0x0303);
		put8(w, (uint8_t)(spec->wscale - 1));
	}
	if (spec->sack_permitted)
		put16(w, 0x0402);
	if (spec->timestamp != 0 || spec->timestamp_echo != 0) {
		put16(w, 0x080a);
		put32(w, spec->timestamp);
		put32(w, spec->timestamp_echo);
	}
	while (n_sacks < 4 && (spec->sack[n_sacks][0] | spec->sack[n_sacks][1]) != 0)
		n_sacks++;
	if (n_sacks > 0)
		put16(w, (uint16_t)(0x0502 + 8 * n_sacks));
	for (unsigned int i = 0; i < n_sacks; i++) {
		put32(w, spec->sack[i][0]);
		put32(w, spec->sack[i][1]);
	}
	put(w, spec->options, spec->option_bytes);
	while ((w->at - start) % 4 != 0)
		put8(w, 0);
	assert_true(w->at - start <= 40);
}

static void
put_data(struct writer *w, const struct spec *spec)
{
	if (spec->data != NULL)
		put(w, spec->data, (unsigned int)strlen(spec->data));
	else
		for (unsigned int i = 0; i < spec->data_bytes; i++)
			put8(w, (uint8_t)(i + (i >> 8)));
}

/* The transport header and data; returns where the checksum is, or NULL. */
static uint8_t *
put_transport(struct writer *w, const struct spec *spec, uint8_t protocol, uint16_t from,
	      uint16_t to)
{
	unsigned int bytes = spec->data != NULL ? (unsigned int)strlen(spec->data)
						: spec->data_bytes;
	uint8_t *start = w->at, *checksum = NULL;

	if (spec->fragment != 0) {
		;
	} else if (protocol == PROTO_TCP) {
		put16(w, from);
		put16(w, to);
		put32(w, spec->seq);
		put32(w, spec->ack);
		put8(w, 0);			/* Its length comes later. */
		put8(w, tcp_flags_of(spec->flags));
		put16(w, spec->no_window ? 0 : spec->window != 0 ? spec->window : 65535);
		put32(w, 0);
		put_tcp_options(w, spec);
		start[12] = (uint8_t)((w->at - start) / 4 << 4);
		checksum = start + 16;
	} else if (protocol == PROTO_UDP) {
		put16(w, from);
		put16(w, to);
		put16(w, (uint16_t)(8 + bytes));
		put16(w, 0);
		checksum = spec->no_checksum ? NULL : start + 6;
	} else if (protocol == PROTO_ICMP || protocol == PROTO_ICMP6) {
		put8(w, spec->type);
		put8(w, spec->code);
		put16(w, 0);
		put16(w, spec->quote == NULL ? from : 0);
		put16(w, spec->quote == NULL ? 1 : 0);
		checksum = start + 2;
	}
	put_data(w, spec);
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
	put16(w, (uint16_t)(0x4500 | spec->tos));
	put16(w, 0);				/* The length comes later. */
	put16(w, spec->id != 0 ? (uint16_t)spec->id : 0x1234);
	put16(w, (uint16_t)(spec->fragment | (spec->more ? 0x2000 : 0) |
			    (spec->dont_fragment ? 0x4000 : 0)));
	put8(w, spec->ttl != 0 ? spec->ttl : 64);
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

	put32(w, 6U << 28 | (uint32_t)spec->tos << 20);
	put16(w, 0);
	put8(w, fragment ? 44 : protocol);
	put8(w, spec->ttl != 0 ? spec->ttl : 64);
	put(w, from->ip6, 16);
	put(w, to->ip6, 16);
	if (!fragment)
		return;
	put16(w, (uint16_t)(protocol << 8));
	put16(w, (uint16_t)(spec->fragment << 3 | spec->more));
	put32(w, spec->id != 0 ? spec->id : 0x1234);
}

/* What stands behind the IP header of a fragment: a piece of what does in the whole. */
static void
put_part(struct writer *w, const struct spec *spec, const struct endpoint *from,
	 const struct endpoint *to, uint8_t protocol)
{
	uint8_t bytes[BENCH_MAX_DATAGRAM];
	struct writer whole = { bytes };
	uint8_t *checksum = put_transport(&whole, spec->part_of, protocol,
					  rte_be_to_cpu_16(from->port),
					  rte_be_to_cpu_16(to->port));
	unsigned int n = (unsigned int)(whole.at - bytes), at = spec->fragment * 8;

	assert_true(n <= sizeof(bytes) && at < n);
	if (checksum != NULL)
		store_checksum(checksum, pseudo_sum(from, to, protocol, n) +
					 sum(bytes, n, 0), spec->part_of->bad_checksum);
	put(w, bytes + at,
	    spec->part_bytes != 0 ? RTE_MIN(spec->part_bytes, n - at) : n - at);
}

/* An IP datagram, of which no more than 'max_bytes' behind its header are put there:
 * its length says what it was. */
static void
put_datagram(struct writer *w, const struct spec *spec, unsigned int max_bytes)
{
	const struct spec *whole = spec->part_of != NULL ? spec->part_of : spec;
	struct endpoint from, to;
	uint8_t *ip = w->at, *transport, *checksum = NULL;

	assert_int_equal(endpoint_parse(whole->from, &from), 0);
	assert_int_equal(endpoint_parse(whole->to, &to), 0);

	uint8_t protocol = protocol_of(whole, from.version == 6);

	if (from.version == 4)
		put_ip4(w, spec, &from, &to, protocol);
	else
		put_ip6(w, spec, &from, &to, protocol);
	transport = w->at;
	if (spec->part_of != NULL)
		put_part(w, spec, &from, &to, protocol);
	else
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
		store_checksum(ip + 10, sum(ip, 20, 0), spec->bad_ip_checksum);
	} else {
		ip[4] = (uint8_t)((bytes - 40) >> 8);
		ip[5] = (uint8_t)(bytes - 40);
	}
	if (w->at > transport + max_bytes)
		w->at = transport + max_bytes;
}

static void
put_mac(struct writer *w, const char *text)
{
	unsigned int b[6];

	assert_int_equal(sscanf(text, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3],
				&b[4], &b[5]), 6);
	for (unsigned int i = 0; i < 6; i++)
		put8(w, (uint8_t)b[i]);
}

static void
put_link(struct writer *w, const struct spec *spec)
{
	put_mac(w, spec->mac_to != NULL ? spec->mac_to : "02:00:00:00:00:01");
	put_mac(w, spec->mac_from != NULL ? spec->mac_from : "02:00:00:00:00:02");
	if (spec->service_vlan != 0) {
		put16(w, 0x88a8);
		put16(w, spec->service_vlan);
	}
	if (spec->vlan != 0) {
		put16(w, 0x8100);
		put16(w, spec->vlan);
	}
}

unsigned int
spec_build(const struct spec *spec, uint8_t *frame)
{
	const struct spec *whole = spec->part_of != NULL ? spec->part_of : spec;
	struct writer w = { frame };

	if (spec->raw != NULL) {
		assert_true(spec->raw_bytes <= BENCH_FRAME_BYTES);
		put(&w, spec->raw, spec->raw_bytes);
		return spec->raw_bytes;
	}
	put_link(&w, spec);
	if (spec->arp) {
		put16(&w, 0x0806);
		put(&w, (uint8_t[28]){ 0, 1, 8, 0, 6, 4, 0, 1 }, 28);
		return (unsigned int)(w.at - frame);
	}
	put16(&w, whole->from[0] == '[' ? 0x86dd : 0x0800);
	put_datagram(&w, spec, BENCH_FRAME_BYTES);
	memset(w.at, 0xee, spec->padding);
	assert_true(w.at + spec->padding <= frame + BENCH_FRAME_BYTES);
	return (unsigned int)(w.at - frame) + spec->padding;
}
