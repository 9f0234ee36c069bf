#!/usr/bin/env python3
"""Programs that begin as root and go on as somebody else, in a chroot or not: they keep their sockets, make new ones, and
no thread of theirs stays root."""
import ctypes, os, select, shutil, signal, socket, struct, subprocess, threading, time
import encodings.idna  # Python looks for it at the first name, which in a chroot is too late

from harness import (HERE, LOOPBACK, NATIVE, PYTHON, Failure, Skip, both_worlds, case, check, guest, main, need, same, say,
                     wait_until)

NOBODY = 65534
MEGABYTE = bytes(range(256)) * 4096
SYS = {"x86_64": {"setuid": 105, "setgid": 106, "setgroups": 116, "setresuid": 117},
       "aarch64": {"setuid": 146, "setgid": 144, "setgroups": 159, "setresuid": 147}}.get(os.uname().machine)
libc = ctypes.CDLL(None, use_errno=True)


def need_root():
    if os.geteuid():
        raise Skip("not root")


def become_nobody(jail=None):
    if jail and jail != "-":
        os.chroot(jail)
        os.chdir("/")
    os.setgroups([NOBODY])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def jail_of(w, shim, jailed):
    if not jailed:
        return "-"
    path = w.path("jail-%d" % shim)
    os.mkdir(path, 0o755)
    os.chmod(w.work, 0o711)
    return path


def take(s, n):
    data = b""
    while len(data) < n:
        got = s.recv(min(n - len(data), 1 << 16))
        if not got:
            raise EOFError("%d of %d" % (len(data), n))
        data += got
    return data


def ask(port, data=b"hello"):
    with socket.create_connection((LOOPBACK, port)) as s:
        sender = threading.Thread(target=s.sendall, args=(data,))
        sender.start()
        answer = take(s, len(data))
        sender.join()
        return answer == data


def serve(listener, n):
    s, _ = listener.accept()
    with s:
        done = 0
        while done < n:
            data = s.recv(1 << 16)
            s.sendall(data)
            done += len(data)


# --- what a server that has dropped its privileges does ------------------------------------------------------------

@guest
def dropping_server(port, jail, size):
    """Root listens; the child that is nobody serves."""
    size = int(size)
    listener = socket.create_server((LOOPBACK, int(port)))
    if os.fork():
        _, status = os.wait()
        print("the child ended with", status, flush=True)
        return
    become_nobody(jail)
    print("user", os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), "/ is empty:", not os.listdir("/"), flush=True)
    serve(listener, size)
    print("accept", flush=True)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    print("poll", poll.poll(40000) == [(listener.fileno(), select.POLLIN)], flush=True)
    serve(listener, size)
    with select.epoll() as set_of_events:
        set_of_events.register(listener, select.EPOLLIN)
        print("epoll", set_of_events.poll(40) == [(listener.fileno(), select.EPOLLIN)], flush=True)
    serve(listener, size)
    # with an eventfd in the set, so that the wait is the kernel's and a bell is rung
    other = os.eventfd(0)
    print("select", select.select([listener, other], [], [], 40)[0] == [listener], flush=True)
    serve(listener, size)
    own = socket.create_server((LOOPBACK, 0))
    grandchild = os.fork()
    if not grandchild:
        for _ in range(3):
            serve(own, size)
        os._exit(0)
    for _ in range(3):
        print("own sockets", ask(own.getsockname()[1], MEGABYTE[:size]), flush=True)
    print("the grandchild ended with", os.waitpid(grandchild, 0)[1])
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "ab")
    b.bind((LOOPBACK, 0))
    a.sendto(b"datagram", b.getsockname())
    print(b.recv(100), flush=True)
    many = [socket.socket() for _ in range(300)]
    print("sockets", len(many), flush=True)
    os._exit(0)


@guest
def clients(port, size, times):
    for _ in range(int(times)):
        print(ask(int(port), MEGABYTE[:int(size)]), flush=True)


@guest
def nobody_client(port, size, times, jail):
    """A child of a root process that is in the network."""
    keep = socket.create_server((LOOPBACK, 0))
    if os.fork():
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    become_nobody(jail)
    clients(port, size, times)
    os._exit(0)


def dropped_scenario(client_is_nobody, jailed):
    def scenario(w, shim):
        need_root()
        port, size = w.port(), len(MEGABYTE)
        jail = jail_of(w, shim, jailed)
        s = w.guest(dropping_server, port, jail, size, shim=shim)
        s.until("user")
        if client_is_nobody:
            c = w.guest(nobody_client, port, size, 4, jail, shim=shim)
        else:
            c = w.guest(clients, port, size, 4, shim=shim)
        c.ok()
        s.ok()
        w.ours(port, shim)
        check("the child ended with 0" in s.text(), "the child that is nobody ended well")
        return s.text(), c.text()
    return scenario


@case
def dropped(w):
    """root listens, nobody accepts, polls, forks and makes sockets; root connects"""
    both_worlds(dropped_scenario(False, False))(w)


@case
def dropped_by_nobody(w):
    """the same, and nobody connects"""
    both_worlds(dropped_scenario(True, False))(w)


@case
def jailed(w):
    """the same in an empty chroot"""
    both_worlds(dropped_scenario(False, True))(w)


@case
def jailed_by_nobody(w):
    """the same, server and client both nobody and both in it"""
    both_worlds(dropped_scenario(True, True))(w)


# --- who becomes another program, too ---------------------------------------------------------------------------------

@guest
def ancestor(port, script, size, environment, images, jail):
    """Root listens; the child that is nobody becomes another program, which serves."""
    listener = socket.create_server((LOOPBACK, int(port)))
    listener.set_inheritable(True)
    if os.fork():
        listener.close()
        _, status = os.wait()
        print("the child ended with", status, flush=True)
        return
    become_nobody(jail)
    become_heir(listener, script, size, environment, images)


def become_heir(listener, script, size, environment, images):
    kept = {"bare": (), "preload": ("LD_PRELOAD",), "full": os.environ}[environment]
    os.execve(PYTHON, [PYTHON, "-B", script, "--guest", "heir", str(listener.fileno()), script, size, environment, images],
              {k: v for k, v in os.environ.items() if k in kept})


@guest
def heir(fd, script, size, environment, images):
    listener = socket.socket(fileno=int(fd))
    if int(images) > 1:
        become_heir(listener, script, size, environment, str(int(images) - 1))
    size = int(size)
    print("user", os.getuid(), listener.getsockname()[0], flush=True)
    serve(listener, size)
    other = os.eventfd(0)
    print("select", select.select([listener, other], [], [], 40)[0] == [listener], flush=True)
    serve(listener, size)
    own = socket.create_server((LOOPBACK, 0))
    child = os.fork()
    if not child:
        serve(own, size)
        os._exit(0)
    print("own sockets", ask(own.getsockname()[1], MEGABYTE[:size]), os.waitpid(child, 0)[1], flush=True)
    a = subprocess.Popen([PYTHON, "-B", script, "--guest", "takes_over", str(listener.fileno()), str(size)],
                         pass_fds=[listener.fileno()], stdout=subprocess.PIPE)
    listener.close()
    print(a.communicate()[0], a.wait(), flush=True)
    os._exit(0)


@guest
def takes_over(fd, size):
    serve(socket.socket(fileno=int(fd)), int(size))
    print("taken over")


def readable_copy(w):
    """The library and this script where everybody may read them."""
    os.chmod(w.work, 0o711)
    scripts = w.path("scripts")
    if not os.path.exists(scripts):
        os.mkdir(scripts, 0o755)
        for f in (os.path.abspath(__file__), os.path.join(HERE, "harness.py")):
            shutil.copy(f, scripts)
        w.lib = shutil.copy(w.lib, w.path("libsockshim.so"))
        os.chmod(w.lib, 0o755)
    return os.path.join(scripts, os.path.basename(__file__))


def furnished_jail(w):
    """How to start a program with a root directory to go to that has programs, and no /proc, /dev and /tmp."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Skip("no mount namespaces here")
    return ["unshare", "--mount", "sh", "-c", """set -e
        jail=$1; work=$2; shift 2
        mkdir -p "$jail$work"; chmod 755 "$jail"
        for d in /usr /bin /lib /lib64 /etc "$work"; do
            [ -d $d ] || continue
            mkdir -p "$jail$d"; mount --bind $d "$jail$d"
        done
        exec "$@" """, "sh", w.path("furnished"), w.work]


@case
def executes(w):
    """nobody becomes another program, once and twice, with an environment and without, in a chroot and not: the listener
    serves root's clients"""
    def scenario(w, shim):
        need_root()
        script, said = readable_copy(w), []
        for environment, images, jailed in (("full", 1, 0), ("bare", 2, 0), ("preload", 1, 0), ("full", 2, 1)):
            port, size = w.port(), len(MEGABYTE)
            how = furnished_jail(w) if jailed else []
            s = w.start(*how, PYTHON, "-B", script, "--guest", "ancestor", port, script, size, environment, images,
                        w.path("furnished") if jailed else "-", shim=shim, name="ancestor")
            s.until("user")
            c = w.guest(clients, port, size, 3, shim=shim)
            c.ok()
            s.ok()
            w.ours(port, shim)
            said += [s.text(), c.text()]
        return said
    both_worlds(scenario)(w)


# --- who gives up privileges before there is a socket -----------------------------------------------------------------

@guest
def late_server(port, how, size):
    if how == "syscall":
        libc.syscall(SYS["setgid"], NOBODY)
        libc.syscall(SYS["setuid"], NOBODY)
    elif how == "effective":
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    else:
        become_nobody()
    listener = socket.create_server((LOOPBACK, int(port)))
    print("user", os.geteuid(), flush=True)
    for _ in range(8):
        serve(listener, int(size))
    time.sleep(600)


@case
def before_the_first_socket(w):
    """nobody since before the first socket: root's clients find it, and nobody's whose parent is root's"""
    def scenario(w, shim):
        need_root()
        said = []
        for how in ("libc", "syscall", "effective") if SYS else ("libc", "effective"):
            port, size = w.port(), len(MEGABYTE)
            s = w.guest(late_server, port, how, size, shim=shim)
            s.until("user")
            said.append(w.guest(clients, port, size, 4, shim=shim).ok().text())
            said.append(w.guest(nobody_client, port, size, 4, "-", shim=shim).ok().text())
            w.ours(port, shim)
            said.append(s.text())
        return said
    both_worlds(scenario)(w)


@case
def memcached(w):
    """memcached -u nobody"""
    def scenario(w, shim):
        need_root()
        port = w.port()
        server = w.start(need("memcached"), "-u", "nobody", "-l", LOOPBACK, "-p", port, shim=shim)
        answer = w.settle(lambda: w.start(need("curl"), "-sS", "telnet://%s:%d" % (LOOPBACK, port),
                                          stdin=b"set a 0 0 5\r\nhello\r\nget a\r\nquit\r\n", shim=shim), "it answers")
        with open("/proc/%d/status" % server.pid) as f:
            users = [line.split()[1:] for line in f if line.startswith("Uid")]
        w.ours(port, shim)
        return answer.text(), users
    both_worlds(scenario)(w)


# --- threads -----------------------------------------------------------------------------------------------------------

def credentials():
    """What the threads of this process may do, and how many different answers there are."""
    def of(task):
        try:
            f = open("/proc/self/task/%s/status" % task)
        except FileNotFoundError:
            return ("gone",)
        with f:
            return tuple(" ".join(l.split()) for l in f if l.split(":")[0] in ("Uid", "Gid", "Groups", "CapEff", "CapPrm"))
    # A thread that was called back may still be on its way out.
    deadline = time.monotonic() + 10
    while len(found := {of(task) for task in os.listdir("/proc/self/task")}) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return sorted(found)


def background_threads():
    names = []
    for task in os.listdir("/proc/self/task"):
        with open("/proc/self/task/%s/comm" % task) as f:
            names.append(f.read().strip())
    return names.count("sockshim")


@guest
def threads(port, how, with_thread):
    listener = socket.create_server((LOOPBACK, int(port)))
    ask_itself(listener)
    if "SOCKSHIM_DIR" in os.environ:
        wait_until("there is a background thread to look at", background_threads)
    stop = threading.Event()
    if with_thread == "1":
        threading.Thread(target=stop.wait, daemon=True).start()

    def tell(step):
        ask_itself(listener)
        print(step, credentials(), flush=True)
    tell("at first")
    if how == "libc":
        os.setgroups([NOBODY, 7])
        tell("setgroups")
        os.initgroups("nobody", 9)
        tell("initgroups")
        os.setgid(NOBODY)
        tell("setgid")
        os.setuid(NOBODY)
        tell("setuid")
    elif how == "effective":
        for _ in range(3):
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            tell("seteuid")
            os.seteuid(0)
            os.setegid(0)
            tell("and back")
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        tell("setresuid")
    elif how == "syscall":
        groups = (ctypes.c_uint32 * 1)(NOBODY)
        print(libc.syscall(SYS["setgroups"], 1, groups), libc.syscall(SYS["setgid"], NOBODY),
              libc.syscall(SYS["setresuid"], NOBODY, NOBODY, NOBODY))
        tell("syscall")
    elif how == "capset":
        # CAP_NET_BIND_SERVICE alone
        header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 1 << 10, 1 << 10, 0, 0, 0, 0)
        print(libc.capset(header, data))
        tell("capset")
    elif how == "fails":
        os.setuid(NOBODY)
        for call in (lambda: os.setuid(0), lambda: os.setgroups([1]), lambda: os.chroot("/")):
            try:
                call()
            except OSError as e:
                print(e)
        tell("refused")
    print("sockets", len([socket.socket() for _ in range(100)]))
    stop.set()


def ask_itself(listener):
    s = socket.create_connection(listener.getsockname())
    t, _ = listener.accept()
    s.sendall(b"x")
    assert t.recv(9) == b"x"
    s.close()
    assert t.recv(9) == b""
    t.close()


def compare_threads(*variants):
    def scenario(w, shim):
        need_root()
        if not SYS:
            raise Skip("system call numbers of " + os.uname().machine)
        said = []
        for how, with_thread in variants:
            port = w.port()
            p = w.guest(threads, port, how, with_thread, shim=shim)
            p.ok()
            w.ours(port, shim)
            said.append(p.text())
        return said
    return scenario


@case
def no_thread_stays_root(w):
    """user, group, groups and capabilities of all threads, ours too, after each call that changes them"""
    both_worlds(compare_threads(("libc", 0), ("libc", 1), ("effective", 0), ("effective", 1), ("syscall", 0),
                                ("capset", 0), ("fails", 0)))(w)


# --- death -------------------------------------------------------------------------------------------------------------

def arena_usage():
    used = ctypes.c_ulonglong()
    if libc.sockshim_arena_usage(ctypes.byref(used)):
        raise Failure("not attached")
    return used.value


@guest
def nobody_dies(port, jail):
    """Root keeps the listener and looks on; children that are nobody die by SIGKILL with connections open."""
    listener = socket.create_server((LOOPBACK, int(port)))
    usages = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            become_nobody(jail)
            held = []
            while True:
                s, _ = listener.accept()
                held += [s, socket.socket(), socket.create_server((LOOPBACK, 0))]
                s.sendall(b"x" * 3000)
        mine = [socket.create_connection(listener.getsockname()) for _ in range(10)]
        for s in mine:
            s.sendall(b"y" * 100)
            take(s, 3000)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for s in mine:
            s.settimeout(40)
            try:
                end = s.recv(10)
            except ConnectionResetError:
                end = "reset"
            assert end in (b"", "reset"), end
            s.close()
        deadline = time.monotonic() + 30
        while usages and arena_usage() > usages[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        if not usages:
            time.sleep(2)
        usages.append(arena_usage())
    print("usages", *usages)


@case
def nobody_dies_and_is_reaped(w):
    """SIGKILL of one who is nobody: his peers see the end, what he held comes back"""
    need_root()
    if NATIVE:
        raise Skip("asks the arena")
    for jail in ("-", jail_of(w, True, True)):
        p = w.guest(nobody_dies, w.port(), jail)
        p.ok(90)
        usages = [int(n) for n in p.text().split()[1:]]
        check(max(usages[1:]) <= usages[0], "arena in use after each death: %s" % usages)


@guest
def nobody_looks_on(port, jail):
    """Whoever was root and had the duty is gone: nobody alone sees that a client dies, and runs the timers."""
    listener = socket.create_server((LOOPBACK, int(port)))
    if os.fork():
        time.sleep(600)
    become_nobody(jail)
    print("ready", os.getppid(), flush=True)
    s, _ = listener.accept()
    take(s, 5)
    print("accepted", flush=True)
    s.settimeout(40)
    try:
        print("end", s.recv(100), flush=True)
    except ConnectionResetError:
        print("end", b"", flush=True)
    ask_itself(listener)
    print("goes on", flush=True)


@guest
def holds_on(port):
    s = socket.create_connection((LOOPBACK, int(port)))
    s.sendall(b"hello")
    print("connected", flush=True)
    time.sleep(600)


@case
def duty_passes_to_nobody(w):
    """the root process that had the duty is killed, then a client: nobody, in a chroot or not, sees its end"""
    need_root()
    for jail in ("-", jail_of(w, True, True)):
        port = w.port()
        s = w.guest(nobody_looks_on, port, jail)
        s.until("ready")
        c = w.guest(holds_on, port)
        s.until("accepted")
        s.kill()
        s.wait()
        c.until("connected")
        c.kill()
        c.wait()
        wait_until("nobody sees the end", lambda: "goes on" in s.text())
        same("what it said", ["accepted", "end b''", "goes on"], s.text().splitlines()[1:])


# --- the network's files ---------------------------------------------------------------------------------------------------

def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def network_directory(w):
    top = os.path.join(w.net, "sockshim-0")
    return os.path.join(top, *os.listdir(top))


def modes(directory):
    return [oct(os.lstat(path).st_mode & 0o7777) for path in (os.path.dirname(directory), directory)] + sorted(
        {oct(os.lstat(os.path.join(directory, f)).st_mode & 0o7777) for f in os.listdir(directory) if f not in ("arena", "lock")})


def names_of(path, which="access"):
    return sorted(struct.unpack_from("<HHI", value, at)[2] for value in [os.getxattr(path, "system.posix_acl_" + which)]
                  for at in range(4, len(value), 8) if struct.unpack_from("<H", value, at)[0] == 2)


@guest
def admits(port, *users):
    listener = socket.create_server((LOOPBACK, int(port)))
    ask_itself(listener)
    for user in users:
        pid = os.fork()
        if not pid:
            os.setuid(int(user))
            os._exit(not ask(port_of_own_server(), MEGABYTE))
        assert os.waitpid(pid, 0)[1] == 0, user
    print("admitted", flush=True)
    time.sleep(600)


def port_of_own_server():
    own = socket.create_server((LOOPBACK, 0))
    threading.Thread(target=serve, args=(own, len(MEGABYTE)), daemon=True).start()
    return own.getsockname()[1]


@case
def files(w):
    """whom the network's files belong to: one user alone, then those admitted by name too, then one alone again"""
    need_root()
    if NATIVE:
        raise Skip("looks at the library's files")
    p = w.guest(admits, w.port())
    p.until("admitted")
    directory = network_directory(w)
    same("modes, nobody admitted", ["0o700", "0o700", "0o600"], modes(directory))
    p.end()
    p = w.guest(admits, w.port(), NOBODY, 1234, NOBODY, 0)
    p.until("admitted")
    same("modes, two users admitted", ["0o700", "0o770", "0o660"], modes(directory))
    for name in [directory] + [os.path.join(directory, f) for f in os.listdir(directory)]:
        # A file made between the two admissions has got the second name by the second walk.
        same("who may use " + os.path.basename(name), [0, 1234, NOBODY], names_of(name))
    own = lambda: [oct(os.lstat(os.path.join(directory, f)).st_mode & 0o7777) for f in ("arena", "lock")]
    same("modes of the arena and its lock", ["0o660", "0o660"], own())
    p.end()
    w.guest(admits, w.port()).until("admitted")
    same("and of the next network's", ["0o600", "0o600"], own())
    same("modes of the next network", ["0o700", "0o700", "0o600"], modes(directory))


@case
def others_acl(w):
    """a network directory whose ACL gives rights to a group or to others is refused; by name to users it is not"""
    need_root()
    if NATIVE:
        raise Skip("looks at the library's files")
    USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER, none = 1, 2, 4, 8, 16, 32, 0xffffffff
    head = ((USER_OBJ, 7, none), (USER, 7, NOBODY))
    for what, entries, refused in (("users by name", (*head, (GROUP_OBJ, 0, none), (MASK, 7, none), (OTHER, 0, none)), False),
                                   ("the group", (*head, (GROUP_OBJ, 5, none), (MASK, 7, none), (OTHER, 0, none)), True),
                                   ("a group by name", (*head, (GROUP_OBJ, 0, none), (GROUP, 7, 1), (MASK, 7, none), (OTHER, 0, none)), True),
                                   ("others", (*head, (GROUP_OBJ, 0, none), (MASK, 7, none), (OTHER, 1, none)), True)):
        first = w.guest(admits, w.port())
        first.until("admitted")
        os.setxattr(network_directory(w), "system.posix_acl_access", acl(*entries))
        second = w.guest(admits, w.port())
        second.may_say = True
        second.until("admitted")
        same("%s: refused" % what, refused, "not private" in second.err())
        first.end()
        second.end()
        os.removexattr(network_directory(w), "system.posix_acl_access")
        os.chmod(network_directory(w), 0o700)


# --- exec, and file systems without ACLs ---------------------------------------------------------------------------------

@guest
def exec_as_nobody(port):
    listener = socket.create_server((LOOPBACK, int(port)))
    client = socket.create_connection(listener.getsockname())
    s, _ = listener.accept()
    become_nobody()
    client.sendall(b"what the client said\n")
    client.close()
    os.dup2(s.fileno(), 0)
    os.execv("/bin/cat", ["cat"])


@case
def exec_as_another(w):
    """cat, started by nobody, on a socket of root's network"""
    def scenario(w, shim):
        need_root()
        readable_copy(w)
        p = w.guest(exec_as_nobody, w.port(), shim=shim).ok()
        return p.text()
    both_worlds(scenario)(w)


@guest
def without_acl(port):
    listener = socket.create_server((LOOPBACK, int(port)))
    become_nobody()
    new = socket.create_server((LOOPBACK, 0))
    print("kernel" if "%04X" % new.getsockname()[1] in open("/proc/net/tcp").read() else "ours", flush=True)
    ask_itself(new)
    print("works")


@case
def no_acl(w):
    """the network's file system has no ACLs: one message, and the new sockets are the kernel's"""
    need_root()
    if NATIVE:
        raise Skip("nothing to see natively")
    need("unshare", "mount")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        raise Skip("no mount namespace to be had here (a chroot, a sandbox)")
    directory = w.path("ramfs")
    os.mkdir(directory)
    p = w.start("unshare", "-m", "/bin/sh", "-c",
                "mount -t ramfs none %s || exit 77; SOCKSHIM_DIR=%s LD_PRELOAD=%s exec %s -B %s --guest without_acl %d"
                % (directory, directory, w.lib, PYTHON, os.path.abspath(__file__), w.port()), shim=False)
    if p.wait() == 77:
        raise Skip("cannot mount: " + p.err().strip())
    p.ok()
    said = [l for l in p.err().splitlines() if l.startswith("sockshim: ")]
    same("what it said", "kernel\nworks\n", p.text())
    check(len(said) == 1 and "ACL" in said[0], "one message: %s" % said)


if __name__ == "__main__":
    main()
