"""Deaths at counted steps (SOCKSHIM_KILL_AT, in the library built for that) and at single instructions: what the scripts
that do so share.

SHIMTEST_CRASH_FULL=1 kills at every step; otherwise at most STEPS of each scenario, at random."""
from crash import *

FULL = os.environ.get("SHIMTEST_CRASH_FULL") == "1"
STEPS = int(os.environ.get("SHIMTEST_CRASH_STEPS", "30"))
INSTRUCTIONS = int(os.environ.get("SHIMTEST_CRASH_INSTRUCTIONS", "5"))


CLIENTS = ("tcp", "reset", "flood", "udp", "fork", "dup", "epoll", "poll")  # scenarios of victim.c that need a server


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
    port = n.world.port() if argv[1] not in CLIENTS else argv[2]
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


def step_through(n, scenario, drive, deaths=INSTRUCTIONS):
    """Deaths at any instruction of the scenario. drive(p, port, what) plays its clients' part."""
    def attempt(steps):
        what = "%s, instruction %d" % (scenario, steps)
        port = n.port if scenario in CLIENTS else n.world.port()
        p = n.world.start(tool("stepkill"), steps, tool("victim"), scenario, port,
                          env={"LD_PRELOAD": None, "VICTIM_PRELOAD": n.world.lib})
        p.shim = False
        drive(p, port, what)
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
    died = sum(attempt(rng.randrange(1, total)) == "killed" for _ in range(deaths))
    say("%s: %d instructions, %d deaths among them; the survivors are well" % (scenario, total, died))
    n.end_all()


def listens(p):
    """Waits until it says so, or has died."""
    wait_until("it listens or died", lambda: "listening" in p.text() or not p.running())
    return "listening" in p.text()
