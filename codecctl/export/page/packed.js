// Packed codes, `.cctl`: a header, then blocks of frames, each with a CRC. All numbers are little-endian.

const MAGIC = 0x4c544343; // "CCTL"
const FORMAT_VERSION = 1;
const FRAMES_PER_BLOCK = 400;
const MAX_FRAMES_PER_BLOCK = 8192;
const N_FIXED_BYTES = 37; // of a header, before the bits of each codebook
const STREAMED = 2n ** 64n - 1n; // number of samples in the header of a stream

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

export class PackedError extends Error {}

/** CRC32 of the bytes, after those that gave `crc`. */
function crc32(bytes, crc = 0) {
  crc = ~crc;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Where each block is, and its frames, in a file of codes of so many `bits` each. */
function* blocksOf(nFrames, framesPerBlock, bits, start) {
  const nFrameBits = sumOf(bits);
  for (let first = 0, number = 0; first < nFrames; first += framesPerBlock, number++) {
    const n = Math.min(framesPerBlock, nFrames - first);
    const nBytes = Math.ceil(n * nFrameBits / 8);
    yield { number, first, n, start, end: start + nBytes };
    start += nBytes + 4;
  }
}

/** What a file of so many samples in the first `nCodebooks` codebooks of a codec takes. */
export function packedSize(codec, nCodebooks, nSamples) {
  const bits = bitsOf(codec, nCodebooks), nFrames = Math.ceil(nSamples / codec.hop_length);
  return endOfBlocks(nFrames, FRAMES_PER_BLOCK, bits, N_FIXED_BYTES + bits.length + 4);
}

/** Not by listing them: a damaged header may claim any number. */
function endOfBlocks(nFrames, framesPerBlock, bits, start) {
  const sizeOf = (n) => n && Math.ceil(n * sumOf(bits) / 8) + 4;
  return start + Math.floor(nFrames / framesPerBlock) * sizeOf(framesPerBlock) + sizeOf(nFrames % framesPerBlock);
}

/** Of one code of each of the first codebooks. */
function bitsOf(codec, nCodebooks) {
  return codec.codebook_sizes.slice(0, nCodebooks).map(Math.log2);
}

/** Bits of a frame in the first `nCodebooks` codebooks, or in all. */
export function frameBits(codec, nCodebooks) {
  return sumOf(bitsOf(codec, nCodebooks));
}

function sumOf(numbers) {
  return numbers.reduce((sum, each) => sum + each, 0);
}

function blockCrc(fingerprint, number, packed) {
  const place = new Uint8Array(8);
  viewOf(place).setBigUint64(0, BigInt(number), true);
  return crc32(packed, crc32(place, crc32(fingerprint)));
}

function fingerprintBytes(codec) {
  return Uint8Array.from(codec.fingerprint.match(/../g), (digits) => parseInt(digits, 16));
}

/** The bytes of a file: `codes` has an array of T integers for each codebook used. */
export function pack(codec, codes, nSamples) {
  const bits = bitsOf(codec, codes.length), fingerprint = fingerprintBytes(codec);
  const bytes = new Uint8Array(packedSize(codec, codes.length, nSamples)), view = viewOf(bytes);
  const nHeaderBytes = N_FIXED_BYTES + bits.length + 4;
  view.setUint32(0, MAGIC, true);
  view.setUint16(4, FORMAT_VERSION, true);
  view.setUint16(6, nHeaderBytes, true);
  bytes.set(fingerprint, 8);
  view.setUint32(16, codec.sample_rate, true);
  view.setUint32(20, codec.hop_length, true);
  view.setBigUint64(24, BigInt(nSamples), true);
  view.setUint32(32, FRAMES_PER_BLOCK, true);
  bytes.set([bits.length, ...bits], 36);
  view.setUint32(nHeaderBytes - 4, crc32(bytes.subarray(0, nHeaderBytes - 4)), true);
  for (const { number, first, n, start, end } of blocksOf(codes[0].length, FRAMES_PER_BLOCK, bits, nHeaderBytes)) {
    packBlock(bytes.subarray(start, end), codes, bits, first, n);
    view.setUint32(end, blockCrc(fingerprint, number, bytes.subarray(start, end)), true);
  }
  return bytes;
}

/** Frame by frame, in a frame codebook by codebook, highest bit first. */
function packBlock(bytes, codes, bits, first, n) {
  let place = 0;
  for (let frame = first; frame < first + n; frame++) {
    for (let k = 0; k < bits.length; k++) {
      for (let bit = bits[k] - 1; bit >= 0; bit--, place++) {
        if (codes[k][frame] >> bit & 1) bytes[place >> 3] |= 128 >> (place & 7);
      }
    }
  }
}

function unpackBlock(bytes, codes, bits, first, n) {
  let place = 0;
  for (let frame = first; frame < first + n; frame++) {
    for (let k = 0; k < bits.length; k++) {
      let code = 0;
      for (let bit = 0; bit < bits[k]; bit++, place++) code = code << 1 | bytes[place >> 3] >> (7 - (place & 7)) & 1;
      codes[k][frame] = code;
    }
  }
}

/** Whether a file with these first bytes is a packed one. */
export function isPacked(bytes) {
  return bytes.length >= 4 && viewOf(bytes).getUint32(0, true) === MAGIC;
}

/** A file's `codes` and `nSamples`. Throws `PackedError` for a damaged file, and for one of another codec. */
export function unpack(codec, bytes) {
  const { nSamples, framesPerBlock, nCodebooks, nHeaderBytes } = readHeader(codec, bytes);
  const bits = bitsOf(codec, nCodebooks), nFrames = Math.ceil(nSamples / codec.hop_length);
  const size = endOfBlocks(nFrames, framesPerBlock, bits, nHeaderBytes);
  if (bytes.length !== size) {
    throw new PackedError(`the file has ${bytes.length} bytes, and its header says ${size}; copy it again`);
  }
  const codes = bits.map(() => new Uint16Array(nFrames)), fingerprint = fingerprintBytes(codec), view = viewOf(bytes);
  for (const { number, first, n, start, end } of blocksOf(nFrames, framesPerBlock, bits, nHeaderBytes)) {
    const packed = bytes.subarray(start, end);
    if (view.getUint32(end, true) !== blockCrc(fingerprint, number, packed)) {
      const [from, to] = [first, first + n].map((frame) => (frame * codec.hop_length / codec.sample_rate).toFixed(2));
      throw new PackedError(`the file is damaged from ${from} to ${to} s: a CRC differs; copy it again`);
    }
    unpackBlock(packed, codes, bits, first, n);
  }
  return { codes, nSamples };
}

function readHeader(codec, bytes) {
  if (bytes.length < N_FIXED_BYTES || !isPacked(bytes)) throw new PackedError("this is no whole .cctl file");
  const view = viewOf(bytes), version = view.getUint16(4, true), nHeaderBytes = view.getUint16(6, true);
  if (version !== FORMAT_VERSION) {
    throw new PackedError(`the file has format version ${version}; this page reads ${FORMAT_VERSION}`);
  }
  if (nHeaderBytes > bytes.length || nHeaderBytes !== N_FIXED_BYTES + bytes[36] + 4 ||
      view.getUint32(nHeaderBytes - 4, true) !== crc32(bytes.subarray(0, nHeaderBytes - 4))) {
    throw new PackedError("the header of the file is damaged; copy it again");
  }
  const fingerprint = Array.from(bytes.subarray(8, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (fingerprint !== codec.fingerprint) {
    throw new PackedError(`the file was made by the model ${fingerprint}, and this page has ${codec.fingerprint}`);
  }
  const nSamples = view.getBigUint64(24, true), framesPerBlock = view.getUint32(32, true), nCodebooks = bytes[36];
  if (nSamples === STREAMED) throw new PackedError("the file is a stream; decode it with codecctl decode - --stream");
  const bits = [...bytes.subarray(N_FIXED_BYTES, N_FIXED_BYTES + nCodebooks)];
  const fits = view.getUint32(16, true) === codec.sample_rate && view.getUint32(20, true) === codec.hop_length &&
    nCodebooks >= 1 && bits.join() === bitsOf(codec, nCodebooks).join() && nSamples >= 1n && nSamples < 2n ** 53n &&
    framesPerBlock >= 8 && framesPerBlock <= MAX_FRAMES_PER_BLOCK && framesPerBlock % 8 === 0;
  if (!fits) throw new PackedError("the header names this model, but not its sample rate, hop length and codebooks");
  return { nSamples: Number(nSamples), framesPerBlock, nCodebooks, nHeaderBytes };
}
