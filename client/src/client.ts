import { WsBouncerError } from "./errors.ts";
import { TokenEvent } from "./events.ts";
import { caller, type Call } from "./http.ts";
import { Socket, type Host } from "./socket.ts";
import { Tabs, type Message } from "./tabs.ts";
import type { BouncedWebSocket, Credentials, Options, Session, WsBouncerEventMap } from "./types.ts";

/** The access token as far as this tab knows it. */
interface Known {
  id: string;
  subject: string;
  /** The app's own token itself; undefined where cookies speak. */
  token: string | undefined;
  expiresAt: number;
  /** From here on it is renewed before anything is opened with it. */
  renewAt: number;
}

/** A live connection and its deadline. */
interface Live {
  cid: string;
  expiresAt: number;
  renewAt: number;
  lose: () => void;
}

/** setTimeout counts in 32 bits. */
const longest = 2 ** 31 - 1;

/** At about 80 % of what is left, so that not every client comes at once. */
function renewal(expiresAt: number): number {
  const now = Date.now();
  return now + Math.max(0, expiresAt - now) * (0.75 + 0.1 * Math.random());
}

/**
 * When a JWT of the app ends, in ms by this clock; Infinity when it does not
 * tell. The clock here may be wrong, but no token has more than its whole life
 * left, and a fresh one at least half of it.
 */
function expiry(token: string, fresh: boolean): number {
  const now = Date.now();
  try {
    const { exp, iat } = JSON.parse(atob(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    const life = exp * 1000 - (iat * 1000 || now);
    return now + Math.min(life, Math.max(exp * 1000 - now, fresh ? life / 2 : 0, 0)) || Infinity;
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
  /** So long after its deadline, in ms, a connection cannot be alive: servers grant foreign tokens up to a minute. */
  readonly #grace: number;
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
  /** Ends now what #lost would end after a while. */
  #hurry = (): void => {};
  /** The app's token that was not taken, or is about to end: wanted is another. */
  #stale: string | undefined;
  /** A newer token of the app is on its way. */
  #minting: Promise<string> | undefined;

  constructor({ url, authPath = "/auth", getToken, dpop, fetch: fetcher, WebSocket: Native }: Options) {
    super();
    const server = new URL(url);
    this.url = server.origin;
    this.#base = server.origin + authPath;
    this.#getToken = getToken;
    this.#grace = getToken ? 70_000 : 10_000;
    this.#call = caller(this.#base, fetcher ?? ((input, init) => fetch(input, init)), dpop);
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
      ticket: async (path) => {
        const ticket = await this.#authorized<{ ticket: string; connection: string }>("/ticket", { path });
        // As of now: the token may be renewed before the connection is open and can be named.
        const { expiresAt, renewAt } = this.#known ?? { expiresAt: Infinity, renewAt: Infinity };
        return { ...ticket, opened: (lose) => this.#opened({ cid: ticket.connection, expiresAt, renewAt, lose }) };
      },
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

  /**
   * Logs in with a password; the session is kept in cookies. Where the account
   * has a second factor it fails with `factor_required`: call it again with the
   * error's `challenge` and a code.
   */
  login(credentials: Credentials): Promise<Session> {
    return this.#once(JSON.stringify(credentials), () => this.#begin("/login", credentials));
  }

  /** Logs in with a passkey of this server and nothing else. Call it when the user asks for it: the browser shows its own dialog. */
  loginWithPasskey(): Promise<Session> {
    return this.#once("passkey", async () => {
      const { state, publicKey } = await this.#call<{ state: string; publicKey: PublicKeyCredentialRequestOptionsJSON }>("/webauthn/options", {});
      const credential = await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) });
      return this.#begin("/webauthn", { state, credential });
    });
  }

  /** A double click is one login. */
  #once(key: string, begin: () => Promise<Session>): Promise<Session> {
    if (this.#login?.key === key) return this.#login.session;
    const login = { key, session: begin().finally(() => (this.#login = undefined)) };
    this.#login = login;
    return login.session;
  }

  async #begin(path: string, proof: object): Promise<Session> {
    const { session_id } = await this.#call<{ session_id: string }>(path, { ...proof, cookie: true });
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
    this.#hurry();
    this.#live.clear();
    this.#arm();
    this.#tabs?.close();
  }

  /** GET /auth/session, once at a time. */
  #ask(): Promise<Session | null> {
    return (this.#asking ??= this.#fetchSession().finally(() => (this.#asking = undefined)));
  }

  async #fetchSession(): Promise<Session> {
    const token = await this.#token();
    const s = await this.#call<{ subject: string; session_id: string; scope?: string; expires_in: number }>("/session", undefined, token);
    const expiresAt = Date.now() + s.expires_in * 1000;
    // Somebody else is logged in now: what was opened before is not theirs.
    if (this.#known?.subject && this.#known.subject !== s.subject) this.#lost(0);
    this.#unsure = false;
    this.#known = { id: s.session_id, subject: s.subject, token, expiresAt, renewAt: renewal(expiresAt) };
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
    const token = await this.#token();
    try {
      return await this.#call<T>(path, body, token);
    } catch (error) {
      if (!(error as WsBouncerError).loggedOut) throw error;
    }
    await this.#renew(token);
    return this.#call<T>(path, body, await this.#token());
  }

  /** The app's own token; undefined where cookies speak. */
  async #token(): Promise<string | undefined> {
    if (!this.#getToken) return undefined;
    if (!this.#stale || this.#known?.token !== this.#stale) return this.#mint(false);
    return (this.#minting ??= this.#mint(true).finally(() => (this.#minting = undefined)));
  }

  async #mint(fresh: boolean): Promise<string> {
    const token = await this.#getToken!({ fresh });
    if (token !== this.#known?.token) {
      const expiresAt = expiry(token, fresh);
      this.#known = { id: "", subject: "", token, expiresAt, renewAt: renewal(expiresAt) };
    }
    return token;
  }

  /** After a 3000: true when it is worth another attempt. */
  async #confirm(refresh: boolean): Promise<boolean> {
    this.#stale = this.#known?.token;
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

  /** A newer token: from the app when next asked, or by the refresh cookie, once for all tabs. */
  async #renew(stale = this.#known?.token): Promise<void> {
    this.#stale = stale;
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
    const stale = (this.#stale = this.#known?.token);
    const token = await this.#token();
    if (token === stale) throw new WsBouncerError("token_expired", "The app has no newer token.");
    const { expiresAt } = this.#known!;
    const named = [...this.#live].map((live) => live.cid);
    const { extended = [] } = await this.#call<{ extended?: string[] }>("/extend", { connections: named }, token);
    this.#renewed(expiresAt, named, extended);
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

  #opened(live: Live): () => void {
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

  /** Sets the timer to what comes next. Without live connections there is none: an idle session may lapse. */
  #arm(): void {
    clearTimeout(this.#timer);
    const at = Math.min(...[...this.#live].map((live) => Math.min(live.renewAt, live.expiresAt + this.#grace)));
    const wait = Math.max(0, at - Date.now());
    if (wait < Infinity) this.#timer = setTimeout(() => (wait > longest ? this.#arm() : void this.#due(at)), Math.min(wait, longest));
  }

  async #due(at: number): Promise<void> {
    const now = Math.max(at, Date.now()); // the clock may have been set back meanwhile
    const due = [...this.#live].filter((live) => live.renewAt <= now);
    try {
      if (due.length) await (this.#getToken ? this.#extend() : this.#renew());
    } catch (error) {
      // Again after a while, more often towards the deadline; the first time
      // soon, for the server repeats a lost answer only for some seconds.
      const backOff = 1000 * 2 ** this.#failures++;
      for (const live of due) {
        const left = live.expiresAt - Date.now();
        const wait = Math.max(((error as WsBouncerError).retryAfter ?? 0) * 1000, Math.min(backOff, Math.max(1000, left / 2)));
        live.renewAt = wait < left ? Date.now() + wait : Infinity;
      }
    }
    // The server ended these long ago, and word of it was lost.
    for (const live of this.#live) if (live.expiresAt + this.#grace <= Date.now()) live.lose();
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
    this.#hurry();
    const sockets = [...this.#sockets];
    const timer = setTimeout(() => this.#hurry(), grace);
    this.#hurry = () => {
      clearTimeout(timer);
      this.#hurry = () => {};
      for (const socket of sockets) socket.end(3000, "logged_out");
    };
    if (!grace) this.#hurry();
    this.dispatchEvent(new Event("loggedout"));
  }
}

export interface WsBouncer {
  addEventListener<K extends keyof WsBouncerEventMap>(type: K, listener: (this: WsBouncer, event: WsBouncerEventMap[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof WsBouncerEventMap>(type: K, listener: (this: WsBouncer, event: WsBouncerEventMap[K]) => void, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}
