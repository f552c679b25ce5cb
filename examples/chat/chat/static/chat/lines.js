// The conversation: lines, notes, jobs, and remarks in between.

import { $, avatar, element, hue, setText, written } from "./dom.js";

const LATE = 10_000; // ms after which a line of ours may not have been delivered
const KEPT = 500; // on the page

const lines = $("lines");
const scroller = $("log");
const seen = new Map(); // a line's or a job's id -> its item
const waiting = new Map(); // key -> {item, since}: lines of ours that have not come back
const number = new Intl.NumberFormat("en");
let atEnd = true;

export const has = (id) => seen.has(id);

/** Show a line that somebody wrote, unless it is here already. */
export function addLine(message, { own, to }) {
  const mine = own && waiting.get(message.key);
  if (mine) cameBack(message.key, mine);
  else if (!seen.has(message.line)) append(lineItem(message, own, to), message);
  if (mine) seen.set(message.line, mine.item);
}

/** Show a line of ours, which is on its way. */
export function addOwn(message, to) {
  const item = lineItem(message, true, to);
  item.classList.add("pending");
  append(item, message);
  waiting.set(message.key, { item, since: performance.now() });
}

/** A line of ours is known not to arrive. */
export function refuse(key, why) {
  if (!waiting.has(key)) return;
  fail(waiting.get(key).item, why);
  waiting.delete(key);
}

/** Lines of ours that were waited for so long, in ms, may not have arrived. If one has, it says so. */
export function doubt(longerThan = 0) {
  for (const { item, since } of waiting.values()) {
    if (performance.now() - since >= longerThan) fail(item, "perhaps not delivered");
  }
}

function fail(item, why) {
  item.classList.replace("pending", "failed");
  const via = item.querySelector(".via");
  via.setAttribute("aria-live", "polite");
  setText(via, why);
}

setInterval(doubt, 500, LATE);

/** A remark that is nobody's line. */
export function remark(text, className = "") {
  append(element("li", `remark ${className}`, text));
}

/** Show or renew a job's card. */
export function addJob({ job, name, below, done, found, pid, seconds }) {
  const card = seen.get(job) ?? append(jobItem(job, name, below));
  if (done < Number(card.dataset.done)) return; // overtaken by later news
  card.dataset.done = done;
  card.dataset.heard = performance.now();
  card.querySelector("progress").value = done;
  setText(card.querySelector(".percent"), `${Math.floor((100 * done) / below)} %`);
  const finished = done === below;
  card.classList.toggle("finished", finished);
  const stage = card.querySelector(".stage");
  stage.setAttribute("aria-live", finished ? "polite" : "off"); // only the end is read out
  setText(stage,
    finished ? `${number.format(found)} of them. Worker process ${pid} took ${seconds.toFixed(1)} s.`
    : done ? `Worker process ${pid} has found ${number.format(found)} so far.`
    : "Waiting for a free worker…");
}

setInterval(() => {
  for (const card of lines.querySelectorAll(".job:not(.finished)")) {
    if (performance.now() - card.dataset.heard > LATE) {
      setText(card.querySelector(".stage"), "No news of it. Is a worker running?");
    }
  }
}, 1000);

/** Add many at once, without each being read out. */
export function together(add) {
  scroller.setAttribute("aria-busy", "true");
  add();
  scroller.removeAttribute("aria-busy");
}

function cameBack(key, { item, since }) {
  waiting.delete(key);
  item.classList.remove("pending", "failed");
  const ms = Math.max(1, Math.round(performance.now() - since));
  setText(item.querySelector(".via"), `there and back in ${ms} ms`);
}

function lineItem({ id, name, port, text, at }, own, to) {
  const item = element("li", "line");
  item.classList.toggle("own", own);
  item.classList.toggle("private", to !== undefined);
  item.dataset.from = `${id} ${name} ${to ?? ""}`;
  item.style.setProperty("--hue", hue(name));
  const previous = lines.lastElementChild;
  if (previous?.dataset.from === item.dataset.from) item.classList.add("continued");
  const time = new Date(at * 1000);
  const stamp = element("time", "", time.toTimeString().slice(0, 5));
  stamp.dateTime = time.toISOString();
  const meta = element("p", "meta", written("span", "who", own ? "You" : name));
  if (to !== undefined) meta.append(element("span", "to", "only to ", written("b", "", to)));
  const via = element("span", "via", port ? `from :${port}` : "");
  via.setAttribute("aria-live", "off");
  meta.append(stamp, via);
  item.append(avatar(name), element("div", "body", meta, written("p", "text", text)));
  return item;
}

function jobItem(job, name, below) {
  const what = `the primes below ${number.format(below)}`;
  const card = element("li", "job");
  const bar = element("progress");
  bar.max = below;
  bar.setAttribute("aria-label", `Counting ${what}`);
  card.dataset.done = "0";
  const title = element("p", "title", written("b", "", name), ` asked a worker to count ${what}`);
  const row = element("div", "row", bar, element("span", "percent"));
  row.setAttribute("aria-live", "off");
  card.append(title, row, element("p", "stage"));
  seen.set(job, card);
  return card;
}

function append(item, message) {
  if (message?.line) seen.set(message.line, item);
  lines.append(item);
  while (lines.childElementCount > KEPT) lines.firstElementChild.remove();
  if (seen.size > 4 * KEPT) for (const [id, old] of seen) if (!old.isConnected) seen.delete(id);
  if (item.classList.contains("own")) atEnd = true;
  stayAtEnd();
  return item;
}

/** Whoever reads the end sees what comes, also when the keyboard of a phone takes its place. */
function stayAtEnd() {
  if (atEnd) scroller.scrollTop = scroller.scrollHeight;
}
new ResizeObserver(stayAtEnd).observe(scroller);
scroller.addEventListener("scroll", () => {
  atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
});
