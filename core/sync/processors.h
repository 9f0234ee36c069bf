// May another processor run what this thread waits for?
#pragma once

namespace sockshim {

// Asked anew now and then: taskset and cgroups change it under our feet. A thread-local load mostly.
bool has_other_processors();

} // namespace sockshim
