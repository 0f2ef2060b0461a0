/** What all coders have in common: they unpack the digits of the chunks of a group of pictures (GOP). */

/** Unpacks the chunks of one GOP in order. */
export interface Coder {
  /**
   * Unpack the digits of the next chunk.
   *
   * @param packed The packed digits.
   * @param shape The latent frames, rows and columns of the chunk.
   * @returns The digits, `P t h w`.
   * @throws DamageError The data do not hold exactly these digits.
   */
  unpack(packed: Uint8Array, shape: readonly [number, number, number]): Uint8Array;
}
