/** What can be wrong with a file. The names are those of the exit codes of `vtok`. */

/** A file that this player cannot read: no `.vtk` file, or one of a later version. */
export class FormatError extends Error {
  override readonly name = "FormatError";
}

/** A file that is damaged or cut short. */
export class DamageError extends Error {
  override readonly name = "DamageError";
}

/** A file whose model or prior is not at hand. */
export class ModelError extends Error {
  override readonly name = "ModelError";
}
