#include "core/inet/errqueue.h"

#include <cerrno>
#include <cstring>
#include <ctime>

#include "core/base/crash_point.h"
#include "core/inet/dgram_sock.h"
#include "core/inet/ip_sockglue.h"

namespace sockshim {
namespace {

error_entry* entry_at(u8* data, u32 i) {
    return reinterpret_cast<error_entry*>(data) + i % error_queue_entries;
}

// lock is held. Null: arena full.
u8* entries_of(error_queue& q, bool make) {
    u8* data = extent_data(extent::from_raw(q.ext.load()));
    if (data || !make) return data;
    const extent e = extent_alloc(sizeof(error_entry) * error_queue_entries);
    if (!e) return nullptr;
    q.count.store(0);
    q.head = 0;
    q.ext.store(e.raw());
    SOCKSHIM_CRASH_POINT();
    extent_publish(e);
    return extent_data(e);
}

constexpr bool from_icmp(const error_entry& e) { return e.ee.ee_origin == SO_EE_ORIGIN_ICMP; }

} // namespace

bool errqueue_push(error_queue& q, const error_entry& head, const u8* data, u32 len) {
    lock_guard guard(q.lock); // an owner who died left at most an entry that was not counted
    u8* const entries = entries_of(q, true);
    const u32 count = q.count.load();
    if (!entries || count >= error_queue_entries) return false;
    error_entry& e = *entry_at(entries, q.head + count);
    len = min_of<u32>(len, sizeof e.data);
    std::memcpy(&e, &head, offsetof(error_entry, data));
    if (len) std::memcpy(e.data, data, len);
    e.len = len;
    q.count.store(count + 1);
    return true;
}

bool errqueue_pop(error_queue& q, error_entry& out, u32& next_errno) {
    lock_guard guard(q.lock);
    u8* const entries = entries_of(q, false);
    const u32 count = min_of(q.count.load(), error_queue_entries);
    next_errno = 0;
    if (!entries || count == 0) return false;
    std::memcpy(&out, entry_at(entries, q.head), sizeof out);
    out.len = min_of<u32>(out.len, sizeof out.data);
    q.count.store(count - 1); // dying between these two repeats an old error, which is harmless
    q.head = (q.head + 1) % error_queue_entries;
    if (count > 1) {
        const error_entry& next = *entry_at(entries, q.head);
        if (from_icmp(next)) next_errno = next.ee.ee_errno;
    }
    return true;
}

void errqueue_purge(error_queue& q) {
    lock_guard guard(q.lock);
    q.count.store(0);
}

void errqueue_destroy(error_queue& q) {
    lock_guard guard(q.lock);
    q.count.store(0);
    extent_free(extent::from_raw(q.ext.load()));
    SOCKSHIM_CRASH_POINT();
    q.ext.store(0);
}

namespace {

i64 now_ns() {
    timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return i64{ts.tv_sec} * 1000000000 + ts.tv_nsec;
}

void queue_error(sock& sk, const error_entry& e, const u8* payload, u32 len) {
    if (!sk_is_dgram(sk)) return;
    errqueue_push(dgram_sk(sk).errq, e, payload, len);
}

} // namespace

void ip_icmp_error(sock& sk, int err, u16 dport, const sk_buff& icmp) {
    const icmp_header& ih = icmp.icmp;
    error_entry e{};
    e.ee.ee_errno = static_cast<u32>(err);
    e.ee.ee_origin = SO_EE_ORIGIN_ICMP;
    e.ee.ee_type = ih.type;
    e.ee.ee_code = ih.code;
    e.ee.ee_info = err == EMSGSIZE ? ih.info : 0;
    e.offender = icmp.saddr;
    e.addr = ih.orig_daddr;
    e.local = icmp.daddr;
    e.port = dport;
    e.stamp_ns = now_ns();
    queue_error(sk, e, icmp.data, icmp.len);
}

void ip_local_error(sock& sk, int err, be32 daddr, u32 info) {
    if (!inet_test(sk, INET_RECVERR)) return;
    error_entry e{};
    e.ee.ee_errno = static_cast<u32>(err);
    e.ee.ee_origin = SO_EE_ORIGIN_LOCAL;
    e.ee.ee_info = info;
    e.addr = daddr;
    e.port = __builtin_bswap16(inet_dport(sk)); // the connected one, even for a sendto elsewhere
    e.stamp_ns = now_ns();
    queue_error(sk, e, nullptr, 0);
    // sock_queue_err_skb reports, which wakes pollers; sk_err stays as it is.
    wake_up(sk.sk_wq, POLLERR | POLLIN | POLLPRI);
}

i64 ip_recv_error(sock& sk, msghdr_iter& msg) {
    error_entry e;
    u32 next_errno = 0;
    if (!sk_is_dgram(sk) || !errqueue_pop(dgram_sk(sk).errq, e, next_errno)) return -EAGAIN;
    const bool icmp = from_icmp(e);
    if (icmp || next_errno) sk.sk_err.store(next_errno);
    if (!errqueue_empty(dgram_sk(sk).errq)) wake_up(sk.sk_wq, POLLERR | POLLIN | POLLPRI);

    const u32 copied = static_cast<u32>(min_of<u64>(msg.iter.count, e.len));
    msg.flags = copied < e.len ? MSG_TRUNC : 0;
    if (copied && copy_to_iter(e.data, copied, msg.iter) != static_cast<i64>(copied))
        return -EFAULT;
    sock_recv_cmsgs(sk, msg, sk.sk_flags.load_relaxed() & SOCK_TIMESTAMP ? e.stamp_ns : 0, 0);
    if (msg.name) {
        sockaddr_in sin{};
        sin.sin_family = AF_INET;
        sin.sin_addr.s_addr = e.addr;
        sin.sin_port = __builtin_bswap16(e.port);
        std::memcpy(msg.name, &sin, sizeof sin);
        msg.namelen = sizeof sin;
    }
    struct {
        sock_extended_err ee;
        sockaddr_in offender;
    } errhdr{};
    errhdr.ee = e.ee;
    if (icmp) {
        errhdr.offender.sin_family = AF_INET;
        errhdr.offender.sin_addr.s_addr = e.offender;
        if (inet_sk(sk).cmsg_flags) {
            // The ICMP message's own header: internetwork control, and no route's idea of a source.
            ip_cmsg_recv(sk, msg, {e.local, 0, 0, 64, 0xc0, 1});
        }
    }
    put_cmsg(msg, SOL_IP, IP_RECVERR, sizeof errhdr, &errhdr);
    msg.flags |= MSG_ERRQUEUE;
    return copied;
}

} // namespace sockshim
