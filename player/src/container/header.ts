/** The header of a `.vtk` file, and its checks. */

import { FormatError } from "../errors.ts";
import { type Json, parseJson } from "./json.ts";
import { GopLayout } from "./layout.ts";

const MAX_SIDE = 1 << 15;
const MAX_PIXELS = 1 << 26;
const MAX_CHUNK_LATENTS = 64;
const MAX_GOP_LATENTS = 1 << 20;
const MAX_TOKENS = 16;
const MAX_CODES = 1 << 16;
const MAX_CHUNK_DIGITS = 1 << 28;
const MAX_PER_WINDOW = 255;
const MAX_WINDOW_TOKENS = 1 << 22;
const MAX_TRACKS = 32;
export const ID_BYTES = 16;
const MAX_TAGS = 64;
const MAX_TAG_CHARACTERS = 4096;
const MAX_TERM = 2 ** 31 - 1;

/** A numerator and a denominator. */
export type Ratio = readonly [number, number];

/** The model that made the tokens. */
export interface ModelId {
  readonly name: string;
  readonly weightsSha256: string;
  /** The number of values of each digit of a token. */
  readonly levels: readonly number[];
  readonly layout: GopLayout;
}

/** One audio track. */
export interface AudioTrack {
  /** FFmpeg's name of the codec. */
  readonly codec: string;
  readonly timeBase: Ratio;
  readonly sampleRate: number;
  /** FFmpeg's name of the channel layout. */
  readonly layout: string;
  /** The codec parameters, as a NUT file. */
  readonly parameters: Uint8Array;
}

/** What the header says about 1D tokens, which this player checks and does not decode. */
export interface WindowHeader {
  /** The time steps, rows and columns of the latent grid that a window spans. */
  readonly window: readonly [number, number, number];
  /** The largest number of 1D tokens of a window. */
  readonly most: number;
  /** The number of values of a 1D token. */
  readonly codes: number;
}

export class Header {
  constructor(
    readonly width: number,
    readonly height: number,
    /** Nominal frames per second; null for a still image. */
    readonly rate: Ratio | null,
    /** The length of a tick of all video times in seconds. */
    readonly timeBase: Ratio,
    readonly frameTicks: number,
    /** The width of a pixel over its height. */
    readonly sar: Ratio,
    /** Degrees counter-clockwise by which a player turns the picture. */
    readonly rotation: number,
    readonly model: ModelId,
    readonly tokens: number,
    readonly gopLatents: number,
    readonly chunkLatents: number,
    readonly audio: readonly AudioTrack[],
    readonly tags: ReadonlyMap<string, string>,
    readonly priorSha256: string | null,
    readonly windowTokens: WindowHeader | null,
    /** The identifier of the file; empty in format 1.0. */
    public fileId: Uint8Array,
  ) {}

  /** The number of digit planes, which is the number of digits per position. */
  get planes(): number {
    return this.tokens * this.model.levels.length;
  }

  /** Rows and columns of the latent grid. */
  get grid(): [number, number] {
    return this.model.layout.grid(this.height, this.width);
  }

  /** The number of latent frames, rows and columns of a chunk. */
  chunkShape(frames: number, first: boolean): [number, number, number] {
    return [this.model.layout.latents(frames, first), ...this.grid];
  }

  /** The number of windows of 1D tokens of a chunk. */
  get windows(): number {
    const [rows, columns] = this.grid;
    const [, below, beside] = this.windowTokens?.window ?? [1, rows, columns];
    return Math.ceil(rows / below) * Math.ceil(columns / beside);
  }

  /** The number of frames of a full chunk. */
  maxChunkFrames(first: boolean): number {
    return this.model.layout.chunkFrames(this.chunkLatents, first);
  }
}

/**
 * Parse and check a header.
 *
 * @param data Its UTF-8 JSON text.
 * @throws FormatError The text is not a JSON object, a key is missing or repeated, or a value is out of range.
 */
export function parseHeader(data: Uint8Array): Header {
  let fields: Json;
  try {
    fields = parseJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data));
  } catch (error) {
    throw new FormatError(`the header is not valid: ${(error as Error).message}`);
  }
  return new Fields(fields, "header").header();
}

/** Checked access to the members of a JSON object. Members of unknown names are ignored. */
class Fields {
  private readonly fields: Map<string, Json>;

  constructor(
    fields: Json,
    private readonly where: string,
  ) {
    if (!(fields instanceof Map)) {
      throw new FormatError(`${where} is not a JSON object`);
    }
    this.fields = fields;
  }

  header(): Header {
    const color = this.object("color");
    color.integer("range", 0, 2);
    for (const key of ["primaries", "transfer", "matrix"]) {
      color.integer(key, 0, 255);
    }
    const tracks = this.array("audio");
    if (tracks.length > MAX_TRACKS) {
      throw new FormatError(`the header has ${tracks.length} audio tracks; at most ${MAX_TRACKS} are allowed`);
    }
    this.text("writer");
    const header = new Header(
      this.integer("width", 1, MAX_SIDE),
      this.integer("height", 1, MAX_SIDE),
      this.fields.get("rate") === null ? null : this.ratio("rate"),
      this.ratio("time_base"),
      this.integer("frame_ticks", 0, MAX_TERM),
      this.ratio("sar"),
      this.integer("rotation", -360, 360),
      this.object("model").model(),
      this.integer("tokens", 1, MAX_TOKENS),
      this.integer("gop_latents", 1, MAX_GOP_LATENTS),
      this.integer("chunk_latents", 1, MAX_CHUNK_LATENTS),
      tracks.map((track) => new Fields(track, "an audio track").audio()),
      this.tags(),
      this.fields.has("prior_sha256") ? this.hexadecimal("prior_sha256", 32) : null,
      this.fields.has("window_tokens") ? this.object("window_tokens").windows() : null,
      this.fields.has("id") ? bytesOfHexadecimal(this.hexadecimal("id", ID_BYTES)) : new Uint8Array(),
    );
    const [rows, columns] = header.grid;
    const { stride } = header.model.layout;
    const height = this.integer("coded_height", 1, 1 << 16);
    const width = this.integer("coded_width", 1, 1 << 16);
    if (height !== rows * stride[1] || width !== columns * stride[2]) {
      throw new FormatError("the coded size does not follow from the size and the stride");
    }
    if (header.width * header.height > MAX_PIXELS) {
      throw new FormatError(`${header.width}x${header.height} is more than ${MAX_PIXELS} pixels`);
    }
    const shape = header.chunkShape(header.maxChunkFrames(true), true);
    const digits = header.planes * product(shape);
    if (digits > MAX_CHUNK_DIGITS) {
      throw new FormatError(`a chunk of ${digits} digits is more than ${MAX_CHUNK_DIGITS}`);
    }
    const { windowTokens } = header;
    if (windowTokens && header.chunkLatents > windowTokens.window[0]) {
      throw new FormatError("a chunk is longer than the windows of 1D tokens");
    }
    if (windowTokens && header.windows * windowTokens.most > MAX_WINDOW_TOKENS) {
      throw new FormatError(`a chunk has more than ${MAX_WINDOW_TOKENS} 1D tokens`);
    }
    return header;
  }

  private model(): ModelId {
    const stride = this.integers("stride", 3, 3, 1, 64);
    const levels = this.integers("levels", 1, 16, 2, 256);
    if (product(levels) > MAX_CODES) {
      throw new FormatError(`levels ${levels.join(", ")} make more than ${MAX_CODES} codes`);
    }
    const weightsSha256 = this.hexadecimal("weights_sha256", 32);
    const grid = this.fields.has("first_grid") ? this.integers("first_grid", 2, 2, 1, 64) : [1, 1];
    if (stride[1] % grid[0] || stride[2] % grid[1]) {
      throw new FormatError(`a first_grid of ${grid[0]}x${grid[1]} does not divide the stride`);
    }
    const layout = new GopLayout([stride[0], stride[1], stride[2]], [grid[0], grid[1]]);
    return { name: this.text("name"), weightsSha256, levels, layout };
  }

  private windows(): WindowHeader {
    const [steps, rows, columns] = this.integers("window", 3, 3, 1, MAX_SIDE);
    const codes = product(this.integers("levels", 1, 16, 2, 256));
    if (codes > MAX_CODES) {
      throw new FormatError(`the levels of 1D tokens make more than ${MAX_CODES} codes`);
    }
    const most = this.integer("most", 1, MAX_PER_WINDOW);
    this.hexadecimal("weights_sha256", 32);
    this.text("name");
    return { window: [steps, rows, columns], most, codes };
  }

  private audio(): AudioTrack {
    const track = {
      codec: this.text("codec"),
      timeBase: this.ratio("time_base"),
      sampleRate: this.integer("sample_rate", 0, 2 ** 31),
      layout: this.text("layout"),
      parameters: this.bytes("parameters"),
    };
    if (this.fields.has("avi_parameters")) {
      this.bytes("avi_parameters");
    }
    this.tags();
    return track;
  }

  private object(key: string): Fields {
    const value = this.fields.get(key);
    if (!(value instanceof Map)) {
      throw this.missing(key);
    }
    return new Fields(value, `${this.where}: ${key}`);
  }

  private array(key: string): Json[] {
    const value = this.fields.get(key);
    if (!Array.isArray(value)) {
      throw this.missing(key);
    }
    return value;
  }

  private string(key: string): string {
    const value = this.fields.get(key);
    if (typeof value !== "string") {
      throw this.missing(key);
    }
    return value;
  }

  private text(key: string): string {
    const value = this.string(key);
    if (!isPrintable(value)) {
      throw new FormatError(`${this.where}: ${key} holds characters that cannot be printed`);
    }
    return value;
  }

  private integer(key: string, low: number, high: number): number {
    const value = this.fields.get(key);
    if (typeof value !== "number") {
      throw this.missing(key);
    }
    if (!(low <= value && value <= high)) {
      throw new FormatError(`${this.where}: ${key} is ${value}, outside ${low} to ${high}`);
    }
    return value;
  }

  private integers(key: string, least: number, most: number, low: number, high: number): number[] {
    const values = this.array(key);
    const whole = values.every((value) => typeof value === "number" && low <= value && value <= high);
    if (!(least <= values.length && values.length <= most) || !whole) {
      throw new FormatError(`${this.where}: ${key} is not ${least} to ${most} integers from ${low} to ${high}`);
    }
    return values as number[];
  }

  private ratio(key: string): Ratio {
    const [over, under] = this.integers(key, 2, 2, 1, MAX_TERM);
    return [over, under];
  }

  private hexadecimal(key: string, size: number): string {
    const digits = this.string(key);
    if (digits.length !== 2 * size || !/^[0-9a-f]*$/.test(digits)) {
      throw new FormatError(`${key} is not ${2 * size} hexadecimal digits`);
    }
    return digits;
  }

  private tags(): Map<string, string> {
    const tags = new Map<string, string>();
    if (!this.fields.has("tags")) {
      return tags;
    }
    const given = this.object("tags").fields;
    for (const [name, text] of given) {
      if (typeof text !== "string" || !name || !isPrintable(name) || !isPrintable(text.replaceAll(/[\t\n\r]/g, ""))) {
        throw new FormatError(`${this.where}: a tag is no text that can be printed`);
      }
      if ([...name].length + [...text].length > MAX_TAG_CHARACTERS) {
        throw new FormatError(`${this.where}: a tag has more than ${MAX_TAG_CHARACTERS} characters`);
      }
      tags.set(name, text);
    }
    if (tags.size > MAX_TAGS) {
      throw new FormatError(`${this.where} has ${tags.size} tags; at most ${MAX_TAGS} are allowed`);
    }
    return tags;
  }

  private bytes(key: string): Uint8Array {
    const found = /^([A-Za-z0-9+/]*)(={0,2})$/.exec(this.string(key));
    const rest = found ? found[1].length % 4 : 1;
    if (!found || rest === 1 || (rest && found[2].length < 4 - rest)) {
      throw new FormatError(`${this.where}: ${key} is not base64`);
    }
    return Uint8Array.from(atob(found[1]), (character) => character.charCodeAt(0));
  }

  private missing(key: string): FormatError {
    return new FormatError(`${this.where}: ${key} is missing or of the wrong type`);
  }
}

/** Return whether a text has no control characters, lone surrogates or bidirectional controls. */
function isPrintable(text: string): boolean {
  return !/[\p{Cc}\p{Cs}\u202a-\u202e\u2066-\u2069]/u.test(text);
}

function bytesOfHexadecimal(digits: string): Uint8Array {
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

export function product(numbers: readonly number[]): number {
  return numbers.reduce((all, each) => all * each, 1);
}

