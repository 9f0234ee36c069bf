// Pointers that are no good, for the EFAULT tests.
#ifndef BAD_H
#define BAD_H
#include "diff.h"

static char *bad_page, *ro_page; // the page before bad_page is good
static void bad_init(void) {
    char* m = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) die("mmap");
    mprotect(m + 4096, 4096, PROT_NONE);
    bad_page = m + 4096;
    ro_page = m + 2 * 4096;
    mprotect(ro_page, 4096, PROT_READ);
}
// A pointer to N good (zeroed) bytes followed by a page that nobody may touch.
UNUSED static void* edge(int n) { return memset(bad_page - n, 0, n); }
UNUSED static void* edge_of(const void* src, int n, int good) {
    memcpy(bad_page - good, src, good < n ? good : n);
    return bad_page - good;
}
static volatile uintptr_t bad_values[8];
static int nbad;
static const char* bad_names[8];
UNUSED static void bad_list(void) {
    bad_init();
    uintptr_t v[] = {1, (uintptr_t)bad_page, (uintptr_t)-1, (uintptr_t)-4096, 0xdead000000000000};
    static const char* n[] = {"1", "PROT_NONE", "-1", "-4096", "not canonical"};
    for (nbad = 0; nbad < 5; nbad++) bad_values[nbad] = v[nbad], bad_names[nbad] = n[nbad];
}
// For every bad pointer: run the call with BAD standing for it. One line if they all agree.
#define EACH_BAD(call)                                                                             \
    do {                                                                                           \
        long r_[8];                                                                                \
        int e_[8], same_ = 1;                                                                      \
        for (int i_ = 0; i_ < nbad; i_++) {                                                        \
            void* BAD = (void*)bad_values[i_];                                                     \
            (void)BAD;                                                                             \
            errno = NOERR;                                                                         \
            r_[i_] = (long)(call);                                                                 \
            e_[i_] = errno;                                                                        \
            same_ &= r_[i_] == r_[0] && e_[i_] == e_[0];                                           \
        }                                                                                          \
        if (same_)                                                                                 \
            say("%s -> %ld %s", #call, r_[0], en(e_[0]));                                          \
        else                                                                                       \
            for (int i_ = 0; i_ < nbad; i_++)                                                      \
                say("%s [%s] -> %ld %s", #call, bad_names[i_], r_[i_], en(e_[i_]));                \
    } while (0)
#endif
