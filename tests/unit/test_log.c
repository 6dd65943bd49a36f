/*
 * test_log.c - what a log line looks like, byte for byte.
 *
 * Standard error is a pipe in packet mode: each read gives exactly what one write(2)
 * put in, so that a line in two writes shows.
 */
#define _GNU_SOURCE
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum {
	LINE_MAX_BYTES = 2048,
	N_THREADS = 4,
	N_LINES = 200,
	TEXT_BYTES = 100,
	DEADLINE_MS = 10000,
};

static int read_end, write_end, real_stderr;

static int
setup(void **state)
{
	int fds[2];

	(void)state;
	unsetenv("JOURNAL_STREAM");
	log_set_level(LOG_INFO);
	if (pipe2(fds, O_DIRECT) != 0 ||
	    fcntl(fds[0], F_SETFL, O_DIRECT | O_NONBLOCK) != 0)
		return -1;
	read_end = fds[0];
	write_end = fds[1];
	real_stderr = dup(STDERR_FILENO);
	return 0;
}

/* Standard error is the pipe from here to leave(), and not where cmocka reports. */
static void
enter(void)
{
	dup2(write_end, STDERR_FILENO);
}

static void
leave(void)
{
	dup2(real_stderr, STDERR_FILENO);
}

static int
teardown(void **state)
{
	(void)state;
	leave(); /* If an assertion did not. */
	close(read_end);
	close(write_end);
	close(real_stderr);
	return 0;
}

/* What one write brought, "" for none. */
static void
take(char line[static 4096])
{
	ssize_t n = read(read_end, line, 4095);

	line[n > 0 ? n : 0] = '\0';
}

static void
check_next(const char *want)
{
	char line[4096];

	take(line);
	assert_string_equal(line, want);
}

static void
test_levels(void **state)
{
	(void)state;
	enter();
	log_error("port", "%d: no link, waiting", 1);
	log_warning("store", "slow");
	log_info("pipe", "awake");
	log_debug("pipe", "not at this level");
	log_set_level(LOG_DEBUG);
	log_debug("pipe", "turn");
	log_set_level(LOG_ERROR);
	log_warning("pipe", "not at this level either");
	log_plain("f.yaml:3: %s", "wrong");
	leave();
	check_next("error port: 1: no link, waiting\n");
	check_next("warning store: slow\n");
	check_next("info pipe: awake\n");
	check_next("debug pipe: turn\n");
	check_next("f.yaml:3: wrong\n");
	check_next("");
}

static void
test_escapes(void **state)
{
	static const struct {
		const char *name, *text, *want;
	} cases[] = {
		{ "a newline does not end the line", "a\nerror x: b",
		  "a\\nerror x: b\n" },
		{ "tabs and returns show", "\ta\r", "\\ta\\x0d\n" },
		{ "no terminal sequence gets through", "\x1b[2J\x7f", "\\x1b[2J\\x7f\n" },
		{ "nor one of C1, in UTF-8",
		  "\xc2\x9b"
		  "2J",
		  "\\xc2\\x9b2J\n" },
		{ "nor one of C1 alone",
		  "\x9b"
		  "2J",
		  "\\x9b2J\n" },
		{ "UTF-8 stays", "K\xc3\xb6ln \xe2\x82\xac \xf0\x9f\x98\x80",
		  "K\xc3\xb6ln \xe2\x82\xac \xf0\x9f\x98\x80\n" },
		{ "a cut sequence is escaped", "\xe2\x82", "\\xe2\\x82\n" },
		{ "bytes that UTF-8 never has are escaped", "\xff\xc0\x80",
		  "\\xff\\xc0\\x80\n" },
		{ "an empty message is a line", "", "\n" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		print_message("%s\n", cases[i].name);
		enter();
		log_plain("%s", cases[i].text);
		leave();
		check_next(cases[i].want);
	}
	enter();
	log_error("a\nb", "c");
	leave();
	check_next("error a\\nb: c\n");
}

/* Whatever a long message is made of, and however the cut falls. */
static void
test_truncation(void **state)
{
	static const char *const fillings[] = { "x", "\n", "\x1b", "\xe2\x82\xac",
						"\xf0\x9f\x98\x80" };
	char text[3 * LINE_MAX_BYTES], line[4096];

	(void)state;
	for (size_t i = 0; i < sizeof(fillings) / sizeof(fillings[0]); i++) {
		for (unsigned int shift = 0; shift < 8; shift++) {
			size_t n = strlen(fillings[i]), used = shift;

			memset(text, 'a', shift);
			for (; used + n < sizeof(text); used += n)
				memcpy(text + used, fillings[i], n);
			text[used] = '\0';
			enter();
			log_error("test", "%s", text);
			leave();
			take(line);
			assert_in_range(strlen(line), LINE_MAX_BYTES - 16,
					LINE_MAX_BYTES);
			assert_string_equal(line + strlen(line) - 4, "...\n");
			assert_null(strstr(line, "\\xe2"));
			assert_null(strstr(line, "\\xf0"));
			check_next("");
		}
	}
	enter();
	log_error(text, "behind a component without end");
	leave();
	take(line);
	assert_non_null(strstr(line, "behind a component without end\n"));
}

static void
test_errno(void **state)
{
	(void)state;
	enter();
	errno = ENOENT;
	log_error("test", "%m");
	assert_int_equal(errno, ENOENT);
	log_plain("%m");
	assert_int_equal(errno, ENOENT);
	setenv("JOURNAL_STREAM", "no numbers", 1);
	log_plain("%m");
	assert_int_equal(errno, ENOENT);
	leave();
	check_next("error test: No such file or directory\n");
	check_next("No such file or directory\n");
	check_next("No such file or directory\n");
}

static void
test_journal(void **state)
{
	char stream[64];
	struct stat st;

	(void)state;
	assert_int_equal(fstat(write_end, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_set_level(LOG_DEBUG);
	enter();
	log_error("a", "b");
	log_warning("a", "b");
	log_info("a", "b");
	log_debug("a", "b");
	log_plain("b");
	setenv("JOURNAL_STREAM", "1:1", 1);
	log_error("a", "b");
	leave();
	check_next("<3>error a: b\n");
	check_next("<4>warning a: b\n");
	check_next("<6>info a: b\n");
	check_next("<7>debug a: b\n");
	check_next("<3>b\n");
	/* The journal's stream is not this program's standard error. */
	check_next("error a: b\n");
}

static void *
log_many(void *arg)
{
	for (unsigned int i = 0; i < N_LINES; i++)
		log_info("thread", "%s", (const char *)arg);
	return NULL;
}

static void
check_thread_line(const char *line, char text[N_THREADS][TEXT_BYTES])
{
	static const char head[] = "info thread: ";
	unsigned int who;

	assert_int_equal(strlen(line), strlen(head) + TEXT_BYTES);
	assert_memory_equal(line, head, strlen(head));
	who = (unsigned int)(line[strlen(head)] - 'a');
	assert_in_range(who, 0, N_THREADS - 1);
	assert_memory_equal(line + strlen(head), text[who], TEXT_BYTES - 1);
	assert_int_equal(line[strlen(line) - 1], '\n');
}

static void
test_threads(void **state)
{
	static char text[N_THREADS][TEXT_BYTES];
	struct pollfd readable = { .fd = read_end, .events = POLLIN };
	pthread_t threads[N_THREADS];
	char line[4096];

	(void)state;
	enter();
	for (unsigned int i = 0; i < N_THREADS; i++) {
		memset(text[i], 'a' + (int)i, TEXT_BYTES - 1);
		assert_int_equal(pthread_create(&threads[i], NULL, log_many, text[i]), 0);
	}
	for (unsigned int i = 0; i < N_THREADS * N_LINES; i++) {
		assert_int_equal(poll(&readable, 1, DEADLINE_MS), 1);
		take(line);
		check_thread_line(line, text);
	}
	for (unsigned int i = 0; i < N_THREADS; i++)
		pthread_join(threads[i], NULL);
	leave();
	check_next("");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_levels, setup, teardown),
		cmocka_unit_test_setup_teardown(test_escapes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_truncation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errno, setup, teardown),
		cmocka_unit_test_setup_teardown(test_journal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
