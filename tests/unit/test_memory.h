/*
 * test_memory.h - an allocator for the core that fails when a test wants it to, and
 * knows what it gave.
 */
#ifndef TEST_MEMORY_H
#define TEST_MEMORY_H

#include <stdlib.h>

#include "store/partition.h"

static struct {
	bool fails_later;			/* After 'n_left' more allocations... */
	unsigned int n_left;
	size_t n_bytes;				/* Given and not yet taken back. */
} test_memory;

static void *
test_memory_alloc(size_t bytes)
{
	size_t *memory;

	if (test_memory.fails_later && test_memory.n_left-- == 0) {
		test_memory.n_left = 0;
		return NULL;
	}
	memory = malloc(bytes + 16);
	*memory = bytes;
	test_memory.n_bytes += bytes;
	return memory + 2;
}

static void
test_memory_free(void *memory)
{
	if (memory == NULL)
		return;

	size_t *start = (size_t *)memory - 2;

	test_memory.n_bytes -= *start;
	free(start);
}

static inline void
test_memory_init(void)
{
	test_memory.fails_later = false;
	test_memory.n_bytes = 0;
	core_alloc = test_memory_alloc;
	core_free = test_memory_free;
}

static inline void
test_memory_fail_after(unsigned int n)
{
	test_memory.fails_later = true;
	test_memory.n_left = n;
}

static inline void
test_memory_recover(void)
{
	test_memory.fails_later = false;
}

#endif
