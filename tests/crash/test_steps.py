"""SIGKILL at each counted step and at random instructions of clients and servers. After each death the survivors are
examined; at the end, the arena's use."""
from steps import *


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
add_client("sleeper", "sleeper")
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
            if listens(p):
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

        def drive(p, port, what):
            if scenario not in CLIENTS and listens(p):
                said = n.ask(n.caller, "call %d %d" % (port, 2000))
                if said.startswith("WRONG"):
                    raise Failure("%s: the client got %s" % (what, said))
        step_through(n, scenario, drive)
    test.__name__ = "instructions_" + scenario
    test.__doc__ = "a death at any instruction: " + scenario
    case(test)


for _scenario in ("tcp", "udp", "epoll", "serve", "fork"):
    add_instructions(_scenario)


case(leaks)

if __name__ == "__main__":
    main_of_crash_test()
