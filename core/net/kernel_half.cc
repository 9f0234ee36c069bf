#include "core/net/kernel_half.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "core/arena/owner.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/net/timer.h"
#include "core/sync/background.h"

namespace sockshim {

int (*kernel_half_fd)(u32 index) = [](u32) { return -1; };
void (*kernel_half_for_each)(void (*visit)(socket& sock, int fd)) = [](void (*)(socket&, int)) {};
socket* (*kernel_half_at)(int fd) = [](int) -> socket* { return nullptr; };

namespace {

// A real-time signal is queued with the number of the descriptor; should the queue be full, the kernel
// sends SIGIO instead. Directed to our own thread, which has them blocked, so the program sees neither.
constexpr int half_signal = 64; // SIGRTMAX, as the kernel counts

long set_flags(int fd, long flags) { return raw_syscall(SYS_fcntl, fd, F_SETFL, flags); }

// The number that the signal names is noted when O_ASYNC comes on.
void tell_thread(int fd) {
    const f_owner_ex owner{F_OWNER_TID, static_cast<pid_t>(background_tid())};
    const long flags = raw_syscall(SYS_fcntl, fd, F_GETFL);
    set_flags(fd, flags & ~O_ASYNC);
    raw_syscall(SYS_fcntl, fd, F_SETSIG, half_signal);
    raw_syscall(SYS_fcntl, fd, F_SETOWN_EX, ptr_arg(&owner));
    set_flags(fd, flags | O_ASYNC);
}

void watch(sock& sk, int fd) {
    u32 nobody = 0;
    if (!background_tid() || !sk.sk_kernel_watcher.cas(nobody, self_proc)) return;
    SOCKSHIM_CRASH_POINT();
    tell_thread(fd);
    SOCKSHIM_CRASH_POINT();
    sk.sk_kernel.fetch_or(KERNEL_READY); // what came before
}

void mark(socket& sock, int) {
    struct sock* const sk = socket_sk(sock);
    if (!sk || !sk->sk_kernel.load()) return;
    sk->sk_kernel.fetch_or(KERNEL_READY);
    SOCKSHIM_CRASH_POINT();
    if (sock.type == SOCK_STREAM) {
        sk_data_ready(*sk); // wakes one
    } else {
        sk_state_change(*sk); // it may be an error
    }
}

u32 look(int fd) {
    pollfd p{fd, POLLIN | POLLRDNORM | POLLPRI, 0};
    const timespec now{};
    raw_syscall(SYS_ppoll, ptr_arg(&p), 1, ptr_arg(&now), 0, 8);
    return static_cast<u32>(p.revents);
}

// One line of /proc/net/tcp or udp: "sl local remote st tx:rx tr:when retrnsmt uid timeout inode ...".
struct proc_line {
    u32 state = 0;
    u64 inode = 0;
};

class proc_table {
public:
    explicit proc_table(const char* name)
        : fd_(static_cast<int>(
              raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(name), O_RDONLY | O_CLOEXEC))) {}
    ~proc_table() {
        if (fd_ >= 0) raw_syscall(SYS_close, fd_);
    }
    proc_table(const proc_table&) = delete;
    proc_table& operator=(const proc_table&) = delete;
    bool readable() const { return fd_ >= 0; }

    bool next(proc_line& line) {
        u32 field = 0;
        line = {};
        bool inside = false;
        for (int c; (c = get()) >= 0 && c != '\n';) {
            if (c == ' ') {
                inside = false;
                continue;
            }
            if (!inside) ++field;
            inside = true;
            if (field == 4) line.state = line.state * 16 + hex(c);
            if (field == 10 && c >= '0' && c <= '9')
                line.inode = line.inode * 10 + static_cast<u64>(c - '0');
        }
        return field != 0;
    }

private:
    static u32 hex(int c) {
        return static_cast<u32>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10) & 15;
    }
    int get() {
        if (at_ == end_) {
            const long n = raw_syscall(SYS_read, fd_, ptr_arg(bytes_), sizeof bytes_);
            if (n <= 0) return -1;
            at_ = 0;
            end_ = static_cast<u32>(n);
        }
        return static_cast<u8>(bytes_[at_++]);
    }

    int fd_;
    u32 at_ = 0, end_ = 0;
    char bytes_[4096];
};

bool any_holder(const socket& sock) {
    for (const a32& h : sock.holders) {
        if (h.load()) return true;
    }
    return false;
}

} // namespace

u32 kernel_half_poll(sock& sk) {
    const handle<socket> h = sk.sk_socket;
    const int fd = slab_get(h) ? kernel_half_fd(h.index) : -1;
    if (fd < 0) return 0;
    watch(sk, fd);
    // Without a watcher (no thread to be had) the kernel is asked each time.
    if (!(sk.sk_kernel.load() & KERNEL_READY) && sk.sk_kernel_watcher.load()) return 0;
    sk.sk_kernel.fetch_and(~KERNEL_READY);
    SOCKSHIM_CRASH_POINT();
    full_fence();
    u32 events = look(fd);
    if (events & POLLERR) {
        int err = 0;
        u32 len = sizeof err;
        raw_syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_ERROR, ptr_arg(&err), ptr_arg(&len));
        if (err) sk.sk_err.store(static_cast<u32>(err));
        events = look(fd); // the error queue may hold more
    }
    if (events) {
        sk.sk_kernel.fetch_or(KERNEL_READY);
    } else {
        sk.sk_kernel.fetch_and(~KERNEL_TURN);
    }
    return events;
}

void kernel_half_takes(sock& sk) {
    sk.sk_kernel.fetch_and(~(KERNEL_READY | KERNEL_TURN));
    SOCKSHIM_CRASH_POINT();
    full_fence();
}

void kernel_half_sends(sock& sk) { sk.sk_kernel.fetch_or(KERNEL_READY); }

void kernel_half_took(sock& sk) {
    sk.sk_kernel.fetch_or(KERNEL_READY);
    sk_data_ready(sk);
}

void kernel_half_begin(socket& sock, int fd) {
    struct sock* const sk = socket_sk(sock);
    struct stat st {};
    if (!sk || raw_syscall(SYS_fstat, fd, ptr_arg(&st))) return;
    sock.kernel_inode.store(st.st_ino);
    SOCKSHIM_CRASH_POINT();
    sk->sk_kernel.store(KERNEL_HALF);
    watch(*sk, fd);
}

void kernel_half_end(socket& sock, int fd) {
    set_flags(fd, raw_syscall(SYS_fcntl, fd, F_GETFL) & ~O_ASYNC);
    raw_syscall(SYS_fcntl, fd, F_SETOWN, 0);
    raw_syscall(SYS_fcntl, fd, F_SETSIG, 0);
    SOCKSHIM_CRASH_POINT();
    sock.kernel_inode.store(0);
    SOCKSHIM_CRASH_POINT();
    if (struct sock* const sk = socket_sk(sock)) {
        sk->sk_kernel.store(0);
        sk->sk_kernel_watcher.store(0);
    }
}

void kernel_half_unwatch(socket& sock, proc_id who) {
    struct sock* const sk = socket_sk(sock);
    u32 watcher = who;
    if (!sk || !sk->sk_kernel.load() || sk->sk_kernel_watcher.load() != who) return;
    if (!sk->sk_kernel_watcher.cas(watcher, 0)) return;
    SOCKSHIM_CRASH_POINT();
    wake_quietly(sk->sk_wq);
}

void kernel_half_holder_died(socket& sock, proc_id who) {
    struct sock* const sk = socket_sk(sock);
    if (!sk || !sk->sk_kernel.load()) return;
    sk->sk_kernel.fetch_or(KERNEL_READY);
    u32 watcher = who;
    sk->sk_kernel_watcher.cas(watcher, 0);
    SOCKSHIM_CRASH_POINT();
    wake_quietly(sk->sk_wq);
}

void kernel_half_rewatch(socket& sock, int fd) {
    struct sock* const sk = socket_sk(sock);
    if (!sk || !sk->sk_kernel.load()) return;
    if (sk->sk_kernel_watcher.load() != self_proc) return watch(*sk, fd);
    tell_thread(fd);
    mark(sock, fd);
}

handle<socket> kernel_half_find(u64 inode) {
    const u32 n = cells_committed(REGION_SOCKET);
    for (u32 i = 0; i < n; ++i) {
        const handle<socket> h = slab_handle_at<socket>(i);
        const socket* s = slab_get(h);
        if (s && s->kernel_inode.load() == inode) return h;
    }
    return {};
}

bool kernel_half_looks_like(int fd) {
    sockaddr_in at{}, peer{};
    u32 len = sizeof at, peer_len = sizeof peer;
    if (raw_syscall(SYS_getsockname, fd, ptr_arg(&at), ptr_arg(&len)) < 0) return false;
    if (at.sin_family != AF_INET || !at.sin_port) return false;
    int type = 0;
    u32 type_len = sizeof type;
    raw_syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, ptr_arg(&type), ptr_arg(&type_len));
    if (type == SOCK_DGRAM) return true;
    return type == SOCK_STREAM &&
           raw_syscall(SYS_getpeername, fd, ptr_arg(&peer), ptr_arg(&peer_len)) == -ENOTCONN;
}

bool kernel_half_held(const socket& sock) {
    const u64 inode = sock.kernel_inode.load();
    if (!inode) return false;
    constexpr u32 listening = 10;
    const bool stream = sock.type == SOCK_STREAM;
    const struct sock* const sk = socket_sk(sock);
    if (stream && (!sk || sk_state(*sk) != TCP_LISTEN)) return any_holder(sock);
    proc_table table(stream ? "/proc/net/tcp" : "/proc/net/udp");
    if (!table.readable()) return true; // cannot ask: keep it
    proc_line line;
    table.next(line); // the heads of the columns
    while (table.next(line)) {
        if (line.inode == inode) return true;
        if (stream && line.state != listening) break; // listeners come first
    }
    return false;
}

int kernel_half_signals() {
    const u64 mask = u64{1} << (half_signal - 1) | u64{1} << (SIGIO - 1);
    return static_cast<int>(
        raw_syscall(SYS_signalfd4, -1, ptr_arg(&mask), sizeof mask, SFD_NONBLOCK | SFD_CLOEXEC));
}

void kernel_half_signalled(int signals) {
    signalfd_siginfo infos[16];
    const long n = raw_syscall(SYS_read, signals, ptr_arg(infos), sizeof infos);
    for (long i = 0; i < n / static_cast<long>(sizeof infos[0]); ++i) {
        const int fd = infos[i].ssi_signo == half_signal ? infos[i].ssi_fd : -1;
        socket* const sock = fd < 0 ? nullptr : kernel_half_at(fd);
        if (sock && socket_sk(*sock) && socket_sk(*sock)->sk_kernel.load()) {
            mark(*sock, fd);
        } else { // the number has changed hands, or the queue of signals was full
            kernel_half_for_each(mark);
        }
    }
}

} // namespace sockshim
