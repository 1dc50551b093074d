/* The embedded questions: the index is inflated once, details a chunk at a time; the last few chunks are kept. */
(() => {
  const KEPT = 4;

  /** The JSON of one embedded block. Every block that is inflated leaves a mark in the browser's performance timeline. */
  async function inflate(id) {
    const block = document.getElementById(id);
    if (!block)
      throw new Error(`The file holds no block "${id}": it was cut off or changed after it was written. Write the report again.`);
    const packed = atob(block.textContent),
      bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i += 1) bytes[i] = packed.charCodeAt(i);
    performance.mark(`inflate:${id}`);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  class Questions {
    #viewer;
    #index = null;
    #chunks = new Map();

    constructor(viewer) {
      this.#viewer = viewer;
    }

    /** Parallel lists: id, text, set, kinds, gold; and `lower`, what is searched. */
    index() {
      this.#index ??= inflate("index").then((index) => ({
        ...index,
        lower: index.text.map((text, i) => `${index.id[i]}\n${text}`.toLowerCase()),
      }));
      return this.#index;
    }

    async detail(position) {
      const number = Math.floor(position / this.#viewer.chunk);
      const chunk = this.#chunks.get(number) ?? inflate(`chunk-${number}`);
      this.#chunks.delete(number);
      this.#chunks.set(number, chunk);
      if (this.#chunks.size > KEPT) this.#chunks.delete(this.#chunks.keys().next().value);
      const detail = (await chunk)[position - number * this.#viewer.chunk];
      if (!detail) throw new Error(`Block ${number} holds no question ${position}: the file was changed after it was written.`);
      return detail;
    }
  }

  Object.assign(report, { Questions });
})();
