/**
 * The element `<vtok-player>`, which plays a `.vtk` file.
 *
 *     <script type="module" src="vtok-player.js"></script>
 *     <vtok-player src="clip.vtk"></vtok-player>
 *
 * Attributes: `src`, the address of the file; `autoplay`; `engine`, `wasm` to keep off the GPU. Properties and methods
 * are those of a `<video>` as far as it has them: `play()`, `pause()`, `currentTime`, `duration`, `paused`, `volume`;
 * `file` takes a file of the user's; `tokens` says how many tokens per position to decode. Events: `loadedmetadata`,
 * `durationchange`, `frame` (`detail.time`), `ended` (`detail.checked`), `damage` (`detail.message`, `detail.from`,
 * `detail.until`), `saved` (`detail.file`), `error` (`detail.message`).
 */

import { Controls } from "./controls.ts";
import type { FileInfo, ReadyFrame } from "./messages.ts";
import { type Listener, Playback } from "./playback.ts";
import { Screen } from "./screen.ts";

export class VtokPlayer extends HTMLElement implements Listener {
  static readonly observedAttributes = ["src"];
  private playback: Playback | null = null;
  private screen: Screen | null = null;
  private readonly controls: Controls;
  private wanted = false;
  private loudness = 1;
  private given: Blob | null = null;
  /** Where to begin, if that was said before the file was open. */
  private begin: number | null = null;
  private isDue = false;
  /** Whether the message is about what has ended: an error, or whether the file was whole. */
  private isVerdict = false;

  constructor() {
    super();
    this.controls = new Controls(this.attachShadow({ mode: "open" }), {
      toggle: () => (this.paused ? this.play() : this.pause()),
      seek: (seconds) => (this.currentTime = seconds),
      step: (seconds) => (this.currentTime += seconds),
      tokens: (count) => (this.tokens = count),
      volume: (volume) => (this.volume = volume),
      save: () => this.save(),
      full: () => void this.fill(),
    });
  }

  connectedCallback(): void {
    this.loadSoon();
  }

  disconnectedCallback(): void {
    this.playback?.close();
    this.playback = null;
  }

  attributeChangedCallback(): void {
    this.given = null;
    this.loadSoon();
  }

  /** A file of the user's, to play in place of `src`. */
  set file(file: Blob) {
    this.given = file;
    this.loadSoon();
  }

  play(): void {
    this.wanted = true;
    this.forget();
    this.playback?.play();
  }

  pause(): void {
    this.wanted = false;
    this.playback?.pause();
  }

  get paused(): boolean {
    return !this.playback?.playing;
  }

  get currentTime(): number {
    return this.begin ?? this.playback?.time ?? 0;
  }

  set currentTime(seconds: number) {
    const time = finite(seconds);
    if (this.playback?.info) {
      this.forget();
      this.playback.seek(time);
    } else {
      this.begin = time;
    }
  }

  /** Seconds; NaN until it is known, and if the file does not say. */
  get duration(): number {
    return this.playback?.seconds ?? Number.NaN;
  }

  get tokens(): number {
    return this.playback?.tokens ?? 0;
  }

  set tokens(count: number) {
    const wanted = Math.max(1, Math.round(finite(count)));
    if (this.playback?.info) {
      this.playback.tokens = Math.min(wanted, this.playback.info.tokens);
      this.controls.tokens = this.playback.tokens;
      this.playback.seek(this.currentTime);
    }
  }

  get volume(): number {
    return this.loudness;
  }

  set volume(volume: number) {
    this.loudness = Math.min(1, Math.max(0, finite(volume)));
    this.controls.volume = this.loudness;
    if (this.playback) {
      this.playback.volume = this.loudness;
    }
  }

  /** The canvas in which the pictures are drawn. */
  get canvas(): HTMLCanvasElement {
    return this.controls.canvas;
  }

  opened(info: FileInfo): void {
    this.screen = new Screen(this.controls.canvas, info);
    this.controls.opened(info);
    this.controls.say("");
    this.playback!.volume = this.loudness;
    if (this.begin !== null) {
      this.playback!.seek(this.begin);
      this.begin = null;
    }
    this.tell("loadedmetadata");
    if (this.wanted || this.hasAttribute("autoplay")) {
      this.playback!.play();
    }
  }

  measured(seconds: number): void {
    this.controls.duration = seconds;
    this.tell("durationchange");
  }

  frame(frame: ReadyFrame): void {
    this.screen?.draw(frame.pixels);
    this.controls.time = frame.time;
    this.tell("frame", { time: frame.time });
  }

  damage(message: string, from: number, until: number | null): void {
    this.controls.damage(message, from, until);
    this.tell("damage", { message, from, until });
  }

  doubt(message: string): void {
    this.judge(`The file is damaged, though no frame is missing: ${message}.`);
    this.tell("damage", { message, from: null, until: null });
  }

  changed(): void {
    this.controls.playing = this.playback?.playing ?? false;
  }

  ended(checked: boolean): void {
    this.wanted = false;
    if (checked) {
      this.judge("The file is whole: all its checksums are right.");
    }
    this.tell("ended", { checked });
  }

  saving(time: number): void {
    this.controls.say(`Writing the MP4 file: ${time.toFixed(1)} s`);
  }

  saved(file: Blob, notice: string | null): void {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${this.name}.mp4`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.controls.saved();
    this.controls.say(notice ?? "");
    this.tell("saved", { file });
  }

  unsaved(message: string | null): void {
    this.controls.saved();
    this.controls.say(message === null ? "Saving has ended, since the video went on." : `No MP4 file could be saved: ${message}`);
  }

  notice(message: string): void {
    this.controls.note(message);
  }

  failed(message: string): void {
    this.begin = null;
    this.judge(`This file cannot be played: ${message}`);
    this.tell("error", { message });
  }

  /** Say something that is true until the video goes on. */
  private judge(text: string): void {
    this.controls.say(text);
    this.isVerdict = true;
  }

  private forget(): void {
    if (this.isVerdict) {
      this.controls.say("");
    }
    this.isVerdict = false;
  }

  private save(): void {
    this.controls.saves();
    this.playback?.save();
  }

  /** The name of the file without its suffix. */
  private get name(): string {
    if (this.given) {
      return this.given instanceof File ? withoutSuffix(this.given.name) : "video";
    }
    const { pathname } = new URL(this.getAttribute("src") ?? "", document.baseURI);
    try {
      return withoutSuffix(decodeURIComponent(pathname));
    } catch {
      return withoutSuffix(pathname);
    }
  }

  private async fill(): Promise<void> {
    try {
      if (document.fullscreenElement) {
        await document.exitFullscreen();
      } else {
        await this.requestFullscreen();
      }
    } catch (error) {
      this.controls.say(`The browser does not fill the screen: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  /** Load once, whatever else is set before the page goes on. */
  private loadSoon(): void {
    if (this.isDue) {
      return;
    }
    this.isDue = true;
    queueMicrotask(() => {
      this.isDue = false;
      if (this.isConnected) {
        this.load();
      }
    });
  }

  private load(): void {
    this.playback?.close();
    this.playback = null;
    this.screen = null;
    this.controls.reset();
    const source = this.given ?? this.getAttribute("src");
    if (!source) {
      return;
    }
    try {
      const url = typeof source === "string" ? new URL(source, document.baseURI).href : source;
      const assets = new URL(".", import.meta.url).href;
      const worker = new Worker(new URL("vtok-worker.js", assets), { type: "module" });
      this.playback = new Playback(worker, this);
      this.playback.open(url, assets, this.getAttribute("engine") ?? undefined);
      this.controls.say("Loading…");
    } catch (error) {
      this.failed(error instanceof Error ? error.message : String(error));
    }
  }

  private tell(type: string, detail?: unknown): void {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Return the last part of a path without the suffix of a `.vtk` file. */
function withoutSuffix(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1).replace(/\.(vtk|vtok)$/, "") || "video";
}

/** @throws TypeError It is no number, as a `<video>` says. */
function finite(value: number): number {
  if (!Number.isFinite(Number(value))) {
    throw new TypeError(`${value} is not a number`);
  }
  return Number(value);
}

customElements.define("vtok-player", VtokPlayer);
