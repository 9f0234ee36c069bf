// libFuzzer: TCP against a peer that sends anything, and against itself over a link that loses, repeats
// and reorders as the input says. After each step every connection's numbers are in order; at the end all
// sockets are closed, time passes, and the arena holds what it held before.
#include <arpa/inet.h>
#include <cerrno>
#include <deque>
#include <fcntl.h>
#include <linux/icmp.h>
#include <vector>

#include "core/inet/tcp_ipv4.h"
#include "core/net/family.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/usage.h"
#include "tests/support/tcp_world.h"

using namespace sockshim;
using fuzz::check;

namespace {

constexpr u64 sec = 1000000;
constexpr u16 listen_port = 5000, script_port = 7000;
const be32 host_a = inet_addr("127.0.0.1"), host_b = inet_addr("127.0.0.2");
const be32 script = inet_addr("127.0.0.9"); // nobody lives there but the fuzzer

struct packet {
    sk_buff skb;
    std::string payload;
};

class world {
public:
    explicit world(fuzz::input& in) : in_(in) {
        env_.now_us = epoch;
        env_.queue_xmit = [](tcp_env& env, const sk_buff& skb) {
            static_cast<world*>(env.priv)->sent(skb);
            return 0;
        };
        env_.secure_isn = tcp_v4_secure_isn;
        env_.priv = this;
        tcp_env_of_test = &env_;
        open();
    }
    ~world() {
        for (sockshim::socket* s : sockets_) sock_release(*s);
        link_.clear();
        run_timers(env_.now_us + 86400 * sec); // TIME_WAIT and orphans end
        epoch = env_.now_us + 1000 * sec;
        tcp_env_of_test = nullptr;
    }
    world(const world&) = delete;
    world& operator=(const world&) = delete;

    void step() {
        switch (in_.pick(16)) {
        case 0: deliver(); break;
        case 1: // lost
            if (!link_.empty()) link_.pop_front();
            break;
        case 2: // overtaken, or repeated
            if (!link_.empty()) {
                link_.push_back(link_.front());
                if (in_.one_in(2)) link_.pop_front();
            }
            break;
        case 3: send(); break;
        case 4: receive(); break;
        case 5: pass(u64{in_.pick(4)} * sec + in_.any<u16>()); break;
        case 6: ops().shutdown(some(), static_cast<int>(in_.pick(3))); break;
        case 7: option(); break;
        case 8: accept(); break;
        case 9: reconnect(); break;
        case 10: icmp(); break;
        case 11:
            if (in_.one_in(4)) close();
            break;
        default: segment(); break;
        }
        for (sockshim::socket* s : sockets_) {
            const sock& sk = *socket_sk(*s);
            if (sk_state(sk) == TCP_LISTEN || tcp_sk(sk).fused.load()) continue;
            const char* broken = sockshim_test::tcp_broken_rule(sk);
            if (broken) std::fprintf(stderr, "state %u, not so: %s\n", sk_state(sk), broken);
            check(!broken);
        }
    }

private:
    // A listener, a client of it, and one of the script.
    void open() {
        const bool fuse = in_.one_in(4);
        for (u32 i = 0; i < 3; i++) {
            sockshim::socket* s = nullptr;
            check(sock_create(PF_INET, SOCK_STREAM, 0, &s) == 0);
            sock_set_flag(*socket_sk(*s), SOCK_FUSE_OFF, !fuse);
            sockets_.push_back(s);
        }
        const sockaddr_in at = address(host_b, listen_port);
        check(ops().bind(*sockets_[0], reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
        check(ops().listen(*sockets_[0], static_cast<int>(in_.pick(4))) == 0);
        connect(*sockets_[1], host_b, listen_port);
        connect(*sockets_[2], script, script_port);
    }

    static const proto_ops& ops() { return ops_of(OPS_INET_STREAM); }
    sockshim::socket& some() { return *sockets_[in_.pick(static_cast<u32>(sockets_.size()))]; }

    static sockaddr_in address(be32 host, u16 port) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        in.sin_addr.s_addr = host;
        return in;
    }
    static void connect(sockshim::socket& s, be32 host, u16 port) {
        const sockaddr_in to = address(host, port);
        ops().connect(s, reinterpret_cast<const sockaddr*>(&to), sizeof to, O_NONBLOCK);
    }

    void sent(const sk_buff& skb) {
        check(skb.payload() <= 0xffff && skb.tcp.num_sacks <= 4);
        if (skb.daddr == script || link_.size() >= 100) return;
        packet p{skb, {}};
        p.payload.append(reinterpret_cast<const char*>(skb.data), skb.len);
        p.payload.append(reinterpret_cast<const char*>(skb.data2), skb.len2);
        link_.push_back(std::move(p));
    }
    void deliver() {
        for (u32 n = 1 + in_.pick(8); n && !link_.empty(); n--) {
            packet p = std::move(link_.front());
            link_.pop_front();
            p.skb.data = reinterpret_cast<const u8*>(p.payload.data());
            p.skb.len = static_cast<u32>(p.payload.size());
            p.skb.data2 = nullptr;
            p.skb.len2 = 0;
            tcp_v4_rcv(env_, p.skb);
        }
    }

    // A clock that stands still at each deadline on its way.
    void run_timers(u64 end) {
        for (u32 guard = 0;; guard++) {
            check(guard < 200000);
            const u64 next = sockshim_test::next_tcp_timer();
            if (next > end) return;
            env_.now_us = max_of(env_.now_us, next);
            check(sockshim_test::fire_tcp_timers(env_.now_us));
        }
    }
    void pass(u64 us) {
        const u64 end = env_.now_us + us;
        run_timers(end);
        env_.now_us = end;
    }

    // A segment for one of the sockets, from its peer or a stranger, near what it expects or anywhere.
    void segment() {
        sock& sk = *socket_sk(some());
        const tcp_sock& tp = tcp_sk(sk);
        sk_buff skb;
        std::memset(static_cast<void*>(&skb), 0, sizeof skb);
        const bool listening = sk_state(sk) == TCP_LISTEN;
        skb.saddr = listening || in_.one_in(8) ? in_.of({script, host_a}) : inet_daddr(sk);
        skb.daddr = listening ? host_b : inet_sk(sk).inet_saddr;
        skb.protocol = IPPROTO_TCP;
        skb.ttl = 64;
        tcp_header& h = skb.tcp;
        h.source = listening ? static_cast<u16>(40000 + in_.pick(4)) : ntohs(inet_dport(sk));
        h.dest = sk.__sk_common.skc_num;
        h.flags = in_.of({u8{TCPHDR_ACK}, u8{TCPHDR_SYN}, u8{TCPHDR_SYN | TCPHDR_ACK},
                          u8{TCPHDR_ACK | TCPHDR_FIN}, u8{TCPHDR_ACK | TCPHDR_URG},
                          u8{TCPHDR_ACK | TCPHDR_PSH}, u8{TCPHDR_ACK}, in_.byte()});
        h.seq = near(tp.rcv_nxt);
        h.ack_seq = near(in_.one_in(2) ? tp.snd_una : tp.snd_nxt);
        h.window = in_.any<u16>();
        if (h.flags & TCPHDR_URG) h.urg_ptr = in_.any<u16>();
        const u8 options = in_.byte();
        if (options & 1) h.mss = in_.any<u16>();
        h.has_wscale = (options >> 1) & 1;
        if (h.has_wscale) h.wscale = in_.byte();
        h.sack_ok = (options >> 2) & 1;
        h.has_ts = (options >> 3) & 1;
        if (h.has_ts) {
            h.ts_val = near(tp.ts_recent);
            h.ts_ecr = near(tcp_time_stamp(tp, env_.now_us));
        }
        if (options & 16) {
            h.num_sacks = static_cast<u8>(in_.pick(5));
            for (sack_block& b : h.sacks) b = {near(tp.snd_una), near(tp.snd_nxt)};
        }
        const std::string data(options & 32 ? in_.pick(20000) : 0, 'd');
        const std::size_t cut = data.empty() ? 0 : in_.any<u16>() % data.size();
        skb.data = reinterpret_cast<const u8*>(data.data());
        skb.len = static_cast<u32>(cut);
        skb.data2 = skb.data + cut;
        skb.len2 = static_cast<u32>(data.size() - cut);
        tcp_v4_rcv(env_, skb);
    }
    u32 near(u32 number) {
        switch (in_.pick(4)) {
        case 0: return number;
        case 1: return number + in_.byte() - 128;
        case 2: return number + in_.any<u16>() - 32768;
        default: return in_.any<u32>();
        }
    }

    void icmp() {
        sock& sk = *socket_sk(some());
        sk_buff skb;
        std::memset(static_cast<void*>(&skb), 0, sizeof skb);
        skb.protocol = IPPROTO_ICMP;
        skb.icmp.type = in_.of({u8{ICMP_DEST_UNREACH}, u8{ICMP_TIME_EXCEEDED}, in_.byte()});
        skb.icmp.code = static_cast<u8>(in_.pick(16));
        skb.icmp.info = in_.any<u16>();
        skb.icmp.orig_saddr = inet_sk(sk).inet_saddr;
        skb.icmp.orig_daddr = inet_daddr(sk);
        skb.icmp.orig_source = sk.__sk_common.skc_num;
        skb.icmp.orig_dest = ntohs(inet_dport(sk));
        skb.icmp.orig_seq = near(tcp_sk(sk).snd_una);
        tcp_v4_err(env_, skb);
    }

    void send() {
        const std::string data(in_.any<u16>(), 's');
        iovec v = {const_cast<char*>(data.data()), data.size()};
        msghdr_iter msg{};
        msg.iter = {&v, 1, 0, data.size()};
        msg.flags = in_.of({0, 0, int{MSG_MORE}, int{MSG_OOB}}) | MSG_DONTWAIT | MSG_NOSIGNAL;
        check(ops().sendmsg(some(), msg) <= static_cast<i64>(data.size()));
    }
    void receive() {
        std::string data(in_.any<u16>(), '\0');
        iovec v = {data.data(), data.size()};
        msghdr_iter msg{};
        msg.iter = {&v, 1, 0, data.size()};
        msg.flags = in_.of({0, 0, int{MSG_PEEK}, int{MSG_OOB}, int{MSG_TRUNC}}) | MSG_DONTWAIT;
        check(ops().recvmsg(some(), msg) <= static_cast<i64>(data.size()));
    }
    void option() {
        sockshim::socket& s = some();
        const int level = in_.one_in(2) ? SOL_SOCKET : SOL_TCP;
        const int name = static_cast<int>(in_.pick(80));
        int value = in_.of({0, 1, int{in_.byte()}, in_.any<int>()});
        // An orphan lives as long as it was told to, weeks if need be.
        if (level == SOL_TCP && name == TCP_USER_TIMEOUT) value %= 100000;
        int got = 0;
        u32 len = sizeof got;
        if (level == SOL_SOCKET) {
            sock_setsockopt(s, level, name, &value, sizeof value);
            sock_getsockopt(s, level, name, &got, &len);
        } else {
            ops().setsockopt(s, level, name, &value, sizeof value);
            ops().getsockopt(s, level, name, &got, &len);
        }
        check(len <= sizeof got);
    }
    void accept() {
        if (sockets_.size() >= 8) return;
        sockshim::socket* fresh = sock_alloc();
        check(fresh != nullptr);
        if (ops().accept(some(), *fresh, O_NONBLOCK)) {
            sock_release(*fresh);
        } else {
            sockets_.push_back(fresh);
        }
    }
    // Again, somewhere else, or (AF_UNSPEC) nowhere any more.
    void reconnect() {
        sockshim::socket& s = some();
        sockaddr_in to = address(in_.of({script, host_b}), in_.of({script_port, listen_port}));
        if (in_.one_in(2)) to.sin_family = AF_UNSPEC;
        ops().connect(s, reinterpret_cast<const sockaddr*>(&to), sizeof to, O_NONBLOCK);
    }
    void close() {
        const u32 i = in_.pick(static_cast<u32>(sockets_.size()));
        if (sockets_.size() == 1) return;
        sock_release(*sockets_[i]);
        sockets_.erase(sockets_.begin() + i);
    }

    static inline u64 epoch = 1000 * sec; // worlds follow one another

    fuzz::input& in_;
    tcp_env env_{};
    std::deque<packet> link_;
    std::vector<sockshim::socket*> sockets_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t n) {
    static const bool attached = [] {
        current_exiting = true; // nobody waits out SO_LINGER
        return arena_attach_private() == 0;
    }();
    check(attached);
    static const fuzz::arena_usage before = fuzz::usage_now();
    fuzz::input in(data, n);
    {
        world w(in);
        for (u32 steps = 0; !in.empty() && steps < 400; steps++) w.step();
    }
    check(fuzz::nothing_lost(before));
    return 0;
}
