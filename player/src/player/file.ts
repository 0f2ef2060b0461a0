/** A `.vtk` file that is open: what is known of it, and its pictures and sound from any group of pictures on. */

import type { Header } from "../container/header.ts";
import { VtkReader } from "../container/reader.ts";
import type { AudioPacket, GopEntry } from "../container/records.ts";
import type { Source } from "../container/source.ts";
import { DamageError, ModelError } from "../errors.ts";
import { Catalogue } from "../model/catalogue.ts";
import { PictureDecoder, type Pictures } from "../model/decoder.ts";
import { loadRuntime } from "../model/runtime.ts";
import { decoderConfig } from "../sound/codec.ts";
import { unpackedEvents, type UnpackedEvent } from "../tokens/events.ts";
import type { FileInfo, ReadyFrame, SoundPacket } from "./messages.ts";

/** A decoder takes about 1,200 bytes per pixel, and WebAssembly has 4 GiB of memory at most. */
const MAX_PIXELS = 3_200_000;

export type DecodedEvent =
  | { readonly kind: "frames"; readonly frames: readonly ReadyFrame[] }
  | { readonly kind: "sound"; readonly packets: readonly AudioPacket[] }
  | { readonly kind: "damage"; readonly message: string; readonly until: number | null }
  | { readonly kind: "doubt"; readonly message: string }
  | { readonly kind: "end"; readonly checked: boolean };

export class OpenFile {
  private constructor(
    private readonly first: VtkReader,
    readonly header: Header,
    readonly info: FileInfo,
    private readonly index: readonly GopEntry[],
    private readonly start: bigint,
    private readonly catalogue: Catalogue,
    private readonly decoder: PictureDecoder,
  ) {}

  /**
   * Open a file and load its model.
   *
   * @param assets The address of the folder of the player.
   * @param engine Where the decoder shall run: `webgpu` or `wasm`.
   * @throws FormatError, DamageError, ModelError The file cannot be read, or its model is not here.
   */
  static async open(source: Source, assets: string, engine?: string): Promise<OpenFile> {
    const reader = await VtkReader.open(source);
    const { header } = reader;
    if (header.width * header.height > MAX_PIXELS) {
      throw new ModelError(`${header.width}x${header.height} is too large for a browser; decode it with vtok`);
    }
    const catalogue = new Catalogue(new URL("models/", assets).href);
    const runtime = await loadRuntime(new URL("ort/", assets).href, engine);
    const decoder = await PictureDecoder.load(runtime, catalogue, header);
    const index = await usableIndex(reader);
    const start = index[0]?.pts ?? (await firstTime(reader)) ?? 0n;
    const seconds = (pts: bigint) => secondsOf(pts - start, header);
    const info: FileInfo = {
      width: header.width,
      height: header.height,
      pixelAspect: header.sar[0] / header.sar[1],
      rotation: header.rotation,
      tokens: header.tokens,
      gops: index.length ? index.map((entry) => seconds(entry.pts)) : [0],
      title: header.tags.get("title") ?? null,
      audio: header.audio.map((track) => ({ codec: track.codec, config: decoderConfig(track) })),
    };
    return new OpenFile(reader, header, info, index, start, catalogue, decoder);
  }

  /** Return the seconds from the first frame to the end of the last, as far as it can be read; null without an index. */
  async duration(): Promise<number | null> {
    return this.index.length ? secondsOf((await endTime(this.first.anew(), this.index)) - this.start, this.header) : null;
  }

  /**
   * Yield the pictures and the sound from the start of a GOP on. Only one such generator may be in use at a time.
   *
   * The sound of the GOP's first frames stands before it in the file, so that reading begins a GOP earlier.
   */
  async *decode(gop: number, tokens: number): AsyncGenerator<DecodedEvent> {
    const reader = this.first.anew();
    let next: number | null = gop || null;
    let early = this.header.audio.length > 0;
    const heard = new Map<number, bigint>();
    let lost: string | null = null;
    let isLost = false;
    reader.onLostSound = (error) => {
      lost ??= `sound is lost: ${error.message}`;
      isLost = true;
    };
    for (;;) {
      if (next !== null) {
        const begin = early ? Math.max(0, next - 1) : next;
        reader.seek(begin, this.index[begin]);
      }
      const whole = next === null;
      const priors = (sha256: string) => this.catalogue.prior(sha256);
      let reached = false;
      try {
        for await (const event of unpackedEvents(reader, priors, whole, next ?? 0)) {
          reached ||= event.kind === "chunk";
          if (lost !== null) {
            yield { kind: "doubt", message: lost };
            lost = null;
          }
          if (event.kind === "audio") {
            yield { kind: "sound", packets: event.packets.filter((packet) => isNew(packet, heard)) };
          } else {
            yield* this.decoded(event, tokens);
          }
        }
        yield { kind: "end", checked: whole && !isLost };
        return;
      } catch (error) {
        if (!(error instanceof DamageError)) {
          throw error;
        }
        if (early && !reached && next) {
          early = false;
          continue;
        }
        if (reader.isPastVideo) {
          yield { kind: "doubt", message: error.message };
          yield { kind: "end", checked: false };
          return;
        }
        const found = this.index.findIndex((entry) => entry.offset > BigInt(reader.position));
        const until = found < 0 ? null : this.info.gops[found];
        yield { kind: "damage", message: error.message, until };
        if (found < 0) {
          return;
        }
        next = found;
        early = this.header.audio.length > 0;
      }
    }
  }

  /** Return a packet of a track with its time in seconds, or null if it has none. */
  sound({ track, pts, dts, duration, data }: AudioPacket): SoundPacket | null {
    const time = pts ?? dts;
    if (time === null) {
      return null;
    }
    const [over, under] = this.header.audio[track].timeBase;
    const start = secondsOf(this.start, this.header);
    return { time: (Number(time) * over) / under - start, duration: (Number(duration) * over) / under, data };
  }

  private async *decoded(event: UnpackedEvent, tokens: number): AsyncGenerator<DecodedEvent> {
    if (event.kind !== "chunk") {
      return;
    }
    const { chunk, digits } = event;
    if (chunk.first) {
      this.decoder.start();
    }
    const times = [...chunk.pts, chunk.pts[chunk.pts.length - 1] + chunk.lastDuration];
    const seconds = times.map((pts) => secondsOf(pts - this.start, this.header));
    let frame = -this.header.model.layout.filledFrames(chunk.first);
    for (let latent = 0; latent < chunk.shape[0]; ) {
      const { latents } = this.decoder;
      const pictures = await this.decoder.decode(digits, chunk.shape, latent, tokens);
      latent += latents;
      const frames: ReadyFrame[] = [];
      for (let number = 0; number < pictures.frames; number++, frame++) {
        if (frame >= 0 && frame < chunk.pts.length) {
          const pixels = rgba(pictures, number, this.header.width, this.header.height);
          frames.push({ time: seconds[frame], duration: seconds[frame + 1] - seconds[frame], pixels });
        }
      }
      yield { kind: "frames", frames };
    }
  }
}

/** Return whether a packet is later than those of its track before, which reading a GOP again would repeat. */
function isNew({ track, pts, dts }: AudioPacket, heard: Map<number, bigint>): boolean {
  const time = dts ?? pts;
  const last = heard.get(track);
  if (time === null || (last !== undefined && time <= last)) {
    return time === null;
  }
  heard.set(track, time);
  return true;
}

function secondsOf(ticks: bigint, header: Header): number {
  return (Number(ticks) * header.timeBase[0]) / header.timeBase[1];
}

/** Return the index of a file, or nothing if it is missing or damaged. */
async function usableIndex(reader: VtkReader): Promise<GopEntry[]> {
  try {
    return await reader.index();
  } catch (error) {
    if (error instanceof DamageError) {
      return [];
    }
    throw error;
  }
}

/** Return the time of the first frame, which moves the reader on. */
async function firstTime(reader: VtkReader): Promise<bigint | null> {
  for await (const event of reader.events()) {
    if (event.kind === "chunk") {
      return event.pts[0];
    }
  }
  return null;
}

/** Return the time at which the last frame ends, as far as it can be read. */
async function endTime(reader: VtkReader, index: readonly GopEntry[]): Promise<bigint> {
  const last = index[index.length - 1];
  reader.seek(index.length - 1, last);
  let end = last.pts;
  try {
    for await (const event of reader.events()) {
      if (event.kind === "chunk") {
        end = event.pts[event.pts.length - 1] + event.lastDuration;
      }
    }
    return end;
  } catch (error) {
    if (error instanceof DamageError) {
      return end;
    }
    throw error;
  }
}

/** Return a picture as RGBA without its padding. */
function rgba({ pixels, height, width }: Pictures, frame: number, shownWidth: number, shownHeight: number): ArrayBuffer {
  const made = new Uint8ClampedArray(shownWidth * shownHeight * 4);
  let to = 0;
  for (let row = 0; row < shownHeight; row++) {
    let from = ((frame * height + row) * width) * 3;
    for (let column = 0; column < shownWidth; column++, from += 3, to += 4) {
      made[to] = pixels[from];
      made[to + 1] = pixels[from + 1];
      made[to + 2] = pixels[from + 2];
      made[to + 3] = 255;
    }
  }
  return made.buffer;
}
