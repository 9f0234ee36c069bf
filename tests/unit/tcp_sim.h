// A simulated world for TCP: a clock that only moves when told to, and a link that loses, reorders,
// duplicates and delays by a seed. Sockets are made through the family's own operations; segments go
// through tcp_v4_rcv; nothing is preloaded and nothing sleeps.
//
// Two kinds of peers: sockets on both ends (`link`), or a script on one end: segments to `raw_host` are
// kept in `captured` and the test answers by hand.
#pragma once
#include <catch2/catch.hpp>

#include <arpa/inet.h>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <linux/sockios.h>
#include <random>
#include <string>
#include <sys/ioctl.h>
#include <vector>

#include "core/arena/arena.h"
#include "core/inet/inet_hashtables.h"
#include "core/inet/tcp_ipv4.h"
#include "core/net/family.h"
#include "core/net/proto.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"

namespace tcp_test {

using namespace sockshim;

inline constexpr u64 ms = 1000, sec = 1000000;
inline constexpr const char* host_a = "127.0.0.1";
inline constexpr const char* host_b = "127.0.0.2";
inline constexpr const char* raw_host = "127.0.0.9"; // nobody lives there but the test

struct packet {
    sk_buff skb;
    std::string payload;
    u64 at_us;
    u64 order;
};

class sim {
public:
    explicit sim(u32 seed = 1);
    ~sim();
    sim(const sim&) = delete;
    sim& operator=(const sim&) = delete;

    // Runs packets and timers for that long / until nothing is under way (timers do not count).
    void run(u64 us);
    void settle();
    u64 now() const { return env.now_us; }

    // Impairment, in percent; extra delay is random up to jitter_us.
    u32 loss = 0, dup = 0;
    u64 delay_us = 50, jitter_us = 0;
    bool (*drop)(const sk_buff&) = nullptr; // drops what it says true to
    bool (*drop_data)(const sk_buff&, sim&) = nullptr;
    u32 isn = 0; // 0: as the stack chooses
    u64 sent = 0, dropped = 0;

    std::vector<packet> captured; // what was sent to raw_host
    std::vector<tcp_header> seen; // every header that went over the link, when `watch`
    bool watch = false;

    tcp_env env;
    std::mt19937 rng;

private:
    static int xmit(tcp_env& env, const sk_buff& skb);
    static u32 choose_isn(tcp_env& env, be32, be32, u16, u16);
    std::vector<packet> queue_;
    u64 order_ = 0;
};

// A stream socket of ours.
class tsock {
public:
    explicit tsock(sim& world);
    tsock(sim& world, sockshim::socket* accepted) : w(&world), s(accepted) {}
    ~tsock() { close(); }
    tsock(tsock&& o) noexcept : w(o.w), s(o.s) { o.s = nullptr; }
    tsock& operator=(tsock&& o) noexcept;
    tsock(const tsock&) = delete;

    int bind(const char* host, u16 port);
    int listen(int backlog = 16);
    int connect(const char* host, u16 port);
    tsock accept(int* err = nullptr);
    i64 send(const std::string& data, int flags = 0);
    i64 recv(std::string& out, std::size_t n, int flags = 0); // appends
    std::string read(std::size_t n = 1 << 20);                // what is there now
    int shutdown(int how);
    void close();
    int set(int level, int name, int value);
    int get(int level, int name);
    int ioctl(unsigned cmd);
    u32 poll() { return tcp_poll(sk()); }
    int error() { return get(SOL_SOCKET, SO_ERROR); }
    u8 state() { return sk_state(sk()); }
    sock& sk() { return *socket_sk(*s); }
    tcp_sock& tp() { return tcp_sk(sk()); }
    bool open() const { return s != nullptr; }

    sim* w;
    sockshim::socket* s;
};

struct pair {
    tsock client, server, listener;
};
// A connected pair: client on host_a, server on host_b:port.
pair connected(sim& w, u16 port = 5000);

// The scripted peer's half of a connection.
struct raw_peer {
    sim* w;
    u16 port = 40000; // ours (the script's)
    u16 dest = 5000;  // the sock's
    be32 daddr = 0;
    u32 seq = 1000; // next to send
    u32 ack = 0;    // next expected
    u16 window = 65535;
    bool ts = false;
    u32 ts_val = 1000, ts_ecr = 0;

    void inject(u8 flags, u32 s, u32 a, const std::string& data = "", u16 urg = 0);
    void send(u8 flags, const std::string& data = "") { inject(flags, seq, ack, data); }
    // The only segment that has come since the last look; fails when there is none or more.
    packet one();
    bool none();
    void clear();
};

// A socket that a script has connected to (passive), in ESTABLISHED; the script in `peer`.
struct scripted {
    tsock listener, server;
    raw_peer peer;
};
scripted accept_script(sim& w, u16 port = 5000, bool ts = false, bool sack = true);
// A socket in SYN_SENT towards the script.
struct dialing {
    tsock client;
    raw_peer peer;
    packet syn;
};
dialing dial_script(sim& w, u16 port = 7000);
dialing dialed_script(sim& w, u16 port = 7000); // and ESTABLISHED

u64 fnv(const std::string& data);
std::string pattern(std::size_t n, u32 seed);
std::size_t live_socks();
std::size_t live_timewaits();
std::size_t live_requests();

} // namespace tcp_test
