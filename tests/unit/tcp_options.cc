// Options and what they change: Nagle, cork, delayed ACKs, buffers, low-water marks, peeking, TCP_INFO,
// congestion control; and the repair of a sock whose lock's owner died.
#include "tcp_sim.h"

using namespace tcp_test;

// --- when segments go out ------------------------------------------------------------------------------------

TEST_CASE("tcp Nagle: one small segment in flight, TCP_NODELAY, TCP_CORK, MSG_MORE", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    REQUIRE(s.server.send("a") == 1);
    REQUIRE(p.one().payload == "a");
    REQUIRE(s.server.send("b") == 1);
    REQUIRE(s.server.send("c") == 1);
    REQUIRE(p.none()); // waits for the ACK of "a"
    p.ack += 1;
    p.send(TCPHDR_ACK);
    REQUIRE(p.one().payload == "bc");
    REQUIRE(s.server.set(SOL_TCP, TCP_NODELAY, 1) == 0);
    REQUIRE(s.server.get(SOL_TCP, TCP_NODELAY) == 1);
    REQUIRE(s.server.send("d") == 1);
    REQUIRE(p.one().payload == "d");
    REQUIRE(s.server.send("e", MSG_MORE) == 1);
    REQUIRE(p.none());
    REQUIRE(s.server.send("f") == 1);
    REQUIRE(p.one().payload == "ef");
    REQUIRE(s.server.set(SOL_TCP, TCP_CORK, 1) == 0);
    REQUIRE(s.server.send(std::string(990, 'x')) == 990);
    REQUIRE(p.none());
    REQUIRE(s.server.send(std::string(20, 'y')) == 20);
    packet full = p.one();
    REQUIRE(full.payload.size() == 1000); // a full segment passes the cork
    REQUIRE(s.server.set(SOL_TCP, TCP_CORK, 0) == 0);
    REQUIRE(p.one().payload == std::string(10, 'y'));
    REQUIRE(s.server.tp().data_segs_out == 6);
}

TEST_CASE("tcp Nagle: turning TCP_NODELAY on pushes what waits", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    s.server.send("a");
    s.server.send("b");
    s.peer.clear();
    REQUIRE(s.server.set(SOL_TCP, TCP_NODELAY, 1) == 0);
    REQUIRE(s.peer.one().payload == "b");
}

TEST_CASE("tcp ACKs: quick at first, delayed later, every second full segment at once", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer& p = s.peer;
    p.send(TCPHDR_ACK | TCPHDR_PSH, "1");
    p.seq++;
    REQUIRE(p.one().skb.tcp.ack_seq == p.seq); // quick
    REQUIRE(s.server.set(SOL_TCP, TCP_QUICKACK, 0) == 0);
    REQUIRE(s.server.get(SOL_TCP, TCP_QUICKACK) == 0);
    p.send(TCPHDR_ACK, "2");
    p.seq++;
    REQUIRE(p.none());
    w.run(210 * ms); // within 200 ms
    REQUIRE(p.one().skb.tcp.ack_seq == p.seq);
    REQUIRE(s.server.set(SOL_TCP, TCP_QUICKACK, 0) == 0);
    s.server.read();
    p.send(TCPHDR_ACK, std::string(1000, 'a'));
    p.seq += 1000;
    const bool first_waits = p.none();
    p.send(TCPHDR_ACK, std::string(1000, 'b'));
    p.seq += 1000;
    REQUIRE(first_waits);
    REQUIRE(p.one().skb.tcp.ack_seq == p.seq);
    // An answer carries the ACK.
    REQUIRE(s.server.set(SOL_TCP, TCP_QUICKACK, 0) == 0);
    p.send(TCPHDR_ACK, "question");
    p.seq += 8;
    REQUIRE(p.none());
    REQUIRE(s.server.send("answer") == 6);
    packet a = p.one();
    REQUIRE(a.skb.tcp.ack_seq == p.seq);
    REQUIRE(a.payload == "answer");
}

// --- buffers, low-water marks, flags ----------------------------------------------------------------------------

TEST_CASE("tcp send buffer: EAGAIN when full, POLLOUT at a third free", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5400) == 0);
    REQUIRE(l.listen() == 0);
    tsock c(w);
    REQUIRE(c.set(SOL_SOCKET, SO_SNDBUF, 50000) == 0);
    REQUIRE(c.connect(host_b, 5400) == -EINPROGRESS);
    w.run(ms);
    tsock s = l.accept();
    const std::string data = pattern(1000000, 1);
    std::size_t at = 0;
    for (i64 n; (n = c.send(data.substr(at))) > 0; w.run(ms)) at += static_cast<std::size_t>(n);
    REQUIRE(at >= 100000);
    REQUIRE(at < 400000);
    REQUIRE_FALSE(c.poll() & POLLOUT);
    REQUIRE(c.ioctl(SIOCOUTQ) > 50000);
    std::string got;
    for (int i = 0; i < 100 && !(c.poll() & POLLOUT); i++) {
        s.recv(got, 10000);
        w.run(300 * ms);
    }
    REQUIRE(c.poll() & POLLOUT);
    REQUIRE(fnv(got) == fnv(data.substr(0, got.size())));
}

TEST_CASE("tcp receive: PEEK, TRUNC, WAITALL without waiting, RCVLOWAT, SIOCINQ", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE(p.client.send("abcdefgh") == 8);
    w.run(ms);
    std::string got;
    REQUIRE(p.server.recv(got, 3, MSG_PEEK) == 3);
    REQUIRE(p.server.recv(got, 100, MSG_PEEK) == 8);
    REQUIRE(got == "abcabcdefgh");
    REQUIRE(p.server.ioctl(SIOCINQ) == 8);
    got.clear();
    REQUIRE(p.server.recv(got, 2, MSG_TRUNC) == 2); // thrown away
    got.clear();
    REQUIRE(p.server.recv(got, 100, MSG_WAITALL) == 6);
    REQUIRE(got == "cdefgh");
    REQUIRE(p.server.recv(got, 1) == -EAGAIN);
    REQUIRE(p.server.set(SOL_SOCKET, SO_RCVLOWAT, 4) == 0);
    REQUIRE(p.client.send("123") == 3);
    w.run(ms);
    REQUIRE_FALSE(p.server.poll() & POLLIN);
    REQUIRE(p.client.send("4") == 1);
    w.run(50 * ms);
    REQUIRE(p.server.poll() & POLLIN);
    REQUIRE(p.server.recv(got, 0) == 0);
}

TEST_CASE("tcp buffers: they come with the first byte", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE_FALSE(p.client.tp().tx_ring);
    REQUIRE_FALSE(p.server.tp().rx_ring);
    REQUIRE(p.client.get(SOL_SOCKET, SO_SNDBUF) == 2626560); // as Linux over lo
    REQUIRE(p.client.get(SOL_SOCKET, SO_RCVBUF) == 131072);
    REQUIRE(p.client.send("x") == 1);
    REQUIRE(slab_get(p.client.tp().tx_ring)->size <= 4096);
}

// --- options -------------------------------------------------------------------------------------------------------

TEST_CASE("tcp options: values, ranges, errors", "[tcp]") {
    sim w;
    tsock s(w);
    struct check {
        int name, good, bad;
    };
    for (const check& c : {check{TCP_KEEPIDLE, 100, 0}, check{TCP_KEEPIDLE, 32767, 32768},
                           check{TCP_KEEPINTVL, 5, 0}, check{TCP_KEEPCNT, 127, 128},
                           check{TCP_SYNCNT, 3, 0}, check{TCP_USER_TIMEOUT, 5000, -1},
                           check{TCP_MAXSEG, 536, 87}, check{TCP_MAXSEG, 88, 32768}}) {
        INFO("option " << c.name);
        REQUIRE(s.set(SOL_TCP, c.name, c.good) == 0);
        REQUIRE(s.get(SOL_TCP, c.name) == c.good);
        REQUIRE(s.set(SOL_TCP, c.name, c.bad) == -EINVAL);
        REQUIRE(s.get(SOL_TCP, c.name) == c.good);
    }
    REQUIRE(s.set(SOL_TCP, 9999, 1) == -ENOPROTOOPT);
    REQUIRE(s.get(SOL_TCP, 9999) == -ENOPROTOOPT);
    REQUIRE(s.get(SOL_TCP, TCP_LINGER2) == 60);
    REQUIRE(s.set(SOL_TCP, TCP_LINGER2, 1000) == 0);
    REQUIRE(s.get(SOL_TCP, TCP_LINGER2) == 120);
    REQUIRE(s.set(SOL_TCP, TCP_LINGER2, -7) == 0);
    REQUIRE(s.get(SOL_TCP, TCP_LINGER2) == -1);
    char name[16] = {};
    u32 len = sizeof(name);
    REQUIRE(tcp_getsockopt(s.sk(), SOL_TCP, TCP_CONGESTION, name, &len) == 0);
    REQUIRE(std::string(name) == "reno");
    REQUIRE(tcp_setsockopt(s.sk(), SOL_TCP, TCP_CONGESTION, "cubic", 5) == -ENOENT);
    REQUIRE(tcp_setsockopt(s.sk(), SOL_TCP, TCP_CONGESTION, "reno", 4) == 0);
    char byte = 1;
    REQUIRE(tcp_setsockopt(s.sk(), SOL_TCP, TCP_NODELAY, &byte, 1) == -EINVAL);
}

TEST_CASE("tcp congestion control: a registered algorithm runs the window", "[tcp]") {
    static u32 avoided, losses;
    static const tcp_congestion_ops fixed = {
        .name = "fixed",
        .ssthresh = [](sock&) -> u32 { return ++losses, 7; },
        .cong_avoid = [](sock& sk, u32, u32, u64) { avoided++, tcp_sk(sk).snd_cwnd = 20; },
        .undo_cwnd = [](sock&) -> u32 { return 20; },
        .init = nullptr,
        .release = nullptr,
        .set_state = nullptr,
        .cwnd_event = nullptr,
        .pkts_acked = nullptr,
    };
    avoided = losses = 0;
    REQUIRE(tcp_register_congestion_control(5, fixed) == 0);
    REQUIRE(tcp_register_congestion_control(6, fixed) == -EEXIST);
    sim w;
    {
        pair p = connected(w);
        REQUIRE(tcp_setsockopt(p.client.sk(), SOL_TCP, TCP_CONGESTION, "fixed", 5) == 0);
        REQUIRE(p.client.send("x") == 1);
        w.run(100 * ms);
        REQUIRE(avoided == 1);
        REQUIRE(p.client.tp().snd_cwnd == 20);
        w.loss = 100;
        REQUIRE(p.client.send("y") == 1);
        w.run(300 * ms);
        w.loss = 0;
        REQUIRE(losses == 1);
        REQUIRE(p.client.tp().snd_ssthresh == 7);
        w.run(10 * sec);
    }
    tcp_unregister_congestion_control(5);
}

TEST_CASE("tcp TCP_INFO: true numbers", "[tcp]") {
    sim w;
    w.delay_us = 5 * ms;
    pair p = connected(w);
    REQUIRE(p.client.send(std::string(1000, 'x')) == 1000);
    w.run(200 * ms);
    p.server.read();
    u8 raw[300] = {};
    u32 len = sizeof(raw);
    REQUIRE(tcp_getsockopt(p.client.sk(), SOL_TCP, TCP_INFO, raw, &len) == 0);
    REQUIRE(len == 248);
    struct tcp_info info;
    std::memcpy(&info, raw, sizeof(info));
    REQUIRE(info.tcpi_state == TCP_ESTABLISHED);
    REQUIRE(info.tcpi_options == (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE));
    REQUIRE((info.tcpi_snd_wscale == 7 && info.tcpi_rcv_wscale == 7));
    REQUIRE(info.tcpi_rtt >= 9 * ms);
    REQUIRE(info.tcpi_rtt <= 11 * ms);
    REQUIRE(info.tcpi_rto >= 200 * ms);
    REQUIRE(info.tcpi_advmss == 65483 + 12);
    REQUIRE(info.tcpi_unacked == 0);
    REQUIRE(info.tcpi_snd_cwnd >= 10);
    REQUIRE(p.client.tp().bytes_acked == 1001);
    REQUIRE(p.server.tp().bytes_received == 1000);
    REQUIRE(p.client.tp().data_segs_out == 1);
    REQUIRE(p.server.tp().data_segs_in == 1);
    len = 4;
    REQUIRE(tcp_getsockopt(p.client.sk(), SOL_TCP, TCP_INFO, raw, &len) == 0);
    REQUIRE(len == 4);
}

// --- a lock's owner died inside ------------------------------------------------------------------------------------

TEST_CASE("tcp repair: what the rings say is what the connection goes on with", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE(p.client.send("one ") == 4);
    w.run(ms);
    REQUIRE(p.client.send("two ") == 4);
    // A writer that got as far as the ring's tail, a receiver that got as far as the ring's head.
    tcp_sock& c = p.client.tp();
    stream_ring* tx = slab_get(c.tx_ring);
    ring_write(*tx, c.tx_off, reinterpret_cast<const u8*>("six "), 4);
    tx->tail.store(c.tx_off + 4);
    tcp_sock& s = p.server.tp();
    slab_get(s.rx_ring)->head.store(s.rx_off + 4); // has read "one " and died
    s.num_ooo = 3;                                 // half written
    for (tsock* t : {&p.client, &p.server}) {
        lock_sock(t->sk());
        tcp_repair(t->sk());
        release_sock(t->sk());
    }
    w.run(10 * sec);
    REQUIRE(p.server.read() == "two six ");
    REQUIRE(p.client.send("seven") == 5);
    w.run(sec);
    REQUIRE(p.server.read() == "seven");
    REQUIRE(p.client.tp().snd_una == p.client.tp().write_seq);
    lock_sock(p.listener.sk());
    tcp_repair(p.listener.sk());
    release_sock(p.listener.sk());
    tsock again(w);
    REQUIRE(again.connect(host_b, 5000) == -EINPROGRESS);
    w.run(sec);
    REQUIRE(p.listener.accept().open());
}

TEST_CASE("tcp repair: who died between the SYN's acknowledgement and ESTABLISHED", "[tcp]") {
    sim w;
    dialing d = dial_script(w);
    const auto repair = [&] {
        lock_sock(d.client.sk());
        tcp_repair(d.client.sk());
        release_sock(d.client.sk());
    };
    repair(); // nothing was half done: the SYN is sent again
    REQUIRE(d.client.state() == TCP_SYN_SENT);
    w.run(sec + 100 * ms);
    REQUIRE(d.peer.one().skb.tcp.flags == TCPHDR_SYN);
    // tcp_ack has been through, and the retransmission timer is gone.
    d.client.tp().snd_una = d.client.tp().snd_nxt;
    sk_stop_timer(d.client.sk());
    repair();
    REQUIRE(d.client.state() == TCP_CLOSE);
    REQUIRE(d.client.error() == ECONNRESET);
}
