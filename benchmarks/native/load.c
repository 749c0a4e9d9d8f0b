/* Many clients of the AI protocol, and what they saw: the load generator of the benchmarks.
 *
 *     load --port 3000 --clients 100 --prompt "tokens=2000 batch=1 rate=20" --server-pid 4711
 *
 * Rules of this file:
 *
 * - A client is what a stock one is on the wire: Engine.IO 4 and Socket.IO 5 over a WebSocket or by
 *   long-polling, on the namespace /ai. What it does not expect ends the program.
 * - Each token is checked: number n comes behind n - 1, or the run is refused (exit status 3). A
 *   stream is whole when start, so many tokens as were asked for, complete and done came, in order.
 * - An event may hold several tokens, and one more argument behind its object.
 * - A token's latency is from its write by the model to the return of the read that brought it.
 * - The server's CPU time is its threads' time on a core, read before the first request and after
 *   the last stream. The result is one JSON object on standard output; times in it are nanoseconds.
 *
 * What it can play: streams, all at once or one after the other (--serial); a cancel of each after
 * so many tokens (--cancel-after); a first client that stops reading (--stall-ms, with --first-prompt
 * for its own stream; the run ends with that one); clients that only connect (no --prompt) and stay
 * (--hold-ms).
 */
#include "net.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define READ_BYTES (8 * 1024 * 1024)
#define EVENTS 512
#define MARKS 10     /* readings of the server's CPU time, evenly over all tokens */
#define TICK 1000000 /* nanoseconds between two looks at what is due */
#define SAMPLE 20    /* ticks between two readings of the server's memory */
#define AI "/ai,"
#define REFUSED 3

/* Counts of values with a precision of 1.6 %: 64 cells for each power of two. */
#define CELLS ((63 - 5 + 1) * 64)
struct histogram {
    uint64_t cells[CELLS], count, most;
    double sum;
};

enum state { OPENING, JOINING, WAITING, READY, ASKED, CANCELLED, FINISHED };

struct client;

/* One connection of a client's: its WebSocket or its GETs, or its POSTs. */
struct link {
    struct client *client;
    int fd;
    struct buffer input; /* what is not whole yet */
};

struct client {
    unsigned id;
    enum state state;
    bool upgraded, posting, started, complete;
    struct link main, post;
    struct buffer outbox; /* packets for the next POST */
    char sid[128];
    uint64_t expected, tokens, asked_at, cancel_at, cancelled_at;
};

static struct {
    int port, server, core;
    unsigned clients, at_once;
    const char *prompt, *first_prompt;
    bool polling, serial;
    uint64_t cancel_after, stall, hold, limit;
} option = {.clients = 1, .at_once = 50, .core = -1, .limit = 120 * SECOND};

static struct client *clients;
static unsigned connecting, joined, asked, finished;
static int poller;
static uint64_t began, started, ended, connected_in, cpu_before, cpu_after, rss_before, rss_peak, rss_after;
static uint64_t tokens, events, merged, gets, pressures, total, ticks;
static uint64_t marks[MARKS + 1][3]; /* tokens, time, CPU time */
static unsigned mark;
static struct histogram latency, first, stalled, drained;
static enum { FLOWING, STALLED, DRAINING } stall = FLOWING;
static uint64_t stall_began;

/* -- what is counted ------------------------------------------------------------------------- */

static void count_value(struct histogram *h, uint64_t value)
{
    unsigned power = 63 - (unsigned)__builtin_clzll(value | 1);
    unsigned cell = power < 6 ? (unsigned)value
                              : (power - 5) * 64 + (unsigned)((value >> (power - 6)) & 63);
    h->cells[cell]++;
    h->count++;
    h->sum += (double)value;
    if (value > h->most)
        h->most = value;
}

/* The middle of a cell. */
static uint64_t cell_value(unsigned cell)
{
    if (cell < 64)
        return cell;
    unsigned power = cell / 64 + 5;
    return ((uint64_t)(64 + cell % 64) << (power - 6)) + ((1ull << (power - 6)) >> 1);
}

static uint64_t percentile(const struct histogram *h, double percent)
{
    uint64_t rank = (uint64_t)(percent / 100 * (double)h->count), seen = 0;
    for (unsigned cell = 0; cell < CELLS; cell++)
        if ((seen += h->cells[cell]) > rank)
            return cell_value(cell) < h->most ? cell_value(cell) : h->most;
    return h->most;
}

static uint64_t read_number(const char *path, unsigned field)
{
    char text[512];
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    size_t count = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[count] = 0;
    char *at = text;
    while (field--)
        if (!(at = strchr(at, ' ')) || !*++at)
            return 0;
    return strtoull(at, NULL, 10);
}

/* The time that all threads of the server have been on a core. */
static uint64_t server_cpu(void)
{
    char path[512];
    uint64_t sum = 0;
    if (!option.server)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/task", option.server);
    DIR *threads = opendir(path);
    if (!threads)
        die(1, "the server has ended");
    for (struct dirent *entry; (entry = readdir(threads));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", option.server, entry->d_name);
        sum += read_number(path, 0);
    }
    closedir(threads);
    return sum;
}

static uint64_t server_rss(void)
{
    char path[64];
    if (!option.server)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/statm", option.server);
    return read_number(path, 1) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void set_mark(uint64_t now)
{
    marks[mark][0] = tokens;
    marks[mark][1] = now - started;
    marks[mark][2] = server_cpu() - cpu_before;
    mark++;
}

/* -- sending --------------------------------------------------------------------------------- */

static void watch(struct link *link)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, link->fd, &event))
        die(1, "cannot watch a socket: %s", strerror(errno));
}

static void open_link(struct client *c, struct link *link)
{
    link->client = c;
    link->fd = connect_to(option.port);
    watch(link);
}

static void close_link(struct link *link)
{
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
    buffer_free(&link->input);
}

/* What a client sends is small: a socket without room for it is a fault of the server's. */
static void send_all(struct link *link, const char *bytes, size_t count)
{
    if (write_some(link->fd, bytes, count) != (ssize_t)count)
        die(1, "client %u: the server takes nothing", link->client->id);
}

static void send_get(struct client *c)
{
    char text[512];
    int count = snprintf(text, sizeof text,
                         "GET /socket.io/?EIO=4&transport=polling%s%s HTTP/1.1\r\n"
                         "Host: 127.0.0.1:%d\r\nAccept: */*\r\n\r\n",
                         c->sid[0] ? "&sid=" : "", c->sid, option.port);
    send_all(&c->main, text, (size_t)count);
}

static void send_post(struct client *c)
{
    char text[8192];
    size_t length = c->outbox.end - c->outbox.start;
    if (c->posting || !length)
        return;
    if (c->post.fd < 0)
        open_link(c, &c->post);
    int count = snprintf(text, sizeof text,
                         "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\n"
                         "Host: 127.0.0.1:%d\r\nContent-Type: text/plain;charset=UTF-8\r\n"
                         "Content-Length: %zu\r\n\r\n%.*s",
                         c->sid, option.port, length, (int)length,
                         c->outbox.data + c->outbox.start);
    c->posting = true;
    send_all(&c->post, text, (size_t)count);
    buffer_free(&c->outbox);
}

/* Send a frame. A mask of zeros leaves it as it is (RFC 6455 5.3). */
static void send_frame(struct client *c, unsigned char kind, const char *payload, size_t length)
{
    char frame[4096], *to = frame;
    if (length > sizeof frame - 8)
        die(1, "a frame of %zu bytes is too long", length);
    *to++ = (char)kind;
    if (length < 126) {
        *to++ = (char)(0x80 | length);
    } else {
        *to++ = (char)(0x80 | 126);
        *to++ = (char)(length >> 8);
        *to++ = (char)length;
    }
    to = PUT(to, "\0\0\0\0");
    to = put_text(to, payload, length);
    send_all(&c->main, frame, (size_t)(to - frame));
}

/* Send an Engine.IO packet. */
static void send_packet(struct client *c, const char *packet)
{
    size_t length = strlen(packet);
    if (option.polling) {
        if (c->outbox.end > c->outbox.start)
            buffer_add(&c->outbox, "\x1e", 1);
        buffer_add(&c->outbox, packet, length);
        send_post(c);
        return;
    }
    send_frame(c, 0x81, packet, length);
}

static void begin(struct client *c)
{
    c->main.fd = c->post.fd = -1;
    open_link(c, &c->main);
    connecting++;
    if (option.polling) {
        send_get(c);
        return;
    }
    char text[512];
    int count = snprintf(text, sizeof text,
                         "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
                         "Host: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                         "Sec-WebSocket-Version: 13\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                         option.port);
    send_all(&c->main, text, (size_t)count);
}

static void ask(struct client *c)
{
    char packet[2048];
    bool is_first = c->id == 0 && option.first_prompt;
    const char *prompt = is_first ? option.first_prompt : option.prompt;
    c->expected = number_behind(prompt, "tokens=", 10);
    int count = snprintf(packet, sizeof packet,
                         "42" AI "[\"ai:stream\",{\"prompt\":\"%s id=%u\",\"model\":\"bench\","
                         "\"useOrchestrator\":false,\"streamId\":\"s%u\"}]",
                         prompt, c->id, c->id);
    if (count >= (int)sizeof packet)
        die(2, "a prompt of %zu bytes is too long", strlen(prompt));
    c->state = ASKED;
    c->asked_at = now_ns();
    asked++;
    send_packet(c, packet);
}

static void start(void)
{
    cpu_before = server_cpu();
    rss_before = rss_peak = server_rss();
    started = now_ns();
    set_mark(started);
    if (!option.prompt)
        return;
    total = (uint64_t)option.clients * number_behind(option.prompt, "tokens=", 10);
    for (unsigned i = 0; i < (option.serial ? 1 : option.clients); i++)
        ask(&clients[i]);
}

static void finish(struct client *c)
{
    c->state = FINISHED;
    finished++;
    if (option.serial && asked < option.clients)
        ask(&clients[asked]);
}

/* -- reading --------------------------------------------------------------------------------- */

static void take_tokens(struct client *c, const char *event, size_t length, uint64_t now)
{
    const char *at = memmem(event, length, "\"data\":\"", 8);
    uint64_t number, written, count = 0;
    if (!at)
        die(REFUSED, "client %u: a token without data: %.200s", c->id, event);
    for (at += 8; *at != '"'; count++) {
        at = take_decimal(at, &number);
        if (*at++ != ':' || number != c->tokens + 1)
            die(REFUSED, "client %u: token %llu came where %llu was due", c->id,
                (unsigned long long)number, (unsigned long long)c->tokens + 1);
        at = take_decimal(at, &written);
        if (*at++ != ' ')
            die(REFUSED, "client %u: token %llu is damaged", c->id, (unsigned long long)number);
        if (!c->tokens++)
            count_value(&first, now - c->asked_at);
        if (c->id || !option.stall) {
            count_value(&latency, now - written);
            if (stall == STALLED)
                count_value(&stalled, now - written);
            else if (stall == DRAINING)
                count_value(&drained, now - written);
        }
    }
    events++;
    tokens += count;
    if (count > 1)
        merged += count;
    if (!c->started)
        die(REFUSED, "client %u: a token before the start", c->id);
    if (total && mark < MARKS && tokens >= total / MARKS * mark)
        set_mark(now);
    /* Streams that run at once are cancelled one after the other, not in step with their tokens. */
    uint64_t after = option.cancel_after + (option.serial ? 0 : c->id);
    if (option.cancel_after && !c->cancel_at && c->tokens >= after)
        c->cancel_at = now + (uint64_t)(c->id * 7919 % 2000) * (SECOND / 100000);
    if (option.stall && !c->id && stall == FLOWING) {
        stall = STALLED;
        stall_began = now;
        rss_before = rss_peak = server_rss();
        epoll_ctl(poller, EPOLL_CTL_DEL, c->main.fd, NULL);
    }
}

static bool is_event(const char *packet, size_t length, const char *name)
{
    size_t count = strlen(name);
    return length > count + 2 && !memcmp(packet, name, count) && packet[count] == '"';
}

static void on_event(struct client *c, const char *event, size_t length, uint64_t now)
{
    if (is_event(event, length, "token")) {
        if (c->state != ASKED && c->state != CANCELLED)
            die(REFUSED, "client %u: a token behind the end", c->id);
        take_tokens(c, event, length, now);
    } else if (is_event(event, length, "connected")) {
        c->state = READY;
        connecting--;
        if (++joined == option.clients)
            connected_in = now_ns() - began;
    } else if (is_event(event, length, "stream:start")) {
        c->started = true;
    } else if (is_event(event, length, "stream:complete")) {
        c->complete = true;
    } else if (is_event(event, length, "done")) {
        uint64_t said = number_behind(event, "\"totalTokens\":", 0);
        if (!c->complete || c->tokens != c->expected || said != c->expected)
            die(REFUSED, "client %u: done after %llu of %llu tokens (the server says %llu)%s",
                c->id, (unsigned long long)c->tokens, (unsigned long long)c->expected,
                (unsigned long long)said, c->complete ? "" : ", not complete");
        finish(c);
    } else if (is_event(event, length, "stream:cancelled") && c->state == CANCELLED) {
        finish(c);
    } else if (is_event(event, length, "backpressure")) {
        pressures++;
    } else {
        die(REFUSED, "client %u: %.300s", c->id, event);
    }
}

/* Take one Engine.IO packet; a zero byte stands behind it. */
static void on_packet(struct client *c, const char *packet, size_t length, uint64_t now)
{
    static const char event[] = "42" AI "[\"ai:";
    if (length >= sizeof event && !memcmp(packet, event, sizeof event - 1)) {
        on_event(c, packet + sizeof event - 1, length - sizeof event + 1, now);
    } else if (packet[0] == '2') {
        send_packet(c, "3");
    } else if (packet[0] == '0') {
        const char *sid = strstr(packet, "\"sid\":\"");
        if (!sid)
            die(1, "client %u: no sid: %.200s", c->id, packet);
        snprintf(c->sid, sizeof c->sid, "%.*s", (int)strcspn(sid + 7, "\""), sid + 7);
        c->state = JOINING;
        send_packet(c, "40" AI);
    } else if (!strncmp(packet, "40" AI, 6)) {
        c->state = WAITING;
    } else if (packet[0] != '6') {
        die(REFUSED, "client %u: %.300s", c->id, packet);
    }
}

/* Take packets out of the WebSocket's frames; return the bytes taken. */
static size_t take_frames(struct client *c, char *bytes, size_t count, uint64_t now)
{
    size_t taken = 0;
    if (!c->upgraded) {
        char *end = head_end(bytes, count);
        if (!end)
            return 0;
        if (strncmp(bytes, "HTTP/1.1 101", 12))
            die(1, "client %u: refused: %.*s", c->id, (int)strcspn(bytes, "\r"), bytes);
        c->upgraded = true;
        taken = (size_t)(end - bytes);
    }
    while (count - taken >= 2) {
        unsigned char *frame = (unsigned char *)bytes + taken;
        size_t head = 2, length = frame[1];
        if (length == 126)
            head = 4;
        else if (length == 127)
            head = 10;
        if (count - taken < head)
            break;
        if (head > 2) {
            length = 0;
            for (size_t i = 2; i < head; i++)
                length = length << 8 | frame[i];
        }
        if (length > READ_BYTES / 2)
            die(1, "client %u: a frame of %zu bytes", c->id, length);
        if (count - taken < head + length)
            break;
        char *packet = bytes + taken + head, behind = packet[length];
        packet[length] = 0;
        if (frame[0] == 0x81)
            on_packet(c, packet, length, now);
        else if (frame[0] == 0x89)
            send_frame(c, 0x8a, packet, length);
        else if (frame[0] == 0x88)
            die(REFUSED, "client %u: the server closes the WebSocket: %.100s", c->id,
                length > 2 ? packet + 2 : "");
        else
            die(1, "client %u: a frame that is no whole text: %02x", c->id, frame[0]);
        packet[length] = behind;
        taken += head + length;
    }
    return taken;
}

/* Go over the chunks of an answer, and move their bytes together if `moving`. Return the bytes that
 * the chunks take; 0: they are not all here. */
static size_t go_over_chunks(char *bytes, size_t count, size_t *body, bool moving)
{
    size_t at = 0;
    *body = 0;
    for (;;) {
        char *line = memmem(bytes + at, count - at, "\r\n", 2);
        if (!line)
            return 0;
        size_t length = strtoul(bytes + at, NULL, 16);
        at = (size_t)(line - bytes) + 2;
        if (count < at + length + 2)
            return 0;
        if (moving)
            memmove(bytes + *body, bytes + at, length);
        *body += length;
        at += length + 2;
        if (!length)
            return at;
    }
}

/* Take one answer to a GET or a POST; return the bytes taken. */
static size_t take_answer(struct link *link, char *bytes, size_t count, uint64_t now)
{
    struct client *c = link->client;
    char *body = head_end(bytes, count);
    if (!body)
        return 0;
    size_t head = (size_t)(body - bytes), there = count - head, length, taken;
    const char *field = strcasestr(bytes, "content-length:");
    if (field && field < body) {
        length = taken = strtoul(field + sizeof("content-length:") - 1, NULL, 10);
        if (there < length)
            return 0;
    } else {
        if (!go_over_chunks(body, there, &length, false))
            return 0;
        taken = go_over_chunks(body, there, &length, true);
    }
    if (strncmp(bytes, "HTTP/1.1 200", 12))
        die(REFUSED, "client %u: %.*s: %.*s", c->id, (int)strcspn(bytes, "\r"), bytes, (int)length,
            body);
    if (link == &c->post) {
        c->posting = false;
        send_post(c);
        return head + taken;
    }
    /* A body ends where the next answer would begin, or with what was read. */
    char behind = body[length];
    uint64_t before = tokens;
    body[length] = 0;
    for (char *packet = body, *end = body + length; packet < end;) {
        char *next = memchr(packet, '\x1e', (size_t)(end - packet));
        next = next ? next : end;
        *next = 0;
        on_packet(c, packet, (size_t)(next - packet), now);
        packet = next + 1;
    }
    body[length] = behind;
    gets += tokens > before;
    if (c->state != FINISHED)
        send_get(c);
    return head + taken;
}

static void on_readable(struct link *link)
{
    static char bytes[READ_BYTES * 2 + 1];
    struct client *c = link->client;
    size_t kept = link->input.end - link->input.start, taken = 0, step;
    if (kept > READ_BYTES)
        die(1, "client %u: an answer of more than %d bytes", c->id, READ_BYTES);
    memcpy(bytes, link->input.data + link->input.start, kept);
    ssize_t count = read_some(link->fd, bytes + kept, READ_BYTES);
    uint64_t now = now_ns();
    if (count < 0) {
        if (link == &c->post && !c->posting) {
            close_link(link); /* it was idle; the next POST opens another */
            return;
        }
        if (c->state == FINISHED && option.polling) {
            close_link(link);
            return;
        }
        die(REFUSED, "client %u: the server closed the connection", c->id);
    }
    size_t there = kept + (size_t)count;
    bytes[there] = 0;
    buffer_free(&link->input);
    if (option.polling) {
        while (taken < there && (step = take_answer(link, bytes + taken, there - taken, now)))
            taken += step;
    } else {
        taken = take_frames(c, bytes, there, now);
    }
    if (taken < there)
        buffer_add(&link->input, bytes + taken, there - taken);
}

/* -- the run --------------------------------------------------------------------------------- */

static void on_tick(uint64_t now)
{
    if (ticks++ % SAMPLE == 0 && started) {
        uint64_t rss = server_rss();
        rss_peak = rss > rss_peak ? rss : rss_peak;
    }
    if (option.cancel_after)
        for (unsigned i = 0; i < asked; i++) {
            struct client *c = &clients[i];
            if (c->state == ASKED && c->cancel_at && c->cancel_at <= now) {
                char packet[128];
                snprintf(packet, sizeof packet, "42" AI "[\"ai:cancel\",{\"streamId\":\"s%u\"}]",
                         c->id);
                c->state = CANCELLED;
                c->cancelled_at = now_ns();
                send_packet(c, packet);
            }
        }
    if (stall == STALLED && now - stall_began >= option.stall) {
        stall = DRAINING;
        rss_after = server_rss();
        watch(&clients[0].main);
    }
}

static bool is_over(uint64_t now)
{
    if (!option.prompt)
        return joined == option.clients && now - started >= connected_in + option.hold;
    return finished == option.clients || (option.stall && clients[0].state == FINISHED);
}

static void print_histogram(const char *name, const struct histogram *h)
{
    printf(",\"%s\":{\"count\":%llu,\"mean\":%.0f,\"p50\":%llu,\"p90\":%llu,\"p99\":%llu,"
           "\"p999\":%llu,\"max\":%llu,\"cells\":[",
           name, (unsigned long long)h->count, h->count ? h->sum / (double)h->count : 0,
           (unsigned long long)percentile(h, 50), (unsigned long long)percentile(h, 90),
           (unsigned long long)percentile(h, 99), (unsigned long long)percentile(h, 99.9),
           (unsigned long long)h->most);
    const char *comma = "";
    for (unsigned cell = 0; cell < CELLS; cell++)
        if (h->cells[cell]) {
            printf("%s[%llu,%llu]", comma, (unsigned long long)cell_value(cell),
                   (unsigned long long)h->cells[cell]);
            comma = ",";
        }
    printf("]}");
}

static void print_result(void)
{
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    printf("{\"clients\":%u,\"tokens\":%llu,\"events\":%llu,\"merged\":%llu,\"gets\":%llu,"
           "\"backpressures\":%llu,\"ns\":%llu,\"connect_ns\":%llu,\"server_cpu_ns\":%llu,"
           "\"load_cpu_ns\":%llu,\"rss_before\":%llu,\"rss_peak\":%llu,\"rss_after\":%llu",
           option.clients, (unsigned long long)tokens, (unsigned long long)events,
           (unsigned long long)merged, (unsigned long long)gets, (unsigned long long)pressures,
           (unsigned long long)(ended - started), (unsigned long long)connected_in,
           (unsigned long long)(cpu_after - cpu_before),
           (unsigned long long)((own.ru_utime.tv_sec + own.ru_stime.tv_sec) * SECOND +
                                (own.ru_utime.tv_usec + own.ru_stime.tv_usec) * 1000),
           (unsigned long long)rss_before, (unsigned long long)rss_peak,
           (unsigned long long)rss_after);
    print_histogram("latency", &latency);
    print_histogram("first", &first);
    print_histogram("while_stalled", &stalled);
    print_histogram("while_draining", &drained);
    printf(",\"marks\":[");
    for (unsigned i = 0; i < mark; i++)
        printf("%s[%llu,%llu,%llu]", i ? "," : "", (unsigned long long)marks[i][0],
               (unsigned long long)marks[i][1], (unsigned long long)marks[i][2]);
    printf("],\"cancels\":[");
    const char *comma = "";
    for (unsigned i = 0; i < option.clients; i++)
        if (clients[i].cancelled_at) {
            printf("%s[%u,%llu]", comma, i, (unsigned long long)clients[i].cancelled_at);
            comma = ",";
        }
    printf("]}\n");
}

static void read_options(int count, char **arguments)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},         {"server-pid", required_argument, NULL, 's'},
        {"cpu", required_argument, NULL, 'u'},          {"clients", required_argument, NULL, 'c'},
        {"at-once", required_argument, NULL, 'a'},      {"prompt", required_argument, NULL, 't'},
        {"first-prompt", required_argument, NULL, 'f'}, {"polling", no_argument, NULL, 'g'},
        {"serial", no_argument, NULL, 'e'},             {"cancel-after", required_argument, NULL, 'x'},
        {"stall-ms", required_argument, NULL, 'l'},     {"hold-ms", required_argument, NULL, 'h'},
        {"limit-s", required_argument, NULL, 'm'},      {0}};
    for (int found; (found = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        uint64_t number = optarg ? strtoull(optarg, NULL, 10) : 0;
        switch (found) {
        case 'p': option.port = (int)number; break;
        case 's': option.server = (int)number; break;
        case 'u': option.core = (int)number; break;
        case 'c': option.clients = (unsigned)number; break;
        case 'a': option.at_once = (unsigned)number; break;
        case 't': option.prompt = optarg; break;
        case 'f': option.first_prompt = optarg; break;
        case 'g': option.polling = true; break;
        case 'e': option.serial = true; break;
        case 'x': option.cancel_after = number; break;
        case 'l': option.stall = number * (SECOND / 1000); break;
        case 'h': option.hold = number * (SECOND / 1000); break;
        case 'm': option.limit = number * SECOND; break;
        default: exit(2);
        }
    }
    if (!option.port || !option.clients || (option.stall && option.polling))
        die(2, "load --port PORT --clients N [--prompt TEXT] ...; no --stall-ms with --polling");
}

int main(int count, char **arguments)
{
    read_options(count, arguments);
    run_on(option.core);
    poller = epoll_create1(EPOLL_CLOEXEC);
    clients = allocate(option.clients * sizeof *clients);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct itimerspec every = {.it_interval.tv_nsec = TICK, .it_value.tv_nsec = TICK};
    timerfd_settime(timer, 0, &every, NULL);
    struct epoll_event tick = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &tick);

    uint64_t now = began = now_ns();
    unsigned begun = 0;
    if (!option.prompt)
        start();
    while (!started || !is_over(now)) {
        while (begun < option.clients && connecting < option.at_once) {
            clients[begun].id = begun;
            begin(&clients[begun++]);
        }
        if (!started && joined == option.clients)
            start();
        struct epoll_event found[EVENTS];
        int ready = epoll_wait(poller, found, EVENTS, 1000);
        for (int i = 0; i < ready; i++) {
            struct link *link = found[i].data.ptr;
            if (link && link->fd >= 0)
                on_readable(link);
            if (!link) {
                uint64_t times;
                (void)!read(timer, &times, sizeof times);
                on_tick(now_ns());
            }
        }
        now = now_ns();
        if (now - began > option.limit)
            die(1, "not over after %llu s: %u of %u clients joined, %u finished, %llu tokens",
                (unsigned long long)(option.limit / SECOND), joined, option.clients, finished,
                (unsigned long long)tokens);
    }
    ended = now;
    cpu_after = server_cpu();
    if (option.prompt && mark <= MARKS)
        set_mark(now);
    if (!option.stall)
        rss_after = server_rss();
    if (rss_after > rss_peak)
        rss_peak = rss_after;
    print_result();
    return 0;
}
