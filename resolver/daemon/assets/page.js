"use strict";
// The web page of resolverd. All text comes from the daemon, and much of it from strangers: it is put into the page as
// text nodes only. States: signed out; waiting for the first numbers; live; lost (the daemon does not answer); paused.

const POINTS = 90, FEWEST_POINTS = 30, TIMEOUT = 10000, EXPLAIN_TIMEOUT = 25000, LONGEST_PAUSE = 10000, NOTICE = 60000;
const KEY = "resolverd-token", SVG = "http://www.w3.org/2000/svg";
const TYPES = ["A", "AAAA", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB", "TLSA", "TXT"];
const byId = id => document.getElementById(id);

let token = "", timer = 0, paused = false, asking = null, failures = 0, instance = "", sequence = -1, last = 0;
let restarted = "", restartedAt = 0, points = [];

// --- elements ---------------------------------------------------------------------------------------------------

function make(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.filter(one => one !== null && one !== undefined));
  return made;
}

function draw(tag, attributes, ...content) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

const mono = text => make("span", "mono", text);

// --- numbers ----------------------------------------------------------------------------------------------------

const whole = value => Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
const rate = value => value >= 100 ? whole(value) : value >= 10 ? value.toFixed(0) : value.toFixed(1);
const percent = value => value === null || value === undefined ? "–" : (100 * value).toFixed(1) + "\u202f%";
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

function millis(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = 1000 * seconds;
  return (value >= 100 ? whole(value) : value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2))
    + "\u202fms";
}

function octets(value) {
  let unit = 0;
  while (value >= 1024 && unit < 4) { value /= 1024; unit += 1; }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)}\u202f${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]].filter(([, size]) => seconds >= size).slice(0, 2);
  return units.map(([unit, size], at) => `${Math.floor((at ? seconds % units[0][1] : seconds) / size)}\u202f${unit}`)
    .join(" ") || "0\u202fs";
}

const sum = counts => Object.values(counts).reduce((a, b) => a + b, 0);
const pairs = rates => Object.entries(rates).sort((a, b) => b[1] - a[1]).map(([name, value]) => `${name} ${rate(value)}`)
  .join(", ");
const clock = time => new Date(time).toLocaleTimeString([], { hour12: false });

// --- tiles ------------------------------------------------------------------------------------------------------

function tile(title) {
  const value = make("p", "big"), below = make("p", "sub");
  const box = make("div", "tile", make("h2", "", title), value, below);
  byId("tiles").append(box);
  return { box, value, below };
}

function curve(title) {
  const made = tile(title);
  made.area = draw("path", { class: "area" });
  made.line = draw("path", {});
  made.picture = draw("svg", { class: "spark", preserveAspectRatio: "none", "aria-hidden": "true" }, made.area, made.line);
  made.box.append(made.picture);
  return made;
}

function meter(title) {
  const made = tile(title);
  made.fill = make("div");
  made.meter = make("div", "meter", made.fill);
  made.box.append(made.meter);
  return made;
}

const tiles = {
  queries: curve("Queries"), hits: curve("Cache hits"), latency: curve("Median latency"),
  failed: curve("SERVFAIL"), upstream: curve("Queries to servers"), cache: meter("Cache"),
};

function show(one, value, unit, below, select, most) {
  one.value.replaceChildren(value, make("small", "", " " + unit));
  one.below.textContent = below;
  if (!select) return;
  const values = points.map(select), top = most || Math.max(...values.filter(v => v !== null), 1e-9) * 1.05;
  const width = Math.max(values.length, FEWEST_POINTS) - 1;
  let path = "", area = "", begin = 0;
  values.forEach((value, at) => {
    if (value === null) { begin = 0; return; }
    const x = width + 1 - values.length + at, y = (29 - 28 * value / top).toFixed(2);
    path += `${begin ? "L" : "M"}${x} ${y}`;
    area += `${begin ? "L" : `M${x} 30L`}${x} ${y}`;
    if (at === values.length - 1 || values[at + 1] === null) area += `L${x} 30Z`;
    begin = 1;
  });
  one.picture.setAttribute("viewBox", `0 0 ${width} 30`);
  one.line.setAttribute("d", path);
  one.area.setAttribute("d", area);
}

function showTiles(data) {
  const now = data.activity, memory = data.cache;
  const used = memory.limit ? memory.used / memory.limit : 0;
  show(tiles.cache, percent(used), "full", `${octets(memory.used)} of ${octets(memory.limit)}; `
    + plural(sum(memory.entries), "entry", "entries"));
  tiles.cache.fill.style.width = `${100 * used}%`;
  if (!now) {
    for (const one of Object.values(tiles)) if (one.line) show(one, "–", "", "measuring");
    return;
  }
  const clients = now.client_latency, servers = now.upstream.latency;
  const drops = sum(now.drops);
  show(tiles.queries, rate(now.queries.rate), "/s", (pairs(now.queries.by_transport) || "none")
    + (drops ? `; dropped ${rate(drops)}` : ""), one => one.queries);
  show(tiles.hits, percent(now.answers.cache_hit_ratio), "", pairs(now.answers.by_result) || "no answers",
    one => one.hits, 1);
  show(tiles.latency, millis(clients.p50), "", `90 %: ${millis(clients.p90)}, 99 %: ${millis(clients.p99)}`,
    one => one.latency);
  show(tiles.failed, rate(now.replies.by_rcode.SERVFAIL || 0), "/s", pairs(now.replies.by_rcode) || "no replies",
    one => one.failed);
  show(tiles.upstream, rate(now.upstream.rate), "/s", `${rate(now.upstream.timeouts)} timeouts; median `
    + `${millis(servers.p50)}, 99 %: ${millis(servers.p99)}`, one => one.upstream);
}

// --- tables -----------------------------------------------------------------------------------------------------

// A column: title, whether it is a number, and the content of its cell for an entry.
const question = entry => {
  const button = make("button", "name mono", `${entry.name} ${entry.type}`);
  button.type = "button";
  button.title = "Explain";
  button.addEventListener("click", () => explain(entry.name, entry.type));
  return button;
};
const count = entry => (entry.error ? "≤\u202f" : "") + whole(entry.count);
const LISTS = {
  failed: ["Names that failed", "SERVFAIL; select one to explain it", [["Name", 0, question], ["Replies", 1, count]]],
  slow: ["Slow zones", "by the time waited for their servers", [["Zone", 0, one => mono(one.zone)],
    ["Waited", 1, one => duration(one.seconds) === "0\u202fs" ? millis(one.seconds) : one.seconds.toFixed(1) + "\u202fs"],
    ["Queries", 1, one => whole(one.queries)], ["No reply", 1, one => whole(one.unanswered)]]],
  names: ["Names", "most frequent", [["Name", 0, question], ["Replies", 1, count]]],
  clients: ["Clients", "most frequent", [["Client", 0, one => mono(one.client)], ["Replies", 1, count]]],
  zones: ["Zones", "most frequent", [["Zone", 0, one => mono(one.zone)], ["Replies", 1, count]]],
  policies: ["Policies", "", [["Policy", 0, one => mono(one.module)], ["At", 0, one => one.point],
    ["Action", 0, one => one.action], ["Per second", 1, one => rate(one.rate)], ["In all", 1, one => whole(one.total)]]],
  blocklists: ["Lists", "", [["List", 0, one => mono(one.list)], ["Entries", 1, one => whole(one.entries)],
    ["State", 0, one => one.failing ? word("bad", "fails") : "in force"]]],
  servers: ["Configured servers", "", [["Server", 0, one => make("span", "", mono(one.server), make("small", "zone", `for ${one.zone}`))],
    ["Round trip", 1, one => millis(one.seconds)], ["State", 0, serverState]]],
  transports: ["Servers by transport", "", [["Over", 0, one => one.transport], ["Sent/s", 1, one => rate(one.rates.sent)],
    ["Replies/s", 1, one => rate(one.rates.replies)], ["No reply/s", 1, one => rate(one.rates.timeouts)],
    ["No reply in all", 1, one => percent(one.totals.timeouts / one.totals.sent)]]],
  tables: ["Limits", "the fullest first", [["What", 0, one => one.resource.replaceAll("_", " ")],
    ["Used", 1, one => one.unit === "octets" ? octets(one.used) : whole(one.used)],
    ["Limit", 1, one => one.unit === "octets" ? octets(one.limit) : whole(one.limit)], ["Fill", 0, fill]]],
  entries: ["In the cache", "", [["Kind", 0, one => one[0]], ["Entries", 1, one => whole(one[1])],
    ["Hits in all", 1, one => one[2] === undefined ? "" : whole(one[2])]]],
  workers: ["Workers", "", [["Worker", 0, one => one.error ? word("bad", `${one.worker}: ${one.error}`) : `${one.worker}`],
    ["Process", 1, one => one.pid || ""], ["Runs for", 1, one => one.error ? "" : duration(one.seconds)],
    ["Queries", 1, one => one.error ? "" : whole(one.queries)], ["Waiting", 1, one => one.error ? "" : whole(one.pending)]]],
};
const bodies = {};

function word(tone, text) {
  const made = make("b", tone, text);
  made.style.color = "var(--tone)";
  return made;
}

function serverState(one) {
  if (one.dead) return word("bad", "no answer");
  if (one.timeouts) return word("open", plural(one.timeouts, "timeout") + " in a row");
  return one.seconds === null ? "not asked yet" : word("good", "answers");
}

function fill(one) {
  const part = one.used / one.limit, bar = make("div");
  bar.style.width = `${100 * part}%`;
  return make("div", part > .9 ? "meter full" : "meter", bar);
}

for (const [key, [title, remark, columns]] of Object.entries(LISTS)) {
  const head = make("tr", "", ...columns.map(([name, number]) => {
    const cell = make("th", number ? "n" : "", name);
    cell.scope = "col";
    return cell;
  }));
  const body = make("tbody"), note = make("small", "", remark);
  const box = make("section", "card", make("div", "scroll", make("table", "",
    make("caption", "", title + " ", note), make("thead", "", head), body)));
  byId("lists").append(box);
  bodies[key] = { body, columns, box, note };
}

const hovers = matchMedia("(hover: hover)");

function list(key, entries, weigh, whenEmpty) {
  const { body, columns, box } = bodies[key];
  // What somebody points at or has in focus does not move away.
  if (box.matches(":focus-within") || (hovers.matches && body.matches(":hover"))) return;
  box.hidden = !entries.length && !whenEmpty;
  const most = weigh ? Math.max(...entries.map(weigh), 1e-9) : 0;
  body.replaceChildren(...entries.map(entry => {
    const row = make("tr", weigh ? "shared" : "", ...columns.map(([, number, cell]) => make("td", number ? "n" : "", cell(entry))));
    if (weigh) row.style.setProperty("--part", `${100 * weigh(entry) / most}%`);
    return row;
  }));
  if (!entries.length) {
    const none = make("td", "none", whenEmpty);
    none.colSpan = columns.length;
    body.append(make("tr", "", none));
  }
}

function showLists(data) {
  const top = data.activity ? data.activity.top : { failed: [], slow: [], names: [], clients: [], zones: [] };
  const empty = data.activity ? "none in this interval" : "measuring";
  for (const key of ["failed", "names", "clients", "zones"]) list(key, top[key], one => one.count, empty);
  list("slow", top.slow, one => one.seconds, empty);
  list("policies", data.policies, one => one.rate, "no policy has acted yet");
  list("blocklists", data.lists);
  list("servers", data.servers);
  list("transports", data.transports, null, "no server was asked yet");
  list("tables", data.tables.slice(0, 12));
  list("workers", data.workers);
  const { entries, hits } = data.cache;
  list("entries", Object.keys(entries).map(kind => [kind, entries[kind], hits[kind]]));
  bodies.transports.note.textContent = `${plural(data.cache.addresses, "address", "addresses")} known, `
    + `${whole(data.cache.addresses_dead)} unreachable`;
  const sampling = data.activity && data.activity.sampling;
  bodies.names.note.textContent = sampling && sampling.samples < sampling.replies
    ? `estimated from ${whole(sampling.samples)} of ${whole(sampling.replies)} replies` : "most frequent";
}

// --- the state of the daemon --------------------------------------------------------------------------------------

function state(tone, text) {
  const pill = byId("state");
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `pill ${tone}`;
}

function showState(data) {
  const problems = data.health.problems, answered = data.workers.filter(one => !one.error).length;
  if (paused) state("open", "Paused");
  else if (problems.length) state("bad", plural(problems.length, "problem"));
  else if (answered < data.workers.length) state("open", `${answered} of ${data.workers.length} workers answer`);
  else state("good", "Healthy");
  const notes = problems.map(text => ["bad", text]);
  if (restarted && Date.now() - restartedAt < NOTICE) notes.unshift(["open", restarted]);
  const shown = notes.map(([, text]) => text).join("\n");
  if (byId("notes").dataset.shown === shown) return;
  byId("notes").dataset.shown = shown;
  byId("notes").replaceChildren(...notes.map(([tone, text]) => make("p", `note ${tone}`, text)));
}

function take(data) {
  if (instance && data.instance !== instance) {
    restarted = `resolverd was started again, or its first worker was; noticed at ${clock(Date.now())}.`;
    restartedAt = Date.now();
    points.push({ queries: null, hits: null, latency: null, failed: null, upstream: null });
    sequence = -1;
  }
  instance = data.instance;
  last = Date.now();
  byId("version").textContent = data.resolver;
  byId("when").textContent = clock(last);
  if (data.sequence !== sequence && data.activity) {
    const now = data.activity;
    points.push({ queries: now.queries.rate, hits: now.answers.cache_hit_ratio, latency: now.client_latency.p50,
      failed: now.replies.by_rcode.SERVFAIL || 0, upstream: now.upstream.rate });
    points = points.slice(-POINTS);
  }
  if (data.sequence !== sequence) {
    showTiles(data);
    showLists(data);
  }
  sequence = data.sequence;
  showState(data);
}

// --- requests ---------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function get(path, timeout) {
  const ends = new AbortController(), used = token;
  const over = setTimeout(() => ends.abort(), timeout);
  try {
    const reply = await fetch(path, { headers: { Authorization: `Bearer ${used}` }, signal: ends.signal,
      cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer" });
    const content = await reply.json();
    if (!reply.ok) throw new Refused(reply.status, String(content.error || reply.statusText));
    return content;
  } finally {
    clearTimeout(over);
  }
}

async function poll() {
  clearTimeout(timer);
  if (!token || asking || paused || document.hidden) return;
  const used = token;
  let wait = 2000;
  try {
    asking = get("/api/v1/overview", TIMEOUT);
    const data = await asking;
    if (token !== used) return;
    failures = 0;
    byId("entry").hidden = true;
    byId("board").hidden = byId("actions").hidden = false;
    byId("board").classList.remove("stale");
    take(data);
  } catch (error) {
    if (token !== used) return;
    failures += 1;
    wait = Math.min(1000 * 2 ** (failures - 1), LONGEST_PAUSE);
    if (error.status === 401) signOut("The token is wrong.");
    else if (error.status) state("bad", error.message);
    else lost();
    byId("board").classList.add("stale");
  } finally {
    asking = null;
    if (token) timer = setTimeout(poll, wait);
  }
}

function lost() {
  state("bad", last ? `No answer since ${clock(last)}; trying again` : "resolverd does not answer; trying again");
}

// --- explain ----------------------------------------------------------------------------------------------------

const SHAPES = { good: "M7 12.5l3.4 3.4L17 9", bad: "M8 8l8 8M16 8l-8 8", open: "M7.5 12h9" };
const MARKS = { good: "valid", bad: "bogus", open: "without proof" };
const toneOf = dnssec => dnssec === "secure" ? "good" : dnssec === "bogus" ? "bad" : "open";
let explaining = 0;

async function explain(name, type) {
  const number = ++explaining;
  byId("name").value = name;
  byId("type").value = type;
  byId("asked").className = "soft";
  byId("asked").textContent = `Resolving ${name} ${type} …`;
  byId("answer").replaceChildren();
  byId("explain-title").scrollIntoView({ block: "nearest" });
  try {
    const path = `/api/v1/explain?name=${encodeURIComponent(name)}&type=${encodeURIComponent(type)}`
      + (byId("fresh").checked ? "&cache=no" : "");
    const report = await get(path, EXPLAIN_TIMEOUT);
    if (number !== explaining) return;
    byId("asked").textContent = "";
    showReport(report);
  } catch (error) {
    if (number !== explaining) return;
    if (error.status === 401) signOut("The token is wrong.");
    byId("asked").className = "error";
    byId("asked").textContent = error.status ? error.message : "resolverd did not answer in time.";
  }
}

function mark(tone) {
  return draw("svg", { class: "mark", viewBox: "0 0 24 24", role: "img", "aria-label": MARKS[tone] },
    draw("circle", { cx: 12, cy: 12, r: 10.5 }), draw("path", { d: SHAPES[tone] }));
}

function showReport(report) {
  const { question, result, advice } = report;
  const tone = result.failure || result.dnssec === "bogus" ? "bad" : toneOf(result.dnssec);
  const heading = make("h2", "mono", `${question.name} ${question.type}`);
  heading.tabIndex = -1;
  const facts = [`${result.milliseconds < 10 ? result.milliseconds.toFixed(1) : whole(result.milliseconds)}\u202fms`,
    result.queries === 1 ? "1 query" : `${result.queries} queries`, plural(result.checks, "signature check")];
  if (result.from_cache) facts.push("from the cache");
  if (result.stale) facts.push("expired data");
  const rows = [["Why", advice.why, "why"], ...result.ede.map(one => ["Error", `${one.name}${one.text
    && !advice.why.includes(one.text) ? `: ${one.text}` : ""} (${one.code})`])];
  if (advice.who !== "none") rows.push(["Who", advice.people], ["Hint", advice.hint]);
  byId("answer").replaceChildren(
    heading,
    make("ul", "facts", make("li", `pill ${tone}`, `${result.status}, ${result.dnssec || "not validated"}`),
      ...facts.map(text => make("li", "", text))),
    make("dl", "", ...rows.flatMap(([term, text, className]) => [make("dt", "", term), make("dd", className, text)])),
    part("Answer", "", result.answer.filter(one => one.type !== "RRSIG").map(one => make("p", "mono", `${one.name} ${one.ttl} ${one.type} ${one.data}`))),
    chain(report), delegations(report), timeline(report), proofs(report), steps(report));
  heading.focus({ preventScroll: true });
}

const part = (title, remark, content) => content.length
  ? make("section", "", make("h3", "", title, make("small", "", remark)), ...content) : "";

function chain(report) {
  const zones = report.chain, signatures = [...report.signatures];
  const items = zones.map((zone, at) => {
    const tone = toneOf(zone.dnssec), next = zones[at + 1] && toneOf(zones[at + 1].dnssec);
    const own = signatures.filter(one => one.zone === zone.zone);
    const item = make("li", tone + (next && next !== "good" ? " cut" : ""), mark(tone), make("b", "mono", zone.zone),
      make("span", "word", zone.dnssec + (zone.trust_anchor ? ", trust anchor" : "") + (zone.from_cache ? ", cached" : "")),
      zone.text ? make("div", "why", zone.text) : null,
      make("ul", "chips", ...zone.ds.map(one => make("li", "", `DS ${one.tag} ${one.digest_name}`)),
        ...zone.keys.map(one => make("li", one.secure_entry ? "entry" : "", `key ${one.tag} ${one.algorithm_name}, `
          + one.role + (one.secure_entry ? ", trusted by DS" : "")))),
      make("ul", "sigs", ...own.map(one => make("li", one.result === "invalid" ? "bad" : one.result === "valid" ? "good" : "",
        mono(`${one.name} ${one.type}`), ` signed by key ${one.key_tag}: `, make("b", "", one.result),
        one.result === "invalid" ? `, ${one.text}` : ""))));
    item.style.setProperty("--next", `var(--${next === "good" ? "good" : next === "bad" ? "bad" : "edge"})`);
    return item;
  });
  return part("Chain of trust", "from the closest known zone to the name", items.length ? [make("ol", "chain", ...items)] : []);
}

function delegations(report) {
  return part("Delegations", "zones, and who referred to them", report.delegations.length ? [make("ol", "chain",
    ...report.delegations.map(one => make("li", "wait near", draw("svg", { class: "mark", viewBox: "0 0 24 24",
      "aria-hidden": "true" }, draw("circle", { cx: 12, cy: 12, r: 6 })), make("b", "mono", one.zone),
    make("span", "word", one.referred_by ? `referral from ${one.referred_by}` : one.source),
    make("ul", "chips", ...one.servers.map(server => make("li", "mono",
      [server.name, ...server.addresses].filter(Boolean).join(" ")))))))] : []);
}

function timeline(report) {
  const end = Math.max(report.result.milliseconds, ...report.exchanges.map(one => one.at_milliseconds + (one.milliseconds || 0)), .001);
  return part("Queries to servers", `over ${end.toFixed(1)} ms`, report.exchanges.map(one => {
    const bar = make("div"), took = one.milliseconds === null ? end - one.at_milliseconds : one.milliseconds;
    bar.style.left = `${100 * Math.min(one.at_milliseconds / end, 1)}%`;
    bar.style.width = `${100 * Math.min(took / end, 1)}%`;
    return make("div", one.usable ? "time good" : "time bad",
      make("div", "", mono(`${one.name} ${one.type}`), make("small", "", `${one.server} (${one.server_name || one.zone}), `
        + one.transport)),
      make("div", "draw", make("div", "track", bar)),
      make("div", "took", one.milliseconds === null ? "no reply" : `${one.milliseconds.toFixed(1)}\u202fms`,
        make("small", "", one.result + (one.rcode && one.rcode !== "NOERROR" ? `, ${one.rcode}` : ""))));
  }));
}

function proofs(report) {
  return part("Proofs of absence", "", report.proofs.map(one => make("p", "", one.what + ": ", make("b", "", one.result),
    one.text ? `, ${one.text}` : "")));
}

function steps(report) {
  if (!report.steps.length) return "";
  const items = report.steps.map(one => {
    const item = make("li", "", make("span", "", `${one.at_milliseconds.toFixed(1)} ${one.kind}`), one.text);
    item.style.paddingLeft = `${Math.min(one.depth, 6)}rem`;
    return item;
  });
  return make("details", "", make("summary", "", `All ${report.steps.length} steps`), make("ol", "steps", ...items));
}

// --- signing in and out -------------------------------------------------------------------------------------------

function signIn(text) {
  token = text.trim();
  sessionStorage.setItem(KEY, token);
  byId("entry-error").textContent = "";
  state("wait", "Connecting");
  asking = null;
  poll();
}

function signOut(why) {
  token = instance = "";
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  points = [];
  last = failures = 0;
  sequence = -1;
  explaining += 1;
  byId("answer").replaceChildren();
  byId("notes").replaceChildren();
  for (const { body } of Object.values(bodies)) body.replaceChildren();
  for (const one of Object.values(tiles)) show(one, "–", "", "", one.line && (value => value.queries));
  byId("asked").textContent = byId("when").textContent = byId("notes").dataset.shown = "";
  byId("board").hidden = byId("actions").hidden = true;
  byId("entry").hidden = false;
  byId("entry-error").textContent = why;
  byId("token").value = "";
  byId("token").focus();
  state("wait", "Signed out");
}

byId("entry").addEventListener("submit", event => {
  event.preventDefault();
  signIn(byId("token").value);
});
byId("ask").addEventListener("submit", event => {
  event.preventDefault();
  explain(byId("name").value.trim(), byId("type").value.trim().toUpperCase() || "A");
});
byId("leave").addEventListener("click", () => signOut(""));
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) state("open", "Paused");
  poll();
});
document.addEventListener("visibilitychange", poll);
byId("types").append(...TYPES.map(type => {
  const option = make("option");
  option.value = type;
  return option;
}));

function begin() {
  // The fragment is not sent to the server. It is removed, so that it is in no history and no bookmark.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) history.replaceState(null, "", location.pathname);
  const known = given || sessionStorage.getItem(KEY);
  if (known) signIn(known);
  else signOut("");
}

window.addEventListener("hashchange", begin);
begin();
