// What is shown is what the address says: filters are in its query, so that a view can be kept and sent.

// By hand: run ids hold "+", which Airflow 3.1 puts into addresses as it is and URLSearchParams takes for a space.
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
  const { dag_id = "", run_id = "", model = "", period = "30", start = "", end = "", tab = "" } = parse(location.search);
  const known = ["7", "30", "90", "365", "custom"];
  return { dag_id, run_id, model, period: known.includes(period) ? period : "30", start, end, tab };
}

export function go(values) {
  history.pushState(null, "", addressOf(values));
}

export function addressOf(values) {
  const shown = { ...values };
  if (shown.period === "30") delete shown.period;
  if (shown.period !== "custom") ["start", "end"].forEach((name) => delete shown[name]);
  return `?${queryOf(shown)}`;
}

// First and last day, UTC, as the server counts them.
export function daysOf({ period, start, end }) {
  if (period === "custom" && start && end) return { start, end };
  const today = new Date();
  const length = period === "custom" ? 30 : Number(period);
  const first = new Date(today.getTime() - (length - 1) * 86_400_000);
  return { start: first.toISOString().slice(0, 10), end: today.toISOString().slice(0, 10) };
}
