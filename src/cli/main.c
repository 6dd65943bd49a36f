/*
 * main.c - the program `snf`, as a table of commands.
 */
#include <stdio.h>
#include <string.h>

#include "cli/store.h"
#include "nf/nf.h"
#include "pipe/instance.h"

static int
run_command(int n, char **arguments)
{
	return n == 1 ? instance_run(arguments[0]) : CLI_USAGE;
}

static int
check_command(int n, char **arguments)
{
	return n == 1 ? instance_check(arguments[0]) : CLI_USAGE;
}

/* 'run' gets the arguments behind the words and returns an exit code, or CLI_USAGE. */
static const struct command {
	const char *words[2];
	const char *arguments, *help;
	int (*run)(int n, char **arguments);
} commands[] = {
	{ { "run" }, "FILE.yaml", "runs an instance until SIGTERM; SIGHUP reloads the file",
	  run_command },
	{ { "check" }, "FILE.yaml", "checks an instance's file and does nothing else",
	  check_command },
	{ { "show", "store" }, "STORE [--json]",
	  "servers, tables, operations a second; STORE is a URL, or an instance's file",
	  show_store },
	{ { "show", "records" }, "STORE FUNCTION.TABLE [FIELD=VALUE]... [--max N] [--json]",
	  "records of a table, by field: src=10.0.0.1 state=tcp_established", show_records },
	{ { "delete", "records" }, "STORE FUNCTION.TABLE FIELD=VALUE... [--max N]",
	  "deletes them; functions that want to know of it do", delete_records },
};

static void
usage(FILE *f)
{
	fprintf(f, "usage: snf COMMAND\n\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		fprintf(f, "  snf %s%s%s %s\n      %s\n", commands[i].words[0],
			commands[i].words[1] != NULL ? " " : "",
			commands[i].words[1] != NULL ? commands[i].words[1] : "",
			commands[i].arguments, commands[i].help);
	fprintf(f, "  snf --help | --version\n\nfunctions: %s\n", nf_names());
}

int
main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
		usage(stdout);
		return INSTANCE_OK;
	}
	if (strcmp(word, "--version") == 0) {
		printf("snf %s\n", SNF_VERSION);
		return INSTANCE_OK;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		const char *const *words = commands[i].words;
		int n_words = words[1] != NULL ? 2 : 1;

		if (argc <= n_words || strcmp(word, words[0]) != 0 ||
		    (n_words == 2 && strcmp(argv[2], words[1]) != 0))
			continue;

		int code = commands[i].run(argc - 1 - n_words, argv + 1 + n_words);

		if (code == CLI_USAGE)
			break;
		return code;
	}
	usage(stderr);
	return INSTANCE_USAGE;
}
