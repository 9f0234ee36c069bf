#!/usr/bin/env python3
"""nginx as root, its workers nobody's: what they serve, and that master and workers can be replaced under load."""
import http.client, os, re, signal

from harness import LOOPBACK, PATIENCE, Failure, Skip, case, check, file_sha, guest, main, need, same, say, wait_until

BIG = 100 << 20
# env: what a new binary is to know of the environment, from which nginx takes everything else.
CONFIGURATION = """
user nobody nogroup;
env LD_PRELOAD;
env SOCKSHIM_DIR;
worker_processes 2;
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log info;
events {{ worker_connections 512; {events} }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 60;
    keepalive_requests 100000;
    client_body_temp_path {work}/temp;
    proxy_temp_path {work}/temp;
    fastcgi_temp_path {work}/temp;
    uwsgi_temp_path {work}/temp;
    scgi_temp_path {work}/temp;
    server {{
        listen {address}:{port} {listen};
        root {work}/www;
        location /pid {{ return 200 "$pid\\n"; }}
    }}
}}
"""


class Orphan:
    """A master whose parent goes after nginx has seen it: only then SIGUSR2 counts. It stays in its parent's process group."""

    def __init__(self, w, *argv):
        w.run("/bin/sh", "-c", '"$@" & echo $!; sleep 1', "sh", *argv)
        self.pid = int(w.programs[-1].text())
        self.process = w.programs[-1].process

    def running(self):
        try:
            with open("/proc/%d/stat" % self.pid) as f:
                return f.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def err(self):
        return ""

    def kill(self, sig):
        os.kill(self.pid, sig)


def start(w, port, listen="", events="", size=0, orphan=False):
    """nginx, ready."""
    if os.geteuid():
        raise Skip("not root")
    nginx = need("nginx")
    if not os.path.isdir(w.path("www")):
        os.mkdir(w.path("www"))
    os.chmod(w.work, 0o711)
    w.file("www/small", b"small\n")
    with open(w.path("www/big"), "wb") as f:
        while f.tell() < size:
            f.write(os.urandom(1 << 20))
    w.file("nginx.conf", CONFIGURATION.format(work=w.work, address=LOOPBACK, port=port, listen=listen, events=events).encode())
    argv = nginx, "-c", w.path("nginx.conf")
    master = Orphan(w, *argv) if orphan else w.start(*argv, name="nginx")
    wait_until("nginx has two workers", lambda: gone(w, master) or len(workers(w, master.pid)) == 2)
    return master


def gone(w, master):
    if master.running():
        return False
    with open(w.path("error.log"), errors="replace") as f:
        raise Failure("nginx ended with %d: %s %s" % (master.process.returncode, master.err()[-500:], f.read()[-1500:]))


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(p) for p in f.read().split()]


def title(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def workers(w, master):
    """Those that serve: named so, and nobody's."""
    return [p for p in children(master) if "worker process" in title(p) and "shutting down" not in title(p)
            and uids(p) == {65534}]


def uids(pid):
    """Of all threads, all four kinds."""
    found = set()
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/status" % (pid, task)) as f:
                status = f.read()
            found.update(int(u) for u in re.search(r"^Uid:(.*)", status, re.M).group(1).split())
            if int(re.search(r"^CapEff:\s*(\w+)", status, re.M).group(1), 16):
                found.add("capable")
    except OSError:
        pass
    return found


def fetch(w, port, path="small", *options):
    return w.run(need("curl"), "-sS", "--fail", "--max-time", PATIENCE, *options,
                 "http://%s:%d/%s" % (LOOPBACK, port, path)).out()


def fetch_big(w, port):
    target = w.path("fetched")
    fetch(w, port, "big", "-o", target)
    same("SHA-256 of %d MB" % (BIG >> 20), file_sha(w.path("www/big")), file_sha(target))


def log_is_clean(w):
    with open(w.path("error.log"), errors="replace") as f:
        bad = [l for l in f.read().splitlines() if re.search(r"\[(alert|crit|emerg|error)\]", l)]
    same("alerts and errors in nginx's log", [], bad)


@guest
def requests(port, stop_file):
    """Requests, one connection for many, until the file is there; a connection may end between two of them only."""
    done = reconnected = 0
    c = http.client.HTTPConnection(LOOPBACK, int(port), timeout=PATIENCE)
    while not os.path.exists(stop_file):
        try:
            c.request("GET", "/small")
            answer = c.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            c.close()
            reconnected += 1
            continue
        assert answer.status == 200 and answer.read() == b"small\n"
        done += 1
        if answer.will_close:
            reconnected += 1
        if done == 100:
            print("going", flush=True)
    print("done", done, "reconnected", reconnected)


def under_load(w, port, action):
    clients = [w.guest(requests, port, w.path("stop")) for _ in range(2)]
    for c in clients:
        c.until("going")
    action()
    w.file("stop", b"")
    for c in clients:
        c.ok()
        say(c.text().splitlines()[-1])
    os.unlink(w.path("stop"))


@case
def serves(w):
    """nginx, curl: 100 MB by sendfile, keep-alive, many at once; the workers and all their threads are nobody's"""
    port = w.port()
    master = start(w, port, size=BIG)
    for p in workers(w, master.pid):
        same("users of the threads of worker %d" % p, {65534}, uids(p))
    fetch_big(w, port)
    same("ten requests by one connection", b"small\n" * 10, fetch(w, port, "small?[1-10]"))
    c = w.run(need("curl"), "-sS", "-v", "--max-time", PATIENCE, "http://%s:%d/small?[1-10]" % (LOOPBACK, port))
    check(c.err().count("Re-using existing connection") == 9, "nine of them by the connection of the first")
    pids = {int(fetch(w, port, "pid")) for _ in range(30)}
    check(pids <= set(workers(w, master.pid)), "served by %d of the workers" % len(pids))
    several = [w.start(need("curl"), "-sS", "--max-time", PATIENCE, "-o", w.path("part%d" % i),
                       "http://%s:%d/big" % (LOOPBACK, port)) for i in range(4)]
    for p in several:
        p.ok()
    same("four times the big file at once", {file_sha(w.path("www/big"))}, {file_sha(w.path("part%d" % i)) for i in range(4)})
    w.ours(port)
    master.kill(signal.SIGQUIT)
    same("nginx ends with", 0, master.wait())
    log_is_clean(w)


@case
def reload(w):
    """nginx, curl: SIGHUP under load: new workers, the old ones end when they have answered"""
    port = w.port()
    master = start(w, port)
    former = set(workers(w, master.pid))

    def again():
        nonlocal former
        for _ in range(3):
            master.kill(signal.SIGHUP)
            wait_until("all workers are new", lambda: gone(w, master) or len(workers(w, master.pid)) == 2
                       and not former & set(children(master.pid)))
            former = set(workers(w, master.pid))
    under_load(w, port, again)
    same("a request afterwards", b"small\n", fetch(w, port))
    w.ours(port)
    log_is_clean(w)


@case
def reuseport(w):
    """nginx, curl: a listening socket for each worker: both serve"""
    port = w.port()
    master = start(w, port, listen="reuseport", size=BIG)
    seen = set()
    wait_until("both workers have served", lambda: seen.add(int(fetch(w, port, "pid"))) or len(seen) == 2)
    same("who has served", set(workers(w, master.pid)), seen)
    fetch_big(w, port)
    w.ours(port)
    log_is_clean(w)


@case
def accept_mutex(w):
    """nginx, curl: the workers take turns in accepting, or all take what they can get"""
    for events in ("accept_mutex on;", "accept_mutex on; multi_accept on;", "multi_accept on;"):
        port = w.port()
        master = start(w, port, events=events)
        under_load(w, port, lambda: fetch(w, port, "small?[1-50]"))
        w.ours(port)
        master.kill(signal.SIGTERM)
        same(events + " ends with", 0, master.wait())


@case
def worker_killed(w):
    """nginx, curl: SIGKILL of a worker under load: the master makes another"""
    port = w.port()
    master = start(w, port)

    def kill_one():
        for _ in range(3):
            victim = workers(w, master.pid)[0]
            os.kill(victim, signal.SIGKILL)
            wait_until("there is another", lambda: gone(w, master) or victim not in children(master.pid)
                       and len(workers(w, master.pid)) == 2)
    under_load(w, port, kill_one)
    same("a request afterwards", b"small\n", fetch(w, port))
    w.ours(port)


@case
def upgrade(w):
    """nginx, curl: SIGUSR2, then SIGQUIT of the old master: a new binary goes on with the sockets"""
    port = w.port()
    master = start(w, port, orphan=True)

    def new_master():
        master.kill(signal.SIGUSR2)
        wait_until("there is a new pid file", lambda: gone(w, master) or os.path.exists(w.path("nginx.pid.oldbin"))
                   and os.path.exists(w.path("nginx.pid")))
        new = int(wait_until("the new master's number", lambda: open(w.path("nginx.pid")).read()))
        wait_until("it has two workers", lambda: len(workers(w, new)) == 2)
        master.kill(signal.SIGQUIT)
        wait_until("the old master has ended", lambda: not master.running())
        check(title(new).startswith("nginx: master"), "the new one goes on")
        return new
    news = []
    under_load(w, port, lambda: news.append(new_master()))
    check(int(fetch(w, port, "pid")) in workers(w, news[0]), "served by a worker of the new master")
    w.ours(port)
    os.kill(news[0], signal.SIGQUIT)
    wait_until("the new one has ended", lambda: not title(news[0]))
    log_is_clean(w)


if __name__ == "__main__":
    main()
