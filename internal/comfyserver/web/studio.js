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

const css = `
.comfyume-card{padding:12px;font:14px/1.5 system-ui,sans-serif;color:var(--fg-color,#ddd);display:flex;flex-direction:column;gap:12px}
.comfyume-card h3{margin:0;font-size:13px;opacity:.7;font-weight:600}
.comfyume-card ol{list-style:none;margin:0;padding:0;display:flex;flex-direction:column;gap:8px}
.comfyume-card li{padding:8px 10px;border-radius:8px;background:var(--comfy-input-bg,#2223);border-left:3px solid var(--border-color,#666)}
.comfyume-card li[data-state=running]{border-left-color:#2a9d8f}
.comfyume-card small{display:block;opacity:.75}
.comfyume-card progress{display:block;width:100%;height:5px;margin-top:8px;border:0;border-radius:3px;overflow:hidden;background:var(--border-color,#6664);appearance:none}
.comfyume-card progress::-webkit-progress-bar{background:var(--border-color,#6664)}
.comfyume-card progress::-webkit-progress-value{background:#2a9d8f}
.comfyume-card progress::-moz-progress-bar{background:#2a9d8f}
.comfyume-card a{color:inherit}
.comfyume-who{display:flex;justify-content:space-between;gap:8px;align-items:baseline;flex-wrap:wrap}
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

function describe(job) {
  const since = duration(Date.now() - job.since);
  if (job.state === "running") {
    const where = job.backend ? ` on ${job.backend}` : "";
    return [`Running${where}`, `for ${since}`];
  }
  if (job.backend) return [`Next on ${job.backend}`, `waiting for ${since}`];
  const place = job.position ? `Waiting, place ${job.position}` : "Waiting";
  return [place, [job.reason?.replace(/\.$/, ""), `for ${since}`].filter(Boolean).join(" · ")];
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

function draw(card) {
  const who = element("div", { className: "comfyume-who" },
    element("strong", {}, state.user || "…"),
    element("span", {},
      element("a", { href: new URL("me", home).href, target: "_blank", rel: "noopener" }, "My results"), " · ",
      element("a", { href: new URL(state.sign_out, home).href }, "Sign out")));
  const list = element("ol");
  for (const job of state.jobs) {
    const [title, detail] = describe(job);
    const item = element("li", {}, title, element("small", {}, detail));
    item.dataset.state = job.state;
    if (progress && progress.prompt_id === job.prompt_id && progress.max > 0) {
      item.append(element("progress", { value: progress.value, max: progress.max }));
    }
    list.append(item);
  }
  const jobs = state.jobs.length ? list : element("small", {}, "No run of yours is waiting.");
  card.replaceChildren(element("style", {}, css), who, element("h3", {}, "Your runs"), jobs);
}

function drawAll() {
  drawBadge();
  for (const card of cards) {
    if (card.isConnected) draw(card);
    else cards.delete(card);
  }
}

function say(severity, text) {
  app.extensionManager?.toast?.add({ severity, summary: "Studio", detail: text, life: 15000 });
}

async function refresh() {
  const session = encodeURIComponent(api.clientId ?? "");
  try {
    const answer = await fetch(new URL(`state.json?clientId=${session}`, base), { cache: "no-store", signal: AbortSignal.timeout(10000) });
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
    say(severity, text);
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
        const card = element("div", { className: "comfyume-card" });
        container.replaceChildren(card);
        cards.add(card);
        draw(card);
      },
    });
  },
});
