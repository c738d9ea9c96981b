// What the stories of this folder have in common: checks that are counted, and pages.
import path from "node:path";

export const TIMEOUT_MS = 60_000;
const shots = process.argv.includes("--shots") ? process.argv[process.argv.indexOf("--shots") + 1] : null;

export const checks = { passed: 0, failed: 0 };
export function that(what, fine, seen = "") {
  checks[fine ? "passed" : "failed"] += 1;
  console.log(fine ? `ok      ${what}` : `FAILED  ${what}: ${JSON.stringify(seen)}`);
}

/** What cannot go on counts as one failure. */
export async function story(name, play) {
  try {
    await play();
  } catch (error) {
    that(name, false, `${error}`.split("\n").slice(0, 4).join(" "));
  }
}

/** A page of its own, as a person would have it, that writes down what goes wrong in it. */
export async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(TIMEOUT_MS);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`${error}`));
  page.on("console", (message) => {
    // Answers that are no success are written there too, and wanted here.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) wrong.push(message.text());
  });
  return { page, wrong, close: () => context.close() };
}

export async function shoot(page, name) {
  if (shots) await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
}
