// Serves the function `greet` over the Worker stream: credits, answers in batches, heartbeats, a drain on SIGTERM.
//
// When the stream breaks this worker begins a new session; the node gives what the old one held to others. A session can be
// resumed instead, see proto/delaybox/v1/worker.proto.
'use strict';

const { worker, metadata } = require('./delaybox');

const CONCURRENCY = 10;

const functions = {
  async greet({ name }) {
    return `Hello, ${name}!`;
  },
};

const client = worker();
let stopping = false;

/** One session, until its stream ends. */
function session() {
  return new Promise((ended) => {
    const stream = client.Work(metadata());
    let number = 0;
    let seen = 0;
    let held = 0;
    let beat;
    let ending = false;

    function say(message) {
      if (!stream.destroyed) stream.write({ number: (number += 1), seen, ...message });
    }

    async function run(task) {
      held += 1;
      const begun = Date.now();
      const answer = { credit: 1 };
      try {
        const call = functions[task.name];
        // JSON: an array is positional arguments, anything else the only one.
        const value = JSON.parse(task.task.payload.toString() || '{}');
        const output = await (Array.isArray(value) ? call(...value) : call(value));
        answer.succeeded = [
          {
            sequence: task.sequence,
            output: output === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(output)),
            durationMs: Date.now() - begun,
          },
        ];
      } catch (error) {
        answer.failed = [{ sequence: task.sequence, reason: String(error), durationMs: Date.now() - begun }];
      }
      held -= 1;
      if (ending) answer.credit = 0;
      say(answer);
      if (ending && held === 0) stream.end();
    }

    /** Takes no more; the stream ends when what is under way is answered. */
    function finish() {
      if (ending) return;
      ending = true;
      say({ drain: true });
      if (held === 0) stream.end();
    }

    stream.on('data', (message) => {
      if (message.number > seen) seen = message.number;
      if (message.welcome) {
        beat = setInterval(() => say({}), message.welcome.heartbeatMs);
        say({ credit: CONCURRENCY });
        console.log(`works for ${message.welcome.node}`);
      }
      for (const task of message.tasks) run(task);
      if (message.drain) finish();
    });
    stream.on('error', (error) => {
      if (!stopping) console.error(`lost the node: ${error.details}`);
    });
    stream.on('close', () => {
      clearInterval(beat);
      process.removeListener('drain-now', finish);
      ended();
    });
    process.on('drain-now', finish);
    stream.write({
      hello: {
        functions: Object.keys(functions).map((name) => ({ name })),
        identity: `node-${process.pid}`,
        concurrency: CONCURRENCY,
      },
    });
  });
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    stopping = true;
    process.emit('drain-now');
  });
}

(async () => {
  while (!stopping) {
    await session();
    if (!stopping) await new Promise((done) => setTimeout(done, 200 + Math.random() * 800));
  }
  client.close();
})();
