/** Coder 1: zstd over groups of digits, as `docs/reference/format.md` specifies it. */

import { ZSTDDecoder } from "zstddec";

import { viewOf } from "../container/bytes.ts";
import { DamageError } from "../errors.ts";
import type { Coder } from "./coder.ts";

const GROUP_FIELDS_SIZE = 5;
const MAX_SYMBOLS = 256;
const FRAME_MAGIC = 0xfd2fb528;
const zstd = new ZSTDDecoder();

/** A way in which the symbols of a group stand for its digits. */
interface Alphabet {
  /** Whether it can hold g digits of L levels. */
  applies(digits: number, levels: number): boolean;
  /** The number of symbols of a position, from g and t. */
  symbols(digits: number, frames: number): number;
  /** Return digit i in latent frame t from the symbols of a position; it may not be below L. */
  digit(symbols: Uint8Array, i: number, t: number, group: Group): number;
}

/** A run of digits of a token with the same number of levels. */
interface Group {
  readonly begin: number;
  readonly digits: number;
  readonly levels: number;
  readonly frames: number;
}

const ALPHABETS: readonly Alphabet[] = [
  {
    applies: () => true,
    symbols: (digits, frames) => digits * frames,
    digit: (symbols, i, t, { digits }) => symbols[t * digits + i],
  },
  {
    applies: (_, levels) => levels ** 2 <= MAX_SYMBOLS,
    symbols: (digits, frames) => digits * (frames - (frames >> 1)),
    digit: (symbols, i, t, { digits, levels, frames }) => {
      const symbol = symbols[(t >> 1) * digits + i];
      if (t === frames - 1 && frames % 2) {
        return symbol;
      }
      return t % 2 ? symbol % levels : Math.floor(symbol / levels);
    },
  },
  {
    applies: (digits, levels) => levels ** digits <= MAX_SYMBOLS,
    symbols: (_, frames) => frames,
    // The last digit is not reduced modulo L, so that a symbol outside the alphabet makes it too large.
    digit: (symbols, i, t, { digits, levels }) => {
      const rest = Math.floor(symbols[t] / levels ** i);
      return i === digits - 1 ? rest : rest % levels;
    },
  },
];

export class GroupCoder implements Coder {
  private constructor(
    private readonly levels: readonly number[],
    private readonly tokens: number,
  ) {}

  /** Create a coder, once the decompressor has been loaded. */
  static async create(levels: readonly number[], tokens: number): Promise<GroupCoder> {
    await zstd.init();
    return new GroupCoder(levels, tokens);
  }

  unpack(packed: Uint8Array, shape: readonly [number, number, number]): Uint8Array {
    const [frames, rows, columns] = shape;
    const positions = rows * columns;
    const digits = new Uint8Array(this.tokens * this.levels.length * frames * positions);
    let at = 0;
    for (const group of this.groups(frames)) {
      if (at + GROUP_FIELDS_SIZE > packed.length) {
        throw new DamageError("a group of digits is missing");
      }
      const alphabet = ALPHABETS[packed[at]];
      if (!alphabet?.applies(group.digits, group.levels)) {
        throw new DamageError(`alphabet ${packed[at]} is unknown, or too small for these digits`);
      }
      const size = viewOf(packed).getUint32(at + 1, true);
      at += GROUP_FIELDS_SIZE;
      const each = alphabet.symbols(group.digits, frames);
      const symbols = decompressed(packed.subarray(at, at + size), positions * each);
      at += size;
      for (let place = 0; place < positions; place++) {
        const own = symbols.subarray(place * each, (place + 1) * each);
        for (let i = 0; i < group.digits; i++) {
          for (let t = 0; t < frames; t++) {
            const digit = alphabet.digit(own, i, t, group);
            if (digit >= group.levels) {
              throw new DamageError(`a digit is not below ${group.levels}`);
            }
            digits[((group.begin + i) * frames + t) * positions + place] = digit;
          }
        }
      }
    }
    if (at !== packed.length) {
      throw new DamageError("bytes stand after the last group");
    }
    return digits;
  }

  private *groups(frames: number): Generator<Group> {
    for (let token = 0; token < this.tokens; token++) {
      for (let begin = 0, end = 0; begin < this.levels.length; begin = end) {
        while (this.levels[end] === this.levels[begin]) {
          end++;
        }
        yield {
          begin: token * this.levels.length + begin,
          digits: end - begin,
          levels: this.levels[begin],
          frames,
        };
      }
    }
  }
}

/** Decompress a zstd frame to exactly so many bytes. The size that it declares is checked first. */
function decompressed(frame: Uint8Array, size: number): Uint8Array {
  if (declaredSize(frame) !== size) {
    throw new DamageError(`a zstd frame does not declare ${size} bytes`);
  }
  let raw: Uint8Array;
  try {
    raw = zstd.decode(frame, size);
  } catch (error) {
    throw new DamageError(`zstd: ${(error as Error).message}`);
  }
  if (raw.length !== size) {
    throw new DamageError("zstd: a frame is damaged");
  }
  return raw;
}

/** Return the content size in the header of a zstd frame (RFC 8878, 3.1.1.1), or null if there is none. */
function declaredSize(frame: Uint8Array): number | null {
  if (frame.length < 6 || viewOf(frame).getUint32(0, true) !== FRAME_MAGIC) {
    return null;
  }
  const descriptor = frame[4];
  const single = (descriptor >> 5) & 1;
  const code = descriptor >> 6;
  if (!single && !code) {
    return null;
  }
  const bytes = code ? 1 << code : 1;
  const begin = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3];
  if (begin + bytes > frame.length) {
    return null;
  }
  let size = bytes === 2 ? 256 : 0;
  for (let at = 0; at < bytes; at++) {
    size += frame[begin + at] * 2 ** (8 * at);
  }
  return size;
}
