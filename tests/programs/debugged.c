/* What test_debuggers.py attaches to: an echo server with a thread for each connection, counting what it gives back. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static long given;

__attribute__((noinline)) ssize_t take(int fd, char* at, size_t n) { return recv(fd, at, n, 0); }

__attribute__((noinline)) long give(int fd, const char* at, size_t n) {
    if (write(fd, at, n) != (ssize_t)n) abort();
    return __atomic_add_fetch(&given, (long)n, __ATOMIC_RELAXED);
}

static void* answer(void* arg) {
    int fd = (int)(long)arg;
    char text[4096];
    for (long i = 0;; ++i) {
        struct pollfd p = {fd, POLLIN, 0};
        if (i % 2 && poll(&p, 1, -1) != 1) abort();
        ssize_t n = take(fd, text, sizeof text);
        if (n < 0) abort();
        if (n == 0) break;
        give(fd, text, (size_t)n);
    }
    close(fd);
    return NULL;
}

int main(int argc, char** argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    address.sin_port = htons((unsigned short)atoi(argv[argc - 1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr*)&address, sizeof address) || listen(listener, 16))
        return 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        pthread_t t;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) abort();
        pthread_create(&t, NULL, answer, (void*)(long)fd);
        pthread_detach(t);
    }
}
