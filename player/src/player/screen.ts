/** Draws pictures into a canvas, turned. The shape of their pixels is left to the style of the canvas. */

import type { FileInfo } from "./messages.ts";

/** The widest and the narrowest pixels that are shown as they are. */
const MAX_PIXEL_ASPECT = 16;

export class Screen {
  private readonly pen: CanvasRenderingContext2D;
  private readonly stored: OffscreenCanvas;
  private readonly storedPen: OffscreenCanvasRenderingContext2D;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly info: FileInfo,
  ) {
    const { width, height, rotation } = info;
    const aspect = Math.min(MAX_PIXEL_ASPECT, Math.max(1 / MAX_PIXEL_ASPECT, info.pixelAspect));
    const turned = Math.abs(rotation) % 180 === 90;
    [canvas.width, canvas.height] = turned ? [height, width] : [width, height];
    canvas.style.aspectRatio = turned ? `${height} / ${width * aspect}` : `${width * aspect} / ${height}`;
    this.pen = canvas.getContext("2d")!;
    this.stored = new OffscreenCanvas(width, height);
    this.storedPen = this.stored.getContext("2d")!;
  }

  draw(pixels: ArrayBuffer): void {
    const { info, pen, canvas } = this;
    const image = new ImageData(new Uint8ClampedArray(pixels), info.width, info.height);
    if (info.rotation % 360 === 0) {
      pen.putImageData(image, 0, 0);
      return;
    }
    this.storedPen.putImageData(image, 0, 0);
    pen.setTransform(1, 0, 0, 1, canvas.width / 2, canvas.height / 2);
    pen.rotate((-info.rotation * Math.PI) / 180);
    pen.drawImage(this.stored, -info.width / 2, -info.height / 2);
  }
}
