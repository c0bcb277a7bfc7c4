// The next action of a player who knows every page of the task set: one of {tap: [y, x]}, {swipe: [[y, x], [y, x]]},
// {type: text}, {key: 'enter'}; points are fractions of the screen. Each call looks at the page afresh.
const page = location.pathname.replace(/^.*\/|\.html$/g, '');
const one = selector => document.querySelector(selector);
const all = selector => [...document.querySelectorAll(selector)];
const named = (selector, text) => all(selector).find(e => e.textContent.trim() === text);
const shown = e => e.getClientRects().length > 0;
const fraction = (y, x) => [y / innerHeight, x / innerWidth];

// Taps an element, or swipes in what scrolls around it until it can be tapped.
function tap(element) {
  const box = element.getClientRects()[0];
  const [y, x] = [box.top + box.height / 2, box.left + box.width / 2];
  const hit = document.elementFromPoint(x, y);
  if (hit && (element.contains(hit) || hit.contains(element) && hit.matches('label'))) return {tap: fraction(y, x)};
  let pane = element.parentElement;
  while (pane.parentElement && !(pane.scrollHeight > pane.clientHeight && getComputedStyle(pane).overflowY !== 'visible'))
    pane = pane.parentElement;
  return swipe(pane, y > pane.getBoundingClientRect().top + pane.clientHeight / 2);
}

// Shows what lies further down in a pane, or further up.
function swipe(pane, down) {
  const box = pane.getBoundingClientRect();
  const [top, bottom] = [Math.max(box.top, 0), Math.min(box.bottom, innerHeight)];
  const x = box.left + box.width / 2;
  const [high, low] = [fraction(top + 0.15 * (bottom - top), x), fraction(bottom - 0.15 * (bottom - top), x)];
  return {swipe: down ? [low, high] : [high, low]};
}

// Makes a field hold a text; null when it does.
function fill(selector, text) {
  const field = one(selector);
  if (field.value === text) return null;
  return document.activeElement === field ? {type: text} : tap(field);
}

if (location.pathname === '/') return tap(one('a'));
const said = core.getUtterance();
const quoted = [...said.matchAll(/"([^"]*)"/g)].map(match => match[1]);
const submit = () => tap(one('#subbtn'));
const link = () => named('.alink', quoted[0]);

const players = {
  'click-link': () => tap(link()),
  'click-dialog-2': () =>
    tap(quoted[0] === 'x' ? one('.ui-dialog-titlebar button') : named('.ui-dialog-buttonset button', quoted[0])),
  'grid-coordinate': () => tap(document.getElementById(said.match(/\(-?\d,-?\d\)/)[0])),
  'click-option': () => {
    const radio = named('label', said.match(/^Select (.*) and click Submit/)[1]).querySelector('input');
    return radio.checked ? submit() : tap(radio);
  },
  'click-tab-2': () =>
    tap(shown(link()) ? link() : one(`a[href="#${link().closest('[id^=tabs-]').id}"]`)),
  'click-collapsible-2-nodelay': () =>
    tap(shown(link()) ? link() : link().closest('.ui-accordion-content').previousElementSibling),
  'click-checkboxes': () => {
    const names = said.match(/^Select (.*) and click Submit/)[1].split(', ');
    const wrong = all('#boxes input').find(e => e.checked !== names.includes(e.parentElement.textContent.trim()));
    return wrong ? tap(wrong) : submit();
  },
  'enter-text': () => fill('#tt', quoted[0]) || submit(),
  'enter-password': () => fill('#password', quoted[0]) || fill('#verify', quoted[0]) || submit(),
  'login-user': () => fill('#username', quoted[0]) || fill('#password', quoted[1]) || submit(),
  'scroll-text-2': () => {
    const pane = one('#text-area'), down = / bottom /.test(said);
    const left = down ? pane.scrollHeight - pane.clientHeight - pane.scrollTop : pane.scrollTop;
    return left > 2 ? swipe(pane, down) : submit();
  },
  'terminal': () => {
    const ending = (said.match(/extension (\.\S+)$/) || [])[1];
    const file = currentFiles.find(name => (ending ? name.endsWith(ending) : !name.includes('.')));
    const typed = one('#active-input').textContent;
    if (document.activeElement !== one('#terminal-target')) return tap(one('#terminal-contents'));
    return typed === `rm ${file}` ? {key: 'enter'} : {type: `rm ${file}`};
  },
  'simple-arithmetic': () => {
    const [, a, sign, b] = one('#math-problem').textContent.match(/(\d) (.) (\d)/);
    const answer = {'+': +a + +b, '-': a - b, 'x': a * b}[sign];
    return fill('#math-answer', String(answer)) || submit();
  },
  'search-engine': () => {
    const place = +said.match(/the (\d+)\w\w search result/)[1];
    const typing = fill('#search-text', quoted[0]);
    if (typing) return typing;
    if (!one('#page-content a')) return tap(one('#search'));
    return tap(one(`a[data-result="${place - 1}"]`) || named('#pagination a', String(Math.ceil(place / 3))));
  },
  'social-media': () => {
    const user = said.match(/For the user (\S+),/)[1];
    const kind = Object.keys(ACTIONS).find(key => ACTIONS[key] === quoted[0]);
    const post = all('.media').find(e => e.querySelector('.username').textContent === user);
    const button = post.querySelector(`.${kind}`);
    return tap(shown(button) ? button : post.querySelector('.more'));
  },
  'email-inbox-delete': () => {
    const sender = said.match(/email by (.*) and click/)[1];
    const mail = all('#main .email-thread').find(e => e.querySelector('.email-sender').textContent === sender);
    return tap(mail.querySelector('.trash'));
  },
};
return players[page]();
