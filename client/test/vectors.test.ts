// The server's own table of ends and refusals: what the client does must be what
// the server's documentation says it does.
import { expect, test } from "vitest";
import closes from "../../vectors/closes.json" with { type: "json" };
import table from "../../vectors/refusals.json" with { type: "json" };
import { advice, refusals } from "../src/codes.ts";
import { WsBouncerError } from "../src/errors.ts";

test.each(closes.closes)("$code $text: $advice", (end) => {
  expect(advice(end.code)).toBe(end.advice);
});

test("every refusal has a name here", () => {
  expect([...refusals]).toEqual([...new Set(table.refusals.map((refusal) => refusal.code))]);
});

test.each(table.refusals)("$status $code stands for the close code of the handshake", ({ code, status, close_code }) => {
  const error = new WsBouncerError(code, "…", status);
  if (close_code) expect(error.closeCode).toBe(close_code);
  else expect(advice(error.closeCode)).toBe("stop"); // what no other attempt would change
});
