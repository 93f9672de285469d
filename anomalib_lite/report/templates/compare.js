(() => {
  const state = { view: "0", metric: "0" };
  const studies = [...document.querySelectorAll(".study")];
  ["view", "metric"].forEach((key) => chooseOne(document.querySelectorAll(`.chip[data-${key}]`), (chip) => {
    state[key] = chip.dataset[key];
    studies.forEach((s) => { s.hidden = s.dataset.view !== state.view || s.dataset.metric !== state.metric; });
  }));
  document.querySelectorAll(".pairs").forEach((part) => {
    shortList(part.querySelector("tbody"), part.querySelector(".more"), 25, "pairs")();
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
