"""apache2 as Debian configures it, with both of its ways to be many, and haproxy before it and nginx: natively and under the shim."""
import glob, time

from harness import *
from servers import Haproxy, answers, certificate, curl, debian_nginx, fetch_big, site, web_client, wrk_figure

SITE = """
ServerName localhost
<Directory {site}/>
    Require all granted
</Directory>
<VirtualHost {address}:{plain}>
    DocumentRoot {site}
</VirtualHost>
<VirtualHost {address}:{tls}>
    DocumentRoot {site}
    SSLEngine on
    SSLCertificateFile {crt}
    SSLCertificateKeyFile {key}
</VirtualHost>
"""


def start(w, shim, mpm):
    """apache2 with a copy of its configuration in /etc, where ports, site and directories are ours; its workers are www-data's."""
    if os.geteuid():
        raise Skip("not root")
    program = need("apache2")
    site(w)
    crt, key = certificate(w)
    plain, tls = w.port(), w.port()
    top = w.path("apache-%d" % plain)
    shutil.copytree("/etc/apache2", top, symlinks=True)
    for old in glob.glob(top + "/mods-enabled/mpm_*") + glob.glob(top + "/sites-enabled/*"):
        os.unlink(old)
    for name in ("mpm_%s.load" % mpm, "mpm_%s.conf" % mpm, "ssl.load", "ssl.conf", "socache_shmcb.load"):
        if not os.path.lexists("%s/mods-enabled/%s" % (top, name)):
            os.symlink("../mods-available/" + name, "%s/mods-enabled/%s" % (top, name))
    w.file(top + "/ports.conf", ("Listen %s:%d\nListen %s:%d\n" % (LOOPBACK, plain, LOOPBACK, tls)).encode())
    w.file(top + "/sites-enabled/site.conf",
           SITE.format(address=LOOPBACK, site=w.path("site"), plain=plain, tls=tls, crt=crt, key=key).encode())
    env = {"APACHE_RUN_USER": "www-data", "APACHE_RUN_GROUP": "www-data", "APACHE_PID_FILE": top + "/pid",
           **{"APACHE_%s_DIR" % n: top for n in ("RUN", "LOCK", "LOG")}}
    p = w.start(program, "-DFOREGROUND", "-d", top, shim=shim, env=env, name="apache2-" + mpm)
    p.top, p.port, p.ports = top, plain, (plain, tls)
    p.url, p.tls = "http://%s:%d/" % (LOOPBACK, plain), "https://%s:%d/" % (LOOPBACK, tls)
    answers(w, p.url + "small", shim)
    return p


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return set(f.read().split())


def graceful(w, p):
    """SIGUSR1: all children become others, and answer."""
    before = children(p.pid)
    p.kill(signal.SIGUSR1)
    wait_until("all children are new", lambda: children(p.pid) and not children(p.pid) & before)


def serves(w, shim, mpm):
    p, sums, crt = start(w, shim, mpm), site(w), certificate(w)[0]
    outcome = []
    for url, option in ((p.url, "-0"), (p.url, "--http1.1"), (p.tls, "--http1.1")):
        c = curl(w, "--cacert", crt, option, "-w", "%{stderr}%{http_version} %{http_code}", url + "page", shim=shim).ok()
        outcome.append((option, c.err()))
        same("a page by " + option, sums["page"], sha(c.out()))
    c = curl(w, "-v", p.url + "page?[1-20]", shim=shim).ok()
    outcome += [c.err().count("Re-using existing connection"), sha(c.out())]
    c = curl(w, "--compressed", "-D", w.path("head"), p.url + "lines.html", shim=shim).ok()
    with open(w.path("head")) as f:
        outcome.append(sorted(l for l in f.read().lower().splitlines() if "encoding" in l))
    same("chunks", sums["lines.html"], sha(c.out()))
    big = [fetch_big(w, p.url + "big", shim, "100 MB"), fetch_big(w, p.tls + "big", shim, "100 MB by TLS", "--cacert", crt)]
    same("100 MB, and by TLS", [sums["big"]] * 2, big)
    # A process that is one too many closes its kept connections, whatever may be on its way there.
    wrk_figure(w, p.url + "small", shim, "1 KB", may_end=True)
    wrk_figure(w, p.url + "page", shim, "100 KB", may_end=True)
    for how in ([], ["-k"]):
        load = w.start(need("ab"), "-q", "-t", 2, "-n", 10000000, "-c", 8, *how, p.url + "small", shim=shim)
        for _ in range(2):
            time.sleep(0.4)
            graceful(w, p)
        # A kept connection may end when the next request is on its way: ab's "Length", also with the kernel.
        outcome += re.findall("Failed requests: .*" if not how else "Connect: .*Receive: [1-9].*|Exceptions: [1-9].*|Non-2xx.*",
                              load.ok().text())
    for port in p.ports:
        w.ours(port, shim)
    p.kill(signal.SIGWINCH)
    outcome.append(p.wait())
    with open(p.top + "/error.log") as f:
        outcome += [l for l in f.read().splitlines() if re.search(r":(emerg|alert|crit|error)\]", l)]
    return outcome


@case
@both_worlds
def event(w, shim):
    """apache2, curl, wrk, ab: event; HTTP/1.0 and 1.1, TLS, chunks, kept alive, 100 MB; four graceful restarts under ab's load, each connection for itself and kept alive"""
    return serves(w, shim, "event")


@case
@both_worlds
def prefork(w, shim):
    """apache2, curl, wrk, ab: prefork; the same"""
    return serves(w, shim, "prefork")


@case
@both_worlds
def proxied(w, shim):
    """haproxy, apache2, nginx, wrk, ab: before apache2 and nginx at once, two seamless reloads (-x, expose-fd listeners) under wrk's and ab's load"""
    sums, second = site(w), w.port()
    apache = start(w, shim, "event")
    debian_nginx(w, "server { listen %s:%d; root %s; }" % (LOOPBACK, second, w.path("site")), shim)
    answers(w, "http://%s:%d/small" % (LOOPBACK, second), shim)
    port = w.port()
    url, stop = "http://%s:%d/" % (LOOPBACK, port), w.path("stop-%d" % port)
    proxy = Haproxy(w, port, apache.port, second, shim)
    wrk_figure(w, url + "page", shim, "100 KB through haproxy")
    loads = [w.start(need("wrk"), "-t", 1, "-c", 8, "-d", "3s", "--timeout", "20s", "-H", "Connection: close", url + "small",
                     shim=shim),
             w.start(need("ab"), "-q", "-t", 3, "-n", 10000000, "-c", 4, url + "small", shim=shim),
             w.guest(web_client, port, stop, "small", "page", module=__file__, shim=shim)]
    for _ in range(2):
        time.sleep(0.5)
        proxy.reload()
    open(stop, "w").close()
    wrk, ab, client = [p.ok().text() for p in loads]
    same("what the client saw", "".join("%s %s\n" % (n, sums[n]) for n in ("page", "small")), client)
    same("wrk's errors", [], re.findall("Socket errors.*|Non-2xx.*", wrk))
    for p in (port, second, apache.port):
        w.ours(p, shim)
    return re.findall("Failed requests: .*|Non-2xx.*", ab)


if __name__ == "__main__":
    main()
