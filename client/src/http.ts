import { WsBouncerError } from "./errors.ts";
import type { Prover } from "./types.ts";

/**
 * Milliseconds a call may take. A hung refresh holds up every tab; and less than
 * the server's `refresh_grace`, so that one whose answer was lost can be repeated.
 */
const timeout = 8_000;

export type Call = <T>(path: string, body?: object, bearer?: string) => Promise<T>;

/**
 * Calls the HTTP API below `base`: POST with a body, else GET; JSON both ways.
 * Without a bearer token the cookies speak.
 */
export function caller(base: string, fetcher: typeof fetch, dpop?: Prover): Call {
  return async <T>(path: string, body?: object, bearer?: string): Promise<T> => {
    let response: Response;
    let text: string;
    try {
      const init: RequestInit = {
        method: body ? "POST" : "GET",
        headers: {
          accept: "application/json",
          ...(body && { "content-type": "application/json" }),
          ...(bearer && { authorization: `Bearer ${bearer}` }),
        },
        ...(body && { body: JSON.stringify(body) }),
        credentials: bearer ? "omit" : "include",
        cache: "no-store",
        redirect: "error",
        // Rotation must not be half done because the page is left. (With a
        // preflight not every browser can.)
        keepalive: base.startsWith(`${globalThis.location?.origin}/`),
        signal: AbortSignal.timeout(timeout),
      };
      response = await (bearer && dpop ? dpop.fetch(bearer, base + path, init, fetcher) : fetcher(base + path, init));
      text = await response.text(); // may break off in the middle, too
    } catch (cause) {
      throw new WsBouncerError("network", `${base} cannot be reached`, 0, 0, { cause });
    }
    let answer: any;
    try {
      answer = JSON.parse(text || "{}");
    } catch (cause) {
      if (response.ok) throw new WsBouncerError("unexpected", `${base}${path} did not answer in JSON`, response.status, 0, { cause });
    }
    if (response.ok) return answer as T;
    // RFC 9457 problem details; the token endpoint speaks RFC 6749 section 5.2.
    const { challenge, factors, publicKey } = answer ?? {};
    throw Object.assign(new WsBouncerError(
      answer?.code ?? answer?.error ?? "unexpected",
      answer?.detail ?? answer?.error_description ?? `${path} was answered ${response.status}`,
      response.status,
      Number(response.headers.get("retry-after")) || 0,
    ), challenge && { challenge, factors, ...(publicKey && { publicKey }) });
  };
}
