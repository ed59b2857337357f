/* Shortcuts. useKeys({"Ctrl+Enter": [run, "Generate"], f: [fork, "Fork here"]}) while a component is shown; the newest component
wins. Single letters are left alone while one types. `shortcuts()` lists what is active, for the sheet that "?" opens. */
import { useEffect, useRef } from "../vendor/preact-htm.js";

const layers = [];
export const shortcuts = () => {
  const seen = new Set();
  return [...layers].reverse().flatMap((layer) => Object.entries(layer.current)).filter(([key]) => !seen.has(key) && seen.add(key)).map(([key, [, what]]) => ({ key, what }));
};

export function useKeys(map) {
  const layer = useRef(map);
  layer.current = map;
  useEffect(() => {
    layers.push(layer);
    return () => layers.splice(layers.indexOf(layer), 1);
  }, []);
}

const typing = (element) => element?.isContentEditable || /^(TEXTAREA|SELECT)$/.test(element?.tagName) || (element?.tagName === "INPUT" && !/^(range|checkbox|radio|button|color)$/.test(element.type));

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing) return;
  const mod = event.ctrlKey || event.metaKey;
  const name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const full = (mod ? "Ctrl+" : "") + name;
  const on = document.activeElement;
  if (!mod && name !== "Escape" && typing(on)) return;
  // A focused control keeps the keys that it understands itself.
  if (/^(Space|Enter)$/.test(full) && /^(BUTTON|A|SUMMARY)$/.test(on?.tagName)) return;
  if (/^Arrow/.test(full) && (on?.type === "range" || on?.getAttribute?.("role") === "slider" || on?.closest?.("[data-arrows]"))) return;
  if (document.querySelector("dialog[open]")) return; // which closes itself on Escape
  for (const layer of [...layers].reverse()) {
    const entry = layer.current[full];
    if (!entry) continue;
    if (entry[0](event) !== false) event.preventDefault();
    return;
  }
});
