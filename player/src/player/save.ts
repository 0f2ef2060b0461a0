/** Writes what a file decodes to as an MP4 file: H.264 by WebCodecs, and the sound as it is. */

import {
  type AudioCodec,
  BufferTarget,
  EncodedAudioPacketSource,
  EncodedPacket,
  Mp4OutputFormat,
  Output,
  Quality,
  VideoSample,
  VideoSampleSource,
} from "mediabunny";

import type { AudioPacket } from "../container/records.ts";
import type { OpenFile } from "./file.ts";
import type { ReadyFrame } from "./messages.ts";

/** The sound that MP4 files hold, by FFmpeg's names. */
const CODECS: Readonly<Record<string, AudioCodec>> = {
  aac: "aac",
  ac3: "ac3",
  eac3: "eac3",
  flac: "flac",
  mp3: "mp3",
  mp3float: "mp3",
  opus: "opus",
  vorbis: "vorbis",
};
/** The quantizer of H.264, which adds hardly any error to that of the tokens. */
const QUANTIZER = 16;
const RIGHT_ANGLES = [0, 90, 180, 270] as const;

/** An MP4 file, and what it lacks. */
export interface SavedFile {
  readonly file: Blob;
  readonly notice: string | null;
}

/**
 * Decode a file and write it as MP4.
 *
 * @param file The file.
 * @param tokens How many tokens per position to use.
 * @param progress Called with the seconds that are done.
 * @param isCancelled Whether the file is not wanted any more.
 * @returns The file; null if it was cancelled.
 * @throws Error The browser cannot encode H.264, or the file cannot be read.
 */
export async function saveAsMp4(
  file: OpenFile,
  tokens: number,
  progress: (time: number) => void,
  isCancelled: () => boolean,
): Promise<SavedFile | null> {
  const target = new BufferTarget();
  const output = new Output({ format: new Mp4OutputFormat(), target });
  const { width, height } = file.header;
  // Encoders that take no quantizer get a bit rate.
  const quality = new Quality({ quantizer: QUANTIZER, bitrate: Math.max(1_000_000, 8 * width * height) });
  const video = new VideoSampleSource({ codec: "avc", quality });
  const rotation = RIGHT_ANGLES.find((angle) => (file.header.rotation + angle) % 360 === 0) ?? 0;
  output.addVideoTrack(video, { rotation });
  const tracks = file.info.audio.map((track) => (CODECS[track.codec] && track.config ? new Track(track) : null));
  for (const track of tracks) {
    if (track) {
      output.addAudioTrack(track.source);
    }
  }
  const notices = file.info.audio
    .filter((_, number) => !tracks[number])
    .map(({ codec }) => `MP4 files cannot hold sound in ${codec}; it is left out.`);
  if (file.header.rotation % 90 !== 0) {
    notices.push(`The rotation by ${file.header.rotation} degrees is not saved.`);
  }
  const [over, under] = file.header.sar;
  if (over !== under) {
    notices.push(`The shape of a pixel, ${over}:${under}, is not saved.`);
  }
  try {
    await output.start();
    for await (const event of file.decode(0, tokens)) {
      if (isCancelled()) {
        await output.cancel();
        return null;
      }
      if (event.kind === "frames") {
        for (const frame of event.frames) {
          await addFrame(video, sampleOf(frame, width, height));
          progress(frame.time);
        }
      } else if (event.kind === "sound") {
        for (const packet of event.packets) {
          await tracks[packet.track]?.add(packet, file);
        }
      } else if (event.kind === "damage") {
        notices.push(`The file is damaged; frames are missing: ${event.message}.`);
      } else if (event.kind === "doubt") {
        notices.push(`All frames are there, but the file is damaged: ${event.message}.`);
      }
    }
    await output.finalize();
  } catch (error) {
    // Ends the encoder, which the browser would keep.
    await output.cancel().catch(() => {});
    throw error;
  }
  if (!target.buffer) {
    throw new Error("the browser wrote no file");
  }
  return { file: new Blob([target.buffer], { type: "video/mp4" }), notice: notices.join(" ") || null };
}

async function addFrame(video: VideoSampleSource, sample: VideoSample): Promise<void> {
  try {
    await video.add(sample);
  } finally {
    sample.close();
  }
}

/** A track of sound, whose packets are copied. */
class Track {
  readonly source: EncodedAudioPacketSource;
  private readonly config: AudioDecoderConfig;

  constructor(track: { readonly codec: string; readonly config: AudioDecoderConfig | null }) {
    this.source = new EncodedAudioPacketSource(CODECS[track.codec]);
    this.config = track.config!;
  }

  async add(packet: AudioPacket, file: OpenFile): Promise<void> {
    const sound = file.sound(packet);
    // MP4 files as most programs read them begin at 0.
    if (sound && sound.time >= 0) {
      const [over, under] = file.header.audio[packet.track].timeBase;
      const duration = (Number(packet.duration) * over) / under;
      const encoded = new EncodedPacket(sound.data, "key", sound.time, duration);
      await this.source.add(encoded, { decoderConfig: this.config });
    }
  }
}

/** Return a frame for the encoder, whose sides must be even: the last row and column are repeated where they are not. */
function sampleOf(frame: ReadyFrame, width: number, height: number): VideoSample {
  const [evenWidth, evenHeight] = [width + (width % 2), height + (height % 2)];
  let pixels = new Uint32Array(frame.pixels);
  if (evenWidth !== width || evenHeight !== height) {
    const from = pixels;
    pixels = new Uint32Array(evenWidth * evenHeight);
    for (let row = 0; row < evenHeight; row++) {
      const begin = Math.min(row, height - 1) * width;
      pixels.set(from.subarray(begin, begin + width), row * evenWidth);
      pixels[(row + 1) * evenWidth - 1] = from[begin + width - 1];
    }
  }
  return new VideoSample(new Uint8Array(pixels.buffer), {
    format: "RGBX",
    codedWidth: evenWidth,
    codedHeight: evenHeight,
    timestamp: frame.time,
    duration: frame.duration,
  });
}
