// Role: on which CPUs the runs take place, and what waking a process on the other one costs here.
#pragma once

#include <optional>

namespace bench {

int permitted_cpus();

// What `taskset -c N` does, for this process and all that it starts: N is the first CPU it may use.
void pin_to_first_cpu();

// Microseconds from a write on the first CPU to the wake-up of a reader asleep on the second one.
// It decides what a blocking request/response over the kernel can reach at all, and differs by 10
// and more between machines (in a virtual machine an idle CPU has to be woken by the host).
std::optional<double> wake_up_across_cpus();

} // namespace bench
