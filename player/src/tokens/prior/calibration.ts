/** From the logits of the network to the frequencies of the range coder, in whole numbers. */

import { PRECISION } from "../range_decoder.ts";

const ONE = 65536;
const TRUST = 16 * ONE;
const FULL = 1024 * ONE;
const LARGEST_DROP = 192;
const MAX_LEVELS = 8;
// Written out, since no two math libraries need agree on exponentials.
const EXPONENTIALS = Float64Array.from(
  `32768 30783 28918 27166 25520 23974 22521 21157 19875 18671 17539 16477 15479 14541 13660 12832 12055 11324
  10638 9994 9388 8819 8285 7783 7312 6869 6452 6061 5694 5349 5025 4721 4435 4166 3914 3676 3454 3244 3048 2863
  2690 2527 2374 2230 2095 1968 1849 1737 1631 1533 1440 1352 1271 1194 1121 1053 990 930 873 820 771 724 680 639
  600 564 530 498 467 439 412 387 364 342 321 302 283 266 250 235 221 207 195 183 172 162 152 143 134 126 118 111
  104 98 92 86 81 76 72 67 63 59 56 52 49 46 43 41 38 36 34 32 30 28 26 25 23 22 21 19 18 17 16 15 14 13 12 12 11
  10 10 9 9 8 8 7 7 6 6 6 5 5 5 4 4 4 4 3 3 3 3 3 2 2 2 2 2 2 2 2 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1
  1 1 1 1 1 1 1 1 1`
    .trim()
    .split(/\s+/)
    .map(Number),
);

/** Put the shares of a digit's values into `shares`, from its logits in sixteenths of a nat. */
export function sharesOf(logits: Int32Array, levels: number, shares: Float64Array, begin: number): void {
  let largest = logits[0];
  for (let value = 1; value < levels; value++) {
    largest = Math.max(largest, logits[value]);
  }
  let sum = 0;
  for (let value = 0; value < levels; value++) {
    shares[begin + value] = EXPONENTIALS[Math.min(LARGEST_DROP, largest - logits[value])];
    sum += shares[begin + value];
  }
  for (let value = 0; value < levels; value++) {
    shares[begin + value] = Math.floor((ONE * shares[begin + value]) / sum);
  }
}

/** Corrects the shares of the digits of one plane in the contexts of one GOP. */
export class Calibration {
  private readonly came: Float64Array;
  private readonly foretold: Float64Array;

  /** Start a GOP, for digits of so many levels. The last context is that of no latent frame before. */
  constructor(private readonly levels: number) {
    this.came = new Float64Array((levels + 1) * levels);
    this.foretold = new Float64Array((levels + 1) * levels);
  }

  /** Put the frequencies of a digit's values into `frequencies`, from its shares. */
  frequencies(before: number, shares: Float64Array, begin: number, frequencies: Float64Array): void {
    const { levels } = this;
    let sum = 0;
    for (let value = 0; value < levels; value++) {
      const at = before * levels + value;
      const corrected = Math.floor((shares[begin + value] * (this.came[at] + TRUST)) / (this.foretold[at] + TRUST));
      frequencies[value] = corrected;
      sum += corrected;
    }
    let rest = PRECISION;
    let largest = 0;
    for (let value = 0; value < levels; value++) {
      frequencies[value] = Math.floor((frequencies[value] * (PRECISION - MAX_LEVELS)) / sum) + 1;
      rest -= frequencies[value];
      largest = frequencies[value] > frequencies[largest] ? value : largest;
    }
    frequencies[largest] += rest;
  }

  /** Count the values of the digits of a step, and what the prior said about them. */
  learn(before: Uint8Array, shares: Float64Array, values: Uint8Array): void {
    const { levels } = this;
    for (let digit = 0; digit < values.length; digit++) {
      const context = before[digit] * levels;
      this.came[context + values[digit]] += ONE;
      for (let value = 0; value < levels; value++) {
        this.foretold[context + value] += shares[digit * levels + value];
      }
    }
    for (let context = 0; context <= levels * levels; context += levels) {
      const sum = this.came.subarray(context, context + levels).reduce((all, each) => all + each, 0);
      for (let at = context; sum > FULL && at < context + levels; at++) {
        this.came[at] = Math.floor(this.came[at] / 2);
        this.foretold[at] = Math.floor(this.foretold[at] / 2);
      }
    }
  }
}
