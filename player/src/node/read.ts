/**
 * Reads files with Node.js and prints a line of JSON for each: what the reader says of it, and the digest of the tokens
 * that it read. The tests compare the lines with those of the reader in Python.
 *
 *     node read.mjs PRIORS FILE…
 *
 * PRIORS is a folder with the priors that the files may name. A FILE of - reads the names from standard input.
 */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { VtkReader } from "../container/reader.ts";
import { BytesSource } from "../container/source.ts";
import { TokenDigest } from "../tokens/digest.ts";
import { unpackedEvents } from "../tokens/events.ts";
import { parsePrior, type Prior } from "../tokens/prior/prior.ts";

const [folder, ...names] = process.argv.slice(2);
const priors = new Map<string, Prior>();
for (const name of readdirSync(folder).filter((each) => /prior.*\.safetensors$/.test(each))) {
  const bytes = new Uint8Array(readFileSync(join(folder, name)));
  priors.set(createHash("sha256").update(bytes).digest("hex"), parsePrior(bytes));
}

const paths = names[0] === "-" ? readFileSync(0, "utf8").trim().split("\n") : names;
for (const path of paths) {
  console.log(JSON.stringify(await read(new Uint8Array(readFileSync(path)))));
}

async function read(bytes: Uint8Array): Promise<Record<string, unknown>> {
  let digest: TokenDigest | null = null;
  let frames = 0;
  let packets = 0;
  const said = (verdict: string, message: string) => ({
    verdict,
    message,
    tokens: digest ? Buffer.from(digest.digest()).toString("hex") : null,
    frames,
    packets,
  });
  try {
    const reader = await VtkReader.open(new BytesSource(bytes));
    digest = new TokenDigest(reader.header.model.levels);
    for await (const event of unpackedEvents(reader, async (sha256) => priors.get(sha256) ?? null, true)) {
      if (event.kind === "chunk") {
        digest.update(event.digits, event.chunk.shape);
        frames += event.chunk.pts.length;
      } else if (event.kind === "audio") {
        packets += event.packets.length;
      }
    }
    return said("ok", "");
  } catch (error) {
    return said((error as Error).name, (error as Error).message);
  }
}
