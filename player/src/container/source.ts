/** Where the bytes of a file come from: memory, a file of the user's, or a web server. */

import { DamageError } from "../errors.ts";

/** Bytes at known places. */
export interface Source {
  /** The size in bytes. */
  readonly size: number;
  /** Return the bytes from `begin` up to `end`, as far as the source has them. */
  read(begin: number, end: number): Promise<Uint8Array>;
}

export class BytesSource implements Source {
  constructor(private readonly bytes: Uint8Array) {}

  get size(): number {
    return this.bytes.length;
  }

  async read(begin: number, end: number): Promise<Uint8Array> {
    return this.bytes.subarray(begin, end);
  }
}

export class BlobSource implements Source {
  constructor(private readonly blob: Blob) {}

  get size(): number {
    return this.blob.size;
  }

  async read(begin: number, end: number): Promise<Uint8Array> {
    return new Uint8Array(await this.blob.slice(begin, end).arrayBuffer());
  }
}

/** A file on a web server that answers range requests. */
class RangeSource implements Source {
  constructor(
    private readonly url: string,
    readonly size: number,
    private readonly version: string | null,
  ) {}

  async read(begin: number, end: number): Promise<Uint8Array> {
    const last = Math.min(end, this.size) - 1;
    if (begin > last) {
      return new Uint8Array();
    }
    const got = await again(() => load(this.url, { Range: `bytes=${begin}-${last}` }));
    if (!got) {
      throw new Error(`the connection to ${new URL(this.url).host} was lost; play on to try again`);
    }
    const { answer, data } = got;
    if (answer.status !== 206 || data.length !== last - begin + 1 || versionOf(answer) !== this.version) {
      throw new Error(`${this.url} changed while it was read, or its server stopped answering: ${answer.status}`);
    }
    return data;
  }
}

/**
 * Open a file on a web server. It is fetched whole if the server knows no ranges, or is another site's and does not let
 * this one read `Content-Range`.
 *
 * @throws Error The server does not send it.
 */
export async function openUrl(url: string): Promise<Source> {
  const { answer, data: begin } = await get(url, { Range: `bytes=0-${BLOCK - 1}` });
  if (answer.status !== 206) {
    return new BytesSource(begin);
  }
  const size = Number(/\/(\d+)$/.exec(answer.headers.get("Content-Range") ?? "")?.[1] ?? Number.NaN);
  if (size === begin.length) {
    return new BytesSource(begin);
  }
  if (size > begin.length) {
    return new RangeSource(url, size, versionOf(answer));
  }
  return new BytesSource((await get(url)).data);
}

/** What a server answers, and all bytes of it: a connection may also be lost while they come. */
interface Answer {
  readonly answer: Response;
  readonly data: Uint8Array;
}

async function load(url: string, headers: Record<string, string>): Promise<Answer> {
  const answer = await fetch(url, { headers });
  return { answer, data: new Uint8Array(await answer.arrayBuffer()) };
}

/** Ask again after a while if there is no connection; null if there is none after all. */
async function again(ask: () => Promise<Answer>): Promise<Answer | null> {
  for (const seconds of [0.5, 1, 2, 0]) {
    const answer = await ask().catch(() => null);
    if (answer) {
      return answer;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
  return null;
}

async function get(url: string, headers: Record<string, string> = {}): Promise<Answer> {
  let got: Answer;
  try {
    got = await load(url, headers);
  } catch {
    throw new Error(`${url} cannot be loaded: no connection, or its site does not let other pages read it`);
  }
  if (!got.answer.ok) {
    throw new Error(`${url}: the server answers ${got.answer.status} ${got.answer.statusText}`);
  }
  return got;
}

function versionOf(answer: Response): string | null {
  return answer.headers.get("ETag") ?? answer.headers.get("Last-Modified");
}

const BLOCK = 1 << 18;
const MAX_BLOCK = 1 << 22;

/** Reads a source from front to back, a block at a time; the further it reads on, the larger the blocks. */
export class Cursor {
  private block: Uint8Array = new Uint8Array();
  private blockBegin = 0;
  private blockSize = BLOCK;

  constructor(
    private readonly source: Source,
    public position = 0,
  ) {}

  /** Return up to so many bytes, fewer only at the end of the source. */
  async some(count: number): Promise<Uint8Array> {
    const end = Math.min(this.position + count, this.source.size);
    if (this.position < this.blockBegin || end > this.blockBegin + this.block.length) {
      const goesOn = this.block.length && this.position <= this.blockBegin + this.block.length;
      this.blockSize = goesOn && this.position >= this.blockBegin ? Math.min(MAX_BLOCK, 2 * this.blockSize) : BLOCK;
      this.block = await this.source.read(this.position, Math.max(end, this.position + this.blockSize));
      this.blockBegin = this.position;
    }
    const at = this.position - this.blockBegin;
    const bytes = this.block.subarray(at, Math.max(at, end - this.blockBegin));
    this.position += bytes.length;
    return bytes;
  }
}

/**
 * Read so many bytes.
 *
 * @throws DamageError The source ends before.
 */
export async function exactly(cursor: Cursor, count: number): Promise<Uint8Array> {
  const bytes = await cursor.some(count);
  if (bytes.length < count) {
    throw new DamageError("the file is cut short");
  }
  return bytes;
}
