/*
 * pool.h - the batches of a store, whichever backend it is: their parts, and the memory
 * of their requests.  The one that was freed last is the next one taken: it is still in
 * the cache.
 */
#ifndef STORE_POOL_H
#define STORE_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

struct pool {
	unsigned int n_partitions, n_free;
	uint8_t free[STORE_BATCHES];
	struct store_part *part;		/* Those of batch 0, then of batch 1... */
	uint8_t *memory;
	size_t memory_bytes, stride, before;
};

/* Memory is reserved for a frame of FRAME_MAX_BYTES in each part of each batch, with
 * 'before' bytes (a multiple of 8) in front and at least 'behind' after it; it is paid
 * for as far as frames have reached.  0 or -ENOMEM. */
int pool_init(struct pool *p, unsigned int n_partitions, size_t before, size_t behind);
void pool_fini(struct pool *p);

/* Makes '*batch' an empty one.  Returns its number, below STORE_BATCHES, or -1: all are
 * out. */
int pool_take(struct pool *p, struct store_batch *batch);
void pool_give(struct pool *p, unsigned int number);

#endif
