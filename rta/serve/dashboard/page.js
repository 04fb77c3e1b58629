// The live page: about once a second one batch of questions to the public interface, then everything is drawn from one moment.

import { empty, line } from "./charts.js";

const DATASOURCE = "events";
const TICK_MS = 1000, WAIT_MAX_MS = 10_000, REQUEST_MS = 12_000;
const $ = (id) => document.getElementById(id);
const known = new Map(); // request → {etag, body}: what a 304 stands for
let skew = 0; // the server's clock minus ours, ms
let version = null; // of the newest answer: another replica must not take us back
let failures = 0, ticks = 0, live = false;

// ---- asking ---------------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, document) {
    super(document.message ?? `status ${status}`);
    this.status = status;
    this.hint = document.hint ?? "";
  }
}

async function ask(key, path, question) {
  const before = known.get(key);
  const asked = question ? JSON.stringify(question) : "";
  const headers = {};
  if (question) headers["Content-Type"] = "application/json";
  if (question && version) headers["RTA-After"] = version;
  if (before?.etag && before.asked === asked) headers["If-None-Match"] = before.etag;
  const answer = await fetch(path, {
    method: question ? "POST" : "GET", headers, body: question ? asked : undefined, cache: "no-store", signal: AbortSignal.timeout(REQUEST_MS),
  });
  const date = Date.parse(answer.headers.get("date") ?? "");
  if (date) skew = Math.abs(date + 500 - Date.now()) > 2000 ? date + 500 - Date.now() : 0;
  if (answer.status === 304) return before.body;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body);
  known.set(key, { etag: answer.headers.get("etag"), asked, body });
  return body;
}

const iso = (t) => new Date(t).toISOString();
const range = (from, to) => `${iso(from)}/${iso(to)}`;
const query = (key, question) => ask(key, "v1/query", { datasource: DATASOURCE, ...question });

function questions(now) {
  const second = Math.floor(now / 1000) * 1000, minute = Math.floor(now / 60e3) * 60e3;
  const views = { metrics: [{ name: "views", type: "count" }], filters: { event_type: "page_view" } };
  const batch = {
    seconds: query("seconds", { time_range: range(second - 120e3, second + 1000), granularity: "second",
      metrics: [{ name: "events", type: "count" }] }),
    minutes: query("minutes", { time_range: range(minute - 3540e3, minute + 60e3), granularity: "minute",
      metrics: [{ name: "events", type: "count" }, { name: "revenue", type: "sum", field: "custom_properties.price" }],
      filters: { event_type: ["purchase", "error"] }, group_by: ["event_type"] }),
    users: query("users", { time_range: range(minute - 300e3, minute + 60e3), metrics: [{ name: "users", type: "unique_count", field: "user_id" }] }),
    pages: query("pages", { ...views, time_range: range(minute - 840e3, minute + 60e3), group_by: ["page_path"], order_by: "-views", limit: 10 }),
    recent: query("recent", { select: ["time", "event_type", "user_id", "session_id", "page_path", "country", "price"], order_by: "-time", limit: 10,
      time_range: range(minute - 840e3, minute + 60e3) }),
    status: ask("status", "v1/status"),
  };
  if (ticks % 3 === 0) batch.ledger = ask("ledger", `v1/ledger?datasource=${DATASOURCE}`);
  if (ticks % 10 === 0) batch.sources = ask("sources", "v1/datasources");
  return batch;
}

async function tick() {
  const now = Date.now() + skew;
  const batch = questions(now);
  const names = Object.keys(batch);
  const settled = await Promise.allSettled(Object.values(batch));
  const answers = {}, errors = [];
  settled.forEach((result, i) => {
    if (result.status === "fulfilled") answers[names[i]] = result.value;
    else errors.push(result.reason);
  });
  ticks += 1;
  const reached = errors.filter((error) => error instanceof Refused);
  if (errors.length === names.length && !reached.length) return lost();
  failures = 0;
  if (errors.some((error) => error.status === 400 || error.status === 404)) version = null;
  for (const name of ["seconds", "minutes", "recent"]) version = answers[name]?.meta?.version ?? version;
  draw(answers, now);
  show(answers, errors);
  return TICK_MS;
}

function lost() {
  failures += 1;
  state("reconnecting", live ? "Reconnecting…" : "Not reachable");
  notice("No answer from rta", "Numbers below are the last ones that came. This page goes on by itself as soon as rta answers.");
  return Math.min(WAIT_MAX_MS, TICK_MS * 2 ** Math.min(failures - 1, 4));
}

// ---- what state this is ----------------------------------------------------------------------------------------------

function state(name, text) {
  document.body.dataset.state = name;
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
}

function notice(title, text = "", code = "") {
  $("notice").hidden = !title;
  $("notice-title").textContent = title ?? "";
  $("notice-text").textContent = text;
  $("notice-code").textContent = code;
}

function show(answers, errors) {
  const question = errors.find((error) => error.status);
  const recent = answers.recent?.rows.length ?? 0;
  const total = answers.status?.datasources?.[DATASOURCE]?.events_folded ?? 0;
  if (question && !answers.recent) {
    state("waiting", question.status === 503 ? "Starting…" : "Can't answer");
    notice(question.status === 503 ? "rta is not ready yet" : "rta refused the page's questions", `${question.message}. ${question.hint}`);
  } else if (!recent && !total && !events(answers)) {
    state("waiting", "No data yet");
    const body = `{"event_id": "1", "timestamp": "${iso(Date.now() + skew)}", "event_type": "page_view", "user_id": "me"}`;
    notice("No events yet", "Send one, or let rta make up a web shop with: rta generate --rate 1000 --seconds 600",
      `curl ${location.origin}/v1/events -H 'Content-Type: application/json' -d '${body}'`);
  } else {
    live = true;
    const quiet = !events(answers);
    state(question ? "waiting" : "live", question ? "Answers in part" : quiet ? "Quiet" : "Live");
    if (question) notice("Some questions were not answered", `${question.message}. ${question.hint}`);
    else notice(null);
  }
}

const events = (answers) => (answers.seconds?.rows ?? []).reduce((sum, row) => sum + row.events, 0);

// ---- drawing ---------------------------------------------------------------------------------------------------------

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const number = (v) => (Math.abs(v) < 10_000 ? (Number.isInteger(v) || Math.abs(v) >= 100 ? whole.format(v) : v.toFixed(1)) : compact.format(v));
const axis = (v) => compact.format(v);

function draw(answers, now) {
  if (answers.seconds) drawSeconds(answers.seconds.rows, now);
  if (answers.minutes) drawMinutes(answers.minutes.rows, now);
  if (answers.users) text("users", number(answers.users.rows[0]?.users ?? 0));
  if (answers.pages) drawPages(answers.pages.rows);
  if (answers.recent) drawRecent(answers.recent.rows);
  if (answers.status) drawLag(answers.status.datasources?.[DATASOURCE]);
  if (answers.ledger) drawLedger(answers.ledger);
  if (answers.sources || answers.status) drawSources(answers.status?.datasources ?? {});
  drawQuality(answers, now);
}

function text(id, value, tone) {
  const node = $(id);
  if (node.textContent !== value) node.textContent = value;
  if (tone !== undefined) node.dataset.tone = tone;
}

/** Rows of an answer as points without gaps: a step that has no row had no event. */
function filled(rows, from, to, step, field) {
  const values = new Map();
  for (const row of rows) values.set(Date.parse(row.time), (values.get(Date.parse(row.time)) ?? 0) + (row[field] ?? 0));
  const points = [];
  for (let t = from; t < to; t += step) points.push({ t, v: values.get(t) ?? 0 });
  return points;
}

function drawSeconds(rows, now) {
  const second = Math.floor(now / 1000) * 1000;
  const points = filled(rows, second - 120e3, second, 1000, "events");
  const last = points.slice(-6, -1);
  text("rate", number(last.reduce((sum, p) => sum + p.v, 0) / last.length));
  if (points.every((p) => p.v === 0)) empty($("chart-seconds"), "no events in the last 2 minutes");
  else line($("chart-seconds"), { points, step: 1000, running: 1, format: axis, label: "Events per second" });
}

function drawMinutes(rows, now) {
  const minute = Math.floor(now / 60e3) * 60e3;
  for (const [chart, kind, field, format] of [["revenue", "purchase", "revenue", money.format], ["errors", "error", "events", number]]) {
    const points = filled(rows.filter((row) => row.event_type === kind), minute - 3540e3, minute + 60e3, 60e3, field);
    const some = points.some((p) => p.v !== 0);
    const label = chart === "revenue" ? "Revenue per minute" : "Errors per minute";
    text(`${chart}-now`, some ? format(points.at(-2).v) : "");
    text(`${chart}-sofar`, some ? `last full minute, ${format(points.at(-1).v)} since` : "");
    if (some) line($(`chart-${chart}`), { points, step: 60e3, running: 1, format: axis, label });
    else empty($(`chart-${chart}`), chart === "revenue" ? "no purchases in the last hour" : "no errors in the last hour");
  }
}

function drawPages(rows) {
  const most = Math.max(1, ...rows.map((row) => row.views));
  const items = rows.map((row) => {
    const item = document.createElement("li"), name = document.createElement("span"), views = document.createElement("data");
    name.textContent = name.title = row.page_path ?? "(no page)";
    views.textContent = number(views.value = row.views);
    item.style.setProperty("--share", `${(100 * row.views) / most}%`);
    item.append(name, views);
    return item;
  });
  $("pages").replaceChildren(...(items.length ? items : [none("no page views in the last 15 minutes", "li")]));
}

function none(words, tag) {
  const node = document.createElement(tag);
  node.className = "none";
  node.textContent = words;
  return node;
}

function drawRecent(rows) {
  const lines = rows.map((row) => {
    const tr = document.createElement("tr");
    const time = new Date(row.time).toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
    const cells = [time, row.event_type, row.user_id ?? row.session_id, row.page_path, row.country, row.price == null ? "" : money.format(row.price)];
    cells.forEach((value, i) => {
      const td = document.createElement("td");
      td.textContent = td.title = value ?? "";
      if (i === 1) Object.assign(td, { className: "kind" }).dataset.kind = row.event_type;
      if (i === 5) td.className = "number";
      tr.append(td);
    });
    return tr;
  });
  if (!lines.length) {
    const tr = document.createElement("tr"), td = none("no events in the last 15 minutes", "td");
    td.colSpan = 6;
    tr.append(td);
    lines.push(tr);
  }
  $("recent").replaceChildren(...lines);
}

const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : ms < 120e3 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60e3)} min`);

function drawLag(source) {
  const lag = source?.lag_ms;
  const alarms = source?.alarms ?? [];
  if (lag == null) text("lag", "–", "");
  else text("lag", duration(lag), lag < 1000 ? "" : lag < 10_000 ? "warn" : "bad");
  text("lag-note", alarms.length ? `stopped: ${alarms[0]}` : source?.ownerless?.length ? `${source.ownerless.length} partitions without owner`
    : source?.caught_up === false ? "catching up with the log" : "durable → in every answer");
}

function drawLedger(ledger) {
  const good = ledger.lost === 0 && ledger.duplicated === 0;
  text("ledger", `${number(ledger.lost)} · ${number(ledger.duplicated)}`, good ? "good" : "bad");
  const committed = ledger.stages?.committed;
  text("ledger-note", committed === undefined ? "lost · duplicated" : `lost · duplicated, of ${compact.format(committed)} committed`);
}

function drawSources(statuses) {
  const names = new Set([...(known.get("sources")?.body.datasources ?? []).map((d) => d.name), ...Object.keys(statuses)]);
  const items = [...names].sort().map((name) => {
    const source = statuses[name] ?? {};
    const item = document.createElement("li"), first = document.createElement("div"), second = document.createElement("div");
    const title = document.createElement("b"), count = document.createElement("span"), left = document.createElement("span"), right = document.createElement("span");
    title.textContent = name;
    count.textContent = source.events_folded === undefined ? "" : `${compact.format(source.events_folded)} events`;
    left.textContent = source.watermark_ms ? `up to ${new Date(source.watermark_ms).toISOString().slice(0, 19).replace("T", " ")}` : "empty";
    right.textContent = source.alarms?.length ? "stopped" : source.manifest == null ? "" : `epoch ${whole.format(source.manifest)}`;
    if (source.alarms?.length) right.dataset.tone = "bad";
    first.append(title, count);
    second.append(left, right);
    item.append(first, second);
    return item;
  });
  $("sources").replaceChildren(...(items.length ? items : [none("none yet", "li")]));
}

function drawQuality(answers, now) {
  text("asof", `As of ${new Date(now).toLocaleTimeString([], { hour12: false })}`);
  const metas = Object.values(answers).map((answer) => answer?.meta).filter(Boolean);
  if (!metas.length) return;
  const slowest = Math.max(...metas.map((meta) => meta.elapsed_ms ?? 0));
  const partial = metas.some((meta) => meta.complete === false);
  text("quality", `${metas.length} answers, slowest ${slowest.toFixed(1)} ms${partial ? ", not complete: some partitions are catching up" : ", complete"}`);
}

// ---- the loop --------------------------------------------------------------------------------------------------------

async function run() {
  for (;;) {
    const begun = performance.now();
    const wait = document.hidden ? TICK_MS : await tick();
    await new Promise((done) => setTimeout(done, Math.max(150, wait - (performance.now() - begun))));
  }
}

run();
