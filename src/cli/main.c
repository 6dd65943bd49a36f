/*
 * main.c - the program `snf`, as a table of commands.
 */
#include <stdio.h>
#include <string.h>

#include "nf/nf.h"
#include "pipe/instance.h"

static const struct command {
	const char *word, *arguments, *help;
	int n_arguments;
	int (*run)(const char *argument);
} commands[] = {
	{ "run", "FILE.yaml", "runs an instance until SIGTERM; SIGHUP reloads the file", 1,
	  instance_run },
	{ "check", "FILE.yaml", "checks an instance's file and does nothing else", 1,
	  instance_check },
};

static void
usage(FILE *f)
{
	fprintf(f, "usage: snf COMMAND\n\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		fprintf(f, "  snf %s %s\n      %s\n", commands[i].word,
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
		if (strcmp(word, commands[i].word) == 0 &&
		    argc - 2 == commands[i].n_arguments)
			return commands[i].run(argv[2]);
	}
	usage(stderr);
	return INSTANCE_USAGE;
}
