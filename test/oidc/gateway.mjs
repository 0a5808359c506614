// The real binary with a login provider, and a page of an app, for the tests
// beside this file.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const binary = process.env.WSBOUNCER ?? fileURLToPath(new URL("../../bin/wsbouncer", import.meta.url));
const library = readFileSync(new URL("../../internal/demo/assets/wsbouncer.js", import.meta.url));

/** A port that is free just now. */
export async function freePort() {
  const server = createSocket();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/**
 * Starts `wsbouncer serve`. `yaml` is the configuration but for listen and data;
 * `files` are files beside it, by name.
 */
export async function gateway(port, yaml, files = {}) {
  const dir = mkdtempSync(join(tmpdir(), "wsbouncer-oidc-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text, { mode: 0o600 });
  writeFileSync(join(dir, "wsbouncer.yaml"), `listen: 127.0.0.1:${port}\ndata: data\ndrain: 0s\n${yaml}`);
  const child = spawn(binary, ["serve", "--config", join(dir, "wsbouncer.yaml")], { stdio: ["ignore", "ignore", "pipe"] });
  const log = [];
  const exited = new Promise((resolve) => child.on("exit", resolve));
  await new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      if (line.includes('"msg":"ready"')) resolve();
    });
    exited.then((code) => reject(new Error(`wsbouncer ended with ${code}:\n${log.join("\n")}`)));
  });
  return {
    url: `http://127.0.0.1:${port}`,
    log,
    async stop() {
      child.kill("SIGTERM");
      const code = await exited;
      rmSync(dir, { recursive: true });
      return code;
    },
  };
}

/** A page with the browser client as `wsbouncer`, for a gateway at `url`. */
export async function page(url) {
  const server = createServer((request, response) => {
    const js = request.url === "/wsbouncer.js";
    response.writeHead(200, { "content-type": js ? "text/javascript" : "text/html; charset=utf-8" });
    response.end(js ? library : `<!doctype html><meta charset="utf-8"><title>an app</title><script type="module">
      import { WsBouncer } from "/wsbouncer.js";
      globalThis.wsbouncer = new WsBouncer({ url: ${JSON.stringify(url)} });
      document.title = "ready";
    </script>`);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))) };
}
