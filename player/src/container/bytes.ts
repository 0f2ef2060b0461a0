/** Little-endian fields, CRC-32 and varints. */

import { DamageError } from "../errors.ts";

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const TABLE = new Uint32Array(256).map((_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) {
    rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  }
  return rest;
});

/** Return the CRC-32 of zlib, which goes on from the CRC-32 of the bytes before. */
export function crc32(bytes: Uint8Array, before = 0): number {
  let rest = ~before;
  for (let at = 0; at < bytes.length; at++) {
    rest = TABLE[(rest ^ bytes[at]) & 0xff] ^ (rest >>> 8);
  }
  return ~rest >>> 0;
}

export const MAX_VARINT_BYTES = 10;

/** Reads varints and bytes from a payload, one after the other. */
export class PayloadReader {
  constructor(
    private readonly bytes: Uint8Array,
    public position = 0,
  ) {}

  get left(): number {
    return this.bytes.length - this.position;
  }

  /**
   * Read one byte.
   *
   * @throws DamageError The payload has ended.
   */
  byte(): number {
    if (this.left < 1) {
      throw new DamageError("a record is cut short");
    }
    return this.bytes[this.position++];
  }

  /**
   * Read a signed 64-bit integer.
   *
   * @throws DamageError It is cut short or too long.
   */
  varint(): bigint {
    let rest = 0n;
    const most = Math.min(MAX_VARINT_BYTES, this.left);
    for (let count = 0; count < most; count++) {
      const byte = this.bytes[this.position++];
      rest |= BigInt(byte & 0x7f) << BigInt(7 * count);
      if (byte < 0x80) {
        if (rest >> 64n) {
          break;
        }
        return rest & 1n ? -((rest + 1n) >> 1n) : rest >> 1n;
      }
    }
    throw new DamageError("a number is cut short or too long");
  }

  /** Read so many bytes, of which there must be enough. */
  take(count: number): Uint8Array {
    this.position += count;
    return this.bytes.subarray(this.position - count, this.position);
  }
}

export function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}
