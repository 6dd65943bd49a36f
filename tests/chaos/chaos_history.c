/*
 * chaos_history.c - lines of a history: collected, and in the file when it matters.
 */
#include "chaos.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
	HISTORY_LINE = 1024,			/* The longest. */
};

void
history_open(struct history *h, const char *path)
{
	h->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (h->fd < 0) {
		perror(path);
		exit(1);
	}
}

void
history_flush(struct history *h)
{
	for (size_t at = 0; at < h->n;) {
		ssize_t n = write(h->fd, h->text + at, h->n - at);

		if (n < 0) {
			perror("history");
			exit(1);
		}
		at += (size_t)n;
	}
	h->n = 0;
}

void
history_add(struct history *h, const char *format, ...)
{
	va_list args;

	if (sizeof(h->text) - h->n < HISTORY_LINE)
		history_flush(h);
	va_start(args, format);
	h->n += (size_t)vsnprintf(h->text + h->n, HISTORY_LINE, format, args);
	va_end(args);
}

void
history_bytes(struct history *h, const void *bytes, unsigned int n)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = bytes;

	if (sizeof(h->text) - h->n < 2 * n)
		history_flush(h);
	for (unsigned int i = 0; i < n; i++) {
		h->text[h->n++] = digits[b[i] >> 4];
		h->text[h->n++] = digits[b[i] & 15];
	}
}

void
history_value(struct history *h, const void *value, unsigned int bytes)
{
	history_add(h, "/");
	history_bytes(h, value, bytes);
}

uint64_t
chaos_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
