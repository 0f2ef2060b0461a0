/** The steps in which the positions of a plane are coded. */

const TAPS = 4;
const NEIGHBOURS: Readonly<Record<number, readonly (readonly [number, number])[][]>> = {
  2: [[[-1, 0], [1, 0], [0, -1], [0, 1]]],
  3: [
    [[-1, -1], [-1, 1], [1, -1], [1, 1]],
    [[-1, 0], [1, 0], [0, -1], [0, 1]],
  ],
};

/** The positions of a step, row by row. */
export interface Step {
  /** Their places in the flattened grid. */
  readonly flat: Int32Array;
  /** Their places in the flattened grid with a margin. */
  readonly padded: Int32Array;
  /** The places of their four known neighbours in the grid with a margin. */
  readonly neighbours: Int32Array;
}

/** Return the positions of each step: the last has those whose row and column have an odd sum. */
export function stepsOf([rows, columns]: readonly [number, number], count: number, margin: number): Step[] {
  const width = columns + 2 * margin;
  const stepAt = (row: number, column: number) => {
    if ((row + column) % 2) {
      return count - 1;
    }
    return count === 3 && row % 2 ? 1 : 0;
  };
  return Array.from({ length: count }, (_, step) => {
    const flat: number[] = [];
    const padded: number[] = [];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (stepAt(row, column) === step) {
          flat.push(row * columns + column);
          padded.push((row + margin) * width + column + margin);
        }
      }
    }
    const offsets = step ? NEIGHBOURS[count][step - 1].map(([down, right]) => down * width + right) : [];
    const neighbours = new Int32Array(padded.length * TAPS);
    padded.forEach((place, at) => offsets.forEach((offset, tap) => (neighbours[at * TAPS + tap] = place + offset)));
    return { flat: Int32Array.from(flat), padded: Int32Array.from(padded), neighbours };
  });
}
