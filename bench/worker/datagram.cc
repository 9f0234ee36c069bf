// Role: UDP, 64-byte datagrams one way. Only what arrives counts; the sender does not wait.
#include "support.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace bench {
namespace {

// A datagram may get lost, and over the kernel's loopback it may even be overtaken when the sender
// moves to another core. So order is not checked; whole, unmixed and not more than sent is.
void receive_datagrams(const options& opts, const channel& peer) {
    const int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    sockaddr_in address = loopback(INADDR_LOOPBACK, 0);
    socklen_t length = sizeof address;
    must(bind(fd, reinterpret_cast<sockaddr*>(&address), length), "bind");
    must(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), "getsockname");
    peer.put(ntohs(address.sin_port));
    peer.get<char>(); // the sender's socket is there too
    const timetable times = timetable::starting_now(opts.seconds);
    peer.put(times);
    report_started();

    window measured(times, 16);
    std::array<std::byte, 2048> buffer;
    std::uint64_t received = 0;
    std::uint64_t highest = 0;
    bool more = true;
    while (more) {
        const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
        if (got < 0) {
            fail("recv");
        }
        if (got != ssize_t(small_size)) {
            fail_check("a datagram of another size than sent");
        }
        highest = std::max(highest, read_block(std::span(buffer).first(small_size)));
        ++received;
        more = measured.add(1);
    }
    const auto sent = peer.get<std::uint64_t>();
    if (highest > sent || received > sent) {
        fail_check("more datagrams received than sent");
    }
    report("rate", measured.per_second());
    report("received_share", double(received) / double(highest));
    close(fd);
}

void send_datagrams(const options&, const channel& peer) {
    const int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    const sockaddr_in address = loopback(INADDR_LOOPBACK, peer.get<std::uint16_t>());
    must(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
    peer.put('s');
    const auto times = peer.get<timetable>();

    std::array<std::byte, small_size> datagram{};
    std::uint64_t number = 0;
    while (number % 64 != 0 || now_ns() < times.send_until) {
        mark_block(datagram, ++number);
        // ENOBUFS is a full device, that is: a lost datagram.
        if (send(fd, datagram.data(), datagram.size(), 0) < 0 && errno != ENOBUFS) {
            fail("send");
        }
    }
    peer.put(number);
    close(fd);
}

} // namespace

void udp_one_way(const options& opts) { run_pair(opts, receive_datagrams, send_datagrams); }

} // namespace bench
