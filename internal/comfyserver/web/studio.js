// ComfyuME in the editor: who is signed in, the place in the queue, what the GPU does, notices of the operator, and
// the graph that a new workspace opens on. It uses the editor's extension points only.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const base = new URL("./", import.meta.url);
const home = new URL("../../", base); // where the editor lives, with any path prefix

const tabID = "comfyume"; // in the side bar

let state = { user: "", role: "", sign_out: "signout", jobs: [] };
let progress = null; // what the running job last said: {prompt_id, value, max}
let warned = false; // that no GPU has reported
let fresh = true; // no graph has been shown on this page yet
let touched = Date.now(); // when somebody touched this page last: it was opened
let told = touched; // when the server was told of it last

const css = `
.comfyume-card{padding:12px;font:14px/1.45 system-ui,sans-serif;color:var(--fg-color,#ddd);display:flex;flex-direction:column;gap:12px;box-sizing:border-box;overflow-wrap:anywhere}
.comfyume-card *{box-sizing:border-box}
.comfyume-card [hidden]{display:none!important}
.comfyume-card h3{margin:0;font-size:13px;opacity:.7;font-weight:600}
.comfyume-card ol{list-style:none;margin:0;padding:0;display:flex;flex-direction:column;gap:8px}
.comfyume-card li{padding:8px 10px 9px;border-radius:8px;background:color-mix(in srgb,var(--fg-color,#ddd) 8%,transparent);border-left:3px solid var(--border-color,#666)}
.comfyume-card li[data-state=running]{border-left-color:#2a9d8f}
.comfyume-card li[data-state=next]{border-left-color:#3b82c4}
.comfyume-card li[data-state=held]{border-left-style:dashed}
.comfyume-card li>div:first-child{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 10px}
.comfyume-card li>div:first-child>span:last-child{font-variant-numeric:tabular-nums}
.comfyume-card small{display:block;opacity:.75;font-size:12px}
.comfyume-card progress{display:block;width:100%;height:5px;margin-top:8px;border:0;border-radius:3px;overflow:hidden;background:var(--border-color,#6664);appearance:none}
.comfyume-card progress::-webkit-progress-bar{background:var(--border-color,#6664)}
.comfyume-card progress::-webkit-progress-value{background:#2a9d8f}
.comfyume-card progress::-moz-progress-bar{background:#2a9d8f}
.comfyume-card a{color:inherit}
.comfyume-acts{display:flex;flex-wrap:wrap;gap:5px;margin-top:7px}
.comfyume-acts:empty{display:none}
.comfyume-acts button{font:inherit;font-size:12px;line-height:1;padding:6px 8px;border-radius:6px;border:1px solid color-mix(in srgb,var(--fg-color,#ddd) 30%,transparent);background:transparent;color:inherit;cursor:pointer}
.comfyume-acts button:hover,.comfyume-acts button:focus-visible{background:color-mix(in srgb,var(--fg-color,#ddd) 12%,transparent)}
.comfyume-acts button:disabled{opacity:.5;cursor:default}
.comfyume-who{display:flex;justify-content:space-between;gap:2px 8px;align-items:baseline;flex-wrap:wrap}
.comfyume-card.comfyume-over{position:fixed;z-index:1100;overflow:auto;border:1px solid var(--border-color,#6668);border-radius:10px;background:var(--comfy-menu-bg,#222);box-shadow:0 8px 30px #0008}
.comfyume-over .comfyume-acts button{font-size:14px;padding:10px 12px}
`;

function element(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  Object.assign(e, properties);
  e.append(...children);
  return e;
}

function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// What is written of a job: where it stands, how long, and why.
function describe(job) {
  const since = duration(Date.now() - job.since);
  if (job.state === "running") return [job.backend ? `Running on ${job.backend}` : "Running", `for ${since}`, ""];
  const reason = job.reason?.replace(/\.$/, "");
  const detail = [reason, `waiting for ${since}`].filter(Boolean).join(" · ");
  if (job.backend) return [`Next on ${job.backend}`, "", detail];
  if (job.held) return ["Held", "", detail];
  return [job.line || "Waiting", job.wait || "", detail];
}

function stateOf(job) {
  if (job.state === "running") return "running";
  if (job.backend) return "next";
  return job.held ? "held" : "pending";
}

// What its owner can do with a job: [name for the server, words].
function acts(job) {
  if (job.state === "running") return [["cancel", "Stop"]];
  if (job.backend) return [["cancel", "Cancel"]];
  if (job.held) return [["release", "Release"], ["cancel", "Cancel"]];
  const first = state.jobs.find((j) => j.state !== "running" && !j.backend && !j.held) === job;
  return [...(first ? [] : [["front", "To front"]]), ["hold", "Hold"], ["cancel", "Cancel"]];
}

async function act(name, job, button) {
  button.disabled = true;
  try {
    const answer = await fetch(new URL("act", base), {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ act: name, prompt_id: job.prompt_id }), signal: AbortSignal.timeout(10000),
    });
    if (!answer.ok) say("warn", (await answer.json()).error.message);
  } catch (error) {
    say("warn", "The studio did not answer. Try again.");
    console.debug("ComfyuME: the studio did not answer", error);
  }
  button.disabled = false;
}

// What the badge beside the icon says.
function badge() {
  if (state.jobs.some((j) => j.state === "running")) return "▶";
  const next = state.jobs.find((j) => j.position);
  return next ? String(next.position) : "";
}

// Editors ask a badge that is a function only once; they notice one that is set on the tab as they hold it.
function drawBadge() {
  const tab = app.extensionManager?.getSidebarTabs?.().find((t) => t.id === tabID);
  if (tab) tab.iconBadge = badge();
}

const cards = new Set(); // open panels

// makeCard builds a panel. What it shows is changed in place, so that a button stays under the finger that presses it.
function makeCard() {
  const card = element("div", { className: "comfyume-card" });
  card.name = element("strong");
  card.list = element("ol");
  card.none = element("small", {}, "No run of yours is waiting.");
  card.rows = new Map(); // of the list, by prompt id
  card.append(
    element("style", {}, css),
    element("div", { className: "comfyume-who" }, card.name, element("span", {},
      element("a", { href: new URL("me", home).href, target: "_blank", rel: "noopener" }, "My results"), " · ",
      card.out = element("a", {}, "Sign out"))),
    element("h3", {}, "Your runs"), card.list, card.none);
  return card;
}

function makeRow() {
  const row = element("li");
  row.what = element("span");
  row.when = element("span");
  row.why = element("small");
  row.bar = element("progress");
  row.acts = element("div", { className: "comfyume-acts" });
  row.append(element("div", {}, row.what, row.when), row.why, row.bar, row.acts);
  return row;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function drawRow(row, job) {
  const [what, when, why] = describe(job);
  write(row.what, what);
  write(row.when, when);
  write(row.why, why);
  row.why.hidden = !why;
  row.dataset.state = stateOf(job);
  row.bar.hidden = !(progress && progress.prompt_id === job.prompt_id && progress.max > 0);
  if (!row.bar.hidden) Object.assign(row.bar, { max: progress.max, value: progress.value });
  const wanted = acts(job);
  const key = wanted.map(([name]) => name).join();
  if (row.key !== key) {
    row.key = key;
    row.acts.replaceChildren(...wanted.map(([name, words]) => {
      const button = element("button", { type: "button" }, words);
      button.dataset.act = name;
      if (name === "front") button.title = "Before your other runs";
      button.addEventListener("click", () => act(name, job, button));
      return button;
    }));
  }
}

function draw(card) {
  write(card.name, state.user || "…");
  card.out.href = new URL(state.sign_out, home).href;
  card.none.hidden = state.jobs.length > 0;
  const rows = new Map();
  for (const job of state.jobs) {
    const row = card.rows.get(job.prompt_id) ?? makeRow();
    rows.set(job.prompt_id, row);
    drawRow(row, job);
  }
  const order = [...rows.values()];
  if (order.length !== card.list.children.length || order.some((row, i) => card.list.children[i] !== row)) {
    card.list.replaceChildren(...order);
  }
  card.rows = rows;
}

// place keeps a panel readable: where the editor gives its side bar too little room, as on a phone, the panel lies over
// the graph.
function place(card) {
  const room = card.parentElement?.getBoundingClientRect();
  if (!room) return;
  const over = room.width > 0 && room.width < 200;
  card.classList.toggle("comfyume-over", over);
  const gap = 8;
  Object.assign(card.style, over
    ? {
        left: `${room.left + gap}px`, width: `${Math.min(360, innerWidth - room.left - 2 * gap)}px`,
        top: `${room.top + gap}px`, maxHeight: `${innerHeight - room.top - 10 * gap}px`,
      }
    : { left: "", width: "", top: "", maxHeight: "" });
}

function drawAll() {
  drawBadge();
  for (const card of cards) {
    if (card.isConnected) draw(card);
    else cards.delete(card);
  }
}

function say(severity, text, life = 15000) {
  app.extensionManager?.toast?.add({ severity, summary: "Studio", detail: text, ...(life && { life }) });
}

// The studio stops an editor that queues by itself while nobody is there. So it is told when somebody touches the page:
// at once where it was long ago, else now and then.
function touch(event) {
  if (!event.isTrusted) return;
  touched = Date.now();
  if (!state.touch_every || touched - told < 1000 * state.touch_every) return;
  told = touched;
  fetch(new URL("here.json?idle=0", base), { cache: "no-store", keepalive: true }).catch((error) => {
    told = 0; // the next touch tells
    console.debug("ComfyuME: the studio did not answer", error);
  });
}

for (const what of ["pointerdown", "pointermove", "keydown", "wheel"]) {
  addEventListener(what, touch, { capture: true, passive: true });
}

async function refresh() {
  const session = encodeURIComponent(api.clientId ?? "");
  const idle = Math.max(0, Math.round((Date.now() - touched) / 1000));
  try {
    const answer = await fetch(new URL(`state.json?clientId=${session}&idle=${idle}`, base), { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) return;
    const before = state.nodes;
    const now = await answer.json();
    if ((sessionStorage.getItem(tabOf) ?? now.user) !== now.user) return await leave();
    sessionStorage.setItem(tabOf, now.user);
    state = now;
    if (!state.nodes && !warned && app.extensionManager) {
      warned = true;
      say("warn", "No GPU has reported yet, so there are no nodes. They come as soon as one does.");
    } else if (state.nodes && before === false) {
      say("info", "A GPU has reported. Reload the page to see its nodes.");
    }
    drawAll();
  } catch (error) {
    console.debug("ComfyuME: the studio did not answer", error);
  }
}

const tabOf = "comfyume.user"; // in sessionStorage: whose tab this is, for one that a browser put to sleep and restores

// leave makes way for whoever comes next: the studio has emptied this browser's storage, or somebody else is signed in
// than this tab belongs to. What only the tab can reach is emptied where it leads to. It never ends.
function leave() {
  // The editor asks before it leaves unsaved work; nobody may be there to answer, and the work must not stay. Its
  // listener came first, so it is not kept from being called but from asking.
  Object.defineProperties(BeforeUnloadEvent.prototype, {
    preventDefault: { value() {} },
    returnValue: { get: () => "", set() {} },
  });
  location.replace(new URL("signin/clean", home));
  return new Promise(() => {});
}

const others = "BroadcastChannel" in window ? new BroadcastChannel("comfyume") : null;
others?.addEventListener("message", (event) => {
  if (event.data === "cleared") leave();
});

function listen() {
  api.addEventListener("comfyume.state", (event) => {
    state = { ...state, jobs: event.detail?.jobs ?? [] };
    drawAll();
  });
  api.addEventListener("comfyume.notice", (event) => {
    const { severity = "info", text = "" } = event.detail ?? {};
    say(severity, text, severity === "info" ? undefined : 0); // what matters stays until somebody comes
  });
  api.addEventListener("comfyume.fleet", () => {
    if (!state.nodes) refresh();
  });
  api.addEventListener("progress", (event) => {
    progress = event.detail;
    drawAll();
  });
  api.addEventListener("executing", () => { progress = null; });
  api.addEventListener("reconnected", refresh);
  // The session's id is known once the first status frame is there.
  api.addEventListener("status", function first() {
    api.removeEventListener("status", first);
    refresh();
  });
  setInterval(() => { if (state.jobs.length) drawAll(); }, 1000);
}

// sameNodes tells the editor's own first graph from everything else.
function sameNodes(a, b) {
  const types = (graph) => (graph?.nodes ?? []).map((n) => n.type).sort().join();
  return types(a) !== "" && types(a) === types(b);
}

// Where the editor is about to show its own first graph on a page that just opened, it shows the studio's instead: one
// that runs here. A person's own graphs and drafts are never touched.
async function starter(graph) {
  const own = window.comfyAPI?.defaultGraph?.defaultGraph;
  if (!own || !sameNodes(graph, own)) return;
  try {
    const answer = await fetch(new URL("starter.json", base), { cache: "no-store" });
    if (!answer.ok) return;
    const better = await answer.json();
    if (!better.nodes?.length) return;
    for (const key of Object.keys(graph)) delete graph[key];
    Object.assign(graph, better);
  } catch (error) {
    console.debug("ComfyuME: no starter graph", error);
  }
}

const known = refresh(); // whose tab this is has to be known before the editor shows a graph

app.registerExtension({
  name: "ComfyuME.Studio",
  aboutPageBadges: [{ label: "ComfyuME", url: new URL("me", home).href, icon: "pi pi-users" }],
  async init() {
    await known;
  },
  async beforeConfigureGraph(graph) {
    if (!fresh) return;
    fresh = false;
    await starter(graph);
  },
  async setup() {
    listen();
    await refresh();
    app.extensionManager?.registerSidebarTab?.({
      id: tabID,
      icon: "pi pi-users",
      title: "Studio",
      tooltip: "Who you are, and how your runs stand",
      type: "custom",
      iconBadge: badge(),
      render: (container) => {
        const card = makeCard();
        container.replaceChildren(card);
        cards.add(card);
        draw(card);
        place(card);
        new ResizeObserver(() => place(card)).observe(container); // ends with the container
      },
    });
  },
});
