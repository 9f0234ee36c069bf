"""Programs with another allocator or a sanitizer between them and libc, before us or after us."""
import glob, os, re, subprocess

from harness import *
from servers import LINES


def library(name):
    """A library's path, as the loader finds it."""
    found = glob.glob("/usr/lib/*-linux-gnu/" + name)
    if not found:
        raise Skip(name + " is not installed")
    return found[0]


def orders(shim, other):
    """LD_PRELOAD with the other library before ours and after it."""
    ours = [LIB] if shim and not NATIVE else []
    return {":".join(o) for o in ([other] + ours, ours + [other])}


# --- allocators ---------------------------------------------------------------------------------------------

@guest
def forking_server(port):
    """A thread and then a child for each connection, both allocating."""
    import threading
    with socket.create_server((LOOPBACK, int(port)), backlog=50) as listener:
        print("ready", flush=True)
        for i in range(12):
            c, _ = listener.accept()
            if i % 2 and not os.fork():
                answer(c)
                os._exit(0)
            if i % 2:
                c.close()
            else:
                threading.Thread(target=answer, args=(c,)).start()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break


def answer(c):
    with c:
        data = c.makefile("rb").read()
        c.sendall(b"".join(line[::-1] for line in data.splitlines(True)))
        c.shutdown(socket.SHUT_WR)


def allocator(w, shim, name):
    found = library(name)
    server, bench = need("redis-server", "redis-benchmark")
    answers = []
    for preload in orders(shim, found):
        env = {"LD_PRELOAD": preload}
        port, redis = w.port(), w.port()
        p = w.guest(forking_server, port, shim=shim, env=env)
        p.until("ready", "out")
        with open("/proc/%d/maps" % p.pid) as f:
            check(name in f.read(), "its allocator")
        clients = [w.start(need("nc"), "-N", LOOPBACK, port, stdin=LINES[:50000 + i], shim=shim, env=env) for i in range(12)]
        answers.append([sha(c.ok().out()) for c in clients])
        p.ok()
        w.start(server, "--port", redis, "--bind", LOOPBACK, "--save", "", "--dir", w.work, "--io-threads", 2, shim=shim,
                env=env).until("Ready to accept connections")
        told = w.start(bench, "-h", LOOPBACK, "-p", redis, "-P", 8, "-n", 4000, "-c", 20, "-t", "set,lrange_100", "--csv", shim=shim,
                       env=env).ok()
        answers.append((len(told.text().splitlines()), told.err()))
        for number in (port, redis):
            w.ours(number, shim)
    same("the outcome of each order", 1, len({repr(answers[i:i + 2]) for i in range(0, len(answers), 2)}))
    return answers[:2]


@case
@both_worlds
def jemalloc(w, shim):
    """redis-server, redis-benchmark, python3: preloaded with jemalloc, before us and after us"""
    return allocator(w, shim, "libjemalloc.so.2")


@case
@both_worlds
def tcmalloc(w, shim):
    """redis-server, redis-benchmark, python3: preloaded with tcmalloc, before us and after us"""
    return allocator(w, shim, "libtcmalloc_minimal.so.4")


# --- sanitizers ---------------------------------------------------------------------------------------------

def built(w, *options):
    """sanitized.c, with the sanitizer's library in it."""
    program = w.path("sanitized" + "".join(options))
    if not os.path.exists(program):
        w.run(need("gcc"), "-g", "-O1", "-pthread", *options, "-o", program, os.path.join(HERE, "sanitized.c"), shim=False)
    return program


def sanitized(w, shim, program, *args, env=None, status=0):
    """What it printed, run to its end."""
    port = w.port()
    # (The sanitizers want to know where everything lies: without randomness.)
    p = w.start(need("setarch"), "-R", program, port, *args, shim=shim, env=env, name=os.path.basename(program))
    same("the end of " + p.name, status, p.wait())
    w.ours(port, shim)
    reports = re.findall("ERROR: AddressSanitizer: [a-z-]+|WARNING: ThreadSanitizer: [a-z ]+", p.err())
    return p.text(), reports


@case
@both_worlds
def asan(w, shim):
    """gcc: a program built with -fsanitize=address, its library in it or preloaded before us"""
    program = built(w, "-fsanitize=address", "-static-libasan")
    answers = [sanitized(w, shim, program), sanitized(w, shim, program, "far too long for it", status=1)]
    program = built(w, "-fsanitize=address")
    linked = re.search(r"libasan\S+ => (\S+)", subprocess.run(["ldd", program], capture_output=True, text=True).stdout).group(1)
    preload = ":".join([linked] + [LIB] * (shim and not NATIVE))
    return answers + [sanitized(w, shim, program, env={"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"})]


@case
@both_worlds
def tsan(w, shim):
    """gcc: a program built with -fsanitize=thread, its library in it or not"""
    return [sanitized(w, shim, built(w, "-fsanitize=thread", *more)) for more in ((), ("-static-libtsan",))]


@case
@both_worlds
def ubsan(w, shim):
    """gcc: a program built with -fsanitize=undefined"""
    return sanitized(w, shim, built(w, "-fsanitize=undefined", "-fno-sanitize-recover=all"))


if __name__ == "__main__":
    main()
