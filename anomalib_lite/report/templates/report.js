"use strict";
// A click on a column head sorts a table; numbers first in descending order, missing values always last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = column === 0 ? "ascending" : "descending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
    });
    table.tBodies[0].append(...rows);
  }));
}

// In a group of chips exactly one is pressed; `chosen` is called with it.
const chooseOne = (chips, chosen) => chips.forEach((chip) => chip.addEventListener("click", () => {
  chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
  chosen(chip);
}));

// Shows the first `room` matching items of `list`, and all of them after a click on `more`. Returns a function that
// updates the list and returns all matching items in their order.
const shortList = (list, more, room, name, matches = () => true) => {
  const update = () => {
    const shown = [...list.children].filter(matches);
    [...list.children].forEach((item) => { item.hidden = true; });
    shown.slice(0, room).forEach((item) => { item.hidden = false; });
    more.hidden = shown.length <= room;
    more.firstElementChild.textContent = `show all ${shown.length} ${name}`;
    return shown;
  };
  const showAll = () => { room = Infinity; update(); };
  more.addEventListener("click", showAll);
  addEventListener("beforeprint", showAll);
  list.closest("table")?.tHead.addEventListener("click", update);
  return update;
};

// Unfolds everything for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
