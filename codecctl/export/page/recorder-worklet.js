// Hands what the microphone gives to the page, in parts of about 50 ms, and stays silent itself.

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.part = new Float32Array(2048);
    this.n = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.part[this.n++] = sample;
      if (this.n === this.part.length) {
        this.port.postMessage(this.part);
        this.n = 0;
      }
    }
    return true;
  }
}

registerProcessor("tap", Tap);
