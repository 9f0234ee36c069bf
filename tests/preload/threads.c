// Cancellation points, on descriptors that are libc's and on inet sockets.
#include "test.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/select.h>

static int p[2], udp, tcp, set, unwound;

static void cleanup(void* arg) {
    (void)arg;
    ++unwound;
}

enum { CASES = 14 };

static void wait_somewhere(long how) {
    char c;
    struct epoll_event ev;
    struct iovec iov = {&c, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    struct pollfd fds[2] = {{udp, POLLIN, 0}, {p[0], POLLIN, 0}};
    fd_set r;
    FD_ZERO(&r);
    FD_SET(udp, &r);
    switch (how) {
    case 0: read(p[0], &c, 1); break;
    case 1: poll(fds + 1, 1, -1); break;
    case 2: select(0, NULL, NULL, NULL, NULL); break;
    case 3: epoll_wait(set, &ev, 1, -1); break;
    case 4: pause(); break;
    case 5: read(udp, &c, 1); break;
    case 6: recv(udp, &c, 1, 0); break;
    case 7: recvmsg(udp, &msg, 0); break;
    case 8: accept(tcp, NULL, NULL); break;
    case 9: poll(fds, 1, -1); break;
    case 10: poll(fds, 2, -1); break;
    case 11: select(udp + 1, &r, NULL, NULL, NULL); break;
    case 12: ppoll(fds, 1, &(struct timespec){100, 0}, NULL); break;
    case 13: epoll_pwait(set, &ev, 1, 100000, NULL); break;
    default: break;
    }
}

static void* waits(void* how) {
    pthread_cleanup_push(cleanup, NULL);
    wait_somewhere((long)how);
    pthread_cleanup_pop(0);
    return NULL;
}

// A thread that does not want to be cancelled does not notice, and is cancelled when it does.
static void* waits_disabled(void* arg) {
    char c = 0;
    (void)arg;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    const ssize_t r = recv(udp, &c, 1, 0);
    CHECK(r == 1 && c == 'd');
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    pthread_testcancel();
    return NULL;
}

static void* asynchronous(void* arg) {
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    for (;;) *(volatile int*)arg += 1;
    return NULL;
}

static void cancel(pthread_t t) {
    void* result = NULL;
    CHECK(pthread_cancel(t) == 0 && pthread_join(t, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
}

int main(void) {
    pthread_t t;
    maybe_socket();
    CHECK(pipe(p) == 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof any;
    udp = socket(AF_INET, SOCK_DGRAM, 0);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(udp, (struct sockaddr*)&any, len) == 0 && listen(tcp, 5) == 0);
    CHECK(getsockname(udp, (struct sockaddr*)&any, &len) == 0);
    set = epoll_create1(0);
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, udp, &(struct epoll_event){.events = EPOLLIN}) == 0);

    for (long how = 0; how < CASES; ++how) {
        for (int early = 0; early < 2; ++early) {
            CHECK(pthread_create(&t, NULL, waits, (void*)how) == 0);
            if (!early) usleep(20000);
            const int before = unwound;
            cancel(t);
            if (!early && unwound != before + 1) printf("case %ld: not unwound\n", how);
        }
    }
    CHECK(pthread_create(&t, NULL, waits_disabled, NULL) == 0);
    usleep(20000);
    CHECK(pthread_cancel(t) == 0);
    usleep(20000);
    CHECK(sendto(udp, "d", 1, 0, (struct sockaddr*)&any, len) == 1);
    void* result = NULL;
    CHECK(pthread_join(t, &result) == 0 && result == PTHREAD_CANCELED);

    int counter = 0;
    CHECK(pthread_create(&t, NULL, asynchronous, &counter) == 0);
    usleep(10000);
    cancel(t);
    return finish_test();
}
