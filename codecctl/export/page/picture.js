// Codes as a picture: the waveform, and below it a row for each codebook, a column for each frame, a colour for each code.

const FRAME_WIDTH = 3; // CSS pixels, at least
const WAVE_SHARE = 0.24; // of the height
const GAP = 1; // CSS pixels between rows
const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // ever lighter

export class Picture {
  constructor(canvas, onPick) {
    this.canvas = canvas;
    this.codes = [];
    this.background = null; // all but the line at the current frame
    this.drawn = ""; // what the background shows
    const redraw = () => { this.drawn = ""; this.draw(); };
    new ResizeObserver(redraw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.codes.length) return;
      const { first, n, columnWidth } = this.page();
      onPick(Math.min(first + n - 1, first + Math.floor(event.offsetX / columnWidth)));
    });
  }

  /** `codes`: an array for each codebook, of `sizes` codewords; `samples`: the waveform. */
  set(codes, sizes, samples = new Float32Array()) {
    Object.assign(this, { codes, sizes, samples, drawn: "" });
  }

  /** The frames that are shown: all, or as many as have room, with the current one among them. */
  page() {
    const width = this.canvas.clientWidth || 1, nFrames = this.codes[0].length;
    const room = Math.max(1, Math.min(nFrames, Math.floor(width / FRAME_WIDTH)));
    const first = Math.floor(this.frame / room) * room;
    return { first, n: Math.min(room, nFrames - first), columnWidth: width / room };
  }

  /** Shows a frame as the current one, and the first `nUsed` codebooks as used. */
  show(frame, nUsed) {
    [this.frame, this.nUsed] = [frame, nUsed];
    this.draw();
  }

  draw() {
    const { canvas } = this, ratio = devicePixelRatio || 1;
    if (!this.codes.length || !canvas.clientWidth) return;
    const page = this.page(), state = JSON.stringify([page, this.nUsed]);
    if (state !== this.drawn) {
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      this.background = new OffscreenCanvas(canvas.width, canvas.height);
      this.drawWave(page);
      this.drawCodes(page);
      this.drawn = state;
    }
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.background, 0, 0);
    const x = Math.round((this.frame - page.first) * page.columnWidth * ratio), width = Math.round(2 * ratio);
    context.fillStyle = style.backgroundColor; // beside the line, which is then seen on any colour
    context.fillRect(x - width, 0, 3 * width, canvas.height);
    context.fillStyle = style.color;
    context.fillRect(x, 0, width, canvas.height);
  }

  /** The range of the samples under each pixel. */
  drawWave({ first, n, columnWidth }) {
    const { samples, background, canvas } = this, context = background.getContext("2d");
    const pixels = n * columnWidth * background.width / canvas.clientWidth;
    const perFrame = samples.length / this.codes[0].length, half = background.height * WAVE_SHARE / 2 - 2;
    context.fillStyle = getComputedStyle(canvas).borderTopColor;
    for (let x = 0; x < pixels; x++) {
      const [from, to] = [x, x + 1].map((each) => Math.floor((first + n * each / pixels) * perFrame));
      let [low, high] = [0, 0];
      for (let i = from; i < to && i < samples.length; i++) {
        low = Math.min(low, samples[i]);
        high = Math.max(high, samples[i]);
      }
      context.fillRect(x, Math.round(half * (1 - Math.min(1, high))), 1, Math.max(1, half * Math.min(2, high - low)));
    }
  }

  drawCodes({ first, n, columnWidth }) {
    const { codes, sizes, background, canvas } = this, context = background.getContext("2d");
    const ratio = background.width / canvas.clientWidth, top = background.height * WAVE_SHARE;
    const rowHeight = (background.height - top) / codes.length, gap = Math.round(GAP * ratio);
    codes.forEach((row, k) => {
      const y = Math.round(top + k * rowHeight), height = Math.round(top + (k + 1) * rowHeight) - y - gap;
      context.globalAlpha = k < this.nUsed ? 1 : 0.15;
      for (let i = 0; i < n; i++) {
        const x = Math.round(i * columnWidth * ratio);
        context.fillStyle = colour(row[first + i] / (sizes[k] - 1));
        context.fillRect(x, y, Math.round((i + 1) * columnWidth * ratio) - x, height);
      }
    });
  }
}

/** Of a share from 0 to 1. */
function colour(share) {
  const place = share * (COLOURS.length - 1), i = Math.min(COLOURS.length - 2, Math.floor(place));
  return `rgb(${COLOURS[i].map((from, c) => Math.round(from + (COLOURS[i + 1][c] - from) * (place - i))).join(" ")})`;
}
