// Turns the JSON Schemas of docs/contracts/ into TypeScript under src/api/generated/.
// With --check nothing is written: exits with 1 and names the file when one is stale or missing.

import { readFile, writeFile } from "node:fs/promises";
import { compile } from "json-schema-to-typescript";

const contracts = new URL("../../docs/contracts/", import.meta.url);
const generated = new URL("../src/api/generated/", import.meta.url);
const check = process.argv.includes("--check");

const sources = [
  { schema: "unified-event.v1.schema.json", types: "unified-event.ts", root: "UnifiedEvent" },
  { schema: "api.v1.schema.json", types: "api.ts", root: "Api" },
];

let stale = false;
for (const { schema, types, root } of sources) {
  // `$id` and `title` would name the root type otherwise.
  const {
    $id: _id,
    title: _title,
    ...document
  } = JSON.parse(await readFile(new URL(schema, contracts), "utf8"));
  const text = (
    await compile(withPlainReferences(document), root, {
      additionalProperties: false,
      bannerComment: `// Generated from docs/contracts/${schema} by \`npm run generate\`. Do not edit.`,
      strictIndexSignatures: true,
      unreachableDefinitions: true,
    })
  ).replace(
    / \*\n \* This interface was referenced by [^\n]*\n \* via the `definition`[^\n]*\n/g,
    "",
  );
  const path = new URL(types, generated);
  const current = await readFile(path, "utf8").catch(() => "");
  if (current === text) continue;
  if (check) {
    stale = true;
    console.error(`src/api/generated/${types} is stale: run \`npm run generate\` and commit it`);
  } else {
    await writeFile(path, text);
    console.log(`wrote src/api/generated/${types}`);
  }
}
process.exit(stale ? 1 : 0);

/**
 * The schema with every `{ $ref, description }` as `{ allOf: [{ $ref }], description }`: the same
 * to a validator, and the reference keeps its name instead of becoming `Name1`.
 */
function withPlainReferences(node) {
  if (Array.isArray(node)) return node.map(withPlainReferences);
  if (typeof node !== "object" || node === null) return node;
  const { $ref, ...rest } = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withPlainReferences(value)]),
  );
  if ($ref === undefined) return rest;
  return Object.keys(rest).length === 0 ? { $ref } : { ...rest, allOf: [{ $ref }] };
}
