// Files and the microphone as mono samples at the codec's rate.

/** The bytes of an audio file -> samples [L]: the mean of its channels, resampled by the browser. */
export async function decodeFile(bytes, sampleRate) {
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes);
  } catch {
    throw new Error("this browser cannot read it as audio");
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  const mono = channels[0].slice();
  for (const other of channels.slice(1)) other.forEach((value, i) => { mono[i] += value; });
  return channels.length === 1 ? mono : mono.map((value) => value / channels.length);
}

/** Records the microphone, without the browser's processing of speech. */
export class Recorder {
  static async start() {
    if (!navigator.mediaDevices) throw new Error("browsers record on pages of https and of this machine only");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const recorder = new Recorder();
    try {
      recorder.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    } catch (error) {
      throw new Error(error.name === "NotFoundError" ? "no microphone was found" : "the microphone was not allowed");
    }
    recorder.parts = [];
    recorder.context = new AudioContext(); // at the microphone's rate, which not all browsers change
    await recorder.context.audioWorklet.addModule("recorder-worklet.js");
    const tap = new AudioWorkletNode(recorder.context, "tap", { channelCount: 1, channelCountMode: "explicit" });
    tap.port.onmessage = ({ data }) => recorder.parts.push(data);
    recorder.context.createMediaStreamSource(recorder.stream).connect(tap).connect(recorder.context.destination);
    return recorder;
  }

  get seconds() {
    return this.parts.reduce((n, part) => n + part.length, 0) / this.context.sampleRate;
  }

  /** Ends the recording -> samples [L] at `sampleRate`; none if nothing was recorded. */
  async stop(sampleRate) {
    for (const track of this.stream.getTracks()) track.stop();
    const rate = this.context.sampleRate;
    await this.context.close();
    const length = this.parts.reduce((n, part) => n + part.length, 0);
    if (!length) return new Float32Array();
    const buffer = new AudioBuffer({ length, sampleRate: rate });
    let start = 0;
    for (const part of this.parts) {
      buffer.copyToChannel(part, 0, start);
      start += part.length;
    }
    const context = new OfflineAudioContext(1, Math.ceil(length * sampleRate / rate), sampleRate);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    source.start();
    return (await context.startRendering()).getChannelData(0);
  }
}
