"use strict";

// Tables: a click on a heading sorts by it, a second one the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table");
    const column = [...heading.parentElement.children].indexOf(heading);
    const falling = heading.getAttribute("aria-sort") !== "descending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (row) => {
      const text = row.children[column].dataset.value ?? row.children[column].textContent;
      return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
    };
    const order = (a, b) => {
      if (typeof a === "number" && typeof b === "number") return a - b;
      if (typeof a !== typeof b) return typeof a === "number" ? 1 : -1; // what was not measured comes last
      return a.localeCompare(b);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => (falling ? -1 : 1) * order(value(a), value(b)));
    table.tBodies[0].append(...rows);
  });
}

// Players: all versions of a recording run together, one of them can be heard. So a switch keeps its place exactly.
let context = null;
let playing = null;

class Player {
  constructor(sources) {
    this.sources = sources; // name -> base64 of an audio file
    this.buffers = null;
    this.running = [];
    this.heard = Object.keys(sources)[0];
    this.offset = 0; // seconds, where it stands or started last
    this.startedAt = null; // on the clock of the context; null: it stands
    this.onEnd = () => {};
  }

  async load() {
    context ??= new AudioContext();
    await context.resume();
    if (this.buffers) return;
    const decoded = await Promise.all(Object.entries(this.sources).map(async ([name, base64]) => {
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      return [name, await context.decodeAudioData(bytes.buffer)];
    }));
    this.buffers = Object.fromEntries(decoded);
  }

  get duration() {
    return this.buffers ? Math.max(...Object.values(this.buffers).map((buffer) => buffer.duration)) : 0;
  }

  get position() {
    return this.startedAt === null ? this.offset : Math.max(this.offset, this.offset + context.currentTime - this.startedAt);
  }

  async play() {
    await this.load();
    if (playing && playing !== this) playing.pause();
    if (this.startedAt !== null) this.pause();
    playing = this;
    if (this.offset >= this.duration - 0.01) this.offset = 0;
    this.startedAt = context.currentTime + 0.02;
    this.running = Object.entries(this.buffers).map(([name, buffer]) => {
      const source = new AudioBufferSourceNode(context, { buffer });
      const gain = new GainNode(context, { gain: name === this.heard ? 1 : 0 });
      source.connect(gain).connect(context.destination);
      source.start(this.startedAt, this.offset);
      return { name, source, gain };
    });
    const mine = this.startedAt;
    this.running[0].source.onended = () => {
      if (this.startedAt === mine) { this.pause(); this.offset = 0; this.onEnd(); }
    };
  }

  pause() {
    if (this.startedAt === null) return;
    this.offset = Math.min(this.position, this.duration);
    this.startedAt = null;
    for (const { source } of this.running) source.stop();
    this.running = [];
    this.onEnd();
  }

  seek(seconds) {
    const going = this.startedAt !== null;
    if (going) this.pause();
    this.offset = seconds;
    return going ? this.play() : undefined;
  }

  hear(name) {
    this.heard = name;
    for (const track of this.running) {
      track.gain.gain.setTargetAtTime(track.name === name ? 1 : 0, context.currentTime, 0.004);
    }
  }
}

function clipsOf(recording) {
  const clips = document.querySelectorAll(`script[data-recording="${CSS.escape(recording)}"]`);
  return Object.fromEntries([...clips].map((clip) => [clip.dataset.system, clip.textContent.trim()]));
}

function wire(element, player, names) {
  const button = element.querySelector("button.play"), slider = element.querySelector("input[type=range]");
  const clock = element.querySelector("output");
  const show = () => {
    slider.max = player.duration || slider.max;
    slider.value = player.position;
    const text = `${player.position.toFixed(1)} of ${Number(slider.max).toFixed(1)} s`;
    clock.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    element.dataset.state = player.startedAt === null ? "standing" : "playing";
    button.textContent = player.startedAt === null ? "Play" : "Pause";
    if (player.startedAt !== null) requestAnimationFrame(show);
  };
  player.onEnd = show;
  button.addEventListener("click", async () => {
    if (player.startedAt === null) await player.play(); else player.pause();
    show();
  });
  slider.addEventListener("input", async () => { await player.seek(Number(slider.value)); show(); });
  for (const radio of element.querySelectorAll("input[type=radio]")) {
    radio.addEventListener("change", () => { if (radio.checked) player.hear(names(radio.value)); });
    if (radio.checked) player.heard = names(radio.value);
  }
  return show;
}

for (const element of document.querySelectorAll("[data-player]")) {
  wire(element, new Player(clipsOf(element.dataset.player)), (name) => name);
}

// Blind test: X is one of two versions, drawn by lot; who hears the difference names it more often than chance would.
const blind = document.getElementById("blind");
if (blind) {
  const select = blind.querySelector("select"), told = blind.querySelector("[role=status]");
  const answers = [...blind.querySelectorAll("button.answer")], next = blind.querySelector("button.next");
  const choices = blind.querySelector(".choices");
  let right = 0, asked = 0, x = null, player = null;

  const chance = (hits, trials) => { // of so many hits or more by tossing a coin
    let sum = 0, term = 1;
    for (let k = 0; k <= trials; k++) {
      if (k >= hits) sum += term;
      term = term * (trials - k) / (k + 1);
    }
    return sum / 2 ** trials;
  };

  const start = () => {
    if (player) player.pause();
    const recordings = JSON.parse(blind.dataset.recordings);
    const recording = recordings[Math.floor(Math.random() * recordings.length)];
    const [a, b] = select.value.split("|"), clips = clipsOf(recording);
    x = Math.random() < 0.5 ? "A" : "B";
    const sources = { A: clips[a], B: clips[b], X: clips[x === "A" ? a : b] };
    player = new Player(sources);
    const fresh = choices.cloneNode(true); // drops the listeners of the last trial
    choices.parentElement.replaceChild(fresh, blind.querySelector(".choices"));
    fresh.querySelector("input").checked = true;
    wire(fresh, player, (name) => name)();
    for (const answer of answers) answer.disabled = false;
    next.textContent = "Next trial";
  };

  select.addEventListener("change", () => { right = asked = 0; told.textContent = "A new pair: counting anew."; start(); });
  next.addEventListener("click", () => { told.textContent = "Listen to A, B and X, then say which of the two X is."; start(); });
  for (const answer of answers) {
    answer.addEventListener("click", () => {
      for (const button of answers) button.disabled = true;
      asked += 1;
      right += answer.value === x ? 1 : 0;
      const verdict = answer.value === x ? "Right" : "Wrong";
      const odds = (100 * chance(right, asked)).toFixed(1);
      told.textContent = `${verdict}: X was ${x}. ${right} of ${asked} right; chance alone does as well in ${odds} % of cases.`;
    });
  }
}
