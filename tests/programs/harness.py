"""What the tests of real programs share: a network of their own per case, programs with and without the
preload, ports that nobody else has, a watchdog on every wait, and cleaning up.

A test file has cases (@case, called with a World) and guests (@guest, functions that run in a process of
their own: World.guest). main() runs all cases, or those whose names are given, and exits 0, 1 or, when
every one of them was skipped, 77. SOCKSHIM_LIB names the library. With SHIMTEST_NATIVE=1 nothing is preloaded
and what is claimed of the shim alone is not asked: that checks the tests themselves. SHIMTEST_TRACE names a
directory for the traces of all preloaded programs (scripts/gen_programs_doc).

No case asserts that something is fast; waits end by PATIENCE seconds, which only a hang reaches.
"""
import contextlib, ctypes, functools, hashlib, os, random, re, shutil, signal, socket, string, subprocess, sys
import tempfile, threading, time, traceback

PATIENCE = float(os.environ.get("SHIMTEST_PATIENCE", "40"))
NATIVE = os.environ.get("SHIMTEST_NATIVE") == "1"
LIB = os.environ.get("SOCKSHIM_LIB", "")
TRACE = os.environ.get("SHIMTEST_TRACE", "")
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
LOOPBACK = "127.0.0.1"
HERE = os.path.dirname(os.path.abspath(__file__))

ROOM_FOR_A_CASE = 0 if NATIVE else 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_cases, _guests = [], {}
_seed = int(os.environ.get("SHIMTEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
rng = random.Random(_seed)


class Failure(Exception):
    pass


class Skip(Exception):
    pass


class OutOfTime(Failure):
    pass


def case(function):
    _cases.append(function)
    return function


def guest(function):
    _guests[function.__name__] = function
    return function


# --- small things --------------------------------------------------------------------------------------

def say(text):
    print("    " + text, flush=True)


def check(condition, text):
    """Says what is true, or fails with it."""
    if not condition:
        raise Failure("not so: " + text)
    say(text)


def room_left():
    """Bytes that the file system of the tests' networks still takes."""
    v = os.statvfs("/dev/shm")
    return v.f_bavail * v.f_frsize


def same(what, expected, got):
    if expected != got:
        raise Failure("%s: expected %s, got %s" % (what, short(expected), short(got)))
    say(what + ": as expected")


def short(value):
    text = repr(value)
    return text if len(text) < 1200 else "%s ... (%d characters)" % (text[:1200], len(text))


def digits(number):
    """Three of them."""
    return "%s" % float("%.3g" % number) if number < 100 else format(int(float("%.3g" % number)), ",")


def sha(data):
    return hashlib.sha256(data).hexdigest()


def file_sha(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def wait_until(what, condition, seconds=None):
    """Asks until it is so; the only thing that makes it fail is PATIENCE."""
    end = time.monotonic() + (seconds or PATIENCE)
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("waited %g s in vain: %s" % (seconds or PATIENCE, what))
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)


def need(*programs):
    """Paths of the programs; without one of them the case is skipped."""
    found = []
    for p in programs:
        path = shutil.which(p)
        if not path:
            raise Skip(p + " is not installed")
        found.append(path)
    return found[0] if len(found) == 1 else found


def own_address():
    """An IPv4 address of this machine that is not loopback, or None."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("203.0.113.1", 9))
        address = s.getsockname()[0]
        return None if address.startswith("127.") else address
    except OSError:
        return None
    finally:
        s.close()


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as s:
            s.bind(("::1", 0))
            return True
    except OSError:
        return False


# --- ports -----------------------------------------------------------------------------------------------

_port_locks = []


def free_port():
    """A port below the ephemeral ones that no socket of the kernel has, and no other test (each holds an
    abstract unix socket named after its ports until it ends)."""
    for _ in range(2000):
        port = rng.randrange(12000, 31000)
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind("\0sockshim-test-port-%d" % port)
            for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    try:
                        probe = socket.socket(family, kind)
                    except OSError:
                        continue  # no IPv6
                    with probe:
                        probe.bind((any_address, port))
        except OSError:
            lock.close()
            continue
        _port_locks.append(lock)
        return port
    raise Failure("no free port")


def need_shim():
    if NATIVE:
        raise Skip("only with the shim")


def kernel_sockets(port, halves=False):
    """Lines of /proc/net that name the port on either side: what the kernel carried of it. A TCP connection
    that the kernel carried stays there for a minute after its end (TIME_WAIT). What only waits there for programs
    without the shim (the kernel's half of a listener or of a datagram socket) counts with `halves` alone."""
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        try:
            with open("/proc/net/" + table) as f:
                lines = f.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if not any(a.rsplit(":", 1)[1] == "%04X" % port for a in fields[1:3]):
                continue
            bound = fields[1].endswith(":%04X" % port)
            waits = bound and (fields[3] == "0A" or table.startswith("udp"))
            if halves or not waits:
                found.append(table + " " + " ".join(fields[1:4]))
    return found


# --- programs ----------------------------------------------------------------------------------------------

def _in_child():
    # Dies with the test, should ctest kill that. Not for what the program itself starts.
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    # Python ignores SIGPIPE, and ignored it would stay over exec; a shell's programs have the default.
    for s in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
        signal.signal(s, signal.SIG_DFL)


class Program:
    """A started program. Its output goes to files; its input comes from bytes, a pipe or nowhere."""

    def __init__(self, world, argv, shim, env, stdin, name, cwd, pass_fds):
        self.world, self.shim = world, shim and not NATIVE
        self.argv = [str(a) for a in argv]
        self.name = name or os.path.basename(self.argv[0])
        self.may_say = False  # "sockshim: ..." on stderr is expected
        number = len(world.programs) + 1
        self.out_path = os.path.join(world.work, "%d.%s.out" % (number, self.name))
        self.err_path = os.path.join(world.work, "%d.%s.err" % (number, self.name))
        full = {k: v for k, v in os.environ.items() if not k.startswith("SOCKSHIM_")}
        for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            full.pop(proxy, None)
        full.pop("LD_PRELOAD", None)
        full["LC_ALL"] = "C"
        full["PYTHONUNBUFFERED"] = "1"
        if self.shim:
            full["LD_PRELOAD"] = world.lib
            full["SOCKSHIM_DIR"] = world.net
            full.update(world.env)
        for key, value in (env or {}).items():
            if value is None:
                full.pop(key, None)
            elif not NATIVE or not key.startswith("SOCKSHIM_"):
                full[key] = str(value)
        if isinstance(stdin, bytes):
            feed = tempfile.TemporaryFile(dir=world.work)
            feed.write(stdin)
            feed.seek(0)
        else:
            feed = stdin if stdin is not None else subprocess.DEVNULL
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(self.argv, env=full, stdin=feed, stdout=out, stderr=err,
                                            cwd=cwd or world.work, start_new_session=True,
                                            preexec_fn=_in_child, pass_fds=pass_fds)
        if isinstance(stdin, bytes):
            feed.close()
        self.pid = self.process.pid
        self.stdin = self.process.stdin

    def out(self):
        with open(self.out_path, "rb") as f:
            return f.read()

    def err(self):
        with open(self.err_path, "rb") as f:
            return f.read().decode("utf-8", "backslashreplace")

    def text(self):
        return self.out().decode("utf-8", "backslashreplace")

    def running(self):
        return self.process.poll() is None

    def wait(self, seconds=None):
        """Exit status; negative for a signal."""
        try:
            return self.process.wait(seconds or PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure("%s hangs (%s)" % (self.name, " ".join(self.argv)[:300]))

    def ok(self, seconds=None):
        status = self.wait(seconds)
        if status:
            raise Failure("%s ended with %d: %s" % (self.name, status, (self.err() or self.text())[-1500:]))
        return self

    def until(self, pattern, where="both", seconds=None):
        """Waits for a line that matches the pattern, on stdout or stderr."""
        expression = re.compile(pattern)

        def seen():
            text = (self.text() if where != "err" else "") + "\n" + (self.err() if where != "out" else "")
            match = expression.search(text)
            if not match and not self.running():
                text = self.text() + self.err()
                match = expression.search(text)
                if not match:
                    raise Failure("%s ended with %s before it said /%s/: %s"
                                  % (self.name, self.process.returncode, pattern, text[-1500:]))
            return match
        return wait_until("%s says /%s/" % (self.name, pattern), seen, seconds)

    def write(self, data):
        self.stdin.write(data if isinstance(data, bytes) else data.encode())
        self.stdin.flush()

    def write_and_end_after(self, data, what, condition):
        """Writes all of it; stdin ends when it is so. (nc -l leaves at the other's end, whatever it still has to send.)"""
        writer = threading.Thread(target=self.write, args=(data,), daemon=True)
        writer.start()
        wait_until(what, condition)
        writer.join(PATIENCE)
        self.close_stdin()

    def close_stdin(self):
        with contextlib.suppress(OSError):
            self.stdin.close()

    def kill(self, sig=signal.SIGKILL):
        """To this one process. (Not yet waited for, so the number is its own.)"""
        self.process.send_signal(sig)

    def end(self):
        """Ends it and all that it started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.stdin:
            self.close_stdin()


class World:
    """One case's network, files and programs."""

    def __init__(self, name):
        self.name = name
        self.lib = LIB
        self.env = {}  # for every preloaded program
        if TRACE:
            self.env = {"SOCKSHIM_TRACE": os.path.join(TRACE, name + ".%n.%p"), "SOCKSHIM_TRACE_RING": "0"}
        self.programs = []
        self.figures = {}  # the kernel's, until ours stand beside them
        self.keep = False  # closed by whoever set it
        self.at_close = lambda: None  # ends what the case started beside the programs
        self.work = tempfile.mkdtemp(prefix="sockshim-test-")
        # tmpfs, where the carriers' locks and the arena's pages cost what they cost in use
        self.net = tempfile.mkdtemp(prefix="sockshim-test-", dir="/dev/shm")

    def path(self, *parts):
        return os.path.join(self.work, *parts)

    def file(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def port(self):
        """A free port that the kernel has nothing of: earlier native runs leave connections in TIME_WAIT."""
        while True:
            port = free_port()
            if not kernel_sockets(port, halves=True):
                return port

    def start(self, *argv, shim=True, env=None, stdin=None, name=None, cwd=None, pass_fds=()):
        program = Program(self, argv, shim, env, stdin, name, cwd, pass_fds)
        self.programs.append(program)
        return program

    def run(self, *argv, seconds=None, **how):
        """Starts a program and waits until it has ended well."""
        return self.start(*argv, **how).ok(seconds)

    def guest(self, function, *args, module=None, prefix=(), **how):
        """Runs a @guest function in a process of its own. prefix: a program that starts it, as setpriv."""
        source = module or sys.modules[function.__module__].__file__
        how.setdefault("name", function.__name__)
        return self.start(*prefix, PYTHON, "-B", os.path.abspath(source), "--guest", function.__name__, *args, **how)

    def ours(self, port, shim=True):
        """The kernel never saw this port; or, run natively, it did (so that looking there means something)."""
        if shim and not NATIVE:
            known = kernel_sockets(port)
            if known:
                raise Failure("port %d went through the kernel: %s" % (port, known))
            say("the kernel never saw port %d: the bytes went through the shim" % port)
        elif not kernel_sockets(port, halves=True):
            raise Failure("the kernel does not show port %d, so this test proves nothing" % port)

    def figure(self, what, unit, value, shim):
        """What the program measured, natively first. It is told and never judged; gen_programs_doc collects the lines."""
        if not shim:
            self.figures[what] = value
        else:
            native = self.figures.pop(what)
            say("figure: %s: %s %s with the kernel, %s ours (%.2fx)"
                % (what, digits(native), unit, digits(value), value / native))

    def settle(self, retry, what, seconds=None):
        """Repeats a client that is refused until its server listens. `retry` starts it."""
        def once():
            program = retry()
            status = program.wait()
            if status == 0:
                return program
            if not re.search(r"[Rr]efused|Couldn't connect", program.err()):
                raise Failure("%s ended with %d: %s" % (program.name, status, program.err()[-800:]))
            return None
        return wait_until(what, once, seconds)

    def describe(self):
        for p in self.programs[-14:]:
            state = "running" if p.running() else "ended with %s" % p.process.returncode
            print("  - [%d] %s%s: %s" % (p.pid, "" if p.shim else "(native) ", " ".join(p.argv)[:200], state))
            for label, path in (("stdout", p.out_path), ("stderr", p.err_path)):
                with open(path, "rb") as f:
                    data = f.read()
                if data:
                    end = data[-700:].decode("utf-8", "replace")
                    readable = end.isprintable() or not set(end) - set(string.printable)
                    print("      %s (%d bytes)%s" % (label, len(data), " ends: " + repr(end) if readable else ""))
        gdb = shutil.which("gdb")
        if not gdb or os.environ.get("SHIMTEST_NO_GDB"):
            return
        shown = 0
        for p in self.programs:
            if not p.running() or not p.shim or shown == 4:
                continue
            for pid in session_of(p.pid)[:4]:
                shown += 1
                with contextlib.suppress(subprocess.SubprocessError, OSError):
                    trace = subprocess.run(
                        [gdb, "-p", str(pid), "-batch", "-nx", "-ex", "set debuginfod enabled off",
                         "-ex", "thread apply all bt 24"],
                        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=25,
                        env={**os.environ, "LD_PRELOAD": ""}).stdout
                    lines = [l for l in trace.splitlines() if re.match(r"#|Thread|\[Switching", l)]
                    print("  - stack of [%d] %s:\n      %s" % (pid, p.name, "\n      ".join(lines[:60])))

    def unasked(self):
        """Nothing of ours may print anything, and nothing of ours may crash, unless the case says so."""
        for p in self.programs:
            if p.shim and not p.may_say:
                for line in p.err().splitlines():
                    if line.startswith("sockshim: ") or "--- sockshim trace" in line:
                        raise Failure("%s printed unasked: %s" % (p.name, line))
            if p.process.returncode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL):
                raise Failure("%s crashed (%d)" % (p.name, p.process.returncode))

    def close(self):
        self.at_close()
        for p in self.programs:
            p.end()
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.net, ignore_errors=True)


def session_of(sid):
    """Processes of a session that we made."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open("/proc/%s/stat" % entry) as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                if int(fields[3]) == sid and fields[0] != "Z":
                    pids.append(int(entry))
    return sorted(pids)


def both_worlds(scenario):
    """A case that runs the scenario natively and shimmed, and wants the same outcome. The scenario takes
    (world, shim) and returns it."""
    @functools.wraps(scenario)
    def compared(world):
        outcomes = []
        for shim in (False, True):
            before = len(world.programs)
            outcomes.append(scenario(world, shim))
            for p in world.programs[before:]:
                p.end()
        if outcomes[0] != outcomes[1]:
            raise Failure("natively:  %s\n    shimmed:   %s" % (short(outcomes[0]), short(outcomes[1])))
        say("same as natively: %s" % short(outcomes[0])[:300])
    return compared


# --- main ----------------------------------------------------------------------------------------------------

def main():
    args = sys.argv[1:]
    if args[:1] == ["--guest"]:
        _guests[args[1]](*args[2:])
        return
    budget = 0
    if args[:1] == ["--budget"]:
        budget, args = int(args[1]), args[2:]
    if not NATIVE and not os.path.isfile(LIB):
        sys.exit("SOCKSHIM_LIB does not name the library: '%s'" % LIB)
    known = {c.__name__: c for c in _cases}
    for name in args:
        if name not in known:
            sys.exit("no such case: %s (there are: %s)" % (name, " ".join(known)))
    failed, skipped, done = [], [], []
    current = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def out_of_time(*_):
        raise OutOfTime("the whole test ran out of its %d seconds" % budget)
    if budget:
        signal.signal(signal.SIGALRM, out_of_time)
        signal.alarm(budget)
    print("seed %d%s" % (_seed, ", NATIVE" if NATIVE else ""), flush=True)
    for function in [known[n] for n in args] or _cases:
        began = time.monotonic()
        print("%s: %s" % (function.__name__, (function.__doc__ or "").split("\n")[0]), flush=True)
        world = World(function.__name__)
        try:
            if room_left() < ROOM_FOR_A_CASE:
                raise Skip("/dev/shm has %d KB left, a case needs %d" % (room_left() >> 10, ROOM_FOR_A_CASE >> 10))
            function(world)
            world.unasked()
            done.append(function.__name__)
            print("  ok, %.1f s" % (time.monotonic() - began), flush=True)
        except Skip as reason:
            skipped.append(function.__name__)
            print("  skipped: %s" % reason, flush=True)
        except Exception as problem:
            failed.append(function.__name__)
            if isinstance(problem, Failure):
                at = traceback.extract_tb(problem.__traceback__)
                line = [f.lineno for f in at if f.filename != __file__][-1:]
                print("  FAILED, line %s: %s" % (line[0] if line else "?", problem), flush=True)
            else:
                traceback.print_exc(file=sys.stdout)
            world.describe()
            if isinstance(problem, OutOfTime):
                break
        finally:
            if not world.keep or function.__name__ in failed:
                world.close()
    print("%d ok, %d failed%s, %d skipped%s" % (len(done), len(failed), (": " + " ".join(failed)) * bool(failed),
                                                len(skipped), (": " + " ".join(skipped)) * bool(skipped)))
    sys.exit(1 if failed else 0 if done else 77)
