#!/usr/bin/env python3
"""OpenSSH: Debian's sshd as root, with everything it does to be safe (a new image of itself for each connection, a
process in a chroot with another user's id, hardly any descriptors and a filter on system calls until somebody has
logged in, then one of the user's), and ssh, scp, sftp, rsync. The machine's own sshd, its files, its users' ~/.ssh
are not touched: the daemon sees users, logs and /run of the test's own."""
import contextlib, os, random, signal, socket, subprocess, threading, time

from harness import *

USER, UID = "ashore", 23017
BIG = 50 << 20

# Debian's sshd_config, but for where things are, and what would look names up.
SERVER = """Port {port}
ListenAddress {loopback}
HostKey {work}/host_key
PidFile {work}/sshd-{port}.pid
AuthorizedKeysFile {work}/authorized_keys
UsePAM yes
KbdInteractiveAuthentication no
X11Forwarding yes
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
PermitRootLogin yes
StrictModes no
MaxStartups 100
{more}
"""
CLIENT = """Host *
    HostName {loopback}
    Port {port}
    User {user}
    IdentityFile {work}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {work}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking accept-new
    AddressFamily inet
    LogLevel ERROR
"""
# Mounts that nobody else sees: users, /run (sshd's empty directory, utmp), logs (wtmp, lastlog).
ALONE = """set -e
mount -t tmpfs sshd-test /run
mkdir -m 755 /run/sshd
mount -t tmpfs sshd-test /var/log
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/shadow" /etc/shadow
shift
exec "$@"
"""


def contents(name, size):
    return random.Random(name).randbytes(size)


class Ssh:
    """A daemon, and the files of its clients."""

    def __init__(self, w, shim, more="", background=False):
        if os.geteuid():
            raise Skip("not root")
        self.w, self.shim = w, shim
        self.program, self.ssh, keygen = need("sshd", "ssh", "ssh-keygen")
        if subprocess.run(["unshare", "--mount", "sh", "-c", "mount -t tmpfs sshd-test /run"],
                          capture_output=True).returncode:
            raise Skip("no mount namespaces here")
        os.chmod(w.work, 0o711)
        if not os.path.exists(w.path("host_key")):
            for key in "host_key", "user_key":
                subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", w.path(key)], check=True)
            shutil.copy(w.path("user_key.pub"), w.path("authorized_keys"))
            os.chmod(w.path("authorized_keys"), 0o644)
            for name, line in (("passwd", "%s:x:%d:%d::%s:/bin/bash" % (USER, UID, UID, w.path("home"))),
                               ("group", "%s:x:%d:" % (USER, UID)), ("shadow", USER + ":*:19000:0:99999:7:::")):
                with open("/etc/" + name) as f:
                    w.file(name, (f.read().rstrip("\n") + "\n" + line + "\n").encode())
                os.chmod(w.path(name), os.stat("/etc/" + name).st_mode & 0o777)
            os.mkdir(w.path("home"))
            os.chown(w.path("home"), UID, UID)
        self.port = w.port()
        w.file("sshd-%d" % self.port, SERVER.format(port=self.port, loopback=LOOPBACK, work=w.work, more=more).encode())
        for user in ("root", USER):
            w.file(self.config(user), CLIENT.format(port=self.port, loopback=LOOPBACK, work=w.work, user=user).encode())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(w.path("known_hosts"))
        self.home = w.path("home")
        self.start(background)

    def config(self, user):
        return self.w.path("%s-%d" % (user, self.port))

    def start(self, background=False):
        arguments = ["-E", self.w.path("sshd-%d.log" % self.port), "-f", self.w.path("sshd-%d" % self.port)]
        if not background:
            arguments = ["-D"] + arguments
        self.daemon = self.w.start("unshare", "--mount", "sh", "-c", ALONE, "sh", self.w.work, self.program, *arguments,
                                   shim=self.shim, name="sshd")
        self.pid = int(wait_until("sshd has written its number", self.read_pid))
        self.mounts = os.readlink("/proc/%d/ns/mnt" % self.pid)

    def read_pid(self):
        with contextlib.suppress(OSError):
            with open(self.w.path("sshd-%d.pid" % self.port)) as f:
                return f.read().strip()
        return None

    def processes(self):
        """All of this daemon's: sessions have process groups of their own, but they share its mounts."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and os.readlink("/proc/%s/ns/mnt" % entry) == self.mounts:
                    found.append(int(entry))
        return found

    def title(self, pid):
        with contextlib.suppress(OSError):
            with open("/proc/%d/cmdline" % pid, "rb") as f:
                return f.read().replace(b"\0", b" ").decode().strip()
        return ""

    def sessions(self, pattern):
        return [p for p in self.processes() if re.search(pattern, self.title(p))]

    def end(self):
        pids = self.processes()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until("all of sshd has ended", lambda: not any(os.path.exists("/proc/%d/ns/mnt" % p) and
                                                           self.title(p) for p in pids))

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        if problem[0]:
            with contextlib.suppress(OSError):
                with open(self.w.path("sshd-%d.log" % self.port)) as f:
                    print("      sshd's log ends: " + f.read()[-1500:])
        self.end()

    def client(self, *arguments, user=USER, program=None, **how):
        config = () if "-F" in arguments else ("-F", self.config(user))
        return self.w.start(program or self.ssh, *config, *arguments, shim=self.shim, **how)

    def run(self, *arguments, **how):
        return self.client("there", *arguments, **how).ok().text()

    def hidden(self, text):
        """Without what differs from run to run."""
        return text.replace(str(self.port), "PORT").replace(self.w.work, "WORK")


def with_sshd(scenario=None, **options):
    """A case natively and under the shim, with a daemon."""
    if not scenario:
        return lambda scenario: with_sshd(scenario, **options)

    @functools.wraps(scenario)
    def both(w, shim):
        with Ssh(w, shim, **options) as s:
            outcome = scenario(w, s)
            w.ours(s.port, shim)
            return outcome
    return both_worlds(both)


@guest
def peer(port, line):
    """Somebody who says one line, and reads until the end."""
    with socket.create_connection((LOOPBACK, int(port))) as s:
        print(s.recv(8).decode(), flush=True)
        s.sendall(line.encode() + b"\r\n")
        try:
            while s.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
    print("the end", flush=True)


def before_login(w, s):
    """A connection with a confined process on the other side."""
    c = w.guest(peer, s.port, "SSH-2.0-test", shim=s.shim)
    c.until("SSH-2.0")
    wait_until("the confined process", lambda: s.sessions(r"\[net\]"))
    return c


# --- commands ------------------------------------------------------------------------------------------------

@case
@with_sshd
def commands(w, s):
    """a command's output, errors, exit code, input, environment; as root and as a user"""
    said = []
    for user in ("root", USER):
        p = s.client("there", "id -un; pwd; echo bad >&2; exit 7", user=user)
        said += [user, p.wait(), s.hidden(p.text()), p.err()]
        data = contents(user, 5 << 20)
        p = s.client("there", "cat", user=user, stdin=data).ok()
        same("5 MB through cat", sha(data), sha(p.out()))
        p = s.client("there", "kill -9 $$", user=user)
        said += [p.wait(), s.run("false || echo $?", user=user)]
        # The client's port differs; LD_PRELOAD and SOCKSHIM_* must not be there.
        said.append(sorted(re.sub(r"(?<=%s )\d+" % LOOPBACK, "N", s.hidden(line), 1)
                           for line in s.run("env", user=user).splitlines()))
    return said


@case
@with_sshd
def refused(w, s):
    """somebody without the right key, somebody without an account, a peer that speaks no ssh"""
    with open(s.config(USER)) as f:
        other = w.file("other", f.read().replace("user_key", "host_key").encode())
    p = s.client("-F", other, "-o", "BatchMode=yes", "there", "id")
    q = s.client("-l", "noone", "-o", "BatchMode=yes", "there", "id")
    r = w.guest(peer, s.port, "GET / HTTP/1.0", shim=s.shim).ok()
    return p.wait(), p.err(), q.wait(), q.err(), r.text()


@case
@with_sshd
def terminal(w, s):
    """a session with a terminal: size, job control, hang-up"""
    p = s.client("-tt", "there", "tty | sed 's/[0-9]*$//'; stty -echo; echo ready; read a; echo got $a; exit 3",
                 stdin=subprocess.PIPE)
    p.until("ready")
    p.write("line\n")
    status = p.wait()
    # A shell, told by ^C and ^D.
    q = s.client("-tt", "there", stdin=subprocess.PIPE)
    q.write("PS1=; echo 'at'' work'; sleep 1000\n")
    q.until("at work")
    wait_until("it sleeps", lambda: s.sessions("^sleep 1000"))
    q.write("\x03")
    wait_until("it does not any more", lambda: not s.sessions("^sleep 1000"))
    q.write("exit 4\n")
    return status, p.text(), q.wait()


@case
@with_sshd
def many(w, s):
    """ten sessions at once, 1 MB through each"""
    clients = []
    for i in range(10):
        data = contents(i, 1 << 20)
        clients.append((data, s.client("there", "cat", user=(USER, "root")[i % 2], stdin=data)))
    for data, p in clients:
        p.ok()
        same("what came back", sha(data), sha(p.out()))
    return len(clients)


# --- files ---------------------------------------------------------------------------------------------------

def listing(top):
    found = []
    for folder, folders, files in os.walk(top):
        folders.sort()
        found += [(os.path.relpath(os.path.join(folder, f), top), file_sha(os.path.join(folder, f))) for f in sorted(files)]
    return found


@case
@with_sshd
def scp(w, s):
    """50 MB both ways, by the sftp protocol and by the old one, and a tree"""
    program, data = need("scp"), contents("scp", BIG)
    source = w.file("source", data)
    for old in ([], ["-O"]):
        there, back = os.path.join(s.home, "there"), w.path("back")
        s.client(*old, source, "there:there", program=program).ok()
        same("50 MB to there", sha(data), file_sha(there))
        s.client(*old, "there:there", back, program=program).ok()
        same("50 MB and back", sha(data), file_sha(back))
        os.unlink(there)
        os.unlink(back)
    top = w.path("tree-%d" % s.port)
    for i in range(40):
        os.makedirs(os.path.join(top, str(i % 7)), exist_ok=True)
        with open(os.path.join(top, str(i % 7), str(i)), "wb") as f:
            f.write(contents(i, i * 1000))
    s.client("-r", "-p", top, "there:tree-%d" % s.port, program=program).ok()
    copy = listing(os.path.join(s.home, "tree-%d" % s.port))
    same("the tree", listing(top), copy)
    p = s.client("there:nothing", w.path("nothing"), program=program)
    return copy, p.wait(), s.hidden(p.err())


@case
@with_sshd
def sftp(w, s):
    """a batch: put, get, ls, rename, remove, what is not there"""
    data = contents("sftp", 9 << 20)
    w.file("put-this", data)
    batch = "\n".join(["mkdir d%d", "cd d%d", "put put-this", "rename put-this got", "ls -1", "chmod 600 got",
                       "get got got-%d", "-rm nothing", "rm got", "pwd", "cd ..", "rmdir d%d"]).replace("%d", str(s.port))
    p = s.client("-b", w.file("batch", batch.encode()), "there", program=need("sftp")).ok()
    same("what came back", sha(data), file_sha(w.path("got-%d" % s.port)))
    return s.hidden(p.text()), s.hidden(p.err())


@case
@with_sshd
def rsync(w, s):
    """a tree by rsync over ssh, then what has changed of it, then back"""
    program = need("rsync")
    top = w.path("tree-%d" % s.port)
    for i in range(60):
        os.makedirs(os.path.join(top, str(i % 5)), exist_ok=True)
        with open(os.path.join(top, str(i % 5), str(i)), "wb") as f:
            f.write(contents(i, 1000 + i * 3000))
    shell = "%s -F %s" % (s.ssh, s.config(USER))
    go = lambda *args: w.run(program, "-rtz", "-e", shell, *args, shim=s.shim)
    go(top + "/", "there:copy/")
    same("the tree", listing(top), listing(os.path.join(s.home, "copy")))
    with open(os.path.join(top, "0", "5"), "r+b") as f:
        f.seek(1000)
        f.write(b"changed")
    os.unlink(os.path.join(top, "1", "6"))
    go("--delete", "--checksum", top + "/", "there:copy/")
    same("the changed tree", listing(top), listing(os.path.join(s.home, "copy")))
    go("there:copy/", w.path("again") + "/")
    same("and back", listing(top), listing(w.path("again")))
    shutil.rmtree(w.path("again"))
    found = listing(top)
    shutil.rmtree(os.path.join(s.home, "copy"))
    return found


# --- forwarding ------------------------------------------------------------------------------------------------

@guest
def echo_server(port):
    listener = socket.create_server((LOOPBACK, int(port)))
    print("listening", flush=True)

    def serve(s):
        with s:
            while data := s.recv(1 << 16):
                s.sendall(data)
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()


@guest
def echo_client(port, size, socks_to):
    """Sends so much, expects it back, then the end."""
    data = contents(port + size, int(size))
    with socket.create_connection((LOOPBACK, int(port))) as s:
        if int(socks_to):
            s.sendall(b"\5\1\0")
            assert s.recv(2) == b"\5\0"
            s.sendall(b"\5\1\0\1" + socket.inet_aton(LOOPBACK) + int(socks_to).to_bytes(2, "big"))
            assert s.recv(10)[:2] == b"\5\0"
        sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        sender.start()
        back = b""
        while got := s.recv(1 << 16):
            back += got
        sender.join()
    print(len(back), sha(back) == sha(data))


def target(w, s):
    port = w.port()
    w.guest(echo_server, port, shim=s.shim).until("listening")
    return port


def through(w, s, port, socks_to=0, size=3 << 20):
    """Three connections at once through a forwarded port."""
    clients = [w.guest(echo_client, port, size + i, socks_to, shim=s.shim) for i in range(3)]
    return [c.ok().text() for c in clients]


@case
@with_sshd
def forward_local(w, s):
    """-L: three connections at once, 3 MB each, to a server and to nobody; -W"""
    there, nobody, here, here_too = target(w, s), w.port(), w.port(), w.port()
    p = s.client("-N", "-L", "%d:%s:%d" % (here, LOOPBACK, there), "-L", "%d:%s:%d" % (here_too, LOOPBACK, nobody),
                 "-o", "ExitOnForwardFailure=yes", "-v", "there")
    p.until("Entering interactive session")
    said = through(w, s, here)
    c = w.start(need("nc"), LOOPBACK, here_too, shim=s.shim)
    said.append((c.wait(), c.text()))
    data = contents("W", 1 << 20)
    tube = s.client("-W", "%s:%d" % (LOOPBACK, there), "there", stdin=data).ok()
    same("1 MB through -W", sha(data), sha(tube.out()))
    p.kill(signal.SIGTERM)
    said.append(p.wait())
    for port in (there, here):
        w.ours(port, s.shim)
    return said


@case
@with_sshd
def forward_remote(w, s):
    """-R: a port that the user's sshd listens on, one that is taken, one that it chooses; gone with the session"""
    here, there = target(w, s), w.port()
    p = s.client("-N", "-R", "%d:%s:%d" % (there, LOOPBACK, here), "-o", "ExitOnForwardFailure=yes", "-v", "there")
    p.until("remote forward success")
    said = through(w, s, there)
    q = s.client("-N", "-R", "%d:%s:%d" % (there, LOOPBACK, here), "-o", "ExitOnForwardFailure=yes", "there")
    said += [q.wait(), s.hidden(q.err()).replace(str(there), "THERE")]
    q = s.client("-N", "-R", "0:%s:%d" % (LOOPBACK, here), "-o", "LogLevel=INFO", "there")
    chosen = int(q.until(r"Allocated port (\d+)").group(1))
    said += through(w, s, chosen)
    p.kill(signal.SIGTERM)
    said.append(p.wait())
    wait_until("nobody listens there any more", lambda: w.start(need("nc"), "-z", LOOPBACK, there, shim=s.shim).wait())
    w.ours(there, s.shim)
    return said


@case
@with_sshd
def forward_dynamic(w, s):
    """-D: SOCKS, by a client of our own and by curl"""
    there, socks = target(w, s), w.port()
    p = s.client("-N", "-D", socks, "-v", "there")
    p.until("Entering interactive session")
    said = through(w, s, socks, there)
    page = w.file("page", contents("page", 2 << 20))
    web = w.port()
    w.start(PYTHON, "-m", "http.server", "--bind", LOOPBACK, "--directory", w.work, web, shim=s.shim).until("Serving")
    c = w.run(need("curl"), "-sS", "--socks5", "%s:%d" % (LOOPBACK, socks), "http://%s:%d/page" % (LOOPBACK, web),
              shim=s.shim)
    same("2 MB by curl", file_sha(page), sha(c.out()))
    w.ours(socks, s.shim)
    return said


@case
@with_sshd
def jump(w, s):
    """a session through a session (ProxyJump), and through ProxyCommand with nc"""
    said = [s.run("echo $USER", user="root")]
    p = s.client("-J", "%s@one" % USER, "there", "id -un; exit 9", user="root")
    said += [p.wait(), p.text()]
    data = contents("jump", 4 << 20)
    p = s.client("-J", "root@one,%s@two" % USER, "there", "cat", stdin=data).ok()
    same("4 MB through three", sha(data), sha(p.out()))
    p = s.client("-o", "ProxyCommand=%s -N %%h %%p" % need("nc"), "there", "id -un").ok()
    return said + [p.text()]


@case
@with_sshd
def multiplexed(w, s):
    """ControlMaster: eight sessions over one connection, a forwarding asked for later, the master's end"""
    path, there, here = w.path("c-%d" % s.port), target(w, s), w.port()
    control = ["-S", path, "there"]
    master = s.client("-M", "-N", *control)
    wait_until("the master listens", lambda: os.path.exists(path))
    said = [s.client("-O", "check", *control).wait()]
    clients = []
    for i in range(8):
        data = contents(i, 700000)
        clients.append((data, s.client(*control, "cat; exit %d" % i, stdin=data)))
    for data, p in clients:
        said.append((p.wait(), sha(p.out()) == sha(data)))
    check(len(s.sessions(r"^sshd: %s \[priv\]" % USER)) == 1, "one connection for all of them")
    said.append(s.client("-O", "forward", "-L", "%d:%s:%d" % (here, LOOPBACK, there), *control).wait())
    said += through(w, s, here)
    said += [s.client("-O", "exit", *control).wait(), master.wait(), os.path.exists(path)]
    return said


# --- the daemon --------------------------------------------------------------------------------------------------

@case
@with_sshd
def reload(w, s):
    """SIGHUP: a new image of the daemon on the same port; who was there stays, who comes is served"""
    p = s.client("there", "echo here; read a; echo $a", stdin=subprocess.PIPE)
    p.until("here")
    for _ in range(3):
        os.unlink(w.path("sshd-%d.pid" % s.port))
        os.kill(s.pid, signal.SIGHUP)
        wait_until("it has begun anew", s.read_pid)
        same("whom it serves", USER + "\n", s.run("id -un"))
    p.write("still here\n")
    p.ok()
    os.kill(s.pid, signal.SIGTERM)
    return p.text(), s.daemon.wait()


@case
def in_the_background(w):
    """sshd as it starts by itself, without a terminal and with an empty environment"""
    def scenario(w, shim):
        with Ssh(w, shim, background=True) as s:
            s.daemon.ok()
            said = s.run("id -un"), s.run("id -un", user="root")
            w.ours(s.port, shim)
            return said
    both_worlds(scenario)(w)


# --- deaths ---------------------------------------------------------------------------------------------------------

@case
@with_sshd
def killed(w, s):
    """SIGKILL of each process of a session, of the client, of the daemon: what the others see, and no rest"""
    said = []
    idle = len(s.processes())

    def session():
        p = s.client("there", "echo here; sleep 1000", user=USER)
        p.until("here")
        return p
    for victims in ([r"^sshd: %s@notty" % USER, "^sleep 1000"], [r"^sshd: %s \[priv\]" % USER, "^sleep 1000"], ["^sleep 1000"]):
        p = session()
        for victim in victims:  # the session goes on without its monitor
            for pid in wait_until("there is one", lambda: s.sessions(victim)):
                os.kill(pid, signal.SIGKILL)
        said.append((victims, p.wait(), re.sub(r"port \d+", "port N", s.hidden(p.err()))))
    p = session()
    p.kill()
    p.wait()
    wait_until("sshd has seen the client's end", lambda: not s.sessions("^sshd: %s" % USER))
    for pid in s.sessions("^sleep 1000"):  # it has no terminal whose end would tell it
        os.kill(pid, signal.SIGKILL)
    # Before anybody has logged in: the confined process, its monitor, its client.
    unknown = r"\[net\]|\[accepted\]"
    c = before_login(w, s)
    os.kill(s.sessions(r"\[net\]")[0], signal.SIGKILL)
    said.append((c.wait(), c.text()))
    wait_until("the monitor has ended", lambda: not s.sessions(unknown))
    c = before_login(w, s)
    os.kill(s.sessions(r"\[accepted\]")[0], signal.SIGKILL)
    check(s.sessions(r"\[net\]") and c.running(), "the confined process does not notice its monitor's end")
    c.kill()
    wait_until("but its client's", lambda: not s.sessions(unknown))
    c = before_login(w, s)
    c.kill()
    wait_until("both see their client's end", lambda: not s.sessions(unknown))
    wait_until("nothing is left of it all", lambda: len(s.processes()) == idle)
    p = session()
    os.kill(s.pid, signal.SIGKILL)
    s.daemon.wait()
    said.append(s.client("there", "id").wait())
    check(p.running(), "the session outlives the daemon")
    p.kill()
    p.wait()
    return said


@case
def left_alone(w):
    """a confined process whose monitor and daemon are gone, then its client, with nobody else in the network"""
    def scenario(w, shim):
        with Ssh(w, shim) as s:
            c = before_login(w, s)
            confined = s.sessions(r"\[net\]")[0]
            for pid in s.sessions(r"\[accepted\]") + [s.pid]:
                os.kill(pid, signal.SIGKILL)
            s.daemon.wait()
            time.sleep(1)
            check(c.running() and s.sessions(r"\[net\]") == [confined], "it waits for its client")
            c.kill()
            c.wait()
            wait_until("it sees its client's end", lambda: not s.title(confined))
            return c.text()
    both_worlds(scenario)(w)


if __name__ == "__main__":
    main()
