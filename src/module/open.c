/*
 * open.c - SNF.OPEN: makes partitions and declares their tables.
 *
 * A replica or an append-only file gets the same command with the generation and all
 * of the tables, in the order of their ids, so that its copy has the same ids.  The
 * core's own tables ("snf.") are not among them: they travel as effects, which keep
 * their place in the order.
 */
#include "module/module.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
	OPEN_TABLE_WORDS = 6, /* name key_max value_max format flags limit */
	OPEN_MAX_WORDS = 4 + OPEN_TABLE_WORDS * CORE_MAX_TABLES,
};

struct opening {
	uint32_t n_partitions;
	uint64_t generation;             /* 0: any, and random for a new one. */
	struct RedisModuleString **word; /* OPEN_TABLE_WORDS for each table. */
	unsigned int n_tables;
	bool refuse;                     /* To make a partition: memory is short. */
	char error[160];
};

__attribute__((format(printf, 3, 4))) static int
opening_fail(struct opening *o, int err, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(o->error, sizeof(o->error), format, arguments);
	va_end(arguments);
	return err;
}

/* Takes the words behind the key apart.  Returns 0, -EINVAL (wrong number of them)
 * or -EPROTO (then 'error' is set). */
static int
opening_parse(struct opening *o, struct RedisModuleString **word, int n)
{
	long long number = 0;

	if (!word_number(word[0], FRAME_PROTOCOL, FRAME_PROTOCOL, &number))
		return opening_fail(o, -EPROTO,
				    "ERR SNFPROTO this module speaks %d, not what it "
				    "was asked for",
				    FRAME_PROTOCOL);
	if (n < 2)
		return -EINVAL;
	if (!word_number(word[1], 1, CORE_MAX_PARTITIONS, &number))
		return opening_fail(o, -EPROTO,
				    "ERR SNFPARTITIONS a store has 1 to %d partitions",
				    CORE_MAX_PARTITIONS);
	o->n_partitions = (uint32_t)number;
	word += 2;
	n -= 2;
	if (n % OPEN_TABLE_WORDS == 2) {
		const char *option = RedisModule_StringPtrLen(word[0], NULL);

		if (strcasecmp(option, "GENERATION") != 0)
			return -EINVAL;
		if (!word_number(word[1], 1, INT64_MAX, &number))
			return opening_fail(o, -EPROTO, "ERR SNFBAD generation");
		o->generation = (uint64_t)number;
		word += 2;
		n -= 2;
	}
	if (n % OPEN_TABLE_WORDS != 0)
		return -EINVAL;
	o->word = word;
	o->n_tables = (unsigned int)n / OPEN_TABLE_WORDS;
	if (o->n_tables > CORE_MAX_TABLES)
		return opening_fail(o, -EPROTO,
				    "ERR SNFTABLE more than %d tables in one partition",
				    CORE_MAX_TABLES);
	return 0;
}

/* Declares the table of six words.  Returns its id or as partition_declare(). */
static int
declare_words(struct partition *p, struct RedisModuleString **word)
{
	static const long long max[] = { UINT16_MAX, UINT16_MAX, UINT8_MAX, UINT8_MAX,
					 INT64_MAX };
	long long number[5];
	size_t bytes;
	const char *name = RedisModule_StringPtrLen(word[0], &bytes);

	if (strlen(name) != bytes)
		return -EINVAL;
	for (unsigned int i = 0; i < 5; i++)
		if (!word_number(word[1 + i], 0, max[i], &number[i]))
			return -EINVAL;

	const struct core_declaration d = {
		.name = name,
		.key_max = (uint16_t)number[0],
		.value_max = (uint16_t)number[1],
		.format = (uint8_t)number[2],
		.flags = (uint8_t)number[3],
		.limit = (uint64_t)number[4],
	};

	return partition_declare(p, &d);
}

/* Declares the tables; their ids go to 'id'. */
static int
opening_declare(struct opening *o, struct partition *p, int id[CORE_MAX_TABLES])
{
	for (unsigned int i = 0; i < o->n_tables; i++) {
		const char *why = "name, limits or flags out of range";

		id[i] = declare_words(p, o->word + (size_t)OPEN_TABLE_WORDS * i);
		if (id[i] >= 0)
			continue;
		if (id[i] == -EEXIST)
			why = "exists with other limits";
		else if (id[i] == -ENOSPC)
			why = "no room for another table";
		else if (id[i] == -ENOMEM)
			why = "out of memory";
		return opening_fail(o, id[i], "ERR SNFTABLE %u: %s", i, why);
	}
	return 0;
}

/* Makes a partition with the tables and puts it at the key. */
static int
opening_create(struct opening *o, struct RedisModuleKey *key, struct partition **out,
	       int id[CORE_MAX_TABLES])
{
	uint64_t seed[2];
	struct partition *p;

	if (o->refuse)
		return opening_fail(o, -ENOMEM,
				    "ERR SNFNOMEM memory is short: no partition is made");
	persist_seed(seed);

	int err = partition_new(o->generation != 0 ? o->generation : persist_random(),
				o->n_partitions, seed, &p);

	if (err != 0)
		return opening_fail(o, err, "ERR SNFNOMEM out of memory");
	err = opening_declare(o, p, id);
	if (err != 0) {
		partition_free(p);
		return err;
	}
	persist_set(key, p);
	*out = p;
	return 0;
}

static int
opening_run(struct opening *o, struct RedisModuleKey *key, struct partition **out,
	    int id[CORE_MAX_TABLES])
{
	struct partition *p = persist_partition(key);

	if (RedisModule_KeyType(key) == SERVER_KEY_EMPTY)
		return opening_create(o, key, out, id);
	if (p == NULL)
		return opening_fail(o, -EINVAL, "%s", module_wrong_type);
	if (o->n_partitions != partition_siblings(p))
		return opening_fail(o, -EINVAL,
				    "ERR SNFPARTITIONS the store has %u partitions, "
				    "not %u",
				    partition_siblings(p), o->n_partitions);
	if (o->generation != 0 && o->generation != partition_generation(p))
		return opening_fail(o, -ESTALE, "SNFSTALE another generation is here");
	*out = p;
	return opening_declare(o, p, id);
}

static struct RedisModuleString *
word_of(uint64_t number)
{
	char digits[24];
	int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number);

	return RedisModule_CreateString(NULL, digits, (size_t)n);
}

static void
open_replicate(struct RedisModuleCtx *ctx, struct RedisModuleString *name,
	       const struct partition *p)
{
	struct RedisModuleString *word[OPEN_MAX_WORDS];
	unsigned int n_tables, n = 0;
	const struct core_table *t = partition_tables(p, &n_tables);

	word[n++] = word_of(FRAME_PROTOCOL);
	word[n++] = word_of(partition_siblings(p));
	word[n++] = RedisModule_CreateString(NULL, "GENERATION", 10);
	word[n++] = word_of(partition_generation(p));
	for (unsigned int i = 0; i < n_tables; i++, t++) {
		const uint64_t number[] = { t->key_max, t->value_max, t->format, t->flags,
					    t->limit };

		if (strncmp(t->name, "snf.", 4) == 0)
			continue;
		word[n++] = RedisModule_CreateString(NULL, t->name, strlen(t->name));
		for (unsigned int k = 0; k < 5; k++)
			word[n++] = word_of(number[k]);
	}
	RedisModule_Replicate(ctx, "SNF.OPEN", "sv", name, word, (size_t)n);
	while (n > 0)
		RedisModule_FreeString(NULL, word[--n]);
}

int
open_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	struct opening o = { 0 };
	struct partition *p = NULL;
	int id[CORE_MAX_TABLES];

	if (argc < 3)
		return RedisModule_WrongArity(ctx);
	int err = opening_parse(&o, argv + 2, argc - 2);

	if (err == -EINVAL)
		return RedisModule_WrongArity(ctx);
	if (err != 0)
		return RedisModule_ReplyWithError(ctx, o.error);
	if (!from_primary_or_file(ctx)) {
		if (o.generation != 0)
			return RedisModule_ReplyWithError(ctx, module_not_for_clients);
		if (tick_term() == 0)
			return reply_error(ctx, -EROFS);
		o.refuse = RedisModule_GetUsedMemoryRatio() >= 1.0f;
	}

	struct RedisModuleKey *key =
		RedisModule_OpenKey(ctx, argv[1], SERVER_READ | SERVER_WRITE);

	err = opening_run(&o, key, &p, id);
	RedisModule_CloseKey(key);
	if (p != NULL) {
		size_t bytes;
		const char *name = RedisModule_StringPtrLen(argv[1], &bytes);

		/* Even if one table was refused: those before it were declared. */
		open_replicate(ctx, argv[1], p);
		RedisModule_SignalModifiedKey(ctx, argv[1]);
		tick_keep(RedisModule_GetSelectedDb(ctx), name, bytes);
	}
	if (err != 0)
		return RedisModule_ReplyWithError(ctx, o.error);
	RedisModule_ReplyWithArray(ctx, 3 + (long)o.n_tables);
	RedisModule_ReplyWithLongLong(ctx, (long long)partition_generation(p));
	RedisModule_ReplyWithLongLong(ctx, (long long)tick_term());
	RedisModule_ReplyWithLongLong(ctx, tick_n_replicas());
	for (unsigned int i = 0; i < o.n_tables; i++)
		RedisModule_ReplyWithLongLong(ctx, id[i]);
	return SERVER_OK;
}
