// Opening a connection: LISTEN, SYN_SENT, SYN_RECV; options; refusal; retries; the accept queue.
#include "tcp_sim.h"

using namespace tcp_test;

// --- three-way ---------------------------------------------------------------------------------------------

TEST_CASE("tcp handshake: both ends reach ESTABLISHED and agree on options", "[tcp]") {
    sim w;
    w.watch = true;
    pair p = connected(w);
    REQUIRE(w.seen.size() == 3);
    const tcp_header &syn = w.seen[0], &synack = w.seen[1], &ack = w.seen[2];
    REQUIRE(syn.flags == TCPHDR_SYN);
    REQUIRE(syn.mss == 65495);
    REQUIRE(syn.window == 65495);
    REQUIRE((syn.has_wscale && syn.wscale == 7 && syn.has_ts && syn.sack_ok));
    REQUIRE(synack.flags == (TCPHDR_SYN | TCPHDR_ACK));
    REQUIRE(synack.ack_seq == syn.seq + 1);
    REQUIRE(synack.ts_ecr == syn.ts_val);
    REQUIRE(ack.flags == TCPHDR_ACK);
    REQUIRE(ack.seq == syn.seq + 1);
    REQUIRE(ack.ack_seq == synack.seq + 1);
    REQUIRE(p.client.tp().snd_wscale == 7);
    REQUIRE(p.server.tp().snd_wscale == 7);
    REQUIRE(p.client.tp().tstamp_ok);
    REQUIRE(p.client.tp().mss_clamp == 65495);
    REQUIRE(p.client.tp().bytes_acked == 1); // the SYN, as Linux counts
    REQUIRE(p.server.tp().bytes_acked == 0);
    REQUIRE(p.client.poll() == (POLLOUT | POLLWRNORM));
    REQUIRE(live_requests() == 0);
}

TEST_CASE("tcp handshake: poll bits of sockets that are not connected", "[tcp]") {
    sim w;
    tsock s(w);
    REQUIRE(s.poll() == (POLLOUT | POLLWRNORM | POLLHUP));
    tsock l(w);
    REQUIRE(l.bind(host_b, 5001) == 0);
    REQUIRE(l.listen() == 0);
    REQUIRE(l.poll() == 0);
    std::string none;
    REQUIRE(l.recv(none, 1) == -ENOTCONN);
    REQUIRE(l.send("x") == -EPIPE);
    REQUIRE(s.recv(none, 1) == -ENOTCONN);
    REQUIRE(s.send("x") == -EPIPE);
    dialing d = dial_script(w);
    REQUIRE(d.client.poll() == 0);
    REQUIRE(d.client.send("x") == -EAGAIN);
    REQUIRE(d.client.connect(raw_host, 7000) == -EALREADY);
}

TEST_CASE("tcp handshake: every segment may be lost", "[tcp]") {
    for (int lose = 0; lose < 3; lose++) {
        sim w;
        static int count, which;
        count = 0;
        which = lose;
        w.drop = [](const sk_buff&) { return count++ == which; };
        tsock l(w);
        REQUIRE(l.bind(host_b, 5002) == 0);
        REQUIRE(l.listen() == 0);
        tsock c(w);
        REQUIRE(c.connect(host_b, 5002) == -EINPROGRESS);
        w.run(10 * sec);
        REQUIRE(c.state() == TCP_ESTABLISHED);
        tsock s = l.accept();
        REQUIRE(s.open());
        REQUIRE(c.send("hello") == 5);
        w.run(sec);
        REQUIRE(s.read() == "hello");
    }
}

TEST_CASE("tcp handshake: data completes it when the ACK was lost", "[tcp]") {
    sim w;
    static int count;
    count = 0;
    w.drop = [](const sk_buff&) { return count++ == 2; };
    tsock l(w);
    REQUIRE(l.bind(host_b, 5003) == 0);
    REQUIRE(l.listen() == 0);
    tsock c(w);
    REQUIRE(c.connect(host_b, 5003) == -EINPROGRESS);
    w.run(300);
    REQUIRE(c.state() == TCP_ESTABLISHED);
    REQUIRE_FALSE(l.accept().open());
    REQUIRE(c.send("now") == 3);
    w.run(ms);
    tsock s = l.accept();
    REQUIRE(s.open());
    REQUIRE(s.read() == "now");
}

// --- refusal and giving up ------------------------------------------------------------------------------------

TEST_CASE("tcp connect: nobody listens", "[tcp]") {
    sim w;
    tsock c(w);
    REQUIRE(c.connect(host_b, 5999) == -EINPROGRESS);
    w.run(sec);
    REQUIRE(c.state() == TCP_CLOSE);
    REQUIRE((c.poll() & (POLLERR | POLLHUP | POLLIN | POLLOUT)) ==
            (POLLERR | POLLHUP | POLLIN | POLLOUT));
    REQUIRE(c.connect(host_b, 5999) == -ECONNREFUSED);
    // The socket is fresh again.
    tsock l(w);
    REQUIRE(l.bind(host_b, 5999) == 0);
    REQUIRE(l.listen() == 0);
    REQUIRE(c.connect(host_b, 5999) == -EINPROGRESS);
    w.run(sec);
    REQUIRE(c.connect(host_b, 5999) == 0);
}

TEST_CASE("tcp connect: SYN is retried six times, then ETIMEDOUT after 127 s", "[tcp]") {
    sim w;
    w.watch = true;
    dialing d = dial_script(w);
    w.run(126 * sec);
    REQUIRE(d.client.state() == TCP_SYN_SENT);
    REQUIRE(w.seen.size() == 7);
    w.run(2 * sec);
    REQUIRE(d.client.state() == TCP_CLOSE);
    REQUIRE(d.client.error() == ETIMEDOUT);
    REQUIRE(w.seen.size() == 7);
}

TEST_CASE("tcp connect: TCP_SYNCNT", "[tcp]") {
    sim w;
    w.watch = true;
    tsock c(w);
    REQUIRE(c.set(SOL_TCP, TCP_SYNCNT, 1) == 0);
    REQUIRE(c.connect(raw_host, 7000) == -EINPROGRESS);
    w.run(3500 * ms);
    REQUIRE(c.state() == TCP_CLOSE);
    REQUIRE(w.seen.size() == 2);
}

// --- SYN_SENT ---------------------------------------------------------------------------------------------------

TEST_CASE("tcp SYN_SENT: an unacceptable ACK is answered with a RST", "[tcp]") {
    sim w;
    dialing d = dial_script(w);
    d.peer.inject(TCPHDR_ACK, 1, d.peer.ack + 5);
    packet r = d.peer.one();
    REQUIRE(r.skb.tcp.flags == TCPHDR_RST);
    REQUIRE(r.skb.tcp.seq == d.peer.ack + 5);
    d.peer.inject(TCPHDR_ACK, 1, d.peer.ack - 1);
    REQUIRE(d.peer.one().skb.tcp.flags == TCPHDR_RST);
    REQUIRE(d.client.state() == TCP_SYN_SENT);
    d.peer.inject(TCPHDR_ACK | TCPHDR_RST, 1, d.peer.ack - 1); // a bad RST is ignored
    d.peer.inject(TCPHDR_RST, 1, 0);                           // so is one without ACK
    d.peer.inject(TCPHDR_ACK, 1, d.peer.ack);                  // and an ACK without SYN
    d.peer.inject(0, 1, 0, "data");
    REQUIRE(d.peer.none());
    REQUIRE(d.client.state() == TCP_SYN_SENT);
    d.peer.inject(TCPHDR_ACK | TCPHDR_RST, 1, d.peer.ack);
    REQUIRE(d.client.state() == TCP_CLOSE);
    REQUIRE(d.client.error() == ECONNREFUSED);
}

TEST_CASE("tcp SYN_SENT: after an unacceptable ACK the SYN is sent again at once, and only once",
          "[tcp]") {
    sim w;
    dialing d = dial_script(w);
    d.peer.inject(TCPHDR_ACK, 1, d.peer.ack + 5);
    REQUIRE(d.peer.one().skb.tcp.flags == TCPHDR_RST);
    w.run(10 * ms);
    REQUIRE(d.peer.one().skb.tcp.flags == TCPHDR_SYN);
    d.peer.inject(TCPHDR_ACK, 1, d.peer.ack + 5);
    REQUIRE(d.peer.one().skb.tcp.flags == TCPHDR_RST);
    w.run(900 * ms);
    REQUIRE(d.peer.none());
    REQUIRE(d.client.state() == TCP_SYN_SENT);
}

TEST_CASE("tcp SYN_SENT: simultaneous open (RFC 9293 figure 8)", "[tcp]") {
    sim w;
    dialing d = dial_script(w);
    d.peer.inject(TCPHDR_SYN, d.peer.seq, 0);
    packet synack = d.peer.one();
    REQUIRE(synack.skb.tcp.flags == (TCPHDR_SYN | TCPHDR_ACK));
    REQUIRE(synack.skb.tcp.seq == d.peer.ack - 1);
    REQUIRE(synack.skb.tcp.ack_seq == d.peer.seq + 1);
    REQUIRE(d.client.state() == TCP_SYN_RECV);
    w.run(1100 * ms); // the SYN-ACK is resent as such
    REQUIRE(d.peer.one().skb.tcp.flags == (TCPHDR_SYN | TCPHDR_ACK));
    d.peer.inject(TCPHDR_SYN | TCPHDR_ACK, d.peer.seq, d.peer.ack);
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
    d.peer.seq++;
    d.peer.clear();
    REQUIRE(d.client.send("hi") == 2);
    REQUIRE(d.peer.one().payload == "hi");
    d.peer.ack += 2;
    d.peer.send(TCPHDR_ACK, "yo");
    REQUIRE(d.client.read() == "yo");
}

TEST_CASE("tcp: a socket connected to itself", "[tcp]") {
    sim w;
    tsock c(w);
    REQUIRE(c.bind(host_a, 6100) == 0);
    REQUIRE(c.connect(host_a, 6100) == -EINPROGRESS);
    w.run(3 * sec);
    REQUIRE(c.state() == TCP_ESTABLISHED);
    REQUIRE(c.send("echo") == 4);
    w.run(ms);
    REQUIRE(c.read() == "echo");
    c.close();
    w.run(sec);
}

TEST_CASE("tcp SYN_SENT: close goes away without a word", "[tcp]") {
    sim w;
    const std::size_t socks = live_socks();
    {
        dialing d = dial_script(w);
        d.client.close();
        REQUIRE(d.peer.none());
    }
    REQUIRE(live_socks() == socks);
}

// --- LISTEN, SYN_RECV --------------------------------------------------------------------------------------------

TEST_CASE("tcp LISTEN: ACK gets a RST, RST and nothing get nothing", "[tcp]") {
    sim w;
    scripted s = accept_script(w);
    raw_peer p = s.peer;
    p.port = 41000;
    p.inject(TCPHDR_RST, 5, 0);
    p.inject(0, 5, 0);
    p.inject(TCPHDR_FIN, 5, 0);
    p.inject(TCPHDR_SYN | TCPHDR_FIN, 5, 0);
    REQUIRE(p.none());
    p.inject(TCPHDR_ACK, 5, 77);
    packet r = p.one();
    REQUIRE(r.skb.tcp.flags == TCPHDR_RST);
    REQUIRE(r.skb.tcp.seq == 77);
}

TEST_CASE("tcp: no socket at all", "[tcp]") {
    sim w;
    raw_peer p{&w};
    p.dest = 5998;
    p.daddr = inet_addr(host_b);
    p.inject(TCPHDR_SYN, 100, 0);
    packet r = p.one();
    REQUIRE(r.skb.tcp.flags == (TCPHDR_RST | TCPHDR_ACK));
    REQUIRE(r.skb.tcp.seq == 0);
    REQUIRE(r.skb.tcp.ack_seq == 101);
    p.inject(TCPHDR_ACK, 100, 55, "abc");
    r = p.one();
    REQUIRE(r.skb.tcp.flags == TCPHDR_RST);
    REQUIRE(r.skb.tcp.seq == 55);
    p.inject(TCPHDR_RST | TCPHDR_ACK, 100, 55);
    REQUIRE(p.none());
}

TEST_CASE("tcp SYN_RECV: bad ACK, RST, resent SYN, data out of the window", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5004) == 0);
    REQUIRE(l.listen() == 0);
    raw_peer p{&w};
    p.dest = 5004;
    p.daddr = inet_addr(host_b);
    p.inject(TCPHDR_SYN, 999, 0);
    packet synack = p.one();
    REQUIRE(live_requests() == 1);
    p.ack = synack.skb.tcp.seq + 1;
    p.inject(TCPHDR_ACK, 1000, p.ack + 1);
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_RST);
    p.inject(TCPHDR_ACK, 1000 + 100000, p.ack);
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK); // out of window: "here is where I am"
    w.run(600 * ms);
    p.inject(TCPHDR_SYN, 999, 0); // resent: so is the answer
    packet again = p.one();
    REQUIRE(again.skb.tcp.flags == (TCPHDR_SYN | TCPHDR_ACK));
    REQUIRE(again.skb.tcp.seq == synack.skb.tcp.seq);
    p.inject(TCPHDR_RST, 1000, 0);
    REQUIRE(live_requests() == 0);
    REQUIRE(p.none());
}

TEST_CASE("tcp SYN_RECV: the SYN-ACK is retried five times, then forgotten", "[tcp]") {
    sim w;
    w.watch = true;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5005) == 0);
    REQUIRE(l.listen() == 0);
    raw_peer p{&w};
    p.dest = 5005;
    p.daddr = inet_addr(host_b);
    p.inject(TCPHDR_SYN, 999, 0);
    w.run(62 * sec);
    REQUIRE(w.seen.size() == 6);
    REQUIRE(live_requests() == 1);
    w.run(3 * sec);
    REQUIRE(live_requests() == 0);
    REQUIRE(w.seen.size() == 6);
}

TEST_CASE("tcp: a listener that closes forgets its handshakes and resets its children", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5006) == 0);
    REQUIRE(l.listen() == 0);
    tsock c(w);
    REQUIRE(c.connect(host_b, 5006) == -EINPROGRESS);
    raw_peer p{&w};
    p.dest = 5006;
    p.daddr = inet_addr(host_b);
    p.inject(TCPHDR_SYN, 999, 0);
    w.run(ms);
    REQUIRE(c.state() == TCP_ESTABLISHED);
    REQUIRE(live_requests() == 1);
    l.close();
    REQUIRE(live_requests() == 0);
    w.run(ms);
    REQUIRE(c.error() == ECONNRESET);
}

// --- the accept queue ---------------------------------------------------------------------------------------------

TEST_CASE("tcp accept queue: full drops SYNs, and connects succeed once there is room", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5007) == 0);
    REQUIRE(l.listen(1) == 0);
    std::vector<tsock> clients;
    for (int i = 0; i < 4; i++) {
        clients.emplace_back(w);
        REQUIRE(clients.back().connect(host_b, 5007) == -EINPROGRESS);
        w.run(ms);
    }
    int up = 0;
    for (tsock& c : clients) up += c.state() == TCP_ESTABLISHED;
    REQUIRE(up == 2); // backlog + 1, as Linux
    REQUIRE(l.poll() == (POLLIN | POLLRDNORM));
    std::vector<tsock> served;
    for (u32 i = 0; i < 20 && served.size() < 4; i++) {
        tsock s = l.accept();
        if (s.open()) served.push_back(std::move(s));
        w.run(sec);
    }
    REQUIRE(served.size() == 4);
    for (tsock& c : clients) REQUIRE(c.state() == TCP_ESTABLISHED);
    REQUIRE(l.poll() == 0);
}

TEST_CASE("tcp accept queue: the ACK that finds it full is ignored, the request stays", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5008) == 0);
    REQUIRE(l.listen(0) == 0);
    raw_peer a{&w}, b{&w};
    a.dest = b.dest = 5008;
    a.daddr = b.daddr = inet_addr(host_b);
    b.port = 40001;
    a.inject(TCPHDR_SYN, 999, 0);
    const u32 isn_a = a.one().skb.tcp.seq;
    b.inject(TCPHDR_SYN, 999, 0);
    const u32 isn_b = b.one().skb.tcp.seq;
    a.inject(TCPHDR_ACK, 1000, isn_a + 1);
    REQUIRE(l.poll() & POLLIN);
    b.inject(TCPHDR_ACK, 1000, isn_b + 1);
    REQUIRE(live_requests() == 1);
    tsock first = l.accept();
    REQUIRE(first.open());
    REQUIRE(l.poll() == 0);
    b.clear();
    w.run(1100 * ms); // the SYN-ACK again; its ACK finds room
    REQUIRE(b.one().skb.tcp.flags == (TCPHDR_SYN | TCPHDR_ACK));
    b.inject(TCPHDR_ACK, 1000, isn_b + 1);
    REQUIRE(l.accept().open());
}

TEST_CASE("tcp TCP_DEFER_ACCEPT: the bare ACK does not wake the listener, data does", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5009) == 0);
    REQUIRE(l.set(SOL_TCP, TCP_DEFER_ACCEPT, 5) == 0);
    REQUIRE(l.get(SOL_TCP, TCP_DEFER_ACCEPT) == 7); // 1 + 2 + 4
    REQUIRE(l.listen() == 0);
    tsock c(w);
    REQUIRE(c.connect(host_b, 5009) == -EINPROGRESS);
    w.run(100 * ms);
    REQUIRE(c.state() == TCP_ESTABLISHED);
    REQUIRE(l.poll() == 0);
    REQUIRE(c.send("GET") == 3);
    w.run(100 * ms);
    REQUIRE(l.poll() == (POLLIN | POLLRDNORM));
    tsock s = l.accept();
    REQUIRE(s.read() == "GET");
    tsock c2(w);
    REQUIRE(c2.connect(host_b, 5009) == -EINPROGRESS);
    w.run(20 * sec); // its time is up: accepted without data
    REQUIRE(l.poll() == (POLLIN | POLLRDNORM));
}

TEST_CASE("tcp: RST of a child that waits to be accepted", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5010) == 0);
    REQUIRE(l.listen() == 0);
    tsock c(w);
    REQUIRE(c.connect(host_b, 5010) == -EINPROGRESS);
    w.run(ms);
    REQUIRE(c.set(SOL_SOCKET, SO_KEEPALIVE, 1) == 0);
    struct linger lg = {1, 0};
    REQUIRE(sock_setsockopt(*c.s, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg)) == 0);
    c.close();
    w.run(ms);
    tsock s = l.accept();
    REQUIRE(s.open());
    std::string none;
    REQUIRE(s.recv(none, 1) == -ECONNRESET);
    REQUIRE(s.recv(none, 1) == 0);
}
