/*
 * show.c - `snf show store`: servers and tables, their size and their load.
 *
 * Everything is asked twice, a second apart: rates are the difference.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/store.h"
#include "pipe/instance.h"

enum {
	SHOW_INTERVAL_MS = 1000,
	SHOW_FIELD = 48,			/* Bytes of a field's text. */
};

/* What is shown of a server, from its INFO. */
#define SERVER_FIELDS(X)                                                                 \
	X(run_id) X(role) X(connected_slaves) X(used_memory) X(maxmemory)                \
	X(snf_partitions) X(snf_records) X(snf_memory_bytes) X(snf_clients)              \
	X(snf_frames) X(snf_conflicts) X(snf_refused) X(snf_full) X(snf_expired)         \
	X(snf_frame_usec_p50) X(snf_frame_usec_p99) X(snf_frame_usec_p999)

struct server {
	char name[288];
#define X(field) char field[SHOW_FIELD];
	SERVER_FIELDS(X)
#undef X
};

struct sample {
	unsigned int n_servers, n_tables;
	struct server server[CLI_MAX_PARTITIONS];
	struct cli_table table[CLI_MAX_TABLES];	/* Of all partitions together. */
};

/* The text behind "name:" in an INFO. */
static void
info_field(const char *info, const char *name, char to[SHOW_FIELD])
{
	size_t n = strlen(name);
	const char *at = info;

	strcpy(to, "0");
	while ((at = strstr(at, name)) != NULL) {
		if ((at == info || at[-1] == '\n') && at[n] == ':') {
			snprintf(to, SHOW_FIELD, "%.*s", (int)strcspn(at + n + 1, "\r\n"),
				 at + n + 1);
			return;
		}
		at += n;
	}
}

/* Sections one by one: several in one question came with Redis 7.0, not with all. */
static int
server_fill(struct cli_store *s, unsigned int partition, struct server *to)
{
	static const char *const sections[] = { "server", "replication", "memory", "snf" };
	char *info = calloc(1, 1), *more;
	int err = 0;

	for (unsigned int i = 0; i < 4 && err == 0; i++) {
		const char *const look[] = { "INFO", sections[i] };
		struct console_cursor c;
		struct console_part text;

		err = cli_ask(s, partition, look, 2, &c);
		if (err != 0)
			break;
		if (!console_next(&c, &text) || text.type != '$' ||
		    asprintf(&more, "%s\n%.*s", info, (int)text.text_bytes,
			     text.text) < 0) {
			err = -EPROTO;
			break;
		}
		free(info);
		info = more;
	}
	snprintf(to->name, sizeof(to->name), "%s", console_server(s->partition[partition]));
	if (err == 0) {
#define X(field) info_field(info, #field, to->field);
		SERVER_FIELDS(X)
#undef X
	}
	free(info);
	return err;
}

static void
tables_sum(struct sample *to, const struct cli_table *t)
{
	unsigned int i = 0;

	while (i < to->n_tables && strcmp(to->table[i].name, t->name) != 0)
		i++;
	if (i == CLI_MAX_TABLES)
		return;
	if (i == to->n_tables) {
		to->table[to->n_tables++] = *t;
		return;
	}

	struct cli_table *sum = &to->table[i];

	sum->limit += t->limit;
	sum->records += t->records;
	sum->due += t->due;
	sum->reads += t->reads;
	sum->hits += t->hits;
	sum->writes += t->writes;
	sum->expired += t->expired;
	sum->leased += t->leased;
	sum->settled += t->settled;
	sum->evicted += t->evicted;
	sum->full += t->full;
}

static int
sample_take(struct cli_store *s, struct sample *to)
{
	memset(to, 0, sizeof(*to));
	for (unsigned int i = 0; i < s->n_partitions; i++) {
		struct cli_table tables[CLI_MAX_TABLES];
		struct server *server = &to->server[to->n_servers];
		unsigned int n, k = 0;
		int err;

		if (s->partition[i] == NULL)
			continue;
		err = server_fill(s, i, server);
		if (err == 0)
			err = cli_tables(s, i, tables, &n);
		if (err != 0)
			return err;
		/* One server may have several partitions. */
		while (strcmp(to->server[k].run_id, server->run_id) != 0)
			k++;
		to->n_servers += k == to->n_servers;
		for (k = 0; k < n; k++)
			tables_sum(to, &tables[k]);
	}
	return 0;
}

static uint64_t
rate(uint64_t before, uint64_t now)
{
	return now < before ? 0 : (now - before) * 1000 / SHOW_INTERVAL_MS;
}

static uint64_t
text_rate(const char *before, const char *now)
{
	return rate(strtoull(before, NULL, 10), strtoull(now, NULL, 10));
}

static void
print_people(const struct cli_store *s, const struct sample *old, const struct sample *new)
{
	printf("%u partition%s\n\n%-28s %-8s %8s %10s %10s %10s %10s %9s %9s %9s %22s\n",
	       s->n_partitions, s->n_partitions == 1 ? "" : "s", "server", "role",
	       "replicas", "records", "memory", "used", "limit", "frames/s", "conflicts",
	       "refused", "us a frame 50/99/99.9%");
	for (unsigned int i = 0; i < new->n_servers; i++) {
		const struct server *v = &new->server[i];

		printf("%-28s %-8s %8s %10s %10s %10s %10s %9" PRIu64 " %9s %9s %s/%s/%s\n",
		       v->name, strcmp(v->role, "master") == 0 ? "primary" : "replica",
		       v->connected_slaves, v->snf_records, v->snf_memory_bytes,
		       v->used_memory, v->maxmemory,
		       text_rate(old->server[i].snf_frames, v->snf_frames),
		       v->snf_conflicts, v->snf_refused, v->snf_frame_usec_p50,
		       v->snf_frame_usec_p99, v->snf_frame_usec_p999);
	}
	printf("\n%-28s %6s %10s %10s %10s %10s %10s %10s %10s %10s\n", "table", "format",
	       "records", "limit", "reads/s", "hits/s", "writes/s", "expired", "evicted",
	       "full");
	for (unsigned int i = 0; i < new->n_tables; i++) {
		const struct cli_table *t = &new->table[i], *b = &old->table[i];

		printf("%-28s %6" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64
		       " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64
		       " %10" PRIu64 "\n",
		       t->name, t->format, t->records, t->limit, rate(b->reads, t->reads),
		       rate(b->hits, t->hits), rate(b->writes, t->writes),
		       t->expired + t->settled, t->evicted, t->full);
	}
}

static void
print_json(const struct cli_store *s, const struct sample *old, const struct sample *new)
{
	printf("{\"partitions\": %u, \"servers\": [", s->n_partitions);
	for (unsigned int i = 0; i < new->n_servers; i++) {
		const struct server *v = &new->server[i];

		printf("%s{\"server\": \"%s\"", i > 0 ? ", " : "", v->name);
#define X(field) printf(", \"%s\": \"%s\"", #field, v->field);
		SERVER_FIELDS(X)
#undef X
		printf(", \"frames_per_second\": %" PRIu64 "}",
		       text_rate(old->server[i].snf_frames, v->snf_frames));
	}
	printf("], \"tables\": [");
	for (unsigned int i = 0; i < new->n_tables; i++) {
		const struct cli_table *t = &new->table[i], *b = &old->table[i];

		printf("%s{\"name\": \"%s\"", i > 0 ? ", " : "", t->name);
#define X(field) printf(", \"%s\": %" PRIu64, #field, t->field);
		CLI_TABLE_FIELDS(X)
#undef X
		printf(", \"reads_per_second\": %" PRIu64 ", \"writes_per_second\": %" PRIu64
		       "}", rate(b->reads, t->reads), rate(b->writes, t->writes));
	}
	printf("]}\n");
}

int
show_store(int n, char **arguments)
{
	bool json = n == 2 && strcmp(arguments[1], "--json") == 0;
	static const char command[] = "snf show store";
	static struct sample old, new;
	unsigned int n_missing = 0;
	struct cli_store s;
	int err;

	if (n < 1 || n > 2 || (n == 2 && !json))
		return CLI_USAGE;
	err = cli_open(&s, arguments[0]);
	if (err == 0) {
		n_missing = cli_missing(&s, command);
		err = sample_take(&s, &old);
	}
	if (err == 0) {
		poll(NULL, 0, SHOW_INTERVAL_MS);
		err = sample_take(&s, &new);
	}
	if (err != 0)
		cli_failed(&s, command);
	else if (json)
		print_json(&s, &old, &new);
	else
		print_people(&s, &old, &new);
	cli_close(&s);
	return err == 0 && n_missing == 0 ? INSTANCE_OK : INSTANCE_FAILED;
}
