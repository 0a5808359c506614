import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { WebSocket as NodeWebSocket } from "ws";
import { WsBouncer, WsBouncerError, type Options, type ReconnectingEvent } from "../src/index.ts";
import { browser, next, Scripted } from "./server.ts";

let server: Scripted;
let url: string;
let jar: typeof fetch;
let clients: WsBouncer[];

beforeEach(async () => {
  server = new Scripted();
  url = await server.start();
  jar = browser();
  clients = [];
});

afterEach(async () => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
  for (const client of clients) client.close();
  await server.stop();
});

/** One more tab of the same browser. */
function tab(more: Partial<Options> = {}): WsBouncer {
  const client = new WsBouncer({ url, fetch: jar, WebSocket: NodeWebSocket as unknown as typeof WebSocket, ...more });
  clients.push(client);
  return client;
}

async function loggedIn(username = "ann"): Promise<WsBouncer> {
  const auth = tab();
  await auth.login({ username, password: "right" });
  return auth;
}

/** Without pauses between attempts. */
function noJitter(): void {
  vi.spyOn(Math, "random").mockReturnValue(0);
}

test("logs in, says who it is, logs out", async () => {
  const auth = tab();
  expect(await auth.session()).toBeNull();
  const session = await auth.login({ username: "ann", password: "right" });
  expect(session).toMatchObject({ subject: "ann", scopes: ["chat", "chat:write"] });
  expect(session.expiresAt).toBeGreaterThan(Date.now() + 50_000);
  expect(server.last("/auth/login").body).toEqual({ username: "ann", password: "right", cookie: true });
  expect(await auth.session()).toEqual({ ...session, expiresAt: expect.any(Number) });

  const out = next(auth, "loggedout");
  await auth.logout();
  await out;
  expect(await auth.session()).toBeNull();
});

test("a second factor follows the password", async () => {
  const auth = tab();
  const half = await auth.login({ username: "ann", password: "half" }).catch((e) => e);
  expect(half).toMatchObject({ code: "factor_required", challenge: "c", factors: ["totp"] });
  expect((await auth.login({ challenge: half.challenge, code: "123456" })).sessionId).toBeTruthy();
});

test("a refusal is a WsBouncerError with the server's code", async () => {
  const error = await tab().login({ username: "ann", password: "wrong" }).catch((e) => e);
  expect(error).toBeInstanceOf(WsBouncerError);
  expect(error).toMatchObject({ code: "login_failed", status: 401, message: "Wrong name or password." });
});

test("Retry-After, a server that is away and an answer that is not JSON are told apart", async () => {
  const auth = tab();
  server.script.set("/auth/login", [{ status: 429, body: { code: "login_throttled", detail: "Wait." }, headers: { "retry-after": "7" } }, "hang up"]);
  await expect(auth.login({ username: "ann", password: "x" })).rejects.toMatchObject({ code: "login_throttled", retryAfter: 7 });
  await expect(auth.login({ username: "ann", password: "x" })).rejects.toMatchObject({ code: "network", status: 0 });
  const html = tab({ fetch: async () => new Response("<html>") });
  await expect(html.session()).rejects.toMatchObject({ code: "unexpected" });
});

test("a login whose cookies the browser drops fails with a name", async () => {
  await expect(tab({ fetch: (input, init) => fetch(input, init) }).login({ username: "ann", password: "right" })).rejects.toMatchObject({ code: "cookies_blocked" });
});

test("two logins at once are one; other credentials are another", async () => {
  const auth = tab();
  const ann = { username: "ann", password: "right" };
  const [a, b] = await Promise.all([auth.login(ann), auth.login({ ...ann })]);
  expect(a).toBe(b);
  expect(server.count("/auth/login")).toBe(1);
});

test("connect is a WebSocket: ticket in the URL, messages both ways, close", async () => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby?since=a+b%20c");
  expect(socket.readyState).toBe(WebSocketStates.CONNECTING);
  expect(socket.url).toBe(`${url.replace("http", "ws")}/chat/lobby?since=a+b%20c`);
  expect(() => socket.send("early")).toThrow(expect.objectContaining({ name: "InvalidStateError" }));
  socket.binaryType = "arraybuffer";
  const opened = vi.fn();
  socket.onopen = opened;
  await next(socket, "open");
  expect(opened).toHaveBeenCalledOnce();
  expect(socket.readyState).toBe(socket.OPEN);
  expect(server.last("/auth/ticket").body).toEqual({ path: "/chat/lobby" });
  expect(server.sockets.has(socket.connection)).toBe(true);

  const text = next<MessageEvent>(socket, "message");
  socket.send("hello");
  expect((await text).data).toBe("echo hello");
  const binary = next<MessageEvent>(socket, "message");
  socket.send(new Uint8Array([1, 2, 3]));
  expect(new Uint8Array((await binary).data)).toEqual(new Uint8Array([1, 2, 3]));

  const closed = next<CloseEvent>(socket, "close");
  socket.close(4000, "done");
  expect(socket.readyState).toBe(socket.CLOSING);
  expect(await closed).toMatchObject({ code: 4000, reason: "done", wasClean: true });
  expect(socket.readyState).toBe(socket.CLOSED);
  expect(() => socket.send("late")).not.toThrow();
  expect(server.count("/auth/ticket")).toBe(1);
});

const WebSocketStates = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };

test("what the native constructor refuses is refused, and other hosts never get a ticket", async () => {
  const auth = await loggedIn();
  const syntax = expect.objectContaining({ name: "SyntaxError" });
  expect(() => auth.connect("/x", ["a", "a"])).toThrow(syntax);
  expect(() => auth.connect("/x", "a b")).toThrow(syntax);
  expect(() => auth.connect("wss://evil.example/chat")).toThrow(syntax);
  expect(() => auth.connect("//evil.example/chat")).toThrow(syntax);
  const socket = auth.connect("/x");
  expect(() => socket.close(1001)).toThrow(expect.objectContaining({ name: "InvalidAccessError" }));
  expect(() => socket.close(1000, "€".repeat(42))).toThrow(syntax);
  socket.close();
  expect(await next<CloseEvent>(socket, "close")).toMatchObject({ code: 1006, wasClean: false });
  expect(server.count("/auth/ticket")).toBeLessThanOrEqual(1);
});

test("what a socket was stays readable after close, as with the native one", async () => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby", ["chat.v2"]);
  expect([socket.protocol, socket.extensions, socket.bufferedAmount]).toEqual(["", "", 0]);
  await next(socket, "open");
  expect(socket.protocol).toBe("chat.v2");
  const closed = next<CloseEvent>(socket, "close");
  socket.close(undefined, "bye"); // a reason alone is sent with 1000
  expect(await closed).toMatchObject({ code: 1000, reason: "bye" });
  expect(socket.protocol).toBe("chat.v2");
  socket.send("12345");
  expect(socket.bufferedAmount).toBeGreaterThanOrEqual(5);
});

test("between two connections there is no protocol, and nothing is buffered", async () => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby", ["chat.v2"]);
  await next(socket, "open");
  const again = next(socket, "reconnecting");
  server.sockets.get(socket.connection)!.close(1012, "restarting");
  await again;
  expect([socket.readyState, socket.protocol, socket.bufferedAmount]).toEqual([socket.CONNECTING, "", 0]);
  expect(() => socket.send("x")).toThrow(expect.objectContaining({ name: "InvalidStateError" }));
});

test("a handler set to null or replaced is not called", async () => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  const first = vi.fn();
  const second = vi.fn();
  socket.onopen = first;
  socket.onopen = second;
  expect(socket.onopen).toBe(second);
  socket.onmessage = first;
  socket.onmessage = null;
  await next(socket, "open");
  socket.send("x");
  await next(socket, "message");
  expect(first).not.toHaveBeenCalled();
  expect(second).toHaveBeenCalledOnce();
});

test("a lost connection comes back with a new ticket, and open fires again", async () => {
  noJitter();
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  const before = socket.connection;
  const again = next<ReconnectingEvent>(socket, "reconnecting");
  const close = vi.fn();
  socket.onclose = close;
  server.sockets.get(before)!.terminate();
  expect(await again).toMatchObject({ code: 1006, attempt: 1, delay: 0 });
  expect(socket.readyState).toBe(socket.CONNECTING);
  expect(socket.connection).toBe("");
  await next(socket, "open");
  expect(socket.connection).not.toBe(before);
  expect(close).not.toHaveBeenCalled();
});

test("pauses grow, with full jitter, and back off further for 1013", async () => {
  vi.spyOn(Math, "random").mockReturnValue(0.001);
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  server.refuse.push(502, 502, 502);
  const delays: number[] = [];
  socket.addEventListener("reconnecting", (e) => delays.push(e.delay));
  await next(socket, "open");
  expect(delays).toEqual([0.5, 1, 2]);
  delays.length = 0;
  server.sockets.get(socket.connection)!.close(1013, "overloaded");
  await next(socket, "open");
  expect(delays).toEqual([16]); // the fourth: this connection did not stand long
});

test("Retry-After of a ticket is waited for", async () => {
  noJitter();
  const auth = await loggedIn();
  server.script.set("/auth/ticket", [{ status: 503, body: { code: "overloaded", detail: "…" }, headers: { "retry-after": "30" } }]);
  const socket = auth.connect("/chat/lobby");
  expect(await next(socket, "reconnecting")).toMatchObject({ code: 1013, reason: "overloaded", delay: 30_000 });
  const closed = next<CloseEvent>(socket, "close");
  socket.close();
  expect(await closed).toMatchObject({ code: 1006 });
});

test("clients that were all told to wait as long do not all come back at once", async () => {
  vi.spyOn(Math, "random").mockReturnValue(0.5);
  const auth = await loggedIn();
  server.script.set("/auth/ticket", [{ status: 503, body: { code: "not_ready", detail: "…" }, headers: { "retry-after": "1" } }]);
  const socket = auth.connect("/chat/lobby");
  expect(await next(socket, "reconnecting")).toMatchObject({ delay: 1_000 + 1_000 });
});

test.each([1000, 1002, 1007, 1008, 1009, 3003])("%i is final", async (code) => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  const closed = next<CloseEvent>(socket, "close");
  server.sockets.get(socket.connection)!.close(code, "because");
  expect(await closed).toMatchObject({ code, reason: "because", wasClean: true });
  expect(server.count("/auth/ticket")).toBe(1);
});

test("close() in a reconnecting listener ends it", async () => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  socket.addEventListener("reconnecting", () => socket.close());
  server.sockets.get(socket.connection)!.close(4001, "app says no");
  await next(socket, "close");
  expect(server.count("/auth/ticket")).toBe(1);
});

test("3000 with the session alive: asked, then back", async () => {
  noJitter();
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  const asked = server.count("/auth/session");
  server.sockets.get(socket.connection)!.close(3000, "token_expired");
  await next(socket, "open");
  expect(server.count("/auth/session")).toBe(asked + 1);
  expect(server.count("/auth/token")).toBe(0);
});

test("3000 with the token gone: one refresh, then back", async () => {
  noJitter();
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  server.expire();
  server.sockets.get(socket.connection)!.close(3000, "token_revoked");
  await next(socket, "open");
  expect(server.count("/auth/token")).toBe(1);
});

test("3000 with the session gone: loggedout, and close says why", async () => {
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  const out = next(auth, "loggedout");
  const closed = next<CloseEvent>(socket, "close");
  server.revoke();
  server.sockets.get(socket.connection)!.close(3000, "subject_revoked");
  await out;
  expect(await closed).toMatchObject({ code: 3000, reason: "subject_revoked", wasClean: true });
  expect(server.count("/auth/token")).toBe(1);
});

test("a server that keeps saying 3000 is not asked for ever", async () => {
  noJitter();
  const auth = await loggedIn();
  const socket = auth.connect("/chat/lobby");
  socket.addEventListener("open", () => server.sockets.get(socket.connection)!.close(3000, "auth_required"));
  expect(await next<CloseEvent>(socket, "close")).toMatchObject({ code: 3000, reason: "auth_required" });
  expect(server.count("/auth/ticket")).toBe(3);
  expect(server.count("/auth/token")).toBe(1);
});

test("an expired token is refreshed before the ticket, without the app knowing", async () => {
  const auth = await loggedIn();
  server.expire();
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  expect(server.asked.map((a) => a.path).slice(2)).toEqual(["/auth/ticket", "/auth/token", "/auth/ticket"]);
});

test("nobody logged in: the socket ends with 3000", async () => {
  const auth = tab();
  const socket = auth.connect("/chat/lobby");
  const error = next(socket, "error");
  const closed = await next<CloseEvent>(socket, "close");
  await error;
  expect(closed).toMatchObject({ code: 3000, reason: "token_missing", wasClean: false });
  expect(server.count("/auth/ticket")).toBe(0);
});

test("a refused ticket ends it as the handshake would have", async () => {
  const auth = await loggedIn();
  server.script.set("/auth/ticket", [{ status: 403, body: { code: "insufficient_scope", detail: "…" } }, { status: 404, body: { code: "no_route", detail: "…" } }]);
  expect(await next<CloseEvent>(auth.connect("/a"), "close")).toMatchObject({ code: 3003, reason: "insufficient_scope" });
  expect(await next<CloseEvent>(auth.connect("/b"), "close")).toMatchObject({ code: 1008, reason: "no_route" });
});

test("many at once refresh once", async () => {
  const auth = await loggedIn();
  server.expire();
  const sockets = [1, 2, 3, 4, 5].map((n) => auth.connect(`/chat/${n}`));
  await Promise.all(sockets.map((socket) => next(socket, "open")));
  expect(server.count("/auth/token")).toBe(1);
});

test("tabs: a logout in one reaches the other, whose socket the server closes", async () => {
  const one = await loggedIn();
  const two = tab();
  const socket = two.connect("/chat/lobby");
  await next(socket, "open");
  const out = next(two, "loggedout");
  const closed = next<CloseEvent>(socket, "close");
  await one.logout();
  await out;
  expect(await closed).toMatchObject({ code: 3000, reason: "logged_out", wasClean: true });
});

test("tabs: when somebody else logs in, the sockets of the first are not theirs", async () => {
  noJitter();
  const one = await loggedIn("ann");
  const two = tab();
  const socket = two.connect("/chat/lobby");
  await next(socket, "open");
  const closed = next<CloseEvent>(socket, "close");
  const out = next(two, "loggedout");
  await one.login({ username: "bob", password: "right" });
  server.sockets.get(socket.connection)!.terminate();
  await out;
  expect(await closed).toMatchObject({ code: 3000, reason: "logged_out" });
});

test("logout everywhere says so", async () => {
  const auth = await loggedIn();
  await auth.logout({ everywhere: true });
  expect(server.last("/auth/logout").body).toEqual({ everywhere: true });
});

test("a logout that did not get through is not a logout", async () => {
  const auth = await loggedIn();
  server.script.set("/auth/logout", ["hang up"]);
  await expect(auth.logout()).rejects.toMatchObject({ code: "network" });
  expect(await auth.session()).toMatchObject({ subject: "ann" });
});

test("auth.WebSocket: one connection for one object, and the library reconnects", async () => {
  const auth = await loggedIn();
  const Impl = auth.WebSocket;
  expect(Impl.OPEN).toBe(1);
  const socket = new Impl(`${url.replace("http", "ws")}/chat/lobby`, ["graphql-transport-ws"]);
  await next(socket, "open");
  expect(socket.protocol).toBe("graphql-transport-ws");
  const closed = next<CloseEvent>(socket, "close");
  for (const ws of server.sockets.values()) ws.close(1012, "restarting");
  expect(await closed).toMatchObject({ code: 1012, reason: "restarting" });
  expect(server.count("/auth/ticket")).toBe(1);
});

test("own tokens: tickets by Bearer, a fresh one when refused, no cookies", async () => {
  const wants: boolean[] = [];
  const auth = tab({
    getToken: ({ fresh }) => {
      wants.push(fresh);
      return fresh ? "good" : "bad";
    },
  });
  const socket = auth.connect("/chat/lobby");
  await next(socket, "open");
  expect(wants).toEqual([false, true]);
  expect(server.last("/auth/ticket").bearer).toBe("good");
  expect(server.count("/auth/token")).toBe(0);
});

test("own tokens that stay refused end the socket", async () => {
  noJitter();
  const auth = tab({ getToken: () => "bad" });
  const socket = auth.connect("/chat/lobby");
  expect(await next<CloseEvent>(socket, "close")).toMatchObject({ code: 3000, reason: "token_expired" });
});

test("without any WebSocket there is a word about it", async () => {
  vi.stubGlobal("WebSocket", undefined);
  const auth = new WsBouncer({ url });
  clients.push(auth);
  expect(() => auth.connect("/chat/lobby")).toThrow(/give one/);
});

test("loginWith leaves for the provider and names the way back", () => {
  const assign = vi.fn();
  vi.stubGlobal("location", { href: "https://app.example/x?y=1", assign });
  tab().loginWith("corp");
  expect(assign).toHaveBeenCalledWith(`${url}/auth/login/corp?return_to=https%3A%2F%2Fapp.example%2Fx%3Fy%3D1`);
});
