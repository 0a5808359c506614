import { advice } from "./codes.ts";
import { WsBouncerError } from "./errors.ts";
import { closeEvent, ReconnectingEvent } from "./events.ts";

/** What one attempt is opened with. */
export interface Ticket {
  ticket: string;
  connection: string;
  /**
   * The connection is open: its deadline is looked after until the returned
   * function is called. `lose` is called when it must be dead.
   */
  opened(lose: () => void): () => void;
}

/** What a socket needs of the login it follows. */
export interface Host {
  readonly WebSocket: typeof WebSocket;
  /** Resolves a path to the ws(s) address of this server, or throws SyntaxError. */
  address(url: string | URL): URL;
  ticket(path: string): Promise<Ticket>;
  /** After a 3000: whether there still is a session to come back with. */
  confirm(refresh: boolean): Promise<boolean>;
  /** The socket exists, until the returned function is called. */
  enlist(socket: Socket): () => void;
}

interface End {
  code: number;
  reason: string;
  wasClean: boolean;
  /** Milliseconds the connection was open. */
  stood?: number;
  /** Milliseconds the server asked to wait. */
  wait?: number;
}

const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;

/** A connection that stood so long, in ms, counts as a success: pauses start small again. */
const stable = 5_000;

/** No ticket lives longer, in ms: a handshake without an answer has failed. */
const patience = 30_000;

/** Full jitter: anything up to the bound, which doubles with every failure. */
function pause(code: number, attempt: number): number {
  const [first, most] = advice(code) === "back_off" ? [2_000, 60_000] : [500, 30_000];
  return Math.random() * Math.min(most, first * 2 ** (attempt - 1));
}

const aborted: End = { code: 1006, reason: "", wasClean: false };

/**
 * A drop-in for WebSocket whose every attempt brings a new ticket. Made by
 * `connect()`, it comes back by itself; made by `auth.WebSocket`, it ends with
 * its first connection.
 */
export class Socket extends EventTarget implements WebSocket {
  static readonly CONNECTING = CONNECTING;
  static readonly OPEN = OPEN;
  static readonly CLOSING = CLOSING;
  static readonly CLOSED = CLOSED;
  readonly CONNECTING = CONNECTING;
  readonly OPEN = OPEN;
  readonly CLOSING = CLOSING;
  readonly CLOSED = CLOSED;

  /** The address, without any ticket. */
  readonly url: string;

  readonly #host: Host;
  readonly #address: URL;
  readonly #protocols: string[];
  readonly #lasting: boolean;
  readonly #leave: () => void;
  #state: 0 | 1 | 2 | 3 = CONNECTING;
  #binaryType: BinaryType = "blob";
  /** The connection underneath, while there is one. */
  #inner: WebSocket | undefined;
  /** It, or the one before: what it was stays readable after `close`. */
  #last: WebSocket | undefined;
  #connection = "";
  #wake: () => void = () => {};
  #forced: End | undefined;
  #handlers: { [type: string]: { handler: unknown; listener: (event: Event) => void } } = {};

  constructor(host: Host, url: string | URL, protocols: string | string[], lasting: boolean) {
    super();
    if (!host.WebSocket) throw new TypeError("There is no WebSocket here: give one as an option.");
    this.#host = host;
    this.#address = host.address(url);
    this.#protocols = typeof protocols === "string" ? [protocols] : [...protocols];
    if (this.#protocols.some((p, i, all) => !/^[!#-'*+\-.0-9A-Z^-z|~]+$/.test(p) || all.indexOf(p) !== i)) {
      throw new DOMException("A subprotocol is empty, repeated or not a token.", "SyntaxError");
    }
    this.#lasting = lasting;
    this.url = this.#address.href;
    this.#leave = host.enlist(this);
    // Not before the caller has put its handlers on.
    queueMicrotask(() => void this.#run());
  }

  /** The server's id of the live connection (`cid`), "" while there is none. */
  get connection(): string {
    return this.#connection;
  }
  get readyState(): 0 | 1 | 2 | 3 {
    return this.#state;
  }
  get bufferedAmount(): number {
    return this.#state === CONNECTING ? 0 : this.#last?.bufferedAmount ?? 0;
  }
  get protocol(): string {
    return this.#state === CONNECTING ? "" : this.#last?.protocol ?? "";
  }
  get extensions(): string {
    return this.#state === CONNECTING ? "" : this.#last?.extensions ?? "";
  }
  get binaryType(): BinaryType {
    return this.#binaryType;
  }
  set binaryType(type: BinaryType) {
    if (type !== "blob" && type !== "arraybuffer") return; // as the native one ignores it
    this.#binaryType = type;
    if (this.#inner) this.#inner.binaryType = type;
  }

  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void {
    if (this.#state === CONNECTING) {
      throw new DOMException("The connection is not open.", "InvalidStateError");
    }
    // Not open any more: the native one drops it without a word, too.
    this.#last?.send(data as string);
  }

  close(code?: number, reason = ""): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException("The close code is neither 1000 nor from 3000 to 4999.", "InvalidAccessError");
    }
    if (new TextEncoder().encode(reason).length > 123) {
      throw new DOMException("The close reason is longer than 123 bytes.", "SyntaxError");
    }
    if (this.#state >= CLOSING) return;
    this.#state = CLOSING;
    if (this.#inner) {
      if (code === undefined && !reason) this.#inner.close();
      else this.#inner.close(code ?? 1000, reason);
    } else {
      queueMicrotask(() => this.#finish(aborted));
    }
  }

  /** Ends it now as the server would: whose login it followed is gone. */
  end(code: number, reason: string): void {
    if (this.#state >= CLOSING) return;
    this.#forced ??= { code, reason, wasClean: true };
    this.close();
  }

  async #run(): Promise<void> {
    let attempt = 0;
    let refused = 0;
    while (this.#state === CONNECTING) {
      const end = await this.#attempt();
      this.#inner = undefined;
      if (this.#state >= CLOSING) return this.#finish(end);
      this.#state = CONNECTING;
      if ((end.stood ?? 0) >= stable) attempt = refused = 0;
      const what = advice(end.code);
      if (what === "stop") return this.#finish(end);
      if (what === "reauthenticate") {
        this.#forced = end; // whatever is found out meanwhile, this is how it ended
        const confirmed = this.#host.confirm(refused++ > 0);
        if (!this.#lasting || refused > 2 || !(await confirmed)) return this.#finish(end);
        this.#forced = undefined;
      }
      if (!this.#lasting) return this.#finish(end);
      if (this.#state !== CONNECTING) return; // closed while confirming: finished already
      const delay = (end.wait ?? 0) + pause(end.code, ++attempt);
      this.dispatchEvent(new ReconnectingEvent(end.code, end.reason, attempt, delay));
      if (this.#state === CONNECTING) await this.#sleep(delay);
    }
  }

  /** One ticket, one connection. Resolves when it has ended. */
  async #attempt(): Promise<End> {
    let ticket: Ticket;
    try {
      ticket = await this.#host.ticket(this.#address.pathname);
    } catch (error) {
      if (!(error instanceof WsBouncerError)) return aborted; // the app's getToken: try again later
      return { code: error.closeCode, reason: error.code, wasClean: false, wait: error.retryAfter * 1000 };
    }
    if (this.#state !== CONNECTING) return aborted;
    return new Promise((resolve) => {
      // Not by searchParams: that would write the app's own query anew.
      const address = new URL(this.#address);
      address.search += `${address.search ? "&" : "?"}ticket=${encodeURIComponent(ticket.ticket)}`;
      let inner: WebSocket;
      try {
        inner = new this.#host.WebSocket(address, this.#protocols);
      } catch {
        return resolve({ ...aborted, code: 1008 }); // ws: from an https page: never allowed
      }
      let openedAt = 0;
      let closed = (): void => {};
      const over = (end: End): void => {
        clearTimeout(timer);
        inner.onopen = inner.onmessage = inner.onclose = null;
        closed();
        this.#connection = "";
        resolve({ ...end, ...(openedAt && { stood: Date.now() - openedAt }) });
      };
      const lose = (): void => {
        over(aborted);
        inner.close();
      };
      const timer = setTimeout(lose, patience);
      this.#inner = this.#last = inner;
      inner.binaryType = this.#binaryType;
      inner.onopen = () => {
        if (this.#state !== CONNECTING) return;
        clearTimeout(timer);
        this.#state = OPEN;
        openedAt = Date.now();
        this.#connection = ticket.connection;
        closed = ticket.opened(lose);
        this.dispatchEvent(new Event("open"));
      };
      inner.onmessage = ({ data, origin }) => {
        if (this.#state === OPEN) this.dispatchEvent(new MessageEvent("message", { data, origin: origin ?? this.#address.origin }));
      };
      inner.onerror = () => {}; // a close follows
      inner.onclose = ({ code, reason, wasClean }) => over({ code, reason, wasClean });
    });
  }

  #finish(end: End): void {
    if (this.#state === CLOSED) return;
    this.#state = CLOSED;
    this.#leave();
    this.#wake();
    const { code, reason, wasClean } = this.#forced ?? end;
    if (!wasClean) this.dispatchEvent(new Event("error"));
    this.dispatchEvent(closeEvent({ code, reason, wasClean }));
  }

  /** Until the time is over, the network is back, or the socket is closed. */
  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        globalThis.removeEventListener?.("online", wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      globalThis.addEventListener?.("online", wake);
      this.#wake = wake;
    });
  }

  #on(type: string, handler: unknown): void {
    const old = this.#handlers[type];
    if (old) this.removeEventListener(type, old.listener);
    delete this.#handlers[type];
    if (typeof handler !== "function") return;
    const listener = (event: Event): void => void handler.call(this, event);
    this.#handlers[type] = { handler, listener };
    this.addEventListener(type, listener);
  }
  #handler(type: string): any {
    return this.#handlers[type]?.handler ?? null;
  }
  get onopen(): WebSocket["onopen"] { return this.#handler("open"); }
  set onopen(handler: WebSocket["onopen"]) { this.#on("open", handler); }
  get onmessage(): WebSocket["onmessage"] { return this.#handler("message"); }
  set onmessage(handler: WebSocket["onmessage"]) { this.#on("message", handler); }
  get onerror(): WebSocket["onerror"] { return this.#handler("error"); }
  set onerror(handler: WebSocket["onerror"]) { this.#on("error", handler); }
  get onclose(): WebSocket["onclose"] { return this.#handler("close"); }
  set onclose(handler: WebSocket["onclose"]) { this.#on("close", handler); }
}
