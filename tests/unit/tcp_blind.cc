// Segments that should not be: RFC 5961's blind attacks, PAWS, windows, urgent pointers.
#include "tcp_sim.h"

#include <linux/icmp.h>

#include "core/inet/ip.h"

using namespace tcp_test;

TEST_CASE("tcp RFC 5961: RST only at exactly RCV.NXT, elsewhere in the window a challenge",
          "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.inject(TCPHDR_RST, p.seq + 100000000, 0); // outside: nothing
    REQUIRE(p.none());
    p.inject(TCPHDR_RST, p.seq + 5, 0);
    packet a = p.one();
    REQUIRE(a.skb.tcp.flags == TCPHDR_ACK);
    REQUIRE(a.skb.tcp.ack_seq == p.seq);
    p.inject(TCPHDR_RST, p.seq + 6, 0); // rate limited
    REQUIRE(p.none());
    REQUIRE(s.server.state() == TCP_ESTABLISHED);
    p.inject(TCPHDR_RST, p.seq, 0);
    REQUIRE(s.server.state() == TCP_CLOSE);
    REQUIRE(s.server.error() == ECONNRESET);
}

TEST_CASE("tcp RFC 5961: a SYN in a synchronised state gets a challenge", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.inject(TCPHDR_SYN, p.seq, 0);
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK);
    REQUIRE(s.server.state() == TCP_ESTABLISHED);
    w.run(sec);
    p.inject(TCPHDR_SYN, p.seq + 400000000, 0);
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK);
    REQUIRE(s.server.state() == TCP_ESTABLISHED);
}

TEST_CASE("tcp RFC 5961: ACKs of what was never sent, and ancient ones", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.inject(TCPHDR_ACK, p.seq, p.ack + 1000, "evil");
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK);
    w.run(sec);
    p.inject(TCPHDR_ACK, p.seq, p.ack - 100000000, "evil");
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK);
    REQUIRE(s.server.read() == "");
    w.run(sec);
    p.inject(0, p.seq, 0, "no ack");
    REQUIRE(s.server.read() == "");
    p.send(TCPHDR_ACK, "good");
    REQUIRE(s.server.read() == "good");
}

TEST_CASE("tcp: segments outside the window are answered, and not read", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.inject(TCPHDR_ACK, p.seq + 10000000, p.ack, "far");
    REQUIRE(p.one().skb.tcp.ack_seq == p.seq);
    p.inject(TCPHDR_ACK, p.seq - 10000000, p.ack, "old");
    REQUIRE(p.one().skb.tcp.ack_seq == p.seq);
    p.inject(TCPHDR_ACK, p.seq - 2, p.ack, "xxab"); // half of it is new
    REQUIRE(s.server.read() == "ab");
}

TEST_CASE("tcp RFC 7323: PAWS drops old timestamps, and RSTs are not judged by it", "[tcp]") {
    sim w;
    scripted s = accept_script(w, 5000, true);
    raw_peer& p = s.peer;
    REQUIRE(s.server.tp().tstamp_ok);
    p.ts_val = 2000;
    p.send(TCPHDR_ACK, "new");
    p.seq += 3;
    REQUIRE(s.server.read() == "new");
    w.run(500 * ms);
    p.clear();
    REQUIRE(s.server.tp().ts_recent == 2000);
    p.ts_val = 1500;
    p.send(TCPHDR_ACK, "old");
    REQUIRE(p.one().skb.tcp.ack_seq == p.seq);
    REQUIRE(s.server.read() == "");
    p.ts_val = 2001;
    p.send(TCPHDR_ACK, "yes");
    p.seq += 3;
    REQUIRE(s.server.read() == "yes");
    w.run(25ull * 24 * 3600 * sec); // TS.Recent has become meaningless (5.5)
    p.ts_val = 100;
    p.send(TCPHDR_ACK, "late");
    p.seq += 4;
    REQUIRE(s.server.read() == "late");
    p.ts_val = 1;
    p.inject(TCPHDR_RST, p.seq, 0);
    REQUIRE(s.server.state() == TCP_CLOSE);
}

// --- ICMP errors (what tests/diff/icmp_tcp.c cannot wait for) ---------------------------------------------------

namespace {

void icmp_about(sim& w, const sk_buff& segment, u8 type, u8 code, u32 info = 0) {
    sk_buff icmp{};
    icmp.icmp.type = type;
    icmp.icmp.code = code;
    icmp.icmp.info = info;
    icmp.icmp.orig_protocol = IPPROTO_TCP;
    icmp.icmp.orig_saddr = segment.saddr;
    icmp.icmp.orig_daddr = segment.daddr;
    icmp.icmp.orig_source = segment.tcp.source;
    icmp.icmp.orig_dest = segment.tcp.dest;
    icmp.icmp.orig_seq = segment.tcp.seq;
    tcp_v4_err(w.env, icmp);
}

} // namespace

TEST_CASE("tcp RFC 1122 4.2.3.9: a soft error is told when the connection times out", "[tcp]") {
    sim w;
    dialing d = dialed_script(w);
    REQUIRE(d.client.send("lost") == 4);
    const packet lost = d.peer.one();
    icmp_about(w, lost.skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH);
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
    REQUIRE_FALSE(d.client.poll() & EPOLLERR);
    w.run(2000 * sec);
    REQUIRE(d.client.state() == TCP_CLOSE);
    REQUIRE(d.client.error() == EHOSTUNREACH);
}

TEST_CASE("tcp: a soft error is forgotten when the peer answers", "[tcp]") {
    sim w;
    dialing d = dialed_script(w);
    REQUIRE(d.client.send("late") == 4);
    const packet late = d.peer.one();
    icmp_about(w, late.skb, ICMP_DEST_UNREACH, ICMP_NET_UNREACH);
    d.peer.ack += 4;
    d.peer.send(TCPHDR_ACK);
    REQUIRE(d.client.send("lost") == 4);
    w.run(2000 * sec);
    REQUIRE(d.client.error() == ETIMEDOUT);
}

TEST_CASE("tcp RFC 1191: too large is sent again in smaller pieces", "[tcp]") {
    sim w;
    dialing d = dialed_script(w);
    REQUIRE(d.client.send(pattern(3000, 1)) == 3000);
    const packet large = w.captured.front();
    d.peer.clear();
    icmp_about(w, large.skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, 600);
    w.run(5 * sec);
    REQUIRE_FALSE(w.captured.empty());
    for (const packet& p : w.captured) REQUIRE(p.payload.size() <= 560);
    icmp_about(w, large.skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, 67); // less than any network's
    REQUIRE(d.client.tp().pmtu == 600);
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
}

TEST_CASE("tcp: a hard error ends a handshake, once", "[tcp]") {
    sim w;
    dialing d = dial_script(w);
    sk_buff elsewhere = d.syn.skb;
    elsewhere.tcp.seq -= 1;
    icmp_about(w, elsewhere, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH);
    REQUIRE(d.client.state() == TCP_SYN_SENT);
    icmp_about(w, d.syn.skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, 300);
    REQUIRE(d.client.state() == TCP_SYN_SENT);
    icmp_about(w, d.syn.skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH);
    REQUIRE(d.client.state() == TCP_CLOSE);
    icmp_about(w, d.syn.skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH);
    REQUIRE(d.client.error() == ECONNREFUSED);
    REQUIRE(d.client.error() == 0);
}

// --- windows --------------------------------------------------------------------------------------------------

TEST_CASE("tcp window: never more than the peer offers, probes while it is closed", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.send(TCPHDR_ACK, ".");
    p.seq++;
    p.window = 0; // taken from a newer segment only
    p.send(TCPHDR_ACK, ".");
    p.seq++;
    p.clear();
    REQUIRE(s.server.send("waiting") == 7);
    REQUIRE(p.none());
    w.run(900 * ms);
    REQUIRE(w.captured.size() >= 2); // 200, 600 ms ...
    for (const packet& probe : w.captured) {
        REQUIRE(probe.payload.empty());
        REQUIRE(probe.skb.tcp.seq == p.ack - 1);
    }
    p.clear();
    w.run(300 * sec); // answered now and then: never given up
    p.send(TCPHDR_ACK);
    w.run(500 * sec);
    p.send(TCPHDR_ACK);
    REQUIRE(s.server.state() == TCP_ESTABLISHED);
    p.clear();
    p.window = 4;
    p.send(TCPHDR_ACK);
    w.run(130 * sec);
    bool seen = false;
    for (const packet& q : w.captured) {
        REQUIRE(q.payload.size() <= 4);
        seen = seen || q.payload == "wait";
    }
    REQUIRE(seen);
    p.clear();
    p.ack += 4;
    p.window = 1000;
    p.send(TCPHDR_ACK);
    REQUIRE(w.captured.back().payload == "ing");
}

TEST_CASE("tcp window: a peer that does not answer probes is given up", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    s.peer.send(TCPHDR_ACK, ".");
    s.peer.seq++;
    s.peer.window = 0;
    s.peer.send(TCPHDR_ACK, ".");
    REQUIRE(s.server.send("waiting") == 7);
    w.run(2000 * sec);
    REQUIRE(s.server.state() == TCP_CLOSE);
    REQUIRE(s.server.error() == ETIMEDOUT);
}

TEST_CASE("tcp window: a full receive buffer closes it, reading opens it again", "[tcp]") {
    for (const int rcvbuf : {0, 4096, 20000}) {
        sim w;
        tsock l(w);
        REQUIRE(l.bind(host_b, 5300) == 0);
        if (rcvbuf) REQUIRE(l.set(SOL_SOCKET, SO_RCVBUF, rcvbuf) == 0);
        REQUIRE(l.listen() == 0);
        tsock c(w);
        REQUIRE(c.connect(host_b, 5300) == -EINPROGRESS);
        w.run(ms);
        tsock s = l.accept();
        const std::string data = pattern(600000, 7);
        std::size_t at = 0;
        for (int i = 0; i < 50; i++) {
            const i64 n = c.send(data.substr(at));
            if (n > 0) at += static_cast<std::size_t>(n);
            w.run(100 * ms);
        }
        REQUIRE(s.tp().rcv_nxt - s.tp().copied_seq <= tcp_full_space(s.sk()) + 128);
        REQUIRE(tcp_receive_window(s.tp()) < 2000);
        w.run(200 * sec);
        std::string got;
        for (int i = 0; i < 4000 && got.size() < data.size(); i++) {
            if (at < data.size()) {
                const i64 n = c.send(data.substr(at));
                if (n > 0) at += static_cast<std::size_t>(n);
            }
            if (s.recv(got, 5000) <= 0) w.run(20 * ms);
            w.run(100);
        }
        REQUIRE(got.size() == data.size());
        REQUIRE(fnv(got) == fnv(data));
    }
}

// --- keepalive -------------------------------------------------------------------------------------------------

TEST_CASE("tcp keepalive: probes, answers, and ETIMEDOUT", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    REQUIRE(s.server.set(SOL_TCP, TCP_KEEPIDLE, 10) == 0);
    REQUIRE(s.server.set(SOL_TCP, TCP_KEEPINTVL, 2) == 0);
    REQUIRE(s.server.set(SOL_TCP, TCP_KEEPCNT, 3) == 0);
    REQUIRE(s.server.set(SOL_SOCKET, SO_KEEPALIVE, 1) == 0);
    w.run(9 * sec);
    REQUIRE(s.peer.none());
    w.run(2 * sec);
    packet probe = s.peer.one();
    REQUIRE(probe.skb.tcp.seq == s.peer.ack - 1);
    REQUIRE(probe.payload.empty());
    s.peer.send(TCPHDR_ACK);
    w.run(9 * sec);
    REQUIRE(s.peer.none());
    w.run(6 * sec);
    REQUIRE(s.server.state() == TCP_ESTABLISHED);
    w.run(4 * sec);
    REQUIRE(s.server.state() == TCP_CLOSE);
    REQUIRE(s.server.error() == ETIMEDOUT);
    REQUIRE(w.captured.back().skb.tcp.flags & TCPHDR_RST);
}

TEST_CASE("tcp keepalive: a probe is answered", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    s.peer.inject(TCPHDR_ACK, s.peer.seq - 1, s.peer.ack);
    REQUIRE(s.peer.one().skb.tcp.ack_seq == s.peer.seq);
    w.run(sec);
    s.peer.inject(TCPHDR_ACK, s.peer.seq - 1, s.peer.ack, "g"); // BSD's garbage byte
    REQUIRE(s.peer.one().skb.tcp.ack_seq == s.peer.seq);
    REQUIRE(s.server.read() == "");
}

// --- urgent data -------------------------------------------------------------------------------------------------

TEST_CASE("tcp urgent: MSG_OOB out of line", "[tcp]") {
    sim w;
    pair p = connected(w);
    std::string got;
    REQUIRE(p.server.recv(got, 1, MSG_OOB) == -EINVAL);
    REQUIRE(p.client.send("abc") == 3);
    REQUIRE(p.client.send("de!", MSG_OOB) == 3);
    REQUIRE(p.client.send("fgh") == 3);
    w.run(ms);
    REQUIRE(p.server.poll() & POLLPRI);
    REQUIRE(p.server.ioctl(SIOCINQ) == 5);
    REQUIRE(p.server.ioctl(SIOCATMARK) == 0);
    REQUIRE(p.server.recv(got, 100) == 5); // stops at the mark
    REQUIRE(got == "abcde");
    REQUIRE(p.server.ioctl(SIOCATMARK) == 1);
    got.clear();
    REQUIRE(p.server.recv(got, 10, MSG_OOB | MSG_PEEK) == 1);
    REQUIRE(p.server.recv(got, 10, MSG_OOB) == 1);
    REQUIRE(got == "!!");
    REQUIRE(p.server.recv(got, 10, MSG_OOB) == -EINVAL); // read already
    REQUIRE_FALSE(p.server.poll() & POLLPRI);
    REQUIRE(p.server.read() == "fgh");
    REQUIRE(p.server.ioctl(SIOCATMARK) == 0);
}

TEST_CASE("tcp urgent: SO_OOBINLINE", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE(p.server.set(SOL_SOCKET, SO_OOBINLINE, 1) == 0);
    REQUIRE(p.client.send("abc!", MSG_OOB) == 4);
    REQUIRE(p.client.send("def") == 3);
    w.run(ms);
    REQUIRE(p.server.read() == "abc");
    REQUIRE(p.server.ioctl(SIOCATMARK) == 1);
    REQUIRE(p.server.read() == "!def");
}

TEST_CASE("tcp urgent: the pointer may come before its byte, a second one replaces the first",
          "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.inject(TCPHDR_ACK | TCPHDR_URG, p.seq, p.ack, "ab", 4); // the byte is the fourth
    std::string got;
    REQUIRE(s.server.recv(got, 1, MSG_OOB) == -EAGAIN);
    p.inject(TCPHDR_ACK, p.seq + 2, p.ack, "c!");
    REQUIRE(s.server.recv(got, 1, MSG_OOB) == 1);
    REQUIRE(got == "!");
    REQUIRE(s.server.read() == "abc");
    p.inject(TCPHDR_ACK | TCPHDR_URG, p.seq + 4, p.ack, "1", 1);
    p.inject(TCPHDR_ACK | TCPHDR_URG, p.seq + 5, p.ack, "2", 1);
    got.clear();
    REQUIRE(s.server.recv(got, 1, MSG_OOB) == 1);
    REQUIRE(got == "2");
    p.inject(TCPHDR_ACK, p.seq + 6, p.ack, "z");
    REQUIRE(s.server.read() == "z");
}
