/*
 * lb_maglev.c - consistent hashing by a table (Eisenbud et al., "Maglev", NSDI 2016,
 * 3.4).
 *
 * Each backend has a permutation of the table's entries, made of its name; they take
 * turns, and each takes the first entry of its own that is still free.  So shares differ
 * by no more than an entry or two from what weights say, and when a backend goes, nearly
 * all entries that were not its stay where they are.
 *
 * Backends take their turns in the order of their names, so the table is the same
 * whatever their order in a file is.
 */
#include "nf/lb.h"

#include "base/hash.h"

enum {
	PROBES = 32,				/* For one that is usable. */
};

struct candidate {
	const struct lb_backend *backend;
	uint8_t number;
	uint32_t at, skip;			/* The next entry, and the way onward. */
	uint32_t credit;
};

static int
compare_names(const void *a, const void *b)
{
	return memcmp(&((const struct candidate *)a)->backend->endpoint,
		      &((const struct candidate *)b)->backend->endpoint,
		      sizeof(struct endpoint));
}

/* Those with a weight, in the order of their turns.  Returns how many. */
static unsigned int
candidates_make(struct candidate *c, const struct lb_backend *backend, unsigned int n)
{
	unsigned int n_candidates = 0;

	for (unsigned int i = 0; i < n; i++) {
		const struct endpoint *name = &backend[i].endpoint;
		uint64_t h = hash_bytes(name, sizeof(*name), 0x6d61676c6576);

		if (backend[i].weight == 0)
			continue;
		c[n_candidates++] = (struct candidate){
			.backend = &backend[i], .number = (uint8_t)i,
			.at = (uint32_t)(h >> 32) % LB_MAGLEV,
			.skip = (uint32_t)h % (LB_MAGLEV - 1) + 1,
		};
	}
	qsort(c, n_candidates, sizeof(*c), compare_names);
	return n_candidates;
}

void
lb_maglev_make(uint8_t table[LB_MAGLEV], const struct lb_backend *backend, unsigned int n)
{
	static const uint8_t free_entry = 0xff;
	struct candidate c[LB_MAX_BACKENDS];
	unsigned int max = 0, n_taken = 0;

	n = candidates_make(c, backend, n);
	assert(n > 0);
	for (unsigned int i = 0; i < n; i++)
		max = c[i].backend->weight > max ? c[i].backend->weight : max;
	memset(table, free_entry, LB_MAGLEV);
	for (unsigned int i = 0; n_taken < LB_MAGLEV; i = (i + 1) % n) {
		c[i].credit += c[i].backend->weight;
		if (c[i].credit < max)
			continue;
		c[i].credit -= max;
		while (table[c[i].at] != free_entry)
			c[i].at = (c[i].at + c[i].skip) % LB_MAGLEV;
		table[c[i].at] = c[i].number;
		n_taken++;
	}
}

int
lb_maglev_at(const uint8_t table[LB_MAGLEV], uint64_t hash, uint64_t usable)
{
	unsigned int n = (unsigned int)__builtin_popcountll(usable);
	uint64_t h = hash;

	for (unsigned int i = 0; i < PROBES; i++) {
		uint8_t at = table[h % LB_MAGLEV];

		if (usable >> at & 1)
			return at;
		h = hash_fold(h ^ 0x9e3779b97f4a7c15u, hash | 1);
	}
	/* Few are left: an even share for each. */
	for (uint64_t skip = hash % n; skip > 0; skip--)
		usable &= usable - 1;
	return __builtin_ctzll(usable);
}
