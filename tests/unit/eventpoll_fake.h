// Sockets for the tests of waiting: real cells of the arena whose poll says what the test wants.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/arena/arena.h"
#include "core/net/doorbell.h"
#include "core/net/eventpoll.h"
#include "core/net/proto.h"
#include "core/net/spin_wait.h"
#include "dispatch/fd_table.h"
#include "dispatch/syscalls.h"

namespace sockshim::fake {

inline constexpr u8 ops_id = max_ops - 1;

inline u32 poll(socket& s) {
    return static_cast<u32>(__atomic_load_n(&s.module_data, __ATOMIC_ACQUIRE));
}
inline int release(socket&) { return 0; }

inline constinit const proto_ops ops = {
    .family = AF_INET,
    .owner = nullptr,
    .release = release,
    .bind = sock_no_bind,
    .connect = sock_no_connect,
    .socketpair = sock_no_socketpair,
    .accept = sock_no_accept,
    .getname = sock_no_getname,
    .poll = poll,
    .ioctl = sock_no_ioctl,
    .listen = sock_no_listen,
    .shutdown = sock_no_shutdown,
    .setsockopt = sock_no_setsockopt,
    .getsockopt = sock_no_getsockopt,
    .sendmsg = sock_no_sendmsg,
    .recvmsg = sock_no_recvmsg,
    .mmap = sock_no_mmap,
    .splice_read = sock_no_splice_read,
    .set_peek_off = sock_no_set_peek_off,
    .peek_len = sock_no_peek_len,
};

// The arena, the operations, and a directory for doorbells.
inline void setup() {
    static const bool once = [] {
        if (arena_attach_private()) abort();
        if (!register_ops(ops_id, ops)) abort();
        fd_table_init();
        static char path[] = "/tmp/sockshim-unit-XXXXXX";
        if (!mkdtemp(path)) abort();
        doorbell_use_directory(path);
        atexit([] {
            for (u32 i = 0; i < 256; ++i) {
                char name[64];
                snprintf(name, sizeof name, "%s/b%05x", path, i);
                ::unlink(name);
            }
            ::rmdir(path);
        });
        return true;
    }();
    static_cast<void>(once);
}

class source {
public:
    source() {
        setup();
        sk_ = slab_alloc<sock>();
        s_ = slab_alloc<socket>();
        sock& k = *slab_get(sk_);
        socket& s = *slab_get(s_);
        __builtin_memset(static_cast<void*>(&k), 0, sizeof k);
        __builtin_memset(static_cast<void*>(&s), 0, sizeof s);
        k.sk_socket = s_;
        s.sk = sk_;
        s.ops_id = ops_id;
        socket_set_holder(s);
        slab_publish(sk_);
        slab_publish(s_);
    }
    ~source() {
        if (fd_ >= 0) close_fd();
        eventpoll_release_socket(sk_);
        slab_free(s_);
        slab_free(sk_);
    }
    source(const source&) = delete;
    source& operator=(const source&) = delete;

    handle<sock> sk() const { return sk_; }
    handle<socket> s() const { return s_; }
    wait_queue& wq() const { return slab_get(sk_)->sk_wq; }
    ep_source src() const { return ep_source::of(sk_); }
    void set(u32 events) const {
        __atomic_store_n(&slab_get(s_)->module_data, u64{events}, __ATOMIC_RELEASE);
    }
    // Says so and wakes, as a protocol does.
    void raise(u32 events, bool wake_all = true) const {
        __atomic_fetch_or(&slab_get(s_)->module_data, u64{events}, __ATOMIC_RELEASE);
        wake_up(wq(), events, wake_all);
    }
    void drop(u32 events) const {
        __atomic_fetch_and(&slab_get(s_)->module_data, ~u64{events}, __ATOMIC_RELEASE);
    }
    // A descriptor that dispatch/ takes for this socket.
    int fd() {
        if (fd_ < 0) {
            fd_ = ::open("/dev/null", O_RDONLY);
            // One more reference, so that closing does not release the test's socket.
            fd_install_socket(fd_, s_);
            keep_ = ::open("/dev/null", O_RDONLY);
            fd_install_socket(keep_, s_);
        }
        return fd_;
    }

private:
    void close_fd() {
        // The table would release the socket; the cells are this object's to free.
        fd_table[fd_].store(FD_UNKNOWN);
        fd_table[keep_].store(FD_UNKNOWN);
        ::close(fd_);
        ::close(keep_);
    }
    handle<sock> sk_;
    handle<socket> s_;
    int fd_ = -1;
    int keep_ = -1;
};

class set {
public:
    set() {
        setup();
        h_ = eventpoll_create();
    }
    ~set() { eventpoll_put(h_.index, self_proc); }
    set(const set&) = delete;
    set& operator=(const set&) = delete;
    handle<eventpoll> h() const { return h_; }
    eventpoll& ep() const { return *slab_get(h_); }
    int add(const source& s, u32 events, u64 data, int fd = 3) const {
        return ep_insert(h_, s.src(), fd, events, data);
    }
    int take(epoll_event* out, int max) const {
        nested_reported nested;
        return ep_send_events(ep(), out, max, nested);
    }

private:
    handle<eventpoll> h_;
};

// Until the thread of this process sleeps in the kernel (or a second has passed).
inline void wait_asleep(int tid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    for (int i = 0; i < 10000; ++i) {
        char text[256] = {};
        const int f = ::open(path, O_RDONLY);
        const ssize_t n = ::read(f, text, sizeof text - 1);
        ::close(f);
        const char* p = n > 0 ? __builtin_strrchr(text, ')') : nullptr;
        if (p && p[2] == 'S') return;
        usleep(100);
    }
}

} // namespace sockshim::fake

namespace fake = sockshim::fake;
