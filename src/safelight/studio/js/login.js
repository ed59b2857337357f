/* The sign-in page: a token, or the invitation in the address (#code=...), for a session that the browser keeps and no script can read. */
const form = document.getElementById("door"), field = document.getElementById("token"), wrong = document.getElementById("wrong");

async function enter(secret) {
  wrong.textContent = "";
  form.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${secret}` } });
    if (answer.ok) return location.reload();
    const { error } = await answer.json().catch(() => ({}));
    wrong.textContent = answer.status === 401 ? "That is not a token of this server." : `${error?.message ?? answer.status}. Try again in ${answer.headers.get("Retry-After") ?? "a few"} seconds.`;
  } catch {
    wrong.textContent = "The server does not answer.";
  } finally {
    form.removeAttribute("aria-busy");
  }
  field.select();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  // A header holds Latin letters alone; a token of ours has no others.
  const secret = field.value.trim();
  if (/^[\x21-\x7e]+$/.test(secret)) enter(secret);
  else wrong.textContent = "That is not a token of this server.";
});

const code = new URLSearchParams(location.hash.slice(1)).get("code");
if (code) {
  history.replaceState(null, "", location.pathname + location.search);
  enter(code);
}
