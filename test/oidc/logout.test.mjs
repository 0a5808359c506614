// Logout at a real OpenID provider, in a browser: the live sockets hear of it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { echo, launch } from "../browser/harness.mjs";
import { freePort, gateway, page } from "./gateway.mjs";
import { provider, signIn, signOut } from "./provider.mjs";

const secret = "s".repeat(40);
let browser, upstream, op, server, app;

before(async () => {
  [browser, upstream] = await Promise.all([launch(), echo()]);
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  op = await provider({
    clients: [{
      client_id: "gateway", client_secret: secret, redirect_uris: [`${url}/auth/callback/corp`],
      backchannel_logout_uri: `${url}/auth/backchannel-logout`, backchannel_logout_session_required: true,
    }],
  });
  app = await page(url);
  server = await gateway(port, `
origins: ["${app.url}"]
issuer: {}
login:
  providers:
    - {name: corp, issuer: "${op.issuer}", client_id: gateway, client_secret_file: secret.txt, allow: "true", default_scopes: [chat]}
routes:
  - {path: /chat, upstream: "${upstream.url}", scopes: [chat]}
`, { "secret.txt": secret });
});
after(async () => {
  await browser?.close();
  assert.equal(await server?.stop(), 0, "exit code after SIGTERM");
  await Promise.all([op?.stop(), app?.stop(), upstream?.stop()]);
});

async function open(profile) {
  const tab = await profile.newPage();
  await tab.goto(app.url);
  await tab.waitForFunction(() => document.title === "ready");
  return tab;
}

/** Logs in, and leaves a plain WebSocket open in the page. */
async function chatting(profile, name) {
  const tab = await open(profile);
  await tab.evaluate(() => wsbouncer.loginWith("corp"));
  await tab.waitForSelector("#login");
  await signIn(tab, name);
  await tab.waitForURL(`${app.url}/`);
  await tab.waitForFunction(() => document.title === "ready");
  await tab.evaluate(() => new Promise((resolve, reject) => {
    const socket = wsbouncer.connect("/chat");
    globalThis.socket = socket;
    globalThis.ended = new Promise((done) => (socket.onclose = ({ code, reason }) => done({ code, reason, at: Date.now() })));
    globalThis.ended.then(({ code, reason }) => reject(new Error(`closed ${code} ${reason}`)));
    socket.onopen = () => socket.send("hello");
    socket.onmessage = resolve;
  }));
  return tab;
}

test("SES-14: logging out at the provider closes the socket within a second, and no other's", async () => {
  const [ann, again, bob] = await Promise.all([1, 2, 3].map(() => browser.newContext()));
  try {
    const tab = await chatting(ann, "ann");
    const elsewhere = await chatting(again, "ann"); // another login of ann
    const other = await chatting(bob, "bob");
    const closed = tab.evaluate(() => globalThis.ended);
    const away = await ann.newPage();
    let asked; // when the page of the logout was confirmed
    away.on("request", (request) => { if (request.method() === "POST") asked ??= Date.now(); });
    await signOut(away, op.issuer);
    const { code, reason, at } = await closed;
    assert.deepEqual({ code, reason }, { code: 3000, reason: "logged_out" });
    assert.ok(at - asked < 1000, `it took ${at - asked} ms`);
    assert.equal(await tab.evaluate(() => wsbouncer.session()), null);
    for (const page of [elsewhere, other]) {
      assert.ok(await page.evaluate(() => new Promise((resolve) => {
        globalThis.socket.onmessage = () => resolve(true);
        globalThis.socket.send("still there?");
      })));
    }
    assert.ok(server.log.some((line) => line.includes("identity_event") && line.includes("backchannel-logout")));
  } finally {
    await Promise.all([ann, again, bob].map((profile) => profile.close()));
  }
});
