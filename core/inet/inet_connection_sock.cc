// Support for INET connection oriented protocols (Linux: net/ipv4/inet_connection_sock.c): ports, the
// accept queue, timers.
#include "core/inet/inet_connection_sock.h"

#include <cerrno>
#include <fcntl.h>
#include <initializer_list>

#include "core/inet/af_inet.h"
#include "core/inet/inet_hashtables.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_fusion.h"
#include "core/trace/trace.h"

namespace sockshim {

int inet_csk_get_port(sock& sk, u16 port) {
    trace_way("inet_csk_get_port");
    return inet_bhash_get_port(sk, port);
}

// --- accept queue ------------------------------------------------------------------------------------

void inet_csk_reqsk_queue_add(sock& listener, sock& child) {
    inet_connection_sock& lst = inet_csk(listener);
    inet_connection_sock& ch = inet_csk(child);
    const u32 ref = sk_index(child) + 1;
    ch.icsk_accept_next = 0;
    ch.icsk_accept_seq = lst.icsk_accept_seq_next++;
    ch.icsk_listener = sk_handle(listener); // truth: from here on a rebuild finds it
    sock* tail = lst.icsk_accept_tail ? slab_at<sock>(lst.icsk_accept_tail - 1) : nullptr;
    if (tail) {
        inet_csk(*tail).icsk_accept_next = ref;
    } else {
        lst.icsk_accept_head = ref;
    }
    lst.icsk_accept_tail = ref;
    listener.sk_ack_backlog.fetch_add(1);
}

void inet_csk_reqsk_queue_rebuild(sock& listener) {
    inet_connection_sock& lst = inet_csk(listener);
    const handle<sock> self = sk_handle(listener);
    lst.icsk_accept_head = lst.icsk_accept_tail = 0;
    u32 count = 0;
    // Insertion by sequence number: what died was the handshake of one connection, so all but a few are
    // found in order, and the search starts from the tail's side.
    for (u32 i = 0; i < cells_committed(REGION_SOCK); ++i) {
        if (!slab_handle_at<sock>(i)) continue;
        sock* child = slab_at<sock>(i);
        if (child->__sk_common.skc_kind != SKC_KIND_SOCK || sk_family(*child) != AF_INET ||
            !inet_test(*child, INET_IS_ICSK) || child == &listener ||
            !(inet_csk(*child).icsk_listener == self)) {
            continue;
        }
        inet_connection_sock& ch = inet_csk(*child);
        const auto after = [&](u32 ref) {
            const sock* other = slab_at<sock>(ref - 1);
            return static_cast<i32>(inet_csk(*other).icsk_accept_seq - ch.icsk_accept_seq) > 0;
        };
        u32 before = 0;
        if (lst.icsk_accept_tail && !after(lst.icsk_accept_tail)) {
            before = lst.icsk_accept_tail;
        } else {
            for (u32 ref = lst.icsk_accept_head; ref && !after(ref);) {
                before = ref;
                ref = inet_csk(*slab_at<sock>(ref - 1)).icsk_accept_next;
            }
        }
        u32& link =
            before ? inet_csk(*slab_at<sock>(before - 1)).icsk_accept_next : lst.icsk_accept_head;
        ch.icsk_accept_next = link;
        link = i + 1;
        if (!ch.icsk_accept_next) lst.icsk_accept_tail = i + 1;
        ++count;
    }
    listener.sk_ack_backlog.store(count);
}

namespace {

// The queue's first child, if what stands there is one.
sock* queue_head(sock& listener) {
    const inet_connection_sock& lst = inet_csk(listener);
    if (!lst.icsk_accept_head) return nullptr;
    const u32 index = lst.icsk_accept_head - 1;
    sock* child = slab_at<sock>(index);
    if (child && slab_handle_at<sock>(index) && child->__sk_common.skc_kind == SKC_KIND_SOCK &&
        inet_csk(*child).icsk_listener == sk_handle(listener)) {
        return child;
    }
    return nullptr;
}

} // namespace

sock* inet_csk_reqsk_queue_remove(sock& listener) {
    inet_connection_sock& lst = inet_csk(listener);
    if (!lst.icsk_accept_head) return nullptr;
    sock* child = queue_head(listener);
    if (!child) {
        inet_csk_reqsk_queue_rebuild(listener);
        child = queue_head(listener);
        if (!child) return nullptr;
    }
    inet_connection_sock& ch = inet_csk(*child);
    lst.icsk_accept_head = ch.icsk_accept_next;
    if (!lst.icsk_accept_head) lst.icsk_accept_tail = 0;
    // Whose it will be, before it stops being the listener's.
    if (inet_accepting) child->sk_socket = inet_accepting;
    ch.icsk_listener = {};
    ch.icsk_accept_next = 0;
    listener.sk_ack_backlog.fetch_sub(1);
    return child;
}

sock* inet_csk_clone_lock(const sock& listener, const request_sock& req) {
    sock* child = sk_alloc(AF_INET, sk_prot(listener));
    if (!child) return nullptr;
    sock_init_data(nullptr, *child);

    sock_common& to = child->__sk_common;
    const sock_common& from = listener.__sk_common;
    to.skc_reuse = from.skc_reuse;
    to.skc_reuseport = from.skc_reuseport;
    to.skc_bound_dev_if = from.skc_bound_dev_if;
    to.skc_daddr = req.__req_common.skc_daddr;
    to.skc_rcv_saddr = req.__req_common.skc_rcv_saddr;
    to.skc_dport = req.__req_common.skc_dport;
    to.skc_num = req.__req_common.skc_num;

    // sk_clone_lock: what the program set on the listener.
    child->sk_type = listener.sk_type;
    child->sk_protocol = listener.sk_protocol;
    child->sk_flags.store(listener.sk_flags.load() & ~(SOCK_DEAD | SOCK_DONE));
    child->sk_userlocks = listener.sk_userlocks & static_cast<u8>(~SOCK_BINDPORT_LOCK);
    child->sk_no_check_tx = listener.sk_no_check_tx;
    child->sk_no_check_rx = listener.sk_no_check_rx;
    child->sk_rcvbuf = listener.sk_rcvbuf;
    child->sk_sndbuf = listener.sk_sndbuf;
    child->sk_rcvlowat = listener.sk_rcvlowat;
    child->sk_priority = listener.sk_priority;
    child->sk_mark = listener.sk_mark;
    child->sk_lingertime_s = listener.sk_lingertime_s;
    child->sk_rcvtimeo_us = listener.sk_rcvtimeo_us;
    child->sk_sndtimeo_us = listener.sk_sndtimeo_us;
    child->sk_uid = listener.sk_uid;
    child->sk_max_pacing_rate = listener.sk_max_pacing_rate;
    child->sk_tsflags = listener.sk_tsflags;
    child->sk_ll_usec = listener.sk_ll_usec;
    child->sk_busy_poll_budget = listener.sk_busy_poll_budget;
    child->sk_txrehash = listener.sk_txrehash;
    child->sk_txtime_flags = listener.sk_txtime_flags;
    child->sk_txtime_clockid = listener.sk_txtime_clockid;

    inet_sock& inet = inet_sk(*child);
    const inet_sock& old = inet_sk(listener);
    inet.inet_saddr = to.skc_rcv_saddr;
    inet.inet_sport = htons(to.skc_num);
    inet.uc_ttl = old.uc_ttl;
    inet.cmsg_flags = old.cmsg_flags;
    inet.inet_flags_ = old.inet_flags_;
    inet.tos = old.tos;
    inet.min_ttl = old.min_ttl;
    inet.mc_ttl = old.mc_ttl;
    inet.pmtudisc = old.pmtudisc;
    inet.uc_index = old.uc_index;
    inet.mc_index = old.mc_index;
    inet.mc_addr = old.mc_addr;
    inet.local_port_range = old.local_port_range;

    inet_connection_sock& icsk = inet_csk(*child);
    const inet_connection_sock& parent = inet_csk(listener);
    icsk.icsk_ca_id = parent.icsk_ca_id;
    icsk.icsk_syn_retries = parent.icsk_syn_retries;
    icsk.icsk_rto_us = parent.icsk_rto_us;
    icsk.icsk_rto_min_us = parent.icsk_rto_min_us;
    icsk.icsk_user_timeout_ms = parent.icsk_user_timeout_ms;
    return child;
}

namespace {

bool accept_ready(void* arg) {
    auto& sk = *static_cast<sock*>(arg);
    return sk.sk_ack_backlog.load() != 0 || sk_state(sk) != TCP_LISTEN || kernel_half_ready(sk);
}

} // namespace

// Linux: inet_csk_accept with inet_csk_wait_for_connect.
sock* inet_csk_accept(sock& sk, int flags, int* err) {
    trace_way("inet_csk_accept");
    i64 deadline = 0;
    bool started = false;
    lock_sock(sk);
    for (;;) {
        // We need to make sure that this socket is listening, and that it has something pending.
        *err = -EINVAL;
        if (sk_state(sk) != TCP_LISTEN) break;
        *err = -EKERNELHALF;
        if (kernel_half_first(sk)) break;
        if (sock* child = inet_csk_reqsk_queue_remove(sk)) {
            kernel_half_passed_over(sk);
            release_sock(sk);
            *err = 0;
            return child;
        }
        if (kernel_half_ready(sk)) break;
        const i64 timeo = sock_rcvtimeo(sk, flags & O_NONBLOCK);
        *err = -EAGAIN;
        if (timeo == 0) break;
        if (!started) deadline = timeo < 0 ? -1 : static_cast<i64>(monotonic_us()) + timeo;
        started = true;
        release_sock(sk);
        *err = wait_on(sk.sk_wq, WAIT_RX, accept_ready, &sk, deadline);
        lock_sock(sk);
        // A connection that came in the last instant is taken.
        if (*err && !accept_ready(&sk)) break;
    }
    release_sock(sk);
    return nullptr;
}

int inet_csk_listen_start(sock& sk) {
    trace_way("inet_csk_listen_start");
    inet_connection_sock& icsk = inet_csk(sk);
    icsk.icsk_accept_head = icsk.icsk_accept_tail = 0;
    icsk.icsk_qlen.store(0);
    sk.sk_ack_backlog.store(0);
    icsk.icsk_ack = {};

    // There is a race window here: we announce ourselves listening, but this transition is still not
    // validated by get_port(). It is OK, because this socket enters the hash table only after validation
    // is complete.
    sk.__sk_common.skc_state.store(TCP_LISTEN);
    int err = sk_prot(sk).get_port(sk, inet_num(sk));
    if (!err) {
        inet_sk(sk).inet_sport = htons(inet_num(sk));
        err = sk_prot(sk).hash(sk);
        if (!err) return 0;
    }
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    return err;
}

// This routine closes sockets which have been at least partially opened, but not yet accepted.
void inet_csk_listen_stop(sock& sk) {
    trace_way("inet_csk_listen_stop");
    const handle<socket> accepting = inet_accepting;
    inet_accepting = {};
    while (sock* child = inet_csk_reqsk_queue_remove(sk)) {
        const handle<sock> h = sk_handle(*child);
        // inet_child_forget: nobody will ever accept it, so its peer is reset.
        for (;;) {
            tcp_unfuse(*child);
            if (!lock_sock_handle(h)) break;
            if (tcp_is_fused(reinterpret_cast<const tcp_sock&>(*child))) {
                release_sock(*child);
                continue;
            }
            sock_set_flag(*child, SOCK_DEAD, true);
            sk_prot(*child).disconnect(*child, O_NONBLOCK);
            inet_csk_destroy_sock(*child);
            release_sock(*child);
            break;
        }
    }
    inet_accepting = accepting;
    sk.sk_ack_backlog.store(0);
}

// --- timers ------------------------------------------------------------------------------------------

namespace {

// sk_timer_us is the earliest of the three.
void rearm(sock& sk) {
    const inet_connection_sock& icsk = inet_csk(sk);
    u64 first = 0;
    for (const u64 t : {icsk.icsk_timeout_us, icsk.icsk_delack_us, icsk.icsk_keepalive_us}) {
        if (t && (!first || t < first)) first = t;
    }
    if (first == sk.sk_timer_us.load_relaxed()) return;
    if (first) {
        sk_reset_timer(sk, first);
    } else {
        sk_stop_timer(sk);
    }
}

} // namespace

void inet_csk_reset_xmit_timer(sock& sk, u8 what, u64 when_us, u64 now_us) {
    inet_connection_sock& icsk = inet_csk(sk);
    icsk.icsk_pending = what;
    icsk.icsk_timeout_us = min_of(when_us, now_us + TCP_RTO_MAX);
    rearm(sk);
}

void inet_csk_clear_xmit_timer(sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    icsk.icsk_pending = ICSK_TIME_NONE;
    icsk.icsk_timeout_us = 0;
    rearm(sk);
}

void inet_csk_reset_delack_timer(sock& sk, u64 when_us) {
    inet_connection_sock& icsk = inet_csk(sk);
    icsk.icsk_ack.pending |= ICSK_ACK_TIMER;
    icsk.icsk_delack_us = when_us;
    rearm(sk);
}

void inet_csk_clear_delack_timer(sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    icsk.icsk_ack.pending = 0;
    icsk.icsk_ack.retry = 0;
    icsk.icsk_delack_us = 0;
    rearm(sk);
}

void inet_csk_reset_keepalive_timer(sock& sk, u64 when_us) {
    inet_csk(sk).icsk_keepalive_us = when_us;
    rearm(sk);
}

} // namespace sockshim
