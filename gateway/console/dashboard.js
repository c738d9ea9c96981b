// The dashboard: shows what its socket says, and comes back when it is lost.
"use strict";

const $ = (id) => document.getElementById(id);

/** States in the order of a command's life, with the words for people. */
const STATES = [
  ["queued", "Queued"],
  ["waiting", "Waiting for its agent"],
  ["sending", "Sending"],
  ["sent", "Sent"],
  ["delivered", "Delivered"],
  ["running", "Running"],
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
  ["unconfirmed", "Unconfirmed"],
  ["expired", "Expired"],
];
const STATE_NAMES = new Map(STATES);
const KINDS = new Map([
  ["report_now", "Report"],
  ["refresh_integration_status", "Integration status"],
  ["settings_update", "Settings"],
  ["compliance_scan", "Compliance scan"],
]);

/** Close code of a session that ended. */
const ENDED = 4401;
const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 30_000;
/** The server speaks every 5 s; nothing for so long is a connection that nobody is at the other end of. */
const SILENCE_MS = 25_000;

let socket = null;
let retryMs = RETRY_FIRST_MS;
let retryAt = 0;
let heardAt = 0;
let over = false;
/** The newest snapshot, and when it came by this browser's own clock. */
let shown = null;

const numbers = new Intl.NumberFormat("en");

// ---- The connection

function state(name, text) {
  $("light").dataset.state = name;
  if ($("state").textContent !== text) $("state").textContent = text;
  $("again").hidden = name !== "lost";
  document.body.classList.toggle("old", name !== "live");
}

function connect() {
  if (over || socket) return;
  retryAt = 0;
  if (!shown) state("connecting", "Connecting");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const mine = new WebSocket(`${scheme}//${location.host}/bullboard`);
  socket = mine;
  heardAt = performance.now();
  mine.addEventListener("message", (event) => {
    if (socket !== mine) return;
    heardAt = performance.now();
    let message;
    try {
      message = JSON.parse(event.data);
    } catch {
      return;
    }
    if (message.type !== "status") return;
    retryMs = RETRY_FIRST_MS;
    if (message.status) {
      shown = { status: message.status, received: heardAt };
      draw(message.status);
    }
    if (message.stale) state("stale", message.status ? "No worker answers" : "No worker has answered yet");
    else state("live", "Live");
  });
  mine.addEventListener("close", (event) => {
    if (socket === mine) lost(event.code);
  });
}

async function lost(code) {
  socket = null;
  if (over) return;
  if (code === ENDED) return end();
  // Half to whole, so that those who were lost together do not come back together.
  const wait = retryMs * (0.5 + Math.random() / 2);
  retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
  retryAt = performance.now() + wait;
  tick();
  // A refused upgrade does not say why. Asking for the page does.
  try {
    const page = await fetch("/bullboard", { method: "HEAD", headers: { Accept: "application/json" } });
    if (page.status === 401 && !socket) end();
  } catch {
    // The server is away: it is tried again.
  }
}

function end() {
  over = true;
  retryAt = 0;
  state("ended", "Ended");
  $("why").textContent = "Your session has ended.";
  $("problem").hidden = false;
}

function tick() {
  const now = performance.now();
  if (socket && now - heardAt > SILENCE_MS) {
    const silent = socket;
    socket = null;
    silent.close();
    lost(1006);
  }
  if (retryAt) {
    const left = Math.ceil((retryAt - now) / 1000);
    if (left <= 0) connect();
    // Said once, not every second: it is read out.
    else state("lost", "Connection lost, trying again");
  }
  ages();
}

// ---- The numbers

function element(name, text, classes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function rowHead(text) {
  const made = element("th", text);
  made.scope = "row";
  return made;
}

function count(n) {
  return element("td", numbers.format(n), n === 0 ? "zero" : "");
}

/** A cell whose age grows by itself. `ahead`: it counts down. */
function age(time, ahead) {
  const made = element("td", "–", "right");
  if (time) made.dataset[ahead ? "until" : "since"] = String(Date.parse(time));
  return made;
}

/** The last whole minutes, and what came of the one that is not over, scaled to one. */
function perMinute(ended) {
  const whole = ended.slice(-6, -1);
  return whole.reduce((sum, n) => sum + n, 0) / Math.max(whole.length, 1);
}

function rate(n) {
  return n >= 10 || n === 0 ? numbers.format(Math.round(n)) : n.toFixed(1);
}

function none(text, columns) {
  const row = element("tr");
  const cell = element("td", text, "none");
  cell.colSpan = columns;
  row.append(cell);
  return row;
}

function draw(status) {
  const queues = status.queues;
  const sum = (of) => queues.reduce((total, queue) => total + of(queue), 0);
  $("sum-queued").textContent = numbers.format(sum((q) => q.counts.queued ?? 0));
  $("sum-waiting").textContent = numbers.format(sum((q) => q.counts.waiting ?? 0));
  $("sum-running").textContent = numbers.format(status.running_count);
  $("sum-ended").textContent = rate(sum((q) => perMinute(q.ended)));

  const heads = queues.map((queue) => {
    const made = element("th", queue.name);
    made.scope = "col";
    return made;
  });
  $("queues-head").replaceChildren($("queues-head").firstElementChild, ...heads);
  $("queues").replaceChildren(
    ...STATES.map(([name, words]) => {
      const row = element("tr");
      row.dataset.state = name;
      row.append(rowHead(words), ...queues.map((queue) => count(queue.counts[name] ?? 0)));
      return row;
    }),
  );
  const paces = [
    ["Ended in this minute", (q) => count(q.ended.at(-1) ?? 0)],
    ["Ended per minute, last 5", (q) => element("td", rate(perMinute(q.ended)))],
    ["Oldest queued", (q) => age(q.oldest_queued_at)],
    ["Oldest waiting", (q) => age(q.oldest_waiting_at)],
  ];
  $("pace").replaceChildren(
    ...paces.map(([words, cell]) => {
      const row = element("tr");
      row.append(rowHead(words), ...queues.map(cell));
      return row;
    }),
  );

  $("workers-count").textContent = String(status.workers.length);
  $("workers").replaceChildren(
    ...status.workers.map((worker) => {
      const row = element("tr");
      const name = rowHead(worker.host);
      name.title = worker.id;
      if (worker.id === status.worker) name.append(" ", element("span", "answers", "tag"));
      row.append(name, age(worker.started_at));
      return row;
    }),
  );
  if (status.workers.length === 0) $("workers").append(none("None", 2));

  $("schedules").replaceChildren(
    ...status.schedules.map((schedule) => {
      const row = element("tr");
      row.append(rowHead(schedule.name), element("td", span(schedule.every_secs)), age(schedule.next_at, true));
      return row;
    }),
  );

  $("running-count").textContent = numbers.format(status.running_count);
  $("running").replaceChildren(
    ...status.running.map((one) => {
      const row = element("tr");
      const kind = element("td", KINDS.get(one.kind) ?? one.kind);
      kind.title = one.id;
      const where = element("td");
      const tag = element("span", STATE_NAMES.get(one.state) ?? one.state, "tag");
      tag.dataset.state = one.state;
      where.append(tag);
      row.append(rowHead(one.host ?? "removed host"), kind, where, age(one.since), age(one.created_at));
      row.setAttribute("role", "row");
      for (const cell of row.children) cell.setAttribute("role", cell.scope ? "rowheader" : "cell");
      return row;
    }),
  );
  if (status.running.length === 0) $("running").append(none("Nothing is under way", 5));
  const more = status.running_count - status.running.length;
  $("running-note").hidden = more <= 0;
  $("running-note").textContent = `The oldest ${status.running.length} are shown; ${numbers.format(more)} more are under way.`;

  const at = $("at");
  at.dateTime = status.at;
  at.textContent = new Date(status.at).toLocaleTimeString();
  ages();
}

/** Ages by the server's clock: the snapshot's time, and what has passed here since it came. */
function ages() {
  if (!shown) return;
  const now = Date.parse(shown.status.at) + performance.now() - shown.received;
  for (const cell of document.querySelectorAll("[data-since]")) {
    put(cell, span((now - Number(cell.dataset.since)) / 1000));
  }
  for (const cell of document.querySelectorAll("[data-until]")) {
    const left = (Number(cell.dataset.until) - now) / 1000;
    put(cell, left <= 0 ? "due" : span(left));
  }
}

function put(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

/** "7 s", "3 min 20 s", "5 h 2 min", "4 d 3 h". */
function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const parts = (big, unit, small, other) => (small ? `${big} ${unit} ${small} ${other}` : `${big} ${unit}`);
  if (s < 60) return `${s} s`;
  if (s < 3600) return parts(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return parts(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return parts(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

// ---- What people do

$("again").addEventListener("click", () => {
  retryMs = RETRY_FIRST_MS;
  connect();
});
$("logout").addEventListener("click", async () => {
  $("logout").disabled = true;
  try {
    const done = await fetch("/api/v1/auth/logout", { method: "POST" });
    if (done.ok || done.status === 401) {
      over = true;
      location.replace("/");
      return;
    }
  } catch {
    // Said below.
  }
  $("logout").disabled = false;
  state($("light").dataset.state, "Logging out failed, please try again");
});
addEventListener("online", () => {
  if (!socket) connect();
});
setInterval(tick, 1000);
connect();
