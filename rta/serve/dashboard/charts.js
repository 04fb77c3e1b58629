// One line over time as SVG, drawn anew at every change. Knows nothing of where its numbers come from.

const LEFT = 44, RIGHT = 8, TOP = 10, BOTTOM = 20;
const drawn = new WeakMap();

/** Round steps, so that 2 to 5 lines cover 0..max. */
export function ticks(max) {
  if (!(max > 0)) return [0, 1];
  const rough = max / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = 0; i * step < max + step * 0.999; i++) found.push(i * step);
  return found;
}

function timeTicks(from, to, width) {
  const wanted = Math.max(2, Math.floor(width / 90));
  const step = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].map((s) => s * 1000).find((s) => (to - from) / s <= wanted) ?? 7200e3;
  const found = [];
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) found.push(t);
  return found;
}

const clock = (t, seconds) =>
  new Date(t).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }), hour12: false });

/**
 * Draw a line.
 * @param {HTMLElement} box
 * @param {{points: {t: number, v: number}[], step: number, running: number, format: (v: number) => string, label: string}} data
 *   `points` ascending and without gaps, `step` their distance in ms, `running` how many of the last are not yet over.
 */
export function line(box, data) {
  drawn.set(box, data);
  if (!box.dataset.watched) watch(box);
  draw(box, data);
}

function watch(box) {
  box.dataset.watched = "yes";
  new ResizeObserver(() => draw(box, drawn.get(box))).observe(box);
  box.addEventListener("pointermove", (event) => {
    box.dataset.hover = String(event.clientX - box.getBoundingClientRect().left);
    draw(box, drawn.get(box));
  });
  box.addEventListener("pointerleave", () => {
    delete box.dataset.hover;
    draw(box, drawn.get(box));
  });
}

function draw(box, { points, step, running, format, label }) {
  const width = box.clientWidth, height = box.clientHeight;
  if (width === 0 || points.length < 2) return;
  const from = points[0].t, to = points.at(-1).t;
  const marks = ticks(Math.max(...points.map((p) => p.v)));
  const top = marks.at(-1);
  const x = (t) => LEFT + ((t - from) / (to - from)) * (width - LEFT - RIGHT);
  const y = (v) => height - BOTTOM - (v / top) * (height - TOP - BOTTOM);
  const path = (list) => list.map((p, i) => `${i ? "L" : "M"}${x(p.t).toFixed(1)} ${y(p.v).toFixed(1)}`).join("");
  const over = points.slice(0, points.length - running);
  const still = points.slice(points.length - running);
  const grid = marks.map((v) => `<line class="${v ? "grid" : "base"}" x1="${LEFT}" x2="${width - RIGHT}" y1="${y(v)}" y2="${y(v)}"/>` +
    `<text x="${LEFT - 8}" y="${y(v) + 4}" text-anchor="end">${format(v)}</text>`);
  const times = timeTicks(from, to, width - LEFT - RIGHT).filter((t) => x(t) > LEFT + 24 && x(t) < width - 24)
    .map((t) => `<text x="${x(t)}" y="${height - 4}" text-anchor="middle">${clock(t, to - from < 3e5)}</text>`);
  const area = over.length > 1 ? `<path class="area" d="${path(over)}L${x(over.at(-1).t)} ${y(0)}L${x(from)} ${y(0)}Z"/>` : "";
  const open = still.map((p) => `<circle class="running" cx="${x(p.t)}" cy="${y(p.v)}" r="3"/>`).join("");
  const hover = hovered(box, points, from, step, width);
  const cross = hover ? `<line class="cross" x1="${x(hover.t)}" x2="${x(hover.t)}" y1="${TOP}" y2="${y(0)}"/>` +
    `<circle class="dot" cx="${x(hover.t)}" cy="${y(hover.v)}" r="4.5"/>` : "";
  const last = over.at(-1) ?? points.at(-1);
  box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}: ${format(last.v)} at ${clock(last.t, true)}">` +
    `${grid.join("")}${times.join("")}${area}<path class="line" d="${path(over)}"/>${open}${cross}</svg>`;
  if (hover) {
    const tip = document.createElement("output");
    tip.textContent = `${clock(hover.t, step < 60e3)}  ${format(hover.v)}${points.indexOf(hover) >= points.length - running ? " so far" : ""}`;
    tip.style.left = `${Math.min(Math.max(x(hover.t), 60), width - 60)}px`;
    box.append(tip);
  }
}

function hovered(box, points, from, step, width) {
  if (box.dataset.hover === undefined) return null;
  const share = (Number(box.dataset.hover) - LEFT) / (width - LEFT - RIGHT);
  const index = Math.round((share * (points.at(-1).t - from)) / step);
  return points[Math.min(points.length - 1, Math.max(0, index))];
}

/** Say why there is no line. */
export function empty(box, text) {
  if (box.dataset.watched) drawn.set(box, { points: [], step: 1, running: 0, format: String, label: "" });
  box.innerHTML = `<div class="empty"></div>`;
  box.firstChild.textContent = text;
}
