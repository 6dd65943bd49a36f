/*
 * main.c - the program `snf`, as a table of commands.
 */
#include <stdbool.h>
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
	{ { "show", "instance" }, "[PID] [--json]",
	  "counters of the instances on this host: packets, drops by reason",
	  show_instance },
	{ { "show", "store" }, "STORE [--json]",
	  "servers, tables, operations a second; STORE is a URL, or an instance's file",
	  show_store },
	{ { "show", "records" }, "STORE FUNCTION.TABLE [FIELD=VALUE]... [--max N] [--json]",
	  "records of a table, by field: src=10.0.0.1 state=tcp_established", show_records },
	{ { "delete", "records" }, "STORE FUNCTION.TABLE FIELD=VALUE... [--max N]",
	  "deletes them; functions that want to know of it do", delete_records },
};

enum {
	N_COMMANDS = sizeof(commands) / sizeof(commands[0]),
};

static void
print_command(FILE *f, const char *indent, const struct command *c)
{
	fprintf(f, "%ssnf %s%s%s %s\n", indent, c->words[0],
		c->words[1] != NULL ? " " : "", c->words[1] != NULL ? c->words[1] : "",
		c->arguments);
}

static void
usage(FILE *f)
{
	fprintf(f, "usage: snf COMMAND\n\n");
	for (size_t i = 0; i < N_COMMANDS; i++) {
		print_command(f, "  ", &commands[i]);
		fprintf(f, "      %s\n", commands[i].help);
	}
	fprintf(f, "  snf --help | --version\n\nfunctions: %s\n", nf_names());
}

/* The command that the line names, or NULL. */
static const struct command *
find_command(int argc, char **argv)
{
	for (size_t i = 0; i < N_COMMANDS; i++) {
		const char *const *words = commands[i].words;

		if (argc > 1 && strcmp(argv[1], words[0]) == 0 &&
		    (words[1] == NULL || (argc > 2 && strcmp(argv[2], words[1]) == 0)))
			return &commands[i];
	}
	return NULL;
}

/* 'second' is NULL if there is one word only. */
static void
say_unknown(const char *first, const char *second)
{
	bool begins = false;

	for (size_t i = 0; i < N_COMMANDS; i++)
		begins |= strcmp(first, commands[i].words[0]) == 0;
	if (begins && second != NULL)
		fprintf(stderr, "\nsnf: there is no command '%s %s'\n", first, second);
	else if (begins)
		fprintf(stderr, "\nsnf: '%s' wants another word\n", first);
	else
		fprintf(stderr, "\nsnf: there is no command '%s'\n", first);
}

static bool
wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

int
main(int argc, char **argv)
{
	const struct command *command = find_command(argc, argv);
	int code;

	if (wants_help(argc, argv)) {
		usage(stdout);
		return INSTANCE_OK;
	}
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("snf %s\n", SNF_VERSION);
		return INSTANCE_OK;
	}
	if (command == NULL) {
		usage(stderr);
		if (argc > 1)
			say_unknown(argv[1], argv[2]);
		return INSTANCE_USAGE;
	}

	int n_words = command->words[1] != NULL ? 3 : 2;

	code = command->run(argc - n_words, argv + n_words);
	if (code != CLI_USAGE)
		return code;
	print_command(stderr, "usage: ", command);
	return INSTANCE_USAGE;
}
