/*
 * gen_options.c - reads what stands behind "gen:".
 */
#include "pipe/gen.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *key;
	size_t offset;
	uint64_t min, max;
} numbers[] = {
	/* As line rates count them: with the FCS, so 64 is a frame of 60 bytes. */
	{ "size", offsetof(struct gen_options, size), 64, GEN_MAX_FRAME + GEN_FCS },
	{ "flows", offsetof(struct gen_options, flows), 1, GEN_MAX_FLOWS },
	{ "hosts", offsetof(struct gen_options, hosts), 1, GEN_MAX_HOSTS },
	{ "packets", offsetof(struct gen_options, packets), 1, UINT32_MAX },
	{ "seed", offsetof(struct gen_options, seed), 0, UINT64_MAX },
	{ "rate", offsetof(struct gen_options, rate), 0, 1000 * 1000 * 1000 },
	{ "total", offsetof(struct gen_options, total), 0, UINT64_MAX },
	{ "port", offsetof(struct gen_options, port), 1, 65535 },
};

static bool
number_read(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || n < min || n > max)
		return false;
	*out = n;
	return true;
}

static bool
option_read(const char *key, const char *value, struct gen_options *o, char *why,
	    size_t why_bytes)
{
	uint64_t flag;

	for (unsigned int i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		uint64_t *field = (uint64_t *)((char *)o + numbers[i].offset);

		if (strcmp(key, numbers[i].key) != 0)
			continue;
		if (number_read(value, numbers[i].min, numbers[i].max, field))
			return true;
		snprintf(why, why_bytes,
			 "gen: \"%s=%s\": a number from %llu to %llu is wanted", key,
			 value, (unsigned long long)numbers[i].min,
			 (unsigned long long)numbers[i].max);
		return false;
	}
	if (strcmp(key, "proto") == 0) {
		o->udp = strcmp(value, "udp") == 0;
		if (o->udp || strcmp(value, "tcp") == 0)
			return true;
		snprintf(why, why_bytes, "gen: \"proto=%s\": tcp or udp is wanted",
			 value);
	} else if (strcmp(key, "ipv6") == 0) {
		o->ipv6 = number_read(value, 0, 1, &flag) && flag == 1;
		if (number_read(value, 0, 1, &flag))
			return true;
		snprintf(why, why_bytes, "gen: \"ipv6=%s\": 0 or 1 is wanted", value);
	} else if (strcmp(key, "to") == 0) {
		bool ip6 = strchr(value, ':') != NULL;

		o->ipv6 |= ip6;
		if (inet_pton(ip6 ? AF_INET6 : AF_INET, value, o->to) == 1)
			return true;
		snprintf(why, why_bytes, "gen: \"to=%s\": an IP address is wanted",
			 value);
	} else {
		snprintf(why, why_bytes,
			 "gen: no option \"%s\": there are size, flows, hosts, packets, "
			 "seed, rate, total, proto, ipv6, to, port",
			 key);
	}
	return false;
}

/* Fills in what follows from the rest, and checks what fits together. */
static bool
options_finish(struct gen_options *o, char *why, size_t why_bytes)
{
	static const uint8_t to4[4] = { 198, 18, 0, 1 }, none[16];
	static const uint8_t to6[16] = { 0x20, 1, 0, 2, [15] = 1 };
	/* IPv6 headers, the payload's mark and the FCS do not fit into 64 bytes. */
	uint64_t min = !o->ipv6 ? 64 : o->udp ? 67 : 78;

	if (memcmp(o->to, none, sizeof(none)) == 0)
		memcpy(o->to, o->ipv6 ? to6 : to4, o->ipv6 ? sizeof(to6) : sizeof(to4));
	if (o->size == 0)
		o->size = min;
	if (o->size < min) {
		snprintf(why, why_bytes, "gen: \"size=%u\" with ipv6=1: %u is the least",
			 (unsigned int)o->size, (unsigned int)min);
		return false;
	}
	if (o->hosts == 0)
		o->hosts = o->flows / 1024 > 1024 ? o->flows / 1024 : 1024;
	if (o->hosts > o->flows)
		o->hosts = o->flows;
	if (o->flows / o->hosts >= GEN_PORTS / 2) {
		snprintf(why, why_bytes,
			 "gen: %u flows from %u hosts: too few ports, "
			 "more hosts= are needed",
			 (unsigned int)o->flows, (unsigned int)o->hosts);
		return false;
	}
	return true;
}

bool
gen_options_read(const char *text, struct gen_options *out, char *why, size_t why_bytes)
{
	struct gen_options o = { .flows = 1000, .packets = 10000, .seed = 1, .port = 80 };
	char copy[512], *save, *word;

	if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy)) {
		snprintf(why, why_bytes, "gen: too many options");
		return false;
	}
	for (word = strtok_r(copy, ",", &save); word != NULL;
	     word = strtok_r(NULL, ",", &save)) {
		char *value = strchr(word, '=');

		if (value == NULL) {
			snprintf(why, why_bytes, "gen: \"%s\": KEY=VALUE is wanted",
				 word);
			return false;
		}
		*value++ = '\0';
		if (!option_read(word, value, &o, why, why_bytes))
			return false;
	}
	if (!options_finish(&o, why, why_bytes))
		return false;
	*out = o;
	return true;
}
