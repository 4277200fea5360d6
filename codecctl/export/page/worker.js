// The codec, in a thread of its own: one job at a time, and a new job ends the one before.
import * as ort from "./runtime/ort.wasm.bundle.min.js";

let codec = null; // what codec.json says
const sessions = {}; // encoder, decoder
let latest = 0; // the id of the job to run

class Superseded extends Error {}

self.addEventListener("message", async ({ data }) => {
  latest = data.id;
  const report = (done) => self.postMessage({ id: data.id, done });
  try {
    const started = performance.now();
    const result = await JOBS[data.job](data, report);
    self.postMessage({ id: data.id, result, seconds: (performance.now() - started) / 1000 });
  } catch (error) {
    if (!(error instanceof Superseded)) self.postMessage({ id: data.id, error: error.message });
  }
});

const JOBS = {
  cancel() {},

  /** Fetches the files, and makes them ready. `done` is a share from 0 to 1. */
  async load(_, report) {
    codec = await (await found("codec.json")).json();
    const names = Object.keys(codec.files), nBytes = names.reduce((sum, name) => sum + codec.files[name].n_bytes, 0);
    let nArrived = 0;
    const files = await Promise.all(names.map((name) => fetchWhole(name, (n) => report((nArrived += n) / nBytes))));
    const [runtime, encoder, decoder] = files;
    ort.env.wasm.wasmBinary = runtime.buffer;
    ort.env.wasm.numThreads = 1; // more need headers that servers of static files do not send
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // it warns of shapes that are left open
    sessions.encoder = await ort.InferenceSession.create(encoder, options);
    sessions.decoder = await ort.InferenceSession.create(decoder, options);
    return codec;
  },

  /** `samples` [L] -> an array of T codes for each codebook. */
  async encode({ id, samples }, report) {
    const size = codec.chunk_frames * codec.hop_length, nFrames = Math.ceil(samples.length / codec.hop_length);
    const codes = codec.codebook_sizes.map(() => new Uint16Array(nFrames));
    const stream = new Stream(sessions.encoder);
    for (let start = 0; start < samples.length; start += size) {
      const chunk = new Float32Array(size);
      chunk.set(samples.subarray(start, start + size));
      const found = await stream.push(new ort.Tensor("float32", chunk, [1, 1, size])); // [1, K, T]
      copyCodes(found, codes, start / codec.hop_length);
      report(Math.min(1, (start + size) / samples.length));
      await checkLatest(id);
    }
    return codes;
  },

  /** The first codebooks of codes -> [L]. A code of -1 is absent: of other codebooks, and after the end. */
  async decode({ id, codes, nSamples }, report) {
    const { chunk_frames: n, hop_length: hop, delay } = codec, nCodebooks = codec.codebook_sizes.length;
    const samples = new Float32Array(nSamples), stream = new Stream(sessions.decoder);
    for (let first = 0; first * hop - delay < nSamples; first += n) {
      const chunk = new BigInt64Array(nCodebooks * n).fill(-1n);
      codes.forEach((row, k) => row.subarray(first, first + n).forEach((code, i) => { chunk[k * n + i] = BigInt(code); }));
      const late = await stream.push(new ort.Tensor("int64", chunk, [1, nCodebooks, n]));
      const start = first * hop - delay; // of this chunk among the samples
      const from = Math.max(0, -start), to = Math.min(late.length, nSamples - start);
      if (to > from) samples.set(late.subarray(from, to), start + from);
      report(Math.min(1, (start + late.length) / nSamples));
      await checkLatest(id);
    }
    return samples;
  },
};

/** One stream of chunks: a session and its states, which are zero at the start. */
class Stream {
  constructor(session) {
    this.session = session;
    const [first, ...states] = session.inputMetadata;
    this.first = first.name;
    this.states = Object.fromEntries(states.map(({ name, type, shape }) => {
      const size = shape.reduce((product, length) => product * length, 1);
      const zeros = type === "int64" ? new BigInt64Array(size) : new Float32Array(size);
      return [name, new ort.Tensor(type, zeros, shape)];
    }));
  }

  /** The next chunk in, the data of its result out. */
  async push(chunk) {
    const outputs = await this.session.run({ [this.first]: chunk, ...this.states });
    for (const name in this.states) this.states[name] = outputs[name.replace("in", "out")];
    return outputs[this.session.outputNames[0]].data;
  }
}

function copyCodes(found, codes, first) {
  const n = codec.chunk_frames;
  codes.forEach((row, k) => {
    for (let i = 0; i < n && first + i < row.length; i++) row[first + i] = Number(found[k * n + i]);
  });
}

/** Lets messages in; throws if one of them was another job. */
async function checkLatest(id) {
  await new Promise((resolve) => setTimeout(resolve));
  if (id !== latest) throw new Superseded();
}

async function found(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
  return response;
}

/** A file of codec.json, as it was exported. */
async function fetchWhole(name, advance) {
  const { n_bytes: nBytes, sha256 } = codec.files[name];
  const bytes = new Uint8Array(nBytes), reader = (await found(name)).body.getReader();
  let n = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (n + part.value.length <= nBytes) bytes.set(part.value, n);
    n += part.value.length;
    advance(part.value.length);
  }
  if (n !== nBytes || (crypto.subtle && await digest(bytes) !== sha256)) { // subtle: over https and on this machine
    throw new Error(`${name}: is not the file of this export; copy the folder again`);
  }
  return bytes;
}

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
