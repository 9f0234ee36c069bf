// Role: what all workloads of sockshim-bench-worker share: the clock, the measuring window, the
// pipes between the two processes, the messages and their check, result lines, socket shorthands.
// The worker is a plain sockets program; it does not know whether a shim is under it.
#pragma once

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace bench {

struct options {
    std::string measure;
    double seconds = 1.0;
    bool apart = false; // server and client each on a CPU of its own
    std::vector<unsigned> connections;
};

// --- failure -------------------------------------------------------------------------------------

// A worker never repairs: whatever is unexpected ends the run, and the driver shows "failed".
[[noreturn]] void fail(const char* what);       // with errno
[[noreturn]] void fail_check(const char* what); // a check of the content or of the counts

inline int must(int result, const char* what) {
    if (result < 0) {
        fail(what);
    }
    return result;
}

// --- time ----------------------------------------------------------------------------------------

std::uint64_t now_ns();
void sleep_seconds(double seconds);

// One timetable for both processes; CLOCK_MONOTONIC is the same clock in each.
struct timetable {
    std::uint64_t warm_until;
    std::uint64_t measure_until;
    std::uint64_t send_until; // past the window, so that the senders' end is not inside it

    static timetable starting_now(double seconds);
};

// Counts what happens between warm-up and end, using the times at which the edges were really seen.
// The clock is looked at once per `stride` calls: 25 ns a look would distort a call of 100 ns.
class window {
public:
    window(const timetable& times, unsigned stride) : times_(times), stride_(stride) {}

    // Returns false once the window is over.
    bool add(std::uint64_t amount) {
        count_ += amount;
        if (++calls_ < stride_) {
            return true;
        }
        calls_ = 0;
        return look_at_clock();
    }

    bool complete() const { return end_ns_ != 0; }
    double per_second() const;

private:
    bool look_at_clock();

    timetable times_;
    unsigned stride_;
    unsigned calls_ = 0;
    std::uint64_t count_ = 0;
    std::uint64_t begin_ns_ = 0;
    std::uint64_t begin_count_ = 0;
    std::uint64_t end_ns_ = 0;
    std::uint64_t end_count_ = 0;
};

// --- the two processes ---------------------------------------------------------------------------

// A pair of pipes, one end of each in each process. Pipes, because they work the same in both runs.
struct channel {
    int in = -1;
    int out = -1;

    template <class T> void put(const T& value) const { write_all(&value, sizeof value); }
    template <class T> T get() const {
        T value;
        read_all(&value, sizeof value);
        return value;
    }

private:
    void write_all(const void* data, std::size_t size) const;
    void read_all(void* data, std::size_t size) const;
};

using role = void (*)(const options&, const channel&);

// Forks before the first socket exists, so that these are two programs that share nothing but the
// pipes; the server is the parent. Returns after both ended well, fails otherwise.
void run_pair(const options& opts, role server, role client);

// Puts the calling process on the nth CPU that it may use.
void pin_to_nth_cpu(int nth);

// After fork: dies with its parent, and by itself when it takes far too long.
void guard_child(const options& opts);
void arm_alarm(const options& opts);

// Tells the driver that all sockets are there: it then looks whose sockets they are.
void report_started();
void report(const std::string& key, double value);

// --- messages ------------------------------------------------------------------------------------

inline constexpr std::size_t small_size = 64;
inline constexpr std::size_t large_size = 64 * 1024;

// A block starts with its number and ends with the complement: cheap to write and to check, and it
// shows loss, doubling, mixing and shifting of bytes.
inline void mark_block(std::span<std::byte> block, std::uint64_t number) {
    const std::uint64_t tail = ~number;
    std::memcpy(block.data(), &number, sizeof number);
    std::memcpy(block.data() + block.size() - sizeof tail, &tail, sizeof tail);
}

// The number in the block, after the check that its two marks belong together.
inline std::uint64_t read_block(std::span<const std::byte> block) {
    std::uint64_t number = 0;
    std::uint64_t tail = 0;
    std::memcpy(&number, block.data(), sizeof number);
    std::memcpy(&tail, block.data() + block.size() - sizeof tail, sizeof tail);
    if (tail != ~number) {
        fail_check("the two marks of a message do not belong together");
    }
    return number;
}

// What a server answers to a request of this number: not the same, so that no echo passes for it.
inline std::uint64_t answer_to(std::uint64_t number) { return number * 3 + 1; }

// --- sockets -------------------------------------------------------------------------------------

sockaddr_in loopback(std::uint32_t host_address, std::uint16_t port);
// A loopback address which no run of the last minute has used: no TIME_WAIT is in the way there.
std::uint32_t fresh_loopback_network();

int listen_on(std::uint32_t host_address, std::uint16_t& port);
int connect_to(std::uint32_t host_address, std::uint16_t port);
int accept_one(int listener);
void set_no_delay(int fd);
void set_non_blocking(int fd);

void send_exactly(int fd, std::span<const std::byte> data);
// False at the end of the stream; an end inside a message fails.
bool receive_exactly(int fd, std::span<std::byte> data);

// Raises RLIMIT_NOFILE as far as permitted; returns how many connections then fit.
unsigned allow_connections(unsigned wanted);

// --- the workloads, one file each ----------------------------------------------------------------

void tcp_request_response(const options& opts);
void tcp_small_sends(const options& opts);
void tcp_bulk(const options& opts);
void udp_one_way(const options& opts);
void connect_rate(const options& opts);
void epoll_server(const options& opts);
void foreign_descriptors(const options& opts, bool with_socket);
void scaling(const options& opts);
void idle_arena(const options& opts);
void idle_pair(const options& opts);
void idle_servers(const options& opts);

} // namespace bench
