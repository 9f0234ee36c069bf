// A peer that sends anything: whatever comes, the connection's own numbers stay in order and nothing leaks.
#include "tcp_sim.h"

#include "tests/support/tcp_world.h"

using namespace tcp_test;

namespace {

void sane(tsock& t) {
    const char* broken = sockshim_test::tcp_broken_rule(t.sk());
    REQUIRE(std::string(broken ? broken : "") == "");
}

} // namespace

TEST_CASE("tcp fuzz: random segments around the window, in every state", "[tcp]") {
    const std::size_t socks = (sim(), live_socks());
    for (u32 seed = 1; seed <= 150; seed++) {
        sim w(seed);
        std::mt19937 rng(seed);
        const auto pick = [&](u32 n) { return static_cast<u32>(rng() % n); };
        {
            scripted s = accept_script(w, 5500, seed % 2, seed % 3);
            raw_peer& p = s.peer;
            const u32 ack_base = p.ack;
            INFO("seed " << seed);
            for (int step = 0; step < 300; step++) {
                w.captured.clear();
                switch (pick(8)) {
                case 0: s.server.send(pattern(1 + pick(5000), seed)); break;
                case 1: s.server.read(1 + pick(3000)); break;
                case 2: w.run(pick(2) ? pick(300) * ms : pick(1000)); break;
                case 3:
                    if (!pick(40)) s.server.shutdown(SHUT_WR);
                    break;
                default: {
                    u8 flags = TCPHDR_ACK;
                    if (!pick(10)) flags = static_cast<u8>(rng());
                    if (!pick(60)) flags |= TCPHDR_FIN;
                    if (!pick(8)) flags |= TCPHDR_URG;
                    flags &= static_cast<u8>(~(pick(30) ? TCPHDR_RST : 0));
                    const tcp_sock& tp = s.server.tp();
                    u32 seq = tp.rcv_nxt + (pick(3) ? 0 : pick(8000) - 2000);
                    u32 ack = pick(3) ? tp.snd_nxt - pick(3) * pick(2000) : ack_base + pick(100000);
                    if (!pick(50)) seq = static_cast<u32>(rng());
                    if (!pick(50)) ack = static_cast<u32>(rng());
                    p.window = static_cast<u16>(pick(4) ? 65535 : pick(3000));
                    if (pick(10)) p.ts_val++;
                    sk_buff skb;
                    std::memset(static_cast<void*>(&skb), 0, sizeof(skb));
                    const std::string data(pick(3) ? pick(1500) : 0, 'd');
                    skb.saddr = inet_addr(raw_host);
                    skb.daddr = p.daddr;
                    skb.protocol = IPPROTO_TCP;
                    skb.ttl = 64;
                    skb.tcp.source = p.port;
                    skb.tcp.dest = p.dest;
                    skb.tcp.seq = seq;
                    skb.tcp.ack_seq = ack;
                    skb.tcp.flags = flags;
                    skb.tcp.window = p.window;
                    skb.tcp.urg_ptr = static_cast<u16>(pick(2000));
                    skb.tcp.has_ts = pick(20) != 0 && p.ts;
                    skb.tcp.ts_val = pick(20) ? p.ts_val : static_cast<u32>(rng());
                    skb.tcp.ts_ecr = static_cast<u32>(rng());
                    skb.tcp.num_sacks = static_cast<u8>(pick(6)); // more than there can be
                    for (sack_block& b : skb.tcp.sacks) {
                        b.start_seq = tp.snd_una + pick(6000);
                        b.end_seq = b.start_seq + pick(3000);
                    }
                    const std::size_t cut = data.size() ? pick(static_cast<u32>(data.size())) : 0;
                    skb.data = reinterpret_cast<const u8*>(data.data());
                    skb.len = static_cast<u32>(cut);
                    skb.data2 = skb.data + cut;
                    skb.len2 = static_cast<u32>(data.size() - cut);
                    tcp_v4_rcv(w.env, skb);
                }
                }
                sane(s.server);
            }
        }
        w.run(400 * sec);
        REQUIRE(live_socks() == socks);
        REQUIRE(live_requests() == 0);
    }
}
