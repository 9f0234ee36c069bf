// ioctl on sockets.
#include "diff.h"
#include <linux/sockios.h>
#include <net/if_arp.h>
#ifndef SIOCINQ
#define SIOCINQ FIONREAD
#endif

int main(void) {
    diff_init();
    struct sockaddr_in la;
    int c, s, n, l = listener(2, &la), u = udp(0), fresh = tcp();
    tcp_pair(&c, &s);
    section("FIONREAD");
    n = -1, T(ioctl(s, FIONREAD, &n)), V(n);
    T(send(c, "0123456789", 10, 0));
    AW(s, POLLIN);
    T(ioctl(s, FIONREAD, &n)), V(n), T(ioctl(s, SIOCINQ, &n)), V(n);
    RX(s, 4, 0);
    T(ioctl(s, FIONREAD, &n)), V(n);
    RX(s, 4, MSG_PEEK);
    T(ioctl(s, FIONREAD, &n)), V(n);
    n = -1, T(ioctl(l, FIONREAD, &n)), V(n), T(ioctl(fresh, FIONREAD, &n)), V(n),
    T(ioctl(u, FIONREAD, &n)), V(n);
    T(shutdown(c, SHUT_WR));
    settle();
    T(ioctl(s, FIONREAD, &n)), V(n);
    RX(s, 8, 0);
    T(ioctl(s, FIONREAD, &n)), V(n);
    RX(s, 8, 0);
    T(ioctl(s, FIONREAD, &n)), V(n);
    section("SIOCOUTQ");
    close(c), close(s);
    tcp_pair(&c, &s);
    T(ioctl(c, SIOCOUTQ, &n)), V(n), T(ioctl(c, TIOCOUTQ, &n)), V(n), T(ioctl(c, SIOCOUTQNSD, &n)),
        V(n);
    T(send(c, "0123456789", 10, 0));
    T(recv(s, (char[10]){0}, 10, MSG_WAITALL));
    for (int i = 0; i < 200 && (ioctl(c, SIOCOUTQ, &n), n); i++) nap(5);
    V(n); // acknowledged at last
    T(ioctl(l, SIOCOUTQ, &n)), T(ioctl(fresh, SIOCOUTQ, &n)), V(n), T(ioctl(u, SIOCOUTQ, &n)), V(n),
        T(ioctl(l, SIOCOUTQNSD, &n)), T(ioctl(u, SIOCOUTQNSD, &n));
    nonblock(c, 1);
    static char big[1 << 20];
    long total = 0, r;
    while ((r = send(c, big, sizeof big, 0)) > 0 ||
           (nap(20), (r = send(c, big, sizeof big, 0)) > 0))
        total += r;
    int in = 0, out = 0;
    ioctl(c, SIOCOUTQ, &out), ioctl(s, SIOCINQ, &in); // in this order nothing on its way is missed
    say("all bytes accounted for: %d", in + out >= total && in <= total && out <= total);
    section("FIONBIO");
    n = 1, T(ioctl(s, FIONBIO, &n)), V(fcntl(s, F_GETFL) & O_NONBLOCK);
    while (recv(s, big, sizeof big, 0) > 0 || (nap(20), recv(s, big, sizeof big, 0) > 0))
        ;
    say("drained: %s", en(errno));
    n = 0, T(ioctl(s, FIONBIO, &n)), V(fcntl(s, F_GETFL) & O_NONBLOCK);
    n = 256, T(ioctl(s, FIONBIO, &n)), V(fcntl(s, F_GETFL) & O_NONBLOCK);
    section("close on exec, async, owner");
    T(ioctl(s, FIOCLEX)), V(fcntl(s, F_GETFD)), T(ioctl(s, FIONCLEX)), V(fcntl(s, F_GETFD));
    n = 1, T(ioctl(s, FIOASYNC, &n)), V((fcntl(s, F_GETFL) & O_ASYNC) != 0), n = 0,
    T(ioctl(s, FIOASYNC, &n)), V((fcntl(s, F_GETFL) & O_ASYNC) != 0);
    n = getpid(), T(ioctl(s, FIOSETOWN, &n)), n = 0, T(ioctl(s, FIOGETOWN, &n)), V(n == getpid()),
    T(ioctl(s, SIOCGPGRP, &n)), V(n == getpid()), V(fcntl(s, F_GETOWN) == getpid());
    n = 0, T(ioctl(s, SIOCSPGRP, &n)), V(fcntl(s, F_GETOWN));
    section("urgent mark");
    T(ioctl(s, SIOCATMARK, &n)), V(n), T(ioctl(u, SIOCATMARK, &n)), T(ioctl(l, SIOCATMARK, &n));
    section("time stamp of the last packet");
    struct timeval tv;
    T(ioctl(fresh, SIOCGSTAMP, &tv)), T(ioctl(u, SIOCGSTAMP, &tv));
    section("not for sockets");
    T(ioctl(s, 0x5401 /* TCGETS */, &tv)), T(ioctl(s, TIOCGWINSZ, &tv)), T(ioctl(s, 0xdead, &tv)),
        T(ioctl(s, 0, 0)), T(ioctl(s, 0x89ff, big)), T(ioctl(s, 0x89f0, big) == 0);
    T(ioctl(9999, FIONREAD, &n)), T(ioctl(-1, 0xdead, &n)), T(ioctl(s, FIOQSIZE, big));
    section("interfaces");
    struct ifreq q[64], i;
    struct ifconf ic;
    memset(&ic, 0, sizeof ic);
    ic.ifc_len = sizeof q, ic.ifc_req = q;
    T(ioctl(u, SIOCGIFCONF, &ic));
    V(ic.ifc_len % sizeof *q), V(ic.ifc_len > 0);
    int found = 0;
    for (unsigned k = 0; k < ic.ifc_len / sizeof *q; k++)
        if (!strcmp(q[k].ifr_name, "lo"))
            found++, say("lo: %s", addr_str(&q[k].ifr_addr, sizeof q[k].ifr_addr));
    V(found);
    int len = ic.ifc_len;
    ic.ifc_req = 0, ic.ifc_len = 0;
    T(ioctl(s, SIOCGIFCONF, &ic)), V(ic.ifc_len == len);
    ic.ifc_req = q, ic.ifc_len = 5;
    T(ioctl(s, SIOCGIFCONF, &ic)), V(ic.ifc_len);
#define IF(req)                                                                                    \
    memset(&i, 0, sizeof i);                                                                       \
    strcpy(i.ifr_name, "lo");                                                                      \
    T(ioctl(u, req, &i))
    IF(SIOCGIFFLAGS);
    say("flags %#x",
        i.ifr_flags & (IFF_UP | IFF_LOOPBACK | IFF_RUNNING | IFF_BROADCAST | IFF_POINTOPOINT));
    IF(SIOCGIFADDR);
    say("%s", addr_str(&i.ifr_addr, sizeof i.ifr_addr));
    IF(SIOCGIFNETMASK);
    say("%s", addr_str(&i.ifr_netmask, sizeof i.ifr_netmask));
    IF(SIOCGIFBRDADDR);
    IF(SIOCGIFDSTADDR);
    say("%s", addr_str(&i.ifr_dstaddr, sizeof i.ifr_dstaddr));
    IF(SIOCGIFMTU);
    V(i.ifr_mtu);
    IF(SIOCGIFHWADDR);
    V(i.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK);
    IF(SIOCGIFINDEX);
    V(i.ifr_ifindex);
    IF(SIOCGIFMETRIC);
    IF(SIOCGIFTXQLEN);
    i.ifr_ifindex = 1;
    T(ioctl(u, SIOCGIFNAME, &i)), say("%s", i.ifr_name);
    strcpy(i.ifr_name, "nosuch0");
    T(ioctl(u, SIOCGIFADDR, &i)), T(ioctl(u, SIOCGIFFLAGS, &i)), T(ioctl(u, SIOCGIFINDEX, &i));
    i.ifr_ifindex = 12345;
    T(ioctl(u, SIOCGIFNAME, &i));
    T(if_nametoindex("lo"));
    return 0;
}
