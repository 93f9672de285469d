// Decodes crops ahead of time, so that the next one appears at once.

const KEPT = 16; // decoded crops kept in memory

export class Preloader {
  #entries = new Map();

  // Returns {crop, twin: image elements for the stage and the difference pane, ready: Promise whether both decoded}.
  get(crop) {
    const url = `/image/${crop.id}?v=${crop.version}`;
    let entry = this.#entries.get(url);
    if (!entry) {
      const images = [picture(url), picture(url)];
      const ready = Promise.all(images.map((image) => image.decode())).then(() => true, () => false);
      entry = { url, crop: images[0], twin: images[1], ready };
    }
    this.#entries.delete(url); // re-inserted at the end: the map is a least-recently-used cache
    this.#entries.set(url, entry);
    for (const old of this.#entries.keys()) {
      if (this.#entries.size <= KEPT) break;
      this.#entries.delete(old);
    }
    return entry;
  }
}

function picture(url) {
  const image = new Image();
  image.decoding = "sync"; // it is decoded already, so paint it in the same frame as the rest
  image.className = "crop";
  image.draggable = false;
  image.src = url;
  return image;
}
