"""The processes of the services under test: all of them descend from this one, orphans too, and are told apart by who
started them and by their command lines."""
import ctypes, os, re, signal
from collections import namedtuple

from harness import wait_until

PR_SET_CHILD_SUBREAPER = 36

# A process: number and start time, which together are never another's.
Process = namedtuple("Process", "pid start")


def adopt_orphans():
    """Whoever loses his parent becomes our child: nothing that a killed server leaves gets away."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stat(pid):
    """State letter, parent, start time and session; None when there is no such process."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return fields[0], int(fields[1]), int(fields[19]), int(fields[3])
    except (OSError, IndexError):
        return None


def alive(process):
    """A zombie may be no more than a main thread that ended before the others."""
    s = stat(process.pid)
    if s is None or process.start not in (0, s[2]):
        return False
    try:
        return s[0] not in "ZX" or len(os.listdir("/proc/%d/task" % process.pid)) > 1
    except OSError:
        return False


def title(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def link(pid, name):
    try:
        return os.readlink("/proc/%s/%s" % (pid, name))
    except OSError:
        return ""


def all_children():
    """Parent's number to his living children."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            s = stat(int(entry))
            if s and alive(Process(int(entry), s[2])):
                found.setdefault(s[1], []).append(Process(int(entry), s[2]))
    return found


def reap_orphans(programs):
    """Whom nobody else waits for any more: our children but the programs that the harness started."""
    started = {p.pid for p in programs}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in started:
            s = stat(int(entry))
            if s and s[0] == "Z" and s[1] == os.getpid():
                os.waitpid(int(entry), os.WNOHANG)


def session(pid):
    s = stat(pid)
    return s and s[3]


def below(process, children):
    """The process and all that descend from it, parents first."""
    found = [process]
    for p in found:
        found += children.get(p.pid, [])
    return found


def descriptors(pid):
    """Without the doorbells, of which a process keeps as many as it had threads asleep at once (core/net/doorbell.cc)."""
    try:
        entries = os.listdir("/proc/%d/fd" % pid)
    except OSError:
        return 0
    return sum(not re.search("/sockshim-.*/b[0-9a-f]{5}$", link(pid, "fd/" + e)) for e in entries)


def own_memory(pid):
    """Kilobytes that are this process's own; what it maps of the network is counted with the arena."""
    try:
        with open("/proc/%d/status" % pid) as f:
            return int(re.search(r"^RssAnon:\s+(\d+)", f.read(), re.M)[1])
    except (OSError, TypeError):
        return 0


class Tree:
    """One program of a service and whoever it started."""

    def __init__(self, role, program, kinds, folder):
        """kinds: (kind, expression for the command line) of its descendants; the first that fits counts. An orphan that nobody
        saw before is the program's by his session or by his mounts, or because he works below the folder."""
        self.role, self.program, self.folder = role, program, folder
        self.kinds = [(kind, re.compile(expression)) for kind, expression in kinds]
        self.seen = set()
        self.mounts = None  # of its own, if it has such

    def members(self):
        """(process, kind) of all that live."""
        children = all_children()
        started = {p.pid for p in self.program.world.programs}
        if self.program.running():
            self.mounts = link(self.program.pid, "ns/mnt")
        orphans = [p for p in children.get(os.getpid(), []) if p.pid not in started and self.left(p.pid)]
        found = []
        for p in below(Process(os.getpid(), 0), children)[1:]:
            if p in self.seen or p in orphans or (p.pid == self.program.pid and self.program.running()):
                found += [q for q in below(p, children) if q not in found]
        self.seen = set(found)
        return [(p, self.kind_of(p.pid)) for p in found]

    def left(self, pid):
        if session(pid) == self.program.pid:
            return True
        if self.mounts != link("self", "ns/mnt"):
            return self.mounts == link(pid, "ns/mnt")
        return session(pid) == pid and (link(pid, "cwd") + "/").startswith(self.folder + "/")

    def kind_of(self, pid):
        if pid == self.program.pid:
            return self.role
        text = title(pid)
        for kind, expression in self.kinds:
            if expression.search(text):
                return kind
        return self.role + " child"

    def kill_all(self, rng):
        """In any order, until nobody is left: as a service manager ends what belongs to a service."""
        def gone():
            processes = [p for p, _ in self.members()]
            rng.shuffle(processes)
            for p in processes:
                kill(p)
            return not processes
        wait_until("all processes of %s have ended" % self.role, gone)
        self.program.wait()


def kill(process, sig=signal.SIGKILL):
    try:
        os.kill(process.pid, sig)
        return True
    except ProcessLookupError:
        return False
