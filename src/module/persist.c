/*
 * persist.c - the data type: how a partition gets into and out of an RDB file, a
 * rewritten append-only file, and memory.
 *
 * In an RDB file (and in DUMP) a value of encoding version 1 is a run of strings:
 * the pieces of partition_save(), then an empty string.  In an append-only file it
 * is one SNF.OPEN with GENERATION, then SNF.EFFECTS for each further piece.
 * Idle times are not kept: they start anew.
 *
 * free() may run on the server's background thread (UNLINK, FLUSHALL ASYNC); a
 * partition shares nothing with others, and by then no key leads to it.
 */
#include "module/module.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define PERSIST_TYPE     "snf-store" /* Nine characters, as the ABI asks for. */
#define PERSIST_ENCODING 1

static struct RedisModuleType *type;

struct partition *
persist_partition(struct RedisModuleKey *key)
{
	if (key == NULL || RedisModule_ModuleTypeGetType(key) != type)
		return NULL;
	return RedisModule_ModuleTypeGetValue(key);
}

void
persist_set(struct RedisModuleKey *key, struct partition *p)
{
	RedisModule_ModuleTypeSetValue(key, type, p);
}

void
persist_random(uint64_t *generation, uint64_t seed[2])
{
	uint64_t random[3] = { 0 };

	/* Cannot fail: the server has long read from the initialised pool. */
	(void)!getrandom(random, sizeof(random), 0);
	*generation = (random[0] & INT64_MAX) | 1;
	seed[0] = random[1];
	seed[1] = random[2];
}

static struct RedisModuleString *
word_number(uint64_t number)
{
	char digits[24];
	int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number);

	return RedisModule_CreateString(NULL, digits, (size_t)n);
}

static struct RedisModuleString *
word_text(const char *text)
{
	return RedisModule_CreateString(NULL, text, strlen(text));
}

unsigned int
persist_words(const struct partition *p,
	      struct RedisModuleString *word[PERSIST_MAX_WORDS])
{
	unsigned int n_tables, n = 0;
	const struct core_table *table = partition_tables(p, &n_tables);

	word[n++] = word_number(FRAME_PROTOCOL);
	word[n++] = word_text("GENERATION");
	word[n++] = word_number(partition_generation(p));
	for (unsigned int i = 0; i < n_tables; i++) {
		word[n++] = word_text(table[i].name);
		word[n++] = word_number(table[i].key_max);
		word[n++] = word_number(table[i].value_max);
		word[n++] = word_number(table[i].format);
	}
	return n;
}

void
persist_words_free(struct RedisModuleString **word, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		RedisModule_FreeString(NULL, word[i]);
}

static int
rdb_emit(void *io, const void *piece, size_t bytes)
{
	RedisModule_SaveStringBuffer(io, piece, bytes);
	return RedisModule_IsIOError(io) ? -EIO : 0;
}

static void
rdb_save(struct RedisModuleIO *io, void *value)
{
	int err = partition_save(value, rdb_emit, io);

	/* Without its end the value cannot be loaded: better than half of one. */
	if (err == 0)
		RedisModule_SaveStringBuffer(io, "", 0);
	else
		RedisModule_LogIOError(io, "warning", "partition not saved: %s",
				       strerror(-err));
}

/* Takes the next piece; -EIO if there is none. */
static int
rdb_piece(struct RedisModuleIO *io, char **piece, size_t *bytes)
{
	*piece = RedisModule_LoadStringBuffer(io, bytes);
	if (*piece == NULL)
		return -EIO;
	if (!RedisModule_IsIOError(io))
		return 0;
	RedisModule_Free(*piece);
	return -EIO;
}

static int
rdb_head(struct RedisModuleIO *io, struct partition **out)
{
	uint64_t seed[2], unused;
	char *piece;
	size_t bytes;
	int err = rdb_piece(io, &piece, &bytes);

	if (err != 0)
		return err;
	persist_random(&unused, seed);
	err = partition_load(piece, bytes, seed, out);
	RedisModule_Free(piece);
	if (err == 0 && partition_generation(*out) - 1 >= INT64_MAX) {
		partition_free(*out);
		err = -EBADMSG;
	}
	return err;
}

static int
rdb_rest(struct RedisModuleIO *io, struct partition *p)
{
	uint64_t now_ms = tick_ms(clock_us());

	for (;;) {
		char *piece;
		size_t bytes;
		int err = rdb_piece(io, &piece, &bytes);

		if (err != 0)
			return err;
		bool last = bytes == 0;

		if (!last)
			err = partition_replay(p, piece, bytes, now_ms);
		RedisModule_Free(piece);
		if (err != 0 || last)
			return err;
	}
}

static void *
rdb_load(struct RedisModuleIO *io, int encoding_version)
{
	const struct RedisModuleString *name = RedisModule_GetKeyNameFromIO(io);
	struct partition *p;
	int err = -EPROTO;

	if (encoding_version != PERSIST_ENCODING)
		goto refuse;
	err = rdb_head(io, &p);
	if (err != 0)
		goto refuse;
	err = rdb_rest(io, p);
	if (err != 0)
		goto free_partition;
	if (name != NULL) {
		size_t bytes;
		const char *text = RedisModule_StringPtrLen(name, &bytes);

		tick_keep(RedisModule_GetDbIdFromIO(io), text, bytes);
	}
	return p;
free_partition:
	partition_free(p);
refuse:
	RedisModule_LogIOError(io, "warning", "partition (encoding %d) not loaded: %s",
			       encoding_version, strerror(-err));
	return NULL;
}

struct rewrite {
	struct RedisModuleIO *io;
	struct RedisModuleString *key;
	bool has_head;
};

static int
aof_emit(void *context, const void *piece, size_t bytes)
{
	struct rewrite *r = context;

	if (r->has_head)
		RedisModule_EmitAOF(r->io, "SNF.EFFECTS", "sb", r->key, piece, bytes);
	r->has_head = true;
	return RedisModule_IsIOError(r->io) ? -EIO : 0;
}

static void
aof_rewrite(struct RedisModuleIO *io, struct RedisModuleString *key, void *value)
{
	struct rewrite r = { .io = io, .key = key };
	struct RedisModuleString *word[PERSIST_MAX_WORDS];
	unsigned int n = persist_words(value, word);

	RedisModule_EmitAOF(io, "SNF.OPEN", "sv", key, word, (size_t)n);
	persist_words_free(word, n);

	int err = partition_save(value, aof_emit, &r);

	if (err != 0)
		RedisModule_LogIOError(io, "warning", "partition not rewritten: %s",
				       strerror(-err));
}

static size_t
mem_usage(const void *value)
{
	struct core_counters count;

	partition_count(value, &count);
	return count.memory_bytes;
}

static size_t
free_effort(struct RedisModuleString *key, const void *value)
{
	struct core_counters count;

	(void)key;
	partition_count(value, &count);
	return count.records + 1;
}

static void
free_value(void *value)
{
	partition_free(value);
}

int
persist_load(struct RedisModuleCtx *ctx)
{
	struct RedisModuleTypeMethods methods = {
		.version = 3,
		.rdb_load = rdb_load,
		.rdb_save = rdb_save,
		.aof_rewrite = aof_rewrite,
		.mem_usage = mem_usage,
		.free = free_value,
		.free_effort = free_effort,
	};

	type = RedisModule_CreateDataType(ctx, PERSIST_TYPE, PERSIST_ENCODING, &methods);
	return type == NULL ? -EEXIST : 0;
}
