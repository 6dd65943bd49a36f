/*
 * fields.h - records as people read them: which fields the keys and values of a table
 * have, and their text.  A function lists them beside its tables:
 *
 *   static const struct nf_field connection_fields[] = {
 *       { "state", NF_FIELD_WORD, offsetof(struct connection, state), 1, state_words },
 *       { "rule", NF_FIELD_UINT, offsetof(struct connection, rule), 4 },
 *       { 0 }
 *   };
 *   NF_TABLE(connection, struct flow, struct connection, .fields = connection_fields)
 *
 * A key that is a flow, or an endpoint, needs no list.  What is not listed is shown as
 * hexadecimal digits.
 */
#ifndef NF_FIELDS_H
#define NF_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

struct nf_table;

enum nf_field_kind {
	NF_FIELD_END,
	NF_FIELD_UINT,				/* Of 1, 2, 4 or 8 bytes. */
	NF_FIELD_INT,				/* Of 8 bytes. */
	NF_FIELD_WORD,				/* The index of a word, of 1 byte. */
	NF_FIELD_IP4,				/* rte_be32_t */
	NF_FIELD_IP4_PORT,			/* The same, and a rte_be16_t behind it. */
	NF_FIELD_SOURCE,			/* 4 or 6, of 1 byte; 4 bytes from there a
						 * rte_be32_t, or the 8 bytes of a /64. */
	NF_FIELD_PROTOCOL,			/* An IP protocol, of 1 byte. */
	NF_FIELD_ENDPOINT,			/* struct endpoint */
	NF_FIELD_FLOW,				/* struct flow: protocol, src, dst, zone. */
};

struct nf_field {
	const char *name;
	enum nf_field_kind kind;
	uint16_t offset, bytes;
	const char *const *words;		/* NF_FIELD_WORD: ends with NULL. */
};

enum {
	FIELDS_MAX = 24,			/* Of a record, its key's included. */
	FIELDS_TEXT = 72,			/* Bytes of a text, with the final 0. */
};

struct field_text {
	const char *name;
	char text[FIELDS_TEXT];
};

extern const struct nf_field nf_fields_flow[], nf_fields_endpoint[];

/* The texts of a record's fields, its key's first.  't' NULL: of an unknown table.
 * 'readable' is false for a value of another format than this program's: then it is hex
 * digits.  Returns how many. */
unsigned int fields_print(const struct nf_table *t, bool readable, const void *key,
			  unsigned int key_bytes, const void *value,
			  unsigned int value_bytes, struct field_text text[FIELDS_MAX]);

/* Calls 'f' with the name of each field that records of the table may show, until it says
 * true.  Returns whether it did. */
bool fields_each(const struct nf_table *t, bool (*f)(const char *name, void *arg), void *arg);

/* Whether a field has the value that "name=value" asks for.  An endpoint also matches its
 * address without the port. */
bool fields_match(const struct field_text *text, unsigned int n, const char *wanted);

#endif
