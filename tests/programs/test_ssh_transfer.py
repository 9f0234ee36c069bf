#!/usr/bin/env python3
"""OpenSSH (see sshd.py): files (scp, sftp, rsync), and forwarding (-L, -R, -D, -W, over a shared connection)."""
import os, shutil, signal, socket, threading

from sshd import *


# --- files ---------------------------------------------------------------------------------------------------

def listing(top):
    found = []
    for folder, folders, files in os.walk(top):
        folders.sort()
        found += [(os.path.relpath(os.path.join(folder, f), top), file_sha(os.path.join(folder, f))) for f in sorted(files)]
    return found


@case
@with_sshd
def scp(w, s):
    """sshd, scp: 50 MB both ways by the sftp protocol, 5 MB by the old one, and a tree"""
    program = need("scp")
    for old, size in (([], BIG), (["-O"], BIG // 10)):
        data = contents("scp", size)
        source, there, back = w.file("source", data), os.path.join(s.home, "there"), w.path("back")
        s.client(*old, source, "there:there", program=program).ok()
        same("%d bytes to there" % size, sha(data), file_sha(there))
        s.client(*old, "there:there", back, program=program).ok()
        same("and back", sha(data), file_sha(back))
        os.unlink(there)
        os.unlink(back)
    top = w.path("tree-%d" % s.port)
    for i in range(40):
        os.makedirs(os.path.join(top, str(i % 7)), exist_ok=True)
        with open(os.path.join(top, str(i % 7), str(i)), "wb") as f:
            f.write(contents(i, i * 1000))
    s.client("-r", "-p", top, "there:tree-%d" % s.port, program=program).ok()
    copy = listing(os.path.join(s.home, "tree-%d" % s.port))
    same("the tree", listing(top), copy)
    p = s.client("there:nothing", w.path("nothing"), program=program)
    return copy, p.wait(), s.hidden(p.err())


@case
@with_sshd
def sftp(w, s):
    """sshd, sftp: a batch: put, get, ls, rename, remove, what is not there"""
    data = contents("sftp", 9 << 20)
    w.file("put-this", data)
    batch = "\n".join(["mkdir d%d", "cd d%d", "put put-this", "rename put-this got", "ls -1", "chmod 600 got",
                       "get got got-%d", "-rm nothing", "rm got", "pwd", "cd ..", "rmdir d%d"]).replace("%d", str(s.port))
    p = s.client("-b", w.file("batch", batch.encode()), "there", program=need("sftp")).ok()
    same("what came back", sha(data), file_sha(w.path("got-%d" % s.port)))
    return s.hidden(p.text()), s.hidden(p.err())


@case
@with_sshd
def rsync(w, s):
    """sshd, ssh, rsync: a tree by rsync over ssh, then what has changed of it, then back"""
    program = need("rsync")
    top = w.path("tree-%d" % s.port)
    for i in range(60):
        os.makedirs(os.path.join(top, str(i % 5)), exist_ok=True)
        with open(os.path.join(top, str(i % 5), str(i)), "wb") as f:
            f.write(contents(i, 1000 + i * 3000))
    shell = "%s -F %s" % (s.ssh, s.config(USER))
    go = lambda *args: w.run(program, "-rtz", "-e", shell, *args, shim=s.shim)
    go(top + "/", "there:copy/")
    same("the tree", listing(top), listing(os.path.join(s.home, "copy")))
    with open(os.path.join(top, "0", "5"), "r+b") as f:
        f.seek(1000)
        f.write(b"changed")
    os.unlink(os.path.join(top, "1", "6"))
    go("--delete", "--checksum", top + "/", "there:copy/")
    same("the changed tree", listing(top), listing(os.path.join(s.home, "copy")))
    go("there:copy/", w.path("again") + "/")
    same("and back", listing(top), listing(w.path("again")))
    shutil.rmtree(w.path("again"))
    found = listing(top)
    shutil.rmtree(os.path.join(s.home, "copy"))
    return found


# --- forwarding ------------------------------------------------------------------------------------------------

@guest
def echo_server(port):
    listener = socket.create_server((LOOPBACK, int(port)))
    print("listening", flush=True)

    def serve(s):
        with s:
            while data := s.recv(1 << 16):
                s.sendall(data)
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()


@guest
def echo_client(port, size, socks_to):
    """Sends so much, expects it back, then the end."""
    data = contents(port + size, int(size))
    with socket.create_connection((LOOPBACK, int(port))) as s:
        if int(socks_to):
            s.sendall(b"\5\1\0")
            assert s.recv(2) == b"\5\0"
            s.sendall(b"\5\1\0\1" + socket.inet_aton(LOOPBACK) + int(socks_to).to_bytes(2, "big"))
            assert s.recv(10)[:2] == b"\5\0"
        sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        sender.start()
        back = b""
        while got := s.recv(1 << 16):
            back += got
        sender.join()
    print(len(back), sha(back) == sha(data))


def target(w, s):
    port = w.port()
    w.guest(echo_server, port, shim=s.shim).until("listening")
    return port


def through(w, s, port, socks_to=0, size=3 << 20):
    """Three connections at once through a forwarded port."""
    clients = [w.guest(echo_client, port, size + i, socks_to, shim=s.shim) for i in range(3)]
    return [c.ok().text() for c in clients]


@case
@with_sshd
def forward_local(w, s):
    """sshd, ssh: -L: three connections at once, 3 MB each, to a server and to nobody; -W"""
    there, nobody, here, here_too = target(w, s), w.port(), w.port(), w.port()
    p = s.client("-N", "-L", "%d:%s:%d" % (here, LOOPBACK, there), "-L", "%d:%s:%d" % (here_too, LOOPBACK, nobody),
                 "-o", "ExitOnForwardFailure=yes", "-v", "there")
    p.until("Entering interactive session")
    said = through(w, s, here)
    c = w.start(need("nc"), LOOPBACK, here_too, shim=s.shim)
    said.append((c.wait(), c.text()))
    data = contents("W", 1 << 20)
    tube = s.client("-W", "%s:%d" % (LOOPBACK, there), "there", stdin=data).ok()
    same("1 MB through -W", sha(data), sha(tube.out()))
    p.kill(signal.SIGTERM)
    said.append(p.wait())
    for port in (there, here):
        w.ours(port, s.shim)
    return said


@case
@with_sshd
def forward_remote(w, s):
    """sshd, ssh: -R: a port that the user's sshd listens on, one that is taken, one that it chooses; gone with the session"""
    here, there = target(w, s), w.port()
    p = s.client("-N", "-R", "%d:%s:%d" % (there, LOOPBACK, here), "-o", "ExitOnForwardFailure=yes", "-v", "there")
    p.until("remote forward success")
    said = through(w, s, there)
    q = s.client("-N", "-R", "%d:%s:%d" % (there, LOOPBACK, here), "-o", "ExitOnForwardFailure=yes", "there")
    said += [q.wait(), s.hidden(q.err()).replace(str(there), "THERE")]
    q = s.client("-N", "-R", "0:%s:%d" % (LOOPBACK, here), "-o", "LogLevel=INFO", "there")
    chosen = int(q.until(r"Allocated port (\d+)").group(1))
    said += through(w, s, chosen)
    p.kill(signal.SIGTERM)
    said.append(p.wait())
    wait_until("nobody listens there any more", lambda: w.start(need("nc"), "-z", LOOPBACK, there, shim=s.shim).wait())
    w.ours(there, s.shim)
    return said


@case
@with_sshd
def forward_dynamic(w, s):
    """sshd, ssh, curl: -D: SOCKS, by a client of our own and by curl"""
    there, socks = target(w, s), w.port()
    p = s.client("-N", "-D", socks, "-v", "there")
    p.until("Entering interactive session")
    said = through(w, s, socks, there)
    page = w.file("page", contents("page", 2 << 20))
    web = w.port()
    w.start(PYTHON, "-m", "http.server", "--bind", LOOPBACK, "--directory", w.work, web, shim=s.shim).until("Serving")
    c = w.run(need("curl"), "-sS", "--socks5", "%s:%d" % (LOOPBACK, socks), "http://%s:%d/page" % (LOOPBACK, web),
              shim=s.shim)
    same("2 MB by curl", file_sha(page), sha(c.out()))
    w.ours(socks, s.shim)
    return said


@case
@with_sshd
def multiplexed(w, s):
    """sshd, ssh: ControlMaster: eight sessions over one connection, a forwarding asked for later, the master's end"""
    path, there, here = w.path("c-%d" % s.port), target(w, s), w.port()
    control = ["-S", path, "there"]
    master = s.client("-M", "-N", *control)
    wait_until("the master listens", lambda: os.path.exists(path))
    said = [s.client("-O", "check", *control).wait()]
    clients = []
    for i in range(8):
        data = contents(i, 700000)
        clients.append((data, s.client(*control, "cat; exit %d" % i, stdin=data)))
    for data, p in clients:
        said.append((p.wait(), sha(p.out()) == sha(data)))
    check(len(s.sessions(r"^sshd: %s \[priv\]" % USER)) == 1, "one connection for all of them")
    said.append(s.client("-O", "forward", "-L", "%d:%s:%d" % (here, LOOPBACK, there), *control).wait())
    said += through(w, s, here)
    said += [s.client("-O", "exit", *control).wait(), master.wait(), os.path.exists(path)]
    return said

if __name__ == "__main__":
    main()
