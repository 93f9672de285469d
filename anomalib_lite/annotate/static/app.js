// Shows the crops one by one and sends the answers to the server.

import { getState, postAnswer, postUndo } from "./api.js";
import { Brush } from "./brush.js";
import { listen } from "./keys.js";
import { Modes } from "./modes.js";
import { Preloader } from "./preload.js";
import { afterAnswer, allFilters, arrange } from "./queue.js";
import * as page from "./render.js";
import { View } from "./view.js";

const { $ } = page;
const AHEAD = 5, BEHIND = 2; // crops preloaded after and before the current one
const UNDO_KEPT = 500; // answers that can still be undone after a reload of the page
const SLOW_MS = 150; // after this time, the status shows that an answer is being saved

const stage = $("#stage");
const preloader = new Preloader();
const view = new View([stage, $("#reference-pane"), $("#difference-pane")], () => {
  $("#zoom").textContent = `${Number(view.zoom.toFixed(1))}×`;
});
const brush = new Brush(stage, view, {
  onSaved: (reply) => { update(reply); drawState(); page.status(maskText()); },
  onFailed: (error) => page.banner(error.message),
});
const modes = new Modes(stage, brush);
view.canDrag = (pane) => !(brush.active && pane === stage);

let state, filter = "unlabelled", order = "given";
let queue = [], index = 0, current = null;
let busy = false, canAnswer = false;
let pointer = null, lastOk = null;
// Answers given on this page, [id, label, defect], for undo; they survive a reload.
const given = JSON.parse(sessionStorage.getItem("given") ?? "[]");
const keepGiven = () => sessionStorage.setItem("given", JSON.stringify(given.slice(-UNDO_KEPT)));

// ---- state

async function refresh() {
  state = await getState();
  const used = state.crops.map((crop) => crop.defect).filter(Boolean);
  state.allDefects = [...new Set([...state.defects, ...used])];
  state.byId = new Map(state.crops.map((crop) => [crop.id, crop]));
}

// Updates the state from a server reply; reloads all of it if another page has changed something meanwhile.
async function update(reply) {
  const expected = reply.version - state.version <= 1;
  state.version = reply.version;
  if (reply.crop) Object.assign(state.byId.get(reply.crop.id) ?? {}, reply.crop);
  page.banner(reply.warning, "warning");
  if (!expected) {
    await refresh();
    queue = queue.map((crop) => state.byId.get(crop.id)).filter(Boolean);
    current = current && state.byId.get(current.id);
    drawState();
  }
}

const filterEntry = () => allFilters(state.allDefects).find(([name]) => name === filter);
const matches = (crop) => filterEntry()[2](crop);

function drawState() {
  page.renderProgress(state.crops);
  page.renderSelects(state, filter, order);
  if (current) page.renderCrop(current, index, queue.length);
}

// ---- showing

async function show(place) {
  index = place;
  const crop = (current = queue[place]);
  canAnswer = false;
  document.body.classList.remove("at-end");
  $("#empty").hidden = true;
  const entry = preloader.get(crop);
  const isShown = await entry.ready;
  if (current !== crop) return;
  $("img.crop", stage).replaceWith(entry.crop);
  $("#difference-pane img.crop").replaceWith(entry.twin);
  entry.crop.alt = `Crop ${crop.name}`;
  stage.classList.toggle("broken", !isShown);
  const size = isShown ? [entry.crop.naturalWidth, entry.crop.naturalHeight] : [1, 1];
  showReference();
  view.show(...size);
  drawState();
  if (!isShown) page.renderBroken(crop);
  brush.load(crop, ...size).catch(() => page.banner(`The mask of ${crop.name} cannot be read.`));
  canAnswer = isShown;
  for (let step = -BEHIND; step <= AHEAD; step++) if (queue[place + step]) preloader.get(queue[place + step]);
  preloader.get(crop);
}

function showReference() {
  if (state.template) return page.renderReference(`/template?v=${state.template}`, "Template");
  const ok = lastOk ?? state.crops.find((crop) => crop.label === "OK");
  if (!ok || ok === current) return page.renderReference(null, "No template, and no other OK crop yet");
  page.renderReference(`/image/${ok.id}?v=${ok.version}`, `OK crop ${ok.name}`);
}

function showEnd() {
  current = null;
  canAnswer = false;
  brush.unload();
  document.body.classList.add("at-end");
  $("#empty").hidden = false;
  const others = [["all", "Show all"], ["skip", "Show skipped"], ["unlabelled", "Show unlabelled"]];
  const useful = others.filter(([name]) => name !== filter && state.crops.some(allFilters([]).find(([n]) => n === name)[2]));
  page.renderEnd(state, filterEntry()[1], useful.map(([name, text]) => [text, () => choose(name, order)]));
  drawState();
}

async function choose(newFilter, newOrder, first = 0) {
  [filter, order] = [newFilter, newOrder];
  queue = arrange(state.crops, matches, order);
  if (queue.length) await show(Math.min(first, queue.length - 1));
  else showEnd();
}

// ---- answering

// Runs one action at a time: a key pressed before the next crop appears would answer a crop that nobody has seen.
async function exclusively(action) {
  if (busy) return;
  busy = true;
  const slow = setTimeout(() => page.status("saving …"), SLOW_MS);
  try {
    await brush.flush();
    await action();
  } catch (error) {
    page.banner(error.message);
  } finally {
    clearTimeout(slow);
    busy = false;
  }
}

function answer(label, defect, pressedAt) {
  if (!current || !(canAnswer || label === "skip") || brush.isDrawing) return;
  return exclusively(async () => {
    const crop = current, isNew = crop.label !== label || crop.defect !== (defect ?? null);
    const reply = await postAnswer(crop.id, label, defect);
    if (isNew) given.push([crop.id, label, defect ?? null]);
    keepGiven();
    await update(reply);
    performance.measure("answer-saved", { start: pressedAt, end: performance.now() });
    if (label === "OK") lastOk = crop;
    page.renderLast(crop, `/image/${crop.id}?v=${crop.version}`);
    page.status(`saved: ${crop.name} is ${page.answerText(crop)}`);
    const next = afterAnswer(queue, index, matches, filter === "unlabelled");
    if (next >= 0) await show(next);
    else showEnd();
    performance.measure("answer-shown", { start: pressedAt, end: performance.now() });
  });
}

const undo = () => exclusively(async () => {
  while (given.length && !state.byId.has(given.at(-1)[0])) given.pop(); // of another folder
  if (!given.length) return page.status("nothing to undo on this page");
  const reply = await postUndo(...given.at(-1));
  given.pop();
  keepGiven();
  await update(reply);
  const crop = state.byId.get(reply.crop.id);
  if (lastOk === crop) lastOk = null;
  if (!queue.includes(crop)) queue.splice(current ? index : queue.length, 0, crop);
  await show(queue.indexOf(crop));
  if (reply.undone) page.status(`undone: ${crop.name} is ${page.answerText(crop)} again`);
  else page.banner(`${crop.name} was answered elsewhere since, so nothing is undone: answer it again if it is wrong.`, "warning");
});

const move = (step) => exclusively(async () => {
  const from = current ? index : queue.length;
  const place = Math.min(queue.length - 1, Math.max(0, from + step));
  if (queue.length && (place !== index || !current)) await show(place);
});

// ---- drawing

function maskText() {
  if (!current?.mask) return "mask saved: it is empty";
  return current.label === "NOK" ? "mask saved" : "mask saved; it counts once the crop is NOK (n or 1-9)";
}

// While drawing, u undoes strokes; on a crop without strokes it undoes the last answer, as elsewhere.
function undoStrokeOrAnswer() {
  if (!brush.active || !brush.isTouched) return undo();
  if (!brush.undo()) page.status("no more strokes to undo");
}

const COMMANDS = {
  answer: (label, at) => answer(label, null, at),
  defect: (place, at) => state.defects[place] && answer("NOK", state.defects[place], at),
  undo: undoStrokeOrAnswer,
  "undo-answer": undo,
  move, back: () => move(-1), forward: () => move(1),
  zoom: () => view.nextZoom(pointer),
  difference: () => modes.look("difference"),
  blink: () => modes.look("blink"),
  draw: () => modes.draw(!brush.active),
  escape: () => brush.active && modes.draw(false),
  tool: (tool) => brush.active && modes.tool(tool),
  resize: (sign) => modes.resize(sign),
  clear: () => brush.active && brush.clear(),
  hide: () => modes.toggleMask(),
  help: () => $("#help").showModal(),
};

async function start() {
  await refresh();
  $("#folder").textContent = state.folder;
  document.title = `annotate ${state.folder}`;
  page.renderDefects(state.defects);
  page.renderNotes(state.notes);
  listen(([name, argument], at) => COMMANDS[name](argument ?? at, at));
  document.addEventListener("pointermove", (event) => (pointer = event));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.command) COMMANDS[button.dataset.command]();
    if (button?.dataset.tool) modes.tool(button.dataset.tool);
    if (button?.dataset.label) answer(button.dataset.label, button.dataset.defect ?? null, event.timeStamp);
  });
  $("#empty").addEventListener("pointerdown", (event) => event.stopPropagation()); // a click there is no drag
  $("#help-open").addEventListener("click", () => COMMANDS.help());
  $("#filter").addEventListener("change", (event) => exclusively(() => choose(event.target.value, order)));
  $("#order").addEventListener("change", (event) => exclusively(() => choose(filter, event.target.value)));
  $("#size").addEventListener("input", (event) => modes.size(Number(event.target.value)));
  $("#gain").addEventListener("input", (event) => document.body.style.setProperty("--gain", event.target.value));
  const left = state.crops.some((crop) => crop.label === null);
  const hasScores = state.crops.some((crop) => crop.score !== null);
  await choose(left ? "unlabelled" : "all", hasScores ? "suspicious" : "given");
  if (state.notes.length) page.banner(state.notes.join(" "), "warning");
}

start().catch((error) => page.banner(`The page could not start: ${error.message}`));
