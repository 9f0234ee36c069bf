// libFuzzer: the way in of IP with raw, echo and datagram sockets behind it: packets as bytes from their
// IP header on, ICMP errors about anything, what raw sockets send with a header of the program's, and
// what is read from them, error queue included. What a raw socket gives out is a packet again.
#include <cerrno>
#include <linux/icmp.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <vector>

#include "core/inet/ip.h"
#include "core/inet/skb_wire.h"
#include "core/net/family.h"
#include "core/net/net_rx.h"
#include "core/net/proto.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/usage.h"

using namespace sockshim;
using fuzz::check;

namespace {

constexpr u16 port = 4000;
constexpr u32 hosts[] = {INADDR_LOOPBACK, INADDR_LOOPBACK,  INADDR_LOOPBACK + 1,
                         INADDR_ANY,      INADDR_BROADCAST, 0xe0000001,
                         0x7fffffff,      0x0a000001,       INADDR_LOOPBACK};

struct kind {
    int type;
    int protocol;
};
constexpr kind kinds[] = {{SOCK_RAW, IPPROTO_ICMP}, {SOCK_RAW, IPPROTO_UDP},
                          {SOCK_RAW, IPPROTO_TCP},  {SOCK_RAW, IPPROTO_RAW},
                          {SOCK_RAW, 99},           {SOCK_DGRAM, IPPROTO_ICMP},
                          {SOCK_DGRAM, IPPROTO_UDP}};

class host {
public:
    explicit host(fuzz::input& in) : in_(in) {
        for (const kind& k : kinds) {
            sockshim::socket* s = nullptr;
            check(sock_create(AF_INET, k.type, k.protocol, &s) == 0);
            sockets_.push_back(s);
            if (k.type != SOCK_DGRAM) continue;
            sockaddr_in at{};
            at.sin_family = AF_INET;
            at.sin_port = htons(port);
            check(ops(*s).bind(*s, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
        }
    }
    ~host() {
        for (sockshim::socket* s : sockets_) sock_release(*s);
    }
    host(const host&) = delete;
    host& operator=(const host&) = delete;

    void step() {
        sockshim::socket& s = *sockets_[in_.pick(static_cast<u32>(sockets_.size()))];
        switch (in_.pick(8)) {
        case 0: send(s); break;
        case 1: receive(s); break;
        case 2: option(s); break;
        case 3: connect(s); break;
        default: packet(); break;
        }
    }

private:
    static const proto_ops& ops(const sockshim::socket& s) { return ops_of(s.ops_id); }

    // A header that may be right, and a transport whose head may be.
    std::string some_packet() {
        std::string transport = in_.bytes(in_.one_in(4) ? in_.any<u16>() : in_.pick(96));
        std::string options = in_.bytes(in_.one_in(8) ? in_.pick(11) * 4 : 0);
        wire::ipv4_header h{};
        h.saddr = in_.of(hosts);
        h.daddr = in_.of(hosts);
        h.protocol =
            in_.of({u8{IPPROTO_ICMP}, u8{IPPROTO_UDP}, u8{IPPROTO_TCP}, u8{99}, in_.byte()});
        h.ttl = in_.byte();
        h.tos = in_.byte();
        h.frag = in_.one_in(8) ? in_.any<u16>() : u16{0};
        if (!transport.empty() && h.protocol == IPPROTO_ICMP) {
            transport[0] = static_cast<char>(
                in_.of({u8{ICMP_ECHO}, u8{ICMP_ECHOREPLY}, u8{ICMP_DEST_UNREACH}, in_.byte()}));
        }
        if (transport.size() >= 4 && in_.pick(2)) {
            wire::put16(reinterpret_cast<u8*>(transport.data()) + 2, port);
        }
        const std::size_t total = wire::ipv4_min_header + options.size() + transport.size();
        h.total_len = in_.one_in(8) ? in_.any<u16>() : static_cast<u16>(total);
        std::string out(wire::ipv4_min_header, '\0');
        wire::ipv4_emit(reinterpret_cast<u8*>(out.data()), h);
        out[0] = static_cast<char>(out[0] + static_cast<char>(options.size() / 4));
        if (in_.one_in(8)) out[0] = static_cast<char>(in_.byte());
        return out + options + transport;
    }

    void packet() {
        const std::string bytes = some_packet();
        sk_buff skb;
        const u8* const data = reinterpret_cast<const u8*>(bytes.data());
        if (!skb_parse(data, static_cast<u32>(bytes.size()), skb, in_.one_in(8))) return;
        check(skb.data >= data && skb.data + skb.len <= data + bytes.size());
        // In two pieces, as a ring would have it.
        const u32 cut = skb.len ? in_.any<u16>() % skb.len : 0;
        skb.data2 = skb.data + cut;
        skb.len2 = skb.len - cut;
        skb.len = cut;
        ip_rcv(skb);
        net_rx_action();
    }

    void send(sockshim::socket& s) {
        sockaddr_storage name{};
        auto& to = reinterpret_cast<sockaddr_in&>(name);
        to.sin_family = AF_INET;
        to.sin_port = htons(port);
        to.sin_addr.s_addr = htonl(in_.of(hosts));
        std::string data = in_.pick(2) ? some_packet() : in_.bytes(in_.pick(64));
        if (s.type == SOCK_DGRAM && !data.empty()) data[0] = ICMP_ECHO;
        iovec iov{data.data(), data.size()};
        msghdr_iter msg{};
        msg.name = in_.pick(4) ? &name : nullptr;
        msg.namelen = msg.name ? sizeof to : 0;
        msg.iter = {&iov, 1, 0, data.size()};
        msg.flags = MSG_DONTWAIT | MSG_NOSIGNAL | in_.of({0, int{MSG_MORE}});
        check(ops(s).sendmsg(s, msg) <= static_cast<i64>(data.size()));
    }

    void receive(sockshim::socket& s) {
        std::string data(in_.pick(2) ? 0xffff : in_.pick(256), '?');
        iovec iov{data.data(), data.size()};
        sockaddr_storage name{};
        alignas(cmsghdr) u8 control[256];
        msghdr_iter msg{};
        msg.name = in_.pick(2) ? &name : nullptr;
        msg.iter = {&iov, 1, 0, data.size()};
        msg.out_control = control;
        msg.out_control_len = in_.pick(sizeof control + 1);
        const int flags = in_.of({0, 0, int{MSG_PEEK}, int{MSG_TRUNC}, int{MSG_ERRQUEUE}});
        msg.flags = flags | MSG_DONTWAIT;
        const i64 n = ops(s).recvmsg(s, msg);
        check(msg.out_control_used <= msg.out_control_len && msg.namelen <= sizeof name);
        if (n < 0 || flags & MSG_TRUNC) return;
        check(n <= static_cast<i64>(data.size()));
        if (s.type != SOCK_RAW || flags & MSG_ERRQUEUE || msg.flags & MSG_TRUNC || n == 0) return;
        wire::ipv4_header h;
        check(wire::ipv4_parse(reinterpret_cast<const u8*>(data.data()), static_cast<u32>(n), h,
                               true) == wire::ip_verdict::ok);
        check(h.total_len == n);
    }

    void option(sockshim::socket& s) {
        const int level =
            in_.of({int{SOL_IP}, int{SOL_IP}, int{SOL_RAW}, int{SOL_UDP}, int{SOL_SOCKET}});
        const int name = static_cast<int>(in_.pick(64));
        std::string value = in_.bytes(in_.of({4u, 4u, 1u, 8u, 12u, in_.pick(64)}));
        if (value.size() == 4 && in_.pick(2)) value = {static_cast<char>(in_.pick(3)), 0, 0, 0};
        u32 len = static_cast<u32>(value.size());
        if (level == SOL_SOCKET) {
            sock_setsockopt(s, level, name, value.data(), len);
            sock_getsockopt(s, level, name, value.data(), &len);
        } else {
            ops(s).setsockopt(s, level, name, value.data(), len);
            ops(s).getsockopt(s, level, name, value.data(), &len);
        }
        check(len <= value.size());
    }

    void connect(sockshim::socket& s) {
        sockaddr_in to{};
        to.sin_family = in_.one_in(4) ? AF_UNSPEC : AF_INET;
        to.sin_port = htons(port);
        to.sin_addr.s_addr = htonl(in_.of(hosts));
        ops(s).connect(s, reinterpret_cast<const sockaddr*>(&to), sizeof to, 0);
    }

    fuzz::input& in_;
    std::vector<sockshim::socket*> sockets_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t n) {
    static const bool attached = arena_attach_private() == 0;
    check(attached);
    static const fuzz::arena_usage before = fuzz::usage_now();
    fuzz::input in(data, n);
    {
        host h(in);
        for (u32 steps = 0; !in.empty() && steps < 300; steps++) h.step();
    }
    check(fuzz::nothing_lost(before));
    return 0;
}
