// Says which program that is about to be executed, or sent a socket, will not have us in it, and why: one line in the trace,
// and on stderr with SOCKSHIM_WARN. Looks at the file only when somebody will read the line. Writes the stack
// only, so also for a vfork child.
#pragma once
#include <fcntl.h>

#include "preload/exec_env.h"

namespace sockshim {

// As execveat names a program.
void look_at_exec(const exec_environment& env, const char* path, int dir = AT_FDCWD, int flags = 0);
// As execvp does.
void look_at_exec_in_path(const exec_environment& env, const char* file);
// A process that gets a socket of ours in a message and does not know us.
void look_at_receiver(int unix_socket);
// The one of system and popen.
void look_at_shell(const exec_environment& env);

} // namespace sockshim
