// Connects to DelayBox from JavaScript: the contract is loaded as it stands in ../../proto, nothing is generated.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const PROTO = process.env.DELAYBOX_PROTO || path.join(__dirname, '..', '..', 'proto');

const loaded = protoLoader.loadSync(['delaybox/v1/scheduler.proto', 'delaybox/v1/worker.proto'], {
  includeDirs: [PROTO],
  // Milliseconds fit into a JavaScript number until the year 287396.
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { Scheduler, Worker } = grpc.loadPackageDefinition(loaded).delaybox.v1;

const address = process.env.DELAYBOX_GRPC || 'localhost:9088';

/** What goes with every call; with a token: `authorization: Bearer ...`. */
function metadata() {
  const out = new grpc.Metadata();
  if (process.env.DELAYBOX_TOKEN) out.set('authorization', `Bearer ${process.env.DELAYBOX_TOKEN}`);
  return out;
}

const credentials = grpc.credentials.createInsecure();

module.exports = {
  grpc,
  metadata,
  scheduler: () => new Scheduler(address, credentials),
  worker: () => new Worker(address, credentials),
};
