/** Loads ONNX Runtime: with WebGPU where the browser has a GPU, else on the processor. */

import type * as Ort from "onnxruntime-web";

export interface Runtime {
  readonly ort: typeof Ort;
  /** Where networks run. */
  readonly engine: "webgpu" | "wasm";
}

/**
 * Load ONNX Runtime.
 *
 * @param url The address of the folder `ort`, with a slash at its end.
 * @param engine Where networks shall run; by default on a GPU, if there is one.
 */
export async function loadRuntime(url: string, engine?: string): Promise<Runtime> {
  const gpu = engine !== "wasm" && (await navigator.gpu?.requestAdapter().catch(() => null));
  const name = gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  const ort = (await import(new URL(name, url).href)) as typeof Ort;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = url;
  // Threads share memory, which a browser allows only to pages that ask to be isolated from others.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.max(1, navigator.hardwareConcurrency || 1) : 1;
  return { ort, engine: gpu ? "webgpu" : "wasm" };
}
