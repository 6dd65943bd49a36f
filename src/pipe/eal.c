/*
 * eal.c - DPDK's command line, made from what the instance knows.
 *
 * DPDK wants to own the process: it pins the caller to a CPU, writes to standard
 * error, and keeps files for processes that would join.  Here it gets none of that.
 * It finds its drivers by itself, in the directory it was built for: that costs
 * some 30 ms of the start; 100 ms more go into measuring the clock where the CPU
 * does not tell its frequency.
 */
#define _GNU_SOURCE
#include "pipe/eal.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>

#include "base/log.h"

enum {
	MAX_PCI = 16,
	MAX_ARGS = 12 + 2 * MAX_PCI,
	CPUS_BYTES = 4096,
};

struct command_line {
	char *argv[MAX_ARGS + 1];
	int argc;
	char cpus[CPUS_BYTES], prefix[64], memory[16];
};

static char complaint[200];
static char own_dir[PATH_MAX]; /* Of the telemetry socket. */

const char *
eal_complaint(void)
{
	return complaint;
}

/* DPDK's lines go where ours go; what it says in passing is for debugging only. */
static ssize_t
log_from_dpdk(void *cookie, const char *text, size_t bytes)
{
	size_t n = bytes;

	(void)cookie;
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	if (n == 0)
		return bytes;
	if ((uint32_t)rte_log_cur_msg_loglevel() <= RTE_LOG_ERR)
		snprintf(complaint, sizeof(complaint), "%.*s", (int)n, text);
	log_debug("dpdk", "%.*s", (int)n, text);
	return bytes;
}

static int
log_open(void)
{
	FILE *f =
		fopencookie(NULL, "w", (cookie_io_functions_t){ .write = log_from_dpdk });

	if (f == NULL)
		return -ENOMEM;
	setlinebuf(f);
	rte_openlog_stream(f);
	return 0;
}

const char *
eal_runtime_dir(void)
{
	const char *dir = getenv("RUNTIME_DIRECTORY");

	if (dir != NULL)
		return dir;
	if (getuid() == 0)
		return "/var/run";
	dir = getenv("XDG_RUNTIME_DIR");
	return dir != NULL ? dir : "/tmp";
}

static void
dir_remove(const char *path)
{
	DIR *dir = opendir(path);

	if (dir == NULL)
		return;
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
		if (e->d_name[0] != '.')
			unlinkat(dirfd(dir), e->d_name, 0);
	closedir(dir);
	rmdir(path);
}

static void
own_dir_remove(void)
{
	dir_remove(own_dir);
}

/* Directories of processes that were killed. */
static void
stale_dirs_remove(const char *base)
{
	DIR *dir = opendir(base);

	if (dir == NULL)
		return;
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
		char path[PATH_MAX];
		int pid;

		if (sscanf(e->d_name, "snf-%d", &pid) != 1 || pid <= 0)
			continue;
		if (kill(pid, 0) == 0 || errno != ESRCH)
			continue;
		if (snprintf(path, sizeof(path), "%s/%s", base, e->d_name) < PATH_MAX)
			dir_remove(path);
	}
	closedir(dir);
}

/* Whether a telemetry socket can be made: DPDK does not start if it tries and
 * fails. */
static bool
telemetry_prepare(const char *prefix)
{
	char base[PATH_MAX - 80];
	int n = snprintf(base, sizeof(base), "%s/dpdk", eal_runtime_dir());

	if (n >= (int)sizeof(base))
		return false;
	if (mkdir(base, 0700) != 0 && errno != EEXIST)
		return false;
	if (access(base, R_OK | W_OK | X_OK) != 0)
		return false;
	stale_dirs_remove(base);
	snprintf(own_dir, sizeof(own_dir), "%s/%s", base, prefix);
	/* Handlers run in reverse: this one behind DPDK's, which unlinks the socket. */
	return atexit(own_dir_remove) == 0;
}

/* Megabytes of free huge pages, of all sizes and nodes. */
static uint64_t
huge_free_mb(void)
{
	static const char base[] = "/sys/kernel/mm/hugepages";
	DIR *dir = opendir(base);
	uint64_t kb = 0;

	if (dir == NULL)
		return 0;
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
		char path[PATH_MAX];
		unsigned long page_kb, n;

		if (sscanf(e->d_name, "hugepages-%lukB", &page_kb) != 1)
			continue;
		snprintf(path, sizeof(path), "%s/%s/free_hugepages", base, e->d_name);
		FILE *f = fopen(path, "r");
		if (f == NULL)
			continue;
		if (fscanf(f, "%lu", &n) == 1)
			kb += (uint64_t)n * page_kb;
		fclose(f);
	}
	closedir(dir);
	return kb / 1024;
}

static int
huge_decide(const struct eal_options *options, unsigned int memory_mb, bool *huge,
	    char *why, size_t why_bytes)
{
	uint64_t free_mb = options->huge == EAL_HUGE_OFF ? 0 : huge_free_mb();

	*huge = options->huge != EAL_HUGE_OFF && free_mb >= memory_mb;
	if (*huge || options->huge == EAL_HUGE_OFF)
		return 0;
	if (options->huge == EAL_HUGE_REQUIRED) {
		snprintf(why, why_bytes,
			 "%u MB of huge pages are needed, %u MB are free: "
			 "echo %u > /proc/sys/vm/nr_hugepages",
			 memory_mb, (unsigned int)free_mb, memory_mb / 2);
		return -ENOMEM;
	}
	log_info("eal", "%u MB of huge pages wanted, %u MB free: using normal pages",
		 memory_mb, (unsigned int)free_mb);
	return 0;
}

static void
add(struct command_line *c, const char *arg)
{
	if (c->argc < MAX_ARGS)
		c->argv[c->argc++] = (char *)(uintptr_t)arg;
}

/* One lcore, the caller, who may run wherever he may now. */
static void
add_cpus(struct command_line *c, const cpu_set_t *cpus)
{
	int n = snprintf(c->cpus, sizeof(c->cpus), "--lcores=0@(");
	const char *comma = "";

	for (int i = 0; i < CPU_SETSIZE && n < CPUS_BYTES - 8; i++) {
		if (!CPU_ISSET(i, cpus))
			continue;
		n += snprintf(c->cpus + n, sizeof(c->cpus) - n, "%s%d", comma, i);
		comma = ",";
	}
	snprintf(c->cpus + n, sizeof(c->cpus) - n, ")");
	add(c, c->cpus);
}

static void
command_line_make(struct command_line *c, const struct eal_options *options,
		  const cpu_set_t *cpus, bool huge, unsigned int memory_mb)
{
	add(c, "snf");
	add_cpus(c, cpus);
	snprintf(c->prefix, sizeof(c->prefix), "--file-prefix=snf-%d", (int)getpid());
	add(c, c->prefix);
	add(c, "--no-shconf");
	if (!telemetry_prepare(strchr(c->prefix, '=') + 1)) {
		log_info("eal", "%s/dpdk cannot be written: no DPDK telemetry",
			 eal_runtime_dir());
		add(c, "--no-telemetry");
	}
	if (huge) {
		/* One file for all pages: a descriptor for each would be hundreds, and
		 * a vhost peer takes only a few. */
		add(c, "--in-memory");
		add(c, "--single-file-segments");
	} else {
		snprintf(c->memory, sizeof(c->memory), "%u", memory_mb);
		add(c, "--no-huge");
		add(c, "-m");
		add(c, c->memory);
	}
	if (options->pci == NULL) {
		/* No device, so nobody asks for physical addresses. */
		add(c, "--no-pci");
		add(c, "--iova-mode=va");
		return;
	}
	for (const char *const *p = options->pci; *p != NULL; p++) {
		add(c, "-a");
		add(c, *p);
	}
}

int
eal_start(const struct eal_options *options, char *why, size_t why_bytes)
{
	unsigned int memory_mb =
		options->memory_mb != 0 ? options->memory_mb : EAL_MEMORY_MB;
	struct command_line c = { .argc = 0 };
	sigset_t all, signals;
	cpu_set_t cpus;
	bool huge;
	int err = huge_decide(options, memory_mb, &huge, why, why_bytes);

	if (err != 0)
		return err;
	err = log_open();
	if (err != 0 || sched_getaffinity(0, sizeof(cpus), &cpus) != 0) {
		snprintf(why, why_bytes, "cannot start DPDK: %s", strerror(errno));
		return -errno;
	}
	command_line_make(&c, options, &cpus, huge, memory_mb);

	/* A signal meant for us must not end in a thread of DPDK's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &signals);
	err = rte_eal_init(c.argc, c.argv) < 0 ? -rte_errno : 0;
	pthread_sigmask(SIG_SETMASK, &signals, NULL);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	if (err != 0)
		snprintf(why, why_bytes, "DPDK does not start: %s", complaint);
	return err;
}
