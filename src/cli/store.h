/*
 * store.h - the commands for people that look into a store, or into an instance: what
 * they share.
 */
#ifndef CLI_STORE_H
#define CLI_STORE_H

#include "cli/console.h"
#include "store/frame.h"

enum {
	CLI_MAX_PARTITIONS = 64,
	CLI_MAX_TABLES = 64,
	CLI_WHY = 320,
	CLI_USAGE = -1,				/* Instead of an exit code: say how. */
};

/* A table, as one partition or all together have it: what SNF.TABLES says. */
#define CLI_TABLE_FIELDS(X)                                                              \
	X(id) X(format) X(flags) X(limit) X(records) X(due) X(reads) X(hits) X(writes)   \
	X(expired) X(leased) X(settled) X(evicted) X(full) X(key_max) X(value_max)       \
	X(partitions)

struct cli_table {
	char name[32];
#define X(field) uint64_t field;
	CLI_TABLE_FIELDS(X)
#undef X
};

struct cli_store {
	char url[1024];
	unsigned int n_partitions;
	struct console *partition[CLI_MAX_PARTITIONS];	/* NULL: missing... */
	char missing[CLI_MAX_PARTITIONS][CLI_WHY];	/* ...and why. */
	char why[CLI_WHY];			/* After a call that failed. */
};

/* 'where' is a store's URL, or an instance's file that has one.  Connects to all of its
 * partitions, or those that are there.  0 or a negative errno: none is. */
int cli_open(struct cli_store *s, const char *where);
void cli_close(struct cli_store *s);

/* Complains of the partitions that are missing.  Returns their number. */
unsigned int cli_missing(const struct cli_store *s, const char *command);
/* Complains of a call that failed. */
void cli_failed(const struct cli_store *s, const char *command);

/* Asks the server of a partition: words of text, the key put in for NULL. */
int cli_ask(struct cli_store *s, unsigned int partition, const char *const *word,
	    unsigned int n, struct console_cursor *answer);

/* The tables of a partition.  0 or a negative errno. */
int cli_tables(struct cli_store *s, unsigned int partition,
	       struct cli_table tables[CLI_MAX_TABLES], unsigned int *n);

/* The commands.  'arguments' are those behind the words; they return an exit code. */
int show_store(int n, char **arguments);
int show_records(int n, char **arguments);
int delete_records(int n, char **arguments);
int show_instance(int n, char **arguments);

#endif
