/*
 * show.c - SNF.TABLES and SNF.SCAN: what people look at.  Neither changes anything, a
 * replica answers them too, and neither holds up the frames of others: a scan ends
 * early when it has looked long enough or has much to send, and says where to go on.
 */
#include "module/module.h"

#include <errno.h>
#include <string.h>

enum {
	SCAN_MAX = 1000, /* Records, in one call. */
	SCAN_STEP = 64,  /* Between looks at the clock. */
	SCAN_US = 300,
	SCAN_BYTES = 256 << 10,
	SCAN_RECORD = 8, /* Idle times, before each record. */
};

static struct buffer records; /* Grows to the longest answer and stays. */

static void
reply_number(struct RedisModuleCtx *ctx, const char *name, uint64_t number)
{
	RedisModule_ReplyWithStringBuffer(ctx, name, strlen(name));
	RedisModule_ReplyWithLongLong(ctx, (long long)number);
}

static void
reply_table(struct RedisModuleCtx *ctx, const struct partition *p, unsigned int id,
	    const struct core_table *t)
{
	const struct {
		const char *name;
		uint64_t value;
	} fields[] = {
		{ "id", id },
		{ "format", t->format },
		{ "flags", t->flags },
		{ "limit", t->limit },
		{ "records", t->n_records },
		{ "due", t->n_due },
		{ "reads", t->n_reads },
		{ "hits", t->n_hits },
		{ "writes", t->n_writes },
		{ "expired", t->n_expired },
		{ "leased", t->n_leased },
		{ "settled", t->n_settled },
		{ "evicted", t->n_evicted },
		{ "full", t->n_full },
		{ "key_max", t->key_max },
		{ "value_max", t->value_max },
		{ "partitions", partition_siblings(p) },
	};
	const unsigned int n = sizeof(fields) / sizeof(fields[0]);

	RedisModule_ReplyWithArray(ctx, 2 + 2 * (long)n);
	RedisModule_ReplyWithStringBuffer(ctx, "name", 4);
	RedisModule_ReplyWithStringBuffer(ctx, t->name, strlen(t->name));
	for (unsigned int i = 0; i < n; i++)
		reply_number(ctx, fields[i].name, fields[i].value);
}

/* SNF.TABLES key */
int
tables_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	unsigned int n_tables;
	bool empty;

	if (argc != 2)
		return RedisModule_WrongArity(ctx);

	const struct partition *p = persist_find(ctx, argv[1], SERVER_READ, &empty);

	if (p == NULL)
		return reply_absent(ctx, empty);

	const struct core_table *t = partition_tables(p, &n_tables);

	RedisModule_ReplyWithArray(ctx, n_tables);
	for (unsigned int i = 0; i < n_tables; i++)
		reply_table(ctx, p, i, &t[i]);
	return SERVER_OK;
}

/* Fills 'records'.  0 or -ENOMEM. */
static int
scan_run(struct partition *p, unsigned int table, uint64_t *cursor, unsigned int count)
{
	uint64_t start_us = clock_us(), now_us = start_us;
	int err;

	records.bytes = 0;
	do {
		unsigned int n = count < SCAN_STEP ? count : SCAN_STEP;

		err = partition_scan(p, tick_ms(now_us), table, n, cursor, &records);
		count -= n;
		now_us = clock_us();
	} while (err == 0 && *cursor != 0 && count > 0 && records.bytes < SCAN_BYTES &&
		 now_us - start_us < SCAN_US);
	return err;
}

/* The array: the cursor, and each of 'records' as a string. */
static void
scan_reply(struct RedisModuleCtx *ctx, uint64_t cursor)
{
	const uint8_t *end = records.data + records.bytes;
	const uint8_t *at = records.data;
	struct frame_lease lease;
	long n = 1;

	RedisModule_ReplyWithArray(ctx, SERVER_POSTPONED);
	RedisModule_ReplyWithLongLong(ctx, (long long)cursor);
	while (at < end) {
		struct frame_cursor c = { at + SCAN_RECORD, end };

		if (frame_lease_next(&c, &lease) != 1)
			break;
		RedisModule_ReplyWithStringBuffer(ctx, (const char *)at,
						  (size_t)(c.at - at));
		at = c.at;
		n++;
	}
	RedisModule_ReplySetArrayLength(ctx, n);
}

/* SNF.SCAN key table_id cursor count */
int
scan_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	long long table, position, count;
	unsigned int n_tables;
	bool empty;

	if (argc != 5)
		return RedisModule_WrongArity(ctx);
	if (!word_number(argv[2], 0, CORE_MAX_TABLES - 1, &table) ||
	    !word_number(argv[3], 0, INT64_MAX, &position) ||
	    !word_number(argv[4], 1, SCAN_MAX, &count))
		return reply_error(ctx, -EINVAL);

	struct partition *p = persist_find(ctx, argv[1], SERVER_READ, &empty);

	if (p == NULL)
		return reply_absent(ctx, empty);
	partition_tables(p, &n_tables);
	if (table >= n_tables)
		return reply_error(ctx, -EINVAL);

	uint64_t cursor = (uint64_t)position;
	int err = scan_run(p, (unsigned int)table, &cursor, (unsigned int)count);

	if (err != 0)
		return reply_error(ctx, err);
	scan_reply(ctx, cursor);
	return SERVER_OK;
}
