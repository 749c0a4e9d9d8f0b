/**
 * Drives the demo page in a headless Chromium: `node page.mjs BASE_URL SCREENSHOT.png`.
 *
 * Rules of this file: a reader of what the page shows, through the ids and data attributes that
 * page/index.html promises; it prints what it saw, and ends with 1 and one clear sentence where the
 * page falls short. CHROMIUM names another browser than /usr/bin/chromium.
 */

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

// The npm packages of all tests live beside the interop tests.
const { chromium } = createRequire(new URL('../interop/package.json', import.meta.url))('playwright-core');

const PATIENCE = 60_000; // the embedded model loads with the first prompt
const GROWTHS = 4; // how many times the text has to be seen growing

const [, , base, screenshot] = process.argv;
assert(base && screenshot, 'usage: node page.mjs BASE_URL SCREENSHOT.png');

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox', // as root, in CI
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});

/** One of the two streams of the page. */
function stream(page, id) {
  const root = page.locator(`#${id}`);
  const part = (name) => root.locator(`[data-part="${name}"]`);
  const until = (...states) =>
    root.and(page.locator(states.map((state) => `[data-state="${state}"]`).join(','))).waitFor({ timeout: PATIENCE });
  return {
    part,
    until,
    state: () => root.getAttribute('data-state'),
    text: () => part('text').textContent(),
    tokens: async () => Number(await part('tokens').textContent()),
    async send(prompt) {
      await part('prompt').fill(prompt);
      await part('send').click();
      await until('streaming', 'failed');
      assert.equal(await this.state(), 'streaming', await part('notice').textContent());
    },
    /** Waits until the text has grown several times, and returns its lengths. */
    async growth() {
      const lengths = [(await this.text()).length];
      const end = Date.now() + PATIENCE;
      while (lengths.length <= GROWTHS) {
        assert(Date.now() < end, `${id}: the text stopped growing: ${lengths.join(', ')}`);
        await page.waitForTimeout(30);
        const { length } = await this.text();
        if (length > lengths.at(-1)) lengths.push(length);
      }
      return lengths;
    },
  };
}

const problems = [];

async function drive() {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => problems.push(`script error: ${error.message}`));
  page.on('console', (message) => {
    // The Content-Security-Policy reports what it blocked here.
    if (message.type() === 'error') problems.push(`console: ${message.text()}`);
  });
  await page.goto(base);

  await page.locator('#connection[data-state="connected"]').waitFor();
  await page.locator('#connection[data-transport="websocket"]').waitFor();
  console.log(`connection: ${await page.locator('#connection').innerText()}`);

  await page.locator('#option-temperature').fill('0'); // the same answers every time
  const left = stream(page, 'panel-left');
  const right = stream(page, 'panel-right');

  await left.send('Write a long story about a lighthouse keeper and the sea, with many details.');
  console.log(`left text length: ${(await left.growth()).join(' < ')}`);
  const route = ['agent', 'intent', 'confidence'];
  const shown = await Promise.all(route.map((name) => left.part(name).textContent()));
  assert(shown.every((text) => text !== '–'), `the routing is not shown: ${shown}`);
  console.log(`left routing: ${shown.join(', ')}`);

  await right.send('Explain in detail how a hash table works, and what a collision is.');
  const before = (await left.text()).length;
  console.log(`right text length: ${(await right.growth()).join(' < ')}`);
  const after = (await left.text()).length;
  assert(after > before, `the left stream (${await left.state()}) stood still beside the right one`);
  console.log(`left text length meanwhile: ${before} < ${after}`);

  assert.equal(await right.state(), 'streaming', 'the right stream ended before it was cancelled');
  await right.part('cancel').click();
  await right.until('cancelled', 'done', 'failed');
  assert.equal(await right.state(), 'cancelled', await right.part('notice').textContent());
  const stopped = await right.text();
  await page.screenshot({ path: screenshot });
  await page.waitForTimeout(500);
  assert.equal(await right.text(), stopped, 'the text still grows after the cancel');
  console.log(`right cancelled: ${await right.part('summary').textContent()}`);

  // A stream that is left alone comes to its end, with totals.
  if ((await left.state()) === 'streaming') await left.part('cancel').click();
  await left.until('cancelled', 'done');
  await page.locator('#option-max-tokens').fill('12');
  await left.send('Say hello.');
  await left.until('done', 'failed');
  assert.equal(await left.state(), 'done', await left.part('notice').textContent());
  const summary = await left.part('summary').textContent();
  assert.match(summary, /^\d+ tokens in /);
  assert((await left.tokens()) <= 12, `more tokens than asked for: ${summary}`);
  console.log(`left done: ${summary}`);

  assert.deepEqual(problems, [], 'the browser complained');
}

try {
  await drive();
} catch (error) {
  console.error(`The page at ${base} fails: ${error.message}`);
  for (const problem of problems) console.error(`  ${problem}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
