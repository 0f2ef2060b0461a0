/** The deterministic decoder of a model, which turns digits into pictures. See `docs/howto/onnx.md`. */

import type { InferenceSession, Tensor } from "onnxruntime-web";

import type { Header } from "../container/header.ts";
import { FormatError } from "../errors.ts";
import type { Catalogue, ModelEntry } from "./catalogue.ts";
import type { Runtime } from "./runtime.ts";

/** Pictures, `T H W 3`. */
export interface Pictures {
  readonly pixels: Uint8Array;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

/** Decodes the latent frames of one GOP after the other. */
export class PictureDecoder {
  private state: readonly Tensor[] | null = null;

  private constructor(
    private readonly runtime: Runtime,
    private readonly model: ModelEntry,
    private readonly header: Header,
    private readonly later: InferenceSession,
    private readonly first: InferenceSession | null,
  ) {}

  /**
   * Load the model of a file.
   *
   * @throws ModelError It is not here, or cannot be loaded.
   * @throws FormatError The header does not fit it.
   */
  static async load(runtime: Runtime, catalogue: Catalogue, header: Header): Promise<PictureDecoder> {
    const { name, weightsSha256, layout, levels } = header.model;
    const model = await catalogue.model(weightsSha256, name);
    const said = [layout.stride, layout.firstGrid, levels].join(";");
    if (said !== [model.stride, model.firstGrid, model.levels].join(";") || header.tokens > model.tokens) {
      throw new FormatError(`the header does not fit its model, ${model.name}`);
    }
    const weights = await catalogue.fetch(model.weights);
    const session = async (graph: string) =>
      runtime.ort.InferenceSession.create(await catalogue.fetch(graph), {
        executionProviders: runtime.engine === "webgpu" ? ["webgpu", "wasm"] : ["wasm"],
        externalData: [{ path: model.weightsName, data: weights }],
        logSeverityLevel: 3,
      });
    const later = await session(model.decoder);
    return new PictureDecoder(runtime, model, header, later, model.firstDecoder ? await session(model.firstDecoder) : null);
  }

  /** Start a GOP. */
  start(): void {
    this.release(this.state);
    this.state = null;
  }

  /** The number of latent frames that the next call of `decode` takes. */
  get latents(): number {
    return this.state ? 1 : this.header.model.layout.phases;
  }

  /**
   * Decode one time step.
   *
   * @param digits The digits of a chunk, `P t h w`.
   * @param shape Its latent frames, rows and columns.
   * @param begin The first latent frame of the step.
   * @param tokens How many tokens per position to use.
   */
  async decode(
    digits: Uint8Array,
    shape: readonly [number, number, number],
    begin: number,
    tokens: number,
  ): Promise<Pictures> {
    const { ort } = this.runtime;
    const graph = this.state || !this.first ? this.later : this.first;
    const state = this.state ?? (graph === this.later ? this.zeros(shape[1], shape[2]) : []);
    const feeds: Record<string, Tensor> = {
      digits: this.step(digits, shape, begin),
      tokens: new ort.Tensor("int64", BigInt64Array.of(BigInt(tokens)), [1]),
    };
    for (const [number, each] of state.entries()) {
      feeds[`state_${number}`] = each;
    }
    const results = await graph.run(feeds);
    this.release(state);
    this.state = this.model.states.map((_, number) => results[`next_${number}`] as Tensor);
    const pixels = results.pixels as Tensor;
    const [frames, height, width] = pixels.dims;
    return { pixels: pixels.data as Uint8Array, frames, height, width };
  }

  async close(): Promise<void> {
    this.start();
    await this.later.release();
    await this.first?.release();
  }

  /** Return the digits of a time step as the graph takes them: those of all tokens that the model knows. */
  private step(digits: Uint8Array, [t, h, w]: readonly [number, number, number], begin: number): Tensor {
    const { latents } = this;
    const positions = h * w;
    const channels = this.model.tokens * this.model.levels.length;
    const step = new Uint8Array(channels * latents * positions);
    for (let plane = 0; plane < digits.length / (t * positions); plane++) {
      const from = (plane * t + begin) * positions;
      step.set(digits.subarray(from, from + latents * positions), plane * latents * positions);
    }
    return new this.runtime.ort.Tensor("uint8", step, [1, channels, latents, h, w]);
  }

  /** Return the state before the first latent frame. */
  private zeros(h: number, w: number): Tensor[] {
    return this.model.states.map(({ channels, frames, rows, columns }) => {
      const size = [1, channels, frames, rows * h, columns * w];
      const values = new Float32Array(size.reduce((all, each) => all * each, 1));
      return new this.runtime.ort.Tensor("float32", values, size);
    });
  }

  private release(state: readonly Tensor[] | null): void {
    for (const each of state ?? []) {
      each.dispose();
    }
  }
}
