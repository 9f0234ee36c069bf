// Functions of libc that make, bind and connect sockets inside libc, where no wrapper is passed: reserved ports and
// the client's side of rsh.
#include <arpa/inet.h>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <netdb.h>
#include <unistd.h>

#include "preload/wrap.h"

using namespace sockshim;

extern "C" {
int wrap_socket(int family, int type, int protocol) asm("socket");
int wrap_bind(int fd, const sockaddr* addr, socklen_t len) asm("bind");
int wrap_connect(int fd, const sockaddr* addr, socklen_t len) asm("connect");
int wrap_listen(int fd, int backlog) asm("listen");
int wrap_accept(int fd, sockaddr* addr, socklen_t* len) asm("accept");
int wrap_poll(pollfd* fds, nfds_t n, int timeout) asm("poll");
ssize_t wrap_read(int fd, void* buf, size_t n) asm("read");
ssize_t wrap_write(int fd, const void* buf, size_t n) asm("write");
int wrap_fcntl(int fd, int cmd, unsigned long arg) asm("fcntl");
int wrap_close(int fd) asm("close");
int wrap_rcmd_af(char** host, unsigned short port, const char* local_user, const char* user,
                 const char* command, int* errors, sa_family_t family) asm("rcmd_af");
}

namespace {

constexpr int highest_reserved = IPPORT_RESERVED - 1, lowest_reserved = IPPORT_RESERVED / 2;

// The port of an address of either family.
in_port_t& port_of(sockaddr_storage& a) {
    return a.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(a).sin6_port
                                   : reinterpret_cast<sockaddr_in&>(a).sin_port;
}
socklen_t length_of(const sockaddr_storage& a) {
    return a.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

// From `port` downwards and around; `port` says which it became.
int bind_reserved(int fd, sockaddr_storage& address, int& port) {
    port = clamp_to(port, lowest_reserved, highest_reserved);
    const int first = port;
    do {
        port_of(address) = htons(static_cast<u16>(port));
        const int r = wrap_bind(fd, reinterpret_cast<sockaddr*>(&address), length_of(address));
        if (r == 0 || errno != EADDRINUSE) return r;
        port = port == lowest_reserved ? highest_reserved : port - 1;
    } while (port != first);
    return -1;
}

// Libc's own complaints go to standard error as well.
int complain(const char* what) {
    const int saved_errno = errno;
    dprintf(2, "rcmd: %s: %s\n", what, strerror(saved_errno));
    errno = saved_errno;
    return -1;
}

// A connection from a reserved port; refused ones are tried again for half a minute.
int connect_reserved(const addrinfo* list, int& port) {
    for (unsigned pause_s = 1;; pause_s *= 2) {
        bool refused = false;
        for (const addrinfo* a = list; a;) {
            const int fd = rresvport_af(&port, static_cast<sa_family_t>(a->ai_family));
            if (fd < 0) return -1;
            wrap_fcntl(fd, F_SETOWN, static_cast<unsigned long>(getpid()));
            if (wrap_connect(fd, a->ai_addr, a->ai_addrlen) == 0) return fd;
            const int saved_errno = errno;
            wrap_close(fd);
            errno = saved_errno;
            if (errno == EADDRINUSE) { // a former connection between the two ports lingers
                --port;
                continue;
            }
            refused |= errno == ECONNREFUSED;
            a = a->ai_next;
        }
        if (!refused || pause_s > 16) return -1;
        sleep(pause_s);
    }
}

// The second connection, which the server makes to us, from a reserved port too.
int accept_errors(int fd, int& port, sa_family_t family) {
    const int listener = rresvport_af(&port, family);
    if (listener < 0) return -1;
    char number[16];
    const int n = snprintf(number, sizeof number, "%d", port) + 1;
    int errors = -1;
    if (wrap_listen(listener, 1) == 0 && wrap_write(fd, number, static_cast<size_t>(n)) == n) {
        pollfd either[2] = {{fd, POLLIN, 0}, {listener, POLLIN, 0}};
        if (wrap_poll(either, 2, -1) > 0 && (either[1].revents & POLLIN)) {
            sockaddr_storage from{};
            socklen_t len = sizeof from;
            errors = wrap_accept(listener, reinterpret_cast<sockaddr*>(&from), &len);
            const int theirs = ntohs(port_of(from));
            if (errors >= 0 && (theirs < lowest_reserved || theirs > highest_reserved)) {
                wrap_close(errors);
                errors = -1;
                errno = EPROTO;
            }
        } else {
            errno = EPROTO;
        }
    }
    const int saved_errno = errno;
    wrap_close(listener);
    errno = saved_errno;
    return errors;
}

// Three strings out, one byte back: 0, or the rest is what the server has to say.
bool ask_server(int fd, const char* local_user, const char* user, const char* command) {
    for (const char* s : {local_user, user, command}) {
        const auto n = static_cast<ssize_t>(strlen(s)) + 1;
        if (wrap_write(fd, s, static_cast<size_t>(n)) != n) return false;
    }
    char c = 0;
    if (wrap_read(fd, &c, 1) != 1) return false;
    if (c == 0) return true;
    while (wrap_read(fd, &c, 1) == 1 && wrap_write(2, &c, 1) == 1 && c != '\n') {
    }
    return false;
}

class sigurg_blocked {
public:
    sigurg_blocked() {
        sigset_t urgent;
        sigemptyset(&urgent);
        sigaddset(&urgent, SIGURG);
        real::pthread_sigmask(SIG_BLOCK, &urgent, &before_);
    }
    ~sigurg_blocked() { real::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    sigurg_blocked(const sigurg_blocked&) = delete;
    sigurg_blocked& operator=(const sigurg_blocked&) = delete;

private:
    sigset_t before_;
};

} // namespace

SOCKSHIM_WRAP(int, bindresvport, (int fd, sockaddr_in* address)) {
    if (fd_is_libc(fd) || in_vfork_child() || fd_classify(fd) != FD_SOCKET) {
        return real::bindresvport(fd, address);
    }
    sockaddr_storage at{};
    at.ss_family = AF_INET;
    if (address) {
        if (address->sin_family != AF_INET) {
            errno = EAFNOSUPPORT;
            return -1;
        }
        reinterpret_cast<sockaddr_in&>(at) = *address;
    }
    static constinit a32 last{0}; // another one each time, as far as it goes
    int port = highest_reserved - static_cast<int>(last.fetch_add(1) % lowest_reserved);
    const int r = bind_reserved(fd, at, port);
    if (address) address->sin_port = port_of(at);
    return r;
}

SOCKSHIM_WRAP(int, rresvport_af, (int* port, sa_family_t family)) {
    sockaddr_storage at{};
    at.ss_family = family;
    if (family != AF_INET && family != AF_INET6) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    const int fd = wrap_socket(family, SOCK_STREAM, 0);
    if (fd < 0 || bind_reserved(fd, at, *port) == 0) return fd;
    const int saved_errno = errno == EADDRINUSE ? EAGAIN : errno;
    wrap_close(fd);
    errno = saved_errno;
    return -1;
}
SOCKSHIM_WRAP(int, rresvport, (int* port)) { return wrap_rresvport_af(port, AF_INET); }

SOCKSHIM_WRAP(int, rcmd_af,
              (char** host, unsigned short port, const char* local_user, const char* user,
               const char* command, int* errors, sa_family_t family)) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_flags = AI_CANONNAME;
    hints.ai_family = family;
    hints.ai_socktype = SOCK_STREAM;
    char service[16];
    snprintf(service, sizeof service, "%d", ntohs(port));
    if (const int r = getaddrinfo(*host, service, &hints, &found)) {
        dprintf(2, "rcmd: %s: %s\n", *host, gai_strerror(r));
        return -1;
    }
    static char canonical[1025];
    if (found->ai_canonname) {
        strncpy(canonical, found->ai_canonname, sizeof canonical - 1);
        *host = canonical;
    }
    const sigurg_blocked quiet;
    int own_port = highest_reserved;
    const int fd = connect_reserved(found, own_port);
    freeaddrinfo(found);
    if (fd < 0) return complain(*host);
    --own_port;
    int second = -1;
    const bool good =
        errors ? (second = accept_errors(fd, own_port, family)) >= 0 : wrap_write(fd, "", 1) == 1;
    if (!good) complain(*host);
    if (good && ask_server(fd, local_user, user, command)) {
        if (errors) *errors = second;
        return fd;
    }
    if (second >= 0) wrap_close(second);
    wrap_close(fd);
    return -1;
}
SOCKSHIM_WRAP(int, rcmd,
              (char** host, unsigned short port, const char* local_user, const char* user,
               const char* command, int* errors)) {
    return wrap_rcmd_af(host, port, local_user, user, command, errors, AF_INET);
}
