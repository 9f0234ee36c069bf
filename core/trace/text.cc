#include "core/trace/text.h"

namespace sockshim::trace {

text& text::put(char c) {
    if (used < room)
        start[used++] = c;
    else
        full = true;
    return *this;
}

text& text::puts(const char* s) {
    for (; *s; ++s) put(*s);
    return *this;
}

text& text::put_n(const char* s, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) put(s[i]);
    return *this;
}

static std::size_t digits_of(char (&out)[24], u64 v, u64 base) {
    std::size_t n = 0;
    do out[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    return n;
}

static void put_number(text& t, u64 v, u64 base, std::size_t width, char fill) {
    char digits[24];
    std::size_t n = digits_of(digits, v, base);
    for (std::size_t i = n; i < width; ++i) t.put(fill);
    while (n) t.put(digits[--n]);
}

text& text::udec(u64 v) {
    put_number(*this, v, 10, 0, ' ');
    return *this;
}

text& text::dec(i64 v) {
    if (v < 0) put('-');
    return udec(v < 0 ? u64{0} - static_cast<u64>(v) : static_cast<u64>(v));
}

text& text::hex(u64 v) {
    puts("0x");
    put_number(*this, v, 16, 0, ' ');
    return *this;
}

text& text::hex_digits(u64 v, std::size_t digits) {
    put_number(*this, v, 16, digits, '0');
    return *this;
}

text& text::oct(u64 v) {
    put('0');
    // 0 is written once; 0600 has its leading zero.
    char digits[24];
    u64 rest = v;
    std::size_t n = 0;
    for (; rest; rest /= 8) digits[n++] = static_cast<char>('0' + rest % 8);
    while (n) put(digits[--n]);
    return *this;
}

text& text::pad_to(std::size_t column) {
    do put(' ');
    while (used < column && !full);
    return *this;
}

text& text::right(u64 v, std::size_t width) {
    put_number(*this, v, 10, width, ' ');
    return *this;
}

text& text::zeros(u64 v, std::size_t digits) {
    put_number(*this, v, 10, digits, '0');
    return *this;
}

text& text::seconds(u64 ns) {
    const u64 us = ns / 1000;
    return udec(us / 1000000).put('.').zeros(us % 1000000, 6);
}

static bool is_octal_digit(u8 c) { return c >= '0' && c <= '7'; }

text& text::quoted(const u8* data, std::size_t n, bool more) {
    put('"');
    for (std::size_t i = 0; i < n; ++i) {
        const u8 c = data[i];
        switch (c) {
        case '"': puts("\\\""); continue;
        case '\\': puts("\\\\"); continue;
        case '\n': puts("\\n"); continue;
        case '\r': puts("\\r"); continue;
        case '\t': puts("\\t"); continue;
        case '\v': puts("\\v"); continue;
        case '\f': puts("\\f"); continue;
        default: break;
        }
        if (c >= ' ' && c < 0x7f) {
            put(static_cast<char>(c));
            continue;
        }
        // Three digits only where the next character would be read as one more.
        const bool all = i + 1 < n && is_octal_digit(data[i + 1]);
        put('\\');
        put_number(*this, c, 8, all ? 3 : 0, '0');
    }
    put('"');
    if (more) puts("...");
    return *this;
}

text& text::pointer(u64 v) { return v ? hex(v) : puts("NULL"); }

} // namespace sockshim::trace
