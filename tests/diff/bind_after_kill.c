// What killed processes had bound is free as soon as their parent knows of their end: alone, shared, with connections.
#include "diff.h"
#include <sys/prctl.h>

// `processes` share a socket bound to `a` (its port is chosen when that is 0); all are killed at once.
static void killed(struct sockaddr_in* a, int type, int processes, int connections) {
    int one = 1, ready[2], clients[8];
    struct {
        pid_t pid;
        struct sockaddr_in at;
    } said[8];
    pipe(ready);
    if (fork() == 0) {
        int s = sock(type);
        socklen_t n = sizeof *a;
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (T(bind(s, SA(a), sizeof *a)) || (type == SOCK_STREAM && T(listen(s, 10)))) _exit(1);
        getsockname(s, SA(a), &n);
        for (int i = 1; i < processes && fork(); ++i)
            ;
        said[0].pid = getpid(), said[0].at = *a;
        write(ready[1], said, sizeof *said);
        for (;;) accept(s, 0, 0), pause();
    }
    for (int i = 0; i < processes; ++i) read(ready[0], said + i, sizeof *said);
    *a = said[0].at;
    for (int i = 0; i < connections; ++i) clients[i] = dial(a);
    for (int i = 0; i < processes; ++i) kill(said[i].pid, SIGKILL);
    for (int i = 0; i < processes; ++i) wait(0);
    for (int i = 0; i < connections; ++i) close(clients[i]);
    close(ready[0]), close(ready[1]);
}

static void again_and_again(int type, int processes, int connections) {
    struct sockaddr_in a = lo(0);
    for (int i = 0; i < 12; ++i) killed(&a, type, processes, connections);
}

int main(void) {
    diff_init();
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    section("a listener");
    again_and_again(SOCK_STREAM, 1, 0);
    section("a listener of three");
    again_and_again(SOCK_STREAM, 3, 0);
    section("a listener of two with connections, accepted and not");
    again_and_again(SOCK_STREAM, 2, 4);
    section("datagrams");
    again_and_again(SOCK_DGRAM, 1, 0);
    section("datagrams of two");
    again_and_again(SOCK_DGRAM, 2, 0);
    section("one that lives has it");
    struct sockaddr_in a;
    listener(1, &a);
    int s = tcp();
    T(bind(s, SA(&a), sizeof a));
    return 0;
}
