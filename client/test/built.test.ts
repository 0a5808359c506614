// What is shipped: its size, and that it is what the source builds.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "tsdown";
import { expect, test } from "vitest";

const committed = new URL("../../internal/demo/assets/wsbouncer.js", import.meta.url);

/** Promised: less than 6 KB gzip. */
const most = 6_000;

test("the committed build is what the source builds, and small", async () => {
  const outDir = await mkdtemp(join(tmpdir(), "wsbouncer-client-"));
  try {
    await build({ outDir, dts: false, logLevel: "silent" });
    const built = await readFile(join(outDir, "index.js"), "utf8");
    expect(gzipSync(built, { level: 9 }).length).toBeLessThan(most);
    const shipped = await readFile(committed, "utf8");
    expect(shipped.slice(shipped.indexOf("\n") + 1), 'run "npm run build" in client/ and commit the result').toBe(built);
    expect(built).not.toMatch(/\bimport\s*[{*"']|\brequire\(/); // no dependency at run time
  } finally {
    await rm(outDir, { recursive: true });
  }
});
