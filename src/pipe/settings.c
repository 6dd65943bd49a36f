/*
 * settings.c - an instance's configuration file: the schema and what no schema can say.
 */
#include "pipe/instance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "pipe/mtu.h"
#include "nf_list.h"

static const char *const huge_words[] = { "auto", "required", "off", NULL };
static const char *const pace_words[] = { "full", "original", NULL };
static const char *const commit_words[] = { "auto", "0", "1", "2", NULL };
static const char *const loss_words[] = {
	[PIPE_LOSS_DROP] = "drop", [PIPE_LOSS_ESTABLISHED] = "established",
	[PIPE_LOSS_PASS] = "pass", NULL,
};
static const char *const full_words[] = { "refuse", "evict", NULL };
static const char *const log_words[] = { "error", "warning", "info", "debug", NULL };

static const struct config_field port_fields[] = {
	{ "inside", CONFIG_STRING, offsetof(struct settings, port[NF_INSIDE]),
	  .required = true, .help = "a port, such as af_packet:eth0" },
	{ "outside", CONFIG_STRING, offsetof(struct settings, port[NF_OUTSIDE]),
	  .required = true, .help = "a port, such as af_packet:eth1" },
	{ 0 },
};

static const struct config_field mtu_fields[] = {
	{ "inside", CONFIG_UINT, offsetof(struct settings, mtu[NF_INSIDE]),
	  .min = MTU_MIN, .max = UINT16_MAX, .help = "bytes of IP" },
	{ "outside", CONFIG_UINT, offsetof(struct settings, mtu[NF_OUTSIDE]),
	  .min = MTU_MIN, .max = UINT16_MAX, .help = "bytes of IP" },
	{ 0 },
};

static const struct config_field pipe_fields[] = {
	{ "min", CONFIG_UINT, offsetof(struct settings, pipes_min), .min = 1,
	  .max = PORT_MAX_QUEUES, .help = "pipes that are always there" },
	{ "max", CONFIG_UINT, offsetof(struct settings, pipes_max), .min = 1,
	  .max = PORT_MAX_QUEUES, .help = "pipes at the most" },
	{ 0 },
};

static const struct config_field table_fields[] = {
	{ "limit", CONFIG_UINT, offsetof(struct table_settings, limit), .min = 1,
	  .max = 1ULL << 32, .help = "records at the most" },
	{ "full", CONFIG_ENUM, offsetof(struct table_settings, full), .words = full_words,
	  .help = "what happens at the limit" },
	{ "commit", CONFIG_ENUM, offsetof(struct table_settings, commit),
	  .words = commit_words, .help = "replicas that have to have a write" },
	{ "format", CONFIG_UINT, offsetof(struct table_settings, format), .min = 1,
	  .max = UINT8_MAX, .help = "of what is written, as for older instances" },
	{ 0 },
};

static int
parse_zone(const char *text, void *out)
{
	uint32_t *zone = out;
	unsigned long number;
	char *end;

	if (strcmp(text, "vlan") == 0) {
		*zone = PIPE_ZONE_VLAN;
		return 0;
	}
	if (text[0] < '0' || text[0] > '9')
		return -1;
	number = strtoul(text, &end, 10);
	if (*end != '\0' || number > UINT16_MAX)
		return -1;
	*zone = (uint32_t)number;
	return 0;
}

static const struct config_field fields[] = {
	{ "function", CONFIG_LIST, offsetof(struct settings, functions), .required = true,
	  .min = 1, .max = NF_MAX_STAGES, .item_bytes = sizeof(char *),
	  .help = "the function to run, or several: [firewall, nat]" },
	{ "store", CONFIG_STRING, offsetof(struct settings, store), .required = true,
	  .help = "embedded:, valkey://HOST:PORT, valkeys://HOST:PORT (TLS), "
		  "valkey+unix:///PATH, valkey+sentinel://HOST,HOST/SERVICE or "
		  "valkey+cluster://HOST,HOST" },
	{ "store_timeout", CONFIG_DURATION, offsetof(struct settings, store_timeout_ms),
	  .min = 10, .max = 60 * 1000, .help = "how long packets wait for the store" },
	{ "partitions", CONFIG_UINT, offsetof(struct settings, partitions), .min = 1,
	  .max = STORE_MAX_PARTITIONS, .help = "into how many parts the store is cut" },
	{ "commit", CONFIG_ENUM, offsetof(struct settings, commit), .words = commit_words,
	  .help = "replicas that have to have a write before its packet leaves" },
	{ "on_store_loss", CONFIG_ENUM, offsetof(struct settings, on_store_loss),
	  .words = loss_words, .help = "what becomes of packets meanwhile" },
	{ "store_grace", CONFIG_DURATION, offsetof(struct settings, store_grace_ms),
	  .min = 1, .max = 24 * 3600 * 1000,
	  .help = "how long those of established connections pass" },
	{ "zone", CONFIG_SCALAR, offsetof(struct settings, zone), .parse = parse_zone,
	  .help = "0 to 65535, or vlan: connections of different zones do not mix" },
	{ "refusals", CONFIG_UINT, offsetof(struct settings, refusals), .max = 1000000,
	  .help = "RSTs and ICMP errors that a pipe sends in a second" },
	{ "mtu", CONFIG_MAP, 0, .fields = mtu_fields, .help = "inside and outside" },
	{ "ports", CONFIG_MAP, 0, .required = true, .fields = port_fields,
	  .help = "inside and outside" },
	{ "pipes", CONFIG_MAP, 0, .fields = pipe_fields, .help = "min and max" },
	{ "pace", CONFIG_ENUM, offsetof(struct settings, pace), .words = pace_words,
	  .help = "how fast captures are read" },
	{ "hugepages", CONFIG_ENUM, offsetof(struct settings, hugepages),
	  .words = huge_words, .help = "whether packets live in huge pages" },
	{ "memory", CONFIG_UINT, offsetof(struct settings, memory_mb), .min = 64,
	  .max = 1 << 20, .help = "MiB for packets" },
	{ "alerts", CONFIG_STRING, offsetof(struct settings, alerts),
	  .help = "a file for alerts, as JSON lines" },
	{ "events", CONFIG_STRING, offsetof(struct settings, events),
	  .help = "a file for what functions report, as JSON lines" },
	{ "log", CONFIG_ENUM, offsetof(struct settings, log_level), .words = log_words,
	  .help = "the least level that is written" },
	/* Read when it is known which functions run. */
	{ "tables", CONFIG_MAP, 0, .help = "limit, full, commit and format by table" },
#define X(function) { #function, CONFIG_MAP, 0, .help = "options of " #function },
	NF_LIST(X)
	X(fragments)
#undef X
	{ 0 },
};

/* --- functions ----------------------------------------------------------------- */

/* The names of the file make the chain. */
static int
make_chain(struct settings *s)
{
	const struct nf *nf[NF_MAX_STAGES];
	char **name = s->functions.items;

	for (unsigned int i = 0; i < s->functions.n; i++) {
		nf[i] = nf_find(name[i]);
		if (nf[i] == NULL) {
			config_error(&name[i], "no function '%s', want one of: %s",
				     name[i], nf_names());
			return -EINVAL;
		}
		for (unsigned int k = 0; k < i; k++) {
			if (nf[k] != nf[i])
				continue;
			config_error(&name[i],
				     "function '%s' stands there twice, want each once",
				     name[i]);
			return -EINVAL;
		}
	}
	chain_make(&s->chain, nf, s->functions.n);
	return 0;
}

/* Whether these functions may be a chain. */
static int
check_chain(const struct settings *s)
{
	struct nf_table *table[STORE_MAX_TABLES + 1];
	char **name = s->functions.items;
	unsigned int n = 0;

	for (unsigned int i = 0; i < s->chain.n_all; i++) {
		const struct nf *nf = s->chain.stage[i].nf;

		n += nf_tables(nf, table, STORE_MAX_TABLES + 1);
		if (i == s->chain.n || !nf->alone || s->chain.n == 1)
			continue;
		config_error(&name[i],
			     "function '%s' has to be alone: the packets that it holds "
			     "back would not go through the others", nf->name);
		return -EINVAL;
	}
	if (n <= STORE_MAX_TABLES)
		return 0;
	config_error(&name[0], "these functions have %u tables, want at most %d: leave one "
		     "out", n, STORE_MAX_TABLES);
	return -EINVAL;
}

/* What all functions write for a packet is one group, and that lies in one partition;
 * those of one function see to it, those of several cannot. */
static int
check_partitions(struct settings *s)
{
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = 0;

	for (unsigned int i = 0; i < s->chain.n; i++)
		n += nf_tables(s->chain.stage[i].nf, table, STORE_MAX_TABLES) > 0;
	if (n < 2)
		return 0;
	if (s->partitions > 1) {
		config_error(&s->partitions,
			     "partitions is %u, but several functions that keep state "
			     "need it in one, want 1", (unsigned int)s->partitions);
		return -EINVAL;
	}
	s->partitions = 1;
	return 0;
}

static int
check_loss(const struct settings *s)
{
	for (unsigned int i = 0; i < s->chain.n; i++) {
		const struct nf *nf = s->chain.stage[i].nf;

		if (s->on_store_loss == PIPE_LOSS_DROP || nf->may_pass_unseen)
			continue;
		config_error(&s->on_store_loss,
			     "on_store_loss is '%s', but %s cannot do without its state, "
			     "want 'drop'", loss_words[s->on_store_loss], nf->name);
		return -EINVAL;
	}
	return 0;
}

/* What one function emits does not go through the others. */
static int
check_emitter(const struct settings *s, unsigned int i)
{
	const struct nf *nf = s->chain.stage[i].nf;
	const void *option = nf->emits_by != NULL ? nf->emits_by(s->options[i]) : NULL;

	for (unsigned int k = 0; option != NULL && k < s->chain.n; k++) {
		const struct nf *other = s->chain.stage[k].nf;

		if (k == i || other->keeps_flow)
			continue;
		config_error(option, "not in a chain with '%s', which would not see the "
			     "packets that this has '%s' send, want it off",
			     other->name, nf->name);
		return -EINVAL;
	}
	return 0;
}

static int
load_stage(struct settings *s, unsigned int i)
{
	struct stage *stage = &s->chain.stage[i];
	const struct nf *nf = stage->nf;
	void *state = NULL;
	int err = 0;

	s->options[i] = calloc(1, nf->options_bytes + 1);
	if (s->options[i] == NULL)
		return -ENOMEM;
	if (nf->options != NULL)
		err = config_section(s->config, nf->name, nf->options, s->options[i]);
	if (err == 0)
		err = check_emitter(s, i);
	if (err != 0)
		return err;
	if (nf->init == NULL) {
		stage->nf_static = s->options[i];
		return 0;
	}
	err = nf->init(s->options[i], &state);
	if (err == 0)
		stage->nf_static = state;
	return err;
}

/* Their own sections, and what they make of them. */
static int
load_functions(struct settings *s)
{
	int first = 0;

	for (unsigned int i = 0; i < s->chain.n_all; i++) {
		int err = load_stage(s, i);

		if (first == 0)
			first = err;
	}
	return first;
}

static void
free_functions(struct settings *s)
{
	for (unsigned int i = 0; i < s->chain.n_all; i++) {
		struct stage *stage = &s->chain.stage[i];

		if (stage->nf_static != NULL && stage->nf->init != NULL &&
		    stage->nf->fini != NULL)
			stage->nf->fini((void *)stage->nf_static);
		free(s->options[i]);
	}
}

bool
settings_same_functions(const struct settings *a, const struct settings *b)
{
	if (a->chain.n != b->chain.n)
		return false;
	for (unsigned int i = 0; i < a->chain.n; i++)
		if (a->chain.stage[i].nf != b->chain.stage[i].nf)
			return false;
	return true;
}

/* --- the rest ------------------------------------------------------------------ */

/* What has the same packets on both sides would send each of them round for ever. */
static int
check_sides(const struct settings *s)
{
	const char *inside = s->port[NF_INSIDE], *outside = s->port[NF_OUTSIDE];
	size_t n = strcspn(outside, ",");

	if (strncmp(inside, "gen", 3) == 0 || strncmp(inside, "pcap:", 5) == 0 ||
	    strcspn(inside, ",") != n || strncmp(inside, outside, n) != 0)
		return 0;
	config_error(&s->port[NF_OUTSIDE],
		     "ports.outside: \"%.*s\" is the inside as well, want another",
		     (int)n, outside);
	return -EINVAL;
}

/* Somebody may take the rules of a section for rules that are in force. */
static void
warn_unread(const struct settings *s)
{
	static const char *const names[] = {
#define X(function) #function,
		NF_LIST(X)
#undef X
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		unsigned int line = config_line(s->config, names[i]);
		bool runs = false;

		for (unsigned int k = 0; k < s->chain.n; k++)
			runs |= strcmp(s->chain.stage[k].nf->name, names[i]) == 0;
		if (line != 0 && !runs)
			log_warning("snf", "line %u: '%s' is not read, for it is not among "
				    "the functions that run", line, names[i]);
	}
}

/* The parts that refer to other parts of the program. */
static int
check(struct settings *s)
{
	char why[256];
	int err = make_chain(s);

	if (err == 0)
		err = check_chain(s);
	if (err == 0 && check_partitions(s) != 0)
		err = -EINVAL;
	if (err == 0 && check_loss(s) != 0)
		err = -EINVAL;
	if (!store_url_ok(s->store, why, sizeof(why))) {
		config_error(&s->store, "%s", why);
		err = -EINVAL;
	}
	for (unsigned int side = 0; side < 2; side++) {
		if (!port_spec_ok(s->port[side], why, sizeof(why))) {
			config_error(&s->port[side], "ports.%s: %s",
				     side == NF_INSIDE ? "inside" : "outside", why);
			err = -EINVAL;
		}
	}
	if (err == 0)
		err = check_sides(s);
	if (s->pipes_max == 0)
		s->pipes_max = s->pipes_min;
	if (s->pipes_max < s->pipes_min) {
		config_error(&s->pipes_max,
			     "pipes.max is %u, want at least pipes.min, %u",
			     (unsigned int)s->pipes_max, (unsigned int)s->pipes_min);
		err = -EINVAL;
	}
	return err;
}

/* --- tables -------------------------------------------------------------------- */

static int
check_full(const struct table_settings *s, const char *name, const struct nf_table *t)
{
	if (s->full == 0 || t->expired == NULL)
		return 0;
	config_error(&s->full,
		     "tables.%s.full is 'evict', but what expires there has to be "
		     "settled, want 'refuse'",
		     name);
	return -EINVAL;
}

static bool
writes(const struct nf_table *t, uint64_t format)
{
	return nf_table_bytes(t, (uint8_t)format, t->value_max) > 0;
}

static int
check_format(const struct table_settings *s, const char *name, const struct nf_table *t)
{
	char known[128] = "";
	size_t n = 0;

	if (s->format == 0 || writes(t, s->format))
		return 0;
	for (unsigned int i = 1; i < t->format && n < sizeof(known); i++)
		if (writes(t, i))
			n += (size_t)snprintf(known + n, sizeof(known) - n, "%u, ", i);
	config_error(&s->format,
		     "tables.%s.format is %u, want one that this release writes: %s%u",
		     name, (unsigned int)s->format, known, t->format);
	return -EINVAL;
}

/* What a table is called in the file: by its name, unless another function has one of
 * that name, too. */
static int
name_table(struct settings *s, struct nf_table *const *table, const uint8_t *stage,
	   unsigned int n, unsigned int i)
{
	const char *name = table[i]->name;
	bool shared = false;
	int bytes;

	for (unsigned int k = 0; k < n; k++)
		shared |= k != i && strcmp(table[k]->name, name) == 0;
	bytes = snprintf(s->table_name[i], sizeof(s->table_name[i]), "%s%s%s",
			 shared ? s->chain.stage[stage[i]].nf->name : "",
			 shared ? "." : "", name);
	return bytes < (int)sizeof(s->table_name[i]) ? 0 : -EINVAL;
}

/* The section "tables", whose keys are those of the functions. */
static int
load_tables(struct settings *s)
{
	struct config_field field[STORE_MAX_TABLES + 1] = { 0 };
	struct nf_table *table[STORE_MAX_TABLES];
	uint8_t stage[STORE_MAX_TABLES];
	unsigned int n = chain_tables(&s->chain, table, stage);
	int err = 0;

	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++)
		s->table[i].commit = -1;
	for (unsigned int i = 0; i < n; i++) {
		s->table[i].full = table[i]->evict;
		if (name_table(s, table, stage, n, i) != 0)
			return -EINVAL;
		field[i] = (struct config_field){
			.key = s->table_name[i], .kind = CONFIG_MAP,
			.offset = i * sizeof(s->table[0]), .fields = table_fields,
			.help = "limit, full, commit and format",
		};
	}
	err = config_section(s->config, "tables", field, s->table);
	if (err != 0)
		return err;
	for (unsigned int i = 0; i < n; i++) {
		if (check_full(&s->table[i], s->table_name[i], table[i]) != 0)
			err = -EINVAL;
		if (check_format(&s->table[i], s->table_name[i], table[i]) != 0)
			err = -EINVAL;
	}
	return err;
}

static uint8_t
replicas(int word)
{
	return word == 0 ? STORE_COMMIT_AUTO : (uint8_t)(word - 1);
}

void
settings_tables(const struct settings *s, struct pipe_table *wanted)
{
	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++) {
		const struct table_settings *t = &s->table[i];

		wanted[i].limit = t->limit;
		wanted[i].evict = t->full == 1;
		wanted[i].commit = replicas(t->commit >= 0 ? t->commit : s->commit);
	}
}

void
settings_formats(const struct settings *s, uint8_t format[STORE_MAX_TABLES])
{
	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++)
		format[i] = (uint8_t)s->table[i].format;
}

int
settings_load(const char *path, struct settings **out)
{
	struct settings *s = calloc(1, sizeof(*s));
	int err;

	if (s == NULL)
		return -ENOMEM;
	s->store_timeout_ms = 1000;
	s->store_grace_ms = 60 * 1000;
	s->refusals = 1000;
	s->pipes_min = 1;
	s->log_level = LOG_INFO;
	err = config_load(path, fields, s, &s->config);
	if (err == 0)
		err = check(s);
	if (err == 0)
		err = load_tables(s);
	if (err == 0)
		err = load_functions(s);
	if (err != 0) {
		settings_free(s);
		return err;
	}
	warn_unread(s);
	*out = s;
	return 0;
}

static bool
same_text(const char *a, const char *b)
{
	return (a == NULL && b == NULL) || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* But for the formats.  Tables of other functions may do otherwise when they are full. */
static bool
same_tables(const struct settings *a, const struct settings *b)
{
	bool comparable = settings_same_functions(a, b);

	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++) {
		const struct table_settings *x = &a->table[i], *y = &b->table[i];

		if (x->limit != y->limit || x->commit != y->commit ||
		    (comparable && x->full != y->full))
			return false;
	}
	return true;
}

void
settings_ignored(const struct settings *old, const struct settings *new, char *text,
		 size_t bytes)
{
	const struct {
		const char *key;
		bool same;
	} keys[] = {
		{ "function", settings_same_functions(old, new) },
		{ "store", same_text(old->store, new->store) },
		{ "store_timeout", old->store_timeout_ms == new->store_timeout_ms },
		{ "partitions", old->partitions == new->partitions },
		{ "commit", old->commit == new->commit },
		{ "tables", same_tables(old, new) },
		{ "on_store_loss", old->on_store_loss == new->on_store_loss },
		{ "store_grace", old->store_grace_ms == new->store_grace_ms },
		{ "zone", old->zone == new->zone },
		{ "refusals", old->refusals == new->refusals },
		{ "mtu.inside", old->mtu[NF_INSIDE] == new->mtu[NF_INSIDE] },
		{ "mtu.outside", old->mtu[NF_OUTSIDE] == new->mtu[NF_OUTSIDE] },
		{ "ports.inside", same_text(old->port[0], new->port[0]) },
		{ "ports.outside", same_text(old->port[1], new->port[1]) },
		{ "pipes.min", old->pipes_min == new->pipes_min },
		{ "pipes.max", old->pipes_max == new->pipes_max },
		{ "pace", old->pace == new->pace },
		{ "hugepages", old->hugepages == new->hugepages },
		{ "memory", old->memory_mb == new->memory_mb },
		{ "alerts", same_text(old->alerts, new->alerts) },
		{ "events", same_text(old->events, new->events) },
		{ "log", old->log_level == new->log_level },
	};
	size_t n = 0;

	text[0] = '\0';
	for (unsigned int i = 0; i < sizeof(keys) / sizeof(keys[0]) && n < bytes; i++)
		if (!keys[i].same)
			n += (size_t)snprintf(text + n, bytes - n, "%s%s",
					      n > 0 ? ", " : "", keys[i].key);
}

void
settings_free(struct settings *s)
{
	if (s == NULL)
		return;
	free_functions(s);
	config_free(s->config);
	free(s);
}
