#!/usr/bin/env python3
"""OpenSSH (see sshd.py): sessions, what they forward, the daemon, deaths."""
import contextlib, os, signal, subprocess, time

from sshd import *


@guest
def peer(port, line):
    """Somebody who says one line, and reads until the end."""
    with socket.create_connection((LOOPBACK, int(port))) as s:
        print(s.recv(8).decode(), flush=True)
        s.sendall(line.encode() + b"\r\n")
        try:
            while s.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
    print("the end", flush=True)


def before_login(w, s):
    """A connection with a confined process on the other side."""
    c = w.guest(peer, s.port, "SSH-2.0-test", shim=s.shim)
    c.until("SSH-2.0")
    wait_until("the confined process", lambda: s.sessions(r"\[net\]"))
    return c


# --- commands ------------------------------------------------------------------------------------------------

@case
@with_sshd
def commands(w, s):
    """sshd, ssh: a command's output, errors, exit code, input, environment; as root and as a user"""
    said = []
    for user in ("root", USER):
        p = s.client("there", "id -un; pwd; echo bad >&2; exit 7", user=user)
        said += [user, p.wait(), s.hidden(p.text()), p.err()]
        data = contents(user, 5 << 20)
        p = s.client("there", "cat", user=user, stdin=data).ok()
        same("5 MB through cat", sha(data), sha(p.out()))
        p = s.client("there", "kill -9 $$", user=user)
        # The client's port differs; LD_PRELOAD and SOCKSHIM_* must not be there.
        said += [p.wait(), sorted(re.sub(r"(?<=%s )\d+" % LOOPBACK, "N", s.hidden(line), 1)
                                  for line in s.run("false || env", user=user).splitlines())]
    return said


@case
def kept(w):
    """sshd, nc: with SOCKSHIM_KEEP_ENV=2, what a session runs is in the daemon's network, for all that sshd throws away"""
    if NATIVE:
        raise Skip("asks of the shim alone")
    with Ssh(w, True, env={"SOCKSHIM_KEEP_ENV": "2"}) as s:
        for user in ("root", USER):
            port = w.port()
            p = s.client("there", "%s -N -l %s %d" % (need("nc"), LOOPBACK, port), user=user)
            w.settle(lambda: w.start(need("nc"), "-v", "-N", LOOPBACK, port, stdin=b"to %s\n" % user.encode()), "the session's nc listens")
            same("what came", "to %s\n" % user, p.ok().text())
            w.ours(port, True)


@case
@with_sshd
def refused(w, s):
    """sshd, ssh: somebody without the right key, somebody without an account, a peer that speaks no ssh"""
    with open(s.config(USER)) as f:
        other = w.file("other", f.read().replace("user_key", "host_key").encode())
    p = s.client("-F", other, "-o", "BatchMode=yes", "there", "id")
    q = s.client("-l", "noone", "-o", "BatchMode=yes", "there", "id")
    r = w.guest(peer, s.port, "GET / HTTP/1.0", shim=s.shim).ok()
    return p.wait(), p.err(), q.wait(), q.err(), r.text()


@case
@with_sshd
def terminal(w, s):
    """sshd, ssh: a session with a terminal: size, job control, hang-up"""
    p = s.client("-tt", "there", "tty | sed 's/[0-9]*$//'; stty -echo; echo ready; read a; echo got $a; exit 3",
                 stdin=subprocess.PIPE)
    p.until("ready")
    p.write("line\n")
    status = p.wait()
    # A shell, told by ^C and ^D.
    q = s.client("-tt", "there", stdin=subprocess.PIPE)
    q.write("PS1=; echo 'at'' work'; sleep 1000\n")
    q.until("at work")
    wait_until("it sleeps", lambda: s.sessions("^sleep 1000"))
    q.write("\x03")
    wait_until("it does not any more", lambda: not s.sessions("^sleep 1000"))
    q.write("exit 4\n")
    return status, p.text(), q.wait()


@case
@with_sshd
def many(w, s):
    """sshd, ssh: eight sessions at once, 1 MB through each"""
    clients = []
    for i in range(8):
        data = contents(i, 1 << 20)
        clients.append((data, s.client("there", "cat", user=(USER, "root")[i % 2], stdin=data)))
    for data, p in clients:
        p.ok()
        same("what came back", sha(data), sha(p.out()))
    return len(clients)


@case
@with_sshd
def jump(w, s):
    """sshd, ssh, nc: a session through a session (ProxyJump), and through ProxyCommand with nc"""
    said = [s.run("echo $USER", user="root")]
    p = s.client("-J", "%s@one" % USER, "there", "id -un; exit 9", user="root")
    said += [p.wait(), p.text()]
    data = contents("jump", 4 << 20)
    p = s.client("-J", "root@one,%s@two" % USER, "there", "cat", stdin=data).ok()
    same("4 MB through three", sha(data), sha(p.out()))
    p = s.client("-o", "ProxyCommand=%s -N %%h %%p" % need("nc"), "there", "id -un").ok()
    return said + [p.text()]


# --- the daemon --------------------------------------------------------------------------------------------------

@case
@with_sshd
def reload(w, s):
    """sshd, ssh: SIGHUP: a new image of the daemon on the same port; who was there stays, who comes is served"""
    p = s.client("there", "echo here; read a; echo $a", stdin=subprocess.PIPE)
    p.until("here")
    for _ in range(3):
        os.unlink(w.path("sshd-%d.pid" % s.port))
        os.kill(s.pid, signal.SIGHUP)
        wait_until("it has begun anew", s.read_pid)
        same("whom it serves", USER + "\n", s.run("id -un"))
    p.write("still here\n")
    p.ok()
    os.kill(s.pid, signal.SIGTERM)
    return p.text(), s.daemon.wait()


@case
def in_the_background(w):
    """sshd, ssh: sshd as it starts by itself, without a terminal and with an empty environment"""
    def scenario(w, shim):
        with Ssh(w, shim, background=True) as s:
            s.daemon.ok()
            said = s.run("id -un"), s.run("id -un", user="root")
            w.ours(s.port, shim)
            return said
    both_worlds(scenario)(w)


# --- deaths ---------------------------------------------------------------------------------------------------------

@case
@with_sshd
def killed(w, s):
    """sshd, ssh: SIGKILL of each process of a session, of the client, of the daemon: what the others see, and no rest"""
    said = []
    idle = len(s.processes())

    def session():
        p = s.client("there", "echo here; sleep 1000", user=USER)
        p.until("here")
        return p
    for victims in ([r"^sshd: %s@notty" % USER, "^sleep 1000"], [r"^sshd: %s \[priv\]" % USER, "^sleep 1000"], ["^sleep 1000"]):
        p = session()
        for victim in victims:  # the session goes on without its monitor
            for pid in wait_until("there is one", lambda: s.sessions(victim)):
                os.kill(pid, signal.SIGKILL)
        said.append((victims, p.wait(), re.sub(r"port \d+", "port N", s.hidden(p.err()))))
    p = session()
    p.kill()
    p.wait()
    wait_until("sshd has seen the client's end", lambda: not s.sessions("^sshd: %s" % USER))
    for pid in s.sessions("^sleep 1000"):  # it has no terminal whose end would tell it
        os.kill(pid, signal.SIGKILL)
    # Before anybody has logged in: the confined process, its monitor, its client.
    unknown = r"\[net\]|\[accepted\]"
    c = before_login(w, s)
    os.kill(s.sessions(r"\[net\]")[0], signal.SIGKILL)
    said.append((c.wait(), c.text()))
    wait_until("the monitor has ended", lambda: not s.sessions(unknown))
    c = before_login(w, s)
    os.kill(s.sessions(r"\[accepted\]")[0], signal.SIGKILL)
    check(s.sessions(r"\[net\]") and c.running(), "the confined process does not notice its monitor's end")
    c.kill()
    wait_until("but its client's", lambda: not s.sessions(unknown))
    c = before_login(w, s)
    c.kill()
    wait_until("both see their client's end", lambda: not s.sessions(unknown))
    wait_until("nothing is left of it all", lambda: len(s.processes()) == idle)
    p = session()
    os.kill(s.pid, signal.SIGKILL)
    s.daemon.wait()
    said.append(s.client("there", "id").wait())
    check(p.running(), "the session outlives the daemon")
    p.kill()
    p.wait()
    return said


@case
def left_alone(w):
    """sshd, ssh: a confined process whose monitor and daemon are gone, then its client, with nobody else in the network"""
    def scenario(w, shim):
        with Ssh(w, shim) as s:
            c = before_login(w, s)
            confined = s.sessions(r"\[net\]")[0]
            for pid in s.sessions(r"\[accepted\]") + [s.pid]:
                os.kill(pid, signal.SIGKILL)
            s.daemon.wait()
            time.sleep(1)
            check(c.running() and s.sessions(r"\[net\]") == [confined], "it waits for its client")
            c.kill()
            c.wait()
            wait_until("it sees its client's end", lambda: not s.title(confined))
            return c.text()
    both_worlds(scenario)(w)

if __name__ == "__main__":
    main()
