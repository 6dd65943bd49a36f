/*
 * eal.h - starts DPDK's environment for this process, once, from the main thread.
 *
 * Nothing is left behind by a process that ends, not even by one that is killed,
 * but for the telemetry socket's directory, which the next start removes.
 */
#ifndef PIPE_EAL_H
#define PIPE_EAL_H

#include <stddef.h>

enum eal_huge {
	EAL_HUGE_AUTO,				/* If enough of them are free. */
	EAL_HUGE_REQUIRED,
	EAL_HUGE_OFF,
};

struct eal_options {
	enum eal_huge huge;
	unsigned int memory_mb;			/* For packets; 0: EAL_MEMORY_MB. */
	const char *const *pci;			/* Addresses to use, and a NULL.  NULL: the
						 * PCI bus is not even looked at. */
};

/* Eight pipes' pools (port.h), and as much again; without huge pages only what is
 * touched is taken. */
#define EAL_MEMORY_MB 1024

/*
 * Threads that exist afterwards are DPDK's own, take no signals and run no
 * packets; the caller's affinity and signal mask are as they were.  Packet
 * threads are the caller's: they call rte_thread_register().
 * On failure 'why' says in one line what is wrong and what to do.
 */
int eal_start(const struct eal_options *options, char *why, size_t why_bytes);

/* Where processes of this user have their telemetry: below "dpdk/", as DPDK chooses it. */
const char *eal_runtime_dir(void);

/* The last complaint of DPDK in this process, or "": for the 'why' of what failed. */
const char *eal_complaint(void);

#endif
