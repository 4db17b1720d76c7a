// Parts that every page uses. No text of the data is ever parsed as HTML: it only becomes text nodes and attributes.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

function byId(id) {
  return document.getElementById(id);
}

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") Object.assign(node.style, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function swatch(entry) {
  return element("i", { class: "swatch", style: { background: entry.background ? "var(--rest)" : entry.colour } });
}

// Numbers by size, texts by their order; what is missing comes last either way.
function compare(a, b, sign) {
  const missingA = a === null || a === undefined || a === "";
  const missingB = b === null || b === undefined || b === "";
  if (missingA || missingB) return missingA - missingB;
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}

// The column that a head's button stands for, and the direction in which a press on it sorts.
function turnHead(head) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  return sign;
}

// Tables that Python wrote: a cell's sort key is its data-key, or its text.
for (const button of document.querySelectorAll("table.sorts th button")) {
  const head = button.closest("th");
  button.onclick = () => {
    const sign = turnHead(head), body = head.closest("table").tBodies[0], column = head.cellIndex;
    const key = (row) => {
      const text = row.cells[column].dataset.key ?? row.cells[column].textContent;
      return text !== "" && isFinite(text) ? Number(text) : text === "-" ? "" : text;
    };
    [...body.rows].sort((a, b) => compare(key(a), key(b), sign)).forEach((row) => body.append(row));
  };
}
