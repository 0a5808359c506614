// The rig itself: what other tests take for granted of the real provider.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launch } from "../browser/harness.mjs";
import { provider, signIn, signOut } from "./provider.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

const claimsOf = (jwt) => JSON.parse(Buffer.from(jwt.split(".")[1], "base64url"));
const headOf = (jwt) => JSON.parse(Buffer.from(jwt.split(".")[0], "base64url"));

const verifier = "v".repeat(43);
const challenge = Buffer.from(await crypto.subtle.digest("SHA-256", Buffer.from(verifier))).toString("base64url");

/** A client of the provider: takes the redirect and logout tokens. */
async function app() {
  const waiting = [];
  const came = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk)).on("end", () => {
      response.writeHead(200).end();
      if (request.url === "/favicon.ico") return;
      const arrival = { url: new URL(request.url, "http://127.0.0.1"), body };
      (waiting.shift() ?? ((a) => came.push(a)))(arrival);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    next: () => (came.length ? Promise.resolve(came.shift()) : new Promise((resolve) => waiting.push(resolve))),
    stop: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))),
  };
}

test("login, tokens of two keys, log-out told on the back channel", async () => {
  const client = await app();
  const op = await provider({
    audience: "chat",
    users: { ann: { groups: ["staff"] } },
    clients: [{ client_id: "c", client_secret: "s".repeat(32), redirect_uris: [`${client.url}/cb`], backchannel_logout_uri: `${client.url}/logout`, backchannel_logout_session_required: true, require_auth_time: true }],
  });
  const profile = await browser.newContext();
  try {
    const page = await profile.newPage();
    const login = async () => {
      const query = new URLSearchParams({ client_id: "c", response_type: "code", redirect_uri: `${client.url}/cb`, scope: "openid profile", state: "x", nonce: "n", code_challenge: challenge, code_challenge_method: "S256" });
      const [, arrival] = await Promise.all([
        page.goto(`${op.issuer}/auth?${query}`).then(async () => (await page.$("#login")) && signIn(page, "ann")),
        client.next(),
      ]);
      assert.ok(arrival.url.searchParams.has("code"), arrival.url.href);
      assert.equal(arrival.url.searchParams.get("iss"), op.issuer);
      const answer = await fetch(`${op.issuer}/token`, {
        method: "POST",
        headers: { authorization: `Basic ${Buffer.from(`c:${"s".repeat(32)}`).toString("base64")}` },
        body: new URLSearchParams({ grant_type: "authorization_code", code: arrival.url.searchParams.get("code"), redirect_uri: `${client.url}/cb`, code_verifier: verifier }),
      });
      assert.equal(answer.status, 200);
      return answer.json();
    };
    const first = await login();
    const id = claimsOf(first.id_token);
    assert.deepEqual([id.sub, id.aud, id.nonce, id.groups], ["ann", "c", "n", ["staff"]]);
    assert.ok(id.sid && id.auth_time, JSON.stringify(id));
    assert.equal(headOf(first.access_token).typ, "at+jwt");
    assert.equal(claimsOf(first.access_token).aud, "chat");

    const kid = op.rotate();
    const second = await login(); // by the session there
    assert.equal(headOf(second.id_token).kid, kid);
    const { keys } = await (await fetch(`${op.issuer}/jwks`)).json();
    assert.deepEqual(keys.map((key) => key.kid), [kid, headOf(first.id_token).kid]);

    const [told] = await Promise.all([client.next(), signOut(page, op.issuer)]);
    const logout = claimsOf(new URLSearchParams(told.body).get("logout_token"));
    assert.deepEqual([told.url.pathname, logout.sub, logout.sid], ["/logout", "ann", id.sid]);
  } finally {
    await profile.close();
    await op.stop();
    await client.stop();
  }
});

test("it can be driven from another language", async () => {
  const child = spawn(process.execPath, [fileURLToPath(new URL("provider.mjs", import.meta.url)), JSON.stringify({ clients: [{ client_id: "c", client_secret: "s".repeat(32), redirect_uris: ["http://127.0.0.1/cb"] }] })], { stdio: ["pipe", "pipe", "ignore"] });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value);
  const { issuer } = await next();
  const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
  assert.equal(metadata.issuer, issuer);
  child.stdin.write("rotate\n");
  assert.ok((await next()).kid);
  child.stdin.write(`${JSON.stringify({ user: "cy", claims: {} })}\n`);
  assert.deepEqual((await next()).users, ["ann", "bob", "cy"]);
  child.stdin.end();
  assert.equal(await ended, 0);
});
