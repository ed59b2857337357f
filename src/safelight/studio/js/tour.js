// The guided walk through the machine, and the quiz. What is said uses the run's own numbers.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { normals, question } from "./maths.js";
import { Frame } from "./kit.js";
import { useKeys } from "./keys.js";
import { persisted, keep, say } from "./store.js";

/** Stations of the tour, about 17 s each: {stop (null: the whole), part that is lit, step (a part of the run) or null, text}. */
export function stations(run, about) {
  const n = run.steps, t = about?.tokens, pieces = t?.places?.filter((p) => p.role === "word").length, half = about?.half, d = about?.decode, l = about?.loop;
  return [
    { stop: null, part: "", step: null, text: `This is the machine that made “${run.prompt || "a picture without words"}” out of noise, drawn with what went through it in this one run: no number is made up.` },
    { stop: null, part: "words", step: null, text: "Your words come in here, and a network has no letters, so they are cut into pieces that have numbers." },
    { stop: 0, part: "merges", step: null, text: pieces ? `The prompt became ${pieces} pieces: letters were joined, the commonest pair first, until nothing joined any more.` : "A prompt of this model is one name out of a list, so nothing has to be cut." },
    { stop: 0, part: "window", step: null, text: t?.limit ? `There is room for ${t.limit} pieces; what is left over is padding, and what does not fit would be lost from the end.` : "The network gets the number of the name, and nothing else." },
    { stop: 1, part: "heats", step: null, text: "Each number picks a row of a learned table, and then the rows read each other, so that “red” becomes the red of its own sentence." },
    { stop: null, part: "seed", step: 0, text: `The picture itself begins as this: pure noise, drawn from seed ${run.seed} and nothing else.` },
    { stop: 2, part: "curve", step: 0.1, text: "The schedule says how much noise is left at each step; at this one it is nearly all, and the network still has to say what lies behind it." },
    { stop: 2, part: "guidance", step: 0.4, text: "It is asked twice, with your words and without, and the difference is stretched: turn the dial and this step is worked out anew, exactly, in your browser." },
    { stop: 2, part: "curve", step: half != null && n > 1 ? half / (n - 1) : 0.6, text: half != null ? `Half of the picture was decided by step ${half + 1} of ${n}; after it, other words would change details and no longer the whole.` : "Early steps settle the whole, and late steps the details." },
    { stop: null, part: "looped", step: 0.5, text: `Then round it goes, ${n} times: believe, take a small step toward it, look again; the slider takes you through all of them.` },
    { stop: 3, part: "walk", step: 0.3, text: "The steps are small because the first beliefs are blurred, and each step makes the next one better." },
    { stop: 3, part: "samplers", step: 0.8, text: `${l?.sampler ?? "A sampler"} ${l?.stochastic ? "adds fresh noise at each step and so forgets small mistakes" : "goes straight down; others add fresh noise at each step"}, and from the same beginning another one takes another way.` },
    { stop: 4, part: "flow", step: 1, text: d?.exact ? "This model works in pixels, so what the loop leaves is the picture." : `All of it happened in ${d ? `${d.shape[0]} small grids of numbers` : "small grids of numbers"}, and only now a decoder makes pixels of them.` },
    { stop: 4, part: "paint", step: 1, text: "Paint on one of those grids and see what the decoder makes of it; that was the whole way, and the quiz asks what you have seen." },
  ];
}

export function Tour({ run, about, onVisit, onEnd, onLeave }) {
  const list = useMemo(() => stations(run, about), [run, about]), [at, setAt] = useState(() => Math.max(0, Math.min(persisted("tour", 0), list.length - 1))), bar = useRef();
  const move = (by) => { const next = Math.max(0, Math.min(list.length - 1, at + by)); setAt(next); keep("tour", next); };
  const { stop, part, step, text } = list[at];
  useEffect(() => { onVisit(stop, step === null ? null : Math.round(step * Math.max(0, run.steps_done - 1))); say(text); }, [at]);
  // The part that is spoken of is lit as soon as it stands on the page.
  useEffect(() => {
    const screen = bar.current.closest(".screen");
    let lit = null;
    const light = () => {
      const found = part && [...screen.querySelectorAll(`[data-part="${part}"]`)].find((e) => !e.closest("[hidden], [inert]"));
      if (!found || found === lit) return;
      lit = found;
      lit.dataset.lit = "";
      if (stop === null) screen.dataset.spot = "";
      lit.scrollIntoView({ block: "nearest" });
    };
    const seen = new MutationObserver(light);
    seen.observe(screen, { childList: true, subtree: true, attributes: true, attributeFilter: ["hidden", "inert"] });
    light();
    return () => { seen.disconnect(); delete screen.dataset.spot; if (lit) delete lit.dataset.lit; };
  }, [at]);
  useKeys({ n: [() => move(1), "Next station"], p: [() => move(-1), "Station before"] });
  return html`<aside class="tour-bar" ref=${bar} aria-label="Tour"><progress max=${list.length} value=${at + 1} aria-label="How far the tour is"></progress><p>${text}</p><small>${at + 1} of ${list.length}</small>
    <button class="ghost" title="It goes on from here when you come back" onClick=${onLeave}>Leave</button><button disabled=${!at} onClick=${() => move(-1)}>Back</button>${at < list.length - 1 ? html`<button class="primary" onClick=${() => move(1)}>Next</button>` : html`<button class="primary" onClick=${() => { keep("tour", 0); onEnd(); }}>To the quiz</button>`}</aside>`;
}

const ROUNDS = 8;

/** Which came first? Two frames of the run; the guesses are scored. */
export function Quiz({ run, picture = 0, seed = Date.now() % 1e9 }) {
  const dice = useRef(null), n = Math.max(2, run.steps_done);
  if (!dice.current) dice.current = normals(seed).uniform;
  const ask = () => question(n, dice.current);
  const [now, setNow] = useState(ask), [told, setTold] = useState(null), [score, setScore] = useState({ right: 0, of: 0, streak: 0 }), [best, setBest] = useState(() => persisted("quiz", 0));
  const over = score.of >= ROUNDS && told === null;
  const guess = (i) => {
    if (told !== null || over) return;
    const right = i === now.first, next = { right: score.right + right, of: score.of + 1, streak: right ? score.streak + 1 : 0 };
    setTold(i); setScore(next);
    if (next.of === ROUNDS && next.right > best) { setBest(next.right); keep("quiz", next.right); }
    say(right ? `Right: step ${now.pair[i] + 1} comes before step ${now.pair[1 - i] + 1}` : `No: step ${now.pair[now.first] + 1} came first`);
  };
  const on = () => { setTold(null); if (score.of < ROUNDS) setNow(ask()); };
  const again = () => { setScore({ right: 0, of: 0, streak: 0 }); setTold(null); setNow(ask()); };
  useKeys({ a: [() => guess(0), "The left came first"], b: [() => guess(1), "The right came first"], Enter: [() => (told !== null ? on() : over ? again() : false), "Next question"] });
  if (run.steps_done < 2) return html`<p class="dim">A quiz needs a run of two steps or more.</p>`;
  return html`<section class="quiz"><h2>Which came first?</h2>${over ? html`<p class="plain" role="status">${score.right} of ${ROUNDS} right. ${score.right === ROUNDS ? "You see how a picture develops." : score.right > ROUNDS / 2 ? "Look for blur: a belief is blurred before it is sharp." : "Early beliefs are averages of all that could come: blurred and grey."} Best so far: ${best}.</p><p><button class="primary" onClick=${again}>Again</button></p>`
    : html`<p class="dim" role="status">Question ${Math.min(ROUNDS, score.of + (told === null ? 1 : 0))} of ${ROUNDS}. ${score.right} right${score.streak > 2 ? `, ${score.streak} in a row` : ""}.</p>
    <div class="two">${now.pair.map((k, i) => html`<button key=${`${k}-${i}`} class=${told === null ? "" : i === now.first ? "right" : i === told ? "wrong" : ""} aria-label=${`${i ? "Right" : "Left"} picture${told === null ? "" : `, step ${k + 1}`}`} onClick=${() => guess(i)}><${Frame} run=${run} picture=${picture} step=${k} alt="" />${told !== null && html`<small>step ${k + 1}</small>`}</button>`)}</div>
    ${told !== null && html`<p><b class=${told === now.first ? "" : "bad"}>${told === now.first ? "Right." : "No."}</b> Step ${now.pair[now.first] + 1} came before step ${now.pair[1 - now.first] + 1}. <button class="primary" onClick=${on}>${score.of < ROUNDS ? "Next" : "The score"}</button></p>`}`}</section>`;
}
