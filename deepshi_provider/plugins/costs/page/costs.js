import { followTheme, outward, paths, sharedAddress } from "./airflow.js";
import { budgetList } from "./budgets.js";
import { bars, bucketsOf, drawnBudget, kindOf, legend, monthLegend, monthLine } from "./chart.js";
import { followAddress, open, setPictures } from "./dialog.js";
import { amount, copies, element, part } from "./elements.js";
import { fillGallery, MOST, PAGE } from "./gallery.js";
import { bounds, count, exact } from "./money.js";
import { daysOf, filters, go, hearAirflow, queryOf, questionOf, tellAirflow, viewLink } from "./query.js";
import { costTable, nameCell } from "./tables.js";
import { tiles } from "./tiles.js";

const COUNTING = "The API server is counting the cost sheets of this period. With a million of them, a year takes up to a minute: when Airflow has just started, when a day (UTC) begins, and for “Count again”.";

let loading = new AbortController();
let shownPictures = PAGE;
let drawn = null;
let loaded = "";

function viewOf(values) {
  return queryOf({ ...values, picture: "" });
}

async function load({ anew = false } = {}) {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  shownPictures = PAGE;
  const chosen = filters();
  loaded = viewOf(chosen);
  arrange(chosen);
  const { start, end } = daysOf(chosen);
  if (!chosen.run_id && start > end) {
    state({ failure: "The first day is after the last." });
    return;
  }
  state({ busy: true });
  part("status").textContent = "Loading costs …";
  const late = setTimeout(() => { part("status").textContent = COUNTING; }, 2000);
  try {
    const wanted = [ask("data", chosen, signal, { stack: chosen.stack, ...(anew ? { anew: "true" } : {}) }), ask("gallery", chosen, signal, { limit: PAGE })];
    if (!chosen.run_id) wanted.push(ask("month", chosen, signal));
    const [sums, pictures, month = null] = await Promise.all(wanted);
    fill(chosen, sums, pictures, month);
    followAddress();
  } catch (error) {
    if (!signal.aborted) state({ failure: error.message });
  } finally {
    clearTimeout(late);
  }
}

async function ask(what, chosen, signal, more = {}) {
  const query = queryOf({ ...questionOf(chosen), ...more });
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

// Show the parts of the page for the current filters, and fill the form.
function arrange(chosen) {
  const ofRun = chosen.run_id !== "";
  document.querySelectorAll("[data-period]").forEach((found) => { found.hidden = ofRun; });
  document.querySelectorAll("[data-run]").forEach((found) => { found.hidden = !ofRun; });
  document.querySelectorAll("[data-custom]").forEach((found) => { found.hidden = ofRun || chosen.period !== "custom"; });
  document.querySelectorAll("[data-tasks]").forEach((found) => { found.hidden = chosen.task_id !== ""; });
  document.querySelectorAll("[data-dags]").forEach((found) => { found.hidden = ofRun || chosen.dag_id !== ""; });
  // For a task instance, people want to see its picture first.
  const ofTask = ofRun && chosen.task_id !== "";
  document.body.classList.toggle("of-task", ofTask);
  if (ofTask) part("tiles").before(part("pictures"));
  else part("columns").append(part("pictures"));
  document.body.classList.toggle("tab", chosen.tab !== "");
  heading(chosen);
  const days = daysOf(chosen);
  part("period").value = chosen.period;
  part("start").value = days.start;
  part("end").value = days.end;
  part("text").value = chosen.text;
  part("stack").value = chosen.stack;
  for (const [name, all] of SELECTS) choose(part(name), all, [], chosen[FIELDS[name]]);
}

const SELECTS = [["dag", "All DAGs"], ["model", "All models"], ["connection", "All connections"], ["tag", "All tags"], ["owner", "All owners"], ["group", "All groups"]];
const FIELDS = { dag: "dag_id", model: "model", connection: "conn_id", tag: "tag", owner: "owner", group: "group" };

function choose(select, all, values, chosen) {
  const known = new Set([...(chosen ? [chosen] : []), ...values, ...[...select.options].map((option) => option.value).filter(Boolean)]);
  const options = [...known].sort().map((value) => element("option", { value, textContent: value }));
  select.replaceChildren(element("option", { value: "", textContent: all }), ...options);
  select.value = chosen;
}

// Breadcrumbs from all costs to the current view, and a link to the same object in Airflow.
function heading(chosen) {
  const { dag_id, run_id, task_id, map_index, period, start, end, tab } = chosen;
  const steps = [[{ period, start, end }, "All costs"]];
  if (dag_id) steps.push([{ dag_id, period, start, end }, dag_id]);
  if (run_id) steps.push([{ dag_id, run_id }, run_id]);
  if (task_id) steps.push([{ dag_id, run_id, task_id, ...(run_id ? {} : { period, start, end }) }, task_id]);
  if (task_id && map_index !== "") steps.push([{ dag_id, run_id, task_id, map_index }, `[${map_index}]`]);
  const last = steps.at(-1)[1];
  part("crumbs").hidden = steps.length === 1 || Boolean(tab);
  part("crumbs").firstElementChild.replaceChildren(...steps.map(([values, name], number) => element("li", {},
    number === steps.length - 1 ? element("span", { textContent: name, "aria-current": "page" }) : viewLink(values, name, load))));
  const what = task_id ? "this task" : run_id ? "this run" : dag_id ? "this DAG" : "";
  part("title").textContent = what ? `Deepshi costs of ${what}` : "Deepshi costs";
  document.title = what ? `${last} – Deepshi costs` : "Deepshi costs";
  part("subtitle").replaceChildren(what ? last : "What images have cost, over all tries of a task. A task counts on the day, in UTC, of its last report.");
  part("ways").replaceChildren(...(tab ? [] : ways(chosen)).map((way) => element("li", {}, way)));
}

function ways({ dag_id, run_id, task_id, map_index }) {
  const found = [];
  if (dag_id) found.push(outward(paths.dag({ dag_id }), "DAG", "Open the DAG in Airflow"));
  if (run_id) found.push(outward(paths.run({ dag_id, run_id }), "Run", "Open the run in Airflow"));
  if (run_id && task_id) {
    const task = { dag_id, run_id, task_id, map_index: map_index === "" ? -1 : Number(map_index) };
    found.push(outward(paths.taskInstance(task), "Task instance", "Open the task instance in Airflow"), outward(paths.log(task), "Log", "Open the task's log in Airflow"));
  }
  return found;
}

function state({ busy = false, failure = "", empty = null }) {
  document.querySelector("main").setAttribute("aria-busy", String(busy));
  part("status").hidden = !busy;
  part("failure").hidden = !failure;
  part("failure").firstElementChild.textContent = failure;
  part("empty").hidden = !empty;
  part("empty-text").replaceChildren(...(empty ?? []));
  part("content").hidden = busy || Boolean(failure) || Boolean(empty);
}

function fill(chosen, sums, pictures, month) {
  const { choices } = sums;
  for (const [name, all] of SELECTS) choose(part(name), all, choices[`${name}s`], chosen[FIELDS[name]]);
  // Hide fields of filters that have no values.
  for (const name of ["tag", "owner", "group"]) part(name).parentElement.hidden = chosen.run_id !== "" || part(name).options.length < 2;
  // One connection is no choice.
  part("connection").parentElement.hidden = chosen.run_id !== "" || part("connection").options.length < (chosen.conn_id ? 2 : 3);
  setPictures(pictures.pictures, load);
  if (sums.totals.task_instances === 0 && sums.unreadable === 0) {
    state({ empty: emptiness(chosen) });
    return;
  }
  notes(sums);
  part("tiles").replaceChildren(...tiles(sums, month, chosen));
  tables(chosen, sums);
  fillGallery(pictures, shownPictures, open);
  downloads(chosen);
  state({});
  drawn = chosen.run_id ? null : { days: sums.days, series: sums.series, month };
  draw();
}

function tables(chosen, sums) {
  const { dag_id, run_id, period, start, end, model } = chosen;
  const kept = { period, start, end, model };
  const into = (name, table) => part(name).replaceChildren(...table);
  into("models", costTable("Cost by model", "Model", sums.models, ({ model: found }) => nameCell(found ? viewLink({ ...chosen, picture: "", model: found }, found, load) : "(unnamed)")));
  into("tasks", costTable("Cost by task", "Task", sums.tasks, (task) => nameCell(
    viewLink({ ...chosen, picture: "", dag_id: task.dag_id, task_id: task.task_id }, task.task_id, load), run_id || dag_id ? "" : task.dag_id)));
  if (run_id) {
    into("instances", costTable("Cost by task instance", "Task instance", sums.instances, (task) => nameCell(
      viewLink({ dag_id, run_id, task_id: task.task_id, map_index: task.map_index, model }, task.map_index < 0 ? task.task_id : `${task.task_id} [${task.map_index}]`, load), "",
      outward(paths.taskInstance(task), "Open", `Open the task instance ${task.task_id} in Airflow`), outward(paths.log(task), "Log", `Open the log of ${task.task_id} in Airflow`))));
    return;
  }
  into("dags", costTable("Cost by DAG", "DAG", sums.dags, (found) => nameCell(
    viewLink({ ...chosen, picture: "", dag_id: found.dag_id }, found.dag_id, load), "", outward(paths.dag(found), "Open", `Open the DAG ${found.dag_id} in Airflow`))));
  into("runs", costTable("Most expensive runs", "Run", sums.runs, (run) => nameCell(
    viewLink({ dag_id: run.dag_id, run_id: run.run_id, task_id: chosen.task_id, model }, run.run_id, load), dag_id ? "" : run.dag_id,
    outward(paths.run(run), "Open", `Open the run ${run.run_id} in Airflow`))));
}

// Links to each section's figures as CSV, with the same filters.
function downloads(chosen) {
  document.querySelectorAll("a[data-csv]").forEach((link) => {
    link.href = `costs.csv?${queryOf({ table: link.dataset.csv, ...questionOf(chosen) })}`;
  });
}

function draw() {
  if (!drawn) return;
  const { days, series, month } = drawn;
  const width = Math.max(240, Math.floor(part("days").clientWidth));
  const kind = kindOf(days, width);
  const buckets = bucketsOf(days, kind);
  part("days-title").textContent = `Cost per ${kind}`;
  const budget = drawnBudget(buckets, kind, month?.day_budget_usd ?? null);
  part("days").replaceChildren(bars(buckets, kind, series, budget, width));
  const others = buckets.some((bucket) => Number(bucket.parts.at(-1)) > 0);
  const failed = buckets.some((bucket) => Number(bucket.failed_usd) > 0);
  part("legend").replaceChildren(...legend(series, others, failed, budget));
  part("days-table").replaceChildren(...days.filter((day) => day.images || Number(day.cost_usd) || day.unknown_outcomes || day.untold).map((day) => element("tr", {},
    element("th", { scope: "row", textContent: day.day }), element("td", { textContent: day.images }),
    element("td", { textContent: Number(day.failed_usd) ? exact(day.failed_usd) : "" }), element("td", { textContent: bounds(day, exact) }))));
  part("month").replaceChildren(monthLine(month, Math.max(240, Math.floor(part("month").clientWidth))));
  part("month-legend").replaceChildren(...monthLegend(month));
  part("month-title").textContent = `${new Date(month.start).toLocaleDateString("en", { month: "long", year: "numeric", timeZone: "UTC" })} so far`;
  part("month-text").replaceChildren(amount(month.spent_usd), " spent, about ", amount(month.forecast_usd), " by its end if it goes on as in the last 14 days.");
  part("budgets").replaceChildren(...budgetList(month));
}

function emptiness({ run_id, dag_id, model, conn_id, tag, owner, group, text, task_id }) {
  if (model || conn_id || tag || owner || group || text || (dag_id && !run_id)) {
    return ["Nothing matches these filters in this period. ", viewLink({}, "Show all costs", load)];
  }
  if (run_id) return [`No Deepshi task of this ${task_id ? "task" : "run"} has reported costs. They appear when one starts.`];
  return [
    "No Deepshi task has reported costs in this period. Run a DAG with one, and its costs and pictures appear here a moment later: ",
    element("code", { textContent: 'DeepshiGenerateImageOperator(task_id="boat", prompt="a red boat")' }),
    ". Or ", viewLink({ period: "365" }, "look at the last 365 days", load), ".",
  ];
}

function notes({ truncated, unreadable, totals, counted_at }) {
  const found = [];
  if (truncated) found.push("There are too many task instances to count all of them: choose a shorter period.");
  if (unreadable) found.push(`${count(unreadable, "cost sheet")} cannot be read and ${unreadable === 1 ? "is" : "are"} not counted.`);
  if (totals.untold) found.push(`The API reported no cost for ${count(totals.untold, "paid request")}; sums with them are marked "at least".`);
  else if (totals.incomplete) found.push(`The cost of ${count(totals.incomplete, "task instance")} is unknown.`);
  part("notes").textContent = found.join(" ");
  part("notes").hidden = found.length === 0;
  const at = new Date(counted_at * 1000);
  part("counted").textContent = `Counted at ${at.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false })}`;
}

async function showMore() {
  const before = part("gallery").children.length;
  shownPictures = Math.min(MOST, shownPictures + PAGE);
  part("gallery-status").textContent = "Loading images …";
  try {
    const found = await ask("gallery", filters(), loading.signal, { limit: shownPictures });
    setPictures(found.pictures, load);
    fillGallery(found, shownPictures, open);
    part("gallery").children[before]?.querySelector("button").focus();
  } catch (error) {
    if (!loading.signal.aborted) part("gallery-status").textContent = error.message;
  }
}

part("filters").addEventListener("change", () => {
  const values = filters();
  const dag_id = values.run_id ? values.dag_id : part("dag").value;
  go({
    ...values, dag_id, task_id: dag_id === values.dag_id ? values.task_id : "", picture: "",
    model: part("model").value, conn_id: part("connection").value, tag: part("tag").value, owner: part("owner").value, group: part("group").value, text: part("text").value.trim(),
    period: part("period").value, start: part("start").value, end: part("end").value,
  });
  load();
});
part("stack").addEventListener("change", () => {
  go({ ...filters(), stack: part("stack").value });
  load();
});
part("filters").addEventListener("submit", (event) => event.preventDefault());
part("failure").querySelector("button").addEventListener("click", () => load());
part("again").addEventListener("click", () => load({ anew: true }));
part("more").addEventListener("click", showMore);
copies(part("share"), sharedAddress);

window.addEventListener("popstate", () => {
  tellAirflow();
  if (viewOf(filters()) === loaded) followAddress(); // only a picture more or less: what is behind it stays
  else load();
});
new ResizeObserver(() => draw()).observe(document.body);
followTheme();
hearAirflow();
load();
