// Uploads dropped pictures one by one and shows the answers.
const find = (name) => document.querySelector(name);
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token ? { authorization: `Bearer ${token}` } : {};
const count = { OK: 0, NOK: 0 };
const KEPT = 24; // pictures in the strip
let last = Promise.resolve();

async function send(file) {
  let reply;
  for (let tries = 0; tries < 30; tries++) {
    const address = `/predict?overlay=base64&name=${encodeURIComponent(file.name)}`;
    reply = await fetch(address, { method: "POST", body: file, headers });
    if (reply.status !== 503) break;
    await new Promise((wake) => setTimeout(wake, 1000 * (reply.headers.get("retry-after") || 1)));
  }
  const answer = await reply.json();
  if (!reply.ok) throw new Error(`${file.name}: ${answer.detail}`);
  return answer;
}

function queue(files) {
  for (const file of files) {
    last = last.then(async () => {
      try {
        const answer = await send(file);
        find("#banner").hidden = true;
        count[answer.verdict]++;
        keep(answer, URL.createObjectURL(file));
      } catch (error) {
        find("#banner").textContent = error.message;
        find("#banner").hidden = false;
      }
    });
  }
}

function keep(answer, picture) {
  const button = document.createElement("button");
  button.className = answer.verdict.toLowerCase();
  button.title = `${answer.image}: ${answer.verdict}`;
  button.append(Object.assign(new Image(), { src: picture, alt: button.title }));
  button.addEventListener("click", () => show(answer, picture, button));
  find("#strip").prepend(button);
  for (const old of [...find("#strip").children].slice(KEPT)) {
    URL.revokeObjectURL(old.firstChild.src);
    old.remove();
  }
  find("#counts").innerHTML = `<b class="ok">${count.OK} OK</b><b class="nok">${count.NOK} NOK</b>`;
  show(answer, picture, button);
}

function show(answer, picture, button) {
  for (const other of find("#strip").children) other.setAttribute("aria-pressed", other === button);
  find("#empty").hidden = true;
  find("figure").hidden = find("aside").hidden = false;
  find("#picture").src = picture;
  find("#overlay").src = answer.overlay;
  find("#frame").dataset.width = answer.width;
  find("#frame").dataset.height = answer.height;
  const tone = answer.verdict.toLowerCase();
  find("aside").className = tone;
  find("#verdict b").textContent = answer.verdict;
  find("#name").textContent = answer.image;
  const ratio = answer.score / answer.threshold;
  find("#scale i").style.width = `${Math.min(ratio, 2) * 50}%`;
  find("#score").replaceChildren("score ", bold(answer.score), ", threshold ", bold(answer.threshold));
  list(answer);
  fit();
}

const bold = (value) => Object.assign(document.createElement("b"), { textContent: Number(value.toPrecision(4)) });

function list(answer) {
  const body = find("tbody");
  const boxes = find("#boxes");
  body.replaceChildren();
  boxes.replaceChildren();
  boxes.setAttribute("viewBox", `0 0 ${answer.width} ${answer.height}`);
  find("table").hidden = !answer.defects.length;
  find("#none").hidden = !!answer.defects.length;
  for (const defect of answer.defects) {
    const [x, y, width, height] = defect.box_in_image;
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ x, y, width, height, stroke: defect.colour })) box.setAttribute(key, value);
    boxes.append(box);
    const row = body.insertRow();
    const dot = document.createElement("i");
    dot.style.background = defect.colour;
    row.insertCell().append(dot, defect.title);
    row.insertCell().textContent = defect.grade;
    for (const text of [defect.severity.toFixed(2), `${x}, ${y}`, `${width} × ${height}`]) {
      Object.assign(row.insertCell(), { textContent: text, className: "number" });
    }
    row.addEventListener("pointerenter", () => box.classList.add("chosen"));
    row.addEventListener("pointerleave", () => box.classList.remove("chosen"));
  }
}

function fit() {
  const { width, height } = find("#frame").dataset;
  const { clientWidth, clientHeight } = find("#stage");
  const scale = Math.min((clientWidth - 24) / width, (clientHeight - 24) / height); // 24: the stage's padding
  Object.assign(find("#frame").style, { width: `${width * scale}px`, height: `${height * scale}px` });
}

find("#files").addEventListener("change", (event) => queue([...event.target.files]));
find("#show").addEventListener("change", (event) => (find("#overlay").hidden = !event.target.checked));
find("#outline").addEventListener("change", (event) => find("#boxes").toggleAttribute("hidden", !event.target.checked));
new ResizeObserver(() => find("figure").hidden || fit()).observe(find("#stage"));
addEventListener("dragover", (event) => (event.preventDefault(), find("#stage").classList.add("over")));
addEventListener("dragleave", () => find("#stage").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  find("#stage").classList.remove("over");
  queue([...event.dataTransfer.files]);
});
const about = await (await fetch("/about", { headers })).json();
find("#run").textContent = about.run || about.detail;
