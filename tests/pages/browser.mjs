// Opens every page of a folder in Chromium, in each language, colour scheme and size, and prints what it saw as
// JSON, one entry a page and view. Arguments: node_modules, Chromium, the folder, a folder for pictures (optional).
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, executablePath, site, pictures] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const VIEWS = [
  { name: "desktop", width: 1280, height: 900, scheme: "light", language: "en" },
  { name: "desktop-dark", width: 1280, height: 900, scheme: "dark", language: "en" },
  { name: "desktop-ja", width: 1280, height: 900, scheme: "light", language: "ja" },
  { name: "phone", width: 390, height: 844, scheme: "light", language: "en" },
  { name: "phone-ja-dark", width: 390, height: 844, scheme: "dark", language: "ja" },
];

/** What a reader sees: runs inside the page. */
function look() {
  const seen = (element) => element.checkVisibility();
  const words = (language) =>
    [...document.querySelectorAll(`body [lang="${language}"]`)].filter((e) => seen(e) && e.textContent.trim());
  const root = document.documentElement;
  return {
    title: document.title,
    h1: document.querySelector("h1").innerText,
    english: words("en").length,
    japanese: words("ja").length,
    background: getComputedStyle(document.body).backgroundColor,
    wider: root.scrollWidth - root.clientWidth,
    links: [...document.querySelectorAll("a[href]")].map((a) => a.getAttribute("href")),
    figures: [...document.querySelectorAll("svg")].filter(seen).map((svg) => svg.getBoundingClientRect().width),
    header: seen(document.querySelector("header")),
  };
}

/** What is seen under the colours that a reader chose, on screen and on paper. */
async function chosen(page) {
  await page.locator('label[for="light"]').click();
  const light = await page.evaluate(look);
  await page.locator('label[for="dark"]').click();
  const dark = await page.evaluate(look);
  await page.emulateMedia({ media: "print" });
  const print = await page.evaluate(look);
  await page.emulateMedia({ media: "screen" });
  await page.locator('label[for="auto"]').click();
  return { chosen: { dark: dark.background, light: light.background }, print };
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const found = [];
for (const file of readdirSync(site).filter((name) => name.endsWith(".html")).sort()) {
  const page = await browser.newPage();
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("requestfailed", (request) => faults.push(request.url()));
  page.on("request", (request) => /^(file|data):/.test(request.url()) || faults.push(request.url()));
  await page.goto(pathToFileURL(`${site}/${file}`).href);
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  await page.evaluate(axe);
  const switched = await chosen(page);
  let now = "en";
  for (const { name, width, height, scheme, language } of VIEWS) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    if (language !== now) await page.locator(`label[for="${language}"]`).click();
    now = language;
    const seen = await page.evaluate(look);
    const { violations } = await page.evaluate(() => axe.run());
    const against = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
    if (pictures) await page.screenshot({ path: `${pictures}/${file}-${name}.png`, fullPage: true });
    found.push({ file, view: name, language, scheme, faults, against, ...switched, ...seen });
  }
  await page.close();
}
const page = await browser.newPage();
await page.goto(pathToFileURL(`${site}/model.html`).href);
await page.getByText("日本語", { exact: true }).click();
await page.locator('nav a[href^="kpi.html"]:visible').click();
await page.waitForURL(/kpi/); // until it is loaded
const followed = { url: page.url(), ...(await page.evaluate(look)) };
await page.goto(pathToFileURL(`${site}/audit.html`).href);
const hidden = () => [...document.querySelectorAll("details table")].filter((one) => !one.checkVisibility()).length;
const folded = { screen: await page.evaluate(hidden) };
await page.emulateMedia({ media: "print" });
folded.print = await page.evaluate(hidden);
await browser.close();
console.log(JSON.stringify({ pages: found, followed, folded }));
