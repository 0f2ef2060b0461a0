/** A prior, which is two integer networks that predict the digits of a model, and the file that holds it. */

import { viewOf } from "../../container/bytes.ts";
import { product } from "../../container/header.ts";
import { ModelError } from "../../errors.ts";
import { Network, type NetworkShape } from "./network.ts";

const VERSION = 1;
const LARGEST = 127;
export const EXACT = 1 << 24;
const MAX_SHIFT = 20;

export interface Prior {
  /** The number of levels of each digit of a token. */
  readonly levels: readonly number[];
  /** The largest number of tokens per position. */
  readonly tokens: number;
  /** Predicts the first latent frame of a GOP. */
  readonly first: Network;
  /** Predicts all later latent frames. */
  readonly later: Network;
}

/**
 * Parse a prior from the bytes of its safetensors file.
 *
 * @throws ModelError The bytes are not a prior that this player can use.
 */
export function parsePrior(bytes: Uint8Array): Prior {
  const size = Number(viewOf(bytes).getBigUint64(0, true));
  const entries = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const said = JSON.parse(entries.__metadata__.prior);
  if (said.version !== VERSION) {
    throw new ModelError(`the prior needs a newer player: version ${said.version}`);
  }
  const levels: number[] = Array.from({ length: said.tokens }, () => said.levels).flat();
  const network = (name: "first" | "later") =>
    new Network(said[name] as NetworkShape, levels, new Tensors(entries, bytes.subarray(8 + size), `${name}.`));
  return { levels: said.levels, tokens: said.tokens, first: network("first"), later: network("later") };
}

type Entries = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** Checked access to the tensors of a network, as whole numbers. */
export class Tensors {
  constructor(
    private readonly entries: Entries,
    private readonly data: Uint8Array,
    private readonly prefix: string,
  ) {}

  /** Return weights of a shape, stored as int8. */
  weight(name: string, ...shape: number[]): Int32Array {
    const values = Int32Array.from(new Int8Array(this.bytes(name, "I8", shape, 1)));
    return this.checked(name, values, (value) => value >= -LARGEST);
  }

  /** Return biases of a shape, stored as int32. */
  bias(name: string, ...shape: number[]): Int32Array {
    const values = new Int32Array(this.bytes(name, "I32", shape, 4));
    return this.checked(name, values, (value) => Math.abs(value) < EXACT);
  }

  /** Return shifts of a shape, stored as uint8. */
  shift(name: string, ...shape: number[]): Int32Array {
    const values = Int32Array.from(new Uint8Array(this.bytes(name, "U8", shape, 1)));
    return this.checked(name, values, (value) => value <= MAX_SHIFT);
  }

  private bytes(name: string, kind: string, shape: readonly number[], width: number): ArrayBuffer {
    const entry = this.entries[this.prefix + name];
    const [begin, end] = entry?.data_offsets ?? [0, 0];
    if (entry?.dtype !== kind || entry.shape.join() !== shape.join() || end - begin !== width * product(shape)) {
      throw new ModelError(`tensor ${this.prefix}${name} of the prior is missing, or is not ${kind} ${shape}`);
    }
    return this.data.slice(begin, end).buffer as ArrayBuffer;
  }

  private checked(name: string, values: Int32Array, fits: (value: number) => boolean): Int32Array {
    if (!values.every(fits)) {
      throw new ModelError(`a number of ${this.prefix}${name} of the prior is out of range`);
    }
    return values;
  }
}
