"""What the crash tests share: a network with survivors whose state can be asked at any time.

An observer tells the arena's use. A survivor echoes everything and tells how its connections ended. A caller
connects to victims that serve. A bystander and its server talk to each other all the time, on a connection
that stays and on new ones, and check each byte. All of them must come through everything."""
import contextlib, ctypes, os, select, signal, socket, struct, sys, threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "programs"))
from harness import *

TOOLS = os.environ.get("SOCKSHIM_CRASH_TOOLS", "")
CRASH_LIB = os.environ.get("SOCKSHIM_CRASH_LIB", "")
TIMEWAIT_BYTES = 128  # a connection that ended well stays in TIME_WAIT for a minute, as in Linux
PATTERN = bytes(i * 7 % 251 for i in range(251 * 300))


def pattern(start, n):
    """n bytes of the endless pattern that victim.c knows too."""
    at = start % 251
    return (PATTERN * ((at + n) // len(PATTERN) + 1))[at:at + n]


# --- survivors ---------------------------------------------------------------------------------------------------

def answer(commands):
    """Serves commands from stdin, a line each, until its end."""
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        print(commands[words[0]](*words[1:]), flush=True)
    os._exit(0)


@guest
def observer():
    usage = None if NATIVE else ctypes.CDLL(None).sockshim_arena_usage
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((LOOPBACK, 0))

    def ask():
        n = ctypes.c_ulonglong()
        if usage and usage(ctypes.byref(n)):
            return "not attached"
        return n.value
    answer({"usage": ask})


class Echo:
    """Echoes connections that carry the pattern; counts how they ended."""

    def __init__(self, listener):
        self.accepted = self.ended = self.wrong = 0
        self.ends = {}
        self.lock = threading.Lock()
        self.listener = listener
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except ConnectionError:
                continue
            except OSError:  # shut down
                return
            with self.lock:
                self.accepted += 1
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        offset, end = 0, "EOF"
        try:
            while data := s.recv(65536):
                if data != pattern(offset, len(data)):
                    end = "WRONG at %d" % offset
                    break
                offset += len(data)
                s.sendall(data)
        except OSError as e:
            end = type(e).__name__
        s.close()
        with self.lock:
            self.ended += 1
            self.wrong += end.startswith("WRONG")
            self.ends[end] = self.ends.get(end, 0) + 1

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def status(self):
        with self.lock:
            return "%d %d %d %s" % (self.accepted, self.ended, self.wrong, self.ends)


def echo_server(port):
    return Echo(socket.create_server((LOOPBACK, int(port)), backlog=128))


@guest
def survivor(port):
    echo = echo_server(port)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind((LOOPBACK, int(port)))

    def datagrams():
        while True:
            try:
                data, peer = u.recvfrom(65536)
                u.sendto(data, peer)
            except ConnectionError:  # an ICMP answer to what a dead victim was sent
                pass
    threading.Thread(target=datagrams, daemon=True).start()
    answer({"status": echo.status})


@guest
def caller():
    """call PORT BYTES: connects, sends and reads back the pattern, half closes, waits for the end. several: that three
    times at once. datagram PORT: sends one, and heard says what came back."""
    asked = []
    def call(port, size, how="half"):
        size, got = int(size), 0
        try:
            s = socket.create_connection((LOOPBACK, int(port)))
        except OSError as e:
            return type(e).__name__
        try:
            if size:
                sender = threading.Thread(target=send, args=(s, size, how))
                sender.start()
            while data := s.recv(65536):
                if data != pattern(got, len(data)):
                    return "WRONG at %d" % got
                got += len(data)
            return "EOF after %d" % got
        except OSError as e:
            return "%s after %d" % (type(e).__name__, got)
        finally:
            if size:
                sender.join()
            s.close()

    def send(s, size, how):
        try:
            for at in range(0, size, 30000):
                s.sendall(pattern(at, min(30000, size - at)))
            if how == "half":
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def several(port, size):
        said = [""] * 3

        def one(i):
            said[i] = call(port, size)
        callers = [threading.Thread(target=one, args=(i,)) for i in range(len(said))]
        [t.start() for t in callers]
        [t.join() for t in callers]
        return ", ".join(said)

    def datagram(port):
        if asked:
            asked.pop().close()
        asked.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asked[0].connect((LOOPBACK, int(port)))
        asked[0].send(pattern(0, 1000))
        return "sent"

    def heard():
        try:
            return "echo" if asked[0].recv(2000, socket.MSG_DONTWAIT) == pattern(0, 1000) else "WRONG"
        except BlockingIOError:
            return "nothing"
        except OSError as e:
            return type(e).__name__
    answer({"call": call, "several": several, "datagram": datagram, "heard": heard})


@guest
def bystander_server(port):
    echo = echo_server(port)
    answer({"status": echo.status})


@guest
def bystander(port):
    """Talks all the time; `rounds` counts what came back right."""
    state = {"rounds": 0, "paused": False, "stop": False, "problem": ""}
    running = threading.Event()
    running.set()
    parked = threading.Event()

    def talk():
        try:
            s = socket.create_connection((LOOPBACK, int(port)))
            offset = 0
            r = random.Random(1)
            while not state["stop"]:
                if not running.is_set():
                    parked.set()
                    running.wait()
                n = r.choice((1, 100, 1000, 5000))
                exchange(s, offset, n)
                offset += n
                if state["rounds"] % 8 == 0:
                    t = socket.create_connection((LOOPBACK, int(port)))
                    exchange(t, 0, 300)
                    t.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    t.close()
                state["rounds"] += 1
                time.sleep(0.002)
            s.close()
        except Exception as e:
            state["problem"] = "%s after %d rounds" % (repr(e), state["rounds"])

    def exchange(s, offset, n):
        data = pattern(offset, n)
        s.sendall(data)
        got = b""
        while len(got) < n:
            part = s.recv(n - len(got))
            if not part:
                raise EOFError
            got += part
        if got != data:
            raise ValueError("wrong bytes at %d" % offset)
    worker = threading.Thread(target=talk, daemon=True)
    worker.start()

    def pause():
        parked.clear()
        running.clear()
        while worker.is_alive() and not parked.wait(0.01):
            pass
        return "paused"

    def go():
        running.set()
        return "going"

    def stop():
        state["stop"] = True
        running.set()
        worker.join()
        return state["problem"] or "fine"
    answer({"rounds": lambda: state["problem"] or state["rounds"], "pause": pause, "go": go, "stop": stop})


# --- the network ---------------------------------------------------------------------------------------------------

ROOM = 16 << 20  # what a network takes of /dev/shm while a case runs on it, and some more
kept = []  # networks whose cases are over, to be examined for leaks when TIME_WAIT is over
leaking = []


def examine_kept():
    """The arena's use of each of these networks is back where it was. Then they go."""
    while kept:
        n = kept.pop(0)
        if n.observer.running():  # otherwise its case failed
            try:
                print("   " + n.world.name)
                n.back_to_baseline()
            except Failure as problem:
                leaking.append("%s: %s" % (n.world.name, problem))
        n.world.close()


def make_room():
    """Where /dev/shm is small (64 MB in a container), the earlier networks are examined now, not at the end."""
    if room_left() < ROOM and kept:
        print("    /dev/shm has %d KB left: first the earlier networks" % (room_left() >> 10))
        examine_kept()
    if room_left() < ROOM:
        raise Skip("/dev/shm has %d KB left, this needs %d" % (room_left() >> 10, ROOM >> 10))


def keep(network):
    """The world outlives its case: its observer is asked once more at the end."""
    network.world.keep = True
    kept.append(network)


def leaks(w):
    """afterwards, when TIME_WAIT is over, the arena's use of each of these networks is back where it was"""
    if NATIVE:
        raise Skip("only with the shim")
    examine_kept()
    if leaking:
        raise Failure("\n    ".join(leaking))


def main_of_crash_test():
    try:
        main()
    finally:
        for n in kept:
            n.world.close()


class Network:
    def __init__(self, world, lib=None, bystanders=True, env=None):
        self.world = w = world
        make_room()
        if lib:
            w.lib = lib
        w.env.update(env or {})
        self.port, self.bystander_port = w.port(), w.port()
        self.observer = self.speaker(observer)
        self.baseline = self.usage()
        self.survivor = self.speaker(survivor, self.port)
        self.caller = self.speaker(caller)
        self.bystander = None
        if bystanders:
            self.bystander_server = self.speaker(bystander_server, self.bystander_port)
            self.bystander = self.speaker(bystander, self.bystander_port)
        self.rounds = 0
        self.ends = 0  # connections that may be in TIME_WAIT
        self.history = []

    def speaker(self, function, *args, module=__file__, **how):
        p = self.world.guest(function, *args, stdin=subprocess.PIPE, module=module, **how)
        p.until("^ready", "out")
        p.heard = 1
        return p

    def ask(self, p, text, seconds=None):
        """One command, one line of answer."""
        self.tell(p, text)
        return self.hear(p, text, seconds)

    def tell(self, p, text):
        p.write(text + "\n")

    def hear(self, p, text="", seconds=None):
        def line():
            lines = p.text().split("\n")
            if len(lines) - 1 > p.heard:
                return lines[p.heard]
            if not p.running():
                raise Failure("%s ended with %s: %s" % (p.name, p.process.returncode, p.err()[-800:]))
            return None
        found = wait_until("%s answers \"%s\"" % (p.name, text), line, seconds)
        p.heard += 1
        return found

    def usage(self):
        return int(self.ask(self.observer, "usage"))

    def status(self):
        """accepted, ended, wrong, and how they ended."""
        words = self.ask(self.survivor, "status").split(" ", 3)
        return int(words[0]), int(words[1]), int(words[2]), words[3]

    def all_ended(self, what):
        """The survivor saw the end of every connection that it accepted, and no wrong byte."""
        def settled():
            accepted, ended, _, _ = self.status()
            return accepted == ended
        wait_until("the survivor sees the end of all connections (%s)" % what, settled)
        accepted, _, wrong, ends = self.status()
        if wrong:
            raise Failure("wrong bytes (%s): %s" % (what, ends))
        self.ends = accepted

    def bystander_goes_on(self, what):
        if not self.bystander:
            return
        before = self.rounds

        def progress():
            said = self.ask(self.bystander, "rounds")
            if not said.isdigit():
                raise Failure("the bystander (%s): %s" % (what, said))
            self.rounds = int(said)
            return self.rounds > before
        wait_until("the bystander's connection goes on (%s)" % what, progress)

    def check(self, what):
        self.all_ended(what)
        self.bystander_goes_on(what)

    def measure(self, what):
        """Notes the arena's use while the bystander rests."""
        if self.bystander:
            self.ask(self.bystander, "pause")
        used = self.usage()
        self.history.append((what, used))
        if self.bystander:
            self.ask(self.bystander, "go")
        return used

    def leaks(self):
        """Where the use rose for good: for the message of a failure."""
        found, lowest = [], None
        for what, used in reversed(self.history):
            if lowest is not None and used < lowest:
                found.append("%d bytes after %s" % (lowest - used, previous))
            lowest = used if lowest is None else min(lowest, used)
            previous = what
        return list(reversed(found))[:25]

    def end_all(self):
        """Ends everybody but the observer, each in its own way."""
        if self.bystander:
            said = self.ask(self.bystander, "stop")
            if said != "fine":
                raise Failure("the bystander: " + said)
        for p in self.world.programs:
            if p is not self.observer and p.running():
                if p.stdin:
                    p.close_stdin()
                    p.wait()
                else:
                    p.end()

    def back_to_baseline(self):
        """Everybody but the observer has ended: the arena's use is where it was. TIME_WAIT takes a minute."""
        def settled():
            return self.usage() == self.baseline
        began = time.monotonic()
        by_itself = True
        try:
            wait_until("the arena's use is back at %d" % self.baseline, settled, 64)
        except Failure:
            # What a dead process left in nobody's list is found by sweeps, which come with later deaths.
            by_itself = False
            for _ in range(3):
                p = self.world.guest(one_socket, module=__file__)
                p.until("ready")
                p.kill()
                p.wait()
                time.sleep(0.3)
            try:
                wait_until("sweeps", settled, 10)
            except Failure:
                raise Failure("the arena's use is %d, it was %d, also after sweeps; it rose by: %s"
                              % (self.usage(), self.baseline, "; ".join(self.leaks()) or "(not measured)"))
        say("the arena's use is back at %d bytes (%.0f s%s)" % (
            self.baseline, time.monotonic() - began, "" if by_itself else ", after sweeps that other deaths began"))


@guest
def one_socket():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    print("ready", flush=True)
    time.sleep(1000)


def tool(name):
    path = os.path.join(TOOLS, name)
    if not os.access(path, os.X_OK):
        raise Failure("SOCKSHIM_CRASH_TOOLS has no " + name)
    return path


def duty_holder(w):
    """Process id of the one on timer duty: it holds the record lock on the network's file `duty`."""
    import fcntl
    top = os.path.join(w.net, "sockshim-%d" % os.geteuid())
    for name in os.listdir(top):
        path = os.path.join(top, name, "duty")
        if os.path.exists(path):
            with open(path, "r+b") as f:
                # struct flock: type, whence, start, length, pid
                asked = fcntl.fcntl(f, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
                kind, _, _, _, pid = struct.unpack("hhqqi4x", asked)
                if kind != fcntl.F_UNLCK:
                    return pid
    return None


if __name__ == "__main__":
    main()
