// A buffer of messages inside a sock cell, for the sample protocols: shared memory, so no pointers.
#pragma once
#include "sockshim/module.h"

namespace sockshim {

// Messages one after the other, each behind its length; moved to the front when read, which is good
// enough for half a kilobyte.
struct message_box {
    u32 used;
    u32 reserved;
    u8 bytes[496];

    u32 room() const {
        const u32 taken = used + static_cast<u32>(sizeof(u32));
        return taken < sizeof bytes ? static_cast<u32>(sizeof bytes) - taken : 0;
    }
    void put(const u8* data, u32 len) {
        __builtin_memcpy(bytes + used, &len, sizeof len);
        __builtin_memcpy(bytes + used + sizeof len, data, len);
        // One store makes the message exist.
        __atomic_store_n(&used, used + static_cast<u32>(sizeof len) + len, __ATOMIC_RELEASE);
    }
    // Length of the first message; the box must not be empty.
    u32 first_len() const {
        u32 len;
        __builtin_memcpy(&len, bytes, sizeof len);
        return min_of<u32>(len, sizeof bytes - sizeof len);
    }
    const u8* first() const { return bytes + sizeof(u32); }
    void drop_first() {
        const u32 whole = first_len() + static_cast<u32>(sizeof(u32));
        __builtin_memmove(bytes, bytes + whole, used - min_of(whole, used));
        used -= min_of(whole, used);
    }
    // A stream reader took n bytes of the first message.
    void consume(u32 n) {
        const u32 len = first_len();
        if (n >= len) return drop_first();
        const u32 left = len - n;
        u8 rest[sizeof bytes];
        __builtin_memcpy(rest, first() + n, left);
        drop_first();
        __builtin_memmove(bytes + sizeof left + left, bytes, used);
        __builtin_memcpy(bytes, &left, sizeof left);
        __builtin_memcpy(bytes + sizeof left, rest, left);
        used += static_cast<u32>(sizeof left) + left;
    }
};

inline void reverse_bytes(u8* data, u32 len) {
    for (u32 i = 0; i < len / 2; ++i) {
        const u8 t = data[i];
        data[i] = data[len - 1 - i];
        data[len - 1 - i] = t;
    }
}

} // namespace sockshim
