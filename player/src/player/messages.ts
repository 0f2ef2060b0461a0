/** What the page and its worker say to each other. */

/** What is known of a file before it is decoded. */
export interface FileInfo {
  readonly width: number;
  readonly height: number;
  /** The width of a pixel over its height. */
  readonly pixelAspect: number;
  /** Degrees counter-clockwise by which the picture is turned. */
  readonly rotation: number;
  /** Tokens per position. */
  readonly tokens: number;
  /** Seconds from the first frame to the start of each GOP; only the first if the file has no usable index. */
  readonly gops: readonly number[];
  readonly title: string | null;
  /** The tracks of sound, each with its configuration for WebCodecs if it has one. */
  readonly audio: readonly { readonly codec: string; readonly config: AudioDecoderConfig | null }[];
}

/** A picture that is ready to be shown. */
export interface ReadyFrame {
  /** Seconds from the first frame of the file. */
  readonly time: number;
  /** Seconds that it lasts; 0 if unknown. */
  readonly duration: number;
  /** RGBA. */
  readonly pixels: ArrayBuffer;
}

export interface SoundPacket {
  /** Seconds from the first frame of the file. */
  readonly time: number;
  /** Seconds that it lasts. */
  readonly duration: number;
  readonly data: Uint8Array;
}

export type ToWorker =
  | { readonly type: "open"; readonly source: Blob | string; readonly assets: string; readonly engine?: string }
  /** Decode from the start of a GOP. What an earlier run has not sent yet is dropped. */
  | { readonly type: "run"; readonly run: number; readonly gop: number; readonly tokens: number }
  /** So many frames of the run have been shown. */
  | { readonly type: "shown"; readonly frames: number }
  /** So many bytes of the run's sound do not wait any more. */
  | { readonly type: "heard"; readonly bytes: number }
  | { readonly type: "save"; readonly tokens: number };

export type FromWorker =
  | { readonly type: "opened"; readonly info: FileInfo }
  /** Seconds from the first frame to the end of the last. */
  | { readonly type: "duration"; readonly seconds: number }
  | { readonly type: "frames"; readonly run: number; readonly frames: readonly ReadyFrame[] }
  /** `isWhole` tells whether no sound was left out because too much of it waits. */
  | { readonly type: "sound"; readonly run: number; readonly packets: readonly SoundPacket[]; readonly isWhole: boolean }
  /** A part of the file is lost; the run goes on `until` that time, or has ended. */
  | { readonly type: "damage"; readonly run: number; readonly message: string; readonly until: number | null }
  /** The file is damaged where no frames are: in its sound, or in what follows the last frame. */
  | { readonly type: "doubt"; readonly run: number; readonly message: string }
  /** `checked` tells whether the whole file was read, and its digests are right. */
  | { readonly type: "end"; readonly run: number; readonly checked: boolean }
  | { readonly type: "saving"; readonly time: number }
  | { readonly type: "saved"; readonly file: Blob; readonly notice: string | null }
  /** There is no MP4 file; `message` says why, unless the page wanted something else before. */
  | { readonly type: "unsaved"; readonly message: string | null }
  /** Without a run, the file could not be opened. */
  | { readonly type: "failed"; readonly run?: number; readonly message: string };
