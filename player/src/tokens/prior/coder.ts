/** Coder 3: a range coder whose probabilities come from a trained integer network and adapt to the GOP. */

import { product } from "../../container/header.ts";
import { DamageError } from "../../errors.ts";
import type { Coder } from "../coder.ts";
import { RangeDecoder } from "../range_decoder.ts";
import { Calibration, sharesOf } from "./calibration.ts";
import type { Frame, Network } from "./network.ts";
import type { Prior } from "./prior.ts";

const MAX_DIGITS = 1 << 23;
const MAX_FRAME_DIGITS = 1 << 20;
const MAX_LEVELS = 8;

/** Return whether a prior predicts such digits, in latent frames of so many digits. */
export function fits(prior: Prior, levels: readonly number[], tokens: number, frameDigits: number): boolean {
  return levels.join() === prior.levels.join() && tokens <= prior.tokens && frameDigits <= MAX_FRAME_DIGITS;
}

export class PriorCoder implements Coder {
  private readonly levels: readonly number[];
  private readonly calibrations: readonly Calibration[];
  /** The last latent frames of the GOP, the newest first. */
  private past: Frame[] = [];
  private latents = 0;

  constructor(
    private readonly prior: Prior,
    tokens: number,
    /** The number of latent frames that hold the first frame of a GOP. */
    private readonly phases: number,
  ) {
    this.levels = Array.from({ length: tokens }, () => prior.levels).flat();
    this.calibrations = this.levels.map((levels) => new Calibration(levels));
  }

  unpack(packed: Uint8Array, shape: readonly [number, number, number]): Uint8Array {
    const decoder = new RangeDecoder(packed);
    const [latents, rows, columns] = shape;
    const planes = this.levels.length;
    const positions = rows * columns;
    if (planes * product(shape) > MAX_DIGITS || planes * positions > MAX_FRAME_DIGITS) {
      throw new DamageError("a chunk or a latent frame has more digits than this coder takes");
    }
    const digits = new Uint8Array(planes * product(shape));
    for (let latent = 0; latent < latents; latent++) {
      const frame = this.frame(decoder, [rows, columns]);
      for (let plane = 0; plane < planes; plane++) {
        const own = frame.subarray(plane * positions, (plane + 1) * positions);
        digits.set(own, (plane * latents + latent) * positions);
      }
      this.past.unshift(frame);
      this.past.length = Math.min(this.past.length, Math.max(this.prior.first.shape.slots, this.prior.later.shape.slots, 1));
      this.latents++;
    }
    decoder.finish();
    return digits;
  }

  /** Decode the next latent frame, `P h w`. */
  private frame(decoder: RangeDecoder, grid: readonly [number, number]): Uint8Array {
    const [network, place] = this.network();
    const positions = grid[0] * grid[1];
    const digits = new Uint8Array(this.levels.length * positions);
    const past = Array.from({ length: network.shape.slots }, (_, slot) => this.past[slot] ?? null);
    const prediction = network.frame(past, place, this.levels.length, grid);
    const shares = new Float64Array(positions * MAX_LEVELS);
    const frequencies = new Float64Array(MAX_LEVELS);
    for (const [plane, levels] of this.levels.entries()) {
      const before = this.past[0]?.subarray(plane * positions, (plane + 1) * positions);
      for (const [step, { flat }] of prediction.steps.entries()) {
        const values = new Uint8Array(flat.length);
        const contexts = Uint8Array.from(flat, (at) => (before ? before[at] : levels));
        for (let number = 0; number < flat.length; number++) {
          sharesOf(prediction.logits(plane, step, number), levels, shares, number * levels);
          this.calibrations[plane].frequencies(contexts[number], shares, number * levels, frequencies);
          values[number] = decoder.get(frequencies, 0, levels);
          digits[plane * positions + flat[number]] = values[number];
        }
        if (flat.length) {
          this.calibrations[plane].learn(contexts, shares, values);
        }
        prediction.put(plane, step, values);
      }
    }
    return digits;
  }

  /** Return the network for the next latent frame, and the place of that frame. */
  private network(): [Network, number] {
    const { first, later } = this.prior;
    const [network, place] = this.latents < this.phases ? [first, this.latents] : [later, this.latents - this.phases];
    return [network, Math.min(place, network.shape.places - 1)];
  }
}
