import { WsBouncerError } from "./errors.ts";
import { TokenEvent } from "./events.ts";
import { caller, type Call } from "./http.ts";
import { Socket, type Host } from "./socket.ts";
import { Tabs, type Message } from "./tabs.ts";
import type { BouncedWebSocket, Options, Session, WsBouncerEventMap } from "./types.ts";

/** The access token as far as this tab knows it. */
interface Known {
  id: string;
  subject: string;
  expiresAt: number;
  /** From here on it is renewed before anything is opened with it. */
  renewAt: number;
}

/** A live connection and its deadline. */
interface Live {
  cid: string;
  expiresAt: number;
  renewAt: number;
}

/** setTimeout counts in 32 bits. */
const longest = 2 ** 31 - 1;

/** At about 80 % of what is left, so that not every client comes at once. */
function renewal(expiresAt: number): number {
  const now = Date.now();
  return now + Math.max(0, expiresAt - now) * (0.75 + 0.1 * Math.random());
}

/** The `exp` of a JWT in ms, or Infinity: an opaque token does not tell. */
function expiry(token: string): number {
  try {
    const payload = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(atob(payload)).exp * 1000 || Infinity;
  } catch {
    return Infinity;
  }
}

/**
 * One login at one wsbouncer server, and the WebSockets that follow it. Make
 * one for the page and keep it.
 *
 * The session lives in HttpOnly cookies that no script can read; nothing is
 * stored here. With `getToken` there are no cookies: the app's own access
 * tokens speak.
 */
export class WsBouncer extends EventTarget {
  /** The server's origin. */
  readonly url: string;
  /** A WebSocket constructor for libraries that take one and reconnect by themselves. */
  readonly WebSocket: typeof WebSocket;

  readonly #base: string;
  readonly #call: Call;
  readonly #getToken: Options["getToken"];
  readonly #tabs: Tabs | undefined;
  readonly #host: Host;
  readonly #sockets = new Set<Socket>();
  readonly #live = new Set<Live>();
  #known: Known | undefined;
  /** Another tab logged in: ask who that was before opening anything. */
  #unsure = false;
  /** How often the token was renewed, by whichever tab. */
  #renewals = 0;
  /** How often in a row that failed. */
  #failures = 0;
  #login: { key: string; session: Promise<Session> } | undefined;
  #asking: Promise<Session | null> | undefined;
  #refreshing: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #fresh = false;

  constructor({ url, authPath = "/auth", getToken, fetch: fetcher, WebSocket: Native }: Options) {
    super();
    const server = new URL(url);
    this.url = server.origin;
    this.#base = server.origin + authPath;
    this.#getToken = getToken;
    this.#call = caller(this.#base, fetcher ?? ((input, init) => fetch(input, init)));
    if (!getToken) this.#tabs = new Tabs(`wsbouncer ${this.#base}`, (message) => this.#receive(message));
    const socket = `ws${server.protocol.slice(4)}//${server.host}`;
    this.#host = {
      WebSocket: Native ?? globalThis.WebSocket,
      address: (path) => {
        const address = new URL(path, this.url);
        // A ticket is for this server alone.
        if (address.host !== server.host) throw new DOMException(`${address.host} is not ${server.host}.`, "SyntaxError");
        return new URL(socket + address.pathname + address.search);
      },
      ticket: (path) => this.#authorized("/ticket", { path }),
      opened: (cid) => this.#opened(cid),
      confirm: (refresh) => this.#confirm(refresh),
      enlist: (s) => {
        this.#sockets.add(s);
        return () => this.#sockets.delete(s);
      },
    };
    const host = this.#host;
    this.WebSocket = class extends Socket {
      constructor(to: string | URL, protocols: string | string[] = []) {
        super(host, to, protocols, false);
      }
    } as unknown as typeof WebSocket;
  }

  /** Logs in with a password; the session is kept in cookies. */
  login({ username, password }: { username: string; password: string }): Promise<Session> {
    const key = JSON.stringify([username, password]);
    if (this.#login?.key === key) return this.#login.session; // a double click is one login
    const login = { key, session: this.#begin(username, password).finally(() => (this.#login = undefined)) };
    this.#login = login;
    return login.session;
  }

  async #begin(username: string, password: string): Promise<Session> {
    const { session_id } = await this.#call<{ session_id: string }>("/login", { username, password, cookie: true });
    this.#tabs?.post({ type: "login", sessionId: session_id });
    try {
      return await this.#fetchSession();
    } catch (error) {
      if (!(error as WsBouncerError).loggedOut) throw error;
      throw new WsBouncerError("cookies_blocked", "The login succeeded, but this browser did not keep its cookies.");
    }
  }

  /** Leaves for the login page of a provider; it comes back to `returnTo`, or here. */
  loginWith(provider: string, returnTo: string = location.href): void {
    location.assign(`${this.#base}/login/${encodeURIComponent(provider)}?return_to=${encodeURIComponent(returnTo)}`);
  }

  /** Ends this session, or all sessions of this subject; their connections close 3000 `logged_out`. */
  async logout({ everywhere = false }: { everywhere?: boolean } = {}): Promise<void> {
    try {
      await this.#authorized("/logout", everywhere ? { everywhere } : {});
    } catch (error) {
      if (!(error as WsBouncerError).loggedOut) throw error;
    }
    this.#tabs?.post({ type: "logout" });
    this.#lost();
  }

  /** Who is logged in; null when nobody is. */
  async session(): Promise<Session | null> {
    try {
      return await this.#ask();
    } catch (error) {
      if (!(error as WsBouncerError).loggedOut) throw error;
    }
    try {
      await this.#renew();
      return await this.#ask();
    } catch (error) {
      if (!(error as WsBouncerError).loggedOut) throw error;
      this.#lost();
      return null;
    }
  }

  /**
   * Opens a WebSocket that keeps coming back. `open` fires at every
   * connection, `reconnecting` before every further attempt, `close` once,
   * when it gives up or was closed here.
   */
  connect(path: string | URL, protocols: string | string[] = []): BouncedWebSocket {
    return new Socket(this.#host, path, protocols, true) as unknown as BouncedWebSocket;
  }

  /** Closes every socket and stops all timers. The session stays. */
  close(): void {
    for (const socket of this.#sockets) socket.close();
    clearTimeout(this.#timer);
    this.#tabs?.close();
  }

  /** GET /auth/session, once at a time. */
  #ask(): Promise<Session | null> {
    return (this.#asking ??= this.#fetchSession().finally(() => (this.#asking = undefined)));
  }

  async #fetchSession(): Promise<Session> {
    const s = await this.#call<{ subject: string; session_id: string; scope?: string; expires_in: number }>("/session", undefined, await this.#token());
    const expiresAt = Date.now() + s.expires_in * 1000;
    // Somebody else is logged in now: what was opened before is not theirs.
    if (this.#known?.subject && this.#known.subject !== s.subject) this.#lost(0);
    this.#unsure = false;
    this.#known = { id: s.session_id, subject: s.subject, expiresAt, renewAt: renewal(expiresAt) };
    return { subject: s.subject, sessionId: s.session_id, scopes: s.scope?.split(" ").filter(Boolean) ?? [], expiresAt };
  }

  /** A call with the credential, renewed once when the server does not take it. */
  async #authorized<T>(path: string, body: object): Promise<T> {
    if (!this.#getToken) {
      if ((!this.#known || this.#unsure) && !(await this.session())) {
        throw new WsBouncerError("token_missing", "Nobody is logged in.", 401);
      }
      if (Date.now() >= (this.#known?.renewAt ?? 0)) await this.#renew();
    }
    try {
      return await this.#call<T>(path, body, await this.#token());
    } catch (error) {
      if (!(error as WsBouncerError).loggedOut) throw error;
    }
    await this.#renew();
    return this.#call<T>(path, body, await this.#token());
  }

  /** The app's own token; undefined where cookies speak. */
  async #token(): Promise<string | undefined> {
    if (!this.#getToken) return undefined;
    const token = await this.#getToken({ fresh: this.#fresh });
    this.#fresh = false;
    const expiresAt = expiry(token);
    if (expiresAt !== this.#known?.expiresAt) this.#known = { id: "", subject: "", expiresAt, renewAt: renewal(expiresAt) };
    return token;
  }

  /** After a 3000: true when it is worth another attempt. */
  async #confirm(refresh: boolean): Promise<boolean> {
    this.#fresh = true;
    if (this.#getToken) return true;
    if (!this.#known) return false; // logged out here, or told so by another tab
    const { subject } = this.#known;
    try {
      if (refresh) await this.#renew();
      return (await this.session())?.subject === subject;
    } catch (error) {
      return !(error as WsBouncerError).loggedOut; // unreachable just now: not an answer
    }
  }

  /** A newer token: from the app, or by the refresh cookie, once for all tabs. */
  async #renew(): Promise<void> {
    this.#fresh = true;
    if (this.#getToken) return;
    await (this.#refreshing ??= this.#refresh().finally(() => (this.#refreshing = undefined)));
  }

  async #refresh(): Promise<void> {
    const before = this.#renewals;
    await this.#tabs!.exclusively(async () => {
      await new Promise((resolve) => setTimeout(resolve)); // lets messages in that arrived with the lock
      if (this.#renewals !== before) return; // another tab was first, and named our connections
      const named = this.#tabs!.all();
      try {
        const a = await this.#call<{ session_id: string; expires_in: number; extended?: string[] }>("/token", { grant_type: "refresh_token", connection: named });
        const message = { type: "token", sessionId: a.session_id, expiresAt: Date.now() + a.expires_in * 1000, named, extended: a.extended ?? [] } as const;
        this.#tabs!.post(message);
        this.#tabs!.forget(named, message.extended);
        this.#renewed(message.expiresAt, named, message.extended, message.sessionId);
      } catch (error) {
        if ((error as WsBouncerError).loggedOut) this.#lost();
        throw error;
      }
    });
  }

  /** With tokens of the app: this tab's connections, by a newer one. */
  async #extend(): Promise<void> {
    this.#fresh = true;
    const named = [...this.#live].map((live) => live.cid);
    const a = await this.#call<{ extended?: string[]; expires_at: number }>("/extend", { connections: named }, await this.#token());
    this.#renewed(a.expires_at * 1000, named, a.extended ?? []);
  }

  #renewed(expiresAt: number, named: readonly string[], extended: readonly string[], sessionId = ""): void {
    this.#renewals++;
    this.#failures = 0;
    const renewAt = renewal(expiresAt);
    if (this.#known) {
      if (sessionId !== this.#known.id) this.#unsure = true;
      Object.assign(this.#known, { expiresAt, renewAt });
    }
    for (const live of this.#live) {
      if (extended.includes(live.cid)) Object.assign(live, { expiresAt, renewAt });
      // The server would not: it ends at its deadline, and asking again changes nothing.
      else if (named.includes(live.cid)) live.renewAt = Infinity;
    }
    this.#arm();
    this.dispatchEvent(new TokenEvent(expiresAt, extended));
  }

  #opened(cid: string): () => void {
    const live = { cid, expiresAt: this.#known?.expiresAt ?? Infinity, renewAt: this.#known?.renewAt ?? Infinity };
    this.#live.add(live);
    const changed = (): void => {
      this.#tabs?.announce([...this.#live].map((l) => l.cid));
      this.#arm();
    };
    changed();
    return () => {
      this.#live.delete(live);
      changed();
    };
  }

  /** Sets the timer to the next renewal. Without live connections there is none: an idle session may lapse. */
  #arm(): void {
    clearTimeout(this.#timer);
    const at = Math.min(...[...this.#live].map((live) => live.renewAt));
    if (at < Infinity) this.#timer = setTimeout(() => void this.#due(at), Math.min(longest, Math.max(0, at - Date.now())));
  }

  async #due(at: number): Promise<void> {
    if (Date.now() < at) return this.#arm();
    try {
      await (this.#getToken ? this.#extend() : this.#renew());
    } catch (error) {
      // Again after a while, as long as there is something to save; the first
      // time soon, for the server repeats a lost answer only for some seconds.
      const now = Date.now();
      const wait = Math.max(1000 * 2 ** this.#failures++, ((error as WsBouncerError).retryAfter ?? 0) * 1000);
      for (const live of this.#live) {
        if (live.renewAt <= now) live.renewAt = live.expiresAt > now ? now + wait : Infinity;
      }
    }
    this.#arm();
  }

  #receive(message: Message): void {
    if (message.type === "token") this.#renewed(message.expiresAt, message.named, message.extended, message.sessionId);
    else if (message.type === "logout") this.#lost();
    else if (message.type === "login" && message.sessionId !== this.#known?.id) this.#unsure = true;
  }

  /**
   * Nobody is logged in any more, or somebody else is. The server closes what
   * followed the old login and says why; what is still open after `grace`, in
   * ms, or waits to come back, ends from here.
   */
  #lost(grace = 1000): void {
    if (!this.#known) return;
    this.#known = undefined;
    this.#unsure = false;
    for (const live of this.#live) live.renewAt = Infinity;
    this.#arm();
    const sockets = [...this.#sockets];
    const end = (): void => sockets.forEach((socket) => socket.end(3000, "logged_out"));
    if (grace) setTimeout(end, grace);
    else end();
    this.dispatchEvent(new Event("loggedout"));
  }
}

export interface WsBouncer {
  addEventListener<K extends keyof WsBouncerEventMap>(type: K, listener: (this: WsBouncer, event: WsBouncerEventMap[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof WsBouncerEventMap>(type: K, listener: (this: WsBouncer, event: WsBouncerEventMap[K]) => void, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}
