// One room: what arrives goes to its place on the page, and what one does goes to the server.

import { Connection } from "./connection.js";
import { $, setText } from "./dom.js";
import * as lines from "./lines.js";
import * as people from "./people.js";

const room = document.body.dataset.room;
const title = document.title;

let me = null; // the "welcome" of the present connection
let latest = null; // when the last line that we have was said, by the servers' clock
let wasHere = false; // connected before
let unread = 0;
let early = []; // lines that came before those that we missed; null once we have these
let addressee = null; // {id, name} of who gets the next line alone
let nextKey = Date.now(); // no key is ever used twice, reloaded page or not

/** What makes this window the same person when it connects again, or is reloaded. */
function secret() {
  const made = [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("");
  const kept = sessionStorage.getItem("secret") ?? made;
  sessionStorage.setItem("secret", kept);
  return kept;
}

// -- what arrives ------------------------------------------------------------------------------

const arrivals = {
  welcome(message) {
    me = message;
    setText($("server-text"), `Server ${me.port ? `:${me.port}` : ""} · process ${me.pid}`);
    introduceOneself();
    connection.send({ type: "catch_up", since: latest });
  },
  here: (message) => note(people.introduce(message, me.id)),
  left: ({ socket }) => note(people.farewell(socket, me.id)),
  present: ({ sockets }) => people.present(sockets, me.id).forEach(note),
  missed({ events, complete }) {
    const held = early;
    early = null;
    lines.together(() => {
      if (wasHere) lines.remark(returned(events, complete), "again");
      events.forEach((event) => arrivals[event.type](event));
      if (!wasHere && events.length) lines.remark("That was said in the last minutes, before you came.");
    });
    held.forEach(arrivals.line);
    wasHere = true;
  },
  line(message) {
    if (early) return early.push(message);
    latest = Math.max(latest ?? 0, message.at);
    lines.addLine(message, { own: message.id === me.id });
    if (document.hidden) document.title = `(${++unread}) ${title}`;
  },
  note(message) {
    const own = message.id === me.id;
    const to = own ? people.nameOf(message.to) ?? "somebody" : "you";
    lines.addLine(message, { own, to });
  },
  job: lines.addJob,
  refused({ key, why }) {
    if (key) lines.refuse(key, why);
    else lines.remark(why);
  },
};

const connection = new Connection(`/ws/room/${room}/?page=${secret()}`, {
  onMessage: (message) => arrivals[message.type](message),
  onState(state, former) {
    for (const button of document.querySelectorAll("[data-online]")) button.disabled = state !== "connected";
    if (state !== "connected") setText($("server-text"), state === "connecting" ? "Connecting…" : "Not connected");
    if (former !== "connected" || state === "connected") return;
    me = null;
    early = [];
    lines.doubt();
    lines.remark("The connection was lost.");
    people.forgetAll();
  },
});

function note(text) {
  if (text) lines.remark(text);
}

function returned(events, complete) {
  if (!complete) return "Connected again. What was said meanwhile is not to be had just now.";
  const amount = events.filter(({ type, line }) => type === "line" && !lines.has(line)).length;
  return `Connected again. You missed ${amount === 1 ? "1 line" : `${amount || "no"} lines`}.`;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
});

// -- writing -----------------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !me) return; // what was typed stays in the field
  const key = String(nextKey++);
  const message = { id: me.id, key, name: nameField.value, text, at: Date.now() / 1000 };
  if (addressee) {
    lines.addOwn(message, addressee.name);
    connection.send({ type: "note", key, to: addressee.id, text });
  } else {
    lines.addOwn(message);
    connection.send({ type: "say", key, text });
  }
  $("text").value = "";
});

/** Write the next lines to one person, or with null to the room. */
function writeTo(person) {
  addressee = person;
  $("addressee").hidden = !person;
  $("composer").classList.toggle("private", person !== null);
  setText($("addressee-name"), person?.name ?? "");
  $("text").placeholder = person ? "Only they will read it" : `Write to ${room}`;
  setText($("text-label"), person ? `Private note to ${person.name}` : `Message to ${room}`);
  showPanel(false);
  $("text").focus();
}

$("people").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) writeTo({ id: button.dataset.id, name: people.nameOf(button.dataset.id) });
});
$("to-all").addEventListener("click", () => writeTo(null));
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && addressee) writeTo(null);
});

$("job-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connection.send({ type: "job", below: Number($("below").value) });
  showPanel(false);
});

// -- the panel beside the conversation, which covers it on a small screen -----------------------

function showPanel(shown) {
  $("panel").classList.toggle("open", shown);
  $("panel-toggle").setAttribute("aria-expanded", String(shown));
}

$("panel-toggle").addEventListener("click", () => showPanel(!$("panel").classList.contains("open")));
$("panel").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !$("panel").classList.contains("open")) return;
  showPanel(false);
  $("panel-toggle").focus();
});

// -- one's name --------------------------------------------------------------------------------

const nameField = $("name");
nameField.value = sessionStorage.getItem("name") ?? localStorage.getItem("name")
  ?? `Guest ${Math.floor(100 + 900 * Math.random())}`;
let named = nameField.value;

function introduceOneself() {
  connection.send({ type: "here", name: named });
}

nameField.addEventListener("change", () => {
  const name = nameField.value.trim() || named;
  nameField.value = name;
  if (name === named) return;
  named = name;
  sessionStorage.setItem("name", name);
  localStorage.setItem("name", name);
  introduceOneself();
});
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  nameField.blur(); // which is a change, if there is one
  $("text").focus();
});
