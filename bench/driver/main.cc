// Role: entry of sockshim-bench: options, the two tables (two cores, one core), the exit code.
// Exit code: 0 all measured, 1 a run failed or did not use the shim's sockets (with --strict also:
// a row misses its "at least"), 2 nothing could be measured.
#include "placement.h"
#include "process.h"
#include "report.h"
#include "table.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace {

namespace fs = std::filesystem;

struct arguments {
    bench::settings how;
    std::string library;
    std::string json;
    bool one_core = false;
    bool two_core = false;
    bool free = false;
    bool strict = false;
    bool list = false;
};

void declare(CLI::App& app, arguments& args) {
    app.add_option("--lib", args.library, "the library to preload")->capture_default_str();
    app.add_option("--repeat", args.how.repeat, "pairs of runs of each measure")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--duration", args.how.seconds, "measured seconds of one run")
        ->check(CLI::Range(0.05, 600.0))
        ->capture_default_str();
    app.add_option("--only", args.how.only, "measures whose name contains this (repeatable)");
    app.add_option("--json", args.json, "write all numbers to this file, too");
    auto* one = app.add_flag("--one-core", args.one_core, "only the table for one core");
    app.add_flag("--two-core", args.two_core, "only the table for two cores")->excludes(one);
    // Left to itself the scheduler puts a request/response pair sometimes on one core, sometimes on
    // two, and the kernel's rate is then one of two numbers that differ by 10 and more.
    app.add_flag("--free", args.free, "first table: let the scheduler place server and client");
    app.add_flag("--native-only", args.how.native_only, "measure the kernel only");
    app.add_flag("--strict", args.strict, "exit code 1 also when a row misses its 'at least'");
    app.add_flag("--list", args.list, "list the names of the measures");
}

int run(const arguments& args) {
    if (std::ranges::none_of(bench::all_jobs(),
                             [&](const auto& each) { return bench::selected(each, args.how); })) {
        fmt::print(stderr, "sockshim-bench: no measure has such a name; see --list\n");
        return 2;
    }
    fs::path library;
    if (!args.how.native_only) {
        std::error_code missing;
        library = fs::canonical(args.library, missing);
        if (missing) {
            fmt::print(stderr, "sockshim-bench: {}: {}\n", args.library, missing.message());
            return 2;
        }
    }
    const bench::launcher launch(library);
    if (!args.how.native_only && !launch.library_gets_loaded()) {
        fmt::print(stderr, "sockshim-bench: {} does not get preloaded\n", library.string());
        return 2;
    }

    const auto under = bench::current_conditions(library.string());
    bench::print_conditions(under, args.how);
    std::vector<bench::table> tables;
    const auto add_table = [&](const char* title, bool apart) {
        std::fflush(stdout);
        tables.push_back(bench::measure_table(title, launch, args.how, apart));
        bench::print_table(tables.back());
    };
    if (!args.one_core && args.free) {
        add_table("All cores, placed by the scheduler", false);
    } else if (!args.one_core && bench::permitted_cpus() < 2) {
        fmt::print("\nNo table for two cores: this process may use one only.\n");
    } else if (!args.one_core) {
        add_table("Two cores, server and client each on its own", true);
    }
    if (!args.two_core) {
        // This process too: then what it starts is where taskset would have put it.
        bench::pin_to_first_cpu();
        add_table("One core (as under taskset -c 0)", false);
    }
    if (!args.json.empty()) {
        bench::write_json(args.json, under, args.how, tables);
    }

    int code = 0;
    for (const auto& each : tables) {
        if (each.has(bench::verdict::failed) || each.has(bench::verdict::not_ours) ||
            (args.strict && each.has(bench::verdict::missed))) {
            code = 1;
        }
    }
    return code;
}

int parse_and_run(int argc, char** argv) {
    arguments args;
    args.library = bench::own_directory().parent_path() / "libsockshim.so";
    CLI::App app("Measures sockshim against the kernel's loopback.", "sockshim-bench");
    declare(app, args);
    CLI11_PARSE(app, argc, argv);
    if (args.list) {
        for (const auto& each : bench::all_jobs()) {
            fmt::print("{}\n", each.name);
        }
        return 0;
    }
    return run(args);
}

} // namespace

int main(int argc, char** argv) {
    try {
        return parse_and_run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sockshim-bench: %s\n", error.what());
        return 2;
    }
}
