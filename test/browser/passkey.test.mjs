// A passkey of a real browser, with its virtual authenticator.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { dev, enter, launch } from "./harness.mjs";

let server, browser;
before(async () => ([server, browser] = await Promise.all([dev(), launch()])));
after(async () => {
  await browser?.close();
  assert.equal(await server?.stop(), 0, "exit code after SIGTERM");
});

test("a passkey is a second factor, a step-up, and a login of its own", async () => {
  const profile = await browser.newContext();
  const page = await enter(profile, server.bob); // a passkey needs a name, and that is at localhost
  const devtools = await profile.newCDPSession(page);
  await devtools.send("WebAuthn.enable");
  const { authenticatorId } = await devtools.send("WebAuthn.addVirtualAuthenticator", {
    options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
  });

  /** Calls the HTTP API as the page does; ceremonies are answered by the authenticator. */
  const call = (path, body = {}) => page.evaluate(async ([path, body]) => {
    const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    return { status: response.status, body: JSON.parse((await response.text()) || "{}") };
  }, [path, body]);
  const get = (publicKey) => page.evaluate(async (publicKey) =>
    (await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) })).toJSON(), publicKey);
  const amr = (answer) => JSON.parse(Buffer.from(answer.body.access_token.split(".")[1], "base64url")).amr;

  const asked = await call("/auth/factors/webauthn/options");
  assert.equal(asked.status, 200, JSON.stringify(asked.body));
  const made = await page.evaluate(async (publicKey) =>
    (await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) })).toJSON(), asked.body.publicKey);
  const added = await call("/auth/factors/webauthn", { state: asked.body.state, credential: made });
  assert.equal(added.status, 200, JSON.stringify(added.body));
  assert.equal(added.body.recovery_codes.length, 10);
  assert.equal((await call("/auth/factors/webauthn", { state: asked.body.state, credential: made })).status, 401, "a ceremony is good once");

  // The session there is grows.
  const step = await call("/auth/factors/verify/options");
  const raised = await call("/auth/factors/verify", { state: step.body.state, credential: await get(step.body.publicKey) });
  assert.equal(raised.status, 200, JSON.stringify(raised.body));
  assert.equal((await call("/auth/factors/recovery-codes")).status, 200, "what needs a factor works now");

  // A login of its own.
  const login = await call("/auth/webauthn/options");
  const credential = await get(login.body.publicKey);
  const alone = await call("/auth/webauthn", { state: login.body.state, credential });
  assert.equal(alone.status, 200, JSON.stringify(alone.body));
  assert.deepEqual([...amr(alone)].sort(), ["hwk", "mfa", "user"]);
  const again = await call("/auth/webauthn", { state: login.body.state, credential });
  assert.deepEqual([again.status, again.body.code], [401, "challenge_invalid"], "an answer is good once");

  // The second half of a login with a password.
  const { password } = await page.evaluate(async () => (await (await fetch("/demo/config.json")).json()).users.find((u) => u.name === "bob"));
  const half = await call("/auth/login", { username: "bob", password });
  assert.deepEqual([half.status, half.body.code, half.body.factors], [401, "factor_required", ["webauthn", "recovery"]]);
  const whole = await call("/auth/login", { challenge: half.body.challenge, credential: await get(half.body.publicKey) });
  assert.equal(whole.status, 200, JSON.stringify(whole.body));
  assert.deepEqual([...amr(whole)].sort(), ["hwk", "mfa", "pwd", "user"]);

  // Not for a device that does not know who holds it.
  await devtools.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: false });
  const unverified = await call("/auth/webauthn/options");
  await assert.rejects(get(unverified.body.publicKey), /NotAllowedError/);
  await devtools.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: true });

  // A key whose counter goes back may be in two places.
  const { credentials } = await devtools.send("WebAuthn.getCredentials", { authenticatorId });
  await devtools.send("WebAuthn.clearCredentials", { authenticatorId });
  await devtools.send("WebAuthn.addCredential", { authenticatorId, credential: { ...credentials[0], signCount: 0 } });
  const copied = await call("/auth/webauthn/options");
  const refused = await call("/auth/webauthn", { state: copied.body.state, credential: await get(copied.body.publicKey) });
  assert.deepEqual([refused.status, refused.body.code], [401, "factor_failed"]);
  await profile.close();
});

test("the client logs in with a passkey and connects", async () => {
  const profile = await browser.newContext();
  const page = await enter(profile, `http://localhost:${server.port}/#ann`);
  const devtools = await profile.newCDPSession(page);
  await devtools.send("WebAuthn.enable");
  await devtools.send("WebAuthn.addVirtualAuthenticator", {
    options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
  });
  const subject = await page.evaluate(async () => {
    const post = async (path, body = {}) => (await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
    const { state, publicKey } = await post("/auth/factors/webauthn/options");
    const credential = await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
    await post("/auth/factors/webauthn", { state, credential });
    await post("/auth/logout");
    const { WsBouncer } = await import("/demo/wsbouncer.js");
    const auth = new WsBouncer({ url: location.origin });
    if (await auth.session()) throw new Error("still logged in");
    const session = await auth.loginWithPasskey();
    const socket = auth.connect("/chat/lobby");
    await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onclose = (event) => reject(new Error(`${event.code} ${event.reason}`)); });
    socket.close();
    return session.subject;
  });
  assert.equal(subject, "ann");
  await profile.close();
});
