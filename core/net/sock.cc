// struct sock: allocation, defaults, waking (Linux: net/core/sock.c). Options: sockopt.cc; lock and
// backlog: sock_backlog.cc.
#include "core/net/sock.h"

#include <cerrno>
#include <cstring>
#include <netinet/tcp.h>
#include <unistd.h>

#include "core/base/raw_syscall.h"
#include "core/inet/inet_connection_sock.h"
#include "core/net/proto.h"

namespace sockshim {

u32 sk_index(const sock& sk) { return cell_index_of(REGION_SOCK, &sk); }

handle<sock> sk_handle(const sock& sk) { return slab_handle_at<sock>(sk_index(sk)); }

const proto& sk_prot(const sock& sk) { return prot_of(sk.__sk_common.skc_prot_id); }

void sock_set_flag(sock& sk, sock_flags f, bool on) {
    if (on) {
        sk.sk_flags.fetch_or(f);
    } else {
        sk.sk_flags.fetch_and(~static_cast<u32>(f));
    }
}

namespace {

// Zeroes [from, to) of the object.
void clear_range(sock& sk, std::size_t from, std::size_t to) {
    __builtin_memset(reinterpret_cast<u8*>(&sk) + from, 0, to - from);
}

} // namespace

// Linux: sk_prot_alloc. Locks and wake words are never cleared: a thread with a handle to the cell's
// former sock may be about to lock or to sleep on them, and finds out afterwards that it is too late.
sock* sk_alloc(int family, const proto& prot) {
    const handle<sock> h = slab_alloc<sock>();
    sock* found = slab_get(h);
    if (!found) return nullptr;
    sock& sk = *found;
    static_assert(offsetof(sock, rx_lock) == offsetof(sock, sk_lock) + 3 * sizeof(a32));
    const std::size_t size = clamp_to<std::size_t>(prot.obj_size, sizeof(sock), sock_cell_bytes);
    sk_backlog_purge(sk);
    clear_range(sk, 0, offsetof(sock, sk_lock));
    clear_range(sk, offsetof(sock, rx_lock) + sizeof(robust_lock), offsetof(sock, sk_wq));
    sk.sk_wq.flags.store(0);
    sk.sk_wq.head.store(0);
    sk.sk_wq.spin_score.store(0);
    clear_range(sk, offsetof(sock, sk_wq) + sizeof(wait_queue), size);
    sk.__sk_common.skc_family = static_cast<u16>(family);
    sk.__sk_common.skc_prot_id = prot_id_of(prot);
    sk.__sk_common.skc_kind = SKC_KIND_SOCK;
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    // SO_COOKIE: unique while the network lives, short of a cell's four thousand million lives.
    sk.__sk_common.skc_cookie = h.gen;
    return &sk;
}

void sk_publish(sock& sk) { slab_publish(sk_handle(sk)); }

// Linux: __sk_free. Threads still asleep on the sock find their handle stale.
void sk_free(sock& sk) {
    const handle<sock> h = sk_handle(sk);
    sk_backlog_purge(sk);
    sk.sk_timer_us.store(0);
    slab_free(h);
    wake_up(sk.sk_wq, POLLIN | POLLOUT | POLLERR | POLLHUP);
}

// Linux: sock_init_data_uid.
void sock_init_data(socket* sock, struct sock& sk) {
    sk.sk_rcvbuf = SK_RMEM_DEFAULT;
    sk.sk_sndbuf = SK_WMEM_DEFAULT;
    sk.sk_rcvlowat = 1;
    sk.sk_peek_off = -1;
    sk.sk_rcvtimeo_us = MAX_SCHEDULE_TIMEOUT;
    sk.sk_sndtimeo_us = MAX_SCHEDULE_TIMEOUT;
    sk.sk_stamp_ns = -1;
    sk.sk_max_pacing_rate = ~u64{0};
    sk.sk_incoming_cpu = -1;
    sk.sk_bind_phc = -1;
    sk.sk_busy_poll_budget = SK_BUSY_POLL_BUDGET;
    sk.sk_txrehash = 1;
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    if (sock) {
        sk.sk_type = static_cast<u16>(sock->type);
        sk.sk_socket = socket_handle(*sock);
        sock->sk = sk_handle(sk);
        sk.sk_uid = -1; // asked for by SO_REUSEPORT, the only thing that needs it
    } else {
        sk.sk_socket = {};
    }
}

void sock_graft(sock& sk, socket& parent) {
    sk.sk_socket = socket_handle(parent);
    parent.sk = sk_handle(sk);
    // sk_uid stays the listener's (sk_clone): Linux takes the accepting process's, which is another one
    // only where a listener was handed down, and costs a system call here.
}

bool sk_is_abandoned(const sock& sk) {
    if (sock_flag(sk, SOCK_DEAD)) return false;
    if (sk.sk_socket) return !slab_get(sk.sk_socket);
    // A connection that no listener has in its queue: whoever carried out its handshake died before the
    // last step, or it fell out of the queue of a listener that is gone.
    return sk_family(sk) == AF_INET && inet_test(sk, INET_IS_ICSK) &&
           !slab_get(inet_csk(sk).icsk_listener);
}

// What is on the backlog stays: a packet is whole or it is not there. The protocol knows its own state;
// one that cannot tell ends a stream and lets datagram sockets go on.
void sk_repair(sock& sk) {
    const proto& prot = sk_prot(sk);
    const bool listening =
        sk_family(sk) == AF_INET && inet_test(sk, INET_IS_ICSK) && sk_state(sk) == TCP_LISTEN;
    // A listener is everybody's: what died in it was one handshake.
    if (listening) inet_csk_reqsk_queue_rebuild(sk);
    if (prot.repair) return prot.repair(sk);
    if (listening || sk.sk_type != SOCK_STREAM) return;
    sk.sk_shutdown.store(SHUTDOWN_MASK);
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    sk_error_report(sk, ECONNRESET);
}

int sock_error(sock& sk) {
    if (SOCKSHIM_LIKELY(sk.sk_err.load_relaxed() == 0)) return 0;
    return -static_cast<int>(sk.sk_err.exchange(0));
}

namespace {
constexpr u32 poll_in = EPOLLIN | EPOLLPRI | EPOLLRDNORM | EPOLLRDBAND;
constexpr u32 poll_out = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
} // namespace

void sk_error_report(sock& sk, int err) {
    sk.sk_err.store(static_cast<u32>(err));
    wake_up(sk.sk_wq, poll_in | poll_out | EPOLLERR);
}

void sk_data_ready(sock& sk) {
    wake_up(sk.sk_wq, EPOLLIN | EPOLLRDNORM | EPOLLRDBAND, sk_state(sk) != TCP_LISTEN);
}

void sk_write_space(sock& sk) { wake_up(sk.sk_wq, poll_out); }

void sk_state_change(sock& sk) {
    wake_up(sk.sk_wq, poll_in | poll_out | EPOLLERR | EPOLLHUP | EPOLLRDHUP);
}

} // namespace sockshim
