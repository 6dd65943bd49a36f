/*
 * nf.c - the registry: the functions that were built in, and their tables.
 *
 * nf_list.h is made by meson from the list of functions in meson.build.  Tables
 * register themselves: NF_TABLE puts a pointer to each into the linker's section
 * "nf_all_tables", and its owner is the file it stands in.
 */
#include "nf/nf.h"

#include "nf_list.h"

#define X(function) extern const struct nf nf_##function;
NF_LIST(X)
#undef X

static const struct nf *const functions[] = {
#define X(function) &nf_##function,
	NF_LIST(X)
#undef X
};

/* Made by the linker: the bounds of the section. */
extern struct nf_table *const __start_nf_all_tables[];
extern struct nf_table *const __stop_nf_all_tables[];

const struct nf *
nf_find(const char *name)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (strcmp(functions[i]->name, name) == 0)
			return functions[i];
	return NULL;
}

const char *
nf_names(void)
{
#define X(function) ", " #function
	return &NF_LIST(X)[2];
#undef X
}

/* nat.c, nat_ports.c */
static bool
owned_by(const struct nf_table *t, const struct nf *nf)
{
	size_t n = strlen(nf->name);

	return strncmp(t->owner, nf->name, n) == 0 &&
	       (t->owner[n] == '_' || strcmp(t->owner + n, ".c") == 0);
}

unsigned int
nf_tables(const struct nf *nf, struct nf_table **tables, unsigned int max)
{
	unsigned int n = 0;

	for (struct nf_table *const *t = __start_nf_all_tables;
	     t < __stop_nf_all_tables; t++)
		if (owned_by(*t, nf) && n < max)
			tables[n++] = *t;
	return n;
}

static uint64_t
multiply_and_fold(uint64_t h)
{
	h *= 0x9e3779b97f4a7c15u;
	return h ^ h >> 32;
}

uint32_t
nf_spread(const void *key, unsigned int key_bytes)
{
	const uint8_t *at = key;
	uint64_t word, h = 0;

	for (unsigned int i = 0; i < key_bytes; i += 8) {
		unsigned int n = key_bytes - i < 8 ? key_bytes - i : 8;

		word = 0;
		memcpy(&word, at + i, n);
		h = multiply_and_fold(h ^ word);
	}
	/* Once more, or the highest bits of the last word would not reach the lowest. */
	return (uint32_t)multiply_and_fold(h);
}

uint32_t
nf_spread_connection(const void *key, unsigned int key_bytes)
{
	struct flow connection;

	(void)key_bytes;
	flow_canonical(key, &connection);
	return nf_spread(&connection, flow_bytes(&connection));
}
