// Keeps one zoom and one centre for several panes, which show the same part of images of the same shape.

const MAX_ZOOM = 24;

export class View {
  #size = [1, 1];
  #zoom = 1;
  #centre = [0.5, 0.5]; // as fractions of the image
  #drag = null;

  constructor(panes, onChange) {
    this.panes = panes;
    this.onChange = onChange;
    this.canDrag = () => true;
    const resize = new ResizeObserver(() => this.layout());
    for (const pane of panes) {
      resize.observe(pane);
      pane.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
      pane.addEventListener("pointerdown", (event) => this.#press(event, pane));
      pane.addEventListener("pointermove", (event) => this.#move(event, pane));
      pane.addEventListener("pointerup", () => (this.#drag = null));
      pane.addEventListener("pointercancel", () => (this.#drag = null));
      pane.addEventListener("pointerleave", () => this.#spot(null));
    }
  }

  get zoom() { return this.#zoom; }

  show(width, height) {
    this.#size = [width, height];
    this.#zoom = 1;
    this.#centre = [0.5, 0.5];
    this.layout();
  }

  // Cycles the zoom through 1x, 2x and 4x around the pointer, or around the centre if the pointer is elsewhere.
  nextZoom(pointer) {
    const factor = this.#zoom >= 3.9 ? 1 / this.#zoom : (this.#zoom >= 1.9 ? 4 : 2) / this.#zoom;
    this.#zoomAt(factor, pointer);
  }

  scale(pane) {
    const fit = Math.min(pane.clientWidth / this.#size[0], pane.clientHeight / this.#size[1]);
    return fit * this.#zoom;
  }

  // Returns the image coordinates, in pixels, of a pointer event.
  toImage(event, pane) {
    const box = pane.getBoundingClientRect();
    const scale = this.scale(pane);
    return [
      (event.clientX - box.left - pane.clientWidth / 2) / scale + this.#centre[0] * this.#size[0],
      (event.clientY - box.top - pane.clientHeight / 2) / scale + this.#centre[1] * this.#size[1],
    ];
  }

  layout() {
    for (const pane of this.panes) {
      const scale = this.scale(pane);
      const [width, height] = this.#size.map((length) => length * scale);
      const layers = pane.querySelector(".layers");
      layers.style.width = `${width}px`;
      layers.style.height = `${height}px`;
      const left = pane.clientWidth / 2 - this.#centre[0] * width;
      const top = pane.clientHeight / 2 - this.#centre[1] * height;
      layers.style.transform = `translate(${left}px, ${top}px)`;
      layers.classList.toggle("pixels", scale >= 4);
    }
    this.onChange?.();
  }

  #zoomAt(factor, pointer) {
    const zoom = Math.min(MAX_ZOOM, Math.max(1, this.#zoom * factor));
    const target = pointer && document.elementFromPoint(pointer.clientX, pointer.clientY);
    const pane = pointer && this.panes.find((candidate) => candidate.contains(target));
    const before = pane ? this.toImage(pointer, pane) : null;
    this.#zoom = zoom;
    if (before) {
      const after = this.toImage(pointer, pane);
      this.#centre = this.#centre.map((centre, axis) => centre + (before[axis] - after[axis]) / this.#size[axis]);
    }
    this.#clamp();
  }

  #clamp() {
    const margin = 0.5 / this.#zoom;
    this.#centre = this.#centre.map((centre) => Math.min(1 - margin, Math.max(margin, centre)));
    this.layout();
  }

  #wheel(event) {
    event.preventDefault();
    this.#zoomAt(Math.exp(-Math.sign(event.deltaY) * 0.2), event);
  }

  #press(event, pane) {
    if (event.button !== 1 && !(event.button === 0 && this.canDrag(pane))) return;
    event.preventDefault();
    pane.setPointerCapture(event.pointerId);
    this.#drag = [event.clientX, event.clientY];
  }

  #move(event, pane) {
    this.#spot(this.toImage(event, pane), pane);
    if (!this.#drag) return;
    const scale = this.scale(pane);
    const moved = [event.clientX - this.#drag[0], event.clientY - this.#drag[1]];
    this.#drag = [event.clientX, event.clientY];
    this.#centre = this.#centre.map((centre, axis) => centre - moved[axis] / (this.#size[axis] * scale));
    this.#clamp();
  }

  // Marks the pointer's position in the other panes.
  #spot(point, source) {
    for (const pane of this.panes) {
      const spot = pane.querySelector(".spot");
      const inside = point && point.every((value, axis) => value >= 0 && value <= this.#size[axis]);
      spot.hidden = !inside || pane === source;
      if (spot.hidden) continue;
      spot.style.left = `${(100 * point[0]) / this.#size[0]}%`;
      spot.style.top = `${(100 * point[1]) / this.#size[1]}%`;
    }
  }
}
