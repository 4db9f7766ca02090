// A program that answers casts to three formats, in JavaScript, written from the description in kit/pipe.py:
//
//     refscale conform --pipe "node backend.js" --only 'cast/*'
"use strict";

const FORMATS = {
  float16: { exponentBits: 5, mantissaBits: 10, max: 65504, inf: 0x7c00, nan: 0x7e00 },
  float8_e5m2: { exponentBits: 5, mantissaBits: 2, max: 57344, inf: 0x7c, nan: 0x7e },
  float8_e4m3fn: { exponentBits: 4, mantissaBits: 3, max: 448, inf: null, nan: 0x7f },
};

const view = new DataView(new ArrayBuffer(8));

// A number from its code, for sources that JavaScript reads itself.
const READ = {
  float32: (code) => (view.setUint32(0, parseInt(code, 16)), view.getFloat32(0)),
  float64: (code) => (view.setBigUint64(0, BigInt("0x" + code)), view.getFloat64(0)),
};

function roundHalfToEven(q) {
  const low = Math.floor(q);
  const rest = q - low; // exact: q has few bits left of the point, or none right of it
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}

function cast(x, format, overflow) {
  const { exponentBits, mantissaBits, max, inf, nan } = FORMATS[format];
  view.setFloat64(0, x);
  const sign = (view.getUint8(0) >> 7) << (exponentBits + mantissaBits);
  if (Number.isNaN(x)) return sign | nan;
  const beyond = overflow === "saturate" ? null : inf === null ? nan : inf;
  const bias = (1 << (exponentBits - 1)) - 1;
  const exponent = Math.max(((view.getUint16(0) >> 4) & 0x7ff) - 1023, 1 - bias);
  const spacing = 2 ** (exponent - mantissaBits);
  let y = Math.abs(x) === Infinity ? Infinity : roundHalfToEven(Math.abs(x) / spacing) * spacing;
  if (y > max) {
    if (beyond !== null) return sign | beyond;
    y = max;
  }
  // Codes of one sign are consecutive: count steps of the spacing of the binade of y, from its first code.
  view.setFloat64(0, y);
  const binade = Math.max(((view.getUint16(0) >> 4) & 0x7ff) - 1023, 1 - bias);
  return sign | (((binade + bias - 1) << mantissaBits) + y / 2 ** (binade - mantissaBits));
}

function answer(line) {
  const [head, ...arrays] = line.split(" | ");
  const [op, ...pairs] = head.split(" ");
  if (op === "hello") {
    return (
      "refscale-pipe 2 name=javascript version=1 roundings=nearest_even overflows=saturate,nonsaturate formats=" +
      Object.keys(FORMATS).join(",")
    );
  }
  const { format, rounding, overflow } = Object.fromEntries(pairs.map((p) => p.split("=")));
  if (op !== "cast" || rounding !== "nearest_even" || !(format in FORMATS) || arrays.length !== 1) return "unsupported";
  const [, source, , ...codes] = arrays[0].split(" ");
  if (!(source in READ)) return "unsupported";
  const digits = FORMATS[format].exponentBits + FORMATS[format].mantissaBits > 8 ? 4 : 2;
  const y = codes.map((code) => cast(READ[source](code), format, overflow).toString(16).padStart(digits, "0"));
  return "ok | y " + y.join(" ");
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => process.stdout.write(answer(line) + "\n"));
