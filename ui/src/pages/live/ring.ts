// A list of bounded length: a new item pushes the oldest one out. Index 0 is the oldest held.

/** Holds the last `capacity` items; `push`, `shift` and `at` are O(1). */
export class Ring<T> {
  readonly capacity: number;
  // Grows to `capacity` and is then written round and round.
  readonly #slots: (T | undefined)[] = [];
  #head = 0;
  #length = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  get length(): number {
    return this.#length;
  }

  /** Appends; answers the item that had to go, if any. */
  push(item: T): T | undefined {
    const gone = this.#length === this.capacity ? this.shift() : undefined;
    this.#slots[(this.#head + this.#length) % this.capacity] = item;
    this.#length += 1;
    return gone;
  }

  /** Takes the oldest out. */
  shift(): T | undefined {
    if (this.#length === 0) return undefined;
    const oldest = this.#slots[this.#head];
    this.#slots[this.#head] = undefined;
    this.#head = (this.#head + 1) % this.capacity;
    this.#length -= 1;
    return oldest;
  }

  at(index: number): T | undefined {
    if (index < 0 || index >= this.#length) return undefined;
    return this.#slots[(this.#head + index) % this.capacity];
  }

  /** The newest `count`, oldest of them first. */
  last(count: number): T[] {
    const wanted = Math.min(count, this.#length);
    const from = this.#length - wanted;
    return Array.from({ length: wanted }, (_, i) => this.at(from + i) as T);
  }

  filter(keep: (item: T) => boolean): T[] {
    return this.last(this.#length).filter((item) => keep(item));
  }
}
