/** The contents of a file with their digits unpacked, checked against the digest at its end. */

import { equal } from "../container/bytes.ts";
import { type TokenChunk, type VtkReader } from "../container/reader.ts";
import type { AudioPacket, Totals } from "../container/records.ts";
import { DamageError } from "../errors.ts";
import { TokenDigest } from "./digest.ts";
import { type PriorFinder, Unpacker } from "./unpacker.ts";

export type UnpackedEvent =
  | { readonly kind: "chunk"; readonly chunk: TokenChunk; readonly digits: Uint8Array }
  | { readonly kind: "audio"; readonly packets: readonly AudioPacket[] }
  | { readonly kind: "totals"; readonly totals: Totals };

/**
 * Yield the events of a reader from its current position on.
 *
 * @param whole Whether that is the start of the file, so that the tokens can be compared with the digest at its end.
 * @param from The first GOP whose chunks are wanted; those before are passed over, without unpacking them.
 * @throws DamageError, FormatError, ModelError The file cannot be read any further.
 */
export async function* unpackedEvents(
  reader: VtkReader,
  priors: PriorFinder,
  whole: boolean,
  from = 0,
): AsyncGenerator<UnpackedEvent> {
  const unpacker = new Unpacker(reader.header, priors);
  const digest = new TokenDigest(reader.header.model.levels);
  for await (const event of reader.events()) {
    if (event.kind === "chunk") {
      if (event.gop < from) {
        continue;
      }
      const digits = await unpacker.unpack(event);
      if (whole) {
        digest.update(digits, event.shape);
      }
      yield { kind: "chunk", chunk: event, digits };
    } else {
      if (event.kind === "totals" && whole && !equal(digest.digest(), event.totals.tokenDigest)) {
        throw new DamageError("the tokens do not match the digest at the end of the file");
      }
      yield event;
    }
  }
}
