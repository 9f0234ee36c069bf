// Role: what costs nothing when nothing happens: arena bytes of an idle connected pair, CPU time of
// an idle pair and of ten idle servers.
#include "support.h"

#include <csignal>
#include <dlfcn.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace bench {
namespace {

// --- arena bytes ---------------------------------------------------------------------------------

using usage_function = int (*)(unsigned long long* bytes_in_use);

// Exported by the library under test; absent in a native run.
usage_function find_usage() {
    return reinterpret_cast<usage_function>(dlsym(RTLD_DEFAULT, "sockshim_arena_usage"));
}

double bytes_in_use(usage_function usage) {
    unsigned long long bytes = 0;
    if (usage(&bytes) != 0) {
        fail_check("sockshim_arena_usage did not answer");
    }
    return double(bytes);
}

void pass_byte(int from, int to) {
    std::byte byte{0x5a};
    send_exactly(from, {&byte, 1});
    byte = {};
    if (!receive_exactly(to, {&byte, 1}) || byte != std::byte{0x5a}) {
        fail_check("another byte than sent");
    }
}

void hold_server_ends(const options& opts, const channel& peer) {
    constexpr double until_idle = 2.5;
    const usage_function usage = find_usage();
    if (usage == nullptr) {
        report("no_arena", 1);
        peer.put(0U);
        return;
    }
    const unsigned count = opts.connections.at(0);
    std::uint16_t port = 0;
    const int listener = listen_on(INADDR_LOOPBACK, port);
    peer.put(count);
    peer.put(port);

    std::vector<int> fds;
    const auto accept_pair = [&] {
        fds.push_back(accept_one(listener));
        std::byte byte{};
        receive_exactly(fds.back(), {&byte, 1});
        send_exactly(fds.back(), {&byte, 1});
        peer.get<char>();
    };
    accept_pair(); // whatever exists once per process or network exists from here on
    sleep_seconds(until_idle);
    const double before = bytes_in_use(usage);
    peer.put('n');
    for (unsigned i = 0; i < count; ++i) {
        accept_pair();
    }
    report_started();
    sleep_seconds(until_idle);
    report("bytes", (bytes_in_use(usage) - before) / count);
    peer.put('e');
    for (const int fd : fds) {
        close(fd);
    }
}

void hold_client_ends(const options&, const channel& peer) {
    const auto count = peer.get<unsigned>();
    if (count == 0) {
        return;
    }
    const auto port = peer.get<std::uint16_t>();
    std::vector<int> fds;
    const auto connect_pair = [&] {
        fds.push_back(connect_to(INADDR_LOOPBACK, port));
        pass_byte(fds.back(), fds.back()); // there and back: the server returns it
        peer.put('d');
    };
    connect_pair();
    peer.get<char>();
    for (unsigned i = 0; i < count; ++i) {
        connect_pair();
    }
    peer.get<char>();
    for (const int fd : fds) {
        close(fd);
    }
}

// --- CPU time ------------------------------------------------------------------------------------

// All threads of the process, in ns: /proc/PID/stat counts in ticks of 10 ms only.
double cpu_ms_of(pid_t pid) {
    clockid_t clock{};
    errno = clock_getcpuclockid(pid, &clock);
    timespec used{};
    if (errno != 0 || clock_gettime(clock, &used) != 0) {
        fail("the CPU clock of an idle process");
    }
    return double(used.tv_sec) * 1e3 + double(used.tv_nsec) / 1e6;
}

// Processes that do nothing; this one has no socket, it only looks at their CPU clocks.
class idle_processes {
public:
    explicit idle_processes(const options& opts) : opts_(opts) { must(pipe(ready_), "pipe"); }

    // `work` gets the pipe's end to say on that it is idle from now on; it never returns.
    template <class Work> void start(Work work) {
        const pid_t pid = must(fork(), "fork");
        if (pid == 0) {
            guard_child(opts_);
            work(channel{-1, ready_[1]});
            fail_check("an idle process came back from its wait");
        }
        pids_.push_back(pid);
    }

    void measure_and_end() {
        constexpr double settle = 1.0;
        constexpr double watched = 3.0;
        for (std::size_t i = 0; i < pids_.size(); ++i) {
            channel{ready_[0], -1}.get<char>();
        }
        report_started();
        sleep_seconds(settle);
        const double before = cpu_ms();
        sleep_seconds(watched);
        report("cpu_ms", cpu_ms() - before);
        for (const pid_t pid : pids_) {
            if (waitpid(pid, nullptr, WNOHANG) != 0) {
                fail_check("an idle process ended");
            }
            kill(pid, SIGSTOP); // nobody is to notice, and report, that its peer goes first
        }
        for (const pid_t pid : pids_) {
            kill(pid, SIGKILL);
            waitpid(pid, nullptr, 0);
        }
    }

private:
    double cpu_ms() const {
        double sum = 0;
        for (const pid_t pid : pids_) {
            sum += cpu_ms_of(pid);
        }
        return sum;
    }

    const options& opts_;
    int ready_[2];
    std::vector<pid_t> pids_;
};

[[noreturn]] void wait_for_client(int listener, int way) {
    pollfd entry{listener, POLLIN, 0};
    epoll_event event{EPOLLIN, {}};
    switch (way) {
    case 0: accept_one(listener); break;
    case 1: must(poll(&entry, 1, -1), "poll"); break;
    default:
        const int epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
        must(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), "epoll_ctl");
        must(epoll_wait(epoll, &event, 1, -1), "epoll_wait");
        break;
    }
    fail_check("an idle server was woken");
}

} // namespace

void idle_arena(const options& opts) {
    if (allow_connections(opts.connections.at(0) + 1) < opts.connections.at(0) + 1) {
        fail_check("RLIMIT_NOFILE does not permit that many pairs");
    }
    run_pair(opts, hold_server_ends, hold_client_ends);
}

void idle_pair(const options& opts) {
    int port_pipe[2];
    must(pipe(port_pipe), "pipe");
    idle_processes idle(opts);
    idle.start([&](const channel& ready) {
        std::uint16_t port = 0;
        const int listener = listen_on(INADDR_LOOPBACK, port);
        channel{-1, port_pipe[1]}.put(port);
        const int fd = accept_one(listener);
        std::byte byte{};
        receive_exactly(fd, {&byte, 1});
        send_exactly(fd, {&byte, 1});
        ready.put('r');
        receive_exactly(fd, {&byte, 1});
    });
    idle.start([&](const channel& ready) {
        const int fd = connect_to(INADDR_LOOPBACK, channel{port_pipe[0], -1}.get<std::uint16_t>());
        pass_byte(fd, fd);
        ready.put('r');
        std::byte byte{};
        receive_exactly(fd, {&byte, 1});
    });
    idle.measure_and_end();
    close(port_pipe[0]);
    close(port_pipe[1]);
}

void idle_servers(const options& opts) {
    constexpr int servers = 10;
    idle_processes idle(opts);
    for (int i = 0; i < servers; ++i) {
        idle.start([&](const channel& ready) {
            std::uint16_t port = 0;
            const int listener = listen_on(INADDR_LOOPBACK, port);
            ready.put('r');
            wait_for_client(listener, i % 3);
        });
    }
    idle.measure_and_end();
}

} // namespace bench
