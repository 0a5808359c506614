/**
 * Tokens bound to a key of this browser (DPoP, RFC 9449): a thief of the token
 * alone gets nothing. The key cannot be taken out of the browser, not even by a
 * script of the page; it is kept for all tabs in IndexedDB, where there is one.
 *
 * Have tokens issued with it, and give it to the client beside `getToken`:
 *
 *     const dpop = new DPoP();
 *     const answer = await dpop.fetch(undefined, "https://rt.example.com/auth/login", { method: "POST", … });
 *     const auth = new WsBouncer({ url, getToken, dpop });
 */
export class DPoP {
  readonly #name: string;
  #keys: Promise<CryptoKeyPair> | undefined;
  /** The newest nonce of each server. */
  readonly #nonces = new Map<string, string>();

  /** Each `name` is a key of its own. */
  constructor(name = "default") {
    this.#name = name;
  }

  /**
   * `fetch` with a proof, and with `token` if there is one. When the server wants
   * a nonce in the proof it is asked a second time: `init.body` must be one that
   * can be sent twice.
   */
  async fetch(token: string | undefined, url: string, init: RequestInit = {}, fetcher: typeof fetch = (input, i) => fetch(input, i)): Promise<Response> {
    const { origin } = new URL(url);
    const used = this.#nonces.get(origin);
    const response = await this.#send(token, url, init, fetcher, used);
    const nonce = response.headers.get("dpop-nonce");
    if (!nonce) return response;
    this.#nonces.set(origin, nonce);
    const refused = response.status === 400 || response.status === 401;
    if (!refused || nonce === used || !(await wantsNonce(response.clone()))) return response;
    return this.#send(token, url, init, fetcher, nonce);
  }

  async #send(token: string | undefined, url: string, init: RequestInit, fetcher: typeof fetch, nonce: string | undefined): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set("dpop", await this.proof(init.method ?? "GET", url, token, nonce));
    if (token) headers.set("authorization", `DPoP ${token}`);
    return fetcher(url, { ...init, headers });
  }

  /** A proof for one request (RFC 9449 section 4.2). */
  async proof(method: string, url: string, token?: string, nonce?: string): Promise<string> {
    const { privateKey, publicKey } = await this.#pair();
    const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", publicKey);
    const { origin, pathname } = new URL(url);
    const signed = `${part({ typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } })}.${part({
      jti: base64url(crypto.getRandomValues(new Uint8Array(16))),
      htm: method,
      htu: origin + pathname,
      iat: Math.floor(Date.now() / 1000),
      ...(token && { ath: base64url(await sha256(token)) }),
      ...(nonce && { nonce }),
    })}`;
    const signature = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, privateKey, bytes(signed));
    return `${signed}.${base64url(new Uint8Array(signature))}`;
  }

  /** The key's RFC 7638 thumbprint: what tokens that are bound to it have as `cnf.jkt`. */
  async thumbprint(): Promise<string> {
    const { crv, kty, x, y } = await crypto.subtle.exportKey("jwk", (await this.#pair()).publicKey);
    return base64url(await sha256(JSON.stringify({ crv, kty, x, y })));
  }

  #pair(): Promise<CryptoKeyPair> {
    return (this.#keys ??= this.#load());
  }

  async #load(): Promise<CryptoKeyPair> {
    const fresh = (await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"])) as CryptoKeyPair;
    if (typeof indexedDB === "undefined") return fresh;
    try {
      return await kept(this.#name, fresh);
    } catch {
      return fresh; // a browser that keeps nothing: the key lasts as long as the page
    }
  }
}

/** The key of that name; `fresh` becomes it where there is none yet, in whichever tab comes first. */
async function kept(name: string, fresh: CryptoKeyPair): Promise<CryptoKeyPair> {
  const opening = indexedDB.open("wsbouncer-dpop", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("keys");
  const db = await done(opening);
  try {
    const keys = db.transaction("keys", "readwrite").objectStore("keys");
    const old = await done<CryptoKeyPair | undefined>(keys.get(name));
    if (old) return old;
    await done(keys.put(fresh, name));
    return fresh;
  } finally {
    db.close();
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Says so in its body (RFC 6749 section 5.2, RFC 9457), or in WWW-Authenticate where a page may read that. */
async function wantsNonce(response: Response): Promise<boolean> {
  if (response.headers.get("www-authenticate")?.includes("use_dpop_nonce")) return true;
  try {
    const { code, error } = await response.json();
    return code === "use_dpop_nonce" || error === "use_dpop_nonce";
  } catch {
    return false;
  }
}

const bytes = (text: string) => new TextEncoder().encode(text);
const part = (value: object): string => base64url(bytes(JSON.stringify(value)));

async function sha256(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes(text)));
}

function base64url(b: Uint8Array): string {
  return btoa(String.fromCharCode(...b)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
