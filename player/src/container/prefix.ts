/** The start of a `.vtk` file: its magic, the version of the format, and the header. */

import { DamageError, FormatError } from "../errors.ts";
import { crc32, equal, viewOf } from "./bytes.ts";
import { HEADER_DICTIONARY } from "./dictionary.ts";
import { type Header, ID_BYTES, parseHeader } from "./header.ts";
import { type Cursor } from "./source.ts";

const MAGIC = Uint8Array.of(0x89, 0x56, 0x54, 0x4b, 0x0d, 0x0a, 0x1a, 0x0a);
const PREFIX_SIZE = 16;
const CRC_SIZE = 4;
/** The newest minor version of each major version that this player knows. */
const NEWEST_MINOR: Readonly<Record<number, number>> = { 1: 1, 2: 2 };
const MAX_HEADER_BYTES = 1 << 16;
const MAX_DEFLATED_BYTES = MAX_HEADER_BYTES + 1024;

/**
 * Read the start of a file. Returns the major version of the format, the header, and the bytes that were read.
 *
 * @throws FormatError It is no `.vtk` file that this reader knows.
 * @throws DamageError The header is damaged or cut short.
 */
export async function readHeader(cursor: Cursor): Promise<[number, Header, Uint8Array]> {
  const prefix = await cursor.some(PREFIX_SIZE);
  if (!prefix.length) {
    throw new FormatError("the input is empty");
  }
  if (!equal(prefix.subarray(0, MAGIC.length), MAGIC.subarray(0, prefix.length))) {
    throw new FormatError("not a .vtk file");
  }
  if (prefix.length < PREFIX_SIZE) {
    throw new DamageError("the header is cut short");
  }
  const view = viewOf(prefix);
  const [major, minor, size] = [view.getUint16(8, true), view.getUint16(10, true), view.getUint32(12, true)];
  if (major !== 1 && major !== 2) {
    throw new FormatError(`format version ${major} is not known; this player reads versions 1 and 2`);
  }
  const [most, idBytes] = major === 1 ? [MAX_HEADER_BYTES, 0] : [MAX_DEFLATED_BYTES, ID_BYTES];
  if (size > most) {
    throw new DamageError(`the header declares ${size} bytes, more than ${most}`);
  }
  const rest = await cursor.some(size + idBytes + CRC_SIZE);
  if (rest.length < size + idBytes + CRC_SIZE) {
    throw new DamageError("the header is cut short");
  }
  const data = new Uint8Array([...prefix, ...rest]);
  const end = data.length - CRC_SIZE;
  if (viewOf(data).getUint32(end, true) !== crc32(data.subarray(0, end))) {
    throw new DamageError("the header is damaged: its CRC does not match");
  }
  const stored = rest.subarray(0, size);
  const header = await parsed(stored, major, minor);
  if (header.fileId.length > 0 !== (major === 1 && minor >= 1)) {
    throw new FormatError("the header has no file identifier, or one that its version does not have");
  }
  if (major > 1) {
    header.fileId = rest.slice(size, size + ID_BYTES);
  }
  return [major, header, data];
}

/** Parse a header, and say so if it is of a version that only newer players know. */
async function parsed(stored: Uint8Array, major: number, minor: number): Promise<Header> {
  try {
    return parseHeader(major === 1 ? stored : await inflated(stored));
  } catch (error) {
    if (error instanceof FormatError && minor > NEWEST_MINOR[major]) {
      throw new FormatError(`${error.message}; a newer player may read it`);
    }
    throw error;
  }
}

/**
 * Decompress the deflated text of a header.
 *
 * @throws FormatError It is not deflated, does not end where it should, or is too large.
 */
async function inflated(data: Uint8Array): Promise<Uint8Array> {
  try {
    new DecompressionStream("deflate-raw");
  } catch {
    throw new FormatError("this browser is too old to read the header; use a newer one");
  }
  let text: Uint8Array;
  try {
    text = await inflate(data);
  } catch {
    throw new FormatError("the header is not valid: its text is cut short or not deflated");
  }
  // Not every platform says whether something follows, but then the text is whole without the last byte, too.
  const surplus = await inflate(data.subarray(0, -1)).then(
    () => true,
    () => false,
  );
  if (surplus || text.length > MAX_HEADER_BYTES) {
    throw new FormatError("the header is not valid: its text is too long, or followed by more");
  }
  return text;
}

/** Decompress up to one byte more than a header may have. */
async function inflate(data: Uint8Array): Promise<Uint8Array> {
  const dictionary = new TextEncoder().encode(HEADER_DICTIONARY);
  const { length } = dictionary;
  // The platform takes no dictionary. A stored block in front says the same.
  const block = [0, length & 0xff, length >> 8, ~length & 0xff, (~length >> 8) & 0xff];
  const input = new Blob([Uint8Array.from(block), dictionary, Uint8Array.from(data)]);
  const reader = input.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const text = new Uint8Array(length + MAX_HEADER_BYTES + 1);
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return text.subarray(length, size);
    }
    const taken = value.subarray(0, text.length - size);
    text.set(taken, size);
    size += taken.length;
    if (size === text.length) {
      await reader.cancel();
      return text.subarray(length, size);
    }
  }
}
