// What pages do beyond being pages: times in the viewer's zone, live numbers, pictures, and parts that stay fresh.
"use strict";
(() => {
  const base = document.body.dataset.base;
  const one = (selector, within = document) => within.querySelector(selector);
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];
  const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en-US", { maximumFractionDigits: n < 100 ? 1 : 0 }));

  // -- times ------------------------------------------------------------------------------------------------------

  const pad = (n, size = 2) => String(n).padStart(size, "0");
  const day = (d, utc) => (utc ? `${d.getUTCFullYear()}-${pad(d.getUTCMonth() + 1)}-${pad(d.getUTCDate())}` : `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`);
  const clock = (d, utc) => (utc ? `${pad(d.getUTCHours())}:${pad(d.getUTCMinutes())}:${pad(d.getUTCSeconds())}` : `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`);

  function showTimes(within) {
    for (const time of every("time[data-ms]", within)) {
      const d = new Date(Number(time.dataset.ms));
      if (Number.isNaN(d.getTime()) || time.dataset.shown) continue;
      time.dataset.shown = "yes";
      const utc = document.createElement("small");
      // Whoever lives by UTC need not read it twice.
      utc.textContent = d.getTimezoneOffset() ? (day(d) === day(d, true) ? "" : `${day(d, true)} `) + `${clock(d, true)} UTC` : "UTC";
      time.title = time.textContent;
      time.textContent = `${day(d)} ${clock(d)}`;
      time.append(" ", utc);
    }
  }

  // Fields for date and time have no zone: they show the viewer's, and are sent with it.
  function fillMoments(within) {
    for (const input of every("input[data-moment]", within)) {
      const d = new Date(input.dataset.moment);
      if (input.dataset.moment && !input.value && !Number.isNaN(d.getTime())) input.value = `${day(d)}T${clock(d)}`;
    }
  }
  const zoned = (input) => (input.value ? new Date(input.value).toISOString() : "");
  document.addEventListener("formdata", (event) => {
    for (const input of every("input[type=datetime-local]", event.target)) event.formData.set(input.name, zoned(input));
    // A short address is a better one.
    if (event.target.getAttribute("method") === "get") for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
  });
  document.addEventListener("htmx:configRequest", (event) => {
    for (const input of every("input[type=datetime-local]", event.detail.elt)) event.detail.parameters[input.name] = zoned(input);
  });

  // -- forms ------------------------------------------------------------------------------------------------------

  document.addEventListener("submit", (event) => {
    const ask = event.target.dataset.ask;
    if (ask && !window.confirm(ask)) { event.preventDefault(); return; }
    // As an attribute, because a form's field may be called method.
    if (event.target.getAttribute("method") !== "post") return;
    // A double click must not schedule two tasks.
    const now = performance.now();
    if (now - (sent.get(event.target) ?? -Infinity) < 3000) event.preventDefault();
    else sent.set(event.target, now);
  });
  const sent = new WeakMap();

  const kind = one("#schedule #f-type");
  function showFields() {
    for (const field of every("[data-only]")) field.hidden = !field.dataset.only.split(" ").includes(kind.value);
  }
  if (kind) {
    kind.addEventListener("change", showFields);
    showFields();
  }

  // The node cannot know that a proxy before it was asked by TLS, until a form says so.
  if (location.protocol === "https:") {
    for (const line of every("#lines pre")) line.textContent = line.textContent.replace(`http://${location.host}/`, `https://${location.host}/`);
  }

  // On a phone the menu is longer than the screen: the page's own place in it is in sight.
  const here = one("nav [aria-current]");
  if (here) here.parentElement.scrollLeft = Math.max(0, here.offsetLeft + here.offsetWidth + 16 - here.parentElement.clientWidth);

  const theme = one("#theme");
  const themes = ["auto", "light", "dark"];
  function showTheme() {
    const now = document.documentElement.dataset.theme || "auto";
    one("span", theme).textContent = now[0].toUpperCase() + now.slice(1);
    theme.setAttribute("aria-label", `Colours: ${now === "auto" ? "as the system has them" : now}`);
  }
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    localStorage.setItem("delaybox-theme", next);
    showTheme();
    pictures.forEach((picture) => picture.redraw());
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.forEach((picture) => picture.redraw()));

  // -- parts that stay fresh --------------------------------------------------------------------------------------

  const away = one("#away");
  function showAway(text) {
    away.hidden = !text;
    if (away.textContent !== text) away.textContent = text;
  }
  let pressed = false;
  for (const kind of ["pointerdown", "pointerup", "pointercancel"]) document.addEventListener(kind, () => { pressed = kind === "pointerdown"; }, true);
  document.addEventListener("pointermove", (event) => { if (!event.buttons) pressed = false; }, true);
  function inUse(part) {
    const selection = document.getSelection();
    if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) return true;
    const typed = (field) => field === document.activeElement || field.value !== field.defaultValue;
    return pressed || every("input:not([type=hidden]), textarea", part).some(typed);
  }
  setInterval(() => {
    if (document.hidden) return;
    const parts = every("[hx-trigger=again]");
    for (const part of parts) {
      // Where other parts renew themselves, their answers show as well whether the store is there.
      if (part.id === "pulse" && parts.length > 1) continue;
      if (!inUse(part)) htmx.trigger(part, "again");
    }
  }, 2000);

  // What somebody has moved, opened or reached by keyboard stays so when a part is replaced by a newer one.
  const named = (at) => [at.tagName, at.getAttribute("href"), at.getAttribute("aria-label") || at.textContent.slice(0, 60)].join("|");
  const title = (details) => one("summary strong", details)?.textContent;
  function remember(part) {
    const focused = part.contains(document.activeElement) ? named(document.activeElement) : "";
    const scrolled = every(".scroll, pre", part).map((box) => [box.scrollLeft, box.scrollTop]);
    const open = new Map(every("details", part).map((one) => [title(one), one.open]));
    return (newer) => {
      every(".scroll, pre", newer).forEach((box, i) => { if (scrolled[i]) [box.scrollLeft, box.scrollTop] = scrolled[i]; });
      every("details", newer).forEach((one) => { one.open = open.get(title(one)) ?? one.open; });
      if (focused) every("a, button, summary, [tabindex]", newer).find((at) => named(at) === focused)?.focus({ preventScroll: true });
    };
  }
  const answers = new Map();
  const kept = new Map();
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt, xhr } = event.detail;
    if (elt.closest("#many")) { stepped(event); return; }
    if (elt.getAttribute("hx-trigger") !== "again") return;
    showAway(xhr.status === 503 ? "The store does not answer this node. The page shows what was known last, and goes on by itself." : "");
    // Gone, or somebody pressed or typed while it was asked for, or nothing has changed.
    if (xhr.status === 404 && elt.id === "task") location.reload();
    if (xhr.status >= 400 || inUse(elt) || answers.get(elt.id) === xhr.responseText) { event.detail.shouldSwap = false; return; }
    answers.set(elt.id, xhr.responseText);
    kept.set(elt.id, remember(elt));
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    const part = event.target;
    showTimes(part.parentElement || document);
    kept.get(part.id)?.(part);
    kept.delete(part.id);
  });
  document.addEventListener("htmx:sendError", (event) => {
    showAway("The node does not answer. The page shows what was known last, and goes on by itself.");
    if (event.detail.elt.closest("#many")) setTimeout(() => htmx.trigger(event.detail.elt, "again"), 2000);
  });

  // A step of a change of many tasks. One that failed is sent again: what it had done does not match any more.
  function stepped(event) {
    const { elt, xhr } = event.detail;
    if (xhr.status < 400) return;
    event.detail.shouldSwap = false;
    let reason = `the node answered ${xhr.status}.`;
    // A form that does not fit comes back as a page, all else as a problem in JSON, which is what htmx asks for.
    try { reason = `${JSON.parse(xhr.responseText).detail}.`; } catch {
      const answer = new DOMParser().parseFromString(xhr.responseText, "text/html");
      reason = one("main .note.bad", answer)?.textContent || reason;
    }
    const again = xhr.status >= 500 || xhr.status === 429;
    const note = one("#many-failed") || document.createElement("div");
    Object.assign(note, { id: "many-failed", className: "note bad", role: "alert" });
    note.textContent = `This step failed: ${reason} ${again ? "It is sent again by itself." : ""}`;
    elt.before(note);
    if (again) setTimeout(() => htmx.trigger(elt, "again"), 2000);
  }

  const failed = one("[data-away]");
  if (failed) {
    // The answer to a form has the form's address, which is no page; and it is to be read.
    const there = failed.dataset.away || location.href;
    const asking = setInterval(async () => {
      try {
        const answer = await fetch(there, { headers: { accept: "text/html" } });
        if (answer.status === 503) return;
        if (!failed.dataset.away) { location.replace(there); return; }
        clearInterval(asking);
        one("h1").textContent = "The store is back";
        one("#back").textContent = "The store is back";
      } catch { /* the node is away as well: later */ }
    }, 2000);
  }

  // -- pictures ---------------------------------------------------------------------------------------------------

  const pictures = [];
  const colour = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const short = (n) => (n >= 1e9 ? `${n / 1e9}G` : n >= 1e6 ? `${n / 1e6}M` : n >= 1e4 ? `${n / 1e3}k` : `${n}`);

  class Picture {
    constructor(at, { series, bars = false, select = null, tip, lasting = 0 }) {
      Object.assign(this, { at, series, bars, select, tip, lasting, data: [[], ...series.map(() => [])], plot: null, box: null });
      new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(at);
      pictures.push(this);
    }
    size() { return { width: Math.max(this.at.clientWidth, 100), height: this.at.clientHeight }; }
    show(data) {
      this.data = data;
      if (this.plot && !this.bars) this.plot.setData(data);
      else this.redraw();
    }
    redraw() {
      if (this.plot) this.plot.destroy();
      const grid = { stroke: colour("--line"), width: 1 };
      const axis = { stroke: colour("--muted"), grid, ticks: { show: false }, font: `12px ${getComputedStyle(document.body).fontFamily}` };
      const series = this.series.map(({ name, tone, fill }) => ({
        label: name, stroke: colour(tone), width: this.bars ? 0 : 1.75, fill: this.bars || fill ? colour(tone) : undefined,
        points: { show: false }, spanGaps: false,
        paths: this.bars ? uPlot.paths.bars({ size: [0.82, 60], align: 1, radius: 0.15 }) : undefined,
      }));
      this.plot = new uPlot({
        ...this.size(), series: [{}, ...series], padding: [8, 20, 0, 0],
        axes: [{ ...axis, grid: { show: false }, size: 28, space: 70, values: (_, at, __, ___, apart) => this.times(at, apart) }, { ...axis, size: 52, values: (_, found) => found.map((v) => (v === null ? "" : short(v))) }],
        scales: { ...(this.lasting ? { x: { range: (_, low, high) => [high - this.lasting, high] } } : {}), y: { range: (_, low, high) => [0, Math.max(high || 0, this.bars ? 4 : 1) * 1.1] } },
        cursor: { y: false, points: { show: !this.bars }, drag: { x: Boolean(this.select), y: false, setScale: false } },
        hooks: {
          setCursor: [(plot) => this.hover(plot)],
          setSelect: [(plot) => {
            if (!this.select || plot.select.width < 4) return;
            const [from, to] = [plot.select.left, plot.select.left + plot.select.width].map((x) => plot.posToVal(x, "x") * 1000);
            plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            this.select(Math.floor(from), Math.ceil(to));
          }],
        },
      }, this.data, this.at);
    }
    times(at, apart) {
      let before = "";
      return at.map((s) => {
        const d = new Date(s * 1000);
        const date = d.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
        if (apart >= 86400) return date;
        const first = date !== before && clock(d) === "00:00:00";
        before = date;
        return first ? date : apart < 60 ? clock(d) : clock(d).slice(0, 5);
      });
    }
    hover(plot) {
      const at = plot.cursor.idx;
      if (this.box === null) {
        this.box = document.createElement("div");
        this.box.className = "tip";
        this.at.append(this.box);
      }
      if (at === null || at === undefined || plot.cursor.left < 0) { this.box.hidden = true; return; }
      this.box.hidden = false;
      this.box.textContent = this.tip(this.data, at);
      const left = plot.valToPos(this.data[0][at], "x") + plot.bbox.left / devicePixelRatio;
      this.box.style.left = `${Math.min(Math.max(left - this.box.offsetWidth / 2, 0), this.at.clientWidth - this.box.offsetWidth)}px`;
      this.box.style.top = "-6px";
    }
  }

  // -- the coming hours -------------------------------------------------------------------------------------------

  // ``followed``: called when another span is to be followed. While a part is shown that was chosen, its span is followed all the same: the part
  // is asked for only when what is due in the span has changed.
  function forecast(at, followed) {
    const words = one("#forecast-words");
    let asked = "span=3h";
    let wide = "3h";
    let named = "3 hours";
    let step = 0;
    let changed = false;
    let shown = 0;
    const picture = new Picture(at, {
      series: [{ name: "due", tone: "--plot-1" }], bars: true,
      select: (from, to) => look(`from=${Math.max(from, Date.now() - 60000)}&to=${to}`, "part you chose"),
      tip: (data, i) => {
        const [from, to] = [new Date(data[0][i] * 1000), new Date(data[0][i] * 1000 + step)];
        const until = step >= 86400000 ? day(to) : day(from) === day(to) ? clock(to).slice(0, 5) : `${day(to)} ${clock(to).slice(0, 5)}`;
        return `${day(from)} ${clock(from).slice(0, 5)} – ${until}: ${count(data[1][i])} due`;
      },
    });
    async function show() {
      const wanted = asked;
      [changed, shown] = [false, performance.now()];
      let found;
      try {
        const answer = await fetch(`${at.dataset.from}?${wanted}`, { headers: { accept: "application/json" } });
        if (!answer.ok) { showAway((await answer.json()).detail); return; }
        found = await answer.json();
      } catch { return; }
      if (wanted === asked) draw(found);
    }
    function draw(found) {
      step = found.step_ms;
      picture.show([found.at.map((ms) => ms / 1000), found.due]);
      const total = found.due.reduce((sum, n) => sum + n, 0);
      const most = Math.max(0, ...found.due);
      const peak = new Date(found.at[found.due.indexOf(most)]);
      const text = total
        ? `${found.estimated ? "About " : ""}${count(total)} due; most from ${day(peak)} ${clock(peak).slice(0, 5)} on, ${count(most)} in ${inWords(step)}. Drag to look closer, double-click to go back.`
        : "Nothing is due in this time.";
      if (words.textContent !== text) words.textContent = text;
    }
    function look(query, text) {
      asked = query;
      one("#span-name").textContent = text;
      every("[data-span]").forEach((b) => b.setAttribute("aria-pressed", String(query === `span=${b.dataset.span}`)));
      show();
      const before = wide;
      if (!isPart()) wide = query.slice(5);
      if (wide !== before) followed();
    }
    const isPart = () => !asked.startsWith("span=");
    function hear(found) {
      if (isPart()) changed = true;
      else draw(found);
    }
    function inWords(ms) {
      const units = [[86400000, "days"], [3600000, "hours"], [60000, "minutes"]];
      const [size, unit] = units.find(([size]) => ms >= size && ms % size === 0) || units[2];
      return ms === size ? `a ${unit.slice(0, -1)}`.replace("a hour", "an hour") : `${ms / size} ${unit}`;
    }
    every("[data-span]").forEach((button) => button.addEventListener("click", () => {
      named = button.dataset.words;
      look(`span=${button.dataset.span}`, named);
    }));
    at.addEventListener("dblclick", () => look(`span=${wide}`, named));
    show();
    setInterval(() => { if (isPart() && !document.hidden && (changed || performance.now() - shown > 60000)) show(); }, 10000);
    return { span: () => wide, hear };
  }

  // -- the numbers of this second ---------------------------------------------------------------------------------

  function live(tiles) {
    const ahead = forecast(one("#forecast"), () => { if (source) { source.close(); open(); } });
    const nodes = one("#nodes");
    const beat = one("#beat");
    const kept = 300;
    const frames = [];
    const late = new Picture(one("#lateness"), {
      series: [{ name: "p50", tone: "--plot-1" }, { name: "p99", tone: "--plot-2" }], lasting: kept,
      tip: (data, i) => `${clock(new Date(data[0][i] * 1000))}: p50 ${ms(data[1][i])}, p99 ${ms(data[2][i])}`,
    });
    const rates = new Picture(one("#rates"), {
      series: [{ name: "fired", tone: "--plot-1" }, { name: "scheduled", tone: "--plot-2" }], lasting: kept,
      tip: (data, i) => `${clock(new Date(data[0][i] * 1000))}: ${count(data[1][i] ?? 0)} fired, ${count(data[2][i] ?? 0)} scheduled`,
    });
    function ms(n) { return n === null || n === undefined ? "–" : n < 10 ? `${n.toFixed(1)} ms` : n < 10000 ? `${Math.round(n)} ms` : `${(n / 1000).toFixed(0)} s`; }
    function put(name, text) {
      const at = one(`[data-now=${name}]`, tiles);
      if (at.textContent !== text) at.textContent = text;
    }
    function show(frame) {
      for (const name of ["pending", "ready", "in_flight", "dead"]) if (frame[name] !== null) put(name, count(frame[name]));
      put("estimated", frame.estimated ? "about" : "");
      put("late_p50", ms(frame.late_p50));
      put("late_p99", ms(frame.late_p99));
      put("fired", count(frame.fired));
      put("fired_everywhere", frame.nodes > 1 ? `a second; all ${count(frame.fired_everywhere)}` : "a second");
      put("scheduled", count(frame.scheduled));
      one("[data-now=dead]", tiles).parentElement.classList.toggle("bad", frame.dead > 0);
      showAway(frame.away ? `The store does not answer this node: ${frame.away}` : "");
      tell(frame.away ? "waiting for the store" : "live");
    }
    // Read out only when it changes.
    function tell(text) { if (beat.textContent !== text) beat.textContent = text; }
    function showNodes(html) {
      if (inUse(nodes)) return;
      const restore = remember(nodes);
      nodes.innerHTML = html;
      showTimes(nodes);
      restore(nodes);
    }
    function draw() {
      one("#lateness-none").hidden = frames.some((f) => f.late_p50 !== null);
      // Nothing is known of a time in which nobody looked: the line has a gap there.
      const drawn = [];
      for (const f of frames) {
        const last = drawn[drawn.length - 1];
        if (last && f.at_ms - last.at_ms > 5000) drawn.push({ at_ms: last.at_ms + 1000, late_p50: null, late_p99: null, fired: null, scheduled: null });
        drawn.push(f);
      }
      const at = drawn.map((f) => f.at_ms / 1000);
      late.show([at, drawn.map((f) => f.late_p50), drawn.map((f) => f.late_p99)]);
      rates.show([at, drawn.map((f) => f.fired), drawn.map((f) => f.scheduled)]);
    }
    let source = null;
    let lost = 0;
    function open() {
      const span = ahead.span();
      const opened = new EventSource(`${tiles.dataset.live}?span=${span}`);
      source = opened;
      source.addEventListener("before", (event) => {
        // Of the next node, which may have looked for less long than this page.
        const before = JSON.parse(event.data);
        const older = before.length ? frames.filter((f) => f.at_ms < before[0].at_ms) : [...frames];
        frames.splice(0, frames.length, ...[...older, ...before].slice(-kept));
        if (frames.length) draw();
      });
      source.addEventListener("now", (event) => {
        const frame = JSON.parse(event.data);
        frames.push(frame);
        if (frames.length > kept) frames.shift();
        show(frame);
        draw();
      });
      source.addEventListener("nodes", (event) => showNodes(JSON.parse(event.data)));
      source.addEventListener("forecast", (event) => { if (span === ahead.span()) ahead.hear(JSON.parse(event.data)); });
      source.addEventListener("error", () => {
        if (source !== opened) return;
        tell("connecting");
        if (lost++) showAway("The node does not answer. The page shows what was known last, and goes on by itself.");
        // A browser gives up for good when it gets an error's page, as of a proxy while no node is there.
        if (opened.readyState === EventSource.CLOSED) setTimeout(() => source === opened && again(), 2000);
      });
      source.addEventListener("open", () => { lost = 0; });
    }
    async function again() {
      try {
        const answer = await fetch(`${base}/store`, { headers: { accept: "application/json" } });
        // The session is over: the page itself leads to the form for a token.
        if (answer.status === 401) { location.reload(); return; }
      } catch { /* the node is away: it is tried again below */ }
      open();
    }
    // A page that nobody sees asks for nothing.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden && source) { source.close(); source = null; } else if (!document.hidden && !source) open();
    });
    open();
  }

  showTheme();
  showTimes(document);
  fillMoments(document);
  if (one("[data-live]")) live(one("[data-live]"));
})();
