/**
 * Reads `.vtk` files without trusting them: every size is checked before that many bytes are read, and every CRC before
 * the data are used. `docs/reference/format.md` is the specification.
 */

import { sha256 } from "@noble/hashes/sha2.js";

import { DamageError, FormatError } from "../errors.ts";
import { crc32, equal, viewOf } from "./bytes.ts";
import { type Framing, framingOf } from "./framing.ts";
import { type Header } from "./header.ts";
import { readHeader } from "./prefix.ts";
import {
  type AudioPacket,
  checkTokenRecord,
  checkWindowTokens,
  CRC_SIZE,
  type GopEntry,
  isAncillary,
  isTime,
  MAX_AUDIO_BYTES,
  MAX_END_BYTES,
  MAX_INDEX_ENTRIES,
  parsePackets,
  type RecordFields,
  type Totals,
} from "./records.ts";
import { Cursor, exactly, type Source } from "./source.ts";

/** A chunk whose digits are still packed. */
export interface TokenChunk {
  readonly kind: "chunk";
  readonly gop: number;
  /** Whether the chunk is the first of its GOP. */
  readonly first: boolean;
  /** The time of each frame, in ticks of the header's time base. */
  readonly pts: readonly bigint[];
  /** The duration of the last frame in ticks; 0 if it is unknown. */
  readonly lastDuration: bigint;
  /** Latent frames, rows and columns of the digits. */
  readonly shape: readonly [number, number, number];
  /** The number and the version of the coder. */
  readonly coder: readonly [number, number];
  readonly packed: Uint8Array;
}

/** A part of a file: a chunk, the audio packets of a record, or, at the end, the totals. */
export type Event =
  | TokenChunk
  | { readonly kind: "audio"; readonly packets: readonly AudioPacket[] }
  | { readonly kind: "totals"; readonly totals: Totals };

export class VtkReader {
  /** Whether all records are read from the first one on, so that they can be checked against the totals. */
  private readsAll = true;
  private number = 0;
  private gop = -1;
  private openChunk = false;
  /** The chunk whose 1D tokens must follow; null if none must. */
  private awaiting: TokenChunk | null = null;
  private latentsInGop = 0;
  private frames = 0;
  private chunks = 0;
  private packets = 0;
  private readonly gops: GopEntry[] = [];
  private indexOffset = 0;
  private lastPts: bigint | null = null;
  private recordStart = 0;
  /** Where a damaged record of sound ends, and its number; null if none was found. */
  private lostSound: { readonly end: number; readonly number: number } | null = null;
  /** Is told what is wrong with a damaged record of sound, behind which reading then goes on; null to stop there. */
  onLostSound: ((error: DamageError) => void) | null = null;

  private readonly cursor: Cursor;
  private readonly digest: ReturnType<typeof sha256.create>;

  private constructor(
    private readonly source: Source,
    readonly header: Header,
    private readonly framing: Framing,
    /** The bytes before the first record. */
    private readonly start: Uint8Array,
  ) {
    this.cursor = new Cursor(source, start.length);
    this.digest = sha256.create().update(start);
  }

  /**
   * Open a file and read its header.
   *
   * @throws FormatError It is no `.vtk` file that this reader knows.
   * @throws DamageError The header is damaged or cut short.
   */
  static async open(source: Source): Promise<VtkReader> {
    const [major, header, start] = await readHeader(new Cursor(source));
    return new VtkReader(source, header, framingOf(major, header), start);
  }

  /** Return a reader of the same file that stands at its first record. */
  anew(): VtkReader {
    return new VtkReader(this.source, this.header, this.framing, this.start);
  }

  /** The place in the file of the record that is being read, in bytes. */
  get position(): number {
    return this.recordStart;
  }

  /** Whether the index has been reached, so that all chunks are read. */
  get isPastVideo(): boolean {
    return this.indexOffset > 0;
  }

  /**
   * Yield the chunks and audio packets from the current position on, and the totals at the end.
   *
   * @throws DamageError A record is damaged, cut short, missing or out of order.
   * @throws FormatError A record has an unknown type that must not be skipped.
   */
  async *events(): AsyncGenerator<Event> {
    for (;;) {
      this.recordStart = this.cursor.position;
      let record: Awaited<ReturnType<typeof this.readRecord>>;
      try {
        record = await this.readRecord();
      } catch (error) {
        if (error instanceof DamageError && this.onLostSound && (await this.goesOnBehindSound())) {
          this.onLostSound(error);
          continue;
        }
        throw error;
      }
      if (this.indexOffset && record?.fields.type !== "TEND") {
        throw new DamageError("a record stands behind the index");
      }
      if (this.awaiting) {
        this.checkWindowTokens(record, this.awaiting);
        this.awaiting = null;
        continue;
      }
      const event = record && this.event(record.fields, record.payload);
      if (event) {
        this.awaiting = event.kind === "chunk" && this.header.windowTokens ? event : null;
        yield event;
      }
      if (event?.kind === "totals") {
        await this.checkFooter();
        return;
      }
    }
  }

  /**
   * Read the index, which says where the GOPs start. The position of the reader does not change.
   *
   * @throws DamageError The footer or the index is missing or damaged.
   */
  async index(): Promise<GopEntry[]> {
    const { framing, source } = this;
    const place = Math.max(0, source.size - framing.footerSize);
    const indexOffset = framing.parseFooter(await new Cursor(source, place).some(framing.footerSize), place);
    if (indexOffset >= BigInt(place)) {
      throw new DamageError("the footer does not fit the file's size");
    }
    const cursor = new Cursor(source, Number(indexOffset));
    const [{ type, size }, head] = await framing.readFields(cursor);
    const most = Math.min(place - Number(indexOffset), framing.indexEntryBytes * MAX_INDEX_ENTRIES);
    if (type !== "indx" || size > most) {
      throw new DamageError("the footer does not point at an index that fits");
    }
    const payload = await exactly(cursor, size);
    const crc = await exactly(cursor, CRC_SIZE);
    if (viewOf(crc).getUint32(0, true) !== crc32(payload, crc32(head, framing.crcSeed))) {
      throw new DamageError("the index is damaged: its CRC does not match");
    }
    const entries = framing.parseIndex(payload, MAX_INDEX_ENTRIES);
    if (!entries.length || entries[entries.length - 1].offset >= indexOffset) {
      throw new DamageError("an entry of the index points past the records");
    }
    return entries;
  }

  /** Go on at the start of a GOP. From then on, nothing is checked against the totals. */
  seek(gop: number, entry: GopEntry): void {
    this.cursor.position = Number(entry.offset);
    this.readsAll = false;
    this.indexOffset = 0;
    this.number = -1;
    this.gop = gop - 1;
    this.openChunk = false;
    this.awaiting = null;
    this.lastPts = null;
  }

  /** Read the next record and check its CRC. Returns null for one of an unknown type that may be skipped. */
  private async readRecord(): Promise<{ fields: RecordFields; payload: Uint8Array } | null> {
    const [fields, head] = await this.framing.readFields(this.cursor);
    const limit = this.payloadLimit(fields);
    if (limit !== null && fields.size > limit) {
      throw new DamageError(`a record declares ${fields.size} bytes; at most ${limit} are allowed`);
    }
    const digest = fields.type === "TEND" ? null : this.digest;
    digest?.update(head);
    let crc = crc32(head, this.framing.crcSeed);
    const payload = new Uint8Array(limit === null ? 0 : Math.min(fields.size, this.source.size));
    for (let at = 0; at < fields.size; ) {
      const piece = await this.cursor.some(Math.min(PIECE, fields.size - at));
      if (!piece.length) {
        throw new DamageError("the file is cut short");
      }
      crc = crc32(piece, crc);
      digest?.update(piece);
      if (limit !== null) {
        payload.set(piece, at);
      }
      at += piece.length;
    }
    const stored = await exactly(this.cursor, CRC_SIZE);
    digest?.update(stored);
    if (viewOf(stored).getUint32(0, true) !== crc) {
      const expected = this.number < 0 ? fields.number : this.number;
      this.lostSound =
        fields.type === "audi" && fields.number === expected ? { end: this.cursor.position, number: expected } : null;
      throw new DamageError("a record is damaged, or of another file: its CRC does not match");
    }
    if (this.number < 0) {
      this.number = fields.number;
    }
    if (fields.number !== this.number) {
      throw new DamageError(`record ${fields.number} was found instead of record ${this.number}`);
    }
    this.number++;
    if (limit !== null) {
      return { fields, payload };
    }
    if (!isAncillary(fields.type)) {
      throw new FormatError("a record of unknown type cannot be skipped; a newer player may read it");
    }
    return null;
  }

  /** Go on behind a damaged record of sound, if a whole record stands there, the next one. */
  private async goesOnBehindSound(): Promise<boolean> {
    const lost = this.lostSound;
    this.lostSound = null;
    if (!lost) {
      return false;
    }
    const cursor = new Cursor(this.source, lost.end);
    try {
      const [fields, head] = await this.framing.readFields(cursor);
      const limit = this.payloadLimit(fields);
      if (fields.number !== lost.number + 1 || limit === null || fields.size > limit) {
        return false;
      }
      const crc = crc32(await exactly(cursor, fields.size), crc32(head, this.framing.crcSeed));
      if (viewOf(await exactly(cursor, CRC_SIZE)).getUint32(0, true) !== crc) {
        return false;
      }
    } catch (error) {
      if (error instanceof DamageError || error instanceof FormatError) {
        return false;
      }
      throw error;
    }
    this.cursor.position = lost.end;
    this.number = lost.number + 1;
    this.readsAll = false;
    return true;
  }

  /** Return the largest payload of a record in bytes, or null if its type is unknown. */
  private payloadLimit(fields: RecordFields): number | null {
    switch (fields.type) {
      case "TOKN":
        return (
          this.framing.tokenPayloadBytes +
          checkTokenRecord(this.header, fields.gop !== this.gop, fields.frames, fields.rawSize)
        );
      case "wtok": {
        const { windowTokens, windows } = this.header;
        return windowTokens && windows * (1 + 2 * windowTokens.most);
      }
      case "audi":
        return MAX_AUDIO_BYTES;
      case "indx":
        return this.framing.indexEntryBytes * this.mostEntries;
      case "TEND":
        return MAX_END_BYTES;
      default:
        return null;
    }
  }

  /** The largest number of entries that the index may have. */
  private get mostEntries(): number {
    return this.readsAll ? this.gops.length : MAX_INDEX_ENTRIES;
  }

  private event(fields: RecordFields, payload: Uint8Array): Event | null {
    switch (fields.type) {
      case "TOKN":
        if (fields.gop !== this.gop) {
          this.gops.push({
            offset: BigInt(this.recordStart),
            pts: fields.pts,
            firstFrame: BigInt(this.frames),
          });
        }
        return this.tokenChunk(fields, payload);
      case "audi": {
        const packets = parsePackets(payload, fields.frames, this.header.audio.length);
        this.packets += packets.length;
        return { kind: "audio", packets };
      }
      case "wtok":
        throw new DamageError("1D tokens do not follow the chunk that they belong to");
      case "indx":
        this.indexOffset = this.recordStart;
        this.checkIndex(this.framing.parseIndex(payload, this.mostEntries));
        return null;
      default:
        return { kind: "totals", totals: this.checkedTotals(payload) };
    }
  }

  /** Check the 1D tokens of a chunk, which this player does not decode, in the record behind it. */
  private checkWindowTokens(record: { fields: RecordFields; payload: Uint8Array } | null, chunk: TokenChunk): void {
    const { windowTokens, windows } = this.header;
    if (record?.fields.type !== "wtok" || record.fields.gop !== chunk.gop || !windowTokens) {
      throw new DamageError("the 1D tokens of a chunk are missing");
    }
    const count = checkWindowTokens(record.payload, windowTokens, windows);
    if (record.fields.rawSize !== count) {
      throw new DamageError(`a chunk declares ${record.fields.rawSize} 1D tokens instead of ${count}`);
    }
  }

  private checkIndex(entries: readonly GopEntry[]): void {
    const same = (entry: GopEntry, at: number) => {
      const { offset, pts, firstFrame } = this.gops[at];
      return entry.offset === offset && entry.pts === pts && entry.firstFrame === firstFrame;
    };
    if (this.readsAll && !(entries.length === this.gops.length && entries.every(same))) {
      throw new DamageError("the index does not match the records");
    }
  }

  private checkedTotals(payload: Uint8Array): Totals {
    if (!this.indexOffset) {
      throw new DamageError("the index is missing");
    }
    const totals = this.framing.parseTotals(payload);
    if (!this.readsAll) {
      return totals;
    }
    if (!this.chunks) {
      throw new DamageError("the file holds no frame");
    }
    const counted = [this.frames, this.chunks, this.gop + 1, this.packets];
    const declared = [totals.frames, totals.chunks, totals.gops, totals.audioPackets];
    if (!counted.every((count, at) => BigInt(count) === declared[at])) {
      throw new DamageError("the totals do not match the records");
    }
    if (totals.fileDigest.length && !equal(totals.fileDigest, this.digest.clone().digest())) {
      throw new DamageError("the header, the times or the audio do not match the digest at the end of the file");
    }
    return totals;
  }

  /** Parse a token record, and check that it may follow the chunk before. */
  private tokenChunk(fields: RecordFields, data: Uint8Array): TokenChunk {
    const { header } = this;
    const first = fields.gop !== this.gop;
    if (fields.gop !== this.gop + Number(first)) {
      throw new DamageError(`GOP ${fields.gop} follows GOP ${this.gop}`);
    }
    if (!first && this.openChunk) {
      throw new DamageError("a chunk follows the last one of its GOP");
    }
    const payload = this.framing.parseTokenPayload(data, fields.frames);
    const ticks = payload.ticks ?? Array.from({ length: fields.frames }, () => BigInt(header.frameTicks));
    if (!isTime(fields.pts)) {
      throw new DamageError(`a chunk starts at ${fields.pts} ticks, outside the range`);
    }
    if (this.lastPts !== null && fields.pts <= this.lastPts) {
      throw new DamageError(`a chunk starts at ${fields.pts} ticks, not after ${this.lastPts}`);
    }
    if (ticks.slice(0, -1).some((tick) => !tick)) {
      throw new DamageError("a chunk has no times for its frames");
    }
    const pts = [fields.pts];
    for (const tick of ticks.slice(0, -1)) {
      pts.push(pts[pts.length - 1] + tick);
    }
    const shape = header.chunkShape(fields.frames, first);
    this.latentsInGop = (first ? 0 : this.latentsInGop) + header.model.layout.timeSteps(shape[0], first);
    if (this.latentsInGop > header.gopLatents) {
      throw new DamageError(`GOP ${fields.gop} is longer than the ${header.gopLatents} latent frames allowed`);
    }
    this.gop = fields.gop;
    this.openChunk = fields.frames < header.maxChunkFrames(first);
    this.frames += fields.frames;
    this.chunks++;
    this.lastPts = pts[pts.length - 1];
    return {
      kind: "chunk",
      gop: fields.gop,
      first,
      pts,
      lastDuration: ticks[ticks.length - 1],
      shape,
      coder: payload.coder,
      packed: payload.packed,
    };
  }

  private async checkFooter(): Promise<void> {
    const offset = this.cursor.position;
    const indexOffset = this.framing.parseFooter(await this.cursor.some(this.framing.footerSize), offset);
    if (this.readsAll && indexOffset !== BigInt(this.indexOffset)) {
      throw new DamageError("the footer does not match the records");
    }
    if ((await this.cursor.some(1)).length) {
      throw new DamageError("there are bytes after the end of the file");
    }
  }
}

const PIECE = 1 << 16;
