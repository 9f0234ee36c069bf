// S10, S15: inet_create and inet_bind; routes.
#include "net_fixture.h"

#include <linux/rtnetlink.h>

#include "core/inet/af_inet.h"
#include "core/inet/ip.h"
#include "core/inet/loopback.h"
#include "core/inet/route.h"
#include "core/net/family.h"

using namespace sockshim_test;

namespace {

struct opened {
    explicit opened(int type, int protocol = 0) {
        REQUIRE(arena_attach_private() == 0);
        REQUIRE(sock_create(PF_INET, type, protocol, &s) == 0);
    }
    ~opened() { sock_release(*s); }
    int bind(const char* where, u16 port, u32 len = sizeof(sockaddr_in), int family = AF_INET) {
        sockaddr_in in{};
        in.sin_family = static_cast<sa_family_t>(family);
        in.sin_port = htons(port);
        in.sin_addr.s_addr = addr(where);
        return ops_of(s->ops_id).bind(*s, reinterpret_cast<sockaddr*>(&in), len);
    }
    sockaddr_in name() {
        sockaddr_storage out{};
        REQUIRE(inet_getname(*s, &out, 0) == sizeof(sockaddr_in));
        sockaddr_in in;
        memcpy(&in, &out, sizeof in);
        return in;
    }
    sockshim::socket* s = nullptr;
};

} // namespace

TEST_CASE("S10 inet_create: what a fresh sock says", "[inet]") {
    opened d(SOCK_DGRAM);
    sock& sk = *socket_sk(*d.s);
    REQUIRE(d.s->ops_id == OPS_INET_DGRAM);
    REQUIRE(sk.__sk_common.skc_prot_id == PROT_UDP);
    REQUIRE(sk.sk_protocol == IPPROTO_UDP);
    REQUIRE(sk.sk_type == SOCK_DGRAM);
    REQUIRE(sk_family(sk) == AF_INET);
    REQUIRE(inet_sk(sk).uc_ttl == -1);
    REQUIRE(inet_sk(sk).mc_ttl == 1);
    REQUIRE(inet_test(sk, INET_MC_LOOP));
    REQUIRE_FALSE(inet_test(sk, INET_IS_ICSK));
    REQUIRE(sk.__sk_common.skc_reuse == 0);
    REQUIRE(inet_create(*d.s, -1, 0) == -EINVAL);
    REQUIRE(inet_create(*d.s, IPPROTO_MAX, 0) == -EINVAL);
}

TEST_CASE("S10 a raw socket's port is its protocol", "[inet]") {
    if (geteuid() != 0) return;
    opened r(SOCK_RAW, 89), h(SOCK_RAW, IPPROTO_RAW);
    sock& sk = *socket_sk(*r.s);
    REQUIRE(r.s->ops_id == OPS_INET_RAW);
    REQUIRE(inet_num(sk) == 89);
    REQUIRE(inet_sk(sk).inet_sport == htons(89));
    REQUIRE(sk.__sk_common.skc_reuse == 1);
    REQUIRE_FALSE(inet_test(sk, INET_HDRINCL));
    REQUIRE(inet_test(*socket_sk(*h.s), INET_HDRINCL));
    REQUIRE(r.bind("203.0.113.1", 0) == -EADDRNOTAVAIL); // raw_bind
    REQUIRE(r.bind("127.0.0.1", 0) == 0);
}

TEST_CASE("S15 bind: length, family, address, state", "[inet]") {
    opened s(SOCK_DGRAM);
    REQUIRE(s.bind("127.0.0.1", 0, 15) == -EINVAL);
    REQUIRE(s.bind("127.0.0.1", 0, 0) == -EINVAL);
    REQUIRE(s.bind("127.0.0.1", 0, sizeof(sockaddr_in), AF_INET6) == -EAFNOSUPPORT);
    REQUIRE(s.bind("127.0.0.1", 0, sizeof(sockaddr_in), AF_UNSPEC) == -EAFNOSUPPORT);
    REQUIRE(s.bind("203.0.113.1", 0) == -EADDRNOTAVAIL);
    REQUIRE(s.name().sin_port == 0);
    REQUIRE(s.bind("127.0.0.1", 0) == 0);
    REQUIRE(s.name().sin_port != 0);
    REQUIRE(s.name().sin_addr.s_addr == addr("127.0.0.1"));
    REQUIRE(s.bind("127.0.0.1", 0) == -EINVAL);          // double bind
    REQUIRE(s.bind("203.0.113.1", 0) == -EADDRNOTAVAIL); // the address is looked at first
    opened u(SOCK_DGRAM);
    REQUIRE(u.bind("0.0.0.0", 0, sizeof(sockaddr_in), AF_UNSPEC) == 0);
    opened f(SOCK_DGRAM);
    inet_sk(*socket_sk(*f.s)).inet_flags_ |= INET_FREEBIND;
    REQUIRE(f.bind("203.0.113.1", 0) == 0);
    opened m(SOCK_DGRAM);
    REQUIRE(m.bind("239.1.2.3", 0) == 0);
    REQUIRE(inet_sk(*socket_sk(*m.s)).inet_saddr == 0); // use device
    opened n(SOCK_DGRAM);
    inet_sk(*socket_sk(*n.s)).inet_flags_ |= INET_BIND_ADDRESS_NO_PORT;
    REQUIRE(n.bind("127.0.0.3", 0) == 0);
    REQUIRE(n.name().sin_port == 0);
}

TEST_CASE("datagram sockets have no listen and no accept", "[inet]") {
    opened s(SOCK_DGRAM);
    const proto_ops& ops = ops_of(s.s->ops_id);
    REQUIRE(ops.listen(*s.s, 1) == -EOPNOTSUPP);
    REQUIRE(ops.accept(*s.s, *s.s, 0) == -EOPNOTSUPP);
    REQUIRE(ops.socketpair(*s.s, *s.s) == -EOPNOTSUPP);
    REQUIRE(ops.mmap(*s.s) == -ENODEV);
    REQUIRE(ops.shutdown(*s.s, 3) == -EINVAL);
    REQUIRE(ops.shutdown(*s.s, -1) == -EINVAL);
    REQUIRE(ops.shutdown(*s.s, INT32_MAX) == -EINVAL);
    REQUIRE(ops.shutdown(*s.s, SHUT_RDWR) == -ENOTCONN);
}

TEST_CASE("addresses: what they are to this host", "[inet]") {
    REQUIRE(inet_addr_type(addr("127.0.0.1")) == RTN_LOCAL);
    REQUIRE(inet_addr_type(addr("127.9.9.9")) == RTN_LOCAL);
    REQUIRE(inet_addr_type(addr("127.255.255.255")) == RTN_BROADCAST);
    REQUIRE(inet_addr_type(addr("255.255.255.255")) == RTN_BROADCAST);
    REQUIRE(inet_addr_type(addr("0.0.0.0")) == RTN_BROADCAST);
    REQUIRE(inet_addr_type(addr("0.0.0.1")) == RTN_UNICAST);
    REQUIRE(inet_addr_type(addr("224.0.0.1")) == RTN_MULTICAST);
    REQUIRE(inet_addr_type(addr("203.0.113.7")) == RTN_UNICAST);
}

TEST_CASE("routes: everything local goes by lo, the rest nowhere", "[inet]") {
    rtable rt{};
    be32 to = addr("127.0.0.2");
    REQUIRE(ip_route_output(to, 0, 0, rt) == 0);
    REQUIRE(rt.dev == &loopback_dev);
    REQUIRE(rt.saddr == addr("127.0.0.1"));
    to = 0;
    REQUIRE(ip_route_output(to, 0, 0, rt) == 0);
    REQUIRE(to == addr("127.0.0.1"));
    to = addr("203.0.113.7");
    REQUIRE(ip_route_output(to, 0, 0, rt) == -ENETUNREACH);
    to = addr("127.0.0.1");
    REQUIRE(ip_route_output(to, addr("203.0.113.7"), 0, rt) == -EINVAL);
    REQUIRE(ip_route_output(to, addr("127.0.0.5"), 0, rt) == 0);
    REQUIRE(rt.saddr == addr("127.0.0.5"));
    REQUIRE(ip_route_output(to, 0, 99999, rt) == -ENODEV);
    char name[IFNAMSIZ];
    REQUIRE(dev_name_of_index(1, name));
    REQUIRE(std::string(name) == "lo");
    REQUIRE(dev_index_of_name("lo") == 1);
    REQUIRE(dev_index_of_name("nonesuch") == 0);
}

TEST_CASE("a protocol that has no handler can be given one", "[inet]") {
    static const net_protocol experimental = {.handler = [](const sk_buff&) {},
                                              .err_handler = nullptr};
    REQUIRE(inet_add_protocol(experimental, IPPROTO_UDP) == -EEXIST);
    REQUIRE(inet_protocol(253) == nullptr);
    REQUIRE(inet_add_protocol(experimental, 253) == 0);
    REQUIRE(inet_protocol(253) == &experimental);
    REQUIRE(inet_del_protocol(experimental, 253) == 0);
    REQUIRE(inet_del_protocol(experimental, 253) == -ENOENT);
}
