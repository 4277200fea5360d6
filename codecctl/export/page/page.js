// The page: a sound or a file of codes in, its codes shown, heard and saved.
import { Jobs } from "./jobs.js";
import { frameBits, isPacked, pack, packedSize, unpack } from "./packed.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { decodeFile, Recorder } from "./sound.js";

const MAX_MINUTES = 10;
const CACHED_MINUTES = 2; // longer recordings are decoded again when the slider comes back to a number of codebooks

const $ = (id) => document.getElementById(id);
const jobs = new Jobs(showProgress);
let codec, player, picture, recorder = null;
let sound = null; // name, nSamples, codes, decoded (by number of codebooks), heard (their number), and seconds spent
let serial = 0; // of what was opened last

function showProgress(task, share = 0) {
  $("working").hidden = task === null;
  $("task").textContent = task ?? "";
  $("progress").value = share;
}

function say(text, error = "") {
  $("status").textContent = text;
  $("error").textContent = error;
}

/** Runs what the user asked for, and says in one line what went wrong. */
async function attempt(name, action) {
  serial += 1;
  say("");
  try {
    await action(serial);
  } catch (error) {
    say("", `${name}: ${error.message}`);
  }
}

function openFile(file) {
  return attempt(file.name, async (mine) => {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (mine !== serial) return;
    if (isPacked(bytes)) await openCodes(file.name, bytes);
    else await openSound(file.name, await decodeFile(bytes.buffer, codec.sample_rate), mine);
  });
}

async function openSound(name, samples, mine) {
  if (mine !== serial) return;
  check(samples.length);
  const answer = await jobs.run("encode", `Encoding ${name}`, { samples });
  if (answer) await show({ name, nSamples: samples.length, codes: answer.result, encodeSeconds: answer.seconds }, samples);
}

async function openCodes(name, bytes) {
  const { codes, nSamples } = unpack(codec, bytes);
  check(nSamples);
  await show({ name, nSamples, codes });
}

function check(nSamples) {
  if (!nSamples) throw new Error("there is no sound in it");
  if (nSamples > MAX_MINUTES * 60 * codec.sample_rate) {
    throw new Error(`is longer than ${MAX_MINUTES} minutes; use codecctl encode for it`);
  }
}

/** What was opened, from here on: `original` are the samples that were encoded, if there are any. */
async function show(opened, original) {
  player.clear();
  sound = { ...opened, decoded: {} };
  const nCodebooks = sound.codes.length;
  if (original) player.set("original", original);
  document.querySelector("[value=original]").disabled = !original;
  document.querySelector("[value=decoded]").checked = true;
  player.select("decoded");
  $("codebooks").max = nCodebooks;
  $("codebooks").value = nCodebooks;
  $("codebooks").disabled = nCodebooks === 1;
  picture.set(sound.codes, codec.codebook_sizes, original);
  $("listen-title").textContent = `Listen: ${sound.name}`;
  $("result").hidden = false;
  showPosition();
  await choose();
}

/** Decodes with the chosen number of codebooks, and lets that be heard. */
async function choose() {
  const current = sound, n = Number($("codebooks").value), codes = current.codes.slice(0, n);
  showFacts(n);
  if (!current.decoded[n]) {
    const task = `Decoding with ${n} ${n === 1 ? "codebook" : "codebooks"}`;
    const answer = await jobs.run("decode", task, { codes, nSamples: current.nSamples });
    if (!answer) return;
    if (current.nSamples > CACHED_MINUTES * 60 * codec.sample_rate) current.decoded = {};
    current.decoded[n] = answer.result;
    current.decodeSeconds = answer.seconds;
  } else {
    jobs.cancel(); // what the slider has passed
  }
  current.heard = n;
  player.set("decoded", current.decoded[n]);
  if (!player.buffers.original) picture.set(current.codes, codec.codebook_sizes, current.decoded[n]);
  showStatus();
  showPosition();
}

function showStatus() {
  const seconds = sound.nSamples / codec.sample_rate;
  const took = Object.entries({ encoded: sound.encodeSeconds, decoded: sound.decodeSeconds })
    .filter(([, spent]) => spent !== undefined)
    .map(([what, spent]) => `${what} in ${spent.toFixed(2)} s (${(seconds / spent).toFixed(1)} × real time)`);
  say(`${sound.name}: ${seconds.toFixed(2)} s, ${took.join(", ")}`);
}

function showFacts(n) {
  const seconds = sound.nSamples / codec.sample_rate, nBytes = packedSize(codec, n, sound.nSamples);
  const nFrameBits = frameBits(codec, n), kbps = nFrameBits * codec.sample_rate / codec.hop_length / 1000;
  const rate = `${kbps.toFixed(2)} kbps`, fileKbps = 8 * nBytes / seconds / 1000, plainKbps = 16 * codec.sample_rate / 1000;
  $("codebooks-text").textContent = `${n} of ${codec.codebook_sizes.length}, ${rate}`;
  $("codebooks").setAttribute("aria-valuetext", `${n} of ${codec.codebook_sizes.length}, ${rate}`);
  const facts = [
    ["Codes", rate, `${nFrameBits} bits a frame`],
    ["File", `${fileKbps.toFixed(2)} kbps`, `${nBytes.toLocaleString("en")} bytes with header and checks`],
    ["16-bit samples", `${plainKbps} kbps`, `${(plainKbps / fileKbps).toFixed(0)} times the size of the file`],
  ];
  $("facts").replaceChildren(...facts.map(([name, value, more]) => {
    const group = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
    const small = document.createElement("small");
    [dt.textContent, dd.textContent, small.textContent] = [name, value, more];
    dd.append(small);
    group.append(dt, dd);
    return group;
  }));
}

function showPosition() {
  if (!sound) return;
  const duration = sound.nSamples / codec.sample_rate, position = Math.min(player.position, duration);
  const text = `${position.toFixed(2)} of ${duration.toFixed(2)} s`, n = Number($("codebooks").value);
  $("position").step = codec.hop_length / codec.sample_rate; // an arrow key moves by a frame
  $("position").max = sound.codes[0].length * codec.hop_length / codec.sample_rate;
  $("position").value = position;
  $("position").setAttribute("aria-valuetext", text);
  $("clock").textContent = text;
  $("play").textContent = player.isPlaying ? "Pause" : "Play";
  $("play").disabled = !player.buffers.decoded;
  const nFrames = sound.codes[0].length;
  const frame = Math.min(nFrames - 1, Math.floor(position * codec.sample_rate / codec.hop_length + 1e-6));
  picture.show(frame, n);
  $("frame").textContent = `Frame ${frame + 1} of ${nFrames}: ${sound.codes.slice(0, n).map((row) => row[frame]).join(" ")}`;
  showCaption(nFrames);
  if (player.isPlaying) requestAnimationFrame(showPosition);
}

function showCaption(nFrames) {
  const { first, n } = picture.page(), seconds = (frame) => (frame * codec.hop_length / codec.sample_rate).toFixed(2);
  const part = n === nFrames ? `all ${nFrames} frames` : `frames ${first + 1} to ${first + n} of ${nFrames}`;
  const text = `The waveform, and below it a row for each of ${sound.codes.length} codebooks, a column for each ` +
    `frame, a colour for each code: ${part}, ${seconds(first)} to ${seconds(first + n)} s.`;
  if ($("caption").textContent !== text) {
    $("caption").textContent = text;
    $("picture").setAttribute("aria-label", `Picture of the codes: ${text}`);
  }
}

function save() {
  const codes = sound.codes.slice(0, Number($("codebooks").value));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([pack(codec, codes, sound.nSamples)]));
  link.download = `${sound.name.replace(/\.[^.]*$/, "") || "sound"}.cctl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function record() {
  if (recorder) {
    const ended = recorder;
    recorder = null;
    $("record").textContent = "Record";
    $("file").disabled = $("example").disabled = false;
    const samples = await ended.stop(codec.sample_rate);
    return attempt("recording", (mine) => openSound("recording", samples, mine));
  }
  player.pause();
  await attempt("recording", async () => { recorder = await Recorder.start(); });
  if (!recorder) return;
  $("file").disabled = $("example").disabled = true;
  showRecording();
}

function showRecording() {
  if (!recorder) return;
  $("record").textContent = `Stop (${recorder.seconds.toFixed(0)} s)`;
  if (recorder.seconds >= MAX_MINUTES * 60 - 1) record();
  else setTimeout(showRecording, 250);
}

function wire() {
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) openFile(target.files[0]);
    target.value = ""; // the same file can be opened again
  });
  $("example").addEventListener("click", () => attempt("example", async (mine) => {
    const bytes = await (await fetch("example.flac")).arrayBuffer();
    await openSound("example", await decodeFile(bytes, codec.sample_rate), mine);
  }));
  $("record").addEventListener("click", record);
  $("cancel").addEventListener("click", () => {
    jobs.cancel();
    say("Cancelled.");
    if (!sound?.heard) return;
    $("codebooks").value = sound.heard; // so that the slider says what is heard
    showFacts(sound.heard);
    showPosition();
  });
  $("play").addEventListener("click", () => (player.isPlaying ? player.pause() : player.play()));
  $("position").addEventListener("input", () => player.seek(Number($("position").value)));
  $("codebooks").addEventListener("input", () => choose().catch((error) => say("", `${sound.name}: ${error.message}`)));
  $("save").addEventListener("click", save);
  for (const radio of document.querySelectorAll("[name=version]")) {
    radio.addEventListener("change", () => player.select(radio.value));
  }
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
    });
  }
}

async function start() {
  say("");
  $("cancel").hidden = true;
  codec = (await jobs.run("load", "Loading the codec")).result;
  $("cancel").hidden = false;
  player = new Player(codec.sample_rate);
  player.onChange = showPosition;
  picture = new Picture($("picture"), (frame) => player.seek(frame * codec.hop_length / codec.sample_rate));
  const kbps = frameBits(codec) * codec.sample_rate / codec.hop_length / 1000;
  $("lead").textContent = `Hear ${codec.sample_rate / 1000} kHz speech at ${kbps.toFixed(2)} kbps: ` +
    `${codec.sample_rate / codec.hop_length} frames a second, ${codec.codebook_sizes.length} codes in each.`;
  $("about").textContent = `Model ${codec.fingerprint}. Made by codecctl ${codec.codecctl}; runs on ${codec.runtime}.`;
  wire();
  for (const id of ["file", "record", "example"]) $(id).disabled = false;
  say("Ready.");
}

start().catch((error) => say("", error.message));
