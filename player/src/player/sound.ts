/** Plays the sound of a run: WebCodecs decodes the packets, Web Audio plays them when the clock says so. */

import type { SoundPacket } from "./messages.ts";

/** Web Audio and the clock of the pictures may drift apart by so many seconds before the sound jumps. */
const MAX_DRIFT = 0.06;
/** Packets are decoded so many seconds before they are heard. */
const AHEAD = 1.5;

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
    this.packets.push(...packets);
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
  }

  async close(): Promise<void> {
    this.clear();
    await this.context?.close();
  }

  /** Decode the packets that are heard soon. */
  feed(): void {
    while (this.context && this.packets.length && this.packets[0].time < this.now() + AHEAD) {
      const { time, data } = this.packets.shift()!;
      // A late packet is decoded all the same, since the next ones may need it.
      try {
        this.open().decode(new EncodedAudioChunk({ type: "key", timestamp: Math.round(time * 1e6), data }));
      } catch (error) {
        this.fail(error);
        return;
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

  private fail(error: unknown): void {
    this.packets.length = 0;
    this.failed(`The browser cannot decode the sound: ${error instanceof Error ? error.message : String(error)}`);
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
