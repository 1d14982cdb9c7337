'use strict';
// BullMQ's side of the benchmarks: node peer.js <bulk|herd|drain|lateness|call|http> '<json options>'
// Every command empties the server first, prints one JSON line on stdout and exits (http: stays until it is told to stop).
const { Queue, QueueEvents, Worker } = require('bullmq');
const IORedis = require('ioredis');
const { fork } = require('child_process');

const command = process.argv[2];
const options = JSON.parse(process.argv[3]);
const connection = { path: options.socket, maxRetriesPerRequest: null };
const data = { p: 'x'.repeat(options.payload || 110) };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => performance.timeOrigin + performance.now();
const print = (record) => process.stdout.write(JSON.stringify(record) + '\n');

async function usedMemory(redis) {
  return Number(/used_memory:(\d+)/.exec(await redis.info('memory'))[1]);
}

async function addInChunks(queue, count, make, underWay = 1) {
  let next = 0;
  await Promise.all(Array.from({ length: underWay }, async () => {
    while (next < count) {
      const from = next;
      const size = Math.min(1000, count - from);
      next += size;
      await queue.addBulk(Array.from({ length: size }, (_, k) => make(from + k)));
    }
  }));
}

// Random delays, chunks of 1,000, one client: what BullMQ offers for many jobs at once.
async function bulk(redis) {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  const before = await usedMemory(redis);
  const started = now();
  await addInChunks(queue, options.n, () => ({
    name: 't', data, opts: { delay: 3600000 + Math.floor(Math.random() * 86400000), removeOnComplete: true },
  }), options.under_way);
  const seconds = (now() - started) / 1000;
  return { n: options.n, seconds, bytes: ((await usedMemory(redis)) - before) / options.n };
}

// All due at one instant. The rate counts from the first job handled, which leaves out how late BullMQ started.
async function herd() {
  const queue = new Queue('bench', { connection });
  const at = Date.now() + 2000 + options.n / 5;
  await addInChunks(queue, options.n, () => ({
    name: 't', data: { p: data.p, at }, opts: { delay: Math.max(1, at - Date.now()), removeOnComplete: true },
  }));
  if (Date.now() >= at) throw new Error('the herd was due before all of it was added');
  let done = 0; let first = 0; let last = 0; let early = 0;
  await new Promise((resolve) => {
    new Worker('bench', async () => {
      last = now();
      if (last < at) early += 1;
      if (!first) first = last;
      done += 1;
      if (done === options.n) resolve();
    }, { connection, concurrency: options.concurrency || 100 });
  });
  return { n: options.n, seconds: (last - first) / 1000, first_late_ms: first - at, total_seconds: (last - at) / 1000, early };
}

// Due already, and hidden from the workers until they are up, warm and idle; each process says how many it has done.
async function drain(redis) {
  const queue = new Queue('bench', { connection });
  const counts = new Map();
  const done = () => [...counts.values()].reduce((sum, n) => sum + n, 0);
  const crew = Array.from({ length: options.processes }, () =>
    fork(__filename, ['worker', JSON.stringify(options)]).on('message', function count(n) { counts.set(this.pid, n); }));
  const until = async (n) => { while (done() < n) await sleep(2); };
  const add = (count) => addInChunks(queue, count, () => ({ name: 't', data, opts: { removeOnComplete: true } }));
  await add(1000);
  await until(1000);
  await queue.pause();
  await add(options.n);
  await sleep(500);
  const started = now();
  await queue.resume();
  await until(1000 + options.n);
  const seconds = (now() - started) / 1000;
  for (const child of crew) child.kill();
  return { n: options.n, seconds };
}

async function worker() {
  let done = 0; let told = 0;
  const running = new Worker('bench', async (job) => { done += 1; return job.data.n; }, { connection, concurrency: options.concurrency });
  await running.waitUntilReady();
  setInterval(() => { if (done > told) { told = done; process.send(told); } }, 2);
  return new Promise(() => {});
}

async function lateness() {
  const queue = new Queue('bench', { connection });
  const late = [];
  const worker = new Worker('bench', async (job) => { late.push(now() - job.data.at); }, { connection, concurrency: 50 });
  await worker.waitUntilReady();
  const base = Date.now() + 1000 + options.n / 5;
  await addInChunks(queue, options.n, (i) => {
    const at = base + Math.floor((i * 1000) / options.rate);
    return { name: 't', data: { p: data.p, at }, opts: { delay: at - Date.now(), removeOnComplete: true } };
  });
  const end = base + (options.n * 1000) / options.rate + 10000;
  while (late.length < options.n && Date.now() < end) await sleep(50);
  return { n: options.n, lateness_ms: late };
}

// One job to its result in the caller's hands, one by one; the worker is a process of its own.
async function call() {
  const queue = new Queue('bench', { connection });
  const events = new QueueEvents('bench', { connection });
  await events.waitUntilReady();
  const child = fork(__filename, ['worker', JSON.stringify({ ...options, concurrency: 10 })]);
  const took = [];
  for (let i = 0; i < options.n + 20; i += 1) {
    const started = now();
    const job = await queue.add('t', { n: i }, { removeOnComplete: 100 });
    if (await job.waitUntilFinished(events, 30000) !== i) throw new Error('another result');
    if (i >= 20) took.push(now() - started);
  }
  child.kill();
  return { ms: took };
}

// The same curl body as DelayBox takes, one job a request, answered after it is stored.
async function http() {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  const server = require('http').createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', async () => {
      try {
        const body = JSON.parse(Buffer.concat(parts));
        const delay = Math.max(0, Number(body.parameter.executionTimestamp) - Date.now());
        const job = await queue.add('t', { p: body.pyload }, { delay, removeOnComplete: true });
        response.setHeader('Content-Type', 'application/json');
        response.end(JSON.stringify({ message: 'task created', taskUuid: job.id }));
      } catch (error) {
        response.statusCode = 400;
        response.end(JSON.stringify({ error: String(error) }));
      }
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  print({ port: server.address().port });
  await new Promise((resolve) => { process.stdin.on('end', resolve); process.stdin.resume(); });
  return { stored: await queue.getDelayedCount() };
}

(async () => {
  if (command === 'worker') await worker();
  const redis = new IORedis(connection);
  await redis.flushall();
  print(await { bulk, herd, drain, lateness, call, http }[command](redis));
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
