/*
 * siphash.h - SipHash-2-4 (Aumasson and Bernstein, 2012): who does not have the key can
 * neither tell nor guess what it makes of a message.
 */
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include <stdint.h>
#include <string.h>

static inline uint64_t
siphash_rotate(uint64_t x, unsigned int bits)
{
	return x << bits | x >> (64 - bits);
}

static inline void
siphash_rounds(uint64_t v[4], unsigned int n)
{
	while (n-- > 0) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = siphash_rotate(v[1], 13) ^ v[0];
		v[3] = siphash_rotate(v[3], 16) ^ v[2];
		v[0] = siphash_rotate(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = siphash_rotate(v[1], 17) ^ v[2];
		v[3] = siphash_rotate(v[3], 21) ^ v[0];
		v[2] = siphash_rotate(v[2], 32);
	}
}

static inline uint64_t
siphash(const uint64_t key[2], const void *data, unsigned int bytes)
{
	uint64_t v[4] = { key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
			  key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573 };
	const uint8_t *at = data;
	uint64_t last = (uint64_t)bytes << 56;

	for (unsigned int left = bytes; left >= 8; left -= 8, at += 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		v[3] ^= word;
		siphash_rounds(v, 2);
		v[0] ^= word;
	}
	for (unsigned int i = 0; i < bytes % 8; i++)
		last |= (uint64_t)at[i] << 8 * i;
	v[3] ^= last;
	siphash_rounds(v, 2);
	v[0] ^= last;
	v[2] ^= 0xff;
	siphash_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
