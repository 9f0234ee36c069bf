"""Erlang's emulator: sockets of its own, two nodes, RabbitMQ; natively and under the shim."""
import subprocess, time

from harness import *

SOCKETS = r"""
-module(sockets).
-export([main/1]).

% one process for each connection; the listener in packet mode 4, then in lines, then raw with sendfile
main([Text, Path]) ->
    Port = list_to_integer(Text),
    Options = [binary, {ip, {127,0,0,1}}, {reuseaddr, true}, {active, false}, {backlog, 100}],
    {ok, L} = gen_tcp:listen(Port, [{packet, 4} | Options]),
    spawn_link(fun() -> accept(L, fun frames/1) end),
    Me = self(),
    [spawn_link(fun() -> Me ! {N, client(Port, N)} end) || N <- lists:seq(1, 50)],
    [receive {N, Sum} -> io:format("~w ~s~n", [N, Sum]) end || N <- lists:seq(1, 50)],
    gen_tcp:close(L),
    {ok, L2} = gen_tcp:listen(Port, [{packet, line} | Options]),
    spawn_link(fun() -> accept(L2, fun lines/1) end),
    {ok, S} = gen_tcp:connect({127,0,0,1}, Port, [binary, {packet, line}, {active, false}]),
    [begin gen_tcp:send(S, io_lib:format("line ~w~n", [I])), {ok, Back} = gen_tcp:recv(S, 0, 20000),
        Back = iolist_to_binary(io_lib:format("LINE ~w~n", [I])) end || I <- lists:seq(1, 500)],
    gen_tcp:close(S), gen_tcp:close(L2),
    {ok, L3} = gen_tcp:listen(Port, Options),
    spawn_link(fun() -> accept(L3, fun(C) -> {ok, _} = file:sendfile(Path, C), gen_tcp:close(C) end) end),
    {ok, S3} = gen_tcp:connect({127,0,0,1}, Port, [binary, {active, true}]),
    io:format("sendfile ~s~n", [sum(all(S3, []))]),
    gen_tcp:close(L3),
    io:format("~p ~p~n", [gen_tcp:connect({127,0,0,1}, Port, []), gen_tcp:listen(Port, [{ip, {192,0,2,1}}])]),
    {ok, T} = gen_tcp:listen(Port, Options),
    io:format("~p~n", [gen_tcp:accept(T, 50)]), gen_tcp:close(T),
    % datagrams, active and not
    {ok, U} = gen_udp:open(Port, [binary, {ip, {127,0,0,1}}, {active, once}]),
    {ok, V} = gen_udp:open(0, [binary, {ip, {127,0,0,1}}, {active, false}]),
    [begin ok = gen_udp:send(V, {127,0,0,1}, Port, <<I:32, 0:4000>>), inet:setopts(U, [{active, once}]),
        receive {udp, U, A, P, D} -> ok = gen_udp:send(U, A, P, [D, "!"]) end,
        {ok, {_, Port, <<I:32, _/binary>>}} = gen_udp:recv(V, 0, 20000) end || I <- lists:seq(1, 200)],
    gen_udp:close(U), gen_udp:close(V),
    % the newer module, without the inet driver
    {ok, N} = socket:open(inet, stream, tcp), ok = socket:setopt(N, {socket, reuseaddr}, true),
    ok = socket:bind(N, #{family => inet, port => Port, addr => {127,0,0,1}}), ok = socket:listen(N, 5),
    {ok, C} = socket:open(inet, stream, tcp), ok = socket:connect(C, #{family => inet, port => Port, addr => {127,0,0,1}}),
    {ok, D} = socket:accept(N), Big = binary:copy(<<"text ">>, 100000),
    spawn_link(fun() -> ok = socket:send(C, Big), socket:shutdown(C, write) end),
    io:format("socket ~s~n", [sum(gather(D, []))]),
    [socket:close(X) || X <- [N, C, D]],
    init:stop().

accept(L, Serve) ->
    case gen_tcp:accept(L) of
        {ok, S} -> P = spawn(fun() -> receive go -> Serve(S) end end), ok = gen_tcp:controlling_process(S, P), P ! go, accept(L, Serve);
        {error, closed} -> ok
    end.

frames(S) -> inet:setopts(S, [{active, once}]), receive {tcp, S, D} -> gen_tcp:send(S, [D, D]), frames(S); {tcp_closed, S} -> ok end.
lines(S) -> case gen_tcp:recv(S, 0) of {ok, D} -> gen_tcp:send(S, string:uppercase(D)), lines(S); _ -> gen_tcp:close(S) end.

client(Port, N) ->
    {ok, S} = gen_tcp:connect({127,0,0,1}, Port, [binary, {packet, 4}, {active, false}]),
    Sums = [begin D = binary:copy(<<N, I>>, 200 * I), ok = gen_tcp:send(S, D), {ok, Back} = gen_tcp:recv(S, 0, 20000),
        Back = <<D/binary, D/binary>>, sum(Back) end || I <- lists:seq(1, 40)],
    gen_tcp:close(S), sum(Sums).

all(S, A) -> receive {tcp, S, D} -> all(S, [A, D]); {tcp_closed, S} -> A after 20000 -> timeout end.
gather(S, A) -> case socket:recv(S, 0, 20000) of {ok, D} -> gather(S, [A, D]); {error, closed} -> A end.
sum(D) -> string:lowercase(binary:encode_hex(crypto:hash(sha256, D))).
"""


def compiled(w, name, source):
    """A directory with the module's code."""
    if not os.path.exists(w.path(name + ".beam")):
        w.run(need("erlc"), w.file(name + ".erl", source.encode()), shim=False, env={"HOME": w.work})
    return w.work


@case
@both_worlds
def erlang(w, shim):
    """erl: gen_tcp with 50 connections at once in frames, lines, sendfile, gen_udp, socket"""
    program, port = need("erl"), w.port()
    compiled(w, "sockets", SOCKETS)
    p = w.start(program, "-noshell", "-pa", w.work, "-run", "sockets", "main", port, w.path("sockets.erl"), shim=shim,
                env={"HOME": w.work}, name="erl").ok()
    w.ours(port, shim)
    return p.text()


# Between two nodes: large terms both ways, processes on the other one, links, files of the other one, its death.
NODES = r"""
-module(nodes).
-export([main/1, work/2, echo/0]).

main([Other]) ->
    B = list_to_atom(Other),
    io:format("~p~n", [net_adm:ping(B)]),
    Big = crypto:hash(sha256, <<>>), Term = [{I, binary:copy(Big, 1000)} || I <- lists:seq(1, 200)],
    io:format("~p~n", [rpc:call(B, erlang, phash2, [Term]) =:= erlang:phash2(Term)]),
    io:format("~p~n", [rpc:call(B, lists, reverse, [Term]) =:= lists:reverse(Term)]),
    Ps = [spawn_link(B, ?MODULE, work, [self(), N]) || N <- lists:seq(1, 20)],
    [P ! {go, binary:copy(<<"x">>, 10000)} || P <- Ps, _ <- lists:seq(1, 20)],
    io:format("~p~n", [[receive {P, Sum} -> Sum end || P <- Ps]]),
    register_it(B),
    [begin {there, B} ! {self(), I}, receive {back, I} -> ok end end || I <- lists:seq(1, 1000)],
    process_flag(trap_exit, true), P1 = spawn_link(B, ?MODULE, echo, []), exit(P1, kill),
    receive {'EXIT', P1, Why} -> io:format("~p~n", [Why]) end,
    monitor_node(B, true), rpc:cast(B, erlang, halt, [0, [{flush, false}]]),
    receive {nodedown, B} -> io:format("down ~p~n", [nodes()]) end,
    init:stop().

register_it(B) -> Me = self(), spawn(B, fun() -> register(there, self()), Me ! registered, echo() end), receive registered -> ok end.
echo() -> receive {From, I} -> From ! {back, I}, echo() end.
work(Parent, N) -> work(Parent, N, 20, 0).
work(Parent, N, 0, Sum) -> Parent ! {self(), {N, Sum}};
work(Parent, N, Left, Sum) -> receive {go, D} -> work(Parent, N, Left - 1, Sum + byte_size(D)) end.
"""


def start_epmd(w, shim):
    """A port mapper of the case's own: the environment that leads there."""
    port = w.port()
    env = {"ERL_EPMD_PORT": port, "ERL_EPMD_ADDRESS": LOOPBACK, "HOME": w.work}
    w.start(need("epmd"), "-port", port, "-address", LOOPBACK, shim=shim, env=env)
    wait_until("epmd answers", lambda: w.start(need("epmd"), "-names", shim=shim, env=env).wait() == 0)
    return port, env


def epmd_is_ours(port, shim):
    """It listens on ::1 too, where `epmd -names` asks; the nodes ask by IPv4."""
    known = [line for line in kernel_sockets(port) if line.startswith("tcp ")]
    check(bool(known) != (shim and not NATIVE), "epmd's IPv4 sockets are ours" if shim else "epmd's are the kernel's")


@case
@both_worlds
def distribution(w, shim):
    """erl, epmd: two nodes; large terms, processes on the other node, links, registered names, its end"""
    program = need("erl")
    compiled(w, "nodes", NODES)
    port, env = start_epmd(w, shim)
    ports = w.port(), w.port()

    def node(name, dist, *args):
        return w.start(program, "-noshell", "-pa", w.work, "-start_epmd", "false", "-name", "%s@%s" % (name, LOOPBACK),
                       "-setcookie", "test", "-kernel", "inet_dist_listen_min", dist, "-kernel", "inet_dist_listen_max", dist,
                       *args, shim=shim, env=env, name=name)
    b = node("b", ports[0])
    wait_until("b is registered", lambda: "name b at port %d" % ports[0] in
               w.start(need("epmd"), "-names", shim=shim, env=env).ok().text())
    a = node("a", ports[1], "-run", "nodes", "main", "b@" + LOOPBACK).ok()
    outcome = [a.text(), b.wait(), w.start(need("epmd"), "-names", shim=shim, env=env).ok().text().splitlines()[1:]]
    epmd_is_ours(port, shim)
    w.ours(ports[0], shim)
    return outcome


# --- RabbitMQ ----------------------------------------------------------------------------------------------

@guest
def rabbit_client(port):
    """Publishes with confirmations and consumes by another connection: durable and not, small and larger than a frame."""
    import pika
    where = pika.ConnectionParameters(LOOPBACK, int(port), heartbeat=0, connection_attempts=3)
    producer, consumer = pika.BlockingConnection(where), pika.BlockingConnection(where)
    out, back = producer.channel(), consumer.channel()
    out.confirm_delivery()
    out.queue_declare("durable", durable=True)
    out.queue_declare("passing")
    out.exchange_declare("all", "fanout")
    for queue in ("durable", "passing"):
        out.queue_bind(queue, "all")
    r, sent = random.Random(5), hashlib.sha256()
    began = time.monotonic()
    for i in range(300):
        body = r.randbytes(r.choice((10, 1000, 30000))) if i % 50 else r.randbytes(600000)
        sent.update(body)
        out.basic_publish("all", "", body, pika.BasicProperties(delivery_mode=2, headers={"number": i}))
    print("sent", sent.hexdigest())
    for queue in ("durable", "passing"):
        got, numbers = hashlib.sha256(), []
        for method, properties, body in back.consume(queue, inactivity_timeout=PATIENCE):
            got.update(body)
            numbers.append(properties.headers["number"])
            back.basic_ack(method.delivery_tag)
            if len(numbers) == 300:
                break
        back.cancel()
        print(queue, got.hexdigest(), numbers == list(range(300)))
    print("seconds", time.monotonic() - began, file=sys.stderr)
    out.queue_declare("left", durable=True)
    out.basic_publish("", "left", b"to be counted")
    producer.close()
    consumer.close()


@case
@both_worlds
def rabbitmq(w, shim):
    """rabbitmq-server, rabbitmqctl, python3-pika: 300 messages of up to 600 KB through two queues, confirmed and acknowledged; list_queues"""
    need("erl", "rabbitmqctl")
    bin = "/usr/lib/rabbitmq/bin/"
    if not os.access(bin + "rabbitmq-server", os.X_OK) or subprocess.run([PYTHON, "-c", "import pika"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("rabbitmq-server or pika is not installed")
    epmd, env = start_epmd(w, shim)
    port, dist = w.port(), w.port()
    top = w.path("rabbit-%d" % port)
    os.mkdir(top)
    env.update({"RABBITMQ_" + name: value for name, value in dict(
        NODENAME="rabbit@" + LOOPBACK, USE_LONGNAME="true", NODE_IP_ADDRESS=LOOPBACK, NODE_PORT=port, DIST_PORT=dist,
        MNESIA_BASE=top, LOG_BASE=top, LOGS="-", PID_FILE=top + "/pid", CONF_ENV_FILE="/dev/null", CONFIG_FILE=top + "/none",
        ENABLED_PLUGINS_FILE=top + "/plugins", CTL_ERL_ARGS="-start_epmd false").items()})
    server = w.start(bin + "rabbitmq-server", shim=shim, env=env)
    server.until("completed with 0 plugins")
    client = w.guest(rabbit_client, port, shim=shim).ok()
    w.figure("300 messages through two queues", "messages/s", 600 / float(client.err().split()[-1]), shim)
    outcome = [client.text(), w.start(bin + "rabbitmqctl", "-q", "list_queues", shim=shim, env=env).ok().text()]
    epmd_is_ours(epmd, shim)
    for p in (port, dist):
        w.ours(p, shim)
    return outcome


if __name__ == "__main__":
    main()
