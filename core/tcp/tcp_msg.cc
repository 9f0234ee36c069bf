// The program's bytes: tcp_sendmsg and tcp_recvmsg.
//
// Both first try the fused path. On the packet path the copy happens under sk_lock: whoever else has a
// packet for this sock leaves it on the backlog meanwhile. Waiting happens with no lock held.
#include <cerrno>

#include "core/net/socket.h"
#include "core/net/spin_wait.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_fusion.h"
#include "core/trace/trace.h"

namespace sockshim {

// --- room to send ---------------------------------------------------------------------------------------

u32 tcp_sndbuf(const sock& sk) {
    return static_cast<u32>(clamp_to<i64>(sk.sk_sndbuf, 1, tcp_ring_max));
}

static u32 tcp_wmem_queued(const tcp_sock& tp) {
    return __atomic_load_n(&tp.write_seq, __ATOMIC_RELAXED) -
           __atomic_load_n(&tp.snd_una, __ATOMIC_RELAXED);
}

// TCP_NOTSENT_LOWAT: what has not left yet counts as no room beyond that many bytes.
static bool tcp_stream_memory_free(const sock& sk, bool wake) {
    const tcp_sock& tp = tcp_sk(sk);
    const u32 lowat = tp.notsent_lowat ? tp.notsent_lowat : ~0u;
    const u32 notsent = tp.write_seq - tp.snd_nxt;
    return (static_cast<u64>(notsent) << (wake ? 1 : 0)) < lowat;
}

// POLLOUT: a third of the buffer free (Linux: free space at least half of what is queued).
bool tcp_stream_is_writeable(const sock& sk) {
    const u32 queued = tcp_wmem_queued(tcp_sk(sk)), all = tcp_sndbuf(sk);
    return queued <= all && all - queued >= queued >> 1 && tcp_stream_memory_free(sk, true);
}

static bool tcp_has_room(const sock& sk) {
    return tcp_wmem_queued(tcp_sk(sk)) < tcp_sndbuf(sk) && tcp_stream_memory_free(sk, false);
}

// --- sending -------------------------------------------------------------------------------------------------

struct send_wait {
    const sock& sk;
    const signal_sample& signals;
    u64 copied;
};
static bool send_ready(void* arg) {
    const send_wait& w = *static_cast<const send_wait*>(arg);
    const sock& sk = w.sk;
    return w.signals.cut_short(w.copied) || sk.sk_err.load_relaxed() ||
           (sk.sk_shutdown.load() & SEND_SHUTDOWN) || tcp_has_room(sk) ||
           sk_state(sk) == TCP_CLOSE || tcp_sk(sk).fused.load();
}

static bool connect_ready(void* arg) {
    const sock& sk = *static_cast<const sock*>(arg);
    return sk.sk_err.load_relaxed() || !(sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV));
}

// Deadline of a call, fixed when it first has to wait.
struct call_deadline {
    i64 timeout_us; // of the sock; < 0: none
    i64 at_us;
    bool started;
    i64 get(u64 now_us) {
        if (!started) {
            at_us = timeout_us < 0 ? -1 : static_cast<i64>(now_us) + timeout_us;
            started = true;
        }
        return at_us;
    }
};

// Lets the sock go while the call waits. Locked before and after; afterwards the connection may be fused.
static int sk_stream_wait(sock& sk, wait_side side, bool (*ready)(void*), void* arg,
                          call_deadline& d) {
    const i64 deadline = d.get(this_tcp_env().now_us);
    release_sock(sk);
    const int err = wait_on(sk.sk_wq, side, ready, arg, deadline);
    lock_sock(sk);
    return err;
}

// What a send that cannot go on answers: the pending error, else EPIPE (dispatch/ raises SIGPIPE).
static i64 sk_stream_error(sock& sk) {
    const int err = sock_error(sk);
    return err ? err : -EPIPE;
}

static void tcp_mark_push(tcp_sock& tp) { tp.nonagle |= TCP_NAGLE_PUSH; }

// Urgent data: everything up to here, the last byte above all (RFC 9293, 3.8.5).
static void tcp_mark_urg(tcp_sock& tp) {
    tp.snd_up = tcp_tx_end(tp);
    tp.urg_mode = 1;
}

static void tcp_push(tcp_env& env, sock& sk, int flags) {
    tcp_sock& tp = tcp_sk(sk);
    if (!tcp_send_head(tp)) return;
    if (flags & MSG_OOB) tcp_mark_urg(tp);
    u8 nonagle = tp.nonagle;
    if (flags & MSG_MORE) nonagle |= TCP_NAGLE_CORK;
    __tcp_push_pending_frames(env, sk, tcp_current_mss(sk), nonagle);
    tp.nonagle &= static_cast<u8>(~TCP_NAGLE_PUSH);
}

// Puts up to n bytes behind what is queued. Bytes taken, -ENOBUFS, -EFAULT.
static i64 tcp_queue_bytes(sock& sk, u32 n, iov_iter& from) {
    tcp_sock& tp = tcp_sk(sk);
    stream_ring* ring = slab_get(tp.tx_ring);
    if (!ring) {
        tp.tx_ring = ring_create(tp.tx_off, tcp_ring_max);
        ring = slab_get(tp.tx_ring);
        if (!ring) return -ENOBUFS;
        // What is in flight was sent from a ring that is gone (the fused path's): all of it is acked.
    }
    ring->limit = tcp_ring_max;
    const u64 used = tp.tx_off - ring->head.load();
    const u32 size = ring_grow(*ring, n, tp.tx_off);
    if (used >= size) return -ENOBUFS;
    const u32 fits = static_cast<u32>(min_of<u64>(n, size - used));
    const iov_iter before = from;
    const i64 wrote = ring_write_iter(*ring, tp.tx_off, fits, from);
    if (wrote != static_cast<i64>(fits)) {
        from = before; // as Linux, a piece that faults anywhere is not sent at all
        return -EFAULT;
    }
    ring->tail.store(tp.tx_off + static_cast<u64>(wrote));
    tp.tx_off += static_cast<u64>(wrote);
    tp.write_seq += static_cast<u32>(wrote);
    return wrote;
}

static i64 tcp_sendmsg_locked(sock& sk, msghdr_iter& msg, bool& fused_again) {
    tcp_sock& tp = tcp_sk(sk);
    const int flags = msg.flags;
    call_deadline deadline = {sock_sndtimeo(sk, flags & MSG_DONTWAIT), 0, false};
    const bool noblock = deadline.timeout_us == 0;
    const signal_sample signals;
    i64 copied = 0;

    // Data may be sent as soon as the handshake is over, or after the peer's FIN (RFC 9293, 3.10.2).
    while (!(sk_statef(sk) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT))) {
        if (const int err = sock_error(sk)) return err;
        if (!(sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV))) return -EPIPE;
        if (noblock) return -EAGAIN;
        const int err = sk_stream_wait(sk, WAIT_TX, connect_ready, &sk, deadline);
        if (err && (sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV))) return err;
    }

    for (;;) {
        if (sk.sk_err.load_relaxed() || (sk.sk_shutdown.load() & SEND_SHUTDOWN) ||
            sk_state(sk) == TCP_CLOSE) {
            if (copied) break;
            return sk_stream_error(sk);
        }
        if (!msg.iter.count) break;
        tcp_env& env = this_tcp_env();
        const u32 mss = tcp_current_mss(sk);
        i64 wrote = 0;
        if (tcp_has_room(sk)) {
            u32 room = tcp_sndbuf(sk) - tcp_wmem_queued(tp);
            // In steps of some segments, so that the receiver works while the rest is being copied.
            room = min_of(room, max_of(mss * 4, 65536u));
            wrote =
                tcp_queue_bytes(sk, static_cast<u32>(min_of<u64>(msg.iter.count, room)), msg.iter);
        }
        if (wrote == -EFAULT) {
            if (copied) break;
            return -EFAULT;
        }
        if (wrote > 0) {
            copied += wrote;
            if (!msg.iter.count) break;
            // Far ahead of the wire: what is queued goes, whatever Nagle says (Linux: forced_push).
            if (!(flags & MSG_OOB) && tcp_tx_end(tp) - tp.snd_nxt >= mss) {
                if (tp.write_seq - tp.snd_nxt > tp.max_window >> 1) tcp_mark_push(tp);
                __tcp_push_pending_frames(env, sk, mss, tp.nonagle | TCP_NAGLE_CORK);
                tp.nonagle &= static_cast<u8>(~TCP_NAGLE_PUSH);
            }
            continue;
        }
        if (copied || tcp_send_head(tp)) tcp_push(env, sk, flags & ~MSG_MORE);
        // What was pushed may be through already: others may have to work it off first.
        if (noblock) {
            if (copied) return copied;
            return wrote == -ENOBUFS && !tcp_send_head(tp) && !tcp_packets_out(tp) ? -ENOBUFS
                                                                                   : -EAGAIN;
        }
        if (wrote == -ENOBUFS && !tcp_packets_out(tp) && !tcp_send_head(tp))
            return copied ? copied : -ENOBUFS; // the arena is full and nothing of ours will free it
        send_wait w = {sk, signals, static_cast<u64>(copied)};
        if (const int err = sk_stream_wait(sk, WAIT_TX, send_ready, &w, deadline))
            return copied ? copied : err;
        if (signals.cut_short(w.copied)) return copied;
        if (tp.fused.load()) {
            fused_again = true;
            return copied;
        }
    }
    if (copied) tcp_push(this_tcp_env(), sk, flags);
    return copied;
}

i64 tcp_sendmsg(sock& sk, msghdr_iter& msg) {
    trace_way("tcp_sendmsg");
    tcp_sock& tp = tcp_sk(sk);
    if (msg.flags & MSG_FASTOPEN)
        return -EOPNOTSUPP; // net.ipv4.tcp_fastopen without the client's bit
    if (SOCKSHIM_UNLIKELY(msg.controllen)) {
        if (const int err = sock_cmsg_send(sk, msg)) return err;
    }
    if (SOCKSHIM_UNLIKELY(tp.fuse_want)) tcp_fuse_pending(sk);
    const bool urgent = msg.flags & MSG_OOB;
    i64 sent = 0;
    for (;;) {
        if (SOCKSHIM_LIKELY(tcp_is_fused(tp)) && !urgent) {
            const i64 n = tcp_fused_sendmsg(sk, msg);
            if (SOCKSHIM_LIKELY(n != TCP_NOT_FUSED)) return sent ? sent + max_of<i64>(n, 0) : n;
        }
        if (urgent)
            tcp_lock_unfused(sk);
        else
            lock_sock(sk);
        if (!tp.fused.load()) {
            bool fused_again = false;
            const i64 n = tcp_sendmsg_locked(sk, msg, fused_again);
            release_sock(sk);
            if (!fused_again || urgent) return sent ? sent + max_of<i64>(n, 0) : n;
            sent += n;
        } else {
            release_sock(sk);
        }
    }
}

// --- receiving ------------------------------------------------------------------------------------------------

// Has enough been read to tell the peer? (RFC 9293, 3.8.6.2.2: a window update for a window that has
// doubled; an ACK that was waiting for the program.)
void tcp_cleanup_rbuf(tcp_env& env, sock& sk, u32 copied) {
    const tcp_sock& tp = tcp_sk(sk);
    const inet_connection_sock& icsk = inet_csk(sk);
    bool time_to_ack = false;
    if (icsk.icsk_ack.pending & ICSK_ACK_SCHED) {
        const bool full_segment = tp.rcv_nxt - tp.rcv_wup > icsk.icsk_ack.rcv_mss;
        const bool emptied = copied && (icsk.icsk_ack.pending & ICSK_ACK_PUSHED) &&
                             !icsk.icsk_ack.pingpong && !tcp_inq_bytes(tp);
        time_to_ack = full_segment || emptied;
    }
    if (copied && !time_to_ack && !(sk.sk_shutdown.load() & RCV_SHUTDOWN)) {
        const u32 now = tcp_receive_window(tp);
        if (2ull * now <= tcp_full_space(sk)) {
            const u32 window = __tcp_select_window(sk);
            if (window && window >= 2ull * now) time_to_ack = true;
        }
    }
    if (time_to_ack) tcp_send_ack(env, sk);
}

static i64 tcp_recv_urg(sock& sk, msghdr_iter& msg) {
    tcp_sock& tp = tcp_sk(sk);
    const int flags = msg.flags;
    // No urgent data, or it is in the stream, or it has been read.
    if (sock_flag(sk, SOCK_URGINLINE) || !tp.urg_data || tp.urg_data == TCP_URG_READ)
        return -EINVAL;
    if (sk_state(sk) == TCP_CLOSE && !sock_flag(sk, SOCK_DONE)) return -ENOTCONN;
    if (tp.urg_data & TCP_URG_VALID) {
        const u8 byte = static_cast<u8>(tp.urg_data);
        if (!msg.iter.count) {
            if (!(flags & MSG_PEEK)) tp.urg_data = TCP_URG_READ;
            return 0;
        }
        if (!(flags & MSG_TRUNC) && copy_to_iter(&byte, 1, msg.iter) != 1) return -EFAULT;
        if (!(flags & MSG_PEEK)) tp.urg_data = TCP_URG_READ;
        return 1;
    }
    if (sk_state(sk) == TCP_CLOSE || (sk.sk_shutdown.load() & RCV_SHUTDOWN)) return 0;
    return -EAGAIN; // announced, not here yet: never waited for
}

struct recv_wait {
    const sock* sk;
    u32 seq; // what has been taken so far
    const signal_sample& signals;
    u64 copied;
    u32 want;
};

static bool recv_ready(void* arg) {
    const recv_wait& w = *static_cast<const recv_wait*>(arg);
    const tcp_sock& tp = tcp_sk(*w.sk);
    const u32 avail = __atomic_load_n(&tp.rcv_nxt, __ATOMIC_ACQUIRE) - w.seq;
    // A window too small for what is still wanted would never be filled: take what is there.
    return avail >= w.want || w.signals.cut_short(w.copied) ||
           (avail && tcp_receive_window(tp) <= tp.inet_conn.icsk_ack.rcv_mss) ||
           w.sk->sk_err.load_relaxed() || (w.sk->sk_shutdown.load() & RCV_SHUTDOWN) ||
           sk_state(*w.sk) == TCP_CLOSE || (tp.urg_data && tp.urg_seq == w.seq) || tp.fused.load();
}

// Takes what is there at `seq` off the ring, minding the urgent mark. Bytes taken; 0: the mark stands
// here, or nothing is there.
static i64 tcp_copy_out(sock& sk, msghdr_iter& msg, u32& seq, u64 len) {
    tcp_sock& tp = tcp_sk(sk);
    u32 used = static_cast<u32>(min_of<u64>(tcp_rx_end(tp) - seq, len));
    if (tp.urg_data) {
        const u32 ahead = tp.urg_seq - seq;
        if (ahead < used) {
            if (ahead) {
                used = ahead; // up to the mark in one go, and no further
            } else if (!sock_flag(sk, SOCK_URGINLINE)) {
                seq++; // the urgent byte is not part of the stream
                used = static_cast<u32>(min_of<u64>(tcp_rx_end(tp) - seq, len));
                if (!used) return 0;
            }
        }
    }
    if (msg.flags & MSG_TRUNC) { // thrown away
        seq += used;
        return used;
    }
    stream_ring* ring = slab_get(tp.rx_ring);
    if (!ring || !used) return 0;
    const i64 got = ring_read_iter(*ring, tcp_rx_offset(tp, seq), used, msg.iter);
    if (got != static_cast<i64>(used)) return -EFAULT; // nothing is taken
    seq += used;
    return got;
}

// The program has read up to `seq`.
static void tcp_eat(sock& sk, u32 seq) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 n = seq - tp.copied_seq;
    if (!n) return;
    const u64 to = tp.rx_off + n;
    if (stream_ring* ring = slab_get(tp.rx_ring)) ring->head.store(to); // first: tcp_repair's truth
    tp.rx_off = to;
    __atomic_store_n(&tp.copied_seq, seq, __ATOMIC_RELEASE);
    if (tp.urg_data && after(seq, tp.urg_seq)) tp.urg_data = 0;
}

static i64 tcp_recvmsg_locked(sock& sk, msghdr_iter& msg, bool& left_fused) {
    tcp_sock& tp = tcp_sk(sk);
    const int flags = msg.flags;
    if (sk_state(sk) == TCP_LISTEN) return -ENOTCONN;
    if (flags & MSG_OOB) return tcp_recv_urg(sk, msg);
    const bool peek = flags & MSG_PEEK;
    call_deadline deadline = {sock_rcvtimeo(sk, flags & MSG_DONTWAIT), 0, false};
    const bool noblock = deadline.timeout_us == 0;
    const u64 len = msg.iter.count;
    const u32 target =
        sock_rcvlowat(sk, flags & MSG_WAITALL, static_cast<u32>(min_of<u64>(len, 0x7fffffff)));
    u32 seq = tp.copied_seq; // a peek goes on without eating
    if (peek && sk.sk_peek_off > 0)
        seq += min_of(static_cast<u32>(sk.sk_peek_off), tcp_inq_bytes(tp));
    u64 copied = 0;
    i64 result = 0;

    const signal_sample signals;
    while (copied < len || !len) {
        // The urgent mark: stop before it if anything was read, so that SIOCATMARK can be asked.
        if (tp.urg_data && tp.urg_seq == seq && copied) break;
        if (before(seq, tcp_rx_end(tp))) {
            if (!len) break; // nothing was asked for: that it can be had is the answer
            const u32 was = seq;
            const i64 got = tcp_copy_out(sk, msg, seq, len - copied);
            if (!peek && seq != was) tcp_eat(sk, seq);
            if (got < 0) {
                if (!copied) result = got;
                break;
            }
            copied += static_cast<u64>(got);
            if (got || seq != was) {
                if (!peek) tcp_rcv_space_adjust(this_tcp_env(), sk);
                continue;
            }
            result = copied ? 0 : -EFAULT; // a ring without its bytes
            break;
        }
        if (copied >= target) break;
        const bool rcv_shut = sk.sk_shutdown.load() & RCV_SHUTDOWN;
        if (copied) {
            if (sk.sk_err.load_relaxed() || sk_state(sk) == TCP_CLOSE || rcv_shut || noblock) break;
        } else {
            if (sock_flag(sk, SOCK_DONE)) break;
            if (sk.sk_err.load_relaxed()) {
                result = sock_error(sk);
                break;
            }
            if (rcv_shut) break;
            if (sk_state(sk) == TCP_CLOSE) {
                // Never connected, or somebody disconnected it under us.
                result = -ENOTCONN;
                break;
            }
            if (noblock) {
                result = -EAGAIN;
                break;
            }
        }
        if (!peek) tcp_cleanup_rbuf(this_tcp_env(), sk, static_cast<u32>(copied));
        recv_wait w = {&sk, seq, signals, copied, max_of(target - static_cast<u32>(copied), 1u)};
        const u32 before_wait = tp.copied_seq;
        const int err = sk_stream_wait(sk, WAIT_RX, recv_ready, &w, deadline);
        if (tp.copied_seq != before_wait) { // another thread has read meanwhile
            if (peek && copied) break;
            seq = tp.copied_seq;
        }
        if (tp.fused.load()) {
            left_fused = true;
            break;
        }
        if (signals.cut_short(copied)) break;
        if (err && !before(seq, tcp_rx_end(tp))) {
            if (!copied) result = err;
            break;
        }
    }
    if (copied && !peek) tcp_cleanup_rbuf(this_tcp_env(), sk, static_cast<u32>(copied));
    if (copied && sk.sk_peek_off >= 0) {
        if (peek)
            sk.sk_peek_off += static_cast<i32>(copied);
        else
            sk.sk_peek_off =
                static_cast<i32>(max_of<i64>(sk.sk_peek_off - static_cast<i64>(copied), 0));
    }
    if (result < 0) return result;
    if (tp.recvmsg_inq) {
        const int inq = static_cast<int>(tcp_inq_bytes(tp));
        put_cmsg(msg, SOL_TCP, TCP_CM_INQ, sizeof(inq), &inq);
    }
    return static_cast<i64>(copied);
}

static i64 tcp_recvmsg_flags(sock& sk, msghdr_iter& msg) {
    tcp_sock& tp = tcp_sk(sk);
    const bool urgent = msg.flags & MSG_OOB;
    for (;;) {
        // Urgent data unfuses when it is sent: asking for it while fused finds none.
        if (SOCKSHIM_LIKELY(tcp_is_fused(tp)) && !urgent) {
            const i64 n = tcp_fused_recvmsg(sk, msg);
            if (SOCKSHIM_LIKELY(n != TCP_NOT_FUSED)) {
                if (SOCKSHIM_UNLIKELY(tp.recvmsg_inq) && n >= 0) {
                    const int inq = static_cast<int>(tcp_fused_inq(sk));
                    put_cmsg(msg, SOL_TCP, TCP_CM_INQ, sizeof(inq), &inq);
                }
                return n;
            }
        }
        lock_sock(sk);
        if (tp.fused.load() && !urgent) {
            release_sock(sk);
            continue;
        }
        bool left_fused = false;
        const i64 n = tcp_recvmsg_locked(sk, msg, left_fused);
        release_sock(sk);
        if (n == 0 && left_fused) continue;
        return n;
    }
}

i64 tcp_recvmsg(sock& sk, msghdr_iter& msg) {
    trace_way("tcp_recvmsg");
    if (msg.flags & MSG_ERRQUEUE) return -EAGAIN; // TCP puts nothing there
    if (SOCKSHIM_UNLIKELY(tcp_sk(sk).fuse_want)) tcp_fuse_pending(sk);
    msg.namelen = 0;
    const bool urgent = msg.flags & MSG_OOB;
    const i64 n = tcp_recvmsg_flags(sk, msg);
    msg.flags = (msg.flags & MSG_CTRUNC) | (urgent && n > 0 ? MSG_OOB : 0);
    return n;
}

} // namespace sockshim
