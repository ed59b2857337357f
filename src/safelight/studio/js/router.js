/* Where the page is: every view is an address, so a link shows it again.

route()                    {name, id, query}: /run/ab12?step=3 is {name: "run", id: "ab12", query: {step: "3"}}; "/" is create
useRoute()                 the same for a component
go(path, query?)           open a view;  amend({step: 4})  change the query in place (null removes), no new history entry
href(path, query)          the address;  <a> of the page are caught, so plain links work without a reload
*/
import { BUNDLE } from "./api.js";
import { useEffect, useReducer } from "../vendor/preact-htm.js";

const listeners = new Set();
const here = () => (BUNDLE ? new URL(location.hash.slice(1) || BUNDLE.route, "http://studio") : new URL(location.href));
const shown = (to) => (BUNDLE ? "#" + to : to); // a file has no paths: there the address lives behind the #

export function route() {
  const { pathname, searchParams } = here();
  const [name, id] = pathname.split("/").filter(Boolean);
  return { name: name || "create", id: id ?? null, query: Object.fromEntries(searchParams) };
}

export function href(path, query = {}) {
  const pairs = Object.entries(query).filter(([, v]) => v !== null && v !== undefined && v !== "");
  return path + (pairs.length ? "?" + new URLSearchParams(pairs) : "");
}

function move(to, replace) {
  if (!replace) pending = {};
  history[replace ? "replaceState" : "pushState"](null, "", shown(to));
  for (const listen of [...listeners]) listen();
}
export const go = (path, query) => move(href(path, query), false);

let late, pending = {};
export function amend(query, quiet = false) {
  pending = { ...pending, ...query };
  clearTimeout(late);
  const write = (draw) => {
    const now = here(), to = href(now.pathname, { ...Object.fromEntries(now.searchParams), ...pending });
    pending = {};
    if (draw) move(to, true);
    else history.replaceState(null, "", shown(to));
  };
  if (!quiet) return write(true);
  // Scrubbing writes the address once it rests: browsers allow only so many changes a second.
  const { pathname } = here();
  late = setTimeout(() => (here().pathname === pathname ? write(false) : (pending = {})), 250);
}

export function useRoute() {
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    listeners.add(draw);
    return () => listeners.delete(draw);
  }, []);
  return route();
}

addEventListener("popstate", () => listeners.forEach((listen) => listen()));
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.target || link.download) return;
  const to = new URL(link.getAttribute("href"), BUNDLE ? "http://studio/" : location.href);
  if ((!BUNDLE && to.origin !== location.origin) || /^\/(v1|studio|docs|sdapi|metrics|openapi)/.test(to.pathname) || link.hasAttribute("download")) return;
  if (link.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  go(to.pathname + to.search);
});
