// Login at a real OpenID provider, in a browser, through the gateway.
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { echo, launch } from "../browser/harness.mjs";
import { freePort, gateway, page } from "./gateway.mjs";
import { provider, signIn } from "./provider.mjs";

const secret = "s".repeat(40);
let browser, upstream, op, server, app, profile;

before(async () => {
  [browser, upstream] = await Promise.all([launch(), echo()]);
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  op = await provider({
    users: { ann: { groups: ["staff"] }, eve: { groups: ["guests"] } },
    clients: [{ client_id: "gateway", client_secret: secret, redirect_uris: [`${url}/auth/callback/corp`], require_auth_time: true }],
  });
  app = await page(url);
  server = await gateway(port, `
origins: ["${app.url}"]
issuer: {}
login:
  providers:
    - {name: corp, issuer: "${op.issuer}", client_id: gateway, client_secret_file: secret.txt, scopes: [openid, profile], allow: '"staff" in claims.groups', default_scopes: [chat]}
routes:
  - {path: /chat, upstream: "${upstream.url}", scopes: [chat]}
`, { "secret.txt": secret });
});
after(async () => {
  await browser?.close();
  assert.equal(await server?.stop(), 0, "exit code after SIGTERM");
  await Promise.all([op?.stop(), app?.stop(), upstream?.stop()]);
});
beforeEach(async () => (profile = await browser.newContext()));
afterEach(() => profile.close());

async function open(path = "/") {
  const tab = await profile.newPage();
  await tab.goto(app.url + path);
  await tab.waitForFunction(() => document.title === "ready");
  return tab;
}

/** Goes to the provider by the browser client, and logs in there. */
async function login(tab, name) {
  await tab.evaluate(() => wsbouncer.loginWith("corp"));
  await tab.waitForSelector("#login");
  await signIn(tab, name);
}

const chat = (tab, text) => tab.evaluate((text) => new Promise((resolve, reject) => {
  const socket = wsbouncer.connect("/chat");
  socket.onopen = () => socket.send(text);
  socket.onmessage = (event) => (resolve(event.data), socket.close());
  socket.onclose = (event) => reject(new Error(`closed ${event.code} ${event.reason}`));
}), text);

test("OAU-01 OAU-06: loginWith leads to the provider and back, and the upstream sees an opaque subject", async () => {
  const tab = await open("/room?x=1#here");
  assert.equal(await tab.evaluate(() => wsbouncer.session()), null);
  const urls = [];
  tab.on("request", (request) => urls.push(request.url()));
  await login(tab, "ann");
  await tab.waitForURL(`${app.url}/room?x=1#here`);
  await tab.waitForFunction(() => document.title === "ready");
  const session = await tab.evaluate(() => wsbouncer.session());
  assert.match(session.subject, /^ID-[a-z0-9]{26}$/);
  assert.deepEqual(session.scopes, ["chat"]);
  assert.equal(await chat(tab, "hello"), `${session.subject}: hello`);
  assert.ok(op.requests.includes("POST /token"), op.requests.join("\n"));
  assert.deepEqual(urls.filter((url) => /eyJ|access_token|id_token/.test(url)), []);
  assert.equal(await tab.evaluate(() => document.cookie + localStorage.length + sessionStorage.length), "00");
  for (const { name, value, httpOnly } of await profile.cookies(server.url)) {
    if (name.startsWith("wsbouncer")) assert.ok(httpOnly && !value.includes(op.issuer), name);
  }

  // Again, with the session there: the same subject, and the session before it ended.
  await tab.evaluate(() => wsbouncer.loginWith("corp"));
  await tab.waitForURL(`${app.url}/room?x=1#here`);
  await tab.waitForFunction(() => document.title === "ready");
  const again = await tab.evaluate(() => wsbouncer.session());
  assert.equal(again.subject, session.subject);
  assert.notEqual(again.sessionId, session.sessionId);
});

test("a key that the provider has just begun to sign with is fetched", async () => {
  op.rotate();
  const tab = await open();
  await login(tab, "ann");
  await tab.waitForURL(`${app.url}/`);
  await tab.waitForFunction(() => document.title === "ready");
  assert.ok(await tab.evaluate(() => wsbouncer.session()));
});

test("who may not come in, and who says no at the provider, reads so on a plain page", async () => {
  for (const [at, code] of [["eve", "login_denied"], ["no", "login_refused"]]) {
    await profile.clearCookies();
    const tab = await open();
    const faults = [];
    tab.on("console", (message) => faults.push(message.text()));
    await tab.evaluate(() => wsbouncer.loginWith("corp"));
    await tab.waitForSelector("#login");
    if (at === "no") await tab.click("#refuse");
    else await signIn(tab, at);
    await tab.waitForURL(`${server.url}/auth/callback/**`);
    assert.equal(await tab.textContent("code"), code);
    assert.equal(await tab.getAttribute("a", "href"), "/auth/login/corp");
    assert.deepEqual(faults.filter((text) => /Content.Security.Policy/i.test(text)), []);
    await tab.goto(app.url);
    await tab.waitForFunction(() => document.title === "ready");
    assert.equal(await tab.evaluate(() => wsbouncer.session()), null);
  }
});

test("OAU-02: a callback in another browser is refused", async () => {
  const tab = await open();
  await login(tab, "ann");
  await tab.waitForURL(`${app.url}/`);
  // Logged in at the provider: it answers at once with the callback's address, which the attacker keeps.
  const begun = await profile.request.get(`${server.url}/auth/login/corp`, { maxRedirects: 0 });
  const answered = await profile.request.get(begun.headers().location, { maxRedirects: 0 });
  const callback = answered.headers().location;
  assert.ok(callback.startsWith(`${server.url}/auth/callback/corp?code=`), callback);
  const victim = await browser.newContext();
  try {
    const other = await victim.newPage();
    await other.goto(callback);
    assert.equal(await other.textContent("code"), "login_state");
    assert.deepEqual((await victim.cookies(server.url)).filter(({ name }) => name.startsWith("wsbouncer")), []);
  } finally {
    await victim.close();
  }
});
