"""Daemons of Debian's packages with their own clients: natively and under the shim, with the same answers."""
import os, random, shutil, socket, struct, threading, time

from harness import *
from servers import BIG, LINES, Haproxy, certificate, web_client, www

MANY = 2000


def tree_sha(top):
    """One hash of all names and contents below a directory."""
    h = hashlib.sha256()
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(f for f in folders if f != ".git")
        for name in sorted(files):
            path = os.path.join(folder, name)
            h.update(("%s %s\n" % (os.path.relpath(path, top), file_sha(path))).encode())
    return h.hexdigest()


# --- redis ----------------------------------------------------------------------------------------------

@case
@both_worlds
def redis(w, shim):
    """redis-server, redis-cli, redis-benchmark: 16 requests at a time over 20 connections, I/O threads, a replica"""
    server, cli, bench = need("redis-server", "redis-cli", "redis-benchmark")
    port, second = w.port(), w.port()
    common = ["--bind", LOOPBACK, "--save", "", "--dir", w.work, "--enable-debug-command", "yes",
              "--repl-diskless-sync-delay", "0"]
    w.start(server, "--port", port, "--io-threads", 2, *common, shim=shim).until("Ready to accept connections")

    def ask(to, *args, **how):
        return w.start(cli, "-h", LOOPBACK, "-p", to, *args, shim=shim, **how).ok().text()
    bench = w.start(bench, "-h", LOOPBACK, "-p", port, "-P", 16, "-n", 8000, "-c", 20, "-t", "set,get,lpush,mset",
                    "--csv", shim=shim).ok()
    check(len(bench.text().splitlines()) == 5 and not bench.err(), "four kinds of requests, 8,000 of each")
    pipe = b"".join(b"set key:%d %s\r\n" % (i, b"v" * (1 + i % 700)) for i in range(5000))
    check("errors: 0, replies: 5000" in ask(port, "--pipe", stdin=pipe), "5,000 keys")
    replica = w.start(server, "--port", second, "--replicaof", LOOPBACK, port, *common, shim=shim)
    replica.until("MASTER <-> REPLICA sync: Finished")
    same("while it follows", "OK\n", ask(port, "set", "later", "x" * 100000))
    wait_until("the replica has the latest", lambda: len(ask(second, "get", "later")) == 100001)
    same("digests of master and replica", ask(port, "debug", "digest"), ask(second, "debug", "digest"))
    same("keys", ask(port, "dbsize"), ask(second, "dbsize"))
    w.ours(port, shim)
    w.ours(second, shim)
    return ask(second, "dbsize"), sha(ask(second, "get", "key:4999").encode())


# --- memcached --------------------------------------------------------------------------------------------

@guest
def memcached_client(port):
    """Sets and gets over TCP by six threads, then gets over UDP."""
    def lines(number, found):
        with socket.create_connection((LOOPBACK, int(port))) as s:
            stream = s.makefile("rwb")
            for i in range(200):
                value = bytes([65 + (number + i) % 26]) * (1 + i * 37)
                stream.write(b"set k%d.%d 0 0 %d\r\n%s\r\nget k%d.%d\r\n" % (number, i, len(value), value, number, i))
                stream.flush()
                answer = [stream.readline() for _ in range(4)]
                assert answer[2] == value + b"\r\n" and answer[3] == b"END\r\n", answer
                found[number] += sha(b"".join(answer))[:2]
            # A value that does not fit any socket buffer at once.
            value = random.Random(number).randbytes(1000000)
            stream.write(b"set big%d 0 0 %d\r\n%s\r\nget big%d\r\n" % (number, len(value), value, number))
            stream.flush()
            answer = [stream.readline(), stream.readline(), stream.read(len(value) + 7)]
            assert answer[2] == value + b"\r\nEND\r\n"
    found = [""] * 6
    threads = [threading.Thread(target=lines, args=(n, found)) for n in range(6)]
    [t.start() for t in threads]
    [t.join(PATIENCE) for t in threads]
    print(sha("".join(found).encode()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect((LOOPBACK, int(port)))
        for i in range(40):
            s.send(struct.pack("!HHHH", i, 0, 1, 0) + b"get k3.%d\r\n" % i)
            parts, total = {}, 1
            while len(parts) < total:
                answer = s.recv(2000)
                request, number, total, _ = struct.unpack("!HHHH", answer[:8])
                assert request == i
                parts[number] = answer[8:]
            print(sha(b"".join(parts[n] for n in range(total))))


@case
@both_worlds
def memcached(w, shim):
    """memcached: four threads, text protocol over TCP (six connections at once) and over UDP"""
    port = w.port()
    server = w.start(need("memcached"), "-u", "root", "-l", LOOPBACK, "-p", port, "-U", port, "-t", 4, "-vv", shim=shim)
    server.until(r"server listening \(udp\)")
    answers = w.guest(memcached_client, port, shim=shim).ok().text()
    w.ours(port, shim)
    return answers


# --- haproxy ----------------------------------------------------------------------------------------------

@case
@both_worlds
def haproxy(w, shim):
    """haproxy: before two web servers, health checks, reloaded twice (-sf, listeners passed by -x) without a lost request"""
    port, one, two = w.port(), w.port(), w.port()
    for p, text in ((one, "one\n"), (two, "two\n")):
        www(w, p, text, shim)
    proxy = Haproxy(w, port, one, two, shim)
    stop = w.path("stop-%d" % port)
    clients = [w.guest(web_client, port, stop, "who", "larger", module=__file__, shim=shim) for _ in range(2)]
    for _ in range(2):
        time.sleep(0.3)
        proxy.reload()
    open(stop, "w").close()
    seen = [c.ok().text() for c in clients]
    for p in (port, one, two):
        w.ours(p, shim)
    return seen


# --- dnsmasq ------------------------------------------------------------------------------------------------

@case
@both_worlds
def dnsmasq(w, shim):
    """dnsmasq, dig: a hosts file, over UDP and TCP, names and addresses, one that is not there, a long answer"""
    server, dig = need("dnsmasq", "dig")
    port = w.port()
    hosts = w.file("hosts", b"192.0.2.7 seven.test\n192.0.2.8 eight.test other.test\n")
    many = ["--txt-record=long.test,%s" % ("%02d" % i + "x" * 200) for i in range(12)]
    w.start(server, "-k", "--user=root", "--port=%d" % port, "--listen-address=" + LOOPBACK, "--bind-interfaces",
            "--no-resolv", "--no-hosts", "--addn-hosts=" + hosts, "--conf-file=/dev/null", "--pid-file=",
            "--log-facility=-", "--local=/test/", *many, shim=shim, name="dnsmasq").until("read .*hosts")
    answers = []
    for how in ("+notcp", "+tcp"):
        for question in (["seven.test"], ["other.test"], ["-x", "192.0.2.8"], ["nothing.test"], ["long.test", "TXT"]):
            p = w.start(dig, "@" + LOOPBACK, "-p", port, how, "+tries=1", "+timeout=20", "+noall", "+answer",
                        "+comments", *question, shim=shim).ok()
            lines = [re.sub(r"id: \d+", "", l) for l in p.text().splitlines() if "cookie" not in l.lower()]
            answers.append((how, sorted(l for l in lines if l)))
    w.ours(port, shim)
    return answers


# --- rsync ----------------------------------------------------------------------------------------------------

@case
@both_worlds
def rsync(w, shim):
    """rsync: a daemon; 2,000 files there and back, one of 100 MB, then changes only, --checksum and --delete"""
    program, port = need("rsync"), w.port()
    source, stored, back = (w.path("%s-%d" % (n, port)) for n in ("source", "stored", "back"))
    os.makedirs(stored)
    r = random.Random(7)
    for i in range(MANY):
        folder = os.path.join(source, "d%d" % (i % 20))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "f%d" % i), "wb") as f:
            f.write(r.randbytes(r.randrange(4000)))
    big = os.path.join(source, "big")
    with open(big, "wb") as f:
        for _ in range(BIG >> 20):
            f.write(r.randbytes(1 << 20))
    config = w.file("rsyncd-%d.conf" % port, ("use chroot = no\nuid = %d\ngid = %d\npid file = %s\n[m]\npath = %s\n"
                    "read only = no\n" % (os.getuid(), os.getgid(), w.path("pid-%d" % port), stored)).encode())
    w.start(program, "--daemon", "--no-detach", "--config=" + config, "--address=" + LOOPBACK, "--port=%d" % port,
            "--log-file=/dev/stderr", shim=shim, name="rsyncd").until("starting")
    url = "rsync://%s:%d/m/" % (LOOPBACK, port)

    def copy(*args):
        w.start(program, "-a", "-W", *args, shim=shim).ok()
    copy(source + "/", url)
    with open(big, "r+b") as f:
        f.seek(BIG // 2)
        f.write(b"changed")
    os.unlink(os.path.join(source, "d3", "f3"))
    copy("--no-W", "--checksum", "--delete", source + "/", url)
    copy("--checksum", url, back)
    shas = [tree_sha(t) for t in (source, stored, back)]
    same("source, stored and back", [shas[0]] * 2, shas[1:])
    w.ours(port, shim)
    for t in (source, stored, back):
        shutil.rmtree(t)
    return shas[0]


# --- git ------------------------------------------------------------------------------------------------------

@case
@both_worlds
def git(w, shim):
    """git: git daemon, clone, push, fetch"""
    program, port = need("git"), w.port()
    base, first, second = (w.path("%s-%d" % (n, port)) for n in ("base", "first", "second"))
    env = {"HOME": w.work, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        env.update({"GIT_%s_NAME" % who: "T", "GIT_%s_EMAIL" % who: "t@localhost", "GIT_%s_DATE" % who: "1700000000 +0000"})

    def run(*args, where=w.work):
        return w.start(program, "-C", where, *args, shim=shim, env=env).ok().text()
    run("init", "-q", "--bare", "-b", "main", base + "/r.git")
    w.start(program, "daemon", "--reuseaddr", "--listen=" + LOOPBACK, "--port=%d" % port, "--base-path=" + base,
            "--export-all", "--enable=receive-pack", "--verbose", shim=shim, env=env,
            name="git-daemon").until("Ready to rumble")
    url = "git://%s:%d/r.git" % (LOOPBACK, port)
    run("clone", "-q", url, first)
    r = random.Random(3)
    for i in range(200):
        with open(os.path.join(first, "f%d" % i), "wb") as f:
            f.write(r.randbytes(20000))
    run("checkout", "-q", "-B", "main", where=first)
    run("add", ".", where=first)
    run("commit", "-q", "-m", "files", where=first)
    run("push", "-q", "origin", "main", where=first)
    run("clone", "-q", url, second)
    with open(os.path.join(first, "more"), "wb") as f:
        f.write(b"more\n")
    run("add", ".", where=first)
    run("commit", "-q", "-m", "more", where=first)
    run("push", "-q", "origin", "main", where=first)
    run("pull", "-q", where=second)
    run("fsck", "--full", where=second)
    same("the trees", tree_sha(first), tree_sha(second))
    w.ours(port, shim)
    return run("rev-parse", "HEAD", where=second)


# --- tcpserver --------------------------------------------------------------------------------------------------

@case
@both_worlds
def tcpserver(w, shim):
    """tcpserver: a child with our socket as its descriptors 0 and 1 for each of ten clients, at most four at once"""
    program, port = need("tcpserver"), w.port()
    w.start(program, "-v", "-H", "-R", "-l", "0", "-c", "4", LOOPBACK, port, "sh", "-c",
            "echo $PROTO $TCPLOCALIP $TCPREMOTEIP; tr a-z A-Z; echo end", shim=shim).until("status: 0/4")
    clients = [w.start(need("nc"), "-N", LOOPBACK, port, stdin=b"client %d\n" % i + LINES, shim=shim) for i in range(10)]
    answers = [sha(c.ok().out()) for c in clients]
    same("the first", "TCP 127.0.0.1 127.0.0.1\nCLIENT 0\n" + LINES.decode().upper() + "end\n", clients[0].text())
    w.ours(port, shim)
    return answers


# --- stunnel ----------------------------------------------------------------------------------------------------

@case
@both_worlds
def stunnel(w, shim):
    """stunnel: a client's and a server's end before a web server, TLS between them, 8 transfers at once with curl"""
    program, curl = need("stunnel", "curl")
    web, secure, plain = w.port(), w.port(), w.port()
    www(w, web, "behind stunnel\n", shim)
    crt, key = certificate(w)
    for name, lines in (("server", ["cert = " + crt, "key = " + key, "[s]", "accept = %s:%d" % (LOOPBACK, secure),
                                    "connect = %s:%d" % (LOOPBACK, web)]),
                        ("client", ["client = yes", "[c]", "accept = %s:%d" % (LOOPBACK, plain), "verifyPeer = yes",
                                    "CAfile = " + crt, "connect = %s:%d" % (LOOPBACK, secure)])):
        config = w.file("stunnel-%s-%d" % (name, web), "\n".join(["foreground = yes", "pid ="] + lines + [""]).encode())
        w.start(program, config, shim=shim, name="stunnel-" + name).until("Configuration successful")
    got = [w.start(curl, "-sS", "--max-time", PATIENCE, "http://%s:%d/larger" % (LOOPBACK, plain), shim=shim)
           for _ in range(8)]
    answers = [sha(c.ok().out()) for c in got]
    for port in (web, secure, plain):
        w.ours(port, shim)
    return answers


# --- vsftpd -----------------------------------------------------------------------------------------------------

@case
@both_worlds
def vsftpd(w, shim):
    """vsftpd: as root, with its limit on address space, jail and sandbox; curl lists, gets and puts, lftp mirrors (4 connections)"""
    if os.geteuid():
        raise Skip("not root")
    server, curl, lftp, port = need("vsftpd"), need("curl"), need("lftp"), w.port()
    top, jail = w.path("ftp-%d" % port), w.path("jail")
    os.chmod(w.work, 0o711)
    for folder, mode in ((top, 0o755), (top + "/many", 0o755), (top + "/in", 0o733), (jail, 0o755)):
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, mode)
    for i in range(30):
        w.file("ftp-%d/many/%d" % (port, i), bytes([i]) * (i * 4001))
    big = w.file("ftp-%d/big" % port, random.Random(21).randbytes(BIG))
    config = w.file("vsftpd.conf", ("""listen=YES
listen_ipv6=NO
listen_address=%s
listen_port=%d
background=NO
anonymous_enable=YES
write_enable=YES
anon_upload_enable=YES
anon_root=%s
secure_chroot_dir=%s
""" % (LOOPBACK, port, top, jail)).encode())
    w.start(server, config, shim=shim)
    url = "ftp://%s:%d/" % (LOOPBACK, port)

    def fetch(*args):
        return w.start(curl, "-sS", "--max-time", PATIENCE, *args, shim=shim)
    names = w.settle(lambda: fetch("-l", url), "vsftpd answers").text()
    same("the file that curl got", file_sha(big), sha(fetch(url + "big").ok().out()))
    fetch("-T", big, url + "in/new").ok()
    same("the file that curl put", file_sha(big), file_sha(top + "/in/new"))
    copy = w.path("copy-%d" % port)
    w.run(lftp, "-e", "set net:max-retries 2; mirror --parallel=4 many %s; exit" % copy, url, env={"HOME": w.work}, shim=shim)
    same("the tree that lftp got", tree_sha(top + "/many"), tree_sha(copy))
    w.ours(port, shim)
    return names, sha(fetch(url + "big", "-r", "1000-").ok().out()), fetch(url + "none").wait()


if __name__ == "__main__":
    main()
