// What the server's codes mean to a client. The server's own table is
// internal/reason; vectors/*.json carry it here, and a test compares.

/** What to do after a connection ended. */
export type Advice = "reauthenticate" | "stop" | "back_off" | "reconnect";

/**
 * Advice by close code, the one thing a browser always learns. 1000 is the
 * peer saying that the job is done: nothing to come back for.
 */
export function advice(code: number): Advice {
  switch (code) {
    case 3000: // Unauthorized
    case 3008: // Timeout, waiting for a credential
      return "reauthenticate";
    case 1000:
    case 1002:
    case 1007:
    case 1008:
    case 1009:
    case 3003: // Forbidden
      return "stop";
    case 1012:
    case 1013:
      return "back_off";
    default:
      return "reconnect";
  }
}

/** Refusals of the handshake and the HTTP API (`code` in problem+json). */
export const refusals = [
  "bad_handshake", "credential_ambiguous", "unknown_host",
  "token_missing", "token_malformed", "token_signature", "token_expired", "token_not_yet_valid", "token_issuer",
  "token_audience", "token_type", "token_lifetime", "token_binding", "invalid_dpop_proof", "use_dpop_nonce", "token_revoked", "ticket_invalid",
  "insufficient_user_authentication",
  "insufficient_scope", "not_allowed", "origin_denied",
  "no_route", "token_too_large", "upgrade_required", "too_many_handshakes", "too_many_connections",
  "upstream_refused", "upstream_timeout", "not_ready", "overloaded",
] as const;

/**
 * The `code` of a {@link WsBouncerError}: a refusal of the server, an OAuth
 * error of its token endpoint, or one of this client's own (`network`,
 * `cookies_blocked`, `unexpected`). Codes of a newer server pass as they are.
 */
export type ErrorCode =
  | (typeof refusals)[number]
  | "login_failed" | "factor_required" | "factor_failed" | "challenge_invalid" | "login_throttled" | "body_too_large" | "unsupported_media_type"
  | "invalid_request" | "invalid_grant" | "invalid_scope"
  | "network" | "cookies_blocked" | "unexpected"
  | (string & {});
