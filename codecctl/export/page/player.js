// Two versions of a recording that play in step, one of them audible: a switch keeps the instant.

const FADE_SECONDS = 0.008;

export class Player {
  constructor(sampleRate) {
    this.sampleRate = sampleRate;
    this.context = null; // made by the first play: browsers want a gesture of the user
    this.buffers = {}; // by version
    this.tracks = {}; // what sounds of each version
    this.selected = null;
    this.offset = 0; // seconds: the position, or that of the last start
    this.startedAt = null; // on the clock of the context; null: paused
    this.onChange = () => {};
  }

  get isPlaying() {
    return this.startedAt !== null;
  }

  get duration() {
    return Math.max(0, ...Object.values(this.buffers).map((buffer) => buffer.duration));
  }

  get position() {
    const gone = this.isPlaying ? Math.max(0, this.context.currentTime - this.startedAt) : 0;
    return Math.min(this.offset + gone, this.duration);
  }

  clear() {
    this.pause();
    this.buffers = {};
    this.offset = 0;
  }

  /** New samples of a version; if it plays, they take over at the same instant. */
  set(version, samples) {
    const buffer = new AudioBuffer({ length: samples.length, sampleRate: this.sampleRate });
    buffer.copyToChannel(samples, 0);
    this.buffers[version] = buffer;
    if (this.isPlaying) this.start(version);
  }

  select(version) {
    this.selected = version;
    for (const [name, { gain }] of Object.entries(this.tracks)) this.fade(gain, name === version ? 1 : 0);
  }

  async play() {
    this.context ??= new AudioContext({ sampleRate: this.sampleRate });
    await this.context.resume();
    if (this.isPlaying) return;
    if (this.offset >= this.duration - 0.01) this.offset = 0;
    this.startedAt = this.context.currentTime + 0.02;
    for (const version of Object.keys(this.buffers)) this.start(version);
    this.onChange();
  }

  pause() {
    if (!this.isPlaying) return;
    this.offset = this.position;
    this.startedAt = null;
    for (const version of Object.keys(this.tracks)) this.stop(version);
    this.onChange();
  }

  seek(seconds) {
    const wasPlaying = this.isPlaying;
    this.pause();
    this.offset = Math.min(Math.max(0, seconds), this.duration);
    if (wasPlaying) this.play();
    else this.onChange();
  }

  start(version) {
    const at = Math.max(this.startedAt, this.context.currentTime + 0.02);
    this.stop(version, at);
    const source = new AudioBufferSourceNode(this.context, { buffer: this.buffers[version] });
    const gain = new GainNode(this.context, { gain: 0 });
    source.connect(gain).connect(this.context.destination);
    source.start(at, this.offset + at - this.startedAt);
    this.fade(gain, version === this.selected ? 1 : 0, at);
    this.tracks[version] = { source, gain };
    source.onended = () => {
      if (this.tracks[version]?.source !== source || !this.isPlaying) return;
      this.pause();
      this.offset = 0;
      this.onChange();
    };
  }

  stop(version, at = this.context.currentTime) {
    const track = this.tracks[version];
    if (!track) return;
    delete this.tracks[version];
    this.fade(track.gain, 0, at);
    track.source.stop(at + 4 * FADE_SECONDS);
  }

  fade(gain, level, at = this.context.currentTime) {
    gain.gain.setTargetAtTime(level, at, FADE_SECONDS / 2);
  }
}
