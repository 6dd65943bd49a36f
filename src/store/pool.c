/*
 * pool.c - batches and the memory of their requests.
 *
 * A request may be FRAME_MAX_BYTES long, and a store of 64 partitions has 2,688 parts.
 * So their memory is one reservation of addresses: the kernel gives a page when a frame
 * first reaches it.  Huge pages would give 512 at once.
 */
#define _GNU_SOURCE
#include "store/pool.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { POOL_PAGE = 4096 };

int
pool_init(struct pool *p, unsigned int n_partitions, size_t before, size_t behind)
{
	size_t n_parts = (size_t)STORE_BATCHES * n_partitions;
	size_t stride = before + FRAME_MAX_BYTES + behind;
	void *memory;

	*p = (struct pool){ .n_partitions = n_partitions, .before = before };
	p->stride = (stride + POOL_PAGE - 1) / POOL_PAGE * POOL_PAGE;
	p->part = calloc(n_parts, sizeof(*p->part));
	if (p->part == NULL)
		return -ENOMEM;
	memory = mmap(NULL, n_parts * p->stride, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		free(p->part);
		p->part = NULL;
		return -ENOMEM;
	}
	p->memory = memory;
	p->memory_bytes = n_parts * p->stride;
	/* A kernel without huge pages refuses, and need not be asked. */
	(void)madvise(memory, p->memory_bytes, MADV_NOHUGEPAGE);
	for (unsigned int i = STORE_BATCHES; i > 0; i--)
		p->free[p->n_free++] = (uint8_t)(i - 1);
	return 0;
}

void
pool_fini(struct pool *p)
{
	if (p->memory != NULL)
		munmap(p->memory, p->memory_bytes);
	free(p->part);
	p->memory = NULL;
	p->part = NULL;
}

int
pool_take(struct pool *p, struct store_batch *batch)
{
	if (p->n_free == 0)
		return -1;

	size_t number = p->free[--p->n_free], first = number * p->n_partitions;

	*batch = (struct store_batch){ .part = p->part + first };
	for (unsigned int i = 0; i < p->n_partitions; i++) {
		struct store_part *part = &batch->part[i];

		*part = (struct store_part){ 0 };
		frame_init(&part->request,
			   p->memory + (first + i) * p->stride + p->before,
			   FRAME_MAX_BYTES);
	}
	return (int)number;
}

void
pool_give(struct pool *p, unsigned int number)
{
	p->free[p->n_free++] = (uint8_t)number;
}
