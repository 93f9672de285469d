// The gallery: filtered by kind, sorted, and enlarged by a click.
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const grid = gallery.querySelector(".cases");
  const given = [...grid.children];
  const onlyMistakes = document.getElementById("only-mistakes");
  const order = document.getElementById("order");
  const large = document.getElementById("large");
  let kind = "";
  let shown = given;  // the large view steps through all matching images
  let place = 0;

  const score = (item) => Number(item.dataset.score);
  const orders = {
    given: (items) => items,
    falling: (items) => items.sort((a, b) => score(b) - score(a)),
    rising: (items) => items.sort((a, b) => score(a) - score(b)),
    name: (items) => items.sort((a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true })),
  };

  const wanted = (item) => (!kind || item.dataset.kind === kind)
    && (!onlyMistakes || !onlyMistakes.checked || "mistake" in item.dataset);
  const shorten = shortList(grid, gallery.querySelector(".more"), 24, "images", wanted);
  const update = () => {
    grid.append(...orders[order.value]([...given]));
    shown = shorten();
    gallery.querySelector(".nothing").hidden = shown.length > 0;
  };

  chooseOne(gallery.querySelectorAll(".chip[data-kind]"), (chip) => { kind = chip.dataset.kind; update(); });
  if (onlyMistakes) onlyMistakes.addEventListener("change", update);
  order.addEventListener("change", update);

  const show = (next) => {
    place = (next + shown.length) % shown.length;
    const item = shown[place];
    const tiles = item.querySelector(".tiles").cloneNode(true);
    tiles.querySelectorAll("[id]").forEach((part) => part.removeAttribute("id"));
    large.querySelector(".large-tiles").replaceChildren(...tiles.children);
    large.querySelector(".caption").replaceChildren(...item.querySelector(".caption").cloneNode(true).children);
    large.querySelector(".place").textContent = `${place + 1} / ${shown.length}`;
    large.classList.toggle("mistake", "mistake" in item.dataset);
    if (!large.open) large.showModal();
  };

  grid.addEventListener("click", (event) => {
    const item = event.target.closest(".tiles") && event.target.closest(".case");
    if (item) show(shown.indexOf(item));
  });
  large.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === large || (button && "close" in button.dataset)) large.close();
    else if (button) show(place + Number(button.dataset.step));
  });
  large.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place + step);
  });
  large.addEventListener("close", () => shown[place].querySelector(".tiles").focus());
  update();
})();

// The defects: filtered by type, grade and text.
(() => {
  const part = document.getElementById("found-defects");
  if (!part || !part.querySelector(".shots")) return;
  const wanted = { type: "", grade: "" };
  const words = document.getElementById("defect-words");
  const matches = (item) => (!wanted.type || item.dataset.type.split(" ").includes(wanted.type))
    && (!wanted.grade || item.dataset.grade === wanted.grade)
    && item.dataset.words.toLowerCase().includes(words.value.trim().toLowerCase());
  const [shots, rows] = [part.querySelector(".shots"), part.querySelector(".defect-table tbody")];
  const lists = [
    shortList(shots, document.getElementById("more-shots"), 12, "images", matches),
    shortList(rows, document.getElementById("more-rows"), 20, "defects", matches),
  ];
  const update = () => {
    const [, found] = lists.map((list) => list());
    document.getElementById("defects-shown").textContent = `${found.length} of ${rows.children.length} defects`;
    document.getElementById("no-defects").hidden = found.length > 0;
  };
  ["type", "grade"].forEach((key) => chooseOne(part.querySelectorAll(`.chip[data-${key}]`), (chip) => {
    wanted[key] = chip.dataset[key];
    update();
  }));
  words.addEventListener("input", update);
  update();
})();
