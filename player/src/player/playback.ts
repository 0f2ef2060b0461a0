/** Plays a file: it keeps the worker busy, shows each picture when its time has come, and tells what happens. */

import { Clock } from "./clock.ts";
import type { FileInfo, FromWorker, ReadyFrame, SoundPacket, ToWorker } from "./messages.ts";
import { Sound } from "./sound.ts";

/** After the pictures have run out, playing goes on with so many. */
const ENOUGH_FRAMES = 8;
/** If nothing could be shown for so many seconds, playing goes on where it stopped. */
const MAX_PAUSE = 0.5;

/** Who wants to know what happens. */
export interface Listener {
  opened(info: FileInfo): void;
  /** It is known how long the file is. */
  measured(seconds: number): void;
  frame(frame: ReadyFrame): void;
  /** A part of the file is lost, up to some time or to its end. */
  damage(message: string, from: number, until: number | null): void;
  /** The file is damaged where no frames are. */
  doubt(message: string): void;
  changed(): void;
  ended(checked: boolean): void;
  saving(time: number): void;
  saved(file: Blob, notice: string | null): void;
  /** No file was saved; null if the user wanted something else before. */
  unsaved(message: string | null): void;
  notice(message: string): void;
  failed(message: string): void;
}

export class Playback {
  info: FileInfo | null = null;
  /** Seconds from the first frame to the end of the last; null while it is not known. */
  seconds: number | null = null;
  private readonly clock = new Clock();
  private sound: Sound | null = null;
  private readonly frames: ReadyFrame[] = [];
  private run = 0;
  private wanted = false;
  /** Nothing is shown before this time, since a run begins where a GOP does. */
  private from = 0;
  private shown: ReadyFrame | null = null;
  /** The frame that stands on the screen; the one that was `shown` last may only have been passed. */
  private drawn: ReadyFrame | null = null;
  private complete = false;
  private checked = false;
  private starved = true;
  private finished = false;
  private tick = 0;
  /** The time of the video when something was last shown. */
  private seen = 0;
  private count = 0;

  constructor(
    private readonly worker: Worker,
    private readonly listener: Listener,
  ) {
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.receive(data);
    worker.onerror = (event) => listener.failed(event.message || "the player's worker cannot be loaded");
    this.tick = requestAnimationFrame(() => this.step());
  }

  open(source: Blob | string, assets: string, engine?: string): void {
    this.send({ type: "open", source, assets, engine });
  }

  close(): void {
    cancelAnimationFrame(this.tick);
    this.worker.terminate();
    void this.sound?.close();
  }

  get playing(): boolean {
    return this.wanted;
  }

  get time(): number {
    return Math.max(this.from, this.clock.now);
  }

  /** Tokens per position to decode. */
  tokens = 0;

  set volume(volume: number) {
    if (this.sound) {
      this.sound.volume = volume;
    }
  }

  play(): void {
    if (!this.info) {
      return;
    }
    this.wanted = true;
    this.sound?.wake();
    if (this.finished || !this.run) {
      this.seek(this.finished ? 0 : this.from);
    }
    this.listener.changed();
  }

  pause(): void {
    this.wanted = false;
    this.hold();
    this.listener.changed();
  }

  /** Show the picture of some time, and play from there if playing. */
  seek(seconds: number): void {
    if (!this.info) {
      return;
    }
    const { gops } = this.info;
    this.from = Math.max(0, this.seconds === null ? seconds : Math.min(seconds, this.seconds));
    this.frames.length = 0;
    this.complete = this.finished = false;
    this.starved = true;
    this.shown = this.drawn = null;
    this.hold();
    this.clock.set(this.from);
    this.sound?.clear();
    const gop = Math.max(0, gops.findLastIndex((begin) => begin <= this.from + 1e-6));
    this.run = ++this.count;
    this.send({ type: "run", run: this.run, gop, tokens: this.tokens });
    this.listener.changed();
  }

  save(): void {
    this.pause();
    // The worker stops what it decodes for the screen, so that playing on starts anew.
    this.from = this.time;
    this.run = 0;
    this.send({ type: "save", tokens: this.tokens });
  }

  private send(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  private receive(message: FromWorker): void {
    if ("run" in message && message.run !== this.run) {
      return;
    }
    switch (message.type) {
      case "opened":
        this.info = message.info;
        this.tokens = message.info.tokens;
        this.openSound(message.info);
        this.seek(0);
        this.listener.opened(message.info);
        break;
      case "duration":
        this.seconds = message.seconds;
        this.listener.measured(message.seconds);
        break;
      case "frames":
        this.take(message.frames);
        break;
      case "sound":
        this.hear(message.packets);
        if (!message.isWhole) {
          this.listener.notice("The file has so much sound that a part of it is left out.");
        }
        break;
      case "damage":
        this.complete ||= message.until === null;
        this.listener.damage(message.message, this.frames.at(-1)?.time ?? this.shown?.time ?? this.from, message.until);
        break;
      case "doubt":
        this.listener.doubt(message.message);
        break;
      case "end":
        this.complete = true;
        this.checked = message.checked;
        break;
      case "saving":
        this.listener.saving(message.time);
        break;
      case "saved":
        this.listener.saved(message.file, message.notice);
        break;
      case "unsaved":
        this.listener.unsaved(message.message);
        break;
      case "failed":
        this.pause();
        // Playing on begins anew.
        this.from = this.time;
        this.run = 0;
        this.listener.failed(message.message);
        break;
    }
  }

  private openSound(info: FileInfo): void {
    const track = info.audio[0];
    if (track?.config) {
      this.sound = new Sound(track.config, (text) => this.listener.notice(text));
    } else if (track) {
      this.listener.notice(`This player knows no sound in ${track.codec}; the video plays without it.`);
    }
  }

  /** Keep frames until they are due; those before the time that was asked for only count as shown. */
  private take(frames: readonly ReadyFrame[]): void {
    const early = frames.filter(({ time, duration }) => time + Math.max(duration, 1e-3) <= this.from + 1e-6);
    this.frames.push(...frames.slice(early.length));
    if (early.length) {
      this.send({ type: "shown", frames: early.length });
      // The last frame stays however long it lasts.
      this.shown = early[early.length - 1];
    }
  }

  /** Keep the packets that are heard from the time that was asked for on. */
  private hear(packets: readonly SoundPacket[]): void {
    const kept = packets.filter(({ time }) => time > this.from - 0.1);
    const waits = this.sound?.add(kept) ? bytesOf(kept) : 0;
    this.heard(bytesOf(packets) - waits);
  }

  private heard(bytes: number): void {
    if (bytes) {
      this.send({ type: "heard", bytes });
    }
  }

  private hold(): void {
    this.clock.stop();
    this.sound?.stop();
  }

  /** Do what is due, once for every picture of the screen. */
  private step(): void {
    this.tick = requestAnimationFrame(() => this.step());
    if (!this.info || !this.run) {
      return;
    }
    this.showFirst();
    if (!this.wanted || this.finished) {
      return;
    }
    this.starved &&= this.frames.length < ENOUGH_FRAMES && !this.complete;
    if (this.starved) {
      return;
    }
    if (!this.clock.running) {
      this.seen = this.clock.now;
      this.clock.start();
      this.sound?.start(() => this.clock.now);
    }
    if (this.clock.now > this.seen + MAX_PAUSE) {
      // The page was hidden, or the machine asleep.
      this.clock.set(this.seen);
    }
    this.heard(this.sound?.feed() ?? 0);
    const now = this.clock.now;
    this.seen = now;
    const due = this.frames.findIndex(({ time }) => time > now);
    this.show(due < 0 ? this.frames.length : due);
    if (this.frames.length) {
      return;
    }
    if (!this.complete) {
      this.starved = true;
      this.hold();
    } else if (!this.shown || now >= this.shown.time + this.shown.duration) {
      this.end();
    }
  }

  /** Show the picture of the time that was asked for as soon as it is there. */
  private showFirst(): void {
    const pending = this.frames[0];
    if (pending && pending.time <= this.from + 1e-6 && this.shown?.time !== pending.time) {
      this.show(1);
    } else if (pending && !this.shown) {
      this.clock.set(Math.max(this.clock.now, Math.min(pending.time, this.from)));
      this.show(1);
    } else if (pending && this.shown && !this.drawn && pending.time > this.from) {
      // The time lies in a gap: the picture before it stays.
      this.draw(this.shown);
    } else if (this.complete && !pending && this.shown && !this.finished && !this.wanted) {
      this.draw(this.shown);
      this.finished = true;
    }
  }

  /** Show the last of so many frames, and drop those before it. */
  private show(count: number): void {
    if (!count) {
      return;
    }
    const gone = this.frames.splice(0, count);
    this.shown = gone[count - 1];
    this.send({ type: "shown", frames: count });
    this.draw(this.shown);
  }

  private draw(frame: ReadyFrame): void {
    this.drawn = frame;
    this.listener.frame(frame);
  }

  private end(): void {
    this.hold();
    this.finished = true;
    this.wanted = false;
    if (this.shown && this.shown !== this.drawn) {
      this.draw(this.shown);
    }
    this.listener.ended(this.checked);
    this.listener.changed();
  }
}

function bytesOf(packets: readonly SoundPacket[]): number {
  return packets.reduce((bytes, { data }) => bytes + data.byteLength, 0);
}
