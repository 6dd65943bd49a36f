/*
 * cases.h - what bench-store measures (cases.c), and the rows that it prints: a JSON
 * array of flat objects.
 */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include "lane.h"

struct result {
	double mops, p50_us, p99_us, max_us;
};

/* Keeps the lanes going for so long, and before that for a tenth of it uncounted. */
void measure(struct lane *const *lanes, unsigned int n, double seconds, bool sleeping,
	     struct result *results);
/* Makes the records of 'work', or what is left to make. */
void fill(struct lane *lane, enum lane_table table, uint64_t n);

void row_open(void);
void row_text(const char *name, const char *text);
void row_number(const char *name, double value);
void row_result(const char *before, const struct result *r);
void row_close(void);

/* Each with the words of the command line that are its own. */
void case_misses(double seconds, char **words);
void case_flood(double seconds, char **words);
void case_commit(double seconds, char **words);
void case_shards(double seconds, char **words);
void case_fill(double seconds, char **words);
void case_scan(double seconds, char **words);

#endif
