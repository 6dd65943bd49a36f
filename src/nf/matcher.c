/*
 * matcher.c - the automaton of Aho and Corasick, as a table.
 *
 * States are the prefixes of the strings, numbered in the order in which the strings
 * first need them; so the same strings give the same numbers everywhere.  The table
 * holds the next state for every state and class of bytes, failure links worked in: a
 * byte costs one load.  Bytes that occur in no string are class 0; if there are none,
 * that is the class of the last byte, for there are only 256.
 *
 * The strings that end in a state are a chain: its own, then those that end in the
 * longest shorter suffix, and so on.  A state of the table has a bit set if its chain
 * is not empty, so that the scan looks at nothing else.
 */
#include "nf/matcher.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ENDS 0x80000000U			/* In the table: a string ends here. */
#define NONE UINT32_MAX

struct matcher {
	uint32_t n_states, n_classes;
	uint8_t class_of[256];
	uint32_t *next;				/* [state][class]; ENDS in it. */
	uint32_t *ending;			/* By state: a string that ends, NONE. */
	uint32_t *same_end;			/* By string: another equal one, NONE. */
	uint32_t *suffix;			/* By state: longest with an end, or 0. */
};

static int
hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int
matcher_text_parse(const char *text, void *out)
{
	struct matcher_text *content = out;
	bool in_hex = false;

	content->n_bytes = 0;
	for (const char *at = text; *at != '\0'; at++) {
		int byte;

		if (*at == '|') {
			in_hex = !in_hex;
			continue;
		}
		if (in_hex && *at == ' ')
			continue;
		if (in_hex) {
			byte = hex(at[0]) < 0 ? -1 : hex(at[0]) << 4 | hex(at[1]);
			at++;
		} else {
			at += *at == '\\';
			byte = *at == '\0' ? -1 : (unsigned char)*at;
		}
		if (byte < 0 || content->n_bytes == MATCHER_TEXT_BYTES)
			return -EINVAL;
		content->bytes[content->n_bytes++] = (uint8_t)byte;
	}
	return in_hex || content->n_bytes == 0 ? -EINVAL : 0;
}

void
matcher_free(struct matcher *m)
{
	if (m == NULL)
		return;
	free(m->next);
	free(m->ending);
	free(m->same_end);
	free(m->suffix);
	free(m);
}

uint32_t
matcher_n_states(const struct matcher *m)
{
	return m->n_states;
}

static void
make_classes(struct matcher *m, const struct matcher_string *strings, unsigned int n)
{
	m->n_classes = 1;			/* 0: in no string. */
	for (unsigned int i = 0; i < n; i++) {
		for (size_t at = 0; at < strings[i].n_bytes; at++) {
			uint8_t *class = &m->class_of[strings[i].bytes[at]];

			if (*class == 0 && m->n_classes < 256)
				*class = (uint8_t)m->n_classes++;
		}
	}
}

static int
make_room(struct matcher *m, const struct matcher_string *strings, unsigned int n)
{
	size_t states = 1;

	for (unsigned int i = 0; i < n; i++)
		states += strings[i].n_bytes;
	if (states > MATCHER_MAX_BYTES)
		return -E2BIG;
	m->next = calloc(states * m->n_classes, sizeof(*m->next));
	m->ending = malloc(states * sizeof(*m->ending));
	m->suffix = calloc(states, sizeof(*m->suffix));
	m->same_end = malloc((n + 1) * sizeof(*m->same_end));
	if (m->next == NULL || m->ending == NULL || m->suffix == NULL ||
	    m->same_end == NULL)
		return -ENOMEM;
	memset(m->ending, 0xff, states * sizeof(*m->ending));
	m->n_states = 1;
	return 0;
}

/* The tree of all prefixes; 0 in the table still means "nothing there". */
static void
add_string(struct matcher *m, const struct matcher_string *string, uint32_t i)
{
	uint32_t state = MATCHER_START;

	for (size_t at = 0; at < string->n_bytes; at++) {
		uint32_t *to = &m->next[(size_t)state * m->n_classes +
					m->class_of[string->bytes[at]]];

		if (*to == 0)
			*to = m->n_states++;
		state = *to;
	}
	m->same_end[i] = m->ending[state];
	m->ending[state] = i;
}

/*
 * Breadth first: a state's failure is the state of its longest proper suffix, which
 * is nearer to the start, so its row is complete when it is needed.
 */
static int
link_states(struct matcher *m)
{
	uint32_t *queue = malloc(m->n_states * sizeof(*queue));
	uint32_t *failure = calloc(m->n_states, sizeof(*failure));
	uint32_t head = 0, tail = 0;

	if (queue == NULL || failure == NULL) {
		free(queue);
		free(failure);
		return -ENOMEM;
	}
	queue[tail++] = MATCHER_START;
	while (head < tail) {
		uint32_t state = queue[head++], fail = failure[state];
		uint32_t *row = &m->next[(size_t)state * m->n_classes];
		const uint32_t *fail_row = &m->next[(size_t)fail * m->n_classes];

		m->suffix[state] = m->ending[fail] != NONE ? fail : m->suffix[fail];
		for (uint32_t c = 0; c < m->n_classes; c++) {
			if (row[c] == 0) {
				row[c] = fail_row[c];
				continue;
			}
			failure[row[c]] = state == MATCHER_START ? MATCHER_START
								 : fail_row[c];
			queue[tail++] = row[c];
		}
	}
	free(queue);
	free(failure);
	return 0;
}

static void
mark_ends(struct matcher *m)
{
	size_t n = (size_t)m->n_states * m->n_classes;

	for (size_t i = 0; i < n; i++) {
		uint32_t to = m->next[i];

		if (m->ending[to] != NONE || m->suffix[to] != 0)
			m->next[i] |= ENDS;
	}
}

int
matcher_new(const struct matcher_string *strings, unsigned int n, struct matcher **out)
{
	struct matcher *m = calloc(1, sizeof(*m));
	int err;

	if (m == NULL)
		return -ENOMEM;
	make_classes(m, strings, n);
	err = make_room(m, strings, n);
	if (err != 0)
		goto free_matcher;
	for (uint32_t i = 0; i < n; i++)
		add_string(m, &strings[i], i);
	err = link_states(m);
	if (err != 0)
		goto free_matcher;
	mark_ends(m);
	*out = m;
	return 0;
free_matcher:
	matcher_free(m);
	return err;
}

static void
report(const struct matcher *m, uint32_t state,
       void (*found)(void *context, unsigned int string), void *context)
{
	for (; state != 0; state = m->suffix[state])
		for (uint32_t i = m->ending[state]; i != NONE; i = m->same_end[i])
			found(context, i);
}

uint32_t
matcher_scan(const struct matcher *m, uint32_t state, const uint8_t *bytes,
	     size_t n_bytes, void (*found)(void *context, unsigned int string),
	     void *context)
{
	for (size_t i = 0; i < n_bytes; i++) {
		const uint32_t *row = &m->next[(size_t)state * m->n_classes];
		uint32_t to = row[m->class_of[bytes[i]]];

		state = to & ~ENDS;
		if (to & ENDS)
			report(m, state, found, context);
	}
	return state;
}
