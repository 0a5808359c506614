// A scripted wsbouncer: the HTTP API in its cookie form, and sockets opened by
// ticket. It keeps no promise of security; it keeps a record of what was asked.
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocket, WebSocketServer } from "ws";

export interface Asked {
  method: string;
  path: string;
  body: any;
  bearer: string;
}

interface Answer {
  status: number;
  body?: object;
  headers?: Record<string, string>;
}

export class Scripted {
  /** Seconds an access token lives. */
  life = 60;
  readonly asked: Asked[] = [];
  readonly sockets = new Map<string, WebSocket>();
  readonly handshakes: string[] = [];
  /** What to answer instead, once each, by path. */
  readonly script = new Map<string, (Answer | "hang up")[]>();
  /** What the next handshakes meet: a status instead of the 101. */
  readonly refuse: number[] = [];
  /** Connections that are not extended although they are named. */
  readonly stubborn = new Set<string>();

  readonly #http: Server;
  readonly #ws = new WebSocketServer({ noServer: true });
  readonly #tickets = new Map<string, { path: string; cid: string }>();
  readonly #waiting: { path: string; count: number; done: () => void }[] = [];
  #ids = 0;
  #session: { id: string; subject: string; refresh: string; expiresAt: number } | undefined;

  constructor() {
    this.#http = createServer((request, response) => {
      let text = "";
      request.on("data", (chunk) => (text += chunk));
      request.on("end", () => {
        const path = request.url!;
        const asked = { method: request.method!, path, body: text ? JSON.parse(text) : undefined, bearer: request.headers.authorization?.slice(7) ?? "" };
        this.asked.push(asked);
        const scripted = this.script.get(path)?.shift();
        const answer = scripted ?? this.#answer(asked, request);
        this.#notice(path);
        if (answer === "hang up") return void request.socket.destroy();
        response.writeHead(answer.status, { "content-type": answer.status < 400 ? "application/json" : "application/problem+json", ...answer.headers });
        response.end(JSON.stringify(answer.body ?? {}));
      });
    });
    this.#http.on("upgrade", (request, socket, head) => {
      const url = new URL(request.url!, "http://x");
      const ticket = this.#tickets.get(url.searchParams.get("ticket") ?? "");
      this.#tickets.delete(url.searchParams.get("ticket") ?? "");
      this.handshakes.push(url.pathname);
      const refused = this.refuse.shift() ?? (ticket?.path === url.pathname ? 0 : 401);
      if (refused) return void socket.end(`HTTP/1.1 ${refused} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      this.#ws.handleUpgrade(request, socket, head, (ws) => {
        this.sockets.set(ticket!.cid, ws);
        ws.on("message", (data, binary) => ws.send(binary ? data : `echo ${data}`));
        ws.on("close", () => this.sockets.delete(ticket!.cid));
      });
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((done) => this.#http.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const ws of this.sockets.values()) ws.terminate();
    this.#http.closeAllConnections();
    await new Promise((done) => this.#http.close(done));
  }

  /** Resolves when the path has been asked for `count` times in all. */
  reached(path: string, count: number): Promise<void> {
    if (this.count(path) >= count) return Promise.resolve();
    return new Promise((done) => this.#waiting.push({ path, count, done }));
  }

  count(path: string): number {
    return this.asked.filter((a) => a.path === path).length;
  }

  last(path: string): Asked {
    return this.asked.findLast((a) => a.path === path)!;
  }

  /** Ends the access token alone, or the whole session. */
  expire(): void {
    if (this.#session) this.#session.expiresAt = 0;
  }
  revoke(): void {
    this.#session = undefined;
  }
  become(subject: string): void {
    this.#session = { ...this.#session!, id: `s${++this.#ids}`, subject };
  }

  #notice(path: string): void {
    for (const w of this.#waiting.filter((w) => w.path === path && this.count(path) >= w.count)) {
      this.#waiting.splice(this.#waiting.indexOf(w), 1);
      w.done();
    }
  }

  #answer({ method, path, body, bearer }: Asked, request: IncomingMessage): Answer {
    const cookies = request.headers.cookie ?? "";
    const session = this.#session;
    const valid = bearer ? bearer.startsWith("good") : session && session.expiresAt > Date.now() && cookies.includes(`access=${session.id}`);
    const token = () => ({ token_type: "Bearer", expires_in: this.life, scope: "chat chat:write", session_id: this.#session!.id });
    const cookie = () => ({ "set-cookie": `access=${this.#session!.id}; refresh=${this.#session!.refresh}` });
    switch (`${method} ${path}`) {
      case "POST /auth/login": {
        if (body.password === "half") return { status: 401, body: { code: "factor_required", detail: "", challenge: "c", factors: ["totp"] } };
        if (body.password !== "right" && !(body.challenge === "c" && body.code === "123456")) return { status: 401, body: { code: "login_failed", detail: "Wrong name or password." } };
        this.#session = { id: `s${++this.#ids}`, subject: body.username, refresh: `r${++this.#ids}`, expiresAt: Date.now() + this.life * 1000 };
        return { status: 200, body: token(), headers: cookie() };
      }
      case "POST /auth/token":
        if (!session || !cookies.includes(`refresh=${session.refresh}`)) return { status: 400, body: { error: "invalid_grant", error_description: "Log in again." } };
        session.refresh = `r${++this.#ids}`;
        session.expiresAt = Date.now() + this.life * 1000;
        return { status: 200, body: { ...token(), extended: body.connection.filter((c: string) => this.sockets.has(c) && !this.stubborn.has(c)) }, headers: cookie() };
      case "POST /auth/extend":
        if (!valid) return { status: 401, body: { code: "token_expired", detail: "…" } };
        return { status: 200, body: { extended: body.connections.filter((c: string) => this.sockets.has(c)), expires_at: Math.ceil(Date.now() / 1000) + this.life } };
      case "POST /auth/ticket": {
        if (!valid) return { status: 401, body: { code: "token_expired", detail: "…" } };
        const ticket = `t${++this.#ids}+/=`;
        const cid = `c${this.#ids}`;
        this.#tickets.set(ticket, { path: body.path, cid });
        return { status: 200, body: { ticket, connection: cid, expires_in: 30 } };
      }
      case "GET /auth/session":
        if (!valid) return { status: 401, body: { code: "token_expired", detail: "…" } };
        if (bearer) return { status: 200, body: { subject: "own", session_id: "x", scope: "chat", expires_in: this.life } };
        return { status: 200, body: { ...token(), subject: session!.subject } };
      case "POST /auth/logout":
        if (!valid) return { status: 401, body: { code: "token_expired", detail: "…" } };
        this.#session = undefined;
        for (const ws of this.sockets.values()) ws.close(3000, "logged_out");
        return { status: 200 };
    }
    return { status: 404, body: { code: "no_route", detail: "Nothing is served at this path." } };
  }
}

/** A browser's cookie jar, for several clients ("tabs") to share. */
export function browser(): typeof fetch {
  let jar = "";
  return async (input, init) => {
    const response = await fetch(input, { ...init, headers: { ...(init?.headers as Record<string, string>), ...(init?.credentials === "include" && jar && { cookie: jar }) } });
    const set = response.headers.get("set-cookie");
    if (set && init?.credentials === "include") jar = set;
    return response;
  };
}

/** The next event of that type. */
export function next<E extends Event = any>(target: EventTarget, type: string): Promise<E> {
  return new Promise((done) => target.addEventListener(type, (event) => done(event as E), { once: true }));
}
