/* The least that can stand between a model and its clients: what the ceiling of a server is.
 *
 *     forward --model http://127.0.0.1:11434
 *
 * Rules of this file: it speaks just enough of the seed's API for `load.c` over WebSockets, one
 * stream a connection, and forwards each line's text as one ai:token. It checks nothing, heeds no
 * slow reader, and is no server.
 */
#include "net.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES (64 * 1024)
#define EVENTS 256

struct pair;

struct end {
    struct pair *pair;
    int fd;
    struct buffer input, rest;
};

/* A client and, while it has a stream, the connection to the model. */
struct pair {
    struct end client, model;
    bool upgraded, gone;
    uint64_t tokens;
    char stream[64];
    struct pair *next_gone;
};

static int poller, model_port;
static struct pair *gone; /* freed when the events at hand are over */

static void watch(int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        die(1, "cannot watch a socket: %s", strerror(errno));
}

static void close_end(struct end *end)
{
    if (end->fd >= 0)
        close(end->fd);
    end->fd = -1;
    buffer_free(&end->input);
    buffer_free(&end->rest);
}

static void drop(struct pair *pair)
{
    close_end(&pair->client);
    close_end(&pair->model);
    if (!pair->gone) {
        pair->gone = true;
        pair->next_gone = gone;
        gone = pair;
    }
}

static void send_to(struct end *end, const char *bytes, size_t count)
{
    ssize_t done = end->rest.end > end->rest.start ? 0 : write_some(end->fd, bytes, count);
    if (done < 0)
        drop(end->pair);
    else if ((size_t)done < count)
        buffer_add(&end->rest, bytes + done, count - (size_t)done);
}

/* Put a server's text frame, its payload from two pieces (RFC 6455 5.2). */
static char *put_frame(char *to, const char *payload, size_t length)
{
    *to++ = (char)0x81;
    if (length < 126) {
        *to++ = (char)length;
    } else {
        *to++ = 126;
        *to++ = (char)(length >> 8);
        *to++ = (char)length;
    }
    return put_text(to, payload, length);
}

static void send_text(struct pair *pair, const char *payload)
{
    char frame[1024];
    send_to(&pair->client, frame, (size_t)(put_frame(frame, payload, strlen(payload)) - frame));
}

static void ask_model(struct pair *pair, const char *request)
{
    const char *prompt = strstr(request, "\"prompt\":\""), *id = strstr(request, "\"streamId\":\"");
    char body[1024], text[2048];
    if (!prompt || !id)
        return;
    prompt += 10;
    id += 12;
    snprintf(pair->stream, sizeof pair->stream, "%.*s", (int)strcspn(id, "\""), id);
    int length = snprintf(body, sizeof body,
                          "{\"model\":\"bench\",\"stream\":true,"
                          "\"messages\":[{\"role\":\"user\",\"content\":\"%.*s\"}]}",
                          (int)strcspn(prompt, "\""), prompt);
    int count = snprintf(text, sizeof text,
                         "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                         "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                         length, body);
    pair->tokens = 0;
    pair->model.fd = connect_to(model_port);
    watch(pair->model.fd, EPOLLIN, &pair->model);
    snprintf(body, sizeof body, "42/ai,[\"ai:stream:start\",{\"streamId\":\"%s\"}]", pair->stream);
    send_text(pair, body);
    send_to(&pair->model, text, (size_t)count);
}

static void on_packet(struct pair *pair, const char *packet)
{
    char text[256];
    if (!strncmp(packet, "40/ai", 5)) {
        send_text(pair, "40/ai,{\"sid\":\"c\"}");
        send_text(pair, "42/ai,[\"ai:connected\",{\"clientId\":\"c\"}]");
    } else if (strstr(packet, "\"ai:stream\"")) {
        ask_model(pair, packet);
    } else if (strstr(packet, "\"ai:cancel\"")) {
        close_end(&pair->model);
        snprintf(text, sizeof text, "42/ai,[\"ai:stream:cancelled\",{\"streamId\":\"%s\"}]",
                 pair->stream);
        send_text(pair, text);
    }
}

static void from_client(struct pair *pair)
{
    char bytes[4096];
    ssize_t count = read_some(pair->client.fd, bytes, sizeof bytes);
    if (count < 0) {
        drop(pair);
        return;
    }
    struct buffer *input = &pair->client.input;
    buffer_add(input, bytes, (size_t)count);
    if (!pair->upgraded) {
        char *end = head_end(input->data + input->start, input->end - input->start);
        if (!end)
            return;
        static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                     "Connection: Upgrade\r\n"
                                     "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        input->start = (size_t)(end - input->data);
        pair->upgraded = true;
        send_to(&pair->client, answer, sizeof answer - 1);
        send_text(pair, "0{\"sid\":\"s\",\"upgrades\":[],\"pingInterval\":300000,"
                        "\"pingTimeout\":300000,\"maxPayload\":1000000}");
    }
    while (!pair->gone && input->end - input->start >= 6) {
        unsigned char *frame = (unsigned char *)input->data + input->start;
        size_t length = frame[1] & 127, head = 6;
        if (length == 126) {
            head = 8;
            length = (size_t)frame[2] << 8 | frame[3];
        }
        if (input->end - input->start < head + length)
            break;
        char packet[4096];
        for (size_t i = 0; i < length && i < sizeof packet - 1; i++)
            packet[i] = (char)(frame[head + i] ^ frame[head - 4 + i % 4]);
        packet[length < sizeof packet ? length : sizeof packet - 1] = 0;
        input->start += head + length;
        if (frame[0] == 0x88)
            drop(pair);
        else
            on_packet(pair, packet);
    }
}

/* Forward the whole lines among so many bytes; return how many were taken. */
static size_t forward(struct pair *pair, char *bytes, size_t count)
{
    static char frames[READ_BYTES * 4];
    char *to = frames, *at = bytes, *end = bytes + count, *line;
    while ((line = memchr(at, '\n', (size_t)(end - at)))) {
        static const char key[] = "\"content\":\"";
        char *text = memmem(at, (size_t)(line - at), key, sizeof key - 1);
        if (text) {
            text += sizeof key - 1;
            size_t length = (size_t)((char *)memchr(text, '"', (size_t)(line - text)) - text);
            char payload[1024], *put = payload;
            if (length) {
                put = PUT(put, "42/ai,[\"ai:token\",{\"streamId\":\"");
                put = put_text(put, pair->stream, strlen(pair->stream));
                put = PUT(put, "\",\"data\":\"");
                put = put_text(put, text, length);
                put = PUT(put, "\",\"agent\":\"DirectOllama\",\"tokenCount\":");
                put = put_decimal(put, ++pair->tokens);
                put = PUT(put, ",\"metadata\":{\"model\":\"bench\"}}]");
                to = put_frame(to, payload, (size_t)(put - payload));
            }
            if (memmem(text, (size_t)(line - text), "\"done\":true", 11)) {
                put = payload;
                put += snprintf(put, 512,
                                "42/ai,[\"ai:stream:complete\",{\"streamId\":\"%s\","
                                "\"agent\":\"DirectOllama\"}]",
                                pair->stream);
                to = put_frame(to, payload, (size_t)(put - payload));
                put = payload;
                put += snprintf(put, 512,
                                "42/ai,[\"ai:done\",{\"streamId\":\"%s\",\"totalTokens\":%llu}]",
                                pair->stream, (unsigned long long)pair->tokens);
                to = put_frame(to, payload, (size_t)(put - payload));
            }
        }
        at = line + 1;
    }
    if (to > frames)
        send_to(&pair->client, frames, (size_t)(to - frames));
    return (size_t)(at - bytes);
}

static void from_model(struct pair *pair)
{
    static char bytes[READ_BYTES * 2];
    struct buffer *input = &pair->model.input;
    size_t kept = input->end - input->start;
    memcpy(bytes, input->data + input->start, kept);
    ssize_t count = read_some(pair->model.fd, bytes + kept, READ_BYTES - kept);
    if (count < 0) {
        close_end(&pair->model);
        return;
    }
    size_t there = kept + (size_t)count, taken = forward(pair, bytes, there);
    if (pair->gone)
        return;
    buffer_free(input);
    buffer_add(input, bytes + taken, there - taken);
}

static void send_rest(struct end *end)
{
    ssize_t done = write_some(end->fd, end->rest.data + end->rest.start,
                              end->rest.end - end->rest.start);
    if (done < 0) {
        drop(end->pair);
        return;
    }
    end->rest.start += (size_t)done;
    if (end->rest.start == end->rest.end)
        buffer_free(&end->rest);
}

int main(int count, char **arguments)
{
    static const struct option options[] = {{"model", required_argument, NULL, 'm'}, {0}};
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        if (option != 'm')
            return 2;
        model_port = (int)number_behind(optarg, "127.0.0.1:", 0);
    }
    int port = 0;
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port, &port);
    watch(listener, EPOLLIN, NULL);
    printf("AI Streaming WebSocket: ws://localhost:%d/ai\n", port);
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int found = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < found; i++) {
            struct end *end = events[i].data.ptr;
            if (!end) {
                int fd;
                while ((fd = accept(listener, NULL, NULL)) >= 0) {
                    struct pair *pair = allocate(sizeof *pair);
                    accepted(fd);
                    pair->client = (struct end){.pair = pair, .fd = fd};
                    pair->model = (struct end){.pair = pair, .fd = -1};
                    watch(fd, EPOLLIN | EPOLLOUT | EPOLLET, &pair->client);
                }
                continue;
            }
            struct pair *pair = end->pair;
            if (end->fd < 0)
                continue;
            if (end->rest.end > end->rest.start)
                send_rest(end);
            if (!pair->gone && end->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (end == &pair->client)
                    from_client(pair);
                else
                    from_model(pair);
            }
        }
        while (gone) {
            struct pair *pair = gone;
            gone = pair->next_gone;
            free(pair);
        }
    }
}
