/** The digest of all tokens of a file. */

import { sha256 } from "@noble/hashes/sha2.js";

/** Takes the SHA-256 of tokens, u16 each in the order `t h w n`, chunk after chunk. */
export class TokenDigest {
  private readonly hash = sha256.create();

  constructor(private readonly levels: readonly number[]) {}

  /** Add the digits of a chunk, `P t h w`. */
  update(digits: Uint8Array, shape: readonly [number, number, number]): void {
    const positions = shape[0] * shape[1] * shape[2];
    const each = this.levels.length;
    const tokens = digits.length / positions / each;
    const bytes = new Uint8Array(positions * tokens * 2);
    for (let position = 0; position < positions; position++) {
      for (let token = 0; token < tokens; token++) {
        let value = 0;
        for (let digit = each - 1; digit >= 0; digit--) {
          value = value * this.levels[digit] + digits[(token * each + digit) * positions + position];
        }
        bytes[2 * (position * tokens + token)] = value & 0xff;
        bytes[2 * (position * tokens + token) + 1] = value >> 8;
      }
    }
    this.hash.update(bytes);
  }

  digest(): Uint8Array {
    return this.hash.clone().digest();
  }
}
