"""What goes past the preload: rings of io_uring, programs that it cannot enter, environments without it."""
import ctypes, errno, os, shutil, socket, stat, subprocess, sys

from harness import *

LDCONFIG = os.path.realpath("/sbin/ldconfig")  # Debian links it statically


def need_static():
    if not os.access(LDCONFIG, os.X_OK):
        raise Skip("no " + LDCONFIG)
    return LDCONFIG


# --- io_uring ----------------------------------------------------------------------------------------------------

@guest
def setup_ring(when):
    """io_uring_setup as a library calls it that has no libc function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if when == "after":
        keep = socket.socket()
    params = (ctypes.c_uint32 * 30)()
    fd = libc.syscall(425, 4, params)
    print(errno.errorcode[ctypes.get_errno()] if fd < 0 else "a ring")


@case
def io_uring(w):
    """io_uring_setup is ENOSYS, before the first socket too; with SOCKSHIM_IO_URING=1 it is the kernel's"""
    need_shim()
    kernels = w.guest(setup_ring, "before", shim=False).ok().text()
    for when in ("before", "after"):
        same("a ring " + when + " the first socket", "ENOSYS\n", w.guest(setup_ring, when).ok().text())
        for option in ("SOCKSHIM_IO_URING", "SOCKSHIM_DISABLE"):
            same("with %s=1" % option, kernels, w.guest(setup_ring, when, env={option: "1"}).ok().text())


@case
def catch_cannot(w):
    """SOCKSHIM_CATCH=1 where it cannot be had: one notice, and everything goes on; QUIET and DISABLE: not a word"""
    need_shim()
    loader = next((l for l in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(l)), None)
    if not loader:
        raise Skip("no loader")
    for env, words in (({}, 1), ({"SOCKSHIM_QUIET": "1"}, 0), ({"SOCKSHIM_DISABLE": "1"}, 0)):
        p = w.start(loader, "/bin/echo", "hello", env={"SOCKSHIM_CATCH": "1"} | env)
        p.may_say = True
        same("with %s" % env, ("hello\n", words), (p.ok().text(), p.err().count("sockshim: SOCKSHIM_CATCH: nothing")))


# --- programs that the preload cannot enter -----------------------------------------------------------------------

@guest
def execute(how, *argv):
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} if how.endswith("without us") else os.environ
    how = how.split()[0]
    try:
        if how == "exec":
            os.execve(argv[0], argv, env)
        if how == "path":
            os.execvpe(os.path.basename(argv[0]), argv, dict(env, PATH="/none:" + os.path.dirname(argv[0])))
        if how == "fd":
            os.execve(os.open(argv[0], os.O_RDONLY), argv, env)
        if how == "fork":
            if os.fork() == 0:
                os.execve(argv[0], argv, env)
            os.wait()
        if how == "vfork":
            subprocess.run(argv, env=env, preexec_fn=None, close_fds=True)
        if how == "spawn":
            os.waitpid(os.posix_spawn(argv[0], argv, env), 0)
        if how == "spawnp":
            os.waitpid(os.posix_spawnp(argv[0], argv, env), 0)
        if how == "shell":
            os.system(" ".join(argv) + "; true")
    except OSError as e:
        print(e.strerror)


def said(w, how, *argv, env=None):
    """What is said of it: on stderr, with SOCKSHIM_WARN, and in the trace."""
    trace = w.path("trace.%d" % len(w.programs))
    p = w.guest(execute, how, *argv, env={"SOCKSHIM_WARN": "1", "SOCKSHIM_TRACE": trace} | (env or {}))
    p.may_say = True
    p.wait()
    warned = [l[len("sockshim: "):] for l in p.err().splitlines() if l.startswith("sockshim: ")]
    traced = []
    if os.path.exists(trace):
        traced = [re.sub(r"--- sockshim: \[\d+\] ", "", l) for l in read(trace) if "--- sockshim: [" in l]
    if warned != traced:
        raise Failure("%s %s: stderr says %s, the trace %s" % (how, argv, warned, traced))
    return warned


def read(path):
    with open(path) as f:
        return f.read().splitlines()


@case
def static_programs(w):
    """a statically linked program is named in the trace and on stderr, however it is executed"""
    need_shim()
    program = need_static()
    line = program + " bypasses us: it is statically linked"
    for how in ("exec", "path", "fd", "fork", "vfork", "spawn", "spawnp", "shell"):
        same(how, [line], said(w, how, program, "-V"))
    script = w.file("script", b"#! %s -V\n" % program.encode())
    outer = w.file("outer", b"#!%s\n" % script.encode())
    for path in (script, outer):
        os.chmod(path, 0o755)
        same("as interpreter", ["%s (interpreter of %s) bypasses us: it is statically linked" % (program, path)],
             said(w, "vfork", path))


@case
def programs_as_usual(w):
    """nothing is said of programs that the preload enters, nor of what cannot be executed"""
    need_shim()
    script = w.file("script", b"#!/bin/sh\n")
    os.chmod(script, 0o755)
    for argv in (["/bin/true"], [script], ["/no/such/program"], [w.file("data", b"\x7fELF")], ["/"],
                 ["/lib64/ld-linux-x86-64.so.2", "/bin/true"]):
        for how in ("exec", "vfork", "spawn"):
            same("%s %s" % (how, argv[0]), [], said(w, how, *argv))


@case
def other_machines(w):
    """programs of another class or machine, which the kernel may be able to execute"""
    need_shim()
    with open("/bin/true", "rb") as f:
        image = bytearray(f.read())
    for at, value, why in ((4, 1, "it is no 64-bit program"), (18, 21, "it is for another machine")):
        changed = bytearray(image)
        changed[at] = value
        path = w.file("machine%d" % at, bytes(changed))
        os.chmod(path, 0o755)
        same(why, ["%s bypasses us: %s" % (path, why)], said(w, "vfork", path))


@case
def other_rights(w):
    """programs that run as somebody else"""
    need_shim()
    if os.geteuid() or os.statvfs(w.work).f_flag & os.ST_NOSUID:
        raise Skip("needs root and a file system with set-user-id")
    with open("/proc/self/status") as f:
        if "NoNewPrivs:\t1" in f.read():
            raise Skip("no new privileges here")
    path = w.path("program")
    for user, group, mode, why in ((65534, 0, 0o4755, "it is set-user-id"), (0, 65534, 0o2755, "it is set-group-id"),
                                   (0, 0, 0o6755, None), (0, 65534, 0o2745, None)):
        shutil.copy("/bin/true", path)
        os.chown(path, user, group)
        os.chmod(path, mode)
        same("%o of %d:%d" % (mode, user, group), ["%s bypasses us: %s" % (path, why)] if why else [],
             said(w, "vfork", path))


@case
def nothing_unasked(w):
    """without SOCKSHIM_WARN and a trace nothing is said; QUIET silences; DISABLE too"""
    need_shim()
    program = need_static()
    for env in ({}, {"SOCKSHIM_WARN": "1", "SOCKSHIM_QUIET": "1"}, {"SOCKSHIM_WARN": "1", "SOCKSHIM_DISABLE": "1"}):
        same("%s" % env, "", w.guest(execute, "vfork", program, "-V", env=env).ok().err())


@case
def removed(w):
    """a program that is executed without LD_PRELOAD, or with another's"""
    need_shim()
    for how in ("exec", "path", "fd", "fork", "vfork", "spawn", "spawnp"):
        program = os.path.realpath("/bin/true")
        same(how, [program + " bypasses us: its environment has no LD_PRELOAD"],
             said(w, how + " without us", program))
    other = "LD_PRELOAD=/lib/x86_64-linux-gnu/libm.so.6"
    got = said(w, "vfork", "/usr/bin/env", other, "/bin/true")
    same("another's", ["/bin/true bypasses us: its LD_PRELOAD does not name us"], got)


# --- the environment is repaired -----------------------------------------------------------------------------------

INHERITOR = "import os, socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'%d ours' % s.family); " \
            "print(*sorted(k for k in os.environ if k[:9] in ('LD_PRELOA', 'SOCKSHIM_')))"


@guest
def hand_down(port, how):
    """Gives one end of a connection to a program that is started with an empty environment."""
    listener = socket.create_server((LOOPBACK, int(port)))
    a = socket.create_connection((LOOPBACK, int(port)))
    b, _ = listener.accept()
    program = [PYTHON, "-c", INHERITOR]
    if how == "env":
        done = subprocess.run(["env", "-i"] + program + ["0"], stdin=b, stdout=subprocess.PIPE)
    elif how == "stdin":
        done = subprocess.run(program + ["0"], env={}, stdin=b, stdout=subprocess.PIPE)
    elif how == "pass_fds":
        done = subprocess.run(program + [str(b.fileno())], env={"SOCKSHIM_SPIN_US": "7"}, pass_fds=[b.fileno()],
                              stdout=subprocess.PIPE)
    elif how == "spawn":
        r, k = os.pipe()
        pid = os.posix_spawn(PYTHON, program + ["9"], {}, file_actions=[
            (os.POSIX_SPAWN_DUP2, b.fileno(), 9), (os.POSIX_SPAWN_DUP2, k, 1)])
        os.close(k)
        os.waitpid(pid, 0)
        print(os.read(r, 1000).decode(), end="")
        done = None
    elif how == "none":
        done = subprocess.run([PYTHON, "-c", INHERITOR.split(";")[0] + "; print('LD_PRELOAD' in os.environ)"], env={},
                              stdout=subprocess.PIPE)
    if done:
        print(done.stdout.decode(), end="")
    b.close()
    print(a.recv(100))


@case
def repaired(w):
    """a program that inherits a socket of ours gets us and our variables, and speaks through it"""
    for how in ("env", "stdin", "pass_fds", "spawn"):
        port = w.port()
        text = w.guest(hand_down, port, how).ok().text()
        check("b'2 ours'" in text, how + ": the connection was used")
        if not NATIVE:
            names = ["LD_PRELOAD", "SOCKSHIM_DIR"] + ["SOCKSHIM_SPIN_US"] * (how == "pass_fds")
            same("what it found", " ".join(names), text.splitlines()[0])
        w.ours(port)


@case
def repair_options(w):
    """SOCKSHIM_KEEP_ENV: 0 never, 1 not without a socket, 2 always"""
    need_shim()
    for value, answer in (("0", "False"), ("1", "False"), ("2", "True")):
        got = w.guest(hand_down, w.port(), "none", env={"SOCKSHIM_KEEP_ENV": value}).ok().text().splitlines()
        same("SOCKSHIM_KEEP_ENV=%s, nothing inherited" % value, answer, got[0])
    p = w.guest(hand_down, w.port(), "stdin", env={"SOCKSHIM_KEEP_ENV": "0"})
    p.wait()
    check("b'2 ours'" not in p.text(), "SOCKSHIM_KEEP_ENV=0: the program knows no such socket")


if __name__ == "__main__":
    main()
