// The real gateway and servers of others, for the tests beside this file.
import { spawn, spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const binary = process.env.WSBOUNCER ?? fileURLToPath(new URL("../../bin/wsbouncer", import.meta.url));
const secret = "a secret of thirty-two bytes, at least";

/** An access token of the issuer that the gateway trusts, with more claims. */
export function token(more = {}) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "at+jwt" })}.${part({
    iss: "https://idp.example", aud: "apps", sub: "ann", jti: `t${process.hrtime.bigint()}`, client_id: "app", scope: "", iat: now, exp: now + 300, ...more,
  })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** Starts the gateway before upstreams by path, each a port or a route; resolves to its port and stop(). */
export async function gateway(routes) {
  if (!existsSync(binary)) throw new Error(`${binary} is not there: make build`);
  const dir = await mkdtemp(join(tmpdir(), "wsbouncer-apps-"));
  const port = await freePort();
  await writeFile(join(dir, "secret"), secret);
  await writeFile(join(dir, "wsbouncer.yaml"), [
    `listen: 127.0.0.1:${port}`, "data: data", "drain: 0s",
    "trust: [{issuer: https://idp.example, audience: apps, algorithms: [HS256], keys: {secret_file: secret}}]",
    "routes:",
    ...Object.entries(routes).map(([path, route]) => {
      const { port: upstream, ...more } = typeof route === "number" ? { port: route, compression: "pass" } : route;
      return `  - ${JSON.stringify({ path, upstream: `ws://127.0.0.1:${upstream}`, ...more })}`;
    }),
  ].join("\n"));
  const child = spawn(binary, ["serve", "--config", join(dir, "wsbouncer.yaml")], { stdio: ["ignore", "ignore", "pipe"], cwd: dir });
  const log = [];
  const exited = once(child, "exit");
  const ready = new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      if (line.includes('"msg":"ready"')) resolve();
    });
    exited.then(([code]) => reject(new Error(`the gateway ended with ${code}:\n${log.join("\n")}`)));
  });
  await ready;
  return {
    port,
    log,
    async stop() {
      child.kill("SIGTERM");
      const [code] = await exited;
      await rm(dir, { recursive: true });
      return code;
    },
  };
}

/** Starts a program of the system; resolves when its port answers. */
export async function program(port, command, ...args) {
  let env = process.env;
  let patience = 10_000;
  if (typeof port === "object") ({ port, command, patience, env } = { ...port, env: { ...process.env, ...port.env } });
  // A group of its own, so that a script's children end with it.
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env, detached: true });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const exited = once(child, "exit");
  const gone = exited.then(([code]) => Promise.reject(new Error(`${command} ended with ${code}:\n${output}`)));
  await Promise.race([gone, answers(port, patience)]);
  gone.catch(() => {}); // stop() ends it
  return async () => {
    process.kill(-child.pid, "SIGTERM");
    await exited;
  };
}

/** The path of a program, or null; in CI it must be there. */
export function installed(command) {
  const path = `${process.env.PATH}:/usr/sbin`;
  const found = spawnSync("sh", ["-c", `command -v ${command}`], { env: { PATH: path } }).stdout.toString().trim();
  if (!found && process.env.CI) throw new Error(`${command} is not installed: make tools`);
  return found || null;
}

export async function freePort() {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Listens with a server of node:net or node:http on a free port. */
export async function listen(server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server.address().port;
}

async function answers(port, patience) {
  for (const until = Date.now() + patience; Date.now() < until; ) {
    const socket = connect(port, "127.0.0.1");
    try {
      await once(socket, "connect");
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20)); // nothing tells when it listens
    } finally {
      socket.destroy();
    }
  }
  throw new Error(`nothing answers on port ${port}`);
}
