// Role: many connections of one client process to one epoll server: all of them busy, each with
// one 64-byte request under way.
#include "epoll_server.h"

#include "support.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace bench {
namespace {

constexpr int events_per_wait = 64;

void watch(int epoll, int fd, std::uint32_t index) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = std::uint64_t(index) << 32 | std::uint32_t(fd);
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

int fd_of(const epoll_event& event) { return int(event.data.u64 & 0xffff'ffff); }
std::uint32_t index_of(const epoll_event& event) { return std::uint32_t(event.data.u64 >> 32); }

int wait_for_events(int epoll, std::array<epoll_event, events_per_wait>& events) {
    return must(epoll_wait(epoll, events.data(), events_per_wait, -1), "epoll_wait");
}

enum class received { message, nothing, end };

// Sends of 64 bytes arrive whole in practice, but TCP promises no such thing: the rest of a message
// is then waited for, which costs this measure nothing.
received receive_message(int fd, std::span<std::byte> message) {
    const ssize_t got = recv(fd, message.data(), message.size(), 0);
    if (got == 0) {
        return received::end;
    }
    if (got < 0) {
        if (errno != EAGAIN) {
            fail("recv");
        }
        return received::nothing;
    }
    auto rest = message.subspan(std::size_t(got));
    while (!rest.empty()) {
        const ssize_t more = recv(fd, rest.data(), rest.size(), 0);
        if (more == 0) {
            fail_check("the stream ended inside a message");
        }
        if (more < 0 && errno != EAGAIN) {
            fail("recv");
        }
        rest = rest.subspan(more > 0 ? std::size_t(more) : 0);
    }
    return received::message;
}

void serve(const options& opts, const channel& peer) {
    const unsigned count = opts.connections.at(0);
    std::uint16_t port = 0;
    const int listener = listen_on(INADDR_LOOPBACK, port);
    peer.put(port);
    const int epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    for (unsigned i = 0; i < count; ++i) {
        accept_into_epoll(epoll, listener);
    }
    close(listener);
    peer.put(timetable::starting_now(opts.seconds));
    report_started();
    answer_by_epoll(epoll, count);
    close(epoll);
}

void drive(const options& opts, const channel& peer) {
    const unsigned count = opts.connections.at(0);
    const auto port = peer.get<std::uint16_t>();
    const int epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    std::vector<int> fds(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        fds[i] = connect_to(INADDR_LOOPBACK, port);
        set_no_delay(fds[i]);
        set_non_blocking(fds[i]);
        watch(epoll, fds[i], i);
    }
    window measured(peer.get<timetable>(), 16);

    std::array<std::byte, small_size> message{};
    std::vector<std::uint64_t> numbers(count);
    const auto ask = [&](std::uint32_t index) {
        // The upper half tells connections apart: an answer on the wrong one is noticed.
        numbers[index] = (std::uint64_t(index) << 40) + (numbers[index] & 0xff'ffff'ffff) + 1;
        mark_block(message, numbers[index]);
        send_exactly(fds[index], message);
    };
    for (std::uint32_t i = 0; i < count; ++i) {
        ask(i);
    }
    std::array<epoll_event, events_per_wait> events{};
    bool more = true;
    while (more) {
        const int ready = wait_for_events(epoll, events);
        for (int i = 0; i < ready; ++i) {
            const auto& event = events[std::size_t(i)];
            const auto result = receive_message(fd_of(event), message);
            if (result == received::end) {
                fail_check("the server ended the connection");
            }
            if (result == received::nothing) {
                continue;
            }
            if (read_block(message) != answer_to(numbers[index_of(event)])) {
                fail_check("this is not the answer to the request");
            }
            more = measured.add(1) && more;
            ask(index_of(event));
        }
    }
    report("rate", measured.per_second());
    // One answer is still under way on each connection; closing before it is read would reset the
    // connection under the server.
    for (const int fd : fds) {
        must(shutdown(fd, SHUT_WR), "shutdown");
    }
    for (std::uint32_t i = 0; i < count; ++i) {
        while (true) {
            const ssize_t got = recv(fds[i], message.data(), message.size(), 0);
            if (got == 0) {
                break;
            }
            if (got < 0 && errno != EAGAIN) {
                fail("recv");
            }
        }
        close(fds[i]);
    }
    close(epoll);
}

} // namespace

int accept_into_epoll(int epoll, int listener) {
    const int fd = accept_one(listener);
    set_no_delay(fd);
    set_non_blocking(fd);
    watch(epoll, fd, 0);
    return fd;
}

void answer_by_epoll(int epoll, unsigned connections) {
    std::array<epoll_event, events_per_wait> events{};
    std::array<std::byte, small_size> message{};
    while (connections > 0) {
        const int ready = wait_for_events(epoll, events);
        for (int i = 0; i < ready; ++i) {
            const int fd = fd_of(events[std::size_t(i)]);
            switch (receive_message(fd, message)) {
            case received::message:
                mark_block(message, answer_to(read_block(message)));
                send_exactly(fd, message);
                break;
            case received::nothing: break;
            case received::end:
                close(fd);
                --connections;
                break;
            }
        }
    }
}

void epoll_server(const options& opts) { run_pair(opts, serve, drive); }

} // namespace bench
