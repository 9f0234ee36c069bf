"""SIGKILL at each counted step (SOCKSHIM_KILL_AT, in the library built for that) and at random instructions of
clients and servers. After each death the survivors are examined; at the end, the arena's use.

SHIMTEST_CRASH_FULL=1 kills at every step; otherwise at most STEPS of each scenario, at random."""
from crash import *

FULL = os.environ.get("SHIMTEST_CRASH_FULL") == "1"
STEPS = int(os.environ.get("SHIMTEST_CRASH_STEPS", "30"))
INSTRUCTIONS = int(os.environ.get("SHIMTEST_CRASH_INSTRUCTIONS", "5"))


def need_shim():
    if NATIVE:
        raise Skip("only with the shim")
    if not os.path.isfile(CRASH_LIB):
        raise Failure("SOCKSHIM_CRASH_LIB does not name the library with counted steps")


def network(w, env=None):
    need_shim()
    n = Network(w, CRASH_LIB, env=env)
    keep(n)
    return n


def steps_of(attempt):
    """The number of steps that a scenario has: the least n at which it survives. It varies a little."""
    high = 16
    while attempt(high):
        high *= 2
        if high > 1 << 20:
            raise Failure("no end of steps")
    low = high // 2
    while high - low > max(1, high // 32):
        middle = (low + high) // 2
        if attempt(middle):
            low = middle
        else:
            high = middle
    return high


def chosen(total):
    numbers = list(range(1, total + 1))
    if FULL or total <= STEPS:
        return numbers
    return sorted(rng.sample(numbers, STEPS))


def ended_well(p, what):
    """True when it was killed, False when it came to its end."""
    status = p.wait()
    if status == -9:
        return True
    if status:
        raise Failure("%s: the victim ended with %d: %s" % (what, status, p.err()))
    return False


def where(n, k):
    """Where the last victim was killed, as far as gdb can find the step again: for the message of a failure."""
    gdb = shutil.which("gdb")
    argv = n.world.programs[-1].argv
    if not gdb or os.environ.get("SHIMTEST_NO_GDB") or os.path.basename(argv[0]) != "victim":
        return
    port = n.world.port() if argv[1] in ("serve", "unaccepted") else argv[2]
    env = {**os.environ, **n.world.env, "SOCKSHIM_DIR": n.world.net, "LD_PRELOAD": ""}
    commands = ["set debuginfod enabled off", "set breakpoint pending on", "set startup-with-shell off",
                "set env LD_PRELOAD " + CRASH_LIB, "set env SOCKSHIM_KILL_AT %d" % k,
                "break sockshim::crash_point_passed", "ignore 1 %d" % (k - 1), "run", "bt 10", "kill"]
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        text = subprocess.run([gdb, "-q", "-nx", "-batch"] + [a for c in commands for a in ("-ex", c)] +
                              ["--args", argv[0], argv[1], str(port)], env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=20).stdout
        lines = [l for l in text.splitlines() if l.startswith("#")]
        print("  - step %d of %s, in a run under gdb:\n      %s" % (k, argv[1], "\n      ".join(lines)))


def go_through(n, name, attempt):
    """attempt(k, what) runs the scenario with death at step k and says whether it died."""
    tries = []

    def once(k):
        what = "%s, step %d" % (name, k)
        try:
            died = attempt(k, what)
            n.check(what)
        except Failure:
            where(n, k)
            raise
        n.measure(what)
        tries.append(died)
        return died
    total = steps_of(once)
    for k in chosen(total):
        once(k)
    say("%s: %d steps, %d runs, %d deaths; the survivors are well" % (name, total, len(tries), sum(tries)))


# --- b: clients ----------------------------------------------------------------------------------------------------

def add_client(name, scenario, env=None):
    def test(w):
        n = network(w, env)

        def attempt(k, what):
            p = w.start(tool("victim"), scenario, n.port, env={"SOCKSHIM_KILL_AT": k})
            died = ended_well(p, what)
            # A fork child that is still there ends by itself.
            wait_until("all processes of the victim have ended", lambda: not session_of(p.pid))
            return died
        go_through(n, name, attempt)
        n.end_all()
    test.__name__ = "client_" + name
    test.__doc__ = "(b) a client is killed at its counted steps: " + name
    case(test)


add_client("tcp", "tcp")
add_client("reset", "reset")
add_client("flood", "flood")
add_client("udp", "udp")
add_client("fork", "fork")
add_client("dup", "dup")
add_client("epoll", "epoll")
add_client("poll", "poll")
add_client("packets", "tcp", {"SOCKSHIM_FUSE": "0"})
add_client("flip", "tcp", {"SOCKSHIM_FUSE_FLIP": "2"})


# --- b: servers ----------------------------------------------------------------------------------------------------

def add_server(name, scenario, env=None):
    def test(w):
        n = network(w, env)

        def attempt(k, what):
            port = w.port()
            p = w.start(tool("victim"), scenario, port, env={"SOCKSHIM_KILL_AT": k})
            wait_until("it listens or died", lambda: "listening" in p.text() or not p.running())
            if "listening" in p.text():
                said = n.ask(n.caller, "call %d %d" % (port, 20000))
                if said.startswith("WRONG"):
                    raise Failure("%s: the client got %s" % (what, said))
                died = ended_well(p, what)
                if not died and scenario == "serve" and said != "EOF after 20000":
                    raise Failure("%s: the server came to its end and the client got %s" % (what, said))
                return died
            return ended_well(p, what)
        go_through(n, name, attempt)
        n.end_all()
    test.__name__ = "server_" + name
    test.__doc__ = "(b) a server is killed at its counted steps: " + name
    case(test)


add_server("serve", "serve")
add_server("packets", "serve", {"SOCKSHIM_FUSE": "0"})
add_server("unaccepted", "unaccepted")


@case
def first_of_a_network(w):
    """(b) the first process of a network is killed at its counted steps: the next one finds all well"""
    need_shim()
    make_room()
    w.lib = CRASH_LIB
    runs = [0]

    def attempt(k):
        runs[0] += 1
        directory = os.path.join(w.net, str(runs[0]))
        os.mkdir(directory)
        env = {"SOCKSHIM_DIR": directory}
        died = ended_well(w.start(tool("victim"), "first", 0, env={**env, "SOCKSHIM_KILL_AT": k}), "step %d" % k)
        p = w.start(tool("victim"), "first", 0, env=env).ok()
        if p.text() != "fine\n":
            raise Failure("after a death at step %d the next one said %r" % (k, p.text()))
        shutil.rmtree(directory)
        return died
    total = steps_of(attempt)
    deaths = sum(attempt(k) for k in chosen(total))
    say("%d steps, %d deaths" % (total, deaths))


# --- any instruction --------------------------------------------------------------------------------------------------

def add_instructions(scenario):
    def test(w):
        n = network(w)
        server = scenario in ("serve", "unaccepted")

        def attempt(steps):
            what = "%s, instruction %d" % (scenario, steps)
            port = w.port() if server else n.port
            p = w.start(tool("stepkill"), steps, tool("victim"), scenario, port,
                        env={"LD_PRELOAD": None, "VICTIM_PRELOAD": w.lib})
            p.shim = False
            if server:
                wait_until("it listens or died", lambda: "listening" in p.text() or not p.running())
                if "listening" in p.text():
                    said = n.ask(n.caller, "call %d %d" % (port, 2000))
                    if said.startswith("WRONG"):
                        raise Failure("%s: the client got %s" % (what, said))
            status = p.wait()
            if status == 77:
                raise Skip("ptrace is forbidden here")
            last = p.text().splitlines()[-1:]
            if status or not last or not re.match(r"killed|ended 0 after", last[0]):
                raise Failure("%s: status %d, %s %s" % (what, status, p.text(), p.err()))
            n.check(what)
            n.measure(what)
            return last[0]
        whole = attempt(10000000)
        total = int(whole.split()[3])
        deaths = 0
        for _ in range(INSTRUCTIONS):
            deaths += attempt(rng.randrange(1, total)) == "killed"
        say("%s: %d instructions, %d deaths among them; the survivors are well" % (scenario, total, deaths))
        n.end_all()
    test.__name__ = "instructions_" + scenario
    test.__doc__ = "a death at any instruction: " + scenario
    case(test)


for _scenario in ("tcp", "udp", "epoll", "serve", "fork"):
    add_instructions(_scenario)


case(leaks)

if __name__ == "__main__":
    main_of_crash_test()
