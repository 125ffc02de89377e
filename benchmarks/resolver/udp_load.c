/* Queries over UDP that saturate a server: one query, sent again and again in batches, with a window of `depth`.

   udp_load PORT SECONDS DEPTH RATE QUERY-IN-HEX

   A batch is one call: the kernel splits it into datagrams (UDP_SEGMENT), so that this costs less than the server.
   RATE 0 keeps DEPTH queries in flight. Otherwise RATE queries are sent a second, one at a time. It prints the replies
   a second, and the mean and the 99th percentile of their delay in microseconds. A reply that does not come within
   TIMEOUT is lost. The id of a query is its place in the window, so replies may come in any order. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, SIZE = 512, WINDOW = 4096, BUCKETS = 100000 };
static const double TIMEOUT = 0.25;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int fd, size;
static unsigned char query[SIZE];
static double sent_at[WINDOW];
static int unused[WINDOW], spare;
static long replies, lost, histogram[BUCKETS];
static double waited;

static void send_some(int count) {
    static unsigned char out[BATCH * SIZE];
    double when = now();
    if (count > BATCH) count = BATCH;
    if (count > spare) count = spare;
    for (int i = 0; i < count; i++) {
        int id = unused[--spare];
        unsigned char *at = out + i * size;
        memcpy(at, query, size);
        at[0] = id >> 8, at[1] = id & 255;
        sent_at[id] = when;
    }
    while (send(fd, out, count * size, 0) < 0)
        if (errno != EINTR) exit(2);
}

static void receive_some(double patience) {
    static unsigned char in[BATCH][SIZE];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec pieces[BATCH];
    struct pollfd watched = {fd, POLLIN, 0};
    struct timespec wait = {0, (long)(patience * 1e9)};
    if (ppoll(&watched, 1, &wait, NULL) <= 0) return;
    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){in[i], SIZE};
        messages[i].msg_hdr.msg_iov = &pieces[i], messages[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    double when = now();
    for (int i = 0; i < n; i++) {
        int id = in[i][0] << 8 | in[i][1];
        if (messages[i].msg_len < 12 || id >= WINDOW || sent_at[id] == 0) continue;
        if (in[i][3] & 15 || !in[i][7]) exit(3); /* not the answer from the cache */
        double took = when - sent_at[id];
        long bucket = took * 1e6;
        sent_at[id] = 0, unused[spare++] = id;
        replies++, waited += took;
        histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    }
}

int main(int count, char **words) {
    if (count != 6) return 1;
    int depth = atoi(words[3]);
    double seconds = atof(words[2]), rate = atof(words[4]);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    size = strlen(words[5]) / 2;
    if (size < 12 || size > SIZE || depth < 1 || depth > WINDOW) return 1;
    for (int i = 0; i < size; i++) sscanf(words[5] + 2 * i, "%2hhx", &query[i]);
    while (spare < depth) unused[spare] = spare, spare++;
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof size) < 0) return 2;
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) return 2;
    double began = now(), end = began + seconds, swept = began;
    long sent = 0;
    for (double when; (when = now()) < end;) {
        double next = 0.001;
        if (rate == 0) {
            if (spare >= BATCH || spare == depth) send_some(BATCH);
        } else {
            for (; sent < (when - began) * rate && spare; sent++) send_some(1);
            next = began + (sent + 1) / rate - when;
        }
        receive_some(next > 0 ? next : 0);
        if (when - swept < TIMEOUT / 4) continue;
        swept = when;
        for (int id = 0; id < depth; id++)
            if (sent_at[id] && when - sent_at[id] > TIMEOUT) sent_at[id] = 0, unused[spare++] = id, lost++;
    }
    long seen = 0, percentile = 0;
    while (percentile < BUCKETS - 1 && (seen += histogram[percentile]) < replies * 0.99) percentile++;
    printf("%.0f %.1f %ld %ld\n", replies / seconds, replies ? waited / replies * 1e6 : 0, percentile, lost);
    return 0;
}
