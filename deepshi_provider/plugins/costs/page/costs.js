import "./theme.js";
import { costOf, explain, imageAddress, show, taskOf } from "./dialog.js";
import { bounds, costTable, count, dayBars, element, inDoubt, money } from "./drawing.js";
import { addressOf, daysOf, filters, go, queryOf } from "./query.js";

const part = (name) => document.getElementById(name);
const PAGE = 24;

let loading = new AbortController();
let shownPictures = PAGE;

async function load() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  shownPictures = PAGE;
  const chosen = filters();
  arrange(chosen);
  const { start, end } = daysOf(chosen);
  if (!chosen.run_id && start > end) {
    state({ failure: "The first day is after the last." });
    return;
  }
  state({ busy: true });
  try {
    const [sums, pictures] = await Promise.all([ask("data", chosen, signal), ask("gallery", chosen, signal, { limit: PAGE })]);
    fill(chosen, sums, pictures);
  } catch (error) {
    if (!signal.aborted) state({ failure: error.message });
  }
}

async function ask(what, chosen, signal, more = {}) {
  const { dag_id, run_id, model } = chosen;
  const query = queryOf({ dag_id, run_id, model, ...(run_id ? {} : daysOf(chosen)), ...more });
  let answer;
  try {
    answer = await fetch(`${what}?${query}`, { signal });
  } catch (error) {
    throw new Error("Airflow does not answer.", { cause: error });
  }
  if (answer.ok) return answer.json();
  const reasons = {
    401: "You are logged out. Log in to Airflow, then try again.",
    403: "You may not read the costs of this DAG.",
    422: "These days are no period of 1 to 366 days.",
  };
  throw new Error(reasons[answer.status] ?? `Airflow cannot say the costs (error ${answer.status}). The API server's log says why.`);
}

// Which parts of the page are shown, and what the form says.
function arrange(chosen) {
  const ofRun = chosen.run_id !== "";
  document.querySelectorAll("[data-period]").forEach((found) => { found.hidden = ofRun; });
  document.querySelectorAll("[data-custom]").forEach((found) => { found.hidden = ofRun || chosen.period !== "custom"; });
  part("title").textContent = ofRun ? "Deepshi costs of this run" : "Deepshi costs";
  const back = element("a", { href: addressOf({}), textContent: "← All costs" });
  back.addEventListener("click", (event) => follow(event, {}));
  part("subtitle").replaceChildren(
    ...(ofRun ? [`${chosen.dag_id} · ${chosen.run_id}`, ...(chosen.tab ? [] : [element("br"), back])] : ["What images have cost, over all tries of a task. Days are UTC."]),
  );
  const days = daysOf(chosen);
  part("period").value = chosen.period;
  part("start").value = days.start;
  part("end").value = days.end;
  choose(part("dag"), "All DAGs", [], chosen.dag_id);
  choose(part("model"), "All models", [], chosen.model);
}

function choose(select, all, values, chosen) {
  const known = new Set([...(chosen ? [chosen] : []), ...values, ...[...select.options].map((option) => option.value).filter(Boolean)]);
  const options = [...known].sort().map((value) => element("option", { value, textContent: value }));
  select.replaceChildren(element("option", { value: "", textContent: all }), ...options);
  select.value = chosen;
}

function state({ busy = false, failure = "", empty = "" }) {
  document.querySelector("main").setAttribute("aria-busy", String(busy));
  part("status").hidden = !busy;
  part("failure").hidden = !failure;
  part("failure").firstElementChild.textContent = failure;
  part("empty").hidden = !empty;
  part("empty-text").textContent = empty;
  part("content").hidden = busy || Boolean(failure) || Boolean(empty);
}

function fill(chosen, sums, pictures) {
  choose(part("dag"), "All DAGs", sums.choices.dags, chosen.dag_id);
  choose(part("model"), "All models", sums.choices.models, chosen.model);
  if (sums.totals.task_instances === 0 && sums.unreadable === 0) {
    state({ empty: emptiness(chosen) });
    return;
  }
  notes(sums);
  part("tiles").replaceChildren(...tiles(sums.totals, chosen));
  if (!chosen.run_id) days(sums.days);
  part("dags").replaceChildren(costTable("Cost by DAG", "DAG", sums.dags, ({ dag_id }) => narrowing({ ...chosen, dag_id }, dag_id)));
  part("models").replaceChildren(costTable("Cost by model", "Model", sums.models, ({ model }) => narrowing({ ...chosen, model }, model)));
  part("tasks").replaceChildren(costTable("Cost by task", "Task", sums.tasks, (task) => named(task.task_id, chosen.run_id || chosen.dag_id ? "" : task.dag_id)));
  part("runs").replaceChildren(costTable("Most expensive runs", "Run", sums.runs, ({ dag_id, run_id }) => {
    const link = narrowing({ dag_id, run_id, model: chosen.model }, run_id);
    return chosen.dag_id ? link : named(link, dag_id);
  }));
  gallery(pictures);
  state({});
}

function emptiness({ run_id, dag_id, model }) {
  if (run_id) return "No Deepshi task of this run has told costs. They appear when one starts.";
  if (dag_id || model) return "Nothing matches these filters in this period.";
  return "No Deepshi task has told costs in this period. They appear when one starts.";
}

function notes({ truncated, unreadable, totals }) {
  const found = [];
  if (truncated) found.push("There are more task instances than are counted here: choose a shorter period.");
  if (unreadable) found.push(`${count(unreadable, "cost sheet")} cannot be read and ${unreadable === 1 ? "is" : "are"} not counted.`);
  if (totals.untold) found.push(`The API reported no cost for ${count(totals.untold, "paid request")}; sums with them are marked "at least".`);
  else if (totals.not_told) found.push(`For ${count(totals.not_told, "task instance")} no cost is known.`);
  part("notes").textContent = found.join(" ");
  part("notes").hidden = found.length === 0;
}

function tiles(totals, { run_id }) {
  const possible = totals.may_have_cost_usd === null ? "an unknown sum" : money(totals.may_have_cost_usd);
  const doubt = totals.unknown_outcomes ? `${totals.untold ? "with unreported costs, " : ""}may have cost ${possible}` : "nothing in doubt";
  const counted = [count(totals.task_instances, "task")];
  if (!run_id) counted.unshift(count(totals.runs, "run"));
  if (totals.running) counted.push(`${totals.running.toLocaleString("en")} still running`);
  return [
    tile("Cost", money(totals.cost_usd), [...(inDoubt(totals) ? [bounds(totals)] : []), counted.join(", ")].join(" · "), inDoubt(totals)),
    tile("Images bought", totals.images.toLocaleString("en"), "paid for"),
    tile("Images reused", totals.reused.toLocaleString("en"), `saved ${money(totals.saved_usd)}`),
    tile("Unknown outcomes", totals.unknown_outcomes.toLocaleString("en"), doubt, totals.unknown_outcomes > 0),
  ];
}

function tile(name, value, detail, warns = false) {
  return element("div", { className: warns ? "warns" : "" },
    element("dt", { textContent: name }), element("dd", { className: value.length > 11 ? "long" : "", textContent: value }), element("dd", { className: "quiet", textContent: detail }));
}

function days(found) {
  part("days").replaceChildren(dayBars(found));
  part("days-table").replaceChildren(...found.filter((day) => day.images || Number(day.cost_usd)).map((day) => element("tr", {},
    element("th", { scope: "row", textContent: day.day }), element("td", { textContent: day.images }), element("td", { textContent: money(day.cost_usd), title: bounds(day) }))));
}

function named(name, detail) {
  const whole = element("span", {}, name);
  if (detail) whole.append(element("span", { className: "quiet detail", textContent: detail }));
  return whole;
}

// A link that narrows what is shown.
function narrowing(values, text) {
  const link = element("a", { href: addressOf(values), textContent: text });
  link.addEventListener("click", (event) => follow(event, values));
  return link;
}

function follow(event, values) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(values);
  load();
  window.scrollTo(0, 0);
}

function gallery({ pictures, more }) {
  part("gallery-status").textContent = pictures.length ? "" : "No images yet.";
  part("gallery").replaceChildren(...pictures.map((picture) => element("li", {}, card(picture))));
  part("more").hidden = !more || shownPictures >= 240;
}

function card(picture) {
  const address = imageAddress(picture);
  const image = element("img", { alt: "", loading: "lazy", width: picture.width, height: picture.height });
  image.addEventListener("error", () => explain(image, address), { once: true });
  image.src = address;
  const button = element("button", { type: "button", className: "card" },
    element("span", { className: "frame" }, image, ...(picture.review === "rejected" ? [element("span", { className: "mark", textContent: "Rejected" })] : [])),
    element("span", { className: "prompt", textContent: picture.prompt ?? picture.key ?? taskOf(picture) }),
    element("span", { className: "facts" },
      element("span", { className: "quiet", textContent: `${picture.width} × ${picture.height}` }),
      element("span", { textContent: costOf(picture) })));
  button.addEventListener("click", () => show(picture));
  return button;
}

async function showMore() {
  const before = part("gallery").children.length;
  shownPictures += PAGE;
  part("gallery-status").textContent = "Loading images …";
  try {
    gallery(await ask("gallery", filters(), loading.signal, { limit: shownPictures }));
    part("gallery").children[before]?.querySelector("button").focus();
  } catch (error) {
    if (!loading.signal.aborted) part("gallery-status").textContent = error.message;
  }
}

part("filters").addEventListener("change", () => {
  const { tab, run_id } = filters();
  const dag_id = run_id ? filters().dag_id : part("dag").value;
  const period = part("period").value;
  go({ dag_id, run_id, tab, model: part("model").value, period, start: part("start").value, end: part("end").value });
  load();
});
part("filters").addEventListener("submit", (event) => event.preventDefault());
part("failure").querySelector("button").addEventListener("click", load);
part("more").addEventListener("click", showMore);
window.addEventListener("popstate", load);
load();
