// 500 children accept from one listener that they inherited: every connection is served by one of them, once. Then
// half of them are killed, and the others serve on; the listener ends with the last of them.
#include "diff.h"

enum { CHILDREN = 500, ROUND = 1000 };
static pid_t kids[CHILDREN];
static int l;
static struct sockaddr_in la;
static struct counters { int up, served[CHILDREN]; } * shared;

static void child(int me) {
    signal(SIGALRM, SIG_DFL);
    alarm(60);
    __atomic_fetch_add(&shared->up, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        int a = accept(l, 0, 0);
        if (a < 0) _exit(1);
        unsigned n = 0;
        if (recv(a, &n, sizeof n, MSG_WAITALL) == sizeof n) {
            shared->served[me]++;
            unsigned answer[2] = {n * 7 + 1, (unsigned)me};
            send(a, answer, sizeof answer, 0);
        }
        close(a);
    }
}

static int ask(int k, unsigned n, unsigned* who) {
    unsigned answer[2] = {0, 0};
    char more;
    int ok = recv(k, answer, sizeof answer, MSG_WAITALL) == sizeof answer &&
             answer[0] == n * 7 + 1 && recv(k, &more, 1, 0) == 0;
    *who = answer[1];
    return ok;
}

// Connections in bundles; returns how many were answered rightly.
static int round_of(int count) {
    enum { BUNDLE = 25 };
    int ok = 0;
    for (int i = 0; i < count; i += BUNDLE) {
        int k[BUNDLE];
        unsigned who;
        for (int j = 0; j < BUNDLE; j++) {
            unsigned n = i + j;
            k[j] = dial(&la);
            if (send(k[j], &n, sizeof n, 0) != sizeof n) say("send: %s", en(errno));
        }
        for (int j = 0; j < BUNDLE; j++) ok += ask(k[j], i + j, &who), close(k[j]);
    }
    return ok;
}
static int total(void) {
    int n = 0;
    for (int i = 0; i < CHILDREN; i++) n += shared->served[i];
    return n;
}

int main(void) {
    diff_init();
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    section("500 children");
    alarm(60);
    l = listener(128, &la);
    for (int i = 0; i < CHILDREN; i++) {
        kids[i] = fork();
        if (kids[i] == 0) child(i);
        if (kids[i] < 0) {
            for (int j = 0; j < i; j++) kill(kids[j], SIGKILL);
            say("no 500 processes here: %s", en(errno));
            _exit(77);
        }
    }
    while (__atomic_load_n(&shared->up, __ATOMIC_SEQ_CST) < CHILDREN) nap(5);
    V(round_of(ROUND)), V(total());
    section("every other one is killed");
    alarm(60);
    for (int i = 0; i < CHILDREN; i += 2) kill(kids[i], SIGKILL);
    for (int i = 0; i < CHILDREN; i += 2) waitpid(kids[i], 0, 0);
    V(round_of(ROUND)), V(total());
    section("the parent lets go of the listener");
    alarm(60);
    T(close(l));
    V(round_of(ROUND)), V(total());
    section("all but one are killed under load");
    alarm(60);
    int open_ones[50];
    for (int i = 0; i < 50; i++) open_ones[i] = dial(&la);
    for (int i = 1; i < CHILDREN - 2; i += 2) kill(kids[i], SIGKILL);
    for (int i = 1; i < CHILDREN - 2; i += 2) waitpid(kids[i], 0, 0);
    for (int i = 0; i < 50; i++) close(open_ones[i]); // some had been accepted by the dead
    V(round_of(50));
    section("and the last");
    alarm(60);
    kill(kids[CHILDREN - 1], SIGKILL);
    waitpid(kids[CHILDREN - 1], 0, 0);
    int k = tcp(), r = 0;
    for (int i = 0; i < 500 && (r = connect(k, SA(&la), sizeof la)) == 0; i++)
        close(k), k = tcp(), nap(10);
    T(r);
    return 0;
}
