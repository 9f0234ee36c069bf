// For the programs of this folder: each passes natively and under the preload (run_both).
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            ++failures;                                                                            \
            printf("%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #x, errno);                       \
            fflush(stdout);                                                                        \
        }                                                                                          \
    } while (0)
// The call fails with this errno.
#define CHECK_ERRNO(x, e)                                                                          \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((long)(x) == -1 && errno == (e));                                                    \
    } while (0)
// The call succeeds and leaves errno alone.
#define CHECK_KEEPS(x)                                                                             \
    do {                                                                                           \
        errno = 4321;                                                                              \
        CHECK((x) && errno == 4321);                                                               \
    } while (0)

// A socket makes the process attach and its handlers be wrapped; natively it is just a socket.
static inline void maybe_socket(void) {
    if (getenv("PRELOAD_TEST_SOCKET")) CHECK(socket(AF_INET, SOCK_STREAM, 0) >= 0);
}

static inline int exit_status_of(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

static inline int finish_test(void) {
    if (failures) printf("%d failures\n", failures);
    fflush(stdout);
    return failures != 0;
}
