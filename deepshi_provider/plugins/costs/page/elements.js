// Makes HTML and SVG elements. Text from the database becomes text nodes, never markup.

import { exact, rounded } from "./money.js";

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A rounded amount, with the exact one on hover and for screen readers.
export function amount(text) {
  if (text === null) return element("span", { textContent: "unknown" });
  return element("data", { value: text, title: exact(text), textContent: rounded(text) });
}

export const part = (name) => document.getElementById(name);

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without HTTPS there is no such clipboard
    const field = element("textarea", { value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

// Confirm an action on its button for a moment.
export function copies(button, textOf) {
  const name = button.textContent;
  button.addEventListener("click", async () => {
    await copy(textOf());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = name; }, 1500);
  });
  return button;
}
