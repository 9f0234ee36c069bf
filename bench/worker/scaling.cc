// Role: does a connection, or an event, cost more when there are more connections? N connections
// to one epoll server; one at a time, in turn, does a request. Also: what each connect cost.
//
// The server's address is another one for each N and each run: 10,000 connections and the
// TIME_WAITs of earlier runs together would not fit into one destination's ephemeral ports.
#include "epoll_server.h"
#include "support.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace bench {
namespace {

struct place {
    std::uint32_t address;
    std::uint16_t port;
};

struct costs {
    double transactions_per_second;
    double ns_per_connect;
};

// Connects are timed in batches, and the server has accepted a batch before the next one begins: a
// client that outruns it would fill the backlog and then measure the retransmission of SYNs.
constexpr unsigned batch = 100;
// A few connections are made several times over, so that there are some batches to take the median
// of.
constexpr unsigned least_connects = 1000;

unsigned rounds_for(unsigned count) { return std::max(1U, least_connects / count); }

std::string key(const char* what, unsigned count) {
    return std::string(what) + "_" + std::to_string(count);
}

void serve(const options& opts, const channel& peer) {
    const unsigned count = opts.connections.at(0);
    place where{fresh_loopback_network() + count % 250 + 1, 0};
    const int listener = listen_on(where.address, where.port);
    const int epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    peer.put(where);

    std::vector<int> fds(count);
    for (unsigned round = rounds_for(count); round > 0; --round) {
        for (unsigned i = 0; i < count; ++i) {
            fds[i] = accept_into_epoll(epoll, listener);
            if ((i + 1) % batch == 0 || i + 1 == count) {
                peer.put('a');
            }
        }
        if (round > 1) {
            peer.get<char>();
            for (const int fd : fds) {
                close(fd);
            }
            peer.put('c');
        }
    }
    close(listener);
    peer.put(timetable::starting_now(opts.seconds));
    report_started();
    answer_by_epoll(epoll, count);
    close(epoll);
}

// Returns the time of one connect in each batch.
std::vector<double> connect_all(std::vector<int>& fds, const place& where, const channel& peer) {
    std::vector<double> times;
    for (std::size_t done = 0; done < fds.size();) {
        const std::size_t size = std::min<std::size_t>(batch, fds.size() - done);
        const std::uint64_t begin = now_ns();
        for (std::size_t i = 0; i < size; ++i) {
            fds[done + i] = connect_to(where.address, where.port);
        }
        times.push_back(double(now_ns() - begin) / double(size));
        done += size;
        peer.get<char>();
    }
    return times;
}

// The later half: at 10,000 connections it is the cost with many of them that is asked for, and at
// 100 the first batch may have things to set up once.
double typical_of_later_half(std::vector<double> times) {
    times.erase(times.begin(), times.begin() + std::ptrdiff_t(times.size() / 2));
    const auto middle = times.begin() + std::ptrdiff_t(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
}

// The costs go through a pipe to the worker's first process, which compares the sizes.
int costs_pipe[2];

void drive(const options& opts, const channel& peer) {
    const auto where = peer.get<place>();
    std::vector<int> fds(opts.connections.at(0));
    std::vector<double> connect_times;
    for (unsigned round = rounds_for(unsigned(fds.size())); round > 0; --round) {
        const auto times = connect_all(fds, where, peer);
        connect_times.insert(connect_times.end(), times.begin(), times.end());
        if (round > 1) {
            for (const int fd : fds) {
                close(fd);
            }
            peer.put('c');
            peer.get<char>();
        }
    }
    for (const int fd : fds) {
        set_no_delay(fd);
    }

    window measured(peer.get<timetable>(), 16);
    std::array<std::byte, small_size> message{};
    std::uint64_t number = 0;
    do {
        const int fd = fds[number % fds.size()];
        mark_block(message, ++number);
        send_exactly(fd, message);
        if (!receive_exactly(fd, message) || read_block(message) != answer_to(number)) {
            fail_check("this is not the answer to the request");
        }
    } while (measured.add(1));

    const costs result{measured.per_second(), typical_of_later_half(connect_times)};
    for (const int fd : fds) {
        close(fd);
    }
    channel{-1, costs_pipe[1]}.put(result);
}

} // namespace

void scaling(const options& opts) {
    must(pipe(costs_pipe), "pipe");
    std::vector<costs> results;
    for (const unsigned wanted : opts.connections) {
        const unsigned count = allow_connections(wanted);
        if (count < wanted) {
            report(key("limited", wanted), count);
        }
        options single = opts;
        single.connections = {count};
        run_pair(single, serve, drive);
        const auto result = channel{costs_pipe[0], -1}.get<costs>();
        report(key("rate", wanted), result.transactions_per_second);
        report(key("connect_ns", wanted), result.ns_per_connect);
        results.push_back(result);
    }
    if (results.size() > 1) {
        const auto& few = results.front();
        const auto& many = results.back();
        report("growth", few.transactions_per_second / many.transactions_per_second);
        report("connect_growth", many.ns_per_connect / few.ns_per_connect);
    }
}

} // namespace bench
