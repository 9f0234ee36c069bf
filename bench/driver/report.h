// Role: shows tables, to people and as JSON.
#pragma once

#include "table.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace bench {

struct conditions {
    std::string kernel_release;
    unsigned cpus = 0;
    double load = 0;                  // of the last minute, before the first run
    std::optional<double> wake_up_us; // across CPUs
    std::string library;
    std::vector<std::string> variables; // SOCKSHIM_* in the environment: not as shipped
};

conditions current_conditions(const std::string& library);

void print_conditions(const conditions& under, const settings& how);
void print_table(const table& what);
void write_json(const std::filesystem::path& file, const conditions& under, const settings& how,
                const std::vector<table>& tables);

} // namespace bench
