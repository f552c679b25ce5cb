// Who is here. RabbitMQ says which websockets are; they say whose they are.

import { $, avatar, element, hue, setText, written } from "./dom.js";

const people = new Map(); // a websocket -> {id, name, port}
const lost = new Set(); // ids of those who went without a goodbye

export const nameOf = (id) => [...people.values()].find((person) => person.id === id)?.name;

/** Somebody says who they are; tells what there is to remark, if anything. */
export function introduce({ socket, id, name, port, new: isNew }, me) {
  const known = people.get(socket);
  const elsewhere = nameOf(id);
  people.set(socket, { id, name, port });
  show(me);
  if (lost.delete(id)) return `${name} is here again.`;
  if (known && known.name !== name) return `${known.name} is now ${name}.`;
  if (isNew && id !== me && !elsewhere) return `${name} came in${port ? `, on server :${port}` : ""}.`;
}

/** A websocket said goodbye; tells whom that leaves the room without. */
export function farewell(socket, me) {
  const person = people.get(socket);
  if (!person) return;
  people.delete(socket);
  show(me);
  if (!nameOf(person.id)) return `${person.name} has left.`;
}

/** These are all: whoever is not among them has gone without a word. */
export function present(sockets, me) {
  const here = new Set(sockets);
  return [...people.entries()].filter(([socket]) => !here.has(socket)).map(([socket, { id, name }]) => {
    if (!farewell(socket, me)) return ""; // there is another window
    lost.add(id);
    return `${name} is out of reach.`;
  });
}

export function forgetAll() {
  people.clear();
  show(null);
}

function show(me) {
  const persons = new Map([...people.values()].map((person) => [person.id, person]));
  const sorted = [...persons.values()].sort(
    (one, other) => (other.id === me) - (one.id === me) || one.name.localeCompare(other.name));
  for (const count of document.querySelectorAll(".count")) setText(count, String(sorted.length || ""));
  // Redrawing would take the focus from a button that has it.
  const focused = document.activeElement?.dataset.id;
  $("people").replaceChildren(...sorted.map((person) => personItem(person, person.id === me)));
  if (focused) [...$("people").querySelectorAll("button")].find((b) => b.dataset.id === focused)?.focus();
}

function personItem({ id, name, port }, own) {
  const item = element("li", "person");
  item.style.setProperty("--hue", hue(name));
  item.append(avatar(name), written("span", "who", own ? `${name} (you)` : name),
              element("span", "port", port ? `:${port}` : ""));
  if (!own) {
    const button = element("button", "quiet", "Note");
    button.type = "button";
    button.dataset.id = id;
    button.setAttribute("aria-label", `Write a private note to ${name}`);
    item.append(button);
  }
  return item;
}
