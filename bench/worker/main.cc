// Role: entry of sockshim-bench-worker: reads its arguments, runs one workload, says "done".
// Results are "key value" lines on stdout.
#include "support.h"

#include <csignal>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string_view>

namespace {

struct workload {
    std::string_view name;
    std::function<void(const bench::options&)> run;
};

const workload workloads[] = {
    {"tcp-rr", bench::tcp_request_response},
    {"tcp-small", bench::tcp_small_sends},
    {"tcp-bulk", bench::tcp_bulk},
    {"udp", bench::udp_one_way},
    {"connect", bench::connect_rate},
    {"epoll", bench::epoll_server},
    {"foreign-active", [](const bench::options& o) { bench::foreign_descriptors(o, true); }},
    {"foreign-plain", [](const bench::options& o) { bench::foreign_descriptors(o, false); }},
    {"scaling", bench::scaling},
    {"idle-arena", bench::idle_arena},
    {"idle-pair", bench::idle_pair},
    {"idle-servers", bench::idle_servers},
};

int usage() {
    std::fprintf(stderr, "usage: sockshim-bench-worker MEASURE SECONDS free|apart "
                         "[CONNECTIONS...]\nmeasures:");
    for (const auto& each : workloads) {
        std::fprintf(stderr, " %s", each.name.data());
    }
    std::fprintf(stderr, "\n");
    return 2;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        return usage();
    }
    bench::options opts;
    opts.measure = argv[1];
    opts.seconds = std::strtod(argv[2], nullptr);
    opts.apart = std::string_view(argv[3]) == "apart";
    for (int i = 4; i < argc; ++i) {
        opts.connections.push_back(unsigned(std::strtoul(argv[i], nullptr, 10)));
    }
    for (const auto& each : workloads) {
        if (each.name == opts.measure && opts.seconds > 0) {
            signal(SIGPIPE, SIG_IGN); // a lost peer is an error to report, not a death
            bench::arm_alarm(opts);
            each.run(opts);
            bench::report("done", 1);
            return 0;
        }
    }
    return usage();
}
