// A token bound to a key of a real browser, which nobody can take out of it.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { dev, launch, open } from "./harness.mjs";

const script = await readFile(new URL("../../client/dist/dpop.js", import.meta.url), "utf8"); // make client/dist

let server, browser;
before(async () => ([server, browser] = await Promise.all([dev(), launch()])));
after(async () => {
  await browser?.close();
  assert.equal(await server?.stop(), 0, "exit code after SIGTERM");
});

test("POP-02 a bound token opens a connection by a ticket, and is nothing without its key", async () => {
  const profile = await browser.newContext();
  await profile.route("**/demo/dpop.js", (route) => route.fulfill({ contentType: "text/javascript", body: script }));
  const tab = () => open(profile, `http://127.0.0.1:${server.port}/demo/icon.svg`);
  const page = await tab();
  const seen = await page.evaluate(async () => {
    const [{ WsBouncer }, { DPoP }] = await Promise.all([import("/demo/wsbouncer.js"), import("/demo/dpop.js")]);
    const { users: [{ name: username, password }] } = await (await fetch("/demo/config.json")).json();
    const dpop = new DPoP();
    const login = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ username, password }) };
    const tokens = await (await dpop.fetch(undefined, `${location.origin}/auth/login`, login)).json();
    const auth = new WsBouncer({ url: location.origin, getToken: () => tokens.access_token, dpop });
    const { subject } = await auth.session();
    const socket = auth.connect("/chat/lobby");
    await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
    const state = socket.readyState;
    auth.close();
    const stolen = await fetch("/auth/session", { headers: { authorization: `Bearer ${tokens.access_token}` } });
    // What a script of the page can read of the key.
    const db = await new Promise((resolve) => (indexedDB.open("wsbouncer-dpop").onsuccess = ({ target }) => resolve(target.result)));
    const pair = await new Promise((resolve) => (db.transaction("keys").objectStore("keys").get("default").onsuccess = ({ target }) => resolve(target.result)));
    const taken = await crypto.subtle.exportKey("pkcs8", pair.privateKey).then(() => true, () => false);
    return { type: tokens.token_type, subject, state, stolen: [stolen.status, (await stolen.json()).code], taken, key: await dpop.thumbprint(), claims: JSON.parse(atob(tokens.access_token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))) };
  });
  assert.deepEqual([seen.type, seen.subject, seen.state, seen.taken], ["DPoP", "ann", 1, false]);
  assert.deepEqual(seen.stolen, [401, "token_binding"]);
  assert.equal(seen.claims.cnf.jkt, seen.key);
  // The other tab has the same key, another profile has its own.
  const key = (p) => p.evaluate(async () => new (await import("/demo/dpop.js")).DPoP().thumbprint());
  assert.equal(await key(await tab()), seen.key);
  const other = await browser.newContext();
  await other.route("**/demo/dpop.js", (route) => route.fulfill({ contentType: "text/javascript", body: script }));
  assert.notEqual(await key(await open(other, `http://127.0.0.1:${server.port}/demo/icon.svg`)), seen.key);
});
