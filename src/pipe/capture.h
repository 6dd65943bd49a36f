/*
 * capture.h - capture files, read by libpcap (so pcapng as well) and written as classic
 * pcap.  Named pipes are as good as files: then nothing waits for whoever is at the
 * other end, except in the middle of a packet.
 */
#ifndef PIPE_CAPTURE_H
#define PIPE_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_mbuf.h>

struct capture_reader;
struct capture_writer;

/* A packet, as an Ethernet frame in two parts. */
struct capture_packet {
	uint64_t time_ns;			/* Since 1970. */
	uint8_t head[14];			/* Made up if the capture has none. */
	unsigned int head_bytes;
	const uint8_t *data;
	unsigned int bytes;
};

int capture_open(const char *path, struct capture_reader **out, char *why,
		 size_t why_bytes);
/* The next packet, or NULL if there is none yet or ever: capture_ended().  It stays
 * the next one until it is taken. */
const struct capture_packet *capture_next(struct capture_reader *r);
void capture_take(struct capture_reader *r);
bool capture_ended(const struct capture_reader *r);
/* It ended where it could not be read any further. */
bool capture_failed(const struct capture_reader *r);
/* Of a named pipe; -1 of a file. */
int capture_fd(const struct capture_reader *r);
/* Whether times are finer than microseconds. */
bool capture_nanoseconds(const struct capture_reader *r);
void capture_close(struct capture_reader *r);	/* NULL is ignored. */

int capture_create(const char *path, struct capture_writer **out, char *why,
		   size_t why_bytes);
/* False: there is no room for it until somebody reads the pipe.  The unit of the
 * file's times is settled by the first packet. */
bool capture_write(struct capture_writer *w, const struct rte_mbuf *m, uint64_t time_ns,
		   bool nanoseconds);
/* Brings what was written so far to the file. */
void capture_flush(struct capture_writer *w);
/* An empty capture is one as well: it has a header.  NULL is ignored. */
void capture_finish(struct capture_writer *w, bool nanoseconds);

#endif
