#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

void die(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(status);
}

void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (!memory)
        die(1, "out of memory");
    return memory;
}

void buffer_add(struct buffer *buffer, const void *bytes, size_t count)
{
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->end + count > buffer->size) {
        buffer->size = (buffer->end + count) * 2;
        buffer->data = realloc(buffer->data, buffer->size);
        if (!buffer->data)
            die(1, "out of memory");
    }
    memcpy(buffer->data + buffer->end, bytes, count);
    buffer->end += count;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int listen_on(int port, int *taken)
{
    struct sockaddr_in address = loopback(port);
    socklen_t size = sizeof address;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096))
        die(1, "cannot listen on 127.0.0.1:%d: %s", port, strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    *taken = ntohs(address.sin_port);
    return fd;
}

void accepted(int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int connect_to(int port)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die(1, "no socket: %s (ulimit -n?)", strerror(errno));
    /* On loopback the kernel answers at once, whatever the server is doing. */
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        die(1, "cannot connect to 127.0.0.1:%d: %s", port, strerror(errno));
    accepted(fd);
    return fd;
}

void run_on(int core)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1);
    if (core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(core, &cores);
        if (sched_setaffinity(0, sizeof cores, &cores))
            die(1, "cannot run on core %d: %s", core, strerror(errno));
    }
}

ssize_t write_some(int fd, const void *bytes, size_t count)
{
    ssize_t done = send(fd, bytes, count, MSG_NOSIGNAL);
    return done >= 0 ? done : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

ssize_t read_some(int fd, void *bytes, size_t count)
{
    ssize_t done = recv(fd, bytes, count, 0);
    return done > 0 ? done : done < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

uint64_t number_behind(const char *text, const char *name, uint64_t otherwise)
{
    const char *found = strstr(text, name);
    if (found)
        take_decimal(found + strlen(name), &otherwise);
    return otherwise;
}

char *head_end(char *bytes, size_t count)
{
    char *end = memmem(bytes, count, "\r\n\r\n", 4);
    return end ? end + 4 : NULL;
}
