"""OpenSSH for several tests: Debian's sshd as root, with everything it does to be safe (a new image of itself for each
connection, a process in a chroot with another user's id, hardly any descriptors and a filter on system calls until
somebody has logged in, then one of the user's). The machine's own sshd, its files, its users' ~/.ssh are not touched:
the daemon sees users, logs and /run of the test's own."""
import contextlib, functools, os, random, re, shutil, signal, subprocess

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

    def __init__(self, w, shim, more="", background=False, env=None):
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
                    text = f.read().rstrip("\n") + "\n" + line + "\n"
                # Not the machine's own: what its shells run at the start is anybody's guess.
                text = re.sub(r"(?m)^(root(?::[^:]*){4}):/[^:]*:[^:\n]*$", r"\1:%s:/bin/bash" % w.path("root"), text)
                w.file(name, text.encode())
                os.chmod(w.path(name), os.stat("/etc/" + name).st_mode & 0o777)
            os.mkdir(w.path("home"))
            os.mkdir(w.path("root"))
            os.chown(w.path("home"), UID, UID)
        self.port = w.port()
        w.file("sshd-%d" % self.port, SERVER.format(port=self.port, loopback=LOOPBACK, work=w.work, more=more).encode())
        for user in ("root", USER):
            w.file(self.config(user), CLIENT.format(port=self.port, loopback=LOOPBACK, work=w.work, user=user).encode())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(w.path("known_hosts"))
        self.home = w.path("home")
        self.env = env
        self.start(background)

    def config(self, user):
        return self.w.path("%s-%d" % (user, self.port))

    def start(self, background=False):
        arguments = ["-E", self.w.path("sshd-%d.log" % self.port), "-f", self.w.path("sshd-%d" % self.port)]
        if not background:
            arguments = ["-D"] + arguments
        self.daemon = self.w.start("unshare", "--mount", "sh", "-c", ALONE, "sh", self.w.work, self.program, *arguments,
                                   shim=self.shim, name="sshd", env=self.env)
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
