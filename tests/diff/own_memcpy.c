// A program with memory functions of its own, as a sanitizer's: socket calls do not use them, nor does libc.
#include "diff.h"

#define OWN                                                                                        \
    __attribute__((                                                                                \
        optimize("no-tree-loop-distribute-patterns"))) // so that no loop becomes a call of itself

static volatile int counting, calls;

OWN void* memcpy(void* restrict to, const void* restrict from, size_t n) {
    if (counting) ++calls;
    for (size_t i = 0; i < n; ++i) ((char*)to)[i] = ((const char*)from)[i];
    return to;
}
OWN void* memmove(void* to, const void* from, size_t n) {
    if (counting) ++calls;
    if (to < (void*)from) return memcpy(to, from, n);
    while (n--) ((char*)to)[n] = ((const char*)from)[n];
    return to;
}
OWN void* memset(void* to, int c, size_t n) {
    if (counting) ++calls;
    for (size_t i = 0; i < n; ++i) ((char*)to)[i] = (char)c;
    return to;
}
OWN int memcmp(const void* a, const void* b, size_t n) {
    if (counting) ++calls;
    for (size_t i = 0; i < n; ++i) {
        int d = ((const unsigned char*)a)[i] - ((const unsigned char*)b)[i];
        if (d) return d;
    }
    return 0;
}

int main(void) {
    static char out[100000], in[100000];
    diff_init();
    for (size_t i = 0; i < sizeof out; ++i) out[i] = (char)(i * 7);
    counting = 1;
    int c, s, u, v;
    tcp_pair(&c, &s), udp_pair(&u, &v);
    for (size_t n = 1; n <= sizeof out; n = n * 3 + 1) {
        size_t done = 0;
        if (send(c, out, n, 0) != (ssize_t)n) say("send");
        while (done < n) done += (size_t)recv(s, in + done, n - done, 0);
        for (size_t i = 0; i < n; ++i) done -= in[i] == out[i];
        say("%zu bytes, %zu of them wrong", n, done);
    }
    T(send(u, out, 5000, 0)), T(recv(v, in, sizeof in, 0));
    T(shutdown(c, SHUT_WR)), T(recv(s, in, 10, 0));
    close(c), close(s), close(u), close(v);
    counting = 0;
    V(calls);
    return 0;
}
