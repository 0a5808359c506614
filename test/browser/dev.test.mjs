// `wsbouncer dev` as a newcomer meets it, in a browser.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, beforeEach, afterEach, test } from "node:test";
import { promisify } from "node:util";
import { connected, connection, dev, echo, ended, enter, launch, open, say, sees, stranger } from "./harness.mjs";

/** Milliseconds a token of `wsbouncer dev` lives. */
const life = 30_000;

let server, browser, profile;
before(async () => ([server, browser] = await Promise.all([dev(), launch()])));
after(async () => {
  await browser?.close();
  assert.equal(await server?.stop(), 0, "exit code after SIGTERM");
});
beforeEach(async () => (profile = await browser.newContext()));
afterEach(async (t) => {
  for (const page of profile.pages()) assert.deepEqual(page.faults ?? [], [], t.name);
  await profile.close();
});

test("two users chat, and the page shows who the gateway says they are", async () => {
  const ann = await enter(profile, server.ann);
  const bob = await enter(profile, server.bob);
  await say(bob, "hello <b>ann</b>");
  await sees(ann, "hello <b>ann</b>");
  await say(ann, "hello bob");
  await sees(bob, "hello bob");
  assert.equal(await ann.textContent("#fact-subject"), "ann");
  assert.equal(await bob.textContent("#fact-subject"), "bob");
  assert.match(await ann.textContent("#fact-scopes"), /\bchat\b/);
  assert.notEqual(await connection(ann), await connection(bob));

  await ann.click("#rooms button[data-room=ideas]");
  await connected(ann);
  await sees(bob, "ann left");
  await say(bob, "not for ann");
  await sees(bob, "not for ann");
  await say(ann, "alone");
  await sees(ann, "alone");
  assert.equal(await ann.locator("#lines li", { hasText: "not for ann" }).count(), 0);
});

test("no credential is within a script's reach, and a reload needs no login", async () => {
  const ann = await enter(profile, server.ann);
  assert.equal(ann.url(), `http://127.0.0.1:${server.port}/`);
  const reach = await ann.evaluate(async () => ({
    cookie: document.cookie,
    local: localStorage.length + sessionStorage.length,
    databases: (await indexedDB.databases()).length,
    urls: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => /token=|ticket=/.test(name)),
  }));
  assert.deepEqual(reach, { cookie: "", local: 0, databases: 0, urls: [] });
  for (const { name, httpOnly, sameSite } of await profile.cookies()) assert.deepEqual([httpOnly, sameSite], [true, "Strict"], name);

  await ann.reload();
  await connected(ann);
  assert.equal(await ann.textContent("#me-name"), "ann");
});

test("the token is refreshed under the live connections of all tabs, once for each life", { timeout: 4 * life }, async () => {
  let refreshes = 0;
  profile.on("request", (request) => (refreshes += Number(request.url().endsWith("/auth/token"))));
  const one = await enter(profile, server.ann);
  const two = await enter(profile, server.ann);
  const began = Date.now();
  const before = [await connection(one), await connection(two)];
  refreshes = 0; // the first visit asked whether there was a session
  const renewed = (page, times) => page.waitForFunction((times) => document.querySelectorAll("#events .good code").length >= times, times, { timeout: 3 * life });
  await Promise.all([renewed(one, 2), renewed(two, 2)]);
  assert.ok(Date.now() - began > life, "more than one life of a token");
  assert.equal(refreshes, 2);
  assert.deepEqual([await connection(one), await connection(two)], before);
  for (const page of [one, two]) {
    assert.equal(await page.locator("#events li", { hasText: "opened" }).count(), 1);
    assert.equal(await page.getAttribute("#status", "data-state"), "open");
  }
  await say(one, "still the same socket");
  await sees(two, "still the same socket");
});

test("log out in one tab: the other tab's socket closes 3000 logged_out, other users' do not", async () => {
  const bob = await enter(profile, server.bob);
  const one = await enter(profile, server.ann);
  const two = await enter(profile, server.ann);
  // What the socket itself saw, beside what the page says of it.
  const closed = two.waitForEvent("console", (message) => message.text().startsWith("native close"));
  await two.evaluate(async () => {
    const socket = new WebSocket(`ws://${location.host}/chat/lobby`); // by cookie
    await new Promise((resolve) => (socket.onopen = resolve));
    socket.onclose = (event) => console.log("native close", event.code, event.reason, event.wasClean);
  });
  await one.click("#logout");
  assert.equal((await closed).text(), "native close 3000 logged_out true");
  for (const page of [one, two]) {
    const { code, reason, text } = await ended(page);
    assert.deepEqual([code, reason], ["3000", "logged_out"]);
    assert.match(text, /logged out/);
  }
  await sees(bob, "ann left (3000 logged_out)");
  assert.equal(await bob.getAttribute("#status", "data-state"), "open");
  await one.reload();
  await one.waitForSelector("#welcome:not([hidden])");

  await two.click("#again");
  await connected(two);
});

test("log out everywhere reaches another device", async () => {
  const device = await browser.newContext();
  const here = await enter(profile, server.ann);
  const there = await enter(device, server.ann);
  await here.click("#logout-all");
  for (const page of [here, there]) assert.equal((await ended(page)).reason, "logged_out");
  await device.close();
});

test("log out here leaves another device alone", async () => {
  const device = await browser.newContext();
  const here = await enter(profile, server.ann);
  const there = await enter(device, server.ann);
  await here.click("#logout");
  await ended(here);
  await say(there, "still here");
  await sees(there, "still here");
  await device.close();
});

test("the command on the page throws its user out", async () => {
  const ann = await enter(profile, server.ann);
  const bob = await enter(profile, server.bob);
  const command = await ann.textContent("#revoke");
  assert.match(command, /revoke subject ann\b/);
  await promisify(execFile)("sh", ["-c", command], { cwd: new URL("../..", import.meta.url) });
  const { code, reason } = await ended(ann);
  assert.deepEqual([code, reason], ["3000", "subject_revoked"]);
  assert.equal(await bob.getAttribute("#status", "data-state"), "open");
  await ann.click("#again");
  await connected(ann);
});

test("the client finds its way through paths, wrong passwords and missing routes", async () => {
  const ann = await enter(profile, server.ann);
  const seen = await ann.evaluate(async () => {
    const { WsBouncer } = await import("/demo/wsbouncer.js");
    const auth = new WsBouncer({ url: location.origin });
    const end = (socket) => new Promise((resolve) => {
      socket.addEventListener("open", () => resolve("open"));
      socket.addEventListener("close", ({ code, reason }) => resolve(`${code} ${reason}`));
    });
    const { WsBouncerError } = await import("/demo/wsbouncer.js");
    const wrong = await auth.login({ username: "ann", password: "wrong" }).catch((error) => error);
    const seen = {
      escaped: await end(auth.connect("/chat/r%C3%A4um%201?x=a+b%20c")),
      plain: await end(auth.connect("/chat/räum 1")),
      library: await end(new auth.WebSocket(`ws://${location.host}/chat/lobby`)),
      wrong: [wrong instanceof WsBouncerError, wrong.code, wrong.status],
    };
    auth.close();
    return seen;
  });
  assert.deepEqual(seen, { escaped: "open", plain: "open", library: "open", wrong: [true, "login_failed", 401] });
});

// A page of another site, and one of another port of the same host (same site,
// other origin), in the profile of somebody who is logged in.
for (const host of ["127.0.0.2", "127.0.0.1"]) {
  test(`ORG-05 a page of ${host === "127.0.0.1" ? "another port" : "another site"} cannot use the victim's session`, async () => {
    const elsewhere = await stranger(host);
    try {
      const ann = await enter(profile, server.ann);
      const attack = async (page) => page.evaluate(async (target) => {
        const socket = new WebSocket(`ws://${target}/chat/lobby`);
        const opened = await new Promise((resolve) => {
          socket.onopen = () => resolve(true);
          socket.onclose = () => resolve(false);
        });
        const post = (path, body, type) => fetch(`http://${target}${path}`, { method: "POST", credentials: "include", headers: { "content-type": type }, body }).then((answer) => answer.status, () => "refused");
        const seen = { opened, ticket: await post("/auth/ticket", '{"path":"/chat/lobby"}', "application/json") };
        socket.close();
        await fetch(`http://${target}/auth/logout`, { method: "POST", mode: "no-cors", credentials: "include", body: "{}" }).catch(() => {});
        return seen;
      }, `127.0.0.1:${server.port}`);

      const evil = await open(profile, elsewhere.url);
      const { opened, ticket } = await attack(evil);
      assert.equal(opened, false);
      assert.ok([403, "refused"].includes(ticket), String(ticket));
      // The forged logout did nothing, nobody joined …
      await say(ann, "alone");
      await sees(ann, "alone");
      assert.equal(await ann.getAttribute("#status", "data-state"), "open");
      assert.equal(await ann.locator("#lines .aside", { hasText: "joined" }).count(), 0);
      // … and the same script on the right page gets in: it was the Origin.
      const friend = await open(profile, `http://127.0.0.1:${server.port}/demo/icon.svg`);
      const right = await friend.evaluate((target) => new Promise((resolve) => {
        const socket = new WebSocket(`ws://${target}/chat/lobby`);
        socket.onopen = () => resolve(true);
        socket.onclose = () => resolve(false);
      }), `127.0.0.1:${server.port}`);
      assert.equal(right, true);
      await sees(ann, "ann joined");
    } finally {
      await elsewhere.stop();
    }
  });
}

test("a client with tokens of its own moves its connection's deadline with a newer one", { timeout: 4 * life }, async () => {
  const page = await open(profile, `http://127.0.0.1:${server.port}/demo/icon.svg`);
  const seen = await page.evaluate(async () => {
    const { WsBouncer } = await import("/demo/wsbouncer.js");
    const { users: [{ name: username, password }] } = await (await fetch("/demo/config.json")).json();
    const json = async (path, body, type) => (await fetch(path, { method: "POST", body, headers: { "content-type": type } })).json();
    let tokens = await json("/auth/login", JSON.stringify({ username, password }), "application/json");
    const auth = new WsBouncer({
      url: location.origin,
      getToken: async ({ fresh }) => {
        if (fresh) tokens = await json("/auth/token", `grant_type=refresh_token&refresh_token=${tokens.refresh_token}`, "application/x-www-form-urlencoded");
        return tokens.access_token;
      },
    });
    const socket = auth.connect("/chat/lobby");
    const event = (target, type) => new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));
    await event(socket, "open");
    const { connection } = socket;
    const { extended, expiresAt } = await event(auth, "token");
    const seen = { extended: extended.length === 1 && extended[0] === connection, left: expiresAt - Date.now(), state: socket.readyState };
    auth.close();
    return seen;
  });
  assert.ok(seen.left > life - 5_000 && seen.left <= life, `${seen.left} ms`);
  assert.deepEqual([seen.extended, seen.state], [true, 1]);
  assert.deepEqual(await profile.cookies(), []);
});

test("lines of one person stand together, and tabs that leave together are one line", async () => {
  const bob = await enter(profile, server.bob);
  const one = await enter(profile, server.ann);
  await enter(profile, server.ann);
  await sees(bob, "ann joined ×2");
  for (const text of ["first", "second"]) {
    await say(one, text);
    await sees(bob, text);
  }
  await say(bob, "third");
  await sees(bob, "third");
  const names = await bob.locator("#lines .line").evaluateAll((lines) => lines.slice(-3).map((line) => line.querySelector("strong").checkVisibility()));
  assert.deepEqual(names, [true, false, true]);
  await one.click("#logout");
  await sees(bob, "ann left (3000 logged_out) ×2");
});

test("a server that stops says 1012, and the page waits for it to come back", async () => {
  const other = await dev();
  const ann = await enter(profile, other.ann);
  assert.equal(await other.stop(), 0);
  await ann.waitForSelector('#status[data-state="reconnecting"]');
  await ann.locator("#events li", { hasText: "ended 1012 restarting" }).waitFor();
  assert.equal(await ann.isVisible("#ended"), false);
});

test("before an upstream of your own the page is a console", async () => {
  const upstream = await echo();
  const mine = await dev("--upstream", upstream.url);
  try {
    const ann = await enter(profile, mine.ann);
    await say(ann, "hello");
    await sees(ann, "ann: hello");
    assert.equal(await ann.textContent("#fact-subject"), "ann");
    await ann.click("#logout");
    assert.equal((await ended(ann)).reason, "logged_out");
  } finally {
    assert.equal(await mine.stop(), 0);
    await upstream.stop();
  }
});

/** What text a reader of that page would not make out: below 4.5:1 (WCAG 2.2, 1.4.3). */
const faint = (page) => page.evaluate(() => {
  const rgb = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(n).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility({ visibilityProperty: true }) && !node.closest(":disabled, [aria-hidden=true]") && [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim()))
    .map((node) => {
      const [dark, light] = [luminance(rgb(getComputedStyle(node).color)), luminance(behind(node))].sort((a, b) => a - b);
      return { text: node.textContent.trim(), ratio: (light + 0.05) / (dark + 0.05) };
    })
    .filter(({ ratio }) => ratio < 4.5);
});

test("the page fits a phone and can be read, in light and dark", async () => {
  const ann = await enter(profile, server.ann);
  await say(ann, "https://example.com/" + "long".repeat(60));
  await sees(ann, "longlong");
  for (const colorScheme of ["light", "dark"]) {
    await ann.emulateMedia({ colorScheme });
    for (const width of [320, 390, 768, 1280]) {
      await ann.setViewportSize({ width, height: 720 });
      const over = await ann.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${over} px too wide at ${width}`);
    }
    assert.deepEqual(await faint(ann), [], colorScheme);
  }
  await ann.click("#logout");
  await ended(ann);
  for (const colorScheme of ["light", "dark"]) {
    await ann.emulateMedia({ colorScheme });
    assert.deepEqual(await faint(ann), [], `${colorScheme}, after the end`);
  }
});
