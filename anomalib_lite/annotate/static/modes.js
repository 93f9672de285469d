// How the crop is looked at (plain, difference, blink) and whether a mask is being drawn on it.

import { $, status } from "./render.js";

const BLINK_MS = 500; // calm, and far from what could hurt
const MAX_SIZE = 120;

const press = (selector, pressed) => $(selector).setAttribute("aria-pressed", pressed);

export class Modes {
  #blinking = 0;

  constructor(stage, brush) {
    Object.assign(this, { stage, brush });
  }

  look(mode) {
    const wanted = this.stage.dataset.mode === mode ? "" : mode;
    if (wanted && document.body.classList.contains("no-reference")) return;
    const showing = $("#showing");
    this.stage.dataset.mode = wanted;
    for (const one of ["difference", "blink"]) press(`button[data-command=${one}]`, wanted === one);
    clearInterval(this.#blinking);
    this.stage.classList.remove("other");
    showing.hidden = !wanted;
    showing.textContent = wanted === "blink" ? "crop" : wanted;
    if (wanted !== "blink") return;
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

  // In steps that are felt alike for small and large brushes.
  resize(sign) {
    this.size(this.brush.size + sign * Math.max(1, Math.round(this.brush.size / 8)));
  }

  toggleMask() {
    press("button[data-command=hide]", this.stage.classList.toggle("no-mask"));
  }
}
