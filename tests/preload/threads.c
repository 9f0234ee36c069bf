// Cancellation points on descriptors that are libc's.
#include "test.h"

#include <sys/epoll.h>

static int p[2];
static int unwound;

static void cleanup(void* arg) {
    (void)arg;
    ++unwound;
}

static void* waits(void* how) {
    char c;
    struct epoll_event ev;
    pthread_cleanup_push(cleanup, NULL);
    switch ((long)how) {
    case 0: (void)!read(p[0], &c, 1); break;
    case 1: poll(&(struct pollfd){p[0], POLLIN, 0}, 1, -1); break;
    case 2: select(0, NULL, NULL, NULL, NULL); break;
    case 3: epoll_wait(epoll_create1(0), &ev, 1, -1); break;
    case 4: pause(); break;
    default: break;
    }
    pthread_cleanup_pop(0);
    return NULL;
}

int main(void) {
    maybe_socket();
    CHECK(pipe(p) == 0);
    for (long how = 0; how < 5; ++how) {
        pthread_t t;
        void* result = NULL;
        CHECK(pthread_create(&t, NULL, waits, (void*)how) == 0);
        usleep(20000);
        CHECK(pthread_cancel(t) == 0 && pthread_join(t, &result) == 0);
        CHECK(result == PTHREAD_CANCELED && unwound == how + 1);
    }
    return finish_test();
}
