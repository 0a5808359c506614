/** The credential was renewed, here or by another tab. */
export class TokenEvent extends Event {
  /** When the access token ends now, in milliseconds since 1970. */
  readonly expiresAt: number;
  /** The connections (`cid`) whose deadline moved with it, of all tabs. */
  readonly extended: readonly string[];

  constructor(expiresAt: number, extended: readonly string[]) {
    super("token");
    this.expiresAt = expiresAt;
    this.extended = extended;
  }
}

/** A connection ended and another attempt follows. `close()` in a listener prevents it. */
export class ReconnectingEvent extends Event {
  /** How the last connection, or the attempt, ended. */
  readonly code: number;
  readonly reason: string;
  /** The number of the coming attempt since the last stable connection, from 1. */
  readonly attempt: number;
  /** Milliseconds until it. */
  readonly delay: number;

  constructor(code: number, reason: string, attempt: number, delay: number) {
    super("reconnecting");
    this.code = code;
    this.reason = reason;
    this.attempt = attempt;
    this.delay = delay;
  }
}

class PlainCloseEvent extends Event {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;

  constructor(type: string, init: CloseEventInit) {
    super(type);
    this.code = init.code ?? 0;
    this.reason = init.reason ?? "";
    this.wasClean = init.wasClean ?? false;
  }
}

/** CloseEvent, which Node before 23 lacks. */
export function closeEvent(init: CloseEventInit): CloseEvent {
  return new (globalThis.CloseEvent ?? PlainCloseEvent)("close", init);
}
