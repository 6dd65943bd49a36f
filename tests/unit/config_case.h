/*
 * config_case.h - a schema with every kind of field, and standard error in memory:
 * what the tests of config.h share.  Included after the headers of cmocka.
 */
#ifndef UNIT_CONFIG_CASE_H
#define UNIT_CONFIG_CASE_H

#include "base/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct rule {
	char *proto;
	int action;
	struct config_list ports; /* uint16_t */
	uint64_t idle_ms;
	struct {
		bool log;
		uint64_t rate;
	} then;
};

struct options {
	char *function;
	char *store;
	struct {
		char *inside, *outside;
	} ports;
	uint64_t max, least, idle_ms, grace_ms;
	bool promiscuous;
	int mode;
	uint16_t port;
	struct config_list names;  /* char * */
	struct config_list rules;  /* struct rule */
	struct config_list nested; /* struct nested */
};

/* A schema that contains itself. */
struct nested {
	char *name;
	struct config_list nested; /* struct nested */
};

struct section {
	uint64_t n;
	char *name;
};

static int
parse_port(const char *text, void *out)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end != '\0' || n < 1 || n > 65535)
		return -1;
	*(uint16_t *)out = (uint16_t)n;
	return 0;
}

static const char *const actions[] = { "allow", "drop", "reject", NULL };

#define MEMBER(name)                                                                     \
	(offsetof(struct options, ports.name) - offsetof(struct options, ports))
#define THEN(name) (offsetof(struct rule, then.name) - offsetof(struct rule, then))

static const struct config_field then_fields[] = {
	{ "log", CONFIG_BOOL, THEN(log), .min = 0 },
	{ "rate", CONFIG_UINT, THEN(rate), .max = 1000 },
	{ 0 }
};

static const struct config_field rule_fields[] = {
	{ "proto", CONFIG_STRING, offsetof(struct rule, proto), .required = true,
	  .help = "tcp or udp" },
	{ "action", CONFIG_ENUM, offsetof(struct rule, action), .words = actions,
	  .help = "what to do with the packet" },
	{ "ports", CONFIG_LIST, offsetof(struct rule, ports), .parse = parse_port,
	  .item_bytes = sizeof(uint16_t), .max = 3, .help = "a port from 1 to 65535" },
	{ "idle", CONFIG_DURATION, offsetof(struct rule, idle_ms), .min = 1000,
	  .max = 300000 },
	{ "then", CONFIG_MAP, offsetof(struct rule, then), .fields = then_fields },
	{ 0 }
};

static const struct config_field ports_fields[] = {
	{ "inside", CONFIG_STRING, MEMBER(inside), .required = true,
	  .help = "KIND:ADDRESS, as in af_packet:eth0" },
	{ "outside", CONFIG_STRING, MEMBER(outside), .help = "KIND:ADDRESS" },
	{ 0 }
};

static const struct config_field nested_fields[] = {
	{ "name", CONFIG_STRING, offsetof(struct nested, name), .help = "a name" },
	{ "nested", CONFIG_LIST, offsetof(struct nested, nested), .fields = nested_fields,
	  .item_bytes = sizeof(struct nested) },
	{ 0 }
};

static const struct config_field all_fields[] = {
	{ "function", CONFIG_STRING, offsetof(struct options, function), .min = 0 },
	{ "store", CONFIG_STRING, offsetof(struct options, store), .help = "a URL" },
	{ "ports", CONFIG_MAP, offsetof(struct options, ports), .fields = ports_fields },
	{ "max", CONFIG_UINT, offsetof(struct options, max), .min = 1, .max = 64 },
	{ "least", CONFIG_UINT, offsetof(struct options, least), .min = 5 },
	{ "idle", CONFIG_DURATION, offsetof(struct options, idle_ms), .min = 0 },
	{ "grace", CONFIG_DURATION, offsetof(struct options, grace_ms), .min = 1500,
	  .max = 86400000, .help = "how long to wait" },
	{ "promiscuous", CONFIG_BOOL, offsetof(struct options, promiscuous), .min = 0 },
	{ "mode", CONFIG_ENUM, offsetof(struct options, mode), .words = actions },
	{ "port", CONFIG_SCALAR, offsetof(struct options, port), .parse = parse_port,
	  .help = "a port from 1 to 65535" },
	{ "names", CONFIG_LIST, offsetof(struct options, names), .min = 1, .max = 4 },
	{ "rules", CONFIG_LIST, offsetof(struct options, rules), .fields = rule_fields,
	  .item_bytes = sizeof(struct rule) },
	{ "nested", CONFIG_LIST, offsetof(struct options, nested),
	  .fields = nested_fields, .item_bytes = sizeof(struct nested) },
	{ "firewall", CONFIG_MAP, 0, .fields = NULL },
	{ 0 }
};

static int caught = -1, real_stderr = -1;

/* From here on standard error goes to memory. */
static void
catch_stderr(void)
{
	caught = memfd_create("stderr", MFD_CLOEXEC);
	real_stderr = dup(STDERR_FILENO);
	dup2(caught, STDERR_FILENO);
}

/* To here; gives back what came. */
static const char *
caught_stderr(void)
{
	static char text[16384];
	ssize_t n;

	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	n = pread(caught, text, sizeof(text) - 1, 0);
	close(caught);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* Loads 'yaml' and checks that all it prints is 'want'. */
static struct config *
load(const char *yaml, const struct config_field *fields, struct options *out,
     const char *want)
{
	struct config *c = NULL;
	int err;

	catch_stderr();
	err = config_load_text("f", yaml, strlen(yaml), fields, out, &c);
	assert_string_equal(caught_stderr(), want);
	assert_int_equal(err, want[0] != '\0' ? -EINVAL : 0);
	assert_int_equal(c != NULL, err == 0);
	return c;
}

#endif
