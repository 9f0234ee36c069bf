// Users other than the network's owner who may use its files: those for whom a process of the network has
// given up the owner's user id. What they need is made theirs by POSIX ACLs, on what is there and, by the
// directory's default ACL, on what comes.
//
// The directory above stays the owner's alone. So only who has inherited the directory's descriptor gets
// in, and nobody gets out of a chroot by that descriptor's "..".
#pragma once
#include "core/base/types.h"

namespace sockshim {

// Admits the user. 0, also when he need not be, or -errno; -EOPNOTSUPP: the file system has no ACLs. To be
// called before the process gives up the rights to do it.
int arena_admit(u32 uid);
// May this process, as it is now, open and make files of the network?
bool arena_accessible();

// Makes a file or a FIFO for everybody who is admitted, be it while this goes on. As arena_openat; 0 or -errno.
int arena_make(const char* name, int flags);
int arena_make_fifo(const char* name);
int arena_unlink(const char* name);

// The group's rights of directory `dir` are not a group's but the mask of an ACL that arena_admit wrote.
bool admission_is_acl(long dir);
// A fresh network begins in `dir`: nobody is admitted, and what the admitted have left goes.
void admission_revoke(long dir);

} // namespace sockshim
