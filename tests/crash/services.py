"""The servers that are killed: how each is configured and started, which kinds of processes it has, and which load fits it.

A service has roles (programs that a service manager would start) and, below each, kinds of processes. What is here starts
everything with the flags that its documentation gives; nothing is repeated until it succeeds."""
import glob, os, signal, socket, stat, subprocess

from harness import LOOPBACK, Skip, need, wait_until
from load import HTTP_SIZES, contents

NOBODY = 65534


class Service:
    needs = ()
    roles = {}  # role: ((kind, expression for the command line of its processes), ...)
    user = 0  # of all its programs and clients: whose network it is
    stop = signal.SIGTERM
    reload = {}  # role: signal

    def __init__(self, w):
        need(*self.needs)
        if os.geteuid():
            raise Skip("not root")
        self.w = w
        self.port = w.port()
        self.top = w.path("%s-%d" % (self.name(), self.port))
        os.mkdir(self.top)
        for path in (w.work, w.net):
            os.chmod(path, os.stat(path).st_mode | stat.S_IXGRP | stat.S_IXOTH)
        if self.user:
            os.chmod(w.net, 0o1777)
            os.chown(self.top, self.user, self.user)
        self.prepare()

    @classmethod
    def name(cls):
        return cls.__name__.lower()

    def prepare(self):
        """Files, data and further ports, made without the shim."""

    def joined(self):
        """Waits until its processes have found each other."""

    def argv(self, role):
        raise NotImplementedError

    def loads(self):
        """What load.load takes."""
        raise NotImplementedError

    def tools(self):
        """Further load, unverified, for the soak test."""
        return []

    def start(self, role, env=None):
        return self.w.start(*self.as_user(), *self.argv(role), name=role, cwd=self.top, env=env)

    def as_user(self):
        return ("setpriv", "--reuid=%d" % self.user, "--regid=%d" % self.user, "--clear-groups") if self.user else ()

    def natively(self, *argv, **how):
        return self.w.run(*self.as_user(), *argv, shim=False, **how)

    def net(self):
        """Its user's networks. (Who started it as another user has a place in his own, which nobody need look after.)"""
        return os.path.join(self.w.net, "sockshim-%d" % self.user)

    def path(self, *parts):
        return os.path.join(self.top, *parts)

    def file(self, name, text):
        with open(self.path(name), "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        return self.path(name)

    def files_to_serve(self):
        os.mkdir(self.path("www"))
        for name, size in HTTP_SIZES.items():
            self.file("www/" + name, contents(name, size))
        return self.path("www")

    def kinds(self):
        return [kind for role, below in self.roles.items() for kind in (role, *(k for k, _ in below))]


# --- web ---------------------------------------------------------------------------------------------------------

NGINX = """
user nobody nogroup; %(processes)s daemon off; pid %(top)s/pid-%(port)d; error_log stderr notice;
events { worker_connections 512; }
http {
    access_log off; sendfile on; keepalive_requests 100000; keepalive_timeout 1s;
    client_body_temp_path %(top)s/t; proxy_temp_path %(top)s/t; fastcgi_temp_path %(top)s/t; uwsgi_temp_path %(top)s/t;
    scgi_temp_path %(top)s/t;
    server { listen %(address)s:%(port)d; root %(www)s; }
}
"""


class Nginx(Service):
    needs = ("nginx", "curl")
    roles = {"nginx master": (("nginx worker", "worker process"),)}
    stop = signal.SIGQUIT
    reload = {"nginx master": signal.SIGHUP}

    def prepare(self):
        self.config = nginx_config(self, self.port, "worker_processes 2;", self.files_to_serve())

    def argv(self, role):
        return "nginx", "-e", "stderr", "-c", self.config

    def loads(self):
        return [["Http", 4, {"port": self.port}], ["Curl", 1, {"port": self.port}]]

    def tools(self):
        return [["Program", 1, {"argv": ["wrk", "-t1", "-c8", "-d2s", "http://%s:%d/middle" % (LOOPBACK, self.port)]}]]


def nginx_config(service, port, processes, www):
    return service.file("nginx-%d.conf" % port, NGINX % dict(top=service.top, address=LOOPBACK, port=port, www=www,
                                                             processes=processes))


APACHE = """
ServerName localhost
ServerRoot %(top)s
PidFile %(top)s/pid
DefaultRuntimeDir %(top)s
Listen %(address)s:%(port)d
User nobody
Group nogroup
%(modules)s
StartServers 2
ServerLimit 2
ThreadsPerChild 8
MaxRequestWorkers 16
MinSpareThreads 1
MaxSpareThreads 16
ErrorLog /dev/stderr
DocumentRoot %(www)s
<Directory %(www)s>
    Require all granted
</Directory>
"""


class Apache(Service):
    needs = ("apache2", "curl")
    roles = {"apache master": (("apache child", "apache2"),)}
    reload = {"apache master": signal.SIGUSR1}

    def prepare(self):
        folder = "/usr/lib/apache2/modules/"
        modules = "".join("LoadModule %s_module %smod_%s.so\n" % (m, folder, m) for m in ("mpm_event", "authz_core"))
        self.config = self.file("apache.conf", APACHE % dict(top=self.top, address=LOOPBACK, port=self.port, modules=modules,
                                                             www=self.files_to_serve()))

    def argv(self, role):
        return "apache2", "-f", self.config, "-D", "FOREGROUND"

    def loads(self):
        return [["Http", 4, {"port": self.port}], ["Curl", 1, {"port": self.port}]]


HAPROXY = """
defaults
    mode http
    retries 3
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend in
    bind %(address)s:%(port)d
    default_backend servers
backend servers
    option redispatch
    server one %(address)s:%(one)d check inter 100ms rise 1
    server two %(address)s:%(two)d check inter 100ms rise 1
"""


class Haproxy(Service):
    """Master and worker, before two servers."""

    needs = ("haproxy", "nginx")
    roles = {"haproxy master": (("haproxy worker", "haproxy"),), "one": (), "two": ()}
    reload = {"haproxy master": signal.SIGUSR2}

    def prepare(self):
        www = self.files_to_serve()
        self.ports = {"one": self.w.port(), "two": self.w.port()}
        self.configs = {role: nginx_config(self, port, "master_process off;", www) for role, port in self.ports.items()}
        self.configs["haproxy master"] = self.file("haproxy.cfg", HAPROXY % dict(address=LOOPBACK, port=self.port, **self.ports))

    def argv(self, role):
        if role in self.ports:
            return "nginx", "-e", "stderr", "-c", self.configs[role]
        return "haproxy", "-W", "-db", "-f", self.configs[role]

    def loads(self):
        return [["Http", 4, {"port": self.port}]]


class Stunnel(Service):
    """Client's and server's end before a web server."""

    needs = ("stunnel", "openssl", "nginx")
    roles = {"stunnel server": (), "stunnel client": (), "web": ()}

    def prepare(self):
        web, secure = self.w.port(), self.w.port()
        self.web = nginx_config(self, web, "master_process off;", self.files_to_serve())
        key = self.path("key.pem")
        self.natively("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
                      "2", "-subj", "/CN=localhost", "-keyout", key, "-out", key + ".crt")
        head = "foreground = yes\npid =\nsyslog = no\n"
        self.configs = {
            "stunnel server": self.file("server", head + "cert = %s.crt\nkey = %s\n[s]\naccept = %s:%d\nconnect = %s:%d\n"
                                        % (key, key, LOOPBACK, secure, LOOPBACK, web)),
            "stunnel client": self.file("client", head + "client = yes\n[c]\naccept = %s:%d\nconnect = %s:%d\nverifyPeer = yes\n"
                                        "CAfile = %s.crt\n" % (LOOPBACK, self.port, LOOPBACK, secure, key))}

    def argv(self, role):
        if role == "web":
            return "nginx", "-e", "stderr", "-c", self.web
        return "stunnel", self.configs[role]

    def loads(self):
        return [["Http", 3, {"port": self.port}]]


# --- stores ------------------------------------------------------------------------------------------------------

class Redis(Service):
    needs = ("redis-server",)
    roles = {"redis master": (("redis child", "redis"),), "redis replica": (("redis child", "redis"),)}

    def prepare(self):
        self.second = self.w.port()

    def joined(self):
        wait_until("the replica has its master", self.replicates)

    def replicates(self):
        with socket.create_connection((LOOPBACK, self.second)) as s:  # the kernel's half of it
            s.sendall(b"INFO replication\r\n")
            return b"master_link_status:up" in s.recv(1 << 16)

    def argv(self, role):
        common = ("redis-server", "--bind", LOOPBACK, "--save", "", "--dir", self.top, "--repl-diskless-sync-delay", "0")
        if role == "redis master":
            return *common, "--port", self.port, "--io-threads", 2
        return *common, "--port", self.second, "--replicaof", LOOPBACK, self.port

    def loads(self):
        return [["Redis", 4, {"port": self.port}], ["Redis", 1, {"port": self.second, "read_only": True}]]

    def tools(self):
        # Where its connections are refused it may try to write for ever, with the kernel too (redis 7.0).
        return [["Program", 1, {"argv": ["timeout", "20", "redis-benchmark", "-h", LOOPBACK, "-p", self.port, "-q", "-n", 2000,
                                         "-c", 10, "-t", "set,get"]}]]


class Memcached(Service):
    needs = ("memcached",)
    roles = {"memcached": ()}

    def argv(self, role):
        return "memcached", "-u", "root", "-l", LOOPBACK, "-p", self.port, "-U", self.port, "-t", 4

    def loads(self):
        return [["Memcached", 5, {"port": self.port}]]


class Postgres(Service):
    roles = {"postmaster": (("backend", r"127\.0\.0\.1"), ("checkpointer", "checkpointer"), ("writer", "writer"),
                            ("launcher", "launcher"))}
    user = NOBODY
    stop = signal.SIGINT
    reload = {"postmaster": signal.SIGHUP}

    def prepare(self):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not found:
            raise Skip("PostgreSQL is not installed")
        self.bin = found[-1]
        self.data = self.path("data")
        self.natively(self.bin + "/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "--no-locale")
        with open(self.data + "/postgresql.conf", "a") as f:
            f.write("fsync=off\nlisten_addresses='%s'\nport=%d\nunix_socket_directories=''\nmax_connections=20\n"
                    # Not in /dev/shm, where one that was killed leaves it.
                    "shared_buffers=2MB\ndynamic_shared_memory_type=mmap\n" % (LOOPBACK, self.port))
        self.natively(self.bin + "/postgres", "--single", "-D", self.data, "postgres",
                      stdin=b"create unlogged table kept(n int, t text)\ncreate index on kept(n)\n")
        self.script = self.file("script", "select md5(random()::text);\n")

    def argv(self, role):
        return self.bin + "/postgres", "-D", self.data

    def loads(self):
        return [["Postgres", 4, {"port": self.port}]]

    def tools(self):
        return [["Program", 1, {"argv": ["pgbench", "-h", LOOPBACK, "-p", self.port, "-U", "postgres", "-n", "-f", self.script,
                                         "-c", 2, "-t", 100, "postgres"]}]]


class Mariadb(Service):
    needs = ("mariadbd", "mariadb-install-db", "mariadb")
    roles = {"mariadbd": ()}

    def prepare(self):
        self.data = self.path("data")
        self.natively("mariadb-install-db", "--no-defaults", "--datadir=" + self.data, "--user=root", "--skip-test-db",
                      "--auth-root-authentication-method=normal", "--innodb-flush-log-at-trx-commit=0")

    def argv(self, role):
        return ("mariadbd", "--no-defaults", "--user=root", "--datadir=" + self.data, "--bind-address=" + LOOPBACK,
                "--port=%d" % self.port, "--socket=" + self.path("s"), "--pid-file=" + self.path("pid"),
                "--innodb-buffer-pool-size=8M", "--skip-log-bin", "--skip-name-resolve")

    def loads(self):
        return [["Mariadb", 2, {"port": self.port}]]


# --- names, files ------------------------------------------------------------------------------------------------

class Dnsmasq(Service):
    needs = ("dnsmasq",)
    roles = {"dnsmasq": (("dnsmasq child", "dnsmasq"),)}

    def prepare(self):
        self.hosts = self.file("hosts", "".join("10.9.%d.%d h%04d.test\n" % (n >> 8, n & 255, n) for n in range(200)))

    def argv(self, role):
        return ("dnsmasq", "-k", "--user=root", "--port=%d" % self.port, "--listen-address=" + LOOPBACK, "--bind-interfaces",
                "--no-resolv", "--no-hosts", "--addn-hosts=" + self.hosts, "--conf-file=/dev/null", "--pid-file=",
                "--log-facility=-", "--local=/test/")

    def loads(self):
        return [["Dns", 4, {"port": self.port}]]


class Rsync(Service):
    needs = ("rsync",)
    roles = {"rsync daemon": (("rsync child", "rsync"),)}
    files = 60

    def prepare(self):
        os.mkdir(self.path("m"))
        for i in range(self.files):
            name = "%d-%d" % (i, i * i * 331 % 300000)
            self.file("m/" + name, contents(name, int(name.split("-")[1])))
        self.config = self.file("rsyncd.conf", "use chroot = no\nuid = root\ngid = root\npid file = %s\n[m]\npath = %s\n"
                                % (self.path("pid"), self.path("m")))

    def start(self, role, env=None):
        if os.path.exists(self.path("pid")):
            os.unlink(self.path("pid"))  # it refuses to start beside what a dead one left
        return super().start(role, env)

    def argv(self, role):
        return ("rsync", "--daemon", "--no-detach", "--config=" + self.config, "--address=" + LOOPBACK,
                "--port=%d" % self.port, "--log-file=/dev/stderr")

    def loads(self):
        return [["Rsync", 2, {"port": self.port, "work": self.top, "files": self.files}]]


class Git(Service):
    needs = ("git",)
    roles = {"git daemon": (("git pack", "pack-objects"), ("git upload", "upload-pack"), ("git child", "daemon"))}

    def prepare(self):
        env = {"HOME": self.top, "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            env.update({"GIT_%s_NAME" % who: "T", "GIT_%s_EMAIL" % who: "t@localhost", "GIT_%s_DATE" % who: "1700000000 +0000"})

        def run(*args, where):
            return self.natively("git", "-C", where, *args, env=env).text().strip()
        run("init", "-q", "-b", "main", "first", where=self.top)
        for i in range(40):
            self.file("first/f%d" % i, contents("f%d" % i, 30000))
        run("add", ".", where=self.path("first"))
        run("commit", "-q", "-m", "files", where=self.path("first"))
        self.head = run("rev-parse", "HEAD", where=self.path("first"))
        os.mkdir(self.path("base"))
        run("clone", "-q", "--bare", "first", "base/r.git", where=self.top)

    def argv(self, role):
        return ("git", "daemon", "--reuseaddr", "--listen=" + LOOPBACK, "--port=%d" % self.port, "--base-path=" + self.path("base"),
                "--export-all", self.path("base"))

    def loads(self):
        return [["Git", 2, {"port": self.port, "work": self.top, "head": self.head}]]


# HOME: the shells find no start-up files. What those of the machine's root begin must not be killed here (pyenv's leave a
# lock then, for which every later shell waits a minute).
SSHD = """Port %(port)d
ListenAddress %(address)s
HostKey %(top)s/host_key
PidFile none
AuthorizedKeysFile %(top)s/user_key.pub
UsePAM no
PermitRootLogin yes
StrictModes no
MaxStartups 100
SetEnv HOME=%(top)s
"""
SSH = """Host there
    HostName %(address)s
    Port %(port)d
    User root
    IdentityFile %(top)s/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile %(top)s/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking accept-new
    LogLevel ERROR
"""


class Sshd(Service):
    """With privilege separation, in mounts of its own for its empty directory."""

    needs = ("sshd", "ssh", "ssh-keygen", "unshare")
    roles = {"sshd": (("session", "sshd: root@"), ("before login", r"\[net\]"), ("privileged", r"\[priv\]|\[accepted\]"),
                      ("program", "cat"))}
    reload = {"sshd": signal.SIGHUP}

    def prepare(self):
        self.alone = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs crash /run && mkdir -m 755 /run/sshd && exec "$@"', "sh")
        if subprocess.run([*self.alone, "true"], capture_output=True).returncode:
            raise Skip("no mount namespaces here")
        for key in ("host_key", "user_key"):
            self.natively("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.path(key))
        names = dict(top=self.top, address=LOOPBACK, port=self.port)
        self.configs = self.file("sshd_config", SSHD % names), self.file("ssh_config", SSH % names)

    def argv(self, role):
        return *self.alone, need("sshd"), "-D", "-e", "-f", self.configs[0]

    def loads(self):
        return [["Ssh", 2, {"port": self.port, "config": self.configs[1]}]]


# --- a program on the socket -------------------------------------------------------------------------------------

class Socat(Service):
    """fork, and a program behind a socket pair."""

    needs = ("socat",)
    roles = {"socat": (("program", "^cat|^/bin/cat"), ("socat child", "socat"))}

    def argv(self, role):
        return ("socat", "-t", 60, "TCP-LISTEN:%d,bind=%s,reuseaddr,fork" % (self.port, LOOPBACK), "EXEC:/bin/cat" + self.options)

    options = ""

    def loads(self):
        return [["Echo", 3, {"port": self.port}]]


class Socat_Nofork(Socat):
    """fork, and a program with our socket as its descriptors 0 and 1."""

    roles = {"socat": (("program", "^cat|^/bin/cat"),)}
    options = ",nofork"


class Ncat(Service):
    """It ends the program at a half close, and waits for ever where both sides send more than fits (as with the kernel)."""

    needs = ("ncat",)
    roles = {"ncat": (("program", "^cat|^/bin/cat"), ("ncat child", "ncat"))}

    def argv(self, role):
        return "ncat", "-4", "-l", "-k", "--exec", "/bin/cat", LOOPBACK, self.port

    def loads(self):
        return [["Echo", 3, {"port": self.port, "half_close": False, "sizes": [1, 1000, 40000]}]]


class Tcpserver(Service):
    needs = ("tcpserver",)
    roles = {"tcpserver": (("program", "^cat|^/bin/cat"),)}

    def argv(self, role):
        return "tcpserver", "-v", "-H", "-R", "-l", "0", LOOPBACK, self.port, "/bin/cat"

    def loads(self):
        return [["Echo", 3, {"port": self.port}]]


class Inetd(Service):
    needs = ("inetd",)
    roles = {"inetd": (("program", "^cat|^/bin/cat"),)}
    reload = {"inetd": signal.SIGHUP}

    def prepare(self):
        self.config = self.file("inetd.conf", "%s:%d stream tcp nowait root /bin/cat cat\n" % (LOOPBACK, self.port))

    def argv(self, role):
        return "inetd", "-i", "-R", 100000, self.config

    def loads(self):
        return [["Echo", 3, {"port": self.port}]]


class Activate(Service):
    """systemd-socket-activate, which hands no LD_PRELOAD on."""

    needs = ("systemd-socket-activate",)
    roles = {"systemd-socket-activate": (("program", "^cat|^/bin/cat"),)}

    def argv(self, role):
        return "systemd-socket-activate", "--inetd", "--accept", "-l", "%s:%d" % (LOOPBACK, self.port), "/bin/cat"

    def loads(self):
        return [["Echo", 3, {"port": self.port}]]


# --- Erlang ------------------------------------------------------------------------------------------------------

ECHO = r"""
-module(echo).
-export([main/1]).
main([Port]) ->
    {ok, L} = gen_tcp:listen(list_to_integer(Port), [binary, {ip, {127,0,0,1}}, {reuseaddr, true}, {active, false},
        {exit_on_close, false}, {backlog, 100}]),
    accept(L).
accept(L) -> {ok, S} = gen_tcp:accept(L), P = spawn(fun() -> receive go -> serve(S) end end),
    gen_tcp:controlling_process(S, P), P ! go, accept(L).
serve(S) -> case gen_tcp:recv(S, 0) of {ok, D} -> gen_tcp:send(S, D), serve(S); _ -> gen_tcp:close(S) end.
"""


class Erlang(Service):
    """A node and its port mapper."""

    needs = ("erl", "epmd", "erlc")
    roles = {"epmd": (), "node": (("helper", "erl_child_setup|inet_gethost"),)}

    def prepare(self):
        self.mapper = self.w.port()
        self.file("echo.erl", ECHO)
        self.natively("erlc", "-o", self.top, self.path("echo.erl"), env={"HOME": self.top})

    def argv(self, role):
        if role == "epmd":
            return "epmd", "-port", self.mapper, "-address", LOOPBACK
        return "erl", "-noinput", "-start_epmd", "false", "-sname", "node%d" % self.port, "-pa", self.top, "-run", "echo", "main", self.port

    def start(self, role, env=None):
        return super().start(role, {"HOME": self.top, "ERL_EPMD_PORT": self.mapper, "ERL_EPMD_ADDRESS": LOOPBACK, **(env or {})})

    def loads(self):
        return [["Echo", 3, {"port": self.port}]]


SERVICES = [Nginx, Apache, Haproxy, Stunnel, Redis, Memcached, Postgres, Mariadb, Dnsmasq, Rsync, Git, Sshd, Socat, Socat_Nofork,
            Ncat, Tcpserver, Inetd, Activate, Erlang]
