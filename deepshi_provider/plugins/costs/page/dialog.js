// The full picture. <dialog> keeps the focus inside, closes with Esc, and gives the focus back.

import { bounds, element, inDoubt, money } from "./drawing.js";
import { queryOf } from "./query.js";

const dialog = document.getElementById("picture");
const part = (name) => document.getElementById(name);

export function imageAddress({ dag_id, run_id, task_id, map_index, number, version }) {
  return `image?${queryOf({ dag_id, run_id, task_id, map_index, number, version })}`;
}

// Of the whole task, for Airflow is not told what each image of a task has cost.
export function costOf(picture) {
  const { cost_usd, images, reused, saved_usd } = picture;
  const all = images + reused;
  const of = all > 1 ? ` for ${all} images` : "";
  if (inDoubt(picture)) return `${bounds(picture)}${of}`;
  if (cost_usd === null) return "cost not known";
  if (images === 0 && reused > 0 && Number(cost_usd) === 0) return `reused, saved ${money(saved_usd)}${of}`;
  return `${money(cost_usd)}${of}`;
}

export function taskOf({ task_id, map_index }) {
  return map_index < 0 ? task_id : `${task_id} [${map_index}]`;
}

// Says why an image cannot be shown, in its place.
export async function explain(image, address) {
  const text = element("span", { className: "missing", textContent: "The image cannot be shown" });
  image.replaceWith(text);
  try {
    const answer = await fetch(address);
    if (!answer.ok) text.textContent = String((await answer.json()).detail);
  } catch {
    // what stands there is true
  }
}

export function show(picture) {
  const address = imageAddress(picture);
  const image = element("img", { alt: picture.prompt ?? `Image of task ${taskOf(picture)}` });
  image.addEventListener("error", () => explain(image, address), { once: true });
  image.src = address;
  part("stage").replaceChildren(image);
  part("picture-title").textContent = taskOf(picture) + (picture.key ? ` · ${picture.key}` : "");
  part("picture-prompt").textContent = picture.prompt ?? "Airflow no longer keeps the prompt.";
  part("picture-facts").replaceChildren(...Object.entries({
    Size: `${picture.width} × ${picture.height}`,
    Cost: costOf(picture),
    Model: picture.models.join(", ") || "unknown",
    DAG: picture.dag_id,
    Run: picture.run_id,
    Stored: picture.uri,
    ...(picture.review === null ? {} : { Review: picture.review }),
    ...(picture.warnings.length === 0 ? {} : { Warnings: picture.warnings.join(". ") }),
    ...(picture.metadata === null ? {} : { Metadata: picture.metadata }),
  }).map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
  dialog.showModal();
}

part("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the content
});
dialog.addEventListener("close", () => part("stage").replaceChildren());
