// The real OpenID provider (npm oidc-provider) on a loopback port, as tests need
// it: users without passwords, no consent pages, back-channel logout, JWT access
// tokens, keys that rotate.
//
// From Node: `import { provider } from "./provider.mjs"`. From elsewhere:
// `node provider.mjs '{"clients": […]}'` prints one line of JSON with its issuer,
// takes one command a line ("rotate", or JSON {"user": "ann", "claims": {…}}),
// answers each with a line of JSON, and ends when its standard input does.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import Provider from "oidc-provider";

function newKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: randomBytes(8).toString("hex") };
}

/** Where a provider keeps its sessions and codes: beyond a change of its keys. */
function memory() {
  const kept = new Map(); // a short-lived test's: nothing ever expires here that the provider would not notice itself
  return class {
    constructor(model) {
      this.model = model;
    }
    #key(id) {
      return `${this.model} ${id}`;
    }
    #where(name, value) {
      return [...kept].find(([key, payload]) => key.startsWith(`${this.model} `) && payload[name] === value)?.[1];
    }
    async upsert(id, payload) {
      kept.set(this.#key(id), payload);
    }
    async find(id) {
      return kept.get(this.#key(id));
    }
    async findByUid(uid) {
      return this.#where("uid", uid);
    }
    async findByUserCode(userCode) {
      return this.#where("userCode", userCode);
    }
    async consume(id) {
      kept.get(this.#key(id)).consumed = Math.floor(Date.now() / 1000);
    }
    async destroy(id) {
      kept.delete(this.#key(id));
    }
    async revokeByGrantId(grantId) {
      for (const [key, payload] of kept) if (payload.grantId === grantId) kept.delete(key);
    }
  };
}

const page = (title, body) => `<!doctype html><meta charset="utf-8"><title>${title}</title><h1>${title}</h1>${body}`;

/**
 * Starts a provider.
 *
 * - `clients`: as in OpenID Connect Dynamic Registration (client_id, client_secret, redirect_uris, backchannel_logout_uri …).
 * - `users`: claims by name of who may log in; the name is `sub`. It may be changed while the provider runs.
 * - `audience`: access tokens are JWTs (RFC 9068) for it, with `scopes`; without it they are opaque.
 * - `port`: 0 is any free one.
 * - `accessTTL`: seconds an access token lives.
 *
 * It gives `issuer`, `users`, `rotate()`, `requests` (method and path of each one served) and `stop()`.
 */
export async function provider({ clients = [], users = { ann: {}, bob: {} }, audience, scopes = "chat", port = 0, accessTTL = 300 } = {}) {
  const requests = [];
  const adapter = memory();
  let op, answer;
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url.split("?")[0]}`);
    answer(request, response);
  });
  await new Promise((resolve, reject) => server.on("error", reject).listen(port, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const resource = `urn:resource:${audience}`; // a resource is named by a URI (RFC 8707 §2)
  let keys = [newKey()];
  const cookies = randomBytes(32).toString("hex");

  const configure = () => {
    op = new Provider(issuer, {
      adapter,
      clients,
      jwks: { keys },
      cookies: { keys: [cookies] },
      conformIdTokenClaims: false, // claims of scopes are in the ID token too
      claims: { openid: ["sub", "acr", "amr", "auth_time"], profile: ["name", "groups", "preferred_username"], email: ["email", "email_verified"], acr: null, auth_time: null, iss: null, sid: null },
      findAccount: (_, sub) => (Object.hasOwn(users, sub) ? { accountId: sub, claims: () => ({ ...users[sub], sub }) } : undefined),
      interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
      // Nobody is asked whether the client may: it is their own company's.
      async loadExistingGrant(ctx) {
        const { Grant } = ctx.oidc.provider;
        const existing = ctx.oidc.session.grantIdFor(ctx.oidc.client.clientId);
        if (existing) return Grant.find(existing);
        const grant = new Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
        grant.addOIDCScope("openid email profile offline_access");
        if (audience) grant.addResourceScope(resource, scopes);
        await grant.save();
        return grant;
      },
      ttl: { AccessToken: accessTTL, ClientCredentials: accessTTL, IdToken: 300, Session: 3600, Grant: 3600, Interaction: 600, AuthorizationCode: 60 },
      pkce: { required: () => true },
      // Everything here is on loopback, where it would refuse to call otherwise.
      fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
      features: {
        devInteractions: { enabled: false },
        backchannelLogout: { enabled: true },
        rpInitiatedLogout: {
          enabled: true,
          logoutSource: (ctx, form) => {
            ctx.type = "html";
            ctx.body = page("Log out?", `${form}<button id="yes" form="op.logoutForm" name="logout" value="yes">Yes</button>`);
          },
          postLogoutSuccessSource: (ctx) => {
            ctx.type = "html";
            ctx.body = page("Logged out", `<p id="done">You are logged out.</p>`);
          },
        },
        clientCredentials: { enabled: true },
        introspection: { enabled: true },
        revocation: { enabled: true },
        dPoP: { enabled: true },
        resourceIndicators: {
          enabled: Boolean(audience),
          defaultResource: () => resource,
          useGrantedResource: () => true,
          getResourceServerInfo: () => ({ scope: scopes, audience, accessTokenFormat: "jwt", accessTokenTTL: accessTTL, jwt: { sign: { alg: "RS256" } } }),
        },
      },
    });
    const callback = op.callback();
    answer = (request, response) => {
      if (!request.url.startsWith("/interaction/")) return callback(request, response);
      return interact(request, response).catch((error) => response.writeHead(400).end(String(error)));
    };
  };

  /** The login page: a name is enough. */
  const interact = async (request, response) => {
    const html = (status, body) => response.writeHead(status, { "content-type": "text/html; charset=utf-8" }).end(page("Log in", body));
    const form = `<form method="post"><input name="login" autofocus required> <button id="login">Log in</button> <button id="refuse" name="refuse" value="yes" formnovalidate>No</button></form>`;
    await op.interactionDetails(request, response); // throws where there is none
    if (request.method !== "POST") return html(200, form);
    let body = "";
    for await (const chunk of request) body += chunk;
    const fields = new URLSearchParams(body);
    if (fields.has("refuse")) return op.interactionFinished(request, response, { error: "access_denied", error_description: "The user said no." });
    const login = fields.get("login");
    if (!Object.hasOwn(users, login)) return html(403, `<p>Nobody of that name.</p>${form}`);
    return op.interactionFinished(request, response, { login: { accountId: login, amr: users[login].amr ?? ["pwd"], acr: users[login].acr } });
  };

  configure();
  return {
    issuer,
    users,
    requests,
    /** From now on a new key signs; the one before stays published. */
    rotate() {
      keys = [newKey(), keys[0]];
      configure();
      return keys[0].kid;
    },
    stop: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(resolve);
    }),
  };
}

/** Logs in where a page has been sent to the provider's login page. */
export async function signIn(page, name) {
  await page.fill("input[name=login]", name);
  await page.click("#login");
}

/** Logs out at the provider itself, which then tells its clients. */
export async function signOut(page, issuer) {
  await page.goto(`${issuer}/session/end`);
  await page.click("#yes");
  await page.waitForSelector("#done");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
  const op = await provider(JSON.parse(process.argv[2] ?? "{}"));
  say({ issuer: op.issuer });
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === "rotate") say({ kid: op.rotate() });
    else {
      const { user, claims } = JSON.parse(line);
      if (claims) op.users[user] = claims;
      else delete op.users[user];
      say({ users: Object.keys(op.users) });
    }
  }
  await op.stop();
}
