import { createHash, createPublicKey, verify } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { DPoP } from "../src/dpop.ts";
import { WsBouncer } from "../src/index.ts";

const stops: (() => void)[] = [];
afterEach(() => {
  for (const stop of stops.splice(0)) stop();
});

/** A server that answers as `serve` says; resolves to its origin. */
async function server(serve: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const s = createServer(serve);
  await new Promise<void>((resolve) => s.listen(0, "127.0.0.1", resolve));
  stops.push(() => s.close());
  return `http://127.0.0.1:${(s.address() as AddressInfo).port}`;
}

const decode = (part: string): any => JSON.parse(Buffer.from(part, "base64url").toString());

/** A proof's header and claims, its signature checked. */
function opened(proof: string): { header: any; claims: any } {
  const [head, payload, signature] = proof.split(".") as [string, string, string];
  const header = decode(head);
  const key = createPublicKey({ key: header.jwk, format: "jwk" });
  expect(verify("sha256", Buffer.from(`${head}.${payload}`), { key, dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url"))).toBe(true);
  return { header, claims: decode(payload) };
}

test("a proof is what RFC 9449 section 4.2 says", async () => {
  const dpop = new DPoP();
  const { header, claims } = opened(await dpop.proof("POST", "https://rt.example.com:8443/auth/ticket?x=1#y", "token", "n1"));
  expect(header).toEqual({ typ: "dpop+jwt", alg: "ES256", jwk: { kty: "EC", crv: "P-256", x: expect.any(String), y: expect.any(String) } });
  expect(claims).toEqual({
    jti: expect.any(String), htm: "POST", htu: "https://rt.example.com:8443/auth/ticket", iat: expect.any(Number), nonce: "n1",
    ath: createHash("sha256").update("token").digest("base64url"),
  });
  expect(Math.abs(claims.iat - Date.now() / 1000)).toBeLessThan(5);
  const other = opened(await dpop.proof("GET", "https://rt.example.com/"));
  expect(other.claims).not.toHaveProperty("ath");
  expect(other.claims.jti).not.toBe(claims.jti);
  expect(other.header.jwk).toEqual(header.jwk);
  const { crv, kty, x, y } = header.jwk;
  expect(await dpop.thumbprint()).toBe(createHash("sha256").update(JSON.stringify({ crv, kty, x, y })).digest("base64url"));
  expect(opened(await new DPoP("other").proof("GET", "https://rt.example.com/")).header.jwk).not.toEqual(header.jwk);
});

test("a nonce is used once it is known, and asked for once", async () => {
  const seen: (string | undefined)[] = [];
  let want = "n1";
  let body = `{"code":"use_dpop_nonce"}`;
  const url = await server((request, response) => {
    const { claims } = opened(String(request.headers.dpop));
    seen.push(claims.nonce);
    response.setHeader("dpop-nonce", want);
    response.writeHead(claims.nonce === want ? 200 : 401).end(claims.nonce === want ? "{}" : body);
  });
  const dpop = new DPoP();
  expect((await dpop.fetch(undefined, `${url}/a`)).status).toBe(200);
  expect((await dpop.fetch(undefined, `${url}/b`)).status).toBe(200);
  expect(seen).toEqual([undefined, "n1", "n1"]);
  want = "n2";
  body = `{"error":"use_dpop_nonce"}`;
  expect((await dpop.fetch(undefined, `${url}/c`)).status).toBe(200);
  // Another refusal is no reason to ask again, and its body can still be read.
  want = "n3";
  body = `{"code":"token_expired"}`;
  const refused = await dpop.fetch(undefined, `${url}/d`);
  expect([refused.status, await refused.text()]).toEqual([401, body]);
  expect(seen.slice(3)).toEqual(["n1", "n2", "n2"]);
});

test("the client sends the app's token with a proof of its key", async () => {
  const seen: { path: string; authorization: string; claims: any }[] = [];
  const url = await server((request, response) => {
    seen.push({ path: String(request.url), authorization: String(request.headers.authorization), claims: opened(String(request.headers.dpop)).claims });
    response.end(JSON.stringify({ subject: "ann", session_id: "s", scope: "chat", expires_in: 300 }));
  });
  const auth = new WsBouncer({ url, getToken: () => "bound", dpop: new DPoP() });
  stops.push(() => auth.close());
  expect((await auth.session())?.subject).toBe("ann");
  expect(seen).toEqual([{ path: "/auth/session", authorization: "DPoP bound", claims: expect.objectContaining({ htm: "GET", htu: `${url}/auth/session`, ath: createHash("sha256").update("bound").digest("base64url") }) }]);
});
