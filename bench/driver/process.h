// Role: runs a program natively or under the shim, bounded by a watchdog.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace bench {

enum class side { kernel, sockshim };

struct outcome {
    bool ok = false;
    std::string error; // when not ok
    std::map<std::string, double> values;
    bool kernel_sockets = false; // the worker held TCP or UDP sockets of the kernel's
};

class launcher {
public:
    explicit launcher(std::filesystem::path library) : library_(std::move(library)) {}

    // Runs the worker, reads its "key value" lines.
    outcome run_worker(side which, const std::vector<std::string>& arguments,
                       double timeout_seconds) const;

    // Median time from posix_spawn of /bin/true to its end, in ms ("start_ms").
    outcome time_process_start(side which) const;

    // The dynamic linker only prints a line when it cannot preload; what follows would be a second
    // native run. So ask once whether the library really comes into a process.
    bool library_gets_loaded() const;

private:
    std::filesystem::path library_; // empty: native runs only
};

// The directory in which the driver itself lies; the worker lies next to it.
std::filesystem::path own_directory();

} // namespace bench
