// The socket calls: arguments into words, and through the one door sockshim_socketcall.
#include <sys/socket.h>

#include "preload/wrap.h"

#include <linux/net.h> // after ours: it has macros named like Linux's constants in sock.h

using namespace sockshim;

namespace {

template <class... Args> [[gnu::always_inline]] inline long socketcall(int call, Args... args) {
    unsigned long words[] = {word(args)...};
    return sockshim_socketcall(call, words);
}

inline void after_libc_recvmsg(msghdr* msg) {
    if (SOCKSHIM_UNLIKELY(msg->msg_controllen && msg->msg_control) && !in_vfork_child()) {
        scm_received(msg);
    }
}

// Whether a family is ours is the registry's business, so these ask for every socket.
template <class Ours, class Libc> inline int ask_family(Ours ours, Libc libc) {
    return ask(ours, libc);
}

} // namespace

SOCKSHIM_WRAP(int, socket, (int family, int type, int protocol)) {
    return ask_family([=] { return socketcall(SYS_SOCKET, family, type, protocol); },
                      [=] { return made(real::socket(family, type, protocol)); });
}

SOCKSHIM_WRAP(int, socketpair, (int family, int type, int protocol, int* fds)) {
    return ask_family([=] { return socketcall(SYS_SOCKETPAIR, family, type, protocol, fds); },
                      [=] {
                          const int r = real::socketpair(family, type, protocol, fds);
                          if (r == 0) {
                              made(fds[0]);
                              made(fds[1]);
                          }
                          return r;
                      });
}

SOCKSHIM_WRAP(int, bind, (int fd, const sockaddr* addr, socklen_t len)) {
    return route(
        fd, [=] { return socketcall(SYS_BIND, fd, addr, len); },
        [=] { return real::bind(fd, addr, len); });
}

SOCKSHIM_WRAP(int, connect, (int fd, const sockaddr* addr, socklen_t len)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_CONNECT, fd, addr, len); },
        [=] { return real::connect(fd, addr, len); });
}
SOCKSHIM_WRAP_ALIAS(__connect, connect)

SOCKSHIM_WRAP(int, listen, (int fd, int backlog)) {
    return route(
        fd, [=] { return socketcall(SYS_LISTEN, fd, backlog); },
        [=] { return real::listen(fd, backlog); });
}

SOCKSHIM_WRAP(int, accept, (int fd, sockaddr* addr, socklen_t* len)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_ACCEPT, fd, addr, len); },
        [=] { return made(real::accept(fd, addr, len)); });
}

SOCKSHIM_WRAP(int, accept4, (int fd, sockaddr* addr, socklen_t* len, int flags)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_ACCEPT4, fd, addr, len, flags); },
        [=] { return made(real::accept4(fd, addr, len, flags)); });
}

SOCKSHIM_WRAP(int, shutdown, (int fd, int how)) {
    return route(
        fd, [=] { return socketcall(SYS_SHUTDOWN, fd, how); },
        [=] { return real::shutdown(fd, how); });
}

SOCKSHIM_WRAP(int, getsockname, (int fd, sockaddr* addr, socklen_t* len)) {
    return route(
        fd, [=] { return socketcall(SYS_GETSOCKNAME, fd, addr, len); },
        [=] { return real::getsockname(fd, addr, len); });
}

SOCKSHIM_WRAP(int, getpeername, (int fd, sockaddr* addr, socklen_t* len)) {
    return route(
        fd, [=] { return socketcall(SYS_GETPEERNAME, fd, addr, len); },
        [=] { return real::getpeername(fd, addr, len); });
}

SOCKSHIM_WRAP(int, setsockopt, (int fd, int level, int name, const void* val, socklen_t len)) {
    return route(
        fd, [=] { return socketcall(SYS_SETSOCKOPT, fd, level, name, val, len); },
        [=] { return real::setsockopt(fd, level, name, val, len); });
}

SOCKSHIM_WRAP(int, getsockopt, (int fd, int level, int name, void* val, socklen_t* len)) {
    return route(
        fd, [=] { return socketcall(SYS_GETSOCKOPT, fd, level, name, val, len); },
        [=] { return real::getsockopt(fd, level, name, val, len); });
}

SOCKSHIM_WRAP(ssize_t, send, (int fd, const void* buf, size_t n, int flags)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_SEND, fd, buf, n, flags); },
        [=] { return real::send(fd, buf, n, flags); });
}
SOCKSHIM_WRAP_ALIAS(__send, send)

SOCKSHIM_WRAP(ssize_t, sendto,
              (int fd, const void* buf, size_t n, int flags, const sockaddr* to, socklen_t len)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_SENDTO, fd, buf, n, flags, to, len); },
        [=] { return real::sendto(fd, buf, n, flags, to, len); });
}

SOCKSHIM_WRAP(ssize_t, sendmsg, (int fd, const msghdr* msg, int flags)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_SENDMSG, fd, msg, flags); },
        [=] {
            before_libc_sendmsg(fd, msg);
            return real::sendmsg(fd, msg, flags);
        });
}

SOCKSHIM_WRAP(int, sendmmsg, (int fd, mmsghdr* vec, unsigned n, int flags)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_SENDMMSG, fd, vec, n, flags); },
        [=] {
            before_libc_sendmmsg(fd, vec, n);
            return real::sendmmsg(fd, vec, n, flags);
        });
}

SOCKSHIM_WRAP(ssize_t, recv, (int fd, void* buf, size_t n, int flags)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_RECV, fd, buf, n, flags); },
        [=] { return real::recv(fd, buf, n, flags); });
}

SOCKSHIM_WRAP(ssize_t, recvfrom,
              (int fd, void* buf, size_t n, int flags, sockaddr* from, socklen_t* len)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_RECVFROM, fd, buf, n, flags, from, len); },
        [=] { return real::recvfrom(fd, buf, n, flags, from, len); });
}

SOCKSHIM_WRAP(ssize_t, recvmsg, (int fd, msghdr* msg, int flags)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_RECVMSG, fd, msg, flags); },
        [=] {
            const ssize_t r = real::recvmsg(fd, msg, flags);
            if (r >= 0) after_libc_recvmsg(msg);
            return r;
        });
}

SOCKSHIM_WRAP(int, recvmmsg, (int fd, mmsghdr* vec, unsigned n, int flags, timespec* timeout)) {
    return route_cancel(
        fd, [=] { return socketcall(SYS_RECVMMSG, fd, vec, n, flags, timeout); },
        [=] {
            const int r = real::recvmmsg(fd, vec, n, flags, timeout);
            for (int i = 0; i < r; ++i) after_libc_recvmsg(&vec[i].msg_hdr);
            return r;
        });
}

// Fortified: libc's own aborts with its message when the buffer is too small.
SOCKSHIM_WRAP(ssize_t, __recv_chk, (int fd, void* buf, size_t n, size_t room, int flags)) {
    if (n > room) return real::__recv_chk(fd, buf, n, room, flags);
    return wrap_recv(fd, buf, n, flags);
}

SOCKSHIM_WRAP(ssize_t, __recvfrom_chk,
              (int fd, void* buf, size_t n, size_t room, int flags, sockaddr* from,
               socklen_t* len)) {
    if (n > room) return real::__recvfrom_chk(fd, buf, n, room, flags, from, len);
    return wrap_recvfrom(fd, buf, n, flags, from, len);
}
