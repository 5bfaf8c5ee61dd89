// Answers every request with a greeting, by way of the web's fetch event.
import { getEnvironment } from 'wasi:cli/environment@0.2.10';

addEventListener('fetch', (event) => event.respondWith(answer()));

function answer() {
  const { GREETING = 'Hello from Podless' } = Object.fromEntries(getEnvironment());
  return new Response(`${GREETING}\n`, { headers: { 'content-type': 'text/plain; charset=utf-8' } });
}
