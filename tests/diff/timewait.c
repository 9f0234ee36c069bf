// TIME_WAIT and binding again: who may take the port when.
#include "diff.h"

static void rebind(const char* what, struct sockaddr_in* a, int reuse) {
    int t = tcp();
    setint(t, SOL_SOCKET, SO_REUSEADDR, reuse);
    errno = 0;
    int r = bind(t, SA(a), sizeof *a), e = errno, lr = -9, le = 0;
    if (r == 0) errno = 0, lr = listen(t, 1), le = errno;
    say("%s, reuseaddr %d: bind %d %s, listen %d %s", what, reuse, r, en(e), lr, en(le));
    close(t);
}

int main(void) {
    diff_init();
    for (int reuse = 0; reuse < 2; reuse++)
        for (int server_first = 0; server_first < 2; server_first++) {
            section("after an orderly close");
            V(reuse), V(server_first);
            struct sockaddr_in a = lo(0);
            int l = tcp();
            setint(l, SOL_SOCKET, SO_REUSEADDR, reuse);
            bind(l, SA(&a), sizeof a), listen(l, 4);
            a = lo(port_of(l));
            int c = dial(&a), s = accept(l, 0, 0);
            rebind("listening, connected", &a, 0), rebind("listening, connected", &a, 1);
            close(l);
            rebind("connected", &a, 0), rebind("connected", &a, 1);
            close(server_first ? s : c);
            settle();
            rebind("half closed", &a, 0), rebind("half closed", &a, 1);
            close(server_first ? c : s);
            settle();
            rebind("closed", &a, 0), rebind("closed", &a, 1);
        }
    section("a reset leaves nothing behind");
    struct sockaddr_in a;
    int l = listener(2, &a), c = dial(&a), s = accept(l, 0, 0);
    close(l), linger0(s), close(s);
    settle();
    rebind("reset", &a, 0), rebind("reset", &a, 1);
    close(c);
    section("never connected");
    l = listener(2, &a);
    close(l);
    rebind("closed", &a, 0);
    section("the client's port");
    l = listener(4, &a);
    struct sockaddr_in me = lo(0);
    c = tcp();
    T(bind(c, SA(&me), sizeof me));
    me = lo(port_of(c));
    T(connect(c, SA(&a), sizeof a));
    F(s = accept(l, 0, 0));
    T(close(c));
    AW(s, POLLIN);
    T(close(s));
    settle();
    rebind("client's TIME_WAIT", &me, 0), rebind("client's TIME_WAIT", &me, 1);
    c = tcp();
    setint(c, SOL_SOCKET, SO_REUSEADDR, 1);
    T(bind(c, SA(&me), sizeof me));
    T(connect(c, SA(&a), sizeof a)); // the same four numbers, in TIME_WAIT
    F(s = accept(l, 0, 0));
    close(c), close(s);
    c = tcp();
    setint(c, SOL_SOCKET, SO_REUSEADDR, 1);
    me = lo(0);
    T(bind(c, SA(&me), sizeof me));
    me = lo(port_of(c));
    T(connect(c, SA(&a), sizeof a));
    F(s = accept(l, 0, 0));
    T(close(c));
    AW(s, POLLIN);
    T(close(s));
    settle();
    rebind("client's TIME_WAIT, it had reuseaddr", &me, 0),
        rebind("client's TIME_WAIT, it had reuseaddr", &me, 1);
    section("a server restarts under a live connection");
    struct sockaddr_in b = lo(0);
    int l1 = tcp();
    setint(l1, SOL_SOCKET, SO_REUSEADDR, 1);
    T(bind(l1, SA(&b), sizeof b)), T(listen(l1, 2));
    b = lo(port_of(l1));
    int c1 = dial(&b), s1 = accept(l1, 0, 0);
    T(close(l1));
    int l2 = tcp();
    T(bind(l2, SA(&b), sizeof b));
    setint(l2, SOL_SOCKET, SO_REUSEADDR, 1);
    T(bind(l2, SA(&b), sizeof b)), T(listen(l2, 2));
    int c2 = dial(&b), s2 = accept(l2, 0, 0);
    T(send(c1, "old", 3, 0)), T(send(c2, "new", 3, 0));
    RX(s1, 8, 0), RX(s2, 8, 0);
    T(close(s1)), T(close(c1));
    T(send(s2, "on", 2, 0));
    RX(c2, 8, 0);
    close(c2), close(s2), close(l2);
    section("many short connections to one port");
    int ok = 0;
    for (int i = 0; i < 300; i++) {
        int x = dial(&a), y = accept(l, 0, 0);
        close(y);
        ok += recv(x, &(char){0}, 1, 0) == 0;
        close(x);
    }
    V(ok);
    return 0;
}
