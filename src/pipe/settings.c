/*
 * settings.c - an instance's configuration file: the schema and what no schema can say.
 */
#include "pipe/instance.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "nf_list.h"

static const char *const huge_words[] = { "auto", "required", "off", NULL };
static const char *const pace_words[] = { "full", "original", NULL };
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


static const struct config_field fields[] = {
	{ "function", CONFIG_STRING, offsetof(struct settings, function), .required = true,
	  .help = "the function to run" },
	{ "store", CONFIG_STRING, offsetof(struct settings, store), .required = true,
	  .help = "embedded:, valkey://HOST:PORT or valkey+unix:///PATH" },
	{ "store_timeout", CONFIG_DURATION, offsetof(struct settings, store_timeout_ms),
	  .min = 10, .max = 60 * 1000, .help = "how long packets wait for the store" },
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
		err = load_function(s);
	if (err != 0) {
		settings_free(s);
		return err;
	}
	*out = s;
	return 0;
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
