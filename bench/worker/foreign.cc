// Role: what a read and a write cost on descriptors that are nobody's socket: 1 byte from
// /dev/zero, 1 byte to /dev/null. With one open socket in the process, and with none.
//
// The added time that is looked for (a few ns) is smaller than the drift between two processes (a
// system call costs 5 % more or less with each placement in memory). So each process compares
// read() with the bare system call instruction, batch by batch, and the driver compares the two
// differences.
#include "support.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace bench {
namespace {

// Written out, because syscall(2) is a libc function that somebody may have replaced as well.
inline long bare_call(long number, long fd, void* data, long size) {
#if defined(__x86_64__)
    long result = number;
    asm volatile("syscall" : "+a"(result) : "D"(fd), "S"(data), "d"(size) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 asm("x8") = number;
    register long x0 asm("x0") = fd;
    register void* x1 asm("x1") = data;
    register long x2 asm("x2") = size;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "write the bare system call for this processor"
#endif
}

constexpr unsigned calls_per_batch = 2000;

template <class Call> double ns_per_call(Call call) {
    const std::uint64_t begin = now_ns();
    for (unsigned i = 0; i < calls_per_batch; ++i) {
        if (call() != 1) {
            fail("a one-byte call on a character device");
        }
    }
    return double(now_ns() - begin) / calls_per_batch;
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

struct comparison {
    std::vector<double> total;
    std::vector<double> over_bare;

    void add(double with_libc, double bare) {
        total.push_back(with_libc);
        over_bare.push_back(with_libc - bare);
    }
};

} // namespace

void foreign_descriptors(const options& opts, bool with_socket) {
    const int zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC), "/dev/zero");
    const int null = must(open("/dev/null", O_WRONLY | O_CLOEXEC), "/dev/null");
    if (with_socket) {
        const int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
        const sockaddr_in address = loopback(INADDR_LOOPBACK, 0);
        must(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
        report_started();
    }
    char byte = 0;
    const auto read_one = [&] { return read(zero, &byte, 1); };
    const auto write_one = [&] { return write(null, &byte, 1); };
    const auto bare_read = [&] { return bare_call(SYS_read, zero, &byte, 1); };
    const auto bare_write = [&] { return bare_call(SYS_write, null, &byte, 1); };

    comparison reads;
    comparison writes;
    const timetable times = timetable::starting_now(opts.seconds);
    while (now_ns() < times.measure_until) {
        const double bare_r = ns_per_call(bare_read);
        const double libc_r = ns_per_call(read_one);
        const double bare_w = ns_per_call(bare_write);
        const double libc_w = ns_per_call(write_one);
        if (now_ns() >= times.warm_until) {
            reads.add(libc_r, bare_r);
            writes.add(libc_w, bare_w);
        }
    }
    if (reads.total.empty()) {
        fail_check("no batch of calls fitted into the window");
    }
    report("read_ns", median(reads.total));
    report("write_ns", median(writes.total));
    report("read_over_bare_ns", median(reads.over_bare));
    report("write_over_bare_ns", median(writes.over_bare));
    report("call_ns", (median(reads.total) + median(writes.total)) / 2);
    report("over_bare_ns", (median(reads.over_bare) + median(writes.over_bare)) / 2);
}

} // namespace bench
