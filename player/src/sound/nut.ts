/** Reads what a NUT file says about its first stream, which is how `.vtk` files keep the parameters of a codec. */

import { viewOf } from "../container/bytes.ts";

const STREAM_STARTCODE = 0x4e5311405bf2f9dbn;
const LONG_PACKET = 4096;

/** The parameters of an audio codec. */
export interface CodecParameters {
  /** What a decoder needs before the first packet; empty if nothing. */
  readonly extradata: Uint8Array;
  readonly sampleRate: number;
  readonly channels: number;
}

/** Parse the stream header of a NUT file; null if it has none of an audio stream. */
export function parseNut(bytes: Uint8Array): CodecParameters | null {
  const view = viewOf(bytes);
  for (let at = 0; at + 8 < bytes.length; at++) {
    if (view.getBigUint64(at) === STREAM_STARTCODE) {
      return parseStream(bytes, at + 8);
    }
  }
  return null;
}

function parseStream(bytes: Uint8Array, begin: number): CodecParameters | null {
  let at = begin;
  const number = (): number => {
    let value = 0;
    while (at < bytes.length) {
      const byte = bytes[at++];
      value = value * 128 + (byte & 0x7f);
      if (byte < 0x80) {
        return value;
      }
    }
    throw new RangeError("the parameters of a codec are cut short");
  };
  const block = (): Uint8Array => {
    const size = number();
    at += size;
    return bytes.slice(at - size, at);
  };
  try {
    const size = number();
    at += size > LONG_PACKET ? 4 : 0;
    number(); // stream
    const audio = number() === 1;
    block(); // FourCC
    for (let skipped = 0; skipped < 5; skipped++) {
      number(); // time base, two limits of times, decode delay, flags
    }
    const extradata = block();
    const [over, under, channels] = [number(), number(), number()];
    return audio && under ? { extradata, sampleRate: Math.round(over / under), channels } : null;
  } catch (error) {
    if (error instanceof RangeError) {
      return null;
    }
    throw error;
  }
}
