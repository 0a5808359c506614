import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts", "src/dpop.ts"],
  format: "esm",
  platform: "browser",
  target: "es2022",
  minify: true,
  dts: true,
  clean: true,
  outExtensions: () => ({ js: ".js", dts: ".d.ts" }),
});
