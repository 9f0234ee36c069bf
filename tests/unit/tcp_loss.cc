// Data over bad links: every byte arrives once and in order, and how losses are noticed and repaired.
#include "tcp_sim.h"

using namespace tcp_test;

namespace {

// Sends `data` one way and echoes nothing; both ends are driven until all has arrived.
std::string transfer(sim& w, tsock& from, tsock& to, const std::string& data,
                     u64 limit_us = 4000 * sec) {
    std::string got;
    std::size_t at = 0;
    const u64 end = w.now() + limit_us;
    while (got.size() < data.size() && w.now() < end) {
        if (at < data.size()) {
            const i64 n = from.send(data.substr(at, 1 + w.rng() % 30000));
            if (n > 0)
                at += static_cast<std::size_t>(n);
            else
                REQUIRE(n == -EAGAIN);
        }
        w.run(w.rng() % 300);
        const i64 n = to.recv(got, 1 + w.rng() % 40000);
        if (n <= 0) {
            REQUIRE(n == -EAGAIN);
            w.run(5 * ms);
        }
    }
    return got;
}

void rough_link(u32 seed, u32 loss, u32 dup, u64 jitter_us, bool sack, bool ts, u32 isn, int mss,
                std::size_t bytes) {
    sim w(seed);
    w.isn = isn;
    tsock l(w);
    REQUIRE(l.set(SOL_SOCKET, SO_REUSEADDR, 1) == 0);
    if (mss) REQUIRE(l.set(SOL_TCP, TCP_MAXSEG, mss) == 0);
    REQUIRE(l.bind(host_b, 5100) == 0);
    REQUIRE(l.listen() == 0);
    tsock c(w);
    if (mss) REQUIRE(c.set(SOL_TCP, TCP_MAXSEG, mss) == 0);
    REQUIRE(c.connect(host_b, 5100) == -EINPROGRESS);
    w.run(10 * ms);
    tsock s = l.accept();
    REQUIRE(s.open());
    if (!sack) c.tp().sack_ok = s.tp().sack_ok = 0;
    if (!ts) c.tp().tstamp_ok = s.tp().tstamp_ok = 0;
    w.loss = loss;
    w.dup = dup;
    w.jitter_us = jitter_us;
    const std::string data = pattern(bytes, seed);
    const std::string got = transfer(w, c, s, data);
    INFO("seed " << seed << " loss " << loss << " dup " << dup << " jitter " << jitter_us
                 << " sack " << sack << " ts " << ts << " mss " << mss << " got " << got.size()
                 << " state " << int(c.state()));
    REQUIRE(got.size() == data.size());
    REQUIRE(fnv(got) == fnv(data));
    const std::string back = pattern(bytes / 4, seed + 1);
    const std::string got2 = transfer(w, s, c, back);
    REQUIRE(fnv(got2) == fnv(back));
    w.run(200 * sec); // the last ACKs
    REQUIRE(s.tp().bytes_received == data.size());
    REQUIRE(c.tp().bytes_received == back.size());
    REQUIRE(c.tp().bytes_acked == data.size() + 1);
    REQUIRE(c.tp().bytes_sent - c.tp().bytes_retrans == data.size());
    w.loss = w.dup = 0;
    c.shutdown(SHUT_WR);
    w.run(sec);
    std::string end;
    REQUIRE(s.recv(end, 1) == 0);
}

} // namespace

TEST_CASE("tcp data: clean link, segment sizes and ISNs near the wrap", "[tcp]") {
    rough_link(1, 0, 0, 0, true, true, 0, 0, 3000000);
    rough_link(2, 0, 0, 0, true, true, 0xffffff00u, 1000, 300000);
    rough_link(3, 0, 0, 0, false, false, 0xffff0000u, 536, 200000);
}

TEST_CASE("tcp data: loss, duplication, reordering with SACK and timestamps", "[tcp]") {
    for (u32 seed = 10; seed < 22; seed++)
        rough_link(seed, seed % 4 * 5, seed % 3 * 10, seed % 2 ? 2000 : 0, true, true,
                   seed % 2 ? 0xfffffff0u - seed : 0, 500 + seed * 37, 120000);
}

TEST_CASE("tcp data: the same without SACK (NewReno), without timestamps, with neither", "[tcp]") {
    for (u32 seed = 30; seed < 42; seed++)
        rough_link(seed, 5 + seed % 3 * 5, seed % 3 * 10, seed % 2 ? 1500 : 0, seed % 3 == 0,
                   seed % 2 == 0, 0xffffff80u, 700, 100000);
}

TEST_CASE("tcp data: large segments over a bad link", "[tcp]") {
    rough_link(50, 10, 10, 500, true, true, 0, 0, 2000000);
    rough_link(51, 10, 10, 500, false, true, 0, 0, 1000000);
}

TEST_CASE("tcp data: a third of everything is lost", "[tcp]") {
    rough_link(60, 33, 20, 1000, true, true, 0, 1000, 40000);
    rough_link(61, 33, 20, 1000, false, false, 0, 1000, 40000);
}

// --- how a loss is noticed ---------------------------------------------------------------------------------

namespace {
int drop_nth, drop_more, data_count;
bool drop_chosen(const sk_buff& skb) {
    if (!skb.payload()) return false;
    const int n = data_count++;
    return n == drop_nth || (drop_more && n == drop_nth + drop_more);
}
} // namespace

TEST_CASE("tcp loss: one segment lost is repaired by fast retransmit, not by the timer", "[tcp]") {
    for (const bool sack : {true, false}) {
        sim w;
        tsock l(w);
        REQUIRE(l.bind(host_b, 5101) == 0);
        REQUIRE(l.listen() == 0);
        tsock c(w);
        REQUIRE(c.set(SOL_TCP, TCP_MAXSEG, 1012) == 0);
        REQUIRE(c.connect(host_b, 5101) == -EINPROGRESS);
        w.run(ms);
        tsock s = l.accept();
        if (!sack) c.tp().sack_ok = s.tp().sack_ok = 0;
        drop_nth = 3;
        drop_more = data_count = 0;
        w.drop = drop_chosen;
        const std::string data = pattern(9000, 1);
        REQUIRE(c.send(data) == 9000);
        w.run(10 * ms);
        REQUIRE(fnv(s.read()) == fnv(data));
        REQUIRE(c.tp().total_retrans == 1);
        REQUIRE(inet_csk(c.sk()).icsk_ca_state == TCP_CA_Open);
        REQUIRE(
            (c.tp().snd_ssthresh == 5 || c.tp().snd_ssthresh == 6)); // half of what 10 had grown to
        REQUIRE(c.tp().snd_una == c.tp().write_seq);
    }
}

TEST_CASE("tcp loss: two losses in one window, one recovery", "[tcp]") {
    for (const bool sack : {true, false}) {
        sim w;
        tsock l(w);
        REQUIRE(l.bind(host_b, 5102) == 0);
        REQUIRE(l.listen() == 0);
        tsock c(w);
        REQUIRE(c.set(SOL_TCP, TCP_MAXSEG, 1012) == 0);
        REQUIRE(c.connect(host_b, 5102) == -EINPROGRESS);
        w.run(ms);
        tsock s = l.accept();
        if (!sack) c.tp().sack_ok = s.tp().sack_ok = 0;
        drop_nth = 1;
        drop_more = 3;
        data_count = 0;
        w.drop = drop_chosen;
        const std::string data = pattern(10000, 1);
        REQUIRE(c.send(data) == 10000);
        w.run(50 * ms);
        REQUIRE(fnv(s.read()) == fnv(data));
        REQUIRE(c.tp().total_retrans == 2);
        REQUIRE(c.tp().snd_ssthresh == 5); // halved once (RFC 6582)
    }
}

TEST_CASE("tcp loss: the last segment is repaired by the timer after 200 ms or more", "[tcp]") {
    sim w;
    pair p = connected(w);
    drop_nth = drop_more = data_count = 0;
    w.drop = drop_chosen;
    REQUIRE(p.client.send("tail") == 4);
    w.run(190 * ms);
    REQUIRE(p.server.read() == "");
    w.run(30 * ms);
    REQUIRE(p.server.read() == "tail");
    REQUIRE(p.client.tp().total_retrans == 1);
    REQUIRE(p.client.tp().bytes_retrans == 4);
}

TEST_CASE("tcp loss: RTO doubles up to 120 s, and the connection is given up after 15 retries",
          "[tcp]") {
    sim w;
    w.watch = true;
    dialing d = dialed_script(w);
    d.peer.clear();
    w.seen.clear();
    REQUIRE(d.client.send("x") == 1);
    w.run(800 * sec);
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
    const std::size_t tries = w.seen.size();
    REQUIRE(tries >= 14);
    w.run(400 * sec);
    REQUIRE(d.client.state() == TCP_CLOSE);
    REQUIRE(d.client.error() == ETIMEDOUT);
}

TEST_CASE("tcp loss: TCP_USER_TIMEOUT", "[tcp]") {
    sim w;
    dialing d = dialed_script(w);
    REQUIRE(d.client.set(SOL_TCP, TCP_USER_TIMEOUT, 3000) == 0);
    REQUIRE(d.client.send("x") == 1);
    w.run(2 * sec);
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
    w.run(3 * sec);
    REQUIRE(d.client.state() == TCP_CLOSE);
    REQUIRE(d.client.error() == ETIMEDOUT);
}

TEST_CASE("tcp loss: TCP_THIN_LINEAR_TIMEOUTS before any round trip was measured", "[tcp]") {
    sim w;
    dialing d = dial_script(w);
    w.run(1500 * ms); // the SYN is sent again, so that its round trip says nothing
    d.peer.clear();
    d.peer.send(TCPHDR_SYN | TCPHDR_ACK);
    d.peer.clear();
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
    REQUIRE(d.client.set(SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1) == 0);
    REQUIRE(d.client.send("x") == 1);
    w.run(4 * sec);
    REQUIRE(w.captured.size() >= 5);
    REQUIRE(w.captured.size() <= 20); // every 200 ms, not every microsecond
}

TEST_CASE("tcp receiver: out-of-order ranges, SACK blocks, duplicates", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    const u32 base = p.seq;
    p.inject(TCPHDR_ACK, base + 10, p.ack, "KLMNO");
    packet a = p.one();
    REQUIRE(a.skb.tcp.ack_seq == base);
    REQUIRE(a.skb.tcp.num_sacks == 1);
    REQUIRE(a.skb.tcp.sacks[0].start_seq == base + 10);
    REQUIRE(a.skb.tcp.sacks[0].end_seq == base + 15);
    p.inject(TCPHDR_ACK, base + 20, p.ack, "UVWXY");
    a = p.one();
    REQUIRE(a.skb.tcp.num_sacks == 2);
    REQUIRE(a.skb.tcp.sacks[0].start_seq == base + 20); // the latest first (RFC 2018, 4)
    p.inject(TCPHDR_ACK, base + 12, p.ack, "MNOPQR");   // overlaps and extends
    a = p.one();
    REQUIRE(a.skb.tcp.sacks[0].start_seq == base + 10);
    REQUIRE(a.skb.tcp.sacks[0].end_seq == base + 18);
    REQUIRE(s.server.poll() == (POLLOUT | POLLWRNORM));
    p.inject(TCPHDR_ACK, base, p.ack, "ABCDEFGHIJKL");
    a = p.one();
    REQUIRE(a.skb.tcp.ack_seq == base + 18);
    REQUIRE(s.server.read() == "ABCDEFGHIJKLMNOPQR");
    p.inject(TCPHDR_ACK, base + 18, p.ack, "ST");
    REQUIRE(s.server.read() == "STUVWXY");
    p.clear();
    p.inject(TCPHDR_ACK, base + 3, p.ack, "DEF"); // all old: a D-SACK (RFC 2883)
    a = p.one();
    REQUIRE(a.skb.tcp.num_sacks == 1);
    REQUIRE(a.skb.tcp.sacks[0].start_seq == base + 3);
    REQUIRE(a.skb.tcp.ack_seq == base + 25);
    REQUIRE(s.server.tp().bytes_received == 25);
}

TEST_CASE("tcp receiver: more gaps than ranges, and a FIN that comes early", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    const u32 base = p.seq;
    for (u32 i = 0; i < 12; i++) p.inject(TCPHDR_ACK, base + 2 + 4 * i, p.ack, "xy");
    p.inject(TCPHDR_ACK | TCPHDR_FIN, base + 60, p.ack);
    std::string all(60, '.');
    for (u32 i = 0; i < 60; i++) all[i] = static_cast<char>('A' + i % 26);
    for (u32 i = 0; i < 60; i += 10) p.inject(TCPHDR_ACK, base + i, p.ack, all.substr(i, 10));
    const std::string got = s.server.read();
    REQUIRE(got.size() == 60);
    REQUIRE(got.substr(0, 2) == "AB");
    std::string none;
    REQUIRE(s.server.recv(none, 1) == 0);
    REQUIRE(s.server.state() == TCP_CLOSE_WAIT);
}
