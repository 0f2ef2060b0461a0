/** How the frames of a group of pictures (GOP) map to latent frames. */

/** Frames, rows and columns of the video that one latent position stands for. */
export type Stride = readonly [number, number, number];

export class GopLayout {
  constructor(
    readonly stride: Stride,
    /** Rows and columns of the first latent frame of a GOP for each of a later one. */
    readonly firstGrid: readonly [number, number],
  ) {}

  /** The number of latent frames that hold the first frame of a GOP. */
  get phases(): number {
    return this.firstGrid[0] * this.firstGrid[1];
  }

  /** The number of repeated frames in front of a chunk, which is the first of its GOP or a later one. */
  filledFrames(first: boolean): number {
    return first ? this.stride[0] - 1 : 0;
  }

  /** The number of latent frames of a chunk of so many frames. */
  latents(frames: number, first: boolean): number {
    return Math.ceil((frames + this.filledFrames(first)) / this.stride[0]) + (first ? this.phases - 1 : 0);
  }

  /** The number of time steps of so many latent frames: all phases of a first latent frame count as one. */
  timeSteps(latents: number, first: boolean): number {
    return latents - (first ? this.phases - 1 : 0);
  }

  /** The number of frames in a chunk of so many time steps. */
  chunkFrames(steps: number, first: boolean): number {
    return steps * this.stride[0] - this.filledFrames(first);
  }

  /** The rows and columns of the latent grid of a picture. */
  grid(height: number, width: number): [number, number] {
    return [Math.ceil(height / this.stride[1]), Math.ceil(width / this.stride[2])];
  }
}
