/*
 * config_walk.c - takes a YAML tree apart by a schema.
 *
 * A walk goes on after an error, so that one run of a program shows all that is wrong
 * with its file.  It goes as deep as the schema and visits few more values than the
 * file has: aliases are followed, but a small file cannot stand for a huge one, nor a
 * circle for an endless one.  Each value that is filled gets a place, by which
 * config_error() later finds its line.
 */
#include "config_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "log.h"

enum {
	MAX_ERRORS = 10,			/* Printed; the rest is counted. */
	MAX_FIELDS = 64,			/* Of one map in a schema. */
	MAX_ALIASED = 100000,			/* Values read again, through aliases. */
};

struct walk {
	struct config *config;
	char path[CONFIG_TEXT_BYTES];		/* Of the value at hand. */
	unsigned int depth;
	size_t n_left;				/* Values that may still be visited. */
	unsigned int n_errors;
	int err;				/* Not 0: the walk is over. */
};

struct value {
	const struct config_field *field;	/* How to read it. */
	yaml_node_t *node;
	unsigned int line;			/* The one to blame. */
};

/* What a map has shown so far, by index of its fields. */
struct seen {
	unsigned int line[MAX_FIELDS];		/* 0: absent. */
	bool misspelt[MAX_FIELDS];		/* An unknown key may have meant it. */
};

static void walk_map(struct walk *w, const struct config_field *fields, yaml_node_t *node,
		     unsigned int line, void *out);

unsigned int
config_node_line(const yaml_node_t *node)
{
	return (unsigned int)node->start_mark.line + 1;
}

static const char *
node_text(const yaml_node_t *node)
{
	return (const char *)node->data.scalar.value;
}

/* "key:" with nothing behind it, or one of YAML's words for that. */
static bool
node_is_null(const yaml_node_t *node)
{
	static const char *const words[] = { "", "~", "null", "Null", "NULL" };

	if (node->type != YAML_SCALAR_NODE ||
	    node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(node_text(node), words[i]) == 0)
			return true;
	}
	return false;
}

/* Only a double-quoted "\0" makes one; as a C string the value would be another. */
static bool
node_has_zero_byte(const yaml_node_t *node)
{
	return node->type == YAML_SCALAR_NODE &&
	       strlen(node_text(node)) != node->data.scalar.length;
}

/* A tag tells how to read a value, which is what the schema does. */
static bool
node_has_foreign_tag(const yaml_node_t *node)
{
	static const char yaml[] = "tag:yaml.org,2002:";

	return strncmp((const char *)node->tag, yaml, strlen(yaml)) != 0;
}

static void __attribute__((format(printf, 3, 4)))
report(struct walk *w, unsigned int line, const char *format, ...)
{
	char text[2 * CONFIG_TEXT_BYTES];
	va_list args;

	if (++w->n_errors > MAX_ERRORS)
		return;
	va_start(args, format);
	if (vsnprintf(text, sizeof(text), format, args) < 0)
		text[0] = '\0';
	va_end(args);
	log_plain("%s:%u: %s", w->config->name, line, text);
}

/* Begins an error with what is at hand: "'ports.inside' ", or "the file ". */
static void
append_subject(const struct walk *w, char *text, size_t bytes)
{
	if (w->path[0] != '\0')
		config_append(text, bytes, "'%s' ", w->path);
	else
		config_append(text, bytes, "the file ");
}

/* "'max' is 99, want 1 to 64" */
static void
report_value(struct walk *w, const struct value *v)
{
	char text[CONFIG_TEXT_BYTES] = "";

	append_subject(w, text, sizeof(text));
	if (node_is_null(v->node))
		config_advise_kind(v->field, "empty", text, sizeof(text));
	else if (v->node->type == YAML_MAPPING_NODE)
		config_advise_kind(v->field, "a map", text, sizeof(text));
	else if (v->node->type == YAML_SEQUENCE_NODE)
		config_advise_kind(v->field, "a list", text, sizeof(text));
	else
		config_advise(v->field, node_text(v->node), text, sizeof(text));
	report(w, v->line, "%s", text);
}

static void
report_tag(struct walk *w, const struct value *v)
{
	char text[CONFIG_TEXT_BYTES] = "";

	append_subject(w, text, sizeof(text));
	config_append(text, sizeof(text), "has the tag ");
	config_append_shown(text, sizeof(text), (const char *)v->node->tag);
	report(w, v->line, "%s, want none", text);
}

/* Extends the path, returns its length before, for path_cut(). */
static size_t
path_enter(struct walk *w, const char *key)
{
	size_t before = strlen(w->path);

	config_append(w->path, sizeof(w->path), "%s", before > 0 ? "." : "");
	config_append_shown(w->path, sizeof(w->path), key);
	return before;
}

static void
path_cut(struct walk *w, size_t length)
{
	w->path[length] = '\0';
}

/* Bytes of the struct that a field is known to fill.  Only its parse function knows
 * the size of a scalar, and only items of a list say theirs. */
static size_t
field_extent(const struct config_field *field)
{
	size_t extent = 1;

	switch (field->kind) {
	case CONFIG_BOOL:
		return sizeof(bool);
	case CONFIG_UINT:
	case CONFIG_DURATION:
		return sizeof(uint64_t);
	case CONFIG_STRING:
		return sizeof(char *);
	case CONFIG_ENUM:
		return sizeof(int);
	case CONFIG_LIST:
		return sizeof(struct config_list);
	case CONFIG_SCALAR:
	case CONFIG_MAP:
		break;
	}
	if (field->item_bytes != 0)
		return field->item_bytes;
	for (const struct config_field *f = field->fields; f != NULL && f->key != NULL;
	     f++) {
		size_t end = f->offset + field_extent(f);

		extent = end > extent ? end : extent;
	}
	return extent;
}

static void
place(struct walk *w, const struct value *v, const void *out)
{
	int err = config_place_add(w->config, out, field_extent(v->field), v->line);

	if (err != 0)
		w->err = err;
}

static void
walk_scalar(struct walk *w, const struct value *v, void *out)
{
	if (v->node->type != YAML_SCALAR_NODE || node_is_null(v->node)) {
		report_value(w, v);
		return;
	}
	if (node_has_zero_byte(v->node)) {
		report(w, v->line, "'%s' has a zero byte in it", w->path);
		return;
	}

	const char *text = node_text(v->node);

	if (v->field->kind == CONFIG_STRING) {
		char *copy = config_alloc(w->config, strlen(text) + 1);

		if (copy == NULL) {
			w->err = -ENOMEM;
			return;
		}
		strcpy(copy, text);
		*(char **)out = copy;
	} else if (config_scalar(v->field, text, out) != 0) {
		report_value(w, v);
		return;
	}
	place(w, v, out);
}

static void
walk_map_value(struct walk *w, const struct value *v, void *out)
{
	if (v->node->type != YAML_MAPPING_NODE && !node_is_null(v->node)) {
		report_value(w, v);
		return;
	}
	/* What is absent at the top is in no line, not in the first one. */
	if (w->path[0] != '\0')
		place(w, v, out);
	if (v->field->fields == NULL)
		return;
	/* The file is not as deep; but an alias of what it stands in has no bottom, if
	 * a schema that contains itself follows it. */
	if (w->depth == CONFIG_MAX_DEPTH) {
		report(w, v->line, "'%s' lies too deep, want at most %d levels", w->path,
		       CONFIG_MAX_DEPTH);
		return;
	}
	w->depth++;
	walk_map(w, v->field->fields, v->node, v->line, out);
	w->depth--;
}

static void walk_list(struct walk *w, const struct value *v, void *out);

static void
walk_value(struct walk *w, const struct value *v, void *out)
{
	if (w->n_left == 0) {
		report(w, v->line, "too many values, at most %d may come from aliases",
		       MAX_ALIASED);
		w->err = -EINVAL;
		return;
	}
	w->n_left--;
	if (node_has_foreign_tag(v->node)) {
		report_tag(w, v);
		return;
	}
	if (v->field->kind == CONFIG_MAP)
		walk_map_value(w, v, out);
	else if (v->field->kind == CONFIG_LIST)
		walk_list(w, v, out);
	else
		walk_scalar(w, v, out);
}

/* The items of a list are fields without a key; where they may be maps or scalars, each
 * is what it looks like. */
static struct config_field
item_field(const struct config_field *list, const yaml_node_t *node)
{
	struct config_field item = {
		.kind = CONFIG_STRING,
		.item_bytes = list->item_bytes,
		.fields = list->fields,
		.parse = list->parse,
		.help = list->help,
	};

	if (list->fields != NULL &&
	    (list->parse == NULL || node->type == YAML_MAPPING_NODE))
		item.kind = CONFIG_MAP;
	else if (list->parse != NULL)
		item.kind = CONFIG_SCALAR;
	return item;
}

/* The number of items, or -1 if the value is neither a list nor the one scalar that
 * stands for it. */
static ptrdiff_t
list_length(const struct value *v)
{
	yaml_node_t *node = v->node;

	if (node->type == YAML_SEQUENCE_NODE)
		return node->data.sequence.items.top - node->data.sequence.items.start;
	if (node->type == YAML_SCALAR_NODE && !node_is_null(node) &&
	    (v->field->fields == NULL || v->field->parse != NULL))
		return 1;
	return -1;
}

static void
walk_item(struct walk *w, const struct value *list, unsigned int i, void *out)
{
	struct value item = { .node = list->node, .line = list->line };
	size_t before = strlen(w->path);
	struct config_field field;

	if (list->node->type == YAML_SEQUENCE_NODE) {
		int node = list->node->data.sequence.items.start[i];
		unsigned int line;

		item.node = yaml_document_get_node(&w->config->document, node);
		line = config_node_line(item.node);
		/* The node of an alias stands where its anchor is: further up. */
		item.line = line > list->line ? line : list->line;
		config_append(w->path, sizeof(w->path), "[%u]", i);
	}
	field = item_field(list->field, item.node);
	item.field = &field;
	walk_value(w, &item, out);
	path_cut(w, before);
}

/* Of a list of strings nobody has to say it. */
static size_t
item_bytes(const struct config_field *list)
{
	return list->fields == NULL && list->parse == NULL ? sizeof(char *)
							   : list->item_bytes;
}

static void
walk_list(struct walk *w, const struct value *v, void *out)
{
	size_t bytes = item_bytes(v->field);
	struct config_list *list = out;
	ptrdiff_t n = list_length(v);

	if (n < 0) {
		report_value(w, v);
		return;
	}
	if ((uint64_t)n < v->field->min ||
	    (v->field->max != 0 && (uint64_t)n > v->field->max)) {
		char what[32], text[CONFIG_TEXT_BYTES] = "";

		snprintf(what, sizeof(what), "of length %td", n);
		append_subject(w, text, sizeof(text));
		config_advise_kind(v->field, what, text, sizeof(text));
		report(w, v->line, "%s", text);
		return;
	}
	*list = (struct config_list){ 0 };
	place(w, v, out);
	/* A list that aliases repeat is not given memory that it will not fill. */
	if ((size_t)n > w->n_left)
		n = (ptrdiff_t)w->n_left + 1;
	if (n > 0)
		list->items = config_alloc(w->config, (size_t)n * bytes);
	if (n > 0 && list->items == NULL) {
		w->err = -ENOMEM;
		return;
	}
	list->n = (unsigned int)n;
	for (unsigned int i = 0; i < list->n && w->err == 0; i++)
		walk_item(w, v, i, (unsigned char *)list->items + i * bytes);
}

static void
report_unknown(struct walk *w, const struct config_field *fields, const char *key,
	       unsigned int line, struct seen *seen)
{
	char text[CONFIG_TEXT_BYTES] = "";
	struct config_nearest near = { 0 };

	for (unsigned int i = 0; fields[i].key != NULL; i++)
		config_nearest_offer(&near, key, fields[i].key);
	if (near.best != NULL)
		config_append(text, sizeof(text), ", did you mean '%s'?", near.best);
	for (unsigned int i = 0; fields[i].key != NULL; i++) {
		config_append(text, sizeof(text), "%s%s", i == 0 ? " (one of: " : ", ",
			      fields[i].key);
		seen->misspelt[i] |= fields[i].key == near.best;
	}

	size_t before = path_enter(w, key);

	report(w, line, "unknown key '%s'%s)", w->path, text);
	path_cut(w, before);
}

static void
walk_known(struct walk *w, const struct config_field *field, yaml_node_t *node,
	   unsigned int key_line, void *out)
{
	struct value value = { .field = field, .node = node, .line = key_line };

	/* A text may stand below its key; that of an alias stands further up. */
	if (node->type == YAML_SCALAR_NODE && config_node_line(node) > key_line)
		value.line = config_node_line(node);

	size_t before = path_enter(w, field->key);

	walk_value(w, &value, (unsigned char *)out + field->offset);
	path_cut(w, before);
}

static void
walk_pair(struct walk *w, const struct config_field *fields, yaml_node_pair_t *pair,
	  struct seen *seen, void *out)
{
	yaml_node_t *key = yaml_document_get_node(&w->config->document, pair->key);
	yaml_node_t *value = yaml_document_get_node(&w->config->document, pair->value);
	unsigned int line = config_node_line(key), i = 0;

	if (key->type != YAML_SCALAR_NODE || node_has_zero_byte(key)) {
		char text[CONFIG_TEXT_BYTES] = "";

		append_subject(w, text, sizeof(text));
		report(w, line, "%shas a key that is not a word", text);
		return;
	}
	while (fields[i].key != NULL && strcmp(fields[i].key, node_text(key)) != 0)
		i++;
	assert(i < MAX_FIELDS);
	if (fields[i].key == NULL) {
		report_unknown(w, fields, node_text(key), line, seen);
		return;
	}
	if (seen->line[i] != 0) {
		size_t before = path_enter(w, fields[i].key);

		report(w, line, "'%s' stands twice, first on line %u", w->path,
		       seen->line[i]);
		path_cut(w, before);
		return;
	}
	seen->line[i] = line;
	walk_known(w, &fields[i], value, line, out);
}

static void
walk_map(struct walk *w, const struct config_field *fields, yaml_node_t *node,
	 unsigned int line, void *out)
{
	struct seen seen = { 0 };

	if (node != NULL && node->type == YAML_MAPPING_NODE) {
		yaml_node_pair_t *pair = node->data.mapping.pairs.start;

		for (; pair < node->data.mapping.pairs.top && w->err == 0; pair++)
			walk_pair(w, fields, pair, &seen, out);
	}
	for (unsigned int i = 0; fields[i].key != NULL && w->err == 0; i++) {
		const char *help = fields[i].help;

		assert(i < MAX_FIELDS);
		if (!fields[i].required || seen.line[i] != 0 || seen.misspelt[i])
			continue;

		size_t before = path_enter(w, fields[i].key);

		report(w, line, "missing key '%s'%s%s%s", w->path,
		       help != NULL ? " (" : "", help != NULL ? help : "",
		       help != NULL ? ")" : "");
		path_cut(w, before);
	}
}

int
config_walk(struct config *c, const struct config_field *fields, yaml_node_t *node,
	    unsigned int line, const char *path, void *out)
{
	size_t n_nodes = (size_t)(c->document.nodes.top - c->document.nodes.start);
	struct walk w = { .config = c, .n_left = n_nodes + MAX_ALIASED };
	struct config_field whole = { .kind = CONFIG_MAP, .fields = fields };
	struct value value = { .field = &whole, .node = node, .line = line };

	config_append(w.path, sizeof(w.path), "%s", path);
	if (node == NULL)
		walk_map(&w, fields, NULL, line, out);
	else
		walk_value(&w, &value, out);
	if (w.n_errors > MAX_ERRORS)
		log_plain("%s: %u more errors", c->name, w.n_errors - MAX_ERRORS);
	if (w.err == -ENOMEM)
		log_plain("%s: out of memory", c->name);
	if (w.err == 0 && w.n_errors > 0)
		w.err = -EINVAL;
	return w.err;
}
