"""Many services in one network under load while at random, from a seed, processes are killed, services ended and started again,
told to reload, and clients killed. In the end, without load, memory, descriptors and the arena are what they were after the
warm-up; nothing hung, no byte was wrong. A line a minute.

    scripts/soak [--seconds 3600] [--seed N]"""
import argparse, os, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from crash import *
import harness
from runner import Site, arena_bytes, back_to, cells, no_more_descriptors, observer, settled
from services import Git, Haproxy, Memcached, Nginx, Postgres, Redis, Rsync, Sshd
from tree import adopt_orphans

options = argparse.Namespace(seconds=3600)
# Whether the service's own processes are killed and restarted, or live as long as the test.
SERVICES = [(Nginx, True), (Haproxy, True), (Redis, True), (Postgres, True), (Rsync, True), (Git, True), (Sshd, True),
            (Memcached, False), (Nginx, False)]
OWN_KILOBYTES = 8 << 10  # by which a process may grow
ARENA_BYTES = 64 << 20
TIME_WAIT = 62


class Soak:
    def __init__(self, w):
        self.w = w
        self.services = [(kind(w), mortal) for kind, mortal in SERVICES]
        self.sites, self.mortal = [], []
        self.reloads = 0

    def begin(self):
        for service, mortal in self.services:
            site = Site(service)
            site.enough = 1  # benchmarks take their time
            self.sites.append(site)
            if mortal:
                self.mortal.append(site)
            site.begin(rng, tools=True)

    def all_go_on(self, what):
        for site in self.sites:
            site.goes_on(what)

    def event(self):
        site = rng.choice(self.sites)
        kinds = [site.reload, site.reload, site.kill_client]
        if site in self.mortal:
            kinds += [site.kill_some] * 5 + [site.restart] * 2
        what = rng.choice(kinds)()
        if not what:
            return
        self.reloads += what.startswith("a reload")
        site.goes_on(what)

    def report(self, began):
        total = sum(s.exchanges() for s in self.sites)
        in_use = cells(self.w.net)
        say("%4.0f s: %d kills, %d restarts, %d reloads; %d exchanges; arena: %d socks, %d TIME_WAIT, %d MB; longest wait %.1f s, after %s"
            % (time.monotonic() - began, sum(s.kills for s in self.sites), sum(s.restarts for s in self.sites), self.reloads,
               total, in_use.get("sock", 0), in_use.get("timewait_sock", 0), arena_bytes(self.w.net) >> 20, *max(s.longest for s in self.sites)))
        for s in self.sites:
            s.longest = 0, ""

    def rest(self):
        for site in self.sites:
            site.manage()
            site.rest()

    def measure(self):
        return (settled(self.w.net), [s.descriptors() for s in self.sites], [s.memory() for s in self.sites],
                arena_bytes(self.w.net))

    def run(self, seconds):
        began = time.monotonic()
        for site in self.sites:
            site.go()
        self.all_go_on("warm-up")
        while time.monotonic() < began + min(seconds / 6, 120):
            self.event()
        self.all_go_on("end of the warm-up")
        self.rest()
        before = self.measure()
        for site in self.sites:
            site.go()
        began = time.monotonic()
        minute = began + 60
        while time.monotonic() < began + seconds:
            time.sleep(rng.uniform(0, 1))
            self.event()
            if time.monotonic() > minute:
                self.all_go_on("a minute")
                self.report(began)
                minute += 60
        self.all_go_on("the end")
        self.report(began)
        self.rest()
        self.compare(before)

    def compare(self, before):
        cells_before, descriptors, memory, bytes_before = before
        back_to(self.w.net, cells_before, "without load")
        for site, was in zip(self.sites, descriptors):
            no_more_descriptors(was, site.descriptors())
        for site, was in zip(self.sites, memory):
            for role, now in site.memory().items():
                if now > was[role] + OWN_KILOBYTES:
                    raise Failure("%s of %s: %d KB, it was %d" % (role, site.service.name(), now, was[role]))
                say("%s: %d KB, it was %d" % (role, now, was[role]))
        now = arena_bytes(self.w.net)
        if now > bytes_before + ARENA_BYTES:
            raise Failure("the arena's file: %d KB, it was %d" % (now >> 10, bytes_before >> 10))
        say("the arena's file: %d KB, it was %d; in use: %s" % (now >> 10, bytes_before >> 10, cells(self.w.net)))

    def end(self):
        for site in self.sites:
            site.end()


@case
def soak(w):
    """mixed load with kills, restarts and reloads"""
    if NATIVE:
        raise Skip("only with the shim")
    adopt_orphans()
    s = Soak(w)
    users = {service.user: service for service, _ in s.services}.values()
    first = [observer(service) for service in users]
    alone = settled(w.net)
    w.at_close = s.end
    s.begin()
    for p in first:
        p.kill()
        p.wait()
    s.run(options.seconds)
    last = [observer(service) for service in users]
    s.end()
    # Long enough for TIME_WAIT to be worth a wait?
    whole = options.seconds >= 10 * TIME_WAIT
    back_to(w.net, alone, "all have been killed", but=() if whole else ("timewait_sock",), seconds=TIME_WAIT + PATIENCE)
    say("all have been killed, and the arena is empty")
    for p in last:
        p.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--budget", default="0")
    options = parser.parse_args()
    if options.seed is not None:
        rng.seed(options.seed)
        print("from here on seed %d" % options.seed)
    os.nice(5)
    harness.PATIENCE = max(harness.PATIENCE, 120)  # beside others
    sys.argv[1:] = ["--budget", options.budget]
    main()
