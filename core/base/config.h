// Every SOCKSHIM_* environment variable, in one table: the defaults, the ranges, the checks and the
// documentation (scripts/gen_config_doc -> docs/CONFIGURATION.md) come from here.
#pragma once
#include "core/base/atomic.h"

namespace sockshim {

// X(name, field, kind, default, min, max, documentation)
//   kind FLAG: 0/1, on/off, yes/no; NUMBER: decimal with optional k, m, g; TEXT: a string
#define SOCKSHIM_OPTIONS(X)                                                                        \
    X("SOCKSHIM_NET", net, TEXT, "default", 0, 0,                                                  \
      "name of the network to join; `default` hands over to the kernel what nobody here serves")   \
    X("SOCKSHIM_SIDES", sides, TEXT, "both", 0, 0,                                                 \
      "whom sockets of the default network meet: `both` programs with and without the shim, "      \
      "`shim` only those with it, `kernel` only those without (every call goes to libc)")          \
    X("SOCKSHIM_DIR", dir, TEXT, "/dev/shm", 0, 0,                                                 \
      "tmpfs directory below which the networks' own directories are made")                        \
    X("SOCKSHIM_TRACE", trace, TEXT, "", 0, 0,                                                     \
      "trace every socket call and print it at exit: 1 for stderr, else a file name with %p "      \
      "(pid) and %n (program name)")                                                               \
    X("SOCKSHIM_TRACE_RING", trace_ring, NUMBER, 8192, 0, 16777216,                                \
      "calls remembered per thread, older ones are counted and dropped; 0: no limit, the trace "   \
      "grows in the file as it goes")                                                              \
    X("SOCKSHIM_MODULES", modules, TEXT, "", 0, 0,                                                 \
      "directory with protocol modules (net-pf-N.so, net-pf-2-proto-P-type-T.so)")                 \
    X("SOCKSHIM_DENY", deny, TEXT, "", 0, 0,                                                       \
      "security policy: comma-separated call:ERRNO, e.g. `connect:EACCES,bind:EPERM`")             \
    X("SOCKSHIM_ARENA_MAX", arena_max, NUMBER, 8589934592, 4194304, 17179869184,                   \
      "bytes of shared memory that the network may commit; beyond it calls get ENOBUFS")           \
    X("SOCKSHIM_FUSE", fuse, FLAG, 1, 0, 1,                                                        \
      "move the bytes of local connections by shared ring rather than by packets")                 \
    X("SOCKSHIM_FUSE_FLIP", fuse_flip, NUMBER, 0, 0, 1000000,                                      \
      "for tests: leave and re-enter the fused path at random, once in N transfers on average")    \
    X("SOCKSHIM_SPIN_US", spin_us, NUMBER, 50, 0, 1000,                                            \
      "longest time a blocking call looks again before it sleeps, microseconds")                   \
    X("SOCKSHIM_IO_URING", io_uring, FLAG, 0, 0, 1,                                                \
      "let io_uring_setup through to the kernel, whose rings know no socket of ours; else ENOSYS") \
    X("SOCKSHIM_CATCH", catch_calls, FLAG, 0, 0, 1,                                                \
      "also serve system calls that the program makes by instruction, not through libc (x86_64, "  \
      "Linux 5.11)")                                                                               \
    X("SOCKSHIM_KEEP_ENV", keep_env, NUMBER, 1, 0, 2,                                              \
      "give LD_PRELOAD and SOCKSHIM_* back to a program that is executed without LD_PRELOAD: 0 "   \
      "never, 1 when it inherits sockets of ours, 2 always")                                       \
    X("SOCKSHIM_JOIN", join, NUMBER, 0, 0, 1048575,                                                \
      "set by the library for a program that inherits sockets of a network that it could not "     \
      "find: "                                                                                     \
      "the descriptor of the network's directory")                                                 \
    X("SOCKSHIM_WARN", warn, FLAG, 0, 0, 1,                                                        \
      "say on stderr when a program is executed that the preload cannot enter, and why")           \
    X("SOCKSHIM_QUIET", quiet, FLAG, 0, 0, 1, "no messages on stderr, not even about trouble")     \
    X("SOCKSHIM_DISABLE", disable, FLAG, 0, 0, 1, "do nothing: every call goes to libc")           \
    X("SOCKSHIM_KILL_AT", kill_at, NUMBER, 0, 0, 1000000000,                                       \
      "for tests, in the crash build only: die by SIGKILL at the n-th crash point")

#define SOCKSHIM_FIELD_FLAG bool
#define SOCKSHIM_FIELD_NUMBER u64
#define SOCKSHIM_FIELD_TEXT const char*
struct configuration {
#define X(name, field, kind, def, lo, hi, doc) SOCKSHIM_FIELD_##kind field;
    SOCKSHIM_OPTIONS(X)
#undef X
};

inline constexpr configuration default_configuration{
#define X(name, field, kind, def, lo, hi, doc) def,
    SOCKSHIM_OPTIONS(X)
#undef X
};

// Takes one "NAME=value". A text is not copied.
enum class config_verdict : u8 { foreign, unknown, bad, taken };
config_verdict config_take(configuration& to, const char* variable);

// What to read instead of the environment, which programs write over: "NAME=value" one behind the other, then
// an empty one, for ever.
void config_remember(const char* variables);

// Read at the first call. Unknown SOCKSHIM_* variables get one line of warning
// each, bad values a message and the default.
extern configuration the_config;
extern a32 config_state; // 0 unread, 1 being read, 2 read
const configuration& config_read();
inline const configuration& config() {
    return SOCKSHIM_LIKELY(config_state.load() == 2) ? the_config : config_read();
}

// One line on stderr, "sockshim: ...", unless SOCKSHIM_QUIET. Formats %s, %d, %u, %lx only, without
// allocation, safe in signal handlers.
void notice(const char* format, ...) __attribute__((format(printf, 1, 2)));

} // namespace sockshim
