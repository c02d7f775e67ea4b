// Elements and pictures of numbers. Text from the database becomes text nodes, never markup.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

// Exact: the digits are the server's, without zeros at the end, but with cents.
export function money(text) {
  if (text === null) return "unknown";
  const [whole, cents = ""] = text.split(".");
  return `$${whole}.${cents.replace(/0+$/, "").padEnd(2, "0")}`;
}

// A sum of which a part is in doubt is a lower bound; the server also says what it comes to at the known prices.
export function inDoubt({ untold, unknown_outcomes }) {
  return untold > 0 || unknown_outcomes > 0;
}

export function bounds(sum) {
  if (!inDoubt(sum)) return money(sum.cost_usd);
  const least = `at least ${money(sum.cost_usd ?? "0")}`;
  return sum.up_to_usd === null ? least : `${least}, up to about ${money(sum.up_to_usd)}`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A scale that ends at 1, 2 or 5 times a power of ten.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((end) => end >= value * 0.9999);
}

const SIZE = { width: 1240, height: 210, left: 56, right: 4, top: 10, bottom: 26 };

export function dayBars(days) {
  const most = Math.max(...days.map((day) => Number(day.cost_usd)));
  const end = most > 0 ? roundUp(most) : 1;
  const inner = { width: SIZE.width - SIZE.left - SIZE.right, height: SIZE.height - SIZE.top - SIZE.bottom };
  const step = inner.width / days.length;
  const chart = shape("svg", {
    viewBox: `0 0 ${SIZE.width} ${SIZE.height}`,
    role: "img",
    "aria-label": `Bars: cost per day from ${days[0].day} to ${days.at(-1).day}, at most $${most}. The table below has the figures.`,
  });
  for (const share of [0, 0.5, 1]) {
    const y = SIZE.top + inner.height * (1 - share);
    const label = `$${Number((end * share).toPrecision(6))}`;
    chart.append(
      shape("line", { x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y, y2: y, class: "grid" }),
      shape("text", { x: SIZE.left - 8, y: y + 4, class: "label end" }, label),
    );
  }
  const every = Math.ceil(days.length / 8);
  days.forEach((day, number) => {
    const height = (Number(day.cost_usd) / end) * inner.height;
    const x = SIZE.left + step * number;
    if (height > 0) {
      chart.append(shape("rect", {
        x: x + step * 0.12, width: step * 0.76, y: SIZE.top + inner.height - Math.max(height, 1.5), height: Math.max(height, 1.5),
        rx: Math.min(2, step * 0.2), class: "bar",
      }, shape("title", {}, `${day.day}: ${bounds(day)}, ${count(day.images, "image")}`)));
    }
    if (number % every === 0) {
      const date = new Date(`${day.day}T00:00:00Z`);
      const text = date.toLocaleDateString("en", { day: "numeric", month: "short", timeZone: "UTC" });
      chart.append(shape("text", { x: x + step / 2, y: SIZE.height - 6, class: "label middle" }, text));
    }
  });
  return chart;
}

function shareBar(share) {
  const bar = shape("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", class: "share", "aria-hidden": "true" });
  bar.append(shape("rect", { x: 0, y: 0, width: 100, height: 6, class: "track" }));
  if (share > 0) bar.append(shape("rect", { x: 0, y: 0, width: Math.max(share * 100, 0.8), height: 6, class: "bar" }));
  return bar;
}

// A table of the dearest; nameOf makes the content of an entry's first cell.
export function costTable(caption, heading, { entries, others }, nameOf) {
  if (entries.length === 0) return element("p", { className: "quiet", textContent: "Nothing" });
  const most = Math.max(...entries.map((entry) => Number(entry.cost_usd)), 0);
  const rows = entries.map((entry) => row(nameOf(entry), entry, most ? Number(entry.cost_usd) / most : 0));
  if (others.count) rows.push(row(`${others.count.toLocaleString("en")} others`, others, 0));
  const head = element("tr", {}, ...[heading, "Images", "Cost"].map((text) => element("th", { scope: "col", textContent: text })));
  return element("table", {},
    element("caption", { className: "hidden-text", textContent: caption }),
    element("thead", {}, head), element("tbody", {}, ...rows));
}

function row(name, entry, share) {
  const doubt = inDoubt(entry) ? [element("span", { className: "quiet detail", textContent: bounds(entry) })] : [];
  return element("tr", {},
    element("th", { scope: "row" }, name, ...doubt, shareBar(share)),
    element("td", { textContent: entry.images.toLocaleString("en") }),
    element("td", { textContent: money(entry.cost_usd) }));
}
