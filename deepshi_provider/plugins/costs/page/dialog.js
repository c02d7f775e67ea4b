// One picture in full size. <dialog> keeps the focus inside, closes with Esc, and restores the focus.

import { outward, paths, sharedAddress } from "./airflow.js";
import { amount, copies, element, part } from "./elements.js";
import { costOf, explain, imageAddress, taskOf, thumbnail } from "./gallery.js";
import { bounds, inDoubt } from "./money.js";
import { addressOf, filters, queryOf, tellAirflow, viewLink } from "./query.js";

const dialog = document.getElementById("picture");
let shown = null;
let all = [];
let showView = () => {};

const NAMES = ["dag_id", "run_id", "task_id", "map_index", "number"];

// A picture's id in an address.
export function nameOf(picture) {
  return NAMES.map((name) => encodeURIComponent(picture[name]).replaceAll("~", "%7E")).join("~");
}

function placeOf(name) {
  const values = name.split("~");
  if (values.length !== NAMES.length) return null;
  const [dag_id, run_id, task_id, map_index, number] = values.map(decodeURIComponent);
  return { dag_id, run_id, task_id, map_index: Number(map_index), number: Number(number) };
}

export function setPictures(pictures, load) {
  all = pictures;
  showView = load;
  if (dialog.open) arrows();
}

// Show the picture in the address, or none.
export function followAddress() {
  const name = filters().picture;
  const place = name ? placeOf(name) : null;
  if (!place) {
    if (dialog.open) dialog.close();
    return;
  }
  if (!shown || nameOf(shown) !== name) fill(all.find((picture) => nameOf(picture) === name) ?? place);
  if (!dialog.open) dialog.showModal();
}

export function open(picture) {
  turn(picture, "pushState");
  if (!dialog.open) dialog.showModal();
}

function turn(picture, how = "replaceState") {
  history[how](null, "", addressOf({ ...filters(), picture: nameOf(picture) }));
  tellAirflow();
  fill(picture);
}

function step(by) {
  const at = all.findIndex((picture) => shown && nameOf(picture) === nameOf(shown));
  const next = at < 0 ? undefined : all[at + by];
  if (next) turn(next);
}

function arrows() {
  const at = all.findIndex((picture) => shown && nameOf(picture) === nameOf(shown));
  // Not the disabled attribute, which would remove the focus and the keyboard events.
  part("previous").setAttribute("aria-disabled", String(at <= 0));
  part("next").setAttribute("aria-disabled", String(at < 0 || at === all.length - 1));
  part("place").textContent = at < 0 ? "" : `${at + 1} of ${all.length}`;
}

async function fill(picture) {
  shown = picture;
  arrows();
  const address = imageAddress(picture);
  const image = element("img", { alt: picture.prompt ?? `Image of task ${taskOf(picture)}` });
  image.addEventListener("error", () => explain(image, address), { once: true });
  image.src = address;
  part("stage").replaceChildren(image);
  part("picture-title").textContent = taskOf(picture) + (picture.key ? ` · ${picture.key}` : "");
  if (picture.uri) facts(picture);
  else part("picture-facts").replaceChildren();
  await complete(picture);
}

// Details that only the picture's record has.
async function complete(picture) {
  const { dag_id, run_id, task_id, map_index, number } = picture;
  let found;
  try {
    const answer = await fetch(`picture?${queryOf({ dag_id, run_id, task_id, map_index, number })}`);
    found = await answer.json();
    if (!answer.ok) throw new Error(found.detail);
  } catch (error) {
    if (shown === picture && !picture.uri) part("picture-prompt").textContent = String(error.message);
    return;
  }
  if (shown === picture) facts({ ...picture, ...found });
}

function facts(picture) {
  part("picture-title").textContent = taskOf(picture) + (picture.key ? ` · ${picture.key}` : "");
  const image = part("stage").querySelector("img");
  if (image && picture.prompt) image.alt = picture.prompt;
  part("picture-prompt").textContent = picture.prompt ?? "The prompt is not kept.";
  part("picture-revised").textContent = picture.revised_prompt ? `Revised: ${picture.revised_prompt}` : "";
  part("picture-warnings").textContent = picture.warnings.join(". ");
  part("picture-warnings").hidden = picture.warnings.length === 0;
  part("picture-facts").replaceChildren(...Object.entries(known(picture)).filter(([, value]) => value !== null).map(
    ([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", {}, ...[value].flat()))));
  part("picture-links").replaceChildren(...links(picture).map((link) => element("li", {}, link)));
  related("sources", "Made of", (picture.sources ?? []).map(({ uri, pictures }) => pictures[0] ?? uri));
  related("edits", "Made of this", picture.edits ?? []);
}

function known(picture) {
  const { task } = picture;
  const request = Object.entries(picture.request ?? {}).filter(([name]) => !["images", "model", "prompt"].includes(name) && !(name === "n" && picture.request.n === 1));
  return {
    Cost: costOf(picture),
    "Cost of the task": picture.is_priced && (task.images + task.reused > picture.of || inDoubt(task)) ? (inDoubt(task) ? bounds(task) : amount(task.cost_usd)) : null,
    Model: picture.model ?? (picture.models.join(", ") || "unknown"),
    "Made by": Number.isInteger(picture.fallback) ? `fallbacks[${picture.fallback}], in place of the task's own request` : null,
    Size: `${picture.width} × ${picture.height}${picture.size_bytes ? `, ${bytes(picture.size_bytes)}` : ""}`,
    Request: request.length ? request.map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ") : null,
    Attempts: attempts(picture),
    "Bought by": boughtBy(picture),
    DAG: viewLink({ dag_id: picture.dag_id }, picture.dag_id, leave),
    Run: viewLink({ dag_id: picture.dag_id, run_id: picture.run_id }, picture.run_id, leave),
    Task: viewLink({ dag_id: picture.dag_id, run_id: picture.run_id, task_id: picture.task_id }, taskOf(picture), leave),
    Stored: picture.uri,
    Review: picture.review ?? null,
    Metadata: picture.metadata,
    Time: new Date(picture.time).toLocaleString("en", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" }) + " UTC",
  };
}

function attempts({ sends, lost_before, try_number }) {
  if (sends === undefined) return null;
  const sent = sends === 1 ? "sent once" : `sent ${sends} times`;
  return `${sent}, try ${try_number}${lost_before ? `; before it ${lost_before} with unknown outcome` : ""}`;
}

function boughtBy({ reused, bought_by }) {
  if (!reused || !bought_by) return null;
  return viewLink({ dag_id: bought_by.dag_id, run_id: bought_by.run_id }, `${bought_by.run_id} · ${taskOf(bought_by)}`, leave);
}

function bytes(size) {
  return size < 1e6 ? `${Math.ceil(size / 1000)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

function links(picture) {
  const name = picture.uri.split("/").at(-1);
  const download = element("a", { href: imageAddress(picture), download: name, textContent: "Download", className: "button" });
  return [
    download,
    copies(element("button", { type: "button", textContent: "Copy URI" }), () => picture.uri),
    copies(element("button", { type: "button", textContent: "Copy link" }), sharedAddress),
    outward(paths.dag(picture), "DAG", "Open the DAG in Airflow"),
    outward(paths.run(picture), "Run", "Open the run in Airflow"),
    outward(paths.taskInstance(picture), "Task instance", "Open the task instance in Airflow"),
    outward(paths.log(picture), "Log", "Open the task's log in Airflow"),
  ];
}

function related(name, title, pictures) {
  const place = part(`picture-${name}`);
  place.hidden = pictures.length === 0;
  place.replaceChildren(element("h3", { textContent: title }), element("ul", {}, ...pictures.map((picture) => {
    if (typeof picture === "string") return element("li", { className: "quiet", textContent: picture });
    const button = element("button", { type: "button", className: "small", title: picture.prompt ?? "", "aria-label": `Show the image of ${taskOf(picture)}` }, thumbnail(picture));
    button.addEventListener("click", () => turn(picture));
    return element("li", {}, button);
  })));
}

// Link to another view, with the dialog closed.
function leave() {
  dialog.close();
  showView();
}

part("close").addEventListener("click", () => dialog.close());
part("previous").addEventListener("click", () => step(-1));
part("next").addEventListener("click", () => step(1));
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the content
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
dialog.addEventListener("close", () => {
  part("stage").replaceChildren();
  shown = null;
  const values = filters();
  if (values.picture) {
    history.replaceState(null, "", addressOf({ ...values, picture: "" }));
    tellAirflow();
  }
});
