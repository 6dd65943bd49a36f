/*
 * events.h - what functions report by nf_log(), on its way from the pipes to a file, and
 * such files: of lines of JSON.
 *
 * A pipe puts events in a ring when their run's group is applied, before the packet
 * leaves.  The instance's main thread takes them from there (pipe_events()), and writes
 * them.
 */
#ifndef PIPE_EVENTS_H
#define PIPE_EVENTS_H

#include "nf/nf.h"

enum {
	EVENTS_ROOM = 1 << 16,			/* In a pipe's ring. */
	EVENT_TEXT_BYTES = 640,			/* Of a line, with its end. */
};

/* What a handler said. */
struct run_event {
	struct flow flow;
	struct endpoint endpoint;
	uint64_t number;
	uint8_t stage;				/* Whose it is: a place in the chain. */
	uint8_t event;				/* Of that function's. */
	bool has_flow, has_endpoint;
};

struct pipe_event {
	struct run_event said;
	uint64_t id;				/* The version of the run's group. */
	uint64_t tsc;				/* When it was applied. */
	bool unconfirmed;			/* Nobody knows whether it was. */
};

/* Writes the line of an event that one of 'nf' reported 'age_ns' ago.  Returns its
 * bytes. */
unsigned int event_print(const struct nf *nf, const struct pipe_event *e, uint64_t age_ns,
			 char text[EVENT_TEXT_BYTES]);
/* The same for the log, without time and end. */
void event_describe(const struct nf *nf, const struct pipe_event *e,
		    char text[EVENT_TEXT_BYTES]);

/* An alert as a line of Suricata's EVE JSON. */
struct pipe_alert;
unsigned int alert_print(const struct pipe_alert *alert, char text[EVENT_TEXT_BYTES]);

/* A file that lines are added to.  It may be moved away meanwhile. */
struct journal;

int journal_open(const char *path, struct journal **out);
/* Takes a line, which is in the file after journal_flush() at the latest. */
void journal_add(struct journal *j, const char *line, unsigned int bytes);
void journal_flush(struct journal *j);
/* From now on it is the file that has the path now.  A failure is logged, and the old one
 * stays. */
void journal_reopen(struct journal *j);
void journal_close(struct journal *j);		/* NULL is ignored. */

#endif
