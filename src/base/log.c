/*
 * log.c - the one place that writes to standard error.
 *
 * A line is put together in memory and leaves in a single write(2) of less than
 * PIPE_BUF bytes, so that lines of several threads or processes never mix.  What
 * is logged may come from a peer or a file: control bytes, which could end the
 * line or speak to the terminal, are written as escapes.  errno is left alone, so
 * that a line can stand between a failure and its "return -errno".
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	LINE_BYTES = 2048,
	TAIL_BYTES = 8,				/* An escape, "...", the newline. */
	MESSAGE_BYTES = LINE_BYTES + 1,		/* So only the line cuts, and between
						 * characters. */
};

static const struct {
	const char *name;
	int priority;				/* As of syslog(3). */
} levels[] = {
	[LOG_ERROR] = { "error", 3 },
	[LOG_WARNING] = { "warning", 4 },
	[LOG_INFO] = { "info", 6 },
	[LOG_DEBUG] = { "debug", 7 },
};

static _Atomic enum log_level max_level = LOG_INFO;

/* JOURNAL_STREAM is inherited by programs whose standard error goes elsewhere, so
 * it names the journal's stream by device and inode (systemd.exec(5)). */
static bool
under_journald(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device &&
	       st.st_ino == inode;
}

/* Bytes of the character at 'at', or 0 if it has to be escaped: a control character
 * (C0, DEL, or C1 in its UTF-8 form) or no UTF-8. */
static unsigned int
printable_bytes(const unsigned char *at)
{
	unsigned int n = at[0] < 0x80 ? 1 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;

	if (at[0] < 0x20 || at[0] == 0x7f || (at[0] >= 0x80 && at[0] < 0xc2) ||
	    at[0] >= 0xf5 || (at[0] == 0xc2 && at[1] < 0xa0))
		return 0;
	for (unsigned int i = 1; i < n; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

/* Writes the byte as an escape of at most 4 bytes, returns how many. */
static unsigned int
put_escape(char *to, unsigned char byte)
{
	static const char hex[] = "0123456789abcdef";

	to[0] = '\\';
	if (byte == '\n' || byte == '\t') {
		to[1] = byte == '\n' ? 'n' : 't';
		return 2;
	}
	to[1] = 'x';
	to[2] = hex[byte >> 4];
	to[3] = hex[byte & 15];
	return 4;
}

static void
write_line(int priority, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;
	char line[LINE_BYTES];
	size_t n = 0;

	if (under_journald())
		n = (size_t)snprintf(line, sizeof(line), "<%d>", priority);
	while (*at != '\0' && n <= sizeof(line) - TAIL_BYTES) {
		unsigned int bytes = printable_bytes(at);

		if (bytes == 0) {
			n += put_escape(line + n, *at++);
			continue;
		}
		memcpy(line + n, at, bytes);
		n += bytes;
		at += bytes;
	}
	if (*at != '\0') {
		memcpy(line + n, "...", 3);
		n += 3;
	}
	line[n++] = '\n';
	while (write(STDERR_FILENO, line, n) < 0 && errno == EINTR)
		;
}

/* Formats behind the first 'used' bytes of 'text'. */
static void
format_rest(char *text, size_t used, const char *format, va_list args)
{
	if (vsnprintf(text + used, MESSAGE_BYTES - used, format, args) < 0)
		text[used] = '\0';
}

void
log_set_level(enum log_level level)
{
	atomic_store_explicit(&max_level, level, memory_order_relaxed);
}

void
log_line(enum log_level level, const char *component, const char *format, ...)
{
	char text[MESSAGE_BYTES];
	int saved = errno;
	va_list args;

	if (level > atomic_load_explicit(&max_level, memory_order_relaxed))
		return;

	int used = snprintf(text, sizeof(text) / 2, "%s %s: ", levels[level].name,
			    component);

	if (used >= (int)sizeof(text) / 2)
		used = sizeof(text) / 2 - 1;
	errno = saved;			/* The format may hold %m. */
	va_start(args, format);
	format_rest(text, (size_t)used, format, args);
	va_end(args);
	write_line(levels[level].priority, text);
	errno = saved;
}

void
log_plain(const char *format, ...)
{
	char text[MESSAGE_BYTES];
	int saved = errno;
	va_list args;

	va_start(args, format);
	format_rest(text, 0, format, args);
	va_end(args);
	write_line(levels[LOG_ERROR].priority, text);
	errno = saved;
}
