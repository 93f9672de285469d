(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const grid = gallery.querySelector(".cases");
  const given = [...grid.children];
  const chips = [...gallery.querySelectorAll(".chip")];
  const onlyMistakes = document.getElementById("only-mistakes");
  const order = document.getElementById("order");
  const large = document.getElementById("large");
  const more = gallery.querySelector(".more");
  let kind = "";
  let shown = given;
  let place = 0;
  let room = 24;  // images on the page at first; the large view steps through all that match

  const score = (item) => Number(item.dataset.score);
  const orders = {
    given: (items) => items,
    falling: (items) => items.sort((a, b) => score(b) - score(a)),
    rising: (items) => items.sort((a, b) => score(a) - score(b)),
    name: (items) => items.sort((a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true })),
  };

  const update = () => {
    const wanted = (item) => (!kind || item.dataset.kind === kind)
      && (!onlyMistakes || !onlyMistakes.checked || "mistake" in item.dataset);
    const ordered = orders[order.value]([...given]);
    grid.append(...ordered);
    shown = ordered.filter(wanted);
    given.forEach((item) => { item.hidden = true; });
    shown.slice(0, room).forEach((item) => { item.hidden = false; });
    gallery.querySelector(".nothing").hidden = shown.length > 0;
    more.hidden = shown.length <= room;
    more.firstElementChild.textContent = `show all ${shown.length}`;
  };

  chips.forEach((chip) => chip.addEventListener("click", () => {
    kind = chip.dataset.kind;
    chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
    update();
  }));
  if (onlyMistakes) onlyMistakes.addEventListener("change", update);
  order.addEventListener("change", update);
  more.addEventListener("click", () => { room = Infinity; update(); });

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
