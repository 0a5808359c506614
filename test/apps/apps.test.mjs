// Applications as their authors made them, straight to their server and through
// the gateway: they must not tell the difference (PRX-06).
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer as createHTTP } from "node:http";
import { createServer as createTCP } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { wsconnect } from "@nats-io/nats-core";
import { GraphQLObjectType, GraphQLSchema, GraphQLString, GraphQLInt } from "graphql";
import { createClient } from "graphql-ws";
import { useServer } from "graphql-ws/use/ws";
import mqtt from "mqtt";
import { Client as RPCClient, Server as RPCServer } from "rpc-websockets";
import { Server as SocketIO } from "socket.io";
import { io } from "socket.io-client";
import { WebSocket, WebSocketServer } from "ws";
import { freePort, gateway, installed, listen, program, token } from "./harness.mjs";

const big = "long ".repeat(40_000);
const digest = (data) => `${data.length} bytes ${createHash("sha256").update(data).digest("hex").slice(0, 16)}`;

/**
 * Runs play(base, query) on the server's port and on the gateway's, and compares
 * what it noted. query is a token where one is needed: "?token=…".
 */
async function compare(path, port, play) {
  const direct = await play(`ws://127.0.0.1:${port}`, "");
  const gate = await gateway({ [path]: port });
  try {
    const through = await play(`ws://127.0.0.1:${gate.port}`, `?token=${token()}`);
    assert.deepEqual(through, direct);
    assert.ok(direct.length > 3, "nothing was said");
    // Nobody comes in without a token, and none is in the log.
    const stranger = new WebSocket(`ws://127.0.0.1:${gate.port}${path}`);
    const [, refusal] = await once(stranger.on("error", () => {}), "unexpected-response");
    assert.equal(refusal.statusCode, 401);
    refusal.destroy();
    assert.ok(!gate.log.some((line) => line.includes("eyJ")), "a token is in the log");
  } finally {
    assert.equal(await gate.stop(), 0, gate.log.join("\n"));
  }
}

test("PRX-06: ws: text, binary, compression, pings, protocols and close codes", { timeout: 20_000 }, async () => {
  const http = createHTTP();
  const server = new WebSocketServer({ server: http, perMessageDeflate: { threshold: 0 }, handleProtocols: (offered) => (offered.has("v2") ? "v2" : false) });
  server.on("connection", (socket, request) => {
    socket.send(`path ${request.url}`);
    socket.on("message", (data, binary) => {
      if (String(data) === "close") return socket.close(4321, "as you wish");
      socket.send(data, { binary });
    });
  });
  after(() => http.close());
  await compare("/ws", await listen(http), async (base, query) => {
    const said = [];
    const socket = new WebSocket(`${base}/ws${query}`, ["v1", "v2"]);
    socket.on("message", (data, binary) => said.push(`${binary} ${data.length > 100 ? digest(data) : data}`));
    const next = () => once(socket, "message");
    await Promise.all([once(socket, "open"), next()]);
    said.push(`protocol ${socket.protocol}`, `extensions ${socket.extensions}`);
    for (const message of ["hello", "", "ünïcödé ☃", big, Buffer.from([0, 255, 10]), Buffer.alloc(300_000, 7)]) {
      socket.send(message);
      await next();
    }
    socket.send("in two ", { fin: false });
    socket.send("parts", { fin: true });
    await next();
    socket.ping("are you there?");
    said.push(`pong ${(await once(socket, "pong"))[0]}`);
    socket.send("close");
    const [code, reason] = await once(socket, "close");
    return [...said, `closed ${code} ${reason}`];
  });
});

test("PRX-06: socket.io over WebSocket: events, acknowledgements, rooms, binary", { timeout: 20_000 }, async () => {
  const http = createHTTP();
  const server = new SocketIO(http, { transports: ["websocket"], pingInterval: 200 });
  server.of("/chat").on("connection", (socket) => {
    socket.on("join", async (room, done) => {
      await socket.join(room);
      done({ joined: room });
    });
    socket.on("say", (room, text, bytes) => server.of("/chat").to(room).emit("said", text, bytes));
    socket.on("leave", () => socket.disconnect(true));
  });
  const port = await listen(http);
  after(() => server.close());
  await compare("/socket.io/", port, async (base, query) => {
    const said = [];
    const options = { transports: ["websocket"], forceNew: true, reconnection: false, query: query ? { token: query.slice("?token=".length) } : {} };
    const [a, b] = [io(`${base}/chat`, options), io(`${base}/chat`, options)];
    await Promise.all([once(a, "connect"), once(b, "connect")]);
    for (const [name, socket] of Object.entries({ a, b })) {
      said.push(`${name}: ${JSON.stringify(await socket.emitWithAck("join", "lobby"))}`);
    }
    for (const [text, bytes] of [["hello", Buffer.from([1, 2, 3])], [big, Buffer.alloc(100_000, 9)]]) {
      const heard = Promise.all([a, b].map((socket) => once(socket, "said")));
      a.emit("say", "lobby", text, bytes);
      for (const [text, bytes] of await heard) said.push(`${digest(Buffer.from(text))}, ${digest(bytes)}`);
    }
    await once(a.io.engine, "heartbeat"); // engine.io's own ping went both ways
    said.push("heartbeat");
    a.emit("leave");
    said.push(`a: ${(await once(a, "disconnect"))[0]}`);
    b.disconnect();
    return said;
  });
});

test("PRX-06: graphql-ws: queries, errors and subscriptions", { timeout: 20_000 }, async () => {
  const http = createHTTP();
  const field = (name, of) => new GraphQLObjectType({ name, fields: of });
  const schema = new GraphQLSchema({
    query: field("Query", {
      hello: { type: GraphQLString, args: { to: { type: GraphQLString } }, resolve: (_, { to }) => `hello ${to}` },
      fails: { type: GraphQLString, resolve: () => Promise.reject(new Error("as it should")) },
    }),
    subscription: field("Subscription", {
      count: {
        type: GraphQLInt,
        args: { to: { type: GraphQLInt } },
        async *subscribe(_, { to }) {
          for (let count = 1; count <= to; count++) yield { count };
        },
      },
    }),
  });
  const server = new WebSocketServer({ server: http, path: "/graphql" });
  useServer({ schema }, server);
  after(() => http.close());
  await compare("/graphql", await listen(http), async (base, query) => {
    const said = [];
    const client = createClient({ url: `${base}/graphql${query}`, webSocketImpl: WebSocket, lazy: false, retryAttempts: 0 });
    const closed = new Promise((resolve) => client.on("closed", resolve));
    const run = async (payload) => {
      for await (const result of client.iterate(payload)) said.push(JSON.stringify(result));
    };
    await run({ query: "query ($to: String) { hello(to: $to) }", variables: { to: "ünïcödé ☃" } });
    await run({ query: "{ fails }" });
    await run({ query: "subscription { count(to: 50) }" });
    await run({ query: "{ nothing }" }).catch((errors) => said.push(`refused ${JSON.stringify(errors)}`));
    await client.dispose();
    const { code, reason } = await closed;
    return [...said, `closed ${code} ${reason}`];
  });
});

test("PRX-06: rpc-websockets: calls, errors, notifications and events", { timeout: 20_000 }, async () => {
  const port = await freePort();
  const server = new RPCServer({ port, host: "127.0.0.1", path: "/rpc" });
  await once(server, "listening");
  after(() => server.close());
  const space = server.of("/rpc");
  space.register("sum", ([a, b]) => a + b);
  space.register("echo", ([text]) => text);
  space.register("fail", () => {
    throw new Error("as it should");
  });
  space.event("news");
  space.register("publish", ([text]) => space.emit("news", text));
  await compare("/rpc", port, async (base, query) => {
    const said = [];
    const client = new RPCClient(`${base}/rpc${query}`, { reconnect: false });
    await once(client, "open");
    said.push(await client.call("sum", [2, 40]), digest(Buffer.from(await client.call("echo", [big]))));
    for (const method of ["fail", "nothing"]) await client.call(method, []).catch((error) => said.push(JSON.stringify(error)));
    said.push(JSON.stringify(await client.subscribe("news")));
    const heard = new Promise((resolve) => client.once("news", (...news) => resolve(news)));
    await client.notify("publish", ["breaking"]);
    said.push(JSON.stringify(await heard));
    const closed = once(client, "close");
    client.close(1000, "bye");
    return [...said, `closed ${(await closed).join(" ")}`];
  });
});

const mosquitto = installed("mosquitto");
test("PRX-06: MQTT.js and mosquitto: will, retained messages, QoS 0 to 2", { timeout: 20_000, skip: mosquitto ? false : "mosquitto is not installed" }, async () => {
  const dir = await mkdtemp(join(tmpdir(), "wsbouncer-mosquitto-"));
  const port = await freePort();
  // Debian's does not start with a listener for WebSocket alone.
  await writeFile(join(dir, "conf"), `listener ${await freePort()} 127.0.0.1\nlistener ${port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n`);
  const stop = await program(port, mosquitto, "-c", join(dir, "conf"));
  after(async () => {
    await stop();
    await rm(dir, { recursive: true });
  });
  await compare("/mqtt", port, async (base, query) => {
    const said = [];
    const options = { reconnectPeriod: 0, protocolVersion: 5, clean: true };
    const watcher = await mqtt.connectAsync(`${base}/mqtt${query}`, options);
    const waiting = {};
    watcher.on("message", (topic, payload, { qos, retain }) => {
      said.push(`${topic} ${digest(payload)} QoS ${qos} retained ${retain}`);
      waiting[topic]?.();
    });
    const heard = (topic) => new Promise((resolve) => (waiting[topic] = resolve));
    said.push(JSON.stringify(await watcher.subscribeAsync("rooms/#", { qos: 2 })));
    const speaker = await mqtt.connectAsync(`${base}/mqtt${query}`, { ...options, will: { topic: "rooms/will", payload: "gone", qos: 1 } });
    for (const qos of [0, 1, 2]) {
      const came = heard(`rooms/${qos}`);
      await speaker.publishAsync(`rooms/${qos}`, big.slice(0, 5 + 3000 * qos), { qos }); // Debian's mosquitto hangs on what is much longer
      await came;
    }
    await speaker.publishAsync("kept", "still here", { qos: 1, retain: true });
    const kept = heard("kept");
    await watcher.subscribeAsync("kept");
    await kept;
    const removed = heard("kept");
    await speaker.publishAsync("kept", "", { qos: 1, retain: true });
    await removed;
    const will = heard("rooms/will");
    speaker.stream.destroy();
    await will;
    await watcher.endAsync();
    return said;
  });
});

const websockify = installed("websockify");
test("PRX-06: websockify: a server that speaks first and in binary, as VNC does", { timeout: 20_000, skip: websockify ? false : "websockify is not installed" }, async () => {
  const tcp = createTCP((socket) => {
    socket.write("RFB 003.008\n");
    socket.pipe(socket);
  });
  const port = await freePort();
  const stop = await program(port, websockify, `127.0.0.1:${port}`, `127.0.0.1:${await listen(tcp)}`);
  after(async () => {
    await stop();
    tcp.close();
  });
  await compare("/websockify", port, async (base, query) => {
    const said = [];
    const socket = new WebSocket(`${base}/websockify${query}`, ["binary"]);
    let came = Buffer.alloc(0);
    socket.on("message", (data) => (came = Buffer.concat([came, data])));
    const read = async (length) => {
      while (came.length < length) await once(socket, "message");
      said.push(digest(came.subarray(0, length)));
      came = came.subarray(length);
    };
    await once(socket, "open");
    said.push(`protocol ${socket.protocol}`);
    await read(12);
    for (const length of [1, 125, 126, 65_536, 500_000]) {
      socket.send(Buffer.from(Array.from({ length }, (_, i) => (i * 31 + length) & 0xff)));
      await read(length);
    }
    socket.close(1000);
    const [code] = await once(socket, "close");
    return [...said, `closed ${code}`];
  });
});

const nats = installed("nats-server");
test("PRX-06: nats.js and nats-server: requests, headers, a megabyte, drain", { timeout: 20_000, skip: nats ? false : "nats-server is not installed" }, async () => {
  const dir = await mkdtemp(join(tmpdir(), "wsbouncer-nats-"));
  const port = await freePort();
  await writeFile(join(dir, "conf"), `listen: "127.0.0.1:${await freePort()}"\nwebsocket { listen: "127.0.0.1:${port}", no_tls: true, compression: true }\n`);
  const stop = await program(port, nats, "-c", join(dir, "conf"));
  after(async () => {
    await stop();
    await rm(dir, { recursive: true });
  });
  await compare("/nats", port, async (base, query) => {
    const said = [];
    const options = {
      servers: `${base}/nats${query}`, reconnect: false, ignoreClusterUpdates: true,
      wsFactory: (url) => ({ socket: new WebSocket(url), encrypted: false }), // Node 20 has none of its own
    };
    const [a, b] = await Promise.all([wsconnect(options), wsconnect(options)]);
    said.push(`${a.info.version}, at most ${a.info.max_payload} bytes`);
    a.subscribe("sum", {
      callback: (_, message) => message.respond(String(message.json().reduce((x, y) => x + y)), { headers: message.headers }),
    });
    a.subscribe("echo", { callback: (_, message) => message.respond(message.data) });
    await a.flush();
    said.push((await b.request("sum", JSON.stringify([2, 40]))).string());
    for (const length of [0, 1, 70_000, 1_000_000]) {
      said.push(digest((await b.request("echo", Buffer.alloc(length, length & 0xff), { timeout: 10_000 })).data));
    }
    await b.request("nobody.listens", "").catch((error) => said.push(`${error.name}: ${error.message}`));
    const heard = [];
    const rooms = b.subscribe("rooms.>", { max: 500 });
    await b.flush();
    for (let i = 0; i < 500; i++) a.publish(`rooms.${i % 7}`, `${i} ünïcödé ☃`);
    for await (const message of rooms) heard.push(`${message.subject} ${message.string()}`);
    said.push(`${heard.length} heard, ${digest(Buffer.from(heard.join()))}`, `round trip ${(await b.rtt()) >= 0}`);
    for (const connection of [b, a]) { // a drain lets what is under way end, then closes
      await connection.drain();
      said.push(`closed ${await connection.closed()}`);
    }
    return said;
  });
});
