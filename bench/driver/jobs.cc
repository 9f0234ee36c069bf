// Role: the table of measures. Thresholds are those of the project's issue 2; where it gives none
// in numbers ("no CPU used", "must not grow") the ones below are our reading of it.
#include "jobs.h"

namespace bench {

const std::vector<job>& all_jobs() {
    using enum judged_by;
    static const std::vector<job> jobs = {
        {.name = "tcp-rr",
         .connections = {},
         .rows = {{"TCP 64-byte request/response, transactions", "rate", unit::per_second, ratio, 4,
                   10}}},
        {.name = "tcp-small",
         .connections = {},
         .rows = {{"TCP 64-byte one-way sends, messages", "rate", unit::per_second, ratio, 4, 10}}},
        {.name = "tcp-bulk",
         .connections = {},
         .rows = {{"TCP 64 KiB one-way", "rate", unit::bytes_per_second, ratio, 2, 2.7}}},
        {.name = "udp",
         .connections = {},
         .rows = {{"UDP 64-byte one-way, datagrams received", "rate", unit::per_second, ratio, 4,
                   10}}},
        {.name = "connect",
         .connections = {},
         .rows = {{"connect, request, response, close", "rate", unit::per_second, ratio, 3, 8}}},
        {.name = "epoll",
         .connections = {64},
         .rows = {{"64 connections, epoll server, 64-byte requests", "rate", unit::per_second,
                   ratio, 3, 8}}},
        {.name = "foreign-active",
         .connections = {},
         .rows = {{"read/write, not ours: a call, shim active", "call_ns", unit::ns, added, 10, 5,
                   "over_bare_ns"}}},
        {.name = "foreign-plain",
         .connections = {},
         .rows = {{"read/write, not ours: a call, no socket", "call_ns", unit::ns, added, 10, 5,
                   "over_bare_ns"}},
         .has_sockets = false},
        {.name = "process-start",
         .connections = {},
         .rows = {{"process start, no socket", "start_ms", unit::ms, added, 1, 0.3}},
         .has_sockets = false,
         .process_start = true},
        {.name = "idle-arena",
         .connections = {1000},
         .rows = {{"idle connected pair: arena bytes", "bytes", unit::bytes, absolute, 16 * 1024,
                   6 * 1024}},
         .most_repeats = 1,
         .kernel_too = false},
        // 3 ms in 3 s is a thousandth of a core.
        {.name = "idle-pair",
         .connections = {},
         .rows = {{"idle pair: CPU time in 3 s", "cpu_ms", unit::ms, absolute, 3, 0.3}},
         .most_repeats = 2},
        {.name = "idle-servers",
         .connections = {},
         .rows = {{"ten idle servers: CPU time in 3 s", "cpu_ms", unit::ms, absolute, 3, 0.3}},
         .most_repeats = 2},
        {.name = "scaling",
         .connections = {100, 1000, 10000},
         .rows = {{"100 connections, one active: transactions", "rate_100", unit::per_second},
                  {"1,000 connections, one active: transactions", "rate_1000", unit::per_second},
                  {"10,000 connections, one active: transactions", "rate_10000", unit::per_second},
                  {"100 connections: one more connect", "connect_ns_100", unit::ns},
                  {"1,000 connections: one more connect", "connect_ns_1000", unit::ns},
                  {"10,000 connections: one more connect", "connect_ns_10000", unit::ns},
                  {"10,000 connections, all new: one connect", "first_connect_ns_10000", unit::ns},
                  // A cost that grows with the number would grow up to 100-fold. What no design
                  // avoids is that 10,000 connections do not fit into the caches: the kernel's own
                  // growth is 1.7 on one core.
                  {"growth 100 to 10,000: time of a transaction", "growth", unit::factor, absolute,
                   2.5, 1.7},
                  {"growth 100 to 10,000: time of a connect", "connect_growth", unit::factor,
                   absolute, 2.5, 1.7}},
         .most_repeats = 3},
    };
    return jobs;
}

} // namespace bench
