// What happens when the library is loaded and unloaded. As little as can be: calls may come before
// this and must work, and programs that make no socket shall not notice us.
#include "core/trace/trace.h"
#include "dispatch/process.h"
#include "preload/process.h"

namespace sockshim {

__attribute__((constructor)) static void loaded() { process_at_load(); }

// After the program's own atexit handlers, and before libc flushes its streams.
__attribute__((destructor)) static void leaving() {
    if (in_vfork_child()) return;
    trace_dump("exit");
    if (process_active.load() && flush_socket_streams()) process_exit();
}

} // namespace sockshim
