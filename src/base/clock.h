/*
 * clock.h - the monotonic clock, which stands still for nobody and is set by nobody.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t
clock_read_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline uint64_t
clock_ns(void)
{
	return clock_read_ns(CLOCK_MONOTONIC);
}

static inline uint64_t
clock_ms(void)
{
	return clock_ns() / 1000000;
}

/* Some milliseconds behind, and cheap. */
static inline uint64_t
clock_coarse_ms(void)
{
	return clock_read_ns(CLOCK_MONOTONIC_COARSE) / 1000000;
}

#endif
