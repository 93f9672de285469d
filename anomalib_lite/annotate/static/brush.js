// Draws the defect mask on a canvas of the crop's size, and saves it after each stroke.

import { postMask } from "./api.js";

const STEPS_KEPT = 20; // strokes that can be undone
const COLOUR = "#ff4fa3";

export class Brush {
  tool = "brush";
  size = 16;
  #crop = null; // id of the crop on the canvas and version of its mask there; null while that is loading
  #context;
  #steps = [];
  #stroke = null;
  #saving = Promise.resolve();
  #unsaved = 0; // strokes since the last save that succeeded
  #failure = null; // the error of the last save that failed

  // onSaved(reply) is called after each save, onFailed(error) after one that failed.
  constructor(stage, view, { onSaved, onFailed }) {
    Object.assign(this, { stage, view, onSaved, onFailed });
    this.canvas = stage.querySelector("canvas");
    this.ring = stage.querySelector("#ring");
    this.lasso = stage.querySelector("#lasso");
    this.active = false;
    this.#context = this.canvas.getContext("2d", { willReadFrequently: true });
    stage.addEventListener("pointerdown", (event) => this.#press(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#release(event));
    stage.addEventListener("pointercancel", () => this.#cancel());
    stage.addEventListener("pointerleave", () => (this.ring.hidden = true));
    stage.addEventListener("contextmenu", (event) => this.active && event.preventDefault());
  }

  // Whether this crop's mask was changed since the crop was shown.
  isTouched = false;

  get isDrawing() { return this.#stroke !== null; }

  async load(crop, width, height) {
    this.unload();
    this.canvas.width = width;
    this.canvas.height = height;
    this.lasso.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.loading = crop;
    const { id, mask } = crop; // of now: another page may change the mask while it is shown
    if (mask) {
      const image = new Image();
      image.src = `/mask/${id}?v=${mask}`;
      await image.decode();
      if (this.loading !== crop) return; // another crop is shown by now
      this.#context.drawImage(image, 0, 0, width, height);
      this.#greyToAlpha(width, height);
    }
    this.#crop = { id, mask };
  }

  // Disables drawing, as no crop is shown.
  unload() {
    this.#crop = this.#stroke = this.loading = null;
    this.#steps = [];
    this.isTouched = false;
  }

  // Resolves when all strokes are on the server's disk; retries a failed save once.
  async flush() {
    await this.#saving;
    if (!this.#unsaved) return;
    this.#save();
    await this.#saving;
    if (this.#unsaved) throw this.#failure; // so the page stays at this crop
  }

  undo() {
    if (!this.#steps.length) return false;
    this.#context.putImageData(this.#steps.pop(), 0, 0);
    this.#save();
    return true;
  }

  clear() {
    if (!this.#crop) return;
    this.#remember();
    this.#context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.#save();
  }

  #press(event) {
    if (!this.active || !this.#crop || (event.button !== 0 && event.button !== 2)) return;
    event.preventDefault();
    this.stage.setPointerCapture(event.pointerId);
    this.#remember();
    const erases = event.button === 2 || this.tool === "eraser";
    this.#stroke = { erases, points: [this.view.toImage(event, this.stage)] };
    this.#draw();
  }

  #move(event) {
    this.#showRing(event);
    if (!this.#stroke) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const step of events.length ? events : [event]) {
      this.#stroke.points.push(this.view.toImage(step, this.stage));
      if (this.tool !== "lasso") this.#draw();
    }
    if (this.tool === "lasso") this.lasso.firstElementChild.setAttribute("d", `M${this.#stroke.points.join("L")}Z`);
  }

  #release() {
    if (!this.#stroke) return;
    if (this.tool === "lasso") this.#fill();
    this.#stroke = null;
    this.lasso.firstElementChild.removeAttribute("d");
    this.#save();
  }

  #cancel() {
    if (!this.#stroke) return;
    this.#stroke = null;
    this.lasso.firstElementChild.removeAttribute("d");
    this.#context.putImageData(this.#steps.pop(), 0, 0);
  }

  #begin() {
    const context = this.#context;
    context.globalCompositeOperation = this.#stroke.erases ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = COLOUR;
    context.lineWidth = this.size;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    return context;
  }

  #draw() {
    if (this.tool === "lasso") return;
    const context = this.#begin();
    const [from, to] = this.#stroke.points.slice(-2);
    if (!to) {
      context.arc(...from, this.size / 2, 0, 2 * Math.PI); // a single click: a line of length 0 draws nothing
      context.fill();
      return;
    }
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  #fill() {
    const context = this.#begin();
    for (const point of this.#stroke.points) context.lineTo(...point);
    context.fill();
  }

  #remember() {
    this.isTouched = true;
    this.#steps.push(this.#context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    if (this.#steps.length > STEPS_KEPT) this.#steps.shift();
  }

  // Queues a save. Captures the canvas now, so that a later stroke is not part of it.
  #save() {
    const crop = this.#crop;
    const strokes = ++this.#unsaved;
    const png = new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    this.#saving = this.#saving.then(async () => {
      try {
        const reply = await postMask(crop.id, crop.mask, await png);
        crop.mask = reply.crop.mask;
        if (this.#unsaved === strokes) this.#unsaved = 0;
        this.onSaved(reply);
      } catch (error) {
        this.#failure = error;
        this.onFailed(error);
      }
    });
  }

  #greyToAlpha(width, height) {
    const image = this.#context.getImageData(0, 0, width, height);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(COLOUR.slice(at, at + 2), 16));
    for (let at = 0; at < image.data.length; at += 4) {
      const alpha = image.data[at] > 127 ? 255 : 0;
      image.data.set([red, green, blue, alpha], at);
    }
    this.#context.putImageData(image, 0, 0);
  }

  #showRing(event) {
    this.ring.hidden = !this.active || this.tool === "lasso";
    if (this.ring.hidden) return;
    const box = this.stage.getBoundingClientRect();
    const diameter = Math.max(3, this.size * this.view.scale(this.stage));
    this.ring.style.width = this.ring.style.height = `${diameter}px`;
    this.ring.style.transform =
      `translate(${event.clientX - box.left - diameter / 2}px, ${event.clientY - box.top - diameter / 2}px)`;
  }
}
