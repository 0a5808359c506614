// The demo page: a chat over one WebSocket, and what happens to that socket.
import { WsBouncer } from "/demo/wsbouncer.js";

const config = await (await fetch("/demo/config.json")).json();
const auth = new WsBouncer({ url: location.origin, authPath: config.auth_path });

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

/** A new element. Text goes in as text: nothing here parses HTML. */
function el(tag, className = "", ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

const clock = (at = Date.now(), seconds = {}) => {
  const node = el("time", "", new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...seconds }));
  node.dateTime = new Date(at).toISOString();
  return node;
};

function avatar(name) {
  let hue = 0;
  for (const c of name) hue = (hue * 31 + c.codePointAt(0)) % 6;
  const node = el("span", `avatar hue-${hue}`, [...name][0] ?? "?");
  node.title = name;
  node.setAttribute("aria-hidden", "true");
  return node;
}

// ---- what the codes mean -------------------------------------------------

const meaning = {
  logged_out: "The session was logged out. Every connection of it was closed at that moment, in this tab and in all others.",
  subject_revoked: "Everything of this user was revoked: sessions, tokens and live connections.",
  session_revoked: "This session was revoked; its live connections ended with it.",
  token_revoked: "The token that opened this connection was revoked.",
  key_revoked: "The key that signed this connection's token was revoked.",
  token_expired: "The token ran out and nothing renewed it in time.",
  token_missing: "Nobody is logged in here.",
  not_allowed: "This user may not be here.",
  insufficient_scope: "The token lacks a scope this path needs.",
  rate_limited: "Too many messages in too short a time.",
  message_too_big: "A message was larger than is allowed here.",
  restarting: "The server is restarting.",
  overloaded: "The server is at its limit.",
  upstream_gone: "The server behind the gateway went away.",
  idle: "Nothing came from this side for too long.",
  lifetime: "The connection reached the longest life a connection may have.",
};
const codes = { 1000: "The other side closed it: all done.", 1006: "The connection broke without a word.", 3000: "The credential is not good any more.", 3003: "This is not allowed.", 3008: "No credential came in time." };
const explain = (code, reason) => meaning[reason] ?? codes[code] ?? "The connection ended.";

function note(kind, ...what) {
  const node = el("span", kind, ...what);
  $("events").prepend(el("li", "", clock(Date.now(), { second: "2-digit" }), node));
  while ($("events").childElementCount > 60) $("events").lastElementChild.remove();
}

/** Enough of a connection's id to tell it from others; all of it is in "Who the gateway says you are". */
function short(cid) {
  const node = el("code", "", `${cid.slice(0, 8)}…`);
  node.title = cid;
  return node;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// ---- who is here -----------------------------------------------------------

let me = null; // the session
let user = null; // the demo user of that name, when it is one
let renewals = 0;
let expiresAt = 0;

const here = (link) => new URL(link, location.href).host === location.host;

function welcome() {
  $("me").hidden = $("app").hidden = true;
  $("welcome").hidden = false;
  $("users-hint").hidden = !config.users.some((u) => !here(u.link));
  $("users").replaceChildren(...config.users.map((u) => {
    const local = here(u.link);
    const go = el(local ? "button" : "a", local ? "button primary" : "button", `Log in as ${u.name}${local ? "" : " ↗"}`);
    if (local) go.onclick = () => login(u);
    else Object.assign(go, { href: u.link, target: "_blank", rel: "noopener" });
    return el("li", "card user", el("div", "user-head", avatar(u.name), el("div", "", el("strong", "", u.name), el("code", "", new URL(u.link, location.href).host))), go);
  }));
}

async function login(u) {
  notice("");
  try {
    enter(await auth.login({ username: u.name, password: u.password }));
    note("good", `logged in as ${u.name}`);
  } catch (error) {
    welcome();
    notice(`Logging in as ${u.name} failed (${error.code ?? "?"}): ${error.message}`);
  }
}

function enter(session) {
  me = session;
  user = config.users.find((u) => u.name === me.subject) ?? null;
  renewals = 0;
  expiresAt = me.expiresAt;
  $("welcome").hidden = true;
  $("me").hidden = $("app").hidden = false;
  $("me-avatar").replaceWith(Object.assign(avatar(me.subject), { id: "me-avatar" }));
  $("me-name").textContent = me.subject;
  $("me-host").textContent = `at ${location.host}`;
  $("fact-session").textContent = me.sessionId;
  $("revoke-card").hidden = !user?.revoke;
  $("revoke-name").textContent = me.subject;
  $("revoke").textContent = user?.revoke ?? "";
  $("logout").disabled = $("logout-all").disabled = false;
  document.title = `${me.subject} · wsbouncer dev`;
  open(room);
}

async function logout(everywhere) {
  $("logout").disabled = $("logout-all").disabled = true;
  try {
    await auth.logout({ everywhere });
  } catch (error) {
    $("logout").disabled = $("logout-all").disabled = false;
    notice(`Logging out failed (${error.code}): ${error.message}`);
  }
}

auth.addEventListener("loggedout", () => {
  note("warn", "logged out");
  expiresAt = 0;
  $("logout").disabled = $("logout-all").disabled = true;
});

auth.addEventListener("token", (event) => {
  expiresAt = event.expiresAt;
  const same = socket?.connection && event.extended.includes(socket.connection);
  if (!same) return note("", "token refreshed");
  renewals++;
  note("good", "refreshed, same connection ", short(socket.connection));
});

// ---- the connection ----------------------------------------------------------

const rooms = ["lobby", "ideas", "support"];
let room = rooms[0];
let socket = null;

function status(state, text) {
  $("app").dataset.state = $("status").dataset.state = state;
  $("status").firstElementChild.textContent = text;
  $("text").disabled = $("send").disabled = state !== "open";
}

function open(name) {
  room = name;
  socket?.close(1000, "left the room");
  $("lines").replaceChildren();
  $("people").replaceChildren();
  $("ended").hidden = true;
  $("composer").hidden = false;
  for (const tab of $("rooms").children) tab.setAttribute("aria-current", String(tab.dataset.room === name));
  status("connecting", "Connecting");

  const path = config.console || `/chat/${encodeURIComponent(name)}`;
  const mine = auth.connect(path);
  socket = mine;
  const current = (handler) => (event) => { if (socket === mine) handler(event); };

  mine.addEventListener("open", current(() => {
    status("open", "Connected");
    $("fact-subject").textContent = me.subject;
    $("fact-scopes").textContent = me.scopes.join(" ") || "none";
    $("fact-connection").textContent = mine.connection;
    note("", `opened ${path} `, short(mine.connection));
  }));
  mine.addEventListener("message", current((event) => (config.console ? raw("←", event.data) : receive(JSON.parse(event.data)))));
  mine.addEventListener("reconnecting", current((event) => {
    status("reconnecting", "Reconnecting");
    $("fact-connection").textContent = "–";
    note("warn", `ended ${event.code} ${event.reason}`.trim() + `: attempt ${event.attempt} in ${(event.delay / 1000).toFixed(1)} s`);
  }));
  mine.addEventListener("close", current((event) => {
    socket = null;
    status("closed", "Closed");
    $("fact-connection").textContent = "–";
    $("people").replaceChildren();
    note("bad", `closed ${event.code} ${event.reason}`.trim());
    $("ended-code").textContent = event.code;
    $("ended-reason").textContent = event.reason;
    $("ended-text").textContent = explain(event.code, event.reason);
    $("again").textContent = event.code === 3000 ? (user ? `Log in again as ${user.name}` : "Log in again") : "Connect again";
    $("again").onclick = event.code !== 3000 ? () => open(room) : user ? () => login(user) : welcome;
    $("ended").hidden = false;
    $("composer").hidden = true;
    $("lines").scrollTop = $("lines").scrollHeight;
  }));
}

// ---- the chat ------------------------------------------------------------------

function show(node) {
  const list = $("lines");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.querySelector(".empty")?.remove();
  list.append(node);
  while (list.childElementCount > 500) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

const raw = (mark, data) => show(el("li", "line raw", el("span", "", mark), el("p", "line-text", typeof data === "string" ? data : `binary, ${data.size} bytes`)));

/** What the room says. Two tabs that leave together are one line. */
function aside(text) {
  const last = $("lines").lastElementChild;
  if (last?.dataset.text !== text) {
    const node = el("li", "aside", text);
    node.dataset.text = text;
    return show(node);
  }
  last.dataset.times = Number(last.dataset.times ?? 1) + 1;
  last.textContent = `${text} ×${last.dataset.times}`;
}

/** Somebody's line; several in a row stand under one name. */
function line(l) {
  const last = $("lines").lastElementChild;
  const more = last?.dataset.from === l.from && l.at - last.dataset.at < 5 * 60_000;
  const node = el("li", more ? "line more" : "line", avatar(l.from), el("p", "line-head", el("strong", "", l.from), clock(l.at)), el("p", "line-text", l.text));
  Object.assign(node.dataset, { from: l.from, at: more ? last.dataset.at : l.at });
  show(node);
}

function receive(message) {
  if (message.people) $("people").replaceChildren(...message.people.slice(0, 6).map(avatar));
  switch (message.type) {
    case "welcome":
      $("lines").replaceChildren();
      $("fact-subject").textContent = message.you.subject;
      $("fact-scopes").textContent = message.you.scopes.join(" ") || "none";
      $("fact-connection").textContent = message.you.connection;
      $("fact-session").textContent = message.you.session;
      if (!message.history?.length) show(el("li", "empty", `You are in ${message.room}. Open the other user beside this window and talk.`));
      message.history?.forEach(line);
      break;
    case "line":
      line(message.line);
      break;
    case "joined":
      aside(`${message.who} joined`);
      break;
    case "left":
      aside(`${message.who} left${message.reason ? ` (${message.code} ${message.reason})` : ""}`);
      break;
    case "error":
      aside(message.reason);
  }
}

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim() || socket?.readyState !== WebSocket.OPEN) return;
  socket.send(config.console ? text : JSON.stringify({ type: "say", text }));
  if (config.console) raw("→", text);
  $("text").value = "";
};

// ---- the rest of the page ----------------------------------------------------------

$("logout").onclick = () => logout(false);
$("logout-all").onclick = () => logout(true);
$("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText($("revoke").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("revoke")); // no permission: at least select it
    $("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
};

setInterval(() => {
  const left = Math.max(0, expiresAt - Date.now()) / 1000;
  const life = Math.max(config.access_ttl, 1);
  $("left-unit").hidden = !expiresAt;
  $("left").textContent = expiresAt ? (left < 100 ? Math.ceil(left) : Math.round(left)) : "–";
  $("ring").style.setProperty("--left", String(Math.min(100, (left / life) * 100)));
  $("ring").dataset.low = String(left < life * 0.25);
  $("ring").classList.toggle("none", left === 0);
  const times = renewals === 1 ? "once" : `${renewals} times`;
  $("token-text").textContent = !expiresAt ? "No token." : renewals ? `Token renewed ${times} under this connection.` : "The token is renewed under the live connection before it ends.";
}, 200);

if (config.console) {
  $("rooms").append(el("code", "", config.console));
  $("text").placeholder = "Send a text message";
  $("facts-note").textContent = "The server behind it is told this. It never sees a token.";
} else {
  $("rooms").append(...rooms.map((name) => {
    const tab = el("button", "", name);
    tab.dataset.room = name;
    tab.onclick = () => name !== room || !socket ? open(name) : undefined;
    return tab;
  }));
}

// A login link names its user in the fragment, which never reaches a server.
const wanted = config.users.find((u) => location.hash && new URL(u.link, location.href).hash === location.hash);
history.replaceState(null, "", location.pathname);
try {
  const session = await auth.session();
  if (session) {
    enter(session);
    if (wanted && wanted.name !== session.subject) notice(`${session.subject} is logged in under ${location.host}. Log out first to be ${wanted.name} here.`);
  } else if (wanted) await login(wanted);
  else welcome();
} catch (error) {
  welcome();
  notice(`The server does not answer as it should (${error.code ?? "?"}): ${error.message}`);
}
