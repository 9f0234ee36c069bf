// UDP sockets through their operations tables: binding rules, lookup, errors, options, control messages.
// The network is a private one: it hands nothing over, so ICMP speaks where nobody listens.
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstring>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <string>
#include <sys/ioctl.h>
#include <thread>
#include <vector>

#include "core/arena/arena.h"
#include "core/inet/udp.h"
#include "core/net/family.h"
#include "core/net/proto.h"
#include "core/net/socket.h"

using namespace sockshim;

namespace {

constexpr u32 lo1 = INADDR_LOOPBACK;

sockaddr_in address(u32 host, u16 port) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    a.sin_addr.s_addr = htonl(host);
    return a;
}

// One socket, closed when it goes out of scope.
struct endpoint {
    sockshim::socket* s = nullptr;
    sock* sk = nullptr;
    // of the last receive
    sockaddr_in from{};
    int out_flags = 0;
    alignas(cmsghdr) u8 control[512]{};
    u32 control_used = 0;

    explicit endpoint(int type = SOCK_DGRAM, int protocol = 0) {
        REQUIRE(arena_attach_private() == 0);
        REQUIRE(sock_create(AF_INET, type, protocol, &s) == 0);
        sk = socket_sk(*s);
        REQUIRE(sk);
    }
    ~endpoint() { sock_release(*s); }
    endpoint(const endpoint&) = delete;
    endpoint& operator=(const endpoint&) = delete;

    const proto_ops& ops() const { return ops_of(s->ops_id); }
    int bind(u32 host, u16 port) {
        const sockaddr_in a = address(host, port);
        return ops().bind(*s, reinterpret_cast<const sockaddr*>(&a), sizeof a);
    }
    int connect(u32 host, u16 port, sa_family_t family = AF_INET) {
        sockaddr_in a = address(host, port);
        a.sin_family = family;
        return ops().connect(*s, reinterpret_cast<const sockaddr*>(&a), sizeof a, 0);
    }
    i64 sendmsg(const std::string& data, const sockaddr_in* to, int flags = 0,
                const void* cmsg = nullptr, u32 cmsg_len = 0) {
        iovec iov{const_cast<char*>(data.data()), data.size()};
        sockaddr_storage name{};
        msghdr_iter msg{};
        if (to) {
            std::memcpy(static_cast<void*>(&name), to, sizeof *to);
            msg.name = &name;
            msg.namelen = sizeof *to;
        }
        msg.iter = {&iov, 1, 0, data.size()};
        msg.flags = flags;
        msg.control = static_cast<const u8*>(cmsg);
        msg.controllen = cmsg_len;
        return ops().sendmsg(*s, msg);
    }
    i64 send(const std::string& data, int flags = 0) { return sendmsg(data, nullptr, flags); }
    i64 sendto(const std::string& data, u32 host, u16 port, int flags = 0) {
        const sockaddr_in a = address(host, port);
        return sendmsg(data, &a, flags);
    }
    i64 recv(std::string& data, std::size_t room = 70000, int flags = MSG_DONTWAIT) {
        data.assign(room, '?');
        iovec iov{data.data(), room};
        sockaddr_storage name{};
        msghdr_iter msg{};
        msg.name = &name;
        msg.namelen = sizeof name;
        msg.iter = {&iov, 1, 0, room};
        msg.flags = flags;
        msg.out_control = control;
        msg.out_control_len = sizeof control;
        const i64 n = ops().recvmsg(*s, msg);
        std::memcpy(&from, &name, sizeof from);
        out_flags = msg.flags;
        control_used = msg.out_control_used;
        data.resize(n < 0 ? 0 : min_of<std::size_t>(static_cast<std::size_t>(n), room));
        return n;
    }
    const cmsghdr* cmsg(int level, int type) const {
        u32 at = 0;
        while (at + sizeof(cmsghdr) <= control_used) {
            const auto* h = reinterpret_cast<const cmsghdr*>(control + at);
            if (h->cmsg_level == level && h->cmsg_type == type) return h;
            at += static_cast<u32>(CMSG_ALIGN(h->cmsg_len));
        }
        return nullptr;
    }
    int set(int level, int opt, int value) {
        return ops().setsockopt(*s, level, opt, &value, sizeof value);
    }
    int get(int level, int opt) {
        int value = -1;
        u32 len = sizeof value;
        const int err = ops().getsockopt(*s, level, opt, &value, &len);
        return err ? err : value;
    }
    u16 port() const {
        sockaddr_storage out{};
        REQUIRE(ops().getname(*s, &out, 0) == sizeof(sockaddr_in));
        return ntohs(reinterpret_cast<const sockaddr_in&>(out).sin_port);
    }
    u32 poll() const { return ops().poll(*s); }
    int so_error() { return -sock_error(*sk); }
    void reuse() { sk->__sk_common.skc_reuse = 1; }
    void reuseport() { sk->__sk_common.skc_reuseport = 1; }
};

template <class T> std::vector<u8> make_cmsg(int level, int type, const T& value) {
    std::vector<u8> out(CMSG_SPACE(sizeof value));
    cmsghdr h{};
    h.cmsg_len = CMSG_LEN(sizeof value);
    h.cmsg_level = level;
    h.cmsg_type = type;
    std::memcpy(out.data(), &h, sizeof h);
    std::memcpy(out.data() + CMSG_LEN(0), &value, sizeof value);
    return out;
}

} // namespace

TEST_CASE("udp: a datagram and its answer", "[udp]") {
    endpoint server, client;
    REQUIRE(server.bind(lo1, 5300) == 0);
    std::string got;
    CHECK(server.recv(got) == -EAGAIN);
    CHECK((server.poll() & POLLIN) == 0);
    CHECK((server.poll() & POLLOUT) != 0);
    for (int i = 0; i < 3; ++i) { // the second and third find their receiver remembered
        REQUIRE(client.sendto("ping", lo1, 5300) == 4);
        CHECK((server.poll() & POLLIN) != 0);
        REQUIRE(server.recv(got) == 4);
        CHECK(got == "ping");
        CHECK(ntohs(server.from.sin_port) == client.port());
        CHECK(ntohl(server.from.sin_addr.s_addr) == lo1);
        REQUIRE(server.sendmsg("pong", &server.from) == 4);
        REQUIRE(client.recv(got) == 4);
        CHECK(got == "pong");
        CHECK(ntohs(client.from.sin_port) == 5300);
    }
    CHECK(client.port() >= 32768);
}

TEST_CASE("udp: destination 0.0.0.0 is the host itself", "[udp]") {
    endpoint server, client;
    REQUIRE(server.bind(INADDR_ANY, 5301) == 0);
    REQUIRE(client.sendto("x", INADDR_ANY, 5301) == 1);
    std::string got;
    REQUIRE(server.recv(got) == 1);
    CHECK(ntohl(server.from.sin_addr.s_addr) == lo1);
}

TEST_CASE("udp: sizes", "[udp]") {
    endpoint server, client;
    REQUIRE(server.bind(lo1, 5302) == 0);
    std::string got;
    CHECK(client.sendto(std::string(65508, 'x'), lo1, 5302) == -EMSGSIZE);
    CHECK(client.sendto(std::string(65536, 'x'), lo1, 5302) == -EMSGSIZE);
    REQUIRE(client.sendto(std::string(65507, 'x'), lo1, 5302) == 65507);
    REQUIRE(server.recv(got) == 65507);
    REQUIRE(client.sendto("", lo1, 5302) == 0);
    CHECK(server.recv(got) == 0);
    CHECK(server.recv(got) == -EAGAIN);
    REQUIRE(client.sendto("0123456789", lo1, 5302) == 10);
    CHECK(server.recv(got, 4, MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC) == 10);
    CHECK((server.out_flags & MSG_TRUNC) != 0);
    int waiting = 0;
    CHECK(server.ops().ioctl(*server.s, FIONREAD, reinterpret_cast<unsigned long>(&waiting)) == 0);
    CHECK(waiting == 10);
    CHECK(server.recv(got, 4) == 4);
    CHECK(got == "0123");
    CHECK((server.out_flags & MSG_TRUNC) != 0);
    CHECK(server.recv(got) == -EAGAIN);
}

TEST_CASE("udp: what a send may not say", "[udp]") {
    endpoint e;
    std::string got;
    CHECK(e.send("x") == -EDESTADDRREQ);
    CHECK(e.sendto("x", lo1, 0) == -EINVAL);
    CHECK(e.sendto("x", lo1, 9, MSG_OOB) == -EOPNOTSUPP);
    sockaddr_in a = address(lo1, 5303);
    a.sin_family = AF_INET6;
    CHECK(e.sendmsg("x", &a) == -EAFNOSUPPORT);
    CHECK(e.sendto("x", 0x08080808, 53) == -ENETUNREACH);
    CHECK(e.sendto("x", 0x7fffffff, 53) == -EACCES);
    REQUIRE(e.connect(lo1, 5303) == 0);
    REQUIRE(e.ops().shutdown(*e.s, SHUT_WR) == 0);
    CHECK(e.send("x") == -EPIPE);
}

TEST_CASE("udp: bind conflicts", "[udp]") {
    endpoint a, b, c;
    SECTION("plain") {
        REQUIRE(a.bind(lo1, 5310) == 0);
        CHECK(b.bind(lo1, 5310) == -EADDRINUSE);
        CHECK(b.bind(INADDR_ANY, 5310) == -EADDRINUSE);
        CHECK(b.bind(lo1 + 1, 5310) == 0);
        CHECK(a.bind(lo1, 5311) == -EINVAL);
        CHECK(c.bind(0x08080808, 5310) == -EADDRNOTAVAIL);
    }
    SECTION("SO_REUSEADDR on both") {
        a.reuse();
        REQUIRE(a.bind(lo1, 5310) == 0);
        CHECK(b.bind(lo1, 5310) == -EADDRINUSE);
        b.reuse();
        REQUIRE(b.bind(lo1, 5310) == 0);
        // The one bound last gets the unicasts.
        std::string got;
        REQUIRE(c.sendto("x", lo1, 5310) == 1);
        CHECK(a.recv(got) == -EAGAIN);
        CHECK(b.recv(got) == 1);
    }
    SECTION("SO_REUSEPORT spreads the flows") {
        a.reuseport();
        b.reuseport();
        REQUIRE(a.bind(lo1, 5310) == 0);
        CHECK(c.bind(lo1, 5310) == -EADDRINUSE);
        REQUIRE(b.bind(lo1, 5310) == 0);
        std::string got;
        int to_a = 0, to_b = 0;
        for (int i = 0; i < 64; ++i) {
            endpoint client;
            for (int k = 0; k < 3; ++k) REQUIRE(client.sendto("x", lo1, 5310) == 1);
            int mine = 0;
            while (a.recv(got) == 1) ++mine;
            CHECK((mine == 0 || mine == 3)); // one flow, one receiver
            to_a += mine;
            while (b.recv(got) == 1) ++to_b;
        }
        CHECK(to_a + to_b == 192);
        CHECK(to_a > 0);
        CHECK(to_b > 0);
    }
    SECTION("a closed socket's port is free") {
        {
            endpoint gone;
            REQUIRE(gone.bind(lo1, 5310) == 0);
        }
        CHECK(a.bind(lo1, 5310) == 0);
    }
}

TEST_CASE("udp: the most specific socket wins, at once", "[udp]") {
    endpoint any, client;
    std::string got;
    REQUIRE(any.bind(INADDR_ANY, 5320) == 0);
    REQUIRE(client.bind(lo1, 5321) == 0);
    REQUIRE(client.sendto("1", lo1, 5320) == 1);
    CHECK(any.recv(got) == 1);
    {
        endpoint exact;
        any.reuse();
        exact.reuse();
        REQUIRE(exact.bind(lo1, 5320) == 0);
        REQUIRE(client.sendto("2", lo1, 5320) == 1);
        CHECK(any.recv(got) == -EAGAIN);
        CHECK(exact.recv(got) == 1);
        endpoint connected;
        connected.reuse();
        REQUIRE(connected.bind(lo1, 5320) == 0);
        REQUIRE(connected.connect(lo1, 5321) == 0);
        REQUIRE(client.sendto("3", lo1, 5320) == 1);
        CHECK(exact.recv(got) == -EAGAIN);
        CHECK(connected.recv(got) == 1);
        // Connected elsewhere it takes nothing from others.
        REQUIRE(connected.connect(lo1, 5999) == 0);
        REQUIRE(client.sendto("4", lo1, 5320) == 1);
        CHECK(connected.recv(got) == -EAGAIN);
        CHECK(exact.recv(got) == 1);
    }
    REQUIRE(client.sendto("5", lo1, 5320) == 1);
    CHECK(any.recv(got) == 1);
}

TEST_CASE("udp: connect, disconnect, names", "[udp]") {
    endpoint server, client;
    std::string got;
    REQUIRE(server.bind(lo1, 5330) == 0);
    REQUIRE(client.connect(lo1, 5330) == 0);
    CHECK(sk_state(*client.sk) == TCP_ESTABLISHED);
    const u16 port = client.port();
    CHECK(port != 0);
    sockaddr_storage peer{};
    CHECK(client.ops().getname(*client.s, &peer, 1) == sizeof(sockaddr_in));
    CHECK(ntohs(reinterpret_cast<sockaddr_in&>(peer).sin_port) == 5330);
    REQUIRE(client.send("hello") == 5);
    REQUIRE(server.recv(got) == 5);
    // A connected socket hears its peer only.
    endpoint stranger;
    REQUIRE(stranger.bind(lo1 + 1, 5331) == 0);
    CHECK(stranger.sendto("x", lo1, port) == 1);
    CHECK(client.recv(got) == -EAGAIN);
    REQUIRE(client.connect(lo1, 0, AF_UNSPEC) == 0);
    CHECK(client.ops().getname(*client.s, &peer, 1) == -ENOTCONN);
    CHECK(client.port() == 0);
    CHECK(client.send("x") == -EDESTADDRREQ);
    CHECK(client.port() != 0); // bound before it was looked at
    CHECK(client.connect(0x08080808, 53) == -ENETUNREACH);
    CHECK(client.connect(0x7fffffff, 53) == -EACCES);
}

TEST_CASE("udp: nobody there", "[udp]") {
    endpoint client;
    std::string got;
    SECTION("a connected socket hears of it") {
        REQUIRE(client.connect(lo1, 5340) == 0);
        REQUIRE(client.send("x") == 1);
        CHECK((client.poll() & POLLERR) != 0);
        CHECK(client.recv(got) == -ECONNREFUSED);
        CHECK(client.recv(got) == -EAGAIN);
        REQUIRE(client.send("x") == 1);
        CHECK(client.send("x") == -ECONNREFUSED); // by the next send as well
        REQUIRE(client.send("x") == 1);
        CHECK(client.so_error() == ECONNREFUSED);
    }
    SECTION("an unconnected one does not") {
        REQUIRE(client.sendto("x", lo1, 5340) == 1);
        CHECK((client.poll() & POLLERR) == 0);
        CHECK(client.recv(got) == -EAGAIN);
    }
    SECTION("with IP_RECVERR it gets the whole story") {
        REQUIRE(client.set(SOL_IP, IP_RECVERR, 1) == 0);
        REQUIRE(client.sendto("payload", lo1, 5340) == 7);
        CHECK((client.poll() & POLLERR) != 0);
        CHECK(client.so_error() == ECONNREFUSED);
        CHECK((client.poll() & POLLERR) != 0); // the queue is not empty
        REQUIRE(client.recv(got, 100, MSG_ERRQUEUE) == 7);
        CHECK(got == "payload");
        CHECK((client.out_flags & MSG_ERRQUEUE) != 0);
        CHECK(ntohs(client.from.sin_port) == 5340);
        const cmsghdr* h = client.cmsg(SOL_IP, IP_RECVERR);
        REQUIRE(h);
        const auto* ee = reinterpret_cast<const sock_extended_err*>(CMSG_DATA(h));
        CHECK(ee->ee_errno == ECONNREFUSED);
        CHECK(ee->ee_origin == SO_EE_ORIGIN_ICMP);
        CHECK(ee->ee_type == ICMP_DEST_UNREACH);
        CHECK(ee->ee_code == ICMP_PORT_UNREACH);
        const auto* offender = reinterpret_cast<const sockaddr_in*>(SO_EE_OFFENDER(ee));
        CHECK(ntohl(offender->sin_addr.s_addr) == lo1);
        CHECK(client.recv(got, 100, MSG_ERRQUEUE) == -EAGAIN);
        CHECK((client.poll() & POLLERR) == 0);
        // More than the queue holds: the first ones are kept.
        for (int i = 0; i < 100; ++i) {
            client.sendto(std::to_string(i), lo1, 5340);
            client.so_error();
        }
        int n = 0;
        while (client.recv(got, 100, MSG_ERRQUEUE) >= 0) CHECK(got == std::to_string(n++));
        CHECK(n == 64);
    }
    SECTION("a local error") {
        REQUIRE(client.set(SOL_IP, IP_RECVERR, 1) == 0);
        CHECK(client.sendto(std::string(65508, 'x'), lo1, 5340) == -EMSGSIZE);
        REQUIRE(client.recv(got, 100, MSG_ERRQUEUE) == 0);
        const cmsghdr* h = client.cmsg(SOL_IP, IP_RECVERR);
        REQUIRE(h);
        const auto* ee = reinterpret_cast<const sock_extended_err*>(CMSG_DATA(h));
        CHECK(ee->ee_errno == EMSGSIZE);
        CHECK(ee->ee_origin == SO_EE_ORIGIN_LOCAL);
        CHECK(ee->ee_info == 65535);
    }
}

TEST_CASE("udp: a port without a taker does not inherit the one that shares its place in the cache",
          "[udp]") {
    endpoint a, b;
    REQUIRE(a.bind(lo1, 21500) == 0);
    REQUIRE(b.bind(lo1, 0) == 0);
    std::string got;
    // Every place of the sender's cache holds `a` before somebody else's port is tried there.
    for (u16 port = 21501; port < 21501 + 32; ++port) {
        REQUIRE(b.sendto("yours", lo1, 21500) == 5);
        REQUIRE(a.recv(got) == 5);
        static_cast<void>(b.sendto("nobody's", lo1, port));
        static_cast<void>(b.sendto("nobody's", lo1, port));
        REQUIRE(a.recv(got) == -EAGAIN);
    }
}

TEST_CASE("udp: control messages on the way in and out", "[udp]") {
    endpoint server, client;
    std::string got;
    REQUIRE(server.bind(INADDR_ANY, 5350) == 0);
    REQUIRE(server.set(SOL_IP, IP_PKTINFO, 1) == 0);
    REQUIRE(server.set(SOL_IP, IP_RECVTTL, 1) == 0);
    REQUIRE(server.set(SOL_IP, IP_RECVTOS, 1) == 0);
    REQUIRE(server.set(SOL_IP, IP_RECVORIGDSTADDR, 1) == 0);
    REQUIRE(client.set(SOL_IP, IP_TOS, 0x10) == 0);
    REQUIRE(client.set(SOL_IP, IP_TTL, 33) == 0);
    const sockaddr_in to = address(lo1 + 5, 5350);
    const auto check = [&](u32 daddr, int ttl, u8 tos) {
        REQUIRE(server.recv(got) == 1);
        const cmsghdr* h = server.cmsg(SOL_IP, IP_PKTINFO);
        REQUIRE(h);
        in_pktinfo info;
        std::memcpy(&info, CMSG_DATA(h), sizeof info);
        CHECK(info.ipi_ifindex == 1);
        CHECK(ntohl(info.ipi_addr.s_addr) == daddr);
        CHECK(ntohl(info.ipi_spec_dst.s_addr) == daddr);
        h = server.cmsg(SOL_IP, IP_TTL);
        REQUIRE(h);
        int got_ttl;
        std::memcpy(&got_ttl, CMSG_DATA(h), sizeof got_ttl);
        CHECK(got_ttl == ttl);
        h = server.cmsg(SOL_IP, IP_TOS);
        REQUIRE(h);
        CHECK(h->cmsg_len == CMSG_LEN(1));
        CHECK(*CMSG_DATA(h) == tos);
        h = server.cmsg(SOL_IP, IP_ORIGDSTADDR);
        REQUIRE(h);
        sockaddr_in orig;
        std::memcpy(&orig, CMSG_DATA(h), sizeof orig);
        CHECK(ntohs(orig.sin_port) == 5350);
    };
    REQUIRE(client.sendmsg("a", &to) == 1);
    check(lo1 + 5, 33, 0x10);
    REQUIRE(client.sendmsg("a", &to) == 1); // the remembered way
    check(lo1 + 5, 33, 0x10);
    auto cmsg = make_cmsg(SOL_IP, IP_TTL, 7);
    REQUIRE(client.sendmsg("a", &to, 0, cmsg.data(), static_cast<u32>(cmsg.size())) == 1);
    check(lo1 + 5, 7, 0x10);
    cmsg = make_cmsg(SOL_IP, IP_TOS, 0x08);
    REQUIRE(client.sendmsg("a", &to, 0, cmsg.data(), static_cast<u32>(cmsg.size())) == 1);
    check(lo1 + 5, 33, 0x08);
    in_pktinfo source{};
    source.ipi_spec_dst.s_addr = htonl(lo1 + 9);
    cmsg = make_cmsg(SOL_IP, IP_PKTINFO, source);
    REQUIRE(client.sendmsg("a", &to, 0, cmsg.data(), static_cast<u32>(cmsg.size())) == 1);
    check(lo1 + 5, 33, 0x10);
    CHECK(ntohl(server.from.sin_addr.s_addr) == lo1 + 9);
    cmsg = make_cmsg(SOL_IP, IP_TTL, 0);
    CHECK(client.sendmsg("a", &to, 0, cmsg.data(), static_cast<u32>(cmsg.size())) == -EINVAL);
    cmsg = make_cmsg(SOL_IP, 250, 1);
    CHECK(client.sendmsg("a", &to, 0, cmsg.data(), static_cast<u32>(cmsg.size())) == -EINVAL);

    sock_set_flag(*server.sk, SOCK_TIMESTAMP, true);
    REQUIRE(client.sendmsg("a", &to) == 1);
    REQUIRE(server.recv(got) == 1);
    CHECK(server.cmsg(SOL_SOCKET, SO_TIMESTAMP));
}

TEST_CASE("udp: cork and MSG_MORE", "[udp]") {
    endpoint server, client;
    std::string got;
    REQUIRE(server.bind(lo1, 5360) == 0);
    REQUIRE(client.connect(lo1, 5360) == 0);
    const u64 before = arena_bytes_in_use();
    REQUIRE(client.send("one ", MSG_MORE) == 4);
    REQUIRE(client.send("two ", MSG_MORE) == 4);
    CHECK(server.recv(got) == -EAGAIN);
    REQUIRE(client.send("three") == 5);
    REQUIRE(server.recv(got) == 13);
    CHECK(got == "one two three");

    REQUIRE(client.set(SOL_UDP, UDP_CORK, 1) == 0);
    CHECK(client.get(SOL_UDP, UDP_CORK) == 1);
    REQUIRE(client.send("a") == 1);
    REQUIRE(client.send("b") == 1);
    CHECK(server.recv(got) == -EAGAIN);
    REQUIRE(client.set(SOL_UDP, UDP_CORK, 0) == 0);
    REQUIRE(server.recv(got) == 2);
    CHECK(got == "ab");

    // Too long together: all of it is thrown away.
    REQUIRE(client.send(std::string(60000, 'x'), MSG_MORE) == 60000);
    CHECK(client.send(std::string(6000, 'x')) == -EMSGSIZE);
    REQUIRE(client.send("fresh") == 5);
    REQUIRE(server.recv(got) == 5);
    CHECK(got == "fresh");
    CHECK(arena_bytes_in_use() == before + 65536); // the server's ring
}

TEST_CASE("udp: UDP_SEGMENT and UDP_GRO", "[udp]") {
    endpoint server, client;
    std::string got;
    REQUIRE(server.bind(lo1, 5370) == 0);
    REQUIRE(client.connect(lo1, 5370) == 0);
    CHECK(client.set(SOL_UDP, UDP_SEGMENT, -1) == -EINVAL);
    CHECK(client.set(SOL_UDP, UDP_SEGMENT, 65536) == -EINVAL);
    REQUIRE(client.set(SOL_UDP, UDP_SEGMENT, 100) == 0);
    REQUIRE(client.send(std::string(250, 's')) == 250);
    CHECK(server.recv(got) == 100);
    CHECK(server.recv(got) == 100);
    CHECK(server.recv(got) == 50);
    CHECK(server.recv(got) == -EAGAIN);
    CHECK(client.send(std::string(100 * 128 + 1, 's')) == -EINVAL);
    REQUIRE(server.set(SOL_UDP, UDP_GRO, 1) == 0);
    REQUIRE(client.send(std::string(250, 's')) == 250);
    CHECK(server.recv(got) == 250);
    const cmsghdr* h = server.cmsg(SOL_UDP, UDP_GRO);
    REQUIRE(h);
    int size;
    std::memcpy(&size, CMSG_DATA(h), sizeof size);
    CHECK(size == 100);
    const auto cmsg = make_cmsg(SOL_UDP, UDP_SEGMENT, u16{60});
    REQUIRE(server.set(SOL_UDP, UDP_GRO, 0) == 0);
    REQUIRE(client.sendmsg(std::string(70, 's'), nullptr, 0, cmsg.data(),
                           static_cast<u32>(cmsg.size())) == 70);
    CHECK(server.recv(got) == 60);
    CHECK(server.recv(got) == 10);
}

TEST_CASE("udp: multicast on lo", "[udp]") {
    endpoint a, b, other, client;
    constexpr u32 group = 0xe0000105;
    std::string got;
    for (endpoint* e : {&a, &b, &other}) {
        e->reuse();
        REQUIRE(e->bind(INADDR_ANY, 5380) == 0);
        REQUIRE(e->set(SOL_IP, IP_MULTICAST_ALL, 0) == 0);
    }
    ip_mreq m{};
    m.imr_multiaddr.s_addr = htonl(group);
    m.imr_interface.s_addr = htonl(lo1);
    const auto membership = [&](endpoint& e, int opt) {
        return e.ops().setsockopt(*e.s, SOL_IP, opt, &m, sizeof m);
    };
    REQUIRE(client.sendto("x", group, 5380) == 1); // nobody is a member yet
    CHECK(a.recv(got) == -EAGAIN);
    REQUIRE(membership(a, IP_ADD_MEMBERSHIP) == 0);
    CHECK(membership(a, IP_ADD_MEMBERSHIP) == -EADDRINUSE);
    REQUIRE(membership(b, IP_ADD_MEMBERSHIP) == 0);
    REQUIRE(client.sendto("to all", group, 5380) == 6);
    CHECK(a.recv(got) == 6);
    CHECK(got == "to all");
    CHECK(b.recv(got) == 6);
    CHECK(other.recv(got) == -EAGAIN);
    REQUIRE(membership(b, IP_DROP_MEMBERSHIP) == 0);
    CHECK(membership(b, IP_DROP_MEMBERSHIP) == -EADDRNOTAVAIL);
    REQUIRE(client.sendto("again", group, 5380) == 5);
    CHECK(a.recv(got) == 5);
    CHECK(b.recv(got) == -EAGAIN);

    ip_mreq_source s{};
    s.imr_multiaddr = m.imr_multiaddr;
    s.imr_interface = m.imr_interface;
    s.imr_sourceaddr.s_addr = htonl(lo1);
    REQUIRE(a.ops().setsockopt(*a.s, SOL_IP, IP_BLOCK_SOURCE, &s, sizeof s) == 0);
    REQUIRE(client.sendto("blocked", group, 5380) == 7);
    CHECK(a.recv(got) == -EAGAIN);
    REQUIRE(a.ops().setsockopt(*a.s, SOL_IP, IP_UNBLOCK_SOURCE, &s, sizeof s) == 0);
    REQUIRE(client.sendto("heard", group, 5380) == 5);
    CHECK(a.recv(got) == 5);

    m.imr_multiaddr.s_addr = htonl(lo1);
    CHECK(membership(a, IP_ADD_MEMBERSHIP) == -EINVAL);
    for (u32 i = 1; i < 20; ++i) {
        m.imr_multiaddr.s_addr = htonl(group + i);
        REQUIRE(membership(a, IP_ADD_MEMBERSHIP) == 0);
    }
    m.imr_multiaddr.s_addr = htonl(group + 20);
    CHECK(membership(a, IP_ADD_MEMBERSHIP) == -ENOBUFS);
}

TEST_CASE("udp: broadcast needs SO_BROADCAST and reaches everybody", "[udp]") {
    endpoint a, b, client;
    std::string got;
    a.reuse();
    b.reuse();
    REQUIRE(a.bind(INADDR_ANY, 5390) == 0);
    REQUIRE(b.bind(INADDR_ANY, 5390) == 0);
    CHECK(client.sendto("x", 0x7fffffff, 5390) == -EACCES);
    sock_set_flag(*client.sk, SOCK_BROADCAST, true);
    REQUIRE(client.sendto("x", 0x7fffffff, 5390) == 1);
    CHECK(a.recv(got) == 1);
    CHECK(b.recv(got) == 1);
}

TEST_CASE("udp: a blocked reader is woken, by data and by shutdown", "[udp]") {
    endpoint server, client;
    std::string got;
    REQUIRE(server.bind(lo1, 5400) == 0);
    std::thread writer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        client.sendto("late", lo1, 5400);
    });
    CHECK(server.recv(got, 100, 0) == 4);
    writer.join();
    server.sk->sk_rcvtimeo_us = 20000;
    CHECK(server.recv(got, 100, 0) == -EAGAIN);
    server.sk->sk_rcvtimeo_us = MAX_SCHEDULE_TIMEOUT;
    int shut = 0; // Catch2's checks are for one thread
    std::thread closer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        shut = server.ops().shutdown(*server.s, SHUT_RD);
    });
    CHECK(server.recv(got, 100, 0) == 0);
    closer.join();
    CHECK(shut == -ENOTCONN);
    CHECK((server.poll() & POLLRDHUP) != 0);
}

TEST_CASE("udp: SOL_IP options keep what they are told and refuse the rest", "[udp]") {
    endpoint e;
    struct {
        int opt, def, good, got, bad, err;
    } const rows[] = {
        {IP_TOS, 0, 0x1c, 0x1c, -2, 0},
        {IP_TTL, 64, 12, 12, 256, -EINVAL},
        {IP_RECVERR, 0, 1, 1, 0, 0},
        {IP_PKTINFO, 0, 1, 1, 0, 0},
        {IP_RECVTTL, 0, 1, 1, 0, 0},
        {IP_MTU_DISCOVER, IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_DO, 6, -EINVAL},
        {IP_FREEBIND, 0, 1, 1, 0, 0},
        {IP_TRANSPARENT, 0, 1, 1, 0, 0},
        {IP_BIND_ADDRESS_NO_PORT, 0, 1, 1, 0, 0},
        {IP_MULTICAST_TTL, 1, -1, 1, 256, -EINVAL},
        {IP_MULTICAST_LOOP, 1, 0, 0, 0, 0},
        {IP_MULTICAST_ALL, 1, 0, 0, 2, -EINVAL},
        {IP_MINTTL, 0, 5, 5, -1, -EINVAL},
    };
    for (const auto& r : rows) {
        INFO("option " << r.opt);
        CHECK(e.get(SOL_IP, r.opt) == r.def);
        CHECK(e.set(SOL_IP, r.opt, r.good) == 0);
        CHECK(e.get(SOL_IP, r.opt) == r.got);
        if (r.err) CHECK(e.set(SOL_IP, r.opt, r.bad) == r.err);
    }
    CHECK(e.set(SOL_IP, IP_HDRINCL, 1) == -ENOPROTOOPT);
    CHECK(e.set(SOL_IP, 9999, 1) == -ENOPROTOOPT);
    CHECK(e.get(SOL_IP, 9999) == -ENOPROTOOPT);
    CHECK(e.get(SOL_IP, IP_MTU) == -ENOTCONN);
    CHECK(e.set(SOL_UDP, 9999, 1) == -ENOPROTOOPT);
    CHECK(e.set(IPPROTO_TCP, 1, 1) == -ENOPROTOOPT);
    CHECK(e.get(IPPROTO_TCP, 1) == -EOPNOTSUPP);
    // One byte is enough, both ways.
    const u8 ttl = 9;
    CHECK(e.ops().setsockopt(*e.s, SOL_IP, IP_TTL, &ttl, 1) == 0);
    u8 back[4] = {0, 0xee, 0xee, 0xee};
    u32 len = 2;
    CHECK(e.ops().getsockopt(*e.s, SOL_IP, IP_TTL, back, &len) == 0);
    CHECK(len == 1);
    CHECK(back[0] == 9);
    CHECK(back[1] == 0xee);
    CHECK(e.ops().setsockopt(*e.s, SOL_IP, IP_TTL, &ttl, 0) == -EINVAL);
    REQUIRE(e.connect(lo1, 5410) == 0);
    CHECK(e.get(SOL_IP, IP_MTU) == 65535);
}

TEST_CASE("udp: everything is given back", "[udp]") {
    { endpoint warm; }
    const u64 bytes = arena_bytes_in_use();
    {
        endpoint server, client, watcher(SOCK_RAW, IPPROTO_UDP);
        std::string got;
        REQUIRE(server.bind(lo1, 5420) == 0);
        REQUIRE(client.connect(lo1, 5420) == 0);
        for (int i = 0; i < 20; ++i) client.send(std::string(3000, 'x'));
        client.send("corked", MSG_MORE);
        REQUIRE(client.set(SOL_IP, IP_RECVERR, 1) == 0);
        client.sendto("x", lo1, 5999);
        ip_mreq m{};
        m.imr_multiaddr.s_addr = htonl(0xe0000107);
        m.imr_interface.s_addr = htonl(lo1);
        REQUIRE(client.ops().setsockopt(*client.s, SOL_IP, IP_ADD_MEMBERSHIP, &m, sizeof m) == 0);
    }
    CHECK(arena_bytes_in_use() == bytes);
}
