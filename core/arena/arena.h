// The arena of one network: where it is, how it is joined, how much of it is in use.
//
// A tmpfs file in a directory of the user's own, mapped MAP_SHARED by every process of the network. A
// large sparse range is reserved; cells are committed chunk by chunk with MADV_POPULATE_WRITE, which
// reports a full tmpfs as an error where a plain store would be SIGBUS. No descriptor of it stays open.
#pragma once
#include "core/arena/layout.h"
#include "core/sync/robust_lock.h"

namespace sockshim {

struct hash_bucket {
    robust_lock lock;
    a32 head;
};
SOCKSHIM_ARENA_TYPE(hash_bucket);

// As many as there may be TIME_WAITs: a machine that makes a hundred thousand connections a second has them all.
inline constexpr u32 ehash_buckets = 262144;
inline constexpr u32 bhash_buckets = 4096;
inline constexpr u32 lhash_buckets = 512;
inline constexpr u32 udp_hash_buckets = 4096;

struct hash_area {
    hash_bucket ehash[ehash_buckets];
    hash_bucket bhash[bhash_buckets];
    hash_bucket lhash[lhash_buckets];
    hash_bucket udp_hash[udp_hash_buckets];
    u64 secret[4];       // random, of this network
    a32 port_offset[64]; // RFC 6056 algorithm 3's table
    // Hints of inet_hashtables.cc: second (+ 1) at which the ports of low's parity seemed used up; ports
    // of each bhash bucket (bit: port / bhash_buckets) that something may be bound to.
    a32 port_parity_full[64];
    a32 bhash_bound[bhash_buckets];
    a32 isn_clock_pad;
};
SOCKSHIM_ARENA_TYPE(hash_area);

// Joins the network that the configuration names, creating it when nobody alive is in it. 0 or -errno;
// after a failure the process stays without sockets of ours and says why once (config, warn).
int arena_attach();
// An anonymous arena of this process alone (unit tests).
int arena_attach_private();
// Made by arena_attach_private: no other process, and no kernel to hand anything over to.
bool arena_is_private();
bool arena_attached();
// What it takes of this process's address space; 0 before arena_attach.
u64 arena_mapped_bytes();
// Is the calling thread in the network namespace that the network belongs to?
bool arena_is_here();
hash_area* arena_hash_area();

// Opens / makes a file below the network's directory; O_NOFOLLOW always. 0 or more, else -errno.
// Without O_CLOEXEC in flags the descriptor survives execve.
int arena_openat(const char* name, int flags, int mode);
// Gives the calling thread a descriptor table of its own, with nothing in it but the directory. 0 or -errno.
int arena_own_table();
// Is this the thread that has? Numbers that the process keeps are not its own.
bool arena_has_own_table();
// This thread looks names up in the directory `fd` from now on.
void arena_use_own_directory(int fd);
// For an image to come of this process, or of a child, that would not find the directory by path, being another
// user's or having another root: the descriptor of it that it should inherit, or -1. Stores nothing (vfork).
int arena_to_bequeath();
// What this image was given by that.
void arena_inherit(int fd);
// Path of the network's directory; empty before arena_attach.
const char* arena_directory();
// Bytes of the cells that are in use (not free), payload extents included.
u64 arena_bytes_in_use();
u64 arena_cells_in_use(region_id region);

// Word array kept beside the socket cells: inode of each cell's carrier file, 0 while it has none.
a64& carrier_inode(u32 socket_index);
u64 arena_device();

} // namespace sockshim

extern "C" __attribute__((visibility("default"))) int
sockshim_arena_usage(unsigned long long* bytes_in_use);
