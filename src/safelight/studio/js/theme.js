/* Before the first paint, so that the page does not flash in the other theme. */
try {
  const theme = JSON.parse(localStorage.getItem("safelight.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a file opened from disk may have no storage */ }
