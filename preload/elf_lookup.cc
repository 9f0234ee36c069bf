#include "preload/elf_lookup.h"

#include <cstring>
#include <link.h>

#include "core/base/types.h"

namespace sockshim {
namespace {

struct symbol_tables {
    const ElfW(Sym) * symbols;
    const char* strings;
    const u32* hash;             // DT_GNU_HASH
    const ElfW(Half) * versions; // DT_VERSYM or null
};

// The loader relocates these addresses in place, except in objects whose dynamic section is read-only.
const void* address_in(const link_map& map, ElfW(Addr) value) {
    return reinterpret_cast<const void*>(value < map.l_addr ? value + map.l_addr : value);
}

bool tables_of(const link_map& map, symbol_tables& t) {
    t = {};
    for (const ElfW(Dyn)* d = map.l_ld; d->d_tag != DT_NULL; ++d) {
        const void* const p = address_in(map, d->d_un.d_ptr);
        switch (d->d_tag) {
        case DT_SYMTAB: t.symbols = static_cast<const ElfW(Sym)*>(p); break;
        case DT_STRTAB: t.strings = static_cast<const char*>(p); break;
        case DT_GNU_HASH: t.hash = static_cast<const u32*>(p); break;
        case DT_VERSYM: t.versions = static_cast<const ElfW(Half)*>(p); break;
        default: break;
        }
    }
    return t.symbols && t.strings && t.hash;
}

u32 gnu_hash(const char* name) {
    u32 h = 5381;
    for (; *name; ++name) h = h * 33 + static_cast<u8>(*name);
    return h;
}

void* find_in(const link_map& map, const char* name, u32 hash) {
    symbol_tables t;
    if (!tables_of(map, t)) return nullptr;
    const u32 buckets = t.hash[0], first = t.hash[1], bloom_words = t.hash[2], shift = t.hash[3];
    if (buckets == 0 || bloom_words == 0) return nullptr;
    constexpr u32 word_bits = sizeof(ElfW(Addr)) * 8;
    const auto* bloom = reinterpret_cast<const ElfW(Addr)*>(t.hash + 4);
    const u32* bucket = reinterpret_cast<const u32*>(bloom + bloom_words);
    const u32* chain = bucket + buckets;
    const ElfW(Addr) word = bloom[(hash / word_bits) % bloom_words];
    if (!((word >> (hash % word_bits)) & (word >> ((hash >> shift) % word_bits)) & 1))
        return nullptr;
    u32 index = bucket[hash % buckets];
    if (index < first) return nullptr;
    for (;; ++index) {
        const u32 entry = chain[index - first];
        if ((entry | 1) == (hash | 1)) {
            const ElfW(Sym)& symbol = t.symbols[index];
            const bool hidden_version = t.versions && (t.versions[index] & 0x8000);
            if (symbol.st_shndx != SHN_UNDEF && !hidden_version &&
                ELF64_ST_TYPE(symbol.st_info) == STT_FUNC &&
                std::strcmp(t.strings + symbol.st_name, name) == 0) {
                return reinterpret_cast<void*>(map.l_addr + symbol.st_value);
            }
        }
        if (entry & 1) return nullptr;
    }
}

} // namespace

void* elf_lookup_next(const char* name) {
    const u32 hash = gnu_hash(name);
    bool behind_us = false;
    for (const link_map* map = _r_debug.r_map; map; map = map->l_next) {
        if (map->l_ld == _DYNAMIC) {
            behind_us = true;
        } else if (behind_us) {
            if (void* found = find_in(*map, name, hash)) return found;
        }
    }
    return nullptr;
}

const char* elf_own_path() {
    for (const link_map* map = _r_debug.r_map; map; map = map->l_next) {
        if (map->l_ld == _DYNAMIC) return map->l_name;
    }
    return "";
}

} // namespace sockshim
