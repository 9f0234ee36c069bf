// dlsym(RTLD_NEXT) without a lock, without malloc and without errno: walks the loader's list of objects
// behind this library and reads their hash tables. Safe in signal handlers, in a vfork child, in the
// child of a threaded process that forked inside dlopen, and before our constructor.
#pragma once

namespace sockshim {

// The next definition of `name` behind this library, or null (also for IFUNCs: ask dlsym).
void* elf_lookup_next(const char* name);

// Where the loader has found this library.
const char* elf_own_path();

} // namespace sockshim
