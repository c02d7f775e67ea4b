// The address decides what is shown: filters are in its query, so that a view can be bookmarked and shared.

import { openFrom, outerSearch, setOuterSearch } from "./airflow.js";
import { element } from "./elements.js";

const NAMES = [
  "dag_id", "run_id", "task_id", "map_index", "model", "conn_id", "tag", "owner", "group", "text", "period", "start", "end", "stack", "picture", "tab",
];
const PERIODS = ["7", "30", "90", "365", "custom"];
// Filters that a tab of Airflow sets.
const FIXED = ["dag_id", "run_id", "task_id", "map_index", "tab"];

// Parsed here: run ids contain "+", which Airflow 3.1 does not escape, and URLSearchParams would read it as a space.
function parse(search) {
  const pairs = search.replace(/^\?/, "").split("&").filter(Boolean);
  return Object.fromEntries(pairs.map((pair) => {
    const [name, ...value] = pair.split("=");
    return [decoded(name), decoded(value.join("="))];
  }));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function queryOf(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return given.map((pair) => pair.map(encodeURIComponent).join("=")).join("&");
}

export function filters() {
  const found = parse(location.search);
  const values = Object.fromEntries(NAMES.map((name) => [name, found[name] ?? ""]));
  if (!PERIODS.includes(values.period)) values.period = "30";
  if (values.stack !== "model") values.stack = "dag";
  // Airflow leaves its placeholder where a task is not mapped.
  if (!/^-?\d+$/.test(values.map_index)) values.map_index = "";
  return values;
}

export function addressOf(values) {
  const shown = { ...values };
  if (shown.period === "30") delete shown.period;
  if (shown.stack === "dag") delete shown.stack;
  if (shown.period !== "custom") ["start", "end"].forEach((name) => delete shown[name]);
  return `?${queryOf(shown)}`;
}

export function go(values) {
  history.pushState(null, "", addressOf(values));
  tellAirflow();
}

// Update Airflow's address bar, and keep its other parts.
export function tellAirflow() {
  const values = filters();
  const own = values.tab ? Object.fromEntries(Object.entries(values).filter(([name]) => !FIXED.includes(name))) : values;
  const others = Object.entries(parse(outerSearch())).filter(([name]) => !NAMES.includes(name));
  const search = `?${queryOf(Object.fromEntries(others))}&${addressOf(own).slice(1)}`.replace(/^\?&/, "?").replace(/[?&]$/, "");
  setOuterSearch(search);
}

// At the start: use Airflow's address bar for filters that the frame's own address lacks.
export function hearAirflow() {
  const own = parse(location.search);
  const outer = Object.entries(parse(outerSearch())).filter(([name]) => NAMES.includes(name) && !(name in own));
  if (outer.length) history.replaceState(null, "", `?${queryOf({ ...own, ...Object.fromEntries(outer) })}`);
}

// First and last day, UTC, as the server counts them.
export function daysOf({ period, start, end }) {
  if (period === "custom" && start && end) return { start, end };
  const today = new Date();
  const length = period === "custom" ? 30 : Number(period);
  const first = new Date(today.getTime() - (length - 1) * 86_400_000);
  return { start: first.toISOString().slice(0, 10), end: today.toISOString().slice(0, 10) };
}

// The filters to send to the server: a run has no period.
export function questionOf(values) {
  const { dag_id, run_id, task_id, map_index, model, conn_id, tag, owner, group, text } = values;
  return { dag_id, run_id, task_id, map_index, model, conn_id, tag, owner, group, text, ...(run_id ? {} : daysOf(values)) };
}

// A link to another view of this page.
export function viewLink(values, text, show) {
  const link = element("a", { href: addressOf(values), textContent: text });
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) {
      openFrom(event, link.href);
      return;
    }
    event.preventDefault();
    go(values);
    show();
  });
  return link;
}
