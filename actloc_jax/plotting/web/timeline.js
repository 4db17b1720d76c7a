// The rows of segments of one video, the time axis, thresholds, legend and table; then all of the page is made.

// --- rows ----------------------------------------------------------------------------------------------------------

function visible(row) {
  return row.minimum === null ? row.segments : row.segments.filter((segment) => segment.score >= row.minimum);
}

// The best segments take the upper lanes; true ones and labels, which have no rank, go by their start.
function lanesOf(row) {
  const found = visible(row).slice();
  if (row.minimum !== null) found.sort(byScore);
  const lanes = [];
  const placed = [];
  for (const segment of found) {
    const free = (lane) => lane.every((other) => other.end <= segment.start || segment.end <= other.start);
    let lane = row.exclusive ? (lanes.length ? 0 : -1) : lanes.findIndex(free);
    if (lane < 0 && lanes.length < MOST_LANES) lane = lanes.push([]) - 1;
    if (lane < 0) continue;
    lanes[lane].push(segment);
    placed.push([segment, lane]);
  }
  placed.sort(([a], [b]) => a.start - b.start);
  return { placed, count: Math.max(lanes.length, 1), left: found.length - placed.length };
}

function drawRow(row) {
  const { placed, count, left } = lanesOf(row);
  const width = byId("inner").clientWidth;
  row.nodes = placed.map(([segment, lane]) => segmentNode(segment, lane, width));
  if (row.nodes.length) row.nodes[0].tabIndex = 0;
  row.area.replaceChildren(...row.nodes);
  row.area.style.height = `${count * LANE}px`;
  row.caption.textContent = row.name + (left ? ` (${left} more that overlap are in the table)` : "");
  row.group.setAttribute("aria-label", `${row.name}, ${placed.length} segments`);
}

function segmentNode(segment, lane, width) {
  const entry = data.classes[segment.label];
  const share = (segment.end - segment.start) / duration;
  const roomy = share * width > 36;
  const node = element("button", {
    type: "button", tabindex: -1, "aria-label": describe(segment), class: roomy ? "segment" : "segment plain",
    style: {
      left: `min(${(100 * segment.start) / duration}%, 100% - 2px)`, width: `${100 * share}%`, top: `${lane * LANE + 1}px`,
      background: entry.background ? "var(--rest)" : entry.colour, color: entry.background ? "var(--rest-ink)" : entry.ink,
    },
  }, roomy ? entry.name : "");
  node.classList.toggle("dim", picked !== null && picked !== segment.label);
  node.segment = segment;
  return node;
}

function drawRows() {
  rows.forEach(drawRow);
  shownNow = "";
  showPosition();
}

function makeRows() {
  for (const row of rows) {
    row.caption = element("div", { class: "name" });
    row.area = element("div", { class: "lanes" });
    row.group = element("div", { class: "row", role: "group" }, row.caption, row.area);
    row.current = element("li");
    row.group.addEventListener("keydown", (event) => moveFocus(event, row));
    byId("rows").append(row.group);
  }
  byId("now").append(element("li"), ...rows.map((row) => row.current));
  const inner = byId("inner");
  inner.addEventListener("click", (event) => {
    const node = event.target.closest(".segment");
    if (event.detail === 0 && node) return seek(node.segment.start); // pressed with a key
    const box = inner.getBoundingClientRect();
    seek((duration * (event.clientX - box.left)) / box.width);
  });
  inner.addEventListener("pointerover", (event) => showTip(event.target.closest(".segment"), event));
  inner.addEventListener("pointermove", (event) => showTip(event.target.closest(".segment"), event));
  inner.addEventListener("pointerleave", () => showTip(null));
  inner.addEventListener("focusin", (event) => showTip(event.target.closest(".segment")));
  inner.addEventListener("focusout", () => showTip(null));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") showTip(null); });
}

// Arrows move inside a row and to the nearest segment of the next one; a row has one stop for Tab.
function moveFocus(event, row) {
  const position = row.nodes.indexOf(event.target);
  if (position < 0) return;
  const last = row.nodes.length - 1;
  const next = { ArrowLeft: position - 1, ArrowRight: position + 1, Home: 0, End: last }[event.key];
  let target = row.nodes[next];
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step) {
    let other = rows[row.number + step];
    while (other && !other.nodes.length) other = rows[other.number + step];
    const middle = (event.target.segment.start + event.target.segment.end) / 2;
    const distance = ({ segment }) => Math.max(segment.start - middle, middle - segment.end, 0);
    target = other && other.nodes.reduce((best, node) => (distance(node) < distance(best) ? node : best));
  }
  if (step || next !== undefined) event.preventDefault();
  if (!target) return;
  for (const node of target.parentElement.children) node.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
}

function showTip(node, pointer) {
  const tip = byId("tip");
  tip.hidden = !node;
  if (!node) return;
  const { segment } = node;
  const length = inFrames ? `${segment.end - segment.start} frames` : `${(segment.end - segment.start).toFixed(2)} s`;
  const score = segment.score === null ? [] : [element("div", {}, `score ${scoreText(segment.score)}`)];
  tip.replaceChildren(element("b", {}, data.classes[segment.label].name),
    element("div", {}, `${span(segment)} (${length})`), ...score, element("div", {}, rows[segment.row].name));
  const box = node.getBoundingClientRect();
  const left = pointer ? pointer.clientX + 12 : box.left;
  const below = box.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
}

// --- axis, zoom, thresholds, legend --------------------------------------------------------------------------------

function drawAxis() {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000];
  const most = Math.max(2, byId("inner").clientWidth / 70);
  const step = steps.find((value) => duration / value <= most) || 10 ** Math.ceil(Math.log10(duration / most));
  const marks = [];
  for (let mark = 0; mark <= duration + 1e-9; mark += step) {
    const share = mark / duration;
    marks.push(element("span", { class: share > 0.97 ? "last" : "", style: { left: `${100 * share}%` } },
      clock(mark, step < 1 ? 1 : 0)));
  }
  const axis = byId("axis");
  axis.replaceChildren(...marks);
  axis.setAttribute("aria-valuemin", 0);
  axis.setAttribute("aria-valuemax", duration.toFixed(2));
}

function makeAxis() {
  const second = inFrames ? 1 : Math.min(1, duration / 20);
  byId("axis").addEventListener("keydown", (event) => {
    const moved = {
      ArrowLeft: now - second, ArrowRight: now + second, ArrowDown: now - second, ArrowUp: now + second,
      PageUp: now + duration / 10, PageDown: now - duration / 10, Home: 0, End: duration,
    }[event.key];
    if (moved === undefined) return;
    event.preventDefault();
    seek(moved);
  });
  const zoom = byId("zoom");
  zoom.oninput = () => {
    const times = 2 ** zoom.value;
    zoom.setAttribute("aria-valuetext", `${times.toFixed(1)} times`);
    byId("inner").style.setProperty("--zoom", times);
    drawAxis();
    drawRows();
    byId("scroller").scrollLeft = (byId("inner").clientWidth * now) / duration - byId("scroller").clientWidth / 2;
  };
  addEventListener("resize", () => { drawAxis(); drawRows(); });
}

function makeThresholds() {
  for (const row of rows.filter((each) => each.minimum !== null)) {
    const scores = row.segments.map((segment) => segment.score);
    const [low, high] = [Math.min(0, ...scores), Math.max(...scores, 0)];
    const step = (high - low) / 200 || 1;
    const name = `Minimum score, ${row.name}`;
    const input = element("input", { type: "range", min: low, max: high, step, value: row.minimum, "aria-label": name });
    const output = element("output");
    const count = element("span", { class: "quiet" });
    const show = () => {
      output.textContent = scoreText(row.minimum);
      count.textContent = `${visible(row).length} of ${row.segments.length} segments`;
    };
    input.oninput = () => {
      row.minimum = Number(input.value);
      show();
      drawRow(row);
      shownNow = "";
      fillTable();
      showCurrent();
    };
    show();
    byId("controls").append(element("label", {}, `Minimum score, ${row.name}`, input, output, count));
  }
}

function makeLegend() {
  const buttons = data.classes.map((entry, label) => {
    const button = element("button", { type: "button", "aria-pressed": "false" }, swatch(entry), entry.name);
    button.onclick = () => {
      picked = picked === label ? null : label;
      buttons.forEach((other, number) => other.setAttribute("aria-pressed", String(number === picked)));
      for (const row of rows) {
        for (const node of row.nodes) node.classList.toggle("dim", picked !== null && picked !== node.segment.label);
      }
      fillTable();
    };
    return button;
  });
  byId("legend").append(...buttons);
}

// --- table ---------------------------------------------------------------------------------------------------------

const columns = [
  ["source", (segment) => rows[segment.row].name, "text"],
  ["class", (segment) => data.classes[segment.label].name, "text"],
  [inFrames ? "first frame" : "start", (segment) => segment.start],
  [inFrames ? "last frame" : "end", (segment) => segment.end],
  [inFrames ? "frames" : "seconds", (segment) => segment.end - segment.start],
  ...(rows.some((row) => row.segments.some((segment) => segment.score !== null)) ? [["score", (segment) => segment.score]] : []),
];
let order = [columns[2][1], 1];

function makeTable() {
  const heads = columns.map(([name, key, kind], number) => {
    const button = element("button", { type: "button" }, name);
    const head = element("th", { scope: "col", class: kind, "aria-sort": number === 2 ? "ascending" : null }, button);
    button.onclick = () => {
      order = [key, turnHead(head)];
      fillTable();
    };
    return head;
  });
  byId("table").tHead.rows[0].append(...heads);
  fillTable();
}

function fillTable() {
  const [key, sign] = order;
  const all = rows.flatMap(visible).filter((segment) => picked === null || segment.label === picked);
  all.sort((a, b) => compare(key(a), key(b), sign) || a.start - b.start);
  const shown = all.slice(0, MOST_TABLE_ROWS);
  byId("count").textContent = shown.length < all.length
    ? `The first ${shown.length} of ${all.length} segments; a higher minimum score or a class of the legend shows the others.`
    : `${all.length} segment${all.length === 1 ? "" : "s"}`;
  byId("table").tBodies[0].replaceChildren(...shown.map(tableRow));
}

function tableRow(segment) {
  const entry = data.classes[segment.label];
  const go = element("button", { type: "button", "aria-label": `Go to ${clock(segment.start)}` }, clock(segment.start));
  const length = inFrames ? String(segment.end - segment.start) : (segment.end - segment.start).toFixed(2);
  const node = element("tr", { class: isCurrent(segment) ? "now" : null },
    element("td", { class: "text" }, rows[segment.row].name),
    element("td", { class: "text" }, swatch(entry), entry.name),
    element("td", {}, go), element("td", {}, clock(inFrames ? segment.end - 1 : segment.end)), element("td", {}, length),
    ...(columns.length > 5 ? [element("td", {}, scoreText(segment.score))] : []));
  node.segment = segment;
  node.onclick = () => seek(segment.start);
  return node;
}

// --- what stands around --------------------------------------------------------------------------------------------

function makeSurroundings() {
  if (data.home) byId("home").append(element("a", { href: data.home }, "All videos"));
  const facts = Object.entries(data.facts).map(([name, value]) => `${name}: ${value}`);
  byId("facts").append(facts.join(" \u00b7 "));
  const links = Object.entries(data.files).map(([name, target]) => element("a", { href: target }, name));
  if (links.length) byId("facts").append(facts.length ? " \u00b7 " : "", ...links.flatMap((link) => [link, " "]));
  const scores = Object.entries(data.scores);
  if (!scores.length) return;
  const [head, body] = byId("scores").querySelectorAll("tr");
  head.append(...scores.map(([name]) => element("th", { scope: "col" }, name)));
  body.append(...scores.map(([, value]) => element("td", {}, value === null ? "-" : value.toFixed(1))));
  byId("scores").hidden = false;
}

makeSurroundings();
makeRows();
makeThresholds();
makeAxis();
makeLegend();
openPlayer();
drawAxis();
drawRows();
makeTable();
