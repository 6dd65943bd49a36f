/*
 * config.c - a configuration file from opening to freeing.
 *
 * libyaml makes a tree of the text, config_walk.c fills structs from it, and what came
 * of that stays here: the tree for a later config_section(), the memory of strings and
 * lists, and the places by which config_error() finds the line of an address.  Whoever
 * checks values after they were read therefore carries no line numbers around.
 */
#include "config_parts.h"

#include <errno.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

enum {
	MAX_FILE_BYTES = 16 << 20,		/* A hundred thousand rules and more. */
	MAX_ANCHORS = 1000,
};

struct config_block {
	struct config_block *next;
	alignas(max_align_t) unsigned char bytes[];
};

/* What libyaml says, and what it usually means. */
static const struct {
	const char *problem, *hint;
} hints[] = {
	{ "mapping values are not allowed in this context",
	  "check ':' and indentation here and in the line before, and quote a value that "
	  "has ': ' in it or ends with ':'" },
	{ "found character that cannot start any token",
	  "indent with spaces, not tabs, and quote values that begin with @, ` or %" },
	{ "did not find expected key", "check the indentation" },
	{ "did not find expected '-' indicator", "check the indentation" },
	{ "could not find expected ':'", "a key is followed by ': '" },
	{ "found undefined alias", "quote values that begin with *" },
};

static _Thread_local struct config *current;

void *
config_alloc(struct config *c, size_t bytes)
{
	struct config_block *block = calloc(1, sizeof(*block) + bytes);

	if (block == NULL)
		return NULL;
	block->next = c->blocks;
	c->blocks = block;
	return block->bytes;
}

int
config_place_add(struct config *c, const void *start, size_t bytes, unsigned int line)
{
	if (c->n_places == c->max_places) {
		size_t max = c->max_places > 0 ? 2 * c->max_places : 64;
		struct config_place *places =
			reallocarray(c->places, max, sizeof(*places));

		if (places == NULL)
			return -ENOMEM;
		c->places = places;
		c->max_places = max;
	}
	c->places[c->n_places++] =
		(struct config_place){ .start = start, .bytes = bytes, .line = line };
	return 0;
}

/* The smallest place around 'field': of a struct and its first member, which share an
 * address, the member.  Of equal ones the last, for it lies inside the others, or has
 * taken the address over. */
static const struct config_place *
find_place(const struct config *c, const unsigned char *field)
{
	const struct config_place *best = NULL;

	for (size_t i = 0; i < c->n_places; i++) {
		const struct config_place *p = &c->places[i];

		if (field >= p->start && (size_t)(field - p->start) < p->bytes &&
		    (best == NULL || p->bytes <= best->bytes))
			best = p;
	}
	return best;
}

void
config_error(const void *field, const char *format, ...)
{
	char text[CONFIG_TEXT_BYTES];
	const struct config_place *found;
	va_list args;

	va_start(args, format);
	if (vsnprintf(text, sizeof(text), format, args) < 0)
		text[0] = '\0';
	va_end(args);
	if (current == NULL) {
		log_plain("%s", text);
		return;
	}
	found = find_place(current, field);
	if (found != NULL)
		log_plain("%s:%u: %s", current->name, found->line, text);
	else
		log_plain("%s: %s", current->name, text);
}

void
config_free(struct config *c)
{
	if (c == NULL)
		return;
	if (current == c)
		current = NULL;
	while (c->blocks != NULL) {
		struct config_block *next = c->blocks->next;

		free(c->blocks);
		c->blocks = next;
	}
	yaml_document_delete(&c->document);
	free(c->places);
	free(c->name);
	free(c);
}

static struct config *
config_new(const char *name)
{
	struct config *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->name = strdup(name);
	if (c->name == NULL) {
		free(c);
		return NULL;
	}
	return c;
}

static int
no_memory(const char *name)
{
	log_plain("%s: out of memory", name);
	return -ENOMEM;
}

/* Prints why libyaml stopped, and returns the errno for it. */
static int
report_syntax(const struct config *c, const yaml_parser_t *p, const char *text,
	      size_t bytes)
{
	size_t line = p->problem_mark.line + 1;
	const char *hint = NULL;
	char where[64] = "";

	if (p->error == YAML_MEMORY_ERROR || p->problem == NULL)
		return no_memory(c->name);
	if (p->error == YAML_READER_ERROR) {
		/* It stopped before there were lines: the bytes are no text. */
		line = 1;
		for (size_t i = 0; i < bytes && i < p->problem_offset; i++)
			line += text[i] == '\n';
	}
	for (unsigned int i = 0; i < sizeof(hints) / sizeof(hints[0]); i++) {
		if (strcmp(p->problem, hints[i].problem) == 0)
			hint = hints[i].hint;
	}
	if (p->context != NULL && p->context_mark.line != p->problem_mark.line)
		snprintf(where, sizeof(where), " %s (line %zu)", p->context,
			 p->context_mark.line + 1);
	log_plain("%s:%zu: not valid YAML: %s%s%s%s", c->name, line, p->problem, where,
		  hint != NULL ? "; " : "", hint != NULL ? hint : "");
	return -EINVAL;
}

/* What the events up to now have shown. */
struct survey {
	unsigned int depth, n_anchors, n_documents;
};

static void
survey_event(struct survey *s, const yaml_event_t *event)
{
	const yaml_char_t *anchor = NULL;

	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		s->n_documents++;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = event->data.mapping_start.anchor;
		s->depth++;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = event->data.sequence_start.anchor;
		s->depth++;
		break;
	case YAML_MAPPING_END_EVENT:
	case YAML_SEQUENCE_END_EVENT:
		s->depth--;
		break;
	case YAML_SCALAR_EVENT:
		anchor = event->data.scalar.anchor;
		break;
	default:
		break;
	}
	s->n_anchors += anchor != NULL;
}

/* Says whether 's' is still a file as we read it, and prints it if not. */
static bool
survey_within_limits(const struct config *c, const struct survey *s, size_t line)
{
	if (s->n_documents > 1)
		log_plain("%s:%zu: a second document begins, want one in a file", c->name,
			  line);
	else if (s->depth > CONFIG_MAX_DEPTH)
		log_plain("%s:%zu: maps and lists lie too deep in each other, want at "
			  "most %d levels",
			  c->name, line, CONFIG_MAX_DEPTH);
	else if (s->n_anchors > MAX_ANCHORS)
		log_plain("%s:%zu: too many anchors (&name), want at most %d", c->name,
			  line, MAX_ANCHORS);
	else
		return true;
	return false;
}

/* Goes over the text once without making a tree: the time that libyaml takes for one
 * grows with the square of depth and anchors, to minutes for a hostile megabyte. */
static int
survey_text(const struct config *c, const char *text, size_t bytes)
{
	struct survey survey = { 0 };
	yaml_event_type_t type;
	yaml_parser_t parser;
	int err = 0;

	if (yaml_parser_initialize(&parser) == 0)
		return no_memory(c->name);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
	do {
		yaml_event_t event;

		if (yaml_parser_parse(&parser, &event) == 0) {
			err = report_syntax(c, &parser, text, bytes);
			break;
		}
		type = event.type;
		survey_event(&survey, &event);
		if (!survey_within_limits(c, &survey, event.start_mark.line + 1))
			err = -EINVAL;
		yaml_event_delete(&event);
	} while (err == 0 && type != YAML_STREAM_END_EVENT);
	yaml_parser_delete(&parser);
	return err;
}

/* Makes the tree.  Prints the errors; returns 0 or -errno. */
static int
parse(struct config *c, const char *text, size_t bytes)
{
	int err = survey_text(c, text, bytes);
	yaml_parser_t parser;

	if (err != 0)
		return err;
	if (yaml_parser_initialize(&parser) == 0)
		return no_memory(c->name);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
	if (yaml_parser_load(&parser, &c->document) == 0)
		err = report_syntax(c, &parser, text, bytes);
	yaml_parser_delete(&parser);
	return err;
}

/* The line of what 'root' begins with. */
static unsigned int
root_line(const yaml_node_t *root)
{
	return root != NULL ? config_node_line(root) : 1;
}

int
config_load_text(const char *name, const char *text, size_t bytes,
		 const struct config_field *fields, void *out, struct config **config)
{
	struct config *c = config_new(name);
	yaml_node_t *root;
	int err;

	if (c == NULL)
		return no_memory(name);
	err = parse(c, text, bytes);
	if (err != 0)
		goto free_config;
	root = yaml_document_get_root_node(&c->document);
	err = config_walk(c, fields, root, root_line(root), "", out);
	if (err != 0)
		goto free_config;
	current = c;
	*config = c;
	return 0;
free_config:
	config_free(c);
	return err;
}

/* The value of a key of the file, or NULL, and the key's line. */
static yaml_node_t *
find_section(struct config *c, const char *key, unsigned int *line)
{
	yaml_node_t *root = yaml_document_get_root_node(&c->document);
	yaml_node_pair_t *pair = NULL, *end = NULL;

	if (root != NULL && root->type == YAML_MAPPING_NODE) {
		pair = root->data.mapping.pairs.start;
		end = root->data.mapping.pairs.top;
	}
	for (; pair < end; pair++) {
		yaml_node_t *k = yaml_document_get_node(&c->document, pair->key);

		/* The first step has refused keys that are no words. */
		if (strcmp((const char *)k->data.scalar.value, key) != 0)
			continue;
		*line = config_node_line(k);
		return yaml_document_get_node(&c->document, pair->value);
	}
	return NULL;
}

int
config_section(struct config *c, const char *key, const struct config_field *fields,
	       void *out)
{
	unsigned int line = root_line(yaml_document_get_root_node(&c->document));
	yaml_node_t *node = find_section(c, key, &line);

	return config_walk(c, fields, node, line, key, out);
}

unsigned int
config_line(struct config *c, const char *key)
{
	unsigned int line = 0;

	find_section(c, key, &line);
	return line;
}

/* Reads the whole of 'f' into memory of the caller's to free. */
static int
read_all(FILE *f, const char *path, char **text, size_t *bytes)
{
	char *buffer = malloc(MAX_FILE_BYTES + 1);
	int err = 0;

	if (buffer == NULL)
		return no_memory(path);
	*bytes = fread(buffer, 1, MAX_FILE_BYTES + 1, f);
	if (ferror(f)) {
		log_plain("%s: cannot be read: %s", path, strerror(errno));
		err = -EIO;
		goto free_buffer;
	}
	if (*bytes > MAX_FILE_BYTES) {
		log_plain("%s: is too large, want at most %d MiB", path,
			  MAX_FILE_BYTES >> 20);
		err = -EINVAL;
		goto free_buffer;
	}
	*text = buffer;
	return 0;
free_buffer:
	free(buffer);
	return err;
}

int
config_load(const char *path, const struct config_field *fields, void *out,
	    struct config **config)
{
	FILE *f = fopen(path, "re");
	size_t bytes;
	char *text;
	int err;

	if (f == NULL) {
		err = -errno;
		log_plain("%s: cannot be opened: %s", path, strerror(-err));
		return err;
	}
	err = read_all(f, path, &text, &bytes);
	fclose(f);
	if (err != 0)
		return err;
	err = config_load_text(path, text, bytes, fields, out, config);
	free(text);
	return err;
}
