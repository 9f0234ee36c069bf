// What libc does with sockets by itself: names, interfaces, reserved ports, rcmd.
#include "diff.h"
#include <ifaddrs.h>
#include <netdb.h>

static void addresses(const char* host, const char* service, int flags, int type) {
    struct addrinfo hint = {.ai_flags = flags, .ai_family = AF_INET, .ai_socktype = type},
                    *found = 0;
    int r = getaddrinfo(host, service, &hint, &found);
    say("getaddrinfo(%s, %s, %#x) -> %s", host ? host : "null", service ? service : "null", flags,
        r ? gai_strerror(r) : "found");
    for (struct addrinfo* a = r ? 0 : found; a; a = a->ai_next) {
        struct sockaddr_in* in = (struct sockaddr_in*)a->ai_addr;
        say("  %s:%d type %d protocol %d", inet_ntoa(in->sin_addr), ntohs(in->sin_port),
            a->ai_socktype, a->ai_protocol);
    }
    if (!r) freeaddrinfo(found);
}

static void resolving(void) {
    section("getaddrinfo and its kin");
    addresses("localhost", "http", 0, SOCK_STREAM);
    addresses("127.0.0.1", "53", AI_NUMERICHOST | AI_NUMERICSERV, 0);
    addresses(0, "80", AI_PASSIVE, SOCK_STREAM), addresses(0, "80", 0, SOCK_DGRAM);
    addresses("127.0.0.1", "no-such-service", 0, SOCK_STREAM);
    addresses("not a host", 0, AI_NUMERICHOST, 0);
    addresses("localhost", "domain", AI_ADDRCONFIG, SOCK_DGRAM);
    struct sockaddr_in a = lo(80);
    char h[100], v[40];
    V(getnameinfo(SA(&a), sizeof a, h, sizeof h, v, sizeof v, 0)), say("%s %s", h, v);
    V(getnameinfo(SA(&a), sizeof a, h, sizeof h, v, sizeof v, NI_NUMERICHOST | NI_NUMERICSERV)),
        say("%s %s", h, v);
    struct hostent *e = gethostbyname("localhost"), *e2;
    V(e != 0), say("%s %d %s", e->h_name, e->h_addrtype, inet_ntoa(*(struct in_addr*)e->h_addr));
    e = gethostbyname2("127.0.0.9", AF_INET);
    say("%s", e ? inet_ntoa(*(struct in_addr*)e->h_addr) : hstrerror(h_errno));
    e = gethostbyaddr(&a.sin_addr, sizeof a.sin_addr, AF_INET);
    say("%s", e ? e->h_name : hstrerror(h_errno));
    struct hostent room;
    char store[1000];
    int err;
    V(gethostbyname_r("localhost", &room, store, sizeof store, &e2, &err)), V(e2 != 0);
    struct servent* serv = getservbyname("ssh", "tcp");
    V(serv ? ntohs(serv->s_port) : -1);
    serv = getservbyport(htons(25), "tcp"), say("%s", serv ? serv->s_name : "none");
    struct protoent* proto = getprotobyname("udp");
    V(proto ? proto->p_proto : -1);
    section("what was found can be used");
    struct sockaddr_in la;
    int l = listener(4, &la);
    char port[16];
    snprintf(port, sizeof port, "%d", ntohs(la.sin_port));
    struct addrinfo hint = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    V(getaddrinfo("localhost", port, &hint, &found));
    int k = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    T(connect(k, found->ai_addr, found->ai_addrlen));
    freeaddrinfo(found);
    int d = accept(l, 0, 0);
    Q(send(k, "named", 5, 0));
    RX(d, 8, 0);
    struct sockaddr_in p;
    socklen_t n = sizeof p;
    T(getpeername(k, SA(&p), &n));
    V(getnameinfo(SA(&p), n, h, sizeof h, v, sizeof v, NI_NUMERICSERV)), say("%s", h);
    V(atoi(v) == ntohs(la.sin_port));
    close(k), close(d), close(l);
}

static void interfaces(void) {
    section("interfaces");
    struct ifaddrs* all;
    T(getifaddrs(&all));
    for (struct ifaddrs* i = all; i; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET)
            say("%s %s %#x", i->ifa_name, inet_ntoa(((struct sockaddr_in*)i->ifa_addr)->sin_addr),
                i->ifa_flags);
    freeifaddrs(all);
    struct if_nameindex* names = if_nameindex();
    for (struct if_nameindex* i = names; i && i->if_index; i++)
        say("%u %s", i->if_index, i->if_name);
    if_freenameindex(names);
    char name[IF_NAMESIZE];
    V(if_nametoindex("lo")), V(if_nametoindex("no-such-if")), say("%s", en(errno));
    V(if_indextoname(1, name) != 0), say("%s", name), V(if_indextoname(99999, name) != 0),
        say("%s", en(errno));
}

static void odd_calls(void) {
    section("sockatmark, isfdtype");
    int c, s, p[2];
    tcp_pair(&c, &s), pipe(p);
    T(sockatmark(s));
    Q(send(c, "ab", 2, 0)), Q(send(c, "!", 1, MSG_OOB)), Q(send(c, "cd", 2, 0));
    AW(s, POLLPRI);
    settle();
    T(sockatmark(s));
    char b[8];
    T(recv(s, b, 8, 0));
    T(sockatmark(s));
    RX(s, 8, 0);
    T(sockatmark(s)), T(sockatmark(p[0])), T(sockatmark(999)), T(sockatmark(udp(0)));
    T(isfdtype(s, S_IFSOCK)), T(isfdtype(s, S_IFIFO)), T(isfdtype(p[0], S_IFIFO)),
        T(isfdtype(999, S_IFSOCK));
    close(c), close(s), close(p[0]), close(p[1]);
}

extern int bindresvport(int, struct sockaddr_in*);
static void reserved(void) {
    section("reserved ports");
    if (geteuid()) return;
    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
        int k = sock(type);
        V(bindresvport(k, 0));
        V(port_of(k) > 0 && port_of(k) < 1024);
        SOCKNAME(k);
        T(bindresvport(k, 0));
        close(k);
        k = sock(type);
        struct sockaddr_in a = lo(0);
        V(bindresvport(k, &a));
        SOCKNAME(k);
        a.sin_family = AF_INET6;
        T(bindresvport(k, &a)), T(bindresvport(999, 0));
        close(k);
    }
    int port = 1023, k;
    k = rresvport(&port);
    V(port < 1024 && port == port_of(k));
    struct sockaddr_in la;
    int l = listener(4, &la);
    T(connect(k, SA(&la), sizeof la));
    int a = accept(l, 0, 0);
    struct sockaddr_in from;
    socklen_t n = sizeof from;
    T(getpeername(a, SA(&from), &n)), V(ntohs(from.sin_port) == port);
    Q(send(k, "reserved", 8, 0));
    RX(a, 16, 0);
    close(k), close(a), close(l);
}

// The server's half of the protocol of rsh.
static int shell_listener;
static void* shell(void* arg) {
    (void)arg;
    struct sockaddr_in from;
    socklen_t n = sizeof from;
    int a = accept(shell_listener, SA(&from), &n), e = -1;
    char words[4][64];
    memset(words, 0, sizeof words);
    for (int w = 0; w < 4; w++) {
        for (int i = 0; i < 63 && read(a, &words[w][i], 1) == 1 && words[w][i]; i++)
            ;
        if (w == 0 && atoi(words[0])) {
            int port = 1000;
            e = rresvport(&port);
            from.sin_port = htons(atoi(words[0]));
            if (connect(e, SA(&from), sizeof from)) say("server: error channel: %s", en(errno));
        }
    }
    say("server: %s, %s, %s, from a reserved port: %d", words[1], words[2], words[3],
        ntohs(from.sin_port) < 1024);
    write(a, "\0output", 7);
    if (e >= 0) write(e, "errors", 6), close(e);
    close(a);
    return 0;
}
static void remote_shell(void) {
    section("rcmd");
    if (geteuid()) return;
    struct sockaddr_in la;
    for (int with_errors = 0; with_errors < 2; with_errors++) {
        shell_listener = listener(4, &la);
        pthread_t t = spawn_thread(shell, 0);
        char name[] = "127.0.0.1", *host = name;
        int errors = -1, k;
        k = rcmd(&host, la.sin_port, "me", "you", "command", with_errors ? &errors : 0);
        say("%s: %s", host, k < 0 ? en(errno) : "connected");
        if (k < 0) _exit(1);
        pthread_join(t, 0);
        RX(k, 16, 0), RX(k, 16, 0);
        if (with_errors) RX(errors, 16, 0), RX(errors, 16, 0), close(errors);
        close(k), close(shell_listener);
    }
}

int main(void) {
    diff_init();
    resolving();
    interfaces();
    odd_calls();
    reserved();
    remote_shell();
    return 0;
}
