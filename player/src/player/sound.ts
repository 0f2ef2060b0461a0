/** Plays the sound of a run: WebCodecs decodes the packets, Web Audio plays them when the clock says so. */

import type { SoundPacket } from "./messages.ts";

/** Web Audio and the clock of the pictures may drift apart by so many seconds before the sound jumps. */
const MAX_DRIFT = 0.06;
/** Packets are decoded so many seconds before they are heard. */
const AHEAD = 1.5;
/** Seconds between two packets from which on there is a gap. */
const MAX_GAP = 0.04;
/** Packets that are so many seconds late are dropped; those that are less late help to decode the next ones. */
const MAX_LATE = 2;
/** At most so many packets are handed to the decoder at once, and wait in it, so that the page can go on. */
const MAX_AT_ONCE = 64;
/** At most so many pieces of sound wait to be heard; an honest file has a hundred in two seconds. */
const MAX_PLAYING = 1024;
/** After so many errors, the rest is silent. */
const MAX_FAILURES = 5;

export class Sound {
  private context: AudioContext | null = null;
  private gain: GainNode | null = null;
  /** The decoder that takes packets. */
  private decoder: AudioDecoder | null = null;
  /** All decoders, of which some only end what they were given. */
  private readonly open = new Set<AudioDecoder>();
  private readonly packets: SoundPacket[] = [];
  /** How many of the packets have been decoded. */
  private fed = 0;
  private readonly playing = new Set<AudioBufferSourceNode>();
  /** Seconds of the context less those of the video. */
  private offset: number | null = null;
  private now: () => number = () => 0;
  private loudness = 1;
  /** When the last packet that was decoded ends. */
  private end = Number.POSITIVE_INFINITY;
  private failures = 0;

  /**
   * @param config The configuration of the track for WebCodecs.
   * @param failed Called with what is wrong if the browser cannot decode it.
   */
  constructor(
    private readonly config: AudioDecoderConfig,
    private readonly failed: (message: string) => void,
  ) {}

  set volume(volume: number) {
    this.loudness = volume;
    if (this.gain) {
      this.gain.gain.value = volume;
    }
  }

  /**
   * Take packets, in order.
   *
   * @returns Whether they wait to be heard.
   */
  add(packets: readonly SoundPacket[]): boolean {
    if (this.failures >= MAX_FAILURES) {
      return false;
    }
    for (const packet of packets) {
      this.packets.push(packet);
    }
    return true;
  }

  /** Get ready to be heard. Some browsers allow sound only while they handle what the user did. */
  wake(): void {
    if (!this.context) {
      this.context = new AudioContext();
      this.gain = this.context.createGain();
      this.gain.gain.value = this.loudness;
      this.gain.connect(this.context.destination);
    }
    // A context that is closed before it could begin says so.
    this.context.resume().catch(() => {});
  }

  /** Play on; `now` returns the seconds of the video. */
  start(now: () => number): void {
    this.now = now;
    this.offset = null;
    this.wake();
  }

  stop(): void {
    this.context?.suspend().catch(() => {});
  }

  /** Forget all packets, and be silent. */
  clear(): void {
    this.packets.length = this.fed = 0;
    for (const node of this.playing) {
      node.stop();
    }
    this.playing.clear();
    for (const decoder of this.open) {
      close(decoder);
    }
    this.open.clear();
    this.decoder = null;
    this.end = Number.POSITIVE_INFINITY;
  }

  async close(): Promise<void> {
    this.clear();
    await this.context?.close();
  }

  /**
   * Decode the packets that are heard soon.
   *
   * @returns The bytes of the packets that no longer wait.
   */
  feed(): number {
    let bytes = 0;
    // Packets wait until the browser lets sound be heard, but not when their time has passed.
    while (this.fed < this.packets.length && this.packets[this.fed].time < this.now() - MAX_LATE) {
      bytes += this.packets[this.fed++].data.byteLength;
    }
    for (let count = 0; count < MAX_AT_ONCE && this.context?.state === "running" && this.isDue(); count++) {
      const { time, duration, data } = this.packets[this.fed++];
      bytes += data.byteLength;
      if (time > this.end + MAX_GAP) {
        // A decoder numbers what it decodes from its first packet on, so that what follows a gap needs another one.
        this.finish();
      }
      // Without its duration, nobody knows whether a gap follows a packet.
      this.end = duration ? time + duration : Number.POSITIVE_INFINITY;
      this.decode(time, data);
    }
    if (2 * this.fed > this.packets.length) {
      this.packets.splice(0, this.fed);
      this.fed = 0;
    }
    return bytes;
  }

  /** Return whether the next packet is heard soon, and the decoder can take it. */
  private isDue(): boolean {
    const next = this.packets[this.fed];
    const busy = (this.decoder?.decodeQueueSize ?? 0) >= MAX_AT_ONCE || this.playing.size >= MAX_PLAYING;
    return next !== undefined && next.time < this.now() + AHEAD && !busy;
  }

  /** Decode a packet. A late one is decoded all the same, since the next ones may need it. */
  private decode(time: number, data: Uint8Array): void {
    this.decoder ??= this.newDecoder();
    const { decoder } = this;
    try {
      if (decoder.state === "unconfigured") {
        decoder.configure(this.config);
      }
      decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: Math.round(time * 1e6), data }));
    } catch (error) {
      this.fail(decoder, error);
    }
  }

  private newDecoder(): AudioDecoder {
    const decoder: AudioDecoder = new AudioDecoder({
      output: (data) => this.play(data),
      error: (error) => this.fail(decoder, error),
    });
    this.open.add(decoder);
    return decoder;
  }

  /** Let the decoder end what it was given, and do without it from then on. */
  private finish(): void {
    const { decoder } = this;
    this.decoder = null;
    decoder
      ?.flush()
      .catch(() => {})
      .then(() => this.drop(decoder));
  }

  private drop(decoder: AudioDecoder): void {
    close(decoder);
    this.open.delete(decoder);
  }

  private fail(decoder: AudioDecoder, error: unknown): void {
    this.drop(decoder);
    if (decoder === this.decoder) {
      this.decoder = null;
    }
    if (++this.failures >= MAX_FAILURES) {
      this.packets.length = this.fed = 0;
    }
    if (this.failures === 1) {
      this.failed(`The browser cannot decode the sound: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  private play(data: AudioData): void {
    const { context, gain } = this;
    if (!context || !gain || context.state !== "running") {
      data.close();
      return;
    }
    try {
      this.schedule(data, context, gain);
    } catch (error) {
      // Browsers play no rates below 3,000 Hz or above 768,000 Hz.
      this.failed(`The browser cannot play the sound: ${error instanceof Error ? error.message : String(error)}`);
      this.failures = MAX_FAILURES;
    } finally {
      data.close();
    }
  }

  /** Let a piece of sound be heard when its time comes. */
  private schedule(data: AudioData, context: AudioContext, gain: GainNode): void {
    const drift = context.currentTime - this.now();
    if (this.offset === null || Math.abs(drift - this.offset) > MAX_DRIFT) {
      this.offset = drift;
    }
    // Wireless loudspeakers are late by what the browser knows.
    const begin = data.timestamp / 1e6 + this.offset - (context.outputLatency || 0);
    const late = Math.max(0, context.currentTime - begin);
    if (late < data.duration / 1e6) {
      const node = context.createBufferSource();
      node.buffer = bufferOf(data, context);
      node.connect(gain);
      node.start(begin + late, late);
      this.playing.add(node);
      node.onended = () => this.playing.delete(node);
    }
  }
}

function close(decoder: AudioDecoder): void {
  if (decoder.state !== "closed") {
    decoder.close();
  }
}

function bufferOf(data: AudioData, context: AudioContext): AudioBuffer {
  const buffer = context.createBuffer(data.numberOfChannels, data.numberOfFrames, data.sampleRate);
  for (let channel = 0; channel < data.numberOfChannels; channel++) {
    data.copyTo(buffer.getChannelData(channel), { planeIndex: channel, format: "f32-planar" });
  }
  return buffer;
}
