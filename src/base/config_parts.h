/*
 * config_parts.h - what the three files behind config.h share.
 *
 * config.c makes a tree of the text and owns what was read; config_walk.c takes the
 * tree apart by a schema; config_scalar.c knows single values and good advice.
 */
#ifndef BASE_CONFIG_PARTS_H
#define BASE_CONFIG_PARTS_H

#include "config.h"

#include <yaml.h>

enum {
	CONFIG_TEXT_BYTES = 1024,		/* Of an error, a path or an advice. */
	CONFIG_MAX_DEPTH = 32,			/* Of maps and lists in each other. */
};

/* Which line filled 'bytes' bytes at 'start'. */
struct config_place {
	const unsigned char *start;
	size_t bytes;
	unsigned int line;
};

struct config {
	char *name;				/* The path, as errors give it. */
	yaml_document_t document;		/* Kept for config_section(). */
	struct config_block *blocks;		/* All that walks handed out. */
	struct config_place *places;		/* Enclosing ones before enclosed ones. */
	size_t n_places, max_places;
};

/* Zeroed memory that lives as long as the config, or NULL. */
void *config_alloc(struct config *c, size_t bytes);

/* Remembers where 'bytes' bytes at 'start' come from.  Returns 0 or -ENOMEM. */
int config_place_add(struct config *c, const void *start, size_t bytes,
		     unsigned int line);

/* Fills 'out' from the map 'node' (NULL for none: an empty one), which stands on 'line'
 * under the key 'path' ("" at the top).  Prints the errors; returns 0 or -errno. */
int config_walk(struct config *c, const struct config_field *fields, yaml_node_t *node,
		unsigned int line, const char *path, void *out);

unsigned int config_node_line(const yaml_node_t *node);

/* Appends to the string in 'text', which has room for 'bytes'; cuts what is longer. */
void config_append(char *text, size_t bytes, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Appends a text out of the file, the end of a long one left out. */
void config_append_shown(char *text, size_t bytes, const char *shown);

/* Reads 'value' into '*out' as a scalar field's kind says, strings excepted, for they
 * need memory.  Returns 0, or -1 if it is not one. */
int config_scalar(const struct config_field *field, const char *value, void *out);

/* Appends what is wrong with 'value', and what would be right: "is 99, want 1 to 64
 * (the field's help)". */
void config_advise(const struct config_field *field, const char *value, char *text,
		   size_t bytes);

/* The same where no scalar stood, but 'what': "a list". */
void config_advise_kind(const struct config_field *field, const char *what, char *text,
			size_t bytes);

/* Of the words offered one by one to a zeroed struct, the one that 'typed' most
 * probably meant; 'best' stays NULL if none is near. */
struct config_nearest {
	const char *best;
	unsigned int distance;
};

void config_nearest_offer(struct config_nearest *n, const char *typed, const char *word);

#endif
