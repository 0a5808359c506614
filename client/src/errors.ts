import type { ErrorCode } from "./codes.ts";

/** Every promise of this package that fails, fails with this. */
export class WsBouncerError extends Error {
  override readonly name = "WsBouncerError";
  /** Stable, for programs. */
  readonly code: ErrorCode;
  /** HTTP status of the answer; 0 when there was none. */
  readonly status: number;
  /** Seconds the server asks to wait, when it says. */
  readonly retryAfter: number;
  /** With `factor_required`: what stands for the password that was given, and the kinds of factors to answer with. */
  challenge?: string;
  factors?: string[];
  /** What to ask `navigator.credentials.get` for, where a passkey is one of them. */
  publicKey?: PublicKeyCredentialRequestOptionsJSON;

  constructor(code: ErrorCode, message: string, status = 0, retryAfter = 0, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether nobody is logged in any more, as against something that may pass. */
  get loggedOut(): boolean {
    // Wanting a stronger login (RFC 9470) does not unmake the one there is.
    return this.status === 401 && this.code !== "insufficient_user_authentication" || this.code === "invalid_grant";
  }

  /** The close code a refusal stands for, as on routes with `reject: close`. */
  get closeCode(): number {
    if (this.loggedOut) return 3000;
    if (this.status === 403 || this.status === 401) return 3003;
    if (this.status === 429 || this.status >= 500) return 1013;
    return this.status >= 400 ? 1008 : 1006;
  }
}
