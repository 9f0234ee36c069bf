#include "tcp_sim.h"

#include "core/net/timer.h"
#include "tests/support/tcp_world.h"

namespace tcp_test {

using sockshim_test::fire_tcp_timers;
using sockshim_test::next_tcp_timer;

// --- the world ------------------------------------------------------------------------------------------

sim::sim(u32 seed) : env{}, rng(seed) {
    REQUIRE(arena_attach_private() == 0);
    static u64 epoch = 1000 * sec;
    epoch += 1000 * sec; // worlds follow one another: no timer of an earlier one is ahead of us
    env.now_us = epoch;
    env.queue_xmit = xmit;
    env.secure_isn = choose_isn;
    env.priv = this;
    tcp_env_of_test = &env;
}

sim::~sim() {
    loss = dup = 0;
    drop = nullptr;
    drop_data = nullptr;
    run(400 * sec); // TIME_WAIT and orphans end
    tcp_env_of_test = nullptr;
}

u32 sim::choose_isn(tcp_env& env, be32 saddr, be32 daddr, u16 sport, u16 dport) {
    sim& w = *static_cast<sim*>(env.priv);
    return w.isn ? w.isn : tcp_v4_secure_isn(env, saddr, daddr, sport, dport);
}

int sim::xmit(tcp_env& env, const sk_buff& skb) {
    sim& w = *static_cast<sim*>(env.priv);
    packet p;
    p.skb = skb;
    p.payload.assign(reinterpret_cast<const char*>(skb.data), skb.len);
    p.payload.append(reinterpret_cast<const char*>(skb.data2), skb.len2);
    p.order = w.order_++;
    w.sent++;
    if (w.watch) w.seen.push_back(skb.tcp);
    if (skb.daddr == inet_addr(raw_host)) {
        w.captured.push_back(p);
        return 0;
    }
    if ((w.loss && w.rng() % 100 < w.loss) || (w.drop && w.drop(skb)) ||
        (w.drop_data && w.drop_data(skb, w))) {
        w.dropped++;
        return 0;
    }
    const u32 copies = w.dup && w.rng() % 100 < w.dup ? 2 : 1;
    for (u32 i = 0; i < copies; i++) {
        p.at_us = env.now_us + w.delay_us + (w.jitter_us ? w.rng() % w.jitter_us : 0);
        w.queue_.push_back(p);
    }
    return 0;
}

static packet take_next(std::vector<packet>& queue) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < queue.size(); i++)
        if (queue[i].at_us < queue[best].at_us ||
            (queue[i].at_us == queue[best].at_us && queue[i].order < queue[best].order))
            best = i;
    packet p = std::move(queue[best]);
    queue.erase(queue.begin() + static_cast<long>(best));
    return p;
}

void sim::run(u64 us) {
    const u64 end = env.now_us + us;
    for (u64 guard = 0;; guard++) {
        REQUIRE(guard < 2000000);
        u64 packet_at = ~u64{0};
        for (const packet& p : queue_) packet_at = min_of(packet_at, p.at_us);
        const u64 timer_at = next_tcp_timer();
        const u64 next = min_of(packet_at, timer_at);
        if (next > end) break;
        env.now_us = max_of(env.now_us, next);
        if (packet_at <= timer_at) {
            packet p = take_next(queue_);
            p.skb.data = reinterpret_cast<const u8*>(p.payload.data());
            p.skb.len = static_cast<u32>(p.payload.size());
            p.skb.data2 = nullptr;
            p.skb.len2 = 0;
            tcp_v4_rcv(env, p.skb);
        } else {
            REQUIRE(fire_tcp_timers(env.now_us));
        }
    }
    env.now_us = end;
}

void sim::settle() {
    for (u32 guard = 0; guard < 100000 && !queue_.empty(); guard++) {
        u64 packet_at = ~u64{0};
        for (const packet& p : queue_) packet_at = min_of(packet_at, p.at_us);
        run(packet_at > env.now_us ? packet_at - env.now_us : 0);
    }
}

// --- sockets -----------------------------------------------------------------------------------------------

tsock::tsock(sim& world) : w(&world), s(nullptr) {
    REQUIRE(sock_create(PF_INET, SOCK_STREAM, 0, &s) == 0);
    sock_set_flag(sk(), SOCK_FUSE_OFF, true);
}

tsock& tsock::operator=(tsock&& o) noexcept {
    std::swap(s, o.s);
    std::swap(w, o.w);
    return *this;
}

static sockaddr_in address(const char* host, u16 port) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    in.sin_addr.s_addr = inet_addr(host);
    return in;
}

int tsock::bind(const char* host, u16 port) {
    sockaddr_in in = address(host, port);
    return ops_of(s->ops_id).bind(*s, reinterpret_cast<sockaddr*>(&in), sizeof(in));
}
int tsock::listen(int backlog) { return ops_of(s->ops_id).listen(*s, backlog); }
int tsock::connect(const char* host, u16 port) {
    sockaddr_in in = address(host, port);
    return ops_of(s->ops_id).connect(*s, reinterpret_cast<sockaddr*>(&in), sizeof(in), O_NONBLOCK);
}
tsock tsock::accept(int* err) {
    sockshim::socket* fresh = sock_alloc();
    REQUIRE(fresh != nullptr);
    const int e = ops_of(s->ops_id).accept(*s, *fresh, O_NONBLOCK);
    if (err) *err = e;
    if (e) {
        sock_release(*fresh);
        return tsock(*w, nullptr);
    }
    return tsock(*w, fresh);
}

i64 tsock::send(const std::string& data, int flags) {
    iovec v = {const_cast<char*>(data.data()), data.size()};
    msghdr_iter msg{};
    msg.iter = {&v, 1, 0, data.size()};
    msg.flags = flags | MSG_DONTWAIT;
    return ops_of(s->ops_id).sendmsg(*s, msg);
}

i64 tsock::recv(std::string& out, std::size_t n, int flags) {
    std::string buf(n, '\0');
    iovec v = {buf.data(), n};
    msghdr_iter msg{};
    msg.iter = {&v, 1, 0, n};
    msg.flags = flags | MSG_DONTWAIT;
    const i64 got = ops_of(s->ops_id).recvmsg(*s, msg);
    if (got > 0) out.append(buf, 0, static_cast<std::size_t>(got));
    return got;
}

std::string tsock::read(std::size_t n) {
    std::string out;
    recv(out, n);
    return out;
}

int tsock::shutdown(int how) { return ops_of(s->ops_id).shutdown(*s, how); }

void tsock::close() {
    if (!s) return;
    sock_release(*s);
    s = nullptr;
}

int tsock::set(int level, int name, int value) {
    return level == SOL_SOCKET
               ? sock_setsockopt(*s, level, name, &value, sizeof(value))
               : ops_of(s->ops_id).setsockopt(*s, level, name, &value, sizeof(value));
}

int tsock::get(int level, int name) {
    int value = 0;
    u32 len = sizeof(value);
    const int err = level == SOL_SOCKET
                        ? sock_getsockopt(*s, level, name, &value, &len)
                        : ops_of(s->ops_id).getsockopt(*s, level, name, &value, &len);
    return err ? err : value;
}

int tsock::ioctl(unsigned cmd) {
    int value = -1;
    const int err = ops_of(s->ops_id).ioctl(*s, cmd, reinterpret_cast<unsigned long>(&value));
    return err ? err : value;
}

pair connected(sim& w, u16 port) {
    tsock listener(w);
    REQUIRE(listener.set(SOL_SOCKET, SO_REUSEADDR, 1) == 0);
    REQUIRE(listener.bind(host_b, port) == 0);
    REQUIRE(listener.listen() == 0);
    tsock client(w);
    REQUIRE(client.connect(host_b, port) == -EINPROGRESS);
    w.run(20 * sec);
    REQUIRE(client.state() == TCP_ESTABLISHED);
    REQUIRE(client.connect(host_b, port) == 0);
    tsock server = listener.accept();
    REQUIRE(server.open());
    REQUIRE(server.state() == TCP_ESTABLISHED);
    return {std::move(client), std::move(server), std::move(listener)};
}

// --- the scripted peer --------------------------------------------------------------------------------------

void raw_peer::inject(u8 flags, u32 s, u32 a, const std::string& data, u16 urg) {
    sk_buff skb;
    std::memset(static_cast<void*>(&skb), 0, sizeof(skb));
    skb.saddr = inet_addr(raw_host);
    skb.daddr = daddr;
    skb.protocol = IPPROTO_TCP;
    skb.ttl = 64;
    skb.tcp.source = port;
    skb.tcp.dest = dest;
    skb.tcp.seq = s;
    skb.tcp.ack_seq = flags & TCPHDR_ACK ? a : 0;
    skb.tcp.flags = flags;
    skb.tcp.window = window;
    skb.tcp.urg_ptr = urg;
    if (ts) {
        skb.tcp.has_ts = 1;
        skb.tcp.ts_val = ts_val;
        skb.tcp.ts_ecr = ts_ecr;
    }
    skb.data = reinterpret_cast<const u8*>(data.data());
    skb.len = static_cast<u32>(data.size());
    tcp_v4_rcv(w->env, skb);
}

packet raw_peer::one() {
    REQUIRE(w->captured.size() == 1);
    packet p = w->captured[0];
    w->captured.clear();
    return p;
}
bool raw_peer::none() { return w->captured.empty(); }
void raw_peer::clear() { w->captured.clear(); }

static void inject_syn(raw_peer& p, u8 flags, bool sack) {
    sk_buff skb;
    std::memset(static_cast<void*>(&skb), 0, sizeof(skb));
    skb.saddr = inet_addr(raw_host);
    skb.daddr = p.daddr;
    skb.protocol = IPPROTO_TCP;
    skb.ttl = 64;
    skb.tcp.source = p.port;
    skb.tcp.dest = p.dest;
    skb.tcp.seq = p.seq;
    skb.tcp.ack_seq = p.ack;
    skb.tcp.flags = flags;
    skb.tcp.window = p.window;
    skb.tcp.mss = 1000;
    skb.tcp.sack_ok = sack;
    skb.tcp.has_ts = p.ts;
    skb.tcp.ts_val = p.ts_val;
    skb.tcp.ts_ecr = p.ts_ecr;
    p.seq++;
    tcp_v4_rcv(p.w->env, skb);
}

scripted accept_script(sim& w, u16 port, bool ts, bool sack) {
    tsock listener(w);
    REQUIRE(listener.set(SOL_SOCKET, SO_REUSEADDR, 1) == 0);
    REQUIRE(listener.bind(host_b, port) == 0);
    REQUIRE(listener.listen() == 0);
    raw_peer peer{&w};
    peer.dest = port;
    peer.daddr = inet_addr(host_b);
    peer.ts = ts;
    inject_syn(peer, TCPHDR_SYN, sack);
    const packet synack = peer.one();
    REQUIRE(synack.skb.tcp.flags == (TCPHDR_SYN | TCPHDR_ACK));
    REQUIRE(synack.skb.tcp.ack_seq == peer.seq);
    peer.ack = synack.skb.tcp.seq + 1;
    peer.ts_ecr = synack.skb.tcp.ts_val;
    peer.send(TCPHDR_ACK);
    tsock server = listener.accept();
    REQUIRE(server.open());
    REQUIRE(server.state() == TCP_ESTABLISHED);
    peer.clear();
    return {std::move(listener), std::move(server), peer};
}

dialing dial_script(sim& w, u16 port) {
    tsock client(w);
    REQUIRE(client.connect(raw_host, port) == -EINPROGRESS);
    raw_peer peer{&w};
    const packet syn = peer.one();
    REQUIRE(syn.skb.tcp.flags == TCPHDR_SYN);
    peer.port = port;
    peer.dest = syn.skb.tcp.source;
    peer.daddr = syn.skb.saddr;
    peer.ack = syn.skb.tcp.seq + 1;
    return {std::move(client), peer, syn};
}

dialing dialed_script(sim& w, u16 port) {
    dialing d = dial_script(w, port);
    inject_syn(d.peer, TCPHDR_SYN | TCPHDR_ACK, true);
    const packet ack = d.peer.one();
    REQUIRE(ack.skb.tcp.flags == TCPHDR_ACK);
    REQUIRE(d.client.state() == TCP_ESTABLISHED);
    return d;
}

// --- helpers ---------------------------------------------------------------------------------------------------

u64 fnv(const std::string& data) {
    u64 h = 1469598103934665603ull;
    for (const char c : data) h = (h ^ static_cast<u8>(c)) * 1099511628211ull;
    return h;
}

std::string pattern(std::size_t n, u32 seed) {
    std::mt19937 rng(seed);
    std::string out(n, '\0');
    for (char& c : out) c = static_cast<char>(rng());
    return out;
}

template <class T> static std::size_t live() {
    std::size_t n = 0;
    for (u32 i = 0; i < cells_committed(region_of<T>::value); i++)
        if (slab_handle_at<T>(i)) n++;
    return n;
}
std::size_t live_socks() { return live<sock>(); }
std::size_t live_timewaits() { return live<inet_timewait_sock>(); }
std::size_t live_requests() { return live<request_sock>(); }

} // namespace tcp_test
