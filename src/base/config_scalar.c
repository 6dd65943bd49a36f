/*
 * config_scalar.c - from the text of a value to the value, or to good advice.
 *
 * Pure functions over strings and one field of a schema; config_walk.c knows where
 * the text stood.  Every value that is refused here has its words in config_advise()
 * that say what would be taken.
 */
#include "config_parts.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
	WORD_MAX = 31,				/* Longer words are not compared. */
	SHOWN_MAX = 60,				/* Bytes of a value in an error. */
};

/* From the longest, so that the first that divides is the one to print. */
static const struct {
	const char *suffix;
	uint64_t ms;
} units[] = {
	{ "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 },
};

enum {
	N_UNITS = sizeof(units) / sizeof(units[0]),
};

void
config_append(char *text, size_t bytes, const char *format, ...)
{
	size_t used = strlen(text);
	va_list args;

	va_start(args, format);
	if (vsnprintf(text + used, bytes - used, format, args) < 0)
		text[used] = '\0';
	va_end(args);
}

void
config_append_shown(char *text, size_t bytes, const char *shown)
{
	size_t n = strlen(shown), head = n;

	if (n > SHOWN_MAX) {
		head = SHOWN_MAX;
		while (head > 0 && ((unsigned char)shown[head] & 0xc0) == 0x80)
			head--;
	}
	config_append(text, bytes, "%.*s%s", (int)head, shown, head < n ? "..." : "");
}

/* Reads digits up to '*end'.  Returns false if there are none or too many. */
static bool
read_digits(const char *value, uint64_t *out, const char **end)
{
	const char *at = value;
	uint64_t sum = 0;

	for (; *at >= '0' && *at <= '9'; at++) {
		if (__builtin_mul_overflow(sum, 10, &sum) ||
		    __builtin_add_overflow(sum, (uint64_t)(*at - '0'), &sum))
			return false;
	}
	*out = sum;
	*end = at;
	return at != value;
}

/* A number as far as a person is concerned, in or out of any range. */
static bool
looks_like_number(const char *value)
{
	value += *value == '-' || *value == '+';
	return *value != '\0' && value[strspn(value, "0123456789")] == '\0';
}

static bool
read_uint(const char *value, uint64_t *out)
{
	const char *end;

	return read_digits(value, out, &end) && *end == '\0';
}

static bool
read_duration(const char *value, uint64_t *ms)
{
	const char *suffix;
	uint64_t n;

	if (!read_digits(value, &n, &suffix))
		return false;
	if (*suffix == '\0')
		suffix = "s";
	for (unsigned int i = 0; i < N_UNITS; i++) {
		if (strcmp(suffix, units[i].suffix) == 0)
			return !__builtin_mul_overflow(n, units[i].ms, ms);
	}
	return false;
}

static bool
read_bool(const char *value, bool *out)
{
	static const char *const words[] = { "false", "true", "no", "yes", "off", "on" };

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcasecmp(value, words[i]) == 0) {
			*out = i % 2 == 1;
			return true;
		}
	}
	return false;
}

static bool
read_enum(const char *const *words, const char *value, int *out)
{
	for (int i = 0; words[i] != NULL; i++) {
		if (strcmp(value, words[i]) == 0) {
			*out = i;
			return true;
		}
	}
	return false;
}

static bool
in_range(const struct config_field *field, uint64_t n)
{
	return n >= field->min && (field->max == 0 || n <= field->max);
}

int
config_scalar(const struct config_field *field, const char *value, void *out)
{
	bool ok = false;
	uint64_t n;

	switch (field->kind) {
	case CONFIG_BOOL:
		ok = read_bool(value, out);
		break;
	case CONFIG_UINT:
		ok = read_uint(value, &n) && in_range(field, n);
		if (ok)
			*(uint64_t *)out = n;
		break;
	case CONFIG_DURATION:
		ok = read_duration(value, &n) && in_range(field, n);
		if (ok)
			*(uint64_t *)out = n;
		break;
	case CONFIG_ENUM:
		ok = read_enum(field->words, value, out);
		break;
	case CONFIG_SCALAR:
		ok = field->parse(value, out) == 0;
		break;
	case CONFIG_STRING:
	case CONFIG_MAP:
	case CONFIG_LIST:
		break;
	}
	return ok ? 0 : -1;
}

static void
append_number(const struct config_field *field, uint64_t n, char *text, size_t bytes)
{
	unsigned int i = 0;

	if (field->kind != CONFIG_DURATION) {
		config_append(text, bytes, "%llu", (unsigned long long)n);
		return;
	}
	while (i < N_UNITS - 1 && (n == 0 || n % units[i].ms != 0))
		i++;
	config_append(text, bytes, "%llu%s", (unsigned long long)(n / units[i].ms),
		      units[i].suffix);
}

static void
append_range(const struct config_field *field, char *text, size_t bytes)
{
	if (field->max == 0) {
		config_append(text, bytes, "at least ");
		append_number(field, field->min, text, bytes);
		return;
	}
	if (field->min != field->max) {
		append_number(field, field->min, text, bytes);
		config_append(text, bytes, " to ");
	}
	append_number(field, field->max, text, bytes);
}

/* "a number, 1 to 64"; or the range alone if 'fits' says that it is all that the
 * value misses. */
static void
advise_number(const struct config_field *field, const char *what, bool fits, char *text,
	      size_t bytes)
{
	bool ranged = field->min != 0 || field->max != 0;

	if (!fits || !ranged)
		config_append(text, bytes, "%s%s", what, ranged ? ", " : "");
	if (ranged)
		append_range(field, text, bytes);
}

static void
advise_word(const struct config_field *field, const char *value, char *text, size_t bytes)
{
	struct config_nearest near = { 0 };

	for (unsigned int i = 0; value != NULL && field->words[i] != NULL; i++)
		config_nearest_offer(&near, value, field->words[i]);
	if (near.best != NULL)
		config_append(text, bytes, ", did you mean '%s'? (", near.best);
	else
		config_append(text, bytes, ", want ");
	config_append(text, bytes, "one of: ");
	for (unsigned int i = 0; field->words[i] != NULL; i++)
		config_append(text, bytes, "%s%s", i > 0 ? ", " : "", field->words[i]);
	if (near.best != NULL)
		config_append(text, bytes, ")");
}

static void
advise_list(const struct config_field *field, char *text, size_t bytes)
{
	config_append(text, bytes, "a list%s",
		      field->fields != NULL && field->parse == NULL ? " of maps" : "");
	if (field->min != 0 || field->max != 0) {
		config_append(text, bytes, " of length ");
		append_range(field, text, bytes);
	}
}

/* 'value' is NULL if no scalar stood there. */
static void
advise(const struct config_field *field, const char *value, char *text, size_t bytes)
{
	const char *help = field->help;
	uint64_t n;

	if (field->kind != CONFIG_ENUM)
		config_append(text, bytes, ", want ");
	switch (field->kind) {
	case CONFIG_BOOL:
		config_append(text, bytes, "true or false");
		break;
	case CONFIG_UINT:
		advise_number(field, "a number",
			      value != NULL && looks_like_number(value), text, bytes);
		break;
	case CONFIG_DURATION:
		advise_number(field, "a time such as 500ms, 30s, 5m, 2h or 1d",
			      value != NULL && read_duration(value, &n), text, bytes);
		break;
	case CONFIG_MAP:
		config_append(text, bytes, "a map of keys to values");
		break;
	case CONFIG_LIST:
		advise_list(field, text, bytes);
		break;
	case CONFIG_ENUM:
		advise_word(field, value, text, bytes);
		break;
	case CONFIG_STRING:
	case CONFIG_SCALAR:
		config_append(text, bytes, "%s", help != NULL ? help : "another text");
		return;
	}
	if (help != NULL)
		config_append(text, bytes, " (%s)", help);
}

void
config_advise(const struct config_field *field, const char *value, char *text,
	      size_t bytes)
{
	const char *quote = looks_like_number(value) ? "" : "\"";

	config_append(text, bytes, "is %s", quote);
	config_append_shown(text, bytes, value);
	config_append(text, bytes, "%s", quote);
	advise(field, value, text, bytes);
}

void
config_advise_kind(const struct config_field *field, const char *what, char *text,
		   size_t bytes)
{
	config_append(text, bytes, "is %s", what);
	advise(field, NULL, text, bytes);
}

static unsigned int
least(unsigned int a, unsigned int b, unsigned int c)
{
	unsigned int ab = a < b ? a : b;

	return ab < c ? ab : c;
}

/* Letters to add, drop, change or swap with their neighbour to come from one word to
 * the other (optimal string alignment), upper and lower case being the same. */
static unsigned int
edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
	unsigned int row[WORD_MAX + 1][WORD_MAX + 1];

	for (unsigned int i = 0; i <= n_a; i++)
		row[i][0] = i;
	for (unsigned int j = 0; j <= n_b; j++)
		row[0][j] = j;
	for (unsigned int i = 1; i <= n_a; i++) {
		for (unsigned int j = 1; j <= n_b; j++) {
			int at_a = tolower((unsigned char)a[i - 1]);
			int at_b = tolower((unsigned char)b[j - 1]);
			unsigned int d = least(row[i - 1][j] + 1, row[i][j - 1] + 1,
					       row[i - 1][j - 1] + (at_a != at_b));

			if (i > 1 && j > 1 && at_a != at_b &&
			    at_a == tolower((unsigned char)b[j - 2]) &&
			    at_b == tolower((unsigned char)a[i - 2]) &&
			    row[i - 2][j - 2] + 1 < d)
				d = row[i - 2][j - 2] + 1;
			row[i][j] = d;
		}
	}
	return row[n_a][n_b];
}

void
config_nearest_offer(struct config_nearest *n, const char *typed, const char *word)
{
	size_t n_typed = strlen(typed), n_word = strlen(word);
	size_t shorter = n_typed < n_word ? n_typed : n_word;
	unsigned int distance;

	if (n_typed > WORD_MAX || n_word > WORD_MAX)
		return;
	distance = edit_distance(typed, n_typed, word, n_word);
	/* A third of a word wrong is a slip; more of it is another word. */
	if (distance > (shorter + 2) / 3 || distance >= shorter)
		return;
	if (n->best == NULL || distance < n->distance) {
		n->best = word;
		n->distance = distance;
	}
}
