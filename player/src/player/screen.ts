/** Draws pictures into a canvas, turned and with square pixels. */

import type { FileInfo } from "./messages.ts";

export class Screen {
  private readonly pen: CanvasRenderingContext2D;
  private readonly stored: OffscreenCanvas;
  private readonly storedPen: OffscreenCanvasRenderingContext2D;
  private readonly direct: boolean;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly info: FileInfo,
  ) {
    const width = Math.max(1, Math.round(info.width * info.pixelAspect));
    const turned = Math.abs(info.rotation) % 180 === 90;
    canvas.width = turned ? info.height : width;
    canvas.height = turned ? width : info.height;
    this.direct = info.rotation % 360 === 0 && width === info.width;
    this.pen = canvas.getContext("2d", { willReadFrequently: false })!;
    this.stored = new OffscreenCanvas(info.width, info.height);
    this.storedPen = this.stored.getContext("2d")!;
  }

  draw(pixels: ArrayBuffer): void {
    const { info, pen, canvas } = this;
    const image = new ImageData(new Uint8ClampedArray(pixels), info.width, info.height);
    if (this.direct) {
      pen.putImageData(image, 0, 0);
      return;
    }
    this.storedPen.putImageData(image, 0, 0);
    pen.setTransform(1, 0, 0, 1, canvas.width / 2, canvas.height / 2);
    pen.rotate((-info.rotation * Math.PI) / 180);
    pen.scale(info.pixelAspect, 1);
    pen.drawImage(this.stored, -info.width / 2, -info.height / 2);
  }
}
