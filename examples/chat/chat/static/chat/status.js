// The layer's numbers, as they come: a verdict, four rates with their last minute, and all of them.

import { Connection } from "./connection.js";
import { $, element, setText } from "./dom.js";

const POINTS = 60; // seconds that a curve shows
const SVG = "http://www.w3.org/2000/svg";
const GROUPS = {
  Connection: ["connected", "connected_since", "disconnected_since", "reconnections", "failed_connections",
    "blocked", "blocked_reason", "closed", "connection_name", "address", "queue_name", "bytes_in", "bytes_out"],
  Sending: ["published", "confirmed", "refused", "unconfirmed", "under_way", "unsent", "calls_waiting"],
  Receiving: ["received", "copies", "delivered", "expired", "given_back", "waiting", "unread",
    "oldest_waiting", "local_capacity"],
  "Channels and groups": ["channels", "groups", "bindings", "bindings_pending", "bindings_lingering"],
};
const TIMES = new Set(["connected_since", "disconnected_since"]); // in seconds of UNIX time
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

let former = null; // the last numbers, and when they came
const tiles = [...document.querySelectorAll("[data-rate]")].map(tile);
const tables = new Map(); // group -> the body of its table
const rows = new Map(); // group and name -> the number's cell

new Connection("/ws/status/", {
  onMessage({ port, pid, numbers }) {
    setText($("server-text"), `Server ${port ? `:${port}` : ""} · process ${pid}`);
    const now = performance.now();
    setText($("verdict"), verdict(numbers));
    document.body.dataset.layer = numbers.connected ? "connected" : "away";
    if (former?.pid === pid) {
      const seconds = (now - former.at) / 1000;
      for (const { field, show } of tiles) {
        show(Math.max(0, (numbers[field] - former.numbers[field]) / seconds));
      }
    }
    former = { numbers, pid, at: now };
    for (const [name, value] of Object.entries(numbers)) show(name, value);
  },
  onState(state) {
    if (state !== "connected") setText($("server-text"), state === "connecting" ? "Connecting…" : "Not connected");
  },
});

function verdict({ connected, blocked, reconnections }) {
  if (!connected) return "Not connected to RabbitMQ. The layer tries again by itself.";
  if (blocked) return "Connected, but RabbitMQ takes no messages: it has raised an alarm.";
  const times = reconnections === 1 ? "once" : `${reconnections} times`;
  return `Connected to RabbitMQ${reconnections ? `, reconnected ${times}` : ""}.`;
}

/** Show a number in its row; one that has parts, such as what was dropped by cause, in its table. */
function show(name, value) {
  if (value !== null && typeof value === "object") {
    for (const [part, its] of Object.entries(value)) setText(row(part, title(name)), readable(its));
  } else {
    setText(row(name), TIMES.has(name) ? clock(value) : readable(value));
  }
}

function readable(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return number.format(value);
  return value ?? "–";
}

function clock(seconds) {
  return seconds === null ? "–" : new Date(1000 * seconds).toTimeString().slice(0, 8);
}

function title(name) {
  return name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
}

/** The cell of a number, which is made the first time. */
function row(name, group = Object.keys(GROUPS).find((group) => GROUPS[group].includes(name)) ?? "More") {
  const key = `${group} ${name}`;
  if (!rows.has(key)) {
    const heading = element("th", "", title(name));
    heading.scope = "row";
    const cell = element("td");
    table(group).append(element("tr", "", heading, cell));
    rows.set(key, cell);
  }
  return rows.get(key);
}

function table(group) {
  if (!tables.has(group)) {
    const body = element("tbody");
    tables.set(group, body);
    $("numbers").append(element("table", "", element("caption", "", group), body));
  }
  return tables.get(group);
}

/** A tile with the present rate and a curve of the last ones. */
function tile(place) {
  const values = [];
  const figure = element("p", "figure", "–");
  const curve = document.createElementNS(SVG, "svg");
  const area = curve.appendChild(document.createElementNS(SVG, "path"));
  curve.setAttribute("viewBox", `0 0 ${POINTS - 1} 40`);
  curve.setAttribute("preserveAspectRatio", "none");
  curve.setAttribute("aria-hidden", "true");
  place.append(figure, curve);
  function show(rate) {
    values.push(rate);
    if (values.length > POINTS) values.shift();
    const most = Math.max(1, ...values);
    const start = POINTS - values.length;
    const points = values.map((value, i) => `${start + i},${39 - (36 * value) / most}`);
    area.setAttribute("d", `M${start},40L${points.join("L")}V40Z`);
    setText(figure, number.format(rate < 100 ? rate : Math.round(rate)));
  }
  return { field: place.dataset.rate, show };
}
