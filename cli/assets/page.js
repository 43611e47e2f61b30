// The page a newcomer plays with: a small, honest client of the protocol (docs/protocol.md).
const $ = (id) => document.getElementById(id);
const ACK_LIMIT = 1000; // ids of one frame
const SYNC_EVERY_MS = 8 * 60 * 1000; // below the 9 minutes of the protocol: keep-alive and repair
const ANSWER_LATE_MS = 10 * 1000;

let session = null; // the one user shown; replaced as a whole when another is picked

class Session {
  constructor(user) {
    this.user = user;
    this.items = new Map();
    this.toAck = new Set();
    this.online = true;
    this.tries = 0;
    this.requests = 0;
    this.stored = JSON.parse(localStorage.getItem(`recado:${user}`) ?? "{}");
  }

  async start() {
    await this.renewToken();
    await this.load();
    this.connect();
  }

  async load() {
    const page = await get("/inbox?limit=50", this.token);
    for (const item of page.items) this.items.set(item.id, item);
    this.render();
  }

  async renewToken() { this.token = (await post("/dev/token", { user: this.user })).token; }

  // A ticket opens one socket, once: each try asks for another one.
  async connect() {
    const attempt = (this.attempt = (this.attempt ?? 0) + 1);
    const current = () => this.online && session === this && attempt === this.attempt;
    if (!current()) return;
    state("connecting");
    let ticket;
    try {
      ticket = (await post("/connection-tickets", undefined, { token: this.token })).ticket;
    } catch (error) {
      if (current()) this.again(error.message);
      return;
    }
    if (!current()) return;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws?ticket=${ticket}&device=page`, "recado.v1");
    this.socket = socket;
    socket.onopen = () => { this.tries = 0; state("live"); this.sync(); this.timer = setInterval(() => this.sync(), SYNC_EVERY_MS); };
    socket.onmessage = (message) => { wire("←", message.data); this.receive(JSON.parse(message.data)); };
    socket.onclose = (close) => { clearInterval(this.timer); clearTimeout(this.late); this.closed(close); };
  }

  closed({ code, reason }) {
    if (this.socket?.readyState !== WebSocket.CLOSED || session !== this) return;
    const what = `closed ${code} ${reason}`.trim();
    if (!this.online || code === 4409) state(this.online ? what : "offline");
    else this.again(what);
  }

  again(why) {
    state(why);
    const wait = Math.random() * Math.min(30000, 500 * 2 ** this.tries++);
    setTimeout(async () => {
      try { await this.renewToken(); } catch { /* the server is away: the next try asks again */ }
      this.connect();
    }, wait);
  }

  send(frame) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    const text = JSON.stringify(frame);
    wire("→", text);
    this.socket.send(text);
    return true;
  }

  sync() {
    const ack = [...this.toAck].slice(0, ACK_LIMIT);
    const request = String(++this.requests);
    if (!this.send({ type: "sync", request, since: this.stored.cursor, ack, client: "recado-page/1" })) return;
    ack.forEach((id) => this.toAck.delete(id));
    this.expectAnswer();
  }

  expectAnswer() {
    clearTimeout(this.late);
    this.late = setTimeout(() => this.sync(), ANSWER_LATE_MS);
  }

  receive(frame) {
    switch (frame.type) {
      case "notifications": return this.notifications(frame);
      case "read": return this.markRead(frame.ids, frame.up_to);
      case "archive": frame.ids.forEach((id) => this.items.delete(id)); return this.render();
      case "goaway": setTimeout(() => this.socket.close(), frame.reconnect_after_ms); return;
      case "unread": return; // counted from what is shown
    }
  }

  notifications(frame) {
    for (const item of frame.items) {
      const known = this.items.get(item.id);
      if (!known || known.position <= item.position) this.items.set(item.id, item);
      if (item.archived_at) this.items.delete(item.id);
      this.toAck.add(item.id);
      if (item.ack_soon) this.ackSoon();
    }
    if (frame.more === true) this.expectAnswer();
    if (frame.more === false) {
      clearTimeout(this.late);
      this.stored.cursor = frame.cursor;
      this.save();
      if (frame.verdict === "gap") this.load();
    }
    this.render();
    mails();
  }

  ackSoon() {
    clearTimeout(this.acking);
    this.acking = setTimeout(() => {
      const ids = [...this.toAck].slice(0, ACK_LIMIT);
      if (this.send({ type: "ack", ids })) ids.forEach((id) => this.toAck.delete(id));
    }, 1000);
  }

  markRead(ids, upTo) {
    const now = new Date().toISOString();
    for (const item of this.items.values()) {
      if (ids.includes(item.id) || (upTo && item.position <= upTo)) item.read_at ??= now;
    }
    this.render();
  }

  read(id) { this.send({ type: "read", ids: [id] }); this.markRead([id]); }
  archive(id) { this.send({ type: "archive", ids: [id] }); this.items.delete(id); this.render(); }
  readAll() {
    const top = this.sorted()[0];
    if (!top) return;
    this.send({ type: "read_all", up_to: top.position });
    this.markRead([], top.position);
  }

  save() { localStorage.setItem(`recado:${this.user}`, JSON.stringify(this.stored)); }
  sorted() { return [...this.items.values()].sort((a, b) => (a.position < b.position ? 1 : -1)); }

  render() {
    if (session !== this) return;
    const items = this.sorted();
    const unread = items.filter((item) => !item.read_at).length;
    $("unread").hidden = unread === 0;
    $("unread").textContent = unread > 99 ? "99+" : unread;
    $("empty").hidden = items.length > 0;
    $("items").replaceChildren(...items.map((item) => row(item)));
  }

  stop() { this.online = false; this.socket?.close(); }
}

// Everything an event says is text here: never markup.
function row(item) {
  const line = element("li", { className: item.read_at ? "" : "unread" });
  line.append(element("strong", { textContent: item.title ?? item.type }));
  if (item.body) line.append(element("p", { textContent: item.body }));
  const foot = element("footer");
  foot.append(element("span", { textContent: new Date(item.time).toLocaleTimeString() }));
  if (item.category) foot.append(element("span", { textContent: item.category }));
  if (item.url) foot.append(element("span", { textContent: `leads to ${item.url}` }));
  if (!item.read_at) foot.append(element("button", { type: "button", textContent: "Read", onclick: () => session.read(item.id) }));
  foot.append(element("button", { type: "button", textContent: "Archive", onclick: () => session.archive(item.id) }));
  line.append(foot);
  return line;
}

function element(name, properties = {}) { return Object.assign(document.createElement(name), properties); }

function state(text) {
  $("state").textContent = text;
  $("state").dataset.live = text === "live" ? "yes" : "no";
}

function wire(direction, text) {
  $("wire").textContent = `${direction} ${text}\n${$("wire").textContent}`.slice(0, 20000);
}

async function get(path, token) {
  const answer = await fetch(path, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

async function post(path, body, { type = "application/json", token } = {}) {
  const headers = { "content-type": type };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(problem(json) || `${path} answered ${answer.status}`);
  return json;
}

function problem(json) {
  const violations = json.violations ?? json.results?.flatMap((result) => result.violations ?? []) ?? [];
  return violations.length ? violations.map((v) => `${v.field} ${v.problem}`).join("; ") : json.detail;
}

async function mails() {
  const { mails } = await get("/mail.json").catch(() => ({ mails: [] }));
  $("no-mail").hidden = mails.length > 0;
  $("mails").replaceChildren(...mails.slice(0, 10).map((mail) => {
    const line = element("li");
    line.append(element("a", { href: `/mail/${mail.id}`, textContent: mail.subject || "(no subject)" }));
    const foot = element("footer");
    foot.append(element("span", { textContent: `to ${mail.to}` }), element("span", { textContent: new Date(mail.sent_at).toLocaleTimeString() }));
    line.append(foot);
    return line;
  }));
}

$("publish").onsubmit = async (submit) => {
  submit.preventDefault();
  const form = new FormData(submit.target);
  const email = form.get("email") === "on";
  const names = { alice: "Alice", bob: "Bob", carla: "Carla" };
  const recipients = form.getAll("to").map((id) => ({ id, name: names[id], email: `${id}@example.com` }));
  const event = {
    specversion: "1.0", id: crypto.randomUUID(), source: "/recado/page", type: "publication.permission_granted", time: new Date().toISOString(),
    data: { recipients, channels: email ? ["inbox", "email"] : ["inbox"], category: "permissions", title: form.get("title"), body: form.get("body") || undefined, url: form.get("url") || undefined },
  };
  const note = $("published");
  try {
    const started = performance.now();
    await post("/events", event, { type: "application/cloudevents+json" });
    note.className = "note";
    note.textContent = `Accepted in ${(performance.now() - started).toFixed(0)} ms.`;
  } catch (error) {
    note.className = "note bad";
    note.textContent = error.message;
  }
  setTimeout(mails, 500);
};

$("toggle").onclick = () => {
  session.online = !session.online;
  $("toggle").textContent = session.online ? "Go offline" : "Go online";
  if (session.online) session.connect();
  else session.socket?.close();
};
$("read-all").onclick = () => session.readAll();

async function become(user) {
  session?.stop();
  session = new Session(user);
  $("toggle").textContent = "Go offline";
  $("items").replaceChildren();
  try { await session.start(); } catch (error) { state(error.message); }
}

$("user").onchange = (change) => become(change.target.value);
setInterval(mails, 3000);
become($("user").value);
mails();
