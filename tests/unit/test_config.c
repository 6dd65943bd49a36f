/*
 * test_config.c - YAML text in, a filled struct or the exact errors out.
 *
 * The errors are the product: a person who mistypes a key reads nothing else of us.
 * So the tables hold them whole, and standard error is caught in a memory file.
 */
#define _GNU_SOURCE
#include "base/config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct rule {
	char *proto;
	int action;
	struct config_list ports;		/* uint16_t */
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
	struct config_list names;		/* char * */
	struct config_list rules;		/* struct rule */
	struct config_list nested;		/* struct nested */
};

/* A schema that contains itself. */
struct nested {
	char *name;
	struct config_list nested;		/* struct nested */
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

#define MEMBER(name) (offsetof(struct options, ports.name) - offsetof(struct options, ports))
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
	{ "nested", CONFIG_LIST, offsetof(struct options, nested), .fields = nested_fields,
	  .item_bytes = sizeof(struct nested) },
	{ "firewall", CONFIG_MAP, 0, .fields = NULL },
	{ 0 }
};

/* Few keys, so that the errors that name them all are short. */
static const struct config_field few_fields[] = {
	{ "function", CONFIG_STRING, offsetof(struct options, function), .required = true,
	  .help = "firewall, nat or lb" },
	{ "store", CONFIG_STRING, offsetof(struct options, store), .min = 0 },
	{ "ports", CONFIG_MAP, offsetof(struct options, ports), .fields = ports_fields,
	  .required = true },
	{ 0 }
};

static const struct config_field section_fields[] = {
	{ "n", CONFIG_UINT, offsetof(struct section, n), .required = true, .max = 9,
	  .help = "how many" },
	{ "name", CONFIG_STRING, offsetof(struct section, name), .min = 0 },
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

struct error_case {
	const char *name, *yaml, *want;
};

static void
check_errors(const struct error_case *cases, size_t n, const struct config_field *fields)
{
	for (size_t i = 0; i < n; i++) {
		struct options options = { 0 };

		print_message("%s\n", cases[i].name);
		config_free(load(cases[i].yaml, fields, &options, cases[i].want));
	}
}

#define CHECK_ERRORS(cases, fields)                                              \
	check_errors(cases, sizeof(cases) / sizeof((cases)[0]), fields)

static void
test_keys(void **state)
{
	static const struct error_case cases[] = {
		{ "an unknown key names the nearest, which then is not missed",
		  "function: nat\nprots: {inside: a}\n",
		  "f:2: unknown key 'prots', did you mean 'ports'? "
		  "(one of: function, store, ports)\n" },
		{ "upper case is a slip", "Function: nat\nports: {inside: a}\n",
		  "f:1: unknown key 'Function', did you mean 'function'? "
		  "(one of: function, store, ports)\n" },
		{ "a wholly unknown key gets the list",
		  "function: nat\nports: {inside: a}\n\nwhatever: 1\n",
		  "f:4: unknown key 'whatever' (one of: function, store, ports)\n" },
		{ "merge keys are none of ours", "<<: {a: b}\nfunction: nat\n"
		  "ports: {inside: a}\n",
		  "f:1: unknown key '<<' (one of: function, store, ports)\n" },
		{ "a nested key has its path", "function: nat\nports:\n  insid: a\n",
		  "f:3: unknown key 'ports.insid', did you mean 'inside'? "
		  "(one of: inside, outside)\n" },
		{ "missing keys have the line of their map",
		  "# nothing\n\nstore: x\nports:\n  outside: b\n",
		  "f:4: missing key 'ports.inside' (KIND:ADDRESS, as in af_packet:eth0)\n"
		  "f:3: missing key 'function' (firewall, nat or lb)\n" },
		{ "an empty file is an empty map", "",
		  "f:1: missing key 'function' (firewall, nat or lb)\n"
		  "f:1: missing key 'ports'\n" },
		{ "so is one with only comments", "# a: b\n\n",
		  "f:1: missing key 'function' (firewall, nat or lb)\n"
		  "f:1: missing key 'ports'\n" },
		{ "a map without content is empty", "function: nat\nports:\n",
		  "f:2: missing key 'ports.inside' (KIND:ADDRESS, as in af_packet:eth0)\n" },
		{ "a key stands once",
		  "function: nat\nports: {inside: a}\nstore: x\n\nstore: y\n",
		  "f:5: 'store' stands twice, first on line 3\n" },
		{ "also in a nested map", "function: nat\nports: {inside: a, inside: b}\n",
		  "f:2: 'ports.inside' stands twice, first on line 2\n" },
		{ "a key is a word", "function: nat\nports: {inside: a, [b]: c}\n",
		  "f:2: 'ports' has a key that is not a word\n" },
		{ "at the top too", "function: nat\nports: {inside: a}\n? {x: y}\n: z\n",
		  "f:3: the file has a key that is not a word\n" },
		{ "a long or hostile key is cut and escaped",
		  "function: nat\nports: {inside: a}\n\"\\e[2J\\n"
		  "01234567890123456789012345678901234567890123456789012345678901234567\": 1\n",
		  "f:3: unknown key '\\x1b[2J\\n0123456789012345678901234567890123456789"
		  "012345678901234...' (one of: function, store, ports)\n" },
	};

	(void)state;
	CHECK_ERRORS(cases, few_fields);
}

static void
test_values(void **state)
{
	static const struct error_case cases[] = {
		{ "a number above the range", "max: 99\n",
		  "f:1: 'max' is 99, want 1 to 64\n" },
		{ "below the range", "max: 0\n", "f:1: 'max' is 0, want 1 to 64\n" },
		{ "negative", "max: -3\n", "f:1: 'max' is -3, want 1 to 64\n" },
		{ "beyond 64 bits", "max: 18446744073709551617\n",
		  "f:1: 'max' is 18446744073709551617, want 1 to 64\n" },
		{ "a range open above", "least: 4\n", "f:1: 'least' is 4, want at least 5\n" },
		{ "no number", "max: many\n",
		  "f:1: 'max' is \"many\", want a number, 1 to 64\n" },
		{ "a fraction", "max: 1.5\n",
		  "f:1: 'max' is \"1.5\", want a number, 1 to 64\n" },
		{ "a value below its key has its own line", "max:\n\n  99\n",
		  "f:3: 'max' is 99, want 1 to 64\n" },
		{ "nothing", "max:\n", "f:1: 'max' is empty, want a number, 1 to 64\n" },
		{ "null", "store: ~\n", "f:1: 'store' is empty, want a URL\n" },
		{ "an empty text is not a number", "max: \"\"\n",
		  "f:1: 'max' is \"\", want a number, 1 to 64\n" },
		{ "a list for a text", "store: [a]\n",
		  "f:1: 'store' is a list, want a URL\n" },
		{ "a map for a text without help", "function: {a: b}\n",
		  "f:1: 'function' is a map, want another text\n" },
		{ "a text for a map", "ports: eth0\n",
		  "f:1: 'ports' is \"eth0\", want a map of keys to values\n" },
		{ "a text for a map that is read later", "firewall: eth0\n",
		  "f:1: 'firewall' is \"eth0\", want a map of keys to values\n" },
		{ "no bool", "promiscuous: maybe\n",
		  "f:1: 'promiscuous' is \"maybe\", want true or false\n" },
		{ "a misspelt word", "mode: alow\n",
		  "f:1: 'mode' is \"alow\", did you mean 'allow'? "
		  "(one of: allow, drop, reject)\n" },
		{ "another word", "mode: tarpit\n",
		  "f:1: 'mode' is \"tarpit\", want one of: allow, drop, reject\n" },
		{ "words are as written", "mode: DROP\n",
		  "f:1: 'mode' is \"DROP\", did you mean 'drop'? "
		  "(one of: allow, drop, reject)\n" },
		{ "a scalar says its help", "port: 65536\n",
		  "f:1: 'port' is 65536, want a port from 1 to 65535\n" },
		{ "a time without sense", "idle: soon\n",
		  "f:1: 'idle' is \"soon\", want a time such as 500ms, 30s, 5m, 2h or 1d\n" },
		{ "an unknown unit", "idle: 3w\n",
		  "f:1: 'idle' is \"3w\", want a time such as 500ms, 30s, 5m, 2h or 1d\n" },
		{ "a time beyond 64 bits", "idle: 999999999999999999d\n",
		  "f:1: 'idle' is \"999999999999999999d\", want a time such as 500ms, 30s, "
		  "5m, 2h or 1d\n" },
		{ "a time out of range", "grace: 1s\n",
		  "f:1: 'grace' is \"1s\", want 1500ms to 1d (how long to wait)\n" },
		{ "no time", "grace: x\n",
		  "f:1: 'grace' is \"x\", want a time such as 500ms, 30s, 5m, 2h or 1d, "
		  "1500ms to 1d (how long to wait)\n" },
		{ "a zero byte", "store: \"a\\0b\"\n", "f:1: 'store' has a zero byte in it\n" },
		{ "a foreign tag", "store: !env HOME\n",
		  "f:1: 'store' has the tag !env, want none\n" },
		{ "a hostile value is cut between characters, and escaped",
		  "mode: \"\\e\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac"
		  "\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\"\n",
		  "f:1: 'mode' is \"\\x1b\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac"
		  "\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac...\", "
		  "want one of: allow, drop, reject\n" },
	};

	(void)state;
	CHECK_ERRORS(cases, all_fields);
}

static void
test_lists(void **state)
{
	static const struct error_case cases[] = {
		{ "an item has its index and line",
		  "rules:\n- proto: tcp\n- proto: udp\n  action: alow\n",
		  "f:4: 'rules[1].action' is \"alow\", did you mean 'allow'? (one of: allow, "
		  "drop, reject) (what to do with the packet)\n" },
		{ "items in items", "rules:\n- proto: tcp\n  ports: [80, 443,\n    x]\n",
		  "f:4: 'rules[0].ports[2]' is \"x\", want a port from 1 to 65535\n" },
		{ "one for a list", "rules: {proto: tcp, ports: 0}\n",
		  "f:1: 'rules' is a map, want a list of maps\n" },
		{ "a lone wrong item is blamed itself", "rules: [{proto: tcp, ports: 0}]\n",
		  "f:1: 'rules[0].ports' is 0, want a port from 1 to 65535\n" },
		{ "too long", "rules: [{proto: tcp, ports: [1, 2, 3, 4]}]\n",
		  "f:1: 'rules[0].ports' is of length 4, want a list of length 0 to 3 "
		  "(a port from 1 to 65535)\n" },
		{ "too short", "names: []\n",
		  "f:1: 'names' is of length 0, want a list of length 1 to 4\n" },
		{ "nothing is no list", "names:\n",
		  "f:1: 'names' is empty, want a list of length 1 to 4\n" },
		{ "a text is no list of maps", "rules: tcp\n",
		  "f:1: 'rules' is \"tcp\", want a list of maps\n" },
		{ "an item that is no map", "rules:\n- {proto: tcp}\n- udp\n",
		  "f:3: 'rules[1]' is \"udp\", want a map of keys to values\n" },
		{ "an empty item misses its keys", "rules:\n-\n",
		  "f:2: missing key 'rules[0].proto' (tcp or udp)\n" },
		{ "maps in items", "rules:\n- proto: tcp\n  then:\n    rate: 1001\n",
		  "f:4: 'rules[0].then.rate' is 1001, want 0 to 1000\n" },
		{ "all errors of a file come at once, in its order",
		  "max: 99\nrules:\n- action: dorp\n  idle: 10h\n- proto: [a]\nmode: x\n",
		  "f:1: 'max' is 99, want 1 to 64\n"
		  "f:3: 'rules[0].action' is \"dorp\", did you mean 'drop'? (one of: allow, "
		  "drop, reject) (what to do with the packet)\n"
		  "f:4: 'rules[0].idle' is \"10h\", want 1s to 5m\n"
		  "f:3: missing key 'rules[0].proto' (tcp or udp)\n"
		  "f:5: 'rules[1].proto' is a list, want tcp or udp\n"
		  "f:6: 'mode' is \"x\", want one of: allow, drop, reject\n" },
		{ "the eleventh is counted only",
		  "rules: [1, 2, 3,\n 4, 5, 6, 7, 8, 9, 10, 11, 12]\n",
		  "f:1: 'rules[0]' is 1, want a map of keys to values\n"
		  "f:1: 'rules[1]' is 2, want a map of keys to values\n"
		  "f:1: 'rules[2]' is 3, want a map of keys to values\n"
		  "f:2: 'rules[3]' is 4, want a map of keys to values\n"
		  "f:2: 'rules[4]' is 5, want a map of keys to values\n"
		  "f:2: 'rules[5]' is 6, want a map of keys to values\n"
		  "f:2: 'rules[6]' is 7, want a map of keys to values\n"
		  "f:2: 'rules[7]' is 8, want a map of keys to values\n"
		  "f:2: 'rules[8]' is 9, want a map of keys to values\n"
		  "f:2: 'rules[9]' is 10, want a map of keys to values\n"
		  "f: 2 more errors\n" },
	};

	(void)state;
	CHECK_ERRORS(cases, all_fields);
}

static void
test_syntax(void **state)
{
	static const struct error_case cases[] = {
		{ "a tab", "store: a\n\tmax: 1\n",
		  "f:2: not valid YAML: found a tab character that violates indentation "
		  "while scanning a plain scalar (line 1)\n" },
		{ "a tab in front", "ports:\n\tinside: a\n",
		  "f:2: not valid YAML: found character that cannot start any token; indent "
		  "with spaces, not tabs, and quote values that begin with @, ` or %\n" },
		{ "a colon in a value", "store: a: b\n",
		  "f:1: not valid YAML: mapping values are not allowed in this context; check "
		  "':' and indentation here and in the line before, and quote a value that has "
		  "': ' in it\n" },
		{ "an open quote", "store: \"a\nmax: 1\n",
		  "f:3: not valid YAML: found unexpected end of stream while scanning a quoted "
		  "scalar (line 1)\n" },
		{ "an open bracket", "names: [a, b\nmax: 1\n",
		  "f:2: not valid YAML: did not find expected ',' or ']' while parsing a flow "
		  "sequence (line 1)\n" },
		{ "indentation that ends nowhere", "ports:\n    inside: a\n  outside: b\n",
		  "f:3: not valid YAML: did not find expected key while parsing a block mapping "
		  "(line 1); check the indentation\n" },
		{ "an alias of nothing", "store: a\nfunction: *b\n",
		  "f:2: not valid YAML: found undefined alias; quote values that begin with *\n" },
		{ "bytes that are no text", "store: a\nmax: \xff\n",
		  "f:2: not valid YAML: invalid leading UTF-8 octet\n" },
		{ "a second document", "store: a\n---\nstore: b\n",
		  "f:2: a second document begins, want one in a file\n" },
		{ "also an empty one", "---\n---\n",
		  "f:2: a second document begins, want one in a file\n" },
		{ "a list at the top", "- a\n",
		  "f:1: the file is a list, want a map of keys to values\n" },
		{ "a text at the top", "hello\n",
		  "f:1: the file is \"hello\", want a map of keys to values\n" },
		{ "a tag at the top", "!x {a: b}\n", "f:1: the file has the tag !x, want none\n" },
		{ "a circle that the schema does not follow", "firewall: &f {a: *f}\nrules: [*f]\n",
		  "f:1: unknown key 'rules[0].a' (one of: proto, action, ports, idle, then)\n"
		  "f:2: missing key 'rules[0].proto' (tcp or udp)\n" },
	};

	(void)state;
	CHECK_ERRORS(cases, all_fields);
}

/* Files that are small and mean to be large. */
static void
test_bounds(void **state)
{
	enum { MANY = 1000000 };
	static char text[MANY + 64], want[4096];
	struct options options = { 0 };
	FILE *f;

	(void)state;
	memset(text, '[', MANY);
	load(text, all_fields, &options,
	     "f:1: maps and lists lie too deep in each other, want at most 32 levels\n");

	f = fmemopen(text, sizeof(text), "w");
	for (unsigned int i = 0; i <= 1000; i++)
		fprintf(f, "- &a%u x\n", i);
	fclose(f);
	load(text, all_fields, &options,
	     "f:1001: too many anchors (&name), want at most 1000\n");

	f = fmemopen(text, sizeof(text), "w");
	fprintf(f, "rules:\n- &r {proto: tcp}\n");
	for (unsigned int i = 0; i < 60000; i++)
		fprintf(f, "- *r\n");
	fclose(f);
	load(text, all_fields, &options,
	     "f:2: too many values, at most 100000 may come from aliases\n");

	/* A circle through a schema that contains itself. */
	snprintf(want, sizeof(want), "f:1: 'nested[0]");
	for (unsigned int i = 1; i < 32; i++)
		strcat(want, ".nested[0]");
	strcat(want, "' lies too deep, want at most 32 levels\n");
	load("nested: [&n {nested: [*n]}]\n", all_fields, &options, want);

	/* Six in each of six in each of six...: ended by count, in no time. */
	f = fmemopen(text, sizeof(text), "w");
	fprintf(f, "nested:\n- &n0 {name: x}\n");
	for (unsigned int i = 1; i < 20; i++)
		fprintf(f, "- &n%u {nested: [*n%u, *n%u, *n%u, *n%u, *n%u, *n%u]}\n", i, i - 1,
			i - 1, i - 1, i - 1, i - 1, i - 1);
	fclose(f);
	load(text, all_fields, &options,
	     "f:2: too many values, at most 100000 may come from aliases\n");
}

static void
test_filled(void **state)
{
	static const char yaml[] = "# A comment.\n"
				   "function: 'nat'\n"
				   "store: \"valkey+unix:///tmp/a b\"\n"
				   "ports: {inside: pci:0000:3b:02.1, outside: tap:x}\n"
				   "max: \"64\"\n"
				   "idle: 0\n"
				   "promiscuous: On\n"
				   "mode: reject\n"
				   "port: 8080\n"
				   "names: [a, \"\", 'c: d']\n"
				   "rules:\n"
				   "- &first\n"
				   "  proto: tcp\n"
				   "  action: drop\n"
				   "  ports: 80\n"
				   "- {proto: udp, idle: 2m, ports: [53, 123], then: {log: yes}}\n"
				   "- *first\n"
				   "...\n";
	struct options o = { .least = 7, .grace_ms = 9 };
	struct config *c = load(yaml, all_fields, &o, "");
	const struct rule *rules = o.rules.items;
	char *const *names = o.names.items;

	(void)state;
	assert_string_equal(o.function, "nat");
	assert_string_equal(o.store, "valkey+unix:///tmp/a b");
	assert_string_equal(o.ports.inside, "pci:0000:3b:02.1");
	assert_string_equal(o.ports.outside, "tap:x");
	assert_int_equal(o.max, 64);
	assert_int_equal(o.idle_ms, 0);
	assert_true(o.promiscuous);
	assert_int_equal(o.mode, 2);
	assert_int_equal(o.port, 8080);
	assert_int_equal(o.names.n, 3);
	assert_string_equal(names[0], "a");
	assert_string_equal(names[1], "");
	assert_string_equal(names[2], "c: d");
	assert_int_equal(o.rules.n, 3);
	for (unsigned int i = 0; i < 3; i += 2) {
		assert_string_equal(rules[i].proto, "tcp");
		assert_int_equal(rules[i].action, 1);
		assert_int_equal(rules[i].ports.n, 1);
		assert_int_equal(*(uint16_t *)rules[i].ports.items, 80);
	}
	assert_string_equal(rules[1].proto, "udp");
	assert_int_equal(rules[1].idle_ms, 120000);
	assert_int_equal(rules[1].ports.n, 2);
	assert_int_equal(((uint16_t *)rules[1].ports.items)[1], 123);
	assert_true(rules[1].then.log);
	/* Defaults of the caller stay. */
	assert_int_equal(o.least, 7);
	assert_int_equal(o.grace_ms, 9);
	config_free(c);
}

static void
test_durations(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} cases[] = {
		{ "500ms", 500 }, { "30s", 30000 }, { "30", 30000 }, { "5m", 300000 },
		{ "2h", 7200000 }, { "5d", 432000000 }, { "0", 0 }, { "0d", 0 },
		{ "'10'", 10000 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct options o = { .idle_ms = 1 };
		char yaml[64];

		snprintf(yaml, sizeof(yaml), "idle: %s\n", cases[i].text);
		config_free(load(yaml, all_fields, &o, ""));
		assert_int_equal(o.idle_ms, cases[i].ms);
	}
}

static void
test_bools(void **state)
{
	static const struct {
		const char *text;
		bool want;
	} cases[] = {
		{ "true", true }, { "yes", true }, { "on", true }, { "True", true },
		{ "false", false }, { "no", false }, { "off", false }, { "'no'", false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct options o = { .promiscuous = !cases[i].want };
		char yaml[64];

		snprintf(yaml, sizeof(yaml), "promiscuous: %s\n", cases[i].text);
		config_free(load(yaml, all_fields, &o, ""));
		assert_int_equal(o.promiscuous, cases[i].want);
	}
}

static void
test_section(void **state)
{
	static const struct {
		const char *name, *yaml, *want;
		uint64_t n;
	} cases[] = {
		{ "read when its schema is known", "firewall:\n  n: 3\n", "", 3 },
		{ "its errors have its path", "firewall:\n  n: 10\n  nam: x\n",
		  "f:2: 'firewall.n' is 10, want 0 to 9 (how many)\n"
		  "f:3: unknown key 'firewall.nam', did you mean 'name'? (one of: n, name)\n",
		  0 },
		{ "an empty one misses keys on its line", "store: x\nfirewall:\n",
		  "f:2: missing key 'firewall.n' (how many)\n", 0 },
		{ "an absent one misses them at the top", "\nstore: x\n",
		  "f:2: missing key 'firewall.n' (how many)\n", 0 },
		{ "so does one of an empty file", "",
		  "f:1: missing key 'firewall.n' (how many)\n", 0 },
		{ "repeated keys are found late", "firewall: {n: 1, n: 2}\n",
		  "f:1: 'firewall.n' stands twice, first on line 1\n", 1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct options o = { 0 };
		struct section s = { 0 };
		struct config *c = load(cases[i].yaml, all_fields, &o, "");
		int err;

		print_message("%s\n", cases[i].name);
		catch_stderr();
		err = config_section(c, "firewall", section_fields, &s);
		assert_string_equal(caught_stderr(), cases[i].want);
		assert_int_equal(err, cases[i].want[0] != '\0' ? -EINVAL : 0);
		assert_int_equal(s.n, cases[i].n);
		config_free(c);
	}
}

/* What config_error() prints for 'field'. */
static void
check_place(const void *field, const char *want)
{
	catch_stderr();
	config_error(field, "%s", "wrong");
	assert_string_equal(caught_stderr(), want);
}

static void
test_places(void **state)
{
	static const char yaml[] = "store: a\n"
				   "ports:\n"
				   "  inside: b\n"
				   "rules:\n"
				   "- proto: tcp\n"
				   "- proto: udp\n"
				   "  ports:\n"
				   "  - 53\n"
				   "  - 80\n"
				   "port: 80\n"
				   "max:\n"
				   "  3\n"
				   "firewall:\n"
				   "  n: 3\n";
	struct options o = { 0 }, other = { 0 };
	struct section s = { 0 };
	struct config *c = load(yaml, all_fields, &o, ""), *later;
	struct rule *rules = o.rules.items;

	(void)state;
	check_place(&o.store, "f:1: wrong\n");
	/* A struct has the address of its first member, and that is nearer. */
	check_place(&o.ports, "f:3: wrong\n");
	check_place(&o.ports.inside, "f:3: wrong\n");
	check_place(&o.ports.outside, "f:2: wrong\n");
	check_place(&o.rules, "f:4: wrong\n");
	check_place(&rules[0], "f:5: wrong\n");
	check_place(&rules[0].action, "f:5: wrong\n");
	check_place(&rules[1].then.rate, "f:6: wrong\n");
	check_place(&rules[1].ports, "f:7: wrong\n");
	check_place((uint16_t *)rules[1].ports.items + 1, "f:9: wrong\n");
	check_place(&o.port, "f:10: wrong\n");
	check_place(&o.max, "f:12: wrong\n");
	check_place(&o.mode, "f: wrong\n");
	check_place(NULL, "f: wrong\n");
	assert_int_equal(config_section(c, "firewall", section_fields, &s), 0);
	check_place(&s.n, "f:14: wrong\n");
	check_place(&s.name, "f:13: wrong\n");

	/* A failed load changes nothing, the next good one takes over. */
	load("store: []\n", all_fields, &other, "f:1: 'store' is a list, want a URL\n");
	check_place(&o.store, "f:1: wrong\n");
	later = load("\nstore: a\n", all_fields, &other, "");
	check_place(&other.store, "f:2: wrong\n");
	check_place(&o.store, "f: wrong\n");
	config_free(c);
	check_place(&other.store, "f:2: wrong\n");
	config_free(later);
	check_place(&other.store, "wrong\n");
	config_free(NULL);
}

static void
test_files(void **state)
{
	char path[] = "/tmp/test_config-XXXXXX", want[64];
	struct options o = { 0 };
	struct config *c = NULL;
	int fd = mkstemp(path), err;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "max: 99\n", 8), 8);
	catch_stderr();
	err = config_load(path, all_fields, &o, &c);
	snprintf(want, sizeof(want), "%s:1: 'max' is 99, want 1 to 64\n", path);
	assert_string_equal(caught_stderr(), want);
	assert_int_equal(err, -EINVAL);

	assert_int_equal(pwrite(fd, "max: 09\n", 8, 0), 8);
	assert_int_equal(config_load(path, all_fields, &o, &c), 0);
	assert_int_equal(o.max, 9);
	config_free(c);
	close(fd);
	unlink(path);

	catch_stderr();
	err = config_load("/nonexistent/f.yaml", all_fields, &o, &c);
	assert_string_equal(caught_stderr(), "/nonexistent/f.yaml: cannot be opened: "
					     "No such file or directory\n");
	assert_int_equal(err, -ENOENT);
	catch_stderr();
	err = config_load("/", all_fields, &o, &c);
	assert_string_equal(caught_stderr(), "/: cannot be read: Is a directory\n");
	assert_int_equal(err, -EIO);
	catch_stderr();
	err = config_load("/dev/zero", all_fields, &o, &c);
	assert_string_equal(caught_stderr(),
			    "/dev/zero: is too large, want at most 16 MiB\n");
	assert_int_equal(err, -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),	  cmocka_unit_test(test_values),
		cmocka_unit_test(test_lists),	  cmocka_unit_test(test_syntax),
		cmocka_unit_test(test_bounds),	  cmocka_unit_test(test_filled),
		cmocka_unit_test(test_durations), cmocka_unit_test(test_bools),
		cmocka_unit_test(test_section),	  cmocka_unit_test(test_places),
		cmocka_unit_test(test_files),
	};

	unsetenv("JOURNAL_STREAM");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
