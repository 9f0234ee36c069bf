"""A service under load, its processes killed, restarted as a service manager would: `Site` is one service with its clients,
`cells` what its network's arena holds, seen by nobody of the network."""
import contextlib, glob, json, os, re, signal, subprocess, threading, time

from crash import tool
from harness import NATIVE, PATIENCE, Failure, say, wait_until
from load import load, looks_after
from tree import Process, Tree, alive, descriptors, kill, own_memory, reap_orphans

IN_USE = re.compile(r"in use|EADDRINUSE", re.I)
# Descriptors and cells that a process may keep for its next use (core/net/carrier.cc, doorbell.cc).
KEPT_CARRIERS, KEPT_BELLS, KEPT_WAITERS = 8, 32, 128


# --- the arena -------------------------------------------------------------------------------------------------------

def arenas(net):
    """Of the networks below the folder: one user's (Service.net) or all."""
    return glob.glob(os.path.join(net, "**", "arena"), recursive=True)


def arena_bytes(net):
    """Memory of the arenas' files; it is never given back."""
    return sum(os.stat(a).st_blocks * 512 for a in arenas(net))


def cells(net):
    """Region to cells in use in all networks below `net`; "process" to processes."""
    if NATIVE:
        return {}
    found = {}
    for a in arenas(net):
        text = subprocess.run([tool("arena_cells"), a], check=True, capture_output=True, text=True).stdout
        for name, used in re.findall(r"^(\S+) (\d+) \d+$", text, re.M):
            found[name] = found.get(name, 0) + int(used)
    # A ring's extent grows with what goes through; that there are no more of them is what counts.
    found["extent"] = sum(found.pop(n) for n in list(found) if n.startswith("extent-"))
    return found


def growth(before, now, but=()):
    allowed = {"waiter": KEPT_WAITERS * before.get("process", 0)}
    return {n: "%d, was %d" % (now[n], before.get(n, 0)) for n in now
            if n not in but and now[n] > before.get(n, 0) + allowed.get(n, 0)}


def settled(net):
    """What the arena holds when that has not changed for some looks."""
    looks = []

    def calm():
        looks.append(cells(net))
        time.sleep(0.05)
        return len(looks) > 8 and all(look == looks[-1] for look in looks[-8:]) and looks[-1]
    return wait_until("the arena's use is steady", calm) if not NATIVE else {}


def back_to(net, baseline, what, but=("timewait_sock",), seconds=None):
    """Nothing of the arena is more than it was. (A connection that ended well is in TIME_WAIT for a minute.)"""
    try:
        wait_until("", lambda: not growth(baseline, cells(net), but), seconds)
    except Failure:
        raise Failure("the arena has grown (%s): %s" % (what, growth(baseline, cells(net), but)))


def print_cells(net):
    """For whoever looks for what went wrong."""
    for a in arenas(net):
        text = subprocess.run([tool("arena_cells"), a, "--list"], capture_output=True, text=True).stdout
        print("\n".join([line for line in text.splitlines() if "timewait_sock" not in line][:200]), flush=True)


# --- a service under load -----------------------------------------------------------------------------------------

class Clients:
    """A load process (load.py) and what it has said."""

    def __init__(self, service, tools):
        self.service, self.w = service, service.w
        self.loads = json.dumps(service.loads() + (service.tools() if tools else []))
        self.going = False
        self.exchanges = 0  # of those that were killed
        self.last = None
        self.start()

    def command(self, what):
        self.going = what == "go"
        return self.ask(what)

    def start(self):
        self.launch()
        self.output = open(self.program.out_path)
        self.line = ""
        wait_until("a client is ready", lambda: self.answer() == "ready")
        self.ask("go" if self.going else "pause")

    def launch(self, env=None):
        self.program = self.w.guest(load, self.loads, stdin=subprocess.PIPE, name="load", prefix=self.service.as_user(),
                                    cwd=self.service.top, env=env)
        self.tree = Tree("client", self.program, (), self.service.top)

    def dies_at_step(self, env, seconds, rng):
        """Another one in its place for a while."""
        self.tree.kill_all(rng)
        self.launch(env)
        with contextlib.suppress(OSError):
            self.program.write("go\n")
        time.sleep(seconds)
        self.tree.kill_all(rng)

    def replace(self, rng):
        """One that was killed, by another."""
        self.tree.kill_all(rng)
        self.exchanges += sum(self.last["done"])
        self.output.close()
        self.start()

    def answer(self):
        """The next line, None while there is none."""
        self.line += self.output.readline()
        if self.line.endswith("\n"):
            line, self.line = self.line, ""
            return line.rstrip("\n")
        if not self.program.running():
            raise Failure("a client ended with %s: %s" % (self.program.process.returncode, self.program.err()[-1500:]))
        return None

    def ask(self, command):
        self.program.write(command + "\n")
        self.last = json.loads(wait_until("the client answers \"%s\"" % command, self.answer))
        if self.last["wrong"]:
            raise Failure("%s: %s" % (self.service.name(), self.last["wrong"]))
        return self.last

    def total(self):
        return self.exchanges + sum(self.last["done"])


class Site:
    """One service with its clients, under load and watched."""

    enough = 2  # exchanges of each thread that show that it goes on

    def __init__(self, service):
        self.service, self.w = service, service.w
        self.trees = {}
        self.kills = self.restarts = 0
        self.longest = 0, ""  # wait for all clients, and for what
        self.clients = []
        self.rng = None

    def begin(self, rng, tools=False):
        """tools: with unverified load, too."""
        self.rng = rng
        for role in self.service.roles:
            self.start(role)
        self.clients.append(Clients(self.service, tools))

    def start(self, role, env=None):
        self.trees[role] = Tree(role, self.service.start(role, env), self.service.roles[role], self.service.top)

    # --- load ---

    def status(self):
        return [c.ask("status") for c in self.clients]

    def go(self):
        for c in self.clients:
            c.command("go")

    def rest(self):
        """No load: all connections of the clients are closed."""
        for c in self.clients:
            c.command("pause")
        wait_until("the clients of %s rest" % self.service.name(), lambda: all(s["parked"] for s in self.status()))

    def goes_on(self, what):
        """Each thread of the clients makes some more exchanges; programs that have ended meanwhile are restarted."""
        began = time.monotonic()
        self.manage()
        before, restarts = self.status(), self.restarts

        def progress():
            self.manage()
            if self.restarts > restarts + 50:
                raise Failure("%s ends again and again" % self.service.name())
            now = self.status()
            for x, y in zip(now, before):
                if sum(x["done"]) < sum(y["done"]):  # a new one in the place of one that was killed
                    y["done"] = [0] * len(y["done"])
            return all(a >= b + self.enough for x, y in zip(now, before) for a, b in zip(x["done"], y["done"]))
        try:
            wait_until("all clients of %s get answers (%s)" % (self.service.name(), what), progress)
        except Failure as e:
            raise Failure("%s; %s" % (e, [(s["done"], b["done"], s["last"]) for s, b in zip(self.status(), before)]))
        self.longest = max(self.longest, (time.monotonic() - began, what))

    def exchanges(self):
        return sum(c.total() for c in self.clients)

    def interrupted(self):
        return sum(s["interrupted"] for s in self.status())

    # --- processes ---

    def members(self):
        """(process, kind) of the service's processes."""
        return [m for tree in self.trees.values() for m in tree.members()]

    def all_trees(self):
        return [*self.trees.values(), *(c.tree for c in self.clients)]

    def manage(self):
        """As a service manager: a program that has ended is started again when nobody of its processes is left."""
        for role, tree in self.trees.items():
            if not tree.program.running():
                self.end_of(tree)
                self.start(role)
                self.restarts += 1
        for c in self.clients:
            if not c.program.running():
                c.replace(self.rng)
        reap_orphans(self.w.programs)

    def end_of(self, tree):
        """The dead program's other processes go too; and it did not complain of a taken port."""
        tree.kill_all(self.rng)
        said = tree.program.err() + tree.program.text()
        if IN_USE.search(said):
            raise Failure("%s: %s" % (tree.role, said[-1500:]))

    def kill(self, processes):
        """All, as nearly at once as can be. How many there still were."""
        number = sum(kill(p) for p in processes)
        self.kills += number
        wait_until("the killed are dead", lambda: not any(alive(p) for p in processes))
        return number

    def kill_one(self, kind):
        """One process of the kind, as soon as there is one. False: there was none for a while."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            found = [p for p, k in self.members() if k == kind]
            if found and self.kill([self.rng.choice(found)]):
                return True
            self.manage()
        return False

    def kill_some(self):
        """One or several at once, of any kind, seldom all; sometimes a client. What was killed."""
        found = self.members()
        self.rng.shuffle(found)
        many = self.rng.choice((1, 1, 1, 1, 2, 3, len(found)))
        victims = found[:many]
        if self.rng.random() < 0.15:
            c = self.rng.choice(self.clients)
            victims.append((Process(c.program.pid, 0), "client"))
        self.kill([p for p, _ in victims])
        return " ".join(k for _, k in victims)

    def restart(self):
        """Some role is told to end, as a service manager does; `manage` starts it again."""
        role = self.rng.choice(list(self.trees))
        tree = self.trees[role]
        tree.members()
        tree.program.kill(self.service.stop)
        tree.program.wait()
        return "an end of " + role

    def reload(self):
        """Some role reads its configuration anew, if it can."""
        if not self.service.reload:
            return None
        role, sig = self.rng.choice(list(self.service.reload.items()))
        self.trees[role].program.kill(sig)
        return "a reload of " + role

    def kill_client(self):
        self.kill([Process(self.rng.choice(self.clients).program.pid, 0)])
        return "a kill of a client"

    def kill_at_steps(self):
        """Some role is started anew, or a client, so that each of its processes dies at a counted step (crash_point.h)."""
        env = {"SOCKSHIM_KILL_AT": int(10 ** self.rng.uniform(0, 4.3))}
        who = self.rng.choice([*self.trees, *self.clients])
        seconds = self.rng.uniform(0.2, 1.5)
        if who in self.trees:
            self.trees[who].kill_all(self.rng)
            self.start(who, env)
            time.sleep(seconds)
            self.kill([p for p, _ in self.trees[who].members()])
            return "deaths of %s at step %d" % (who, env["SOCKSHIM_KILL_AT"])
        who.program.kill()
        who.program.wait()
        who.dies_at_step(env, seconds, self.rng)
        return "deaths of a client at step %d" % env["SOCKSHIM_KILL_AT"]

    def end(self):
        """Everybody, in any order."""
        for tree in self.all_trees():
            tree.members()
        everybody = [p for t in self.all_trees() for p, _ in t.members()]
        self.rng.shuffle(everybody)
        for p in everybody:
            kill(p)
        for tree in self.all_trees():
            tree.kill_all(self.rng)
        reap_orphans(self.w.programs)

    # --- what must not grow ---

    def descriptors(self):
        return {p: descriptors(p.pid) for tree in self.trees.values() for p, _ in tree.members()}

    def memory(self):
        """Kilobytes of the mains."""
        return {tree.role: own_memory(tree.program.pid) for tree in self.trees.values()}


def no_more_descriptors(before, now):
    more = {p.pid: "%d, was %d" % (n, before[p]) for p, n in now.items() if p in before and n > before[p] + KEPT_CARRIERS + KEPT_BELLS}
    if more:
        raise Failure("descriptors: %s" % more)


def observer(service):
    """A process with a bound socket, for when nobody else is left to look after the dead."""
    p = service.w.guest(looks_after, prefix=service.as_user())
    p.until("ready")
    return p
