/**
 * Runs the seed's React component in a headless Chromium: `node component.mjs PORT`.
 *
 * Rules of this file: the component is `seed_component.jsx`, bundled as it stands; React mounts it in
 * a page of the seed's own frontend origin. Chromium finds that page here, and `localhost:3000` at
 * PORT: so both addresses stay the seed's. A line on standard input asks for something, and one of JSON
 * answers: "send" clicks the button, "look" tells what stands in the DOM. CHROMIUM names another
 * browser than /usr/bin/chromium.
 */

import { once } from 'node:events';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

// The npm packages of all tests live beside the interop tests.
const interop = new URL('../interop/', import.meta.url);
const require = createRequire(new URL('package.json', interop));
const { build } = require('esbuild');
const { chromium } = require('playwright-core');

const [, , port] = process.argv;

const { outputFiles } = await build({
  stdin: {
    contents: `
      import React from 'react';
      import { createRoot } from 'react-dom/client';
      import { AIStreamingComponent } from './seed_component.jsx';
      createRoot(document.getElementById('root')).render(React.createElement(AIStreamingComponent));`,
    resolveDir: fileURLToPath(new URL('.', import.meta.url)),
  },
  nodePaths: [fileURLToPath(new URL('node_modules', interop))],
  define: { 'process.env.NODE_ENV': '"production"' },
  bundle: true,
  write: false,
});

// From a server and not by the driver: Chromium lets no page of elsewhere ask this machine.
const script = outputFiles[0].text.replaceAll('</script', '<\\/script');
const pages = createServer((request, response) => {
  response.setHeader('content-type', 'text/html; charset=utf-8');
  response.end(`<!doctype html><div id="root"></div><script>${script}</script>`);
}).listen(0, '127.0.0.1');
await once(pages, 'listening');

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
    `--host-resolver-rules=MAP localhost:3000 127.0.0.1:${port}, MAP localhost:5173 127.0.0.1:${pages.address().port}`,
  ],
});
const page = await browser.newPage();
const problems = [];
page.on('pageerror', (error) => problems.push(error.message));
await page.goto('http://localhost:5173/');

const ways = {
  send: () => page.getByRole('button', { name: 'Send Prompt' }).click(),
  look: async () => ({
    status: await page.getByText('Status: ').textContent(),
    streaming: await page.getByText('Streaming: ').textContent(),
    text: await page.getByRole('textbox').inputValue(),
    problems,
  }),
};
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify((await ways[line]()) ?? null)}\n`);
}
await browser.close();
pages.close();
