(() => {
  const known = JSON.parse(document.getElementById("drawn").textContent);
  const state = { view: "0", metric: "0" };
  const studies = [...document.querySelectorAll(".study")];
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = ["--ok", "--nok", "--third", "--fourth", "--fifth", "--muted"];

  const update = () => {
    studies.forEach((s) => { s.hidden = s.dataset.view !== state.view || s.dataset.metric !== state.metric; });
    if (document.getElementById("interaction")) offerFactors();
  };
  ["view", "metric"].forEach((key) => {
    const chips = document.querySelectorAll(`.chip[data-${key}]`);
    chips.forEach((chip) => chip.addEventListener("click", () => {
      state[key] = chip.dataset[key];
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      update();
    }));
  });

  // Of many pairs a few are shown, and those of one setting on demand.
  document.querySelectorAll(".pairs").forEach((part) => {
    const body = part.querySelector("tbody"), more = part.querySelector(".more"), only = part.querySelector(".only");
    const conclusive = part.querySelector(".conclusive"), count = part.querySelector(".count");
    let room = 25;
    if (only) {
      const names = [...new Set([...body.rows].flatMap((row) => [row.dataset.first, row.dataset.second]))].sort();
      names.forEach((name) => only.add(new Option(name, name)));
    }
    const show = () => {
      const rows = [...body.rows];
      const wanted = rows.filter((row) => (!only || !only.value || [row.dataset.first, row.dataset.second].includes(only.value))
        && (!conclusive || !conclusive.checked || row.classList.contains("marked")));
      rows.forEach((row) => { row.hidden = true; });
      wanted.slice(0, room).forEach((row) => { row.hidden = false; });
      more.hidden = wanted.length <= room;
      more.firstElementChild.textContent = `show all ${wanted.length} pairs`;
      if (count) count.textContent = `${wanted.length} of ${rows.length} pairs`;
    };
    more.addEventListener("click", () => { room = Infinity; show(); });
    [only, conclusive].forEach((control) => control && control.addEventListener("change", show));
    part.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", show));
    addEventListener("beforeprint", () => { room = Infinity; show(); });
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

  const part = document.getElementById("interaction");
  const [first, second] = ["first-factor", "second-factor"].map((id) => document.getElementById(id));
  const current = () => known.interactions[`${state.view}/${state.metric}`] || [];
  const fill = (select, names, wanted) => {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.value = names.includes(wanted) ? wanted : names[0];
  };
  const offerFactors = () => {
    const names = [...new Set(current().flatMap((one) => one.factors))];
    fill(first, names, first.value);
    offerSecond();
  };
  const offerSecond = () => {
    const names = current().filter((one) => one.factors.includes(first.value))
      .map((one) => one.factors.find((name) => name !== first.value));
    fill(second, names, second.value);
    draw();
  };
  const element = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const roundSteps = (low, high) => {
    const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw);
    const steps = [];
    for (let k = Math.ceil(low / step); k * step <= high; k += 1) steps.push(k * step);
    return [steps, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  };
  const draw = () => {
    const figure = part.querySelector("figure"), note = part.querySelector(".note");
    const one = current().find((i) => i.factors.includes(first.value) && i.factors.includes(second.value));
    part.querySelector(".tools").hidden = !one;
    if (!one) {
      figure.replaceChildren();
      note.textContent = "Here only one factor was varied: there is nothing that it could interact with.";
      return;
    }
    const turned = one.factors[0] !== first.value;
    const [columns, lines] = turned ? [one.levels[1], one.levels[0]] : one.levels;
    const cells = one.cells.map(([a, b, ...rest]) => (turned ? [b, a, ...rest] : [a, b, ...rest]));
    const width = 860, height = 340, left = 66, right = 190, top = 16, bottom = 46;
    const means = cells.map((c) => c[2]), spread = Math.max(...means) - Math.min(...means) || 1e-3;
    const inside = (v) => Math.min(Math.max(v, Math.min(...means) - spread), Math.max(...means) + spread);
    const ends = cells.flatMap((c) => [c[2], ...(c[3] === null ? [] : [inside(c[3]), inside(c[4])])]);
    const low = Math.min(...ends) - 0.06 * spread, high = Math.max(...ends) + 0.06 * spread;
    const y = (v) => top + (height - top - bottom) * (high - v) / (high - low);
    const x = (i, k) => left + (width - left - right) * (i + 0.5) / columns.length + 9 * (k - (lines.length - 1) / 2);
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${first.value} and ${second.value}` });
    const [steps, places] = roundSteps(low, high);
    steps.forEach((s) => {
      svg.append(element("line", { x1: left, x2: width - right, y1: y(s), y2: y(s), class: "grid" }));
      svg.append(element("text", { x: left - 10, y: y(s) + 4, "text-anchor": "end" }, s.toFixed(places)));
    });
    svg.append(element("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }));
    columns.forEach((name, i) => svg.append(element("text", { x: x(i, (lines.length - 1) / 2), y: height - bottom + 20, "text-anchor": "middle" }, name)));
    svg.append(element("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, first.value));
    const metric = known.metrics[Number(state.metric)], labels = [];
    lines.forEach((name, k) => {
      const colour = `var(${COLOURS[k % COLOURS.length]})`;
      const own = columns.map((column, i) => [i, cells.find((c) => c[0] === column && c[1] === name)]).filter(([, c]) => c);
      const dash = k >= COLOURS.length ? { "stroke-dasharray": "5 4" } : {};
      svg.append(element("polyline", { points: own.map(([i, c]) => `${x(i, k)},${y(c[2])}`).join(" "), fill: "none", style: `stroke: ${colour}`, "stroke-width": 2, ...dash }));
      own.forEach(([i, c]) => {
        if (c[3] !== null) svg.append(element("line", { x1: x(i, k), x2: x(i, k), y1: y(inside(c[3])), y2: y(inside(c[4])), style: `stroke: ${colour}`, "stroke-width": 1.2, opacity: 0.6 }));
        const dot = element("circle", { cx: x(i, k), cy: y(c[2]), r: 5, style: `fill: ${colour}` });
        const range = c[3] === null ? "" : `, ${c[3].toFixed(metric.digits)} to ${c[4].toFixed(metric.digits)}`;
        dot.append(element("title", {}, `${c[0]}, ${c[1]}: ${c[2].toFixed(metric.digits)}${range}; ${c[5]} runs`));
        svg.append(dot);
      });
      if (own.length) labels.push({ name, colour, y: y(own[own.length - 1][1][2]) + 4 });
    });
    labels.sort((a, b) => a.y - b.y);
    labels.forEach((label, i) => { if (i) label.y = Math.max(label.y, labels[i - 1].y + 17); });
    const over = labels.length ? Math.max(0, labels[labels.length - 1].y - (height - bottom)) : 0;
    labels.forEach((label) => svg.append(element("text", { x: width - right + 14, y: label.y - over, class: "series", style: `color: ${label.colour}` }, label.name)));
    figure.replaceChildren(svg);
    note.textContent = one.whole ? "" : "Not every combination was run with everything else alike: where that leaves none to average over, the means are of what there is.";
  };
  if (part) {
    first.addEventListener("change", offerSecond);
    second.addEventListener("change", draw);
  }
  update();
})();
