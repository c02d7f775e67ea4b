// The sums at the top.

import { fullest, spentOf } from "./budgets.js";
import { amount, element } from "./elements.js";
import { bounds, change, count, inDoubt, rounded } from "./money.js";

export function tiles(sums, month, { run_id, map_index }) {
  const { totals, before } = sums;
  const counted = map_index === "" ? [count(totals.task_instances, "task")] : [];
  if (!run_id) counted.unshift(count(totals.runs, "run"));
  if (totals.running) counted.push(`${totals.running.toLocaleString("en")} still running`);
  const compared = run_id ? [] : [comparison(totals, before, sums)];
  const doubt = inDoubt(totals) ? [element("p", { className: "doubt", textContent: bounds(totals) })] : [];
  const made = [
    tile("Cost", amount(totals.cost_usd), [...doubt, ...compared, counted.join(", ")], "main"),
    ...(month ? [monthTile(month)] : []),
    tile("Per picture", totals.per_image_usd === null ? "–" : amount(totals.per_image_usd), [`${count(totals.images, "image")} bought`, ...perImage(totals, before, run_id)]),
    tile("Saved by reuse", amount(totals.saved_usd), [`${count(totals.reused, "image")} reused`]),
    tile("Possible extra", possible(totals), [extra(totals)], inDoubt(totals) ? "warns" : ""),
  ];
  if (Number(totals.failed_usd) > 0) made.push(tile("Paid, no picture", amount(totals.failed_usd), ["part of the cost"], "fails"));
  return made;
}

function possible(totals) {
  if (!inDoubt(totals)) return element("data", { value: "0", textContent: "$0.00" });
  return totals.may_have_cost_usd === null ? "unknown" : amount(totals.may_have_cost_usd);
}

function extra({ unknown_outcomes, untold }) {
  const found = [];
  if (unknown_outcomes) found.push(count(unknown_outcomes, "unknown outcome"));
  if (untold) found.push(count(untold, "unreported cost"));
  return found.length ? found.join(", ") : "nothing in doubt";
}

function comparison(totals, before, { before_start, before_end, start, end }) {
  const length = Math.round((new Date(end) - new Date(start)) / 86_400_000) + 1;
  const period = length === 1 ? "the day before" : `the ${length} days before`;
  const found = change(totals.cost_usd, before.cost_usd);
  if (!found) return element("p", { textContent: `nothing in ${period}`, title: `${before_start} to ${before_end}` });
  const arrow = { 1: "▲ ", 0: "", "-1": "▼ " }[found.sign];
  return element("p", { className: found.sign > 0 ? "up" : "", title: `${before_start} to ${before_end}` },
    element("strong", { textContent: `${arrow}${found.text}` }), ` ${period} (`, amount(before.cost_usd), ")");
}

function perImage(totals, before, run_id) {
  return !run_id && before.per_image_usd !== null ? [`${rounded(before.per_image_usd)} before`] : [];
}

function monthTile(month) {
  const budget = fullest(month);
  const over = month.budget_usd !== null && Number(month.forecast_usd) > Number(month.budget_usd);
  const detail = [element("p", {}, "about ", amount(month.forecast_usd), " by its end")];
  if (budget) detail.unshift(element("p", {}, ...spentOf(budget, month)));
  if (over) detail.push(element("p", { className: "doubt", textContent: "more than the budget, if it goes on like this" }));
  return tile("This month", amount(month.spent_usd), detail, over ? "month warns" : "month");
}

function tile(name, value, details, kind = "") {
  return element("div", { className: kind },
    element("dt", { textContent: name }), element("dd", { className: "value" }, value),
    element("dd", { className: "quiet" }, ...details.map((detail) => (typeof detail === "string" ? element("p", { textContent: detail }) : detail))));
}
