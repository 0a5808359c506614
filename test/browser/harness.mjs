// The real binary and a real browser, for the tests beside this file.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const binary = process.env.WSBOUNCER ?? fileURLToPath(new URL("../../bin/wsbouncer", import.meta.url));

/** Starts `wsbouncer dev` on a free port; resolves when it is ready. */
export async function dev(...args) {
  if (!existsSync(binary)) throw new Error(`${binary} is not there: make build`);
  const child = spawn(binary, ["dev", "--listen", "127.0.0.1:0", ...args], { stdio: ["ignore", "pipe", "pipe"] });
  const log = [];
  child.stdout.on("data", (text) => log.push(String(text)));
  const exited = new Promise((resolve) => child.on("exit", resolve));
  const ready = new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      let entry;
      try {
        entry = JSON.parse(line);
      } catch {
        return; // a terminal's text, or a crash: shown when a test fails
      }
      if (entry.msg === "ready") resolve(entry.public);
    });
    exited.then((code) => reject(new Error(`wsbouncer dev ended with ${code}:\n${log.join("\n")}`)));
  });
  const port = (await ready).split(":").at(-1);
  return {
    port,
    log,
    ann: `http://127.0.0.1:${port}/#ann`,
    bob: `http://localhost:${port}/#bob`,
    async stop() {
      child.kill("SIGTERM");
      return exited;
    },
  };
}

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

/** A page whose errors and broken promises of the policy are collected. */
export async function open(profile, url) {
  const page = await profile.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("console", (message) => {
    if (/Content.Security.Policy|TrustedHTML/i.test(message.text())) page.faults.push(message.text());
  });
  await page.goto(url);
  return page;
}

export const connected = (page) => page.waitForSelector('#status[data-state="open"]');

/** The demo page, logged in by its link and connected. */
export async function enter(profile, url) {
  const page = await open(profile, url);
  await connected(page);
  return page;
}

export async function say(page, text) {
  await page.fill("#text", text);
  await page.click("#send");
}

export const sees = (page, text) => page.locator("#lines li", { hasText: text }).first().waitFor();
export const connection = (page) => page.textContent("#fact-connection");

/** How the page's socket ended. */
export async function ended(page) {
  await page.waitForSelector("#ended:not([hidden])");
  return { code: await page.textContent("#ended-code"), reason: await page.textContent("#ended-reason"), text: await page.textContent("#ended-text") };
}

/** A web server of somebody else, with one empty page. */
export async function stranger(host) {
  const server = createServer((_, response) => response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>elsewhere</title>"));
  await new Promise((resolve) => server.listen(0, host, resolve));
  return { url: `http://${host}:${server.address().port}/`, stop: () => new Promise((resolve) => server.close(resolve)) };
}

/**
 * A WebSocket server that sends every short text back after the subject the
 * gateway told it: an upstream that knows nothing of wsbouncer.
 */
export async function echo() {
  const sockets = new Set();
  const server = createServer().on("upgrade", (request, socket) => {
    sockets.add(socket.on("error", () => {}));
    const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    let buffered = Buffer.alloc(0);
    socket.on("data", (data) => {
      buffered = Buffer.concat([buffered, data]);
      while (buffered.length >= 6 && buffered.length >= 6 + (buffered[1] & 0x7f)) {
        const end = 6 + (buffered[1] & 0x7f);
        const text = buffered.subarray(6, end).map((byte, i) => byte ^ buffered[2 + (i % 4)]);
        if (buffered[0] === 0x81) {
          const answer = Buffer.from(`${request.headers["x-wsbouncer-subject"]}: ${text.toString()}`);
          socket.write(Buffer.concat([Buffer.from([0x81, answer.length]), answer]));
        }
        buffered = buffered.subarray(end);
      }
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `ws://127.0.0.1:${server.address().port}`,
    stop: () => new Promise((resolve) => {
      for (const socket of sockets) socket.destroy();
      server.close(resolve);
    }),
  };
}
