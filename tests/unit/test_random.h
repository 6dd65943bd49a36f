/*
 * test_random.h - random numbers for tests that compare with a model: a new seed for
 * each run, printed, or the one in the environment's SEED, to see a failure again.
 */
#ifndef TEST_RANDOM_H
#define TEST_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

struct test_random {
	uint64_t state;
};

static inline uint64_t
test_random_u64(struct test_random *r)
{
	uint64_t x = r->state += 0x9e3779b97f4a7c15;	/* splitmix64 */

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* From 0 to n - 1. */
static inline uint32_t
test_random_below(struct test_random *r, uint32_t n)
{
	return (uint32_t)(test_random_u64(r) % n);
}

static inline struct test_random
test_random_init(const char *test)
{
	const char *text = getenv("SEED");
	struct test_random r;

	if (text != NULL)
		r.state = strtoull(text, NULL, 0);
	else if (getrandom(&r.state, sizeof(r.state), 0) != sizeof(r.state))
		abort();
	printf("%s: SEED=0x%llx\n", test, (unsigned long long)r.state);
	return r;
}

#endif
