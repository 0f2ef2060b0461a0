/** The sums of products on which all time is spent. All numbers are whole and below 2²⁴. */

const TAPS = 4;

/** Adds products of inputs and rows of weights to sums. Inputs that are zero, half of them, cost nothing. */
export class Accumulator {
  private readonly inputs: Int32Array;
  private readonly rows: Int32Array;
  private count = 0;

  /** @param most The largest number of inputs of a sum. */
  constructor(most: number) {
    this.inputs = new Int32Array(most + TAPS);
    this.rows = new Int32Array(most + TAPS);
  }

  /** Note inputs, of which the first belongs to the row of weights that begins at `row`, and each to the next one. */
  note(values: Int32Array, begin: number, count: number, row: number, stride: number): void {
    let noted = this.count;
    for (let at = 0; at < count; at++) {
      const value = values[begin + at];
      if (value !== 0) {
        this.inputs[noted] = value;
        this.rows[noted++] = row + at * stride;
      }
    }
    this.count = noted;
  }

  /** Add all that was noted to so many sums, and forget it. */
  add(weights: Int32Array, sums: Int32Array, begin: number, outputs: number): void {
    const { inputs, rows } = this;
    while (this.count % TAPS) {
      inputs[this.count] = 0;
      rows[this.count++] = rows[0];
    }
    for (let at = 0; at < this.count; at += TAPS) {
      const [a, b, c, d] = [inputs[at], inputs[at + 1], inputs[at + 2], inputs[at + 3]];
      const [e, f, g, h] = [rows[at], rows[at + 1], rows[at + 2], rows[at + 3]];
      for (let output = 0; output < outputs; output++) {
        sums[begin + output] +=
          Math.imul(a, weights[e + output]) +
          Math.imul(b, weights[f + output]) +
          Math.imul(c, weights[g + output]) +
          Math.imul(d, weights[h + output]);
      }
    }
    this.count = 0;
  }
}

/** Shift sums by so many bits each and round them to the nearest. */
export function round(sums: Int32Array, begin: number, shifts: Int32Array, from: number, count: number): void {
  for (let at = 0; at < count; at++) {
    const shift = shifts[from + at];
    sums[begin + at] = (sums[begin + at] + (shift ? 1 << (shift - 1) : 0)) >> shift;
  }
}

/** Limit numbers to 0 … 127. */
export function clip(values: Int32Array, begin: number, count: number): void {
  for (let at = begin; at < begin + count; at++) {
    const value = values[at];
    values[at] = value < 0 ? 0 : value > 127 ? 127 : value;
  }
}
