/** What WebCodecs calls the audio codecs that FFmpeg names, and how it takes their parameters. */

import type { AudioTrack } from "../container/header.ts";
import { parseNut } from "./nut.ts";

const NAMES: Readonly<Record<string, string>> = {
  ac3: "ac-3",
  eac3: "ec-3",
  flac: "flac",
  mp3: "mp3",
  mp3float: "mp3",
  opus: "opus",
  pcm_alaw: "alaw",
  pcm_f32le: "pcm-f32",
  pcm_mulaw: "ulaw",
  pcm_s16le: "pcm-s16",
  pcm_s24le: "pcm-s24",
  pcm_s32le: "pcm-s32",
  pcm_u8: "pcm-u8",
  vorbis: "vorbis",
};
/** What stands in front of the stream information of FLAC: the mark of a file, and the header of its last block. */
const FLAC_PREFIX = Uint8Array.of(0x66, 0x4c, 0x61, 0x43, 0x80, 0, 0, 0x22);
const AAC_LC = 2;

/** Return the configuration with which WebCodecs decodes a track; null if it has no name for the codec. */
export function decoderConfig(track: AudioTrack): AudioDecoderConfig | null {
  const parameters = parseNut(track.parameters);
  const codec = track.codec === "aac" ? aacName(parameters?.extradata) : NAMES[track.codec];
  if (!codec || !parameters) {
    return null;
  }
  const { extradata, channels } = parameters;
  const described = codec === "flac" ? Uint8Array.of(...FLAC_PREFIX, ...extradata) : extradata;
  return {
    codec,
    sampleRate: track.sampleRate || parameters.sampleRate,
    numberOfChannels: channels,
    ...(described.length ? { description: described } : {}),
  };
}

function aacName(extradata?: Uint8Array): string {
  return `mp4a.40.${extradata?.length ? extradata[0] >> 3 || AAC_LC : AAC_LC}`;
}
