// A websocket that comes back by itself, and the bar that says so.

import { $, setText } from "./dom.js";

const SLOWEST = 15_000; // ms between two attempts, at most
const SILENCE = 30_000; // ms after which a connection that says nothing is taken to be dead

export class Connection {
  #path;
  #onMessage;
  #onState;
  #socket = null;
  #attempts = 0; // failed in a row
  #retryAt = 0;
  #heardAt = 0;
  state = "connecting"; // then "connected" or "waiting"

  constructor(path, { onMessage, onState }) {
    this.#path = path;
    this.#onMessage = onMessage;
    this.#onState = onState;
    const retry = () => this.#retryAt && this.#open();
    setInterval(() => this.#tick(), 250);
    $("retry").addEventListener("click", retry);
    addEventListener("online", retry);
    document.addEventListener("visibilitychange", () => document.hidden || retry());
    // A browser may keep a page that one leaves, with its websocket, in case one comes back.
    addEventListener("pagehide", () => this.#drop());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
    this.#open();
  }

  send(message) {
    if (this.state === "connected") this.#socket.send(JSON.stringify(message));
  }

  #open() {
    this.#drop();
    this.#retryAt = 0;
    this.#heardAt = Date.now();
    this.#become("connecting");
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.#socket = new WebSocket(`${scheme}//${location.host}${this.#path}`);
    this.#socket.onmessage = (event) => {
      this.#heardAt = Date.now();
      if (this.state !== "connected") this.#become("connected");
      this.#onMessage(JSON.parse(event.data));
    };
    this.#socket.onclose = () => this.#lost();
  }

  #drop() {
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null; // we know
    this.#socket.close();
    this.#socket = null;
  }

  #lost() {
    this.#drop();
    // 0.5 s, 1 s, 2 s … each a little at random, so that not all pages come back at once.
    const delay = Math.min(SLOWEST, 500 * 2 ** this.#attempts) * (0.75 + Math.random() / 2);
    this.#attempts += 1;
    this.#retryAt = Date.now() + delay;
    this.#become("waiting");
  }

  #tick() {
    if (this.#retryAt) {
      if (Date.now() >= this.#retryAt) this.#open();
      else this.#show();
    } else if (this.#socket && Date.now() - this.#heardAt > SILENCE) {
      this.#lost();
    }
  }

  #become(state) {
    const former = this.state;
    this.state = document.body.dataset.state = state;
    if (state === "connected") this.#attempts = 0;
    this.#show();
    this.#onState(state, former);
  }

  #show() {
    const seconds = Math.max(1, Math.ceil((this.#retryAt - Date.now()) / 1000));
    // The countdown is for the eye only: read out each second it would be a nuisance.
    setText($("notice-text"), this.#attempts ? "Connection lost." : "");
    setText($("countdown"), this.state === "waiting" ? `Trying again in ${seconds} s.` : "Trying again…");
    $("notice").classList.toggle("shown", this.#attempts > 0);
    $("retry").disabled = this.state !== "waiting";
  }
}
