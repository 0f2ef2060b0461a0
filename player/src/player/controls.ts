/** The screen and the controls of the element. All texts of a file are set as text, never as markup. */

import type { FileInfo } from "./messages.ts";

const STYLE = `
[hidden], :host([hidden]) { display: none !important; }
:host { display: block; max-width: 100%; font: 14px/1.4 system-ui, sans-serif; }
canvas { display: block; width: 100%; background: #000; }
.line { position: relative; height: 18px; }
.line input { position: absolute; inset: 0; width: 100%; margin: 0; }
.lost { position: absolute; top: 0; bottom: 0; min-width: 3px; background: #c62828; opacity: 0.6; pointer-events: none; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; padding: 4px 0; }
.bar .time { font-variant-numeric: tabular-nums; margin-right: auto; }
.bar label { display: flex; align-items: center; gap: 4px; }
.bar input[type="range"] { width: 80px; }
button { font: inherit; min-width: 4.5em; }
p { margin: 0; overflow-wrap: anywhere; }
:host(:fullscreen) { background: #000; color: #fff; display: flex; flex-direction: column; justify-content: center; }
:host(:fullscreen) canvas { object-fit: contain; flex: 1; min-height: 0; }
`;

/** The most damaged parts that are marked. */
const MAX_MARKS = 200;

/** What the user asks for. */
export interface Wishes {
  toggle(): void;
  seek(seconds: number): void;
  /** Go on or back by so many seconds, also before the picture of an earlier wish is there. */
  step(seconds: number): void;
  tokens(count: number): void;
  volume(volume: number): void;
  save(): void;
  full(): void;
}

export class Controls {
  readonly canvas = make("canvas", { tabIndex: 0, role: "button", ariaLabel: "Video: play or pause" });
  private readonly button = make("button", { textContent: "Play", disabled: true });
  private readonly line = make("input", { type: "range", min: "0", step: "0.01", value: "0", ariaLabel: "Time", disabled: true });
  private readonly lost = make("div", {});
  private readonly clock = make("span", { className: "time" });
  private readonly count = make("select", { ariaLabel: "Tokens per position" });
  private readonly loudness = make("input", { type: "range", min: "0", max: "1", step: "0.05", value: "1", ariaLabel: "Volume" });
  private readonly saving = make("button", { textContent: "Save as MP4", disabled: true });
  private readonly message = make("p", { role: "status" });
  private readonly withSound = make("label", { hidden: true });
  private info: FileInfo | null = null;
  private moving = false;
  /** The time of the picture that is shown, in seconds. */
  private now = 0;
  /** How long the file is, in seconds; null if it is not known. */
  private whole: number | null = null;
  /** The parts that are lost, by their times. */
  private readonly marks = new Map<string, { mark: HTMLElement; from: number; until: number | null }>();
  /** What is wrong with the file and stays so. */
  private noted = "";

  constructor(root: ShadowRoot, wishes: Wishes) {
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    root.adoptedStyleSheets = [style];
    const line = make("div", { className: "line" });
    line.append(this.lost, this.line);
    const bar = make("div", { className: "bar" });
    const tokens = make("label", {});
    tokens.append("Tokens", this.count);
    this.withSound.append("Volume", this.loudness);
    const full = make("button", { textContent: "Full screen" });
    bar.append(this.button, this.clock, tokens, this.withSound, this.saving, full);
    root.append(this.canvas, line, bar, this.message);

    this.button.onclick = this.canvas.onclick = () => wishes.toggle();
    const stepped = (event: KeyboardEvent) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) {
        event.preventDefault();
        wishes.step(step);
      }
    };
    this.canvas.onkeydown = (event) => {
      if (event.key === " " || event.key === "Enter") {
        event.preventDefault();
        wishes.toggle();
      }
      stepped(event);
    };
    // While the user moves the line, it does not follow the video.
    this.line.onpointerdown = this.line.oninput = () => (this.moving = true);
    this.line.onchange = () => {
      this.moving = false;
      wishes.seek(Number(this.line.value));
    };
    this.line.onpointerup = () => setTimeout(() => (this.moving = false));
    this.line.onpointercancel = this.line.onlostpointercapture = this.line.onblur = () => (this.moving = false);
    this.line.onkeydown = stepped;
    this.count.onchange = () => wishes.tokens(Number(this.count.value));
    this.loudness.oninput = () => wishes.volume(Number(this.loudness.value));
    this.saving.onclick = () => wishes.save();
    full.onclick = () => wishes.full();
  }

  reset(): void {
    this.info = null;
    this.whole = null;
    this.now = 0;
    this.noted = "";
    this.moving = false;
    this.lost.replaceChildren();
    this.marks.clear();
    this.clock.textContent = "";
    // This also clears it, however the last picture was turned.
    this.canvas.width = 300;
    this.button.disabled = this.line.disabled = this.saving.disabled = true;
    this.playing = false;
    this.say("");
  }

  opened(info: FileInfo): void {
    this.info = info;
    this.canvas.title = info.title ?? "";
    this.button.disabled = this.saving.disabled = false;
    this.withSound.hidden = !info.audio[0]?.config;
    this.count.replaceChildren(
      ...Array.from({ length: info.tokens }, (_, number) => make("option", { textContent: String(number + 1) })),
    );
    this.count.value = String(info.tokens);
    this.time = 0;
  }

  /** How long the file is, which is known later than the rest. */
  set duration(seconds: number) {
    this.whole = seconds;
    this.line.disabled = false;
    this.line.max = String(seconds);
    this.time = this.now;
    this.placeMarks();
  }

  set volume(volume: number) {
    this.loudness.value = String(volume);
  }

  set playing(playing: boolean) {
    this.button.textContent = playing ? "Pause" : "Play";
  }

  set tokens(count: number) {
    this.count.value = String(count);
  }

  set time(seconds: number) {
    this.now = seconds;
    if (!this.moving) {
      this.line.value = String(seconds);
      this.line.setAttribute("aria-valuetext", clock(seconds));
    }
    this.clock.textContent = this.whole ? `${clock(seconds)} / ${clock(this.whole)}` : clock(seconds);
  }

  /** Mark a part of the file as lost, and say why. */
  damage(message: string, from: number, until: number | null): void {
    const end = until === null ? "to its end" : `until ${clock(until)}`;
    this.say(`The file is damaged from ${clock(from)} ${end}: ${message}.`);
    const key = `${from.toFixed(1)} ${until}`;
    if (!this.marks.has(key) && this.marks.size < MAX_MARKS) {
      const mark = make("div", { className: "lost" });
      this.marks.set(key, { mark, from, until });
      this.lost.append(mark);
      this.placeMarks();
    }
  }

  private placeMarks(): void {
    const { whole } = this;
    for (const { mark, from, until } of this.marks.values()) {
      mark.hidden = !whole;
      mark.style.left = `${(100 * from) / (whole ?? 1)}%`;
      mark.style.width = `${(100 * ((until ?? whole ?? 1) - from)) / (whole ?? 1)}%`;
    }
  }

  /** Say something that is true until something else is said. */
  say(text: string): void {
    this.message.textContent = [text, this.noted].filter(Boolean).join(" ");
  }

  /** Say something that is true of the whole file. */
  note(text: string): void {
    this.noted = text;
    this.say("");
  }

  /** Keep the user from saving twice. */
  saves(): void {
    this.saving.disabled = true;
  }

  saved(): void {
    this.saving.disabled = !this.info;
  }
}

function make<K extends keyof HTMLElementTagNameMap>(
  name: K,
  members: Partial<HTMLElementTagNameMap[K]>,
): HTMLElementTagNameMap[K] {
  return Object.assign(document.createElement(name), members);
}

function clock(seconds: number): string {
  const tenths = Math.max(0, Math.floor(10 * seconds));
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}
