// Thumbnails of the newest pictures; each opens in full size.

import { amount, element, part } from "./elements.js";
import { bounds, inDoubt, rounded } from "./money.js";
import { queryOf } from "./query.js";

// In a narrow window a page of cards is several screens long.
export const PAGE = window.innerWidth < 640 ? 8 : 24;
export const MOST = 240;

export function imageAddress({ dag_id, run_id, task_id, map_index, number, version }, route = "image") {
  return `${route}?${queryOf({ dag_id, run_id, task_id, map_index, number, version })}`;
}

export function taskOf({ task_id, map_index }) {
  return map_index < 0 ? task_id : `${task_id} [${map_index}]`;
}

// The cost of its request; some sheets have only the cost of the whole task.
export function costOf(picture) {
  const { task } = picture;
  if (!picture.is_priced) {
    const all = task.images + task.reused;
    return [inDoubt(task) ? bounds(task) : amount(task.cost_usd), all > 1 ? ` for ${all} images` : ""];
  }
  const of = picture.of > 1 ? ` for ${picture.of} images` : "";
  if (picture.reused) return ["reused", picture.cost_usd === null ? "" : `, saved ${rounded(picture.cost_usd)}`, of];
  return [picture.cost_usd === null ? "cost not reported" : amount(picture.cost_usd), of];
}

// Show the reason in place of an image that cannot be shown.
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

export function thumbnail(picture) {
  const address = imageAddress(picture, "thumbnail");
  const image = element("img", { alt: "", loading: "lazy", decoding: "async", width: picture.width, height: picture.height });
  image.addEventListener("error", () => explain(image, address), { once: true });
  image.src = address;
  return image;
}

function card(picture, open) {
  const detail = picture.key !== null && picture.prompt !== null ? picture.key : `${picture.width} × ${picture.height}`;
  const button = element("button", { type: "button", className: "card" },
    element("span", { className: "frame" }, thumbnail(picture), ...(picture.review === "rejected" ? [element("span", { className: "mark", textContent: "Rejected" })] : [])),
    element("span", { className: "prompt", textContent: picture.prompt ?? picture.key ?? taskOf(picture) }),
    element("span", { className: "facts" },
      element("span", { className: "quiet", textContent: detail }),
      element("span", {}, ...costOf(picture))));
  button.addEventListener("click", open);
  return button;
}

export function fillGallery({ pictures, more }, shown, open) {
  part("gallery-status").textContent = pictures.length ? "" : "No images here.";
  part("gallery").replaceChildren(...pictures.map((picture) => element("li", {}, card(picture, () => open(picture)))));
  part("more").hidden = !more || shown >= MOST;
}
