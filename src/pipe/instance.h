/*
 * instance.h - an instance: one process, its functions, its ports and its pipes.
 */
#ifndef PIPE_INSTANCE_H
#define PIPE_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/config.h"
#include "pipe/eal.h"
#include "pipe/pipe.h"

/* Exit codes of the programs. */
enum {
	INSTANCE_OK = 0,
	INSTANCE_FAILED = 1,
	INSTANCE_USAGE = 2,
};

/* What an instance's file says. */
struct settings {
	struct config *config;			/* Owns all strings here. */
	struct config_list functions;		/* char * */
	struct chain chain;			/* The same, and what they make of... */
	void *options[NF_MAX_STAGES + 1];	/* ...their sections. */
	char *store, *alerts, *events;
	char *port[2];				/* By nf_side. */
	uint64_t store_timeout_ms;
	uint64_t partitions;			/* 0: the store's default. */
	int commit;				/* Index into the words: 0 is "auto". */
	int on_store_loss;			/* enum pipe_loss */
	uint64_t store_grace_ms;
	uint32_t zone;				/* As in struct pipe_config. */
	uint64_t refusals;
	uint64_t mtu[2];			/* By nf_side; 0: none. */
	struct table_settings {
		uint64_t limit;
		int full;			/* 1: evict. */
		int commit;			/* -1: as all tables. */
		uint64_t format;		/* 0: the newest. */
	} table[STORE_MAX_TABLES];		/* By the functions' tables. */
	char table_name[STORE_MAX_TABLES][2 * STORE_TABLE_NAME];	/* In the file. */
	uint64_t pipes_min, pipes_max;
	uint64_t memory_mb;
	int hugepages;				/* enum eal_huge */
	int pace;				/* 1: a capture's own. */
	int log_level;
	struct settings *next;			/* Of those that a reload has replaced. */
};

/* Reads and checks a file, its functions' sections too; on failure prints why, each
 * "FILE:LINE: what, what would be right", and returns a negative errno. */
int settings_load(const char *path, struct settings **out);
void settings_free(struct settings *s);		/* NULL is ignored. */
/* The functions' tables as the file has them, for pipe_tables(). */
void settings_tables(const struct settings *s, struct pipe_table *wanted);
/* The formats that the file wants records in, for pipe_set_formats(). */
void settings_formats(const struct settings *s, uint8_t format[STORE_MAX_TABLES]);
/* Whether both run the same functions, in the same order. */
bool settings_same_functions(const struct settings *a, const struct settings *b);
/* Keys, separated by ", ", whose values differ and that a running instance does not take
 * over; "" if there are none. */
void settings_ignored(const struct settings *old, const struct settings *new, char *text,
		      size_t bytes);

/* Runs until SIGTERM or SIGINT, or until the ports have ended.  Returns an exit code. */
int instance_run(const char *path);
/* Checks the file and does nothing else. */
int instance_check(const char *path);

/* stats.c: the counters of all pipes together, for people and machines. */
struct stats_source {
	const struct ports *ports;
	struct pipe *const *pipe;
	unsigned int n_pipes;
	struct store *const *store;
	struct chain chain;
	struct nf_table *table[STORE_MAX_TABLES];
	uint8_t table_stage[STORE_MAX_TABLES];
};

/* Serves them on DPDK's telemetry socket as /snf/stats; 'source' stays the caller's
 * and must outlive the process' answers. */
void stats_serve(const struct stats_source *source);
/* Logs which formats of which tables could not be read lately: a line for each of them,
 * and another no sooner than ten minutes later.  To be called every now and then. */
void stats_refused(const struct stats_source *source);
/* Logs what alerts, events and tasks were lost lately; the same. */
void stats_lost(const struct stats_source *source);
/* What happened, for the log. */
void stats_log(const struct stats_source *source);

/* A pipe's thread: turns, and sleeps when there is nothing to do. */
struct worker;
int worker_start(const struct pipe_config *config, struct worker **out);
struct pipe *worker_pipe(struct worker *w);
/* The ports have ended and all is settled. */
bool worker_ended(const struct worker *w);
/* Handlers see what is in this chain of the same functions from now on; returns when none
 * uses the old one.  'chain' stays the caller's, until the next call has returned. */
void worker_set_static(struct worker *w, const struct chain *chain);
/* Receives no more, lets what is in flight finish for at most 'drain_ms', and ends the
 * thread; its pipe's counters stay until worker_free(). */
void worker_stop(struct worker *w, uint64_t drain_ms);
void worker_free(struct worker *w);

#endif
