/** How records and the footer of a `.vtk` file lie in bytes: in fixed fields (versions 1.x) or varints (versions 2.x). */

import { DamageError } from "../errors.ts";
import { crc32, equal, MAX_VARINT_BYTES, PayloadReader, viewOf } from "./bytes.ts";
import { type Header, product } from "./header.ts";
import {
  checkedEntries,
  type GopEntry,
  parseTicks,
  type RecordFields,
  type TokenPayload,
  type Totals,
} from "./records.ts";
import { type Cursor, exactly } from "./source.ts";

const FOOTER_MAGIC = Uint8Array.of(0x89, 0x56, 0x54, 0x4b, 0x45, 0x4e, 0x44, 0x0a);
const DIGEST_BYTES = 32;

/** The layout in bytes of everything behind the header of one file. */
export abstract class Framing {
  /** What the CRC of every record starts from. */
  readonly crcSeed: number;
  abstract readonly footerSize: number;
  /** The largest size of an entry of the index. */
  abstract readonly indexEntryBytes: number;
  /** The largest size of what stands before the times and the packed digits in a token record. */
  abstract readonly tokenPayloadBytes: number;

  constructor(protected readonly header: Header) {
    this.crcSeed = crc32(header.fileId);
  }

  /**
   * Read the fields of a record. Returns them and their bytes.
   *
   * @throws DamageError The file ends within them, or one is out of range.
   */
  abstract readFields(cursor: Cursor): Promise<[RecordFields, Uint8Array]>;

  /**
   * Parse the payload of a token record of so many frames.
   *
   * @throws DamageError It is cut short, or its times are out of range.
   */
  abstract parseTokenPayload(payload: Uint8Array, frames: number): TokenPayload;

  /**
   * Parse the payload of the index record.
   *
   * @throws DamageError It is no whole number of entries up to `most`, or they do not grow.
   */
  parseIndex(payload: Uint8Array, most: number): GopEntry[] {
    return checkedEntries(this.entries(payload, most));
  }

  protected abstract entries(payload: Uint8Array, most: number): GopEntry[];

  /**
   * Parse the payload of the END record.
   *
   * @throws DamageError It has a wrong size.
   */
  abstract parseTotals(payload: Uint8Array): Totals;

  /**
   * Parse the footer, which stands at a place of the file. Returns the place of the index record.
   *
   * @throws DamageError It is damaged, or does not belong there.
   */
  abstract parseFooter(data: Uint8Array, place: number): bigint;

  /** Check the size and the magic of the footer. */
  protected checkFooter(data: Uint8Array): void {
    if (data.length !== this.footerSize) {
      throw new DamageError("the footer is cut short");
    }
    if (!equal(data.subarray(data.length - FOOTER_MAGIC.length), FOOTER_MAGIC)) {
      throw new DamageError("the footer is damaged");
    }
  }
}

const FIXED_FIELDS_SIZE = 32;
const FIXED_TOKEN_FIELDS_SIZE = 6;
const FIXED_TOTALS_SIZE = 64;

class FixedFraming extends Framing {
  readonly footerSize = 28;
  readonly indexEntryBytes = 24;
  readonly tokenPayloadBytes = FIXED_TOKEN_FIELDS_SIZE;

  async readFields(cursor: Cursor): Promise<[RecordFields, Uint8Array]> {
    const bytes = await exactly(cursor, FIXED_FIELDS_SIZE);
    const view = viewOf(bytes);
    const fields = {
      type: String.fromCharCode(...bytes.subarray(0, 4)),
      size: view.getUint32(4, true),
      number: view.getUint32(8, true),
      gop: view.getUint32(12, true),
      pts: view.getBigInt64(16, true),
      frames: view.getUint32(24, true),
      rawSize: view.getUint32(28, true),
    };
    return [fields, bytes];
  }

  parseTokenPayload(payload: Uint8Array, frames: number): TokenPayload {
    if (payload.length < FIXED_TOKEN_FIELDS_SIZE) {
      throw new DamageError("a token record is cut short");
    }
    const size = viewOf(payload).getUint32(2, true);
    return tokenPayload(payload, FIXED_TOKEN_FIELDS_SIZE, size, frames);
  }

  protected entries(payload: Uint8Array, most: number): GopEntry[] {
    const size = this.indexEntryBytes;
    if (payload.length % size || payload.length > most * size) {
      throw new DamageError(`the index is not a whole number of entries up to ${most}`);
    }
    const view = viewOf(payload);
    return Array.from({ length: payload.length / size }, (_, number) => ({
      offset: view.getBigUint64(size * number, true),
      pts: view.getBigInt64(size * number + 8, true),
      firstFrame: view.getBigUint64(size * number + 16, true),
    }));
  }

  parseTotals(payload: Uint8Array): Totals {
    if (payload.length !== FIXED_TOTALS_SIZE + (this.header.fileId.length ? DIGEST_BYTES : 0)) {
      throw new DamageError("the END record has a wrong size");
    }
    const view = viewOf(payload);
    const [frames, chunks, gops, audioPackets] = [0, 8, 16, 24].map((at) => view.getBigUint64(at, true));
    const tokenDigest = payload.slice(32, FIXED_TOTALS_SIZE);
    return { frames, chunks, gops, audioPackets, tokenDigest, fileDigest: payload.slice(FIXED_TOTALS_SIZE) };
  }

  parseFooter(data: Uint8Array, place: number): bigint {
    this.checkFooter(data);
    const view = viewOf(data);
    if (view.getUint32(16, true) !== crc32(data.subarray(0, 16))) {
      throw new DamageError("the footer is damaged");
    }
    if (view.getBigUint64(8, true) !== BigInt(place)) {
      throw new DamageError("the footer does not stand where it says");
    }
    return view.getBigUint64(0, true);
  }
}

const MAX_FIELD = (1n << 32n) - 1n;
const TYPES: Record<string, string> = { T: "TOKN", w: "wtok", a: "audi", i: "indx", E: "TEND" };

class CompactFraming extends Framing {
  readonly footerSize = 16;
  readonly indexEntryBytes = 3 * MAX_VARINT_BYTES;
  readonly tokenPayloadBytes = 2 + MAX_VARINT_BYTES;

  async readFields(cursor: Cursor): Promise<[RecordFields, Uint8Array]> {
    const bytes = [(await exactly(cursor, 1))[0]];
    const numbers: bigint[] = [];
    for (let count = 0; count < 6; count++) {
      const varint = await nextVarint(cursor);
      bytes.push(...varint);
      numbers.push(new PayloadReader(varint).varint());
    }
    const [size, number, gop, pts, frames, rawSize] = numbers;
    if ([size, number, gop, frames, rawSize].some((each) => each < 0n || each > MAX_FIELD)) {
      throw new DamageError("a field of a record is out of range");
    }
    const letter = String.fromCharCode(bytes[0]);
    // The digits of a token record are told in latent frames.
    const unit = letter === "T" ? this.header.planes * product(this.header.grid) : 1;
    const fields = {
      type: TYPES[letter] ?? letter,
      size: Number(size),
      number: Number(number),
      gop: Number(gop),
      pts,
      frames: Number(frames),
      rawSize: Number(rawSize) * unit,
    };
    return [fields, Uint8Array.from(bytes)];
  }

  parseTokenPayload(payload: Uint8Array, frames: number): TokenPayload {
    if (payload.length < 3) {
      throw new DamageError("a token record is cut short");
    }
    const reader = new PayloadReader(payload, 2);
    const size = reader.varint();
    return tokenPayload(payload, reader.position, Number(size), frames);
  }

  protected entries(payload: Uint8Array, most: number): GopEntry[] {
    const reader = new PayloadReader(payload);
    const entries: GopEntry[] = [];
    let [offset, pts, firstFrame] = [0n, 0n, 0n];
    while (reader.left) {
      if (entries.length === most) {
        throw new DamageError(`the index has more than ${most} entries`);
      }
      offset += reader.varint();
      pts += reader.varint();
      firstFrame += reader.varint();
      entries.push({ offset, pts, firstFrame });
    }
    return entries;
  }

  parseTotals(payload: Uint8Array): Totals {
    const reader = new PayloadReader(payload);
    const counts = [reader.varint(), reader.varint(), reader.varint(), reader.varint()];
    if (reader.left !== 2 * DIGEST_BYTES || counts.some((count) => count < 0n)) {
      throw new DamageError("the END record has a wrong size, or a count below 0");
    }
    const [frames, chunks, gops, audioPackets] = counts;
    const tokenDigest = reader.take(DIGEST_BYTES).slice();
    return { frames, chunks, gops, audioPackets, tokenDigest, fileDigest: reader.take(DIGEST_BYTES).slice() };
  }

  parseFooter(data: Uint8Array, place: number): bigint {
    this.checkFooter(data);
    const view = viewOf(data);
    const back = view.getUint32(0, true);
    const covered = new DataView(new ArrayBuffer(12));
    covered.setBigUint64(0, BigInt(place), true);
    covered.setUint32(8, back, true);
    if (view.getUint32(4, true) !== crc32(new Uint8Array(covered.buffer), this.crcSeed)) {
      throw new DamageError("the footer is damaged, or of another place or file");
    }
    if (back > place) {
      throw new DamageError("the footer points before the file");
    }
    return BigInt(place - back);
  }
}

/** Return the layout of a file of a major version of the format. */
export function framingOf(major: number, header: Header): Framing {
  return major === 1 ? new FixedFraming(header) : new CompactFraming(header);
}

/** Parse the times, so many bytes from `begin` on, and take what follows as the packed digits. */
function tokenPayload(payload: Uint8Array, begin: number, size: number, frames: number): TokenPayload {
  if (!(0 <= size && size <= payload.length - begin)) {
    throw new DamageError("the times of a token record are cut short");
  }
  const end = begin + size;
  return {
    ticks: size ? parseTicks(payload.subarray(begin, end), frames) : null,
    coder: [payload[0], payload[1]],
    packed: payload.subarray(end),
  };
}

/** Read the bytes of a varint. */
async function nextVarint(cursor: Cursor): Promise<Uint8Array> {
  const bytes: number[] = [];
  do {
    bytes.push((await exactly(cursor, 1))[0]);
  } while (bytes[bytes.length - 1] >= 0x80 && bytes.length < MAX_VARINT_BYTES);
  return Uint8Array.from(bytes);
}
