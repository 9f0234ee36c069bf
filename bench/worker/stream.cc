// Role: TCP on one connection: request/response of 64 bytes, sends of 64 bytes one way, and blocks
// of 64 KiB one way. The side that receives counts, and checks every message.
#include "support.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace bench {
namespace {

constexpr std::uint32_t localhost = INADDR_LOOPBACK;

int accept_client(const channel& peer) {
    std::uint16_t port = 0;
    const int listener = listen_on(localhost, port);
    peer.put(port);
    const int fd = accept_one(listener);
    set_no_delay(fd);
    close(listener);
    return fd;
}

int connect_client(const channel& peer) {
    const int fd = connect_to(localhost, peer.get<std::uint16_t>());
    set_no_delay(fd);
    return fd;
}

// --- request/response ----------------------------------------------------------------------------

void answer_requests(const options& opts, const channel& peer) {
    const int fd = accept_client(peer);
    peer.put(timetable::starting_now(opts.seconds));
    report_started();

    std::array<std::byte, small_size> message{};
    while (receive_exactly(fd, message)) {
        mark_block(message, answer_to(read_block(message)));
        send_exactly(fd, message);
    }
    close(fd);
}

void send_requests(const options&, const channel& peer) {
    const int fd = connect_client(peer);
    window measured(peer.get<timetable>(), 16);

    std::array<std::byte, small_size> message{};
    std::uint64_t number = 0;
    do {
        mark_block(message, ++number);
        send_exactly(fd, message);
        if (!receive_exactly(fd, message)) {
            fail_check("the server ended the connection");
        }
        if (read_block(message) != answer_to(number)) {
            fail_check("this is not the answer to the request");
        }
    } while (measured.add(1));
    report("rate", measured.per_second());
    close(fd);
}

// --- one way -------------------------------------------------------------------------------------

// Follows a stream of numbered blocks, in whatever pieces it comes.
class stream_checker {
public:
    explicit stream_checker(std::size_t block_size) : block_size_(block_size) {}

    void consume(std::span<const std::byte> piece) {
        total_ += piece.size();
        while (!piece.empty()) {
            std::size_t step = 0;
            if (offset_ < mark_size) {
                step = check_mark(piece, offset_, block_);
            } else if (offset_ < block_size_ - mark_size) {
                step = std::min(piece.size(), block_size_ - mark_size - offset_);
            } else {
                step = check_mark(piece, offset_ - (block_size_ - mark_size), ~block_);
            }
            piece = piece.subspan(step);
            offset_ += step;
            if (offset_ == block_size_) {
                offset_ = 0;
                ++block_;
            }
        }
    }

    std::uint64_t total() const { return total_; }

private:
    static constexpr std::size_t mark_size = sizeof(std::uint64_t);

    // Compares what is there of the mark; a piece may end, or begin, inside it.
    static std::size_t check_mark(std::span<const std::byte> piece, std::size_t from,
                                  std::uint64_t expected) {
        if (from == 0 && piece.size() >= mark_size) {
            std::uint64_t found = 0;
            std::memcpy(&found, piece.data(), mark_size);
            if (found != expected) {
                fail_check("a block of the stream has another number than expected");
            }
            return mark_size;
        }
        const std::size_t size = std::min(piece.size(), mark_size - from);
        const auto* bytes = reinterpret_cast<const std::byte*>(&expected);
        if (std::memcmp(piece.data(), bytes + from, size) != 0) {
            fail_check("a block of the stream has another number than expected");
        }
        return size;
    }

    std::size_t block_size_;
    std::size_t offset_ = 0;
    std::uint64_t block_ = 0;
    std::uint64_t total_ = 0;
};

double receive_stream(const options& opts, const channel& peer, std::size_t block_size) {
    const int fd = accept_client(peer);
    const timetable times = timetable::starting_now(opts.seconds);
    peer.put(times);
    report_started();

    window measured(times, 16);
    stream_checker checker(block_size);
    std::vector<std::byte> buffer(large_size);
    while (true) {
        const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
        if (got < 0) {
            fail("recv");
        }
        if (got == 0) {
            break;
        }
        checker.consume(std::span(buffer).first(std::size_t(got)));
        measured.add(std::uint64_t(got));
    }
    if (checker.total() != peer.get<std::uint64_t>()) {
        fail_check("not as many bytes received as sent");
    }
    close(fd);
    return measured.per_second();
}

void send_stream(const channel& peer, std::size_t block_size) {
    const int fd = connect_client(peer);
    const auto times = peer.get<timetable>();

    std::vector<std::byte> block(block_size);
    const std::uint64_t blocks_per_look = block_size == small_size ? 64 : 1;
    std::uint64_t number = 0;
    while (number % blocks_per_look != 0 || now_ns() < times.send_until) {
        mark_block(block, number++);
        send_exactly(fd, block);
    }
    must(shutdown(fd, SHUT_WR), "shutdown");
    peer.put(number * block_size);
    // Closing is the receiver's turn first: it has then read everything.
    std::byte rest{};
    if (recv(fd, &rest, 1, 0) != 0) {
        fail_check("something came back on a one-way stream");
    }
    close(fd);
}

void receive_small(const options& opts, const channel& peer) {
    report("rate", receive_stream(opts, peer, small_size) / double(small_size));
}

void send_small(const options&, const channel& peer) { send_stream(peer, small_size); }

void receive_bulk(const options& opts, const channel& peer) {
    report("rate", receive_stream(opts, peer, large_size));
}

void send_bulk(const options&, const channel& peer) { send_stream(peer, large_size); }

} // namespace

void tcp_request_response(const options& opts) { run_pair(opts, answer_requests, send_requests); }
void tcp_small_sends(const options& opts) { run_pair(opts, receive_small, send_small); }
void tcp_bulk(const options& opts) { run_pair(opts, receive_bulk, send_bulk); }

} // namespace bench
