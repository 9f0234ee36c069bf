// Bad pointers to poll, select and epoll. (glibc itself reads some of the timeouts: those go through syscall().)
#include "bad.h"

int main(void) {
    diff_init();
    wide_table();
    bad_list();
    int c, s;
    tcp_pair(&c, &s);
    send(c, "x", 1, 0);
    AW(s, POLLIN);
    section("poll, ppoll");
    EACH_BAD(poll(BAD, 1, 0));
    EACH_BAD(poll(BAD, 0, 0));
    T(poll(NULL, 1, 0));
    T(poll(NULL, 0, 0));
    struct pollfd p[2] = {{s, POLLIN, 0}, {s, POLLIN, 0}};
    T(poll(edge_of(p, sizeof p, 8), 2, 0));
    T(poll(edge_of(p, sizeof p, 8), 1, 0));
    memcpy(edge(8), p, 8);
    mprotect(ro_page, 4096, PROT_READ | PROT_WRITE);
    memcpy(ro_page, p, 8);
    mprotect(ro_page, 4096, PROT_READ);
    T(poll((void*)ro_page, 1, 0));
    EACH_BAD(poll(BAD, 1000000000, 0));
    struct timespec zero = {0, 0};
    sigset_t none;
    sigemptyset(&none);
    EACH_BAD(ppoll(p, 1, &zero, BAD));
    EACH_BAD(ppoll(BAD, 1, &zero, &none));
    EACH_BAD(syscall(SYS_ppoll, p, 1, BAD, 0, 8));
    EACH_BAD(syscall(SYS_ppoll, p, 1, &zero, BAD, 8));
    T(syscall(SYS_ppoll, p, 1, &zero, &none, 7));
    T(syscall(SYS_ppoll, p, 1, &zero, &none, 8));
    struct timespec bt = {0, 1000000000};
    T(ppoll(p, 1, &bt, 0));
    bt.tv_sec = -1, bt.tv_nsec = 0;
    T(ppoll(p, 1, &bt, 0));
    bt.tv_sec = 0, bt.tv_nsec = -1;
    T(ppoll(p, 1, &bt, 0));

    section("select, pselect");
    fd_set r;
    struct timeval tv = {0, 0};
    FD_ZERO(&r);
    FD_SET(s, &r);
    EACH_BAD(select(s + 1, BAD, 0, 0, &tv));
    EACH_BAD(select(s + 1, 0, BAD, 0, &tv));
    EACH_BAD(select(s + 1, 0, 0, BAD, &tv));
    EACH_BAD(select(0, BAD, BAD, BAD, &tv));
    T(select(s + 1, (void*)edge_of(&r, sizeof r, 8), 0, 0, &tv));
    T(select(65, (void*)edge_of(&r, sizeof r, 8), 0, 0, &tv));
    T(select(s + 1, (void*)ro_page, 0, 0, &tv));
    FD_ZERO(&r);
    FD_SET(s, &r);
    EACH_BAD(syscall(SYS_select, s + 1, 0, 0, 0, BAD));
    EACH_BAD(syscall(SYS_pselect6, s + 1, 0, 0, 0, BAD, 0));
    EACH_BAD(syscall(SYS_pselect6, s + 1, 0, 0, 0, &zero, BAD));
    struct {
        const void* p;
        size_t n;
    } sig = {0, 8};
    EACH_BAD((sig.p = BAD, syscall(SYS_pselect6, s + 1, 0, 0, 0, &zero, &sig)));
    EACH_BAD(pselect(s + 1, 0, 0, 0, &zero, BAD));
    tv.tv_usec = -1;
    T(select(0, 0, 0, 0, &tv));
    tv.tv_sec = -1, tv.tv_usec = 0;
    T(select(0, 0, 0, 0, &tv));
    tv.tv_sec = 0;
    T(select(-1, &r, 0, 0, &tv));
    tv.tv_usec = 1500000; // more than a second: accepted and normalized
    FD_ZERO(&r);
    FD_SET(s, &r);
    T(select(s + 1, &r, 0, 0, &tv));
    bt.tv_sec = 0, bt.tv_nsec = 1000000000;
    T(pselect(0, 0, 0, 0, &bt, 0));

    section("epoll");
    int ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {.u32 = 1}}, out[4];
    EACH_BAD(epoll_ctl(ep, EPOLL_CTL_ADD, s, BAD));
    T(epoll_ctl(ep, EPOLL_CTL_ADD, s, NULL));
    T(epoll_ctl(ep, EPOLL_CTL_ADD, s, edge_of(&ev, sizeof ev, 8)));
    T(epoll_ctl(ep, EPOLL_CTL_ADD, s, edge_of(&ev, sizeof ev, sizeof ev)));
    EACH_BAD(epoll_ctl(ep, EPOLL_CTL_MOD, s, BAD));
    EACH_BAD(epoll_ctl(ep, EPOLL_CTL_ADD, s, BAD));
    EACH_BAD(epoll_ctl(ep, EPOLL_CTL_ADD, 9999, BAD));
    EACH_BAD(epoll_ctl(9999, EPOLL_CTL_ADD, s, BAD));
    EACH_BAD(epoll_ctl(ep, 77, s, BAD));
    EACH_BAD(epoll_ctl(ep, EPOLL_CTL_DEL, c, BAD));
    EACH_BAD(epoll_wait(ep, BAD, 4, 0));
    T(epoll_wait(ep, NULL, 4, 0));
    EACH_BAD(epoll_wait(ep, BAD, 0, 0));
    EACH_BAD(epoll_wait(9999, BAD, 4, 0));
    T(epoll_wait(ep, out, 4, 0)); // the event was not used up
    T(epoll_wait(ep, edge(sizeof ev), 4, 0));
    T(epoll_wait(ep, (void*)edge(sizeof ev - 4), 4, 0));
    EACH_BAD(epoll_pwait(ep, out, 4, 0, BAD));
    EACH_BAD(epoll_pwait2(ep, out, 4, BAD, 0));
    EACH_BAD(epoll_pwait2(ep, out, 4, &zero, BAD));
    T(epoll_pwait2(ep, out, 4, &bt, 0));
    EACH_BAD(epoll_ctl(ep, EPOLL_CTL_DEL, s, BAD));
    T(epoll_ctl(ep, EPOLL_CTL_DEL, s, NULL));
    ev.events = EPOLLIN | EPOLLET;
    T(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
    T(epoll_wait(ep, (void*)bad_page, 4, 0)); // an edge that could not be delivered
    T(epoll_wait(ep, out, 4, 0));
    T(epoll_wait(ep, out, 4, 0));
    int ep2 = epoll_create1(0), d = dup(s);
    T(epoll_ctl(ep2, EPOLL_CTL_ADD, s, &ev));
    T(epoll_ctl(ep2, EPOLL_CTL_ADD, d, &ev));
    T(epoll_wait(ep2, (void*)edge(sizeof ev), 2, 0)); // room for one only
    T(epoll_wait(ep2, out, 4, 0));
    return 0;
}
