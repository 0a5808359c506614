// Access tokens of a real OpenID provider open connections: a gateway without an
// issuer of its own trusts it by discovery.
import assert from "node:assert/strict";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { echo } from "../browser/harness.mjs";
import { freePort, gateway } from "./gateway.mjs";
import { provider } from "./provider.mjs";

const secret = "s".repeat(40);
let upstream, op, server;

before(async () => {
  upstream = await echo();
  op = await provider({ audience: "chat", clients: [{ client_id: "robot", client_secret: secret, grant_types: ["client_credentials"], response_types: [], redirect_uris: [] }] });
  server = await gateway(await freePort(), `
trust:
  - {issuer: "${op.issuer}", audience: chat, algorithms: [RS256], keys: {discovery: true, refetch_min: 1s, refresh: 1s}}
routes:
  - {path: /chat, upstream: "${upstream.url}", scopes: [chat]}
`);
});
after(async () => {
  assert.equal(await server?.stop(), 0, "exit code after SIGTERM");
  await Promise.all([op?.stop(), upstream?.stop()]);
});

async function token() {
  const answer = await fetch(`${op.issuer}/token`, {
    method: "POST",
    headers: { authorization: `Basic ${Buffer.from(`robot:${secret}`).toString("base64")}` },
    body: new URLSearchParams({ grant_type: "client_credentials", scope: "chat" }),
  });
  assert.equal(answer.status, 200);
  return (await answer.json()).access_token;
}

/** The answer to a handshake: its status and, if it was refused, the code. */
const connect = (bearer) => new Promise((resolve, reject) => {
  const r = request(`${server.url}/chat`, { headers: { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", authorization: `Bearer ${bearer}` } });
  r.on("upgrade", (response, socket) => (socket.destroy(), resolve([response.statusCode, ""])));
  r.on("response", async (response) => {
    let body = "";
    for await (const chunk of response) body += chunk;
    resolve([response.statusCode, JSON.parse(body).code]);
  });
  r.on("error", reject);
  r.end();
});

const headOf = (jwt) => JSON.parse(Buffer.from(jwt.split(".")[0], "base64url"));

test("JWK-04 JWK-05: its tokens open connections, through a rotation and an outage", async () => {
  const first = await token();
  assert.deepEqual(await connect(first), [101, ""]);
  const [head, payload] = first.split(".");
  assert.deepEqual(await connect(`${head}.${payload}.${"A".repeat(342)}`), [401, "token_signature"]);

  const kid = op.rotate();
  const second = await token();
  assert.equal(headOf(second).kid, kid);
  // Published a moment before it signs, as it is: one fetch a second brings it.
  for (const end = Date.now() + 20_000; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const [status] = await connect(second);
    if (status === 101) break;
    assert.ok(Date.now() < end, "the new key was never fetched");
  }
  assert.deepEqual(await connect(first), [101, ""]);

  await op.stop();
  assert.deepEqual(await connect(second), [101, ""]);
  assert.deepEqual(await connect(first), [101, ""]);
});
