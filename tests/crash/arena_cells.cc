// arena_cells ARENA [--list]: how many cells of each region of a network's arena are in use, and how many
// processes it knows, seen from outside: this process is not in the network, so it changes nothing. With --list also each
// cell, for whoever looks for a leak.
#include <arpa/inet.h>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/arena/private.h"
#include "core/net/socket.h"

namespace sockshim {
namespace {

const u8* base;

const arena_header& header() { return *reinterpret_cast<const arena_header*>(base); }

template <class T> const T& cell(u32 region, u32 index) {
    const u8* cells = base + region_offset(region) + region_words_bytes(region);
    return *reinterpret_cast<const T*>(cells + u64{index} * region_shapes[region].cell_bytes);
}

u32 pid_of(u32 slot) { return static_cast<u32>(header().processes[slot].word.load() >> 32); }

void print_process(proc_id id) {
    const u32 slot = proc_slot_of(id);
    std::printf(" %u/%u(pid %u)", slot, proc_gen_of(id), slot <= max_processes ? pid_of(slot) : 0);
}

void print_socket(const socket& s) {
    std::printf(" type %d state %u flags 0x%x sk %u.%u holder", s.type, unsigned{s.state.load()},
                s.flags.load(), s.sk.index, s.sk.gen);
    print_process(static_cast<u32>(s.holder.load()) & 0x3fffffff);
    if (s.holder.load() & holder_claimed) std::printf(" claimed");
    std::printf(" holders");
    for (const a32& h : s.holders) {
        if (h.load()) print_process(h.load());
    }
}

void print_sock(const sock& sk) {
    const sock_common& c = sk.__sk_common;
    std::printf(" prot %u state %u port %u peer %u hashed %u flags 0x%x shutdown %u socket %u.%u "
                "backlog %u lock 0x%x "
                "timer %llu err %u",
                c.skc_prot_id, unsigned{c.skc_state.load()}, c.skc_num, ntohs(c.skc_dport),
                c.skc_hashed, sk.sk_flags.load(), unsigned{sk.sk_shutdown.load()},
                sk.sk_socket.index, sk.sk_socket.gen, sk.sk_ack_backlog.load(),
                sk.sk_lock.word.load(), static_cast<unsigned long long>(sk.sk_timer_us.load()),
                sk.sk_err.load());
}

void print_region(u32 region, bool list) {
    const auto* words = reinterpret_cast<const cell_word*>(base + region_offset(region));
    const u32 committed =
        min_of(header().committed[region].load(), region_shapes[region].max_cells);
    u32 used = 0;
    for (u32 i = 0; i < committed; ++i) {
        const u64 w = words[i].word.load();
        if (cell_word::state(w) == CELL_FREE) continue;
        ++used;
        if (!list) continue;
        std::printf("  %s %u.%u %s by", region_shapes[region].name, i, cell_word::gen(w),
                    cell_word::state(w) == CELL_LIVE ? "live" : "claimed");
        print_process(cell_word::owner(w));
        if (region == REGION_SOCKET) print_socket(cell<socket>(region, i));
        if (region == REGION_SOCK) print_sock(cell<sock>(region, i));
        std::printf("\n");
    }
    std::printf("%s %u %u\n", region_shapes[region].name, used, region_shapes[region].cell_bytes);
}

void print_processes(bool list) {
    u32 used = 0;
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        const process_slot& p = header().processes[slot];
        const u32 low = static_cast<u32>(p.word.load());
        if ((low & 3) == PROC_FREE) continue;
        ++used;
        if (list)
            std::printf("  process %u/%u state %u pid %u\n", slot, low >> 2, low & 3, pid_of(slot));
    }
    std::printf("process %u %zu\n", used, sizeof(process_slot));
}

int arena_cells(int argc, char** argv) {
    const bool list = argc == 3 && !std::strcmp(argv[2], "--list");
    if (argc != 2 && !list) {
        std::fprintf(stderr, "usage: arena_cells ARENA [--list]\n");
        return 2;
    }
    const int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    struct stat st {};
    if (fd < 0 || fstat(fd, &st) || static_cast<u64>(st.st_size) != arena_reserved_bytes) {
        std::fprintf(stderr, "arena_cells: %s is no arena of this build\n", argv[1]);
        return 1;
    }
    void* p = mmap(nullptr, arena_reserved_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) {
        std::perror("arena_cells: mmap");
        return 1;
    }
    base = static_cast<const u8*>(p);
    if (header().magic != arena_magic) {
        std::fprintf(stderr, "arena_cells: %s is no arena\n", argv[1]);
        return 1;
    }
    print_processes(list);
    for (u32 region = 0; region < REGION_COUNT; ++region) print_region(region, list);
    return 0;
}

} // namespace
} // namespace sockshim

int main(int argc, char** argv) { return sockshim::arena_cells(argc, argv); }
