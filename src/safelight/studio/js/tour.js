// The guided walk through the five stops, and the quiz. What is said uses the run's own numbers.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { normals, question } from "./maths.js";
import { Frame } from "./kit.js";
import { useKeys } from "./keys.js";
import { persisted, keep, say } from "./store.js";

/** Stations of the tour, about 24 s of reading each: {stop, step (a part of the run) or null, text}. */
export function stations(run, about) {
  const n = run.steps, words = about?.tokens?.words?.length ?? (run.prompt ? run.prompt.trim().split(/\s+/).length : 0), ids = about?.tokens?.words?.reduce((s, w) => s + w.ids.length, 0), half = about?.half;
  return [
    { stop: 0, step: null, text: `This picture began as “${run.prompt || "no words at all"}” and seed ${run.seed}. Everything you see in these five stops is from this one run: no drawing is made up.` },
    { stop: 0, step: null, text: `A network has no letters. The ${words} words were cut into ${ids ? `${ids} pieces` : "pieces"} that it has seen often, and each piece has a number. A word that it knows stays whole; a rare one falls apart.` },
    { stop: 1, step: null, text: "Each number picks a row of a table: a list of numbers that stands for the piece. Then the pieces look at each other, and what comes out means “red, next to apple” and no longer just “red”." },
    { stop: 2, step: 0, text: `Now the picture, at its very beginning: pure noise, drawn from the seed. The network looks at it and says what it believes lies behind. At this step it is nearly all guess.` },
    { stop: 2, step: 0.4, text: "It is asked twice, once with your words and once without. What the words changed is stretched: that is guidance. Turn the dial, and this step is worked out anew in your browser." },
    { stop: 2, step: 0.6, text: half != null ? `Half of the picture was decided by step ${half + 1} of ${n}. From there on, other words would change details and no longer the whole.` : "Early steps settle the whole, late steps the details. Drag the slider and watch which comes first." },
    { stop: 3, step: 0.3, text: `The loop: believe, take a small step toward it, look again. ${n} times in this run. The steps are small because the first belief is blurred, and each step makes the next one better.` },
    { stop: 3, step: 0.9, text: "Some samplers add fresh noise at each step and so forget small mistakes; others go straight down. The same noise and words, another sampler: another way to a similar picture." },
    { stop: 4, step: 1, text: "All this happened in a small grid of numbers, not in pixels. A decoder turns it into the picture. The quick previews are a straight-line guess of what it does, and you can see by how much they are off." },
    { stop: 4, step: 1, text: "That is all of it: words, vectors, noise, a loop, a decoder. Paint on a channel to see what the decoder makes of it, or try the quiz." },
  ];
}

export function Tour({ run, about, onVisit, onEnd }) {
  const list = useMemo(() => stations(run, about), [run, about]), [at, setAt] = useState(() => Math.min(persisted("tour", 0), list.length - 1));
  const move = (by) => { const next = Math.max(0, Math.min(list.length - 1, at + by)); setAt(next); keep("tour", next); };
  useEffect(() => { const { stop, step } = list[at]; onVisit(stop, step === null ? null : Math.round(step * Math.max(0, run.steps - 1))); say(list[at].text); }, [at, list]);
  useKeys({ n: [() => move(1), "Next station"], p: [() => move(-1), "Station before"] });
  return html`<aside class="tour-bar" aria-label="Tour"><p>${list[at].text}</p><small>${at + 1} of ${list.length}</small>
    <button disabled=${!at} onClick=${() => move(-1)}>Back</button>${at < list.length - 1 ? html`<button class="primary" onClick=${() => move(1)}>Next</button>` : html`<button class="primary" onClick=${() => { keep("tour", 0); onEnd(); }}>To the quiz</button>`}</aside>`;
}

const ROUNDS = 8;

/** Which came first? Two frames of the run; the guesses are scored. */
export function Quiz({ run, seed = Date.now() % 1e9 }) {
  const dice = useRef(null), n = Math.max(2, run.steps);
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
  if (run.steps < 2) return html`<p class="dim">A quiz needs a run of two steps or more.</p>`;
  return html`<section class="quiz"><h2>Which came first?</h2>${over ? html`<p class="plain" role="status">${score.right} of ${ROUNDS} right. ${score.right === ROUNDS ? "You see how a picture develops." : score.right > ROUNDS / 2 ? "Look for blur: a belief is blurred before it is sharp." : "Early beliefs are averages of all that could come: blurred and grey."} Best so far: ${best}.</p><p><button class="primary" onClick=${again}>Again</button></p>`
    : html`<p class="dim" role="status">Question ${Math.min(ROUNDS, score.of + (told === null ? 1 : 0))} of ${ROUNDS}. ${score.right} right${score.streak > 2 ? `, ${score.streak} in a row` : ""}.</p>
    <div class="two">${now.pair.map((k, i) => html`<button key=${`${k}-${i}`} class=${told === null ? "" : i === now.first ? "right" : i === told ? "wrong" : ""} aria-label=${`${i ? "Right" : "Left"} picture${told === null ? "" : `, step ${k + 1}`}`} onClick=${() => guess(i)}><${Frame} run=${run} step=${k} alt="" />${told !== null && html`<small>step ${k + 1}</small>`}</button>`)}</div>
    ${told !== null && html`<p><b class=${told === now.first ? "" : "bad"}>${told === now.first ? "Right." : "No."}</b> Step ${now.pair[now.first] + 1} came before step ${now.pair[1 - now.first] + 1}. <button class="primary" onClick=${on}>${score.of < ROUNDS ? "Next" : "The score"}</button></p>`}`}</section>`;
}
