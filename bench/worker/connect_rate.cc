// Role: short connections, one after the other: connect, 64-byte request, response, close.
//
// Every connection leaves a TIME_WAIT of a minute, and there are only some 28,000 ephemeral ports
// per destination: at 20,000 and more connections a second one destination would be used up within
// a run, and what is measured would be the search for a free port. So the server listens on every
// address, and each connection goes to the next of 4,000 addresses 127.x.y.z, which are others in
// each run. Both sides of a pair do the same; no port option or sysctl is touched.
#include "support.h"

#include <unistd.h>

#include <array>

namespace bench {
namespace {

constexpr std::uint64_t last_request = 1ULL << 62;

void serve_short_connections(const options& opts, const channel& peer) {
    std::uint16_t port = 0;
    const int listener = listen_on(INADDR_ANY, port);
    peer.put(port);
    peer.put(timetable::starting_now(opts.seconds));
    report_started();

    std::array<std::byte, small_size> message{};
    bool more = true;
    while (more) {
        const int fd = accept_one(listener);
        if (!receive_exactly(fd, message)) {
            fail_check("a connection without a request");
        }
        const std::uint64_t number = read_block(message);
        more = number != last_request;
        mark_block(message, answer_to(number));
        send_exactly(fd, message);
        close(fd);
    }
    close(listener);
}

class destinations {
public:
    std::uint32_t next() {
        last_ = last_ == 250 ? 1 : last_ + 1;
        if (last_ == 1) {
            block_ = (block_ + 1) % 16;
        }
        return network_ + (block_ << 8) + last_;
    }

private:
    std::uint32_t network_ = fresh_loopback_network();
    std::uint32_t block_ = 0;
    std::uint32_t last_ = 0;
};

void ask_once(std::uint32_t address, std::uint16_t port, std::uint64_t number) {
    std::array<std::byte, small_size> message{};
    const int fd = connect_to(address, port);
    mark_block(message, number);
    send_exactly(fd, message);
    if (!receive_exactly(fd, message) || read_block(message) != answer_to(number)) {
        fail_check("this is not the answer to the request");
    }
    close(fd);
}

void ask_on_short_connections(const options&, const channel& peer) {
    const auto port = peer.get<std::uint16_t>();
    window measured(peer.get<timetable>(), 4);
    destinations where;
    std::uint64_t number = 0;
    do {
        ask_once(where.next(), port, ++number);
    } while (measured.add(1));
    ask_once(where.next(), port, last_request);
    report("rate", measured.per_second());
}

} // namespace

void connect_rate(const options& opts) {
    run_pair(opts, serve_short_connections, ask_on_short_connections);
}

} // namespace bench
