// Raw and echo sockets, and ICMP between them.
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstring>
#include <linux/icmp.h>
#include <netinet/in.h>
#include <string>

#include "core/arena/arena.h"
#include "core/inet/icmp.h"
#include "core/inet/raw.h"
#include "core/inet/skb_wire.h"
#include "core/net/family.h"
#include "core/net/proto.h"
#include "core/wire/icmp.h"
#include "core/wire/tcp.h"
#include "core/wire/udp.h"

using namespace sockshim;

namespace {

constexpr u32 lo1 = INADDR_LOOPBACK;

struct raw_endpoint {
    sockshim::socket* s = nullptr;
    sock* sk = nullptr;
    sockaddr_in from{};

    raw_endpoint(int type, int protocol) {
        REQUIRE(arena_attach_private() == 0);
        REQUIRE(sock_create(AF_INET, type, protocol, &s) == 0);
        sk = socket_sk(*s);
        REQUIRE(sk);
    }
    ~raw_endpoint() { sock_release(*s); }
    raw_endpoint(const raw_endpoint&) = delete;
    raw_endpoint& operator=(const raw_endpoint&) = delete;

    i64 sendto(const std::string& data, u32 host, u16 port = 0) {
        sockaddr_storage name{};
        auto& in = reinterpret_cast<sockaddr_in&>(name);
        in.sin_family = AF_INET;
        in.sin_addr.s_addr = htonl(host);
        in.sin_port = htons(port);
        iovec iov{const_cast<char*>(data.data()), data.size()};
        msghdr_iter msg{};
        msg.name = &name;
        msg.namelen = sizeof in;
        msg.iter = {&iov, 1, 0, data.size()};
        return ops_of(s->ops_id).sendmsg(*s, msg);
    }
    i64 recv(std::string& data) {
        data.assign(70000, '?');
        iovec iov{data.data(), data.size()};
        sockaddr_storage name{};
        msghdr_iter msg{};
        msg.name = &name;
        msg.iter = {&iov, 1, 0, data.size()};
        msg.flags = MSG_DONTWAIT;
        const i64 n = ops_of(s->ops_id).recvmsg(*s, msg);
        std::memcpy(&from, &name, sizeof from);
        data.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
        return n;
    }
    int set(int level, int opt, int value) {
        return ops_of(s->ops_id).setsockopt(*s, level, opt, &value, sizeof value);
    }
};

const u8* bytes(const std::string& s) { return reinterpret_cast<const u8*>(s.data()); }

std::string echo_request(u16 id, u16 sequence, const std::string& payload) {
    std::string out(8, '\0');
    out += payload;
    wire::icmp_emit(reinterpret_cast<u8*>(out.data()), {wire::icmp_echo_request, 0, id, sequence},
                    wire::csum_add(0, bytes(payload), payload.size()));
    return out;
}

} // namespace

TEST_CASE("icmp: an echo socket pings the host", "[icmp]") {
    raw_endpoint ping(SOCK_DGRAM, IPPROTO_ICMP);
    std::string got;
    CHECK(ping.sendto("short", lo1) == -EINVAL);
    CHECK(ping.sendto(std::string(8, '\0'), lo1) == -EINVAL); // an echo reply
    for (u16 sequence : {1, 2}) {
        REQUIRE(ping.sendto(echo_request(77, sequence, "payload"), lo1 + 3) == 15);
        REQUIRE(ping.recv(got) == 15);
        wire::icmp_message m{};
        REQUIRE(wire::icmp_parse(bytes(got), got.size(), m) == wire::icmp_verdict::ok);
        CHECK(m.type == wire::icmp_echo_reply);
        CHECK(m.id == ping.sk->__sk_common.skc_num); // its own, not the program's
        CHECK(m.info == sequence);
        CHECK(got.substr(8) == "payload");
        CHECK(ntohl(ping.from.sin_addr.s_addr) == lo1 + 3);
        CHECK(ping.recv(got) == -EAGAIN);
    }
}

TEST_CASE("icmp: a raw socket sees requests and replies, less what it filters", "[icmp]") {
    raw_endpoint raw(SOCK_RAW, IPPROTO_ICMP);
    std::string got;
    REQUIRE(raw.sendto(echo_request(5, 6, "abc"), lo1) == 11);
    REQUIRE(raw.recv(got) == 31);
    wire::ipv4_header ip{};
    REQUIRE(wire::ipv4_parse(bytes(got), got.size(), ip) == wire::ip_verdict::ok);
    CHECK(ip.protocol == IPPROTO_ICMP);
    CHECK(ip.saddr == lo1);
    CHECK(ip.ttl == 64);
    CHECK(static_cast<u8>(got[20]) == wire::icmp_echo_request);
    REQUIRE(raw.recv(got) == 31);
    CHECK(static_cast<u8>(got[20]) == wire::icmp_echo_reply);
    CHECK(wire::checksum(bytes(got) + 20, 11) == 0);
    CHECK(raw.recv(got) == -EAGAIN);

    REQUIRE(raw.set(SOL_RAW, ICMP_FILTER, 1 << ICMP_ECHO) == 0);
    REQUIRE(raw.sendto(echo_request(5, 7, "abc"), lo1) == 11);
    REQUIRE(raw.recv(got) == 31);
    CHECK(static_cast<u8>(got[20]) == wire::icmp_echo_reply);
    CHECK(raw.recv(got) == -EAGAIN);

    raw_endpoint other(SOCK_RAW, 253);
    CHECK(other.set(SOL_RAW, ICMP_FILTER, 1) == -EOPNOTSUPP);
    CHECK(other.set(SOL_RAW, 99, 1) == -ENOPROTOOPT);
}

TEST_CASE("icmp: a raw protocol of one's own", "[icmp]") {
    raw_endpoint a(SOCK_RAW, 253), b(SOCK_RAW, 253), c(SOCK_RAW, 254);
    std::string got;
    REQUIRE(a.sendto("hello", lo1) == 5);
    REQUIRE(b.recv(got) == 25);
    CHECK(got.substr(20) == "hello");
    CHECK(a.recv(got) == 25);
    CHECK(c.recv(got) == -EAGAIN);
}

TEST_CASE("icmp: protocol unreachable reaches the raw sender", "[icmp]") {
    raw_endpoint a(SOCK_RAW, 252);
    raw_endpoint watch(SOCK_RAW, IPPROTO_ICMP);
    REQUIRE(a.set(SOL_IP, IP_RECVERR, 1) == 0);
    // Its own socket takes the packet where it is bound to the destination; elsewhere nobody does.
    inet_rcv_saddr(*a.sk) = htonl(lo1 + 1);
    inet_sk(*a.sk).inet_saddr = htonl(lo1 + 1);
    std::string got;
    REQUIRE(a.sendto("x", lo1) == 1);
    CHECK(a.recv(got) == -ENOPROTOOPT);
    REQUIRE(watch.recv(got) > 48);
    CHECK(static_cast<u8>(got[20]) == wire::icmp_dest_unreach);
    CHECK(static_cast<u8>(got[21]) == wire::icmp_prot_unreach);
}

TEST_CASE("icmp: IP_HDRINCL", "[icmp]") {
    raw_endpoint raw(SOCK_RAW, IPPROTO_RAW), server(SOCK_DGRAM, 0);
    std::string got;
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(5500);
    REQUIRE(ops_of(server.s->ops_id).bind(*server.s, reinterpret_cast<sockaddr*>(&at), sizeof at) ==
            0);
    CHECK(raw.sendto("too short", lo1) == -EINVAL);
    std::string packet(28 + 3, '\0');
    auto* p = reinterpret_cast<u8*>(packet.data());
    std::memcpy(p + 28, "abc", 3);
    wire::ipv4_emit(p,
                    {0, lo1, 0, 0, 0, 20, 0, 17, IPPROTO_UDP}); // source and length are filled in
    wire::udp_emit(p + 20, 1234, 5500, lo1, lo1, wire::csum_add(0, p + 28, 3), 3);
    REQUIRE(raw.sendto(packet, lo1) == 31);
    REQUIRE(server.recv(got) == 3);
    CHECK(got == "abc");
    CHECK(ntohs(server.from.sin_port) == 1234);
    CHECK(ntohl(server.from.sin_addr.s_addr) == lo1);
    // A bad checksum is lost on the way, as on a wire.
    p[30] ^= 1;
    REQUIRE(raw.sendto(packet, lo1) == 31);
    CHECK(server.recv(got) == -EAGAIN);
}

TEST_CASE("icmp: a raw UDP socket sees what goes by, and does not take it", "[icmp]") {
    raw_endpoint watch(SOCK_RAW, IPPROTO_UDP), server(SOCK_DGRAM, 0), client(SOCK_DGRAM, 0);
    std::string got;
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(5501);
    REQUIRE(ops_of(server.s->ops_id).bind(*server.s, reinterpret_cast<sockaddr*>(&at), sizeof at) ==
            0);
    REQUIRE(client.sendto("seen", lo1, 5501) == 4);
    REQUIRE(server.recv(got) == 4);
    REQUIRE(watch.recv(got) == 32);
    wire::udp_header h{};
    REQUIRE(wire::udp_parse(bytes(got) + 20, 12, lo1, lo1, h) == wire::udp_verdict::ok);
    CHECK(h.dest == 5501);
    CHECK(got.substr(28) == "seen");
}

TEST_CASE("icmp: sk_buffs and bytes say the same", "[icmp]") {
    const u8 payload[] = {1, 2, 3, 4, 5};
    sk_buff skb{}, back{};
    skb.saddr = htonl(lo1);
    skb.daddr = htonl(lo1 + 1);
    skb.ttl = 9;
    skb.tos = 4;
    skb.ip_flags = 1;
    skb.data = payload;
    skb.len = 2;
    skb.data2 = payload + 2; // wraps
    skb.len2 = 3;
    u8 packet[skb_wire_max + 5];
    const auto round_trip = [&] {
        u8 headers[skb_wire_max];
        const u32 n = skb_emit_headers(skb, headers);
        std::memcpy(packet, headers, n);
        std::memcpy(packet + n, payload, 5);
        REQUIRE(skb_parse(packet, n + 5, back, true));
        CHECK(back.saddr == skb.saddr);
        CHECK(back.daddr == skb.daddr);
        CHECK(back.ttl == 9);
        CHECK(back.tos == 4);
        CHECK(back.ip_flags == 1);
        CHECK(back.len == 5);
        CHECK(std::memcmp(back.data, payload, 5) == 0);
        packet[n] ^= 1;
        sk_buff damaged{};
        CHECK_FALSE(skb_parse(packet, n + 5, damaged, true));
    };
    SECTION("tcp") {
        skb.protocol = IPPROTO_TCP;
        skb.tcp = {};
        skb.tcp.source = 7;
        skb.tcp.dest = 8;
        skb.tcp.seq = 0x12345678;
        skb.tcp.flags = TCPHDR_ACK | TCPHDR_PSH;
        skb.tcp.has_ts = 1;
        skb.tcp.ts_val = 99;
        round_trip();
        CHECK(back.tcp.seq == 0x12345678);
        CHECK(back.tcp.ts_val == 99);
        CHECK(back.tcp.flags == (TCPHDR_ACK | TCPHDR_PSH));
    }
    SECTION("udp") {
        skb.protocol = IPPROTO_UDP;
        skb.udp = {1, 2};
        round_trip();
        CHECK(back.udp.dest == 2);
    }
    SECTION("icmp error about udp") {
        skb.protocol = IPPROTO_ICMP;
        skb.icmp = {3, 3, 0, 0, IPPROTO_UDP, htonl(5), htonl(6), 77, 88, 0};
        round_trip();
        CHECK(back.icmp.orig_protocol == IPPROTO_UDP);
        CHECK(back.icmp.orig_saddr == htonl(5));
        CHECK(back.icmp.orig_source == 77);
        CHECK(back.icmp.orig_dest == 88);
    }
}
