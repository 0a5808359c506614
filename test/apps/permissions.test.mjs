// Rules about messages in front of applications as their authors made them: what
// is allowed works, what is denied comes back as that client's ordinary error, and
// the session goes on.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer as createHTTP } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Client as StompClient } from "@stomp/stompjs";
import { GraphQLInt, GraphQLObjectType, GraphQLSchema, GraphQLString } from "graphql";
import { createClient } from "graphql-ws";
import { useServer } from "graphql-ws/use/ws";
import mqtt from "mqtt";
import { Client as RPCClient, Server as RPCServer } from "rpc-websockets";
import { Server as SocketIO } from "socket.io";
import { io } from "socket.io-client";
import { WebSocket, WebSocketServer } from "ws";
import { freePort, gateway, installed, listen, program, token } from "./harness.mjs";

/** The gateway before one upstream with permissions; ends with the test. */
async function guarded(t, path, port, permissions) {
  const gate = await gateway({ [path]: { port, permissions } });
  t.after(async () => assert.equal(await gate.stop(), 0, gate.log.join("\n")));
  return { base: `ws://127.0.0.1:${gate.port}`, log: gate.log };
}

test("graphql-ws: operations and fields", { timeout: 20_000 }, async (t) => {
  const http = createHTTP();
  const field = (name, of) => new GraphQLObjectType({ name, fields: of });
  const seen = [];
  const text = (name) => ({ type: GraphQLString, resolve: () => (seen.push(name), name) });
  const schema = new GraphQLSchema({
    query: field("Query", { hello: text("hello"), secret: text("secret") }),
    mutation: field("Mutation", { wipe: text("wipe") }),
    subscription: field("Subscription", {
      count: { type: GraphQLInt, async *subscribe() { for (let count = 1; count <= 3; count++) yield { count }; } },
      audit: { type: GraphQLInt, async *subscribe() { seen.push("audit"); yield { audit: 1 }; } },
    }),
  });
  useServer({ schema }, new WebSocketServer({ server: http, path: "/graphql" }));
  after(() => http.close());
  const { base } = await guarded(t, "/graphql", await listen(http), {
    format: "graphql-transport-ws",
    from_client: [
      { action: "query", target: ["hello", "__typename"] },
      { action: "subscription", target: "count" },
      { action: "mutation", scopes: ["admin"] },
    ],
  });
  const client = createClient({ url: `${base}/graphql?token=${token()}`, webSocketImpl: WebSocket, lazy: false, retryAttempts: 0 });
  const run = async (query, more = {}) => {
    const results = [];
    for await (const result of client.iterate({ query, ...more })) results.push(result.data);
    return JSON.stringify(results);
  };
  assert.equal(await run("{ hello }"), '[{"hello":"hello"}]');
  assert.equal(await run("query Q { __typename alias: hello }"), '[{"__typename":"Query","alias":"hello"}]');
  assert.equal(await run("subscription { count }"), '[{"count":1},{"count":2},{"count":3}]');
  const denied = [{ message: "Not allowed", extensions: { code: "not_allowed" } }];
  for (const [query, more] of [
    ["{ secret }"], ["{ hello secret }"], ["{ hello: secret }"], ["{ ...F } fragment F on Query { secret }"], ["{ ... { secret } }"],
    ["mutation { wipe }"], ["subscription { audit }"], ["query A { hello } query B { secret }", { operationName: "B" }],
  ]) {
    await assert.rejects(run(query, more), (errors) => (assert.deepEqual(errors, denied), true), query);
  }
  assert.equal(await run("{ hello }"), '[{"hello":"hello"}]'); // the session goes on
  assert.deepEqual(new Set(seen), new Set(["hello"]));
  await client.dispose();
});

test("Socket.IO: events, namespaces, acknowledgements, binary", { timeout: 20_000 }, async (t) => {
  const http = createHTTP();
  const server = new SocketIO(http, { transports: ["websocket"] });
  const seen = [];
  for (const name of ["/chat", "/admin"]) {
    server.of(name).on("connection", (socket) => {
      seen.push(`connected ${name}`);
      socket.onAny((event, ...args) => {
        seen.push(event);
        const done = args.at(-1);
        if (typeof done === "function") done({ ok: event, bytes: Buffer.isBuffer(args[0]) ? args[0].length : 0 });
      });
    });
  }
  const port = await listen(http);
  after(() => server.close());
  const { base } = await guarded(t, "/socket.io/", port, {
    format: "socketio",
    from_client: [
      { action: "connect", target: ["/", "/chat"] },
      { action: ["say", "upload"], target: "/chat", allow: 'size < 1000 && msg[0] != "x"' },
      { action: "limited", target: "/chat", limit: "1/h" },
    ],
  });
  const options = { transports: ["websocket"], forceNew: true, reconnection: false, query: { token: token() } };
  const chat = io(`${base}/chat`, options);
  await once(chat, "connect");
  assert.deepEqual(await chat.emitWithAck("say", "hello"), { ok: "say", bytes: 0 });
  assert.deepEqual(await chat.emitWithAck("upload", Buffer.from([1, 2, 3])), { ok: "upload", bytes: 3 });
  const denied = { error: { code: "not_allowed", message: "Not allowed" } };
  assert.deepEqual(await chat.emitWithAck("wipe"), denied);
  assert.deepEqual(await chat.emitWithAck("say", "long ".repeat(500)), denied);
  assert.deepEqual(await chat.emitWithAck("wipe", Buffer.from([1, 2, 3])), denied); // and its attachment with it
  assert.deepEqual(await chat.emitWithAck("limited"), { ok: "limited", bytes: 0 });
  assert.deepEqual(await chat.emitWithAck("limited"), denied);
  const told = once(chat, "error");
  chat.emit("wipe");
  assert.deepEqual(await told, [denied]);
  const admin = io(`${base}/admin`, options);
  const [error] = await once(admin, "connect_error");
  assert.deepEqual([error.message, error.data], ["Not allowed", { code: "not_allowed" }]);
  admin.disconnect();
  assert.deepEqual(await chat.emitWithAck("say", "still here"), { ok: "say", bytes: 0 });
  assert.deepEqual(new Set(seen), new Set(["connected /chat", "say", "upload", "limited"]));
  chat.disconnect();
});

test("rpc-websockets: JSON-RPC methods", { timeout: 20_000 }, async (t) => {
  const port = await freePort();
  const server = new RPCServer({ port, host: "127.0.0.1", path: "/rpc" });
  await once(server, "listening");
  after(() => server.close());
  const seen = [];
  const space = server.of("/rpc");
  for (const name of ["sum", "wipe"]) space.register(name, ([a, b]) => (seen.push(name), a + b));
  const { base } = await guarded(t, "/rpc", port, { format: "jsonrpc", from_client: [{ action: "sum", allow: "msg.params[0] < 100" }] });
  const client = new RPCClient(`${base}/rpc?token=${token()}`, { reconnect: false });
  await once(client, "open");
  assert.equal(await client.call("sum", [2, 40]), 42);
  const denied = { code: -32003, message: "Not allowed", data: { code: "not_allowed" } };
  await assert.rejects(client.call("wipe", []), (error) => (assert.deepEqual({ ...error, message: error.message }, denied), true));
  await assert.rejects(client.call("sum", [200, 1]), (error) => (assert.equal(error.code, denied.code), true));
  assert.equal(await client.call("sum", [1, 2]), 3);
  assert.deepEqual(seen, ["sum", "sum"]);
  client.close();
});

const mosquitto = installed("mosquitto");
for (const protocolVersion of [4, 5]) {
  test(`MQTT.js ${protocolVersion} and mosquitto: topics`, { timeout: 20_000, skip: mosquitto ? false : "mosquitto is not installed" }, async (t) => {
    const dir = await mkdtemp(join(tmpdir(), "wsbouncer-mosquitto-"));
    const port = await freePort();
    await writeFile(join(dir, "conf"), `listener ${await freePort()} 127.0.0.1\nlistener ${port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n`);
    const stop = await program(port, mosquitto, "-c", join(dir, "conf"));
    t.after(async () => {
      await stop();
      await rm(dir, { recursive: true });
    });
    const { base } = await guarded(t, "/mqtt", port, {
      format: "mqtt",
      from_client: [
        { action: "connect", target: "${subject}-*" },
        { action: ["publish", "subscribe"], target: "tenants/${claims.tenant}/#" },
        { action: "subscribe", target: "public/+" },
      ],
    });
    const options = (name, more = {}) => ({ reconnectPeriod: 0, protocolVersion, clean: true, clientId: name, ...more });
    const at = (claims) => `${base}/mqtt?token=${token(claims)}`;
    const watcher = await mqtt.connectAsync(`ws://127.0.0.1:${port}/mqtt`, options("watcher"));
    const seen = [];
    watcher.on("message", (topic) => seen.push(topic));
    await watcher.subscribeAsync("#");

    const client = await mqtt.connectAsync(at({ tenant: 42 }), options("ann-1"));
    const granted = await client.subscribeAsync(["tenants/42/#", "public/x"], { qos: 1 });
    assert.deepEqual(granted.map((g) => g.qos), [1, 1]);
    const heard = once(client, "message");
    await client.publishAsync("tenants/42/a", "mine", { qos: 1 });
    assert.equal((await heard)[0], "tenants/42/a");
    for (const topic of ["tenants/43/#", "#", "tenants/+/a", "public/#", "$SYS/#"]) {
      await assert.rejects(client.subscribeAsync(topic, { qos: 1 }), topic);
    }
    const refused = client.publishAsync("tenants/43/a", "theirs", { qos: 1 });
    await (protocolVersion === 5 ? assert.rejects(refused, /Not authorized/) : refused); // 3.1.1 has no word for it
    await client.publishAsync("public/x", "may only be read", { qos: 0 });
    await client.publishAsync("tenants/42/last", "still here", { qos: 2 });
    while (seen.at(-1) !== "tenants/42/last") await once(watcher, "message");
    assert.deepEqual(seen, ["tenants/42/a", "tenants/42/last"]);
    await client.endAsync();

    // Another client's name, and a will for somebody else's topic.
    for (const more of [{ clientId: "bob-1" }, { clientId: "ann-2", will: { topic: "tenants/43/will", payload: "x", qos: 0, retain: false } }]) {
      await assert.rejects(mqtt.connectAsync(at({ tenant: 42 }), options("ann-2", more)), /Not authorized/i);
    }
    await watcher.endAsync();
  });
}

// The one in the path becomes another user.
const rabbitmq = installed("/usr/lib/rabbitmq/bin/rabbitmq-server");
test("stompjs and RabbitMQ: destinations", { timeout: 60_000, skip: rabbitmq ? false : "rabbitmq-server is not installed" }, async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "wsbouncer-rabbitmq-"));
  const [port, amqp, stomp, dist, epmd] = await Promise.all([0, 0, 0, 0, 0].map(freePort));
  await writeFile(join(dir, "plugins"), "[rabbitmq_web_stomp].\n");
  await writeFile(join(dir, "rabbitmq.conf"), [
    `listeners.tcp.default = 127.0.0.1:${amqp}`, `stomp.listeners.tcp.1 = 127.0.0.1:${stomp}`, "web_stomp.tcp.ip = 127.0.0.1", `web_stomp.tcp.port = ${port}`,
    "log.console = true", "log.file = false", "",
  ].join("\n"));
  const stop = await program({
    port, command: rabbitmq, patience: 40_000,
    env: {
      HOME: dir, RABBITMQ_NODENAME: `test${port}@localhost`, RABBITMQ_MNESIA_BASE: join(dir, "db"), RABBITMQ_LOG_BASE: join(dir, "log"), RABBITMQ_CONFIG_FILE: join(dir, "rabbitmq"),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, "plugins"), RABBITMQ_DIST_PORT: String(dist), ERL_EPMD_ADDRESS: "127.0.0.1", ERL_EPMD_PORT: String(epmd),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1}", ERL_CRASH_DUMP_SECONDS: "0",
    },
  });
  t.after(async () => {
    await stop();
    spawnSync("epmd", ["-port", String(epmd), "-kill"]); // which outlives who started it
    await rm(dir, { recursive: true });
  });
  const { base } = await guarded(t, "/ws", port, {
    format: "stomp",
    from_client: [
      { action: "connect" },
      { action: ["send", "subscribe"], target: "/topic/${claims.team}.*" },
    ],
  });
  const client = new StompClient({
    webSocketFactory: () => new WebSocket(`${base}/ws?token=${token({ team: "red" })}`, ["v12.stomp"]),
    connectHeaders: { login: "guest", passcode: "guest" }, reconnectDelay: 0,
  });
  const errors = [];
  const waiting = [];
  client.onStompError = (frame) => (errors.push(frame), waiting.shift()?.(frame));
  const connected = new Promise((resolve) => (client.onConnect = resolve));
  client.activate();
  await connected;
  const heard = [];
  const next = () => new Promise((resolve) => (client.onHeard = resolve));
  const receipt = (id) => new Promise((resolve) => client.watchForReceipt(id, resolve));
  const ready = receipt("sub");
  client.subscribe("/topic/red.news", (message) => (heard.push(message.body), client.onHeard?.()), { receipt: "sub" });
  await ready;
  let arrives = next();
  client.publish({ destination: "/topic/red.news", body: "hello" });
  await arrives;
  const refused = () => new Promise((resolve) => waiting.push(resolve));
  let error = refused();
  client.publish({ destination: "/topic/blue.news", body: "not mine", headers: { receipt: "r:1" } });
  assert.deepEqual([(await error).headers.message, error && (await error).headers["receipt-id"]], ["Not allowed", "r:1"]);
  error = refused();
  client.subscribe("/topic/blue.news", () => heard.push("stolen"));
  await error;
  arrives = next();
  client.publish({ destination: "/topic/red.news", body: "still here" });
  await arrives;
  assert.deepEqual(heard, ["hello", "still here"]);
  assert.equal(errors.length, 2);
  await client.deactivate();
});
