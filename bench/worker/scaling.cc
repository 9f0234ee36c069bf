// Role: does a connection, or an event, cost more when there are more connections? N connections
// to one epoll server; one at a time, in turn, does a request. Also: what one more connect costs when there
// are N (the last hundred are closed and made again, some times), and what it cost when all N were new and
// so was the memory for them.
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
    double ns_per_first_connect;
};

// Connects are timed in batches, and the server has accepted a batch before the next one begins: a
// client that outruns it would fill the backlog and then measure the retransmission of SYNs.
constexpr unsigned batch = 100;
constexpr unsigned rounds = 20;

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
    const auto accept_from = [&](unsigned first) {
        for (unsigned i = first; i < count; ++i) {
            fds[i] = accept_into_epoll(epoll, listener);
            if ((i + 1) % batch == 0 || i + 1 == count) {
                peer.put('a');
            }
        }
    };
    accept_from(0);
    const unsigned kept = count - std::min(count, batch);
    for (unsigned round = 0; round < rounds; ++round) {
        peer.get<char>();
        for (unsigned i = kept; i < count; ++i) {
            close(fds[i]);
        }
        peer.put('c');
        accept_from(kept);
    }
    close(listener);
    peer.put(timetable::starting_now(opts.seconds));
    report_started();
    answer_by_epoll(epoll, count);
    close(epoll);
}

// Connects what is from `first` on. Returns the time of one connect in each batch.
std::vector<double> connect_from(std::size_t first, std::vector<int>& fds, const place& where,
                                 const channel& peer) {
    std::vector<double> times;
    for (std::size_t done = first; done < fds.size();) {
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

// The later half: the first batches may have things to set up once.
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
    const auto first_times = connect_from(0, fds, where, peer);
    const std::size_t kept = fds.size() - std::min<std::size_t>(fds.size(), batch);
    std::vector<double> times;
    for (unsigned round = 0; round < rounds; ++round) {
        for (std::size_t i = kept; i < fds.size(); ++i) {
            close(fds[i]);
        }
        peer.put('c');
        peer.get<char>();
        const auto again = connect_from(kept, fds, where, peer);
        times.insert(times.end(), again.begin(), again.end());
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

    const costs result{measured.per_second(), typical_of_later_half(times),
                       typical_of_later_half(first_times)};
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
        report(key("first_connect_ns", wanted), result.ns_per_first_connect);
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
