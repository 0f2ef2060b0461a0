/**
 * The range decoder of the coders `waves` and `prior`; `docs/reference/format.md` specifies it under coder 2.
 *
 * Its numbers of 64 bits are held as two halves of 32 bits each, since JavaScript's own numbers are exact up to 53 bits.
 */

import { DamageError } from "../errors.ts";

/** The sum of the frequencies of all values of a digit. */
export const PRECISION = 1 << 24;
const WORD = 2 ** 32;
const HALF_SCALE = 1 << 20;

export class RangeDecoder {
  private readonly words: DataView;
  private readonly count: number;
  private used = 2;
  private lowerHigh = 0;
  private lowerLow = 0;
  private rangeHigh = WORD - 1;
  private rangeLow = WORD - 1;
  private pointHigh: number;
  private pointLow: number;
  /** The halves of the last product. */
  private high = 0;
  private low = 0;

  constructor(packed: Uint8Array) {
    if (!packed.length || packed.length % 4) {
      throw new DamageError(`${packed.length} bytes are no whole words`);
    }
    this.words = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
    this.count = packed.length / 4;
    this.pointHigh = this.word(0);
    this.pointLow = this.word(1);
  }

  /**
   * Decode a digit.
   *
   * @param frequencies The frequencies of its values, whose sum is `PRECISION`.
   * @param begin Where they begin.
   * @param values How many there are.
   * @throws DamageError The data cannot hold a digit here.
   */
  get(frequencies: Float64Array, begin: number, values: number): number {
    const scale = this.rangeHigh * 256 + (this.rangeLow >>> 24);
    const quantile = this.quantile(scale);
    if (quantile >= PRECISION) {
      throw new DamageError("the range coder stops: the data cannot hold these digits");
    }
    let value = 0;
    let left = 0;
    while (value < values - 1 && left + frequencies[begin + value] <= quantile) {
      left += frequencies[begin + value++];
    }
    this.multiply(scale, left);
    const low = this.lowerLow + this.low;
    this.lowerHigh = (this.lowerHigh + this.high + (low >= WORD ? 1 : 0)) % WORD;
    this.lowerLow = low % WORD;
    this.multiply(scale, frequencies[begin + value]);
    this.rangeHigh = this.high;
    this.rangeLow = this.low;
    if (this.rangeHigh === 0) {
      this.rangeHigh = this.rangeLow;
      this.rangeLow = 0;
      this.lowerHigh = this.lowerLow;
      this.lowerLow = 0;
      this.pointHigh = this.pointLow;
      this.pointLow = this.word(this.used++);
    }
    return value;
  }

  /**
   * Check that the data end with the last digit.
   *
   * @throws DamageError They do not.
   */
  finish(): void {
    const [high, low] = this.distance();
    const full = this.rangeHigh === WORD - 1 && this.rangeLow === WORD - 1;
    // The library of the encoder also wants the point near the lower end, where it always is in what was encoded.
    const near = high < 1 || (high === 1 && low < WORD - 1);
    if (this.used < this.count || !(full || near)) {
      throw new DamageError("the data do not end with the last digit");
    }
  }

  private word(at: number): number {
    return at < this.count ? this.words.getUint32(4 * at, true) : 0;
  }

  /** Return `point` − `lower`, modulo 2⁶⁴. */
  private distance(): [number, number] {
    const low = this.pointLow - this.lowerLow;
    const high = this.pointHigh - this.lowerHigh - (low < 0 ? 1 : 0);
    return [high < 0 ? high + WORD : high, low < 0 ? low + WORD : low];
  }

  /** Return ⌊(point − lower) / scale⌋; any number from `PRECISION` on stands for all of them. */
  private quantile(scale: number): number {
    const [high, low] = this.distance();
    let quantile = Math.floor((high * WORD + low) / scale);
    if (quantile > PRECISION) {
      return quantile;
    }
    // The quotient of rounded numbers may be off by one.
    const below = () => this.high < high || (this.high === high && this.low <= low);
    for (this.multiply(scale, quantile); !below(); this.multiply(scale, quantile)) {
      quantile--;
    }
    for (this.multiply(scale, quantile + 1); below(); this.multiply(scale, quantile + 1)) {
      quantile++;
    }
    return quantile;
  }

  /** Multiply a number of 40 bits with one of 25 bits, into `high` and `low`. */
  private multiply(scale: number, factor: number): void {
    const top = Math.floor(scale / HALF_SCALE);
    const upper = top * factor;
    const sum = (upper % 4096) * HALF_SCALE + (scale - top * HALF_SCALE) * factor;
    this.low = sum % WORD;
    this.high = Math.floor(upper / 4096) + Math.floor(sum / WORD);
  }
}
