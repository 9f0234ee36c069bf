// Role: affinity, and the measure of a wake-up across CPUs (a ping-pong over two pipes).
#include "placement.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>

namespace bench {
namespace {

cpu_set_t permitted() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        throw std::system_error(errno, std::generic_category(), "sched_getaffinity");
    }
    return set;
}

void allow(const cpu_set_t& set) {
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        throw std::system_error(errno, std::generic_category(), "sched_setaffinity");
    }
}

cpu_set_t only_nth(const cpu_set_t& set, int nth) {
    cpu_set_t only;
    CPU_ZERO(&only);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set) && nth-- == 0) {
            CPU_SET(cpu, &only);
        }
    }
    return only;
}

bool pass(int in, int out) {
    char byte = 0;
    return read(in, &byte, 1) == 1 && write(out, &byte, 1) == 1;
}

} // namespace

int permitted_cpus() {
    const cpu_set_t set = permitted();
    return CPU_COUNT(&set);
}

void pin_to_first_cpu() { allow(only_nth(permitted(), 0)); }

std::optional<double> wake_up_across_cpus() {
    constexpr int rounds = 3000;
    const cpu_set_t all = permitted();
    int there[2];
    int back[2];
    if (CPU_COUNT(&all) < 2 || pipe(there) != 0) {
        return std::nullopt;
    }
    if (pipe(back) != 0) {
        close(there[0]);
        close(there[1]);
        return std::nullopt;
    }
    allow(only_nth(all, 1)); // for the child; not after fork, where nothing may throw
    const pid_t child = fork();
    if (child == 0) {
        close(there[1]);
        while (pass(there[0], back[1])) {
        }
        _exit(0);
    }
    allow(only_nth(all, 0));
    const auto begin = std::chrono::steady_clock::now();
    int done = 0;
    if (child > 0 && write(there[1], "", 1) == 1) {
        while (done < rounds && pass(back[0], there[1])) {
            ++done;
        }
    }
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    for (const int fd : {there[0], there[1], back[0], back[1]}) {
        close(fd);
    }
    if (child > 0) {
        waitpid(child, nullptr, 0);
    }
    allow(all);
    return done == rounds ? std::optional(time.count() / rounds / 2) : std::nullopt;
}

} // namespace bench
