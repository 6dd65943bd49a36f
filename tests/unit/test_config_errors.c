/*
 * test_config_errors.c - YAML text in, the exact errors out.
 *
 * The errors are the product: a person who mistypes a key reads nothing else of us.
 * So the tables hold them whole.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "config_case.h"

/* Of three bytes each. */
#define EUROS_19                                                                         \
	"\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac"                   \
	"\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac"

/* Few keys, so that the errors that name them all are short. */
static const struct config_field few_fields[] = {
	{ "function", CONFIG_STRING, offsetof(struct options, function), .required = true,
	  .help = "firewall, nat or lb" },
	{ "store", CONFIG_STRING, offsetof(struct options, store), .min = 0 },
	{ "ports", CONFIG_MAP, offsetof(struct options, ports), .fields = ports_fields,
	  .required = true },
	{ 0 }
};

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

#define CHECK_ERRORS(cases, fields)                                                      \
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
		{ "merge keys are none of ours",
		  "<<: {a: b}\nfunction: nat\n"
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
		  "f:2: missing key 'ports.inside' (KIND:ADDRESS, as in "
		  "af_packet:eth0)\n" },
		{ "a key stands once",
		  "function: nat\nports: {inside: a}\nstore: x\n\nstore: y\n",
		  "f:5: 'store' stands twice, first on line 3\n" },
		{ "also in a nested map",
		  "function: nat\nports: {inside: a, inside: b}\n",
		  "f:2: 'ports.inside' stands twice, first on line 2\n" },
		{ "a key is a word", "function: nat\nports: {inside: a, [b]: c}\n",
		  "f:2: 'ports' has a key that is not a word\n" },
		{ "at the top too", "function: nat\nports: {inside: a}\n? {x: y}\n: z\n",
		  "f:3: the file has a key that is not a word\n" },
		{ "a long or hostile key is cut and escaped",
		  "function: nat\nports: {inside: a}\n\"\\e[2J\\n"
		  "01234567890123456789012345678901234567890123456789012345678901234567\""
		  ": 1\n",
		  "f:3: unknown key '\\x1b[2J\\n0123456789012345678901234567890123456789"
		  "012345678901234...' (one of: function, store, ports)\n" },
	};

	(void)state;
	CHECK_ERRORS(cases, few_fields);
}

static void
test_numbers(void **state)
{
	static const struct error_case cases[] = {
		{ "a number above the range", "max: 99\n",
		  "f:1: 'max' is 99, want 1 to 64\n" },
		{ "below the range", "max: 0\n", "f:1: 'max' is 0, want 1 to 64\n" },
		{ "negative", "max: -3\n", "f:1: 'max' is -3, want 1 to 64\n" },
		{ "beyond 64 bits", "max: 18446744073709551617\n",
		  "f:1: 'max' is 18446744073709551617, want 1 to 64\n" },
		{ "a range open above", "least: 4\n",
		  "f:1: 'least' is 4, want at least 5\n" },
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
		{ "a time without sense", "idle: soon\n",
		  "f:1: 'idle' is \"soon\", want a time such as 500ms, 30s, 5m, 2h or "
		  "1d\n" },
		{ "an unknown unit", "idle: 3w\n",
		  "f:1: 'idle' is \"3w\", want a time such as 500ms, 30s, 5m, 2h or "
		  "1d\n" },
		{ "a time beyond 64 bits", "idle: 999999999999999999d\n",
		  "f:1: 'idle' is \"999999999999999999d\", want a time such as 500ms, "
		  "30s, "
		  "5m, 2h or 1d\n" },
		{ "a time out of range", "grace: 1s\n",
		  "f:1: 'grace' is \"1s\", want 1500ms to 1d (how long to wait)\n" },
		{ "no time", "grace: x\n",
		  "f:1: 'grace' is \"x\", want a time such as 500ms, 30s, 5m, 2h or 1d, "
		  "1500ms to 1d (how long to wait)\n" },
	};

	(void)state;
	CHECK_ERRORS(cases, all_fields);
}

static void
test_texts(void **state)
{
	static const struct error_case cases[] = {
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
		{ "a zero byte", "store: \"a\\0b\"\n",
		  "f:1: 'store' has a zero byte in it\n" },
		{ "a foreign tag", "store: !env HOME\n",
		  "f:1: 'store' has the tag !env, want none\n" },
		{ "a hostile value is cut between characters, and escaped",
		  "mode: \"\\e" EUROS_19 "\u20ac\u20ac\u20ac\"\n",
		  "f:1: 'mode' is \"\\x1b" EUROS_19 "...\", "
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
		  "f:4: 'rules[1].action' is \"alow\", did you mean 'allow'? (one of: "
		  "allow, "
		  "drop, reject) (what to do with the packet)\n" },
		{ "items in items", "rules:\n- proto: tcp\n  ports: [80, 443,\n    x]\n",
		  "f:4: 'rules[0].ports[2]' is \"x\", want a port from 1 to 65535\n" },
		{ "one for a list", "rules: {proto: tcp, ports: 0}\n",
		  "f:1: 'rules' is a map, want a list of maps\n" },
		{ "a lone wrong item is blamed itself",
		  "rules: [{proto: tcp, ports: 0}]\n",
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
		  "f:3: 'rules[0].action' is \"dorp\", did you mean 'drop'? (one of: "
		  "allow, "
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
		  "f:2: not valid YAML: found character that cannot start any token; "
		  "indent "
		  "with spaces, not tabs, and quote values that begin with @, ` or %\n" },
		{ "a colon in a value", "store: a: b\n",
		  "f:1: not valid YAML: mapping values are not allowed in this context; "
		  "check "
		  "':' and indentation here and in the line before, and quote a value "
		  "that has "
		  "': ' in it or ends with ':'\n" },
		{ "an open quote", "store: \"a\nmax: 1\n",
		  "f:3: not valid YAML: found unexpected end of stream while scanning a "
		  "quoted "
		  "scalar (line 1)\n" },
		{ "an open bracket", "names: [a, b\nmax: 1\n",
		  "f:2: not valid YAML: did not find expected ',' or ']' while parsing a "
		  "flow "
		  "sequence (line 1)\n" },
		{ "indentation that ends nowhere",
		  "ports:\n    inside: a\n  outside: b\n",
		  "f:3: not valid YAML: did not find expected key while parsing a block "
		  "mapping "
		  "(line 1); check the indentation\n" },
		{ "an alias of nothing", "store: a\nfunction: *b\n",
		  "f:2: not valid YAML: found undefined alias; quote values that begin "
		  "with *\n" },
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
		{ "a tag at the top", "!x {a: b}\n",
		  "f:1: the file has the tag !x, want none\n" },
		{ "a circle that the schema does not follow",
		  "firewall: &f {a: *f}\nrules: [*f]\n",
		  "f:1: unknown key 'rules[0].a' (one of: proto, action, ports, idle, "
		  "then)\n"
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
		fprintf(f, "- &n%u {nested: [*n%u, *n%u, *n%u, *n%u, *n%u, *n%u]}\n", i,
			i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
	fclose(f);
	load(text, all_fields, &options,
	     "f:2: too many values, at most 100000 may come from aliases\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),   cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_texts),  cmocka_unit_test(test_lists),
		cmocka_unit_test(test_syntax), cmocka_unit_test(test_bounds),
	};

	unsetenv("JOURNAL_STREAM");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
