// A sample protocol family: whatever a socket sends comes to its peer reversed. A connected socket without
// a peer of its own is its own peer (a "reverse echo"); socketpair makes two that are each other's,
// and since both ends stand in shared memory, two processes may hold them. Streams and datagrams.
//
// Addresses are those of AF_QIPCRTR (family, node, port), which Python knows how to write as (node, port);
// every address is somebody who echoes.
#include "reverse.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>

#ifndef REVERSE_FAMILY
#define REVERSE_FAMILY 45
#endif

namespace sockshim {
namespace {

constexpr int family = REVERSE_FAMILY;

struct sockaddr_rev {
    u16 family;
    u32 node;
    u32 port;
};

struct rev_sock {
    sock sk; // first
    handle<sock> peer;
    u32 node; // the peer's address, as given
    u32 port;
    u32 own_port;
    u32 reserved;
    message_box box; // what this sock will read
};
static_assert(sizeof(rev_sock) <= sock_cell_bytes);

rev_sock& rev_sk(sock& sk) { return reinterpret_cast<rev_sock&>(sk); }
sock* sk_of(socket& s) { return sock_get(s.sk); }

void rev_close(sock& sk, i64) {
    lock_sock(sk);
    const handle<sock> peer = rev_sk(sk).peer;
    sk.sk_flags.fetch_or(SOCK_DEAD);
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    const bool alone = !peer || peer == sk_handle(sk);
    release_sock(sk);
    if (!alone) {
        if (sock* other = lock_sock_handle(peer)) {
            other->sk_shutdown.store(SHUTDOWN_MASK); // it reads what is left, then the end
            sk_state_change(*other);
            release_sock(*other);
        }
    }
    sk_free(sk);
}

extern const proto rev_prot;
extern const proto_ops rev_ops;

int rev_release(socket& s) {
    sock* sk = sk_of(s);
    s.sk = {};
    if (sk) rev_close(*sk, 0);
    return 0;
}

// "Is that an address?" Bind keeps it, connect makes the sock its own peer.
int take_address(const sockaddr* addr, u32 len, sockaddr_rev& out) {
    if (len < sizeof out) return -EINVAL;
    __builtin_memcpy(&out, addr, sizeof out);
    return out.family == family ? 0 : -EAFNOSUPPORT;
}

int rev_bind(socket& s, const sockaddr* addr, u32 len) {
    sockaddr_rev a;
    if (const int err = take_address(addr, len, a)) return err;
    sock* sk = sk_of(s);
    lock_sock(*sk);
    rev_sk(*sk).own_port = a.port;
    release_sock(*sk);
    return 0;
}

int rev_connect(socket& s, const sockaddr* addr, u32 len, int) {
    sockaddr_rev a;
    if (const int err = take_address(addr, len, a)) return err;
    sock* sk = sk_of(s);
    lock_sock(*sk);
    int err = -EISCONN;
    if (s.state.load() == SS_UNCONNECTED) {
        err = 0;
        rev_sock& rs = rev_sk(*sk);
        rs.peer = sk_handle(*sk);
        rs.node = a.node;
        rs.port = a.port;
        sk->__sk_common.skc_state.store(TCP_ESTABLISHED);
        s.state.store(SS_CONNECTED);
    }
    release_sock(*sk);
    return err;
}

int rev_socketpair(socket& a, socket& b) {
    sock* x = sk_of(a);
    sock* y = sk_of(b);
    lock_sock_pair(*x, *y);
    rev_sk(*x).peer = sk_handle(*y);
    rev_sk(*y).peer = sk_handle(*x);
    for (sock* sk : {x, y}) {
        sk->__sk_common.skc_state.store(TCP_ESTABLISHED);
        release_sock(*sk);
    }
    a.state.store(SS_CONNECTED);
    b.state.store(SS_CONNECTED);
    return 0;
}

int rev_getname(socket& s, sockaddr_storage* out, int peer) {
    rev_sock& rs = rev_sk(*sk_of(s));
    if (peer && !rs.peer) return -ENOTCONN;
    const sockaddr_rev a{static_cast<u16>(family), peer ? rs.node : 0,
                         peer ? rs.port : rs.own_port};
    __builtin_memset(static_cast<void*>(out), 0, sizeof a);
    __builtin_memcpy(static_cast<void*>(out), &a, sizeof a);
    return sizeof a;
}

u32 rev_poll(socket& s) {
    sock* sk = sk_of(s);
    const u32 shutdown = sk->sk_shutdown.load();
    u32 mask = POLLOUT | POLLWRNORM;
    if (__atomic_load_n(&rev_sk(*sk).box.used, __ATOMIC_ACQUIRE) || (shutdown & RCV_SHUTDOWN)) {
        mask |= POLLIN | POLLRDNORM;
    }
    if (shutdown == SHUTDOWN_MASK) mask |= POLLHUP;
    return mask;
}

int rev_shutdown(socket& s, int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return -EINVAL;
    sock* sk = sk_of(s);
    lock_sock(*sk);
    const handle<sock> peer = rev_sk(*sk).peer;
    sk->sk_shutdown.store(sk->sk_shutdown.load() | static_cast<u8>(how + 1));
    if (peer == sk_handle(*sk) && how != SHUT_RD) sk->sk_shutdown.store(SHUTDOWN_MASK);
    sk_state_change(*sk);
    release_sock(*sk);
    if (how == SHUT_RD || !peer) return peer ? 0 : -ENOTCONN;
    if (sock* other = lock_sock_handle(peer)) {
        other->sk_shutdown.store(other->sk_shutdown.load() | RCV_SHUTDOWN);
        sk_state_change(*other);
        release_sock(*other);
    }
    return 0;
}

i64 rev_sendmsg(socket& s, msghdr_iter& msg) {
    sock* sk = sk_of(s);
    handle<sock> to = rev_sk(*sk).peer;
    if (!to && msg.name && s.type == SOCK_DGRAM) to = sk_handle(*sk); // an address: it echoes
    if (!to) return -ENOTCONN;
    if (sk->sk_shutdown.load() & SEND_SHUTDOWN) return -EPIPE;
    const bool stream = s.type == SOCK_STREAM;
    u8 data[sizeof(message_box::bytes)];
    const u64 want = msg.iter.count;
    if (!stream && want > sizeof data - sizeof(u32)) return -EMSGSIZE;
    i64 sent = 0;
    while (msg.iter.count || (!stream && sent == 0)) {
        sock* peer = lock_sock_handle(to);
        if (!peer) return sent ? sent : -EPIPE;
        message_box& box = rev_sk(*peer).box;
        const u32 room = box.room();
        const u32 n = static_cast<u32>(min_of<u64>(room, msg.iter.count));
        if (room && (stream || n == want)) {
            const i64 got = copy_from_iter(data, n, msg.iter);
            if (got > 0 || want == 0) {
                reverse_bytes(data, static_cast<u32>(got));
                box.put(data, static_cast<u32>(got));
                sk_data_ready(*peer);
                sent += got;
            }
            release_sock(*peer);
            if (got < 0) return sent ? sent : got;
            if (!stream) return got;
            continue;
        }
        release_sock(*peer);
        if (sent || (msg.flags & MSG_DONTWAIT)) break;
        const auto has_room = [](void* p) { return rev_sk(*static_cast<sock*>(p)).box.room() > 0; };
        // The reader wakes its own sock's writers: wait there.
        if (const int err = sockshim_wait_on(peer, 1, has_room, peer, -1)) return err;
    }
    return sent ? sent : -EAGAIN;
}

bool readable(void* p) {
    const auto& sk = *static_cast<sock*>(p);
    return rev_sk(*static_cast<sock*>(p)).box.used || (sk.sk_shutdown.load() & RCV_SHUTDOWN);
}

i64 rev_recvmsg(socket& s, msghdr_iter& msg) {
    sock* sk = sk_of(s);
    const bool stream = s.type == SOCK_STREAM;
    const int flags = msg.flags;
    msg.flags = 0;
    if (stream && !rev_sk(*sk).peer) return -ENOTCONN;
    for (;;) {
        lock_sock(*sk);
        message_box& box = rev_sk(*sk).box;
        if (box.used) {
            const u32 len = box.first_len();
            const i64 got = copy_to_iter(box.first(), min_of<u64>(len, msg.iter.count), msg.iter);
            if (got >= 0 && !(flags & MSG_PEEK)) {
                if (stream) {
                    box.consume(static_cast<u32>(got));
                } else {
                    box.drop_first();
                }
                sk_write_space(*sk);
            }
            if (got >= 0 && !stream && got < len) msg.flags |= MSG_TRUNC;
            release_sock(*sk);
            if (msg.name) {
                const sockaddr_rev a{static_cast<u16>(family), rev_sk(*sk).node, rev_sk(*sk).port};
                __builtin_memcpy(static_cast<void*>(msg.name), &a, sizeof a);
                msg.namelen = stream ? 0 : sizeof a;
            }
            return got;
        }
        const bool over = sk->sk_shutdown.load() & RCV_SHUTDOWN;
        release_sock(*sk);
        if (over) return 0;
        if (flags & MSG_DONTWAIT) return -EAGAIN;
        const i64 timeo = sk->sk_rcvtimeo_us;
        if (const int err = sockshim_wait_on(sk, 0, readable, sk, timeo)) return err;
    }
}

constinit module this_module = {.name = "net-pf-reverse", .refcnt = {}, .going = {}};

constexpr proto rev_prot = {
    .name = "REVERSE",
    .owner = &this_module,
    .close = rev_close,
    .connect = nullptr,
    .disconnect = nullptr,
    .accept = nullptr,
    .ioctl = nullptr,
    .init = nullptr,
    .destroy = nullptr,
    .shutdown = nullptr,
    .setsockopt = nullptr,
    .getsockopt = nullptr,
    .keepalive = nullptr,
    .sendmsg = nullptr,
    .recvmsg = nullptr,
    .bind = nullptr,
    .backlog_rcv = nullptr,
    .release_cb = nullptr,
    .timer = nullptr,
    .hash = nullptr,
    .unhash = nullptr,
    .get_port = nullptr,
    .poll = nullptr,
    .obj_size = sizeof(rev_sock),
    .sysctl_wmem = {},
    .sysctl_rmem = {},
};

constexpr proto_ops rev_ops = {
    .family = family,
    .owner = &this_module,
    .release = rev_release,
    .bind = rev_bind,
    .connect = rev_connect,
    .socketpair = rev_socketpair,
    .accept = sock_no_accept,
    .getname = rev_getname,
    .poll = rev_poll,
    .ioctl = sock_no_ioctl,
    .listen = sock_no_listen,
    .shutdown = rev_shutdown,
    .setsockopt = sock_no_setsockopt,
    .getsockopt = sock_no_getsockopt,
    .sendmsg = rev_sendmsg,
    .recvmsg = rev_recvmsg,
    .mmap = sock_no_mmap,
    .splice_read = sock_no_splice_read,
    .set_peek_off = sock_no_set_peek_off,
    .peek_len = sock_no_peek_len,
};

int rev_create(socket& s, int protocol, int) {
    if (protocol) return -EPROTONOSUPPORT;
    if (s.type != SOCK_STREAM && s.type != SOCK_DGRAM) return -ESOCKTNOSUPPORT;
    sock* sk = sk_alloc(family, rev_prot);
    if (!sk) return -ENOBUFS;
    sock_init_data(&s, *sk);
    s.ops_id = ops_id_of(rev_ops);
    return 0;
}

constinit const net_proto_family rev_family = {
    .family = family,
    .create = rev_create,
    .owner = &this_module,
};

} // namespace
} // namespace sockshim

#define STRING(x) #x
#define NAME(f) "reverse-" STRING(f)

extern "C" __attribute__((visibility("default"))) int sockshim_module_init() {
    using namespace sockshim;
    if (const int err = sockshim_register_proto(NAME(REVERSE_FAMILY), &rev_prot)) return err;
    if (const int err = sockshim_register_ops(NAME(REVERSE_FAMILY), &rev_ops)) return err;
    return sock_register(rev_family);
}
