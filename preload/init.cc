// What happens when the library is loaded and unloaded. As little as can be: calls may come before
// this and must work, and programs that make no socket shall not notice us.
#include <cstdlib>

#include "core/trace/trace.h"
#include "dispatch/process.h"
#include "preload/process.h"
#include "preload/socket_stream.h"

namespace sockshim {

__attribute__((constructor)) static void loaded() { process_at_load(); }

static void last_of_all(int, void*) {
    if (in_vfork_child()) return;
    trace_dump("exit");
    if (process_active.load() && flush_socket_streams()) process_exit();
}

// After the program's own atexit handlers, but other libraries' destructors may come later and write still (that
// of std::cout). What is registered now is called after all of them, and before libc flushes its streams.
__attribute__((destructor)) static void leaving() {
    if (on_exit(last_of_all, nullptr) != 0) last_of_all(0, nullptr);
}

} // namespace sockshim
