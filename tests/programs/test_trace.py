"""SOCKSHIM_TRACE: when it is printed, where, and what it looks like."""
import ctypes, os, select, signal, socket, subprocess, sys, threading

from harness import *

CALL = re.compile(r"^\d\d:\d\d:\d\d\.\d{6} \[(?P<tid>\d+)\] (?:<\.\.\. )?(?P<name>\w+)(?: resumed>)?\((?P<args>.*)\)"
                  r" = (?P<result>\?|-1 E[A-Z0-9]+ \([^)]*\)|-?\d+|0x[0-9a-f]+)(?P<details> \(.*\))?"
                  r"(?: <(?P<time>\d+\.\d{6})>)?$")
WAY = re.compile(r"^  way: (socketcall \d+|sys_\w+)( > [\w ]+)*( > \.\.\.)?( > handed over to libc)?$")
HEAD = re.compile(r"^--- sockshim trace: (?P<program>\S+) \[(?P<pid>\d+)\], (?P<why>.+), \d{4}-\d\d-\d\d UTC ---$")
DROPPED = re.compile(r"^(?P<n>\d+) older calls? (was|were) dropped \(SOCKSHIM_TRACE_RING=\d+\)$")
TABLE = re.compile(r"^ +calls +errors +total us +mean us +max us +bytes call$")
ROW = re.compile(r"^ +(?P<calls>\d+) +(?P<errors>\d+) +(?P<total>[\d.]+|-) +(?P<mean>[\d.]+|-) +(?P<max>[\d.]+|-)"
                 r" +(?P<bytes>\d+|-) (?P<name>\w+)$")
ALL = re.compile(r"^ +(?P<calls>\d+) +(?P<errors>\d+) +(?P<total>[\d.]+) +(?P<bytes>\d+) all$")


class Trace:
    """One section of a trace, each line of which must be of a known form."""

    def __init__(self, lines):
        self.calls, self.ways, self.rows, self.dropped, self.all = [], [], {}, 0, None
        self.head = HEAD.match(lines[0])
        if not self.head:
            raise Failure("no heading: " + lines[0])
        for line in lines[1:]:
            call, way, row = CALL.match(line), WAY.match(line), ROW.match(line)
            if call:
                self.calls.append(call)
            elif way:
                self.ways.append(line)
            elif row:
                self.rows[row["name"]] = row
            elif ALL.match(line):
                self.all = ALL.match(line)
            elif DROPPED.match(line):
                self.dropped = int(DROPPED.match(line)["n"])
            elif not TABLE.match(line):
                raise Failure("a line of no known form: " + line)
        if not self.all:
            raise Failure("no table at the end: " + "\n".join(lines[-3:]))

    def named(self, name):
        return [c for c in self.calls if c["name"] == name]

    def way_of(self, name):
        return [w for c, w in zip(self.calls, self.ways) if c["name"] == name]


def sections(text):
    parts, lines = [], text.splitlines()
    for line in lines:
        if HEAD.match(line):
            parts.append([])
        if not parts:
            raise Failure("before the heading: " + line)
        parts[-1].append(line)
    return [Trace(p) for p in parts]


def read(path):
    with open(path) as f:
        return f.read()


def one(text):
    found = sections(text)
    if len(found) != 1:
        raise Failure("%d sections, not one" % len(found))
    return found[0]


# --- what it says ----------------------------------------------------------------------------------------------

@guest
def talk(port):
    """A known sequence of calls, both ends in one process."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, int(port)))
    listener.listen(5)
    a = socket.socket()
    a.connect((LOOPBACK, int(port)))
    b, _ = listener.accept()
    a.sendall(b"hello\tworld\n" + b"x" * 100)
    b.recv(1000)
    b.send(b"\x00\x01\xff")
    a.recv(1000)
    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    a.shutdown(socket.SHUT_WR)
    b.recv(10)
    try:
        socket.socket().connect((LOOPBACK, 1))
    except ConnectionRefusedError:
        pass
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind((LOOPBACK, 0))
    u.sendto(b"datagram", u.getsockname())
    u.recvfrom(100)
    u.sendmsg([b"two ", b"pieces"], [], 0, u.getsockname())
    u.recvmsg(100)
    a.close(), b.close()


@case
def format(w):
    """every line is of a known form; arguments, results, errors and ways are decoded; the table adds up"""
    need_shim()
    port = w.port()
    w.guest(talk, port, env={"SOCKSHIM_TRACE": w.path("trace")}).ok()
    t = one(read(w.path("trace")))
    same("heading", "exit", t.head["why"])
    check(len(t.calls) == len(t.ways), "each call has its way (%d)" % len(t.calls))
    address = r'\{sa_family=AF_INET, sin_port=htons\(%d\), sin_addr=inet_addr\("127.0.0.1"\)\}' % port

    def has(name, args, result=r"\d+", count=1):
        found = [c for c in t.named(name) if re.fullmatch(args, c["args"]) and re.fullmatch(result, c["result"])]
        if len(found) < count:
            raise Failure("no %s(%s) = %s among %s" % (name, args, result, [
                "(%s) = %s" % (c["args"], c["result"]) for c in t.named(name)]))
        say("%s(%s) = %s" % (name, found[0]["args"], found[0]["result"]))
    has("socket", r"AF_INET, SOCK_STREAM\|SOCK_CLOEXEC, IPPROTO_(IP|TCP)")
    has("socket", r"AF_INET, SOCK_DGRAM\|SOCK_CLOEXEC, IPPROTO_(IP|UDP)")
    has("setsockopt", r"\d+, SOL_SOCKET, SO_REUSEADDR, \[1\], 4", "0")
    has("bind", r"\d+, " + address + ", 16", "0")
    has("listen", r"\d+, 5", "0")
    has("connect", r"\d+, " + address + ", 16", "0")
    has("connect", r'\d+, \{.*htons\(1\).*\}, 16', r"-1 ECONNREFUSED \(Connection refused\)")
    has("accept4", r'\d+, \{sa_family=AF_INET, sin_port=htons\(\d+\), sin_addr=inet_addr\("127.0.0.1"\)\}, '
        r"\[\d+( => 16)?\], SOCK_CLOEXEC")
    data = r'"hello\\tworld\\nx{20}"\.\.\.'
    has("sendto" if t.named("sendto") and not t.named("send") else "send", r"\d+, " + data + r", 112, 0.*", "112")
    has("recv" if t.named("recv") else "recvfrom", r"\d+, " + data + r", 1000, 0.*", "112")
    has("setsockopt", r"\d+, (SOL_TCP|IPPROTO_TCP), TCP_NODELAY, \[1\], 4", "0")
    has("getsockopt", r"\d+, SOL_SOCKET, SO_ERROR, \[0\], \[4\]", "0")
    has("shutdown", r"\d+, SHUT_WR", "0")
    has("sendto", r'\d+, "datagram", 8, 0, \{sa_family=AF_INET, .*\}, 16', "8")
    has("recvfrom", r'\d+, "datagram", 100, 0, \{sa_family=AF_INET, .*\}, \[\d+( => 16)?\]', "8")
    has("sendmsg", r'\d+, \{msg_name=.*msg_iov=\[\{iov_base="two ", iov_len=4\}, \{iov_base="pieces", iov_len=6\}\].*\}'
        r", 0", "10")
    has("recvmsg", r'\d+, \{.*iov_base="two pieces".*\}, 0', "10")
    has("close", r"\d+", "0", 2)
    ways = "\n".join(t.ways)
    for pattern in (r"way: socketcall 1 > .*PF_INET.*inet_create", r"way: socketcall 3 > .*inet_stream_connect.*tcp_v4_connect",
                    r"way: socketcall 2 > .*inet_bind", r"way: socketcall 4 > .*inet_listen", r"tcp_sendmsg", r"tcp_recvmsg",
                    r"udp_sendmsg", r"udp_recvmsg", r"way: sys_close.*(inet_release|tcp_close)"):
        check(re.search(pattern, ways), "a way like " + pattern)
    for name, row in t.rows.items():
        seen = len(t.named(name))
        if int(row["calls"]) != seen:
            raise Failure("%s: %s in the table, %d lines" % (name, row["calls"], seen))
    same("the sum of calls", sum(int(r["calls"]) for r in t.rows.values()), int(t.all["calls"]))
    same("errors of connect", "1", t.rows["connect"]["errors"])
    same("bytes of sendmsg", "10", t.rows["sendmsg"]["bytes"])
    check(all(c["time"] for c in t.calls), "each call has a duration")


@guest
def kernel_waits():
    """Waits for kernel sockets, waits for none, and file operations on a socket of ours."""
    a, b = socket.socketpair()
    r, _ = os.pipe()
    b.send(b"x")
    p, q = select.poll(), select.poll()
    p.register(a, select.POLLIN), q.register(r, select.POLLIN)
    e, f = select.epoll(), select.epoll()
    e.register(a, select.EPOLLIN), f.register(r, select.EPOLLIN)
    select.select([a], [], [], 0), p.poll(0), e.poll(0)
    select.select([r], [], [], 0), q.poll(0), f.poll(0)
    e.close(), f.close()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    select.select([a], [], [], 0), p.poll(0)
    select.select([r], [], [], 0), q.poll(0)
    os.fchmod(s.fileno(), 0o600), os.fchown(s.fileno(), -1, -1)
    try:
        os.posix_fallocate(s.fileno(), 0, 10)
    except OSError:
        pass
    os.fchmod(r, 0o600)


@case
def kernel_only_sets(w):
    """waits in which only the kernel's sockets take part are recorded, waits for no socket are not; file operations are"""
    need_shim()
    w.guest(kernel_waits, env={"SOCKSHIM_TRACE": w.path("trace")}).ok()
    t = one(read(w.path("trace")))
    for name, count in (("select", 2), ("poll", 2), ("epoll_wait", 1), ("epoll_ctl", 1), ("fchmod", 1), ("fchown", 1),
                        ("fallocate", 1)):
        same(name, count, len(t.named(name)))
        check(all(way.endswith("> handed over to libc") for way in t.way_of(name)), "by the kernel")
    check(re.fullmatch(r"\[\{fd=\d+, events=POLLIN\}\], 1, 0", t.named("poll")[0]["args"]), "what was polled")
    same("its answer", "1", t.named("poll")[0]["result"])
    same("of fallocate", "-1 ENODEV (No such device)", t.named("fallocate")[0]["result"])


@case
def curl(w):
    """curl's trace: the request that it sent, the answer that it received, and a handed over connection"""
    need_shim()
    curl, port, data = need("curl"), w.port(), os.urandom(300000)
    os.mkdir(w.path("www"))
    w.file("www/f", data)

    def serve(shim):
        number = w.port()
        w.start(PYTHON, "-m", "http.server", "--bind", LOOPBACK, "--directory", w.path("www"), number,
                shim=shim).until("Serving")
        return number
    for shim in (True, False):
        port = serve(shim)
        path = w.path("trace%d" % shim)
        w.start(curl, "-sS", "--noproxy", "*", "-o", w.path("got"), "http://%s:%d/f" % (LOOPBACK, port),
                env={"SOCKSHIM_TRACE": path}).ok()
        same("SHA-256", sha(data), file_sha(w.path("got")))
        t = one(read(path))
        same("program", "curl", t.head["program"])
        connects = [(c, way) for c, way in zip(t.calls, t.ways)
                    if c["name"] == "connect" and "htons(%d)" % port in c["args"]]
        check(len(connects) == 1, "one connect")
        handed = connects[0][1].endswith("handed over to libc")
        check(handed != shim, "the connect to a server %s the shim was %s" % (
            "under" if shim else "without", "handed over to libc" if handed else "ours"))
        if shim:
            check(any('"GET /f HTTP/1.1' in c["args"] for c in t.calls), "the request is there")
            check(any('"HTTP/1.0 200 OK' in c["args"] for c in t.calls), "the answer is there")
            moved = sum(int(r["bytes"]) for n, r in t.rows.items() if n in ("recv", "recvfrom", "read", "recvmsg"))
            check(len(data) < moved < len(data) + 1000, "bytes received in the table: %d" % moved)


@case
def not_asked(w):
    """without SOCKSHIM_TRACE, and with an empty one, nothing is printed"""
    need_shim()
    for env in ({}, {"SOCKSHIM_TRACE": ""}):
        p = w.guest(talk, w.port(), env=env).ok()
        same("standard output and error", ["", ""], [p.text(), p.err()])
    same("files in the working directory", [], [f for f in os.listdir(w.work) if not f[0].isdigit()])


@case
def no_sockets(w):
    """a program that makes no socket prints no trace"""
    need_shim()
    p = w.start("/bin/echo", "hello", env={"SOCKSHIM_TRACE": "1"}).ok()
    same("its output", ["hello\n", ""], [p.text(), p.err()])


# --- when it is printed -------------------------------------------------------------------------------------------

@guest
def end_by(how):
    libc = ctypes.CDLL(None)
    s = socket.create_server((LOOPBACK, 0))
    print("ready", flush=True)
    if how == "exit":
        return
    if how == "_exit":
        os._exit(3)
    if how == "quick_exit":
        libc.quick_exit(3)
    if how == "abort":
        os.abort()
    if how == "segv":
        ctypes.string_at(0)
    if how == "raise":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "handled":  # a handled signal prints nothing by itself
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        s.getsockname()
        return
    if how == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    if how == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if how == "thread":
        threading.Thread(target=lambda: os._exit(4)).start()
        time.sleep(1000)
    if how == "wait":
        s.accept()
    if how == "exec":
        os.execv("/bin/echo", ["echo", "executed"])
    if how == "exec_fails":
        try:
            os.execv("/no/such/program", ["x"])
        except FileNotFoundError:
            return
    if how == "uncaught":
        raise ValueError("on purpose")


@case
def endings(w):
    """the trace is there after exit, _exit, quick_exit, abort, a fatal signal and before exec; once"""
    need_shim()
    for how, status, why in (("exit", 0, "exit"), ("_exit", 3, "_?exit"), ("quick_exit", 3, "quick_exit"),
                             ("abort", -signal.SIGABRT, "abort|signal"), ("segv", -signal.SIGSEGV, "signal"),
                             ("raise", -signal.SIGTERM, "signal"), ("handled", 0, "exit"), ("ignored", 0, "exit"),
                             ("blocked", -signal.SIGTERM, "signal"), ("thread", 4, "_?exit"), ("exec", 0, "exec"),
                             ("exec_fails", 0, "exit|exec"), ("uncaught", 1, "exit")):
        path = w.path("trace." + how)
        p = w.guest(end_by, how, env={"SOCKSHIM_TRACE": path})
        got = p.wait()
        if not os.path.exists(path):
            raise Failure("%s: no trace (status %d)" % (how, got))
        found = sections(read(path))
        t = found[0]
        if got != status or not re.match(why, t.head["why"]) or (len(found) != 1 and how != "exec_fails"):
            raise Failure("%s: status %d (expected %d), %d sections, %s" % (how, got, status, len(found),
                                                                          [s.head["why"] for s in found]))
        if not t.named("listen"):
            raise Failure(how + ": the calls are not there")
        say("%s: status %d, \"%s\"" % (how, got, t.head["why"]))
        p.process.returncode = 0 if got == -signal.SIGSEGV else got  # on purpose


@case
def signals_from_outside(w):
    """SIGTERM, SIGINT, SIGHUP to a program that waits in accept: a trace with the unfinished call; not for SIGKILL"""
    need_shim()
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
        path = w.path("trace.%s" % sig.name)
        p = w.start(need("nc"), "-v", "-l", LOOPBACK, w.port(), env={"SOCKSHIM_TRACE": path})
        p.until("Listening")
        time.sleep(0.1)
        p.kill(sig)
        same("status by " + sig.name, -sig, p.wait())
        if sig == signal.SIGKILL:
            check(not os.path.exists(path), "no trace after SIGKILL")
            continue
        t = one(read(path))
        check("signal" in t.head["why"], "heading after %s: %s" % (sig.name, t.head["why"]))
        last = t.calls[-1]
        check("<unfinished ...>" in last["args"] and last["result"] == "?",
              "the call that it waited in is unfinished: %s(%s)" % (last["name"], last["args"]))


@case
def killed_with_growing_file(w):
    """SOCKSHIM_TRACE_RING=0: the file grows as it goes and survives kill -9"""
    need_shim()
    path = w.path("trace")
    p = w.guest(end_by, "wait", env={"SOCKSHIM_TRACE": path, "SOCKSHIM_TRACE_RING": "0"})
    p.until("ready")
    wait_until("the listen is in the file", lambda: os.path.exists(path) and "listen(" in read(path))
    p.kill()
    p.wait()
    lines = [l for l in read(path).splitlines() if not HEAD.match(l)]
    for line in lines:
        if not CALL.match(line) and not WAY.match(line):
            raise Failure("a line of no known form: " + line)
    check(any("listen(" in l for l in lines), "%d lines are there" % len(lines))


@case
def growing_file_whole(w):
    """SOCKSHIM_TRACE_RING=0: all calls are there at the end, and the table"""
    need_shim()
    path = w.path("trace")
    w.guest(many_calls, 2000, env={"SOCKSHIM_TRACE": path, "SOCKSHIM_TRACE_RING": "0"}).ok()
    text = read(path)
    same("sends in the file", 2000, len(re.findall(r"\] send(?:to)?\(", text)))
    row = [m for m in map(ROW.match, text.splitlines()) if m and m["name"] in ("send", "sendto")]
    same("sends in the table", "2000", row[-1]["calls"])


# --- where -------------------------------------------------------------------------------------------------------

@case
def names(w):
    """%p and %n in the file name; a relative name; several programs in one file; =1 is standard error"""
    need_shim()
    p = w.guest(end_by, "exit", env={"SOCKSHIM_TRACE": w.path("%n.%p.trace")}).ok()
    base = os.path.basename(os.path.realpath(PYTHON))
    found = [f for f in os.listdir(w.work) if f.endswith(".trace")]
    check(found in (["%s.%d.trace" % (base, p.pid)], ["python3.%d.trace" % p.pid]), "the file is called %s" % found)
    w.guest(end_by, "exit", env={"SOCKSHIM_TRACE": "relative.trace"}, cwd=w.work).ok()
    one(read(w.path("relative.trace")))
    for _ in range(3):
        w.guest(end_by, "exit", env={"SOCKSHIM_TRACE": w.path("shared")}).ok()
    same("sections in a shared file", 3, len(sections(read(w.path("shared")))))
    p = w.guest(end_by, "exit", env={"SOCKSHIM_TRACE": "1"})
    p.may_say = True
    p.ok()
    one(p.err())
    same("standard output", "ready\n", p.text())
    p = w.guest(end_by, "exit", env={"SOCKSHIM_TRACE": "/no/such/directory/trace"})
    p.may_say = True
    p.ok()
    check("cannot write the trace" in p.err(), "a file that cannot be written: " + p.err().strip())


@guest
def forks(port):
    listener = socket.create_server((LOOPBACK, int(port)))
    pids = []
    for i in range(3):
        pid = os.fork()
        if pid == 0:
            s = socket.create_connection((LOOPBACK, int(port)))
            s.sendall(b"child")
            os._exit(0)
        pids.append(pid)
    for _ in pids:
        s, _ = listener.accept()
        while s.recv(10):
            pass
    for pid in pids:
        os.waitpid(pid, 0)
    print(*pids)


@case
def children(w):
    """fork children print what they did, not what their parent did before; each has its file by %p"""
    need_shim()
    p = w.guest(forks, w.port(), env={"SOCKSHIM_TRACE": w.path("trace.%p")}).ok()
    pids = [int(x) for x in p.text().split()]
    for pid in pids:
        t = one(read(w.path("trace.%d" % pid)))
        check(t.head["pid"] == str(pid) and t.named("connect") and not t.named("listen"),
              "child %d has its own connect and not its parent's listen" % pid)
    t = one(read(w.path("trace.%d" % p.pid)))
    check(len(t.named("accept4")) == 3 and not t.named("connect"), "the parent has its three accepts")


@guest
def spawns(port):
    """A shell between: exec, fork, exec, each of which makes sockets or not."""
    print(subprocess.run([PYTHON, "-c", "import socket; socket.socket()"]).returncode)


@case
def exec_chain(w):
    """programs started by a traced program are traced too, and print after it as they end"""
    need_shim()
    w.start("/bin/sh", "-c", "%s -c 'import socket; socket.socket()'; exec %s -c 'import socket; socket.socket()'"
            % (PYTHON, PYTHON), env={"SOCKSHIM_TRACE": w.path("trace.%p")}).ok()
    found = [one(read(w.path(f))) for f in os.listdir(w.work) if f.startswith("trace.")]
    check(len(found) == 2 and all(t.named("socket") for t in found), "both programs of the shell were traced")


# --- bounds -----------------------------------------------------------------------------------------------------

@guest
def many_calls(count):
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind((LOOPBACK, 0))
    u.connect(u.getsockname())
    for i in range(int(count)):
        u.send(b"%d" % i)
        u.recv(100)


@case
def ring_overflow(w):
    """SOCKSHIM_TRACE_RING=16: the last calls, a count of the dropped, and a table of them all"""
    need_shim()
    w.guest(many_calls, 500, env={"SOCKSHIM_TRACE": w.path("trace"), "SOCKSHIM_TRACE_RING": "16"}).ok()
    t = one(read(w.path("trace")))
    check(len(t.calls) <= 16, "%d calls are printed" % len(t.calls))
    send = "send" if "send" in t.rows else "sendto"
    same("sends in the table", "500", t.rows[send]["calls"])
    same("printed and dropped", int(t.all["calls"]), len(t.calls) + t.dropped)
    check('"499"' in t.named(send)[-1]["args"], "the last send is there")


@guest
def threads_at_work(count):
    def work(i):
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.bind((LOOPBACK, 0))
        u.connect(u.getsockname())
        for k in range(50):
            u.send(b"%d-%d" % (i, k))
            u.recv(100)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(int(count))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


@case
def threads(w):
    """eight threads: each call is there with its thread, in the order of beginnings"""
    need_shim()
    w.guest(threads_at_work, 8, env={"SOCKSHIM_TRACE": w.path("trace")}).ok()
    t = one(read(w.path("trace")))
    sends = t.named("send") or t.named("sendto")
    same("sends", 400, len(sends))
    same("threads", 8, len({c["tid"] for c in sends}))
    for i in range(8):
        mine = [re.search(r'"%d-(\d+)"' % i, c["args"])[1] for c in sends if '"%d-' % i in c["args"]]
        if mine != [str(k) for k in range(50)]:
            raise Failure("thread %d: %s" % (i, mine))
    say("each thread's calls are in order")
    times = [line[:15] for line in read(w.path("trace")).splitlines() if CALL.match(line)]
    check(times == sorted(times), "the trace is in the order of time")


if __name__ == "__main__":
    main()
