(() => {
  const part = document.getElementById("found-defects");
  if (!part || !part.querySelector(".shots")) return;
  const wanted = { type: "", grade: "" };
  const words = document.getElementById("defect-words");
  const lists = [
    { items: [...part.querySelectorAll(".shot")], more: document.getElementById("more-shots"), room: 12, name: "images" },
    { items: [...part.querySelectorAll(".defect-table tbody tr")], more: document.getElementById("more-rows"), room: 20, name: "defects" },
  ];
  const matches = (item) => {
    const text = words.value.trim().toLowerCase();
    return (!wanted.type || item.dataset.type.split(" ").includes(wanted.type))
      && (!wanted.grade || item.dataset.grade === wanted.grade)
      && item.dataset.words.toLowerCase().includes(text);
  };
  const update = () => {
    lists.forEach((list) => {
      const table = list.items.length && list.items[0].parentNode;
      const ordered = table ? [...table.children] : [];  // as the table was sorted last
      const shown = ordered.filter(matches);
      list.items.forEach((item) => { item.hidden = true; });
      shown.slice(0, list.room).forEach((item) => { item.hidden = false; });
      list.more.hidden = shown.length <= list.room;
      list.more.textContent = `show all ${shown.length} ${list.name}`;
      list.count = shown.length;
    });
    document.getElementById("defects-shown").textContent = `${lists[1].count} of ${lists[1].items.length} defects`;
    document.getElementById("no-defects").hidden = lists[1].count > 0;
  };
  ["type", "grade"].forEach((key) => part.querySelectorAll(`.chip[data-${key}]`).forEach((chip, _, chips) => {
    chip.addEventListener("click", () => {
      wanted[key] = chip.dataset[key];
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      update();
    });
  }));
  words.addEventListener("input", update);
  lists.forEach((list) => list.more.addEventListener("click", () => { list.room = Infinity; update(); }));
  part.querySelectorAll(".sortable thead button").forEach((button) => button.addEventListener("click", update));
  addEventListener("beforeprint", () => { lists.forEach((list) => { list.room = Infinity; }); update(); });
  update();
})();
