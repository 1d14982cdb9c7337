/* Sends HTTP requests as fast as they are answered: http_load PORT CONNECTIONS SECONDS FILE
 *
 * One thread, one request at a time on each keep-alive connection, a send and a receive for each: on a machine whose
 * cores the server needs as well, whatever the generator costs is taken from what is measured.
 * FILE: one request a line, "METHOD PATH BODY", sent in turn; the body is JSON or nothing.
 * Prints one line of JSON: accepted (answers 2xx), refused (others, and connections that ended), seconds, p50_ms, p99_ms,
 * and cpu_us, what this program itself used for each answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MOST_CONNECTIONS 10000
#define MOST_REQUESTS 100000
#define ANSWER_BYTES (1 << 20)
#define AT_ONCE 256

struct text { char *at; size_t size; };
struct connection { int fd; size_t have, room; char *answer; uint64_t sent_us; };

static struct text requests[MOST_REQUESTS];
static size_t request_count, next_request;
static uint32_t *times;
static size_t answered, times_room;
static long refused, ended;

static void fail(const char *what)
{
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void read_requests(const char *path)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    if (file == NULL)
        fail(path);
    while (request_count < MOST_REQUESTS && (size = getline(&line, &room, file)) > 0) {
        char *method = line, *target, *body;
        struct text *request = &requests[request_count];
        int made;
        if (line[size - 1] == '\n')
            line[--size] = 0;
        if ((target = strchr(method, ' ')) == NULL || (body = strchr(target + 1, ' ')) == NULL)
            continue;
        *target++ = 0;
        *body++ = 0;
        made = asprintf(&request->at,
            "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            method, target, strlen(body), body);
        if (made < 0)
            fail("memory");
        request->size = (size_t)made;
        request_count++;
    }
    free(line);
    fclose(file);
    if (request_count == 0)
        fail("no request in the file");
}

static void send_next(struct connection *c)
{
    struct text *request = &requests[next_request++ % request_count];
    size_t sent = 0;
    c->have = 0;
    c->sent_us = now_us();
    while (sent < request->size) {
        ssize_t n = send(c->fd, request->at + sent, request->size - sent, MSG_NOSIGNAL);
        if (n < 0) {
            /* The server has gone: the next receive finds that out and counts it. */
            if (errno == EPIPE || errno == ECONNRESET)
                return;
            fail("send");
        }
        sent += (size_t)n;
    }
}

/* Whether the answer is there to its end; its length stands in the head, or it comes in chunks. */
static int complete(struct connection *c)
{
    char *end = memmem(c->answer, c->have, "\r\n\r\n", 4), *line;
    if (end == NULL)
        return 0;
    for (line = c->answer; line < end; line = strstr(line, "\r\n") + 2)
        if (strncasecmp(line, "content-length:", 15) == 0)
            return c->have >= (size_t)(end + 4 - c->answer) + strtoul(line + 15, NULL, 10);
    return c->have >= 5 && memcmp(c->answer + c->have - 5, "0\r\n\r\n", 5) == 0;
}

static void note(struct connection *c)
{
    uint64_t took = now_us() - c->sent_us;
    if (answered == times_room) {
        times_room = times_room ? times_room * 2 : 1 << 16;
        if ((times = realloc(times, times_room * sizeof *times)) == NULL)
            fail("memory");
    }
    times[answered++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    if (c->answer[9] != '2')
        refused++;
}

/* Takes what has come on one connection; 0 when the connection has ended. */
static int take(struct connection *c)
{
    ssize_t n;
    if (c->have + 1 >= c->room) {
        if (c->room >= ANSWER_BYTES * 64)
            fail("an answer is too large");
        c->room = c->room ? c->room * 4 : 4096;
        if ((c->answer = realloc(c->answer, c->room)) == NULL)
            fail("memory");
    }
    n = recv(c->fd, c->answer + c->have, c->room - c->have - 1, 0);
    if (n < 0 && errno == EINTR)
        return 1;
    if (n <= 0)
        return 0;
    c->have += (size_t)n;
    c->answer[c->have] = 0;
    if (complete(c)) {
        note(c);
        send_next(c);
    }
    return 1;
}

static double cpu_us(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(double part)
{
    return answered ? times[(size_t)((double)(answered - 1) * part)] / 1000.0 : 0.0;
}

int main(int count, char **words)
{
    struct sockaddr_in to = { .sin_family = AF_INET };
    struct epoll_event found[AT_ONCE];
    struct connection *all;
    int i, n, open, polled, on = 1;
    uint64_t began, ends, now;
    double used_us;
    if (count != 5 || (n = atoi(words[2])) < 1 || n > MOST_CONNECTIONS) {
        fprintf(stderr, "usage: http_load PORT CONNECTIONS SECONDS FILE\n");
        return 2;
    }
    read_requests(words[4]);
    to.sin_port = htons((uint16_t)atoi(words[1]));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    all = calloc((size_t)n, sizeof *all);
    if (all == NULL || (polled = epoll_create1(0)) < 0)
        fail("epoll");
    for (i = 0; i < n; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = &all[i] };
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (all[i].fd < 0 || connect(all[i].fd, (struct sockaddr *)&to, sizeof to) < 0)
            fail("connect");
        setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (epoll_ctl(polled, EPOLL_CTL_ADD, all[i].fd, &event) < 0)
            fail("epoll");
    }
    open = n;
    began = now_us();
    ends = began + (uint64_t)(atof(words[3]) * 1e6);
    for (i = 0; i < n; i++)
        send_next(&all[i]);
    while (open > 0 && (now = now_us()) < ends) {
        int ready = epoll_wait(polled, found, AT_ONCE, (int)((ends - now) / 1000 + 1));
        if (ready < 0 && errno != EINTR)
            fail("epoll");
        for (i = 0; i < ready; i++) {
            struct connection *c = found[i].data.ptr;
            if (!take(c)) {
                close(c->fd);
                ended++;
                open--;
            }
        }
    }
    now = now_us();
    used_us = cpu_us();
    qsort(times, answered, sizeof *times, by_size);
    printf("{\"accepted\": %ld, \"refused\": %ld, \"seconds\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
        "\"cpu_us\": %.2f}\n",
        (long)answered - refused, refused + ended, (double)(now - began) / 1e6, quantile_ms(0.5), quantile_ms(0.99),
        answered ? used_us / (double)answered : 0.0);
    return 0;
}
