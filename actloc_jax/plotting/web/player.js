// The page of one video: a player (the video, its pictures, or neither) and rows of segments that share one position.
// data: title, unit ("seconds" or "frames"), duration, video, stills, classes, rows, scores, facts, files, home.
// A row's segments are [start, end, class, score or null], by their start.

const MOST_LANES = 8; // of a row; what finds no place there is counted beside the row's name
const MOST_TABLE_ROWS = 500;
const LANE = 24;
const inFrames = data.unit === "frames";
const video = byId("video");
let duration = data.duration;
let now = 0;
let picked = null; // the class that is shown alone

const rows = data.rows.map((row, number) => ({
  ...row,
  number,
  minimum: row.minimum,
  segments: row.segments.map(([start, end, label, score]) => ({ row: number, start, end, label, score })),
}));

// --- words ---------------------------------------------------------------------------------------------------------

function clock(time, digits = 2) {
  if (inFrames) return String(Math.round(time));
  const scale = 10 ** digits;
  const rounded = Math.round(time * scale) / scale;
  const [hours, minutes, seconds] = [Math.floor(rounded / 3600), Math.floor((rounded % 3600) / 60), rounded % 60];
  const end = seconds.toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${end}` : `${minutes}:${end}`;
}

function span(segment) {
  return inFrames
    ? `frames ${clock(segment.start)} to ${clock(segment.end - 1)}`
    : `${clock(segment.start)} to ${clock(segment.end)}`;
}

function scoreText(score) {
  return score === null ? "" : score.toPrecision(3);
}

function describe(segment) {
  const score = segment.score === null ? "" : `, score ${scoreText(segment.score)}`;
  return `${data.classes[segment.label].name}, ${span(segment)}${score}`;
}

// --- position ------------------------------------------------------------------------------------------------------

function seek(time) {
  now = Math.min(Math.max(time, 0), duration);
  if (!video.hidden) video.currentTime = now;
  showPosition();
}

function showPosition() {
  byId("hand").style.left = `${(100 * now) / duration}%`;
  const axis = byId("axis");
  axis.setAttribute("aria-valuenow", now.toFixed(2));
  axis.setAttribute("aria-valuetext", inFrames ? `frame ${clock(now)}` : clock(now));
  showStill();
  showCurrent();
}

function isCurrent(segment) {
  return segment.start <= now && now < segment.end;
}

let shownNow = "";
function showCurrent() {
  const items = rows.map((row) => [row, visible(row).filter(isCurrent)]);
  const text = items.map(([, found]) => found.map((segment) => segment.start + "/" + segment.label).join()).join(";");
  byId("now").firstChild.textContent = (inFrames ? "frame " : "") + clock(now, 1);
  if (text === shownNow) return;
  shownNow = text;
  for (const [row, found] of items) {
    const names = new Map(found.sort(byScore).map((segment) => [segment.label, data.classes[segment.label]]));
    const parts = [...names.values()].slice(0, 3).flatMap((entry) => [swatch(entry), entry.name + " "]);
    row.current.replaceChildren(`${row.name}: `, ...(parts.length ? parts : ["\u2013"]));
  }
  for (const node of document.querySelectorAll("#table tbody tr")) node.classList.toggle("now", isCurrent(node.segment));
}

function byScore(a, b) {
  return (b.score ?? 0) - (a.score ?? 0);
}

// --- player --------------------------------------------------------------------------------------------------------

function openPlayer() {
  byId("player").hidden = !data.video && !data.stills.length;
  if (!data.video) return openStills();
  video.hidden = false;
  video.src = data.video;
  video.onerror = () => {
    video.hidden = true;
    byId("trouble").textContent = `${decodeURIComponent(data.video)} is not there, or this browser cannot play it.`;
    openStills();
  };
  video.onloadedmetadata = () => {
    if (video.duration > duration && isFinite(video.duration)) {
      duration = video.duration;
      drawAxis();
      drawRows();
    }
    if (now) video.currentTime = now;
  };
  const take = () => {
    if (video.seeking) return;
    now = Math.min(video.currentTime, duration);
    showPosition();
  };
  const follow = () => {
    take();
    if (!video.paused && !video.ended) requestAnimationFrame(follow);
  };
  video.onplay = follow;
  video.onseeked = video.ontimeupdate = take; // a page in the background has no animation frames
}

function openStills() {
  if (!data.stills.length) return;
  byId("stills").hidden = false;
  byId("strip").replaceChildren(...data.stills.map(([time, source], number) => {
    const button = element("button", { type: "button", title: clock(time) },
      element("img", { src: source, alt: `picture at ${clock(time)}` }));
    button.onclick = () => seek(data.stills[number][0]);
    return button;
  }));
  showStill();
}

function showStill() {
  if (byId("stills").hidden) return;
  const distances = data.stills.map(([time]) => Math.abs(time - now));
  const nearest = distances.indexOf(Math.min(...distances));
  const [time, source] = data.stills[nearest];
  byId("still").src = source;
  byId("still").alt = `the video at ${clock(time)}`;
  [...byId("strip").children].forEach((node, number) => {
    if (number === nearest) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  });
}
