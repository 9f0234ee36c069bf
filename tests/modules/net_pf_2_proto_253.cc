// A sample protocol of PF_INET: socket(AF_INET, SOCK_DGRAM, 253) (253 is RFC 3692's "for experimentation").
// It has inet_dgram_ops above it, as any datagram protocol of the family, and below it nothing: what is sent
// comes back reversed, from the address that it was sent to.
#include "reverse.h"

#include <netinet/in.h>
#include <poll.h>

namespace sockshim {
namespace {

constexpr u16 protocol = 253;

struct mirror_sock {
    inet_sock inet; // first
    message_box box;
};
static_assert(sizeof(mirror_sock) <= sock_cell_bytes);

mirror_sock& mirror_sk(sock& sk) { return reinterpret_cast<mirror_sock&>(sk); }

void mirror_close(sock& sk, i64) { sk_free(sk); }

int mirror_connect(sock& sk, const sockaddr* addr, u32 len) {
    sockaddr_in in;
    if (len < sizeof in) return -EINVAL;
    __builtin_memcpy(&in, addr, sizeof in);
    if (in.sin_family != AF_INET) return -EAFNOSUPPORT;
    lock_sock(sk);
    inet_daddr(sk) = in.sin_addr.s_addr;
    inet_dport(sk) = in.sin_port;
    release_sock(sk);
    return 0;
}

int mirror_disconnect(sock& sk, int) {
    lock_sock(sk);
    inet_daddr(sk) = 0;
    inet_dport(sk) = 0;
    release_sock(sk);
    return 0;
}

int mirror_get_port(sock& sk, u16 port) {
    inet_num(sk) = port ? port : 1;
    return 0;
}

i64 mirror_sendmsg(sock& sk, msghdr_iter& msg) {
    if (!msg.name && !inet_daddr(sk)) return -EDESTADDRREQ;
    u8 data[sizeof(message_box::bytes)];
    if (msg.iter.count > sizeof data - sizeof(u32)) return -EMSGSIZE;
    const i64 n = copy_from_iter(data, msg.iter.count, msg.iter);
    if (n < 0) return n;
    reverse_bytes(data, static_cast<u32>(n));
    lock_sock(sk);
    i64 err = -EAGAIN;
    if (mirror_sk(sk).box.room() >= static_cast<u32>(n)) {
        mirror_sk(sk).box.put(data, static_cast<u32>(n));
        sk_data_ready(sk);
        err = n;
    }
    release_sock(sk);
    return err;
}

bool readable(void* p) { return mirror_sk(*static_cast<sock*>(p)).box.used != 0; }

i64 mirror_recvmsg(sock& sk, msghdr_iter& msg) {
    const int flags = msg.flags;
    msg.flags = 0;
    for (;;) {
        lock_sock(sk);
        message_box& box = mirror_sk(sk).box;
        if (box.used) {
            const u32 len = box.first_len();
            const i64 got = copy_to_iter(box.first(), min_of<u64>(len, msg.iter.count), msg.iter);
            if (got >= 0 && !(flags & MSG_PEEK)) box.drop_first();
            if (got >= 0 && got < len) msg.flags |= MSG_TRUNC;
            release_sock(sk);
            return got;
        }
        release_sock(sk);
        if (flags & MSG_DONTWAIT) return -EAGAIN;
        if (const int err = sockshim_wait_on(&sk, 0, readable, &sk, sk.sk_rcvtimeo_us)) return err;
    }
}

u32 mirror_poll(sock& sk) {
    return POLLOUT | POLLWRNORM | (readable(&sk) ? POLLIN | POLLRDNORM : 0);
}

int mirror_setsockopt(sock&, int, int, const void*, u32) { return -ENOPROTOOPT; }
int mirror_getsockopt(sock&, int, int, void*, u32*) { return -ENOPROTOOPT; }

constexpr proto mirror_prot = {
    .name = "MIRROR",
    .owner = nullptr,
    .close = mirror_close,
    .connect = mirror_connect,
    .disconnect = mirror_disconnect,
    .accept = nullptr,
    .ioctl = nullptr,
    .init = nullptr,
    .destroy = nullptr,
    .shutdown = nullptr,
    .setsockopt = mirror_setsockopt,
    .getsockopt = mirror_getsockopt,
    .keepalive = nullptr,
    .sendmsg = mirror_sendmsg,
    .recvmsg = mirror_recvmsg,
    .bind = nullptr,
    .backlog_rcv = nullptr,
    .release_cb = nullptr,
    .timer = nullptr,
    .hash = nullptr,
    .unhash = nullptr,
    .get_port = mirror_get_port,
    .poll = mirror_poll,
    .obj_size = sizeof(mirror_sock),
    .sysctl_wmem = {},
    .sysctl_rmem = {},
};

constinit inet_protosw mirror_sw = {
    .type = SOCK_DGRAM,
    .protocol = protocol,
    .prot = &mirror_prot,
    .ops = nullptr, // inet_dgram_ops
    .flags = INET_PROTOSW_REUSE,
};

} // namespace
} // namespace sockshim

extern "C" __attribute__((visibility("default"))) int sockshim_module_init() {
    using namespace sockshim;
    mirror_sw.ops = sockshim_inet_ops(1);
    if (const int err = sockshim_register_proto("mirror", &mirror_prot)) return err;
    return inet_register_protosw(mirror_sw);
}
