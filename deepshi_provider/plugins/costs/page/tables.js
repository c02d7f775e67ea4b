// The tables of costs, the most expensive entry first.

import { amount, element, shape } from "./elements.js";
import { bounds, inDoubt } from "./money.js";

// Number of rows shown before "show all".
const FIRST = window.innerWidth < 640 ? 5 : 8;

export function shareBar(share) {
  const bar = shape("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", class: "share", "aria-hidden": "true" });
  bar.append(shape("rect", { x: 0, y: 0, width: 100, height: 6, class: "track" }));
  if (share > 0) bar.append(shape("rect", { x: 0, y: 0, width: Math.max(share * 100, 0.8), height: 6, class: "bar s0" }));
  return bar;
}

// nameOf makes the content of an entry's first cell.
export function costTable(caption, heading, { entries, others }, nameOf) {
  if (entries.length === 0) return [element("p", { className: "quiet", textContent: "Nothing" })];
  const most = Math.max(...entries.map((entry) => Number(entry.cost_usd)), 0);
  const rows = entries.map((entry) => row(nameOf(entry), entry, most ? Number(entry.cost_usd) / most : 0));
  if (others.count) rows.push(row(`${others.count.toLocaleString("en")} others`, others, 0));
  const head = element("tr", {}, ...[heading, "Images", "Cost"].map((text) => element("th", { scope: "col", textContent: text })));
  const table = element("table", {},
    element("caption", { className: "hidden-text", textContent: caption }),
    element("thead", {}, head), element("tbody", {}, ...rows));
  return [table, ...folded(rows)];
}

// A long table begins with its first rows.
function folded(rows) {
  if (rows.length <= FIRST + 1) return [];
  const more = rows.slice(FIRST);
  more.forEach((found) => { found.hidden = true; });
  const button = element("button", { type: "button", className: "more", textContent: `Show all ${rows.length} rows` });
  button.addEventListener("click", () => {
    more.forEach((found) => { found.hidden = false; });
    more[0].querySelector("a")?.focus();
    button.remove();
  });
  return [button];
}

function row(name, entry, share) {
  const doubt = inDoubt(entry) ? [element("span", { className: "detail doubt", textContent: bounds(entry) })] : [];
  const failed = Number(entry.failed_usd) > 0 ? [element("span", { className: "detail failed-text" }, amount(entry.failed_usd), " without a picture")] : [];
  return element("tr", { className: doubt.length ? "in-doubt" : "" },
    element("th", { scope: "row" }, name, ...doubt, ...failed, shareBar(share)),
    element("td", { textContent: entry.images.toLocaleString("en") }),
    element("td", {}, amount(entry.cost_usd)));
}

// A name, its parent, and links to Airflow.
export function nameCell(name, detail, ...ways) {
  const whole = element("span", { className: "name" }, name, ...ways.flatMap((way) => [" ", way]));
  const cell = element("span", {}, whole);
  if (detail) cell.append(element("span", { className: "quiet detail", textContent: detail }));
  return cell;
}
