"""SOCKSHIM_* variables, and an arena that cannot be had: a clear message, and the program works."""
import contextlib, ctypes, errno, os, resource, select, signal, socket, stat, subprocess, sys, threading

from harness import *


def need_shim():
    if NATIVE:
        raise Skip("only with the shim")


@guest
def echo(port, turns=1000):
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    print("ready", flush=True)
    for _ in range(int(turns)):
        s, _ = listener.accept()
        while data := s.recv(65536):
            s.sendall(data)
        s.close()


@guest
def ask(port, size=100000):
    s = socket.create_connection((LOOPBACK, int(port)))
    data = os.urandom(int(size))
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
    print(b"".join(iter(lambda: s.recv(65536), b"")) == data)


def talk(w, env=None, shim=True, may_say=False):
    """An echo server and a client. Returns the port and both."""
    port = w.port()
    s = w.guest(echo, port, 1, env=env, shim=shim)
    s.may_say = may_say
    s.until("ready")
    c = w.guest(ask, port, env=env, shim=shim)
    c.may_say = may_say
    same("the echo", "True\n", c.ok().text())
    s.ok()
    return port, s, c


def messages(p):
    return [l for l in p.err().splitlines() if l.startswith("sockshim: ")]


def by_kernel(w, port):
    check(kernel_sockets(port), "it went through the kernel")


# --- values ------------------------------------------------------------------------------------------------------

@case
def unknown_variable(w):
    """an unknown SOCKSHIM_ variable gets one line of warning from each program"""
    need_shim()
    port, s, c = talk(w, {"SOCKSHIM_TARCE": "1"}, may_say=True)
    for p in (s, c):
        found = messages(p)
        check(len(found) == 1 and "SOCKSHIM_TARCE" in found[0] and "unknown" in found[0], str(found))
    w.ours(port)


@case
def bad_values(w):
    """a bad value gets a clear message, and the default stays"""
    need_shim()
    for name, value in (("SOCKSHIM_SPIN_US", "banana"), ("SOCKSHIM_SPIN_US", "99999999"), ("SOCKSHIM_FUSE", "maybe"),
                        ("SOCKSHIM_ARENA_MAX", "1"), ("SOCKSHIM_ARENA_MAX", "-5"), ("SOCKSHIM_TRACE_RING", "12x"),
                        ("SOCKSHIM_SPIN_US", "99999999999999999999999999")):
        port, s, c = talk(w, {name: value}, may_say=True)
        for p in (s, c):
            found = messages(p)
            if len(found) != 1 or name not in found[0] or value not in found[0]:
                raise Failure("%s=%s: %s" % (name, value, found))
        say("%s=%s: %s" % (name, value, found[0]))
    w.ours(port)


@case
def good_values(w):
    """numbers with k, m, g; flags in all spellings: no message"""
    need_shim()
    for env in ({"SOCKSHIM_ARENA_MAX": "1g", "SOCKSHIM_SPIN_US": "0", "SOCKSHIM_TRACE_RING": "1k"},
                {"SOCKSHIM_ARENA_MAX": "512M", "SOCKSHIM_FUSE": "off"}, {"SOCKSHIM_FUSE": "yes", "SOCKSHIM_QUIET": "0"}):
        w.ours(talk(w, env)[0])


@guest
def echo_without_environment(port):
    """As setproctitle does: what stood in the environment is something else before the first socket is made."""
    with open("/proc/self/stat") as f:
        start, end = map(int, f.read().rsplit(")", 1)[1].split()[47:49])
    ctypes.memset(start, ord("x"), end - start - 1)
    echo(port, 1)


@case
def written_over(w):
    """variables hold as the process was started with them, whatever it writes there, and whether a trace has read them before"""
    for env in ({}, {"SOCKSHIM_TRACE": w.path("trace.%n")}, {"SOCKSHIM_NET": "mine"}):
        port = w.port()
        s = w.guest(echo_without_environment, port, env=env)
        s.until("ready")
        same("the echo with %s" % (env or "nothing more"), "True\n", w.guest(ask, port, env=env).ok().text())
        s.ok()
        w.ours(port)


@case
def quiet(w):
    """SOCKSHIM_QUIET=1: no message about anything, wherever it stands in the environment"""
    need_shim()
    for env in ({"SOCKSHIM_QUIET": "1", "SOCKSHIM_NONSENSE": "1", "SOCKSHIM_SPIN_US": "x", "SOCKSHIM_DENY": "y"},
                {"SOCKSHIM_NONSENSE": "1", "SOCKSHIM_SPIN_US": "x", "SOCKSHIM_DENY": "y", "SOCKSHIM_QUIET": "1"},
                {"SOCKSHIM_QUIET": "1", "SOCKSHIM_DIR": "/no/such/directory"}):
        port, s, c = talk(w, env, may_say=True)
        same("messages", [[], []], [messages(s), messages(c)])


@case
def disable(w):
    """SOCKSHIM_DISABLE=1: everything is the kernel's, and nothing is made in the directory"""
    need_shim()
    port, _, _ = talk(w, {"SOCKSHIM_DISABLE": "1", "SOCKSHIM_NONSENSE": None})
    by_kernel(w, port)
    same("files in SOCKSHIM_DIR", [], os.listdir(w.net))


@case
def networks(w):
    """SOCKSHIM_NET: two networks do not see each other; the same port in both"""
    need_shim()
    port = w.port()
    servers = [w.guest(echo, port, 1, env={"SOCKSHIM_NET": name}) for name in ("red", "blue")]
    for s in servers:
        s.until("ready")
    for s, name in zip(servers, ("red", "blue")):
        p = w.guest(ask, port, env={"SOCKSHIM_NET": name}).ok()
        same("the echo in " + name, "True\n", p.text())
        s.ok()
    p = w.guest(ask, port, env={"SOCKSHIM_NET": "green"})
    p.wait()
    check("ConnectionRefusedError" in p.err(), "in a third network nobody listens")
    w.ours(port)


# --- policy --------------------------------------------------------------------------------------------------------

@guest
def denied(port):
    def attempt(name, call, *args):
        try:
            call(*args)
            print(name, "ok")
        except OSError as e:
            print(name, errno.errorcode[e.errno])
    try:
        s = socket.socket()
    except OSError as e:
        print("socket", errno.errorcode[e.errno])
        return
    attempt("bind", s.bind, (LOOPBACK, int(port)))
    attempt("listen", s.listen, 1)
    attempt("setsockopt", s.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    attempt("getsockopt", s.getsockopt, socket.SOL_SOCKET, socket.SO_TYPE)
    attempt("getsockname", s.getsockname)
    c = socket.socket()
    attempt("connect", c.connect, (LOOPBACK, int(port)))
    attempt("getpeername", c.getpeername)
    attempt("send", c.send, b"x")
    attempt("shutdown", c.shutdown, socket.SHUT_WR)
    s.setblocking(False)
    attempt("accept", s.accept)


@case
def deny(w):
    """SOCKSHIM_DENY: each call is denied with the errno named, others are not; bad entries get a message"""
    need_shim()
    free = w.guest(denied, w.port()).ok().text().splitlines()
    for policy, changed in (("connect:EACCES", {"connect": "EACCES"}),
                            ("bind:EPERM,connect:13", {"bind": "EPERM", "connect": "EACCES"}),
                            ("listen:ENOMEM,setsockopt:EDOM", {"listen": "ENOMEM", "setsockopt": "EDOM"}),
                            ("sendmsg:EIO,getpeername:ENOSYS,shutdown:EXDEV,getsockname:ENODEV,getsockopt:E2BIG",
                             {"send": "EIO", "getpeername": "ENOSYS", "shutdown": "EXDEV", "getsockname": "ENODEV",
                              "getsockopt": "E2BIG"}),
                            ("accept:EPROTO", {"accept": "EPROTO"}), ("socket:EMFILE", {"socket": "EMFILE"})):
        got = w.guest(denied, w.port(), env={"SOCKSHIM_DENY": policy}).ok().text().splitlines()
        results = dict(l.split() for l in got)
        for name, error in changed.items():
            if results.get(name) != error:
                raise Failure("%s: %s says %s" % (policy, name, results.get(name)))
        if "listen" not in changed and "bind" not in changed and "connect" not in changed and "socket" not in changed:
            others = [l for l in free if l.split()[0] not in changed]
            if others != [l for l in got if l.split()[0] not in changed]:
                raise Failure("%s changed others: %s" % (policy, got))
        say("%s: as said" % policy)
    p = w.guest(denied, w.port(), env={"SOCKSHIM_DENY": "connect,bind:ENOSUCH,nothing:EPERM,getsockname:EPERM"})
    p.may_say = True
    p.ok()
    same("messages for three bad entries", 3, len(messages(p)))
    check("getsockname EPERM" in p.text() and "connect ok" in p.text(), "the good entry is in force")


@case
def broken_module(w):
    """SOCKSHIM_MODULES: what is no shared object gets a message and the family stays unknown (the rest: tests/modules)"""
    need_shim()
    os.mkdir(w.path("modules"))
    w.file("modules/net-pf-25.so", b"not a shared object")
    p = w.guest(use_family, 25, env={"SOCKSHIM_MODULES": w.path("modules")})
    p.may_say = True
    p.ok()
    same("socket(25)", {"EAFNOSUPPORT"}, set(p.text().split()))
    check(len(messages(p)) >= 1 and "net-pf-25" in messages(p)[0], "message: %s" % messages(p))
    w.ours(talk(w, {"SOCKSHIM_MODULES": w.path("no-such-directory")})[0])


@guest
def use_family(family):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
        try:
            s = socket.socket(int(family), kind)
            print("a socket", s.family, s.type)
            return
        except OSError as e:
            print(errno.errorcode[e.errno])


# --- an arena that cannot be had -------------------------------------------------------------------------------------

def network_directory(w):
    """The directory that the library made for the default network."""
    top = os.path.join(w.net, "sockshim-%d" % os.geteuid())
    inner = os.listdir(top)
    if len(inner) != 1:
        raise Failure("directories: %s" % inner)
    return os.path.join(top, inner[0])


def falls_back(w, what, env=None):
    port, s, c = talk(w, env, may_say=True)
    for p in (s, c):
        found = messages(p)
        if len(found) != 1:
            raise Failure("%s: messages %s" % (what, found))
    say("%s: %s" % (what, messages(s)[0]))
    by_kernel(w, port)


@case
def private(w):
    """what the library makes is the user's alone: directories 0700, files 0600"""
    need_shim()
    port = w.port()
    w.guest(echo, port).until("ready")
    directory = network_directory(w)
    for path in (os.path.dirname(directory), directory):
        same("mode of " + path[len(w.net):], "0o700", oct(os.stat(path).st_mode & 0o7777))
    modes = {oct(os.lstat(os.path.join(directory, f)).st_mode & 0o7777) for f in os.listdir(directory)}
    same("modes of the files in it", {"0o600"}, modes)


@case
def directory_unusable(w):
    """SOCKSHIM_DIR missing, unwritable, a file; a network directory that others may write, or a symbolic link"""
    need_shim()
    falls_back(w, "a missing directory", {"SOCKSHIM_DIR": "/no/such/directory"})
    falls_back(w, "an unwritable directory", {"SOCKSHIM_DIR": "/proc"})
    falls_back(w, "a file", {"SOCKSHIM_DIR": w.file("file", b"")})
    talk(w)
    directory = network_directory(w)
    os.chmod(directory, 0o777)
    falls_back(w, "open to others")
    elsewhere = os.path.join(w.net, "elsewhere")
    os.rename(directory, elsewhere)
    os.chmod(elsewhere, 0o700)
    os.symlink(elsewhere, directory)
    falls_back(w, "a symbolic link")
    os.unlink(directory)
    with open(directory, "w"):
        pass
    falls_back(w, "a file in its place")
    os.unlink(directory)
    w.ours(talk(w)[0])


@case
def arena_unusable(w):
    """an arena file that is a symbolic link, a directory or without rights"""
    need_shim()
    talk(w)
    arena = os.path.join(network_directory(w), "arena")
    os.rename(arena, arena + ".elsewhere")
    os.symlink(arena + ".elsewhere", arena)
    falls_back(w, "a symbolic link")
    os.unlink(arena)
    os.mkdir(arena)
    falls_back(w, "a directory")
    os.rmdir(arena)
    if os.geteuid():
        with open(arena, "w"):
            pass
        os.chmod(arena, 0)
        falls_back(w, "no rights")
        os.unlink(arena)
    w.ours(talk(w)[0])


@case
def arena_damaged(w):
    """an arena file that was truncated, grew, is of another layout or full of noise: starts afresh, and is ours"""
    need_shim()
    talk(w)
    arena = os.path.join(network_directory(w), "arena")

    def noise(f):
        f.write(os.urandom(1 << 20))

    def layout(f):
        f.seek(8)
        f.write(b"\x01" * 8)

    def magic(f):
        f.write(b"nonsense")
    for what, damage, says in (("truncated to 0", lambda f: f.truncate(0), True),
                               ("truncated", lambda f: f.truncate(100000), True),
                               ("too long", lambda f: f.truncate(os.fstat(f.fileno()).st_size + 4096), True),
                               ("another layout", layout, None), ("another magic", magic, None),
                               ("noise", noise, None)):
        with open(arena, "r+b") as f:
            damage(f)
        port, s, c = talk(w, may_say=True)
        found = messages(s) + messages(c)
        if says and not found:
            raise Failure(what + ": no message")
        w.ours(port)
        say("%s: %s" % (what, found[0] if found else "started afresh"))


@case
def noise_in_use(w):
    """random bytes over the whole arena while programs use it: nobody crashes (what they see may be errors)"""
    need_shim()
    for _ in range(3):
        port = w.port()
        s = w.guest(survivor, port)
        s.until("ready")
        time.sleep(0.3)
        arena = os.path.join(network_directory(w), "arena")
        with open(arena, "r+b") as f:
            # The cells of the first regions, not the header: a scribbling neighbour, not a hostile one.
            start = 1 << 20
            end = os.fstat(f.fileno()).st_size
            for _ in range(2000):
                at = rng.randrange(start, min(end, 64 << 20)) & ~7
                if os.lseek(f.fileno(), at & ~4095, os.SEEK_DATA) != at & ~4095:
                    continue
                f.seek(at)
                f.write(os.urandom(8))
        time.sleep(0.3)
        s.kill(signal.SIGTERM)
        status = s.wait(15)
        check(status == -signal.SIGTERM or status == 0 or status == 1, "it ended with %s, not by a crash" % status)
        s.end()


@guest
def survivor(port):
    """Uses sockets all the time; takes any error."""
    print("ready", flush=True)
    while True:
        with contextlib.suppress(OSError):
            l = socket.create_server((LOOPBACK, int(port)))
            l.settimeout(0.2)
            a = socket.socket()
            a.settimeout(0.2)
            a.connect((LOOPBACK, int(port)))
            b, _ = l.accept()
            b.settimeout(0.2)
            for _ in range(100):
                a.sendall(b"x" * 1000)
                b.recv(1000)
            u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            u.settimeout(0.2)
            u.bind((LOOPBACK, 0))
            u.sendto(b"x", u.getsockname())
            u.recv(10)


@case
def limits(w):
    """ulimit -f forbids the arena, ulimit -v its mapping: a message, and the kernel's sockets"""
    need_shim()
    for limit, value in (("-f", 100), ("-v", 2000000)):
        port = w.port()
        s = w.start("/bin/sh", "-c", "ulimit %s %d; exec %s -B %s --guest echo %d 1"
                    % (limit, value, PYTHON, os.path.abspath(__file__), port))
        s.may_say = True
        s.until("ready")
        check(len(messages(s)) == 1, "ulimit %s: %s" % (limit, messages(s)))
        c = w.guest(ask, port)
        same("the echo", "True\n", c.ok().text())
        s.ok()
        by_kernel(w, port)


@case
def full_tmpfs(w):
    """a tmpfs with no room left: a message, and the kernel's sockets; one that fills up later: ENOBUFS"""
    need_shim()
    small = w.path("small")
    os.mkdir(small)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", small],
                                      capture_output=True).returncode:
        raise Skip("cannot mount a tmpfs")
    try:
        falls_back(w, "no room for the arena", {"SOCKSHIM_DIR": small})
        subprocess.run(["mount", "-o", "remount,size=12m", small], check=True)
        p = w.guest(exhaust, "yes", env={"SOCKSHIM_DIR": small}, stdin=subprocess.PIPE)
        p.until("full")
        p.write("\n")
        p.ok()
        say(" ".join(p.text().split()))
        check(re.search(r"full after \d+ (ENOBUFS|ENOMEM)", p.text()) and "again fine" in p.text(), "as it should be")
    finally:
        if sys.exc_info()[0]:
            w.describe()
        for p in w.programs:
            p.end()
        subprocess.run(["umount", small])


@guest
def exhaust(count_them):
    """Makes connections until there is no room; frees some; goes on."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server((LOOPBACK, 0), backlog=100)
    listener.settimeout(0.3)
    held, failure = [], None
    while len(held) < hard - 100 and not failure:
        try:
            a = socket.socket()
            a.settimeout(5)
            held.append(a)
            a.connect(listener.getsockname())
            b, _ = listener.accept()
            held.append(b)
            a.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                a.send(b"x" * (3000 if hard > 4000 else 400000))
        except TimeoutError:        # connected, and no room for the other side: as in Linux, its ACK was dropped
            pass
        except OSError as e:
            failure = e
    print("full after %d" % len(held), errno.errorcode.get(getattr(failure, "errno", 0), repr(failure)), flush=True)
    sys.stdin.readline()
    listener.settimeout(None)
    for s in held:
        s.close()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            a = socket.create_connection(listener.getsockname())
            b, peer = listener.accept()
            while peer != a.getsockname():      # one that had no room then
                b, peer = listener.accept()
            a.sendall(b"again")
            assert b.recv(10) == b"again"
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    print("again fine")


@guest
def steady(port, role):
    """One connection on which bytes go there and back until stdin says stop."""
    if role == "server":
        listener = socket.create_server((LOOPBACK, int(port)))
        print("ready", flush=True)
        s, _ = listener.accept()
        while data := s.recv(65536):
            s.sendall(data)
        return
    s = socket.create_connection((LOOPBACK, int(port)))
    n = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        data = b"%d " % n * 500
        s.sendall(data)
        got = b""
        while len(got) < len(data):
            got += s.recv(65536)
        assert got == data, n
        n += 1
        if n == 10:
            print("going", flush=True)
    print("rounds", n)


@case
def arena_full(w):
    """tiny SOCKSHIM_ARENA_MAX: ENOBUFS or ENOMEM for the caller, a connection that is there goes on, then room again"""
    need_shim()
    w.env["SOCKSHIM_ARENA_MAX"] = "4m"
    port = w.port()
    w.guest(steady, port, "server").until("ready")
    bystander = w.guest(steady, port, "client", stdin=subprocess.PIPE)
    bystander.until("going")
    p = w.guest(exhaust, "yes", stdin=subprocess.PIPE)
    p.until("full")
    say(p.text().strip())
    check(re.search(r"full after \d+ (ENOBUFS|ENOMEM)", p.text()), "the caller got ENOBUFS or ENOMEM")
    other = w.guest(one_more)
    other.may_say = True
    other.wait()
    say("another program meanwhile: " + (other.text().strip() or other.err().strip()[-200:]))
    check(re.search("ok|ENOBUFS|ENOMEM|ENFILE", other.text()), "it got a socket or a clear errno")
    p.write("\n")
    p.ok()
    check("again fine" in p.text(), "room again after closing")
    bystander.write("stop\n")
    bystander.ok()
    check("rounds" in bystander.text(), "the bystander's connection went on: " + bystander.text().split("going\n")[1])
    w.ours(port)


@guest
def one_more():
    try:
        l = socket.create_server((LOOPBACK, 0))
        a = socket.socket()
        a.settimeout(5)
        a.connect(l.getsockname())
        print("ok")
    except OSError as e:
        print(errno.errorcode.get(e.errno, repr(e)))


if __name__ == "__main__":
    main()
