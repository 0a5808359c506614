// Puts the built client where the demo page embeds it.
import { readFile, writeFile } from "node:fs/promises";

const client = new URL("../", import.meta.url);
const { version } = JSON.parse(await readFile(new URL("package.json", client), "utf8"));
const built = await readFile(new URL("dist/index.js", client), "utf8");
const banner = `// @wsbouncer/client ${version}, built from client/ by "npm run build". Do not edit.\n`;
await writeFile(new URL("../internal/demo/assets/wsbouncer.js", client), banner + built);
