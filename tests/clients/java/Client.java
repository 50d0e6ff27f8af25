// jedis against a cluster. See ../README.md for what the surroundings do for this program.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashSet;
import java.util.concurrent.CompletableFuture;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.params.ScanParams;

// snippet: connect
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.exceptions.JedisConnectionException;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.exceptions.JedisException;
import redis.clients.jedis.params.SetParams;
import redis.clients.jedis.util.CompareCondition;
// end

public class Client {
    // snippet: find
    /** A client of one node. It sends a command once. */
    static RedisClient connect(String address) {
        var times = DefaultJedisClientConfig.builder().connectionTimeoutMillis(5_000).socketTimeoutMillis(15_000);
        return RedisClient.builder().hostAndPort(HostAndPort.from(address)).clientConfig(times.build()).build();
    }

    /** A client of the node that leads. The other leader processes answer READONLY or LOADING. */
    static RedisClient findLeader(List<String> addresses) throws InterruptedException {
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (true) {
            for (String address : addresses) {
                RedisClient client = connect(address);
                try {
                    client.exists("any key");
                    return client;
                } catch (JedisException error) {
                    client.close();
                    if (System.nanoTime() > deadline) throw error;
                }
            }
            Thread.sleep(100);
        }
    }
    // end

    // snippet: use
    static void use(RedisClient client) {
        client.set("color", "blue");
        expect("blue", client.get("color"));
        expect(null, client.get("no such key"));
        expect(2L, client.incrBy("visits", 2));
        expect(null, client.set("color", "red", SetParams.setParams().nx())); // Refused: it has a value.
        var ifBlue = SetParams.setParams().condition(CompareCondition.valueEq("blue"));
        expect("OK", client.set("color", "green", ifBlue));
        expect(List.of("green", "2"), client.mget("color", "visits"));
        expect(2L, client.del("color", "visits"));

        try (var pipeline = client.pipelined()) {
            for (int number = 0; number < 100; number++) pipeline.set("p" + number, "" + number);
            // An error of a command is an element of the list.
            for (Object reply : pipeline.syncAndReturnAll()) expect("OK", reply);
        }
    }
    // end

    // snippet: errors
    /** The write was applied, or will be, or never. */
    static class Unknown extends RuntimeException {
        Unknown(Exception cause) {
            super(cause);
        }
    }

    /** Runs commands at the node that leads. */
    static class Leader {
        final List<String> addresses;
        RedisClient client;

        Leader(List<String> addresses) throws InterruptedException {
            this.addresses = addresses;
            client = findLeader(addresses);
        }

        /** Repeats the command where nothing was applied. Where that is not known, only if it is repeatable: it
         *  reads, or applying it twice does no harm. */
        <T> T run(boolean repeatable, Function<RedisClient, T> command) throws InterruptedException {
            while (true) {
                try {
                    return command.apply(client);
                } catch (JedisDataException error) {
                    String message = error.getMessage();
                    boolean notApplied = message.startsWith("LOADING") || message.startsWith("READONLY");
                    if (!notApplied && !message.startsWith("INDETERMINATE")) throw error;
                    if (!notApplied && !repeatable) throw new Unknown(error);
                } catch (JedisConnectionException error) {
                    if (!repeatable) throw new Unknown(error);
                }
                client.close();
                client = findLeader(addresses);
            }
        }
    }
    // end

    // snippet: http
    static final HttpClient HTTP = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .followRedirects(HttpClient.Redirect.NORMAL) // From a standby to the leader.
            .build();

    /** Adds 1 exactly once, however often it is sent: the nodes know the token. */
    static String incrOnce(List<String> urls, String key, String token) throws InterruptedException {
        var body = HttpRequest.BodyPublishers.ofString("{\"key\":\"%s\",\"by\":1}".formatted(key));
        while (true) {
            for (String url : urls) {
                var request = HttpRequest.newBuilder(URI.create(url + "/incr")).POST(body)
                        .header("Content-Type", "application/json").header("Idempotency-Key", token).build();
                try {
                    var answer = HTTP.send(request, BodyHandlers.ofString());
                    int status = answer.statusCode();
                    if (status == 200) return answer.body();
                    // 500: unknown. 503: not applied.
                    if (status != 500 && status != 503) throw new IllegalStateException(answer.body());
                } catch (IOException error) {
                    // The node is gone.
                }
            }
            Thread.sleep(100);
        }
    }
    // end

    static final BufferedReader ANSWERS = new BufferedReader(new InputStreamReader(System.in));

    static void expect(Object expected, Object found) {
        if (expected == null ? found != null : !expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    /** Waits until the surroundings have done something to the cluster. */
    static void ask(String wish) {
        try {
            System.out.println("do: " + wish);
            ANSWERS.readLine();
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    static String refused(Runnable command) {
        try {
            command.run();
        } catch (JedisException error) {
            return error.getMessage();
        }
        throw new AssertionError("it was accepted");
    }

    static void callsWork(Leader leader, String follower) {
        use(leader.client);
        byte[] key = "bytes".getBytes(), value = {0, -1, 13, 10};
        leader.client.set(key, value);
        check(Arrays.equals(leader.client.get(key), value), "bytes");
        var keys = new HashSet<String>();
        String cursor = "0";
        do {
            var page = leader.client.scan(cursor, new ScanParams().match("p*"));
            keys.addAll(page.getResult());
            cursor = page.getCursor();
        } while (!cursor.equals("0"));
        expect(100, keys.size());
        expect(3L, leader.client.waitReplicas("p1", 3, 10_000));
        String error = refused(() -> leader.client.expire("p1", 5));
        check(error.contains("expiry"), error);
        try (var replica = connect(follower)) {
            expect("1", replica.get("p1"));
            String refusal = refused(() -> replica.set("p1", "2"));
            check(refusal.startsWith("READONLY"), refusal);
        }
    }

    /** First the outcome of a write is unknown. Once the leader has missed its followers, it accepts none. */
    static void lostQuorum(Leader leader) throws InterruptedException {
        leader.client.set("n", "0");
        ask("stop followers");
        try {
            leader.run(false, client -> client.incr("n"));
            throw new AssertionError("no quorum");
        } catch (Unknown error) {
            // As it should be.
        }
        while (true) {
            String error = refused(() -> leader.client.set("k", "v"));
            if (error.startsWith("LOADING")) break;
            check(error.startsWith("INDETERMINATE"), error);
        }
        ask("continue followers");
        String n = leader.run(true, client -> client.get("n"));
        check(List.of("0", "1").contains(n), n);
    }

    /** Writes while the wishes are granted, and 50 times more. Every acknowledged value stays. */
    static void survives(Leader leader, String prefix, String... wishes) throws InterruptedException {
        var granting = CompletableFuture.runAsync(() -> List.of(wishes).forEach(Client::ask));
        var keys = new ArrayList<String>();
        for (int more = 50; more > 0; more -= granting.isDone() ? 1 : 0) {
            String key = prefix + keys.size();
            leader.run(true, client -> client.set(key, key));
            keys.add(key);
        }
        granting.join();
        expect(keys, leader.run(true, client -> client.mget(keys.toArray(String[]::new))));
    }

    public static void main(String[] arguments) throws InterruptedException {
        var leader = new Leader(List.of(System.getenv("REDIS").split(",")));
        var urls = List.of(System.getenv("HTTP").split(","));
        callsWork(leader, System.getenv("REDIS_FOLLOWER"));
        lostQuorum(leader);
        check(incrOnce(urls, "once", "token 1").contains("\"value\":\"1\""), "an increment");
        survives(leader, "killed", "kill leader");
        incrOnce(urls, "once", "token 1");
        check(incrOnce(urls, "once", "token 2").contains("\"value\":\"2\""), "a second increment");
        survives(leader, "back", "start other", "kill leader");
        survives(leader, "restarted", "restart leader");
        System.exit(0);
    }
}
