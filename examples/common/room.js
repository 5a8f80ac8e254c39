// What the pages of `loops` and `cluster` share: the form, the connection and the log. A page
// itself has `receive`, for what comes, and `show`, which brings the rest up to date.
"use strict";

const FIRST_DELAY = 500, LONGEST_DELAY = 15_000; // ms between attempts to connect
const KEPT = 500; // entries in the log

const $ = (id) => document.getElementById(id);

let socket = null;
let attempts = 0;
let me = null; // this person, while connected

const guest = `Guest ${Math.floor(Math.random() * 9000) + 1000}`;
$("name").value = sessionStorage.getItem("name") ?? guest;
$("room").value = sessionStorage.getItem("room") ?? "lobby";
$("name").focus();

$("welcome").addEventListener("submit", (event) => {
  event.preventDefault();
  for (const field of ["name", "room"]) sessionStorage.setItem(field, $(field).value);
  $("welcome").hidden = true;
  $("chat").hidden = false;
  document.querySelector("#chat h1").textContent = $("room").value;
  connect();
  $("text").focus();
});

function connect() {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ room: $("room").value, name: $("name").value });
  socket = new WebSocket(url);
  socket.addEventListener("message", (event) => {
    const message = JSON.parse(event.data);
    if (message.you) welcome(message.you);
    receive(message);
    show();
  });
  socket.addEventListener("close", () => {
    if (me) note("The connection was lost.", "bad");
    me = null;
    show();
    // The delay doubles. Its random part spreads the pages of a server that was restarted.
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempts++);
    setTimeout(connect, delay * (0.5 + Math.random() / 2));
  });
}

function welcome(person) {
  [me, attempts] = [person, 0];
  note(`Welcome, ${me.name}.`);
}

// What people wrote gets into the page as text, never as markup.

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function badge(text, number) {
  const made = element("span", "badge", text);
  made.style.setProperty("--hue", (170 + number * 137) % 360); // neighbours differ most
  return made;
}

function append(entry) {
  const log = $("log");
  const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(entry);
  while (log.childElementCount > KEPT) log.firstElementChild.remove();
  if (follow) log.scrollTop = log.scrollHeight;
}

const note = (text, kind = "") => append(element("p", `note ${kind}`, text));

/** A message of a person. */
function entry(about, text) {
  const body = element("div", "text", text);
  body.dir = "auto";
  return element("article", "", element("div", "about", ...about), body);
}
