/*
 * test_settings.c - an instance's file: what is said of functions and chains, of tables,
 * their formats, replicas, and the loss of the store, and what a reload leaves as it was.
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
#define SIDES(inside, outside)                                                   \
	"function: firewall\nstore: embedded\n"                                  \
	"ports: {inside: " inside ", outside: " outside "}\n"
#define FIREWALL HEAD("firewall")
#define NAT HEAD("nat") "nat: {addresses: 10.0.0.1}\n"
#define LB HEAD("lb") "lb: {address: '10.0.0.1:80', backends: '10.0.0.2:80'}\n"
#define REASSEMBLY HEAD("reassembly")
#define IPS HEAD("ips") "ips: {signatures: []}\n"
#define FIREWALL_NAT HEAD("[firewall, nat]") "nat: {addresses: 10.0.0.1}\n"
#define FIREWALL_IPS HEAD("[firewall, ips]") "ips: {signatures: []}\n"

/* As if both the firewall and the IPS had one of that name. */
NF_TABLE(inspection, uint64_t, uint64_t, .owner = "firewall.c")

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
		{ IPS "tables: {inspection: {format: 2}}",
		  "5: tables.inspection.format is 2, want one that this release writes: "
		  "1" },
		{ REASSEMBLY "tables: {segment: {format: 9}}",
		  "4: tables.segment.format is 9" },
		{ FIREWALL "commit: 3", "4: 'commit' is 3" },
		{ FIREWALL "partitions: 65", "1 to 64" },
		{ FIREWALL "partitions: 0", "1 to 64" },
		{ NAT "tables: {forward: {full: evict}}",
		  "5: tables.forward.full is 'evict'" },
		{ LB "tables: {client: {full: evict}}", "5: tables.client.full" },
		{ FIREWALL "tables: {fragment: {full: evict}}", "4: tables.fragment.full" },
		{ REASSEMBLY "on_store_loss: pass", "4: on_store_loss is 'pass'" },
		{ NAT "on_store_loss: pass", "but nat cannot do without" },
		{ NAT "on_store_loss: established",
		  "on_store_loss is 'established', but nat cannot" },
		{ LB "on_store_loss: pass", "but lb cannot do without" },
		{ REASSEMBLY "on_store_loss: pass", "but reassembly cannot" },
		{ FIREWALL_NAT "on_store_loss: established", "but nat cannot do" },
		{ HEAD("nope"), "1: no function 'nope', want one of: firewall" },
		{ HEAD("[firewall, nope]"), "1: no function 'nope', want one of" },
		{ HEAD("[]"), "'function'" },
		{ HEAD("[firewall, nat, lb, ips, firewall]"), "'function'" },
		{ HEAD("[firewall, ips, firewall]"),
		  "1: function 'firewall' stands there twice, want each once" },
		{ HEAD("[firewall, reassembly]"),
		  "1: function 'reassembly' has to be alone" },
		{ FIREWALL_NAT "partitions: 4",
		  "5: partitions is 4, but several functions that keep state need" },
		{ FIREWALL_NAT "lb: {}\ntables: {nope: {limit: 1}}", "tables.nope" },
		{ FIREWALL_IPS "tables: {inspection: {limit: 1}}", "tables.inspection" },
		{ FIREWALL_NAT "firewall: {nope: 1}", "firewall.nope" },
		{ FIREWALL "fragments: {nope: 1}", "fragments.nope" },
		{ FIREWALL "zone: 65536", "4: 'zone' is 65536, want 0 to 65535" },
		{ FIREWALL "zone: vlans", "want 0 to 65535, or vlan" },
		{ FIREWALL "zone: -1", "'zone'" },
		{ FIREWALL "refusals: 1000001", "'refusals'" },
		{ FIREWALL "mtu: {inside: 575}", "is 575, want 576 to 65535" },
		{ FIREWALL "mtu: {outside: 65536}", "'mtu.outside'" },
		{ FIREWALL "store_grace: 2d", "'store_grace'" },
		{ IPS "on_store_loss: perhaps", "drop, established, pass" },
		{ SIDES("af_packet:a", "af_packet:a"),
		  "3: ports.outside: \"af_packet:a\" is the inside as well, want another" },
		{ SIDES("\"af_xdp:a,x=1\"", "\"af_xdp:a,x=2\""), "is the inside as well" },
		{ SIDES("net_null0", "net_null0"), "is the inside as well" },
	};
	char said[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (load(cases[i].text, said, sizeof(said)) != NULL)
			fail_msg("accepted: %s", cases[i].text);
		if (strstr(said, cases[i].want) == NULL)
			fail_msg("want \"%s\", got \"%s\"", cases[i].want, said);
	}
}

static void
test_what_a_file_may_say(void **state)
{
	static const struct {
		const char *text, *functions;
		unsigned int partitions, loss;
		uint32_t zone, mtu;
	} cases[] = {
		{ FIREWALL, "firewall" },
		{ HEAD("[firewall]"), "firewall" },
		{ FIREWALL_NAT, "firewall, nat", .partitions = 1 },
		{ FIREWALL_NAT "partitions: 1", "firewall, nat", .partitions = 1 },
		{ FIREWALL "partitions: 4", "firewall", .partitions = 4 },
		{ FIREWALL_IPS "tables: {connection: {limit: 5}, firewall.inspection: "
		  "{limit: 1}, ips.inspection: {limit: 2}}", "firewall, ips",
		  .partitions = 1 },
		{ FIREWALL_IPS "on_store_loss: established\nstore_grace: 2m",
		  "firewall, ips", .partitions = 1, .loss = PIPE_LOSS_ESTABLISHED },
		{ IPS "on_store_loss: pass", "ips", .loss = PIPE_LOSS_PASS },
		{ SIDES("af_packet:a", "af_packet:ab"), "firewall" },
		{ SIDES("\"pcap:a,\"", "\"pcap:a,b\""), "firewall" },
		{ FIREWALL "zone: vlan", "firewall", .zone = PIPE_ZONE_VLAN },
		{ FIREWALL "zone: 65535", "firewall", .zone = 65535 },
		{ FIREWALL "mtu: {outside: 1280}", "firewall", .mtu = 1280 },
	};
	char said[1024], functions[64];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct settings *s = load(cases[i].text, said, sizeof(said));

		if (s == NULL)
			fail_msg("%s: %s", cases[i].text, said);
		chain_names(&s->chain, functions, sizeof(functions));
		assert_string_equal(functions, cases[i].functions);
		assert_int_equal(s->partitions, cases[i].partitions);
		assert_int_equal(s->on_store_loss, cases[i].loss);
		assert_int_equal(s->zone, cases[i].zone);
		assert_int_equal(s->mtu[NF_OUTSIDE], cases[i].mtu);
		settings_free(s);
	}
}

/* Rules that nobody reads look as if they were in force. */
static void
test_a_section_of_no_function_is_warned_of(void **state)
{
	char said[1024];
	struct settings *s = load(NAT "firewall: {rules: []}", said, sizeof(said));

	(void)state;
	assert_non_null(s);
	assert_non_null(strstr(said, "line 5: 'firewall' is not read"));
	settings_free(s);
	s = load(FIREWALL_NAT "firewall: {rules: []}", said, sizeof(said));
	assert_non_null(s);
	assert_string_equal(said, "");
	settings_free(s);
}

static void
test_tables_of_a_chain_have_the_names_of_their_owners(void **state)
{
	struct pipe_table wanted[STORE_MAX_TABLES];
	struct store_table table[STORE_MAX_TABLES];
	char said[1024];
	struct settings *s = load(FIREWALL_IPS "tables: {firewall.inspection: {limit: 1}, "
				  "ips.inspection: {limit: 2}, connection: {limit: 3}}",
				  said, sizeof(said));
	unsigned int n, n_found = 0;

	(void)state;
	assert_non_null(s);
	settings_tables(s, wanted);
	n = pipe_tables(&s->chain, wanted, table);
	for (unsigned int i = 0; i < n; i++) {
		uint64_t want = strcmp(table[i].name, "firewall.inspection") == 0   ? 1
				: strcmp(table[i].name, "ips.inspection") == 0	    ? 2
				: strcmp(table[i].name, "firewall.connection") == 0 ? 3
										    : 0;

		if (want == 0)
			continue;
		assert_int_equal(table[i].limit, want);
		n_found++;
	}
	assert_int_equal(n_found, 3);
	settings_free(s);
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
	const struct nf *nf;
	struct chain chain;
	unsigned int n;

	(void)state;
	assert_non_null(s);
	settings_tables(s, wanted);
	n = pipe_tables(&s->chain, wanted, table);
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
	nf = nf_find("nat");
	chain_make(&chain, &nf, 1);
	n = pipe_tables(&chain, none, table);
	assert_true(n >= 3);
	for (unsigned int i = 0; i < n; i++)
		if (strcmp(table[i].name, "nat.forward") == 0)
			assert_true(table[i].leased);
}

/* What a function's table does when it is full, unless the file says so. */
static void
test_a_full_table_is_as_its_function_has_it(void **state)
{
	static const struct {
		const char *text;
		bool evict;
		uint64_t limit;
	} cases[] = {
		{ FIREWALL, true, 1 << 18 },
		{ FIREWALL "tables: {datagram: {limit: 5}}", true, 5 },
		{ FIREWALL "tables: {datagram: {full: evict}}", true, 1 << 18 },
		{ FIREWALL "tables: {datagram: {full: refuse}}", false, 1 << 18 },
	};
	struct pipe_table wanted[STORE_MAX_TABLES];
	struct store_table table[STORE_MAX_TABLES];
	char said[1024];

	(void)state;
	for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
		struct settings *s = load(cases[k].text, said, sizeof(said));
		unsigned int n;

		assert_non_null(s);
		settings_tables(s, wanted);
		n = pipe_tables(&s->chain, wanted, table);
		for (unsigned int i = 0; i < n; i++) {
			bool datagram = strcmp(table[i].name, "fragments.datagram") == 0;

			assert_int_equal(table[i].evict, datagram && cases[k].evict);
			if (datagram)
				assert_int_equal(table[i].limit, cases[k].limit);
		}
		settings_free(s);
	}
}

/* Can write 2 and 3, and its own. */
static unsigned int
downgrade(uint8_t to, const void *value, unsigned int value_bytes, void *old)
{
	(void)value, (void)old;
	return to == 2 ? 40 : to == 3 ? value_bytes : 0;
}

static void
test_older_formats_are_those_that_a_table_writes(void **state)
{
	static const struct pipe_table none[STORE_MAX_TABLES];
	struct nf_table *table[STORE_MAX_TABLES];
	uint8_t format[STORE_MAX_TABLES];
	struct store_table declared[STORE_MAX_TABLES];
	const struct nf *nf = nf_find("ips");
	char said[1024], text[256];
	struct chain chain;

	(void)state;
	chain_make(&chain, &nf, 1);
	assert_int_equal(nf_tables(nf, table, STORE_MAX_TABLES), 1);
	table[0]->format = 5;
	table[0]->downgrade = downgrade;
	for (unsigned int i = 0; i <= 6; i++) {
		bool writes = i == 2 || i == 3 || i == 5;
		struct settings *s;

		snprintf(text, sizeof(text),
			 IPS "tables: {inspection: {format: %u}}", i);
		s = load(i > 0 ? text : IPS, said, sizeof(said));
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
	assert_true(pipe_tables(&chain, none, declared) >= 1);
	assert_int_equal(declared[0].value_max, 40);
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
		{ IPS "tables: {inspection: {format: 1}}", IPS, "" },
		{ IPS, IPS "tables: {inspection: {format: 1}}", "" },
		{ FIREWALL "tables: {datagram: {full: evict}}", FIREWALL, "" },
		{ FIREWALL "tables: {datagram: {full: refuse}}", FIREWALL, "tables" },
		{ IPS "tables: {inspection: {full: evict}}",
		  IPS "tables: {inspection: {format: 1}}", "tables" },
		{ FIREWALL "partitions: 2\npipes: {max: 2}",
		  FIREWALL "pipes: {min: 2}\npace: original\nhugepages: off",
		  "partitions, pipes.min, pace, hugepages" },
		{ IPS, IPS "on_store_loss: pass", "on_store_loss" },
		{ FIREWALL "zone: 1\nrefusals: 5\nstore_grace: 5",
		  FIREWALL "zone: vlan\nmtu: {inside: 1400}",
		  "store_grace, zone, refusals, mtu.inside" },
		{ NAT, FIREWALL, "function" },
		{ NAT, FIREWALL_NAT, "function, partitions" },
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
		cmocka_unit_test(test_what_a_file_may_say),
		cmocka_unit_test(test_a_section_of_no_function_is_warned_of),
		cmocka_unit_test(test_tables_of_a_chain_have_the_names_of_their_owners),
		cmocka_unit_test(test_tables_are_as_the_file_has_them),
		cmocka_unit_test(test_a_full_table_is_as_its_function_has_it),
		cmocka_unit_test(test_older_formats_are_those_that_a_table_writes),
		cmocka_unit_test(test_a_reload_names_what_it_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
