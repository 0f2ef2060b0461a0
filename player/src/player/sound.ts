/** Plays the sound of a run: WebCodecs decodes the packets, Web Audio plays them when the clock says so. */

import type { SoundPacket } from "./messages.ts";

/** Web Audio and the clock of the pictures may drift apart by so many seconds before the sound jumps. */
const MAX_DRIFT = 0.06;
/** Packets are decoded so many seconds before they are heard. */
const AHEAD = 1.5;
/** Seconds between two packets from which on there is a gap. */
const MAX_GAP = 0.04;
/** After so many errors, the rest is silent. */
const MAX_FAILURES = 5;

export class Sound {
  private context: AudioContext | null = null;
  private gain: GainNode | null = null;
  private decoder: AudioDecoder | null = null;
  private readonly packets: SoundPacket[] = [];
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

  /** Take packets, in order. */
  add(packets: readonly SoundPacket[]): void {
    if (this.failures < MAX_FAILURES) {
      this.packets.push(...packets);
    }
  }

  /** Play on; `now` returns the seconds of the video. */
  start(now: () => number): void {
    this.now = now;
    this.offset = null;
    if (!this.context) {
      this.context = new AudioContext();
      this.gain = this.context.createGain();
      this.gain.gain.value = this.loudness;
      this.gain.connect(this.context.destination);
    }
    void this.context.resume();
  }

  stop(): void {
    void this.context?.suspend();
  }

  /** Forget all packets, and be silent. */
  clear(): void {
    this.packets.length = 0;
    for (const node of this.playing) {
      node.stop();
    }
    this.playing.clear();
    if (this.decoder && this.decoder.state !== "closed") {
      this.decoder.close();
    }
    this.decoder = null;
    this.end = Number.POSITIVE_INFINITY;
  }

  async close(): Promise<void> {
    this.clear();
    await this.context?.close();
  }

  /** Decode the packets that are heard soon. */
  feed(): void {
    // Until the browser lets sound be heard, packets wait.
    while (this.context?.state === "running" && this.packets.length && this.packets[0].time < this.now() + AHEAD) {
      const { time, duration, data } = this.packets.shift()!;
      if (time > this.end + MAX_GAP) {
        // A decoder numbers what it decodes from its first packet on, so that what follows a gap needs another one.
        this.finish();
      }
      // Without its duration, nobody knows whether a gap follows a packet.
      this.end = duration ? time + duration : Number.POSITIVE_INFINITY;
      // A late packet is decoded all the same, since the next ones may need it.
      try {
        this.open().decode(new EncodedAudioChunk({ type: "key", timestamp: Math.round(time * 1e6), data }));
      } catch (error) {
        this.fail(error);
      }
    }
  }

  private open(): AudioDecoder {
    if (!this.decoder) {
      this.decoder = new AudioDecoder({ output: (data) => this.play(data), error: (error) => this.fail(error) });
      this.decoder.configure(this.config);
    }
    return this.decoder;
  }

  /** Let the decoder end what it was given, and do without it from then on. */
  private finish(): void {
    const { decoder } = this;
    this.decoder = null;
    decoder?.flush().then(
      () => decoder.close(),
      () => {},
    );
  }

  private fail(error: unknown): void {
    this.decoder = null;
    if (++this.failures >= MAX_FAILURES) {
      this.packets.length = 0;
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
    const drift = context.currentTime - this.now();
    if (this.offset === null || Math.abs(drift - this.offset) > MAX_DRIFT) {
      this.offset = drift;
    }
    const begin = data.timestamp / 1e6 + this.offset;
    const late = Math.max(0, context.currentTime - begin);
    if (late < data.duration / 1e6) {
      const node = context.createBufferSource();
      node.buffer = bufferOf(data, context);
      node.connect(gain);
      node.start(begin + late, late);
      this.playing.add(node);
      node.onended = () => this.playing.delete(node);
    }
    data.close();
  }
}

function bufferOf(data: AudioData, context: AudioContext): AudioBuffer {
  const buffer = context.createBuffer(data.numberOfChannels, data.numberOfFrames, data.sampleRate);
  for (let channel = 0; channel < data.numberOfChannels; channel++) {
    data.copyTo(buffer.getChannelData(channel), { planeIndex: channel, format: "f32-planar" });
  }
  return buffer;
}
