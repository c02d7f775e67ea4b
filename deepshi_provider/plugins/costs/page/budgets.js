// The budgets of the month: as lines in the charts where one holds for all that is shown, else as a list.

import { amount, element } from "./elements.js";
import { shareBar } from "./tables.js";

function shareOf({ spent_usd, limit_usd }) {
  return Number(limit_usd) > 0 ? Number(spent_usd) / Number(limit_usd) : 1;
}

function nameOf({ connection, group }) {
  return group === null ? connection : `${group} of ${connection}`;
}

// The budget per month of which the largest part is spent; undefined if there is none.
export function fullest({ budgets }) {
  return budgets.filter((budget) => budget.limit_usd !== null).sort((one, other) => shareOf(other) - shareOf(one))[0];
}

// What is spent of a budget, in words; with its name if it is not the only one.
export function spentOf(budget, { budget_usd }) {
  const share = Number(budget.limit_usd) > 0 ? `${Math.round(shareOf(budget) * 100)} % of ` : "";
  return [share, amount(budget.limit_usd), budget_usd === null ? ` budget of ${nameOf(budget)}` : " budget"];
}

export function budgetList({ budgets, budget_usd, day_budget_usd }) {
  const lines = budgets.flatMap((budget) => [
    ["this month", budget.spent_usd, budget.limit_usd, budget_usd], ["today", budget.today_usd, budget.day_limit_usd, day_budget_usd],
  ].filter(([, , limit, drawn]) => limit !== null && drawn === null).map(([when, spent, limit]) => element("li", {},
    element("span", {}, element("strong", { textContent: nameOf(budget) }), ": ", amount(spent), " of ", amount(limit), ` ${when}`),
    shareBar(Math.min(shareOf({ spent_usd: spent, limit_usd: limit }), 1)))));
  return [...lines, ...elsewhere(budgets)];
}

// Budgets whose days are not those of the page.
function elsewhere(budgets) {
  return budgets.filter(({ zone }) => zone !== "UTC").map((budget) => element("li", {
    className: "quiet", textContent: `The budget of ${nameOf(budget)} begins its days and months at midnight in ${budget.zone}, this page in UTC.`,
  }));
}
