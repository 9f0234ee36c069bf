// epoll, poll and select as the program calls them: our descriptors and the kernel's in one set.
#include <catch2/catch.hpp>

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <thread>
#include <vector>

#include "core/arena/owner.h"
#include "tests/unit/eventpoll_fake.h"

using namespace sockshim;

namespace {

struct kernel_pipe {
    int fd[2];
    kernel_pipe() {
        if (::pipe2(fd, O_NONBLOCK | O_CLOEXEC)) abort();
        fd_installed(fd[0]);
        fd_installed(fd[1]);
    }
    ~kernel_pipe() {
        fd_forget(fd[0]);
        fd_forget(fd[1]);
        ::close(fd[0]);
        ::close(fd[1]);
    }
    // Also called by other threads than the test's, where Catch's macros may not be.
    void fill() const {
        if (::write(fd[1], "x", 1) != 1) abort();
    }
    void drain() const {
        char c;
        if (::read(fd[0], &c, 1) != 1) abort();
    }
};

struct epoll_fd {
    int fd;
    epoll_fd() {
        fake::setup();
        fd = static_cast<int>(sys_epoll_create(EPOLL_CLOEXEC));
        if (fd < 0) abort();
    }
    ~epoll_fd() {
        fd_forget(fd);
        ::close(fd);
    }
    long add(int what, u32 events, u64 tag) const { return ctl(EPOLL_CTL_ADD, what, events, tag); }
    long ctl(int op, int what, u32 events, u64 tag) const {
        epoll_event ev{};
        ev.events = events;
        ev.data.u64 = tag;
        const long r = sys_epoll_ctl(fd, op, what, &ev);
        return r == SYS_NOT_OURS ? ::epoll_ctl(fd, op, what, &ev) : r;
    }
    eventpoll& ep() const { return *slab_at<eventpoll>(fd_entry_index(fd_table[fd].load())); }
};

epoll_event got[64];

long wait(const epoll_fd& e, int max, long ms) {
    const timespec ts{ms / 1000, ms % 1000 * 1000000};
    return sys_epoll_wait(e.fd, got, max, ms < 0 ? nullptr : &ts, nullptr);
}

u64 now_ms() { return monotonic_us() / 1000; }

// Does `what` on another thread once this one sleeps.
template <class What> std::thread later(What what) {
    const int tid = gettid();
    return std::thread([=] {
        fake::wait_asleep(tid);
        usleep(300);
        what();
    });
}

void count_signal(int) {
    this_thread.signals = this_thread.signals + 1;
    this_thread.interrupting = this_thread.interrupting + 1;
    if (this_thread.sleeping_on) __atomic_add_fetch(this_thread.sleeping_on, 1, __ATOMIC_SEQ_CST);
}

// The thread sanitizer keeps signals back until the next call of libc's that it knows.
#if defined(__SANITIZE_THREAD__)
constexpr bool signals_come_at_once = false;
#else
constexpr bool signals_come_at_once = true;
#endif

struct with_handler {
    with_handler() {
        struct sigaction sa {};
        sa.sa_handler = count_signal;
        sa.sa_flags = SA_RESTART; // none of these calls is ever restarted
        sigaction(SIGUSR1, &sa, nullptr);
    }
    ~with_handler() { signal(SIGUSR1, SIG_DFL); }
};

} // namespace

TEST_CASE("epoll_wait: only ours, woken from the futex", "[epoll][calls]") {
    epoll_fd e;
    fake::source s;
    REQUIRE(e.add(s.fd(), EPOLLIN, 1) == 0);
    CHECK(e.ep().kernel_items.load() == 0);
    CHECK(wait(e, 4, 0) == 0);
    for (const long ms : {-1L, 5000L}) {
        std::thread t = later([&] { s.raise(EPOLLIN); });
        CHECK(wait(e, 4, ms) == 1);
        CHECK(got[0].data.u64 == 1);
        t.join();
        s.drop(EPOLLIN);
        CHECK(wait(e, 4, 0) == 0);
    }
    const u64 from = now_ms();
    CHECK(wait(e, 4, 30) == 0);
    CHECK(now_ms() - from >= 30);
}

TEST_CASE("epoll_wait: a mixed set is woken by either side", "[epoll][calls]") {
    epoll_fd e;
    fake::source s;
    kernel_pipe p;
    REQUIRE(e.add(s.fd(), EPOLLIN, 1) == 0);
    REQUIRE(e.add(p.fd[0], EPOLLIN, 2) == 0);
    CHECK(e.ep().kernel_items.load() == 1);
    CHECK(wait(e, 4, 0) == 0);
    for (int i = 0; i < 5; ++i) {
        std::thread t = later([&] { s.raise(EPOLLIN); });
        CHECK(wait(e, 4, -1) == 1);
        CHECK(got[0].data.u64 == 1);
        t.join();
        s.drop(EPOLLIN);
        t = later([&] { p.fill(); });
        CHECK(wait(e, 4, 5000) == 1);
        CHECK(got[0].data.u64 == 2);
        t.join();
        p.drain();
        const u64 from = now_ms();
        CHECK(wait(e, 4, 20) == 0);
        CHECK(now_ms() - from >= 20);
    }
    SECTION("both, with room for one: in turns") {
        s.raise(EPOLLIN);
        p.fill();
        usleep(1000); // while ours are busy the kernel is asked by time
        int seen[3] = {};
        for (int i = 0; i < 12; ++i) {
            REQUIRE(wait(e, 1, 0) == 1);
            ++seen[got[0].data.u64];
        }
        CHECK(seen[1] >= 4);
        CHECK(seen[2] >= 4);
        CHECK(wait(e, 8, 0) == 2);
    }
    SECTION("a busy socket of ours does not hide the kernel's") {
        s.raise(EPOLLIN);
        CHECK(wait(e, 8, 0) == 1);
        p.fill();
        const u64 from = monotonic_us();
        bool kernels = false;
        while (!kernels && monotonic_us() - from < 1000000) {
            const long n = wait(e, 8, 0);
            for (long i = 0; i < n; ++i) kernels |= got[i].data.u64 == 2;
        }
        CHECK(kernels);
    }
    SECTION("the kernel's half empties: the set is ours alone again") {
        REQUIRE(e.ctl(EPOLL_CTL_DEL, p.fd[0], 0, 0) == 0);
        CHECK(e.ep().kernel_items.load() == 0);
        CHECK(e.ctl(EPOLL_CTL_DEL, p.fd[0], 0, 0) == -ENOENT);
    }
}

TEST_CASE("epoll_wait: a kernel descriptor comes to a set that sleeps on the futex",
          "[epoll][calls]") {
    epoll_fd e;
    fake::source s;
    kernel_pipe p;
    REQUIRE(e.add(s.fd(), EPOLLIN, 1) == 0);
    p.fill();
    long added = 1;
    std::thread t = later([&] { added = e.add(p.fd[0], EPOLLIN, 2); });
    CHECK(wait(e, 4, 5000) == 1);
    CHECK(got[0].data.u64 == 2);
    t.join();
    CHECK(added == 0);
}

TEST_CASE("epoll: a set made before there was a socket", "[epoll][calls]") {
    fake::setup();
    kernel_pipe p;
    const int fd = ::epoll_create1(EPOLL_CLOEXEC);
    fd_installed(fd);
    epoll_event ev{};
    ev.events = EPOLLIN;
    ev.data.u64 = 2;
    REQUIRE(::epoll_ctl(fd, EPOLL_CTL_ADD, p.fd[0], &ev) == 0);
    const int twin = ::dup(fd);
    fd_installed(twin);
    CHECK(sys_epoll_wait(fd, got, 4, nullptr, nullptr) == SYS_NOT_OURS);
    {
        fake::source s;
        ev.data.u64 = 1;
        CHECK(sys_epoll_ctl(fd, EPOLL_CTL_MOD, s.fd(), &ev) == -ENOENT);
        CHECK(sys_epoll_ctl(fd, 77, s.fd(), &ev) == -EINVAL);
        CHECK(fd_table[fd].load() == FD_LIBC);
        CHECK(sys_epoll_ctl(p.fd[0], EPOLL_CTL_ADD, s.fd(), &ev) == -EINVAL);
        CHECK(sys_epoll_ctl(9999, EPOLL_CTL_ADD, s.fd(), &ev) == -EBADF);
        CHECK(sys_epoll_ctl(s.fd(), EPOLL_CTL_ADD, s.fd(), &ev) == -EINVAL);
        CHECK(sys_epoll_ctl(fd, EPOLL_CTL_ADD, s.fd(), &ev) == 0);
        CHECK(fd_entry_kind(fd_table[fd].load()) == FD_EPOLL);
        s.raise(EPOLLIN);
        p.fill();
        const timespec now{};
        CHECK(sys_epoll_wait(fd, got, 4, &now, nullptr) == 2);
        // The dup too, where the kernel lets a process compare its own descriptors.
        if (fd_entry_kind(fd_table[twin].load()) == FD_EPOLL) {
            CHECK(sys_epoll_wait(twin, got, 4, &now, nullptr) == 2);
        }
        ev.events = EPOLLIN | EPOLLEXCLUSIVE;
        CHECK(sys_epoll_ctl(fd, EPOLL_CTL_MOD, s.fd(), &ev) == -EINVAL);
        ev.events = EPOLLPRI | EPOLLEXCLUSIVE;
        CHECK(sys_epoll_ctl(fd, EPOLL_CTL_ADD, s.fd(), &ev) == -EINVAL);
    }
    fd_forget(fd);
    fd_forget(twin);
    ::close(fd);
    ::close(twin);
}

TEST_CASE("epoll: sets nested before there was a socket", "[epoll][calls]") {
    fake::setup();
    const int inner = ::epoll_create1(EPOLL_CLOEXEC), outer = ::epoll_create1(EPOLL_CLOEXEC);
    fd_installed(inner);
    fd_installed(outer);
    epoll_event ev{};
    ev.events = EPOLLIN;
    ev.data.u64 = 0x1234567890abcdef;
    REQUIRE(::epoll_ctl(outer, EPOLL_CTL_ADD, inner, &ev) == 0);
    {
        fake::source s;
        CHECK(sys_epoll_ctl(inner, EPOLL_CTL_ADD, s.fd(), &ev) == 0);
        const timespec second{1, 0};
        std::thread t = later([&] { s.raise(EPOLLIN); });
        CHECK(sys_epoll_wait(outer, got, 4, &second, nullptr) == 1);
        CHECK(got[0].events == EPOLLIN);
        CHECK(got[0].data.u64 == 0x1234567890abcdef);
        t.join();
    }
    for (const int fd : {inner, outer}) {
        fd_forget(fd);
        ::close(fd);
    }
}

TEST_CASE("epoll_wait: bad arguments", "[epoll][calls]") {
    epoll_fd e;
    const timespec now{}, bad{0, 1000000000}, negative{-1, 0};
    CHECK(sys_epoll_wait(e.fd, got, 0, &now, nullptr) == -EINVAL);
    CHECK(sys_epoll_wait(e.fd, got, -1, &now, nullptr) == -EINVAL);
    CHECK(sys_epoll_wait(e.fd, got, INT32_MAX, &now, nullptr) == -EINVAL);
    CHECK(sys_epoll_wait(e.fd, got, 1, &bad, nullptr) == -EINVAL);
    CHECK(sys_epoll_wait(e.fd, got, 1, &negative, nullptr) == -EINVAL);
    CHECK(sys_epoll_wait(e.fd, reinterpret_cast<epoll_event*>(~0ul - 64), 4, &now, nullptr) ==
          -EFAULT);
}

TEST_CASE("epoll: nested descriptors, both halves", "[epoll][calls]") {
    epoll_fd inner, outer;
    fake::source s;
    kernel_pipe p;
    REQUIRE(inner.add(s.fd(), EPOLLIN, 1) == 0);
    REQUIRE(inner.add(p.fd[0], EPOLLIN, 2) == 0);
    REQUIRE(outer.add(inner.fd, EPOLLIN, 3) == 0);
    CHECK(outer.add(inner.fd, EPOLLIN, 3) == -EEXIST);
    CHECK(inner.add(outer.fd, EPOLLIN, 3) == -ELOOP);
    CHECK(inner.add(inner.fd, EPOLLIN, 3) == -EINVAL);
    CHECK(outer.add(inner.fd, EPOLLIN | EPOLLEXCLUSIVE, 3) == -EINVAL);
    CHECK(wait(outer, 4, 0) == 0);
    std::thread t = later([&] { s.raise(EPOLLIN); });
    CHECK(wait(outer, 4, 5000) == 1);
    CHECK(got[0].data.u64 == 3);
    CHECK(got[0].events == EPOLLIN);
    t.join();
    s.drop(EPOLLIN);
    CHECK(wait(outer, 4, 0) == 0);
    t = later([&] { p.fill(); });
    CHECK(wait(outer, 4, 5000) == 1);
    CHECK(got[0].data.u64 == 3);
    t.join();
    s.raise(EPOLLIN);
    CHECK(wait(outer, 4, 0) == 1); // both halves have something: one event
    pollfd f{outer.fd, POLLIN, 0};
    const timespec now{};
    CHECK(sys_poll(&f, 1, &now, nullptr) == 1);
    CHECK(f.revents == POLLIN);
    CHECK(outer.ctl(EPOLL_CTL_DEL, inner.fd, 0, 0) == 0);
    CHECK(wait(outer, 4, 0) == 0);
}

TEST_CASE("epoll_wait: signals and masks", "[epoll][calls]") {
    if (!signals_come_at_once) return;
    with_handler handler;
    epoll_fd e;
    fake::source s;
    kernel_pipe p;
    const bool mixed = GENERATE(false, true);
    REQUIRE(e.add(s.fd(), EPOLLIN, 1) == 0);
    if (mixed) REQUIRE(e.add(p.fd[0], EPOLLIN, 2) == 0);
    const pthread_t self = pthread_self();
    SECTION("a handler ends the wait") {
        std::thread t = later([=] { pthread_kill(self, SIGUSR1); });
        CHECK(wait(e, 4, mixed ? 5000 : -1) == -EINTR);
        t.join();
    }
    SECTION("a signal that is blocked outside is let in by the mask, and only for the wait") {
        sigset_t block, old, open;
        sigemptyset(&block);
        sigaddset(&block, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &block, &old);
        open = old;
        sigdelset(&open, SIGUSR1);
        const u32 before = this_thread.signals;
        CHECK(wait(e, 4, 0) == 0);
        raise(SIGUSR1);
        CHECK(wait(e, 4, 10) == 0);
        CHECK(this_thread.signals == before);
        const timespec ts{5, 0};
        CHECK(sys_epoll_wait(e.fd, got, 4, &ts, &open) == -EINTR);
        CHECK(this_thread.signals == before + 1);
        // With an event there nothing is delivered.
        s.raise(EPOLLIN);
        raise(SIGUSR1);
        CHECK(sys_epoll_wait(e.fd, got, 4, &ts, &open) == 1);
        CHECK(this_thread.signals == before + 1);
        pthread_sigmask(SIG_SETMASK, &old, nullptr);
        CHECK(this_thread.signals == before + 2);
        // And an event of ours ends a wait with a mask.
        s.drop(EPOLLIN);
        std::thread t = later([&] { s.raise(EPOLLIN); });
        CHECK(sys_epoll_wait(e.fd, got, 4, &ts, &open) == 1);
        t.join();
    }
}

TEST_CASE("epoll: what is handed over to the kernel moves to its half", "[epoll][calls]") {
    epoll_fd e;
    fake::source s;
    REQUIRE(e.add(s.fd(), EPOLLIN | EPOLLET, 9) == 0);
    const int ev = ::eventfd(1, EFD_CLOEXEC);
    // As dispatch/handover.cc does it.
    const int number = s.fd();
    ::dup3(ev, number, O_CLOEXEC);
    eventpoll_handed_over(s.sk(), number);
    CHECK(e.ep().items.load() == 0);
    CHECK(e.ep().kernel_items.load() == 1);
    CHECK(wait(e, 4, 1000) == 1);
    CHECK(got[0].data.u64 == 9);
    CHECK(wait(e, 4, 0) == 0); // it was an edge
    ::close(ev);
}

TEST_CASE("epoll: many threads sleep in the kernel on one set, and one is rung", "[epoll][calls]") {
    epoll_fd e;
    kernel_pipe p;
    REQUIRE(e.add(p.fd[0], EPOLLIN, 2) == 0);
    std::vector<std::unique_ptr<fake::source>> all;
    constexpr u64 sources = 20;
    constexpr int threads = 5;
    for (u64 i = 0; i < sources; ++i) {
        all.push_back(std::make_unique<fake::source>());
        REQUIRE(e.add(all[i]->fd(), EPOLLIN | EPOLLONESHOT, 100 + i) == 0);
    }
    std::atomic<u32> served{0};
    std::atomic<bool> done{false};
    std::vector<std::thread> pool;
    for (int i = 0; i < threads; ++i) {
        pool.emplace_back([&] {
            epoll_event out[2];
            while (!done) {
                const timespec ts{0, 200000000};
                const long n = sys_epoll_wait(e.fd, out, 2, &ts, nullptr);
                for (long k = 0; k < n; ++k) {
                    const u64 which = out[k].data.u64 - 100;
                    if (which >= sources) continue;
                    all[which]->drop(EPOLLIN);
                    ++served;
                    epoll_event ev{};
                    ev.events = EPOLLIN | EPOLLONESHOT;
                    ev.data.u64 = 100 + which;
                    sys_epoll_ctl(e.fd, EPOLL_CTL_MOD, all[which]->fd(), &ev);
                }
            }
        });
    }
    u32 raised = 0;
    for (u32 i = 0; i < 3000; ++i) {
        const auto& s = *all[i % sources];
        if (fake::poll(*slab_get(s.s()))) continue; // not served yet
        ++raised;
        s.raise(EPOLLIN);
        if (i % 16 == 0) usleep(300);
    }
    for (int i = 0; i < 2000 && served < raised; ++i) usleep(1000);
    CHECK(served == raised);
    done = true;
    for (std::thread& t : pool) t.join();
}

TEST_CASE("poll: ours, the kernel's, bad and negative ones", "[poll][calls]") {
    fake::source s, t;
    kernel_pipe p;
    const timespec now{};
    pollfd f[5] = {{s.fd(), POLLIN | POLLOUT, 77},
                   {p.fd[0], POLLIN, 77},
                   {-1, POLLIN, 77},
                   {9999, POLLIN, 77},
                   {t.fd(), 0, 77}};
    CHECK(sys_poll(f, 5, &now, nullptr) == 1);
    CHECK(f[3].revents == POLLNVAL);
    CHECK((f[0].revents | f[1].revents | f[2].revents | f[4].revents) == 0);
    f[3].fd = -7;
    CHECK(sys_poll(f, 5, &now, nullptr) == 0);
    s.set(EPOLLOUT | EPOLLRDNORM);
    t.set(EPOLLHUP | EPOLLIN);
    p.fill();
    CHECK(sys_poll(f, 5, nullptr, nullptr) == 3);
    CHECK(f[0].revents == POLLOUT);
    CHECK(f[1].revents == POLLIN);
    CHECK(f[4].revents == POLLHUP);
    // None of ours: libc's business.
    CHECK(sys_poll(f + 1, 2, &now, nullptr) == SYS_NOT_OURS);
    CHECK(sys_poll(f, 0, &now, nullptr) == SYS_NOT_OURS);
    const timespec bad{0, -1};
    CHECK(sys_poll(f, 5, &bad, nullptr) == -EINVAL);
}

static rlim_t descriptors_allowed() {
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

TEST_CASE("poll: waits on ours, on both, and on many", "[poll][calls]") {
    fake::source s;
    kernel_pipe p;
    std::vector<std::unique_ptr<fake::source>> more;
    const int others = GENERATE(0, 3, 200);
    const bool mixed = GENERATE(false, true);
    if (descriptors_allowed() < static_cast<rlim_t>(others) * 2 + 100) return;
    std::vector<pollfd> f;
    for (int i = 0; i < others; ++i) {
        more.push_back(std::make_unique<fake::source>());
        f.push_back({more.back()->fd(), POLLIN, 0});
    }
    f.push_back({s.fd(), POLLIN, 0});
    if (mixed) f.push_back({p.fd[0], POLLIN, 0});
    const auto n = f.size();
    const u64 entries = arena_cells_in_use(REGION_WAIT_ENTRY);
    timespec ts{0, 20000000};
    const u64 from = now_ms();
    CHECK(sys_poll(f.data(), n, &ts, nullptr) == 0);
    CHECK(now_ms() - from >= 20);
    std::thread t = later([&] { s.raise(EPOLLIN); });
    CHECK(sys_poll(f.data(), n, nullptr, nullptr) == 1);
    CHECK(f[static_cast<std::size_t>(others)].revents == POLLIN);
    t.join();
    s.drop(EPOLLIN);
    if (mixed) {
        t = later([&] { p.fill(); });
        ts = {5, 0};
        CHECK(sys_poll(f.data(), n, &ts, nullptr) == 1);
        CHECK(f.back().revents == POLLIN);
        t.join();
    }
    CHECK(arena_cells_in_use(REGION_WAIT_ENTRY) == entries);
    CHECK(s.wq().flags.load() == 0);
}

TEST_CASE("poll: signals, masks, and a set of another process's", "[poll][calls]") {
    if (!signals_come_at_once) return;
    with_handler handler;
    fake::source s;
    kernel_pipe p;
    const bool mixed = GENERATE(false, true);
    pollfd f[2] = {{s.fd(), POLLIN, 0}, {mixed ? p.fd[0] : -1, POLLIN, 0}};
    const pthread_t self = pthread_self();
    std::thread t = later([=] { pthread_kill(self, SIGUSR1); });
    CHECK(sys_poll(f, 2, nullptr, nullptr) == -EINTR);
    t.join();
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    const u32 before = this_thread.signals;
    raise(SIGUSR1);
    const timespec now{};
    CHECK(sys_poll(f, 2, &now, nullptr) == 0);
    CHECK(sys_poll(f, 2, &now, &old) == -EINTR); // Linux asks for signals before the timeout
    CHECK(this_thread.signals == before + 1);
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

TEST_CASE("poll: woken by another process", "[poll][calls]") {
    fake::source s;
    kernel_pipe p;
    const bool mixed = GENERATE(false, true);
    pollfd f[2] = {{s.fd(), POLLIN, 0}, {mixed ? p.fd[0] : -1, POLLIN, 0}};
    const pid_t pid = fork();
    if (pid == 0) {
        if (process_register()) _exit(1);
        usleep(20000);
        s.raise(EPOLLIN);
        _exit(0);
    }
    const timespec ts{5, 0};
    CHECK(sys_poll(f, 2, &ts, nullptr) == 1);
    int status;
    waitpid(pid, &status, 0);
    CHECK(status == 0);
}

TEST_CASE("select: sets, counts, remaining time", "[select][calls]") {
    fake::source s, u;
    kernel_pipe p;
    fd_set r, w, x;
    const auto fresh = [&] {
        for (fd_set* set : {&r, &w, &x}) {
            FD_ZERO(set);
            for (const int fd : {s.fd(), u.fd(), p.fd[0], p.fd[1]}) FD_SET(fd, set);
        }
    };
    const int n = 1 + std::max({s.fd(), u.fd(), p.fd[0], p.fd[1]});
    timespec zero{};
    fresh();
    CHECK(sys_select(n, &r, &w, &x, &zero, nullptr) == 1); // the pipe's writing end
    CHECK(FD_ISSET(p.fd[1], &w));
    CHECK_FALSE(FD_ISSET(s.fd(), &r));
    s.set(EPOLLIN | EPOLLOUT);
    u.set(EPOLLPRI | EPOLLHUP);
    p.fill();
    fresh();
    CHECK(sys_select(n, &r, &w, &x, &zero, nullptr) == 6);
    CHECK(FD_ISSET(s.fd(), &r));
    CHECK(FD_ISSET(s.fd(), &w));
    CHECK_FALSE(FD_ISSET(s.fd(), &x));
    CHECK(FD_ISSET(u.fd(), &r));
    CHECK_FALSE(FD_ISSET(u.fd(), &w)); // a hang-up is for readers
    CHECK(FD_ISSET(u.fd(), &x));
    CHECK(FD_ISSET(p.fd[0], &r));
    // Beyond n: not looked at.
    FD_ZERO(&r);
    FD_SET(s.fd(), &r);
    CHECK(sys_select(s.fd(), &r, nullptr, nullptr, &zero, nullptr) == SYS_NOT_OURS);
    s.set(0);
    u.set(0);
    p.drain();
    for (const bool mixed : {false, true}) {
        FD_ZERO(&r);
        FD_SET(s.fd(), &r);
        if (mixed) FD_SET(p.fd[0], &r);
        timespec left{0, 30000000};
        const u64 from = now_ms();
        CHECK(sys_select(n, &r, nullptr, nullptr, &left, nullptr) == 0);
        CHECK(now_ms() - from >= 30);
        CHECK(left.tv_sec == 0);
        CHECK(left.tv_nsec == 0);
        FD_SET(s.fd(), &r);
        if (mixed) FD_SET(p.fd[0], &r);
        left = {5, 0};
        std::thread t = later([&] { s.raise(EPOLLIN); });
        CHECK(sys_select(n, &r, nullptr, nullptr, &left, nullptr) == 1);
        CHECK(FD_ISSET(s.fd(), &r));
        CHECK_FALSE(FD_ISSET(p.fd[0], &r));
        CHECK(left.tv_sec == 4);
        t.join();
        s.drop(EPOLLIN);
    }
    // Only writers: a hang-up of the kernel's does not end the wait, nor turn it into a spin.
    kernel_pipe q;
    ::close(q.fd[1]);
    FD_ZERO(&w);
    FD_SET(s.fd(), &w);
    FD_ZERO(&x);
    FD_SET(q.fd[0], &x);
    timespec left{0, 20000000};
    CHECK(sys_select(std::max(n, q.fd[0] + 1), nullptr, &w, &x, &left, nullptr) == 0);
    q.fd[1] = ::dup(q.fd[0]);
}

TEST_CASE("select: descriptors that are not open", "[select][calls]") {
    fake::source s;
    s.set(EPOLLIN);
    timespec zero{};
    fd_set r;
    FD_ZERO(&r);
    FD_SET(s.fd(), &r);
    FD_SET(50, &r);
    CHECK(sys_select(51, &r, nullptr, nullptr, &zero, nullptr) == -EBADF);
    CHECK(FD_ISSET(s.fd(), &r));
    // Linux does not look beyond the descriptor table, and neither is it bad to ask.
    FD_ZERO(&r);
    FD_SET(s.fd(), &r);
    FD_SET(1000, &r);
    CHECK(sys_select(1001, &r, nullptr, nullptr, &zero, nullptr) == 1);
    CHECK(FD_ISSET(s.fd(), &r));
}

TEST_CASE("select: beyond FD_SETSIZE", "[select][calls]") {
    if (descriptors_allowed() < 3000) return;
    fake::source s;
    const int high = ::fcntl(s.fd(), F_DUPFD_CLOEXEC, 2500);
    REQUIRE(high >= 2500);
    fd_install_socket(high, s.s());
    std::vector<unsigned long> words(64);
    const auto bit = [&](int fd) -> bool {
        return words[static_cast<std::size_t>(fd) / 64] >> (fd % 64) & 1;
    };
    const auto put = [&](int fd) { words[static_cast<std::size_t>(fd) / 64] |= 1ul << (fd % 64); };
    timespec zero{};
    put(high);
    CHECK(sys_select(high + 1, reinterpret_cast<fd_set*>(words.data()), nullptr, nullptr, &zero,
                     nullptr) == 0);
    CHECK_FALSE(bit(high));
    put(high);
    s.raise(EPOLLIN);
    CHECK(sys_select(high + 1, reinterpret_cast<fd_set*>(words.data()), nullptr, nullptr, nullptr,
                     nullptr) == 1);
    CHECK(bit(high));
    fd_forget(high);
    ::close(high);
}
