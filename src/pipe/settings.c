/*
 * settings.c - an instance's configuration file: the schema and what no schema can say.
 */
#include "pipe/instance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "nf_list.h"

static const char *const huge_words[] = { "auto", "required", "off", NULL };
static const char *const pace_words[] = { "full", "original", NULL };
static const char *const commit_words[] = { "auto", "0", "1", "2", NULL };
static const char *const loss_words[] = { "drop", "pass", NULL };
static const char *const full_words[] = { "refuse", "evict", NULL };
static const char *const log_words[] = { "error", "warning", "info", "debug", NULL };

static const struct config_field port_fields[] = {
	{ "inside", CONFIG_STRING, offsetof(struct settings, port[NF_INSIDE]),
	  .required = true, .help = "a port, such as af_packet:eth0" },
	{ "outside", CONFIG_STRING, offsetof(struct settings, port[NF_OUTSIDE]),
	  .required = true, .help = "a port, such as af_packet:eth1" },
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

static const struct config_field fields[] = {
	{ "function", CONFIG_STRING, offsetof(struct settings, function), .required = true,
	  .help = "the function to run" },
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
	{ "log", CONFIG_ENUM, offsetof(struct settings, log_level), .words = log_words,
	  .help = "the least level that is written" },
	/* Read when it is known which function runs. */
	{ "tables", CONFIG_MAP, 0, .help = "limit, full, commit and format by table" },
#define X(function) { #function, CONFIG_MAP, 0, .help = "options of " #function },
	NF_LIST(X)
#undef X
	{ 0 },
};

/* The parts that refer to other parts of the program. */
static int
check(struct settings *s)
{
	char why[256];
	int err = 0;

	s->nf = nf_find(s->function);
	if (s->nf == NULL) {
		config_error(&s->function, "no function '%s', want one of: %s",
			     s->function, nf_names());
		err = -EINVAL;
	}
	if (s->nf != NULL && s->on_store_loss == 1 && !s->nf->may_pass_unseen) {
		config_error(&s->on_store_loss,
			     "on_store_loss is 'pass', but %s cannot do without its "
			     "state, want 'drop'",
			     s->function);
		err = -EINVAL;
	}
	if (!store_url_ok(s->store, why, sizeof(why))) {
		config_error(&s->store, "store: %s", why);
		err = -EINVAL;
	}
	for (unsigned int side = 0; side < 2; side++) {
		if (!port_spec_ok(s->port[side], why, sizeof(why))) {
			config_error(&s->port[side], "ports.%s: %s",
				     side == NF_INSIDE ? "inside" : "outside", why);
			err = -EINVAL;
		}
	}
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

/* The function's own section, and what it makes of it. */
static int
load_function(struct settings *s)
{
	int err;

	s->nf_options = calloc(1, s->nf->options_bytes + 1);
	if (s->nf_options == NULL)
		return -ENOMEM;
	if (s->nf->options != NULL) {
		err = config_section(s->config, s->nf->name, s->nf->options,
				     s->nf_options);
		if (err != 0)
			return err;
	}
	if (s->nf->init != NULL)
		return s->nf->init(s->nf_options, &s->nf_static);
	s->nf_static = s->nf_options;
	return 0;
}

static int
check_full(const struct table_settings *s, const struct nf_table *t)
{
	if (s->full == 0 || t->expired == NULL)
		return 0;
	config_error(&s->full,
		     "tables.%s.full is 'evict', but what expires there has to be "
		     "settled, want 'refuse'",
		     t->name);
	return -EINVAL;
}

static bool
writes(const struct nf_table *t, uint64_t format)
{
	return nf_table_bytes(t, (uint8_t)format, t->value_max) > 0;
}

static int
check_format(const struct table_settings *s, const struct nf_table *t)
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
		     t->name, (unsigned int)s->format, known, t->format);
	return -EINVAL;
}

/* The section "tables", whose keys are those of the function. */
static int
load_tables(struct settings *s)
{
	struct config_field field[STORE_MAX_TABLES + 1] = { 0 };
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(s->nf, 0, table, STORE_MAX_TABLES);
	int err;

	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++)
		s->table[i].commit = -1;
	for (unsigned int i = 0; i < n; i++) {
		field[i] = (struct config_field){
			.key = table[i]->name, .kind = CONFIG_MAP,
			.offset = i * sizeof(s->table[0]), .fields = table_fields,
			.help = "limit, full, commit and format",
		};
	}
	err = config_section(s->config, "tables", field, s->table);
	if (err != 0)
		return err;
	for (unsigned int i = 0; i < n; i++) {
		if (check_full(&s->table[i], table[i]) != 0)
			err = -EINVAL;
		if (check_format(&s->table[i], table[i]) != 0)
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
	s->pipes_min = 1;
	s->log_level = LOG_INFO;
	err = config_load(path, fields, s, &s->config);
	if (err == 0)
		err = check(s);
	if (err == 0)
		err = load_tables(s);
	if (err == 0)
		err = load_function(s);
	if (err != 0) {
		settings_free(s);
		return err;
	}
	*out = s;
	return 0;
}

static bool
same_text(const char *a, const char *b)
{
	return (a == NULL && b == NULL) || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* But for the formats. */
static bool
same_tables(const struct settings *a, const struct settings *b)
{
	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++) {
		const struct table_settings *x = &a->table[i], *y = &b->table[i];

		if (x->limit != y->limit || x->full != y->full || x->commit != y->commit)
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
		{ "function", old->nf == new->nf },
		{ "store", same_text(old->store, new->store) },
		{ "store_timeout", old->store_timeout_ms == new->store_timeout_ms },
		{ "partitions", old->partitions == new->partitions },
		{ "commit", old->commit == new->commit },
		{ "tables", same_tables(old, new) },
		{ "on_store_loss", old->on_store_loss == new->on_store_loss },
		{ "ports.inside", same_text(old->port[0], new->port[0]) },
		{ "ports.outside", same_text(old->port[1], new->port[1]) },
		{ "pipes.min", old->pipes_min == new->pipes_min },
		{ "pipes.max", old->pipes_max == new->pipes_max },
		{ "pace", old->pace == new->pace },
		{ "hugepages", old->hugepages == new->hugepages },
		{ "memory", old->memory_mb == new->memory_mb },
		{ "alerts", same_text(old->alerts, new->alerts) },
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
	if (s->nf_static != NULL && s->nf->init != NULL && s->nf->fini != NULL)
		s->nf->fini(s->nf_static);
	free(s->nf_options);
	config_free(s->config);
	free(s);
}
