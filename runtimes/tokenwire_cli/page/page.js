/**
 * The demo page: two streams beside each other over one stock Socket.IO connection.
 *
 * Rules of this file: no framework and no build step; the client is the server's own copy of the
 * real socket.io-client, with its default transports. What a model wrote reaches the document as
 * text only, never as markup. The events are those of spec/ai-streaming.md; the page is also meant
 * to be read as an example of a client that loses nothing when its connection is cut.
 */

const CLIENT = '/socket.io/socket.io.esm.min.js';

const STATES = {
  idle: 'Ready',
  asking: 'Sending…', // sent, not yet accepted by the server
  waiting: 'Waiting for the first token…',
  streaming: 'Streaming',
  done: 'Done',
  cancelled: 'Cancelled',
  failed: 'Failed',
};
const RUNNING = new Set(['asking', 'waiting', 'streaming']);

const PANELS = [
  ['left', 'Stream A', 'Explain what a hash table is, in a few sentences.'],
  ['right', 'Stream B', 'Write a short story about a lighthouse keeper.'],
];

const byId = (id) => document.getElementById(id);

/** One stream at a time, with its prompt, its text and its numbers. */
class Panel {
  #parts = {};
  #send;
  #root;
  #text;
  #drawing = false;
  #following = true; // false while somebody has scrolled up to read
  #online = false;
  #cancelling = false;
  #sentAt = 0;
  #firstAt = null;
  #lastAt = 0;
  #epoch;
  #seq = 0; // of the last token shown
  #totals = {};
  state = 'idle';
  /** What was sent last; its `streamId` is how events find this panel. */
  request = null;

  /** @param {(event: string, payload: object) => void} send */
  constructor(key, title, prompt, send) {
    const root = byId('panel').content.cloneNode(true).firstElementChild;
    for (const part of root.querySelectorAll('[data-part]')) this.#parts[part.dataset.part] = part;
    const { form, cancel, text } = this.#parts;
    root.id = `panel-${key}`;
    root.setAttribute('aria-label', title);
    text.setAttribute('aria-label', `${title}: answer`);
    this.#parts.title.textContent = title;
    this.#parts.prompt.value = prompt;
    this.#send = send;
    this.#root = root;
    this.#reset();
    byId('panels').append(root);

    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#parts.prompt.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.#ask();
    });
    cancel.addEventListener('click', () => {
      this.#cancelling = true;
      this.#buttons();
      this.#send('ai:cancel', { streamId: this.request.streamId });
    });
    text.addEventListener('scroll', () => {
      this.#following = text.scrollHeight - text.scrollTop - text.clientHeight < 24;
    });
  }

  get running() {
    return RUNNING.has(this.state);
  }

  /** Where the text ends, for `ai:reconnect`: the server goes on from here. */
  get cursor() {
    return { seq: this.#seq, ...(this.#epoch !== undefined && { epoch: this.#epoch }) };
  }

  set online(online) {
    this.#online = online;
    if (!online) this.#cancelling = false; // a cancel may have been lost with the connection
    this.#buttons();
  }

  #ask() {
    if (this.running || !this.#online) return;
    // Unique within this page: the server scopes it to the page's session.
    const streamId = `${this.#root.id}-${Date.now().toString(36)}`;
    this.request = { streamId, prompt: this.#parts.prompt.value, ...options() };
    this.#reset();
    this.#enter('asking');
    this.#send('ai:stream', this.request);
  }

  /** Sends a request again that may have been lost: the same id and content join the stream. */
  askAgain() {
    if (this.state === 'asking') this.#send('ai:stream', this.request);
  }

  started({ epoch, resumed }) {
    if (!this.running) return;
    this.#epoch = epoch;
    if (resumed) this.#clear(); // the whole text follows once more
    if (this.state === 'asking') this.#enter('waiting');
  }

  token({ data, agent, seq, metadata = {} }) {
    if (!this.running || metadata.thinking) return; // thinking was not asked for; it has no seq
    if (seq <= this.#seq) return; // has come before, over a connection that is gone
    const missing = seq - (metadata.tokens ?? 1) - this.#seq;
    if (missing > 0) this.notice('warning', `${missing} tokens before this point were left out.`);
    this.#seq = seq;
    const now = performance.now();
    this.#firstAt ??= now;
    this.#lastAt = now;
    if (this.state !== 'streaming') this.#enter('streaming');
    this.#text.appendData(data);
    this.#route({ agent, ...metadata });
    this.#draw();
  }

  completed({ agent, intent, confidence, metadata = {} }) {
    if (!this.running) return;
    this.#route({ agent, intent, confidence });
    this.#totals = metadata;
  }

  done({ totalTokens, duration }) {
    if (!this.running) return;
    const { finishReason, promptTokens, tokensPerSecond, resumes } = this.#totals;
    const words = [`${totalTokens} tokens in ${seconds(duration)}`];
    if (finishReason) words.push(finishReason === 'length' ? 'token limit reached' : finishReason);
    if (promptTokens) words.push(`${promptTokens} prompt tokens`);
    if (tokensPerSecond) words.push(`${tokensPerSecond.toFixed(1)} tokens/s by the model’s count`);
    if (resumes) words.push(`resumed ${resumes}×`);
    this.#parts.summary.textContent = words.join(' · ');
    this.#enter('done');
  }

  cancelled() {
    if (!this.running) return;
    this.#parts.summary.textContent = `Cancelled after ${this.#seq} tokens`;
    this.#enter('cancelled');
  }

  failed(error) {
    if (!this.running) return;
    this.notice('error', sentence(error), error.code);
    this.#enter('failed');
  }

  notice(kind, text, code) {
    say(this.#parts.notice, kind, text, code);
  }

  #reset() {
    this.#epoch = undefined;
    this.#totals = {};
    this.#firstAt = null;
    this.#lastAt = 0;
    this.#sentAt = performance.now();
    for (const part of ['agent', 'intent', 'confidence']) this.#parts[part].textContent = '–';
    this.#parts.summary.textContent = '';
    this.notice('', '');
    this.#clear();
  }

  #clear() {
    this.#seq = 0;
    this.#following = true;
    this.#text = document.createTextNode('');
    this.#parts.text.replaceChildren(this.#text);
    this.#draw();
  }

  #route({ agent, intent, confidence }) {
    if (agent) this.#parts.agent.textContent = agent;
    if (intent) this.#parts.intent.textContent = intent;
    if (typeof confidence === 'number') {
      this.#parts.confidence.textContent = `${Math.round(confidence * 100)} %`;
    }
  }

  #enter(state) {
    this.state = state;
    this.#root.dataset.state = state;
    this.#parts.state.textContent = STATES[state];
    // Busy while it grows: a screen reader reads the whole answer once, not each token.
    this.#parts.text.setAttribute('aria-busy', String(this.running));
    if (!this.running) this.#cancelling = false;
    this.#buttons();
    this.#draw();
  }

  #buttons() {
    this.#parts.send.disabled = this.running || !this.#online;
    this.#parts.cancel.disabled = !this.running || !this.#online || this.#cancelling;
  }

  /** Numbers and scrolling once per frame: text comes faster than a screen shows it. */
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const { tokens, rate, first, text } = this.#parts;
      tokens.textContent = String(this.#seq);
      const elapsed = this.#lastAt - this.#firstAt;
      rate.textContent = this.#seq > 1 && elapsed > 0 ? perSecond(this.#seq - 1, elapsed) : '–';
      first.textContent = this.#firstAt !== null ? seconds(this.#firstAt - this.#sentAt) : '–';
      if (this.#following) text.scrollTop = text.scrollHeight;
    });
  }
}

/** The options as the contract names them; an empty field is left out. */
function options() {
  const model = byId('option-model').value.trim();
  const temperature = byId('option-temperature').valueAsNumber;
  const maxTokens = byId('option-max-tokens').valueAsNumber;
  return {
    useOrchestrator: byId('option-orchestrator').checked,
    ...(model && { model }),
    ...(!Number.isNaN(temperature) && { temperature }),
    ...(!Number.isNaN(maxTokens) && { maxTokens }),
  };
}

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
const perSecond = (count, ms) => ((count * 1000) / ms).toFixed(1);

/** An error of the server for people: its sentence, its details and what may be done. */
function sentence({ error, details, retryable, retryAfterMs }) {
  const about = details && details !== error ? ` (${details})` : '';
  const retry = retryAfterMs ? ` Try again in ${seconds(retryAfterMs)}.` : ' Try again.';
  return `${error.replace(/\.$/, '')}${about}.${retryable ? retry : ''}`;
}

function say(element, kind, text, code = '') {
  element.dataset.kind = kind;
  element.dataset.code = code;
  element.replaceChildren(text);
  element.hidden = !text;
  if (!code) return;
  const tag = document.createElement('code');
  tag.textContent = code;
  element.append(' ', tag);
}

const notice = (kind, text, code) => say(byId('notice'), kind, text, code);

function connection(state, text, transport = '') {
  const element = byId('connection');
  element.dataset.state = state;
  element.dataset.transport = transport;
  byId('connection-text').textContent = text;
  byId('reconnect').hidden = state !== 'disconnected';
}

function run(io) {
  const socket = io('/ai');
  const panels = PANELS.map(
    ([key, title, prompt]) => new Panel(key, title, prompt, (...event) => socket.emit(...event)),
  );
  const running = () => panels.filter((panel) => panel.running);
  const ofStream = ({ streamId }) => panels.find((panel) => panel.request?.streamId === streamId);
  /** The session's capability: it takes the running streams over to a new connection. */
  let clientId = null;

  socket.on('connect', () => {
    const { engine } = socket.io;
    const show = (name) => connection('connected', `Connected · ${name}`, name);
    show(engine.transport.name);
    engine.on('upgrade', (transport) => show(transport.name));
    notice('', '');
  });

  socket.on('disconnect', () => {
    for (const panel of panels) panel.online = false;
    if (socket.active) {
      connection('reconnecting', 'Reconnecting…');
      return;
    }
    // The server's own wish: the stock client does not come back from this by itself. What runs
    // is not given up: connecting again asks for it.
    connection('disconnected', 'Disconnected');
    notice('warning', 'The server has ended this connection; another page may have taken it over.');
  });

  socket.on('connect_error', (error) => {
    if (socket.active) {
      connection('reconnecting', 'Reconnecting…');
      notice('warning', 'The server does not answer; still trying.');
    } else {
      connection('disconnected', 'Refused');
      notice('error', `The server refused the connection: ${error.message}`);
    }
  });

  byId('reconnect').addEventListener('click', () => {
    connection('connecting', 'Connecting…');
    socket.connect();
  });

  socket.on('ai:connected', (data) => {
    const previousClientId = clientId;
    clientId = data.clientId;
    for (const panel of panels) panel.online = true;
    byId('limits').textContent = `Up to ${data.maxConcurrentStreams} streams at once per client`;
    // After connection state recovery (`recovered`) everything missed comes without asking.
    if (previousClientId && !data.recovered) {
      const streams = Object.fromEntries(
        running().map((panel) => [panel.request.streamId, panel.cursor]),
      );
      socket.emit('ai:reconnect', { previousClientId, streams });
    }
    for (const panel of panels) panel.askAgain();
  });

  socket.on('ai:reconnect:success', ({ streams = [] }) => {
    const known = new Set(streams.map((stream) => stream.streamId));
    for (const panel of running()) {
      if (panel.state === 'asking' || known.has(panel.request.streamId)) continue;
      panel.failed({ error: 'The server no longer has this stream.', retryable: true });
    }
  });

  socket.on('ai:stream:start', (data) => ofStream(data)?.started(data));
  socket.on('ai:token', (data) => ofStream(data)?.token(data));
  socket.on('ai:stream:complete', (data) => ofStream(data)?.completed(data));
  socket.on('ai:done', (data) => ofStream(data)?.done(data));
  socket.on('ai:stream:cancelled', (data) => ofStream(data)?.cancelled(data));
  socket.on('ai:stream:error', (data) => ofStream(data)?.failed(data));

  socket.on('ai:error', (data) => {
    const panel = ofStream(data);
    if (data.code === 'resume_gap') {
      panel?.notice('warning', sentence(data), data.code); // the stream goes on
    } else if (data.code === 'reconnect_failed') {
      for (const lost of running()) if (lost.state !== 'asking') lost.failed(data);
    } else if (panel) {
      panel.failed(data);
    } else {
      notice('error', sentence(data), data.code);
    }
  });

  socket.on('ai:backpressure', (data) => {
    const text = `${data.message} (${data.queueSize} tokens wait)`;
    const panel = ofStream(data);
    if (panel) panel.notice('warning', text);
    else notice('warning', text);
  });
}

/** Shows which model an empty field means; the page works without. */
async function showDefaults() {
  const { defaultModel } = await fetch('/page/config.json').then((answer) => answer.json());
  byId('option-model').placeholder = defaultModel;
}

try {
  const { io } = await import(CLIENT);
  run(io);
  showDefaults().catch(console.warn);
} catch (error) {
  connection('stopped', 'Not started');
  // The server says why in its answer to the same address.
  const answer = await fetch(CLIENT).then((response) => response.json()).catch(() => null);
  notice('error', `The page could not start: ${answer?.details ?? error.message}`);
}
