// A headless browser that does what it is told: one JSON command a line in, one JSON answer a line out.
import { createInterface } from "node:readline";
import bundled from "@sparticuz/chromium";
import { chromium } from "playwright-core";

const QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: [...bundled.args.filter((arg) => arg !== "--disable-web-security"), ...QUIET],
  headless: true,
});
const context = await browser.newContext({ ignoreHTTPSErrors: true });
const page = await context.newPage();

const commands = {
  goto: ({ url }) => page.goto(url).then((answer) => answer?.status() ?? null),
  evaluate: ({ script }) => page.evaluate(script),
  fill: ({ selector, value }) => page.fill(selector, value),
  click: ({ selector }) => page.click(selector),
  press: ({ key }) => page.keyboard.press(key),
  text: ({ selector }) => page.textContent(selector),
  url: () => page.url(),
  untilUrl: ({ start }) => page.waitForURL((url) => url.href.startsWith(start)).then(() => null),
  cookies: () => context.cookies(),
  screenshot: ({ path }) => page.screenshot({ path, fullPage: true }).then(() => path),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[command](given)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
