#include "core/inet/dgram_sock.h"

#include <cerrno>
#include <cstring>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <linux/sockios.h>

#include "core/inet/igmp.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/udp.h"
#include "core/inet/udp_hash.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/trace/trace.h"

namespace sockshim {

namespace {

bool something_to_say(void* arg) {
    sock& sk = *static_cast<sock*>(arg);
    return kernel_half_ready(sk) || dgram_readable(dgram_sk(sk).rx) || sk.sk_err.load_relaxed() ||
           (sk.sk_shutdown.load() & RCV_SHUTDOWN);
}

} // namespace

int dgram_wait(sock& sk, i64 deadline_us) {
    if (const int err = sock_error(sk)) return err;
    if (dgram_readable(dgram_sk(sk).rx)) return 0;
    if (sk.sk_shutdown.load() & RCV_SHUTDOWN) return -ESHUTDOWN;
    const handle<sock> self = sk_handle(sk);
    const int err = wait_on(sk.sk_wq, WAIT_RX, something_to_say, &sk, deadline_us);
    return slab_get(self) == &sk ? err : -EBADF; // closed under the waiter
}

int dgram_recv(sock& sk, msghdr_iter& msg, int flags, dgram_taken& out) {
    dgram_queue& q = dgram_sk(sk).rx;
    const bool peek = flags & MSG_PEEK;
    const i32 peek_off = peek ? sk.sk_peek_off : -1;
    const u64 want = msg.iter.count;
    i64 deadline = -2; // not computed yet
    int err;
    for (;;) {
        kernel_half_error(sk);
        if (SOCKSHIM_UNLIKELY(sk.sk_err.load_relaxed()) && (err = sock_error(sk))) return err;
        if (kernel_half_first(sk)) return -EKERNELHALF;
        err = dgram_dequeue(q, msg.iter, peek, peek_off, out);
        if (err != -EAGAIN) break;
        if (kernel_half_ready(sk)) return -EKERNELHALF;
        const i64 timeo = sock_rcvtimeo(sk, flags & MSG_DONTWAIT);
        if (timeo == 0) return -EAGAIN;
        if (deadline == -2) deadline = timeo < 0 ? -1 : static_cast<i64>(monotonic_us()) + timeo;
        if ((err = dgram_wait(sk, deadline))) return err;
    }
    kernel_half_passed_over(sk);
    if (err) {
        if (!peek) sk.sk_drops.fetch_add(1);
        return err;
    }
    // udp_recvmsg's own rule: with a peek offset it compares the room with the whole datagram.
    if (want <= out.len - out.offset && want < out.len) msg.flags |= MSG_TRUNC;
    if (SOCKSHIM_UNLIKELY(sk.sk_peek_off >= 0)) {
        if (peek) {
            sk.sk_peek_off += static_cast<i32>(out.copied);
        } else {
            sk.sk_peek_off = max_of(sk.sk_peek_off - static_cast<i32>(out.len), 0);
        }
    }
    if (msg.out_control) sock_recv_cmsgs(sk, msg, out.stamp_ns, out.drops);
    if (out.stamp_ns) sk.sk_stamp_ns = out.stamp_ns;
    return 0;
}

void dgram_ip_cmsgs(sock& sk, msghdr_iter& msg, const dgram_taken& taken) {
    if (SOCKSHIM_LIKELY(!inet_sk(sk).cmsg_flags)) return;
    const dgram_meta& m = taken.meta;
    ip_cmsg_recv(
        sk, msg,
        {m.daddr, fib_compute_spec_dst(m.saddr, m.daddr), m.dport, m.ttl, m.tos, m.ifindex});
}

u32 dgram_poll(sock& sk) {
    u32 mask = kernel_half_attention(sk) ? kernel_half_poll(sk) : 0;
    const u8 shutdown = sk.sk_shutdown.load();
    if (sk.sk_err.load() || !errqueue_empty(dgram_sk(sk).errq)) mask |= POLLERR;
    if (shutdown & RCV_SHUTDOWN) mask |= POLLRDHUP | POLLIN | POLLRDNORM;
    if (shutdown == SHUTDOWN_MASK) mask |= POLLHUP;
    if (dgram_readable(dgram_sk(sk).rx)) mask |= POLLIN | POLLRDNORM;
    // Nothing of ours waits in a send buffer: a datagram is in its receiver's queue, or lost.
    return mask | POLLOUT | POLLWRNORM | POLLWRBAND;
}

int dgram_ioctl(sock& sk, unsigned cmd, unsigned long arg) {
    trace_way("dgram_ioctl");
    int value;
    switch (cmd) {
    case SIOCOUTQ: value = 0; break;
    case SIOCINQ: value = static_cast<int>(max_of<i64>(dgram_first_len(dgram_sk(sk).rx), 0)); break;
    default: return -ENOIOCTLCMD_SHIM;
    }
    return put_user(value, reinterpret_cast<void*>(arg));
}

void dgram_shutdown(sock& sk, int) {
    trace_way("dgram_shutdown");
    wake_up(sk.sk_wq, POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP | POLLOUT | POLLWRNORM);
}

bool dgram_destroy(sock& sk) {
    dgram_sock& d = dgram_sk(sk);
    if (sk.__sk_common.skc_prot_id == PROT_UDP) {
        udp_sock& up = udp_sk(sk);
        extent_free(extent::from_raw(up.cork_ext));
        up.cork_ext = 0;
    }
    errqueue_destroy(d.errq);
    ip_mc_drop_socket(sk);
    return dgram_queue_close(d.rx);
}

void dgram_close(sock& sk, i64) {
    trace_way("dgram_close");
    dgram_unhash(sk);
    sock_set_flag(sk, SOCK_DEAD, true);
    if (dgram_destroy(sk)) {
        sk_stop_timer(sk);
        sk_free(sk);
        return;
    }
    sk_reset_timer(sk, monotonic_us() + 10000);
}

void dgram_timer(sock& sk, u64 now_us) {
    if (!sock_flag(sk, SOCK_DEAD)) return;
    if (dgram_destroy(sk)) {
        sk_stop_timer(sk);
        sk_free(sk);
    } else {
        sk_reset_timer(sk, now_us + 100000);
    }
}

void dgram_sock_extents(const sock& sk, void (*visit)(extent, void*), void* arg) {
    const dgram_sock& d = dgram_sk(sk);
    dgram_queue_extents(d.rx, visit, arg);
    if (const u64 e = d.errq.ext.load()) visit(extent::from_raw(e), arg);
    if (sk.__sk_common.skc_prot_id == PROT_UDP) {
        const u64 cork = reinterpret_cast<const udp_sock&>(sk).cork_ext;
        if (cork) visit(extent::from_raw(cork), arg);
    }
    ip_mc_extents(sk, visit, arg);
}

} // namespace sockshim
