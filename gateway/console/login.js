// The login: the token stays in a cookie that no script can read; a one-time ticket opens the dashboard.
"use strict";

const $ = (id) => document.getElementById(id);

function say(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function post(path, body) {
  const response = await fetch("/api/v1" + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  const answer = await response.json().catch(() => ({}));
  return { status: response.status, answer };
}

function why({ status, answer }) {
  if (status === 401) return "User name or password is wrong.";
  if (status === 403) return answer.message ?? answer.error ?? "This is not allowed.";
  if (status === 429) return `Too many attempts. Try again in ${answer.retryAfter ?? 60} seconds.`;
  if (status >= 500) return "The server cannot answer now. Please try again.";
  return answer.error ?? `The server answered ${status}.`;
}

async function openDashboard() {
  const done = await post("/automation/bullboard-ticket");
  if (done.status === 200) {
    // Replaced, so that the ticket is not in the history either.
    location.replace("/bullboard?ticket=" + encodeURIComponent(done.answer.ticket));
    return;
  }
  if (done.status === 401) {
    show(null);
    say("The session has ended. Please log in.");
  } else {
    say(why(done));
    await known();
  }
}

function show(user) {
  $("known").hidden = !user;
  $("login").hidden = Boolean(user);
  if (user) $("who").textContent = user.username;
}

async function known() {
  const response = await fetch("/api/v1/auth/me");
  if (response.ok) show((await response.json()).user);
}

/** Runs what a button does; one at a time, and whatever goes wrong is said. */
function on(element, event, act) {
  element.addEventListener(event, async (e) => {
    e.preventDefault();
    const buttons = document.querySelectorAll("button");
    buttons.forEach((button) => (button.disabled = true));
    say("");
    try {
      await act();
    } catch {
      say("The server cannot be reached.");
    }
    buttons.forEach((button) => (button.disabled = false));
  });
}

on($("login"), "submit", async () => {
  const done = await post("/auth/login", {
    username: $("username").value,
    password: $("password").value,
    cookie_only: true,
  });
  if (done.status !== 200) {
    say(why(done));
    $("password").select();
    return;
  }
  $("password").value = "";
  await openDashboard();
});
on($("open"), "click", openDashboard);
on($("logout"), "click", async () => {
  const done = await post("/auth/logout");
  if (done.status === 200 || done.status === 401) show(null);
  else say(why(done));
});
known().catch(() => {});
