/*
 * test_config.c - YAML text in, filled structs and the lines of their fields out.
 * What goes wrong on the way is in test_config_errors.c.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "config_case.h"

static const struct config_field section_fields[] = {
	{ "n", CONFIG_UINT, offsetof(struct section, n), .required = true, .max = 9,
	  .help = "how many" },
	{ "name", CONFIG_STRING, offsetof(struct section, name), .min = 0 },
	{ 0 }
};

/* The short form of a target is its port. */
struct target {
	uint16_t port;
	uint64_t weight;
};

static const struct config_field target_fields[] = {
	{ "port", CONFIG_SCALAR, offsetof(struct target, port), .required = true,
	  .parse = parse_port, .help = "a port from 1 to 65535" },
	{ "weight", CONFIG_UINT, offsetof(struct target, weight), .max = 9 },
	{ 0 }
};

static const struct config_field targets_fields[] = {
	{ "targets", CONFIG_LIST, 0, .fields = target_fields, .parse = parse_port,
	  .item_bytes = sizeof(struct target), .help = "a port from 1 to 65535" },
	{ 0 }
};

/* Loads a list of targets and checks that all it prints is 'want'. */
static struct config *
load_targets(const char *yaml, struct config_list *list, const char *want)
{
	struct config *c = NULL;
	int err;

	catch_stderr();
	err = config_load_text("test.yaml", yaml, strlen(yaml), targets_fields, list, &c);
	assert_string_equal(caught_stderr(), want);
	assert_int_equal(err, want[0] == '\0' ? 0 : -EINVAL);
	return c;
}

static void
test_items_are_scalars_or_maps(void **state)
{
	struct config_list list = { 0 };
	struct config *c;
	const struct target *t;

	(void)state;
	c = load_targets("targets: [80, {port: 443, weight: 3}, 81]\n", &list, "");
	t = list.items;
	assert_int_equal(list.n, 3);
	assert_int_equal(t[0].port, 80);
	assert_int_equal(t[0].weight, 0);
	assert_int_equal(t[1].port, 443);
	assert_int_equal(t[1].weight, 3);
	assert_int_equal(t[2].port, 81);
	config_free(c);
	c = load_targets("targets: 8080\n", &list, "");
	t = list.items;
	assert_int_equal(list.n, 1);
	assert_int_equal(t[0].port, 8080);
	config_free(c);
	load_targets("targets:\n- 80\n- 0\n- {weight: 3}\n- []\n-\n", &list,
		     "test.yaml:3: 'targets[1]' is 0, want a port from 1 to 65535\n"
		     "test.yaml:4: missing key 'targets[2].port' (a port from 1 to 65535)\n"
		     "test.yaml:5: 'targets[3]' is a list, want a port from 1 to 65535\n"
		     "test.yaml:6: 'targets[4]' is empty, want a port from 1 to 65535\n");
	load_targets("targets: {port: 1}\n", &list,
		     "test.yaml:1: 'targets' is a map, want a list (a port from 1 to "
		     "65535)\n");
}

static void
test_filled(void **state)
{
	static const char yaml[] =
		"# A comment.\n"
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
		{ "500ms", 500 }, { "30s", 30000 },  { "30", 30000 },
		{ "5m", 300000 }, { "2h", 7200000 }, { "5d", 432000000 },
		{ "0", 0 },       { "0d", 0 },       { "'10'", 10000 },
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
		{ "true", true },   { "yes", true }, { "on", true },   { "True", true },
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
		  "f:3: unknown key 'firewall.nam', did you mean 'name'? (one of: n, "
		  "name)\n",
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
		cmocka_unit_test(test_items_are_scalars_or_maps),
		cmocka_unit_test(test_filled), cmocka_unit_test(test_durations),
		cmocka_unit_test(test_bools),  cmocka_unit_test(test_section),
		cmocka_unit_test(test_places), cmocka_unit_test(test_files),
	};

	unsetenv("JOURNAL_STREAM");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
