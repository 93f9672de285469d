// Renders the state into the page, without any logic of its own.

import { allFilters, count, defectName, ORDERS } from "./queue.js";

export const $ = (selector, root = document) => root.querySelector(selector);

const LABEL_CLASS = { OK: "ok", NOK: "nok", skip: "skip" };

export function answerText(answer) {
  if (answer.label === null) return "unlabelled";
  if (answer.label === "skip") return "skipped";
  return answer.defect ? `NOK · ${defectName(answer.defect)}` : answer.label;
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function renderDefects(defects) {
  $("#defects").replaceChildren(...defects.map((defect, place) => {
    const key = element("kbd", { textContent: place < 9 ? place + 1 : "" });
    const button = element("button", { type: "button", title: defect }, key, " ", defectName(defect));
    Object.assign(button.dataset, { label: "NOK", defect });
    return button;
  }));
}

export function renderSelects(state, filter, order) {
  const hasScores = state.crops.some((crop) => crop.score !== null);
  $("#filter").replaceChildren(...allFilters(state.allDefects).map(([name, title, matches]) => {
    const number = state.crops.filter(matches).length;
    return new Option(`${title} (${number})`, name, false, name === filter);
  }));
  $("#order").replaceChildren(...ORDERS.map(([name, title]) => {
    const option = new Option(title, name, false, name === order);
    option.disabled = name !== "given" && !hasScores;
    return option;
  }));
}

export function renderProgress(crops) {
  const numbers = count(crops);
  for (const label of ["OK", "NOK", "skip"]) {
    $(`#progress .${LABEL_CLASS[label]}`).style.width = `${(100 * numbers[label]) / numbers.total}%`;
  }
  const answered = numbers.total - numbers.left;
  const text = `${numbers.OK} OK, ${numbers.NOK} NOK, ${numbers.skip} skipped, ${numbers.left} left`;
  $("#progress").setAttribute("aria-valuemax", numbers.total);
  $("#progress").setAttribute("aria-valuenow", answered);
  $("#progress").setAttribute("aria-valuetext", `${answered} of ${numbers.total}: ${text}`);
  $("#counts").replaceChildren(
    element("b", { textContent: `${answered} / ${numbers.total}` }),
    element("span", { className: "ok", textContent: `${numbers.OK} OK` }),
    element("span", { className: "nok", textContent: `${numbers.NOK} NOK` }),
    element("span", { textContent: `${numbers.skip} skipped` }),
  );
}

export function renderCrop(crop, index, length) {
  $("#name").textContent = crop.name;
  $("#name").title = crop.name;
  $("#position").textContent = `${index + 1} / ${length}`;
  $("#badge").textContent = answerText(crop);
  $("#badge").className = `badge ${LABEL_CLASS[crop.label] ?? ""}`;
  for (const button of document.querySelectorAll("#answers button[data-label]")) {
    const isAnswer = button.dataset.label === crop.label && (button.dataset.defect ?? null) === crop.defect;
    button.setAttribute("aria-pressed", isAnswer);
  }
  const suggestion = $("#suggestion");
  suggestion.hidden = crop.score === null;
  suggestion.className = crop.nok === null ? "" : crop.nok ? "nok" : "ok";
  if (crop.score !== null) {
    const verdict = crop.nok === null ? "score" : crop.nok ? "suggests NOK," : "suggests OK,";
    suggestion.textContent = `${verdict} ${Number(crop.score.toPrecision(3))}`;
  }
}

export function renderLast(answered, url) {
  const card = $("#last");
  card.hidden = false;
  card.className = LABEL_CLASS[answered.label] ?? "";
  $("img", card).src = url;
  $(".what", card).textContent = answerText(answered);
  $(".name", card).textContent = answered.name.split("/").at(-1);
  card.animate?.([{ opacity: 0.35 }, { opacity: 1 }], { duration: 220 });
}

export function renderReference(url, caption) {
  for (const image of document.querySelectorAll("img.reference")) {
    image.hidden = !url;
    if (url) image.src = url;
  }
  $("#reference-caption").textContent = caption;
  document.body.classList.toggle("no-reference", !url);
  for (const command of ["difference", "blink"]) $(`button[data-command=${command}]`).disabled = !url;
}

export function renderEnd(state, filterTitle, actions) {
  const numbers = count(state.crops);
  const buttons = actions.map(([text, run]) => element("button", { type: "button", textContent: text, onclick: run }));
  $("#empty").replaceChildren(
    element("h2", { textContent: numbers.left ? `The end of “${filterTitle}”` : "All crops are answered" }),
    element("p", { textContent: `${numbers.OK} OK, ${numbers.NOK} NOK, ${numbers.skip} skipped, ${numbers.left} left` }),
    element("p", {}, "The answers are in ", element("code", { textContent: `${state.folder}/labels.csv` })),
    element("div", { className: "row" }, ...buttons),
  );
}

export function renderBroken(crop) {
  $("#empty").hidden = false;
  $("#empty").replaceChildren(
    element("h2", { textContent: "This crop cannot be shown" }),
    element("p", { textContent: `${crop.name} is damaged or gone. Skip it with space.` }),
  );
}

export function renderNotes(notes) {
  $("#notes").replaceChildren(...notes.map((note) => element("li", { textContent: note })));
}

export function banner(text, kind = "error") {
  $("#banner").hidden = !text;
  $("#banner").className = kind;
  $("#banner").textContent = text ?? "";
}

export const status = (text) => ($("#status").textContent = text);
