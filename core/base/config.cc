#include "core/base/config.h"

#include <cstdarg>
#include <cstring>
#include <initializer_list>
#include <unistd.h>

#include "core/base/atomic.h"
#include "core/base/diagnostic.h"
#include "core/base/raw_syscall.h"

namespace sockshim {

constinit configuration the_config = default_configuration;
constinit a32 config_state{0};

namespace {

bool parse_flag(const char* text, bool& out) {
    for (const char* yes : {"1", "on", "yes", "true"}) {
        if (!std::strcmp(text, yes)) return out = true, true;
    }
    for (const char* no : {"0", "off", "no", "false", ""}) {
        if (!std::strcmp(text, no)) return out = false, true;
    }
    return false;
}

bool parse_number(const char* text, u64 lo, u64 hi, u64& out) {
    if (*text < '0' || *text > '9') return false;
    u64 v = 0;
    for (; *text >= '0' && *text <= '9'; ++text) {
        if (v > (~u64{0} - 9) / 10) return false;
        v = v * 10 + static_cast<u64>(*text - '0');
    }
    u32 shift = 0;
    if (*text == 'k' || *text == 'K')
        shift = 10, ++text;
    else if (*text == 'm' || *text == 'M')
        shift = 20, ++text;
    else if (*text == 'g' || *text == 'G')
        shift = 30, ++text;
    if (*text || v > (~u64{0} >> shift)) return false;
    v <<= shift;
    if (v < lo || v > hi) return false;
    out = v;
    return true;
}

[[maybe_unused]] bool parse_text(const char* text, const char*& out) { return out = text, true; }

constinit const char* remembered = nullptr;

template <class Visit> void for_each_variable(Visit visit) {
    if (!remembered) {
        for (char** e = environ; e && *e; ++e) visit(*e);
        return;
    }
    for (const char* s = remembered; *s; s += std::strlen(s) + 1) visit(s);
}

void read_environment() {
    // First, so that it holds for what is said of the others.
    for_each_variable([](const char* s) {
        if (!std::strncmp(s, "SOCKSHIM_QUIET=", 15)) parse_flag(s + 15, the_config.quiet);
    });
    for_each_variable([](const char* s) {
        switch (config_take(the_config, s)) {
        case config_verdict::unknown: notice("unknown variable %s (ignored)", s); break;
        case config_verdict::bad: notice("bad value in %s; the default stays", s); break;
        default: break;
        }
    });
}

} // namespace

config_verdict config_take(configuration& to, const char* variable) {
    const char* eq = std::strchr(variable, '=');
    if (!eq || std::strncmp(variable, "SOCKSHIM_", 9) != 0) return config_verdict::foreign;
    const char* value = eq + 1;
    const std::size_t len = static_cast<std::size_t>(eq - variable);
    auto is = [&](const char* name) {
        return std::strlen(name) == len && !std::strncmp(variable, name, len);
    };
    auto verdict = [](bool good) { return good ? config_verdict::taken : config_verdict::bad; };
#define PARSE_FLAG(field, lo, hi) parse_flag(value, to.field)
#define PARSE_NUMBER(field, lo, hi) parse_number(value, lo, hi, to.field)
#define PARSE_TEXT(field, lo, hi) parse_text(value, to.field)
#define X(name, field, kind, def, lo, hi, doc)                                                     \
    if (is(name)) return verdict(PARSE_##kind(field, lo, hi));
    SOCKSHIM_OPTIONS(X)
#undef X
    return config_verdict::unknown;
}

void config_remember(const char* variables) {
    remembered = variables;
    // Read before, for another library's constructor: its texts are the environment's.
    if (config_state.load()) for_each_variable([](const char* s) { config_take(the_config, s); });
}

const configuration& config_read() {
    u32 expected = 0;
    if (config_state.cas(expected, 1)) {
        read_environment();
        config_state.store(2);
    }
    // Somebody else is reading, or this thread is (notice() asks for `quiet`): the defaults will do.
    return the_config;
}

void notice(const char* format, ...) {
    if (the_config.quiet) return;
    char line[512];
    std::size_t n = 0;
    auto put = [&](char c) {
        if (n < sizeof line - 1) line[n++] = c;
    };
    auto puts = [&](const char* s) {
        for (; s && *s; ++s) put(*s);
    };
    auto number = [&](unsigned long v, unsigned base) {
        char digits[24];
        int i = 0;
        do digits[i++] = "0123456789abcdef"[v % base];
        while (v /= base);
        while (i) put(digits[--i]);
    };
    puts("sockshim: ");
    va_list ap;
    va_start(ap, format);
    for (const char* f = format; *f; ++f) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        switch (*++f) {
        case 's': puts(va_arg(ap, const char*)); break;
        case 'd': {
            const int v = va_arg(ap, int);
            if (v < 0) put('-');
            number(v < 0 ? 0ul - static_cast<unsigned long>(v) : static_cast<unsigned long>(v), 10);
            break;
        }
        case 'u': number(va_arg(ap, unsigned), 10); break;
        case 'l': number(va_arg(ap, unsigned long), *++f == 'x' ? 16 : 10); break;
        default: put('%'); --f;
        }
    }
    va_end(ap);
    put('\n');
    write_diagnostic(2, line, static_cast<std::size_t>(n));
}

} // namespace sockshim
