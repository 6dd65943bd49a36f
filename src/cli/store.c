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

/* Partitions are numbered from 0 without a gap: the first that is not there ends them. */
int
cli_open(struct cli_store *s, const char *where)
{
	static const char *const look[] = { "SNF.TABLES", NULL };
	struct console_cursor answer;
	int err;

	*s = (struct cli_store){ 0 };
	err = find_url(s, where);
	while (err == 0 && s->n_partitions < CLI_MAX_PARTITIONS) {
		err = console_open(s->url, s->n_partitions,
				   &s->partition[s->n_partitions], s->why,
				   sizeof(s->why));
		if (err != 0)
			break;
		err = cli_ask(s, s->n_partitions, look, 2, &answer);
		if (err == -EREMOTEIO && strncmp(s->why, "SNFSTALE", 8) == 0) {
			console_close(s->partition[s->n_partitions]);
			s->partition[s->n_partitions] = NULL;
			err = 0;
			break;
		}
		s->n_partitions += err == 0;
	}
	if (err == 0 && s->n_partitions == 0) {
		snprintf(s->why, sizeof(s->why),
			 "there is no store of that name: no instance has used it yet");
		err = -ENOENT;
	}
	if (err != 0)
		cli_close(s);
	return err;
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
	if (!console_next(&c, &list) || list.type != '*' || list.number > CLI_MAX_TABLES)
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
