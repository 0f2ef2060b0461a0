/** Unpacks the chunks of a file in order, with whichever coder packed them. */

import { type Header } from "../container/header.ts";
import type { TokenChunk } from "../container/reader.ts";
import { DamageError, FormatError, ModelError } from "../errors.ts";
import type { Coder } from "./coder.ts";
import { fits, PriorCoder } from "./prior/coder.ts";
import type { Prior } from "./prior/prior.ts";
import { MAX_LEVELS, MAX_SIDES, WaveCoder } from "./waves.ts";
import { GroupCoder } from "./zstd_groups.ts";

/** Finds a prior by the SHA-256 of its file; null if it is not at hand. */
export type PriorFinder = (sha256: string) => Promise<Prior | null>;

export class Unpacker {
  private coder: Coder | null = null;
  private id = "";

  constructor(
    private readonly header: Header,
    private readonly priors: PriorFinder,
  ) {}

  /**
   * Unpack the next chunk, or any chunk that starts a GOP.
   *
   * @returns Its digits, `P t h w`.
   * @throws DamageError The digits cannot be unpacked.
   * @throws FormatError The coder is not known.
   * @throws ModelError The prior that the file names is not at hand.
   */
  async unpack(chunk: TokenChunk): Promise<Uint8Array> {
    const id = chunk.coder.join(".");
    if (chunk.first) {
      this.coder = await this.create(id);
      this.id = id;
    }
    if (!this.coder || this.id !== id) {
      throw new DamageError("a chunk has another coder than its GOP began with");
    }
    return this.coder.unpack(chunk.packed, chunk.shape);
  }

  private async create(id: string): Promise<Coder> {
    const { tokens, model, planes, grid, priorSha256 } = this.header;
    const { levels, layout } = model;
    if (id === "1.1") {
      return GroupCoder.create(levels, tokens);
    }
    if (id === "2.1" && Math.max(...levels) <= MAX_LEVELS && grid[0] + grid[1] <= MAX_SIDES) {
      return new WaveCoder(levels, tokens);
    }
    if (id === "3.1" && priorSha256) {
      const prior = await this.priors(priorSha256);
      if (!prior) {
        throw new ModelError(`the tokens need the prior ${priorSha256.slice(0, 12)}, which is not at hand`);
      }
      if (fits(prior, levels, tokens, planes * grid[0] * grid[1])) {
        return new PriorCoder(prior, tokens, layout.phases);
      }
    }
    throw new FormatError(`coder ${id} is not known for such tokens; a newer player may read it`);
  }
}
