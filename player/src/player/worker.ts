/** The worker: it reads and decodes a file, so that no file can keep the page from answering. */

import type { AudioPacket } from "../container/records.ts";
import { BlobSource, openUrl } from "../container/source.ts";
import { OpenFile } from "./file.ts";
import type { FromWorker, SoundPacket, ToWorker } from "./messages.ts";
import { saveAsMp4 } from "./save.ts";

/** The most bytes of pictures that wait to be shown. */
const MAX_WAITING_BYTES = 1 << 27;
const MAX_WAITING_FRAMES = 64;
const MIN_WAITING_FRAMES = 8;
/** The most bytes of sound that wait; a second of the largest sound that players know takes a tenth. */
const MAX_WAITING_SOUND = 1 << 26;

const scope = self as unknown as DedicatedWorkerGlobalScopeLike;
interface DedicatedWorkerGlobalScopeLike {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}

let file: OpenFile | null = null;
/** The number of the run that is wanted; 0 for none. */
let wanted = 0;
/** The frames that were sent and not yet shown. */
let waiting = 0;
let wake: () => void = () => {};
/** The bytes of sound that were sent and still wait. */
let waitingSound = 0;
/** What is being done. Only one thing at a time uses the decoder. */
let work: Promise<void> = Promise.resolve();

scope.onmessage = ({ data }) => {
  switch (data.type) {
    case "open":
      begin(() => open(data.source, data.assets, data.engine));
      break;
    case "run":
      wanted = data.run;
      wake();
      begin(() => run(data.run, data.gop, data.tokens), data.run);
      break;
    case "shown":
      waiting -= data.frames;
      wake();
      break;
    case "heard":
      waitingSound -= data.bytes;
      break;
    case "save":
      wanted = 0;
      wake();
      begin(() => save(data.tokens));
      break;
  }
};

/** Do something after all that was begun before; if it fails, tell of which run that was. */
function begin(what: () => Promise<void>, run?: number): void {
  work = work.then(what).catch((error: unknown) => {
    const message = error instanceof Error ? error.message : String(error);
    scope.postMessage(run === undefined ? { type: "failed", message } : { type: "failed", run, message });
  });
}

async function open(source: Blob | string, assets: string, engine?: string): Promise<void> {
  file = await OpenFile.open(typeof source === "string" ? await openUrl(source) : new BlobSource(source), assets, engine);
  scope.postMessage({ type: "opened", info: file.info });
  // The end of the last frame stands in the last GOP, which may be long: the first picture does not wait for it. What
  // keeps it from being read is told when that GOP is decoded.
  void file.duration().then(
    (seconds) => seconds !== null && scope.postMessage({ type: "duration", seconds }),
    () => {},
  );
}

async function run(number: number, gop: number, tokens: number): Promise<void> {
  if (!file || number !== wanted) {
    return;
  }
  waiting = waitingSound = 0;
  const { width, height } = file.header;
  const fitting = Math.floor(MAX_WAITING_BYTES / (4 * width * height));
  const most = Math.min(MAX_WAITING_FRAMES, Math.max(MIN_WAITING_FRAMES, fitting));
  for await (const event of file.decode(gop, tokens)) {
    if (number !== wanted) {
      return;
    }
    switch (event.kind) {
      case "frames":
        waiting += event.frames.length;
        scope.postMessage(
          { type: "frames", run: number, frames: event.frames },
          event.frames.map(({ pixels }) => pixels),
        );
        break;
      case "sound":
        sendSound(file, number, event.packets);
        break;
      case "damage":
        scope.postMessage({ type: "damage", run: number, message: event.message, until: event.until });
        break;
      case "doubt":
        scope.postMessage({ type: "doubt", run: number, message: event.message });
        break;
      case "end":
        scope.postMessage({ type: "end", run: number, checked: event.checked });
        break;
    }
    while (waiting >= most && number === wanted) {
      await new Promise<void>((resolve) => (wake = resolve));
    }
    // Lets messages in.
    await new Promise((resolve) => setTimeout(resolve));
  }
}

/** Send the packets of the first track, unless too much sound waits already. */
function sendSound(from: OpenFile, run: number, packets: readonly AudioPacket[]): void {
  const own = packets.filter(({ track }) => track === 0).map((packet) => from.sound(packet));
  const fitting = own.filter((packet): packet is SoundPacket => {
    if (packet === null || waitingSound + packet.data.byteLength > MAX_WAITING_SOUND) {
      return false;
    }
    waitingSound += packet.data.byteLength;
    return true;
  });
  scope.postMessage({
    type: "sound",
    run,
    // A packet is a part of a record; only itself goes to the page.
    packets: fitting.map((packet) => ({ ...packet, data: packet.data.slice() })),
    isWhole: fitting.length === own.filter((packet) => packet !== null).length,
  });
}

async function save(tokens: number): Promise<void> {
  if (!file) {
    return;
  }
  let told = Number.NEGATIVE_INFINITY;
  const progress = (time: number) => {
    if (time >= told + 1) {
      told = time;
      scope.postMessage({ type: "saving", time });
    }
  };
  try {
    const saved = await saveAsMp4(file, tokens, progress, () => wanted !== 0);
    scope.postMessage(saved ? { type: "saved", ...saved } : { type: "unsaved", message: null });
  } catch (error) {
    scope.postMessage({ type: "unsaved", message: error instanceof Error ? error.message : String(error) });
  }
}
