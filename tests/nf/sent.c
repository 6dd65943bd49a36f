/*
 * sent.c - what a test looks at in a packet that has left: see harness.h.
 */
#include "harness.h"

#include <stdio.h>

static void
sent_parse(const struct sent *s, struct packet *p)
{
	static uint8_t frame[BENCH_FRAME_BYTES];

	memcpy(frame, s->frame, s->bytes);
	assert_int_equal(packet_parse(p, frame, s->bytes, s->bytes), PACKET_OK);
	assert_true(packet_checksum_ok(p));
}

static void
print_endpoints(const struct flow *f, char *text, size_t bytes)
{
	char from[PACKET_TEXT_BYTES], to[PACKET_TEXT_BYTES];
	struct endpoint e;

	flow_source(f, &e);
	endpoint_print(&e, from);
	flow_destination(f, &e);
	endpoint_print(&e, to);
	snprintf(text, bytes, "%s > %s", from, to);
}

const char *
sent_endpoints(const struct sent *s)
{
	static char text[2 * PACKET_TEXT_BYTES + 4];
	struct packet p;

	sent_parse(s, &p);
	print_endpoints(&p.flow, text, sizeof(text));
	return text;
}

const struct packet *
sent_packet(const struct sent *s)
{
	static struct packet p;

	sent_parse(s, &p);
	return &p;
}

const char *
sent_quoted(const struct sent *s)
{
	static char text[2 * PACKET_TEXT_BYTES + 4];
	struct packet p;
	struct flow quoted;

	sent_parse(s, &p);
	assert_true(packet_inner(&p, s->bytes, &quoted));
	assert_true(packet_quoted_ok(&p, s->bytes));
	print_endpoints(&quoted, text, sizeof(text));
	return text;
}

const char *
sent_macs(const struct sent *s)
{
	static char text[64];
	const uint8_t *m = s->frame;

	snprintf(text, sizeof(text),
		 "%02x:%02x:%02x:%02x:%02x:%02x > %02x:%02x:%02x:%02x:%02x:%02x", m[6],
		 m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5]);
	return text;
}

const char *
sent_flags(const struct sent *s)
{
	static const char letters[] = "FSRPAU";
	static char text[sizeof(letters)];
	struct packet p;
	unsigned int n = 0;

	sent_parse(s, &p);
	assert_int_equal(p.flow.protocol, PROTO_TCP);
	for (unsigned int i = 0; letters[i] != '\0'; i++)
		if (p.tcp_flags & 1 << i)
			text[n++] = letters[i];
	text[n] = '\0';
	return text;
}

const char *
sent_data(const struct sent *s)
{
	static char text[BENCH_FRAME_BYTES + 1];
	struct packet p;

	sent_parse(s, &p);
	memcpy(text, p.data + p.payload, packet_payload_bytes(&p));
	text[packet_payload_bytes(&p)] = '\0';
	return text;
}
