"""Clients that know every byte that they are to get. Each thread repeats one exchange; a server that is killed may end it
(refused, reset, end of file, an error that the protocol has for that), but what has come until then must be right."""
import http.client, json, os, random, shutil, signal, socket, struct, subprocess, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "programs"))
from harness import *

INTERRUPTIONS = (OSError, EOFError, http.client.HTTPException)
HTTP_SIZES = {"small": 700, "middle": 60000, "large": 3000000}


class Wrong(Exception):
    """Bytes that nobody can have sent."""


class Interrupted(Exception):
    """The server said that it cannot answer now."""


def contents(name, size):
    """What the service has under this name; the table of services puts it there."""
    return random.Random(name).randbytes(size)


def must_be(what, expected, got):
    if expected != got:
        at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
        raise Wrong("%s: %d bytes, expected %d; they differ at %d: %r, expected %r"
                    % (what, len(got), len(expected), at, got[at:at + 40], expected[at:at + 40]))


class Flow:
    """One thread's exchanges. `once` makes one and raises what interrupted it; `close` leaves no connection."""

    def __init__(self, number, port, **more):
        self.number, self.port = number, int(port)
        self.rng = random.Random(number)
        self.socket = None
        self.__dict__.update(more)

    def connect(self):
        self.socket = socket.create_connection((LOOPBACK, self.port))
        return self.socket

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def receive(self, n):
        got = bytearray()
        while len(got) < n:
            part = self.socket.recv(n - len(got))
            if not part:
                raise EOFError
            got += part
        return bytes(got)

    def line(self):
        got = bytearray()
        while not got.endswith(b"\r\n"):
            part = self.socket.recv(1)
            if not part:
                raise EOFError
            got += part
        return bytes(got[:-2])


# --- HTTP --------------------------------------------------------------------------------------------------------

class Http(Flow):
    """Files by GET, one connection for some of them, a new one for the others."""

    connection = None
    used = False

    def once(self):
        if not self.connection:
            self.connection = http.client.HTTPConnection(LOOPBACK, self.port)
            self.used = False
        name = self.rng.choice(list(HTTP_SIZES))
        stay = self.rng.random() < 0.7
        try:
            self.connection.request("GET", "/" + name, headers={} if stay else {"Connection": "close"})
            answer = self.connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not self.used:
                raise
            return self.close()  # the server may end a connection that is idle
        self.used = True
        if answer.status >= 500:
            raise Interrupted(answer.status)
        if answer.status != 200:
            raise Wrong("status %d for %s" % (answer.status, name))
        expected, at = contents(name, HTTP_SIZES[name]), 0
        while data := answer.read(1 << 16):
            must_be("%s at %d" % (name, at), expected[at:at + len(data)], data)
            at += len(data)
        if at != len(expected):
            raise EOFError
        if not stay:
            self.close()

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None


# --- echo --------------------------------------------------------------------------------------------------------

class Echo(Flow):
    """Whatever is sent comes back, until the half close. half_close: before the answer is there."""

    half_close = True
    sizes = 1, 1000, 70000, 400000

    def once(self):
        data = self.rng.randbytes(self.rng.choice(self.sizes))
        s = self.connect()
        sender = threading.Thread(target=self.send, args=(s, data))
        sender.start()
        at = 0
        try:
            while part := s.recv(1 << 16):
                must_be("echo at %d" % at, data[at:at + len(part)], part)
                at += len(part)
                if at == len(data) and not self.half_close:
                    s.shutdown(socket.SHUT_WR)
        finally:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            sender.join()
            self.close()
        if at != len(data):
            raise EOFError

    def send(self, s, data):
        with contextlib.suppress(OSError):
            s.sendall(data)
            if self.half_close:
                s.shutdown(socket.SHUT_WR)


# --- redis -------------------------------------------------------------------------------------------------------

class Redis(Flow):
    """Values that follow from their keys: after a restart a key may be gone, but not wrong. `read_only`: of a replica."""

    read_only = False

    def value(self, key):
        return contents(key, 1 + len(key) * 17 * (int(key[4:]) % 60))

    def once(self):
        if not self.socket:
            self.connect()
        keys = ["key:%d" % self.rng.randrange(500) for _ in range(20)]
        commands = b"" if self.read_only else b"".join(self.command(b"SET", k.encode(), self.value(k)) for k in keys)
        self.socket.sendall(commands + b"".join(self.command(b"GET", k.encode()) for k in keys))
        if not self.read_only:
            for _ in keys:
                must_be("answer to SET", b"OK", self.answer())
        for k in keys:
            got = self.answer()
            if got is not None:
                must_be(k, self.value(k), got)

    @staticmethod
    def command(*words):
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)

    def answer(self):
        head = self.line()
        if head.startswith(b"+"):
            return head[1:]
        if head == b"$-1":
            return None
        if head.startswith(b"$"):
            return self.receive(int(head[1:]) + 2)[:-2]
        if head.split(b" ")[0] in (b"-LOADING", b"-MASTERDOWN", b"-MISCONF"):
            raise Interrupted(head)
        raise Wrong("redis says %r" % head)


# --- memcached ---------------------------------------------------------------------------------------------------

class Memcached(Flow):
    """The text protocol; one exchange in five asks by datagram, which may be lost with the server."""

    def value(self, key):
        return contents("m" + key, 1 + int(key[1:]) * 41 % 30000)

    def once(self):
        if not self.socket:
            self.connect()
        for _ in range(5):
            key = "k%d" % self.rng.randrange(300)
            value = self.value(key)
            self.socket.sendall(b"set %s 0 0 %d\r\n%s\r\nget %s\r\n" % (key.encode(), len(value), value, key.encode()))
            must_be("answer to set", b"STORED", self.line())
            head = self.line()
            must_be("head of " + key, b"VALUE %s 0 %d" % (key.encode(), len(value)), head)
            must_be(key, value + b"\r\nEND\r\n", self.receive(len(value) + 7))
        if self.rng.random() < 0.2:
            self.by_datagram("k%d" % self.rng.randrange(300))

    def by_datagram(self, key):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(1)
            s.connect((LOOPBACK, self.port))
            s.send(struct.pack("!HHHH", 7, 0, 1, 0) + b"get %s\r\n" % key.encode())
            parts, total = {}, 1
            while len(parts) < total:
                answer = s.recv(2000)
                _, number, total, _ = struct.unpack("!HHHH", answer[:8])
                parts[number] = answer[8:]
            value = self.value(key)
            found = b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (key.encode(), len(value), value)
            got = b"".join(parts[n] for n in range(total))
            if got != b"END\r\n":
                must_be("%s by datagram" % key, found, got)


# --- DNS ---------------------------------------------------------------------------------------------------------

class Dns(Flow):
    """Addresses of names that follow from the names: by datagram, and by a connection for every fourth."""

    def once(self):
        n = self.rng.randrange(200)
        name = b"\5h%04d\4test\0" % n
        ident = self.rng.randrange(1 << 16)
        question = struct.pack("!HHHHHH", ident, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)
        if self.rng.random() < 0.25:
            with self.connect():
                self.socket.sendall(struct.pack("!H", len(question)) + question)
                answer = self.receive(struct.unpack("!H", self.receive(2))[0])
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(1)
                s.connect((LOOPBACK, self.port))
                s.send(question)
                answer = s.recv(2000)
        got_ident, flags, _, answers = struct.unpack("!HHHH", answer[:8])
        must_be("h%04d" % n, (ident, 0, 1, question[12:], bytes((10, 9, n >> 8, n & 255))),
                (got_ident, flags & 15, answers, answer[12:len(question)], answer[-4:]))


# --- databases ---------------------------------------------------------------------------------------------------

class Postgres(Flow):
    """The protocol itself: a row whose text follows from its number, and one that is written and read in a transaction."""

    def once(self):
        if not self.socket:
            self.connect()
            start = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
            self.socket.sendall(struct.pack("!i", len(start) + 4) + start)
            self.rows()
        n, times = self.rng.randrange(1000000), self.rng.choice((1, 10, 3000))
        text = hashlib.md5(b"%d" % n).hexdigest().encode()
        must_be("rows", [text * times], self.query("select repeat(md5('%d'), %d)" % (n, times)))
        self.query("begin; insert into kept values (%d, '%s')" % (n, text.decode()))
        must_be("what was written", [text], self.query("select t from kept where n = %d limit 1" % n))
        self.query("commit" if self.rng.random() < 0.1 else "rollback")

    def query(self, text):
        text = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)
        return self.rows()

    def rows(self):
        rows = []
        while True:
            kind, length = struct.unpack("!ci", self.receive(5))
            body = self.receive(length - 4)
            if kind == b"D":
                size = struct.unpack("!i", body[2:6])[0]
                rows.append(body[6:6 + size])
            elif kind == b"E":
                fields = dict((f[:1], f[1:]) for f in body.split(b"\0") if f)
                if fields.get(b"C", b"")[:2] in (b"57", b"08", b"53"):  # shut down, crashed, starting, too many
                    raise Interrupted(fields)
                raise Wrong("PostgreSQL says %r" % fields)
            elif kind == b"Z":
                return rows


# --- programs as clients -----------------------------------------------------------------------------------------

class Tool(Flow):
    """A program that is run again and again; `check` looks at what a run that ended well has brought."""

    def run(self, *argv, **how):
        if "input" not in how:
            how["stdin"] = subprocess.DEVNULL
        done = subprocess.run([str(a) for a in argv], capture_output=True, **how)
        if done.returncode == -signal.SIGPIPE:  # what a program gets that writes to a peer who is gone, unless it minds
            raise Interrupted(done.stderr)
        if done.returncode < 0:
            raise Wrong("%s ended by signal %d: %r" % (argv[0], -done.returncode, done.stderr[-300:]))
        return done

    def place(self):
        path = os.path.join(self.work, "%s-%d-%d" % (type(self).__name__, self.number, os.getpid()))
        shutil.rmtree(path, ignore_errors=True)
        return path


class Curl(Tool):
    def once(self):
        done = self.run("curl", "-sS", "http://%s:%d/large" % (LOOPBACK, self.port), "--next", "-sS", "--fail",
                        "http://%s:%d/small" % (LOOPBACK, self.port))
        expected = contents("large", HTTP_SIZES["large"]) + contents("small", HTTP_SIZES["small"])
        if done.returncode == 0 and len(done.stdout) == len(expected):
            return must_be("by curl", expected, done.stdout)
        raise Interrupted(done.stderr)


class Program(Tool):
    """Load for its own sake: that it ends is all that is looked at."""

    def __init__(self, number, argv):
        super().__init__(number, 0)
        self.argv = argv

    def once(self):
        if self.run(*self.argv).returncode:
            time.sleep(0.1)


class Mariadb(Tool):
    def once(self):
        numbers = [self.rng.randrange(1000000) for _ in range(20)]
        text = "".join("select repeat(md5('%d'), 200);" % n for n in numbers)
        done = self.run("mariadb", "--no-defaults", "--protocol=tcp", "-h", LOOPBACK, "-P", self.port, "-u", "root",
                        "--skip-ssl", "-N", "-B", "-e", text)
        if done.returncode:
            raise Interrupted(done.stderr)
        must_be("rows", b"".join(hashlib.md5(b"%d" % n).hexdigest().encode() * 200 + b"\n" for n in numbers), done.stdout)


class Rsync(Tool):
    """A tree: what is there under its name is whole, however the run ended."""

    def once(self):
        place = self.place()
        done = self.run("rsync", "-a", "-W", "rsync://%s:%d/m/" % (LOOPBACK, self.port), place)
        found = [f for f in os.listdir(place) if not f.startswith(".")] if os.path.isdir(place) else []
        for name in found:
            with open(os.path.join(place, name), "rb") as f:
                must_be(name, contents(name, int(name.split("-")[1])), f.read())
        if done.returncode:
            raise Interrupted(done.stderr)
        if len(found) != self.files:
            raise Wrong("%d files of %d" % (len(found), self.files))
        shutil.rmtree(place)


class Git(Tool):
    def once(self):
        place = self.place()
        env = {**os.environ, "HOME": self.work, "GIT_CONFIG_NOSYSTEM": "1"}
        done = self.run("git", "clone", "-q", "git://%s:%d/r.git" % (LOOPBACK, self.port), place, env=env)
        if done.returncode:
            raise Interrupted(done.stderr)
        head = self.run("git", "-C", place, "rev-parse", "HEAD", env=env).stdout.decode().strip()
        must_be("head", self.head, head)
        if self.run("git", "-C", place, "status", "--porcelain", env=env).stdout:
            raise Wrong("the clone differs from what was committed")
        shutil.rmtree(place)


class Ssh(Tool):
    """A program on the other side that sends back what it gets."""

    def once(self):
        data = self.rng.randbytes(self.rng.choice((1, 50000, 2000000)))
        done = self.run("ssh", "-F", self.config, "there", "cat", input=data)
        # sshd tells the status when the program has ended, before what it still has to send; killed in between it
        # leaves ssh with a part and that status, 0 (with the kernel's sockets as well).
        if done.returncode or b"closed by remote host" in done.stderr:
            must_be("until it ended", data[:len(done.stdout)], done.stdout)
            raise Interrupted(done.stderr)
        must_be("by ssh", data, done.stdout)


# --- the process -------------------------------------------------------------------------------------------------

class Thread(threading.Thread):
    def __init__(self, flow, control):
        super().__init__(daemon=True)
        self.flow, self.control = flow, control
        self.done = self.interrupted = 0
        self.last = self.wrong = ""
        self.parked = False

    def run(self):
        while True:
            if not self.control.going.is_set():
                self.flow.close()
                self.parked = True
                self.control.going.wait()
                self.parked = False
            try:
                self.flow.once()
                self.done += 1
            except (Interrupted, *INTERRUPTIONS) as e:
                self.interrupted += 1
                self.last = "%s: %s" % (type(e).__name__, str(e)[:300])
                self.flow.close()
                time.sleep(0.02)
            except Exception as e:
                self.wrong = "%s: %s" % (type(e).__name__, e)
                return


class Control:
    """Answers a command a line: `go`, `pause`, `status`."""

    def __init__(self, flows):
        self.going = threading.Event()
        self.threads = [Thread(f, self) for f in flows]
        for t in self.threads:
            t.start()

    def status(self):
        t = self.threads
        return json.dumps({"done": [x.done for x in t], "interrupted": sum(x.interrupted for x in t),
                           "parked": all(x.parked for x in t), "last": next((x.last for x in t if x.last), ""),
                           "wrong": "; ".join(x.wrong for x in t if x.wrong)})

    def serve(self):
        print("ready", flush=True)
        for line in sys.stdin:
            command = line.strip()
            if command == "go":
                self.going.set()
            elif command == "pause":
                self.going.clear()
            print(self.status(), flush=True)
        os._exit(0)


@guest
def load(description):
    """description: [[class, threads, {its parameters}], ...]"""
    flows = []
    for kind, threads, parameters in json.loads(description):
        flows += [globals()[kind](len(flows) + i, **parameters) for i in range(threads)]
    Control(flows).serve()


@guest
def looks_after():
    """The bound socket makes it one of those that may be on timer duty."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((LOOPBACK, 0))
        print("ready", flush=True)
        time.sleep(100000)


if __name__ == "__main__":
    main()
