// Integration with Airflow's UI around this page: address bar, theme, and links to its pages.

import { element } from "./elements.js";

// The window of Airflow's UI, if this page is in a frame of it.
function airflow() {
  try {
    return window.parent !== window && window.parent.document ? window.parent : null;
  } catch {
    return null; // framed by another origin
  }
}

// Light or dark theme as in Airflow; outside a frame, as in the system.
function follow(outer) {
  const theme = [...outer.document.documentElement.classList].find((name) => name === "dark" || name === "light");
  if (theme) document.documentElement.dataset.theme = theme;
}

export function followTheme() {
  const outer = airflow();
  if (!outer) return;
  follow(outer);
  new MutationObserver(() => follow(outer)).observe(outer.document.documentElement, { attributeFilter: ["class"] });
}

// The view in Airflow's address; the frame's own address is lost when Airflow is reloaded.
export function outerSearch() {
  return airflow()?.location.search ?? "";
}

export function setOuterSearch(search) {
  const outer = airflow();
  if (outer && outer.location.search !== search) {
    outer.history.replaceState(outer.history.state, "", `${outer.location.pathname}${search}`);
  }
}

// The address to share this view.
export function sharedAddress() {
  return (airflow() ?? window).location.href;
}

// Airflow may be served below a path.
const BASE = new URL("../", location.href).pathname;

export const paths = {
  dag: ({ dag_id }) => `${BASE}dags/${encodeURIComponent(dag_id)}`,
  run: ({ dag_id, run_id }) => `${paths.dag({ dag_id })}/runs/${encodeURIComponent(run_id)}`,
  log: ({ dag_id, run_id, task_id, map_index }) =>
    `${paths.run({ dag_id, run_id })}/tasks/${encodeURIComponent(task_id)}${map_index >= 0 ? `/mapped/${map_index}` : ""}`,
  taskInstance: (task) => `${paths.log(task)}/details`,
};

// A frame in Airflow may neither navigate the window nor open others, so a link in the surrounding page does.
export function openFrom(event, href) {
  const outer = airflow();
  if (!outer) return;
  event.preventDefault();
  const link = outer.document.createElement("a");
  link.href = href;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) {
    link.target = "_blank";
    link.rel = "noopener";
  }
  outer.document.body.append(link);
  link.click();
  link.remove();
}

// A link to a page of Airflow.
export function outward(href, text, label = "") {
  const link = element("a", { href, className: "outward", textContent: `${text} ↗` });
  if (label) link.setAttribute("aria-label", label);
  if (label) link.title = label;
  link.addEventListener("click", (event) => openFrom(event, href));
  link.addEventListener("auxclick", (event) => { if (event.button === 1) openFrom(event, href); });
  return link;
}
