// Role: the repetition in pairs, and the arithmetic from samples to verdicts.
#include "table.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include <fmt/format.h>

namespace bench {
namespace {

// All outcomes of one job; a side stops at its first failure.
struct job_outcomes {
    std::vector<outcome> kernel;
    std::vector<outcome> sockshim;
    bool kernel_failed = false;
    bool sockshim_failed = false;

    std::vector<outcome>& of(side which) { return which == side::kernel ? kernel : sockshim; }
    bool& failed(side which) { return which == side::kernel ? kernel_failed : sockshim_failed; }
};

outcome run_once(const job& what, side which, const launcher& launch, const settings& how,
                 bool apart) {
    if (what.process_start) {
        return launch.time_process_start(which);
    }
    std::vector<std::string> arguments{what.name, fmt::format("{}", how.seconds),
                                       apart ? "apart" : "free"};
    for (const unsigned count : what.connections) {
        arguments.push_back(fmt::format("{}", count));
    }
    return launch.run_worker(which, arguments, how.seconds * 10 + 20);
}

job_outcomes run_job(const job& what, const launcher& launch, const settings& how, bool apart,
                     std::vector<std::string>& notes) {
    job_outcomes all;
    const auto run = [&](side which, unsigned turn) {
        const bool wanted = which == side::kernel ? what.kernel_too : !how.native_only;
        // One failure is enough: a worker that hangs would cost the watchdog's time every turn.
        if (!wanted || all.failed(which)) {
            return;
        }
        const char* name = which == side::kernel ? "kernel" : "sockshim";
        fmt::print(stderr, "{:<16} {:<9} {}\n", what.name, name, turn + 1);
        auto result = run_once(what, which, launch, how, apart);
        if (!result.ok) {
            all.failed(which) = true;
            notes.push_back(fmt::format("{}, {}: failed: {}", what.name, name, result.error));
        }
        all.of(which).push_back(std::move(result));
    };
    for (unsigned turn = 0; turn < std::min(how.repeat, what.most_repeats); ++turn) {
        // Pairs, and the order within a pair changes: what drifts meets both sides alike.
        const std::array order = turn % 2 == 0 ? std::array{side::kernel, side::sockshim}
                                               : std::array{side::sockshim, side::kernel};
        for (const side which : order) {
            run(which, turn);
        }
    }
    return all;
}

column collect(const std::vector<outcome>& outcomes, const row_spec& spec) {
    const std::string& difference_key =
        spec.difference_key.empty() ? spec.key : spec.difference_key;
    column result;
    for (const auto& each : outcomes) {
        const auto value = each.values.find(spec.key);
        const auto difference = each.values.find(difference_key);
        if (each.ok && value != each.values.end() && difference != each.values.end()) {
            result.samples.push_back(value->second);
            result.differences.push_back(difference->second);
        }
    }
    return result;
}

std::optional<double> compare(const row& what) {
    const auto kernel = what.kernel.median();
    const auto sockshim = what.sockshim.median();
    if (!sockshim) {
        return std::nullopt;
    }
    switch (what.spec->judged) {
    case judged_by::absolute: return sockshim;
    case judged_by::added:
        if (!kernel) {
            return std::nullopt;
        }
        return *median_of(what.sockshim.differences) - *median_of(what.kernel.differences);
    case judged_by::ratio:
    case judged_by::nothing: break;
    }
    return kernel && *kernel > 0 ? std::optional(*sockshim / *kernel) : std::nullopt;
}

verdict judge(const row& what, const job_outcomes& outcomes) {
    if (outcomes.kernel_failed || outcomes.sockshim_failed) {
        return verdict::failed;
    }
    if (outcomes.sockshim.empty()) {
        return verdict::none;
    }
    if (what.from->has_sockets &&
        std::ranges::any_of(outcomes.sockshim, &outcome::kernel_sockets)) {
        return verdict::not_ours;
    }
    if (!what.compared) {
        return verdict::failed;
    }
    const row_spec& spec = *what.spec;
    if (spec.judged == judged_by::nothing) {
        return verdict::none;
    }
    const auto reaches = [&](double goal) {
        return spec.judged == judged_by::ratio ? *what.compared >= goal : *what.compared <= goal;
    };
    return reaches(spec.aim)        ? verdict::aim
           : reaches(spec.at_least) ? verdict::at_least
                                    : verdict::missed;
}

void note_noise(const row& what, std::vector<std::string>& notes) {
    constexpr double much = 0.3;
    if (what.spec->judged != judged_by::ratio) {
        return;
    }
    const auto check = [&](const column& of, const char* name) {
        if (of.samples.size() < 3) {
            return;
        }
        const auto [low, high] = std::ranges::minmax(of.samples);
        const double spread = (high - low) / *of.median();
        if (spread > much) {
            notes.push_back(fmt::format("{}, {}: samples spread by {:.0f} % of their median",
                                        what.from->name, name, spread * 100));
        }
    };
    check(what.kernel, "kernel");
    check(what.sockshim, "sockshim");
}

void note_limits(const job& what, const job_outcomes& outcomes, std::vector<std::string>& notes) {
    for (const auto* each : {&outcomes.kernel, &outcomes.sockshim}) {
        for (const unsigned count : what.connections) {
            const auto key = fmt::format("limited_{}", count);
            if (!each->empty() && each->front().values.contains(key)) {
                notes.push_back(
                    fmt::format("{}, {}: only {:.0f} instead of {} connections (RLIMIT_NOFILE)",
                                what.name, each == &outcomes.kernel ? "kernel" : "sockshim",
                                each->front().values.at(key), count));
            }
        }
    }
    if (!outcomes.sockshim.empty() && outcomes.sockshim.front().values.contains("no_arena")) {
        notes.push_back(
            fmt::format("{}: the library does not export sockshim_arena_usage", what.name));
    }
}

} // namespace

bool selected(const job& what, const settings& how) {
    if (how.native_only && !what.kernel_too) {
        return false;
    }
    return how.only.empty() || std::ranges::any_of(how.only, [&](const std::string& part) {
               return what.name.find(part) != std::string::npos;
           });
}

std::optional<double> median_of(std::vector<double> values) {
    if (values.empty()) {
        return std::nullopt;
    }
    std::ranges::sort(values);
    const std::size_t middle = values.size() / 2;
    return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::optional<double> column::median() const { return median_of(samples); }

bool table::has(verdict wanted) const {
    return std::ranges::any_of(rows, [&](const row& each) { return each.judged == wanted; });
}

table measure_table(std::string title, const launcher& launch, const settings& how, bool apart) {
    table result{std::move(title), {}, {}};
    for (const job& what : all_jobs()) {
        if (!selected(what, how)) {
            continue;
        }
        const auto outcomes = run_job(what, launch, how, apart, result.notes);
        note_limits(what, outcomes, result.notes);
        for (const row_spec& spec : what.rows) {
            row each{&what,
                     &spec,
                     collect(outcomes.kernel, spec),
                     collect(outcomes.sockshim, spec),
                     {},
                     verdict::none};
            each.compared = compare(each);
            each.judged = judge(each, outcomes);
            note_noise(each, result.notes);
            result.rows.push_back(std::move(each));
        }
    }
    if (result.has(verdict::not_ours)) {
        result.notes.push_back("'not ours': the workers held the kernel's sockets, so the column "
                               "of the shim shows the kernel");
    }
    return result;
}

} // namespace bench
