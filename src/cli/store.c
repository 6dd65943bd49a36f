/*
 * store.c - a store as people's commands see it: all of its partitions at once.
 */
#include "cli/store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pipe/instance.h"

/* The URL: given, or from an instance's file. */
static int
find_url(struct cli_store *s, const char *where)
{
	struct settings *settings;
	const char *url = where;
	int err = 0, n;

	if (strstr(where, "://") == NULL) {
		err = settings_load(where, &settings);
		if (err != 0) {
			snprintf(s->why, sizeof(s->why), "%s: see above", where);
			return err;
		}
		url = settings->store;
	}
	n = snprintf(s->url, sizeof(s->url), "%s", url);
	if (url != where)
		settings_free(settings);
	if (strncmp(s->url, "embedded", 8) == 0) {
		snprintf(s->why, sizeof(s->why),
			 "an embedded store lives in its instance: ask that for /snf/stats");
		return -EINVAL;
	}
	return n < (int)sizeof(s->url) ? 0 : -EINVAL;
}

int
cli_ask(struct cli_store *s, unsigned int partition, const char *const *word,
	unsigned int n, struct console_cursor *answer)
{
	struct console *c = s->partition[partition];
	struct console_word words[8];

	for (unsigned int i = 0; i < n; i++)
		words[i] = console_text(word[i] != NULL ? word[i] : console_key(c));
	return console_ask(c, words, n, answer, s->why, sizeof(s->why));
}

/* Whether the partition is there, and then of how many; 0: it does not know, for it has
 * no tables.  0 or a negative errno. */
static int
partition_open(struct cli_store *s, unsigned int partition, unsigned int *n)
{
	struct cli_table tables[CLI_MAX_TABLES];
	unsigned int n_tables;
	int err = console_open(s->url, partition, &s->partition[partition], s->why,
			       sizeof(s->why));

	/* Where others are, nobody can say. */
	if (err != 0)
		return err;
	err = cli_tables(s, partition, tables, &n_tables);
	*n = err == 0 && n_tables > 0 ? (unsigned int)tables[0].partitions : 0;
	return err;
}

/* Whether others may be there, though this one is not: it is lost, or its server is. */
static bool
others_may_be(const struct cli_store *s, unsigned int partition, int err)
{
	if (s->partition[partition] == NULL)
		return false;
	return err == -ETIMEDOUT ||
	       (err == -EREMOTEIO && (strncmp(s->why, "SNFSTALE", 8) == 0 ||
				      strncmp(s->why, "CLUSTERDOWN", 11) == 0));
}

static void
partition_missing(struct cli_store *s, unsigned int partition)
{
	bool lost = strncmp(s->why, "SNFSTALE", 8) == 0;

	snprintf(s->missing[partition], sizeof(s->missing[partition]), "%s",
		 lost ? "its state is lost, or nobody has used it yet" : s->why);
	console_close(s->partition[partition]);
	s->partition[partition] = NULL;
}

/* How many partitions there are, any of them says that is there. */
static int
partitions_open(struct cli_store *s)
{
	unsigned int n_known = 0, n_seen = 0;

	for (unsigned int i = 0; i < (n_known != 0 ? n_known : CLI_MAX_PARTITIONS); i++) {
		unsigned int n = 0;
		int err = partition_open(s, i, &n);

		if (err != 0 && n_known == 0 && !others_may_be(s, i, err))
			return err;
		if (err != 0)
			partition_missing(s, i);
		else
			n_seen = i + 1;
		if (n_known == 0 && n > i && n <= CLI_MAX_PARTITIONS)
			n_known = n;
	}
	s->n_partitions = n_known != 0 ? n_known : n_seen;
	if (n_seen > 0)
		return 0;
	snprintf(s->why, sizeof(s->why),
		 "there is no store of that name: no instance has used it yet");
	return -ENOENT;
}

int
cli_open(struct cli_store *s, const char *where)
{
	int err;

	*s = (struct cli_store){ 0 };
	err = find_url(s, where);
	if (err == 0)
		err = partitions_open(s);
	if (err != 0)
		cli_close(s);
	return err;
}

unsigned int
cli_missing(const struct cli_store *s, const char *command)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < s->n_partitions; i++) {
		if (s->partition[i] != NULL)
			continue;
		fprintf(stderr, "%s: partition %u of %u is missing: %s\n", command, i,
			s->n_partitions, s->missing[i]);
		n++;
	}
	return n;
}

void
cli_failed(const struct cli_store *s, const char *command)
{
	fprintf(stderr, "%s: %s\n", command,
		s->why[0] != 0 ? s->why : "the answer makes no sense");
}

void
cli_close(struct cli_store *s)
{
	for (unsigned int i = 0; i < CLI_MAX_PARTITIONS; i++)
		console_close(s->partition[i]);
	memset(s->partition, 0, sizeof(s->partition));
}

static void
set_field(struct cli_table *t, const struct console_part *name,
	  const struct console_part *value)
{
	size_t n = name->text_bytes;

#define X(field)                                                                         \
	if (n == strlen(#field) && memcmp(name->text, #field, n) == 0)                   \
		t->field = (uint64_t)value->number;
	CLI_TABLE_FIELDS(X)
#undef X
	if (n == 4 && memcmp(name->text, "name", 4) == 0)
		snprintf(t->name, sizeof(t->name), "%.*s", (int)value->text_bytes,
			 value->text);
}

int
cli_tables(struct cli_store *s, unsigned int partition,
	   struct cli_table tables[CLI_MAX_TABLES], unsigned int *n)
{
	static const char *const look[] = { "SNF.TABLES", NULL };
	struct console_cursor c;
	struct console_part list, pairs, name, value;
	int err = cli_ask(s, partition, look, 2, &c);

	if (err != 0)
		return err;
	if (!console_next(&c, &list) || list.type != '*' || list.number < 0 ||
	    list.number > CLI_MAX_TABLES)
		return -EPROTO;
	*n = (unsigned int)list.number;
	for (unsigned int i = 0; i < *n; i++) {
		tables[i] = (struct cli_table){ 0 };
		if (!console_next(&c, &pairs) || pairs.type != '*')
			return -EPROTO;
		for (int64_t k = 0; k + 1 < pairs.number; k += 2) {
			if (!console_next(&c, &name) || !console_next(&c, &value))
				return -EPROTO;
			set_field(&tables[i], &name, &value);
		}
	}
	return 0;
}
