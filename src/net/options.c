/*
 * options.c - the options of a TCP segment, and the numbers that have to move together.
 *
 * packet_parse() has checked that the options lie within the segment; what they claim of
 * themselves is checked here.  An option has any alignment.
 */
#include "net/packet.h"

#include "net/sums.h"

enum {
	OPTION_END = 0,
	OPTION_NOP = 1,
	OPTION_MSS = 2,
	OPTION_WSCALE = 3,
	OPTION_SACK_PERMITTED = 4,
	OPTION_SACK = 5,
	OPTION_TIMESTAMP = 8,

	SACK_BYTES = 8,
	MAX_WSCALE = 14,
	TCP_MAX_BYTES = 60,
};

/* An option: its kind, and the 'n' bytes behind its length. */
struct option {
	uint8_t kind, n;
	uint8_t *body;
};

/* The next option at 'at', which moves behind it.  Returns 1, 0 at the end, -1 if there
 * is none where one should be. */
static int
option_next(uint8_t **at, const uint8_t *end, struct option *o)
{
	while (*at < end && **at == OPTION_NOP)
		++*at;
	if (*at == end || **at == OPTION_END)
		return 0;
	if (end - *at < 2 || (*at)[1] < 2 || (*at)[1] > end - *at)
		return -1;
	o->kind = (*at)[0];
	o->n = (uint8_t)((*at)[1] - 2);
	o->body = *at + 2;
	*at = o->body + o->n;
	return 1;
}

static bool
sacks_take(const struct option *o, struct tcp_options *out)
{
	unsigned int n = o->n / SACK_BYTES;

	if (o->n % SACK_BYTES != 0 || n == 0 || n > TCP_MAX_SACKS)
		return false;
	for (unsigned int i = 0; i < n; i++) {
		out->sack[i][0] = load_be32(o->body + i * SACK_BYTES);
		out->sack[i][1] = load_be32(o->body + i * SACK_BYTES + 4);
	}
	out->n_sacks = (uint8_t)n;
	return true;
}

/* Options that nobody here knows are skipped. */
static bool
option_take(const struct option *o, struct tcp_options *out)
{
	switch (o->kind) {
	case OPTION_MSS:
		if (o->n != 2)
			return false;
		out->mss = load_be16(o->body);
		return true;
	case OPTION_WSCALE:
		if (o->n != 1)
			return false;
		out->wscale = o->body[0] < MAX_WSCALE ? o->body[0] : MAX_WSCALE;
		return true;
	case OPTION_SACK_PERMITTED:
		out->sack_permitted = o->n == 0;
		return o->n == 0;
	case OPTION_SACK:
		return sacks_take(o, out);
	case OPTION_TIMESTAMP:
		if (o->n != 8)
			return false;
		out->has_timestamp = true;
		out->timestamp = load_be32(o->body);
		out->timestamp_echo = load_be32(o->body + 4);
		return true;
	default:
		return true;
	}
}

/* Where the options of a packet begin; they end where its payload begins. */
static uint8_t *
options_of(const struct packet *p)
{
	return p->data + p->payload - p->tcp_options;
}

bool
packet_tcp_options(const struct packet *p, struct tcp_options *out)
{
	uint8_t *at = options_of(p);
	struct option o;
	int found;

	*out = (struct tcp_options){ .wscale = TCP_NO_WSCALE };
	while ((found = option_next(&at, p->data + p->payload, &o)) > 0)
		if (!option_take(&o, out))
			return false;
	return found == 0;
}

static void
shift_32(uint8_t *at, uint32_t by)
{
	store_be32(at, load_be32(at) + by);
}

void
packet_shift_tcp(struct packet *p, uint32_t seq, uint32_t ack)
{
	uint8_t *tcp = p->data + p->l4, *at = options_of(p);
	uint8_t before[TCP_MAX_BYTES];
	unsigned int bytes = p->payload - p->l4;
	struct option o;

	memcpy(before, tcp, bytes);
	shift_32(tcp + TCP_SEQ, seq);
	if (p->tcp_flags & TCP_ACK)
		shift_32(tcp + TCP_ACKNOWLEDGED, ack);
	while (option_next(&at, p->data + p->payload, &o) > 0)
		for (unsigned int i = 0; o.kind == OPTION_SACK && i + 4 <= o.n; i += 4)
			shift_32(o.body + i, ack);
	/* All at once: an edge may begin in the middle of a word of the sum. */
	rewrite_sum(tcp + TCP_SUM, sum_change(before, tcp, bytes));
}
