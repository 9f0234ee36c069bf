// What test_java.py runs: servers by Selector, by threads and by asynchronous channels, an HTTP server, and a client of each.
import com.sun.net.httpserver.HttpServer;
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;

public class Sockets {
    static final InetAddress LOOPBACK = InetAddress.getLoopbackAddress();
    static final ExecutorService threads = Executors.newCachedThreadPool(r -> {
        Thread t = new Thread(r);
        t.setDaemon(true);
        return t;
    });

    interface Action {
        Object run() throws Exception;
    }

    static InetSocketAddress at(String port) {
        return new InetSocketAddress(LOOPBACK, Integer.parseInt(port));
    }

    static byte[] bytes(int seed, int size) {
        byte[] data = new byte[size];
        new Random(seed).nextBytes(data);
        return data;
    }

    static String sha(byte[] data) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
    }

    static void check(boolean so, String what) {
        if (!so)
            throw new AssertionError(what);
    }

    static void tell(String what, Action action) {
        Object answer;
        try {
            answer = action.run();
        } catch (Exception e) {
            answer = e.getClass().getName() + ": " + e.getMessage();
        }
        System.out.println(what + ": " + answer);
    }

    // --- servers ---------------------------------------------------------------------------------------------

    static class Connection {
        final ByteBuffer buffer = ByteBuffer.allocateDirect(70000);  // what has been read and not been written yet
        boolean ended;  // nothing more to read, perhaps something to write
    }

    // Echo by one thread, whatever part of a buffer could be written; ends with its standard input.
    static void selectorServer(String port) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open().bind(at(port));
        listener.configureBlocking(false).register(selector, SelectionKey.OP_ACCEPT);
        endWithInput();
        while (true) {
            selector.select();
            for (Iterator<SelectionKey> i = selector.selectedKeys().iterator(); i.hasNext(); i.remove())
                serve(selector, i.next());
        }
    }

    static void serve(Selector selector, SelectionKey key) {
        try {
            if (key.isAcceptable()) {
                SocketChannel c = ((ServerSocketChannel) key.channel()).accept();
                if (c != null)
                    c.configureBlocking(false).register(selector, SelectionKey.OP_READ, new Connection());
                return;
            }
            SocketChannel c = (SocketChannel) key.channel();
            Connection connection = (Connection) key.attachment();
            ByteBuffer buffer = connection.buffer;
            connection.ended |= key.isReadable() && c.read(buffer) < 0;
            buffer.flip();
            c.write(buffer);
            buffer.compact();
            boolean empty = buffer.position() == 0;
            if (connection.ended && empty)
                c.close();
            else
                key.interestOps(empty ? SelectionKey.OP_READ : connection.ended || !buffer.hasRemaining() ? SelectionKey.OP_WRITE
                                : SelectionKey.OP_READ | SelectionKey.OP_WRITE);
        } catch (IOException e) {
            key.cancel();
            try {
                key.channel().close();
            } catch (IOException ignored) {
            }
        }
    }

    static void threadServer(String port) throws Exception {
        ServerSocket listener = new ServerSocket(Integer.parseInt(port), 50, LOOPBACK);
        endWithInput();
        while (true) {
            Socket s = listener.accept();
            threads.submit(() -> {
                try (s) {
                    s.setTcpNoDelay(true);
                    return s.getInputStream().transferTo(s.getOutputStream());
                }
            });
        }
    }

    static void asynchronousServer(String port) throws Exception {
        AsynchronousServerSocketChannel listener = AsynchronousServerSocketChannel.open().bind(at(port));
        listener.accept(null, new CompletionHandler<AsynchronousSocketChannel, Void>() {
            public void completed(AsynchronousSocketChannel c, Void none) {
                listener.accept(null, this);
                echo(c, ByteBuffer.allocateDirect(50000), true);
            }
            public void failed(Throwable e, Void none) {
            }
        });
        endWithInput();
        Thread.sleep(Long.MAX_VALUE);
    }

    static void echo(AsynchronousSocketChannel c, ByteBuffer buffer, boolean read) {
        CompletionHandler<Integer, Void> next = new CompletionHandler<>() {
            public void completed(Integer count, Void none) {
                if (count < 0) {
                    failed(null, none);
                    return;
                }
                if (read)
                    buffer.flip();
                else if (!buffer.hasRemaining())
                    buffer.clear();
                echo(c, buffer, !read && buffer.position() == 0);
            }
            public void failed(Throwable e, Void none) {
                try {
                    c.close();
                } catch (IOException ignored) {
                }
            }
        };
        if (read)
            c.read(buffer, null, next);
        else
            c.write(buffer, null, next);
    }

    static void datagramServer(String port) throws Exception {
        Selector selector = Selector.open();
        DatagramChannel c = DatagramChannel.open(StandardProtocolFamily.INET).bind(at(port));
        c.configureBlocking(false).register(selector, SelectionKey.OP_READ);
        endWithInput();
        ByteBuffer buffer = ByteBuffer.allocate(65536);
        while (true) {
            selector.select();
            selector.selectedKeys().clear();
            for (SocketAddress from; (from = c.receive(buffer.clear())) != null;)
                c.send(buffer.flip(), from);
        }
    }

    static void httpServer(String port) throws Exception {
        HttpServer server = HttpServer.create(at(port), 50);
        server.setExecutor(threads);
        server.createContext("/echo", e -> {  // chunked
            e.sendResponseHeaders(200, 0);
            try (OutputStream out = e.getResponseBody()) {
                e.getRequestBody().transferTo(out);
            }
        });
        server.createContext("/bytes", e -> {
            byte[] data = bytes(e.getRequestURI().getPath().length(), 300000);
            e.sendResponseHeaders(200, data.length);
            try (OutputStream out = e.getResponseBody()) {
                out.write(data);
            }
        });
        server.start();
        endWithInput();
        Thread.sleep(Long.MAX_VALUE);
    }

    static void endWithInput() {
        threads.submit(() -> {
            while (System.in.read() >= 0)
                ;
            System.exit(0);
            return null;
        });
        System.out.println("ready");
    }

    // --- clients ---------------------------------------------------------------------------------------------

    static String byStreams(String port, byte[] data) throws Exception {
        try (Socket s = new Socket(LOOPBACK, Integer.parseInt(port))) {
            Future<?> writer = threads.submit(() -> {
                s.getOutputStream().write(data);
                s.shutdownOutput();
                return null;
            });
            String answer = sha(s.getInputStream().readAllBytes());
            writer.get();
            return answer;
        }
    }

    static String bySelector(String port, byte[] data) throws Exception {
        ByteBuffer out = ByteBuffer.wrap(data), in = ByteBuffer.allocate(data.length + 1);
        try (Selector selector = Selector.open(); SocketChannel c = SocketChannel.open()) {
            c.configureBlocking(false);
            c.connect(at(port));
            SelectionKey key = c.register(selector, SelectionKey.OP_CONNECT);
            while (true) {
                selector.select();
                selector.selectedKeys().clear();
                if (key.isConnectable() && c.finishConnect())
                    key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
                if (key.isWritable() && out.hasRemaining()) {
                    c.write(out);
                    if (!out.hasRemaining()) {
                        c.shutdownOutput();
                        key.interestOps(SelectionKey.OP_READ);
                    }
                }
                if (key.isReadable() && c.read(in) < 0)
                    return sha(Arrays.copyOf(in.array(), in.position()));
            }
        }
    }

    static String bySendfile(String port, byte[] data) throws Exception {
        Path from = Files.createTempFile(Path.of("."), "from", null), to = Files.createTempFile(Path.of("."), "to", null);
        Files.write(from, data);
        try (SocketChannel c = SocketChannel.open(at(port)); FileChannel source = FileChannel.open(from);
             FileChannel target = FileChannel.open(to, StandardOpenOption.WRITE)) {
            Future<?> writer = threads.submit(() -> {
                for (long done = 0; done < data.length;)
                    done += source.transferTo(done, data.length - done, c);
                return c.shutdownOutput();
            });
            for (long done = 0, more; (more = target.transferFrom(c, done, 1 << 20)) > 0;)
                done += more;
            writer.get();
            return sha(Files.readAllBytes(to));
        }
    }

    static String byFutures(String port, byte[] data) throws Exception {
        ByteBuffer out = ByteBuffer.wrap(data), in = ByteBuffer.allocate(data.length);
        try (AsynchronousSocketChannel c = AsynchronousSocketChannel.open()) {
            c.connect(at(port)).get();
            Future<?> writer = threads.submit(() -> {
                while (out.hasRemaining())
                    c.write(out).get();
                return c.shutdownOutput();
            });
            while (in.hasRemaining() && c.read(in).get() >= 0)
                ;
            writer.get();
            return sha(Arrays.copyOf(in.array(), in.position()));
        }
    }

    static void echoes(String... ports) throws Exception {
        List<Future<?>> all = new ArrayList<>();
        for (int i = 0; i < 24; i++) {
            String port = ports[i % ports.length];
            byte[] data = bytes(i, 1 + i * 40000);
            int kind = i / ports.length % 4;
            all.add(threads.submit(() -> {
                String answer = kind == 0 ? byStreams(port, data) : kind == 1 ? bySelector(port, data)
                    : kind == 2 ? bySendfile(port, data) : byFutures(port, data);
                check(answer.equals(sha(data)), "an echo of " + data.length + " bytes, client " + kind + ", port " + port);
                return null;
            }));
        }
        for (Future<?> f : all)
            f.get();
        System.out.println("echoes: " + all.size());
        byte[] one = new byte[1];
        try (Socket s = new Socket(LOOPBACK, Integer.parseInt(ports[0]))) {
            s.setTcpNoDelay(true);
            int rounds = 10000;
            long began = System.nanoTime();
            for (int i = 0; i < rounds; i++) {
                s.getOutputStream().write(i);
                check(s.getInputStream().read(one) == 1 && one[0] == (byte) i, "a byte");
            }
            System.err.println("rounds/s: " + rounds * 1000000000L / (System.nanoTime() - began));
        }
    }

    static void http(String port) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).executor(threads).build();
        String url = "http://127.0.0.1:" + port;
        List<CompletableFuture<HttpResponse<byte[]>>> all = new ArrayList<>();
        for (int i = 0; i < 60; i++) {
            HttpRequest.Builder b = i % 3 == 0
                ? HttpRequest.newBuilder(URI.create(url + "/echo"))
                    .POST(HttpRequest.BodyPublishers.ofByteArray(bytes(i, i * 8000)))
                : HttpRequest.newBuilder(URI.create(url + "/bytes/" + "x".repeat(i)));
            all.add(client.sendAsync(b.build(), HttpResponse.BodyHandlers.ofByteArray()));
        }
        for (int i = 0; i < all.size(); i++) {
            HttpResponse<byte[]> r = all.get(i).get();
            byte[] expected = i % 3 == 0 ? bytes(i, i * 8000) : bytes(7 + i, 300000);
            check(r.statusCode() == 200 && Arrays.equals(r.body(), expected), "an answer");
        }
        URLConnection old = new URL(url + "/bytes/y").openConnection();
        check(Arrays.equals(old.getInputStream().readAllBytes(), bytes(8, 300000)), "HttpURLConnection");
        System.out.println("answers: " + all.size());
    }

    static void datagrams(String port) throws Exception {
        ByteBuffer in = ByteBuffer.allocate(65536);
        try (DatagramChannel c = DatagramChannel.open(StandardProtocolFamily.INET); Selector selector = Selector.open()) {
            c.connect(at(port));
            c.configureBlocking(false).register(selector, SelectionKey.OP_READ);
            for (int size = 1; size < 60000; size += 1500) {
                byte[] data = bytes(size, size);
                c.write(ByteBuffer.wrap(data));
                selector.select();
                selector.selectedKeys().clear();
                check(c.receive(in.clear()) != null && Arrays.equals(Arrays.copyOf(in.array(), in.position()), data), "a datagram");
            }
        }
        try (DatagramSocket s = new DatagramSocket()) {
            s.setSoTimeout(300);
            s.send(new DatagramPacket("hello".getBytes(), 5, at(port)));
            DatagramPacket p = new DatagramPacket(new byte[10], 10);
            s.receive(p);
            tell("DatagramSocket", () -> new String(p.getData(), 0, p.getLength()) + " " + p.getSocketAddress().equals(at(port)));
            tell("no second", () -> { s.receive(p); return p; });
        }
    }

    // --- errors ----------------------------------------------------------------------------------------------

    // What `call` says when `act` comes while it waits in another thread.
    static void meanwhile(String what, Action call, Action act) throws Exception {
        Thread[] who = new Thread[1];
        Future<?> f = threads.submit(() -> {
            who[0] = Thread.currentThread();
            tell(what, call);
        });
        while (who[0] == null || who[0].getState() == Thread.State.NEW)
            Thread.sleep(1);
        Thread.sleep(300);
        if (act == null)
            who[0].interrupt();
        else
            act.run();
        f.get(30, TimeUnit.SECONDS);
    }

    static void errors(String port, String closed) throws Exception {
        tell("connect to nobody", () -> new Socket(LOOPBACK, Integer.parseInt(closed)));
        tell("connect a channel to nobody", () -> SocketChannel.open(at(closed)));
        tell("bind to a port in use", () -> new ServerSocket(Integer.parseInt(port), 5, LOOPBACK));
        try (DatagramChannel c = DatagramChannel.open(StandardProtocolFamily.INET)) {
            c.connect(at(closed));
            c.write(ByteBuffer.wrap(new byte[1]));
            tell("a datagram to nobody", () -> c.read(ByteBuffer.allocate(1)));
        }
        Socket s = new Socket(LOOPBACK, Integer.parseInt(port));
        s.setSoTimeout(200);
        tell("read's time", () -> s.getInputStream().read());
        s.setSoTimeout(0);
        meanwhile("read of a closed socket", () -> s.getInputStream().read(), () -> { s.close(); return 0; });
        ServerSocket l = new ServerSocket(0, 5, LOOPBACK);
        l.setSoTimeout(200);
        tell("accept's time", () -> l.accept());
        l.setSoTimeout(0);
        meanwhile("accept of a closed socket", () -> l.accept(), () -> { l.close(); return 0; });
        SocketChannel c = SocketChannel.open(at(port));
        meanwhile("read of a closed channel", () -> c.read(ByteBuffer.allocate(1)), () -> { c.close(); return 0; });
        SocketChannel d = SocketChannel.open(at(port));
        meanwhile("read of an interrupted thread", () -> d.read(ByteBuffer.allocate(1)), null);
        ServerSocketChannel m = ServerSocketChannel.open().bind(new InetSocketAddress(LOOPBACK, 0));
        meanwhile("accept of an interrupted thread", () -> m.accept(), null);
        Selector selector = Selector.open();
        meanwhile("select, woken", () -> selector.select(), () -> selector.wakeup());
        meanwhile("select of an interrupted thread", () -> selector.select(), null);
        try (ServerSocket n = new ServerSocket(0, 5, LOOPBACK); Socket a = new Socket(LOOPBACK, n.getLocalPort())) {
            Socket b = n.accept();
            b.setSoLinger(true, 0);
            b.close();
            tell("read after a reset", () -> a.getInputStream().read());
            tell("the socket's ports", () -> a.getPort() == n.getLocalPort() && a.getLocalPort() == b.getPort());
            tell("its options", () -> a.getTcpNoDelay() + " " + a.getKeepAlive() + " " + a.getSoLinger() + " " + a.getReuseAddress()
                 + " " + a.getTrafficClass() + " " + a.getOOBInline());
        }
    }

    public static void main(String... args) throws Exception {
        switch (args[0]) {
            case "selector" -> selectorServer(args[1]);
            case "threads" -> threadServer(args[1]);
            case "asynchronous" -> asynchronousServer(args[1]);
            case "datagram" -> datagramServer(args[1]);
            case "http" -> httpServer(args[1]);
            case "client" -> {
                echoes(args[1], args[2], args[3]);
                datagrams(args[4]);
                http(args[5]);
            }
            case "errors" -> errors(args[1], args[2]);
        }
        System.out.println("done");
        System.exit(0);
    }
}
