// The socket calls that make, name and tune sockets (Linux: net/socket.c). Those that move data are in
// msg.cc.
#include <cerrno>
#include <csignal>
#include <fcntl.h>

#include "core/base/raw_syscall.h"
#include "core/net/carrier.h"
#include "core/net/family.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/net/reaper.h"
#include "core/net/security.h"
#include "core/net/timer.h"
#include "core/sync/uaccess.h"
#include "core/trace/trace.h"
#include "dispatch/kernel_half.h"
#include "dispatch/process.h"
#include "dispatch/socketcall.h"

namespace sockshim {

namespace {

constexpr int SOCK_TYPE_MASK = 0xf;

// Gives `sock` a descriptor. On failure the socket is the caller's still.
int sock_map_fd(socket& sock, int flags) {
    const int fd = carrier_open(sock, flags & SOCK_CLOEXEC);
    if (fd < 0) return fd;
    socket_set_holder(sock);
    if (flags & SOCK_NONBLOCK) sock.flags.fetch_or(SOCKF_NONBLOCK);
    fd_install_socket(fd, socket_handle(sock));
    return fd;
}

// What the kernel knows and we do not is its to answer in the default network.
bool kernel_may_know(int err) {
    return err == -ELIBC ||
           (network_hands_over() && (err == -EPROTONOSUPPORT || err == -ESOCKTNOSUPPORT));
}

void want_timer_thread() {
    if (timer_thread_state.load_relaxed() != TIMER_RUNNING) timer_thread_start();
}

} // namespace

int move_addr_to_kernel(const void* uaddr, int ulen, sockaddr_storage& kaddr) {
    if (ulen < 0 || ulen > static_cast<int>(sizeof(sockaddr_storage))) return -EINVAL;
    return copy_from_user(&kaddr, uaddr, static_cast<std::size_t>(ulen));
}

int move_addr_to_user(const sockaddr_storage& kaddr, int klen, void* uaddr, socklen_t* ulen) {
    int len = 0;
    if (const int err = get_user(len, ulen)) return err;
    if (len > klen) len = klen;
    if (len < 0) return -EINVAL;
    if (const int err = copy_to_user(uaddr, &kaddr, static_cast<std::size_t>(len))) return err;
    return put_user(klen, ulen);
}

long sys_socket(int family, int type, int protocol) {
    const int flags = type & ~SOCK_TYPE_MASK;
    if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) return -EINVAL;
    type &= SOCK_TYPE_MASK;
    if (!net_family_known(family) || sides() == SIDES_KERNEL || process_attach() ||
        process_shut_out()) {
        return SYS_NOT_OURS;
    }
    socket* sock = nullptr;
    const int err = __sock_create(family, type, protocol, &sock);
    if (err) return kernel_may_know(err) ? SYS_NOT_OURS : err;
    const int fd = sock_map_fd(*sock, flags);
    if (fd < 0) sock_release(*sock);
    return fd;
}

long sys_socketpair(int family, int type, int protocol, int* usockvec) {
    const int flags = type & ~SOCK_TYPE_MASK;
    if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) return -EINVAL;
    type &= SOCK_TYPE_MASK;
    if (!net_family_known(family) || sides() == SIDES_KERNEL || process_attach() ||
        process_shut_out()) {
        return SYS_NOT_OURS;
    }
    // Linux stores the numbers before it makes the sockets.
    int fds[2] = {-1, -1};
    if (copy_from_user(fds, usockvec, sizeof fds) || copy_to_user(usockvec, fds, sizeof fds)) {
        return -EFAULT;
    }
    fds[0] = fds[1] = -1;
    socket *one = nullptr, *two = nullptr;
    int err = __sock_create(family, type, protocol, &one);
    if (err) return kernel_may_know(err) ? SYS_NOT_OURS : err;
    err = __sock_create(family, type, protocol, &two);
    if (err == 0) err = security_socket_socketpair(*one, *two);
    if (err == 0) err = ops_of(one->ops_id).socketpair(*one, *two);
    if (err == 0) err = min_of(fds[0] = sock_map_fd(*one, flags), 0);
    if (err == 0) err = min_of(fds[1] = sock_map_fd(*two, flags), 0);
    if (err == 0) err = copy_to_user(usockvec, fds, sizeof fds);
    if (err == 0) return 0;
    if (fds[0] >= 0)
        sys_close(fds[0]);
    else
        sock_release(*one);
    if (fds[1] >= 0)
        sys_close(fds[1]);
    else if (two)
        sock_release(*two);
    return err;
}

// Calls again when a dead process may have been in the way. Whoever closes what it held gets the time that he needs,
// unless he has been stopped.
template <class Call> static long past_the_dead(u16 family, u16 port, Call call) {
    constexpr u64 patience_us = 10000000;
    long err = call();
    if (SOCKSHIM_LIKELY(err != -EADDRINUSE)) return err;
    const u64 until = monotonic_us() + patience_us;
    for (bool changed = true; err == -EADDRINUSE && changed && monotonic_us() < until;) {
        changed = reap_in_the_way(family, port);
        err = call();
    }
    return err;
}

long sys_bind(int fd, const sockaddr* umyaddr, int addrlen) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    sockaddr_storage address;
    err = move_addr_to_kernel(umyaddr, addrlen, address);
    auto* const kaddr = reinterpret_cast<const sockaddr*>(&address);
    if (err == 0) err = security_socket_bind(*ref.sock, kaddr, static_cast<u32>(addrlen));
    if (err == 0) {
        const u16 port = ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
        err = past_the_dead(ref.sock->family, port,
                            [&] { return bind_both(*ref.sock, kaddr, static_cast<u32>(addrlen)); });
    }
    if (err == 0) want_timer_thread();
    fput_light(ref);
    return err;
}

long sys_connect(int fd, const sockaddr* uservaddr, int addrlen) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    sockaddr_storage address;
    err = move_addr_to_kernel(uservaddr, addrlen, address);
    auto* const kaddr = reinterpret_cast<const sockaddr*>(&address);
    if (err == 0) err = security_socket_connect(*ref.sock, kaddr, static_cast<u32>(addrlen));
    if (err == 0) {
        want_timer_thread();
        err = connect_handover(*ref.sock, fd, address, addrlen);
        if (err == SYS_OURS) {
            half_before_connect(*ref.sock);
            err = ops_of(ref.sock->ops_id)
                      .connect(*ref.sock, kaddr, static_cast<u32>(addrlen),
                               socket_nonblock(*ref.sock) ? O_NONBLOCK : 0);
            if (err == 0) half_connected(*ref.sock, kaddr, static_cast<u32>(addrlen));
        } else {
            trace_handed_over();
        }
    }
    fput_light(ref);
    return err;
}

long sys_listen(int fd, int backlog) {
    constexpr int somaxconn = 4096;
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    if (static_cast<unsigned>(backlog) > somaxconn) backlog = somaxconn;
    err = security_socket_listen(*ref.sock, backlog);
    if (err == 0) {
        const sock* const sk = socket_sk(*ref.sock);
        const u16 port = sk && sk_family(*sk) == AF_INET ? sk->__sk_common.skc_num : u16{0};
        err =
            past_the_dead(ref.sock->family, port, [&] { return listen_both(*ref.sock, backlog); });
    }
    if (err == 0) want_timer_thread();
    fput_light(ref);
    return err;
}

// A connection of ours. -EKERNELHALF: the kernel's half has one.
static long accept_ours(socket& sock, sockaddr* upeer, socklen_t* upeer_len, int flags) {
    socket* newsock = sock_alloc();
    if (!newsock) return -ENFILE;
    newsock->type = sock.type;
    newsock->ops_id = sock.ops_id;
    newsock->family = sock.family;
    newsock->protocol = sock.protocol;
    const proto_ops& ops = ops_of(sock.ops_id);
    long err = security_socket_accept(sock, *newsock);
    // Linux reserves the number first: EMFILE must not cost a connection. Where there is none to lose,
    // a non-blocking accept need not pay for a descriptor.
    const int oflags = socket_nonblock(sock) ? O_NONBLOCK : 0;
    const bool idle = oflags && err == 0 && !(ops.poll(sock) & POLLIN);
    int newfd = -1;
    auto map = [&] { return newfd = carrier_open(*newsock, flags & SOCK_CLOEXEC); };
    if (err == 0 && !idle && map() < 0) err = newfd;
    if (err == 0) err = ops.accept(sock, *newsock, oflags);
    if (err == 0 && idle && map() < 0) err = newfd;
    if (err == 0 && upeer) {
        sockaddr_storage address;
        const int len = ops_of(newsock->ops_id).getname(*newsock, &address, 2);
        err = len < 0 ? -ECONNABORTED : move_addr_to_user(address, len, upeer, upeer_len);
    }
    if (err == 0) {
        socket_set_holder(*newsock);
        if (flags & SOCK_NONBLOCK) newsock->flags.fetch_or(SOCKF_NONBLOCK);
        slab_publish(socket_handle(*newsock));
        fd_install_socket(newfd, socket_handle(*newsock));
        err = newfd;
    } else {
        if (newfd >= 0) raw_syscall(SYS_close, newfd);
        sock_release(*newsock);
    }
    return err;
}

long sys_accept4(int fd, sockaddr* upeer, socklen_t* upeer_len, int flags) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) err = -EINVAL;
    while (err == 0) {
        err = accept_ours(*ref.sock, upeer, upeer_len, flags);
        if (err != -EKERNELHALF) break;
        err = half_accept(*ref.sock, upeer, upeer_len, flags);
        if (err != -EAGAIN) break;
        err = 0; // somebody else was quicker
    }
    fput_light(ref);
    return err;
}

static long getname(int fd, sockaddr* usockaddr, socklen_t* ulen, int peer) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    err = peer ? security_socket_getpeername(*ref.sock) : security_socket_getsockname(*ref.sock);
    if (err == 0) {
        sockaddr_storage address;
        const int len = ops_of(ref.sock->ops_id).getname(*ref.sock, &address, peer);
        err = len < 0 ? len : move_addr_to_user(address, len, usockaddr, ulen);
    }
    fput_light(ref);
    return err;
}

long sys_getsockname(int fd, sockaddr* usockaddr, socklen_t* ulen) {
    return getname(fd, usockaddr, ulen, 0);
}

long sys_getpeername(int fd, sockaddr* usockaddr, socklen_t* ulen) {
    return getname(fd, usockaddr, ulen, 1);
}

long sys_shutdown(int fd, int how) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    err = security_socket_shutdown(*ref.sock, how);
    if (err == 0) half_shutdown(*ref.sock, how);
    if (err == 0) err = ops_of(ref.sock->ops_id).shutdown(*ref.sock, how);
    fput_light(ref);
    return err;
}

long sys_setsockopt(int fd, int level, int optname, const void* optval, int optlen) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    if (optlen < 0) err = -EINVAL;
    if (err == 0) err = security_socket_setsockopt(*ref.sock, level, optname);
    if (err == 0) {
        const u32 len = static_cast<u32>(optlen);
        err = level == SOL_SOCKET
                  ? sock_setsockopt(*ref.sock, level, optname, optval, len)
                  : ops_of(ref.sock->ops_id).setsockopt(*ref.sock, level, optname, optval, len);
        // About an interface that is not lo: the kernel's business, with the whole socket, unless it has a half of it.
        if (err == 0) half_setsockopt(*ref.sock, level, optname, optval, len);
        if (err == -EHANDOVER) {
            err = fd_of_half(ref.index) >= 0 ? 0 : socket_handover(*ref.sock);
            if (err == 0) err = SYS_NOT_OURS;
        }
    }
    fput_light(ref);
    return err;
}

long sys_getsockopt(int fd, int level, int optname, void* optval, socklen_t* optlen) {
    socket_ref ref;
    long err = sockfd_lookup_light(fd, ref);
    if (err) return err;
    err = security_socket_getsockopt(*ref.sock, level, optname);
    if (err == 0) {
        err = level == SOL_SOCKET
                  ? sock_getsockopt(*ref.sock, level, optname, optval, optlen)
                  : ops_of(ref.sock->ops_id).getsockopt(*ref.sock, level, optname, optval, optlen);
    }
    fput_light(ref);
    return err;
}

} // namespace sockshim
