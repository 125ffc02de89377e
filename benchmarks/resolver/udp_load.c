/* Queries over UDP for names in the cache: as many as a server answers, or at a fixed rate.

   udp_load PORT SECONDS DEPTH RATE SOURCES QUERY-IN-HEX...

   The queries have one length and are sent in turn. They come from SOURCES addresses, 127.2.N.1, each of which is a
   client network of its own. RATE 0 keeps DEPTH queries in flight. A batch is one call then: the kernel splits it into
   datagrams (UDP_SEGMENT), so that this costs less than the server. Otherwise RATE queries are sent a second, one at a
   time, of which DEPTH may wait. A reply that does not come within TIMEOUT is lost. The id of a query is its place in
   the window, so replies may come in any order.

   It prints how many were sent, how many were answered with records, and the mean, median and 99th percentile of the
   delay of these answers in microseconds. */

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

enum { BATCH = 64, SIZE = 512, WINDOW = 4096, BUCKETS = 250000, MOST_SOURCES = 64, MOST_QUERIES = 64 };
static const double TIMEOUT = 0.25;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct pollfd socks[MOST_SOURCES];
static unsigned char queries[MOST_QUERIES][SIZE];
static int sources, kinds, size, turn;
static double sent_at[WINDOW];
static int unused[WINDOW], spare;
static long sent, answered, histogram[BUCKETS];
static double waited;

static void send_some(int count) {
    static unsigned char out[BATCH * SIZE];
    double when = now();
    if (count > BATCH) count = BATCH;
    if (count > spare) count = spare;
    for (int i = 0; i < count; i++) {
        int id = unused[--spare];
        unsigned char *at = out + i * size;
        memcpy(at, queries[sent++ / sources % kinds], size);
        at[0] = id >> 8, at[1] = id & 255;
        sent_at[id] = when;
    }
    int fd = socks[turn++ % sources].fd;
    while (send(fd, out, count * size, 0) < 0)
        if (errno != EINTR) exit(2);
}

static void receive_from(int fd) {
    static unsigned char in[BATCH][SIZE];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec pieces[BATCH];
    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){in[i], SIZE};
        messages[i].msg_hdr.msg_iov = &pieces[i], messages[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    double when = now();
    for (int i = 0; i < n; i++) {
        int id = in[i][0] << 8 | in[i][1];
        if (messages[i].msg_len < 12 || id >= WINDOW || sent_at[id] == 0) continue;
        double took = when - sent_at[id];
        long bucket = took * 1e6;
        sent_at[id] = 0, unused[spare++] = id;
        if (in[i][3] & 15 || !in[i][7]) continue; /* not the answer from the cache */
        answered++, waited += took;
        histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    }
}

static void receive_some(double patience) {
    struct timespec wait = {0, (long)(patience * 1e9)};
    if (ppoll(socks, sources, &wait, NULL) <= 0) return;
    for (int i = 0; i < sources; i++)
        if (socks[i].revents) receive_from(socks[i].fd);
}

static long percentile(double part) {
    long seen = 0, at = 0;
    while (at < BUCKETS - 1 && (seen += histogram[at]) < answered * part) at++;
    return at;
}

int main(int count, char **words) {
    if (count < 7) return 1;
    int port = atoi(words[1]), depth = atoi(words[3]);
    double seconds = atof(words[2]), rate = atof(words[4]);
    sources = atoi(words[5]), kinds = count - 6, size = strlen(words[6]) / 2;
    if (size < 12 || size > SIZE || depth < 1 || depth > WINDOW) return 1;
    if (sources < 1 || sources > MOST_SOURCES || kinds > MOST_QUERIES) return 1;
    for (int k = 0; k < kinds; k++) {
        if (strlen(words[6 + k]) != 2 * (size_t)size) return 1;
        for (int i = 0; i < size; i++) sscanf(words[6 + k] + 2 * i, "%2hhx", &queries[k][i]);
    }
    while (spare < depth) unused[spare] = spare, spare++;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < sources; i++) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(0x7f020001 + (i << 8));
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd < 0 || setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof size) < 0) return 2;
        if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0) return 2;
        if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) return 2;
        socks[i] = (struct pollfd){fd, POLLIN, 0};
    }
    double began = now(), end = began + seconds, swept = began;
    for (double when; (when = now()) < end;) {
        double next = 0.001;
        if (rate == 0) {
            if (spare >= BATCH || spare == depth) send_some(BATCH);
        } else {
            while (sent < (when - began) * rate && spare) send_some(1);
            next = began + (sent + 1) / rate - when;
        }
        receive_some(next > 0 ? next : 0);
        if (when - swept < TIMEOUT / 4) continue;
        swept = when;
        for (int id = 0; id < depth; id++)
            if (sent_at[id] && when - sent_at[id] > TIMEOUT) sent_at[id] = 0, unused[spare++] = id;
    }
    for (double last = now(); spare < depth && now() - last < TIMEOUT;) receive_some(0.01);
    printf("%ld %ld %.1f %ld %ld\n", sent, answered, answered ? waited / answered * 1e6 : 0, percentile(0.5),
           percentile(0.99));
    return 0;
}
