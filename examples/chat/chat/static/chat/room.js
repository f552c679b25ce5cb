// One room: a websocket that comes back by itself, the lines, and who is here.
"use strict";

const HERE_EVERY = 15_000; // ms between two "I am here"
const GONE_AFTER = 90_000; // ms of silence after which somebody is taken to be gone
const UNDELIVERED_AFTER = 10_000; // ms after which a line of ours is not waited for any more
const LINES_KEPT = 500;

const $ = (id) => document.getElementById(id);
const log = $("log");
const room = document.body.dataset.room;
const title = document.title;
// Makes this page the same person when it connects again, and nobody else.
const secret = [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("");

let socket = null;
let me = null; // the "welcome" of the present connection
let attempts = 0; // failed in a row
let retryAt = 0;
let nextKey = 1;
let unread = 0;
const people = new Map(); // id -> {name, port, seen}
const waiting = new Map(); // key -> {item, since}: lines of ours that are not back yet

// -- the websocket -----------------------------------------------------------------------------

function connect() {
  disconnect();
  retryAt = 0;
  setState("connecting");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws/room/${room}/?page=${secret}`);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = lost;
}

function disconnect() {
  if (!socket) return;
  socket.onmessage = socket.onclose = null; // we know
  socket.close();
  me = null;
}

function receive(message) {
  switch (message.type) {
    case "welcome":
      if (attempts) note("Connected again. What was said meanwhile is not shown.");
      attempts = 0;
      me = message;
      people.clear();
      setState("connected");
      here();
      break;
    case "here":
      arrived(message);
      break;
    case "left":
      // A late goodbye of a socket that has been replaced says nothing.
      if (people.get(message.id)?.socket === message.socket) left(message.id);
      break;
    case "line":
      line(message);
      break;
  }
}

function lost() {
  const wasConnected = me !== null;
  me = null;
  for (const key of [...waiting.keys()]) undelivered(key);
  people.clear();
  showPeople();
  if (wasConnected) note("The connection was lost.");
  // 0.5 s, 1 s, 2 s … 15 s, each a little at random so that not all pages come back at once.
  const delay = Math.min(15_000, 500 * 2 ** attempts) * (0.75 + Math.random() / 2);
  attempts += 1;
  retryAt = Date.now() + delay;
  setState("waiting");
}

function retryNow() {
  if (retryAt) connect();
}

function here() {
  if (me) socket.send(JSON.stringify({ type: "here", name: $("name").value.trim() }));
}

setInterval(() => {
  const now = Date.now();
  if (retryAt && now >= retryAt) connect();
  else if (retryAt) setState("waiting");
  for (const [key, { since }] of waiting) {
    if (performance.now() - since > UNDELIVERED_AFTER) undelivered(key);
  }
  for (const [id, person] of people) if (now - person.seen > GONE_AFTER) left(id);
}, 250);
setInterval(here, HERE_EVERY);
addEventListener("online", retryNow);
// A browser may keep a page that one leaves, with its websocket, in case one comes back.
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => event.persisted && connect());
$("retry").addEventListener("click", retryNow);

function setState(state) {
  document.body.dataset.state = state;
  $("server-text").textContent = me
    ? `Server ${me.port ? `:${me.port}` : ""} · process ${me.pid}`
    : state === "connecting" ? "Connecting…" : "Not connected";
  const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
  const text =
    state === "connected" ? ""
    : state === "waiting" ? `Connection lost. Trying again in ${seconds} s.`
    : attempts ? "Connection lost. Trying again…" : "";
  if ($("notice-text").textContent !== text) $("notice-text").textContent = text;
  $("notice").classList.toggle("shown", text !== "");
  $("retry").hidden = state !== "waiting";
  $("send").disabled = state !== "connected";
}

// -- lines -------------------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !me) return; // what was typed stays in the field
  const key = String(nextKey++);
  const item = addLine({ id: me.id, name: $("name").value.trim(), text, at: Date.now() / 1000 });
  item.classList.add("pending");
  waiting.set(key, { item, since: performance.now() });
  socket.send(JSON.stringify({ type: "say", key, text }));
  $("text").value = "";
});

function line(message) {
  const own = message.id === me?.id && waiting.get(message.key);
  if (own) {
    // Back through RabbitMQ: the room has it.
    waiting.delete(message.key);
    own.item.classList.remove("pending");
    own.item.querySelector(".via").textContent =
      `there and back in ${Math.max(1, Math.round(performance.now() - own.since))} ms`;
    return;
  }
  addLine(message);
  if (document.hidden) document.title = `(${++unread}) ${title}`;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
  retryNow();
});

function undelivered(key) {
  const { item } = waiting.get(key);
  waiting.delete(key);
  item.classList.replace("pending", "failed");
  item.querySelector(".via").textContent = "perhaps not delivered";
}

function addLine({ id, name, port, text, at }) {
  const own = id === me?.id;
  const item = element("li", own ? "line own" : "line");
  const previous = log.lastElementChild;
  if (previous?.dataset.id === id) item.classList.add("continued");
  item.dataset.id = id;
  item.style.setProperty("--hue", hue(name));
  const time = new Date(at * 1000);
  const stamp = element("time", "", time.toTimeString().slice(0, 5));
  stamp.dateTime = time.toISOString();
  const meta = element("p", "meta");
  meta.append(element("span", "who", own ? "You" : name), stamp,
              element("span", "via", port ? `from :${port}` : ""));
  const body = element("div", "body");
  body.append(meta, element("p", "text", text));
  item.append(avatar(name), body);
  return append(item);
}

function note(text) {
  append(element("li", "note", text));
}

function append(item) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(item);
  while (log.childElementCount > LINES_KEPT) log.firstElementChild.remove();
  if (atEnd || item.classList.contains("own")) log.scrollTop = log.scrollHeight;
  return item;
}

// -- people ------------------------------------------------------------------------------------

function arrived({ id, socket, name, port, new: isNew }) {
  const known = people.get(id);
  people.set(id, { socket, name, port, seen: Date.now() });
  if (id !== me?.id && isNew && !known) note(`${name} came in${port ? `, on server :${port}` : ""}.`);
  if (known && known.name !== name) note(`${known.name} is now ${name}.`);
  showPeople();
}

function left(id) {
  const person = people.get(id);
  if (!person) return;
  people.delete(id);
  note(`${person.name} has left.`);
  showPeople();
}

function showPeople() {
  const sorted = [...people].sort(([a, p], [b, q]) =>
    (b === me?.id) - (a === me?.id) || p.name.localeCompare(q.name));
  $("count").textContent = sorted.length || "";
  $("people").replaceChildren(...sorted.map(([id, { name, port }]) => {
    const item = element("li", "person");
    item.style.setProperty("--hue", hue(name));
    item.append(avatar(name), element("span", "who", id === me?.id ? `${name} (you)` : name),
                element("span", "port", port ? `:${port}` : ""));
    return item;
  }));
}

// -- the name field ----------------------------------------------------------------------------

const nameField = $("name");
nameField.value =
  localStorage.getItem("name") || `Guest ${Math.floor(100 + 900 * Math.random())}`;
let named = nameField.value;
nameField.addEventListener("change", () => {
  const name = nameField.value.trim() || named;
  nameField.value = name;
  if (name === named) return;
  named = name;
  localStorage.setItem("name", name);
  here();
});
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  nameField.blur(); // which is a change, if there is one
  $("text").focus();
});

// -- elements ----------------------------------------------------------------------------------

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // never as HTML: others wrote it
  return made;
}

function avatar(name) {
  const initials = name.split(/\s+/).map((word) => [...word][0]).slice(0, 2).join("");
  const made = element("span", "avatar", initials.toUpperCase());
  made.setAttribute("aria-hidden", "true");
  return made;
}

function hue(name) {
  let sum = 7;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

connect();
