/** A clock that can be stopped and set, in seconds of the video. */
export class Clock {
  private base = 0;
  private since: number | null = null;

  get running(): boolean {
    return this.since !== null;
  }

  get now(): number {
    return this.base + (this.since === null ? 0 : (performance.now() - this.since) / 1000);
  }

  set(seconds: number): void {
    this.base = seconds;
    this.since = this.since === null ? null : performance.now();
  }

  start(): void {
    this.since ??= performance.now();
  }

  stop(): void {
    this.base = this.now;
    this.since = null;
  }
}
