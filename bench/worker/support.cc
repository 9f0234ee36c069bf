// Role: the parts of support.h that are not on a hot path.
#include "support.h"

#include <arpa/inet.h>
#include <csignal>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace bench {

void fail(const char* what) {
    std::fprintf(stderr, "sockshim-bench-worker[%d]: %s: %s\n", getpid(), what, strerror(errno));
    _exit(1);
}

void fail_check(const char* what) {
    std::fprintf(stderr, "sockshim-bench-worker[%d]: check failed: %s\n", getpid(), what);
    _exit(1);
}

// --- time ----------------------------------------------------------------------------------------

std::uint64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::uint64_t(now.tv_sec) * 1'000'000'000 + std::uint64_t(now.tv_nsec);
}

void sleep_seconds(double seconds) {
    timespec left{};
    left.tv_sec = time_t(seconds);
    left.tv_nsec = long((seconds - double(left.tv_sec)) * 1e9);
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

timetable timetable::starting_now(double seconds) {
    // Warm-up: buffers grow to their size, the scheduler settles, a waiting policy adapts.
    constexpr std::uint64_t warm_up = 200'000'000;
    constexpr std::uint64_t overrun = 50'000'000;
    timetable times{};
    times.warm_until = now_ns() + warm_up;
    times.measure_until = times.warm_until + std::uint64_t(seconds * 1e9);
    times.send_until = times.measure_until + overrun;
    return times;
}

bool window::look_at_clock() {
    const std::uint64_t now = now_ns();
    if (begin_ns_ == 0) {
        if (now >= times_.warm_until) {
            begin_ns_ = now;
            begin_count_ = count_;
        }
        return true;
    }
    if (now < times_.measure_until) {
        return true;
    }
    if (end_ns_ == 0) {
        end_ns_ = now;
        end_count_ = count_;
    }
    return false;
}

double window::per_second() const {
    if (!complete()) {
        fail_check("the transfer ended before the measuring window did");
    }
    return double(end_count_ - begin_count_) * 1e9 / double(end_ns_ - begin_ns_);
}

// --- the two processes ---------------------------------------------------------------------------

void channel::write_all(const void* data, std::size_t size) const {
    if (write(out, data, size) != ssize_t(size)) { // below PIPE_BUF: whole or not at all
        fail("write to the other process");
    }
}

void channel::read_all(void* data, std::size_t size) const {
    if (read(in, data, size) != ssize_t(size)) {
        fail("read from the other process (it ended early)");
    }
}

void pin_to_nth_cpu(int nth) {
    cpu_set_t permitted;
    must(sched_getaffinity(0, sizeof permitted, &permitted), "sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &permitted) && nth-- == 0) {
            cpu_set_t only;
            CPU_ZERO(&only);
            CPU_SET(cpu, &only);
            must(sched_setaffinity(0, sizeof only, &only), "sched_setaffinity");
            return;
        }
    }
    fail_check("not enough CPUs to put server and client apart");
}

void arm_alarm(const options& opts) {
    // The driver's watchdog is the first to fire; this is for a worker whose driver was killed.
    alarm(unsigned(opts.seconds * 10) + 25);
}

void guard_child(const options& opts) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    arm_alarm(opts);
}

void run_pair(const options& opts, role server, role client) {
    int to_client[2];
    int to_server[2];
    must(pipe(to_client), "pipe");
    must(pipe(to_server), "pipe");
    const pid_t child = must(fork(), "fork");
    if (child == 0) {
        guard_child(opts);
        if (opts.apart) {
            pin_to_nth_cpu(1);
        }
        close(to_client[1]);
        close(to_server[0]);
        client(opts, channel{to_client[0], to_server[1]});
        std::exit(0);
    }
    cpu_set_t before;
    must(sched_getaffinity(0, sizeof before, &before), "sched_getaffinity");
    if (opts.apart) {
        pin_to_nth_cpu(0);
    }
    close(to_client[0]);
    close(to_server[1]);
    const channel to_peer{to_server[0], to_client[1]};
    server(opts, to_peer);

    int status = 0;
    must(waitpid(child, &status, 0), "waitpid");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_check("the client process did not end well");
    }
    close(to_peer.in);
    close(to_peer.out);
    must(sched_setaffinity(0, sizeof before, &before), "sched_setaffinity");
}

namespace {

void write_line(const char* line, int length) {
    // One write per line: two processes share the pipe to the driver.
    if (write(STDOUT_FILENO, line, std::size_t(length)) != length) {
        _exit(1);
    }
}

} // namespace

void report_started() { report("started", 1); }

void report(const std::string& key, double value) {
    char line[128];
    const int length = std::snprintf(line, sizeof line, "%s %.9g\n", key.c_str(), value);
    write_line(line, length);
}

// --- sockets -------------------------------------------------------------------------------------

sockaddr_in loopback(std::uint32_t host_address, std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(host_address);
    return address;
}

std::uint32_t fresh_loopback_network() {
    // 127.(1..250).(0,16,..240).0: a block of 16 * 256 addresses, chosen by the time.
    const std::uint64_t ticks = now_ns() / 100'000'000 + std::uint64_t(getpid());
    const auto second = std::uint32_t(1 + ticks % 250);
    const auto third = std::uint32_t((ticks / 250) % 16 * 16);
    return (127U << 24) | (second << 16) | (third << 8);
}

int listen_on(std::uint32_t host_address, std::uint16_t& port) {
    const int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    sockaddr_in address = loopback(host_address, 0);
    must(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), "bind");
    must(listen(fd, 4096), "listen");
    socklen_t length = sizeof address;
    must(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), "getsockname");
    port = ntohs(address.sin_port);
    return fd;
}

int connect_to(std::uint32_t host_address, std::uint16_t port) {
    const int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    const sockaddr_in address = loopback(host_address, port);
    must(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
    return fd;
}

int accept_one(int listener) { return must(accept(listener, nullptr, nullptr), "accept"); }

void set_no_delay(int fd) {
    const int on = 1;
    must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
}

void set_non_blocking(int fd) {
    const int flags = must(fcntl(fd, F_GETFL), "F_GETFL");
    must(fcntl(fd, F_SETFL, flags | O_NONBLOCK), "F_SETFL");
}

void send_exactly(int fd, std::span<const std::byte> data) {
    while (!data.empty()) {
        const ssize_t sent = send(fd, data.data(), data.size(), 0);
        if (sent < 0) {
            fail("send");
        }
        data = data.subspan(std::size_t(sent));
    }
}

bool receive_exactly(int fd, std::span<std::byte> data) {
    const std::size_t wanted = data.size();
    while (!data.empty()) {
        const ssize_t got = recv(fd, data.data(), data.size(), 0);
        if (got < 0) {
            fail("recv");
        }
        if (got == 0) {
            if (data.size() != wanted) {
                fail_check("the stream ended inside a message");
            }
            return false;
        }
        data = data.subspan(std::size_t(got));
    }
    return true;
}

unsigned allow_connections(unsigned wanted) {
    constexpr rlim_t other_descriptors = 64; // pipes, epoll, and what a library keeps for itself
    rlimit limit{};
    must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    const rlim_t needed = wanted + other_descriptors;
    if (limit.rlim_max < needed) {
        const rlimit raised{needed, needed};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) {
            return wanted;
        }
    }
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
    const rlim_t room = limit.rlim_cur > other_descriptors ? limit.rlim_cur - other_descriptors : 1;
    return unsigned(std::min<rlim_t>(wanted, room));
}

} // namespace bench
