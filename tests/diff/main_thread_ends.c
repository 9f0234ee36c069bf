// A process whose main thread has ended lives on in the others, though its state is that of a zombie, and so do
// its sockets when somebody dies and the dead are looked for.
#include "diff.h"

static int l;

static void* serve(void* arg) {
    char c;
    (void)arg;
    const int s = accept(l, 0, 0);
    while (read(s, &c, 1) == 1) write(s, &c, 1);
    _exit(0);
}

int main(void) {
    diff_init();
    struct sockaddr_in la, any = lo(0);
    l = listener(5, &la);
    section("the server's main thread ends");
    const pid_t server = forked("server ");
    if (!server) {
        pthread_t t;
        pthread_create(&t, 0, serve, 0);
        pthread_exit(0);
    }
    close(l);
    const int s = dial(&la);
    for (int i = 0; i < 5; ++i) {
        const pid_t other = forked("other ");
        if (!other) {
            bind(sock(SOCK_DGRAM), SA(&any), sizeof any);
            for (;;) pause();
        }
        nap(50);
        kill(other, SIGKILL);
        waitpid(other, 0, 0);
        nap(50);
        char c = 'x';
        const long sent = write(s, &c, 1);
        say("sent %ld, answered %ld", sent, (long)read(s, &c, 1));
    }
    close(s);
    reap(server);
    return 0;
}
