/* Where the page is: every view is an address, so a link shows it again.

route()                    {name, id, query}: /run/ab12?step=3 is {name: "run", id: "ab12", query: {step: "3"}}; "/" is create
useRoute()                 the same for a component
go(path, query?)           open a view;  amend({step: 4})  change the query in place (null removes), no new history entry
href(path, query)          the address;  <a> of the page are caught, so plain links work without a reload
*/
import { BUNDLE } from "./api.js";
import { useEffect, useReducer } from "../vendor/preact-htm.js";

const listeners = new Set();
const written = () => (BUNDLE ? new URL(location.hash.slice(1) || BUNDLE.route, "http://studio") : new URL(location.href));
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

const tell = () => [...listeners].forEach((listen) => listen());
export function go(path, query) {
  settle(); // what was still to be written belongs to the view that is left
  history.pushState(null, "", shown(href(path, query)));
  tell();
}

/* A quiet change is part of the address at once, and written once it rests: browsers allow only so many changes a second. It belongs to
the path it was made at, and goes nowhere else. */
let late, pending = null;
function here() {
  const now = written();
  if (pending?.path !== now.pathname) return now;
  return new URL(href(now.pathname, { ...Object.fromEntries(now.searchParams), ...pending.query }), now);
}
function settle() {
  clearTimeout(late);
  const { pathname, search } = here();
  if (pending?.path === pathname) history.replaceState(null, "", shown(pathname + search));
  pending = null;
}
export function amend(query, quiet = false) {
  const { pathname } = written();
  pending = { path: pathname, query: { ...(pending?.path === pathname ? pending.query : {}), ...query } };
  clearTimeout(late);
  if (quiet) return void (late = setTimeout(settle, 250));
  settle();
  tell();
}

export function useRoute() {
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    listeners.add(draw);
    return () => listeners.delete(draw);
  }, []);
  return route();
}

addEventListener("popstate", () => {
  pending = null; // of the view that was left
  tell();
});
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.hasAttribute("target") || link.hasAttribute("download")) return;
  const to = new URL(link.getAttribute("href"), BUNDLE ? "http://studio/" : location.href);
  if ((!BUNDLE && to.origin !== location.origin) || /^\/(v1|studio|docs|sdapi|metrics|openapi)/.test(to.pathname) || link.hasAttribute("download")) return;
  if (link.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  go(to.pathname + to.search);
});
