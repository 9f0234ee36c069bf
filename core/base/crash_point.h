// Counted steps at which the crash tests kill the process: SOCKSHIM_KILL_AT=n dies at the n-th one
// passed. They stand between any two stores that must be survived separately. Compiled in only for the
// crash tests' build of the library (SOCKSHIM_CRASH_POINTS).
#pragma once

namespace sockshim {

#ifdef SOCKSHIM_CRASH_POINTS
void crash_point_passed();
#define SOCKSHIM_CRASH_POINT() ::sockshim::crash_point_passed()
#else
#define SOCKSHIM_CRASH_POINT() static_cast<void>(0)
#endif

} // namespace sockshim
