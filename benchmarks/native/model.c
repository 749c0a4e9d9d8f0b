/* A model server that streams what its prompts say: Ollama's API over HTTP/1.1.
 *
 *     model --port 0 --cpu 1
 *
 * Rules of this file:
 *
 * - A prompt is a workload: `tokens=2000 batch=1 rate=20 id=7`. So many tokens, so many in one
 *   write, so many a second (0: as fast as they are taken). Paced streams of several clients are
 *   out of step with each other, as those of people are.
 * - A token is its number and the instant at which it was written, `17:123456789 `, so that who
 *   reads it knows whether one is missing and how long it took.
 * - `fault=1` leaves out the token in the middle, 2 says it twice, 3 swaps it with the next one, 4
 *   leaves out the last: for the tests of who reads it.
 * - Nothing is made ahead: a token is made when its write is tried.
 * - When a stream's connection is closed before its end: `closed ID INSTANT TOKENS` on standard
 *   output.
 */
#include "net.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define HEAD_BYTES (64 * 1024) /* of a request, with its body */
#define TOKEN_BYTES 256        /* of a line, at most */
#define MAX_BATCH 1000
#define EVENTS 256
#define TAGS                                                                                       \
    "{\"models\":[{\"name\":\"bench:latest\",\"model\":\"bench:latest\",\"size\":1,"               \
    "\"digest\":\"0\",\"details\":{\"format\":\"gguf\",\"family\":\"bench\"}}]}"
#define VERSION "{\"version\":\"0.12.0\"}"
#define LINE_BEGIN                                                                                 \
    "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\","                      \
    "\"message\":{\"role\":\"assistant\",\"content\":\""
#define LINE_END "\"},\"done\":false}\n"
#define LAST_END                                                                                   \
    "\"},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":1,\"load_duration\":1,"         \
    "\"prompt_eval_count\":1,\"prompt_eval_duration\":1,\"eval_count\":1,\"eval_duration\":1}\n"

struct connection {
    int fd;
    bool full;    /* the socket took no more: an EPOLLOUT will come */
    bool waits;   /* in `ready` */
    bool streams; /* an answer is under way */
    bool ended;   /* its last bytes were made */
    struct buffer request, rest;
    uint64_t id, tokens, batch, rate, fault, made;
    uint64_t started, due; /* of a paced stream */
    double phase;          /* of its tokens, as a part of the time between two */
    size_t place;          /* in the heap of paced streams, from 1; 0: not there */
};

static int poller;
static struct connection **ready; /* unpaced streams that have something to write */
static size_t ready_count, ready_size;
static struct connection **paced; /* a heap, by `due`; from 1 */
static size_t paced_count, paced_size;
static uint64_t streams_begun;

static void make_ready(struct connection *c)
{
    if (c->waits)
        return;
    if (ready_count == ready_size) {
        ready_size = ready_size ? ready_size * 2 : 64;
        ready = realloc(ready, ready_size * sizeof *ready);
    }
    ready[ready_count++] = c;
    c->waits = true;
}

static void place(struct connection *c, size_t at)
{
    paced[at] = c;
    c->place = at;
}

static void sink(struct connection *c, size_t at)
{
    for (size_t child; (child = at * 2) <= paced_count; at = child) {
        if (child < paced_count && paced[child + 1]->due < paced[child]->due)
            child++;
        if (paced[child]->due >= c->due)
            break;
        place(paced[child], at);
    }
    place(c, at);
}

static void rise(struct connection *c, size_t at)
{
    for (; at > 1 && paced[at / 2]->due > c->due; at /= 2)
        place(paced[at / 2], at);
    place(c, at);
}

static void pace(struct connection *c)
{
    if (paced_count + 1 >= paced_size) {
        paced_size = paced_size ? paced_size * 2 : 64;
        paced = realloc(paced, paced_size * sizeof *paced);
    }
    rise(c, ++paced_count);
}

static void unpace(struct connection *c)
{
    size_t at = c->place;
    if (!at)
        return;
    c->place = 0;
    struct connection *last = paced[paced_count--];
    if (last != c) {
        sink(last, at);
        rise(last, last->place);
    }
}

static void end_connection(struct connection *c)
{
    if (c->streams) {
        printf("closed %llu %llu %llu\n", (unsigned long long)c->id, (unsigned long long)now_ns(),
               (unsigned long long)c->made);
        fflush(stdout);
    }
    unpace(c);
    for (size_t i = 0; i < ready_count; i++)
        if (ready[i] == c)
            ready[i] = ready[--ready_count];
    close(c->fd);
    buffer_free(&c->request);
    buffer_free(&c->rest);
    free(c);
}

/* Return the number that the token at a place of the stream has. */
static uint64_t number_at(const struct connection *c, uint64_t position)
{
    uint64_t middle = c->tokens / 2;
    switch (c->fault) {
    case 1:
        return position < middle ? position : position + 1;
    case 2:
        return position <= middle ? position : position - 1;
    case 3:
        return position == middle ? middle + 1 : position == middle + 1 ? middle : position;
    default:
        return position;
    }
}

/* Write; false: the connection has ended. */
static bool send_bytes(struct connection *c, const char *bytes, size_t count)
{
    ssize_t done = c->rest.end > c->rest.start ? 0 : write_some(c->fd, bytes, count);
    if (done < 0) {
        end_connection(c);
        return false;
    }
    if ((size_t)done < count) {
        buffer_add(&c->rest, bytes + done, count - (size_t)done);
        c->full = true;
    }
    return true;
}

/* Write what a full socket has left over; false: the connection has ended. */
static bool send_rest(struct connection *c)
{
    ssize_t done = write_some(c->fd, c->rest.data + c->rest.start, c->rest.end - c->rest.start);
    if (done < 0) {
        end_connection(c);
        return false;
    }
    c->rest.start += (size_t)done;
    c->full = c->rest.start < c->rest.end;
    if (!c->full)
        buffer_free(&c->rest);
    return true;
}

/* Make and write the next tokens, the end of the stream behind its last; false: it has ended. */
static bool send_tokens(struct connection *c)
{
    static char chunk[16 + MAX_BATCH * TOKEN_BYTES + 1024];
    uint64_t now = now_ns();
    char *begin = chunk + 16, *to = begin;
    uint64_t last = c->tokens - (c->fault == 4);
    for (uint64_t i = 0; i < c->batch && c->made < last; i++) {
        to = PUT(to, LINE_BEGIN);
        to = put_decimal(to, number_at(c, ++c->made));
        *to++ = ':';
        to = put_decimal(to, now);
        *to++ = ' ';
        to = PUT(to, LINE_END);
    }
    c->ended = c->made >= last;
    if (c->ended) {
        to = PUT(to, LINE_BEGIN);
        to = PUT(to, LAST_END);
    }
    char size[16];
    int digits = snprintf(size, sizeof size, "%zx\r\n", (size_t)(to - begin));
    begin -= digits;
    memcpy(begin, size, (size_t)digits);
    to = PUT(to, "\r\n");
    if (c->ended) {
        to = PUT(to, "0\r\n\r\n");
        c->streams = false;
    }
    return send_bytes(c, begin, (size_t)(to - begin));
}

static void plan_next(struct connection *c)
{
    if (c->ended) {
        unpace(c);
        return;
    }
    double place_in_time = (double)c->made - 1 + c->phase;
    c->due = c->started + (uint64_t)(place_in_time * (double)SECOND / (double)c->rate);
    if (c->place)
        sink(c, c->place);
    else
        pace(c);
}

static void begin_stream(struct connection *c, const char *body)
{
    c->tokens = number_behind(body, "tokens=", 10);
    c->batch = number_behind(body, "batch=", 1);
    c->rate = number_behind(body, "rate=", 0);
    c->id = number_behind(body, "id=", 0);
    c->fault = number_behind(body, "fault=", 0);
    c->batch = c->batch < 1 ? 1 : c->batch > MAX_BATCH ? MAX_BATCH : c->batch;
    c->made = 0;
    c->streams = true;
    c->ended = false;
    c->started = now_ns();
    /* The golden ratio spreads any number of streams evenly. */
    c->phase = (double)++streams_begun * 0.6180339887498949;
    c->phase = c->phase - (double)(uint64_t)c->phase + 0.001;
    if (!send_bytes(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n",
                    sizeof("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n") -
                        1))
        return;
    if (!c->rate)
        make_ready(c);
    else if (send_tokens(c))
        plan_next(c);
}

static bool answer(struct connection *c, const char *status, const char *body)
{
    char text[1024];
    int count = snprintf(text, sizeof text,
                         "HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\n\r\n%s",
                         status, strlen(body), body);
    return send_bytes(c, text, (size_t)count);
}

/* The length of a request's body, by its Content-Length or its chunks; -1: it is not all here. */
static ssize_t body_length(const char *head, const char *body, size_t there)
{
    const char *field = strcasestr(head, "content-length:");
    if (field && field < body) {
        size_t length = strtoul(field + sizeof("content-length:") - 1, NULL, 10);
        return there < length ? -1 : (ssize_t)length;
    }
    field = strcasestr(head, "transfer-encoding: chunked");
    if (field && field < body) {
        const char *last = strstr(body, "0\r\n\r\n");
        return last ? last + 5 - body : -1;
    }
    return 0;
}

static void take_request(struct connection *c)
{
    for (;;) {
        buffer_add(&c->request, "", 1); /* so that it can be searched as a text */
        c->request.end--;
        size_t there = c->request.end - c->request.start;
        char *head = c->request.data + c->request.start, *body = head_end(head, there);
        if (!body)
            return;
        ssize_t length = body_length(head, body, there - (size_t)(body - head));
        if (length < 0)
            return;
        c->request.start += (size_t)(body + length - head);
        if (!strncmp(head, "POST /api/chat", 14)) {
            begin_stream(c, body);
            return; /* the next request comes when this one is answered */
        }
        bool alive = !strncmp(head, "GET /api/tags", 13)      ? answer(c, "200 OK", TAGS)
                     : !strncmp(head, "GET /api/version", 16) ? answer(c, "200 OK", VERSION)
                                                              : answer(c, "404 Not Found", "{}");
        if (!alive)
            return;
    }
}

static void on_events(struct connection *c, uint32_t events)
{
    if (events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) {
        end_connection(c);
        return;
    }
    if (events & EPOLLIN) {
        char bytes[16 * 1024];
        ssize_t count;
        while ((count = read_some(c->fd, bytes, sizeof bytes)) > 0) {
            buffer_add(&c->request, bytes, (size_t)count);
            if (c->request.end - c->request.start > HEAD_BYTES) {
                count = -1;
                break;
            }
        }
        if (count < 0) {
            end_connection(c);
            return;
        }
        if (!c->streams) {
            take_request(c);
            return;
        }
    }
    if (events & EPOLLOUT && c->full && send_rest(c) && !c->full && c->streams && !c->rate)
        make_ready(c);
}

/* Give each unpaced stream one write. */
static void turn(void)
{
    for (size_t i = 0; i < ready_count;) {
        struct connection *c = ready[i];
        if (!send_tokens(c))
            continue; /* another one has its place */
        if (c->full || c->ended) {
            c->waits = false;
            ready[i] = ready[--ready_count];
        } else {
            i++;
        }
    }
}

static void send_due(int timer)
{
    uint64_t times;
    /* Before the clock: a timer that expires between the two would be forgotten. */
    (void)!read(timer, &times, sizeof times);
    uint64_t now = now_ns();
    while (paced_count && paced[1]->due <= now) {
        struct connection *c = paced[1];
        /* A socket that is full puts its token off; none is left out. */
        if (c->full) {
            c->due = now + SECOND / 1000;
            sink(c, 1);
        } else if (send_tokens(c)) {
            plan_next(c);
        }
    }
}

static void set_timer(int timer)
{
    static uint64_t set;
    uint64_t due = paced_count ? paced[1]->due : 0;
    if (due == set)
        return;
    set = due;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(due / SECOND),
                                         .tv_nsec = (long)(due % SECOND)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void watch(int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        die(1, "cannot watch a socket: %s", strerror(errno));
}

int main(int count, char **arguments)
{
    static const struct option options[] = {{"port", required_argument, NULL, 'p'},
                                            {"cpu", required_argument, NULL, 'c'},
                                            {0}};
    int port = 0, core = -1;
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        if (option == 'p')
            port = atoi(optarg);
        else if (option == 'c')
            core = atoi(optarg);
        else
            return 2;
    }
    run_on(core);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port, &port);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(listener, EPOLLIN, &listener);
    watch(timer, EPOLLIN, &timer);
    printf("http://127.0.0.1:%d\n", port);
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        set_timer(timer);
        int found = epoll_wait(poller, events, EVENTS, ready_count ? 0 : -1);
        for (int i = 0; i < found; i++) {
            if (events[i].data.ptr == &listener) {
                int fd;
                while ((fd = accept(listener, NULL, NULL)) >= 0) {
                    struct connection *c = allocate(sizeof *c);
                    c->fd = fd;
                    accepted(fd);
                    watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, c);
                }
            } else if (events[i].data.ptr != &timer) {
                on_events(events[i].data.ptr, events[i].events);
            }
        }
        send_due(timer);
        turn();
    }
}
