/*
 * fields.c - the text of records, by the lists that functions give.
 */
#include "nf/fields.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "nf/nf.h"

const struct nf_field nf_fields_flow[] = {
	{ "flow", NF_FIELD_FLOW, 0, 0 },
	{ 0 },
};

static const char *const flow_names[] = { "protocol", "src", "dst", "zone" };

const struct nf_field nf_fields_endpoint[] = {
	{ "address", NF_FIELD_ENDPOINT, 0, sizeof(struct endpoint) },
	{ 0 },
};

struct printer {
	struct field_text *text;
	unsigned int n;
};

/* The next text, to be written; the last one again if there are too many. */
static char *
text_add(struct printer *p, const char *name)
{
	struct field_text *t = &p->text[p->n < FIELDS_MAX ? p->n++ : FIELDS_MAX - 1];

	t->name = name;
	t->text[0] = 0;
	return t->text;
}

static void
print_hex(struct printer *p, const char *name, const uint8_t *at, unsigned int bytes)
{
	char *to = text_add(p, name);
	unsigned int i = 0;

	for (; i < bytes && 2 * i + 3 < FIELDS_TEXT - 3; i++)
		sprintf(to + 2 * i, "%02x", at[i]);
	if (i < bytes)
		strcpy(to + 2 * i, "...");
}

static void
print_address(char *to, uint8_t version, const void *address, rte_be16_t port)
{
	char text[INET6_ADDRSTRLEN];

	inet_ntop(version == 4 ? AF_INET : AF_INET6, address, text, sizeof(text));
	if (port == 0)
		snprintf(to, FIELDS_TEXT, "%s", text);
	else
		snprintf(to, FIELDS_TEXT, version == 4 ? "%s:%u" : "[%s]:%u", text,
			 rte_be_to_cpu_16(port));
}

static void
print_source(char *to, const uint8_t *at)
{
	struct in6_addr prefix = { 0 };

	memcpy(&prefix, at + 4, 8);
	print_address(to, *at, &prefix, 0);
	if (*at == 6)
		strcat(to, "/64");
}

static void
print_protocol(char *to, uint8_t protocol)
{
	static const char *const names[] = {
		[1] = "icmp", [6] = "tcp", [17] = "udp", [47] = "gre", [58] = "icmpv6",
		[132] = "sctp",
	};

	if (protocol < sizeof(names) / sizeof(*names) && names[protocol] != NULL)
		snprintf(to, FIELDS_TEXT, "%s", names[protocol]);
	else
		snprintf(to, FIELDS_TEXT, "%u", protocol);
}

/* False: it is none, or cut short. */
static bool
print_flow(struct printer *p, const uint8_t *at, unsigned int bytes)
{
	struct flow f = { 0 };

	memcpy(&f, at, bytes < sizeof(f) ? bytes : sizeof(f));
	if (bytes < FLOW4_BYTES || (f.version != 4 && f.version != 6) ||
	    bytes < flow_bytes(&f))
		return false;
	print_protocol(text_add(p, flow_names[0]), f.protocol);
	print_address(text_add(p, flow_names[1]), f.version,
		      f.version == 4 ? (void *)&f.ip4.src : f.ip6.src, f.src_port);
	print_address(text_add(p, flow_names[2]), f.version,
		      f.version == 4 ? (void *)&f.ip4.dst : f.ip6.dst, f.dst_port);
	if (f.zone != 0)
		snprintf(text_add(p, flow_names[3]), FIELDS_TEXT, "%u", f.zone);
	return true;
}

static uint64_t
load_uint(const uint8_t *at, unsigned int bytes)
{
	uint64_t x = 0;

	memcpy(&x, at, bytes < sizeof(x) ? bytes : sizeof(x));
	return x;
}

static void
print_word(char *to, const char *const *words, uint8_t number)
{
	for (unsigned int i = 0; words != NULL && words[i] != NULL; i++) {
		if (i == number) {
			snprintf(to, FIELDS_TEXT, "%s", words[i]);
			return;
		}
	}
	snprintf(to, FIELDS_TEXT, "%u", number);
}

static void
print_field(struct printer *p, const struct nf_field *f, const uint8_t *at)
{
	struct endpoint e;
	rte_be16_t port;
	int64_t number;
	char *to = text_add(p, f->name);

	switch (f->kind) {
	case NF_FIELD_UINT:
		snprintf(to, FIELDS_TEXT, "%" PRIu64, load_uint(at, f->bytes));
		break;
	case NF_FIELD_INT:
		memcpy(&number, at, sizeof(number));
		snprintf(to, FIELDS_TEXT, "%" PRId64, number);
		break;
	case NF_FIELD_WORD:
		print_word(to, f->words, *at);
		break;
	case NF_FIELD_IP4:
		print_address(to, 4, at, 0);
		break;
	case NF_FIELD_IP4_PORT:
		memcpy(&port, at + sizeof(rte_be32_t), sizeof(port));
		print_address(to, 4, at, port);
		break;
	case NF_FIELD_SOURCE:
		print_source(to, at);
		break;
	case NF_FIELD_PROTOCOL:
		print_protocol(to, *at);
		break;
	case NF_FIELD_ENDPOINT:
		memcpy(&e, at, sizeof(e));
		if (e.version == 4 || e.version == 6)
			print_address(to, e.version, &e.ip4, e.port);
		break;
	default:
		break;
	}
}

/* A range: its head, and not which bit is which member. */
static const struct nf_field range_fields[] = {
	{ "members", NF_FIELD_UINT, 0, 4 },
	{ "taken", NF_FIELD_UINT, 4, 4 },
	{ 0 },
};

static void
print_fields(struct printer *p, const struct nf_field *fields, const char *otherwise,
	     const uint8_t *at, unsigned int bytes)
{
	if (fields == NULL) {
		if (bytes > 0)
			print_hex(p, otherwise, at, bytes);
		return;
	}
	for (const struct nf_field *f = fields; f->kind != NF_FIELD_END; f++) {
		if (f->kind == NF_FIELD_FLOW) {
			if (!print_flow(p, at, bytes))
				print_hex(p, f->name, at, bytes);
		} else if (f->offset + f->bytes <= bytes) {
			print_field(p, f, at + f->offset);
		}
	}
}

unsigned int
fields_print(const struct nf_table *t, bool readable, const void *key,
	     unsigned int key_bytes, const void *value, unsigned int value_bytes,
	     struct field_text text[FIELDS_MAX])
{
	struct printer p = { text, 0 };
	const struct nf_field *fields = NULL;

	if (t != NULL && readable)
		fields = t->is_range ? range_fields : t->fields;
	print_fields(&p, t != NULL ? t->key_fields : NULL, "key", key, key_bytes);
	print_fields(&p, fields, "value", value, value_bytes);
	return p.n;
}

static bool
each_name(const struct nf_field *fields, bool (*f)(const char *name, void *arg), void *arg)
{
	for (; fields != NULL && fields->kind != NF_FIELD_END; fields++) {
		if (fields->kind != NF_FIELD_FLOW && f(fields->name, arg))
			return true;
		for (unsigned int i = 0; fields->kind == NF_FIELD_FLOW && i < 4; i++)
			if (f(flow_names[i], arg))
				return true;
	}
	return false;
}

bool
fields_each(const struct nf_table *t, bool (*f)(const char *name, void *arg), void *arg)
{
	/* What no list names, and values of other formats, are shown as bytes. */
	return each_name(t->key_fields, f, arg) ||
	       each_name(t->is_range ? range_fields : t->fields, f, arg) ||
	       (t->key_fields == NULL && f("key", arg)) ||
	       (!t->is_range && f("value", arg));
}

bool
fields_match(const struct field_text *text, unsigned int n, const char *wanted)
{
	const char *is = strchr(wanted, '=');
	size_t name_bytes = is == NULL ? 0 : (size_t)(is - wanted);

	for (unsigned int i = 0; i < n && is != NULL; i++) {
		const char *have = text[i].text, *port = strrchr(have, ':');
		size_t bytes = strlen(is + 1);

		if (strlen(text[i].name) != name_bytes ||
		    memcmp(text[i].name, wanted, name_bytes) != 0)
			continue;
		if (strcmp(have, is + 1) == 0)
			return true;
		if (port == NULL || bytes == 0)
			continue;
		if (*have == '[') {
			have++;
			port--;
		} else if (strchr(have, ':') != port) {
			continue;		/* IPv6 without a port. */
		}
		if ((size_t)(port - have) == bytes && memcmp(have, is + 1, bytes) == 0)
			return true;
	}
	return false;
}
