// Sends the form, follows jobs, and cancels or repeats them. The server knows all there is to know: a page may be
// reloaded or opened twice at any time.

const POLL_MS = 700;
const byId = (id) => document.getElementById(id);

/** Asks the server; resolves to the decoded answer, rejects with one line for people. */
async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is dao serve still running?");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `The server refused (${answer.status}).`);
  return told;
}

const sentence = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime);
    time.title = time.dateTime;
    time.textContent = when.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
}

// ---- the form ----

function listenToForm(form) {
  const problem = byId("order-error");
  const say = (text) => {
    problem.textContent = text;
    form.elements.formula.toggleAttribute("aria-invalid", false);
    if (text) form.elements.formula.setAttribute("aria-invalid", "true");
  };
  form.addEventListener("input", () => say(""));
  // what the browser complains of must be in sight
  form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
  for (const button of form.querySelectorAll("button.example"))
    button.addEventListener("click", () => {
      form.elements.formula.value = button.dataset.formula;
      say("");
      form.elements.formula.focus();
    });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    try {
      const { formula, samples, cells, seed } = form.elements;
      const job = await ask("/api/jobs", {
        formula: formula.value, samples: Number(samples.value), cells: cells.value, seed: Number(seed.value),
      });
      location.assign(`/jobs/${job.id}`);
    } catch (error) {
      say(sentence(error.message));
      form.elements.formula.focus();
    } finally {
      button.disabled = false;
    }
  });
}

// ---- a job ----

function statusOf(job) {
  if (job.state === "queued")
    return job.position === 1 ? "Waiting: next in the queue" : `Waiting: number ${job.position} in the queue`;
  const { stage, done, total } = job.progress ?? { stage: "starting", done: 0, total: 0 };
  const name = document.querySelector(`[data-stage="${stage}"]`)?.textContent ?? "Running";
  return stage === "sampling" && total ? `${name}: ${Math.floor(done)} of ${total}` : name;
}

function showProgress(job) {
  const status = statusOf(job);
  // said aloud by screen readers whenever it changes
  if (byId("job-status").textContent !== status) byId("job-status").textContent = status;
  const progress = job.progress;
  const bar = byId("job-progress");
  if (progress?.stage === "sampling" && progress.total) bar.value = progress.done / progress.total;
  else bar.removeAttribute("value");
  let past = progress !== null;
  for (const item of document.querySelectorAll("[data-stage]")) {
    const current = item.dataset.stage === progress?.stage;
    if (current) past = false;
    item.classList.toggle("past", past);
    if (current) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
}

async function follow(id) {
  for (;;) {
    try {
      const job = await ask(`/api/jobs/${id}`);
      byId("job-error").textContent = "";
      if (job.state !== "queued" && job.state !== "running") return location.reload();
      showProgress(job);
    } catch (error) {
      byId("job-error").textContent = error.message;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function listenToJob(section) {
  const path = `/api/jobs/${section.dataset.id}`;
  for (const button of section.querySelectorAll("button[data-action]"))
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const job = await ask(`${path}/${button.dataset.action}`, {});
        // run again with other weights, it is another prediction
        if (job.id === section.dataset.id) location.reload();
        else location.assign(`/jobs/${job.id}`);
      } catch (error) {
        byId("job-error").textContent = sentence(error.message);
        button.disabled = false;
      }
    });
  if (byId("job-progress")) follow(section.dataset.id);
}

// ---- the history ----

/** Fetches the list again while something in it goes on, and puts the new one in its place if it differs. */
async function refresh() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 2 * POLL_MS));
    const old = byId("history");
    if (!("live" in old.dataset)) return;
    const answer = await fetch(location.href).catch(() => null);
    if (!answer?.ok) continue;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("history");
    localTimes(fresh);
    if (fresh.innerHTML === old.innerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceWith(document.adoptNode(fresh));
    if (focused) fresh.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

localTimes(document);
if (byId("order")) listenToForm(byId("order"));
if (byId("job")) listenToJob(byId("job"));
if (byId("history")) refresh();
