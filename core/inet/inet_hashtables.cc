#include "core/inet/inet_hashtables.h"

#include <cerrno>
#include <initializer_list>
#include <netinet/tcp.h>

#include "core/arena/arena.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/inet/loopback.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"

namespace sockshim {
namespace {

// --- references --------------------------------------------------------------------------------------

constexpr u32 ref_index_mask = (1u << 30) - 1;
constexpr u32 make_ref(u8 kind, u32 index) { return (static_cast<u32>(kind) << 30) | (index + 1); }
constexpr u8 ref_kind(u32 ref) { return static_cast<u8>(ref >> 30); }
constexpr u32 ref_index(u32 ref) { return (ref & ref_index_mask) - 1; }

constexpr region_id region_of_kind(u8 kind) {
    return kind == SKC_KIND_REQUEST    ? REGION_REQUEST
           : kind == SKC_KIND_TIMEWAIT ? REGION_TIMEWAIT
                                       : REGION_SOCK;
}

// sock, request_sock and inet_timewait_sock all begin with their sock_common.
sock_common* common_at(u32 ref) {
    if ((ref & ref_index_mask) == 0 || ref_kind(ref) == 0) return nullptr;
    return static_cast<sock_common*>(cell_at(region_of_kind(ref_kind(ref)), ref_index(ref)));
}

u32 ref_of(const sock_common& c) {
    return make_ref(c.skc_kind, cell_index_of(region_of_kind(c.skc_kind), &c));
}

bool cell_in_use(u32 ref) {
    const u64 w = cell_word_at(region_of_kind(ref_kind(ref)), ref_index(ref));
    return cell_word::state(w) != CELL_FREE;
}

void publish(const sock_common& c) {
    const region_id region = region_of_kind(c.skc_kind);
    const u32 index = cell_index_of(region, &c);
    const u64 w = cell_word_at(region, index);
    if (cell_word::state(w) == CELL_CLAIMED) cell_publish(region, {index, cell_word::gen(w)});
}

// --- hashing -----------------------------------------------------------------------------------------

// A multiply-and-fold keyed hash (after wyhash): the secret is the network's, so nobody who picks ports
// and addresses can fill one bucket.
u64 mix(u64 a, u64 b) {
    const unsigned __int128 m = static_cast<unsigned __int128>(a) * b;
    return static_cast<u64>(m) ^ static_cast<u64>(m >> 64);
}

u64 keyed_hash(u64 a, u64 b, const u64* key) {
    return mix(mix(a ^ key[0], b ^ 0x9e3779b97f4a7c15) ^ key[1], 0xa0761d6478bd642f ^ b);
}

} // namespace

u32 inet_ehashfn(be32 laddr, u16 lport, be32 faddr, u16 fport) {
    const u64 addrs = (static_cast<u64>(laddr) << 32) | faddr;
    const u64 ports = (static_cast<u64>(lport) << 16) | fport;
    return static_cast<u32>(keyed_hash(addrs, ports, arena_hash_area()->secret));
}

u32 get_random_u32() {
    // splitmix64; its state starts from the kernel's randomness, and differs in a forked child because
    // the process's name in the arena is mixed in.
    static constinit a64 state{};
    if (SOCKSHIM_UNLIKELY(state.load_relaxed() == 0)) {
        u64 seed = 0;
        raw_syscall(SYS_getrandom, ptr_arg(&seed), sizeof seed, 0);
        state.fetch_add((seed ^ monotonic_us()) | 1);
    }
    u64 z = state.fetch_add(0x9e3779b97f4a7c15) ^ (static_cast<u64>(self_proc) << 32);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return static_cast<u32>((z ^ (z >> 31)) >> 16);
}

namespace {

u32 get_random_u32_below(u32 ceiling) {
    return static_cast<u32>((static_cast<u64>(get_random_u32()) * ceiling) >> 32);
}

u32 hash_of(const sock_common& c) {
    return inet_ehashfn(c.skc_rcv_saddr, c.skc_num, c.skc_daddr, ntohs(c.skc_dport));
}

// --- the tables --------------------------------------------------------------------------------------

enum table_id { EHASH, LHASH, BHASH };

// One bucket of a table, locked and whole. Entries are checked as they are met: one that does not belong
// here means that somebody scribbled or that a repair is due, and the chain is built anew.
class chain {
public:
    chain(table_id table, u32 slot) : table_(table), slot_(slot), bucket_(pick(table, slot)) {
        if (SOCKSHIM_UNLIKELY(!bucket_.lock.lock())) rebuild();
    }
    ~chain() { bucket_.lock.unlock(); }
    chain(const chain&) = delete;
    chain& operator=(const chain&) = delete;

    sock_common* first() {
        steps_ = 0;
        return check(bucket_.head.load_relaxed());
    }
    // Null at the end. After a rebuild the walk begins again, which only makes it see entries twice.
    sock_common* next(const sock_common& c) { return check(link(c)); }

    void insert(sock_common& c) {
        publish(c);
        const u32 ref = ref_of(c);
        c.skc_hashed |= flag();
        if (table_ == BHASH && !(c.skc_hashed & SKC_HASHED_CONNECT)) mark_bound(c.skc_num);
        SOCKSHIM_CRASH_POINT();
        const u32 head = bucket_.head.load_relaxed();
        if (table_ == BHASH) {
            c.skc_bind_node = head;
            c.skc_bind_prev = 0;
            if (sock_common* old = common_at(head)) old->skc_bind_prev = ref;
        } else {
            c.skc_node = head;
        }
        SOCKSHIM_CRASH_POINT();
        bucket_.head.store(ref);
    }

    void remove(sock_common& c) {
        if (table_ == BHASH) {
            unlink_bind(c);
        } else {
            unlink_main(c);
        }
        SOCKSHIM_CRASH_POINT();
        c.skc_hashed &= static_cast<u8>(~flag());
    }

    // May `port` have an entry that did not come there by connect? Thousands of connections can share a
    // bucket, so that is remembered: set before such an entry is linked, cleared by whoever has walked
    // the chain and found none. Wrong only on the safe side, whoever is killed when.
    bool maybe_bound(u16 port) const { return bound_ports().load_relaxed() & bound_bit(port); }
    void mark_bound(u16 port) {
        if (!maybe_bound(port)) bound_ports().store(bound_ports().load_relaxed() | bound_bit(port));
    }
    void clear_bound(u16 port) {
        bound_ports().store(bound_ports().load_relaxed() & ~bound_bit(port));
    }

private:
    static_assert(65536 / bhash_buckets <= 32);
    static u32 bound_bit(u16 port) { return 1u << port / bhash_buckets; }
    a32& bound_ports() const { return arena_hash_area()->bhash_bound[slot_ % bhash_buckets]; }

    static hash_bucket& pick(table_id table, u32 slot) {
        hash_area& area = *arena_hash_area();
        return table == EHASH   ? area.ehash[slot % ehash_buckets]
               : table == LHASH ? area.lhash[slot % lhash_buckets]
                                : area.bhash[slot % bhash_buckets];
    }
    u8 flag() const { return table_ == BHASH ? SKC_HASHED_BIND : SKC_HASHED_MAIN; }
    u32 link(const sock_common& c) const { return table_ == BHASH ? c.skc_bind_node : c.skc_node; }

    // Does the entry belong into this bucket?
    bool belongs(const sock_common& c, u8 kind) const {
        if (c.skc_kind != kind || c.skc_family != AF_INET || !(c.skc_hashed & flag())) return false;
        const bool listening = kind == SKC_KIND_SOCK && c.skc_state.load_relaxed() == TCP_LISTEN;
        if (kind == SKC_KIND_SOCK && !inet_test(reinterpret_cast<const sock&>(c), INET_IS_ICSK)) {
            return false; // a datagram sock: udp_hash.cc's
        }
        switch (table_) {
        case BHASH: return c.skc_num % bhash_buckets == slot_ % bhash_buckets;
        case LHASH: return listening && c.skc_num % lhash_buckets == slot_ % lhash_buckets;
        case EHASH:
        default: return !listening && c.skc_hash % ehash_buckets == slot_ % ehash_buckets;
        }
    }

    sock_common* check(u32 ref) {
        if (ref == 0) return nullptr;
        sock_common* c = common_at(ref);
        if (SOCKSHIM_LIKELY(c && cell_in_use(ref) && belongs(*c, ref_kind(ref)) &&
                            ++steps_ < max_steps)) {
            return c;
        }
        if (rebuilt_) return nullptr;
        rebuild();
        return first();
    }

    void unlink_bind(sock_common& c) {
        const u32 ref = ref_of(c);
        sock_common* before = common_at(c.skc_bind_prev);
        if (before ? before->skc_bind_node != ref : bucket_.head.load_relaxed() != ref) {
            // A kill in the middle of a change left the back link behind.
            c.skc_hashed &= static_cast<u8>(~flag());
            rebuild();
            return;
        }
        sock_common* after = common_at(c.skc_bind_node);
        if (before) {
            before->skc_bind_node = c.skc_bind_node;
        } else {
            bucket_.head.store(c.skc_bind_node);
        }
        SOCKSHIM_CRASH_POINT();
        if (after) after->skc_bind_prev = c.skc_bind_prev;
    }

    void unlink_main(sock_common& c) {
        const u32 ref = ref_of(c);
        if (bucket_.head.load_relaxed() == ref) {
            bucket_.head.store(c.skc_node);
            return;
        }
        for (sock_common* at = first(); at; at = next(*at)) {
            if (at->skc_node == ref) {
                at->skc_node = c.skc_node;
                return;
            }
        }
    }

    void rebuild() {
        rebuilt_ = true;
        steps_ = 0;
        bucket_.head.store(0);
        for (const u8 kind : {SKC_KIND_SOCK, SKC_KIND_REQUEST, SKC_KIND_TIMEWAIT}) {
            const u32 cells = cells_committed(region_of_kind(kind));
            for (u32 i = 0; i < cells; ++i) {
                const u32 ref = make_ref(kind, i);
                sock_common* c = common_at(ref);
                if (cell_in_use(ref) && belongs(*c, kind)) insert(*c);
            }
        }
    }

    static constexpr u32 max_steps = 1u << 21;
    table_id table_;
    u32 slot_;
    hash_bucket& bucket_;
    u32 steps_ = 0;
    bool rebuilt_ = false;
};

bool same_tuple(const sock_common& a, const sock_common& b) {
    return a.skc_rcv_saddr == b.skc_rcv_saddr && a.skc_daddr == b.skc_daddr &&
           a.skc_num == b.skc_num && a.skc_dport == b.skc_dport;
}

inet_lookup_result result_of(const sock_common& c) {
    inet_lookup_result r{};
    const u32 index = cell_index_of(region_of_kind(c.skc_kind), &c);
    switch (c.skc_kind) {
    case SKC_KIND_SOCK: r.sk = slab_handle_at<sock>(index); break;
    case SKC_KIND_REQUEST: r.req = slab_handle_at<request_sock>(index); break;
    case SKC_KIND_TIMEWAIT: r.tw = slab_handle_at<inet_timewait_sock>(index); break;
    default: return r;
    }
    r.kind = c.skc_kind;
    return r;
}

// --- established -------------------------------------------------------------------------------------

// Puts `c` into ehash unless another connection has its tuple (__inet_check_established). A TIME_WAIT
// entry in its place that may be reused is returned, taken out of ehash.
int ehash_insert(sock_common& c, inet_timewait_sock** replaced) {
    *replaced = nullptr;
    c.skc_hash = hash_of(c);
    chain bucket(EHASH, c.skc_hash);
    for (sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
        if (at == &c) return 0; // there already
        if (!same_tuple(*at, c)) continue;
        if (at->skc_kind == SKC_KIND_REQUEST) {
            // The handshake that this sock completes; the request is removed by its owner.
            if (c.skc_kind == SKC_KIND_SOCK) continue;
            return -EADDRNOTAVAIL;
        }
        if (at->skc_kind != SKC_KIND_TIMEWAIT || c.skc_kind != SKC_KIND_SOCK) return -EADDRNOTAVAIL;
        auto& tw = reinterpret_cast<inet_timewait_sock&>(*at);
        if (!inet_twsk_reusable(tw)) return -EADDRNOTAVAIL;
        *replaced = &tw;
        break;
    }
    if (*replaced) bucket.remove((*replaced)->__tw_common);
    bucket.insert(c);
    return 0;
}

void free_timewait(inet_timewait_sock& tw) {
    const u32 index = cell_index_of(REGION_TIMEWAIT, &tw);
    slab_free(slab_handle_at<inet_timewait_sock>(index));
}

void main_remove(sock_common& c, table_id table, u32 slot) {
    if (!(c.skc_hashed & SKC_HASHED_MAIN)) return;
    chain bucket(table, slot);
    if (c.skc_hashed & SKC_HASHED_MAIN) bucket.remove(c);
}

void bind_remove(sock_common& c) {
    if (!(c.skc_hashed & SKC_HASHED_BIND)) return;
    chain bucket(BHASH, c.skc_num);
    if (c.skc_hashed & SKC_HASHED_BIND) bucket.remove(c);
    c.skc_hashed &= static_cast<u8>(~SKC_HASHED_CONNECT);
}

} // namespace

// Linux: tcp_twsk_unique with tcp_tw_reuse = 2, its default (loopback only; a network of ours is that).
// RFC 6191 asks that the new connection's timestamp be greater than the old one's last. Linux keeps that
// time in seconds and so waits for one; here it is in microseconds and the timestamp clock ticks every
// millisecond.
bool inet_twsk_reusable(const inet_timewait_sock& tw) {
    if (tw.tw_substate != TCP_TIME_WAIT || !tw.tw_has_ts || !tw.tw_ts_recent_stamp_us) return false;
    return monotonic_us() > tw.tw_ts_recent_stamp_us + 2000;
}

inet_lookup_result inet_lookup_established(be32 saddr, u16 sport, be32 daddr, u16 dport) {
    const u32 hash = inet_ehashfn(daddr, dport, saddr, sport);
    const be16 foreign = htons(sport);
    const sock_common* found = nullptr;
    chain bucket(EHASH, hash);
    for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
        if (at->skc_hash != hash || at->skc_num != dport || at->skc_dport != foreign ||
            at->skc_daddr != saddr || at->skc_rcv_saddr != daddr) {
            continue;
        }
        found = at;
        if (at->skc_kind == SKC_KIND_SOCK) break;
    }
    return found ? result_of(*found) : inet_lookup_result{};
}

int inet_ehash_insert(sock& sk) {
    inet_timewait_sock* tw = nullptr;
    const int err = ehash_insert(sk.__sk_common, &tw);
    if (tw) { // inet_twsk_deschedule_put
        bind_remove(tw->__tw_common);
        free_timewait(*tw);
    }
    return err;
}

bool inet_reqsk_insert(request_sock& req) {
    inet_timewait_sock* tw = nullptr;
    return ehash_insert(req.__req_common, &tw) == 0;
}

void inet_reqsk_remove(request_sock& req) {
    main_remove(req.__req_common, EHASH, req.__req_common.skc_hash);
}

// Linux: inet_twsk_hashdance.
void inet_twsk_insert(inet_timewait_sock& tw) {
    sock_common& c = tw.__tw_common;
    c.skc_hash = hash_of(c);
    c.skc_hashed = 0;
    sock_common* former = nullptr;
    {
        chain binds(BHASH, c.skc_num);
        {
            chain bucket(EHASH, c.skc_hash);
            for (sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
                if (at->skc_kind == SKC_KIND_SOCK && same_tuple(*at, c)) former = at;
            }
            // The new entry first, so that at no instant the tuple is free.
            bucket.insert(c);
            if (former) bucket.remove(*former);
        }
        c.skc_hashed |= former ? former->skc_hashed & SKC_HASHED_CONNECT : 0;
        binds.insert(c);
        if (former && (former->skc_hashed & SKC_HASHED_BIND)) {
            binds.remove(*former);
            former->skc_hashed &= static_cast<u8>(~SKC_HASHED_CONNECT);
        }
    }
}

void inet_twsk_remove(inet_timewait_sock& tw) {
    main_remove(tw.__tw_common, EHASH, tw.__tw_common.skc_hash);
    bind_remove(tw.__tw_common);
}

// --- listeners ---------------------------------------------------------------------------------------

namespace {

// compute_score: 0 when the listener does not want it. A listener on the address itself beats one on
// every address, as Linux's two look-ups (address, then INADDR_ANY) have it.
u32 listener_score(const sock_common& c, be32 daddr, u16 dport) {
    if (c.skc_num != dport || (c.skc_rcv_saddr && c.skc_rcv_saddr != daddr)) return 0;
    if (c.skc_bound_dev_if && c.skc_bound_dev_if != LOOPBACK_IFINDEX) return 0;
    return 1 + (c.skc_bound_dev_if ? 1 : 0) + (c.skc_rcv_saddr ? 4 : 0);
}

bool reuseport_group(const sock& a, const sock& b) {
    const sock_common& ca = a.__sk_common;
    const sock_common& cb = b.__sk_common;
    return ca.skc_reuseport && cb.skc_reuseport && ca.skc_num == cb.skc_num &&
           ca.skc_rcv_saddr == cb.skc_rcv_saddr && ca.skc_bound_dev_if == cb.skc_bound_dev_if &&
           a.sk_uid == b.sk_uid;
}

} // namespace

handle<sock> inet_lookup_listener(be32 saddr, u16 sport, be32 daddr, u16 dport) {
    chain bucket(LHASH, dport);
    const sock* best = nullptr;
    u32 best_score = 0;
    for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
        const u32 score = listener_score(*at, daddr, dport);
        if (score > best_score) {
            best = &reinterpret_cast<const sock&>(*at);
            best_score = score;
        }
    }
    if (!best) return {};
    if (best->__sk_common.skc_reuseport) {
        // reuseport_select_sock: the same four-tuple always meets the same member.
        u32 members = 0;
        for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
            members += reuseport_group(reinterpret_cast<const sock&>(*at), *best);
        }
        const u32 hash = inet_ehashfn(daddr, dport, saddr, sport);
        u32 pick = static_cast<u32>((static_cast<u64>(hash) * members) >> 32); // reciprocal_scale
        for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
            const sock& member = reinterpret_cast<const sock&>(*at);
            if (!reuseport_group(member, *best)) continue;
            if (pick-- == 0) return sk_handle(member);
        }
    }
    return sk_handle(*best);
}

bool inet_half_listener(be32 daddr, u16 dport) {
    chain bucket(BHASH, dport);
    if (!bucket.maybe_bound(dport)) return false;
    for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
        if (at->skc_kind != SKC_KIND_SOCK || at->skc_reuseport) continue;
        const sock& sk = reinterpret_cast<const sock&>(*at);
        // TCP_LISTEN: one that is on its way into the listening table.
        const u8 state = at->skc_state.load();
        if ((state == TCP_CLOSE || state == TCP_LISTEN) && listener_score(*at, daddr, dport) &&
            (sk.sk_kernel.load() & KERNEL_HALF)) {
            return true;
        }
    }
    return false;
}

int inet_hash(sock& sk) {
    sock_common& c = sk.__sk_common;
    if (sk_state(sk) != TCP_LISTEN) return inet_ehash_insert(sk);
    chain bucket(LHASH, c.skc_num);
    if (!(c.skc_hashed & SKC_HASHED_MAIN)) bucket.insert(c);
    return 0;
}

void inet_unhash(sock& sk) {
    sock_common& c = sk.__sk_common;
    if (sk_state(sk) == TCP_LISTEN) {
        main_remove(c, LHASH, c.skc_num);
    } else {
        main_remove(c, EHASH, c.skc_hash);
    }
}

// --- local ports -------------------------------------------------------------------------------------

int inet_bind_bucket_add(sock& sk, u16 port) {
    sock_common& c = sk.__sk_common;
    chain bucket(BHASH, port);
    c.skc_num = port;
    inet_sk(sk).inet_sport = htons(port);
    if (!(c.skc_hashed & SKC_HASHED_BIND)) bucket.insert(c);
    return 0;
}

void inet_put_port(sock& sk) {
    bind_remove(sk.__sk_common);
    sk.__sk_common.skc_num = 0;
}

port_range inet_sk_get_local_port_range(const sock& sk) {
    // net.ipv4.ip_local_port_range's default; IP_LOCAL_PORT_RANGE narrows it (low | high << 16).
    port_range range{32768, 60999};
    const u32 local = inet_sk(sk).local_port_range;
    if (const u16 lo = static_cast<u16>(local); lo >= range.low && lo <= range.high) range.low = lo;
    if (const u16 hi = static_cast<u16>(local >> 16); hi >= range.low && hi <= range.high) {
        range.high = hi;
    }
    return range;
}

namespace {

// inet_rcv_saddr_equal with wild cards matched.
bool rcv_saddr_equal(const sock_common& a, const sock_common& b) {
    return !a.skc_rcv_saddr || !b.skc_rcv_saddr || a.skc_rcv_saddr == b.skc_rcv_saddr;
}

// inet_bind_conflict. `relax`: an explicit port, where two reusing sockets may share an address; not so
// for a port that the stack chooses. `reuseport_ok`: likewise for SO_REUSEPORT.
bool bind_conflict(const sock& sk, const sock_common& c2, bool relax, bool reuseport_ok) {
    const sock_common& c = sk.__sk_common;
    if (&c == &c2) return false;
    if (c.skc_bound_dev_if && c2.skc_bound_dev_if && c.skc_bound_dev_if != c2.skc_bound_dev_if) {
        return false;
    }
    const bool timewait = c2.skc_kind == SKC_KIND_TIMEWAIT;
    const bool same_owner = timewait || sk.sk_uid == reinterpret_cast<const sock&>(c2).sk_uid;
    if (c.skc_reuse && c2.skc_reuse && (timewait || c2.skc_state.load() != TCP_LISTEN)) {
        return !relax || (!reuseport_ok && c.skc_reuseport && c2.skc_reuseport && same_owner);
    }
    return !reuseport_ok || !c.skc_reuseport || !c2.skc_reuseport || !same_owner;
}

// inet_csk_bind_conflict over the locked bucket of `port`.
bool csk_bind_conflict(const sock& sk, chain& bucket, u16 port, bool relax, bool reuseport_ok) {
    for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
        if (at->skc_num == port && rcv_saddr_equal(sk.__sk_common, *at) &&
            bind_conflict(sk, *at, relax, reuseport_ok)) {
            return true;
        }
    }
    return false;
}

bool bind_try(sock& sk, u16 port, bool relax, bool reuseport_ok) {
    sock_common& c = sk.__sk_common;
    chain bucket(BHASH, port);
    if (csk_bind_conflict(sk, bucket, port, relax, reuseport_ok)) return false;
    c.skc_num = port;
    bucket.mark_bound(port);
    c.skc_hashed &= static_cast<u8>(~SKC_HASHED_CONNECT);
    if (!(c.skc_hashed & SKC_HASHED_BIND)) bucket.insert(c);
    return true;
}

// inet_csk_find_open_port.
bool bind_any(sock& sk) {
    const port_range range = inet_sk_get_local_port_range(sk);
    // With SO_REUSEADDR the lower half is tried first, so that bind(0) followed by a connect elsewhere
    // leaves ports to others.
    int attempt_half = sk.__sk_common.skc_reuse ? 1 : 0;
    if (range.high + 1 - range.low < 4) attempt_half = 0;
    for (;;) {
        u32 low = range.low, high = range.high + 1u;
        if (attempt_half) {
            const u32 half = low + (((high - low) >> 2) << 1);
            (attempt_half == 1 ? high : low) = half;
        }
        u32 remaining = high - low;
        if (remaining > 1) remaining &= ~1u;
        // __inet_hash_connect() favours ports of low's parity. We do the opposite to not pollute
        // connect() users.
        const u32 offset = get_random_u32_below(remaining) | 1;
        for (const u32 start : {offset, offset - 1}) {
            u32 port = low + start;
            for (u32 i = 0; i < remaining; i += 2, port += 2) {
                if (port >= high) port -= remaining;
                if (bind_try(sk, static_cast<u16>(port), false, false)) return true;
            }
        }
        if (attempt_half != 1) return false;
        attempt_half = 2;
    }
}

} // namespace

int inet_bhash_get_port(sock& sk, u16 port) {
    if (port == 0) return bind_any(sk) ? 0 : -EADDRINUSE;
    return bind_try(sk, port, true, true) ? 0 : -EADDRINUSE;
}

namespace {

// A port that connect may share with others: nobody in its bucket came there by bind.
bool connect_may_use(chain& bucket, u16 port) {
    if (SOCKSHIM_LIKELY(!bucket.maybe_bound(port))) return true;
    for (const sock_common* at = bucket.first(); at; at = bucket.next(*at)) {
        if (at->skc_num == port && !(at->skc_hashed & SKC_HASHED_CONNECT)) return false;
    }
    bucket.clear_bound(port);
    return true;
}

bool connect_try(sock& sk, u16 port) {
    sock_common& c = sk.__sk_common;
    inet_timewait_sock* tw = nullptr;
    {
        chain bucket(BHASH, port);
        if (!connect_may_use(bucket, port)) return false;
        c.skc_num = port;
        inet_sk(sk).inet_sport = htons(port);
        if (ehash_insert(c, &tw) != 0) {
            c.skc_num = 0;
            inet_sk(sk).inet_sport = 0;
            return false;
        }
        c.skc_hashed |= SKC_HASHED_CONNECT;
        bucket.insert(c);
        if (tw && (tw->__tw_common.skc_hashed & SKC_HASHED_BIND)) bucket.remove(tw->__tw_common);
    }
    if (tw) free_timewait(*tw);
    return true;
}

} // namespace

// Linux: __inet_hash_connect.
int inet_hash_connect(sock& sk) {
    const sock_common& c = sk.__sk_common;
    if (c.skc_num) return inet_ehash_insert(sk);

    const port_range range = inet_sk_get_local_port_range(sk);
    u32 remaining = range.high + 1u - range.low;
    if (remaining > 1) remaining &= ~1u;

    // RFC 6056, 3.3.4 (algorithm 4; 3.3.3 with a table): a keyed offset for the destination, plus a
    // counter of the network that connections elsewhere seldom share.
    hash_area& area = *arena_hash_area();
    const u64 addrs = (static_cast<u64>(inet_sk(sk).inet_saddr) << 32) | c.skc_daddr;
    const u64 port_offset = keyed_hash(addrs, c.skc_dport, area.secret + 2);
    constexpr u32 perturb_size = sizeof area.port_offset / sizeof area.port_offset[0];
    a32& perturb = area.port_offset[port_offset % perturb_size];
    u32 offset = perturb.load_relaxed() + static_cast<u32>(port_offset >> 32);
    offset = (offset % remaining) & ~1u;

    const auto try_ports = [&](u32 parity, u32 tries) {
        u32 port = range.low + offset + parity;
        for (u32 i = 0; i < tries; i += 2, port += 2) {
            if (port > range.high) port -= remaining;
            if (!connect_try(sk, static_cast<u16>(port))) continue;
            // A little bit of randomness for the next source port that will be chosen.
            const u32 step = max_of(i, get_random_u32_below(8) * 2);
            perturb.fetch_add(step + 2);
            return true;
        }
        return false;
    };

    // Linux tries all ports of low's parity, then the others (inet_csk_get_port() does the opposite), and
    // so looks at 14,000 ports for each connection once the first half is used up. Here a short look at
    // each half comes first, and for a second the half that had nothing comes last.
    a32& full = area.port_parity_full[port_offset % perturb_size];
    const auto now_s = [] { return static_cast<u32>(monotonic_us() / 1000000) + 1; };
    const u32 since = full.load_relaxed();
    const u32 glance = min_of(remaining, 128u);
    if (!since || since != now_s()) {
        if (try_ports(0, glance)) return 0;
        full.store(now_s());
    }
    if (remaining > 1 && try_ports(1, glance)) return 0;
    for (const u32 parity : {0u, 1u}) {
        if (try_ports(parity, remaining)) return 0;
        if (remaining <= 1) break;
    }
    return -EADDRNOTAVAIL;
}

} // namespace sockshim
