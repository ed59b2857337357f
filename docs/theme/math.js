// Sets the formulas of a page: what arithmatex has marked as \(...\) or \[...\], by KaTeX, which lies in vendor/ and is loaded before.
for (const place of document.querySelectorAll(".arithmatex")) {
  const text = place.textContent.trim();
  try {
    katex.render(text.slice(2, -2), place, { displayMode: text.startsWith("\\["), throwOnError: true });
  } catch (error) {
    place.textContent = text;
    place.classList.add("katex-error");
    console.error(`${error.message} in ${text}`);
  }
}
