// Programs to be killed at any moment. victim SCENARIO PORT [ARG]: talks to the survivors of crash.py.
// Bytes on a connection follow a pattern that both sides know, so that a wrong, lost or repeated one
// is seen. Exit 0: came to the end; 1: something was wrong; 2: an error that the peer may have caused.
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in address;

static void fail(const char* what) {
    dprintf(2, "victim: %s: %s\n", what, strerror(errno));
    _exit(2);
}
static void wrong(const char* what) {
    dprintf(2, "victim: WRONG: %s\n", what);
    _exit(1);
}
static void say(const char* line) {
    if (write(1, line, strlen(line)) < 0) _exit(2);
}
// Prepared at the start, so that few instructions of a stepped run are not the library's.
static unsigned char pattern[251 * 280], received[1 << 16];
static const unsigned char* at(unsigned long i) { return pattern + i % 251; }
enum { longest_piece = sizeof pattern - 251 };

static void send_from(int fd, unsigned long from, unsigned long n) {
    while (n) {
        const ssize_t sent =
            send(fd, at(from), n < longest_piece ? n : longest_piece, MSG_NOSIGNAL);
        if (sent < 0) fail("send");
        from += (unsigned long)sent;
        n -= (unsigned long)sent;
    }
}
static void receive_from(int fd, unsigned long from, unsigned long n) {
    while (n) {
        const ssize_t got = recv(fd, received, n < sizeof received ? n : sizeof received, 0);
        if (got < 0) fail("recv");
        if (got == 0) wrong("end of file");
        if (memcmp(received, at(from), (size_t)got)) wrong("byte");
        from += (unsigned long)got;
        n -= (unsigned long)got;
    }
}
static int new_socket(int type) {
    const int fd = socket(AF_INET, type, 0);
    if (fd < 0) fail("socket");
    return fd;
}
static int connected(void) {
    const int fd = new_socket(SOCK_STREAM);
    if (connect(fd, (struct sockaddr*)&address, sizeof address)) fail("connect");
    return fd;
}
static int listening(int backlog) {
    const int fd = new_socket(SOCK_STREAM), one = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one)) fail("setsockopt");
    if (bind(fd, (struct sockaddr*)&address, sizeof address)) fail("bind");
    if (listen(fd, backlog)) fail("listen");
    return fd;
}
static void linger(int fd) {
    const struct linger now = {1, 0};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now)) fail("SO_LINGER");
}

// A client of the echo server: small and large sends, half close, end.
static void tcp(int reset) {
    const int fd = connected();
    send_from(fd, 0, 100);
    receive_from(fd, 0, 100);
    send_from(fd, 100, 30000);
    receive_from(fd, 100, 30000);
    if (reset) {
        linger(fd);
        close(fd);
        return;
    }
    if (shutdown(fd, SHUT_WR)) fail("shutdown");
    char byte;
    if (recv(fd, &byte, 1, 0) != 0) wrong("no end after the half close");
    close(fd);
}

// Sends without reading: dies or ends with the rings full both ways.
static void flood(void) {
    const int fd = connected();
    for (int i = 0; i < 8; ++i) send_from(fd, (unsigned long)i * 60000, 60000);
    receive_from(fd, 0, 480000);
    close(fd);
}

static void udp(void) {
    const int fd = new_socket(SOCK_DGRAM);
    struct sockaddr_in me = address;
    me.sin_port = 0;
    if (bind(fd, (struct sockaddr*)&me, sizeof me)) fail("bind");
    for (int i = 0; i < 5; ++i) {
        unsigned char out[3000], in[4000];
        memset(out, 'a' + i, sizeof out);
        const size_t n = i == 4 ? sizeof out : 10;
        if (sendto(fd, out, n, 0, (struct sockaddr*)&address, sizeof address) != (ssize_t)n)
            fail("sendto");
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 5000) != 1) wrong("no datagram came back");
        const ssize_t got = recv(fd, in, sizeof in, 0);
        if (got != (ssize_t)n || memcmp(in, out, n)) wrong("datagram");
    }
    close(fd);
    const int c = new_socket(SOCK_DGRAM);
    if (connect(c, (struct sockaddr*)&address, sizeof address)) fail("connect");
    if (send(c, "last", 4, 0) != 4) fail("send");
    close(c);
}

// Two processes share a connection; each of them may be the one that dies.
static void forked(void) {
    const int fd = connected();
    send_from(fd, 0, 50);
    receive_from(fd, 0, 50);
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        send_from(fd, 50, 50);
        receive_from(fd, 50, 50);
        const int own = connected();
        send_from(own, 0, 100);
        receive_from(own, 0, 100);
        close(own);
        _exit(0);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        send_from(fd, 100, 50);
        receive_from(fd, 100, 50);
    }
    close(fd);
}

static void dups(void) {
    const int fd = connected();
    const int copy = dup(fd);
    if (copy < 0) fail("dup");
    send_from(copy, 0, 50);
    close(fd);
    receive_from(copy, 0, 50);
    if (dup2(copy, 100) != 100) fail("dup2");
    close(copy);
    send_from(100, 50, 50);
    receive_from(100, 50, 50);
    close(100);
}

static void epolls(void) {
    const int set = epoll_create1(0);
    if (set < 0) fail("epoll_create1");
    int fds[3];
    for (int i = 0; i < 3; ++i) {
        fds[i] = connected();
        struct epoll_event e = {.events = EPOLLIN | (i == 1   ? EPOLLET
                                                     : i == 2 ? EPOLLONESHOT
                                                              : 0),
                                .data.u32 = (unsigned)i};
        if (epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &e)) fail("epoll_ctl");
    }
    for (int i = 0; i < 3; ++i) send_from(fds[i], 0, 20);
    int seen = 0;
    while (seen != 7) {
        struct epoll_event got[3];
        const int n = epoll_wait(set, got, 3, 10000);
        if (n <= 0) fail("epoll_wait");
        for (int i = 0; i < n; ++i) {
            const unsigned k = got[i].data.u32;
            if (!(seen & 1 << k)) receive_from(fds[k], 0, 20);
            seen |= 1 << k;
        }
    }
    epoll_ctl(set, EPOLL_CTL_DEL, fds[0], NULL);
    for (int i = 0; i < 3; ++i) close(fds[i]);
    close(set);
}

// A process that sleeps in a set of kernel descriptors while another one puts the first socket in; the one or the
// other dies. Who is left gets what comes, and nothing that nobody put in.
static void sleeper(void) {
    enum { SOCKET = 3, PIPE = 7 };
    int ends[2];
    close(new_socket(SOCK_DGRAM)); // joins the network: both know of sets
    const int set = epoll_create1(0);
    if (set < 0 || pipe(ends)) fail("epoll_create1, pipe");
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = PIPE};
    if (epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &e)) fail("epoll_ctl");
    const pid_t parent = getpid(), child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        for (int tries = 0;; ++tries) {
            struct epoll_event got;
            const int n = epoll_wait(set, &got, 1, 500);
            if (n < 0) fail("epoll_wait");
            if (n && got.data.u32 == PIPE) _exit(0);
            if (n && got.data.u32 != SOCKET) wrong("event");
            if (tries > 60) wrong("no event");
            if (getppid() != parent && write(ends[1], "x", 1) != 1) fail("write");
            if (n) usleep(1000);
        }
    }
    usleep(3000);
    const int fd = connected();
    e.data.u32 = SOCKET;
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
    send_from(fd, 0, 20);
    struct epoll_event got;
    if (epoll_wait(set, &got, 1, 10000) != 1 || got.data.u32 != SOCKET) wrong("event");
    receive_from(fd, 0, 20);
    if (write(ends[1], "x", 1) != 1) fail("write");
    int status = 0;
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    if (WIFEXITED(status) && WEXITSTATUS(status)) wrong("the sleeper's end");
    close(fd);
    close(set);
}

// Non-blocking: EAGAIN, poll, close with unread bytes.
static void polls(void) {
    const int fd = new_socket(SOCK_STREAM | SOCK_NONBLOCK);
    struct pollfd p = {fd, POLLOUT, 0};
    if (connect(fd, (struct sockaddr*)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect");
    if (poll(&p, 1, 10000) != 1) fail("poll");
    send_from(fd, 0, 1000);
    p.events = POLLIN;
    if (poll(&p, 1, 10000) != 1) fail("poll");
    receive_from(fd, 0, 1);
    close(fd); // 999 or fewer bytes unread: a reset
}

static void serve_next(int l) {
    const int fd = accept(l, NULL, NULL);
    if (fd < 0) fail("accept");
    unsigned long offset = 0;
    for (;;) {
        const ssize_t got = recv(fd, received, sizeof received, 0);
        if (got < 0) fail("recv");
        if (got == 0) break;
        if (memcmp(received, at(offset), (size_t)got)) wrong("byte");
        send_from(fd, offset, (unsigned long)got);
        offset += (unsigned long)got;
    }
    close(fd);
}

// A server for so many clients, one after the other: says when it listens.
static void serve(int clients) {
    const int l = listening(8);
    say("listening\n");
    while (clients--) serve_next(l);
    close(l);
}

// The same for datagrams, until one is empty.
static void serve_datagrams(void) {
    const int fd = new_socket(SOCK_DGRAM);
    if (bind(fd, (struct sockaddr*)&address, sizeof address)) fail("bind");
    say("listening\n");
    for (ssize_t got = 1; got;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, -1) != 1) fail("poll");
        got = recvfrom(fd, received, sizeof received, 0, (struct sockaddr*)&from, &length);
        if (got < 0 && errno == ECONNREFUSED) continue; // a client is gone
        if (got < 0) fail("recvfrom");
        if (memcmp(received, at(0), (size_t)got)) wrong("datagram");
        sendto(fd, received, (size_t)got, 0, (struct sockaddr*)&from, length);
    }
    close(fd);
}

// Makes a listener, is the one who watches it, and shares it with whoever is at the other end of the unix socket `to`.
static void bequeath(int to) {
    const int l = listening(8);
    struct pollfd p = {l, POLLIN, 0};
    if (poll(&p, 1, 0) != 0) fail("poll");
    char byte = 0, control[CMSG_SPACE(sizeof l)] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr* const c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof l);
    memcpy(CMSG_DATA(c), &l, sizeof l);
    if (sendmsg(to, &m, 0) != 1) fail("sendmsg");
    close(to);
    for (;;) serve_next(l);
}

// Serves beside whoever has started it with his listener.
static void inherit(int l) {
    for (;;) serve_next(l);
}

// Ends as a listener with connections that nobody accepted.
static void unaccepted(void) {
    const int l = listening(8);
    say("listening\n");
    struct pollfd p = {l, POLLIN, 0};
    if (poll(&p, 1, 10000) != 1) fail("poll");
    usleep(20000);
    close(l);
}

// For ever: sends and receives pieces of all sizes.
static void stream(void) {
    const int fd = connected();
    unsigned long offset = 0, seed = (unsigned long)getpid();
    for (;;) {
        seed = seed * 6364136223846793005ul + 1442695040888963407ul;
        const unsigned long n = 1 + (seed >> 33) % (seed >> 60 < 3 ? 60000 : 3000);
        send_from(fd, offset, n);
        receive_from(fd, offset, n);
        offset += n;
    }
}

// The first of a network: everything is made by it. Talks to itself.
static void first(void) {
    const int l = listening(8);
    socklen_t length = sizeof address;
    if (getsockname(l, (struct sockaddr*)&address, &length)) fail("getsockname");
    const int a = connected(), b = accept(l, NULL, NULL);
    if (b < 0) fail("accept");
    send_from(a, 0, 5000);
    receive_from(b, 0, 5000);
    close(a);
    char byte;
    if (recv(b, &byte, 1, 0) != 0) wrong("no end of file");
    close(b);
    close(l);
    say("fine\n");
}

int main(int argc, char** argv) {
    if (argc < 3) return 3;
    for (unsigned long i = 0; i < sizeof pattern; ++i) pattern[i] = (unsigned char)(i * 7 % 251);
    signal(SIGPIPE, SIG_IGN);
    alarm(60); // nobody waits for ever for a victim
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)atoi(argv[2]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const char* scenario = argv[1];
    if (getenv("STEPKILL")) {
        close(new_socket(SOCK_DGRAM)); // joins the network: its instructions are not counted
        raise(SIGTRAP);
    }
    if (!strcmp(scenario, "tcp"))
        tcp(0);
    else if (!strcmp(scenario, "reset"))
        tcp(1);
    else if (!strcmp(scenario, "flood"))
        flood();
    else if (!strcmp(scenario, "udp"))
        udp();
    else if (!strcmp(scenario, "fork"))
        forked();
    else if (!strcmp(scenario, "dup"))
        dups();
    else if (!strcmp(scenario, "epoll"))
        epolls();
    else if (!strcmp(scenario, "sleeper"))
        sleeper();
    else if (!strcmp(scenario, "poll"))
        polls();
    else if (!strcmp(scenario, "serve"))
        serve(1);
    else if (!strcmp(scenario, "both"))
        serve(4);
    else if (!strcmp(scenario, "datagrams"))
        serve_datagrams();
    else if (!strcmp(scenario, "bequeath"))
        bequeath(atoi(argv[3]));
    else if (!strcmp(scenario, "inherit"))
        inherit(atoi(argv[3]));
    else if (!strcmp(scenario, "unaccepted"))
        unaccepted();
    else if (!strcmp(scenario, "stream"))
        stream();
    else if (!strcmp(scenario, "first"))
        first();
    else
        return 3;
    return 0;
}
