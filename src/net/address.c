/*
 * address.c - addresses, prefixes and ports as people write them.
 *
 * What is an address is inet_pton()'s decision, which takes no short forms of
 * IPv4 and no interface names; the rest is cut off from the text first.
 */
#include "net/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stddef.h>

/* The number that 'bytes' bytes of text are, up to 'max'. */
static int
number_parse(const char *text, size_t bytes, uint32_t max, uint32_t *out)
{
	uint32_t number = 0;

	if (bytes == 0 || (text[0] == '0' && bytes > 1))
		return -EINVAL;
	for (size_t i = 0; i < bytes; i++) {
		if (!isdigit((unsigned char)text[i]))
			return -EINVAL;
		number = number * 10 + (uint32_t)(text[i] - '0');
		if (number > max)
			return -EINVAL;
	}
	*out = number;
	return 0;
}

/* The address that 'bytes' bytes of text are; port 0. */
static int
ip_parse(const char *text, size_t bytes, struct endpoint *out)
{
	char ip[INET6_ADDRSTRLEN];
	struct endpoint e = { .version = 4 };

	if (bytes >= sizeof(ip))
		return -EINVAL;
	memcpy(ip, text, bytes);
	ip[bytes] = '\0';
	if (inet_pton(AF_INET, ip, &e.ip4) != 1) {
		e.version = 6;
		if (inet_pton(AF_INET6, ip, e.ip6) != 1)
			return -EINVAL;
	}
	*out = e;
	return 0;
}

int
address_parse(const char *text, void *out)
{
	return ip_parse(text, strlen(text), out);
}

int
endpoint_parse(const char *text, void *out)
{
	const char *colon = strrchr(text, ':');
	struct endpoint e;
	uint32_t port;

	if (colon == NULL ||
	    number_parse(colon + 1, strlen(colon + 1), UINT16_MAX, &port) != 0 ||
	    port == 0)
		return -EINVAL;

	size_t bytes = (size_t)(colon - text);
	bool brackets = bytes >= 2 && text[0] == '[' && text[bytes - 1] == ']';

	if (brackets) {
		text++;
		bytes -= 2;
	}
	/* Without brackets the last colon may be one of an IPv6 address. */
	if (ip_parse(text, bytes, &e) != 0 || (e.version == 6) != brackets)
		return -EINVAL;
	e.port = rte_cpu_to_be_16((uint16_t)port);
	*(struct endpoint *)out = e;
	return 0;
}

/* Whether the first 'bits' bits are the same. */
static bool
bits_equal(const uint8_t *a, const uint8_t *b, unsigned int bits)
{
	unsigned int bytes = bits / 8;
	uint8_t mask = (uint8_t)(0xff00 >> bits % 8);

	if (memcmp(a, b, bytes) != 0)
		return false;
	return mask == 0 || ((a[bytes] ^ b[bytes]) & mask) == 0;
}

bool
prefix_contains(const struct prefix *prefix, const struct endpoint *e)
{
	return prefix->version == e->version &&
	       bits_equal(prefix->ip6, e->ip6, prefix->length);
}

int
prefix_parse(const char *text, void *out)
{
	const char *slash = strchr(text, '/');
	struct endpoint e;
	uint8_t kept[sizeof(e.ip6)] = { 0 };

	if (ip_parse(text, slash != NULL ? (size_t)(slash - text) : strlen(text), &e) !=
	    0)
		return -EINVAL;

	uint32_t max = e.version == 4 ? 32 : 128;
	uint32_t length = max;

	if (slash != NULL &&
	    number_parse(slash + 1, strlen(slash + 1), max, &length) != 0)
		return -EINVAL;
	for (uint32_t bit = 0; bit < length; bit++)
		kept[bit / 8] |= e.ip6[bit / 8] & (0x80 >> bit % 8);
	if (memcmp(kept, e.ip6, sizeof(kept)) != 0)
		return -EINVAL;

	struct prefix *prefix = out;

	*prefix = (struct prefix){ .version = e.version, .length = (uint8_t)length };
	memcpy(prefix->ip6, e.ip6, sizeof(prefix->ip6));
	return 0;
}

bool
endpoint_is_host(const struct endpoint *e)
{
	static const uint8_t none[8];
	uint8_t first = e->ip6[0];		/* Of ip4, too. */

	if (e->version == 4)
		return first != 0 && first != 127 && first < 224;
	return first != 0xff && memcmp(e->ip6, none, sizeof(none)) != 0;
}

int
port_range_parse(const char *text, void *out)
{
	const char *dash = strchr(text, '-');
	size_t bytes = dash != NULL ? (size_t)(dash - text) : strlen(text);
	uint32_t low, high;

	if (number_parse(text, bytes, UINT16_MAX, &low) != 0)
		return -EINVAL;
	high = low;
	if (dash != NULL &&
	    number_parse(dash + 1, strlen(dash + 1), UINT16_MAX, &high) != 0)
		return -EINVAL;
	if (high < low)
		return -EINVAL;
	*(struct port_range *)out = (struct port_range){ (uint16_t)low, (uint16_t)high };
	return 0;
}

static uint8_t
hex_digit(char c)
{
	if (isdigit((unsigned char)c))
		return (uint8_t)(c - '0');
	return (uint8_t)(tolower((unsigned char)c) - 'a' + 10);
}

int
mac_parse(const char *text, void *out)
{
	uint8_t mac[MAC_BYTES];

	if (strlen(text) != 3 * MAC_BYTES - 1)
		return -EINVAL;
	for (unsigned int i = 0; i < MAC_BYTES; i++, text += 3) {
		if (!isxdigit((unsigned char)text[0]) ||
		    !isxdigit((unsigned char)text[1]))
			return -EINVAL;
		if (i < MAC_BYTES - 1 && text[2] != ':')
			return -EINVAL;
		mac[i] = (uint8_t)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
	}
	memcpy(out, mac, sizeof(mac));
	return 0;
}
