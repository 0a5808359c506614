// Wrong clocks, a sleeping laptop, a network that comes and goes, lost answers,
// and what is left behind: all in virtual time.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { WsBouncer, type BouncedWebSocket, type Options, type TokenEvent } from "../src/index.ts";
import { Virtual } from "./virtual.ts";

const second = 1000, minute = 60 * second, hour = 60 * minute;

let server: Virtual;
let page: EventTarget;
let listening: Set<unknown>;

/** BroadcastChannel by virtual timers. */
class Channel {
  static readonly all = new Set<Channel>();
  onmessage: ((event: { data: unknown }) => void) | null = null;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
    Channel.all.add(this);
  }
  postMessage(data: unknown): void {
    if (!Channel.all.has(this)) return;
    for (const other of Channel.all) if (other !== this && other.name === this.name) setTimeout(() => other.onmessage?.({ data }));
  }
  close(): void {
    Channel.all.delete(this);
  }
}

beforeEach(() => {
  Channel.all.clear();
  vi.useFakeTimers({ now: Date.UTC(2030, 0, 1) });
  vi.spyOn(AbortSignal, "timeout").mockImplementation((ms) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new DOMException("timeout", "TimeoutError")), ms);
    return controller.signal;
  });
  // The page: its events, and how many listen to them.
  page = new EventTarget();
  listening = new Set();
  vi.stubGlobal("addEventListener", (type: string, listener: EventListener) => (listening.add(listener), page.addEventListener(type, listener)));
  vi.stubGlobal("removeEventListener", (type: string, listener: EventListener) => (listening.delete(listener), page.removeEventListener(type, listener)));
  vi.stubGlobal("BroadcastChannel", Channel);
  server = new Virtual();
});

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

/** Web Locks for a Node that has none: one holder at a time, in order. */
function webLocks(): void {
  const queues = new Map<string, Promise<unknown>>();
  vi.stubGlobal("navigator", {
    locks: {
      request: (name: string, run: () => Promise<unknown>) => {
        const turn = (queues.get(name) ?? Promise.resolve()).then(run);
        queues.set(name, turn.catch(() => {}));
        return turn;
      },
    },
  });
}

function client(more: Partial<Options> = {}): WsBouncer {
  return new WsBouncer({ url: "https://rt.example", fetch: server.fetch, WebSocket: server.WebSocket, ...more });
}

/** An open socket by cookies, or by tokens of the app. */
async function connected(more: Partial<Options> = {}): Promise<{ auth: WsBouncer; socket: BouncedWebSocket }> {
  const auth = client(more);
  if (!more.getToken) await auth.login({ username: "ann", password: "right" });
  const socket = auth.connect("/chat/lobby");
  await pass(second);
  expect(socket.readyState).toBe(socket.OPEN);
  return { auth, socket };
}

/** A well-behaved app: keeps its token until a newer one is wanted. */
function app(): NonNullable<Options["getToken"]> {
  let token = server.mint();
  return async ({ fresh }) => (token = fresh ? server.mint() : token);
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const comesBack = () => page.dispatchEvent(new Event("online"));

const credentials = { cookies: () => ({}), "own tokens": () => ({ getToken: app() }) };
const kinds = Object.keys(credentials) as (keyof typeof credentials)[];
const renewals = () => server.count("/auth/token") + server.count("/auth/extend");

for (const kind of kinds) {
  test(`${kind}: renewed at about 80 % of the token's life under the live connection, which is named`, async () => {
    const began = Date.now();
    const { auth, socket } = await connected(credentials[kind]());
    const renewed: { at: number; event: TokenEvent }[] = [];
    auth.addEventListener("token", (event) => renewed.push({ at: (Date.now() - began) / server.life / second, event }));
    await pass(4.5 * minute);
    expect(renewed).toHaveLength(1);
    const { at, event } = renewed[0]!;
    expect(at).toBeGreaterThan(0.74);
    expect(at).toBeLessThan(0.86);
    expect(event.extended).toEqual([socket.connection]);
    expect(event.expiresAt).toBeCloseTo(began + (at + 1) * server.life * second, -4);
    if (kind === "cookies") expect(server.last("/auth/token").body).toEqual({ grant_type: "refresh_token", connection: [socket.connection] });
    else expect(server.last("/auth/extend").body).toEqual({ connections: [socket.connection] });
  });

  test(`${kind}: a connection the server does not extend is not asked for again, and ends at its deadline`, async () => {
    const { auth, socket } = await connected(credentials[kind]());
    const other = auth.connect("/chat/other");
    await pass(second);
    server.stubborn.add(other.connection);
    const comesBack = vi.fn();
    other.addEventListener("reconnecting", comesBack);
    await pass(4.8 * minute);
    expect(renewals()).toBe(1);
    expect(comesBack).not.toHaveBeenCalled();
    await pass(minute);
    expect(comesBack).toHaveBeenCalledWith(expect.objectContaining({ code: 3000, reason: "token_expired" }));
    await pass(hour);
    expect(socket.readyState).toBe(socket.OPEN);
    expect(server.opened).toBe(3);
  });

  for (const wrong of [0, -hour, -4 * minute, 4.9 * minute, hour]) {
    test(`${kind}: a clock wrong by ${wrong / minute} minutes`, async () => {
      vi.setSystemTime(Date.now() + wrong);
      await connected(credentials[kind]());
      await pass(hour);
      expect(server.opened).toBe(1);
      expect(renewals()).toBeGreaterThan(11);
      expect(renewals()).toBeLessThan(35);
    });
  }

  for (const step of [-hour, hour]) {
    test(`${kind}: the clock is set by ${step / minute} minutes`, async () => {
      await connected(credentials[kind]());
      await pass(minute);
      vi.setSystemTime(Date.now() + step);
      await pass(hour);
      expect(server.opened).toBe(1);
      expect(renewals()).toBeLessThan(35);
    });
  }

  test(`${kind}: a laptop that slept past the deadline replaces the connection it lost`, async () => {
    const { socket } = await connected(credentials[kind]());
    const cid = socket.connection;
    server.sleep(8 * hour);
    server.online = false; // the network is not back at once
    await pass(10 * minute);
    expect(socket.readyState).toBe(socket.CONNECTING);
    server.online = true;
    comesBack();
    await pass(second);
    expect(socket.readyState).toBe(socket.OPEN);
    expect(socket.connection).not.toBe(cid);
    await pass(hour);
    expect(server.opened).toBe(2);
  });

  test(`${kind}: a laptop that slept and woke in time keeps its connection`, async () => {
    await connected(credentials[kind]());
    server.sleep(4.5 * minute);
    await pass(4.5 * minute);
    expect(server.opened).toBe(1);
  });

  test(`${kind}: offline for a while: few attempts, and back with the network`, async () => {
    const { socket } = await connected(credentials[kind]());
    server.online = false;
    for (const line of server.lines.values()) line.ended(1006, "", false);
    server.lines.clear();
    server.asked.length = 0;
    await pass(20 * minute);
    expect(socket.readyState).toBe(socket.CONNECTING);
    expect(server.asked.length).toBeGreaterThan(30);
    expect(server.asked.length).toBeLessThan(200);
    server.online = true;
    comesBack();
    await pass(second);
    expect(socket.readyState).toBe(socket.OPEN);
  });

  test(`${kind}: a network away at the renewal is not the end, as long as it is back before the deadline`, async () => {
    server.life = 30;
    await connected(credentials[kind]());
    server.online = false; // the connection itself survives
    await pass(27 * second);
    server.online = true;
    await pass(minute);
    expect(server.opened).toBe(1);
  });

  test(`${kind}: nothing is left behind by close()`, async () => {
    const { auth, socket } = await connected(credentials[kind]());
    auth.connect("/chat/other");
    await pass(second);
    server.online = false;
    auth.connect("/chat/waiting").addEventListener("reconnecting", () => {});
    await pass(second);
    auth.connect("/chat/new");
    auth.close();
    await pass(8 * second); // closing handshakes, and the time limits of calls
    expect(socket.readyState).toBe(socket.CLOSED);
    const asked = server.asked.length;
    server.lines.clear();
    await pass(hour);
    expect(server.asked.length).toBe(asked);
    expect([listening.size, vi.getTimerCount()]).toEqual([0, 0]);
  });
}

test("tabs: one refreshes and names the connections of all", async () => {
  webLocks();
  const { auth, socket } = await connected();
  const other = client();
  await other.session();
  const theirs = other.connect("/chat/other");
  const renewed: TokenEvent[] = [];
  for (const tab of [auth, other]) tab.addEventListener("token", (event) => renewed.push(event));
  await pass(4.5 * minute);
  expect(server.count("/auth/token")).toBe(1);
  const both = [socket.connection, theirs.connection].sort();
  expect(renewed.map(({ extended }) => [...extended].sort())).toEqual([both, both]);
  await pass(hour);
  expect(server.opened).toBe(2);
  expect(server.count("/auth/token")).toBeLessThan(20);
});

test("tabs: what a tab that is gone had open is not named for ever", async () => {
  webLocks();
  const { socket } = await connected();
  const crashed = client();
  await crashed.session();
  const theirs = crashed.connect("/chat/other");
  await pass(second);
  const cid = theirs.connection;
  for (const channel of [...Channel.all].slice(1)) channel.close(); // says no word
  server.lines.get(cid)!.ended(1006, "", false);
  server.lines.delete(cid);
  theirs.close();
  await pass(4.5 * minute);
  expect(server.last("/auth/token").body.connection.sort()).toEqual([socket.connection, cid].sort());
  await pass(4 * minute);
  expect(server.last("/auth/token").body.connection).toEqual([socket.connection]);
});

test("nothing is left behind by close() after a logout", async () => {
  vi.mocked(AbortSignal.timeout).mockImplementation(() => new AbortController().signal);
  const { auth, socket } = await connected();
  server.lines.clear();
  await auth.logout();
  auth.close();
  await pass(0);
  expect(socket.readyState).toBe(socket.CLOSED);
  expect(listening.size).toBe(0);
  await pass(5 * minute); // the virtual server's own
  expect(vi.getTimerCount()).toBe(0);
});

test("a socket closed in its pause leaves no timer and no listener", async () => {
  server.online = false;
  const auth = client({ getToken: app() });
  const before = listening.size;
  const socket = auth.connect("/chat/lobby");
  await pass(8 * second);
  expect(listening.size).toBe(before + 1);
  socket.close();
  await pass(8 * second); // the time limits of calls
  expect([listening.size, vi.getTimerCount()]).toEqual([before, 0]);
});

for (const trouble of ["lost", "cut", "hang"] as const) {
  test(`a refresh whose answer is ${trouble} costs neither the session nor the connection`, async () => {
    const { auth } = await connected();
    const out = vi.fn();
    auth.addEventListener("loggedout", out);
    server.trouble.set("/auth/token", [trouble]);
    await pass(hour);
    expect(out).not.toHaveBeenCalled();
    expect(server.opened).toBe(1);
  });
}

test("a handshake that is never answered is given up while its ticket may still live", async () => {
  const { socket } = await connected();
  server.latency = Infinity;
  for (const line of server.lines.values()) line.ended(1006, "", false);
  const ended = vi.fn();
  await pass(second);
  socket.addEventListener("reconnecting", ended);
  await pass(31 * second);
  expect(ended).toHaveBeenCalledOnce();
  server.latency = 0;
  await pass(minute);
  expect(socket.readyState).toBe(socket.OPEN);
});

test("a token renewed while another connection is being opened does not leave that one behind", async () => {
  vi.spyOn(Math, "random").mockReturnValue(0);
  const { auth } = await connected();
  await pass(0.75 * 5 * minute - 2 * second);
  server.latency = 5 * second;
  auth.connect("/chat/other"); // a ticket by the old token
  await pass(2 * second);
  expect(server.count("/auth/token")).toBe(1);
  await pass(10 * minute);
  expect(server.opened).toBe(2);
});

test("without a live connection nothing is renewed", async () => {
  const { socket } = await connected();
  await pass(8 * minute);
  expect(server.count("/auth/token")).toBeGreaterThan(0);
  socket.close();
  await pass(0);
  const renewed = server.count("/auth/token");
  await pass(hour);
  expect(server.count("/auth/token")).toBe(renewed);
});

test("an app that has no newer token is not asked all the time", async () => {
  const token = server.mint();
  const getToken = vi.fn(() => token);
  const { socket } = await connected({ getToken });
  await pass(4.9 * minute);
  expect(socket.readyState).toBe(socket.OPEN);
  expect(getToken.mock.calls.length).toBeLessThan(12);
  await pass(minute);
  expect(socket.readyState).toBe(socket.CLOSED);
});

test("an app that fails to give a newer token is asked for a newer one again", async () => {
  let token = server.mint();
  const getToken = vi.fn(async ({ fresh }: { fresh: boolean }) => {
    if (fresh && getToken.mock.calls.length === 2) throw new Error("the app's server is away");
    return (token = fresh ? server.mint() : token);
  });
  await connected({ getToken });
  await pass(8 * minute);
  expect(getToken.mock.calls.slice(0, 3)).toEqual([[{ fresh: false }], [{ fresh: true }], [{ fresh: true }]]);
  expect(server.opened).toBe(1);
});

test("many sockets whose token is refused ask the app for one newer token", async () => {
  let token = server.mint();
  server.sleep(6 * minute);
  let fresh = 0;
  const auth = client({
    getToken: async (want) => {
      await new Promise((done) => setTimeout(done, 50));
      if (!want.fresh) return token;
      fresh++;
      return (token = server.mint());
    },
  });
  const sockets = [1, 2, 3, 4, 5].map((n) => auth.connect(`/chat/${n}`));
  await pass(second);
  for (const socket of sockets) expect(socket.readyState).toBe(socket.OPEN);
  expect(fresh).toBe(1);
});
