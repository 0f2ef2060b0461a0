/**
 * A strict JSON parser: it refuses a key that stands twice in an object, which `JSON.parse` does not, and tells whole
 * numbers from others by how they are written.
 */

/** A number that is not written as a whole one, such as 1.0. */
export class Decimal {
  constructor(readonly value: number) {}
}

export type Json = null | boolean | number | Decimal | string | Json[] | Map<string, Json>;

const MAX_DEPTH = 900;
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?/y;
/** The most digits of a whole number. Python's parser refuses longer ones. */
const MAX_DIGITS = 4300;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;

/**
 * Parse a JSON text.
 *
 * @throws SyntaxError The text is not JSON, or has a key twice.
 */
export function parseJson(text: string): Json {
  let at = 0;

  const match = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) {
      at = pattern.lastIndex;
    }
    return found;
  };
  const next = (): string => {
    match(SPACE);
    return text[at] ?? "";
  };
  const expect = (character: string): void => {
    if (next() !== character) {
      throw new SyntaxError(`${character} is missing at character ${at}`);
    }
    at++;
  };
  const string = (): string => {
    next();
    const found = match(STRING);
    if (!found) {
      throw new SyntaxError(`no string at character ${at}`);
    }
    return JSON.parse(found[0]) as string;
  };
  const number = (): number | Decimal => {
    const found = match(NUMBER);
    if (!found || found[0].length > MAX_DIGITS) {
      throw new SyntaxError(`no value at character ${at}`);
    }
    const value = Number(found[0]);
    return found[1] || found[2] ? new Decimal(value) : value;
  };
  const items = (end: string, item: () => void): void => {
    at++;
    if (next() === end) {
      at++;
      return;
    }
    for (;;) {
      item();
      if (next() === end) {
        at++;
        return;
      }
      expect(",");
    }
  };
  const value = (depth: number): Json => {
    if (depth > MAX_DEPTH) {
      throw new SyntaxError("it is nested too deeply");
    }
    const first = next();
    if (first === "{") {
      const object = new Map<string, Json>();
      items("}", () => {
        const key = string();
        if (object.has(key)) {
          throw new SyntaxError("it has a key twice");
        }
        expect(":");
        object.set(key, value(depth + 1));
      });
      return object;
    }
    if (first === "[") {
      const array: Json[] = [];
      items("]", () => array.push(value(depth + 1)));
      return array;
    }
    if (first === '"') {
      return string();
    }
    for (const [word, meaning] of [["null", null], ["true", true], ["false", false]] as const) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return meaning;
      }
    }
    return number();
  };

  const whole = value(0);
  if (next()) {
    throw new SyntaxError(`something stands behind the end, at character ${at}`);
  }
  return whole;
}
