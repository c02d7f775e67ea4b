// Money is received as exact text. It is shown rounded, and exact on hover and in the tables of figures.

// Round to cents, or to four significant digits for small amounts.
export function rounded(text) {
  if (text === null || text === undefined) return "unknown";
  const value = Number(text);
  const power = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)));
  const digits = Math.min(20, Math.max(2, 3 - power));
  const [whole, decimals] = Math.abs(value).toFixed(digits).split(".");
  const sign = value < 0 ? "-" : "";
  return `${sign}$${Number(whole).toLocaleString("en")}.${decimals.replace(/0+$/, "").padEnd(2, "0")}`;
}

export function exact(text) {
  if (text === null || text === undefined) return "unknown";
  const [whole, cents = ""] = text.split(".");
  return `$${whole}.${cents.replace(/0+$/, "").padEnd(2, "0")}`;
}

export function sum(texts) {
  const digits = Math.max(0, ...texts.map((text) => (text.split(".")[1] ?? "").length));
  const total = texts.reduce((found, text) => found + scaled(text, digits), 0n);
  const shown = String(total < 0n ? -total : total).padStart(digits + 1, "0");
  const cut = shown.length - digits;
  return `${total < 0n ? "-" : ""}${shown.slice(0, cut)}${digits ? `.${shown.slice(cut)}` : ""}`;
}

function scaled(text, digits) {
  const [whole, decimals = ""] = text.split(".");
  return BigInt(whole + decimals.padEnd(digits, "0"));
}

// A sum with unreported costs is a lower bound; the server also returns the sum at the known prices.
export function inDoubt({ untold, unknown_outcomes }) {
  return untold > 0 || unknown_outcomes > 0;
}

export function bounds(found, written = rounded) {
  if (!inDoubt(found)) return written(found.cost_usd);
  const least = written(found.cost_usd ?? "0");
  const most = found.up_to_usd === null ? least : written(found.up_to_usd);
  return most === least ? `at least ${least}` : `at least ${least}, up to about ${most}`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

// A change in percent as text; null if there is nothing to compare with.
export function change(now, before) {
  const [new_, old] = [Number(now), Number(before)];
  if (old === 0) return null;
  const percent = ((new_ - old) / old) * 100;
  const size = Math.abs(percent);
  const shown = size >= 1000 ? "over 1,000" : size >= 10 ? Math.round(size) : Number(size.toPrecision(2));
  if (size < 0.05) return { text: "as much as", sign: 0 };
  return { text: `${shown} % ${percent > 0 ? "more" : "less"} than`, sign: Math.sign(percent) };
}
