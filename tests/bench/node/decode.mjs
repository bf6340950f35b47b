// What a decoder in JavaScript makes of the captures: the live figure beside the normalizer's.
//
// In: the schema's file, the captures' files. Out: one line of JSON on standard output. Decoded is
// with protobufjs by the very schema that the normalizer has, once to objects only and once to the
// JSON of these; of each the fastest turn counts, since whatever else the machine does can only
// slow a turn down. A file that cannot be read ends it.

import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs';

const TURNS = 41;
const [schema, ...captures] = process.argv.slice(2);
const { root } = protobuf.parse(readFileSync(schema, 'utf8'), { keepCase: false });
const messages = captures.flatMap((file) =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const { type, payload } = JSON.parse(line);
      return { type: typeOf(type), bytes: Buffer.from(payload, 'base64') };
    }),
);

// Methods without a type of ours cost nothing here; they do in the normalizer, which keeps them.
function typeOf(method) {
  const found = root.nested.webcast.nested[method.replace(/^Webcast/, '')];
  return found instanceof protobuf.Type ? found : undefined;
}

let kept = 0;
function decode({ type, bytes }) {
  if (type === undefined) return;
  try {
    kept += type.decode(bytes) === null ? 1 : 0;
  } catch {
    // Some captured messages do not fit; the normalizer repairs these.
  }
}

const asJson = { longs: String, enums: String, bytes: String };
function decodeToJson({ type, bytes }) {
  if (type === undefined) return;
  try {
    kept += JSON.stringify(type.toObject(type.decode(bytes), asJson)).length;
  } catch {
    // As above.
  }
}

function messagesPerSecond(work) {
  let best = Infinity;
  for (let turn = 0; turn < TURNS; turn += 1) {
    const begun = performance.now();
    for (const message of messages) work(message);
    best = Math.min(best, performance.now() - begun);
  }
  return (messages.length / best) * 1000;
}

const objects = messagesPerSecond(decode);
const json = messagesPerSecond(decodeToJson);
console.log(
  JSON.stringify({ version: process.versions.node, messages: messages.length, objects, json, kept }),
);
