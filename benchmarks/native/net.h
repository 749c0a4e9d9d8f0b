/* Time, numbers, buffers and sockets, for the native programs of the benchmarks.
 *
 * Rules of this file: nothing here knows a protocol. What fails ends the program with a sentence on
 * standard error: a measurement that is not whole is none.
 */
#ifndef NET_H
#define NET_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#define SECOND 1000000000ull /* of nanoseconds; all times here are in them */

/* Bytes that wait: from `start` to `end` of `data`. All zero is an empty one. */
struct buffer {
    char *data;
    size_t start, end, size;
};

_Noreturn void die(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *allocate(size_t bytes); /* zeroed */
void buffer_add(struct buffer *buffer, const void *bytes, size_t count);
void buffer_free(struct buffer *buffer);

int listen_on(int port, int *taken); /* on 127.0.0.1; port 0 takes a free one */
int connect_to(int port);            /* on 127.0.0.1; non-blocking, without delay */
void accepted(int fd);               /* what a socket needs that was accepted */
void run_on(int core);               /* -1: anywhere; ends with its parent in any case */
ssize_t write_some(int fd, const void *bytes, size_t count); /* -1: closed, 0: full */
ssize_t read_some(int fd, void *bytes, size_t count);        /* -1: closed, 0: none yet */

/* The decimal number behind `name` in a text that ends with a zero byte, or `otherwise`. */
uint64_t number_behind(const char *text, const char *name, uint64_t otherwise);

/* The end of a head of HTTP in so many bytes, behind its empty line; NULL: it is not there yet. */
char *head_end(char *bytes, size_t count);

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static inline char *put_decimal(char *to, uint64_t number)
{
    char digits[20], *first = digits + sizeof digits;
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    size_t count = (size_t)(digits + sizeof digits - first);
    memcpy(to, first, count);
    return to + count;
}

static inline const char *take_decimal(const char *from, uint64_t *number)
{
    uint64_t value = 0;
    while (*from >= '0' && *from <= '9')
        value = value * 10 + (uint64_t)(*from++ - '0');
    *number = value;
    return from;
}

static inline char *put_text(char *to, const char *text, size_t count)
{
    memcpy(to, text, count);
    return to + count;
}

#define PUT(to, literal) put_text(to, literal, sizeof(literal) - 1)

#endif
