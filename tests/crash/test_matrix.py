"""Each server of services.py under load while its processes are killed: each kind in turn, then at random (--rounds N
--minutes M: at least so many rounds and so long, for each server; --steps: at counted steps, too). Nobody hangs, no byte
is wrong, the port can be bound again at once, and the arena and the descriptors of those that lived on are what they were
after the warm-up."""
import argparse, sys, time

from crash import *
from runner import Site, back_to, no_more_descriptors, observer, print_cells, settled
from services import SERVICES
from tree import adopt_orphans

options = argparse.Namespace(rounds=1, minutes=0.0, steps=False)
EACH = 10  # rounds between two looks at the arena


def matrix(service, site):
    site.go()
    site.goes_on("warm-up")
    before = site.interrupted()
    site.goes_on("undisturbed")
    if site.interrupted() != before:
        raise Failure("interrupted without a kill: %s" % [s["last"] for s in site.status()])
    site.rest()
    service.joined()
    site.baseline, site.fds = settled(service.net()), site.descriptors()
    site.go()
    unseen = []
    for kind in service.kinds():
        if site.kill_one(kind):
            site.goes_on("a kill of " + kind)
        else:
            unseen.append(kind)
    site.goes_on(site.kill_client())
    unchanged(site)
    end = time.monotonic() + 60 * options.minutes
    done = 0
    while done < options.rounds or time.monotonic() < end:
        if options.steps and rng.random() < 0.5:
            site.goes_on(site.kill_at_steps())
        killed = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            time.sleep(rng.choice((0, 0.01, 0.1, 0.3)) * rng.random())
            site.manage()
            killed.append(site.kill_some())
        site.goes_on("kills of " + ", ".join(killed))
        done += 1
        if done % EACH == 0:
            unchanged(site)
    unchanged(site)
    say("%d kills, %d restarts, %d exchanges; longest wait %.1f s, after %s%s" % (
        site.kills, site.restarts, site.exchanges(), *site.longest, "; never seen: " + ", ".join(unseen) if unseen else ""))


def unchanged(site):
    site.rest()
    back_to(site.service.net(), site.baseline, "the service rests")
    no_more_descriptors(site.fds, site.descriptors())
    site.go()


def add(service_class):
    def test(w):
        adopt_orphans()
        if options.steps:
            w.lib = CRASH_LIB
        service = service_class(w)
        first = observer(service)
        alone = settled(service.net())
        site = Site(service)
        w.at_close = site.end
        site.begin(rng)
        # From here on the service's own processes and clients look after the network.
        first.kill()
        first.wait()
        try:
            matrix(service, site)
            last = observer(service)
            site.end()
            back_to(service.net(), alone, "all have been killed")
            last.end()
        except Failure:
            print_cells(w.net)
            raise
    test.__name__ = service_class.name()
    test.__doc__ = "%s: %s" % (", ".join(service_class.roles), service_class.__doc__ or "killed under load")
    case(test)


for _service in SERVICES:
    add(_service)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="0")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("services", nargs="*")
    options = parser.parse_args()
    sys.argv[1:] = ["--budget", options.budget, *options.services]
    main()
