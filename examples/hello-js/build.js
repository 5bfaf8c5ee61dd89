// Makes a component of hello.js: dist/hello-js.wasm.
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const out = 'dist/hello-js.wasm';
const { component } = await componentize({ sourcePath: 'hello.js', witPath: '../wit', worldName: 'hello' });
await mkdir('dist', { recursive: true });
await writeFile(out, component);
console.log(`${out}: ${(await stat(out)).size} bytes`);
