// Role: measures all rows for one setting of the cores: repetition, medians, verdicts.
#pragma once

#include "jobs.h"
#include "process.h"

#include <optional>
#include <string>
#include <vector>

namespace bench {

struct settings {
    unsigned repeat = 5;
    double seconds = 1.0;
    bool native_only = false;
    std::vector<std::string> only; // names of jobs, or parts of them; empty: all
};

struct column {
    std::vector<double> samples;
    std::vector<double> differences; // for judged_by::added

    std::optional<double> median() const;
};

enum class verdict { none, aim, at_least, missed, failed, not_ours };

struct row {
    const job* from;
    const row_spec* spec;
    column kernel;
    column sockshim;
    std::optional<double> compared; // the ratio, the added amount or the shim's own number
    verdict judged = verdict::none;
};

struct table {
    std::string title;
    std::vector<row> rows;
    std::vector<std::string> notes;

    bool has(verdict wanted) const;
};

std::optional<double> median_of(std::vector<double> values);

// Whether it is to be measured at all, by --only and --native-only.
bool selected(const job& what, const settings& how);

// apart: server and client each on a CPU of its own; else where the scheduler puts them.
table measure_table(std::string title, const launcher& launch, const settings& how, bool apart);

} // namespace bench
