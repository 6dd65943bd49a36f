/*
 * records.c - `snf show records` and `snf delete records`: the records of a table, by
 * field.
 *
 * The server is asked for a few hundred at a time, which takes it less than a
 * millisecond; packets are served in between.  A record is deleted only if it is still
 * the one that was looked at.  One of a table whose functions want to hear of its end
 * is not deleted here but made to expire at once, so that they do.  What a primary with
 * replicas says is believed when one of them confirms it: it may have been cut off.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/store.h"
#include "nf/fields.h"
#include "nf/fragments.h"
#include "pipe/instance.h"
#include "store/core.h"

enum {
	RECORDS_SCAN = 256,			/* In one answer. */
	RECORDS_IDLE_BYTES = 8,			/* Before each. */
	RECORDS_WAIT_MS = 4000,			/* For a replica. */
};

struct query {
	struct cli_store store;
	const struct nf_table *known;		/* NULL: of no function of this program. */
	struct cli_table table;			/* As the partition at hand has it. */
	char **wanted;				/* "field=value" */
	unsigned int n_wanted;
	bool json, deletes;
	uint64_t max;				/* 0: all. */
	uint64_t n_matched, n_deleted, n_changed;
	bool unconfirmed;			/* By a replica, in some partition. */
	uint64_t client, generation, term, next_id;
};

struct found {
	uint32_t idle_ms, left_ms;
	struct frame_lease record;
};

/* The function's own table of that name, "FUNCTION.TABLE". */
static const struct nf_table *
find_known(const char *name)
{
	struct nf_table *tables[STORE_MAX_TABLES];
	const char *dot = strchr(name, '.');
	char function[32];

	if (dot == NULL || (size_t)(dot - name) >= sizeof(function))
		return NULL;
	snprintf(function, sizeof(function), "%.*s", (int)(dot - name), name);

	const struct nf *nf = strcmp(function, nf_fragments.name) == 0
				      ? &nf_fragments
				      : nf_find(function);
	unsigned int n = nf == NULL ? 0 : nf_tables(nf, tables, STORE_MAX_TABLES);

	for (unsigned int i = 0; i < n; i++)
		if (strcmp(tables[i]->name, dot + 1) == 0)
			return tables[i];
	return NULL;
}

static void
print_record(const struct query *q, const struct found *f, const struct field_text *text,
	     unsigned int n)
{
	if (q->json)
		printf("{");
	for (unsigned int i = 0; i < n; i++)
		printf(q->json ? "\"%s\": \"%s\", " : "%s=%s ", text[i].name,
		       text[i].text);
	if (q->json)
		printf("\"format\": %u, \"idle_ms\": %" PRIu32 ", \"left_ms\": %" PRIu32
		       "}\n", f->record.format, f->idle_ms, f->left_ms);
	else if (f->idle_ms == 0)
		printf("for ever\n");
	else
		printf("expires in %" PRIu32 ".%03" PRIu32 " s\n", f->left_ms / 1000,
		       f->left_ms % 1000);
}

static int
take_number(struct console_cursor *c, uint64_t *out)
{
	struct console_part part;

	if (!console_next(c, &part) || part.type != ':')
		return -EPROTO;
	*out = (uint64_t)part.number;
	return 0;
}

/* What frames have to carry: SNF.OPEN with no tables changes nothing. */
static int
open_partition(struct query *q, unsigned int partition)
{
	char protocol[24], n[24];
	const char *const words[] = { "SNF.OPEN", NULL, protocol, n };
	struct console_cursor c;
	struct console_part list;
	int err;

	snprintf(protocol, sizeof(protocol), "%d", FRAME_PROTOCOL);
	snprintf(n, sizeof(n), "%u", q->store.n_partitions);
	err = cli_ask(&q->store, partition, words, 4, &c);
	if (err != 0)
		return err;
	if (!console_next(&c, &list) || list.type != '*' || list.number < 2 ||
	    take_number(&c, &q->generation) != 0 || take_number(&c, &q->term) != 0)
		return -EPROTO;
	return 0;
}

/* The group that ends a record, if it has not changed. */
static void
write_group(const struct query *q, struct frame *f, const struct frame_lease *r)
{
	/* As unique as the random number that it starts from. */
	uint64_t version = q->client + q->next_id;
	uint8_t *group = frame_group(f, version != 0 ? version : 1);

	frame_check(f, FRAME_CHECK, r->table, r->key, r->key_bytes, r->version);
	if (q->table.flags & CORE_LEASED)
		frame_put(f, r->table, r->key, r->key_bytes, r->format, r->value,
			  r->value_bytes, 1, 1);
	else
		frame_delete(f, r->table, r->key, r->key_bytes);
	frame_group_end(group, 2);
}

static int
end_record(struct query *q, unsigned int partition, const struct frame_lease *r)
{
	uint8_t bytes[FRAME_HEAD_BYTES + 64 + 2 * FRAME_MAX_KEY + FRAME_MAX_VALUE];
	struct console *c = q->store.partition[partition];
	struct console_cursor answer;
	struct console_part text;
	struct frame_reply_head head;
	struct frame_cursor reply;
	struct frame_value v;
	struct frame f;
	int err;

	frame_init(&f, bytes, sizeof(bytes));
	write_group(q, &f, r);
	frame_finish(&f, q->generation, q->term, q->client, ++q->next_id);

	const struct console_word words[] = {
		console_text("SNF.FRAME"),
		console_text(console_key(c)),
		{ f.start, (size_t)(f.at - f.start) },
	};

	err = console_ask(c, words, 3, &answer, q->store.why, sizeof(q->store.why));
	if (err != 0)
		return err;
	if (!console_next(&answer, &text) || text.type != '$' ||
	    frame_reply_open(text.text, text.text_bytes, &head, &reply) != 0 ||
	    frame_reply_next(&reply, &v) != 1)
		return -EPROTO;
	q->n_deleted += v.answer == FRAME_APPLIED;
	q->n_changed += v.answer != FRAME_APPLIED;
	return 0;
}

static bool
is_asked_for(const char *name, void *wanted)
{
	size_t n = strlen(name);

	return strncmp(wanted, name, n) == 0 && ((const char *)wanted)[n] == '=';
}

static bool
print_name(const char *name, void *comma)
{
	fprintf(stderr, "%s%s", *(const char **)comma, name);
	*(const char **)comma = ", ";
	return false;
}

/* Whether records may have all the fields that are asked for; a name that none can have
 * would look like an empty table. */
static bool
fields_exist(const struct query *q, const char *command, const char *table)
{
	const char *comma = "";

	for (unsigned int i = 0; q->known != NULL && i < q->n_wanted; i++) {
		char *wanted = q->wanted[i];

		if (fields_each(q->known, is_asked_for, wanted))
			continue;
		fprintf(stderr, "%s: %s has no field '%.*s', want one of: ", command, table,
			(int)strcspn(wanted, "="), wanted);
		fields_each(q->known, print_name, &comma);
		fprintf(stderr, "\n");
		return false;
	}
	return true;
}

static bool
record_wanted(const struct query *q, const struct field_text *text, unsigned int n)
{
	for (unsigned int i = 0; i < q->n_wanted; i++)
		if (!fields_match(text, n, q->wanted[i]))
			return false;
	return true;
}

static int
take_record(struct query *q, unsigned int partition, const uint8_t *bytes, size_t n_bytes)
{
	struct frame_cursor c = { bytes + RECORDS_IDLE_BYTES, bytes + n_bytes };
	struct field_text text[FIELDS_MAX];
	struct found f;
	bool readable;

	if (n_bytes < RECORDS_IDLE_BYTES || frame_lease_next(&c, &f.record) != 1)
		return -EPROTO;
	memcpy(&f.idle_ms, bytes, 4);
	memcpy(&f.left_ms, bytes + 4, 4);
	readable = q->known != NULL && f.record.format == q->known->format;

	unsigned int n = fields_print(q->known, readable, f.record.key,
				      f.record.key_bytes, f.record.value,
				      f.record.value_bytes, text);

	if (!record_wanted(q, text, n) || (q->max != 0 && q->n_matched == q->max))
		return 0;
	q->n_matched++;
	if (!q->deletes) {
		print_record(q, &f, text, n);
		return 0;
	}
	return end_record(q, partition, &f.record);
}

/* Takes the records of an answer apart.  They are copied first: deleting asks more. */
static int
take_answer(struct query *q, unsigned int partition, struct console_cursor c,
	    uint64_t *cursor)
{
	size_t bytes = (size_t)(c.end - c.at);
	uint8_t *copy = malloc(bytes);
	struct console_cursor at = { copy, copy + bytes };
	struct console_part part;
	int err = 0;

	if (copy == NULL)
		return -ENOMEM;
	memcpy(copy, c.at, bytes);
	if (!console_next(&at, &part) || part.type != '*' || take_number(&at, cursor) != 0)
		err = -EPROTO;
	while (err == 0 && console_next(&at, &part))
		err = take_record(q, partition, (const uint8_t *)part.text,
				  part.text_bytes);
	free(copy);
	return err;
}

static void
say_tables(struct query *q, const char *name, const struct cli_table *table,
	   unsigned int n_tables)
{
	char *why = q->store.why;
	size_t room = sizeof(q->store.why);
	size_t n = (size_t)snprintf(why, room, "there is no table %s", name);

	for (unsigned int i = 0; i < n_tables && n < room; i++)
		n += (size_t)snprintf(why + n, room - n, "%s%s",
				      i == 0 ? ", want one of: " : ", ", table[i].name);
	if (n >= room)
		strcpy(why + room - sizeof("..."), "...");
}

static int
scan_partition(struct query *q, unsigned int partition, const char *name)
{
	struct cli_table tables[CLI_MAX_TABLES];
	char table[24], cursor_text[24], count[24];
	const char *const words[] = { "SNF.SCAN", NULL, table, cursor_text, count };
	struct console_cursor answer;
	uint64_t cursor = 0;
	unsigned int n, i = 0;
	int err = cli_tables(&q->store, partition, tables, &n);

	while (err == 0 && i < n && strcmp(tables[i].name, name) != 0)
		i++;
	if (err == 0 && i == n) {
		say_tables(q, name, tables, n);
		err = -ENOENT;
	}
	if (err == 0) {
		q->table = tables[i];
		if (q->deletes)
			err = open_partition(q, partition);
	}
	snprintf(table, sizeof(table), "%" PRIu64, q->table.id);
	snprintf(count, sizeof(count), "%d", RECORDS_SCAN);
	while (err == 0) {
		snprintf(cursor_text, sizeof(cursor_text), "%" PRIu64, cursor);
		err = cli_ask(&q->store, partition, words, 5, &answer);
		if (err == 0)
			err = take_answer(q, partition, answer, &cursor);
		if (cursor == 0 || (q->max != 0 && q->n_matched == q->max))
			break;
	}
	return err;
}

static int
ask_number(struct query *q, unsigned int partition, const char *const *words,
	   uint64_t *out)
{
	struct console_cursor answer;
	int err = cli_ask(&q->store, partition, words, 3, &answer);

	return err == 0 ? take_number(&answer, out) : err;
}

/* Whether a replica, if there is one, has what was deleted.  The marks say that it was
 * one primary all the time, and WAIT is of the connection that the first came over. */
static bool
replica_has(struct query *q, unsigned int partition)
{
	struct console *c = q->store.partition[partition];
	char term[24], timeout[24];
	const char *const mark[] = { "SNF.MARK", NULL, term };
	const char *const wait[] = { "WAIT", "1", timeout };
	uint64_t n_replicas, n_have, still;

	snprintf(term, sizeof(term), "%" PRIu64, q->term);
	snprintf(timeout, sizeof(timeout), "%d", RECORDS_WAIT_MS);
	if (ask_number(q, partition, mark, &n_replicas) != 0)
		return false;
	if (n_replicas == 0)
		return true;

	uint32_t connection = console_connection(c);

	return ask_number(q, partition, wait, &n_have) == 0 && n_have > 0 &&
	       ask_number(q, partition, mark, &still) == 0 &&
	       console_connection(c) == connection;
}

static int
query_partition(struct query *q, const char *command, unsigned int partition,
		const char *name)
{
	uint64_t n_before = q->n_deleted;
	int err = scan_partition(q, partition, name);

	if (q->n_deleted > n_before && !replica_has(q, partition)) {
		fprintf(stderr, "%s: partition %u: %" PRIu64
			" deleted, not confirmed by a replica\n", command, partition,
			q->n_deleted - n_before);
		q->unconfirmed = true;
	}
	return err;
}

/* Sorts options and fields apart.  False: not as the usage says. */
static bool
parse(struct query *q, int n, char **arguments)
{
	q->wanted = arguments;
	for (int i = 0; i < n; i++) {
		char *end;

		if (strcmp(arguments[i], "--json") == 0) {
			q->json = true;
		} else if (strcmp(arguments[i], "--max") == 0 && i + 1 < n) {
			q->max = strtoull(arguments[++i], &end, 10);
			if (*end != 0 || q->max == 0)
				return false;
		} else if (strchr(arguments[i], '=') != NULL) {
			q->wanted[q->n_wanted++] = arguments[i];
		} else {
			return false;
		}
	}
	return true;
}

static int
run(struct query *q, const char *command, const char *where, const char *table)
{
	int err;
	unsigned int n_missing;

	q->known = find_known(table);
	if (!fields_exist(q, command, table))
		return INSTANCE_USAGE;
	if (q->deletes && q->known != NULL && q->known->is_range) {
		fprintf(stderr, "%s: %s says what is given out, and is not deleted: delete "
			"the records of those that have it\n", command, table);
		return INSTANCE_USAGE;
	}
	err = cli_open(&q->store, where);
	n_missing = err == 0 ? cli_missing(&q->store, command) : 0;

	if (n_missing > 0 && q->deletes) {
		snprintf(q->store.why, sizeof(q->store.why), "nothing was deleted");
		err = -ENOENT;
	}
	for (unsigned int i = 0; err == 0 && i < q->store.n_partitions; i++)
		if (q->store.partition[i] != NULL)
			err = query_partition(q, command, i, table);
	if (err != 0)
		cli_failed(&q->store, command);
	cli_close(&q->store);
	return err == 0 && n_missing == 0 && !q->unconfirmed ? INSTANCE_OK
							     : INSTANCE_FAILED;
}

int
show_records(int n, char **arguments)
{
	struct query q = { 0 };

	if (n < 2 || !parse(&q, n - 2, arguments + 2))
		return CLI_USAGE;
	return run(&q, "snf show records", arguments[0], arguments[1]);
}

int
delete_records(int n, char **arguments)
{
	struct query q = { .deletes = true };
	int code;

	/* Without a field all would go: that has to be said. */
	if (n < 3 || !parse(&q, n - 2, arguments + 2) || q.n_wanted == 0 || q.json)
		return CLI_USAGE;
	if (getentropy(&q.client, sizeof(q.client)) != 0)
		return INSTANCE_FAILED;
	code = run(&q, "snf delete records", arguments[0], arguments[1]);
	if (code == INSTANCE_OK || q.unconfirmed)
		printf("%" PRIu64 " deleted, %" PRIu64 " changed meanwhile and left\n",
		       q.n_deleted, q.n_changed);
	return code;
}
