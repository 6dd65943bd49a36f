/*
 * test_settings.c - an instance's file: what is said of tables, their formats, replicas,
 * and the loss of the store, and what a reload leaves as it was.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "pipe/instance.h"

#define HEAD(function)                                                           \
	"function: " function "\n"                                               \
	"store: embedded\n"                                                      \
	"ports: {inside: gen, outside: gen}\n"
#define FIREWALL HEAD("firewall")
#define NAT HEAD("nat") "nat: {addresses: 10.0.0.1}\n"
#define LB HEAD("lb") "lb: {address: '10.0.0.1:80', backends: '10.0.0.2:80'}\n"
#define REASSEMBLY HEAD("reassembly")
#define IPS HEAD("ips") "ips: {signatures: []}\n"

/* Loads the text as a file; what was complained about is in 'said'. */
static struct settings *
load(const char *text, char *said, size_t said_bytes)
{
	int file = memfd_create("settings", 0), error = memfd_create("stderr", 0);
	int old = dup(STDERR_FILENO);
	struct settings *s = NULL;
	char path[64];
	ssize_t n;

	assert_int_equal(write(file, text, strlen(text)), strlen(text));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	fflush(stderr);
	dup2(error, STDERR_FILENO);
	if (settings_load(path, &s) != 0)
		s = NULL;
	fflush(stderr);
	dup2(old, STDERR_FILENO);
	n = pread(error, said, said_bytes - 1, 0);
	said[n > 0 ? n : 0] = '\0';
	close(file);
	close(error);
	close(old);
	return s;
}

static void
test_what_a_file_may_not_say(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{ FIREWALL "tables: {nope: {limit: 1}}", "4: unknown key 'tables.nope'" },
		{ FIREWALL "tables: {connection: {limit: 0}}", "4: 'tables.connection" },
		{ FIREWALL "tables: {connection: {full: maybe}}", "refuse, evict" },
		{ FIREWALL "tables: {connection: {commit: 3}}", "auto, 0, 1, 2" },
		{ FIREWALL "tables: {connection: {format: 0}}", "1 to 255" },
		{ FIREWALL "tables: {connection: {format: 2}}",
		  "4: tables.connection.format is 2, want one that this release writes: "
		  "1" },
		{ REASSEMBLY "tables: {segment: {format: 9}}",
		  "4: tables.segment.format is 9" },
		{ FIREWALL "commit: 3", "4: 'commit' is 3" },
		{ FIREWALL "partitions: 65", "1 to 64" },
		{ FIREWALL "partitions: 0", "1 to 64" },
		{ NAT "tables: {forward: {full: evict}}",
		  "5: tables.forward.full is 'evict'" },
		{ LB "tables: {client: {full: evict}}", "5: tables.client.full" },
		{ FIREWALL "on_store_loss: pass", "4: on_store_loss is 'pass'" },
		{ NAT "on_store_loss: pass", "but nat cannot do without" },
		{ LB "on_store_loss: pass", "but lb cannot do without" },
		{ REASSEMBLY "on_store_loss: pass", "but reassembly cannot" },
		{ IPS "on_store_loss: perhaps", "drop, pass" },
	};
	char said[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_null(load(cases[i].text, said, sizeof(said)));
		if (strstr(said, cases[i].want) == NULL)
			fail_msg("want \"%s\", got \"%s\"", cases[i].want, said);
	}
}

static void
test_tables_are_as_the_file_has_them(void **state)
{
	static const struct pipe_table none[STORE_MAX_TABLES];
	struct pipe_table wanted[STORE_MAX_TABLES];
	struct store_table table[STORE_MAX_TABLES];
	char said[1024];
	struct settings *s = load(REASSEMBLY "commit: 2\n"
				  "tables: {stream: {limit: 5}, "
				  "segment: {limit: 7, full: evict, commit: auto}}",
				  said, sizeof(said));
	unsigned int n;

	(void)state;
	assert_non_null(s);
	settings_tables(s, wanted);
	n = pipe_tables(s->nf, wanted, table);
	assert_int_equal(n, 2);
	for (unsigned int i = 0; i < n; i++) {
		bool segment = strcmp(table[i].name, "reassembly.segment") == 0;

		assert_int_equal(table[i].limit, segment ? 7 : 5);
		assert_int_equal(table[i].evict, segment);
		assert_int_equal(table[i].commit, segment ? STORE_COMMIT_AUTO : 2);
		assert_false(table[i].leased);
	}
	settings_free(s);

	/* A table whose records expire through their function is leased. */
	n = pipe_tables(nf_find("nat"), none, table);
	assert_int_equal(n, 3);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(table[i].leased,
				 strcmp(table[i].name, "nat.forward") == 0);
}

/* Can write 2 and 3, and its own. */
static unsigned int
downgrade(uint8_t to, const void *value, unsigned int value_bytes, void *old)
{
	(void)value, (void)old;
	return to == 2 ? 20 : to == 3 ? value_bytes : 0;
}

static void
test_older_formats_are_those_that_a_table_writes(void **state)
{
	static const struct pipe_table none[STORE_MAX_TABLES];
	struct nf_table *table[STORE_MAX_TABLES];
	uint8_t format[STORE_MAX_TABLES];
	struct store_table declared[STORE_MAX_TABLES];
	char said[1024], text[256];

	(void)state;
	assert_int_equal(nf_tables(nf_find("firewall"), 0, table, STORE_MAX_TABLES), 1);
	table[0]->format = 5;
	table[0]->downgrade = downgrade;
	for (unsigned int i = 0; i <= 6; i++) {
		bool writes = i == 2 || i == 3 || i == 5;
		struct settings *s;

		snprintf(text, sizeof(text),
			 FIREWALL "tables: {connection: {format: %u}}", i);
		s = load(i > 0 ? text : FIREWALL, said, sizeof(said));
		assert_int_equal(s != NULL, writes || i == 0);
		if (s == NULL) {
			assert_non_null(strstr(said, "this release writes: 2, 3, 5"));
			continue;
		}
		settings_formats(s, format);
		assert_int_equal(format[0], i);
		settings_free(s);
	}
	/* The store has to take the longest of them. */
	assert_int_equal(pipe_tables(nf_find("firewall"), none, declared), 1);
	assert_int_equal(declared[0].value_max, 20);
	assert_int_equal(declared[0].format, 5);
	table[0]->format = 1;
	table[0]->downgrade = NULL;
}

static void
test_a_reload_names_what_it_leaves(void **state)
{
	static const struct {
		const char *old, *new, *want;
	} cases[] = {
		{ FIREWALL, FIREWALL, "" },
		{ FIREWALL "firewall: {default: {in: allow}}", FIREWALL, "" },
		{ FIREWALL "log: debug", FIREWALL "log: error", "log" },
		{ FIREWALL "store_timeout: 2s\nmemory: 64", FIREWALL "alerts: x",
		  "store_timeout, memory, alerts" },
		{ FIREWALL "tables: {connection: {limit: 5}}", FIREWALL "commit: 1",
		  "commit, tables" },
		{ FIREWALL "tables: {connection: {format: 1}}", FIREWALL, "" },
		{ FIREWALL, FIREWALL "tables: {connection: {format: 1}}", "" },
		{ FIREWALL "tables: {connection: {full: evict}}",
		  FIREWALL "tables: {connection: {format: 1}}", "tables" },
		{ FIREWALL "partitions: 2\npipes: {max: 2}",
		  FIREWALL "pipes: {min: 2}\npace: original\nhugepages: off",
		  "partitions, pipes.min, pace, hugepages" },
		{ IPS, IPS "on_store_loss: pass", "on_store_loss" },
		{ NAT, FIREWALL, "function" },
	};
	char said[1024], ignored[256];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct settings *old = load(cases[i].old, said, sizeof(said));
		struct settings *new = load(cases[i].new, said, sizeof(said));

		assert_non_null(old);
		assert_non_null(new);
		settings_ignored(old, new, ignored, sizeof(ignored));
		assert_string_equal(ignored, cases[i].want);
		settings_free(new);
		settings_free(old);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_a_file_may_not_say),
		cmocka_unit_test(test_tables_are_as_the_file_has_them),
		cmocka_unit_test(test_older_formats_are_those_that_a_table_writes),
		cmocka_unit_test(test_a_reload_names_what_it_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
