/**
 * The integer network of a prior, which predicts the digits of a latent frame from digits that are known.
 *
 * `docs/reference/format.md` specifies it under coder 3, and names the tensors.
 */

import { ModelError } from "../../errors.ts";
import { Accumulator, clip, round } from "./kernel.ts";
import { EXACT, type Tensors } from "./prior.ts";
import { type Step, stepsOf } from "./steps.ts";

const MAX_LEVELS = 8;
const LARGEST = 127;
const KERNEL = 3;
const WINDOW = KERNEL * KERNEL;
/** The number of earlier latent frames of which each digit also enters by its value. */
const VALUE_SLOTS = 2;
const WITH_CHANGE = 3;
const TAPS = 4;

/** The shape of a network, as its file has it. */
export interface NetworkShape {
  readonly slots: number;
  readonly places: number;
  readonly channels: number;
  readonly blocks: number;
  readonly features: number;
  readonly inputs: number;
  readonly reach: number;
  readonly steps: number;
}

/** A linear layer whose outputs are shifted and rounded. */
interface Layer {
  readonly weight: Int32Array;
  readonly bias: Int32Array;
  readonly shift: Int32Array;
}

/** A latent frame of digits, `P h w`; null where there is none. */
export type Frame = Uint8Array | null;

export class Network {
  readonly head: {
    readonly bias: Int32Array;
    readonly shift: Int32Array;
    readonly trunk: Int32Array;
    readonly before: Int32Array;
    readonly values: Int32Array;
    readonly planes: readonly Int32Array[];
    readonly own: Int32Array;
  };
  readonly hidden: Layer;
  readonly logits: Layer;
  private readonly trunk: readonly Layer[];
  private readonly table: Int32Array;

  /**
   * @param shape The shape.
   * @param levels The number of levels of each plane.
   * @param tensors The tensors.
   * @throws ModelError A tensor is missing, or a sum could become too large to be exact.
   */
  constructor(
    readonly shape: NetworkShape,
    readonly levels: readonly number[],
    tensors: Tensors,
  ) {
    const { slots, channels, features, inputs, reach, steps, places, blocks } = shape;
    const planes = levels.length;
    const seen = Math.min(slots, VALUE_SLOTS);
    const layer = (name: string, rows: number, outputs: number, ...bias: number[]): Layer => ({
      weight: tensors.weight(`${name}.weight`, rows, outputs),
      bias: tensors.bias(`${name}.bias`, ...bias, outputs),
      shift: tensors.shift(`${name}.shift`, outputs),
    });
    const layers = (name: string, outputs: number): Layer => ({
      weight: tensors.weight(`${name}.weight`, planes, features, outputs),
      bias: tensors.bias(`${name}.bias`, planes, outputs),
      shift: tensors.shift(`${name}.shift`, planes, outputs),
    });
    const inner = Array.from({ length: blocks }, (_, block) => [0, 1].map((half) => `trunk.${block}.${half}`)).flat();
    const none = new Int32Array();
    this.trunk = slots
      ? [
          layer("trunk.in", WINDOW * slots * planes * inputs, channels, places),
          ...inner.map((name) => layer(name, WINDOW * channels, channels)),
        ]
      : [];
    this.head = {
      bias: tensors.bias("head.bias", steps, planes, features),
      shift: tensors.shift("head.shift", planes, features),
      trunk: slots ? tensors.weight("head.trunk", planes, channels, features) : none,
      before: slots ? tensors.weight("head.before", planes, WINDOW * inputs, features) : none,
      values: seen ? tensors.weight("head.values", seen, planes, MAX_LEVELS, features) : none,
      planes: levels
        .slice(1)
        .map((_, plane) => tensors.weight(`head.plane.${plane}`, reach ** 2 * inputs, planes - 1 - plane, features)),
      own: tensors.weight("head.own", steps - 1, planes, TAPS * inputs, features),
    };
    this.hidden = layers("hidden", features);
    this.logits = layers("logits", MAX_LEVELS);
    this.table = inputTable(levels);
    this.check();
  }

  /** Refuse a network whose sums might not be exact on every machine. */
  private check(): void {
    const { head, shape, levels } = this;
    const { features, places, inputs, reach, steps, slots } = shape;
    const planes = levels.length;
    for (const layer of [this.hidden, this.logits]) {
      const outputs = layer.shift.length / planes;
      for (let plane = 0; plane < planes; plane++) {
        checkSums(layer, plane * features, features, outputs, plane * outputs, 1);
      }
    }
    for (const [at, layer] of this.trunk.entries()) {
      const outputs = shape.channels;
      checkSums(layer, 0, layer.weight.length / outputs, outputs, 0, at ? 1 : places);
    }
    for (let at = 0; at < planes * features; at++) {
      const [plane, feature] = [Math.floor(at / features), at % features];
      const column = (weights: Int32Array, begin: number, count: number, stride = features) =>
        Array.from({ length: count }, (_, row) => Math.abs(weights[begin + row * stride + feature]));
      const most = (weights: readonly number[]) => weights.reduce((all, each) => Math.max(all, each), 0);
      const sum = (weights: readonly number[]) => weights.reduce((all, each) => all + each, 0);
      let worst = most(column(head.bias, plane * features, steps, planes * features)) + half(head.shift[at]);
      if (slots) {
        worst += LARGEST * sum(column(head.trunk, plane * shape.channels * features, shape.channels));
        worst += LARGEST * sum(column(head.before, plane * WINDOW * inputs * features, WINDOW * inputs));
        for (let slot = 0; slot < Math.min(slots, VALUE_SLOTS); slot++) {
          const begin = (slot * planes + plane) * MAX_LEVELS * features;
          worst += LARGEST * most(column(head.values, begin, MAX_LEVELS));
        }
      }
      for (let earlier = 0; earlier < plane; earlier++) {
        const stride = (planes - 1 - earlier) * features;
        const begin = (plane - earlier - 1) * features;
        worst += LARGEST * sum(column(head.planes[earlier], begin, reach ** 2 * inputs, stride));
      }
      const own = Array.from({ length: steps - 1 }, (_, step) =>
        sum(column(head.own, (step * planes + plane) * TAPS * inputs * features, TAPS * inputs)),
      );
      checkBound(worst + LARGEST * most(own));
    }
  }

  /**
   * Start to predict a latent frame.
   *
   * @param past The `slots` latent frames before it, the last one first.
   * @param place Its place within the GOP, below `places`.
   * @param planes The number of planes that are coded.
   * @param grid Its rows and columns.
   */
  frame(past: readonly Frame[], place: number, planes: number, grid: readonly [number, number]): FramePrediction {
    const { features, channels, slots } = this.shape;
    const positions = grid[0] * grid[1];
    const sums = new Int32Array(positions * planes * features);
    if (slots) {
      const trunk = this.runTrunk(past, place, planes, grid);
      const accumulator = new Accumulator(channels);
      for (let position = 0; position < positions; position++) {
        for (let plane = 0; plane < planes; plane++) {
          accumulator.note(trunk, position * channels, channels, plane * channels * features, features);
          accumulator.add(this.head.trunk, sums, (position * planes + plane) * features, features);
        }
      }
      this.addBefore(sums, past, planes, grid);
    }
    return new FramePrediction(this, sums, past[0] ?? null, planes, grid);
  }

  /** Put the inputs of a digit at `at` into `inputs`. `changed` is 0 or `LARGEST`. */
  putInputs(plane: number, digit: number, changed: number, inputs: Int32Array, at: number): void {
    const from = (plane * MAX_LEVELS + digit) * 2;
    inputs[at] = this.table[from];
    inputs[at + 1] = this.table[from + 1];
    if (this.shape.inputs === WITH_CHANGE) {
      inputs[at + 2] = changed;
    }
  }

  /** Put the inputs of the digits of a slot into an array with a margin of one position, `h+2 w+2 channels`. */
  private putSlot(
    past: readonly Frame[],
    slot: number,
    planes: number,
    grid: readonly [number, number],
    padded: Int32Array,
    stride: number,
    begin: number,
  ): void {
    const [rows, columns] = grid;
    const { inputs, slots } = this.shape;
    const frame = past[slot];
    const compared = slot < slots - 1;
    const before = compared ? past[slot + 1] : null;
    for (let plane = 0; frame && plane < planes; plane++) {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const at = (plane * rows + row) * columns + column;
          const changed = compared && before?.[at] !== frame[at] ? LARGEST : 0;
          const to = ((row + 1) * (columns + 2) + column + 1) * stride + begin + plane * inputs;
          this.putInputs(plane, frame[at], changed, padded, to);
        }
      }
    }
  }

  /** Return the activations of the trunk, `h·w C`. */
  private runTrunk(past: readonly Frame[], place: number, planes: number, grid: readonly [number, number]): Int32Array {
    const { slots, inputs, channels } = this.shape;
    const all = this.levels.length;
    const stride = slots * all * inputs;
    const padded = new Int32Array((grid[0] + 2) * (grid[1] + 2) * stride);
    for (let slot = 0; slot < slots; slot++) {
      this.putSlot(past, slot, planes, grid, padded, stride, slot * all * inputs);
    }
    const [first, ...inner] = this.trunk;
    let state = convolved(padded, stride, grid, first, place, channels);
    clip(state, 0, state.length);
    for (let block = 0; block < inner.length; block += 2) {
      const hidden = convolved(withMargin(state, channels, grid), channels, grid, inner[block], 0, channels);
      clip(hidden, 0, hidden.length);
      const change = convolved(withMargin(hidden, channels, grid), channels, grid, inner[block + 1], 0, channels);
      state = state.map((value, at) => value + change[at]);
      clip(state, 0, state.length);
    }
    return state;
  }

  /** Add to the sums what each plane itself held in the latent frames before. */
  private addBefore(sums: Int32Array, past: readonly Frame[], planes: number, grid: readonly [number, number]): void {
    const { inputs, features, slots } = this.shape;
    const [rows, columns] = grid;
    const stride = planes * inputs;
    const accumulator = new Accumulator(WINDOW * inputs);
    const padded = new Int32Array((rows + 2) * (columns + 2) * stride);
    this.putSlot(past, 0, planes, grid, padded, stride, 0);
    for (let position = 0; position < rows * columns; position++) {
      const corner = Math.floor(position / columns) * (columns + 2) + (position % columns);
      for (let plane = 0; plane < planes; plane++) {
        for (let tap = 0; tap < WINDOW; tap++) {
          const at = (corner + Math.floor(tap / KERNEL) * (columns + 2) + (tap % KERNEL)) * stride + plane * inputs;
          accumulator.note(padded, at, inputs, (plane * WINDOW + tap) * inputs * features, features);
        }
        accumulator.add(this.head.before, sums, (position * planes + plane) * features, features);
        for (let slot = 0; slot < Math.min(slots, VALUE_SLOTS); slot++) {
          const frame = past[slot];
          if (frame) {
            const digit = frame[plane * rows * columns + position];
            const row = ((slot * this.levels.length + plane) * MAX_LEVELS + digit) * features;
            for (let feature = 0; feature < features; feature++) {
              sums[(position * planes + plane) * features + feature] += LARGEST * this.head.values[row + feature];
            }
          }
        }
      }
    }
  }
}

/** Predicts the digits of one latent frame. For every plane and every step of it, call `logits`, then `put`. */
export class FramePrediction {
  readonly steps: readonly Step[];
  /** The inputs of the plane that is being coded, with a margin of zeros around the grid. */
  private readonly known: Int32Array;
  private readonly margin: number;
  private readonly work: Int32Array;
  private readonly accumulator: Accumulator;
  private readonly value = new Int32Array(MAX_LEVELS);
  private readonly hidden: Int32Array;

  constructor(
    private readonly network: Network,
    private readonly sums: Int32Array,
    private readonly before: Frame,
    private readonly planes: number,
    private readonly grid: readonly [number, number],
  ) {
    const { reach, inputs, features, steps } = network.shape;
    this.margin = reach >> 1;
    this.steps = stepsOf(grid, steps, this.margin);
    this.known = new Int32Array((grid[0] + 2 * this.margin) * (grid[1] + 2 * this.margin) * inputs);
    this.work = new Int32Array(features);
    this.hidden = new Int32Array(features);
    this.accumulator = new Accumulator(Math.max(features, reach ** 2 * inputs));
  }

  /** Return the logits of digit `number` of a step, in sixteenths of a nat. The array is used again. */
  logits(plane: number, step: number, number: number): Int32Array {
    const { network, accumulator, work, hidden, value } = this;
    const { features, inputs } = network.shape;
    const { head } = network;
    const total = network.levels.length;
    const where = this.steps[step];
    const from = (where.flat[number] * this.planes + plane) * features;
    const bias = (step * total + plane) * features;
    for (let feature = 0; feature < features; feature++) {
      work[feature] = this.sums[from + feature] + head.bias[bias + feature];
    }
    if (step) {
      const row = ((step - 1) * total + plane) * TAPS * inputs * features;
      for (let tap = 0; tap < TAPS; tap++) {
        const at = where.neighbours[number * TAPS + tap] * inputs;
        accumulator.note(this.known, at, inputs, row + tap * inputs * features, features);
      }
      accumulator.add(head.own, work, 0, features);
    }
    round(work, 0, head.shift, plane * features, features);
    clip(work, 0, features);
    hidden.set(network.hidden.bias.subarray(plane * features, (plane + 1) * features));
    accumulator.note(work, 0, features, plane * features * features, features);
    accumulator.add(network.hidden.weight, hidden, 0, features);
    round(hidden, 0, network.hidden.shift, plane * features, features);
    clip(hidden, 0, features);
    value.set(network.logits.bias.subarray(plane * MAX_LEVELS, (plane + 1) * MAX_LEVELS));
    accumulator.note(hidden, 0, features, plane * features * MAX_LEVELS, MAX_LEVELS);
    accumulator.add(network.logits.weight, value, 0, MAX_LEVELS);
    round(value, 0, network.logits.shift, plane * MAX_LEVELS, MAX_LEVELS);
    return value;
  }

  /** Make the digits of a step known to all later steps. */
  put(plane: number, step: number, digits: Uint8Array): void {
    const { network, before, grid } = this;
    const { inputs, slots, steps } = network.shape;
    const where = this.steps[step];
    const own = before?.subarray(plane * grid[0] * grid[1], (plane + 1) * grid[0] * grid[1]);
    for (let number = 0; number < digits.length; number++) {
      const changed = slots && own?.[where.flat[number]] !== digits[number] ? LARGEST : 0;
      network.putInputs(plane, digits[number], changed, this.known, where.padded[number] * inputs);
    }
    if (step === steps - 1 && plane < this.planes - 1) {
      this.addPlane(plane);
    }
  }

  /** Add what the plane that is now known says about the planes after it. */
  private addPlane(plane: number): void {
    const { accumulator, planes, margin } = this;
    const { inputs, features, reach } = this.network.shape;
    const [rows, columns] = this.grid;
    const stride = (this.network.levels.length - 1 - plane) * features;
    const weights = this.network.head.planes[plane];
    const width = columns + 2 * margin;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let tap = 0; tap < reach; tap++) {
          const at = ((row + tap) * width + column) * inputs;
          accumulator.note(this.known, at, reach * inputs, tap * reach * inputs * stride, stride);
        }
        const begin = ((row * columns + column) * planes + plane + 1) * features;
        accumulator.add(weights, this.sums, begin, (planes - 1 - plane) * features);
      }
    }
  }
}

function half(shift: number): number {
  return shift ? 2 ** (shift - 1) : 0;
}

/** Refuse a layer, part of whose weights begin at row `row`, if one of its sums could become too large. */
function checkSums(layer: Layer, row: number, rows: number, outputs: number, bias: number, places: number): void {
  for (let output = 0; output < outputs; output++) {
    let weights = 0;
    let most = 0;
    for (let at = row; at < row + rows; at++) {
      weights += Math.abs(layer.weight[at * outputs + output]);
    }
    for (let place = 0; place < places; place++) {
      most = Math.max(most, Math.abs(layer.bias[bias + place * outputs + output]));
    }
    checkBound(LARGEST * weights + most + half(layer.shift[bias + output]));
  }
}

function checkBound(worst: number): void {
  if (worst >= EXACT) {
    throw new ModelError("a sum of the prior could become too large to be exact");
  }
}

/** Return the outputs of a layer for each 3×3 window of `h+2 w+2 C`, shifted and rounded: `h·w O`. */
function convolved(
  padded: Int32Array,
  channels: number,
  grid: readonly [number, number],
  layer: Layer,
  place: number,
  outputs: number,
): Int32Array {
  const [rows, columns] = grid;
  const accumulator = new Accumulator(WINDOW * channels);
  const bias = layer.bias.subarray(place * outputs, (place + 1) * outputs);
  const made = new Int32Array(rows * columns * outputs);
  const rowInputs = KERNEL * channels;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const begin = (row * columns + column) * outputs;
      made.set(bias, begin);
      for (let tap = 0; tap < KERNEL; tap++) {
        const at = ((row + tap) * (columns + 2) + column) * channels;
        accumulator.note(padded, at, rowInputs, tap * rowInputs * outputs, outputs);
      }
      accumulator.add(layer.weight, made, begin, outputs);
      round(made, begin, layer.shift, 0, outputs);
    }
  }
  return made;
}

/** Return `h w C` with a margin of zeros, one position wide. */
function withMargin(values: Int32Array, channels: number, [rows, columns]: readonly [number, number]): Int32Array {
  const padded = new Int32Array((rows + 2) * (columns + 2) * channels);
  for (let row = 0; row < rows; row++) {
    const from = row * columns * channels;
    padded.set(values.subarray(from, from + columns * channels), ((row + 1) * (columns + 2) + 1) * channels);
  }
  return padded;
}

/** Return the first two inputs of every digit of every plane, `P MAX_LEVELS 2`. */
function inputTable(levels: readonly number[]): Int32Array {
  const table = new Int32Array(levels.length * MAX_LEVELS * 2);
  for (const [plane, count] of levels.entries()) {
    for (let digit = 0; digit < count; digit++) {
      const at = (plane * MAX_LEVELS + digit) * 2;
      table[at] = 1 + Math.floor((126 * digit) / (count - 1));
      table[at + 1] = Math.floor((LARGEST * (2 * digit - count + 1) ** 2) / (count - 1) ** 2);
    }
  }
  return table;
}
