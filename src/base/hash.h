/*
 * hash.h - a keyed hash of short keys, for tables whose keys strangers choose.
 *
 * Folded 64 x 64 -> 128 bit multiplication: two multiplications for an IPv4 flow.
 * Without the seed nobody can construct keys that collide; it is no MAC.
 */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdint.h>
#include <string.h>

static inline uint64_t
hash_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t
hash_bytes(const void *data, unsigned int bytes, uint64_t seed)
{
	const uint8_t *at = data;
	uint64_t h = seed ^ ((uint64_t)bytes * 0x9e3779b97f4a7c15u);
	uint64_t word[2];

	for (; bytes >= 16; at += 16, bytes -= 16) {
		memcpy(word, at, 16);
		h = hash_fold(word[0] ^ h, word[1] ^ seed ^ 0xd6e8feb86659fd93u);
	}
	if (bytes > 0) {
		memset(word, 0, sizeof(word));
		memcpy(word, at, bytes);
		h = hash_fold(word[0] ^ h, word[1] ^ seed ^ 0xa0761d6478bd642fu);
	}
	return hash_fold(h ^ 0xe7037ed1a0b428dbu, seed | 1);
}

#endif
