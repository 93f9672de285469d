// Crops that are decoded before they are asked for, so that the next one shows at once.

const KEPT = 16;

export class Preloader {
  #entries = new Map();

  // {crop, twin: decoded image elements for the stage and the difference, ready: Promise of true or false}
  get(crop) {
    const url = `/image/${crop.id}?v=${crop.version}`;
    let entry = this.#entries.get(url);
    if (!entry) {
      const images = [picture(url), picture(url)];
      const ready = Promise.all(images.map((image) => image.decode())).then(() => true, () => false);
      entry = { url, crop: images[0], twin: images[1], ready };
    }
    this.#entries.delete(url); // to the end: the most recently used are kept
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
  image.decoding = "sync"; // decoded already: paint it in the same frame as everything else
  image.className = "crop";
  image.draggable = false;
  image.src = url;
  return image;
}
