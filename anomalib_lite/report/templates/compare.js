(() => {
  const state = { view: "0", metric: "0" };
  const studies = [...document.querySelectorAll(".study")];
  ["view", "metric"].forEach((key) => {
    const chips = document.querySelectorAll(`.chip[data-${key}]`);
    chips.forEach((chip) => chip.addEventListener("click", () => {
      state[key] = chip.dataset[key];
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      studies.forEach((s) => { s.hidden = s.dataset.view !== state.view || s.dataset.metric !== state.metric; });
    }));
  });

  // Of many pairs the first are shown.
  document.querySelectorAll(".pairs").forEach((part) => {
    const body = part.querySelector("tbody"), more = part.querySelector(".more");
    let room = 25;
    const show = () => {
      [...body.rows].forEach((row, i) => { row.hidden = i >= room; });
      more.hidden = body.rows.length <= room;
    };
    const showAll = () => { room = Infinity; show(); };
    more.addEventListener("click", showAll);
    addEventListener("beforeprint", showAll);
    part.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", show));
    show();
  });

  document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
    const line = button.previousElementSibling;
    getSelection().selectAllChildren(line);
    let copied = false;
    try { await navigator.clipboard.writeText(line.textContent); copied = true; } catch { copied = document.execCommand("copy"); }
    button.textContent = copied ? "copied" : "selected";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }));
})();
