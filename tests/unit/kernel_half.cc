// The kernel's half of a socket of ours: how it is recognised, what sk_kernel says of it, who watches it. The halves
// are real sockets of the kernel's; the table of numbers, which dispatch/ has, is a map here, and the background
// thread this one.
#include <catch2/catch.hpp>

#include <arpa/inet.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <map>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include "core/arena/arena.h"
#include "core/arena/owner.h"
#include "core/net/carrier.h"
#include "core/net/family.h"
#include "core/net/kernel_half.h"
#include "core/net/socket.h"

using namespace sockshim;

namespace {

std::map<int, sockshim::socket*> numbers;

const sockaddr* generic(const sockaddr_in& a) { return reinterpret_cast<const sockaddr*>(&a); }

sockaddr_in loopback(u16 port = 0) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

// A kernel socket.
struct kernels {
    int fd;
    explicit kernels(int type, bool bound = true) : fd(::socket(AF_INET, type, 0)) {
        REQUIRE(fd >= 0);
        const sockaddr_in at = loopback();
        if (bound) REQUIRE(::bind(fd, generic(at), sizeof at) == 0);
    }
    ~kernels() { end(); }
    kernels(const kernels&) = delete;
    kernels& operator=(const kernels&) = delete;
    void end() {
        if (fd >= 0) ::close(fd);
        fd = -1;
    }
    sockaddr_in name() const {
        sockaddr_in at{};
        socklen_t len = sizeof at;
        REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &len) == 0);
        return at;
    }
    u64 inode() const {
        struct stat st {};
        REQUIRE(fstat(fd, &st) == 0);
        return st.st_ino;
    }
    // A datagram arrives.
    void gets(const char* text) const {
        const kernels from(SOCK_DGRAM);
        const sockaddr_in to = name();
        REQUIRE(::sendto(from.fd, text, 1, 0, generic(to), sizeof to) == 1);
    }
    void reads() const {
        char c;
        REQUIRE(::recv(fd, &c, 1, MSG_DONTWAIT) == 1);
    }
};

// A socket of ours with a half.
struct both {
    sockshim::socket* s = nullptr;
    sock* sk = nullptr;
    kernels k;

    explicit both(int type) : k(type) {
        REQUIRE(arena_attach_private() == 0);
        REQUIRE(sock_create(AF_INET, type, 0, &s) == 0);
        sk = socket_sk(*s);
        numbers[k.fd] = s;
        kernel_half_fd = [](u32 index) {
            for (const auto& [fd, its] : numbers) {
                if (socket_handle(*its).index == index) return fd;
            }
            return -1;
        };
        kernel_half_at = [](int fd) {
            const auto found = numbers.find(fd);
            return found == numbers.end() ? nullptr : found->second;
        };
        kernel_half_for_each = [](void (*visit)(sockshim::socket&, int)) {
            for (const auto& [fd, its] : numbers) visit(*its, fd);
        };
        kernel_half_begin(*s, k.fd);
    }
    ~both() {
        numbers.erase(k.fd);
        sock_release(*s);
    }
    both(const both&) = delete;
    both& operator=(const both&) = delete;
    handle<sockshim::socket> h() const { return socket_handle(*s); }
    u32 word() const { return sk->sk_kernel.load(); }
};

} // namespace

TEST_CASE("kernel half: recognised by its inode until it ends", "[kernel_half]") {
    both a(SOCK_DGRAM), b(SOCK_STREAM);
    const kernels other(SOCK_DGRAM);
    REQUIRE(a.word() == KERNEL_HALF);
    REQUIRE(kernel_half_find(a.k.inode()) == a.h());
    REQUIRE(carrier_identify(b.k.fd) == b.h());
    REQUIRE_FALSE(carrier_identify(other.fd));
    // The kernel vouches for it: no lock is taken.
    REQUIRE(carrier_lock(*a.s, a.k.fd) == 0);
    REQUIRE((a.s->flags.load() & SOCKF_SHARED));
    a.s->flags.fetch_and(~SOCKF_SHARED);

    kernel_half_end(*a.s, a.k.fd);
    REQUIRE(a.word() == 0);
    REQUIRE_FALSE(kernel_half_find(a.k.inode()));
    REQUIRE(kernel_half_find(b.k.inode()) == b.h());
    REQUIRE_FALSE((fcntl(a.k.fd, F_GETFL) & O_ASYNC));
}

TEST_CASE("kernel half: what may be one is asked of the kernel", "[kernel_half]") {
    const kernels datagrams(SOCK_DGRAM), listener(SOCK_STREAM), unbound(SOCK_DGRAM, false);
    REQUIRE(::listen(listener.fd, 1) == 0);
    REQUIRE(kernel_half_looks_like(datagrams.fd));
    REQUIRE(kernel_half_looks_like(listener.fd));
    REQUIRE_FALSE(kernel_half_looks_like(unbound.fd));
    const kernels end(SOCK_STREAM);
    const sockaddr_in to = listener.name();
    REQUIRE(::connect(end.fd, generic(to), sizeof to) == 0);
    REQUIRE_FALSE(kernel_half_looks_like(end.fd));
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    REQUIRE_FALSE(kernel_half_looks_like(pipes[0]));
    close(pipes[0]);
    close(pipes[1]);
}

TEST_CASE("kernel half: held as long as the kernel knows it", "[kernel_half]") {
    both udp(SOCK_DGRAM), tcp(SOCK_STREAM);
    REQUIRE(kernel_half_held(*udp.s));
    numbers.erase(udp.k.fd);
    udp.k.end();
    REQUIRE_FALSE(kernel_half_held(*udp.s));
    // A bound stream socket stands in no list of the kernel's.
    REQUIRE_FALSE(kernel_half_held(*tcp.s));
    socket_hold(*tcp.s);
    REQUIRE(kernel_half_held(*tcp.s));
    REQUIRE(socket_unhold(*tcp.s, self_proc));
    REQUIRE_FALSE(socket_unhold(*tcp.s, self_proc));
    REQUIRE_FALSE(kernel_half_held(*tcp.s));
    tcp.sk->__sk_common.skc_state.store(TCP_LISTEN);
    REQUIRE(::listen(tcp.k.fd, 1) == 0);
    REQUIRE(kernel_half_held(*tcp.s));
    numbers.erase(tcp.k.fd);
    tcp.k.end();
    REQUIRE_FALSE(kernel_half_held(*tcp.s));
    tcp.sk->__sk_common.skc_state.store(TCP_CLOSE);
}

TEST_CASE("kernel half: nobody watches: the kernel is asked each time", "[kernel_half]") {
    both a(SOCK_DGRAM);
    REQUIRE(kernel_half_attention(*a.sk));
    REQUIRE_FALSE(kernel_half_ready(*a.sk));
    a.k.gets("x");
    REQUIRE(kernel_half_ready(*a.sk));
    a.k.reads();
    REQUIRE_FALSE(kernel_half_ready(*a.sk));
}

TEST_CASE("kernel half: READY and TURN", "[kernel_half]") {
    both a(SOCK_DGRAM);
    a.sk->sk_kernel_watcher.store(self_proc);
    REQUIRE_FALSE(kernel_half_attention(*a.sk));
    kernel_half_passed_over(*a.sk);
    REQUIRE(a.word() == KERNEL_HALF);
    // Not told, not asked.
    a.k.gets("1");
    a.k.gets("2");
    REQUIRE_FALSE(kernel_half_ready(*a.sk));
    kernel_half_sends(*a.sk); // whatever makes it ready
    REQUIRE(kernel_half_ready(*a.sk));
    REQUIRE(a.word() ==
            (KERNEL_HALF | KERNEL_READY)); // until the kernel says that there is nothing
    REQUIRE_FALSE(kernel_half_first(*a.sk));

    kernel_half_passed_over(*a.sk); // ours was served: it is the kernel's turn
    REQUIRE(kernel_half_first(*a.sk));
    kernel_half_takes(*a.sk);
    REQUIRE(a.word() == KERNEL_HALF);
    a.k.reads();
    kernel_half_took(*a.sk);
    REQUIRE_FALSE(kernel_half_first(*a.sk)); // ours again, though there is one more
    REQUIRE(kernel_half_ready(*a.sk));

    kernel_half_passed_over(*a.sk);
    a.k.reads();
    REQUIRE_FALSE(kernel_half_first(*a.sk));
    REQUIRE(a.word() == KERNEL_HALF);
}

TEST_CASE("kernel half: its error becomes the sock's", "[kernel_half]") {
    both a(SOCK_DGRAM);
    a.sk->sk_kernel_watcher.store(self_proc);
    sockaddr_in nobody;
    {
        const kernels gone(SOCK_DGRAM);
        nobody = gone.name();
    }
    REQUIRE(::sendto(a.k.fd, "x", 1, 0, generic(nobody), sizeof nobody) == 1);
    REQUIRE(::connect(a.k.fd, generic(nobody), sizeof nobody) == 0);
    REQUIRE(::send(a.k.fd, "x", 1, 0) == 1);
    kernel_half_sends(*a.sk);
    kernel_half_error(*a.sk);
    REQUIRE(a.sk->sk_err.load() == ECONNREFUSED);
    REQUIRE(a.word() == KERNEL_HALF);
}

TEST_CASE("kernel half: whoever watches lets go, or dies", "[kernel_half]") {
    both a(SOCK_DGRAM);
    constexpr proc_id other = 4711;
    a.sk->sk_kernel_watcher.store(other);
    kernel_half_unwatch(*a.s, self_proc); // does not watch
    REQUIRE(a.sk->sk_kernel_watcher.load() == other);
    kernel_half_unwatch(*a.s, other);
    REQUIRE(a.sk->sk_kernel_watcher.load() == 0);
    REQUIRE(kernel_half_attention(*a.sk)); // who looks next watches

    // One who did not watch may have been woken for what is there, and have taken the mark away.
    a.sk->sk_kernel_watcher.store(self_proc);
    a.k.gets("x");
    REQUIRE_FALSE(kernel_half_ready(*a.sk));
    kernel_half_holder_died(*a.s, other);
    REQUIRE(a.sk->sk_kernel_watcher.load() == self_proc);
    REQUIRE(kernel_half_ready(*a.sk));
    a.k.reads();
    kernel_half_holder_died(*a.s, self_proc);
    REQUIRE(a.sk->sk_kernel_watcher.load() == 0);
}

TEST_CASE("kernel half: the kernel's signal marks the socket at its number", "[kernel_half]") {
    sigset_t real_time, before;
    sigemptyset(&real_time);
    sigaddset(&real_time, 64);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &real_time, &before) == 0);
    const int signals = kernel_half_signals();
    REQUIRE(signals >= 0);
    {
        both a(SOCK_DGRAM), b(SOCK_DGRAM);
        for (const both* x : {&a, &b}) x->sk->sk_kernel_watcher.store(self_proc);
        const f_owner_ex me{F_OWNER_TID, static_cast<pid_t>(syscall(SYS_gettid))};
        REQUIRE(fcntl(a.k.fd, F_SETSIG, 64) == 0);
        REQUIRE(fcntl(a.k.fd, F_SETOWN_EX, &me) == 0);
        REQUIRE(fcntl(a.k.fd, F_SETFL, O_ASYNC) == 0);
        a.k.gets("x");
        pollfd told{signals, POLLIN, 0};
        REQUIRE(poll(&told, 1, 5000) == 1);
        kernel_half_signalled(signals);
        REQUIRE(a.word() == (KERNEL_HALF | KERNEL_READY));
        REQUIRE(b.word() == KERNEL_HALF);
        // The number is another's by now: everybody looks.
        numbers.erase(a.k.fd);
        a.k.gets("y");
        REQUIRE(poll(&told, 1, 5000) == 1);
        kernel_half_signalled(signals);
        REQUIRE(b.word() == (KERNEL_HALF | KERNEL_READY));
    }
    close(signals);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("between worlds: who waits for a port goes on when nobody is between any more",
          "[kernel_half]") {
    REQUIRE(arena_attach_private() == 0);
    std::atomic<int> step{0};
    std::thread looks([&] {
        const between_worlds here(4711);
        step = 1;
        while (step != 2) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        step = 3;
    });
    while (step != 1) std::this_thread::yield();
    between_worlds_wait(4712); // another port
    REQUIRE(step == 1);
    step = 2;
    between_worlds_wait(4711);
    REQUIRE(step == 3);
    looks.join();

    // One who never comes through is waited for, but not for ever; a fourth one is not seen.
    const between_worlds a(1), b(1), c(2), unseen(3);
    between_worlds_wait(1);
    between_worlds_wait(3);
}
