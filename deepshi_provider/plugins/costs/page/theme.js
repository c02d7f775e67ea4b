// Light or dark as Airflow is, whose page this one is a frame of; alone, as the system is.

function airflowTheme() {
  try {
    const names = window.parent === window ? [] : [...window.parent.document.documentElement.classList];
    return names.find((name) => name === "dark" || name === "light");
  } catch {
    return undefined; // framed by another origin
  }
}

function follow() {
  const theme = airflowTheme();
  if (theme) document.documentElement.dataset.theme = theme;
  return theme;
}

if (follow()) {
  new MutationObserver(follow).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
}
