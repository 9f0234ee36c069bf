// ICMP errors about TCP segments: what they do to a connect under way and to a connection. The segments are
// seen and the errors sent by raw sockets, which takes a capability.
#include "diff.h"
#include <netinet/ip_icmp.h>

static int seen, teller;
static struct sockaddr_in here; // an address of our own: others' segments do not fill the queue
static struct sockaddr_in la;

static int local(void) {
    int s = tcp();
    if (bind(s, SA(&here), sizeof here) < 0) die("bind");
    return s;
}
static int server(int backlog) {
    socklen_t len = sizeof la;
    int l = local();
    if (listen(l, backlog) < 0 || getsockname(l, SA(&la), &len) < 0) die("listen");
    return l;
}

// The last segment from `port`: the number after it.
static uint32_t next_seq(int port) {
    unsigned char b[65536];
    uint32_t next = 0;
    long n;
    nap(30);
    while ((n = recv(seen, b, sizeof b, MSG_DONTWAIT)) > 0) {
        const unsigned char* t = b + (b[0] & 15) * 4;
        if ((t[0] << 8 | t[1]) != port || (t[13] & 4)) continue;
        uint32_t seq = (uint32_t)t[4] << 24 | t[5] << 16 | t[6] << 8 | t[7];
        next = seq + (n - (t - b) - (t[12] >> 4) * 4) + ((t[13] & 3) != 0);
    }
    if (!next) say("no segment was seen");
    return next;
}
static unsigned short sum(const void* p, int n) {
    const unsigned short* w = p;
    unsigned long s = 0;
    for (; n > 1; n -= 2) s += *w++;
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return ~s;
}
static void tell(int type, int code, int from, int to, uint32_t seq) {
    struct {
        struct icmphdr h;
        struct iphdr ip;
        unsigned short source, dest;
        uint32_t seq;
        unsigned char rest[12];
    } m;
    memset(&m, 0, sizeof m);
    m.h.type = type, m.h.code = code;
    m.ip.version = 4, m.ip.ihl = 5, m.ip.ttl = 60, m.ip.protocol = IPPROTO_TCP;
    m.ip.tot_len = htons(40), m.ip.saddr = m.ip.daddr = here.sin_addr.s_addr;
    m.source = htons(from), m.dest = htons(to), m.seq = htonl(seq);
    m.rest[0] = 0x50;
    m.h.checksum = sum(&m, sizeof m);
    Q(sendto(teller, &m, sizeof m, 0, SA(&here), sizeof here));
    nap(10);
}

// A socket whose SYN nobody answers: the listener's queue is full.
static int dialling(void) {
    int c = local();
    nonblock(c, 1);
    connect(c, SA(&la), sizeof la);
    return c;
}

int main(void) {
    diff_init();
    seen = socket(AF_INET, SOCK_RAW, IPPROTO_TCP), teller = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (seen < 0 || teller < 0) return 77;
    char address[32];
    snprintf(address, sizeof address, "127.77.%d.%d", getpid() >> 8 & 127, getpid() & 255);
    here = ip4(address, 0);
    if (bind(seen, SA(&here), sizeof here) < 0) die("bind");
    int l = server(0), c, s, port = ntohs(la.sin_port);
    int first = local();
    if (connect(first, SA(&la), sizeof la) < 0) die("connect"); // the only place
    section("a connect under way");
    static const struct {
        int type, code;
    } errors[] = {{3, 0},  {3, 1},  {3, 2},  {3, 3}, {3, 5},  {3, 7},  {3, 9}, {3, 10},
                  {3, 13}, {3, 15}, {3, 16}, {4, 0}, {11, 0}, {12, 0}, {5, 1}};
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        alarm(8);
        c = dialling();
        uint32_t isn = next_seq(port_of(c)) - 1;
        say("-- type %d code %d", errors[i].type, errors[i].code);
        tell(errors[i].type, errors[i].code, port_of(c), port, isn);
        PALL(c);
        SOERR(c);
        SOERR(c);
        T(send(c, "x", 1, MSG_NOSIGNAL));
        close(c);
    }
    section("one that is not about this segment");
    c = dialling();
    uint32_t isn = next_seq(port_of(c)) - 1;
    tell(3, 3, port_of(c), port, isn - 1), tell(3, 3, port_of(c), port, isn + 2);
    tell(3, 3, port_of(c), port + 1, isn);
    PALL(c);
    tell(3, 3, port_of(c), port, isn + 1); // what comes next counts as in flight
    PALL(c);
    SOERR(c);
    T(connect(c, SA(&la), sizeof la));
    close(c);
    section("connect waits");
    c = local();
    setint(c, IPPROTO_IP, IP_RECVERR, 1);
    pid_t pid = forked("child: ");
    if (pid == 0) {
        T(connect(c, SA(&la), sizeof la));
        SOERR(c);
        _exit(0);
    }
    wait_asleep(pid);
    tell(3, 1, port_of(c), port, next_seq(port_of(c)) - 1);
    reap(pid);
    close(c);
    close(l);
    section("a connection: a hint, and no more");
    l = server(1);
    c = local();
    if (connect(c, SA(&la), sizeof la) < 0 || (s = accept(l, 0, 0)) < 0) die("connect");
    setint(c, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1 << 30),
        setint(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1 << 30);
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        alarm(8);
        Q(send(c, "data", 4, 0));
        RX(s, 8, 0);
        uint32_t next = next_seq(port_of(c));
        say("-- type %d code %d", errors[i].type, errors[i].code);
        tell(errors[i].type, errors[i].code, port_of(c), port_of(s), next);
        PALL(c);
        SOERR(c);
        SOERR(c);
    }
    section("an answer of the peer's takes the hint back");
    Q(send(c, "data", 4, 0));
    RX(s, 8, 0);
    tell(3, 1, port_of(c), port_of(s), next_seq(port_of(c)));
    Q(send(c, "data", 4, 0));
    RX(s, 8, 0);
    nap(100); // an acknowledgement may be delayed
    SOERR(c);
    section("with IP_RECVERR: an error at once");
    T(setint(c, IPPROTO_IP, IP_RECVERR, 1));
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        alarm(8);
        Q(send(c, "data", 4, 0));
        RX(s, 8, 0);
        uint32_t next = next_seq(port_of(c));
        say("-- type %d code %d", errors[i].type, errors[i].code);
        tell(errors[i].type, errors[i].code, port_of(c), port_of(s), next);
        PALL(c);
        RX(c, 4, MSG_DONTWAIT), RX(c, 4, MSG_DONTWAIT);
    }
    Q(send(c, "data", 4, 0));
    RX(s, 8, 0);
    uint32_t next = next_seq(port_of(c));
    tell(3, 3, port_of(c), port_of(s), next - 5), tell(3, 3, port_of(c), port_of(s), next + 1);
    PALL(c);
    T(send(c, "goes on", 7, 0));
    RX(s, 8, 0);
    close(c), close(s);
    section("a connection that the listener does not have yet");
    setint(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        alarm(8);
        c = local();
        if (connect(c, SA(&la), sizeof la) < 0) die("connect");
        say("-- type %d code %d", errors[i].type, errors[i].code);
        tell(errors[i].type, errors[i].code, ntohs(la.sin_port), port_of(c),
             next_seq(ntohs(la.sin_port)) - 1);
        T(send(c, "data", 4, MSG_NOSIGNAL));
        AW(i < 2 || errors[i].type > 5 ? c : l, POLLIN);
        nonblock(l, 1);
        s = accept(l, 0, 0);
        V(s >= 0);
        SOERR(c);
        close(c);
        if (s >= 0) close(s);
    }
    return 0;
}
