// Schedules calls of the function `greet` in one batch, and waits for what they return.
//
//   npm install && node worker.js &
//   node schedule.js Ada Grace
'use strict';

const { scheduler, metadata } = require('./delaybox');

const names = process.argv.slice(2);
const client = scheduler();

const tasks = (names.length ? names : ['world']).map((name) => ({
  type: 'TASK_TYPE_WORKER',
  name: 'greet',
  // JSON: an object is keyword arguments, an array positional ones.
  payload: Buffer.from(JSON.stringify({ name })),
  delayMs: 500,
  keepResultMs: 60000,
}));

client.ScheduleBatch({ tasks }, metadata(), (error, answer) => {
  if (error) {
    console.error(`not scheduled: ${error.details}`);
    process.exit(1);
  }
  for (const { error: refused } of answer.results) if (refused) console.error(`refused: ${refused.message}`);
  const ids = answer.results.filter((result) => !result.error).map((result) => result.id);
  // Watch tells how each ends, and ends itself when all have.
  const watch = client.Watch({ ids, endsOnly: true }, metadata());
  watch.on('data', ({ events }) => {
    for (const event of events) {
      const output = event.result && event.result.output.length ? event.result.output.toString() : event.reason;
      console.log(`${event.id} ${event.state} ${output}`);
    }
  });
  watch.on('error', (lost) => {
    console.error(`lost: ${lost.details}`);
    process.exit(1);
  });
  watch.on('end', () => client.close());
});
