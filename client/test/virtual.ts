// A wsbouncer in virtual time, without a network: what the client does over
// hours of wrong clocks, sleeping laptops and lost answers takes milliseconds.
// Use it after vi.useFakeTimers. The server's clock is performance.now(), which
// vi.setSystemTime leaves alone; the client's is Date.
import { vi } from "vitest";

interface Answer {
  status: number;
  body: object;
  /** What the browser keeps of it, if it arrives. */
  jar?: { session: string; refresh: string };
}

/** What becomes of a call: refused by the network, done but its answer lost, lost half way, or never answered. */
type Trouble = "offline" | "lost" | "cut" | "hang";

export class Virtual {
  /** Seconds an access token lives. */
  life = 300;
  online = true;
  /** Milliseconds until a handshake is answered; Infinity: never. */
  latency = 0;
  /** What meets the next calls, by path. */
  readonly trouble = new Map<string, Trouble[]>();
  readonly asked: { path: string; body: any; bearer: string | undefined }[] = [];
  /** Connections that are not extended although they are named. */
  readonly stubborn = new Set<string>();
  /** The live connections, as the server sees them. */
  readonly lines = new Map<string, Line>();
  /** How many connections there ever were. */
  opened = 0;

  readonly #start = Date.now();
  readonly #began = performance.now();
  #slept = 0;
  #ids = 0;
  #jar: Answer["jar"];
  #session: { id: string; subject: string; refresh: string; previous: string; rotatedAt: number; expiresAt: number } | undefined;
  readonly #tickets = new Map<string, { cid: string; deadline: number }>();

  /** The server's clock, in ms since 1970. */
  get now(): number {
    return this.#start + performance.now() - this.#began + this.#slept;
  }

  /** The laptop sleeps: the time passes, the timers do not, and what the server says meanwhile is lost. */
  sleep(ms: number): void {
    this.#slept += ms;
    vi.setSystemTime(Date.now() + ms);
    for (const [cid, line] of this.lines) if (line.deadline <= this.now) this.lines.delete(cid);
  }

  count(path: string): number {
    return this.asked.filter((a) => a.path === path).length;
  }

  last(path: string): Virtual["asked"][number] {
    return this.asked.findLast((a) => a.path === path)!;
  }

  /** An own access token, fresh from its issuer. */
  mint(): string {
    const iat = Math.floor(this.now / 1000);
    return `x.${btoa(JSON.stringify({ iat, exp: iat + this.life, n: ++this.#ids }))}.x`;
  }

  readonly fetch: typeof fetch = async (input, init) => {
    const path = new URL(String(input)).pathname;
    const bearer = new Headers(init?.headers).get("authorization")?.slice(7);
    const body = init?.body ? JSON.parse(String(init.body)) : undefined;
    this.asked.push({ path, body, bearer });
    const trouble = this.online ? this.trouble.get(path)?.shift() : "offline";
    if (trouble === "offline") throw new TypeError("Failed to fetch");
    const answer = this.#answer(path, body, bearer);
    if (trouble === "lost") throw new TypeError("Failed to fetch");
    if (trouble === "hang") await new Promise((_, fail) => init!.signal!.addEventListener("abort", () => fail(init!.signal!.reason)));
    if (answer.jar) this.#jar = answer.jar; // the browser keeps cookies as soon as the head is there
    if (trouble !== "cut") return Response.json(answer.body, { status: answer.status });
    return new Response(new ReadableStream({ start: (c) => c.error(new TypeError("network error")) }), { status: answer.status });
  };

  /** The constructor to give to the client. */
  get WebSocket(): typeof WebSocket {
    const server = this;
    return class extends Line {
      constructor(url: string | URL) {
        super(server, url);
      }
    } as unknown as typeof WebSocket;
  }

  /** A handshake: whether its ticket is good. */
  admit(line: Line, url: URL): boolean {
    const ticket = this.#tickets.get(url.searchParams.get("ticket") ?? "");
    if (!ticket) return false;
    this.#tickets.delete(url.searchParams.get("ticket")!);
    this.opened++;
    line.deadline = ticket.deadline;
    this.lines.set(ticket.cid, line);
    this.#watch(ticket.cid, line);
    return true;
  }

  #watch(cid: string, line: Line): void {
    setTimeout(() => {
      if (this.lines.get(cid) !== line) return;
      if (this.now < line.deadline) return this.#watch(cid, line);
      this.lines.delete(cid);
      line.ended(3000, "token_expired");
    }, line.deadline - this.now);
  }

  #extend(cids: string[], deadline: number): string[] {
    const extended = cids.filter((cid) => this.lines.has(cid) && !this.stubborn.has(cid));
    for (const cid of extended) this.lines.get(cid)!.deadline = Math.max(this.lines.get(cid)!.deadline, deadline);
    return extended;
  }

  #answer(path: string, body: any, bearer: string | undefined): Answer {
    const s = this.#session;
    const expired = { status: 401, body: { code: "token_expired", detail: "…" } };
    const deadline = bearer ? JSON.parse(atob(bearer.split(".")[1]!)).exp * 1000 : s && this.#jar?.session === s.id ? s.expiresAt : 0;
    const token = () => ({ session_id: this.#session!.id, scope: "chat", expires_in: Math.round((this.#session!.expiresAt - this.now) / 1000) });
    if (path === "/auth/login") {
      const id = `s${++this.#ids}`;
      const refresh = `r${++this.#ids}`;
      this.#session = { id, subject: body.username, refresh, previous: "", rotatedAt: 0, expiresAt: this.now + this.life * 1000 };
      return { status: 200, body: token(), jar: { session: id, refresh } };
    }
    if (path === "/auth/token") {
      const repeated = s?.previous === this.#jar?.refresh && this.now - (s?.rotatedAt ?? 0) < 10_000;
      if (!s || (this.#jar?.refresh !== s.refresh && !repeated)) {
        this.#session = undefined; // a used one: somebody stole it
        return { status: 400, body: { error: "invalid_grant" } };
      }
      if (!repeated) Object.assign(s, { previous: s.refresh, refresh: `r${++this.#ids}`, rotatedAt: this.now, expiresAt: this.now + this.life * 1000 });
      return { status: 200, body: { ...token(), extended: this.#extend(body.connection, s.expiresAt) }, jar: { session: s.id, refresh: s.refresh } };
    }
    if (deadline <= this.now) return expired;
    switch (path) {
      case "/auth/session":
        return { status: 200, body: { ...token(), subject: s!.subject } };
      case "/auth/extend":
        return { status: 200, body: { extended: this.#extend(body.connections, deadline), expires_at: deadline / 1000 } };
      case "/auth/ticket": {
        const [ticket, cid] = [`t${++this.#ids}`, `c${this.#ids}`];
        this.#tickets.set(ticket, { cid, deadline });
        return { status: 200, body: { ticket, connection: cid, expires_in: 30 } };
      }
      case "/auth/logout":
        this.#session = undefined; // and the closes are lost on the way
        return { status: 200, body: {} };
    }
    throw new Error(path);
  }
}

/** The browser's end of a connection. */
class Line {
  readyState = 0;
  deadline = 0;
  binaryType = "blob";
  protocol = "";
  extensions = "";
  bufferedAmount = 0;
  onopen: (() => void) | null = null;
  onmessage = null;
  onerror = null;
  onclose: ((event: object) => void) | null = null;

  constructor(server: Virtual, url: string | URL) {
    if (server.latency === Infinity) return;
    setTimeout(() => {
      if (this.readyState) return;
      if (!server.online || !server.admit(this, new URL(url))) return this.ended(1006, "", false);
      this.readyState = 1;
      this.onopen?.();
    }, server.latency);
  }

  send(): void {}

  close(code = 1005, reason = ""): void {
    this.readyState = 2;
    setTimeout(() => this.ended(code, reason));
  }

  ended(code: number, reason: string, wasClean = true): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason, wasClean });
  }
}
