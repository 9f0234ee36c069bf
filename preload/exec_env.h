// The environment that a program of ours is executed with: what the caller gave, and behind it LD_PRELOAD
// and the SOCKSHIM_* variables that this process was started with, where the caller gave no LD_PRELOAD and
// descriptors of our sockets would be inherited, which mean nothing to a program without us
// (SOCKSHIM_KEEP_ENV).
//
// Where they would not find these sockets' network, they also inherit its directory (SOCKSHIM_JOIN).
//
// Used in vfork children and signal handlers: reads what was kept at load, and writes the stack only.
#pragma once
#include "core/base/config.h"

namespace sockshim {

// At load, before the program can change its environment or write over it (setproctitle).
void exec_env_remember();

// The options as this process was started with, from what was kept at load: needs no shared memory.
configuration exec_options();

enum class exec_descriptors : u8 {
    as_they_are,
    // posix_spawn's actions, which we cannot read, may dup2 any of them to where the program finds it.
    any_may_stay,
};

class exec_environment {
public:
    explicit exec_environment(char* const* given,
                              exec_descriptors which = exec_descriptors::as_they_are);
    ~exec_environment();
    exec_environment(const exec_environment&) = delete;
    exec_environment& operator=(const exec_environment&) = delete;

    char* const* get() const { return made_ ? made_ : given_; }
    // Why the loader will not find us named in it; null: it will, or needs no variable for that.
    const char* why_without_us() const { return why_without_us_; }

private:
    static constexpr std::size_t few = 256;

    void make(std::size_t given, bool with_kept);
    void bequeath(int fd);

    char* const* given_;
    char** made_ = nullptr;
    std::size_t mapped_ = 0;
    const char* why_without_us_ = nullptr;
    int bequeathed_ = -1;
    char join_[32]{}; // SOCKSHIM_JOIN=
    char* on_stack_[few];
};

// For system and popen: libc executes the shell with its environ, which the program may have emptied.
class environ_lent {
public:
    environ_lent();
    ~environ_lent();
    environ_lent(const environ_lent&) = delete;
    environ_lent& operator=(const environ_lent&) = delete;

    const exec_environment& get() const { return env_; }

private:
    char** const was_;
    exec_environment env_;
    int cancel_state_ = 0;
};

} // namespace sockshim
