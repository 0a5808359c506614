// Takes docs/demo.png: bob's page beside another tab of ann's, just after she
// logged out in the first.
import { writeFile } from "node:fs/promises";
import { dev, ended, enter, launch, say, sees } from "./harness.mjs";

const [server, browser] = await Promise.all([dev(), launch()]);
try {
  const profile = await browser.newContext({ colorScheme: "light", viewport: { width: 416, height: 700 }, deviceScaleFactor: 2 });
  const bob = await enter(profile, server.bob);
  const ann = await enter(profile, server.ann);
  const other = await enter(profile, server.ann);
  for (const [page, text] of [[ann, "Is the new build out?"], [bob, "Yes. Your other tab is still logged in."], [ann, "Not any more."]]) {
    await say(page, text);
    await Promise.all([bob, other].map((each) => sees(each, text)));
  }
  // Bob's token has been renewed once under his connection, and is being used up.
  await bob.waitForFunction(() => document.querySelector("#events .good code") && ["25", "24"].includes(document.querySelector("#left").textContent), null, { timeout: 60_000 });
  await ann.click("#logout");
  await ended(other);
  await sees(bob, "ann left (3000 logged_out) ×2");

  const figures = [];
  for (const [page, caption] of [[bob, "bob"], [other, "ann, in another tab than the one where she logged out"]]) {
    await page.evaluate(() => document.activeElement.blur());
    await page.mouse.move(0, 0);
    const chat = await page.locator(".chat").boundingBox();
    const image = await page.screenshot({ clip: { x: 0, y: 0, width: 416, height: Math.ceil(chat.y + chat.height + 12) } });
    figures.push(`<figure><img src="data:image/png;base64,${image.toString("base64")}" width="416"><figcaption>${caption}</figcaption></figure>`);
  }
  const stage = await profile.newPage();
  await stage.setContent(`<!doctype html><style>
    body { margin: 0; width: max-content; display: flex; gap: 24px; padding: 20px 20px 16px; background: #e9ebf0; font: 14px system-ui, sans-serif; color: #4a5261; }
    figure { margin: 0; }
    img { display: block; border: 1px solid #d5d9e0; border-radius: 12px; }
    figcaption { margin-top: 10px; text-align: center; }
  </style>${figures.join("")}`);
  await stage.setViewportSize({ width: 2 * 418 + 24 + 2 * 20, height: 700 });
  const picture = await stage.locator("body").screenshot();
  await writeFile(new URL("../../docs/demo.png", import.meta.url), picture);
  console.log(`docs/demo.png: ${Math.round(picture.length / 1024)} KiB`);
} finally {
  await browser.close();
  await server.stop();
}
