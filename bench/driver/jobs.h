// Role: what is measured and what is asked of it: the rows of the table, and the worker run that
// each of them comes from.
#pragma once

#include <string>
#include <vector>

namespace bench {

enum class unit { per_second, bytes_per_second, ns, ms, bytes, factor };

// How the number of the shim is judged.
enum class judged_by {
    ratio,    // sockshim / kernel, the more the better
    added,    // sockshim - kernel, the less the better
    absolute, // the shim's number alone, the less the better
    nothing,  // shown only
};

struct row_spec {
    std::string label;
    std::string key; // of the worker's result
    unit in;
    judged_by judged = judged_by::nothing;
    double at_least = 0;
    double aim = 0;
    // For `added`: which result the difference is made of, when that is not `key` itself.
    std::string difference_key = {};
};

struct job {
    std::string name; // what --only selects, and the worker's measure
    std::vector<unsigned> connections;
    std::vector<row_spec> rows;
    unsigned most_repeats = 1000;
    bool has_sockets = true;    // it must not be the kernel's sockets that the shim's column shows
    bool kernel_too = true;     // false: there is nothing to measure without the shim
    bool process_start = false; // the driver's own measure, no worker
};

const std::vector<job>& all_jobs();

} // namespace bench
