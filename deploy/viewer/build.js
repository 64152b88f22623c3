// Builds the page: src/ and NiiVue, as published, to medssl/runtime/server/static. `npm ci` has checked NiiVue's hash.
// All but index.html lies in a folder named by its content, so that no browser mixes files of two versions.
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "..", "..", "medssl", "runtime", "server", "static");
const modules = join(here, "node_modules");
const source = join(here, "src");

const partial = `${target}.partial`;
const niivue = readFileSync(join(modules, "@niivue", "niivue", "dist", "index.js"));
const content = contentHash();
const folder = join(partial, content);
rmSync(partial, { recursive: true, force: true });
cpSync(source, folder, { recursive: true });
rmSync(join(folder, "index.html"));
mkdirSync(join(folder, "vendor"));
writeFileSync(join(folder, "vendor", "niivue.js"), niivue);
writeFileSync(join(folder, "vendor", "LICENCES.txt"), licences());
const page = readFileSync(join(source, "index.html"), "utf8");
writeFileSync(join(partial, "index.html"), page.replaceAll('"static/', `"static/${content}/`));
writeFileSync(join(partial, "build.json"), JSON.stringify(record(), null, 2) + "\n");
rmSync(target, { recursive: true, force: true });
renameSync(partial, target);
console.log(`viewer page: ${target}`);

function sha256(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

function contentHash() {
  const names = readdirSync(source, { recursive: true }).sort();
  const files = names.map((name) => join(source, name)).filter((path) => /\.\w+$/.test(path));
  return sha256(niivue, ...files.map((path) => readFileSync(path))).slice(0, 12);
}

function record() {
  return { folder: content, niivue: description("@niivue/niivue").version, niivue_sha256: sha256(niivue) };
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
