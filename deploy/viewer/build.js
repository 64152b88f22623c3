// Builds the page: src/ and NiiVue, as published, to medssl/runtime/server/static. `npm ci` has checked NiiVue's hash.
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "..", "..", "medssl", "runtime", "server", "static");
const modules = join(here, "node_modules");

const partial = `${target}.partial`;
rmSync(partial, { recursive: true, force: true });
cpSync(join(here, "src"), partial, { recursive: true });
mkdirSync(join(partial, "vendor"));
const niivue = readFileSync(join(modules, "@niivue", "niivue", "dist", "index.js"));
writeFileSync(join(partial, "vendor", "niivue.js"), niivue);
writeFileSync(join(partial, "vendor", "LICENCES.txt"), licences());
writeFileSync(join(partial, "build.json"), JSON.stringify(record(), null, 2) + "\n");
rmSync(target, { recursive: true, force: true });
renameSync(partial, target);
console.log(`viewer page: ${target}`);

function record() {
  return {
    niivue: description("@niivue/niivue").version,
    niivue_sha256: createHash("sha256").update(niivue).digest("hex"),
  };
}

function description(name) {
  return JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8"));
}

// NiiVue holds its dependencies, so their licences go along; its own package comes without the text.
function licences() {
  const names = readdirSync(modules).filter((name) => !name.startsWith("."));
  const all = names.flatMap((name) =>
    name.startsWith("@") ? readdirSync(join(modules, name)).map((n) => `${name}/${n}`) : name,
  );
  return all
    .sort()
    .map((name) => `${name} ${description(name).version}\n\n${licence(name)}\n`)
    .join(`\n${"-".repeat(80)}\n`);
}

function licence(name) {
  const own = readdirSync(join(modules, name)).find((file) => /^licen[cs]e/i.test(file));
  const kept = join(here, "licences", `${name.replaceAll("/", "-")}.txt`);
  if (!own && !existsSync(kept)) throw new Error(`the licence of ${name} is missing: put it at ${kept}`);
  return readFileSync(own ? join(modules, name, own) : kept, "utf8");
}
