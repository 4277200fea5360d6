"use strict";

// Tables: a click on a heading sorts by it, a second click reverses the order.
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
      if (typeof a !== typeof b) return typeof a === "number" ? 1 : -1; // cells without a value come last
      return a.localeCompare(b);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => (falling ? -1 : 1) * order(value(a), value(b)));
    table.tBodies[0].append(...rows);
  });
}

// Players: all versions of an utterance play in step, and one of them is audible. So a switch keeps the position.
let context = null;
let playing = null;

class Player {
  constructor(sources) {
    this.sources = sources; // name -> base64 of an audio file
    this.buffers = null;
    this.running = [];
    this.selected = Object.keys(sources)[0];
    this.offset = 0; // seconds: the position, or that of the last start
    this.startedAt = null; // on the clock of the context; null: paused
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
      const gain = new GainNode(context, { gain: name === this.selected ? 1 : 0 });
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

  select(name) {
    this.selected = name;
    for (const track of this.running) {
      track.gain.gain.setTargetAtTime(track.name === name ? 1 : 0, context.currentTime, 0.004);
    }
  }
}

function tracksOf(utterance) {
  const tracks = document.querySelectorAll(`script[data-utterance="${CSS.escape(utterance)}"]`);
  return Object.fromEntries([...tracks].map((track) => [track.dataset.system, track.textContent.trim()]));
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
    element.dataset.state = player.startedAt === null ? "paused" : "playing";
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
    radio.addEventListener("change", () => { if (radio.checked) player.select(names(radio.value)); });
    if (radio.checked) player.selected = names(radio.value);
  }
  return show;
}

for (const element of document.querySelectorAll("[data-player]")) {
  wire(element, new Player(tracksOf(element.dataset.player)), (name) => name);
}

// Blind test: X is one of two versions, chosen at random; a listener who hears the difference beats chance.
const blind = document.getElementById("blind");
if (blind) {
  const select = blind.querySelector("select"), status = blind.querySelector("[role=status]");
  const answers = [...blind.querySelectorAll("button.answer")], next = blind.querySelector("button.next");
  const choices = blind.querySelector(".choices");
  let right = 0, asked = 0, x = null, player = null;

  const chance = (hits, trials) => { // probability of at least so many hits by guessing
    let sum = 0, term = 1;
    for (let k = 0; k <= trials; k++) {
      if (k >= hits) sum += term;
      term = term * (trials - k) / (k + 1);
    }
    return sum / 2 ** trials;
  };

  const start = () => {
    if (player) player.pause();
    const utterances = blind.dataset.utterances.split(" ");
    const utterance = utterances[Math.floor(Math.random() * utterances.length)];
    const [a, b] = select.value.split("|"), tracks = tracksOf(utterance);
    x = Math.random() < 0.5 ? "A" : "B";
    const sources = { A: tracks[a], B: tracks[b], X: tracks[x === "A" ? a : b] };
    player = new Player(sources);
    const fresh = choices.cloneNode(true); // drops the listeners of the last trial
    choices.parentElement.replaceChild(fresh, blind.querySelector(".choices"));
    fresh.querySelector("input").checked = true;
    wire(fresh, player, (name) => name)();
    for (const answer of answers) answer.disabled = false;
    next.textContent = "Next trial";
  };

  select.addEventListener("change", () => { right = asked = 0; status.textContent = "New pair: the count starts again."; start(); });
  next.addEventListener("click", () => { status.textContent = "Listen to A, B and X, then say which of the two X is."; start(); });
  for (const answer of answers) {
    answer.addEventListener("click", () => {
      for (const button of answers) button.disabled = true;
      asked += 1;
      right += answer.value === x ? 1 : 0;
      const verdict = answer.value === x ? "Right" : "Wrong";
      const odds = (100 * chance(right, asked)).toFixed(1);
      status.textContent = `${verdict}: X was ${x}. ${right} of ${asked} right; guessing does as well in ${odds} % of cases.`;
    });
  }
}
