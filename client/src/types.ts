import type { ReconnectingEvent, TokenEvent } from "./events.ts";

export interface Options {
  /** The wsbouncer server, e.g. `https://rt.example.com`. */
  url: string | URL;
  /** `auth_path` of its configuration; `/auth` when absent. */
  authPath?: string;
  /**
   * For access tokens of the app's own (or of another issuer) instead of a
   * login here. With `fresh` the last one is about to end or was not taken:
   * return a newer one.
   */
  getToken?: (want: { fresh: boolean }) => string | Promise<string>;
  /** Proves that the tokens of `getToken` are this browser's: a `DPoP` of `@wsbouncer/client/dpop`. */
  dpop?: Prover;
  /** `fetch` when absent. */
  fetch?: typeof fetch;
  /** The WebSocket underneath; the global one when absent. */
  WebSocket?: typeof WebSocket;
}

/** What sends a request with a token and a proof of its key. */
export interface Prover {
  fetch(token: string | undefined, url: string, init?: RequestInit, fetcher?: typeof fetch): Promise<Response>;
}

/** A login, or the second half of one. */
export type Credentials =
  | { username: string; password: string }
  | { challenge: string; code: string }
  | { challenge: string; recovery_code: string }
  | { challenge: string; credential: Credential };

/** Who is logged in. */
export interface Session {
  subject: string;
  sessionId: string;
  scopes: string[];
  /** When the access token ends, in milliseconds since 1970. It is renewed before, while a socket is open. */
  expiresAt: number;
}

export interface WsBouncerEventMap {
  /** Renewed, here or by another tab. */
  token: TokenEvent;
  /** The session is over, or somebody else logged in: ask for a login. */
  loggedout: Event;
}

interface BouncedEventMap extends WebSocketEventMap {
  reconnecting: ReconnectingEvent;
}

/** A WebSocket that comes back. While it does, `readyState` is CONNECTING and `send` throws. */
export interface BouncedWebSocket extends WebSocket {
  /** The server's id of the live connection (`cid`); "" while there is none. */
  readonly connection: string;
  addEventListener<K extends keyof BouncedEventMap>(type: K, listener: (this: WebSocket, event: BouncedEventMap[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof BouncedEventMap>(type: K, listener: (this: WebSocket, event: BouncedEventMap[K]) => void, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}
