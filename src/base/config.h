/*
 * config.h - reads a YAML file (libyaml) into structs, by a schema.
 *
 * A schema is an array of fields that ends with a zeroed one.  Unknown keys,
 * repeated keys, values of the wrong kind or out of range, and missing required
 * keys are errors, reported as "FILE:LINE: what is wrong, what would be right".
 * Absent keys leave the field as it is: the caller sets the defaults before.
 *
 *   static const struct config_field backend_fields[] = {
 *           { "address", CONFIG_SCALAR, offsetof(struct backend, address),
 *             .parse = parse_endpoint, .required = true, .help = "ADDRESS:PORT" },
 *           { "weight", CONFIG_UINT, offsetof(struct backend, weight),
 *             .min = 1, .max = 100, .help = "its share" },
 *           { 0 }
 *   };
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum config_kind {
	CONFIG_BOOL = 1,			/* bool: true, false, yes, no, on, off */
	CONFIG_UINT,				/* uint64_t within min..max */
	CONFIG_STRING,				/* char *, owned by the config */
	CONFIG_ENUM,				/* int, index into 'words' */
	CONFIG_DURATION,			/* uint64_t milliseconds: 30s, 500ms, 5m, 2h, 5d;
						 * a bare number is seconds; within min..max (ms) */
	CONFIG_SCALAR,				/* any, by 'parse' */
	CONFIG_MAP,				/* a nested struct, by 'fields' */
	CONFIG_LIST,				/* struct config_list of items of 'item_bytes':
						 * maps by 'fields', or scalars by 'parse', or
						 * either where both are given, or strings
						 * (char *) if none is; a single scalar counts
						 * as a list of one */
};

struct config_field {
	const char *key;
	enum config_kind kind;
	size_t offset;				/* In the struct that is filled. */
	bool required;
	uint64_t min, max;			/* UINT, DURATION; max 0: no limit. LIST: items. */
	const char *const *words;		/* ENUM: ends with NULL. */
	const struct config_field *fields;	/* MAP, LIST of maps. */
	size_t item_bytes;			/* LIST */
	/* SCALAR, LIST of scalars: returns 0, or -1 if 'text' is not one (the error then
	 * says that 'help' is wanted).  'out' is a zeroed item of the list, or for a
	 * SCALAR what the caller had there. */
	int (*parse)(const char *text, void *out);
	const char *help;			/* What to write here: also the error's advice. */
};

struct config_list {
	void *items;
	unsigned int n;
};

/* The line on which each list item, map or scalar stood is kept, so that checks
 * made later can name it: config_error(&options->rules[3], "...").  The address
 * is that of the field in the struct. */
struct config;

/*
 * Reads 'path' into 'out' by 'fields'.  On failure prints the errors to standard
 * error and returns -EINVAL (or the errno of opening the file); on success
 * '*config' owns all strings and lists until config_free(), and stays the one that
 * config_error() speaks of in this thread until then or until the next load.
 */
int config_load(const char *path, const struct config_field *fields, void *out,
		struct config **config);
/* The same from memory, 'name' standing for the path. */
int config_load_text(const char *name, const char *text, size_t bytes,
		     const struct config_field *fields, void *out,
		     struct config **config);
void config_free(struct config *c);		/* NULL is ignored. */

/*
 * A second step for sections whose schema is known only after another key was
 * read ("firewall:" if "function: firewall").  In the first step list the key with
 * kind CONFIG_MAP and fields NULL: it is accepted unread.  config_section() then
 * reads it into 'out'; a section that is absent reads as an empty one (so required
 * keys are missed).
 */
int config_section(struct config *c, const char *key, const struct config_field *fields,
		   void *out);

/* The line of such a key, 0 if it is not there. */
unsigned int config_line(struct config *c, const char *key);

/* Prints "FILE:LINE: message" for the place that filled 'field' (an address within
 * what was filled; the nearest enclosing item if that itself was not in the file;
 * the file alone if nothing is known). */
void config_error(const void *field, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
