// Role: formatting of numbers, the printed table, the JSON file.
#include "report.h"

#include "placement.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace bench {
namespace {

std::string with_prefix(double value, std::string_view suffix) {
    struct scale {
        double factor;
        const char* prefix;
    };
    for (const auto& each : {scale{1e9, "G"}, scale{1e6, "M"}, scale{1e3, "k"}}) {
        if (value >= each.factor) {
            return fmt::format("{:.2f} {}{}", value / each.factor, each.prefix, suffix);
        }
    }
    return fmt::format("{:.2f} {}", value, suffix);
}

std::string in_unit(double value, unit in) {
    switch (in) {
    case unit::per_second: return with_prefix(value, "/s");
    case unit::bytes_per_second: return with_prefix(value, "B/s");
    case unit::ns: return fmt::format("{:.1f} ns", value);
    case unit::ms: return fmt::format("{:.3f} ms", value);
    case unit::bytes: return fmt::format("{:.0f} B", value);
    case unit::factor: return fmt::format("{:.2f}x", value);
    }
    return {};
}

std::string shown(const std::optional<double>& value, unit in) {
    return value ? in_unit(*value, in) : "-";
}

std::string shown_comparison(const row& what) {
    if (!what.compared) {
        return "-";
    }
    switch (what.spec->judged) {
    case judged_by::ratio:
    case judged_by::nothing: return fmt::format("{:.2f}x", *what.compared);
    case judged_by::added:
        return (*what.compared < 0 ? "" : "+") + in_unit(*what.compared, what.spec->in);
    case judged_by::absolute: break;
    }
    return "-";
}

std::string shown_goal(double goal, const row_spec& spec) {
    switch (spec.judged) {
    case judged_by::ratio: return fmt::format("{:g}x", goal);
    case judged_by::added:
    case judged_by::absolute: break;
    case judged_by::nothing: return "-";
    }
    switch (spec.in) {
    case unit::ns: return fmt::format("<= {:g} ns", goal);
    case unit::ms: return fmt::format("<= {:g} ms", goal);
    case unit::bytes: return fmt::format("<= {:g} KiB", goal / 1024);
    default: return fmt::format("<= {:g}x", goal);
    }
}

const char* name_of(verdict judged) {
    switch (judged) {
    case verdict::none: return "-";
    case verdict::aim: return "aim";
    case verdict::at_least: return "at least";
    case verdict::missed: return "MISSED";
    case verdict::failed: return "failed";
    case verdict::not_ours: return "not ours";
    }
    return "";
}

const char* name_of(judged_by judged) {
    switch (judged) {
    case judged_by::ratio: return "ratio";
    case judged_by::added: return "added";
    case judged_by::absolute: return "absolute";
    case judged_by::nothing: return "nothing";
    }
    return "";
}

const char* json_unit(unit in) {
    switch (in) {
    case unit::per_second: return "1/s";
    case unit::bytes_per_second: return "B/s";
    case unit::ns: return "ns";
    case unit::ms: return "ms";
    case unit::bytes: return "B";
    case unit::factor: return "factor";
    }
    return "";
}

nlohmann::json number_or_null(const std::optional<double>& value) {
    return value && std::isfinite(*value) ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

nlohmann::json column_json(const column& what) {
    return {{"median", number_or_null(what.median())}, {"samples", what.samples}};
}

nlohmann::json row_json(const row& what) {
    nlohmann::json result = {
        {"name", what.from->name},
        {"measure", what.spec->label},
        {"unit", json_unit(what.spec->in)},
        {"kernel", column_json(what.kernel)},
        {"sockshim", column_json(what.sockshim)},
        {"judged_by", name_of(what.spec->judged)},
        {"compared", number_or_null(what.compared)},
        {"verdict", name_of(what.judged)},
    };
    if (what.spec->judged != judged_by::nothing) {
        result["at_least"] = what.spec->at_least;
        result["aim"] = what.spec->aim;
    }
    return result;
}

} // namespace

conditions current_conditions(const std::string& library) {
    conditions result;
    utsname system{};
    uname(&system);
    result.kernel_release = system.release;
    result.cpus = unsigned(sysconf(_SC_NPROCESSORS_ONLN));
    getloadavg(&result.load, 1);
    result.wake_up_us = wake_up_across_cpus();
    result.library = library;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        if (std::string_view(*entry).starts_with("SOCKSHIM_")) {
            result.variables.emplace_back(*entry);
        }
    }
    return result;
}

void print_conditions(const conditions& under, const settings& how) {
    fmt::print("Linux {}, {} CPUs, load {:.2f}; {} runs of {:g} s each; {}\n", under.kernel_release,
               under.cpus, under.load, how.repeat, how.seconds,
               under.library.empty() ? "native only" : under.library);
    if (under.wake_up_us) {
        fmt::print("Waking a process on the other CPU takes {:.1f} us here; it is part of what the "
                   "kernel's blocking round trips cost.\n",
                   *under.wake_up_us);
    }
    if (under.load > 0.3) {
        fmt::print("The machine is not quiet; the numbers are less certain than they look.\n");
    }
    for (const auto& each : under.variables) {
        fmt::print("Set in the environment, so not as shipped: {}\n", each);
    }
}

void print_table(const table& what) {
    constexpr auto layout = "| {:<46} | {:>14} | {:>14} | {:>11} | {:>9} | {:>9} | {:<8} |\n";
    fmt::print("\n{}\n\n", what.title);
    fmt::print(layout, "measure", "kernel", "sockshim", "ratio", "at least", "aim", "verdict");
    fmt::print("|{:-<48}|{:->16}|{:->16}|{:->13}|{:->11}|{:->11}|{:-<10}|\n", "", ":", ":", ":",
               ":", ":", "");
    for (const row& each : what.rows) {
        const row_spec& spec = *each.spec;
        fmt::print(layout, spec.label, shown(each.kernel.median(), spec.in),
                   shown(each.sockshim.median(), spec.in), shown_comparison(each),
                   shown_goal(spec.at_least, spec), shown_goal(spec.aim, spec),
                   name_of(each.judged));
    }
    if (!what.notes.empty()) {
        fmt::print("\n");
    }
    for (const auto& note : what.notes) {
        fmt::print("- {}\n", note);
    }
}

void write_json(const std::filesystem::path& file, const conditions& under, const settings& how,
                const std::vector<table>& tables) {
    nlohmann::json document = {
        {"kernel_release", under.kernel_release},
        {"cpus", under.cpus},
        {"load", under.load},
        {"wake_up_us", number_or_null(under.wake_up_us)},
        {"library", under.library},
        {"variables", under.variables},
        {"repeat", how.repeat},
        {"seconds", how.seconds},
        {"tables", nlohmann::json::array()},
    };
    for (const table& each : tables) {
        nlohmann::json rows = nlohmann::json::array();
        for (const row& line : each.rows) {
            rows.push_back(row_json(line));
        }
        document["tables"].push_back(
            {{"title", each.title}, {"rows", rows}, {"notes", each.notes}});
    }
    std::ofstream out(file);
    out << document.dump(2) << '\n';
    if (!out.flush()) {
        throw std::runtime_error("cannot write " + file.string());
    }
}

} // namespace bench
