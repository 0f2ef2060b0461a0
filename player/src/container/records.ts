/** What the records of a `.vtk` file hold, whichever version it has; `framing.ts` says how it lies in bytes. */

import { DamageError } from "../errors.ts";
import { MAX_VARINT_BYTES, PayloadReader, viewOf } from "./bytes.ts";
import { type Header, product, type WindowHeader } from "./header.ts";

export const CRC_SIZE = 4;
export const MAX_AUDIO_BYTES = 1 << 24;
export const MAX_INDEX_ENTRIES = 1 << 20;
export const MAX_END_BYTES = 256;
const MAX_AUDIO_PACKETS = 1 << 16;
const MAX_TICKS = 1n << 61n;

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

/** Return whether a time is one that a file can hold. */
export function isTime(ticks: bigint): boolean {
  return -MAX_TICKS <= ticks && ticks <= MAX_TICKS;
}

/** Return whether a reader skips records of this type if it does not know the type. */
export function isAncillary(type: string): boolean {
  return "a" <= type[0] && type[0] <= "z";
}

/**
 * Check what a token record declares. Returns the largest size in bytes of its times and its packed digits.
 *
 * @throws DamageError No chunk of this file can have so many frames, or its frames so many digits.
 */
export function checkTokenRecord(header: Header, first: boolean, frames: number, rawSize: number): number {
  if (!(0 < frames && frames <= header.maxChunkFrames(first))) {
    throw new DamageError(`a chunk declares ${frames} frames, which no chunk of this file can have`);
  }
  const digits = header.planes * product(header.chunkShape(frames, first));
  if (rawSize !== digits) {
    throw new DamageError(`a chunk declares ${rawSize} digits instead of ${digits}`);
  }
  return frames * MAX_VARINT_BYTES + 3 * digits + 64 * (header.planes + 1);
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

/**
 * Parse the times of a token record of so many frames.
 *
 * @throws DamageError They are those of another number of frames, or out of range.
 */
export function parseTicks(timing: Uint8Array, frames: number): bigint[] {
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
 * Return the entries of the index.
 *
 * @throws DamageError They do not grow, or are out of range.
 */
export function checkedEntries(entries: GopEntry[]): GopEntry[] {
  for (let number = 1; number < entries.length; number++) {
    const [before, entry] = [entries[number - 1], entries[number]];
    if (entry.offset <= before.offset || entry.pts <= before.pts || entry.firstFrame <= before.firstFrame) {
      throw new DamageError("the entries of the index do not grow");
    }
  }
  const ends = entries.length ? [entries[0], entries[entries.length - 1]] : [];
  if (ends.some((entry) => !isTime(entry.pts) || entry.offset < 0n || entry.firstFrame < 0n)) {
    throw new DamageError("a place or a time of the index is out of range");
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
