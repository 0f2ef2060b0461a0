/** The records of a `.vtk` file, parsed and checked. */

import { DamageError } from "../errors.ts";
import { PayloadReader, viewOf } from "./bytes.ts";
import { type Header, product, type WindowHeader } from "./header.ts";

export const FIELDS_SIZE = 32;
export const CRC_SIZE = 4;
export const MAX_AUDIO_BYTES = 1 << 24;
export const GOP_ENTRY_SIZE = 24;
export const MAX_INDEX_BYTES = GOP_ENTRY_SIZE << 20;
export const MAX_END_BYTES = 256;
export const FOOTER_SIZE = 28;
const MAX_AUDIO_PACKETS = 1 << 16;
const MAX_VARINT_BYTES = 10;
const TOKEN_FIELDS_SIZE = 6;
const MAX_TICKS = 1n << 61n;
const TOTALS_SIZE = 64;
const DIGEST_BYTES = 32;

/** The fields in front of a record's payload. */
export interface RecordFields {
  readonly type: string;
  readonly size: number;
  readonly number: number;
  readonly gop: number;
  readonly pts: bigint;
  readonly frames: number;
  readonly rawSize: number;
}

export function parseFields(bytes: Uint8Array): RecordFields {
  const view = viewOf(bytes);
  return {
    type: String.fromCharCode(...bytes.subarray(0, 4)),
    size: view.getUint32(4, true),
    number: view.getUint32(8, true),
    gop: view.getUint32(12, true),
    pts: view.getBigInt64(16, true),
    frames: view.getUint32(24, true),
    rawSize: view.getUint32(28, true),
  };
}

/** Return whether a time is one that a file can hold. */
export function isTime(ticks: bigint): boolean {
  return -MAX_TICKS <= ticks && ticks <= MAX_TICKS;
}

/** Return whether a reader skips records of this type if it does not know the type. */
export function isAncillary(type: string): boolean {
  return "a" <= type[0] && type[0] <= "z";
}

/**
 * Return the largest payload of a token record in bytes.
 *
 * @throws DamageError No chunk of this file can have so many frames, or its frames so many digits.
 */
export function tokenPayloadLimit(header: Header, first: boolean, frames: number, rawSize: number): number {
  if (!(0 < frames && frames <= header.maxChunkFrames(first))) {
    throw new DamageError(`a chunk declares ${frames} frames, which no chunk of this file can have`);
  }
  const digits = header.planes * product(header.chunkShape(frames, first));
  if (rawSize !== digits) {
    throw new DamageError(`a chunk declares ${rawSize} digits instead of ${digits}`);
  }
  return TOKEN_FIELDS_SIZE + frames * MAX_VARINT_BYTES + 3 * digits + 64 * (header.planes + 1);
}

/** The payload of a token record. */
export interface TokenPayload {
  /** The ticks from each frame to the next, then the duration of the last; null if all are `frame_ticks`. */
  readonly ticks: readonly bigint[] | null;
  /** The number and the version of the coder. */
  readonly coder: readonly [number, number];
  readonly packed: Uint8Array;
}

/**
 * Parse the payload of a token record of so many frames.
 *
 * @throws DamageError It is cut short, or its times are out of range.
 */
export function parseTokenPayload(payload: Uint8Array, frames: number): TokenPayload {
  if (payload.length < TOKEN_FIELDS_SIZE) {
    throw new DamageError("a token record is cut short");
  }
  const end = TOKEN_FIELDS_SIZE + viewOf(payload).getUint32(2, true);
  const timing = payload.subarray(TOKEN_FIELDS_SIZE, end);
  return {
    ticks: timing.length ? parseTicks(timing, frames) : null,
    coder: [payload[0], payload[1]],
    packed: payload.subarray(end),
  };
}

/**
 * Check the payload of a record of 1D tokens: the number of tokens of each window, then the tokens. Returns their number.
 *
 * @throws DamageError It does not hold 1D tokens of so many windows.
 */
export function checkWindowTokens(payload: Uint8Array, header: WindowHeader, windows: number): number {
  if (payload.length < windows) {
    throw new DamageError("the 1D tokens of a chunk are cut short");
  }
  const counts = payload.subarray(0, windows);
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (counts.some((count) => count > header.most) || payload.length !== windows + 2 * total) {
    throw new DamageError("a chunk has another number of 1D tokens than it declares");
  }
  const view = viewOf(payload);
  for (let at = windows; at < payload.length; at += 2) {
    if (view.getUint16(at, true) >= header.codes) {
      throw new DamageError(`a 1D token is not below ${header.codes}, the number of codes`);
    }
  }
  return total;
}

function parseTicks(timing: Uint8Array, frames: number): bigint[] {
  const reader = new PayloadReader(timing);
  const ticks = Array.from({ length: frames }, () => reader.varint());
  if (reader.left) {
    throw new DamageError(`a token record has more times than its ${frames} frames`);
  }
  const sum = ticks.reduce((all, each) => all + each, 0n);
  if (ticks.slice(0, -1).some((each) => each < 1n) || ticks[frames - 1] < 0n || sum > MAX_TICKS) {
    throw new DamageError("the times of a token record do not increase, or are out of range");
  }
  return ticks;
}

/** A coded audio packet. Its times are in ticks of its track's time base. */
export interface AudioPacket {
  readonly track: number;
  readonly pts: bigint | null;
  readonly dts: bigint | null;
  readonly duration: bigint;
  readonly data: Uint8Array;
}

/**
 * Parse the payload of an audio record.
 *
 * @throws DamageError It does not hold exactly so many packets, or one is out of range.
 */
export function parsePackets(payload: Uint8Array, count: number, tracks: number): AudioPacket[] {
  if (count > MAX_AUDIO_PACKETS) {
    throw new DamageError(`an audio record declares ${count} packets; at most ${MAX_AUDIO_PACKETS} are allowed`);
  }
  const reader = new PayloadReader(payload);
  const packets: AudioPacket[] = [];
  while (packets.length < count) {
    const track = reader.byte();
    const known = reader.byte();
    const pts = known & 1 ? reader.varint() : null;
    const dts = known & 2 ? reader.varint() : null;
    const duration = reader.varint();
    const size = reader.varint();
    if (track >= tracks || known > 3 || size < 0n || size > BigInt(reader.left)) {
      throw new DamageError("an audio packet has a track or a size out of range");
    }
    if (![pts ?? 0n, dts ?? 0n, duration].every(isTime)) {
      throw new DamageError("an audio packet has a time out of range");
    }
    packets.push({ track, pts, dts, duration, data: reader.take(Number(size)) });
  }
  if (reader.left) {
    throw new DamageError(`an audio record holds more than the ${count} packets that it declares`);
  }
  return packets;
}

/** An entry of the index: where a GOP starts. */
export interface GopEntry {
  readonly offset: bigint;
  readonly pts: bigint;
  readonly firstFrame: bigint;
}

/**
 * Parse the payload of the index record.
 *
 * @throws DamageError It is no whole number of entries, or they do not grow.
 */
export function parseIndex(payload: Uint8Array): GopEntry[] {
  if (payload.length % GOP_ENTRY_SIZE) {
    throw new DamageError("the index is not a whole number of entries");
  }
  const view = viewOf(payload);
  const entries: GopEntry[] = [];
  for (let at = 0; at < payload.length; at += GOP_ENTRY_SIZE) {
    const entry = {
      offset: view.getBigUint64(at, true),
      pts: view.getBigInt64(at + 8, true),
      firstFrame: view.getBigUint64(at + 16, true),
    };
    const before = entries.at(-1);
    if (before && (entry.offset <= before.offset || entry.pts <= before.pts || entry.firstFrame <= before.firstFrame)) {
      throw new DamageError("the entries of the index do not grow");
    }
    entries.push(entry);
  }
  if (entries.length && !(isTime(entries[0].pts) && isTime(entries[entries.length - 1].pts))) {
    throw new DamageError("a time of the index is out of range");
  }
  return entries;
}

/** The totals of a file. */
export interface Totals {
  readonly frames: bigint;
  readonly chunks: bigint;
  readonly gops: bigint;
  readonly audioPackets: bigint;
  /** The SHA-256 of all tokens. */
  readonly tokenDigest: Uint8Array;
  /** The SHA-256 of all bytes before the totals; empty in format 1.0. */
  readonly fileDigest: Uint8Array;
}

/**
 * Parse the payload of the END record.
 *
 * @param bound Whether the file has an identifier, and so a digest of all its bytes.
 * @throws DamageError It has a wrong size.
 */
export function parseTotals(payload: Uint8Array, bound: boolean): Totals {
  if (payload.length !== TOTALS_SIZE + (bound ? DIGEST_BYTES : 0)) {
    throw new DamageError("the END record has a wrong size");
  }
  const view = viewOf(payload);
  const [frames, chunks, gops, audioPackets] = [0, 8, 16, 24].map((at) => view.getBigUint64(at, true));
  const tokenDigest = payload.slice(32, TOTALS_SIZE);
  return { frames, chunks, gops, audioPackets, tokenDigest, fileDigest: payload.slice(TOTALS_SIZE) };
}
