// The real binary and a real browser, for the tests beside this file.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
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
