/*
 * counters.c - `snf show instance`: what the instances on this host have counted.
 *
 * Each answers on DPDK's telemetry socket, in JSON: an object of numbers and words, with
 * some objects in it.  People get a line for each, without drops that never happened and
 * without cycles; programs get what the instance said.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/store.h"
#include "pipe/eal.h"
#include "pipe/instance.h"

enum {
	COUNTERS_TIMEOUT_S = 5,
	COUNTERS_ANSWER = 64 << 10,		/* Bytes; DPDK's own limit is below. */
	COUNTERS_DEPTH = 3,
	COUNTERS_MAX_INSTANCES = 256,
};

static const char command[] = "snf show instance";
static const char question[] = "/snf/stats";

/* Returns a connected socket, or a negative errno. */
static int
connect_to(long pid)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = COUNTERS_TIMEOUT_S };
	int n = snprintf(at.sun_path, sizeof(at.sun_path),
			 "%s/dpdk/snf-%ld/dpdk_telemetry.v2", eal_runtime_dir(), pid);
	int fd, err;

	if (n >= (int)sizeof(at.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* The answer, as text.  0 or a negative errno. */
static int
ask(long pid, char *answer, size_t bytes)
{
	int fd = connect_to(pid);
	ssize_t n;

	if (fd < 0)
		return fd;
	/* It begins by saying who it is. */
	n = recv(fd, answer, bytes - 1, 0);
	if (n > 0 && send(fd, question, strlen(question), MSG_NOSIGNAL) < 0)
		n = -1;
	if (n > 0)
		n = recv(fd, answer, bytes - 1, 0);
	if (n < 0)
		n = errno == EAGAIN ? -ETIMEDOUT : -errno;
	close(fd);
	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return (int)n;
	answer[n] = '\0';
	return 0;
}

/* The object behind the question's name, which ends where 'answer' does.  NULL: this is
 * no answer. */
static char *
unwrap(char *answer)
{
	char *object = strchr(answer, ':'), *end = strrchr(answer, '}');

	if (strstr(answer, question) == NULL || object == NULL || object[1] != '{' ||
	    end <= object + 1)
		return NULL;
	*end = '\0';
	return object + 1;
}

static bool
is_dull(const char *path, const char *value)
{
	return strncmp(path, "cycles.", 7) == 0 ||
	       (strncmp(path, "dropped.", 8) == 0 && strcmp(value, "0") == 0);
}

/* Takes a word or a number off, with the quotes of a word. */
static const char *
take_text(const char *at, char *to, size_t bytes)
{
	size_t n;

	if (*at != '"') {
		n = strcspn(at, ",}");
		snprintf(to, bytes, "%.*s", (int)n, at);
		return at + n;
	}
	n = strcspn(at + 1, "\"");
	snprintf(to, bytes, "%.*s", (int)n, at + 1);
	return at[n + 1] == '"' ? at + n + 2 : at + n + 1;
}

static void
print_people(const char *at)
{
	char name[COUNTERS_DEPTH][64] = { "" }, value[128], path[256] = "";
	unsigned int depth = 0;
	bool is_value = false;

	for (; *at != '\0'; at++) {
		if (*at == '{' && depth < COUNTERS_DEPTH - 1) {
			depth++;
			is_value = false;
		} else if (*at == '}' && depth > 0) {
			depth--;
		} else if (*at == ':') {
			is_value = true;
		} else if (*at == '"' || isdigit((unsigned char)*at) || *at == '-') {
			at = take_text(at, is_value ? value : name[depth],
				       is_value ? sizeof(value) : sizeof(name[0])) - 1;
			if (!is_value)
				continue;
			is_value = false;
			snprintf(path, sizeof(path), "%s%s%s", depth > 1 ? name[1] : "",
				 depth > 1 ? "." : "", name[depth]);
			if (!is_dull(path, value))
				printf("  %-24s %s\n", path, value);
		}
	}
}

static void
print(long pid, const char *object, bool json)
{
	if (json) {
		printf("{\"pid\": %ld, \"counters\": %s}\n", pid, object);
	} else {
		printf("instance %ld\n", pid);
		print_people(object);
	}
}

static int
show_one(long pid, bool json)
{
	static char answer[COUNTERS_ANSWER];
	int err = ask(pid, answer, sizeof(answer));
	const char *object = err == 0 ? unwrap(answer) : NULL;

	if (err == -ENOENT || err == -ECONNREFUSED)
		fprintf(stderr, "%s: no instance has the process number %ld\n", command,
			pid);
	else if (object == NULL)
		fprintf(stderr, "%s: instance %ld: %s\n", command, pid,
			err != 0 ? strerror(-err) : "it is just starting, or ending");
	else
		print(pid, object, json);
	return object != NULL ? INSTANCE_OK : INSTANCE_FAILED;
}

/* The process numbers that have a directory, also of some that were killed. */
static unsigned int
find_instances(long pid[COUNTERS_MAX_INSTANCES])
{
	char path[512];
	unsigned int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/dpdk", eal_runtime_dir());
	dir = opendir(path);
	if (dir == NULL)
		return 0;
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
		int end = 0;

		if (n < COUNTERS_MAX_INSTANCES &&
		    sscanf(e->d_name, "snf-%ld%n", &pid[n], &end) == 1 &&
		    e->d_name[end] == '\0')
			n++;
	}
	closedir(dir);
	return n;
}

static int
show_all(bool json)
{
	static char answer[COUNTERS_ANSWER];
	long pid[COUNTERS_MAX_INSTANCES];
	unsigned int n = find_instances(pid), n_shown = 0;

	for (unsigned int i = 0; i < n; i++) {
		const char *object = NULL;

		/* One that was killed leaves its socket until the next start, and other
		 * programs of ours have one, too. */
		if (ask(pid[i], answer, sizeof(answer)) == 0)
			object = unwrap(answer);
		if (object == NULL)
			continue;
		print(pid[i], object, json);
		n_shown++;
	}
	if (n_shown > 0)
		return INSTANCE_OK;
	fprintf(stderr, "%s: no instance runs here: none answers below %s/dpdk\n",
		command, eal_runtime_dir());
	return INSTANCE_FAILED;
}

int
show_instance(int n, char **arguments)
{
	bool json = n > 0 && strcmp(arguments[n - 1], "--json") == 0;
	char *end;
	long pid;

	n -= json;
	if (n == 0)
		return show_all(json);
	pid = strtol(arguments[0], &end, 10);
	if (n != 1 || *end != '\0' || pid <= 0)
		return CLI_USAGE;
	return show_one(pid, json);
}
