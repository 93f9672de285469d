// Switches the view of the crop (plain, difference, blink), and drawing of the mask.

import { $, status } from "./render.js";

const BLINK_MS = 500; // slow enough to be safe for people with photosensitive epilepsy
const MAX_SIZE = 120;

const press = (selector, pressed) => $(selector).setAttribute("aria-pressed", pressed);

export class Modes {
  #blinking = 0;

  constructor(stage, brush) {
    Object.assign(this, { stage, brush });
  }

  look(mode) {
    const next = this.stage.dataset.mode === mode ? "" : mode;
    if (next && document.body.classList.contains("no-reference")) return;
    const showing = $("#showing");
    this.stage.dataset.mode = next;
    for (const name of ["difference", "blink"]) press(`button[data-command=${name}]`, next === name);
    clearInterval(this.#blinking);
    this.stage.classList.remove("other");
    showing.hidden = !next;
    showing.textContent = next === "blink" ? "crop" : next;
    if (next !== "blink") return;
    this.#blinking = setInterval(() => {
      showing.textContent = this.stage.classList.toggle("other") ? "template" : "crop";
    }, BLINK_MS);
  }

  draw(active) {
    this.brush.active = active;
    press("button[data-command=draw]", active);
    $("#tools").hidden = !active;
    $("#ring").hidden = true;
    this.stage.classList.toggle("drawing", active);
    status(active ? "drawing the defect mask: each stroke is saved" : "");
  }

  tool(tool) {
    this.brush.tool = tool;
    for (const name of ["brush", "eraser", "lasso"]) press(`[data-tool=${name}]`, name === tool);
  }

  size(pixels) {
    this.brush.size = Math.min(MAX_SIZE, Math.max(1, Math.round(pixels)));
    $("#size").value = this.brush.size;
    $("#size-value").textContent = `${this.brush.size} px`;
  }

  // Changes the brush size by an eighth, so that a step looks alike for small and large brushes.
  resize(sign) {
    this.size(this.brush.size + sign * Math.max(1, Math.round(this.brush.size / 8)));
  }

  toggleMask() {
    press("button[data-command=hide]", this.stage.classList.toggle("no-mask"));
  }
}
