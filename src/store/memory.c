/*
 * memory.c - all memory of a partition comes through here, so that the module can
 * take it from the server's allocator, under the server's accounts, and so that a
 * partition knows to the byte what it asked for.
 */
#include "store/partition.h"

#include <errno.h>
#include <stdlib.h>

enum {
	MEMORY_LINE = 64,
	MEMORY_FIRST_ROOM = 8,			/* Elements of an array. */
	MEMORY_FIRST_BUFFER = 512,		/* Bytes of a buffer. */
};

void *(*core_alloc)(size_t bytes) = malloc;
void (*core_free)(void *memory) = free;

void *
memory_alloc(size_t bytes, uint64_t *account)
{
	void *memory = core_alloc(bytes);

	if (memory != NULL)
		*account += bytes;
	return memory;
}

void
memory_free(void *memory, size_t bytes, uint64_t *account)
{
	if (memory == NULL)
		return;
	*account -= bytes;
	core_free(memory);
}

/* What the allocator gave is at least 8 bytes below the line, for allocators align to 8;
 * its address is kept there. */
void *
memory_alloc_lines(size_t bytes, uint64_t *account)
{
	void *raw = memory_alloc(bytes + MEMORY_LINE, account);
	uintptr_t line;

	if (raw == NULL)
		return NULL;
	line = ((uintptr_t)raw + MEMORY_LINE) & ~(uintptr_t)(MEMORY_LINE - 1);
	((void **)line)[-1] = raw;
	return (void *)line;
}

void
memory_free_lines(void *memory, size_t bytes, uint64_t *account)
{
	if (memory != NULL)
		memory_free(((void **)memory)[-1], bytes + MEMORY_LINE, account);
}

int
memory_grow(void **array, uint32_t *room, size_t element_bytes, uint64_t *account)
{
	uint32_t more = *room == 0 ? MEMORY_FIRST_ROOM : *room * 2;
	void *bigger = memory_alloc(more * element_bytes, account);

	if (bigger == NULL)
		return -ENOMEM;
	if (*array != NULL)
		memcpy(bigger, *array, *room * element_bytes);
	memory_free(*array, *room * element_bytes, account);
	*array = bigger;
	*room = more;
	return 0;
}

int
buffer_reserve(struct buffer *b, size_t bytes)
{
	size_t room = b->room == 0 ? MEMORY_FIRST_BUFFER : b->room;
	uint8_t *data;

	if (b->room - b->bytes >= bytes)
		return 0;
	if (bytes > SIZE_MAX / 4 - b->bytes)
		return -ENOMEM;
	while (room - b->bytes < bytes)
		room *= 2;
	data = core_alloc(room);
	if (data == NULL)
		return -ENOMEM;
	if (b->bytes > 0)
		memcpy(data, b->data, b->bytes);
	core_free(b->data);
	b->data = data;
	b->room = room;
	return 0;
}

void
buffer_fini(struct buffer *b)
{
	core_free(b->data);
	*b = (struct buffer){ 0 };
}
