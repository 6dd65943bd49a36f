/*
 * log.h - log lines: "level component: what happened, what it means", one each, to
 * standard error; under journald (JOURNAL_STREAM) with its <priority> prefix.
 * Any thread; a line is written by one system call.  Never on the packet path.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level {
	LOG_ERROR,
	LOG_WARNING,
	LOG_INFO,
	LOG_DEBUG,
};

/* Lines above 'level' are not written.  At start: LOG_INFO. */
void log_set_level(enum log_level level);

void log_line(enum log_level level, const char *component, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* A line for whoever started the program, such as "FILE:LINE: what is wrong": at
 * every level, without level and component. */
void log_plain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
