/**
 * Builds the player into `dist/`, which can be put on any web server as it is, and the reader for Node.js, which the
 * tests use, into `build/`.
 *
 *     node build.mjs
 */

import { createHash } from "node:crypto";
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const weights = join(here, "..", "weights");
const dist = join(here, "dist");
const modules = join(here, "node_modules");
const METADATA_PROPS = 14;

/** Return the fields of a protocol buffer as pairs of a number and, for nested ones, the bytes. */
function* fieldsOf(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        return value;
      }
    }
  };
  while (at < bytes.length) {
    const tag = number();
    const [field, kind] = [Math.floor(tag / 8), tag % 8];
    if (kind === 2) {
      const size = number();
      yield [field, bytes.subarray(at, at + size)];
      at += size;
    } else if (kind === 0) {
      yield [field, number()];
    } else {
      at += kind === 1 ? 8 : 4;
    }
  }
}

function hashOf(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Return what a graph says about itself. */
function aboutGraph(path) {
  for (const [field, entry] of fieldsOf(readFileSync(path))) {
    if (field === METADATA_PROPS) {
      const pair = Object.fromEntries(fieldsOf(entry));
      if (pair[1].toString() === "vtok") {
        return JSON.parse(pair[2].toString());
      }
    }
  }
  throw new Error(`${path} was not made by vtok export`);
}

/** Copy a model without its encoder, and return its entry in the listing. */
function addModel(name) {
  const file = `${name}.safetensors`;
  const bytes = readFileSync(join(weights, file));
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + size).toString());
  const sha256 = hashOf(bytes);
  const about = aboutGraph(join(weights, `${name}.decoder.onnx`));
  if (about.weights_sha256 !== sha256) {
    throw new Error(`the graphs of ${name} were made of other weights; make them again with vtok export`);
  }
  const ends = Object.entries(header).map(([key, value]) => (key.startsWith("decoder.") ? value.data_offsets[1] : 0));
  // The tensors of the decoder stand first in the file, and the graphs name them by their places in it.
  const cut = bytes.subarray(0, 8 + size + Math.max(...ends));
  const kept = `${name}.decoder.bin`;
  writeFileSync(join(dist, "models", kept), cut);
  const graphs = readdirSync(weights).filter((each) => each.startsWith(`${name}.`) && each.endsWith(".onnx"));
  for (const graph of graphs) {
    copyFileSync(join(weights, graph), join(dist, "models", graph));
  }
  const first = `${name}.decoder-first.onnx`;
  const config = JSON.parse(header.__metadata__.config);
  const factors = config.levels.map((level) => level.factor);
  if (config.max_tokens * config.fsq_levels.length !== about.latent_channels) {
    throw new Error(`the graphs of ${name} do not fit its configuration`);
  }
  return {
    name,
    reads: [sha256, ...(header.__metadata__.reads ?? "").split(" ").filter(Boolean)],
    stride: [0, 1, 2].map((axis) => factors.reduce((all, factor) => all * factor[axis], 1)),
    firstGrid: config.enhanced_first_frame ? factors.at(-1).slice(1) : [1, 1],
    levels: config.fsq_levels,
    tokens: config.max_tokens,
    states: about.states,
    decoder: `${name}.decoder.onnx`,
    firstDecoder: graphs.includes(first) ? first : null,
    weights: kept,
    weightsName: file,
  };
}

/** Write the models, the priors and their listing. */
function addModels() {
  mkdirSync(join(dist, "models"), { recursive: true });
  const files = readdirSync(weights);
  const models = files.filter((name) => name.endsWith(".decoder.onnx")).map((name) => addModel(name.slice(0, -13)));
  const priors = {};
  for (const name of files.filter((each) => /^prior-.*\.safetensors$/.test(each))) {
    const bytes = readFileSync(join(weights, name));
    priors[hashOf(bytes)] = name;
    copyFileSync(join(weights, name), join(dist, "models", name));
  }
  // The player refuses files that are not those it was built with, such as old ones that a browser has kept.
  const sums = readdirSync(join(dist, "models")).map((name) => [name, hashOf(readFileSync(join(dist, "models", name)))]);
  const listing = { models, priors, sha256: Object.fromEntries(sums) };
  writeFileSync(join(dist, "models", "models.json"), JSON.stringify(listing, null, 1));
}

/** Write the licences of the libraries that the player contains. */
function addLicences() {
  const texts = ["onnxruntime-web", "mediabunny", "@noble/hashes", "zstddec"].map((name) => {
    const about = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8"));
    const file = readdirSync(join(modules, name)).find((each) => /^licen[cs]e/i.test(each));
    const text = file ? readFileSync(join(modules, name, file), "utf8") : "";
    return `${name} ${about.version} (${about.license})\n\n${text}`;
  });
  writeFileSync(join(dist, "LICENCES.txt"), texts.join(`\n${"-".repeat(80)}\n\n`));
}

rmSync(dist, { recursive: true, force: true });
mkdirSync(join(dist, "ort"), { recursive: true });
const shared = { bundle: true, format: "esm", target: "es2023", legalComments: "none", logLevel: "warning" };
await build({
  ...shared,
  minify: true,
  entryPoints: {
    page: join(here, "src/page.ts"),
    "vtok-player": join(here, "src/player/element.ts"),
    "vtok-worker": join(here, "src/player/worker.ts"),
  },
  outdir: dist,
});
await build({ ...shared, platform: "node", entryPoints: [join(here, "src/node/read.ts")], outdir: join(here, "build"), outExtension: { ".js": ".mjs" } });
for (const name of ["ort.wasm.min.mjs", "ort.webgpu.min.mjs"]) {
  copyFileSync(join(modules, "onnxruntime-web/dist", name), join(dist, "ort", name));
}
for (const name of ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"]) {
  for (const suffix of ["mjs", "wasm"]) {
    copyFileSync(join(modules, "onnxruntime-web/dist", `${name}.${suffix}`), join(dist, "ort", `${name}.${suffix}`));
  }
}
for (const name of ["index.html", "page.css", "isolation.js"]) {
  copyFileSync(join(here, name), join(dist, name));
}
cpSync(join(here, "example.vtk"), join(dist, "example.vtk"));
addModels();
addLicences();
