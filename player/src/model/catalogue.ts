/** The models and priors that lie beside the player, and how to fetch them. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

import { ModelError } from "../errors.ts";
import { type Prior, parsePrior } from "../tokens/prior/prior.ts";

/** The shape of a tensor of the decoder's state: channels and frames, and rows and columns for each of the grid. */
export interface StateShape {
  readonly channels: number;
  readonly frames: number;
  readonly rows: number;
  readonly columns: number;
}

/** A model, as `models/models.json` has it. */
export interface ModelEntry {
  readonly name: string;
  /** The hashes of the weights whose tokens it decodes, its own first. */
  readonly reads: readonly string[];
  readonly stride: readonly number[];
  readonly firstGrid: readonly number[];
  readonly levels: readonly number[];
  /** The largest number of tokens per position. */
  readonly tokens: number;
  readonly states: readonly StateShape[];
  /** The graph of a latent frame. */
  readonly decoder: string;
  /** The graph of the first latent frame of a GOP; null if it is the same. */
  readonly firstDecoder: string | null;
  /** The file with the weights, and the name under which the graphs know it. */
  readonly weights: string;
  readonly weightsName: string;
}

interface Listing {
  readonly models: readonly ModelEntry[];
  /** The files of the priors by their hash. */
  readonly priors: Readonly<Record<string, string>>;
  /** The hashes of all files of the folder by their name. */
  readonly sha256: Readonly<Record<string, string>>;
}

const LISTING = "models.json";

export class Catalogue {
  private listing: Promise<Listing> | null = null;
  private readonly priors = new Map<string, Promise<Prior>>();

  /** @param url The address of the folder `models`, with a slash at its end. */
  constructor(private readonly url: string) {}

  /**
   * Return the model that decodes the tokens of some weights.
   *
   * @throws ModelError It is not here.
   */
  async model(weightsSha256: string, name: string): Promise<ModelEntry> {
    const { models } = await this.list();
    const found = models.find(({ reads }) => reads.includes(weightsSha256));
    if (!found) {
      throw new ModelError(`the video needs the model ${name}, weights ${weightsSha256.slice(0, 12)}, not on this site`);
    }
    return found;
  }

  /** Return a prior by the hash of its file; null if it is not here. */
  async prior(sha256: string): Promise<Prior | null> {
    const { priors } = await this.list();
    const name = Object.hasOwn(priors, sha256) ? priors[sha256] : null;
    if (!name) {
      return null;
    }
    if (!this.priors.has(sha256)) {
      const parsed = this.fetch(name).then(parsePrior);
      // After a fault of the network, the next file asks again.
      parsed.catch(() => this.priors.delete(sha256));
      this.priors.set(sha256, parsed);
    }
    return this.priors.get(sha256)!;
  }

  /**
   * Fetch a file of the folder.
   *
   * @throws ModelError It cannot be fetched, or is not the one that the player was built with.
   */
  async fetch(name: string): Promise<Uint8Array> {
    const hashes = (await this.list()).sha256;
    const bytes = await this.load(name);
    if (bytesToHex(sha256(bytes)) !== hashes[name]) {
      throw new ModelError(`${name} is not the file that this player was built with; empty the browser's cache`);
    }
    return bytes;
  }

  private list(): Promise<Listing> {
    if (!this.listing) {
      this.listing = this.load(LISTING).then((bytes) => JSON.parse(new TextDecoder().decode(bytes)) as Listing);
      this.listing.catch(() => (this.listing = null));
    }
    return this.listing;
  }

  /** Load a file of the folder; the listing is asked for anew, since its name does not change with its contents. */
  private async load(name: string): Promise<Uint8Array> {
    const cache = name === LISTING ? "no-cache" : "default";
    const answer = await fetch(new URL(name, this.url), { cache }).catch(() => null);
    if (answer && !answer.ok) {
      throw new ModelError(`${name} of the player cannot be loaded: ${answer.status}`);
    }
    const data = await answer?.arrayBuffer().catch(() => null);
    if (!data) {
      throw new ModelError(`${name} of the player cannot be loaded: no connection`);
    }
    return new Uint8Array(data);
  }
}
