// Stacked bars of costs, and the line of a month; drawn in real pixels, so that text keeps its size.

import { element, shape } from "./elements.js";
import { bounds, count, exact, rounded, sum } from "./money.js";

// Narrower than this, in pixels, bars of days become bars of weeks or months.
const NARROWEST = 8.5;
const MARGIN = { left: 58, right: 8, top: 12, bottom: 26 };
const SUMS = ["cost_usd", "failed_usd"];
const COUNTS = ["images", "untold", "unknown_outcomes"];

function date(day) {
  return new Date(`${day}T00:00:00Z`);
}

function named(day, style) {
  return date(day).toLocaleDateString("en", { ...style, timeZone: "UTC" });
}

const DAY = { day: "numeric", month: "short" };
const KINDS = {
  day: { key: (day) => day, name: (day) => named(day, DAY), whole: (first) => named(first, { ...DAY, year: "numeric" }) },
  week: {
    key: (day) => { // its Monday
      const found = date(day);
      found.setUTCDate(found.getUTCDate() - ((found.getUTCDay() + 6) % 7));
      return found.toISOString().slice(0, 10);
    },
    name: (day) => named(day, DAY),
    whole: (first, last) => `${named(first, DAY)} to ${named(last, { ...DAY, year: "numeric" })}`,
  },
  month: {
    key: (day) => day.slice(0, 7),
    name: (day) => named(day, { month: "short" }),
    whole: (first) => named(first, { month: "long", year: "numeric" }),
  },
};

export function kindOf(days, width) {
  const room = (width - MARGIN.left - MARGIN.right) / NARROWEST;
  if (days.length <= room) return "day";
  return days.length / 7 + 1 <= room ? "week" : "month";
}

export function bucketsOf(days, kind) {
  const found = new Map();
  for (const day of days) {
    const key = KINDS[kind].key(day.day);
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(day);
  }
  return [...found.values()].map((same) => {
    const made = { days: same.length, first: same[0].day, last: same.at(-1).day };
    for (const name of SUMS) made[name] = sum(same.map((day) => day[name]));
    for (const name of COUNTS) made[name] = same.reduce((total, day) => total + day[name], 0);
    const most = same.map((day) => day.up_to_usd);
    made.up_to_usd = most.includes(null) ? null : sum(most);
    made.parts = same[0].parts.map((_, number) => sum(same.map((day) => day.parts[number])));
    return made;
  });
}

// A scale's end above a value, with a round half.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].map((factor) => factor * power).find((end) => end >= value * 0.9999);
}

function ground(width, height, end, label) {
  const chart = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const yOf = (value) => MARGIN.top + inner.height * (1 - Math.min(value, end) / end);
  for (const share of [0, 0.5, 1]) {
    const y = yOf(end * share);
    chart.append(
      shape("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y, class: "grid" }),
      shape("text", { x: MARGIN.left - 8, y: y + 4, class: "label end" }, share ? rounded(String(Number((end * share).toPrecision(6)))) : "$0"),
    );
  }
  return { chart, inner, yOf };
}

// A horizontal line at a limit; its name is in the legend, where no other line can cross it.
function limit(chart, width, y) {
  chart.append(shape("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y, class: "limit" }));
}

// The limit of a day, if it is drawn: bars that are far below it would vanish.
export function drawnBudget(buckets, kind, dayBudget) {
  const most = Math.max(...buckets.map((bucket) => Number(bucket.cost_usd)));
  return kind === "day" && dayBudget !== null && Number(dayBudget) < most * 4 ? dayBudget : null;
}

export function bars(buckets, kind, series, budget, width) {
  const most = Math.max(...buckets.map((bucket) => Number(bucket.cost_usd)));
  const end = roundUp(Math.max(most, Number(budget ?? 0)));
  const label = `Bars: cost per ${kind}, ${buckets[0].first} – ${buckets.at(-1).last}, at most ${rounded(String(most))}. The table below has the figures.`;
  const height = width < 560 ? 190 : 240;
  const { chart, inner, yOf } = ground(width, height, end, label);
  const step = inner.width / buckets.length;
  const room = Math.max(1, Math.floor(inner.width / 64));
  const every = Math.ceil(buckets.length / room);
  buckets.forEach((bucket, number) => {
    const x = MARGIN.left + step * number + Math.min(step * 0.14, 3);
    const thick = Math.min(step - 2 * Math.min(step * 0.14, 3), 48);
    const left = x + (step - 2 * Math.min(step * 0.14, 3) - thick) / 2;
    const group = shape("g", { class: "bucket" });
    let from = 0;
    const stack = [...bucket.parts.map((text, index) => [`s${index === series.length ? "-others" : index}`, text]), ["failed", bucket.failed_usd]];
    for (const [name, text] of stack) {
      const value = Number(text);
      if (!(value > 0)) continue;
      const [bottom, top] = [yOf(from), yOf(from + value)];
      group.append(shape("rect", { x: left, width: thick, y: Math.min(top, bottom - 1), height: Math.max(bottom - top, 1), class: `bar ${name}` }));
      from += value;
    }
    if (from > 0) {
      const failed = Number(bucket.failed_usd) > 0 ? `, of which ${exact(bucket.failed_usd)} without a picture` : "";
      group.append(shape("title", {}, `${KINDS[kind].whole(bucket.first, bucket.last)}: ${bounds(bucket, exact)}${failed}, ${count(bucket.images, "image")}`));
      chart.append(group);
    }
    if (number % every === 0) {
      chart.append(shape("text", { x: left + thick / 2, y: height - 8, class: "label middle" }, KINDS[kind].name(bucket.first)));
    }
  });
  if (budget !== null) limit(chart, width, yOf(Number(budget)));
  return chart;
}

export function legend(series, others, failed, budget) {
  const entries = series.map((name, number) => [`s${number}`, name || "(unnamed)"]);
  if (others) entries.push(["s-others", "others"]);
  if (failed) entries.push(["failed", "paid, no picture"]);
  const found = entries.map(([name, text]) => element("li", {}, mark(name), text));
  return budget === null ? found : [...found, lineEntry("limit", `budget of a day ${rounded(budget)}`)];
}

export function monthLegend({ budget_usd }) {
  const found = [lineEntry("line", "spent"), lineEntry("forecast", "forecast")];
  return budget_usd === null ? found : [...found, lineEntry("limit", `budget ${rounded(budget_usd)}`)];
}

function lineEntry(name, text) {
  return element("li", {}, shape("svg", { viewBox: "0 0 22 10", class: "stroke", "aria-hidden": "true" }, shape("line", { x1: 0, x2: 22, y1: 5, y2: 5, class: name })), text);
}

function mark(name) {
  return shape("svg", { viewBox: "0 0 10 10", class: "swatch", "aria-hidden": "true" }, shape("rect", { width: 10, height: 10, rx: 2, class: `bar ${name}` }));
}

// The spending up to each day of the month, its forecast, and the budget.
export function monthLine(month, width) {
  const length = date(month.end).getUTCDate();
  const [spent, forecast] = [Number(month.spent_usd), Number(month.forecast_usd)];
  const budget = month.budget_usd === null ? null : Number(month.budget_usd);
  const end = roundUp(Math.max(spent, forecast, budget ?? 0));
  const label = `Line: ${exact(month.spent_usd)} spent this month, about ${rounded(month.forecast_usd)} expected by its end${budget === null ? "" : `, budget ${exact(month.budget_usd)}`}.`;
  const { chart, inner, yOf } = ground(width, 190, end, label);
  const xOf = (day) => MARGIN.left + (inner.width * day) / length;
  const points = [[0, 0], ...month.days.map((day, number) => [number + 1, Number(day.spent_usd)])];
  const line = points.map(([day, value]) => `${xOf(day)},${yOf(value)}`).join(" ");
  const today = month.days.length;
  chart.append(
    shape("polygon", { points: `${line} ${xOf(today)},${yOf(0)} ${xOf(0)},${yOf(0)}`, class: "area" }),
    shape("polyline", { points: line, class: "line" }),
    shape("line", { x1: xOf(today), y1: yOf(spent), x2: xOf(length), y2: yOf(forecast), class: "forecast" }),
  );
  if (budget !== null) limit(chart, width, yOf(budget));
  for (const day of [1, Math.ceil(length / 2), length]) {
    const anchor = day === 1 ? "" : day === length ? " end" : " middle";
    chart.append(shape("text", { x: xOf(day === 1 ? 0 : day), y: 182, class: `label${anchor}` }, named(`${month.start.slice(0, 8)}${String(day).padStart(2, "0")}`, DAY)));
  }
  return chart;
}
