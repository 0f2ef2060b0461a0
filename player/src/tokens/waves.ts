/** Coder 2: an adaptive range coder, as `docs/reference/format.md` specifies it. */

import { product } from "../container/header.ts";
import { DamageError } from "../errors.ts";
import type { Coder } from "./coder.ts";
import { PRECISION, RangeDecoder } from "./range_decoder.ts";

export const MAX_LEVELS = 16;
/** The largest sum of the rows and columns of a latent frame. */
export const MAX_SIDES = 1 << 13;
const MAX_DIGITS = 1 << 23;
const ACTIVITIES = 4;
const INCREMENT = 16;
const FULL = 2048;
const WIDE_WEIGHT = 64;
const NARROW_WEIGHT = 128;
const ONE = 65536;
/** The value of a digit outside the picture. */
const NOWHERE = 255;

/** How often each value has occurred in each context. */
class Table {
  readonly counts: Int32Array;
  readonly sums: Int32Array;
  /** The wave in which a context was last halved, so that no wave halves it twice. */
  private readonly halved: Int32Array;

  constructor(
    contexts: number,
    private readonly symbols: number,
  ) {
    this.counts = new Int32Array(contexts * symbols);
    this.sums = new Int32Array(contexts);
    this.halved = new Int32Array(contexts).fill(-1);
  }

  /** Mix the counts of a context into shares, which weigh as much as so many counts. */
  mix(context: number, shares: Float64Array, weight: number): void {
    const under = this.sums[context] + weight;
    const begin = context * this.symbols;
    for (let value = 0; value < this.symbols; value++) {
      shares[value] = Math.floor((ONE * this.counts[begin + value] + weight * shares[value]) / under);
    }
  }

  count(context: number, value: number): void {
    this.counts[context * this.symbols + value] += INCREMENT;
    this.sums[context] += INCREMENT;
  }

  /** Halve the counts of a context if they are full, once per wave. */
  halve(context: number, wave: number): void {
    if (this.sums[context] <= FULL || this.halved[context] === wave) {
      return;
    }
    this.halved[context] = wave;
    let sum = 0;
    for (let at = context * this.symbols; at < (context + 1) * this.symbols; at++) {
      this.counts[at] >>= 1;
      sum += this.counts[at];
    }
    this.sums[context] = sum;
  }
}

export class WaveCoder implements Coder {
  private readonly levels: readonly number[];
  private readonly symbols: number;
  private readonly wide: Table;
  private readonly narrow: Table;
  /** The last latent frame of the previous chunk, `P h w`; null at the start of the GOP. */
  private before: Uint8Array | null = null;
  private waves = 0;

  constructor(levels: readonly number[], tokens: number) {
    this.levels = Array.from({ length: tokens }, () => levels).flat();
    this.symbols = Math.max(...levels);
    const wide = this.levels.length * (this.symbols + 1) * ACTIVITIES;
    this.wide = new Table(wide, this.symbols);
    this.narrow = new Table(wide * (this.symbols + 1), this.symbols);
  }

  unpack(packed: Uint8Array, shape: readonly [number, number, number]): Uint8Array {
    const decoder = new RangeDecoder(packed);
    const planes = this.levels.length;
    const [frames, rows, columns] = shape;
    if (planes * product(shape) > MAX_DIGITS) {
      throw new DamageError(`a chunk of ${planes * product(shape)} digits is above ${MAX_DIGITS}`);
    }
    const field = new Field(this.levels, shape, this.before);
    const last = planes + frames + rows + columns - 4;
    const contexts = new Int32Array(planes * frames * rows);
    const values = new Uint8Array(contexts.length);
    const shares = new Float64Array(this.symbols);
    for (let wave = 0; wave <= last; wave++) {
      let count = 0;
      for (let p = 0; p < planes && p <= wave; p++) {
        for (let t = 0; t < frames && p + t <= wave; t++) {
          for (let r = Math.max(0, wave - p - t - columns + 1); r < rows && p + t + r <= wave; r++) {
            const context = field.context(p, t, r, wave - p - t - r, this.symbols);
            this.frequencies(context, this.levels[p], shares);
            const value = decoder.get(shares, 0, this.symbols);
            if (value >= this.levels[p]) {
              throw new DamageError("a digit is not below its number of levels");
            }
            field.put(p, t, r, wave - p - t - r, value);
            contexts[count] = context;
            values[count++] = value;
          }
        }
      }
      this.learn(contexts.subarray(0, count), values);
    }
    decoder.finish();
    const digits = field.digits();
    this.before = field.lastFrame();
    return digits;
  }

  /** Put the frequencies of a digit's values into `shares`. */
  private frequencies(context: number, level: number, shares: Float64Array): void {
    const even = Math.floor(ONE / level);
    for (let value = 0; value < this.symbols; value++) {
      shares[value] = value < level ? even : 0;
    }
    this.wide.mix(Math.floor(context / (this.symbols + 1)), shares, WIDE_WEIGHT);
    this.narrow.mix(context, shares, NARROW_WEIGHT);
    let rest = PRECISION;
    let largest = 0;
    for (let value = 0; value < this.symbols; value++) {
      largest = shares[value] > shares[largest] ? value : largest;
    }
    for (let value = 0; value < this.symbols; value++) {
      shares[value] = 256 * shares[value] + 1;
      rest -= shares[value];
    }
    shares[largest] += rest;
  }

  private learn(contexts: Int32Array, values: Uint8Array): void {
    const wave = this.waves++;
    for (let at = 0; at < contexts.length; at++) {
      this.narrow.count(contexts[at], values[at]);
      this.wide.count(Math.floor(contexts[at] / (this.symbols + 1)), values[at]);
    }
    for (const context of contexts) {
      this.narrow.halve(context, wave);
      this.wide.halve(Math.floor(context / (this.symbols + 1)), wave);
    }
  }
}

/** The digits of a chunk as far as they are known, with a margin above, to the left and before. */
class Field {
  /** The digits, `P 1+t 1+h 1+w`. */
  private readonly values: Uint8Array;
  /** How many planes up to and including this one have changed since the latent frame before, `1+P t 1+h 1+w`. */
  private readonly changes: Int16Array;
  private readonly row: number;
  private readonly frame: number;

  constructor(
    private readonly levels: readonly number[],
    private readonly shape: readonly [number, number, number],
    before: Uint8Array | null,
  ) {
    const [frames, rows, columns] = shape;
    this.row = columns + 1;
    this.frame = (rows + 1) * (columns + 1);
    this.values = new Uint8Array(levels.length * (frames + 1) * this.frame).fill(NOWHERE);
    this.changes = new Int16Array((levels.length + 1) * frames * this.frame);
    for (const [plane, level] of levels.entries()) {
      for (let r = 0; r < rows; r++) {
        const at = this.valueAt(plane, -1, r, 0);
        if (before) {
          const from = (plane * rows + r) * columns;
          this.values.set(before.subarray(from, from + columns), at);
        } else {
          this.values.fill(level, at, at + columns);
        }
      }
    }
  }

  /** Return the narrow context of a digit. */
  context(p: number, t: number, r: number, c: number, symbols: number): number {
    const at = this.valueAt(p, t, r, c);
    const above = this.values[at - this.row];
    const left = this.values[at - 1];
    const mean =
      above === NOWHERE ? (left === NOWHERE ? this.levels[p] : left) : left === NOWHERE ? above : (above + left + 1) >> 1;
    const before = this.values[at - this.frame];
    const change = this.changeAt(p, t, r, c);
    const near =
      2 * this.changes[change - this.shape[0] * this.frame] + this.changes[change - this.row] + this.changes[change - 1];
    const activity = Math.min(ACTIVITIES - 1, Math.floor((ACTIVITIES * near) / (4 * p + 2)));
    return ((p * (symbols + 1) + before) * ACTIVITIES + activity) * (symbols + 1) + mean;
  }

  put(p: number, t: number, r: number, c: number, value: number): void {
    const at = this.valueAt(p, t, r, c);
    this.values[at] = value;
    const change = this.changeAt(p, t, r, c);
    const changed = this.values[at - this.frame] !== value ? 1 : 0;
    this.changes[change] = this.changes[change - this.shape[0] * this.frame] + changed;
  }

  /** Return the digits, `P t h w`. */
  digits(): Uint8Array {
    const [frames, rows, columns] = this.shape;
    const digits = new Uint8Array(this.levels.length * product(this.shape));
    let to = 0;
    for (let p = 0; p < this.levels.length; p++) {
      for (let t = 0; t < frames; t++) {
        for (let r = 0; r < rows; r++, to += columns) {
          const at = this.valueAt(p, t, r, 0);
          digits.set(this.values.subarray(at, at + columns), to);
        }
      }
    }
    return digits;
  }

  /** Return the last latent frame, `P h w`. */
  lastFrame(): Uint8Array {
    const [frames, rows, columns] = this.shape;
    const last = new Uint8Array(this.levels.length * rows * columns);
    for (let p = 0; p < this.levels.length; p++) {
      for (let r = 0; r < rows; r++) {
        const at = this.valueAt(p, frames - 1, r, 0);
        last.set(this.values.subarray(at, at + columns), (p * rows + r) * columns);
      }
    }
    return last;
  }

  private valueAt(p: number, t: number, r: number, c: number): number {
    return (p * (this.shape[0] + 1) + t + 1) * this.frame + (r + 1) * this.row + c + 1;
  }

  private changeAt(p: number, t: number, r: number, c: number): number {
    return ((p + 1) * this.shape[0] + t) * this.frame + (r + 1) * this.row + c + 1;
  }
}
