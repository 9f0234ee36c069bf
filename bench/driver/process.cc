// Role: posix_spawn with or without LD_PRELOAD, the watchdog, the reader of results, and the look
// from outside at whose sockets a worker holds.
#include "process.h"

#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace bench {
namespace {

namespace fs = std::filesystem;
using clock = std::chrono::steady_clock; // CLOCK_MONOTONIC

// --- starting a program --------------------------------------------------------------------------

class environment {
public:
    environment(side which, const fs::path& library) {
        for (char** entry = environ; *entry != nullptr; ++entry) {
            if (!std::string_view(*entry).starts_with("LD_PRELOAD=")) {
                strings_.emplace_back(*entry);
            }
        }
        if (which == side::sockshim) {
            strings_.push_back("LD_PRELOAD=" + library.string());
        }
        pointers_.reserve(strings_.size() + 1);
        for (auto& each : strings_) {
            pointers_.push_back(each.data());
        }
        pointers_.push_back(nullptr);
    }
    char* const* get() const { return pointers_.data(); }

private:
    std::vector<std::string> strings_;
    std::vector<char*> pointers_;
};

class file_actions {
public:
    // The program gets /dev/null, our pipe (if any) and our stderr, and nothing else: a descriptor
    // of ours that happens to be a socket would be mistaken for one of its own.
    explicit file_actions(int output) {
        posix_spawn_file_actions_init(&actions_);
        posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (output >= 0) {
            posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO);
        }
        posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);
    }
    ~file_actions() { posix_spawn_file_actions_destroy(&actions_); }
    file_actions(const file_actions&) = delete;
    file_actions& operator=(const file_actions&) = delete;
    const posix_spawn_file_actions_t* get() const { return &actions_; }

private:
    posix_spawn_file_actions_t actions_;
};

pid_t spawn(const environment& env, const std::vector<std::string>& command, int output) {
    std::vector<char*> arguments;
    arguments.reserve(command.size() + 1);
    for (const auto& each : command) {
        arguments.push_back(const_cast<char*>(each.c_str()));
    }
    arguments.push_back(nullptr);
    const file_actions actions(output);
    pid_t pid = -1;
    const int error = posix_spawn(&pid, command.front().c_str(), actions.get(), nullptr,
                                  arguments.data(), env.get());
    if (error != 0) {
        throw std::system_error(error, std::generic_category(), command.front());
    }
    return pid;
}

struct pipe_pair {
    int ends[2] = {-1, -1};

    pipe_pair() {
        if (pipe2(ends, O_CLOEXEC) != 0) {
            throw std::system_error(errno, std::generic_category(), "pipe2");
        }
    }
    ~pipe_pair() {
        close_writer();
        close(ends[0]);
    }
    void close_writer() {
        if (ends[1] >= 0) {
            close(std::exchange(ends[1], -1));
        }
    }
};

std::string describe_end(int status) {
    if (WIFSIGNALED(status)) {
        return fmt::format("killed by signal {} ({})", WTERMSIG(status),
                           strsignal(WTERMSIG(status)));
    }
    return fmt::format("exit code {}", WEXITSTATUS(status));
}

// --- whose sockets -------------------------------------------------------------------------------

void add_with_descendants(pid_t pid, std::vector<pid_t>& pids) {
    pids.push_back(pid);
    std::error_code ignored;
    for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", pid), ignored)) {
        std::ifstream children(task.path() / "children");
        for (pid_t child = 0; children >> child;) {
            add_with_descendants(child, pids);
        }
    }
}

std::set<std::string> socket_inodes(pid_t pid) {
    // A few are enough for the answer, and with 10,000 connections all of them would take long.
    constexpr std::size_t enough = 32;
    constexpr std::string_view prefix = "socket:[";
    std::set<std::string> inodes;
    std::error_code ignored;
    for (const auto& fd : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), ignored)) {
        const std::string target = fs::read_symlink(fd.path(), ignored).string();
        if (target.starts_with(prefix) && inodes.size() < enough) {
            inodes.insert(target.substr(prefix.size(), target.size() - prefix.size() - 1));
        }
    }
    return inodes;
}

// The column of the shim must not show the kernel's sockets (handed over to libc, say). Looked up
// in the kernel's tables, since a unix socket of the library's own would be no such thing, nor is what only waits there for
// programs without the shim (the kernel's half of a listener or of a bound datagram socket).
bool holds_kernel_sockets(pid_t worker) {
    std::vector<pid_t> pids;
    add_with_descendants(worker, pids);
    std::set<std::string> inodes;
    for (const pid_t pid : pids) {
        inodes.merge(socket_inodes(pid));
    }
    if (inodes.empty()) {
        return false;
    }
    for (const char* table : {"tcp", "udp", "tcp6", "udp6"}) {
        std::ifstream lines(fmt::format("/proc/{}/net/{}", worker, table));
        for (std::string line; std::getline(lines, line);) {
            std::istringstream words(line);
            std::string word;
            bool waits = false;
            for (int column = 0; column < 10 && words >> word; ++column) {
                const bool no_peer = column == 2 && word.ends_with(":0000");
                const bool listens = column == 3 && word == "0A";
                waits = waits || (no_peer && table[0] == 'u') || listens;
            }
            if (!waits && inodes.contains(word)) {
                return true;
            }
        }
    }
    return false;
}

// --- results -------------------------------------------------------------------------------------

class result_reader {
public:
    explicit result_reader(outcome& into) : into_(into) {}

    // True when the worker has just said that its sockets are there.
    bool feed(std::string_view text) {
        bool started = false;
        pending_ += text;
        for (auto end = pending_.find('\n'); end != std::string::npos; end = pending_.find('\n')) {
            const std::string line = pending_.substr(0, end);
            pending_.erase(0, end + 1);
            const auto space = line.find(' ');
            double value = 0;
            const char* last = line.data() + line.size();
            if (space == std::string::npos ||
                std::from_chars(line.data() + space + 1, last, value).ptr != last) {
                into_.error = fmt::format("not a result: '{}'", line);
                continue;
            }
            const std::string key = line.substr(0, space);
            started = started || key == "started";
            into_.values[key] = value;
        }
        return started;
    }

private:
    outcome& into_;
    std::string pending_;
};

} // namespace

outcome launcher::run_worker(side which, const std::vector<std::string>& arguments,
                             double timeout_seconds) const {
    std::vector<std::string> command{own_directory() / "sockshim-bench-worker"};
    command.insert(command.end(), arguments.begin(), arguments.end());

    outcome result;
    result_reader reader(result);
    pipe_pair output;
    const auto deadline = clock::now() + std::chrono::duration<double>(timeout_seconds);
    const pid_t pid = spawn(environment(which, library_), command, output.ends[1]);
    output.close_writer();

    bool timed_out = false;
    while (true) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock::now()).count();
        pollfd entry{output.ends[0], POLLIN, 0};
        if (left <= 0 || poll(&entry, 1, int(left)) == 0) {
            timed_out = true;
            kill(pid, SIGKILL); // its children die with it (PR_SET_PDEATHSIG)
            break;
        }
        char buffer[4096];
        const ssize_t got = read(output.ends[0], buffer, sizeof buffer);
        if (got <= 0) {
            break;
        }
        const bool started = reader.feed({buffer, std::size_t(got)});
        if (started && which == side::sockshim) {
            result.kernel_sockets = holds_kernel_sockets(pid) || result.kernel_sockets;
        }
    }

    int status = 0;
    waitpid(pid, &status, 0);
    if (timed_out) {
        result.error = fmt::format("no end after {:.0f} s, killed", timeout_seconds);
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        result.error = describe_end(status);
    } else if (result.error.empty() && !result.values.contains("done")) {
        result.error = "ended without a result";
    }
    result.ok = result.error.empty();
    return result;
}

outcome launcher::time_process_start(side which) const {
    constexpr int runs = 50;
    const environment env(which, library_);
    std::vector<double> times;
    outcome result;
    for (int i = 0; i < runs; ++i) {
        const auto begin = clock::now();
        const pid_t pid = spawn(env, {"/bin/true"}, -1);
        int status = 0;
        waitpid(pid, &status, 0);
        times.push_back(std::chrono::duration<double, std::milli>(clock::now() - begin).count());
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            result.error = "/bin/true: " + describe_end(status);
            return result;
        }
    }
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    result.values["start_ms"] = times[runs / 2];
    result.ok = true;
    return result;
}

bool launcher::library_gets_loaded() const {
    pipe_pair output;
    const pid_t pid = spawn(environment(side::sockshim, library_), {"/bin/cat", "/proc/self/maps"},
                            output.ends[1]);
    output.close_writer();
    std::string maps;
    char buffer[4096];
    for (ssize_t got = 0; (got = read(output.ends[0], buffer, sizeof buffer)) > 0;) {
        maps.append(buffer, std::size_t(got));
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return maps.find(library_.filename().string()) != std::string::npos;
}

fs::path own_directory() { return fs::read_symlink("/proc/self/exe").parent_path(); }

} // namespace bench
