// Ending a connection: FIN in every state, RST rules, TIME_WAIT, lingering, orphans.
#include "tcp_sim.h"

using namespace tcp_test;

TEST_CASE("tcp close: active and passive side walk through all states", "[tcp]") {
    sim w;
    const std::size_t socks = live_socks();
    {
        pair p = connected(w);
        REQUIRE(p.client.shutdown(SHUT_WR) == 0);
        REQUIRE(p.client.state() == TCP_FIN_WAIT1);
        w.run(ms);
        REQUIRE(p.server.state() == TCP_CLOSE_WAIT);
        w.run(50 * ms); // its delayed ACK
        REQUIRE(p.client.state() == TCP_FIN_WAIT2);
        REQUIRE((p.server.poll() & (POLLIN | POLLRDHUP | POLLHUP | POLLOUT)) ==
                (POLLIN | POLLRDHUP | POLLOUT));
        std::string end;
        REQUIRE(p.server.recv(end, 1) == 0);
        REQUIRE(p.client.send("x") == -EPIPE);
        REQUIRE(p.server.send("half-closed") == 11); // the other direction still works
        w.run(ms);
        REQUIRE(p.client.read() == "half-closed");
        REQUIRE(p.server.shutdown(SHUT_WR) == 0);
        REQUIRE(p.server.state() == TCP_LAST_ACK);
        w.run(ms);
        REQUIRE(p.server.state() == TCP_CLOSE);
        REQUIRE(p.client.state() == TCP_CLOSE); // a TIME_WAIT entry took its place
        REQUIRE(live_timewaits() == 1);
        REQUIRE((p.client.poll() & (POLLHUP | POLLIN | POLLRDHUP)) ==
                (POLLHUP | POLLIN | POLLRDHUP));
        REQUIRE(p.client.recv(end, 1) == 0);
    }
    w.run(61 * sec);
    REQUIRE(live_timewaits() == 0);
    REQUIRE(live_socks() == socks);
}

TEST_CASE("tcp close: both at once go through CLOSING", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE(p.client.shutdown(SHUT_WR) == 0);
    REQUIRE(p.server.shutdown(SHUT_WR) == 0);
    w.run(60);
    REQUIRE(p.client.state() == TCP_CLOSING);
    REQUIRE(p.server.state() == TCP_CLOSING);
    w.run(ms);
    REQUIRE(live_timewaits() == 2);
    REQUIRE(p.client.state() == TCP_CLOSE);
}

TEST_CASE("tcp close: lost FINs and ACKs are repaired", "[tcp]") {
    for (u32 seed = 1; seed < 9; seed++) {
        sim w(seed);
        const std::size_t socks = live_socks();
        {
            pair p = connected(w);
            w.loss = 40;
            REQUIRE(p.client.send("bye") == 3);
            p.client.close();
            w.run(60 * sec);
            REQUIRE(p.server.read() == "bye");
            std::string end;
            REQUIRE(p.server.recv(end, 1) == 0);
            p.server.close();
            w.loss = 0;
        }
        w.run(500 * sec);
        REQUIRE(live_socks() == socks);
        REQUIRE(live_timewaits() == 0);
    }
}

TEST_CASE("tcp close: with unread data sends a RST (RFC 2525, 2.17)", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE(p.client.send("unread") == 6);
    w.run(ms);
    p.server.close();
    w.run(ms);
    REQUIRE(p.client.state() == TCP_CLOSE);
    REQUIRE(p.client.send("x") == -ECONNRESET);
    REQUIRE(p.client.send("x") == -EPIPE);
    std::string end;
    REQUIRE(p.client.recv(end, 1) == 0);
}

TEST_CASE("tcp close: SO_LINGER with zero aborts", "[tcp]") {
    sim w;
    pair p = connected(w);
    struct linger lg = {1, 0};
    REQUIRE(sock_setsockopt(*p.client.s, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg)) == 0);
    p.client.close();
    w.run(ms);
    std::string none;
    REQUIRE(p.server.poll() & POLLERR);
    REQUIRE(p.server.recv(none, 1) == -ECONNRESET);
    REQUIRE(live_timewaits() == 0);
}

TEST_CASE("tcp close: data sent before the close arrives, then EOF", "[tcp]") {
    sim w;
    pair p = connected(w);
    const std::string data = pattern(200000, 3);
    REQUIRE(p.client.send(data) == 200000);
    p.client.close();
    std::string got;
    for (int i = 0; i < 200 && got.size() < data.size(); i++) {
        p.server.recv(got, 30000);
        w.run(10 * ms);
    }
    REQUIRE(fnv(got) == fnv(data));
    REQUIRE(p.server.recv(got, 1) == 0);
}

TEST_CASE("tcp close: data for a closed socket is answered with a RST", "[tcp]") {
    sim w;
    pair p = connected(w);
    p.server.close();
    w.run(100 * ms);
    REQUIRE(p.client.state() == TCP_CLOSE_WAIT);
    REQUIRE(p.client.send("too late") == 8);
    w.run(100 * ms);
    REQUIRE(p.client.state() == TCP_CLOSE);
    REQUIRE(p.client.send("x") == -EPIPE); // a RST in CLOSE_WAIT means EPIPE
}

TEST_CASE("tcp orphan: FIN_WAIT2 ends after tcp_fin_timeout, TCP_LINGER2 or at once", "[tcp]") {
    const std::size_t before = (sim(), live_socks());
    for (const int linger2 : {0, 5, -1, 90}) {
        sim w;
        dialing d = dialed_script(w);
        if (linger2) REQUIRE(d.client.set(SOL_TCP, TCP_LINGER2, linger2) == 0);
        d.peer.clear();
        d.client.close();
        packet fin = d.peer.one();
        REQUIRE((fin.skb.tcp.flags & TCPHDR_FIN));
        d.peer.seq++;
        d.peer.ack++;
        d.peer.send(TCPHDR_ACK);
        if (linger2 < 0) {
            REQUIRE(live_timewaits() == 0);
            REQUIRE(live_socks() == before);
            continue;
        }
        const u64 life = (linger2 ? static_cast<u64>(linger2) : 60) * sec;
        w.run(life - sec);
        // Still there: a FIN would be taken.
        REQUIRE(live_timewaits() + (live_socks() - before) == 1);
        w.run(2 * sec);
        REQUIRE(live_timewaits() + (live_socks() - before) == 0);
    }
}

TEST_CASE("tcp orphan: data in FIN_WAIT2 after close gets a RST", "[tcp]") {
    sim w;
    dialing d = dialed_script(w);
    d.peer.clear();
    d.client.close();
    d.peer.one();
    d.peer.seq++;
    d.peer.ack++;
    d.peer.send(TCPHDR_ACK);
    d.peer.send(TCPHDR_ACK, "data");
    REQUIRE(d.peer.one().skb.tcp.flags & TCPHDR_RST);
    REQUIRE(live_timewaits() == 0);
}

TEST_CASE("tcp orphan: who does not answer is given up", "[tcp]") {
    sim w;
    const std::size_t before = live_socks();
    dialing d = dialed_script(w);
    d.client.send("data nobody acknowledges");
    d.client.close();
    w.run(300 * sec);
    REQUIRE(live_socks() == before);
}

// --- TIME_WAIT ----------------------------------------------------------------------------------------------

namespace {
// Leaves host_b:port with the script's port in TIME_WAIT on our side.
raw_peer in_time_wait(sim& w, u16 port, bool ts) {
    scripted s = accept_script(w, port, ts);
    s.server.close();
    packet fin = s.peer.one();
    REQUIRE((fin.skb.tcp.flags & TCPHDR_FIN));
    s.peer.ack++;
    s.peer.ts_val++;
    s.peer.inject(TCPHDR_ACK | TCPHDR_FIN, s.peer.seq, s.peer.ack);
    s.peer.seq++;
    REQUIRE(live_timewaits() == 1);
    s.peer.clear();
    return s.peer;
}
} // namespace

TEST_CASE("tcp TIME_WAIT: a resent FIN is acknowledged and the clock starts again", "[tcp]") {
    sim w;
    raw_peer p = in_time_wait(w, 5200, false);
    w.run(40 * sec);
    p.inject(TCPHDR_ACK | TCPHDR_FIN, p.seq - 1, p.ack);
    packet a = p.one();
    REQUIRE(a.skb.tcp.flags == TCPHDR_ACK);
    REQUIRE(a.skb.tcp.ack_seq == p.seq);
    REQUIRE(a.skb.tcp.seq == p.ack);
    w.run(40 * sec);
    REQUIRE(live_timewaits() == 1);
    w.run(21 * sec);
    REQUIRE(live_timewaits() == 0);
}

TEST_CASE("tcp TIME_WAIT: old segments get an ACK, a RST ends it", "[tcp]") {
    sim w;
    raw_peer p = in_time_wait(w, 5201, false);
    p.inject(TCPHDR_ACK, p.seq - 1, p.ack, "x");
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK);
    p.inject(TCPHDR_SYN, p.seq - 10, 0); // an old SYN
    REQUIRE(p.one().skb.tcp.flags == TCPHDR_ACK);
    p.inject(TCPHDR_RST, p.seq + 5, 0); // a wrong one does not
    REQUIRE(live_timewaits() == 1);
    p.inject(TCPHDR_RST, p.seq, 0);
    REQUIRE(live_timewaits() == 0);
}

TEST_CASE("tcp TIME_WAIT: a newer SYN opens a new connection (RFC 6191)", "[tcp]") {
    sim w;
    raw_peer p = in_time_wait(w, 5202, false);
    tsock l(w);
    REQUIRE(l.set(SOL_SOCKET, SO_REUSEADDR, 1) == 0);
    REQUIRE(l.bind(host_b, 5202) == 0);
    REQUIRE(l.listen() == 0);
    p.inject(TCPHDR_SYN, p.seq + 1, 0);
    packet synack = p.one();
    REQUIRE(synack.skb.tcp.flags == (TCPHDR_SYN | TCPHDR_ACK));
    REQUIRE(after(synack.skb.tcp.seq, p.ack + 65000)); // beyond all that the old one can have used
    REQUIRE(live_timewaits() == 0);
    p.inject(TCPHDR_ACK, p.seq + 2, synack.skb.tcp.seq + 1);
    REQUIRE(l.accept().open());
}

TEST_CASE("tcp TIME_WAIT: connecting again with the same numbers", "[tcp]") {
    sim w;
    tsock l(w);
    REQUIRE(l.bind(host_b, 5203) == 0);
    REQUIRE(l.listen() == 0);
    for (int i = 0; i < 3; i++) {
        tsock c(w);
        REQUIRE(c.set(SOL_SOCKET, SO_REUSEADDR, 1) == 0);
        REQUIRE(c.bind(host_a, 6200) == 0);
        // Served once the old incarnation's segments can be told from ours.
        int err = c.connect(host_b, 5203);
        if (err == -EADDRNOTAVAIL) {
            w.run(61 * sec);
            err = c.connect(host_b, 5203);
        }
        REQUIRE(err == -EINPROGRESS);
        w.run(5 * sec);
        REQUIRE(c.state() == TCP_ESTABLISHED);
        tsock s = l.accept();
        REQUIRE(s.open());
        REQUIRE(c.send("again") == 5);
        w.run(ms);
        REQUIRE(s.read() == "again");
        s.close(); // the server closes first: TIME_WAIT is on its side
        w.run(50 * ms);
        c.close();
        w.run(50 * ms);
    }
}

// --- shutdown, disconnect ---------------------------------------------------------------------------------------

TEST_CASE("tcp shutdown: SHUT_RD reads EOF, the peer notices nothing", "[tcp]") {
    sim w;
    pair p = connected(w);
    REQUIRE(p.server.shutdown(SHUT_RD) == 0);
    std::string got;
    REQUIRE(p.server.recv(got, 1) == 0);
    REQUIRE((p.server.poll() & (POLLIN | POLLRDHUP | POLLHUP)) == (POLLIN | POLLRDHUP));
    REQUIRE(p.client.send("still") == 5);
    w.run(ms);
    REQUIRE(p.client.state() == TCP_ESTABLISHED);
    REQUIRE(p.server.recv(got, 10) == 5);
    REQUIRE(p.server.shutdown(SHUT_RDWR) == 0);
    REQUIRE(p.server.poll() & POLLHUP);
}

TEST_CASE("tcp disconnect: connect to AF_UNSPEC resets and makes a fresh socket", "[tcp]") {
    sim w;
    pair p = connected(w);
    sockaddr none{};
    none.sa_family = AF_UNSPEC;
    REQUIRE(ops_of(p.client.s->ops_id).connect(*p.client.s, &none, sizeof(none), 0) == 0);
    REQUIRE(p.client.state() == TCP_CLOSE);
    w.run(ms);
    std::string got;
    REQUIRE(p.server.recv(got, 1) == -ECONNRESET);
    p.client.error();
    REQUIRE(p.client.connect(host_b, 5000) == -EINPROGRESS);
    w.run(ms);
    REQUIRE(p.client.state() == TCP_ESTABLISHED);
    tsock again = p.listener.accept();
    REQUIRE(p.client.send("fresh") == 5);
    w.run(ms);
    REQUIRE(again.read() == "fresh");
}
